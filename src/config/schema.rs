//! Every key of contract section 3: what it accepts, its default, and whether a reload can change it. One line per key.

use std::time::Duration;

use serde_yaml::Value;

use super::checks;
use super::setting::{Field, Kind, Setting};
use super::url;

/// One configuration key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    /// Dotted name.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// As it would be written; `None` = the key has no value unless it is given.
    pub(super) default: Option<&'static str>,
    /// A change takes effect on reload (contract section 14).
    pub(super) live: bool,
    pub(super) shown: Shown,
}

/// How much of a value may be printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Whole,
    WithoutUserinfo,
    Nothing,
}

impl Key {
    /// The value when nobody gives one.
    pub(super) fn default(&self) -> Option<Setting> {
        self.parse(self.default?)
    }

    /// Reads text from this crate's own tables.
    pub(super) fn parse(&self, text: &str) -> Option<Setting> {
        let value = if text.starts_with(['[', '{']) {
            serde_yaml::from_str(text).ok()?
        } else {
            Value::from(text)
        };
        self.kind.read(&value, self.name, &mut Vec::new())
    }

    const fn unset(mut self) -> Self {
        self.default = None;
        self
    }

    const fn shown(mut self, shown: Shown) -> Self {
        self.shown = shown;
        self
    }
}

/// The key of this name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    SCHEMA.iter().find(|key| key.name == name)
}

