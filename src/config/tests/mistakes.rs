//! Every problem text of contract section 2, at every key that can have it.

use super::super::schema::find;
use super::super::setting::Kind;
use super::*;

/// YAML → the one line it has to give.
fn check(table: &[(&str, &str)]) {
    for (text, expected) in table {
        assert_eq!(lines(text), [*expected], "{text}");
    }
}

#[test]
fn the_block_of_the_contract() {
    let text = "upstream:\n  prot: 3000\nauth:\n  mode: jtw\n";
    let mistakes =
        load_text(text, Some(Path::new("./vibewarden.yaml")), &BTreeMap::new()).unwrap_err();
    let expected = r#"vibewarden: invalid config in ./vibewarden.yaml: 2 mistakes
  upstream.prot: unknown key; did you mean "upstream.port"?
  auth.mode: "jtw" is not accepted; accepted values: "none", "kratos", "jwt", "api-key""#;
    assert_eq!(mistakes.to_string(), expected);
    let by_env = load_text("", None, &env(&[("VIBEWARDEN_SERVER_PORT", "x")])).unwrap_err();
    assert!(
        by_env
            .to_string()
            .starts_with("vibewarden: invalid config in the environment: 1 mistake\n")
    );
}

#[rustfmt::skip]
const UNKNOWN_KEYS: &[(&str, &str)] = &[
    ("sever: {}", "sever: unknown key; did you mean \"server\"?"),
    ("sever:", "sever: unknown key; did you mean \"server\"?"),
    ("xyzzy: 1", "xyzzy: unknown key"),
    ("server: {prot: 1}", "server.prot: unknown key; did you mean \"server.port\"?"),
    ("server: {xyzzy: 1}", "server.xyzzy: unknown key"),
    ("rate_limit: {per_ip: {brust: 1}}", "rate_limit.per_ip.brust: unknown key; did you mean \"rate_limit.per_ip.burst\"?"),
    ("plugin: {}", "plugin: unknown key; did you mean \"plugins\"?"),
    ("plugins: {rate_limit: {}}", "plugins.rate_limit: unknown key; did you mean \"plugins.rate-limiting\"?"),
    ("plugins: {rate-limitng: {}}", "plugins.rate-limitng: unknown key; did you mean \"plugins.rate-limiting\"?"),
    ("plugins: {server: {}}", "plugins.server: unknown key"),
    ("plugins: {rate-limiting: {stroe: memory}}", "plugins.rate-limiting.stroe: unknown key; did you mean \"plugins.rate-limiting.store\"?"),
    ("server.port: 1", "server.port: unknown key"),
    ("auth: {ui.mode: custom}", "auth.ui.mode: unknown key"),
    ("8080: 1", "8080: unknown key"),
];

#[test]
fn k_unknown_keys() {
    check(UNKNOWN_KEYS);
    assert_eq!(
        lines("auth: {api_key: {keys: [{name: a, hahs: x}]}}"),
        [
            "auth.api_key.keys[0].hahs: unknown key; did you mean \"auth.api_key.keys[0].hash\"?",
            "auth.api_key.keys[0].hash: required when auth.api_key.keys[0] is given",
        ]
    );
    assert_eq!(lines("\"a\\nb\": 1"), ["a\\nb: unknown key"], "a line stays a line");
}

