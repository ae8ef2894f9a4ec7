//! Events: typed values, their one-line JSON, and the bounded writer on standard output (contract section 11).
//! No decision about requests lives here. Cores and the control thread make events; one thread writes them.

mod writer;

use std::net::IpAddr;

use serde::{Serialize, Serializer};

pub use writer::{EventSender, EventWriter, start};

/// The part of an event that is the same for every event of one request.
#[derive(Debug, Clone, Copy)]
pub struct RequestFacts<'a> {
    /// Client address (contract section 9.1).
    pub client: IpAddr,
    /// Method, when the head could be read.
    pub method: Option<&'a str>,
    /// Path without the query, when the head could be read.
    pub path: Option<&'a str>,
    /// As in the answer and in `X-Request-ID`.
    pub request_id: &'a str,
}

/// One event, before its envelope.
#[derive(Debug)]
#[expect(
    missing_docs,
    reason = "fields are the payload keys of section 11.2 of the contract"
)]
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
    /// `request.blocked`
    RequestBlocked {
        request: RequestFacts<'a>,
        blocked_by: &'static str,
        reason: &'static str,
        status_code: u16,
    },
    /// `upstream.timeout`
    UpstreamTimeout {
        request: RequestFacts<'a>,
        timeout_ms: u64,
    },
    /// `upstream.unavailable`
    UpstreamUnavailable {
        request: RequestFacts<'a>,
        error: &'a str,
        upstream: &'a str,
    },
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
        upstream: &'a str,
        version: &'static str,
        workers: usize,
    },
    /// `proxy.stopped`
    ProxyStopped {
        reason: &'a str,
        tunnels_closed: u64,
        uptime_seconds: u64,
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
}

/// The envelope, in the key order of section 11.1.
#[derive(Serialize)]
struct Envelope<'a, P: Serialize> {
    schema_version: &'static str,
    event_type: &'static str,
    timestamp: Timestamp,
    severity: &'static str,
    category: &'static str,
    ai_summary: Summary<'a>,
    payload: P,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<Actor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<Resource<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    triggered_by: Option<&'static str>,
}

struct Timestamp(jiff::Timestamp);

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:.6}", self.0))
    }
}

/// `ai_summary`: a verb phrase and what it is about, at most 200 characters.
struct Summary<'a> {
    text: &'static str,
    about: &'a str,
}

impl Serialize for Summary<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let room = 200 - self.text.len().min(200);
        let cut = self
            .about
            .char_indices()
            .nth(room)
            .map_or(self.about.len(), |(place, _)| place);
        serializer.collect_str(&format_args!(
            "{}{}",
            self.text,
            self.about.get(..cut).unwrap_or_default()
        ))
    }
}

#[derive(Serialize)]
struct Actor {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<IpAddr>,
}

#[derive(Serialize)]
struct Resource<'a> {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
}

#[derive(Serialize)]
struct ProxiedPayload<'a> {
    bytes_in: u64,
    bytes_out: u64,
    client_ip: IpAddr,
    duration_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    status_code: u16,
    upstream: &'a str,
    websocket: bool,
}

#[derive(Serialize)]
struct BlockedPayload<'a> {
    blocked_by: &'static str,
    client_ip: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    reason: &'static str,
    status_code: u16,
}

#[derive(Serialize)]
struct TimeoutPayload<'a> {
    client_ip: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(serialize_with = "seconds")]
    timeout_seconds: u64,
}

/// Milliseconds as a number of seconds, whole where it is whole.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn seconds<S: Serializer>(ms: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    if ms.is_multiple_of(1_000) {
        serializer.serialize_u64(ms / 1_000)
    } else {
        serializer.serialize_f64(std::time::Duration::from_millis(*ms).as_secs_f64())
    }
}

#[derive(Serialize)]
struct UnavailablePayload<'a> {
    client_ip: IpAddr,
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    upstream: &'a str,
}

#[derive(Serialize)]
struct ClosedPayload {
    bytes_to_client: u64,
    bytes_to_upstream: u64,
    duration_ms: u64,
    reason: &'static str,
}

#[derive(Serialize)]
struct StartedPayload<'a> {
    driver: &'a str,
    driver_reason: &'a str,
    listen: &'a str,
    security_headers_enabled: bool,
    tls_enabled: bool,
    tls_provider: &'a str,
    upstream: &'a str,
    version: &'a str,
    workers: usize,
}