/// The candidate that a writer of `wrong` most likely meant, if one is close.
pub(super) fn nearest<'c>(
    wrong: &str,
    candidates: impl Iterator<Item = &'c str>,
) -> Option<&'c str> {
    const CLOSE: f64 = 0.6;
    let mut best: Option<(f64, &str)> = None;
    for candidate in candidates {
        let likeness = strsim::normalized_damerau_levenshtein(wrong, candidate);
        if candidate != wrong && likeness >= CLOSE && best.is_none_or(|(most, _)| likeness > most) {
            best = Some((likeness, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

const fn live(name: &'static str, kind: Kind, default: &'static str) -> Key {
    Key { name, kind, default: Some(default), live: true, shown: Shown::Whole }
}

const fn restart(name: &'static str, kind: Kind, default: &'static str) -> Key {
    Key { name, kind, default: Some(default), live: false, shown: Shown::Whole }
}

const fn int(min: u32, max: u32) -> Kind {
    Kind::Int { min, max }
}

const ANY: Kind = int(0, u32::MAX);
const POSITIVE: Kind = int(1, u32::MAX);

const fn duration(min: Duration, max: Duration) -> Kind {
    Kind::Duration { min, max, zero: false, empty: false }
}

const ANY_DURATION: Kind = duration(Duration::ZERO, Duration::MAX);
const PROBE_DURATION: Kind = duration(Duration::from_millis(100), Duration::MAX);

const fn field(name: &'static str, kind: Kind, required: bool) -> Field {
    Field { name, kind, required, unique: false, secret: false }
}

const KEYS: &[Field] = &[
    Field { unique: true, ..field("name", Kind::Text(checks::filled_line), true) },
    Field { secret: true, ..field("hash", Kind::Text(checks::sha256), true) },
    field("scopes", Kind::List(checks::filled_line), false),
];
const SCOPE_RULES: &[Field] = &[
    field("path", Kind::Text(checks::glob), true),
    field("methods", Kind::List(checks::method), false),
    field("required_scopes", Kind::List(checks::filled_line), false),
];
const BODY_SIZES: &[Field] = &[
    Field { unique: true, ..field("path", Kind::Text(checks::path_prefix), true) },
    field("max", Kind::Size { min: 0, max: u64::MAX, empty: true }, true),
];
const CSP: Kind = Kind::List(checks::csp_source);
const TEXT: Kind = Kind::Text(checks::line);
const HEADER_VALUE: Kind = Kind::Text(checks::header_value);
const PATTERNS: Kind = Kind::List(checks::pattern);
const GLOBS: Kind = Kind::List(checks::glob);
const BURST: Kind = int(0, 1_000_000_000);

/// `plugins.user-management.enabled` is not here: it has no flat form (see `plugins`).
#[rustfmt::skip]
pub(super) const SCHEMA: &[Key] = &[
    restart("server.host", Kind::Text(checks::listen_host), "127.0.0.1"),
    restart("server.port", int(0, 65_535), "").unset(), // depends on tls.enabled
    restart("server.max_connections", ANY, "0"),
    live("server.max_header_bytes", Kind::Size { min: 1 << 10, max: 1 << 20, empty: false }, "16KB"),
    live("server.read_timeout", ANY_DURATION, "30s"),
    live("server.write_timeout", ANY_DURATION, "60s"),
    live("server.idle_timeout", ANY_DURATION, "120s"),
    live("server.dead_peer_after", Kind::Duration { min: Duration::from_secs(5), max: Duration::from_hours(24), zero: true, empty: false }, "60s"),
    live("server.drain_timeout", ANY_DURATION, "30s"),
    live("server.trusted_proxies", Kind::List(checks::cidr), ""),
    restart("server.proxy_protocol", Kind::Bool, "false"),
    restart("server.driver", Kind::OneOf(&["auto", "io_uring", "epoll"]), "auto"),
    restart("server.workers", int(0, 1024), "0"),
    restart("server.pin_cores", Kind::Bool, "true"),

    live("upstream.url", Kind::Text(url::upstream_url), "").unset(),
    live("upstream.host", Kind::Text(checks::upstream_host), "127.0.0.1"),
    live("upstream.port", int(1, 65_535), "3000"),
    live("upstream.health.enabled", Kind::Bool, "false"),
    live("upstream.health.path", Kind::Text(checks::probe_path), "/health"),
    live("upstream.health.interval", PROBE_DURATION, "5s"),
    live("upstream.health.timeout", PROBE_DURATION, "2s"),
    live("upstream.health.unhealthy_threshold", POSITIVE, "3"),
    live("upstream.health.healthy_threshold", POSITIVE, "2"),

    restart("tls.enabled", Kind::Bool, "true"),
    restart("tls.provider", Kind::Text(checks::tls_provider), "self-signed"),
    restart("tls.domain", TEXT, ""),
    live("tls.cert_path", TEXT, ""),
    live("tls.key_path", TEXT, ""),

    live("auth.mode", Kind::OneOf(&["none", "kratos", "jwt", "api-key"]), "none"),
    live("auth.enabled", Kind::Bool, "").unset(), // other spelling of auth.mode
    live("auth.public_paths", PATTERNS, ""),
    live("auth.session_cookie_name", Kind::Text(checks::cookie_name), "ory_kratos_session"),
    live("auth.login_url", Kind::Text(url::login_url), "/self-service/login/browser"),
    live("auth.on_kratos_unavailable", Kind::OneOf(&["503", "allow_public"]), "503"),
    live("auth.role_paths", Kind::ListsByName(&["user", "admin", "moderator"], checks::pattern), "{}"),
    live("auth.ui.mode", Kind::OneOf(&["built-in", "custom"]), "built-in"),
    live("auth.ui.login_url", Kind::Text(url::own_login_url), ""),
    live("auth.api_key.header", Kind::Text(checks::key_header), "X-API-Key"),
    live("auth.api_key.query", Kind::Text(checks::parameter), ""),
    live("auth.api_key.keys", Kind::Objects(KEYS), "[]"),
    live("auth.api_key.scope_rules", Kind::Objects(SCOPE_RULES), "[]"),
    live("auth.api_key.openbao_path", Kind::Text(checks::key_store), "").unset(),
    live("auth.jwt.jwks_url", Kind::Text(url::http_url), ""),
    live("auth.jwt.issuer_url", Kind::Text(url::http_base_url), ""),
    live("auth.jwt.issuer", TEXT, ""),
    live("auth.jwt.audience", TEXT, ""),
    live("auth.jwt.claims_to_headers", Kind::TextByName(checks::identity_header), "{sub: X-User-Id, email: X-User-Email, email_verified: X-User-Verified}"),
    live("auth.jwt.allowed_algorithms", Kind::List(checks::algorithm), "RS256, ES256"),
    live("auth.jwt.cache_ttl", duration(Duration::from_secs(10), Duration::MAX), "1h"),
    live("auth.jwt.sources", Kind::List(checks::jwt_source), "header"),
    live("kratos.public_url", Kind::Text(url::http_base_url), "http://127.0.0.1:4433"),
    live("kratos.cache_ttl", duration(Duration::ZERO, Duration::from_mins(1)), "0s"),

    live("rate_limit.per_ip.requests_per_second", Kind::Float, "10"),
    live("rate_limit.per_ip.burst", BURST, "20"),
    live("rate_limit.per_ip.ipv6_prefix", int(1, 128), "64"),
    live("rate_limit.per_user.requests_per_second", Kind::Float, "100"),
    live("rate_limit.per_user.burst", BURST, "200"),
    live("rate_limit.enabled", Kind::Bool, "true"),
    live("rate_limit.trust_proxy_headers", Kind::Bool, "false"),
    live("rate_limit.exempt_paths", GLOBS, ""),
    restart("rate_limit.max_keys", int(1024, 67_108_864), "262144"),
    restart("rate_limit.store", Kind::OneOf(&["memory", "redis"]), "memory"),
    restart("rate_limit.redis.url", Kind::Text(url::redis_url), "").shown(Shown::WithoutUserinfo),
    restart("rate_limit.redis.address", Kind::Text(url::host_port), ""),
    restart("rate_limit.redis.password", TEXT, "").shown(Shown::Nothing),
    restart("rate_limit.redis.db", ANY, "0"),
    restart("rate_limit.redis.pool_size", ANY, "0"),
    restart("rate_limit.redis.key_prefix", TEXT, "vibewarden"),
    restart("rate_limit.redis.fallback", Kind::Bool, "true"),
    restart("rate_limit.redis.health_check_interval", duration(Duration::from_secs(1), Duration::MAX), "30s"),
    live("websocket.max_per_ip", ANY, "0"),
    live("websocket.max_per_user", ANY, "0"),
    live("websocket.allowed_origins", Kind::List(url::origin), ""),
    live("websocket.close_on_expiry", Kind::Bool, "false"),
    live("ip_filter.enabled", Kind::Bool, "false"),
    live("ip_filter.mode", Kind::OneOf(&["blocklist", "allowlist"]), "blocklist"),
    live("ip_filter.addresses", Kind::List(checks::cidr), ""),
    live("ip_filter.trust_proxy_headers", Kind::Bool, "false"),

    live("body_size.max", Kind::Size { min: 0, max: u64::MAX, empty: true }, "1MB"),
    live("body_size.overrides", Kind::Objects(BODY_SIZES), "[]"),
    live("resilience.timeout", Kind::Duration { min: Duration::ZERO, max: Duration::MAX, zero: true, empty: true }, "30s"),
    live("log.level", Kind::OneOf(&["debug", "info", "warn", "error"]), "info"),
    restart("log.format", Kind::OneOf(&["json", "text"]), "json"),
    live("log.access_log", Kind::Bool, "true"),
    live("telemetry.enabled", Kind::Bool, "true"),
    live("telemetry.prometheus.enabled", Kind::Bool, "true"),
    live("telemetry.path_patterns", Kind::List(checks::path_form), ""),
    live("metrics.enabled", Kind::Bool, "true"),
    live("metrics.path_patterns", Kind::List(checks::path_form), ""),
    live("health.expose_version", Kind::Bool, "true"),
    restart("watch.enabled", Kind::Bool, "true"),
    restart("watch.debounce", ANY_DURATION, "500ms"),
    live("allow_unsupported", Kind::List(checks::unsupported_name), ""),

    live("security_headers.enabled", Kind::Bool, "true"),
    live("security_headers.hsts_max_age", ANY, "31536000"),
    live("security_headers.hsts_include_subdomains", Kind::Bool, "true"),
    live("security_headers.hsts_preload", Kind::Bool, "false"),
    live("security_headers.content_type_nosniff", Kind::Bool, "true"),
    live("security_headers.frame_option", Kind::OneOf(&["DENY", "SAMEORIGIN", ""]), "DENY"),
    live("security_headers.content_security_policy", HEADER_VALUE, ""),
    live("security_headers.csp.default_src", CSP, ""),
    live("security_headers.csp.script_src", CSP, ""),
    live("security_headers.csp.style_src", CSP, ""),
    live("security_headers.csp.img_src", CSP, ""),
    live("security_headers.csp.connect_src", CSP, ""),
    live("security_headers.csp.font_src", CSP, ""),
    live("security_headers.csp.frame_src", CSP, ""),
    live("security_headers.csp.media_src", CSP, ""),
    live("security_headers.csp.object_src", CSP, ""),
    live("security_headers.csp.manifest_src", CSP, ""),
    live("security_headers.csp.worker_src", CSP, ""),
    live("security_headers.csp.child_src", CSP, ""),
    live("security_headers.csp.form_action", CSP, ""),
    live("security_headers.csp.frame_ancestors", CSP, ""),
    live("security_headers.csp.base_uri", CSP, ""),
    live("security_headers.referrer_policy", HEADER_VALUE, "strict-origin-when-cross-origin"),
    live("security_headers.permissions_policy", HEADER_VALUE, ""),
    live("security_headers.cross_origin_opener_policy", HEADER_VALUE, "same-origin"),
    live("security_headers.cross_origin_resource_policy", HEADER_VALUE, "same-origin"),
    live("security_headers.permitted_cross_domain_policies", HEADER_VALUE, "none"),
    live("security_headers.suppress_via_header", Kind::Bool, "true"),
];

/// The name of the variable that gives a dotted key from the environment.
pub(super) fn variable_of(dotted: &str) -> String {
    format!("VIBEWARDEN_{}", dotted.to_ascii_uppercase().replace('.', "_"))
}