#[rustfmt::skip]
const WRONG_TYPES: &[(&str, &str)] = &[
    ("server: {port: x}", "server.port: expected a whole number, got \"x\""),
    ("server: {port: 1.5}", "server.port: expected a whole number, got \"1.5\""),
    ("server: {port: true}", "server.port: expected a whole number, got \"true\""),
    ("server: {port: ''}", "server.port: expected a whole number, got \"\""),
    ("server: {port: [1]}", "server.port: expected a whole number, got a list"),
    ("server: {port: {a: 1}}", "server.port: expected a whole number, got a mapping"),
    ("server: {pin_cores: yes}", "server.pin_cores: expected true or false, got \"yes\""),
    ("server: {pin_cores: 1}", "server.pin_cores: expected true or false, got \"1\""),
    ("rate_limit: {per_ip: {requests_per_second: fast}}", "rate_limit.per_ip.requests_per_second: expected a number, got \"fast\""),
    ("rate_limit: {per_ip: {requests_per_second: .inf}}", "rate_limit.per_ip.requests_per_second: expected a number, got \".inf\""),
    ("rate_limit: {per_ip: {requests_per_second: .nan}}", "rate_limit.per_ip.requests_per_second: expected a number, got \".nan\""),
    ("rate_limit: {per_ip: {requests_per_second: 1e999}}", "rate_limit.per_ip.requests_per_second: expected a number, got \"1e999\""),
    ("rate_limit: {per_ip: {requests_per_second: infinity}}", "rate_limit.per_ip.requests_per_second: expected a number, got \"infinity\""),
    ("log: {level: true}", "log.level: expected text, got \"true\""),
    ("log: {level: [info]}", "log.level: expected text, got a list"),
    ("server: {read_timeout: true}", "server.read_timeout: expected a duration, got \"true\""),
    ("server: {max_header_bytes: []}", "server.max_header_bytes: expected a size, got a list"),
    ("server: {trusted_proxies: {a: 1}}", "server.trusted_proxies: expected a list, got a mapping"),
    ("server: {trusted_proxies: [[]]}", "server.trusted_proxies[0]: expected text, got a list"),
    ("server: 5", "server: expected a mapping, got \"5\""),
    ("upstream: {health: [1]}", "upstream.health: expected a mapping, got a list"),
    ("plugins: [tls]", "plugins: expected a mapping, got a list"),
    ("plugins: {tls: 5}", "plugins.tls: expected a mapping, got \"5\""),
    ("auth: {api_key: {keys: x}}", "auth.api_key.keys: expected a list, got \"x\""),
    ("auth: {api_key: {keys: [x]}}", "auth.api_key.keys[0]: expected a mapping, got \"x\""),
    ("auth: {role_paths: [/a]}", "auth.role_paths: expected a mapping, got a list"),
    ("auth: {jwt: {claims_to_headers: {sub: [a]}}}", "auth.jwt.claims_to_headers.sub: expected text, got a list"),
    ("rate_limit: {redis: {password: [hunter2]}}", "rate_limit.redis.password: expected text, got \"***\""),
];

#[test]
fn t_wrong_types() {
    check(WRONG_TYPES);
}

#[rustfmt::skip]
const RANGES: &[(&str, &str)] = &[
    ("server: {port: 65536}", "server.port: must be between 0 and 65535, got 65536"),
    ("server: {port: -1}", "server.port: must be between 0 and 65535, got -1"),
    ("server: {port: '-1'}", "server.port: must be between 0 and 65535, got -1"),
    ("server: {port: 99999999999999999999999}", "server.port: must be between 0 and 65535, got 99999999999999999999999"),
    ("server: {max_connections: -1}", "server.max_connections: must be >= 0, got -1"),
    ("server: {max_connections: 4294967296}", "server.max_connections: must be between 0 and 4294967295, got 4294967296"),
    ("server: {workers: 1025}", "server.workers: must be between 0 and 1024, got 1025"),
    ("server: {max_header_bytes: 1023}", "server.max_header_bytes: must be between 1KB and 1MB, got 1023"),
    ("server: {max_header_bytes: 2MB}", "server.max_header_bytes: must be between 1KB and 1MB, got 2MB"),
    ("server: {dead_peer_after: 4999ms}", "server.dead_peer_after: must be between 5s and 24h, got 4999ms"),
    ("server: {dead_peer_after: 25h}", "server.dead_peer_after: must be between 5s and 24h, got 25h"),
    ("upstream: {port: 0}", "upstream.port: must be between 1 and 65535, got 0"),
    ("upstream: {health: {interval: 99ms}}", "upstream.health.interval: must be >= 100ms, got 99ms"),
    ("upstream: {health: {timeout: 0}}", "upstream.health.timeout: must be >= 100ms, got 0"),
    ("upstream: {health: {healthy_threshold: 0}}", "upstream.health.healthy_threshold: must be >= 1, got 0"),
    ("auth: {jwt: {cache_ttl: 9s}}", "auth.jwt.cache_ttl: must be >= 10s, got 9s"),
    ("kratos: {cache_ttl: 61s}", "kratos.cache_ttl: must be between 0s and 1m, got 61s"),
    ("rate_limit: {per_ip: {requests_per_second: -0.5}}", "rate_limit.per_ip.requests_per_second: must be >= 0, got -0.5"),
    ("rate_limit: {per_user: {burst: 1000000001}}", "rate_limit.per_user.burst: must be between 0 and 1000000000, got 1000000001"),
    ("rate_limit: {per_ip: {ipv6_prefix: 0}}", "rate_limit.per_ip.ipv6_prefix: must be between 1 and 128, got 0"),
    ("rate_limit: {max_keys: 1023}", "rate_limit.max_keys: must be between 1024 and 67108864, got 1023"),
    ("rate_limit: {redis: {db: -1}}", "rate_limit.redis.db: must be >= 0, got -1"),
    ("rate_limit: {redis: {health_check_interval: 999ms}}", "rate_limit.redis.health_check_interval: must be >= 1s, got 999ms"),
    ("websocket: {max_per_ip: -1}", "websocket.max_per_ip: must be >= 0, got -1"),
    ("security_headers: {hsts_max_age: -1}", "security_headers.hsts_max_age: must be >= 0, got -1"),
];

