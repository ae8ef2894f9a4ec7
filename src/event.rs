//! Events: typed values, their one-line JSON, and the bounded writer on standard output (contract section 11).
//! No decision about requests lives here. Cores and the control thread make events; one thread writes them.

mod dependencies;
mod limits;
mod requests;
mod writer;

use std::net::IpAddr;
use std::time::Duration;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

pub use writer::{EventSender, EventWriter, queue, start};

/// The part of an event that is the same for every event of one request.
#[derive(Debug, Clone, Copy)]
pub struct RequestFacts<'a> {
    /// Client address (contract section 9.1).
    pub client: IpAddr,
    /// Who sent it, once that is known.
    pub actor: Option<KnownActor<'a>>,
    /// Method, when the head could be read.
    pub method: Option<&'a str>,
    /// Path without the query, when the head could be read.
    pub path: Option<&'a str>,
    /// As in the answer and in `X-Request-ID`.
    pub request_id: &'a str,
}

/// Who sent a request, besides an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownActor<'a> {
    /// How it proved that.
    pub kind: ActorKind,
    /// Identity id, the value of `X-User-Id`, or the name of the API key; what limits and quotas count by.
    pub id: &'a str,
}

/// The `type` of a known actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActorKind {
    /// `user`: by a session or a token.
    User,
    /// `api_key`
    ApiKey,
}

/// One event, before its envelope.
#[derive(Debug)]
#[expect(missing_docs, reason = "fields are the payload keys of section 11.2 of the contract")]
pub enum Event<'a> {
    /// `request.proxied`
    RequestProxied {
        request: RequestFacts<'a>,
        bytes_in: u64,
        bytes_out: u64,
        duration_ms: u64,
        status_code: u16,
        upstream: &'a str,
        websocket: bool,
    },
    /// `auth.denied`
    AuthDenied {
        request: RequestFacts<'a>,
        detail: &'static str,
        mode: &'static str,
        reason: &'static str,
        status_code: u16,
    },
    /// `proxy.kratos_flow`
    KratosFlow { request: RequestFacts<'a>, status_code: u16 },
    /// `request.blocked`
    RequestBlocked {
        request: RequestFacts<'a>,
        blocked_by: &'static str,
        reason: &'static str,
        status_code: u16,
    },
    /// `rate_limit.blocked` by a bucket
    RateLimitBlocked {
        request: RequestFacts<'a>,
        burst: u32,
        identifier: &'a str,
        limit_type: &'static str,
        requests_per_second: f64,
        retry_after_seconds: u64,
    },
    /// `rate_limit.blocked` by a count of tunnels
    ConnectionLimitBlocked {
        request: RequestFacts<'a>,
        identifier: &'a str,
        limit: u32,
        limit_type: &'static str,
    },
    /// `ip_filter.blocked`
    IpFilterBlocked { request: RequestFacts<'a>, mode: &'static str },
    /// `upstream.timeout`
    UpstreamTimeout { request: RequestFacts<'a>, timeout_ms: u64 },
    /// `upstream.unavailable`
    UpstreamUnavailable { request: RequestFacts<'a>, error: &'a str, upstream: &'a str },
    /// `websocket.closed`
    WebSocketClosed {
        request: RequestFacts<'a>,
        bytes_to_client: u64,
        bytes_to_upstream: u64,
        duration_ms: u64,
        reason: &'static str,
    },
    /// `proxy.started`
    ProxyStarted {
        driver: &'a str,
        driver_reason: &'a str,
        listen: String,
        security_headers_enabled: bool,
        /// Empty without TLS.
        tls_provider: &'a str,
        upstream: &'a str,
        version: &'static str,
        workers: usize,
    },
    /// `proxy.stopped`
    ProxyStopped { reason: &'a str, tunnels_closed: u64, uptime_seconds: u64 },
    /// `upstream.health_changed`
    UpstreamHealthChanged {
        consecutive: u32,
        last_error: Option<&'a str>,
        new_status: &'static str,
        previous_status: &'static str,
        upstream_url: &'a str,
    },
    /// `config.reloaded`
    ConfigReloaded {
        config_path: &'a str,
        duration_ms: u64,
        restart_required: &'a [&'static str],
        trigger_source: &'static str,
    },
    /// `config.reload_failed`
    ConfigReloadFailed {
        config_path: &'a str,
        reason: &'a str,
        trigger_source: &'static str,
        validation_errors: &'a [String],
    },
    /// `auth.provider_unavailable`
    AuthProviderUnavailable { affected_path: &'a str, error: &'a str, provider_url: &'a str },
    /// `auth.provider_recovered`
    AuthProviderRecovered { provider_url: &'a str },
    /// `auth.jwks_refresh`
    AuthJwksRefresh { jwks_url: &'a str, key_count: usize },
    /// `auth.jwks_error`
    AuthJwksError { detail: &'a str, jwks_url: &'a str },
    /// `rate_limit.store_fallback`
    RateLimitStoreFallback { reason: &'a str },
    /// `rate_limit.store_recovered`
    RateLimitStoreRecovered,
}

/// The envelope, in the key order of section 11.1.
#[derive(Serialize)]
struct Envelope<'a> {
    schema_version: &'static str,
    event_type: &'static str,
    timestamp: Timestamp,
    severity: &'static str,
    category: &'static str,
    ai_summary: Summary<'a>,
    payload: Payload<'a>,
    actor: Actor<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<Resource<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    risk_signals: Option<[RiskSignal; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    triggered_by: Option<&'static str>,
}

/// How much an event says against its client.
#[derive(Clone, Copy, Serialize)]
struct RiskSignal {
    signal: &'static str,
    /// From 0 to 1.
    score: f64,
    details: &'static str,
}

struct Timestamp(jiff::Timestamp);

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:.6}", self.0))
    }
}

/// `ai_summary`: what happened and what it is about, at most 200 characters.
struct Summary<'a> {
    text: &'static str,
    about: &'a str,
}

impl Serialize for Summary<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let room = 200 - self.text.len().min(200);
        let cut = self.about.char_indices().nth(room).map_or(self.about.len(), |(place, _)| place);
        let about = self.about.get(..cut).unwrap_or_default();
        serializer.collect_str(&format_args!("{}{about}", self.text))
    }
}

