//! The events of rate limits, quotas, the address filter and the shared store.

use super::{Event, Kind, RiskSignal, Value, kind};

const RATE_LIMIT_EXCEEDED: RiskSignal = RiskSignal {
    signal: "rate_limit_exceeded",
    score: 0.5,
    details: "the client asks for more than its limit allows",
};

/// Both forms of `rate_limit.blocked`.
const RATE_LIMIT_BLOCKED: Kind = Kind {
    risk_signal: Some(RATE_LIMIT_EXCEEDED),
    ..kind("rate_limit.blocked", "medium", "resilience", "More than its limit allows: ")
        .ended("rate_limited", Some("rate_limit_middleware"))
};

impl Event<'_> {
    pub(super) fn limited_line(&self, at: jiff::Timestamp) -> Vec<u8> {
        match *self {
            Self::RateLimitBlocked {
                request,
                burst,
                identifier,
                limit_type,
                requests_per_second,
                retry_after_seconds,
            } => RATE_LIMIT_BLOCKED.of_request(
                at,
                &request,
                &[
                    ("burst", Value::Number(burst.into())),
                    ("client_ip", Value::Address(request.client)),
                    ("identifier", Value::Text(identifier)),
                    ("limit_type", Value::Text(limit_type)),
                    ("method", Value::MaybeText(request.method)),
                    ("path", Value::MaybeText(request.path)),
                    ("requests_per_second", Value::Float(requests_per_second)),
                    ("retry_after_seconds", Value::Number(retry_after_seconds)),
                ],
            ),
            Self::ConnectionLimitBlocked { request, identifier, limit, limit_type } => {
                RATE_LIMIT_BLOCKED.of_request(
                    at,
                    &request,
                    &[
                        ("client_ip", Value::Address(request.client)),
                        ("identifier", Value::Text(identifier)),
                        ("limit", Value::Number(limit.into())),
                        ("limit_type", Value::Text(limit_type)),
                        ("method", Value::MaybeText(request.method)),
                        ("path", Value::MaybeText(request.path)),
                    ],
                )
            }
            Self::IpFilterBlocked { request, mode } => {
                kind("ip_filter.blocked", "medium", "policy", "Refused by its address: ")
                    .ended("blocked", Some("ip_filter"))
                    .of_request(
                        at,
                        &request,
                        &[
                            ("client_ip", Value::Address(request.client)),
                            ("method", Value::MaybeText(request.method)),
                            ("mode", Value::Text(mode)),
                            ("path", Value::MaybeText(request.path)),
                        ],
                    )
            }
            _ => Vec::new(),
        }
    }

    pub(super) fn store_line(&self, at: jiff::Timestamp) -> Vec<u8> {
        match *self {
            Self::RateLimitStoreFallback { reason } => kind(
                "rate_limit.store_fallback",
                "high",
                "resilience",
                "Redis does not answer, rate limits are local: ",
            )
            .of_system(
                at,
                reason,
                &[("reason", Value::Text(reason)), ("store", Value::Text("memory"))],
            ),
            Self::RateLimitStoreRecovered => {
                kind("rate_limit.store_recovered", "info", "resilience", "Rate limits are in ")
                    .of_system(at, "Redis again", &[("store", Value::Text("redis"))])
            }
            _ => Vec::new(),
        }
    }
}