#[test]
fn r_ranges() {
    check(RANGES);
    // the ends of a range belong to it
    for text in [
        "server: {max_header_bytes: 1KB, workers: 1024, port: 65535, dead_peer_after: 5s}",
        "server: {max_header_bytes: 1MB, workers: 0, port: 0, dead_peer_after: 24h, max_connections: 4294967295}",
        "kratos: {cache_ttl: 60s}",
        "rate_limit: {per_ip: {burst: 0, requests_per_second: 0.25}, per_user: {burst: 1000000000}}",
    ] {
        loaded(text);
    }
}

#[rustfmt::skip]
const NOT_ACCEPTED: &[(&str, &str)] = &[
    ("auth: {jwt: {allowed_algorithms: [RS256, HS256]}}", "auth.jwt.allowed_algorithms[1]: \"HS256\" is not accepted; accepted values: \"RS256\", \"RS384\", \"RS512\", \"PS256\", \"PS384\", \"PS512\", \"ES256\", \"ES384\", \"EdDSA\""),
    ("auth: {jwt: {sources: [body]}}", "auth.jwt.sources[0]: \"body\" is not accepted; accepted values: \"header\", \"cookie:<name>\", \"query:<param>\", \"subprotocol:<prefix>\""),
    ("auth: {role_paths: {root: [/a]}}", "auth.role_paths: \"root\" is not accepted; accepted values: \"user\", \"admin\", \"moderator\""),
    ("tls: {provider: letsencrypt}", "tls.provider: \"letsencrypt\" is not supported by this engine; use \"external\" or \"self-signed\""),
    ("auth: {api_key: {openbao_path: kv/keys}}", "auth.api_key.openbao_path: key stores are not supported"),
];

#[test]
fn e_accepted_values() {
    for (key, accepted) in [
        ("server.driver", vec!["auto", "io_uring", "epoll"]),
        ("auth.mode", vec!["none", "kratos", "jwt", "api-key"]),
        ("auth.on_kratos_unavailable", vec!["503", "allow_public"]),
        ("auth.ui.mode", vec!["built-in", "custom"]),
        ("rate_limit.store", vec!["memory", "redis"]),
        ("ip_filter.mode", vec!["blocklist", "allowlist"]),
        ("log.level", vec!["debug", "info", "warn", "error"]),
        ("log.format", vec!["json", "text"]),
        ("security_headers.frame_option", vec!["DENY", "SAMEORIGIN", ""]),
        ("tls.provider", vec!["self-signed", "external"]),
    ] {
        let list =
            accepted.iter().map(|value| format!("\"{value}\"")).collect::<Vec<_>>().join(", ");
        let expected = format!("{key}: \"Auto\" is not accepted; accepted values: {list}");
        assert_eq!(lines(&nested(key, "Auto")), [expected]);
        for value in accepted {
            assert!(find(key).unwrap().parse(value).is_some(), "{key}: {value}");
        }
    }
    check(NOT_ACCEPTED);
    for provider in ["letsencrypt", "acme", "letsencrypt-staging", "zerossl", "buypass"] {
        assert!(
            lines(&nested("tls.provider", provider))[0].contains("is not supported by this engine")
        );
    }
    assert!(lines("allow_unsupported: [server]")[0].starts_with(
        "allow_unsupported[0]: \"server\" is not accepted; accepted values: \"app\", "
    ));
    loaded("auth: {api_key: {openbao_path: ''}}");
}

