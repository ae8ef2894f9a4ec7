//! One connection's life, top to bottom. All branching is here; the leaves have names and live elsewhere.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use rustix::io::Errno;

use super::core::{ConnectionPlace, Core};
use super::handshake::{self, Early, Outcome};
use super::head_buffer::HeadBuffer;
use super::own_endpoint;
use super::panic::caught;
use super::relay::relay;
use super::stream::Socket;
use super::tunnels::Tunnel;
use crate::admission::policy::Policy;
use crate::clock;
use crate::event::{Event, RequestFacts};
use crate::metrics::{CloseReason, UpgradeResult};
use crate::refusal::{Refusal, RefusalEvent};
use crate::wire::forward::{self, Forwarding, Purpose};
use crate::wire::head::{HeadError, HeadScanner};
use crate::wire::request::{Glance, RequestHead};
use crate::wire::upgrade::{Accept, Upgrade};

/// What a request leaves behind in events, and all that a tunnel keeps of it: one allocation.
#[derive(Debug)]
pub(crate) struct Facts {
    client: IpAddr,
    /// Request id, method and path, one after the other. The last two are empty when the head could not be read.
    texts: Box<str>,
    method_start: u16,
    path_start: u16,
}

impl Facts {
    fn new(client: IpAddr, request_id: &str, method: &str, path: &str) -> Self {
        // An id has at most 128 bytes and a method at most 32.
        let place = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX);
        Self {
            client,
            texts: [request_id, method, path].concat().into_boxed_str(),
            method_start: place(request_id.len()),
            path_start: place(request_id.len() + method.len()),
        }
    }

    fn unread(client: IpAddr) -> Self {
        Self::new(client, new_request_id(&mut String::new()), "", "")
    }

    /// Of a head that breaks a rule: what it tells all the same.
    fn refused(client: IpAddr, head: &[u8]) -> Self {
        RequestHead::glance(head).map_or_else(
            || Self::unread(client),
            |Glance { method, path, request_id }| {
                let mut new_id = String::new();
                let request_id = request_id.unwrap_or_else(|| new_request_id(&mut new_id));
                Self::new(client, request_id, method, path)
            },
        )
    }

    fn request_id(&self) -> &str {
        self.texts.get(..usize::from(self.method_start)).unwrap_or_default()
    }

    fn method(&self) -> &str {
        let method = usize::from(self.method_start)..usize::from(self.path_start);
        self.texts.get(method).unwrap_or_default()
    }

    fn path(&self) -> &str {
        self.texts.get(usize::from(self.path_start)..).unwrap_or_default()
    }

    fn request(&self) -> RequestFacts<'_> {
        let read = |text| Some(text).filter(|text: &&str| !text.is_empty());
        RequestFacts {
            client: self.client,
            method: read(self.method()),
            path: read(self.path()),
            request_id: self.request_id(),
        }
    }
}

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
        let head_bytes = match read_head(core, client, &mut buffer, first).await {
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
            Box::pin(linger(core, client)).await;
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

/// Why there is no head to judge.
enum HeadEnd {
    /// The client closed, failed, or sent nothing in time: no answer.
    Left,
    Refused(Refusal),
}

/// Reads one head. The first has `server.read_timeout` from the accept on; a later one has `server.idle_timeout` for its
/// first byte and then `server.read_timeout`.
async fn read_head(
    core: &Core,
    client: &Socket,
    buffer: &mut HeadBuffer<'_>,
    first: bool,
) -> Result<usize, HeadEnd> {
    let policy = core.policy();
    let server = &policy.config.server;
    let mut scanner = HeadScanner::new(server.max_header_bytes);
    let limit =
        |since: Instant, time: Option<Duration>| time.and_then(|time| since.checked_add(time));
    let mut begun = first || !buffer.filled().is_empty();
    let mut deadline = None;
    let mut armed = false;
    loop {
        match scanner.advance(buffer.filled()) {
            Ok(Some(head_bytes)) => return Ok(head_bytes),
            Ok(None) => {}
            Err(error) => return Err(HeadEnd::Refused(error.into())),
        }
        match buffer.receive(client, server.max_header_bytes) {
            Ok(0) => return Err(HeadEnd::Left),
            Ok(_) => {
                armed &= begun;
                begun = true;
            }
            Err(Errno::AGAIN) => {
                if !armed {
                    deadline = limit(
                        clock::now(),
                        if begun { server.read_timeout } else { server.idle_timeout },
                    );
                    armed = true;
                }
                buffer.release_if_empty();
                match wait_readable(core, client, deadline, begun).await {
                    Ok(()) => {}
                    Err(Stalled::Deadline) if !buffer.filled().is_empty() => {
                        return Err(HeadEnd::Refused(Refusal::RequestTimeout));
                    }
                    Err(_) => return Err(HeadEnd::Left),
                }
            }
            Err(_) => return Err(HeadEnd::Left),
        }
    }
}

enum Stalled {
    Deadline,
    /// The connection failed, or is idle while the process drains.
    Over,
}

async fn wait_readable(
    core: &Core,
    client: &Socket,
    deadline: Option<Instant>,
    begun: bool,
) -> Result<(), Stalled> {
    let ready = async {
        if begun {
            return client.readable().await.map_err(|_| Stalled::Over);
        }
        match select(pin!(client.readable()), pin!(core.drain_begins())).await {
            Either::Left((ready, _)) => ready.map_err(|_| Stalled::Over),
            Either::Right(_) => Err(Stalled::Over),
        }
    };
    match deadline {
        None => ready.await,
        Some(deadline) => {
            let left = deadline.saturating_duration_since(clock::now());
            monoio::time::timeout(left, ready).await.unwrap_or(Err(Stalled::Deadline))
        }
    }
}

/// The one place where a refusal is answered, counted and logged.
async fn refuse(core: &Core, client: &Socket, policy: &Policy, facts: &Facts, refusal: Refusal) {
    let answer = refusal.answer();
    core.metrics.refusals.count(answer.code, 0, policy.no_pattern(), Duration::ZERO);
    let request = facts.request();
    let upstream = &*policy.upstream_url;
    let event = match answer.event {
        RefusalEvent::None => None,
        RefusalEvent::Blocked(blocked_by) => Some(Event::RequestBlocked {
            request,
            blocked_by,
            reason: answer.code,
            status_code: answer.status,
        }),
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
        linger(core, client).await;
    }
}

/// How long and how much a client may still send after an answer that ends the connection.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 4 * 1024 * 1024;

/// Ends our direction and discards what still arrives: a close with unread input would be a reset, which can overtake
/// the answer on its way to the client (RFC 9112 section 9.6).
pub(crate) async fn linger(core: &Core, client: &Socket) {
    if client.shutdown_write().is_err() {
        return;
    }
    let discard = async {
        let mut discarded = 0;
        while discarded < LINGER_BYTES {
            let received = client.try_recv(&mut core.scratch.borrow_mut());
            match received {
                Ok(0) => return,
                Ok(received) => discarded += received,
                Err(Errno::AGAIN) if client.readable().await.is_ok() => {}
                Err(_) => return,
            }
        }
    };
    // The time being over is as good an end as any.
    let _ = monoio::time::timeout(LINGER, discard).await;
}

/// Writes a fresh id into `id`: `req_` and 12 characters of 5 bits each.
fn new_request_id(id: &mut String) -> &str {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut bits = fastrand::u64(..);
    id.push_str("req_");
    for _ in 0..12 {
        id.push(LETTERS.get((bits & 31) as usize).map_or('A', |&letter| char::from(letter)));
        bits >>= 5;
    }
    id
}

fn milliseconds(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}

impl From<HeadError> for Refusal {
    fn from(error: HeadError) -> Self {
        crate::wire::request::RequestError::from(error).into()
    }
}
