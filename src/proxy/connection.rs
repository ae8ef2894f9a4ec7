//! One connection's life, top to bottom. All branching is here; the leaves have names and live elsewhere.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::core::{ConnectionPlace, Core};
use super::facts::{Facts, new_request_id};
use super::handshake::{self, Early, Outcome};
use super::head_buffer::{HeadBuffer, HeadEnd, read_request_head};
use super::own_endpoint;
use super::panic::caught;
use super::relay::relay;
use super::stream::Socket;
use super::tunnels::Tunnel;
use crate::admission::address::client_key;
use crate::admission::policy::Policy;
use crate::clock;
use crate::event::Event;
use crate::metrics::{CloseReason, UpgradeResult};
use crate::refusal::{Refusal, RefusalEvent};
use crate::wire::forward::{self, Forwarding, Purpose};
use crate::wire::request::RequestHead;
use crate::wire::upgrade::{Accept, Upgrade};

/// The upstream's side of a tunnel, before both sides are put together.
struct Upgraded {
    upstream: Socket,
    upstream_is_tcp: bool,
    facts: Facts,
    at: Instant,
    early: Early,
}

/// A client connection that carries a tunnel from now on.
struct Opened {
    tunnel: Rc<Tunnel>,
    facts: Facts,
    at: Instant,
    early: Early,
}

/// What the checks make of a head.
enum Judged {
    Own(own_endpoint::Request),
    Upgrade(Attempt),
}

/// A head that is refused.
struct Rejected {
    refusal: Refusal,
    facts: Facts,
    /// It asked for a WebSocket.
    is_upgrade: bool,
}

/// An admitted upgrade: what goes upstream, and what has to come back.
pub(crate) struct Attempt {
    pub(crate) forwarded_head: Vec<u8>,
    pub(crate) accept: Accept,
    pub(crate) head_bytes: usize,
    pub(crate) facts: Facts,
}

/// Serves one client connection to its end. A defect ends this connection and nothing else.
pub(crate) fn serve(
    core: Rc<Core>,
    place: ConnectionPlace,
    client: Socket,
    peer: SocketAddr,
) -> impl Future<Output = ()> {
    // Boxed and gone when the relay begins, so that an idle tunnel does not carry the state of its handshake along.
    let handshake = Box::pin(serve_requests(Rc::clone(&core), client, peer.ip().to_canonical()));
    async move {
        if let Some(opened) = handshake.await
            && caught(pin!(serve_tunnel(&core, &opened))).await.is_none()
        {
            core.metrics.task_panics.add(1);
            core.metrics.tunnel_closed(CloseReason::ConnectionError);
        }
        drop(place);
    }
}

async fn serve_requests(core: Rc<Core>, client: Socket, peer: IpAddr) -> Option<Box<Opened>> {
    let served = caught(pin!(requests(&core, &client, peer))).await;
    match served {
        Some(None) => None,
        Some(Some(upgraded)) => {
            let Upgraded { upstream, upstream_is_tcp, facts, at, early } = *upgraded;
            let tunnel = Tunnel::new(client, upstream, upstream_is_tcp);
            Some(Box::new(Opened { tunnel, facts, at, early }))
        }
        None => {
            core.metrics.task_panics.add(1);
            let (policy, facts) = (core.policy(), Facts::unread(peer));
            Box::pin(refuse(&core, &client, &policy, &facts, Refusal::InternalError)).await;
            None
        }
    }
}

/// Own answers on one connection after which all others run, and the pause that lets them.
const ANSWERS_IN_A_ROW: u64 = 16;
const BREATHER: Duration = Duration::from_millis(1);