#[test]
fn d_and_z_at_every_key_that_takes_them() {
    let mut durations = 0;
    for key in super::super::schema::SCHEMA {
        match key.kind {
            Kind::Duration { .. } => {
                durations += 1;
                let expected = format!(
                    "{}: \"-5s\" is not a duration (examples: 300ms, 30s, 2h45m)",
                    key.name
                );
                assert_eq!(lines(&nested(key.name, "-5s")), [expected]);
                assert_eq!(lines(&nested(key.name, "30")).len(), 1, "a bare number has no unit");
            }
            Kind::Size { .. } => {
                for wrong in ["-1", "16kb", "1.5"] {
                    let expected = format!(
                        "{}: \"{wrong}\" is not a size (supported units: B, KB, MB, GB, TB)",
                        key.name
                    );
                    assert_eq!(lines(&nested(key.name, wrong)), [expected]);
                }
            }
            _ => {}
        }
    }
    assert_eq!(durations, 12);
    assert_eq!(
        lines("body_size: {overrides: [{path: /a, max: 1X}]}"),
        ["body_size.overrides[0].max: \"1X\" is not a size (supported units: B, KB, MB, GB, TB)"]
    );
}

#[test]
fn u_urls() {
    let why = |text: &str, part: &str| {
        let lines = lines(text);
        assert_eq!(lines.len(), 1, "{text}: {lines:?}");
        assert!(
            lines[0].contains(" is not a usable URL: ") && lines[0].contains(part),
            "{text}: {lines:?}"
        );
    };
    for (url, part) in [
        ("https://a", "TLS"),
        ("wss://a", "TLS"),
        ("ftp://a", "only http"),
        ("localhost:3000", "scheme"),
        ("http://u:p@a", "userinfo"),
        ("http://a/x", "a path"),
        ("http://a/?q", "a query"),
        ("http://a?q", "a query"),
        ("http://a#f", "a fragment"),
        ("http://", "no host"),
        ("http://:80", "no host"),
        ("http://a:", "port"),
        ("http://a:0", "port"),
        ("http://a:65536", "port"),
        ("http://a:+80", "port"),
        ("http://a b", "space"),
        ("http://bücher", "outside ASCII"),
        ("http://[::1", "bracket"),
        ("http://[1.2.3.4]", "IPv6"),
        ("http://[::1]x", "brackets"),
        ("http://::1", "no host"),
        ("http://a..b", "not a name"),
        ("http://1234", "not a name"),
        ("http://127.1", "not a name"),
        ("unix:", "absolute"),
        ("unix:run/app.sock", "absolute"),
        ("unix:/", "absolute"),
    ] {
        why(&format!("upstream: {{url: '{url}'}}"), part);
    }
    why(&format!("upstream: {{url: 'unix:/{}'}}", "x".repeat(107)), "107");
    loaded(&format!("upstream: {{url: 'unix:/{}'}}", "x".repeat(106)));
    why("auth: {login_url: '//evil.example'}", "two slashes");
    why("auth: {login_url: 'javascript:alert(1)'}", "scheme");
    why("auth: {login_url: '/a b'}", "space");
    why("auth: {jwt: {jwks_url: 'ftp://a'}}", "only http");
    why("auth: {jwt: {issuer_url: 'https://u@a'}}", "userinfo");
    why("kratos: {public_url: 'http://a/b?c'}", "a query");
    why("rate_limit: {redis: {url: 'http://a'}}", "redis://");
    why("rate_limit: {redis: {url: 'redis://'}}", "no host");
    why("rate_limit: {redis: {url: 'redis://h/x'}}", "database");
    why("rate_limit: {redis: {url: 'redis://h/1/2'}}", "database");
    why("rate_limit: {redis: {url: 'redis://h?a=b'}}", "a query");
    why("rate_limit: {redis: {url: 'unix:///run/redis.sock'}}", "no host");
    why("rate_limit: {redis: {address: 'a'}}", "no port");
    loaded(
        "auth: {login_url: 'https://a/b?c', jwt: {jwks_url: 'https://a/b'}}\nkratos: {public_url: 'http://a/b/'}",
    );
    loaded("rate_limit: {redis: {url: 'rediss://u:p@a:1/2', address: '[::1]:6379'}}");
    assert_eq!(
        lines("rate_limit: {redis: {url: 'http://user:hunter2@a'}}"),
        [
            "rate_limit.redis.url: \"http://***@a\" is not a usable URL: only redis:// and rediss:// are supported"
        ]
    );
}