#[derive(Serialize)]
struct StoppedPayload<'a> {
    reason: &'a str,
    tunnels_closed: u64,
    uptime_seconds: u64,
}

#[derive(Serialize)]
struct ReloadedPayload<'a> {
    config_path: &'a str,
    duration_ms: u64,
    restart_required: &'a [&'static str],
    trigger_source: &'static str,
}

#[derive(Serialize)]
struct ReloadFailedPayload<'a> {
    config_path: &'a str,
    reason: &'a str,
    trigger_source: &'static str,
    validation_errors: &'a [String],
}

/// What the envelope says beside the payload.
struct Kind {
    event_type: &'static str,
    severity: &'static str,
    category: &'static str,
    summary: &'static str,
    outcome: Option<&'static str>,
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
        triggered_by: None,
    }
}

impl Kind {
    const fn of_request(self, outcome: &'static str, triggered_by: Option<&'static str>) -> Self {
        Self {
            outcome: Some(outcome),
            triggered_by,
            ..self
        }
    }

    fn request_line(
        &self,
        at: jiff::Timestamp,
        request: &RequestFacts<'_>,
        payload: impl Serialize,
    ) -> Vec<u8> {
        self.line(Envelope {
            schema_version: "v1",
            event_type: self.event_type,
            timestamp: Timestamp(at),
            severity: self.severity,
            category: self.category,
            ai_summary: Summary {
                text: self.summary,
                about: request
                    .path
                    .unwrap_or("a request whose head could not be read"),
            },
            payload,
            actor: Some(Actor {
                r#type: "ip",
                ip: Some(request.client),
            }),
            resource: Some(Resource {
                r#type: "http_endpoint",
                path: request.path,
                method: request.method,
            }),
            outcome: self.outcome,
            request_id: Some(request.request_id),
            triggered_by: self.triggered_by,
        })
    }

    fn system_line(
        &self,
        at: jiff::Timestamp,
        about: &str,
        resource: Option<Resource<'_>>,
        payload: impl Serialize,
    ) -> Vec<u8> {
        self.line(Envelope {
            schema_version: "v1",
            event_type: self.event_type,
            timestamp: Timestamp(at),
            severity: self.severity,
            category: self.category,
            ai_summary: Summary {
                text: self.summary,
                about,
            },
            payload,
            actor: Some(Actor {
                r#type: "system",
                ip: None,
            }),
            resource,
            outcome: self.outcome,
            request_id: None,
            triggered_by: self.triggered_by,
        })
    }

    #[expect(
        clippy::unused_self,
        reason = "keeps the two kinds of lines side by side"
    )]
    fn line(&self, envelope: Envelope<'_, impl Serialize>) -> Vec<u8> {
        let mut line = Vec::with_capacity(640);
        // Serialising plain structs into a Vec cannot fail; if it ever did, an empty line is better than a panic.
        if serde_json::to_writer(&mut line, &envelope).is_err() {
            line.clear();
        }
        line.push(b'\n');
        line
    }
}

