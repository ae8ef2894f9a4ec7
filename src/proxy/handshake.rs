//! The upstream's part of an upgrade: connect, send the head, read the answer, and open only on a checked 101.
//! A connection made here carries this one upgrade; it was never in a pool and never goes into one.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use rustix::io::Errno;

use super::connection::Attempt;
use super::core::Core;
use super::exchange;
use super::head_buffer::HeadBuffer;
use super::stream::Socket;
use crate::admission::policy::{Addresses, Policy};
use crate::refusal::{Refusal, Unavailable};
use crate::wire::forward::{self, Via};
use crate::wire::head::HeadScanner;
use crate::wire::response::{RESPONSE_HEAD_BYTES_MAX, ResponseError, ResponseHead};

/// All addresses of the upstream together have this long to accept a connection.
const CONNECT_TIME: Duration = Duration::from_secs(3);

/// Interim answers that are skipped before the final one.
const INTERIM_ANSWERS_MAX: usize = 16;

/// Bytes that a client may send ahead of the 101; beyond them the client's socket is not read.
const EARLY_BYTES_MAX: usize = 64 * 1024;

/// How the attempt ended.
pub(crate) enum Outcome {
    /// The 101 is with the client and everything that came early is with its receiver.
    Opened {
        upstream: Socket,
        upstream_is_tcp: bool,
        answer_bytes: u64,
        early: Early,
    },
    /// Another answer was relayed, whole or cut off.
    Declined { status: u16, answer_bytes: u64 },
    /// The client is gone.
    ClientLeft,
    /// The upstream gave no answer that could be relayed.
    Refused(Refusal),
}

/// Bytes of the tunnel that were moved before its relay began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Early {
    pub(crate) to_upstream_bytes: u64,
    pub(crate) to_client_bytes: u64,
}

/// The final answer of the upstream, as it goes to the client.
enum Answer {
    Switching(Vec<u8>),
    Other(exchange::Answer),
}

/// Tries to open the tunnel. `early` holds what the client sent after its head and takes what it sends meanwhile.
pub(crate) async fn open(
    core: &Core,
    policy: &Policy,
    client: &Socket,
    attempt: &Attempt,
    early: &mut HeadBuffer<'_>,
) -> Outcome {
    let mut received = HeadBuffer::new(&core.buffers);
    let asked = {
        let upstream_side = pin!(ask_upstream(core, policy, attempt, &mut received));
        let client_side = pin!(client_leaves(client, early));
        match select(upstream_side, client_side).await {
            Either::Left((asked, _)) => asked,
            Either::Right(_) => return Outcome::ClientLeft,
        }
    };
    let patience = policy.config.server.write_timeout;
    match asked {
        Ok((upstream, Answer::Switching(mut answer))) => {
            let answer_bytes = answer.len() as u64;
            answer.extend_from_slice(received.filled());
            if client.send_all(&answer, patience).await.is_err() {
                return Outcome::ClientLeft;
            }
            if upstream.send_all(early.filled(), patience).await.is_err() {
                // The tunnel was open; what happened to the upstream shows on its first read.
                upstream.reset_on_close();
            }
            let upstream_is_tcp = matches!(policy.addresses, Addresses::Tcp(_));
            let early = Early {
                to_upstream_bytes: early.filled().len() as u64,
                to_client_bytes: received.filled().len() as u64,
            };
            Outcome::Opened {
                upstream,
                upstream_is_tcp,
                answer_bytes,
                early,
            }
        }
        Ok((upstream, Answer::Other(answer))) => {
            let (status, answer_bytes) =
                exchange::relay_answer(&upstream, client, answer, received.filled(), patience)
                    .await;
            Outcome::Declined {
                status,
                answer_bytes,
            }
        }
        Err(refusal) => Outcome::Refused(refusal),
    }
}

/// Completes when the client closes or resets. Holds what it sends, up to a bound.
async fn client_leaves(client: &Socket, early: &mut HeadBuffer<'_>) {
    loop {
        if client.readable().await.is_err() {
            return;
        }
        match early.receive(client, EARLY_BYTES_MAX) {
            Ok(0) => return,
            Ok(_) | Err(Errno::AGAIN) => {}
            // Full: what the client does next shows when the tunnel opens.
            Err(Errno::NOBUFS) => std::future::pending().await,
            Err(_) => return,
        }
    }
}

async fn ask_upstream(
    core: &Core,
    policy: &Policy,
    attempt: &Attempt,
    received: &mut HeadBuffer<'_>,
) -> Result<(Socket, Answer), Refusal> {
    let limit = policy
        .config
        .upstream_head_timeout
        .or(policy.config.server.write_timeout);
    let ask = async {
        let upstream = within(Some(CONNECT_TIME), connect(policy)).await;
        let upstream = upstream.inspect_err(|refusal| count_failure(core, policy, *refusal))?;
        let lost = |_| Refusal::UpstreamUnavailable(Unavailable::Closed);
        upstream
            .send_all(&attempt.forwarded_head, None)
            .await
            .map_err(lost)?;
        let answer = read_answer(&upstream, attempt, received).await?;
        Ok((upstream, answer))
    };
    within(limit, ask).await
}

