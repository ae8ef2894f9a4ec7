//! Lines about requests and tunnels: what was passed on, and what was refused.

use super::{Event, Value, kind};

impl Event<'_> {
    pub(super) fn passed_line(&self, at: jiff::Timestamp) -> Vec<u8> {
        match *self {
            Self::RequestProxied {
                request,
                bytes_in,
                bytes_out,
                duration_ms,
                status_code,
                upstream,
                websocket,
            } => kind("request.proxied", "info", "network", "Request passed to the upstream: ")
                .ended("allowed", Some("proxy"))
                .of_request(
                    at,
                    &request,
                    &[
                        ("bytes_in", Value::Number(bytes_in)),
                        ("bytes_out", Value::Number(bytes_out)),
                        ("client_ip", Value::Address(request.client)),
                        ("duration_ms", Value::Number(duration_ms)),
                        ("method", Value::MaybeText(request.method)),
                        ("path", Value::MaybeText(request.path)),
                        ("status_code", Value::Number(status_code.into())),
                        ("upstream", Value::Text(upstream)),
                        ("user_id", Value::MaybeText(request.actor.map(|actor| actor.id))),
                        ("websocket", Value::Truth(websocket)),
                    ],
                ),
            Self::KratosFlow { request, status_code } => {
                kind("proxy.kratos_flow", "info", "auth", "Request passed to Kratos: ")
                    .ended("allowed", Some("proxy"))
                    .of_request(
                        at,
                        &request,
                        &[
                            ("client_ip", Value::Address(request.client)),
                            ("method", Value::MaybeText(request.method)),
                            ("path", Value::MaybeText(request.path)),
                            ("status_code", Value::Number(status_code.into())),
                        ],
                    )
            }
            Self::WebSocketClosed {
                request,
                bytes_to_client,
                bytes_to_upstream,
                duration_ms,
                reason,
            } => kind("websocket.closed", "info", "network", "WebSocket tunnel ended: ")
                .ended("allowed", None)
                .of_request(
                    at,
                    &request,
                    &[
                        ("bytes_to_client", Value::Number(bytes_to_client)),
                        ("bytes_to_upstream", Value::Number(bytes_to_upstream)),
                        ("duration_ms", Value::Number(duration_ms)),
                        ("reason", Value::Text(reason)),
                    ],
                ),
            _ => Vec::new(),
        }
    }

    pub(super) fn denied_line(&self, at: jiff::Timestamp) -> Vec<u8> {
        let Self::AuthDenied { request, detail, mode, reason, status_code } = *self else {
            return Vec::new();
        };
        kind("auth.denied", "medium", "auth", "Refused by authentication: ")
            .ended("blocked", Some("auth_middleware"))
            .of_request(
                at,
                &request,
                &[
                    ("client_ip", Value::Address(request.client)),
                    ("detail", Value::Text(detail)),
                    ("method", Value::MaybeText(request.method)),
                    ("mode", Value::Text(mode)),
                    ("path", Value::MaybeText(request.path)),
                    ("reason", Value::Text(reason)),
                    ("status_code", Value::Number(status_code.into())),
                ],
            )
    }

    pub(super) fn refused_line(&self, at: jiff::Timestamp) -> Vec<u8> {
        match *self {
            Self::RequestBlocked { request, blocked_by, reason, status_code } => {
                kind("request.blocked", "medium", "policy", "Refused before the upstream: ")
                    .ended("blocked", Some(blocked_by))
                    .of_request(
                        at,
                        &request,
                        &[
                            ("blocked_by", Value::Text(blocked_by)),
                            ("client_ip", Value::Address(request.client)),
                            ("method", Value::MaybeText(request.method)),
                            ("path", Value::MaybeText(request.path)),
                            ("reason", Value::Text(reason)),
                            ("status_code", Value::Number(status_code.into())),
                        ],
                    )
            }
            Self::UpstreamTimeout { request, timeout_ms } => kind(
                "upstream.timeout",
                "medium",
                "network",
                "The upstream did not answer in time: ",
            )
            .ended("failed", Some("proxy"))
            .of_request(
                at,
                &request,
                &[
                    ("client_ip", Value::Address(request.client)),
                    ("method", Value::MaybeText(request.method)),
                    ("path", Value::MaybeText(request.path)),
                    ("timeout_seconds", Value::Seconds(timeout_ms)),
                ],
            ),
            Self::UpstreamUnavailable { request, error, upstream } => kind(
                "upstream.unavailable",
                "high",
                "network",
                "The upstream gave no valid answer: ",
            )
            .ended("failed", Some("proxy"))
            .of_request(
                at,
                &request,
                &[
                    ("client_ip", Value::Address(request.client)),
                    ("error", Value::Text(error)),
                    ("method", Value::MaybeText(request.method)),
                    ("path", Value::MaybeText(request.path)),
                    ("upstream", Value::Text(upstream)),
                ],
            ),
            _ => Vec::new(),
        }
    }
}
