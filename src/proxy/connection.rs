//! One connection's life, top to bottom. All branching is here; the leaves have names and live elsewhere.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use super::balancer;
use super::core::{ConnectionPlace, Core};
use super::exchange::{Exchanged, Next, Outcome, PlainRequest, exchange};
use super::expiries::Expiring;
use super::facts::Facts;
use super::handshake::{self, Early, Opening};
use super::head_buffer::{HeadBuffer, HeadEnd, read_request_head};
use super::judge::{Attempt, Follows, Judged, Rejected, judge};
use super::limited::Places;
use super::own_endpoint;
use super::panic::caught;
use super::relay::relay;
use super::report::{self, Proxied};
use super::stream::Socket;
use super::tls;
use super::tunnels::{Tunnel, Waiting};
use crate::admission::policy::{Policy, To};
use crate::clock;
use crate::metrics::{CloseReason, UpgradeResult};
use crate::refusal::Refusal;

/// The upstream's side of a tunnel, before both sides are put together.
struct Upgraded {
    upstream: Socket,
    upstream_is_tcp: bool,
    facts: Facts,
    at: Instant,
    early: Early,
    waiting: Option<Box<Waiting>>,
    ends_at: Option<SystemTime>,
    places: Option<Box<Places>>,
}

/// A client connection that carries a tunnel from now on.
struct Opened {
    tunnel: Rc<Tunnel>,
    facts: Facts,
    at: Instant,
    early: Early,
    /// Held until the tunnel has ended.
    _held: Option<Box<Held>>,
}

/// What a tunnel gives back when it has ended. Few have any of it.
struct Held {
    _places: Option<Box<Places>>,
    _expiring: Option<Expiring>,
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
    let answering = Cell::new(false);
    let served = caught(pin!(requests(&core, &client, peer, &answering))).await;
    match served {
        Some(None) => None,
        Some(Some(upgraded)) => {
            let Upgraded { upstream, upstream_is_tcp, facts, at, early, waiting, ends_at, places } =
                *upgraded;
            let tunnel = Tunnel::new(client, upstream, upstream_is_tcp, waiting);
            let expiring = ends_at.map(|at| Expiring::add(&core, &tunnel, at));
            let held = (places.is_some() || expiring.is_some())
                .then(|| Box::new(Held { _places: places, _expiring: expiring }));
            Some(Box::new(Opened { tunnel, facts, at, early, _held: held }))
        }
        None => {
            core.metrics.task_panics.add(1);
            if answering.get() {
                // Whatever the client has received of an answer, nothing can follow it.
                client.reset_on_close();
                return None;
            }
            let (policy, facts) = (core.policy(), Facts::unread(peer));
            let refusal = Refusal::InternalError;
            let refused = refuse(&core, &client, &policy, &facts, refusal, Follows::Content, b"");
            // A second defect ends the connection without a word.
            caught(pin!(refused)).await;
            None
        }
    }
}

/// Answers of our own on one connection after which all others run, and the pause that lets them.
const ANSWERS_IN_A_ROW: u64 = 16;
const BREATHER: Duration = Duration::from_millis(1);

/// Serves requests until one opened a tunnel or nothing more is served.
async fn requests(
    core: &Core,
    client: &Socket,
    peer: IpAddr,
    answering: &Cell<bool>,
) -> Option<Box<Upgraded>> {
    let accepted = clock::now();
    let mut buffer = HeadBuffer::new(&core.buffers);
    let mut own_answers = 0;
    let peer = balancer::source(core, client, peer, &mut buffer, accepted).await?;
    tls::accept(core, client, &mut buffer, accepted).await?;
    let mut first = Some(accepted);
    loop {
        let head_bytes = match read_request_head(core, client, &mut buffer, first).await {
            Ok(head_bytes) => head_bytes,
            Err(HeadEnd::Left) => return None,
            Err(HeadEnd::Refused(refusal)) => {
                let (policy, facts) = (core.policy(), Facts::unread(peer));
                let follows = Follows::Content;
                Box::pin(refuse(core, client, &policy, &facts, refusal, follows, b"")).await;
                return None;
            }
        };
        let (policy, started) = (core.policy(), clock::now());
        let head = buffer.filled().get(..head_bytes).unwrap_or_default();
        let judged = judge(core, &policy, head, peer).await;
        buffer.consume(head_bytes);
        buffer.release_if_empty();
        answering.set(true);
        let goes_on = match judged {
            Ok(Judged::Own(request)) => {
                own_answers += 1;
                Box::pin(own_endpoint::answer(core, client, &policy, &request)).await
            }
            Ok(Judged::Upgrade(attempt)) => {
                let opening = handshake::open(core, &policy, client, &attempt, &mut buffer).await;
                let follows = Follows::upgrade(buffer.filled());
                let concluded =
                    conclude_upgrade(core, client, &policy, attempt, opening, started, follows);
                return concluded.await;
            }
            Ok(Judged::Plain(request)) => {
                let exchanged = exchange(core, &policy, client, &request, &mut buffer);
                let exchanged = Box::pin(exchanged).await;
                Box::pin(conclude_plain(core, client, &policy, &request, exchanged, started)).await
            }
            Err(Rejected { refusal, facts, is_upgrade, mut follows, past_own_endpoints }) => {
                if is_upgrade {
                    core.metrics.upgrade(UpgradeResult::Refused);
                }
                if follows == Follows::Nothing {
                    follows = Follows::upgrade(buffer.filled());
                }
                own_answers += 1;
                let headers = if past_own_endpoints { policy.answer_headers.lines() } else { b"" };
                Box::pin(refuse(core, client, &policy, &facts, refusal, follows, headers)).await
            }
        };
        if !goes_on {
            return None;
        }
        if own_answers >= ANSWERS_IN_A_ROW {
            // A client that pipelines keeps every wait from suspending.
            monoio::time::sleep(BREATHER).await;
            own_answers = 0;
        }
        first = None;
        answering.set(false);
    }
}