#[rustfmt::skip]
const ADDRESSES: &[(&str, &str)] = &[
    ("server: {host: example.com}", "server.host: \"example.com\" is not a valid IP address or CIDR"),
    ("server: {host: '[::1]'}", "server.host: \"[::1]\" is not a valid IP address or CIDR"),
    ("server: {host: 10.0.0.0/8}", "server.host: \"10.0.0.0/8\" is not a valid IP address or CIDR"),
    ("server: {trusted_proxies: [10.0.0.1, 10.0.0.0/99]}", "server.trusted_proxies[1]: \"10.0.0.0/99\" is not a valid IP address or CIDR"),
    ("ip_filter: {addresses: 'a'}", "ip_filter.addresses[0]: \"a\" is not a valid IP address or CIDR"),
];

#[test]
fn a_addresses() {
    check(ADDRESSES);
    assert_eq!(config("server: {host: localhost}").server.host, IpAddr::V4(Ipv4Addr::LOCALHOST));
    assert_eq!(config("server: {host: '::'}").server.host.to_string(), "::");
}

/// YAML, and the key that has to be named.
#[rustfmt::skip]
const NOT_VALID: &[(&str, &str)] = &[
    ("upstream: {host: 'a b'}", "upstream.host"),
    ("upstream: {host: '[::1]'}", "upstream.host"),
    ("upstream: {health: {path: health}}", "upstream.health.path"),
    ("auth: {public_paths: [/a, b/*]}", "auth.public_paths[1]"),
    ("auth: {public_paths: ['/a[b']}", "auth.public_paths[0]"),
    ("auth: {public_paths: ['/a[]']}", "auth.public_paths[0]"),
    ("auth: {public_paths: ['/a[^]']}", "auth.public_paths[0]"),
    ("auth: {public_paths: ['/a[z-a]']}", "auth.public_paths[0]"),
    ("auth: {public_paths: ['/a\\']}", "auth.public_paths[0]"),
    (
    "auth: {session_cookie_name: 'a=b'}",
    "auth.session_cookie_name",
    ),
    ("auth: {api_key: {header: ''}}", "auth.api_key.header"),
    ("auth: {api_key: {header: 'X Key'}}", "auth.api_key.header"),
    ("auth: {api_key: {header: host}}", "auth.api_key.header"),
    (
    "auth: {api_key: {header: Transfer-Encoding}}",
    "auth.api_key.header",
    ),
    ("auth: {api_key: {header: Upgrade}}", "auth.api_key.header"),
    ("auth: {api_key: {query: 'a&b'}}", "auth.api_key.query"),
    (
    "auth: {jwt: {claims_to_headers: {sub: Connection}}}",
    "auth.jwt.claims_to_headers.sub",
    ),
    ("auth: {jwt: {sources: ['cookie:']}}", "auth.jwt.sources[0]"),
    ("auth: {jwt: {sources: [cookie]}}", "auth.jwt.sources[0]"),
    (
    "rate_limit: {exempt_paths: [x]}",
    "rate_limit.exempt_paths[0]",
    ),
    (
    "websocket: {allowed_origins: [example.com]}",
    "websocket.allowed_origins[0]",
    ),
    (
    "websocket: {allowed_origins: ['https://a/']}",
    "websocket.allowed_origins[0]",
    ),
    (
    "body_size: {overrides: [{path: a, max: 1}]}",
    "body_size.overrides[0].path",
    ),
    ("body_size: {overrides: [{path: /a//b, max: 1}]}", "body_size.overrides[0].path"),
    ("body_size: {overrides: [{path: /a%41, max: 1}]}", "body_size.overrides[0].path"),
    ("body_size: {overrides: [{path: '/a;b', max: 1}]}", "body_size.overrides[0].path"),
    ("body_size: {overrides: [{path: /a/../b, max: 1}]}", "body_size.overrides[0].path"),
    (
    "body_size: {overrides: [{path: /a, max: 1}, {path: /b, max: 1}, {path: /a/, max: 2}]}",
    "body_size.overrides[2].path",
    ),
    (
    "telemetry: {path_patterns: ['users/:id']}",
    "telemetry.path_patterns[0]",
    ),
    (
    "metrics: {path_patterns: ['/users/:']}",
    "metrics.path_patterns[0]",
    ),
    (
    "security_headers: {referrer_policy: \"a\\r\\nb: c\"}",
    "security_headers.referrer_policy",
    ),
    (
    "security_headers: {csp: {img_src: ['a;b']}}",
    "security_headers.csp.img_src[0]",
    ),
    ("tls: {domain: \"a\\nb\"}", "tls.domain"),
];

