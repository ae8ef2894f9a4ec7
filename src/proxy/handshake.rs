//! The upstream's part of an upgrade: connect, send the head, read the answer, and open only on a checked 101.
//! A connection made here carries this one upgrade; it was never in a pool and never goes into one.

use std::cell::Cell;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use rustix::io::Errno;

use super::content::{Pauses, Transfer};
use super::core::Core;
use super::exchange::{INTERIM_ANSWERS_MAX, relay_answer};
use super::head_buffer::{HeadBuffer, ResponseEnd, read_response_head};
use super::judge::Attempt;
use super::stream::{Socket, deadline_after, set_liveness};
use super::tunnels::Waiting;
use super::upstream::{Connected, connect};
use crate::admission::policy::{Addresses, Policy};
use crate::refusal::{Refusal, Unavailable};
use crate::wire::answer::{ContentFraming, Recipient, write_final, write_switching};
use crate::wire::head::Version;
use crate::wire::response::{BodyFraming, ResponseError, ResponseHead};

/// How often a client that sent more than fits is asked whether it is still there.
const HANG_UP_CHECK: Duration = Duration::from_millis(250);

/// For so long a client may leave unnoticed while the upstream is asked.
const UNWATCHED: Duration = Duration::from_millis(5);

/// Bytes that a client may send ahead of the 101; beyond them the client's socket is not read.
const EARLY_BYTES_MAX: usize = 64 * 1024;

/// How the attempt ended.
pub(crate) enum Opening {
    /// The 101 is with the client. What came early is with its receiver, or waits for it.
    Opened {
        upstream: Socket,
        upstream_is_tcp: bool,
        answer_bytes: u64,
        early: Early,
        waiting: Option<Box<Waiting>>,
    },
    /// Another answer was relayed, whole or cut off.
    Declined { status: u16, answer_bytes: u64, is_whole: bool },
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
    Other(Declining),
}

/// An answer that opens no tunnel.
struct Declining {
    status: u16,
    head: Vec<u8>,
    body: BodyFraming,
    framing: ContentFraming,
}

/// Tries to open the tunnel. `early` holds what the client sent after its head and takes what it sends meanwhile.
pub(crate) async fn open(
    core: &Core,
    policy: &Policy,
    client: &Socket,
    attempt: &Attempt,
    early: &mut HeadBuffer<'_>,
) -> Opening {
    let mut received = HeadBuffer::new(&core.buffers);
    let asked = {
        let mut upstream_side = pin!(ask_upstream(core, policy, attempt, &mut received));
        // Most upstreams answer at once. The client is watched when this one does not: a wait that is given up again costs
        // more than it can find out in so short a time.
        match monoio::time::timeout(UNWATCHED, upstream_side.as_mut()).await {
            Ok(asked) => asked,
            Err(_) => match select(upstream_side, pin!(client_leaves(client, early))).await {
                Either::Left((asked, _)) => asked,
                Either::Right(_) => return Opening::ClientLeft,
            },
        }
    };
    match asked {
        Ok((upstream, Answer::Switching(head))) => {
            switch(policy, client, upstream, &head, early, &received).await
        }
        Ok((upstream, Answer::Other(answer))) => {
            // There will be no tunnel, however long the answer takes.
            drop(attempt.places.take());
            let declined = decline(core, policy, client, &upstream, answer, &mut received);
            Box::pin(declined).await
        }
        Err(refusal) => Opening::Refused(refusal),
    }
}

/// Sends the 101 and, as far as they are taken at once, the bytes that came early on both sides. The rest of them is the
/// relay's, because no timer runs after the 101.
async fn switch(
    policy: &Policy,
    client: &Socket,
    upstream: Socket,
    head: &[u8],
    early: &HeadBuffer<'_>,
    received: &HeadBuffer<'_>,
) -> Opening {
    let answer = [head, received.filled()].concat();
    let mut sent_bytes = 0;
    while sent_bytes < head.len() {
        let sent = match client.try_send(answer.get(sent_bytes..).unwrap_or_default()) {
            Ok(sent) => Ok(sent),
            Err(Errno::AGAIN) => {
                client.room_within(policy.config.server.write_timeout).await.map(|()| 0)
            }
            Err(error) => Err(error),
        };
        let Ok(sent) = sent else { return Opening::ClientLeft };
        sent_bytes += sent;
    }
    let to_client_bytes = sent_bytes - head.len();
    // A failure shows again in the relay, which knows what it means.
    let to_upstream_bytes = match early.filled() {
        [] => 0,
        bytes => upstream.try_send(bytes).unwrap_or(0),
    };
    let waiting = Waiting {
        to_upstream: early.filled().get(to_upstream_bytes..).unwrap_or_default().into(),
        to_client: received.filled().get(to_client_bytes..).unwrap_or_default().into(),
    };
    let is_empty = waiting.to_upstream.is_empty() && waiting.to_client.is_empty();
    Opening::Opened {
        upstream,
        upstream_is_tcp: matches!(policy.upstream.addresses, Addresses::Tcp(_)),
        answer_bytes: head.len() as u64,
        early: Early {
            to_upstream_bytes: to_upstream_bytes as u64,
            to_client_bytes: to_client_bytes as u64,
        },
        waiting: (!is_empty).then(|| Box::new(waiting)),
    }
}