impl Event<'_> {
    /// The event as one line of JSON with its line end. `at` becomes `timestamp`.
    pub fn to_line(&self, at: jiff::Timestamp) -> Vec<u8> {
        match self {
            Self::RequestProxied { .. }
            | Self::RequestBlocked { .. }
            | Self::UpstreamTimeout { .. }
            | Self::UpstreamUnavailable { .. }
            | Self::WebSocketClosed { .. } => self.request_line(at),
            _ => self.system_line(at),
        }
    }

    fn request_line(&self, at: jiff::Timestamp) -> Vec<u8> {
        match *self {
            Self::RequestProxied {
                request,
                bytes_in,
                bytes_out,
                duration_ms,
                status_code,
                upstream,
                websocket,
            } => {
                let RequestFacts {
                    client: client_ip,
                    method,
                    path,
                    ..
                } = request;
                let payload = ProxiedPayload {
                    bytes_in,
                    bytes_out,
                    client_ip,
                    duration_ms,
                    method,
                    path,
                    status_code,
                    upstream,
                    websocket,
                };
                kind(
                    "request.proxied",
                    "info",
                    "network",
                    "Request passed to the upstream: ",
                )
                .of_request("allowed", Some("proxy"))
                .request_line(at, &request, payload)
            }
            Self::RequestBlocked {
                request,
                blocked_by,
                reason,
                status_code,
            } => {
                let RequestFacts {
                    client: client_ip,
                    method,
                    path,
                    ..
                } = request;
                kind(
                    "request.blocked",
                    "medium",
                    "policy",
                    "Request refused before the upstream: ",
                )
                .of_request("blocked", Some(blocked_by))
                .request_line(
                    at,
                    &request,
                    BlockedPayload {
                        blocked_by,
                        client_ip,
                        method,
                        path,
                        reason,
                        status_code,
                    },
                )
            }
            Self::UpstreamTimeout {
                request,
                timeout_ms,
            } => {
                let RequestFacts {
                    client: client_ip,
                    method,
                    path,
                    ..
                } = request;
                kind(
                    "upstream.timeout",
                    "medium",
                    "network",
                    "The upstream did not answer in time: ",
                )
                .of_request("failed", Some("proxy"))
                .request_line(
                    at,
                    &request,
                    TimeoutPayload {
                        client_ip,
                        method,
                        path,
                        timeout_seconds: timeout_ms,
                    },
                )
            }
            Self::UpstreamUnavailable {
                request,
                error,
                upstream,
            } => {
                let RequestFacts {
                    client: client_ip,
                    method,
                    path,
                    ..
                } = request;
                kind(
                    "upstream.unavailable",
                    "high",
                    "network",
                    "The upstream gave no valid answer: ",
                )
                .of_request("failed", Some("proxy"))
                .request_line(
                    at,
                    &request,
                    UnavailablePayload {
                        client_ip,
                        error,
                        method,
                        path,
                        upstream,
                    },
                )
            }
            Self::WebSocketClosed {
                request,
                bytes_to_client,
                bytes_to_upstream,
                duration_ms,
                reason,
            } => kind(
                "websocket.closed",
                "info",
                "network",
                "WebSocket tunnel ended: ",
            )
            .of_request("allowed", None)
            .request_line(
                at,
                &request,
                ClosedPayload {
                    bytes_to_client,
                    bytes_to_upstream,
                    duration_ms,
                    reason,
                },
            ),
            _ => Vec::new(),
        }
    }

    fn system_line(&self, at: jiff::Timestamp) -> Vec<u8> {
        let config = || {
            Some(Resource {
                r#type: "config",
                path: None,
                method: None,
            })
        };
        match self {
            Self::ProxyStarted {
                driver,
                driver_reason,
                listen,
                upstream,
                version,
                workers,
            } => {
                let payload = StartedPayload {
                    driver,
                    driver_reason,
                    listen,
                    security_headers_enabled: false,
                    tls_enabled: false,
                    tls_provider: "",
                    upstream,
                    version,
                    workers: *workers,
                };
                kind(
                    "proxy.started",
                    "info",
                    "network",
                    "The proxy accepts connections on ",
                )
                .system_line(at, listen, None, payload)
            }
            Self::ProxyStopped {
                reason,
                tunnels_closed,
                uptime_seconds,
            } => {
                let payload = StoppedPayload {
                    reason,
                    tunnels_closed: *tunnels_closed,
                    uptime_seconds: *uptime_seconds,
                };
                kind("proxy.stopped", "info", "network", "The proxy stopped: ")
                    .system_line(at, reason, None, payload)
            }
            Self::ConfigReloaded {
                config_path,
                duration_ms,
                restart_required,
                trigger_source,
            } => {
                let payload = ReloadedPayload {
                    config_path,
                    duration_ms: *duration_ms,
                    restart_required,
                    trigger_source,
                };
                kind(
                    "config.reloaded",
                    "info",
                    "audit",
                    "The configuration was reloaded from ",
                )
                .system_line(at, config_path, config(), payload)
            }
            Self::ConfigReloadFailed {
                config_path,
                reason,
                trigger_source,
                validation_errors,
            } => {
                let payload = ReloadFailedPayload {
                    config_path,
                    reason,
                    trigger_source,
                    validation_errors,
                };
                kind(
                    "config.reload_failed",
                    "medium",
                    "audit",
                    "The new configuration was not taken: ",
                )
                .system_line(at, config_path, config(), payload)
            }
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