/// 504 when the time is over.
async fn within<T>(
    limit: Option<Duration>,
    work: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    let Some(limit) = limit else {
        return work.await;
    };
    let timeout_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    monoio::time::timeout(limit, work)
        .await
        .unwrap_or(Err(Refusal::UpstreamTimeout { timeout_ms }))
}

/// Connects to the first address that accepts.
async fn connect(policy: &Policy) -> Result<Socket, Refusal> {
    let connected = match &policy.addresses {
        Addresses::Tcp(addresses) => {
            let dead_peer_after = policy.config.server.dead_peer_after;
            let mut last = Err(Unavailable::Unresolved);
            for address in addresses {
                last = connect_tcp(address, dead_peer_after)
                    .await
                    .map_err(unavailable);
                if last.is_ok() {
                    break;
                }
            }
            last
        }
        Addresses::Unix(path) => connect_unix(path).await.map_err(unavailable),
    };
    connected.map_err(Refusal::UpstreamUnavailable)
}

fn count_failure(core: &Core, policy: &Policy, refusal: Refusal) {
    let reason = match refusal {
        Refusal::UpstreamUnavailable(reason) => reason,
        _ => Unavailable::Timeout,
    };
    core.metrics
        .connect_failures
        .count(reason.word(), 0, policy.no_pattern(), Duration::ZERO);
}

async fn connect_tcp(
    address: &SocketAddr,
    dead_peer_after: Option<Duration>,
) -> Result<Socket, Errno> {
    let fd = Socket::connect_tcp(address, dead_peer_after)?;
    let upstream =
        Socket::adopt(fd).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    upstream.connected().await?;
    Ok(upstream)
}

/// A full backlog of a Unix listener answers at once instead of letting the caller wait; so it is asked again.
const BACKLOG_PAUSE: Duration = Duration::from_millis(5);

async fn connect_unix(path: &Path) -> Result<Socket, Errno> {
    loop {
        match Socket::connect_unix(path) {
            Ok(fd) => {
                return Socket::adopt(fd)
                    .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
            }
            Err(Errno::AGAIN) => monoio::time::sleep(BACKLOG_PAUSE).await,
            Err(error) => return Err(error),
        }
    }
}

fn unavailable(error: Errno) -> Unavailable {
    match error {
        Errno::CONNREFUSED | Errno::NOENT => Unavailable::Refused,
        Errno::TIMEDOUT => Unavailable::Timeout,
        Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::HOSTDOWN | Errno::NETDOWN => {
            Unavailable::Unreachable
        }
        Errno::ADDRNOTAVAIL => Unavailable::NoPorts,
        _ => Unavailable::Other,
    }
}

/// Reads answers until the final one. On return `received` holds what followed its head.
async fn read_answer(
    upstream: &Socket,
    attempt: &Attempt,
    received: &mut HeadBuffer<'_>,
) -> Result<Answer, Refusal> {
    for _ in 0..=INTERIM_ANSWERS_MAX {
        let head_bytes = read_head(upstream, received).await?;
        let bytes = received.filled().get(..head_bytes).unwrap_or_default();
        let head = ResponseHead::parse(bytes)?;
        if head.is_interim() {
            received.consume(head_bytes);
            continue;
        }
        let answer = if head.status == 101 {
            head.check_switching(&attempt.accept)?;
            let mut out = Vec::with_capacity(head_bytes + received.filled().len());
            forward::write_switching(&mut out, &head, Via::Suppressed);
            Answer::Switching(out)
        } else {
            Answer::Other(exchange::Answer::declining(&head)?)
        };
        received.consume(head_bytes);
        return Ok(answer);
    }
    Err(ResponseError::TooManyInterim.into())
}

async fn read_head(upstream: &Socket, received: &mut HeadBuffer<'_>) -> Result<usize, Refusal> {
    let mut scanner = HeadScanner::new(RESPONSE_HEAD_BYTES_MAX);
    let closed = Refusal::UpstreamUnavailable(Unavailable::Closed);
    loop {
        if let Some(head_bytes) = scanner
            .advance(received.filled())
            .map_err(ResponseError::from)?
        {
            return Ok(head_bytes);
        }
        match received.receive(upstream, RESPONSE_HEAD_BYTES_MAX + 1) {
            Ok(0) => return Err(closed),
            Ok(_) => {}
            Err(Errno::AGAIN) => upstream.readable().await.map_err(|_| closed)?,
            Err(_) => return Err(closed),
        }
    }
}