/// Keys in alphabetical order (a test holds every event to it); absent values are left out.
struct Payload<'a>(&'a [(&'static str, Value<'a>)]);

enum Value<'a> {
    Number(u64),
    /// Milliseconds, written as seconds: whole where they are whole.
    Seconds(u64),
    /// Written as a whole number where it is one.
    Float(f64),
    Truth(bool),
    Text(&'a str),
    MaybeText(Option<&'a str>),
    Address(IpAddr),
    Texts(&'a [&'static str]),
    Lines(&'a [String]),
}

/// Whole numbers below 2^53 are exact in an `f64`.
const WHOLE_BELOW: f64 = 9_007_199_254_740_992.0;

impl Serialize for Payload<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in self.0 {
            match value {
                Value::Number(number) => map.serialize_entry(key, number)?,
                Value::Seconds(ms) if ms.is_multiple_of(1_000) => {
                    map.serialize_entry(key, &(ms / 1_000))?;
                }
                Value::Seconds(ms) => {
                    map.serialize_entry(key, &Duration::from_millis(*ms).as_secs_f64())?;
                }
                #[expect(clippy::cast_possible_truncation, reason = "it is whole and fits")]
                Value::Float(number) if number.fract() == 0.0 && number.abs() < WHOLE_BELOW => {
                    map.serialize_entry(key, &(*number as i64))?;
                }
                Value::Float(number) => map.serialize_entry(key, number)?,
                Value::Truth(truth) => map.serialize_entry(key, truth)?,
                Value::Text(text) | Value::MaybeText(Some(text)) => {
                    map.serialize_entry(key, text)?;
                }
                Value::MaybeText(None) => {}
                Value::Address(address) => map.serialize_entry(key, address)?,
                Value::Texts(texts) => map.serialize_entry(key, texts)?,
                Value::Lines(lines) => map.serialize_entry(key, lines)?,
            }
        }
        map.end()
    }
}

#[derive(Serialize)]
struct Actor<'a> {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<IpAddr>,
}

impl Actor<'_> {
    const SYSTEM: Self = Self { r#type: "system", id: None, ip: None };
}

impl<'a> Actor<'a> {
    fn of(request: &RequestFacts<'a>) -> Self {
        let r#type = match request.actor.map(|actor| actor.kind) {
            None => "ip",
            Some(ActorKind::User) => "user",
            Some(ActorKind::ApiKey) => "api_key",
        };
        Self { r#type, id: request.actor.map(|actor| actor.id), ip: Some(request.client) }
    }
}

#[derive(Serialize)]
struct Resource<'a> {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
}

/// What the envelope says beside the payload.
struct Kind {
    event_type: &'static str,
    severity: &'static str,
    category: &'static str,
    summary: &'static str,
    outcome: Option<&'static str>,
    risk_signal: Option<RiskSignal>,
    triggered_by: Option<&'static str>,
}

const fn kind(
    event_type: &'static str,
    severity: &'static str,
    category: &'static str,
    summary: &'static str,
) -> Kind {
    Kind {
        event_type,
        severity,
        category,
        summary,
        outcome: None,
        risk_signal: None,
        triggered_by: None,
    }
}

impl Kind {
    const fn ended(self, outcome: &'static str, triggered_by: Option<&'static str>) -> Self {
        Self { outcome: Some(outcome), triggered_by, ..self }
    }