/// Serves requests until one opened a tunnel or nothing more is served.
async fn requests(core: &Core, client: &Socket, peer: IpAddr) -> Option<Box<Upgraded>> {
    let mut buffer = HeadBuffer::new(&core.buffers);
    let mut first = true;
    let mut answered: u64 = 0;
    loop {
        let head_bytes = match read_request_head(core, client, &mut buffer, first).await {
            Ok(head_bytes) => head_bytes,
            Err(HeadEnd::Left) => return None,
            Err(HeadEnd::Refused(refusal)) => {
                let (policy, facts) = (core.policy(), Facts::unread(peer));
                Box::pin(refuse(core, client, &policy, &facts, refusal)).await;
                return None;
            }
        };
        let (policy, started) = (core.policy(), clock::now());
        let judged = judge(&policy, buffer.filled().get(..head_bytes).unwrap_or_default(), peer);
        buffer.consume(head_bytes);
        buffer.release_if_empty();
        match judged {
            Ok(Judged::Own(request)) => {
                if !Box::pin(own_endpoint::answer(core, client, &policy, &request)).await {
                    return None;
                }
                answered += 1;
                if answered.is_multiple_of(ANSWERS_IN_A_ROW) {
                    // A client that pipelines keeps every wait from suspending.
                    monoio::time::sleep(BREATHER).await;
                }
            }
            Ok(Judged::Upgrade(attempt)) => {
                let outcome = handshake::open(core, &policy, client, &attempt, &mut buffer).await;
                return conclude(core, client, &policy, attempt, outcome, started).await;
            }
            Err(Rejected { refusal, facts, is_upgrade }) => {
                if is_upgrade {
                    core.metrics.upgrade(UpgradeResult::Refused);
                }
                Box::pin(refuse(core, client, &policy, &facts, refusal)).await;
                return None;
            }
        }
        first = false;
    }
}

/// Steps 2 to 10 of section 5.1: everything that is decided from the head alone.
fn judge(policy: &Policy, head: &[u8], peer: IpAddr) -> Result<Judged, Rejected> {
    let parsed = RequestHead::parse(head).map_err(|error| Rejected {
        refusal: error.into(),
        facts: Facts::refused(peer, head),
        is_upgrade: false,
    })?;
    let origin = policy.origin(&parsed, peer);
    let mut new_id = String::new();
    let request_id = forward::request_id(&parsed).unwrap_or_else(|| new_request_id(&mut new_id));
    let facts = Facts::new(origin.client, request_id, parsed.method, parsed.path());
    let rejected = |refusal, facts, is_upgrade| Err(Rejected { refusal, facts, is_upgrade });
    let upgrade = match Upgrade::of(&parsed) {
        Ok(upgrade) => upgrade,
        Err(error) => return rejected(error.into(), facts, true),
    };
    if parsed.is_own_endpoint() {
        return Ok(Judged::Own(own_endpoint::Request::of(&parsed, request_id)));
    }
    let admitted = match policy.admit(&parsed, &origin) {
        Ok(admitted) => admitted,
        Err(refusal) => return rejected(refusal, facts, upgrade.is_some()),
    };
    let Some(upgrade) = upgrade else {
        return rejected(Refusal::NotImplemented, facts, false);
    };
    let forwarding = Forwarding {
        client: origin.client,
        peer: origin.peer,
        peer_trusted: origin.peer_trusted,
        tls: false,
        request_id,
        upstream_authority: &policy.upstream_authority,
        identity: admitted.identity.headers(),
        identity_names: &[],
        api_key_header: None,
    };
    let mut forwarded_head = Vec::with_capacity(head.len() + FORWARDED_EXTRA_BYTES);
    forward::write_request(&mut forwarded_head, &parsed, &forwarding, Purpose::Upgrade);
    let (accept, head_bytes) = (upgrade.accept(), head.len());
    Ok(Judged::Upgrade(Attempt { forwarded_head, accept, head_bytes, facts }))
}

/// Room for the header lines that the proxy adds, so that the forwarded head is allocated once.
const FORWARDED_EXTRA_BYTES: usize = 320;

/// What the outcome of an upgrade means for the client, the log and the counters.
async fn conclude(
    core: &Core,
    client: &Socket,
    policy: &Policy,
    attempt: Attempt,
    outcome: Outcome,
    started: Instant,
) -> Option<Box<Upgraded>> {
    let at = clock::now();
    let took = at.saturating_duration_since(started);
    match outcome {
        Outcome::Opened { upstream, upstream_is_tcp, answer_bytes, early } => {
            core.metrics.upgrade(UpgradeResult::Opened);
            core.metrics.handshake.observe(took);
            proxied(core, policy, &attempt, took, 101, answer_bytes);
            let facts = attempt.facts;
            return Some(Box::new(Upgraded { upstream, upstream_is_tcp, facts, at, early }));
        }
        Outcome::Declined { status, answer_bytes } => {
            core.metrics.upgrade(UpgradeResult::Declined);
            proxied(core, policy, &attempt, took, status, answer_bytes);
            Box::pin(client.linger(&core.scratch)).await;
        }
        Outcome::ClientLeft => core.metrics.upgrade(UpgradeResult::Abandoned),
        Outcome::Refused(refusal) => {
            core.metrics.upgrade(match refusal {
                Refusal::UpstreamTimeout { .. } => UpgradeResult::Timeout,
                _ => UpgradeResult::Failed,
            });
            Box::pin(refuse(core, client, policy, &attempt.facts, refusal)).await;
        }
    }
    None
}