/// Relays another answer than a 101; the client's connection ends after it.
async fn decline(
    core: &Core,
    policy: &Policy,
    client: &Socket,
    upstream: &Socket,
    answer: Declining,
    received: &mut HeadBuffer<'_>,
) -> Opening {
    // A tunnel gets its liveness at its first visit; an answer that pauses has none but this.
    if let (Addresses::Tcp(_), Some(after)) =
        (&policy.upstream.addresses, policy.config.server.dead_peer_after)
    {
        // Fails only on a socket that is about to end by itself.
        let _ = set_liveness(upstream.fd(), after);
    }
    let sent_bytes = Cell::new(0);
    let transfer = Transfer {
        core,
        from: upstream,
        to: client,
        pauses: Pauses::While(client),
        patience: policy.config.server.write_timeout,
        sent_bytes: &sent_bytes,
    };
    let Declining { status, head, body, framing } = answer;
    let is_whole = relay_answer(&transfer, head, body, framing, received).await.is_ok();
    if !is_whole {
        client.reset_on_close();
        upstream.reset_on_close();
    }
    Opening::Declined { status, answer_bytes: sent_bytes.get(), is_whole }
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
            Err(Errno::NOBUFS) => break,
            Err(_) => return,
        }
    }
    // The buffer is full and the socket stays readable; readiness tells nothing any more.
    while !client.is_hung_up() {
        monoio::time::sleep(HANG_UP_CHECK).await;
    }
}

async fn ask_upstream(
    core: &Core,
    policy: &Policy,
    attempt: &Attempt,
    received: &mut HeadBuffer<'_>,
) -> Result<(Socket, Answer), Refusal> {
    let limit = policy.config.upstream_head_timeout.or(policy.config.server.write_timeout);
    let answer_by = deadline_after(limit);
    let late = || Refusal::upstream_timeout(limit.unwrap_or_default());
    let head = &attempt.forwarded_head;
    let Connected { upstream, sent_bytes, .. } =
        connect(core, policy, &policy.upstream.addresses, head, limit).await?;
    let rest = head.get(sent_bytes..).unwrap_or_default();
    upstream.send_all_until(rest, answer_by).await.map_err(|error| match error {
        Errno::TIME => late(),
        _ => Refusal::UpstreamUnavailable(Unavailable::Closed),
    })?;
    match read_answer(policy, &upstream, attempt, received, answer_by).await {
        Ok(answer) => Ok((upstream, answer)),
        Err(ResponseEnd::Late) => Err(late()),
        Err(ResponseEnd::Closed) => Err(Refusal::UpstreamUnavailable(Unavailable::Closed)),
        Err(ResponseEnd::Invalid(error)) => Err(error.into()),
    }
}

/// Reads answers until the final one. On return `received` holds what followed its head.
async fn read_answer(
    policy: &Policy,
    upstream: &Socket,
    attempt: &Attempt,
    received: &mut HeadBuffer<'_>,
    deadline: Option<Instant>,
) -> Result<Answer, ResponseEnd> {
    for _ in 0..=INTERIM_ANSWERS_MAX {
        let head_bytes = read_response_head(upstream, received, deadline).await?;
        let bytes = received.filled().get(..head_bytes).unwrap_or_default();
        let head = ResponseHead::parse(bytes)?;
        if head.is_interim() {
            received.consume(head_bytes);
            continue;
        }
        let answer = if head.status == 101 {
            head.check_switching(&attempt.accept)?;
            let mut out = Vec::with_capacity(head_bytes + received.filled().len());
            write_switching(&mut out, &head, &policy.answer_headers);
            Answer::Switching(out)
        } else {
            let body = head.body("GET")?;
            let to = Recipient { version: Version::Http11, close: true };
            let mut out = Vec::with_capacity(head_bytes + 512);
            write_final(&mut out, &head, body, to, &policy.answer_headers);
            let framing = ContentFraming::of(body, to.version);
            Answer::Other(Declining { status: head.status, head: out, body, framing })
        };
        received.consume(head_bytes);
        return Ok(answer);
    }
    Err(ResponseError::TooManyInterim.into())
}