    fn of_request(
        &self,
        at: jiff::Timestamp,
        request: &RequestFacts<'_>,
        payload: &[(&'static str, Value<'_>)],
    ) -> Vec<u8> {
        let about = request.path.unwrap_or("a request whose head could not be read");
        let resource =
            Resource { r#type: "http_endpoint", path: request.path, method: request.method };
        self.line(at, about, Actor::of(request), Some(resource), Some(request.request_id), payload)
    }

    fn of_system(
        &self,
        at: jiff::Timestamp,
        about: &str,
        payload: &[(&'static str, Value<'_>)],
    ) -> Vec<u8> {
        self.line(at, about, Actor::SYSTEM, None, None, payload)
    }

    fn of_config(
        &self,
        at: jiff::Timestamp,
        about: &str,
        payload: &[(&'static str, Value<'_>)],
    ) -> Vec<u8> {
        let resource = Resource { r#type: "config", path: None, method: None };
        self.line(at, about, Actor::SYSTEM, Some(resource), None, payload)
    }

    fn line<'a>(
        &self,
        at: jiff::Timestamp,
        about: &'a str,
        actor: Actor<'a>,
        resource: Option<Resource<'a>>,
        request_id: Option<&'a str>,
        payload: &'a [(&'static str, Value<'a>)],
    ) -> Vec<u8> {
        let envelope = Envelope {
            schema_version: "v1",
            event_type: self.event_type,
            timestamp: Timestamp(at),
            severity: self.severity,
            category: self.category,
            ai_summary: Summary { text: self.summary, about },
            payload: Payload(payload),
            actor,
            resource,
            outcome: self.outcome,
            risk_signals: self.risk_signal.map(|signal| [signal]),
            request_id,
            triggered_by: self.triggered_by,
        };
        let mut line = Vec::with_capacity(LINE_BYTES);
        // Plain values into a Vec always serialise; if they ever did not, no line is better than half a line.
        if serde_json::to_writer(&mut line, &envelope).is_err() {
            line.clear();
        }
        line.push(b'\n');
        line
    }
}

/// Room for an ordinary line, so that it is allocated once.
const LINE_BYTES: usize = 640;

impl Event<'_> {
    /// The event as one line of JSON with its line end. `at` becomes `timestamp`.
    pub fn to_line(&self, at: jiff::Timestamp) -> Vec<u8> {
        match self {
            Self::RequestProxied { .. }
            | Self::KratosFlow { .. }
            | Self::WebSocketClosed { .. } => self.passed_line(at),
            Self::AuthDenied { .. } => self.denied_line(at),
            Self::RequestBlocked { .. }
            | Self::UpstreamTimeout { .. }
            | Self::UpstreamUnavailable { .. } => self.refused_line(at),
            Self::RateLimitBlocked { .. }
            | Self::ConnectionLimitBlocked { .. }
            | Self::IpFilterBlocked { .. } => self.limited_line(at),
            Self::ProxyStarted { .. } | Self::ProxyStopped { .. } => self.process_line(at),
            Self::UpstreamHealthChanged { .. } => self.probe_line(at),
            Self::RateLimitStoreFallback { .. } | Self::RateLimitStoreRecovered => {
                self.store_line(at)
            }
            Self::ConfigReloaded { .. } | Self::ConfigReloadFailed { .. } => self.config_line(at),
            Self::AuthProviderUnavailable { .. }
            | Self::AuthProviderRecovered { .. }
            | Self::AuthJwksRefresh { .. }
            | Self::AuthJwksError { .. } => self.provider_line(at),
        }
    }

    fn process_line(&self, at: jiff::Timestamp) -> Vec<u8> {
        match self {
            Self::ProxyStarted {
                driver,
                driver_reason,
                listen,
                security_headers_enabled,
                tls_provider,
                upstream,
                version,
                workers,
            } => kind("proxy.started", "info", "network", "The proxy accepts connections on ")
                .of_system(
                    at,
                    listen,
                    &[
                        ("driver", Value::Text(driver)),
                        ("driver_reason", Value::Text(driver_reason)),
                        ("listen", Value::Text(listen)),
                        ("security_headers_enabled", Value::Truth(*security_headers_enabled)),
                        ("tls_enabled", Value::Truth(!tls_provider.is_empty())),
                        ("tls_provider", Value::Text(tls_provider)),
                        ("upstream", Value::Text(upstream)),
                        ("version", Value::Text(version)),
                        ("workers", Value::Number(*workers as u64)),
                    ],
                ),
            Self::ProxyStopped { reason, tunnels_closed, uptime_seconds } => {
                kind("proxy.stopped", "info", "network", "The proxy stopped: ").of_system(
                    at,
                    reason,
                    &[
                        ("reason", Value::Text(reason)),
                        ("tunnels_closed", Value::Number(*tunnels_closed)),
                        ("uptime_seconds", Value::Number(*uptime_seconds)),
                    ],
                )
            }
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