#[test]
fn p_not_valid_here() {
    for (text, place) in NOT_VALID {
        let lines = lines(text);
        assert_eq!(lines.len(), 1, "{text}: {lines:?}");
        assert!(lines[0].starts_with(&format!("{place}: \"")), "{text}: {lines:?}");
        assert!(lines[0].contains("\" is not valid here: "), "{text}: {lines:?}");
    }
    loaded(
        "auth: {public_paths: ['/a/*', '/[a-z]?[^\\]]*\\*', /x/:id], api_key: {header: Authorization}}",
    );
}

#[test]
fn api_keys_are_complete_unique_and_never_shown() {
    let hash = "ab".repeat(32);
    let keys = |entries: &str| format!("auth: {{api_key: {{keys: [{entries}]}}}}");
    loaded(&keys(&format!(
        "{{name: a, hash: {}}}, {{name: b, hash: '{hash}', scopes: [r, w]}}",
        "CD".repeat(32)
    )));
    assert_eq!(
        lines(&keys("{}, {name: x}")),
        [
            "auth.api_key.keys[0].name: required when auth.api_key.keys[0] is given",
            "auth.api_key.keys[0].hash: required when auth.api_key.keys[0] is given",
            "auth.api_key.keys[1].hash: required when auth.api_key.keys[1] is given",
        ]
    );
    assert_eq!(
        lines(&keys(&format!("{{name: a, hash: '{hash}'}}, {{name: a, hash: '{hash}'}}"))),
        [
            "auth.api_key.keys[1].name: \"a\" is not valid here: auth.api_key.keys[0] already has this name"
        ]
    );
    assert_eq!(
        lines(&keys(&format!(
            "{{name: a, hash: '{hash}'}}, {{name: b, hash: '{}'}}",
            "AB".repeat(32)
        ))),
        [
            "auth.api_key.keys[1].hash: auth.api_key.keys[0].name and auth.api_key.keys[1].name disagree (a, b)"
        ]
    );
    assert_eq!(
        lines(&keys("{name: a, hash: my-raw-key}")),
        ["auth.api_key.keys[0].hash: \"***\" is not valid here: a key hash is 64 hex digits"]
    );
}

#[rustfmt::skip]
const DISAGREEING: &[(&str, &str)] = &[
    ("upstream: {url: 'http://a:1', port: 2}", "upstream.url: upstream.url and upstream.port disagree (http://a:1, 2)"),
    ("upstream: {url: 'http://a', host: b}", "upstream.url: upstream.url and upstream.host disagree (http://a, b)"),
    ("upstream: {url: 'unix:/a', host: b}", "upstream.url: upstream.url and upstream.host disagree (unix:/a, b)"),
    ("auth: {enabled: true}", "auth.enabled: auth.enabled and auth.mode disagree (true, none)"),
    ("auth: {enabled: true, mode: none}", "auth.enabled: auth.enabled and auth.mode disagree (true, none)"),
];

#[test]
fn c_keys_that_disagree() {
    check(DISAGREEING);
    let disagree = "auth.enabled: auth.enabled and auth.mode disagree (false, jwt)".to_owned();
    assert!(lines("auth: {enabled: false, mode: jwt}").contains(&disagree));
    let loaded = loaded("auth: {enabled: false}");
    assert_eq!(
        loaded.warnings,
        ["auth.enabled is another spelling of auth.mode; auth.mode alone is enough"]
    );
}

#[test]
fn all_mistakes_are_found_in_one_pass() {
    let text = "server: {port: x, host: y, prot: 1}\nlog: {level: loud}\nplugins: {tls: {enabled: maybe}, what: {}}\n\
                waf: {mode: block}\nupstream: {url: 'https://a'}\nrate_limit: {store: redis}\nname: '${NOPE}'\n";
    assert_eq!(lines_with(text, &[("VIBEWARDEN_WATCH_DEBOUNCE", "soon")]).len(), 11);
}
