//! The schema against the tables of contract section 3.

use super::super::schema::{SCHEMA, find};
use super::*;

/// Key and default, written down from the contract a second time. `-` = no default.
#[rustfmt::skip]
const DEFAULTS: &str = "
server.host 127.0.0.1 | server.port - | server.max_connections 0 | server.max_header_bytes 16KB
server.read_timeout 30s | server.write_timeout 60s | server.idle_timeout 120s | server.dead_peer_after 60s
server.drain_timeout 30s | server.trusted_proxies | server.proxy_protocol false | server.driver auto
server.workers 0 | server.pin_cores true
upstream.url - | upstream.host 127.0.0.1 | upstream.port 3000 | upstream.health.enabled false
upstream.health.path /health | upstream.health.interval 5s | upstream.health.timeout 2s
upstream.health.unhealthy_threshold 3 | upstream.health.healthy_threshold 2
tls.enabled true | tls.provider self-signed | tls.domain | tls.cert_path | tls.key_path
auth.mode none | auth.enabled - | auth.public_paths | auth.session_cookie_name ory_kratos_session
auth.login_url /self-service/login/browser | auth.on_kratos_unavailable 503 | auth.role_paths {}
auth.ui.mode built-in | auth.ui.login_url | auth.api_key.header X-API-Key | auth.api_key.query
auth.api_key.keys [] | auth.api_key.scope_rules [] | auth.api_key.openbao_path - | auth.jwt.jwks_url
auth.jwt.issuer_url | auth.jwt.issuer | auth.jwt.audience
auth.jwt.claims_to_headers {sub: X-User-Id, email: X-User-Email, email_verified: X-User-Verified}
auth.jwt.allowed_algorithms RS256,ES256 | auth.jwt.cache_ttl 1h | auth.jwt.sources header
kratos.public_url http://127.0.0.1:4433 | kratos.cache_ttl 0s
rate_limit.per_ip.requests_per_second 10 | rate_limit.per_ip.burst 20 | rate_limit.per_ip.ipv6_prefix 64
rate_limit.per_user.requests_per_second 100 | rate_limit.per_user.burst 200 | rate_limit.enabled true
rate_limit.trust_proxy_headers false | rate_limit.exempt_paths | rate_limit.max_keys 262144
rate_limit.store memory | rate_limit.redis.url | rate_limit.redis.address | rate_limit.redis.password
rate_limit.redis.db 0 | rate_limit.redis.pool_size 0 | rate_limit.redis.key_prefix vibewarden
rate_limit.redis.fallback true | rate_limit.redis.health_check_interval 30s
websocket.max_per_ip 0 | websocket.max_per_user 0 | websocket.allowed_origins | websocket.close_on_expiry false
ip_filter.enabled false | ip_filter.mode blocklist | ip_filter.addresses | ip_filter.trust_proxy_headers false
body_size.max 1MB | body_size.overrides [] | resilience.timeout 30s | log.level info | log.format json
log.access_log true | telemetry.enabled true | telemetry.prometheus.enabled true | telemetry.path_patterns
metrics.enabled true | metrics.path_patterns | health.expose_version true | watch.enabled true
watch.debounce 500ms | allow_unsupported
security_headers.enabled true | security_headers.hsts_max_age 31536000
security_headers.hsts_include_subdomains true | security_headers.hsts_preload false
security_headers.content_type_nosniff true | security_headers.frame_option DENY
security_headers.content_security_policy | security_headers.csp.default_src | security_headers.csp.script_src
security_headers.csp.style_src | security_headers.csp.img_src | security_headers.csp.connect_src
security_headers.csp.font_src | security_headers.csp.frame_src | security_headers.csp.media_src
security_headers.csp.object_src | security_headers.csp.manifest_src | security_headers.csp.worker_src
security_headers.csp.child_src | security_headers.csp.form_action | security_headers.csp.frame_ancestors
security_headers.csp.base_uri | security_headers.referrer_policy strict-origin-when-cross-origin
security_headers.permissions_policy | security_headers.cross_origin_opener_policy same-origin
security_headers.cross_origin_resource_policy same-origin
security_headers.permitted_cross_domain_policies none | security_headers.suppress_via_header true";

