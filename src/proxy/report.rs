//! What is counted and logged about requests and tunnels: one place for each kind of end.

use std::time::{Duration, Instant};

use super::core::Core;
use super::facts::Facts;
use super::handshake::Early;
use super::relay::Relayed;
use crate::admission::address::client_key;
use crate::admission::paths::MatchingPath;
use crate::admission::policy::{Policy, To};
use crate::clock;
use crate::event::Event;
use crate::refusal::{Refusal, RefusalEvent};

/// An answer of the upstream that went to the client, whole or cut off.
pub(crate) struct Proxied {
    pub(crate) to: To,
    pub(crate) status: u16,
    pub(crate) websocket: bool,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) took: Duration,
}

/// Counts and logs an answer of the upstream.
pub(crate) fn proxied(core: &Core, policy: &Policy, facts: &Facts, answer: &Proxied) {
    let pattern = policy.path_pattern(facts.path());
    let method = known_method(facts.method());
    core.metrics.requests.count(method, answer.status, pattern, answer.took);
    if !policy.config.log.access_log {
        return;
    }
    let event = match answer.to {
        To::Kratos => Event::KratosFlow { request: facts.request(), status_code: answer.status },
        To::Upstream => Event::RequestProxied {
            request: facts.request(),
            bytes_in: answer.bytes_in,
            bytes_out: answer.bytes_out,
            duration_ms: milliseconds(answer.took),
            status_code: answer.status,
            upstream: &policy.upstream.url,
            websocket: answer.websocket,
        },
    };
    core.events.send(&event, clock::wall());
}

/// Counts and logs a refusal.
pub(crate) fn refused(core: &Core, policy: &Policy, facts: &Facts, refusal: Refusal) {
    let answer = refusal.answer();
    core.metrics.refusals.count(answer.code, 0, policy.no_pattern(), Duration::ZERO);
    let request = facts.request();
    let event = match answer.event {
        RefusalEvent::None => return,
        RefusalEvent::Blocked(blocked_by) => Event::RequestBlocked {
            request,
            blocked_by,
            reason: answer.code,
            status_code: answer.status,
        },
        RefusalEvent::AuthDenied { mode, reason } => {
            core.metrics.auth_blocked.add(1);
            Event::AuthDenied {
                request,
                detail: reason.detail(),
                mode: mode.word(),
                reason: reason.word(),
                status_code: answer.status,
            }
        }
        RefusalEvent::RateLimitBlocked(limit_type) => {
            core.metrics.rate_limit_hit(limit_type);
            let user = request.actor.map(|actor| actor.id).filter(|_| refusal.is_of_user());
            let address = client_key(request.client, policy.config.rate_limit.ipv6_prefix);
            let identifier = user.map_or_else(|| address.to_string(), str::to_owned);
            if let Some(event) = refusal.limit_event(request, &identifier, &policy.config) {
                core.events.send(&event, clock::wall());
            }
            return;
        }
        RefusalEvent::IpFilterBlocked => {
            Event::IpFilterBlocked { request, mode: policy.config.ip_filter.mode.word() }
        }
        RefusalEvent::UpstreamUnavailable => {
            core.metrics.upstream_errors.add(1);
            let to = policy.authentication.destination(&MatchingPath::of(facts.path()));
            let upstream = &*policy.destination(to).url;
            Event::UpstreamUnavailable { request, error: refusal.upstream_error(), upstream }
        }
        RefusalEvent::UpstreamTimeout => {
            core.metrics.upstream_timeouts.add(1);
            Event::UpstreamTimeout { request, timeout_ms: refusal.timeout_ms() }
        }
    };
    core.events.send(&event, clock::wall());
}

/// Counts and logs the end of a tunnel that opened `at`.
pub(crate) fn closed(core: &Core, facts: &Facts, early: Early, at: Instant, relayed: &Relayed) {
    core.metrics.tunnel_closed(relayed.ended);
    if core.policy().config.log.access_log {
        let event = Event::WebSocketClosed {
            request: facts.request(),
            bytes_to_client: early.to_client_bytes + relayed.to_client_bytes,
            bytes_to_upstream: early.to_upstream_bytes + relayed.to_upstream_bytes,
            duration_ms: milliseconds(clock::now().saturating_duration_since(at)),
            reason: relayed.ended.word(),
        };
        core.events.send(&event, clock::wall());
    }
}

/// The label `method`: a closed set, because clients make methods up.
fn known_method(method: &str) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    KNOWN.into_iter().find(|known| *known == method).unwrap_or("other")
}

fn milliseconds(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}
