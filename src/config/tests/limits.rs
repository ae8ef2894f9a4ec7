//! Sections `rate_limit`, `ip_filter`, the quotas of `websocket`, and who is believed.

use super::*;

#[test]
fn defaults_are_those_of_the_contract() {
    let config = Config::default();
    assert_eq!(
        config.rate_limit,
        RateLimit {
            enabled: true,
            per_ip: Allowance { requests_per_second: 10.0, burst: 20 },
            ipv6_prefix: 64,
            per_user: Allowance { requests_per_second: 100.0, burst: 200 },
            exempt_paths: Vec::new(),
            max_keys: 262_144,
            store: RateLimitStore::Memory,
        }
    );
    assert_eq!(config.tunnel_quota, TunnelQuota { per_ip: None, per_user: None });
    assert_eq!(
        config.ip_filter,
        IpFilter { enabled: false, mode: IpFilterMode::Blocklist, addresses: Vec::new() }
    );
}

#[test]
fn the_fields_take_what_is_written() {
    let config = config(
        "rate_limit: {enabled: false, per_ip: {requests_per_second: 0.25, burst: 0, ipv6_prefix: 48}, \
         per_user: {requests_per_second: 1e9, burst: 1000000000}, exempt_paths: [/a, '/b/*'], max_keys: 1024}\n\
         websocket: {max_per_ip: 3, max_per_user: 4}\n\
         ip_filter: {enabled: true, mode: allowlist, addresses: '10.1.2.3/8, ::1'}",
    );
    assert_eq!(
        config.rate_limit,
        RateLimit {
            enabled: false,
            per_ip: Allowance { requests_per_second: 0.25, burst: 0 },
            ipv6_prefix: 48,
            per_user: Allowance { requests_per_second: 1e9, burst: 1_000_000_000 },
            exempt_paths: vec!["/a".to_owned(), "/b/*".to_owned()],
            max_keys: 1024,
            store: RateLimitStore::Memory,
        }
    );
    assert_eq!(config.tunnel_quota, TunnelQuota { per_ip: Some(3), per_user: Some(4) });
    let addresses = ["10.0.0.0/8", "::1"].map(|text| Cidr::parse(text).unwrap()).to_vec();
    assert_eq!(
        config.ip_filter,
        IpFilter { enabled: true, mode: IpFilterMode::Allowlist, addresses }
    );
    let seed =
        super::config("plugins: {rate-limiting: {enabled: true}, ip-filter: {mode: allowlist}}");
    assert!(seed.rate_limit.enabled && seed.ip_filter.mode == IpFilterMode::Allowlist);
}

#[test]
fn redis_is_where_the_url_says_or_else_the_address() {
    let store = |text: &str| match config(text).rate_limit.store {
        RateLimitStore::Redis(redis) => redis,
        RateLimitStore::Memory => panic!("{text}"),
    };
    let plain = store("rate_limit: {store: redis, redis: {address: 'cache:6379'}}");
    assert_eq!(
        plain,
        RedisStore {
            location: RedisLocation::Address("cache:6379".to_owned()),
            password: Secret::default(),
            db: 0,
            pool_size: 0,
            key_prefix: "vibewarden".to_owned(),
            fallback: true,
            health_check_interval: Duration::from_secs(30),
        }
    );
    let full = store(
        "rate_limit: {store: redis, redis: {url: 'rediss://u:hunter1@h:1/2', address: 'a:1', password: hunter2, db: 3, \
         pool_size: 4, key_prefix: p, fallback: false, health_check_interval: 1s}}",
    );
    assert_eq!(full.location, RedisLocation::Url(Secret::new("rediss://u:hunter1@h:1/2")));
    assert_eq!((full.password.expose(), full.db, full.pool_size), ("hunter2", 3, 4));
    assert_eq!((full.key_prefix.as_str(), full.fallback), ("p", false));
    assert_eq!(full.health_check_interval, Duration::from_secs(1));
    assert!(!format!("{full:?}").contains("hunter"), "{full:?}");
}

#[test]
fn q_what_other_keys_make_necessary() {
    for (text, expected) in [
        (
            "rate_limit: {store: redis}",
            "rate_limit.redis.url: required when rate_limit.store is redis",
        ),
        (
            "server: {proxy_protocol: true}",
            "server.trusted_proxies: required when server.proxy_protocol is true",
        ),
        (
            "server: {proxy_protocol: true, trusted_proxies: []}\nrate_limit: {trust_proxy_headers: true}",
            "server.trusted_proxies: required when server.proxy_protocol is true",
        ),
        // one mistake is told once
        (
            "rate_limit: {store: redis, redis: {url: 'http://a'}}",
            "rate_limit.redis.url: \"http://a\" is not a usable URL: only redis:// and rediss:// are supported",
        ),
    ] {
        assert_eq!(lines(text), [expected], "{text}");
    }
    let config = config("server: {proxy_protocol: true, trusted_proxies: [10.0.0.1]}");
    assert!(config.server.proxy_protocol);
}

#[test]
fn the_second_form_of_trust_is_one_warning() {
    let text = "rate_limit: {trust_proxy_headers: true}\nip_filter: {trust_proxy_headers: true}";
    let loaded = loaded(text);
    assert!(loaded.config.server.trust_proxy_headers);
    assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
    assert!(
        loaded.warnings[0]
            .starts_with("rate_limit.trust_proxy_headers, ip_filter.trust_proxy_headers: "),
        "{:?}",
        loaded.warnings
    );
    let filter = super::loaded("ip_filter: {trust_proxy_headers: true}");
    assert!(filter.config.server.trust_proxy_headers && filter.warnings.len() == 1);
    let listed = super::loaded(&format!("server: {{trusted_proxies: [10.0.0.1]}}\n{text}"));
    assert!(listed.warnings.is_empty(), "a list is the first form: {:?}", listed.warnings);
}