#[test]
fn keys_and_defaults_are_those_of_the_contract() {
    let rows: Vec<(&str, &str)> = DEFAULTS
        .split(['|', '\n'])
        .map(str::trim)
        .filter(|row| !row.is_empty())
        .map(|row| row.split_once(' ').unwrap_or((row, "")))
        .collect();
    assert_eq!(rows.len(), SCHEMA.len());
    for (name, expected) in rows {
        let key = find(name).unwrap_or_else(|| panic!("{name} is not in the schema"));
        let default = key.default.and_then(|text| key.parse(text));
        let expected = if expected == "-" { None } else { Some(key.parse(expected).expect(name)) };
        assert_eq!(default, expected, "{name}");
    }
}

#[test]
fn every_default_is_valid() {
    for key in SCHEMA {
        assert_eq!(key.default().is_some(), key.default.is_some(), "{}", key.name);
    }
}

#[test]
fn no_key_is_a_section_too() {
    for key in SCHEMA {
        let below = format!("{}.", key.name);
        assert!(!SCHEMA.iter().any(|other| other.name.starts_with(&below)), "{}", key.name);
        assert_eq!(SCHEMA.iter().filter(|other| other.name == key.name).count(), 1, "{}", key.name);
    }
}

#[test]
fn the_fields_have_the_defaults_of_the_contract() {
    let config = Config::default();
    let seconds = Duration::from_secs;
    assert_eq!(
        config.server,
        Server {
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 8443,
            max_connections: 0,
            max_header_bytes: 16_384,
            read_timeout: Some(seconds(30)),
            write_timeout: Some(seconds(60)),
            idle_timeout: Some(seconds(120)),
            dead_peer_after: Some(seconds(60)),
            drain_timeout: seconds(30),
            trusted_proxies: Vec::new(),
            trust_proxy_headers: false,
            proxy_protocol: false,
            driver: DriverChoice::Auto,
            workers: 0,
            pin_cores: true,
        }
    );
    let target = UpstreamTarget::Tcp { host: "127.0.0.1".to_owned(), port: 3000 };
    assert_eq!(config.upstream, Upstream { target, health: None });
    assert_eq!(config.upstream_head_timeout, Some(seconds(30)));
    assert_eq!(
        config.log,
        Log { level: LogLevel::Info, format: LogFormat::Json, access_log: true }
    );
    assert_eq!(config.telemetry, Telemetry { enabled: true, path_patterns: Vec::new() });
    assert!(config.expose_version);
    assert_eq!(config.watch, Watch { enabled: true, debounce: Duration::from_millis(500) });
}

#[test]
fn the_fields_take_what_is_written() {
    let text = "server: {host: '::1', port: 0, max_connections: 9, driver: io_uring, workers: 3, pin_cores: false}\n\
                log: {level: debug, format: text, access_log: false}\nhealth: {expose_version: false}\n\
                watch: {enabled: false, debounce: 1s}\nresilience: {timeout: 7s}\n\
                telemetry: {path_patterns: [/a/:b, /c]}";
    let config = config(text);
    assert_eq!(config.server.host.to_string(), "::1");
    assert_eq!(
        (config.server.port, config.server.max_connections, config.server.workers),
        (0, 9, 3)
    );
    assert_eq!((config.server.driver, config.server.pin_cores), (DriverChoice::IoUring, false));
    assert_eq!(
        config.log,
        Log { level: LogLevel::Debug, format: LogFormat::Text, access_log: false }
    );
    assert!(!config.expose_version);
    assert_eq!(config.watch, Watch { enabled: false, debounce: Duration::from_secs(1) });
    assert_eq!(config.upstream_head_timeout, Some(Duration::from_secs(7)));
    assert_eq!(config.telemetry.path_patterns, ["/a/:b", "/c"]);
    assert_eq!(
        super::config("server: {driver: epoll}\nlog: {level: error}").server.driver,
        DriverChoice::Epoll
    );
}