/// Counts and logs an answer of the upstream.
fn proxied(
    core: &Core,
    policy: &Policy,
    attempt: &Attempt,
    took: Duration,
    status_code: u16,
    bytes_out: u64,
) {
    let pattern = policy.path_pattern(attempt.facts.path());
    core.metrics.requests.count("GET", status_code, pattern, took);
    if policy.config.log.access_log {
        let event = Event::RequestProxied {
            request: attempt.facts.request(),
            bytes_in: attempt.head_bytes as u64,
            bytes_out,
            duration_ms: milliseconds(took),
            status_code,
            upstream: &policy.upstream_url,
            websocket: true,
        };
        core.events.send(&event, clock::wall());
    }
}

/// From the 101 to the last byte.
async fn serve_tunnel(core: &Core, opened: &Opened) {
    core.metrics.tunnels_opened.add(1);
    core.metrics.to_upstream_bytes.add(opened.early.to_upstream_bytes);
    core.metrics.to_client_bytes.add(opened.early.to_client_bytes);
    let listed = core.tunnels.add(&opened.tunnel);
    let relayed = relay(core, &opened.tunnel).await;
    drop(listed);
    core.metrics.tunnel_closed(relayed.ended);
    if core.policy().config.log.access_log {
        let took = clock::now().saturating_duration_since(opened.at);
        let event = Event::WebSocketClosed {
            request: opened.facts.request(),
            bytes_to_client: opened.early.to_client_bytes + relayed.to_client_bytes,
            bytes_to_upstream: opened.early.to_upstream_bytes + relayed.to_upstream_bytes,
            duration_ms: milliseconds(took),
            reason: relayed.ended.word(),
        };
        core.events.send(&event, clock::wall());
    }
}

/// The one place where a refusal is answered, counted and logged.
async fn refuse(core: &Core, client: &Socket, policy: &Policy, facts: &Facts, refusal: Refusal) {
    let answer = refusal.answer();
    core.metrics.refusals.count(answer.code, 0, policy.no_pattern(), Duration::ZERO);
    let request = facts.request();
    let upstream = &*policy.upstream_url;
    let limit_key;
    let event = match answer.event {
        RefusalEvent::None => None,
        RefusalEvent::Blocked(blocked_by) => Some(Event::RequestBlocked {
            request,
            blocked_by,
            reason: answer.code,
            status_code: answer.status,
        }),
        RefusalEvent::RateLimitBlocked(limit_type) => {
            core.metrics.rate_limit_hit(limit_type);
            limit_key =
                client_key(request.client, policy.config.rate_limit.ipv6_prefix).to_string();
            refusal.limit_event(request, &limit_key, &policy.config)
        }
        RefusalEvent::IpFilterBlocked => {
            Some(Event::IpFilterBlocked { request, mode: policy.config.ip_filter.mode.word() })
        }
        RefusalEvent::UpstreamUnavailable => {
            core.metrics.upstream_errors.add(1);
            Some(Event::UpstreamUnavailable { request, error: refusal.upstream_error(), upstream })
        }
        RefusalEvent::UpstreamTimeout => {
            core.metrics.upstream_timeouts.add(1);
            Some(Event::UpstreamTimeout { request, timeout_ms: refusal.timeout_ms() })
        }
    };
    if let Some(event) = event {
        core.events.send(&event, clock::wall());
    }
    let mut out = Vec::with_capacity(512);
    answer.write(&mut out, facts.request_id(), facts.method() == "HEAD", true);
    if client.send_all(&out, policy.config.server.write_timeout).await.is_ok() {
        client.linger(&core.scratch).await;
    }
}

fn milliseconds(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}