/// What the outcome of an upgrade means for the client, the log and the counters.
async fn conclude_upgrade(
    core: &Core,
    client: &Socket,
    policy: &Policy,
    attempt: Attempt,
    opening: Opening,
    started: Instant,
    follows: Follows,
) -> Option<Box<Upgraded>> {
    let at = clock::now();
    let took = at.saturating_duration_since(started);
    let bytes_in = attempt.head_bytes as u64;
    let proxied = |status, bytes_out| Proxied {
        to: To::Upstream,
        status,
        websocket: true,
        bytes_in,
        bytes_out,
        took,
    };
    match opening {
        Opening::Opened { upstream, upstream_is_tcp, answer_bytes, early, waiting } => {
            core.metrics.upgrade(UpgradeResult::Opened);
            core.metrics.handshake.observe(took);
            report::proxied(core, policy, &attempt.facts, &proxied(101, answer_bytes));
            let Attempt { facts, ends_at, places, .. } = attempt;
            let places = places.into_inner();
            return Some(Box::new(Upgraded {
                upstream,
                upstream_is_tcp,
                facts,
                at,
                early,
                waiting,
                ends_at,
                places,
            }));
        }
        Opening::Declined { status, answer_bytes, is_whole } => {
            core.metrics.upgrade(UpgradeResult::Declined);
            report::proxied(core, policy, &attempt.facts, &proxied(status, answer_bytes));
            if is_whole {
                Box::pin(end(core, client, follows)).await;
            }
        }
        Opening::ClientLeft => core.metrics.upgrade(UpgradeResult::Abandoned),
        Opening::Refused(refusal) => {
            // The handshake has failed: its places are free before the client knows.
            drop(attempt.places.take());
            core.metrics.upgrade(match refusal {
                Refusal::UpstreamTimeout { .. } => UpgradeResult::Timeout,
                _ => UpgradeResult::Failed,
            });
            let headers = policy.answer_headers.lines();
            Box::pin(refuse(core, client, policy, &attempt.facts, refusal, follows, headers)).await;
        }
    }
    None
}

/// What the outcome of a plain request means; true when the connection goes on with the next request.
async fn conclude_plain(
    core: &Core,
    client: &Socket,
    policy: &Policy,
    request: &PlainRequest,
    exchanged: Exchanged,
    started: Instant,
) -> bool {
    let Exchanged { outcome, bytes_in, bytes_out } = exchanged;
    let took = clock::now().saturating_duration_since(started);
    let proxied =
        |status| Proxied { to: request.to, status, websocket: false, bytes_in, bytes_out, took };
    match outcome {
        Outcome::Answered { status, next } => {
            report::proxied(core, policy, &request.facts, &proxied(status));
            if next == Next::Close {
                client.linger(&core.scratch).await;
            }
            next == Next::Request
        }
        Outcome::Cut { status } => {
            report::proxied(core, policy, &request.facts, &proxied(status));
            false
        }
        Outcome::ClientLeft => false,
        Outcome::Refused { refusal, ends_connection } => {
            let goes_on = request.keep_alive && !ends_connection;
            let follows = if goes_on { Follows::Request } else { Follows::Content };
            let headers = policy.answer_headers.lines();
            refuse(core, client, policy, &request.facts, refusal, follows, headers).await
        }
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
    report::closed(core, &opened.facts, opened.early, opened.at, &relayed);
}

/// The one place where a refusal is answered, counted and logged; true when the connection goes on with the next request.
/// `headers` are the lines that the configuration adds to answers behind the own endpoints.
async fn refuse(
    core: &Core,
    client: &Socket,
    policy: &Policy,
    facts: &Facts,
    refusal: Refusal,
    follows: Follows,
    headers: &[u8],
) -> bool {
    report::refused(core, policy, facts, refusal);
    let goes_on = follows == Follows::Request && !core.is_draining();
    let mut out = Vec::with_capacity(512);
    let (answer, id) = (refusal.answer(), facts.request_id());
    if answer.status == 302 {
        let login_url = policy.authentication.login_url();
        answer.write_redirect(&mut out, id, login_url, !goes_on, headers);
    } else {
        answer.write(&mut out, id, facts.method() == "HEAD", !goes_on, headers);
    }
    let patience = policy.config.server.write_timeout;
    if goes_on {
        return client.send_all(&out, patience).await.is_ok();
    }
    if client.send_last(&out, patience).await.is_ok() {
        end(core, client, follows).await;
    }
    false
}

/// Ends the connection after a whole answer, so that the client gets all of it.
async fn end(core: &Core, client: &Socket, follows: Follows) {
    match follows {
        Follows::Nothing => client.end_waited_for(&core.scratch).await,
        Follows::Request | Follows::Content => client.linger(&core.scratch).await,
    }
}

#[cfg(test)]
mod tests;
