//! Event lines: every line that a test reads is held against the contract's envelope and table first.

use super::http::is_made_request_id;
use super::json::Json;

/// One event line that has the right form.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) json: Json,
    pub(crate) line: String,
}

/// Type, severity, category, payload keys besides those of its group, outcome; from section 11.2.
type Row = (&'static str, &'static str, &'static str, &'static [&'static str], &'static str);

const REQUEST_GROUP: &[Row] = &[
    (
        "request.proxied",
        "info",
        "network",
        &["bytes_in", "bytes_out", "duration_ms", "status_code", "upstream", "websocket"],
        "allowed",
    ),
    ("request.blocked", "medium", "policy", &["blocked_by", "reason", "status_code"], "blocked"),
    ("auth.denied", "medium", "auth", &["detail", "mode", "reason", "status_code"], "blocked"),
    ("ip_filter.blocked", "medium", "policy", &["mode"], "blocked"),
    ("proxy.kratos_flow", "info", "auth", &["status_code"], "allowed"),
    ("upstream.timeout", "medium", "network", &["timeout_seconds"], "failed"),
    ("upstream.unavailable", "high", "network", &["error", "upstream"], "failed"),
];

const OTHERS: &[Row] = &[
    (
        "websocket.closed",
        "info",
        "network",
        &["bytes_to_client", "bytes_to_upstream", "duration_ms", "reason"],
        "allowed",
    ),
    (
        "proxy.started",
        "info",
        "network",
        &[
            "driver",
            "driver_reason",
            "listen",
            "security_headers_enabled",
            "tls_enabled",
            "tls_provider",
            "upstream",
            "version",
            "workers",
        ],
        "",
    ),
    ("proxy.stopped", "info", "network", &["reason", "tunnels_closed", "uptime_seconds"], ""),
    (
        "config.reloaded",
        "info",
        "audit",
        &["config_path", "duration_ms", "restart_required", "trigger_source"],
        "",
    ),
    (
        "config.reload_failed",
        "medium",
        "audit",
        &["config_path", "reason", "trigger_source", "validation_errors"],
        "",
    ),
    ("rate_limit.store_fallback", "high", "resilience", &["reason", "store"], ""),
    ("rate_limit.store_recovered", "info", "resilience", &["store"], ""),
];

/// 8.2: a bucket had no token.
const BUCKET_EMPTY: Row = (
    "rate_limit.blocked",
    "medium",
    "resilience",
    &["burst", "identifier", "limit_type", "requests_per_second", "retry_after_seconds"],
    "rate_limited",
);

/// 8.3: too many tunnels.
const TUNNELS_OVER: Row = (
    "rate_limit.blocked",
    "medium",
    "resilience",
    &["identifier", "limit", "limit_type"],
    "rate_limited",
);

const REQUEST_KEYS: &[&str] = &["client_ip", "method", "path"];
/// Of the providers of authentication.
const PROVIDERS: &[Row] = &[
    ("auth.provider_unavailable", "high", "auth", &["affected_path", "error", "provider_url"], ""),
    ("auth.provider_recovered", "info", "auth", &["provider_url"], ""),
    ("auth.jwks_refresh", "info", "auth", &["jwks_url", "key_count"], ""),
    ("auth.jwks_error", "medium", "auth", &["detail", "jwks_url"], ""),
];

const HEALTH_KEYS: &[&str] = &["consecutive", "new_status", "previous_status", "upstream_url"];
const HEALTH_LOST: Row = ("upstream.health_changed", "high", "network", HEALTH_KEYS, "");
const HEALTH_BACK: Row = ("upstream.health_changed", "info", "network", HEALTH_KEYS, "");

const ENVELOPE: [&str; 13] = [
    "schema_version",
    "event_type",
    "timestamp",
    "severity",
    "category",
    "ai_summary",
    "payload",
    "actor",
    "resource",
    "outcome",
    "risk_signals",
    "request_id",
    "triggered_by",
];

impl Event {
    /// Reads one line and checks everything about it that the contract fixes.
    #[track_caller]
    pub(crate) fn parse(line: &str) -> Self {
        let text = line.strip_suffix('\n').unwrap_or_else(|| panic!("cut event line {line:?}"));
        let json = Json::parse(text).unwrap_or_else(|error| panic!("{error} in event {line:?}"));
        let event = Self { json, line: text.to_owned() };
        event.check_envelope();
        if let Some(row) = REQUEST_GROUP.iter().find(|row| row.0 == event.kind()) {
            let optional: &[&str] = if event.is("request.proxied") { &["user_id"] } else { &[] };
            event.check_row(row, &[REQUEST_KEYS, optional].concat());
            event.check_request_group();
        } else if event.is("rate_limit.blocked") {
            let tunnels = event.text("payload.limit_type").ends_with("_connections");
            event.check_row(if tunnels { &TUNNELS_OVER } else { &BUCKET_EMPTY }, REQUEST_KEYS);
            event.check_request_group();
        } else if let Some(row) = OTHERS.iter().find(|row| row.0 == event.kind()) {
            event.check_row(row, &[]);
        } else if let Some(row) = PROVIDERS.iter().find(|row| row.0 == event.kind()) {
            // The contract leaves their outcome open.
            let outcome = event.text("outcome");
            let known =
                ["", "allowed", "blocked", "failed"].iter().find(|known| **known == outcome);
            let known = known.unwrap_or_else(|| panic!("outcome of {line}"));
            event.check_row(&(row.0, row.1, row.2, row.3, known), &[]);
        } else if event.is("upstream.health_changed") {
            let failing = event.text("payload.new_status") == "failing";
            event.check_row(if failing { &HEALTH_LOST } else { &HEALTH_BACK }, &["last_error"]);
        } else {
            panic!("unknown event type: {line}");
        }
        event
    }

    pub(crate) fn kind(&self) -> &str {
        self.json.text("event_type").unwrap_or_default()
    }

    pub(crate) fn is(&self, kind: &str) -> bool {
        self.kind() == kind
    }

    pub(crate) fn request_id(&self) -> &str {
        self.json.text("request_id").unwrap_or_default()
    }

    pub(crate) fn text(&self, path: &str) -> &str {
        self.json.text(path).unwrap_or_default()
    }

    /// A whole, non-negative number.
    #[track_caller]
    pub(crate) fn count(&self, path: &str) -> u64 {
        let number = self.json.number(path);
        let number = number.unwrap_or_else(|| panic!("no number {path} in {}", self.line));
        assert!(number >= 0.0 && number.fract() == 0.0, "{path} in {}", self.line);
        format!("{number:.0}").parse().expect("a whole number")
    }

    /// True for the lines of which each request has exactly one.
    pub(crate) fn ends_a_request(&self) -> bool {
        self.is("rate_limit.blocked") || REQUEST_GROUP.iter().any(|row| row.0 == self.kind())
    }

    #[track_caller]
    fn check_envelope(&self) {
        let keys = self.json.keys("");
        let mut expected = ENVELOPE.iter();
        for key in &keys {
            assert!(
                expected.any(|known| known == key),
                "{key} is unknown or out of order: {}",
                self.line
            );
        }
        for always in &ENVELOPE[..7] {
            assert!(keys.contains(always), "no {always}: {}", self.line);
        }
        assert_eq!(self.text("schema_version"), "v1", "{}", self.line);
        let time = self.text("timestamp");
        let is_utc = time.ends_with('Z') && time.contains('T') && time.contains('.');
        assert!(is_utc, "timestamp {time:?}");
        let summary = self.text("ai_summary").chars().count();
        assert!((1..=200).contains(&summary), "ai_summary: {}", self.line);
        let payload = self.json.keys("payload");
        assert!(payload.is_sorted(), "payload keys: {}", self.line);
    }

    #[track_caller]
    fn check_row(&self, row: &Row, group_keys: &[&str]) {
        let (_, severity, category, keys, outcome) = row;
        assert_eq!(self.text("severity"), *severity, "{}", self.line);
        assert_eq!(self.text("category"), *category, "{}", self.line);
        assert_eq!(self.text("outcome"), *outcome, "{}", self.line);
        let payload = self.json.keys("payload");
        for key in *keys {
            assert!(payload.contains(key), "no payload.{key}: {}", self.line);
        }
        for key in payload {
            let known = keys.contains(&key) || group_keys.contains(&key);
            assert!(known, "payload.{key} is not in the table: {}", self.line);
        }
    }

    #[track_caller]
    fn check_request_group(&self) {
        let line = &self.line;
        let id = self.request_id();
        assert!(!id.is_empty(), "no request_id: {line}");
        if id.starts_with("req_") {
            assert!(is_made_request_id(id), "request_id {id:?}");
        }
        self.check_actor();
        assert_eq!(self.text("resource.type"), "http_endpoint", "{line}");
        for (outer, inner) in [
            ("payload.client_ip", "actor.ip"),
            ("payload.path", "resource.path"),
            ("payload.method", "resource.method"),
        ] {
            assert_eq!(self.text(outer), self.text(inner), "{line}");
            // A head that could not be read has no method and no path.
            let may_lack = self.is("request.blocked") && outer != "payload.client_ip";
            assert!(may_lack || !self.text(outer).is_empty(), "no {outer}: {line}");
        }
        assert!(!self.text("payload.path").contains('?'), "a query: {line}");
        let step = match self.kind() {
            "request.blocked" => self.text("payload.blocked_by"),
            "rate_limit.blocked" => "rate_limit_middleware",
            "ip_filter.blocked" => "ip_filter",
            "auth.denied" => "auth_middleware",
            _ => "proxy",
        };
        assert_eq!(self.text("triggered_by"), step, "{line}");
    }

    /// An address, or whoever authentication found: then the event of a relayed request says the same twice.
    #[track_caller]
    fn check_actor(&self) {
        let (kind, id) = (self.text("actor.type"), self.text("actor.id"));
        assert!(["ip", "user", "api_key"].contains(&kind), "{}", self.line);
        assert_eq!(kind == "ip", id.is_empty(), "{}", self.line);
        if self.is("request.proxied") {
            assert_eq!(self.text("payload.user_id"), id, "{}", self.line);
        }
    }
}
