//! One plain request and its answer: over a pooled upstream connection or a fresh one, content streamed both ways.

use std::cell::Cell;
use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use rustix::io::Errno;

use super::content::{CLIENT_CHECK, Pauses, Transfer, TransferError};
use super::core::Core;
use super::facts::Facts;
use super::head_buffer::HeadBuffer;
use super::stream::{Socket, deadline_after, set_liveness};
use super::upstream::{Connected, Place, connect};
use crate::admission::policy::{Addresses, Policy, To};
use crate::clock;
use crate::refusal::{Refusal, Unavailable};
use crate::wire::answer::{ContentFraming, Recipient, write_final, write_interim};
use crate::wire::content::{ContentLimits, Passage, PassageError};
use crate::wire::head::{Framing, HeadScanner, Version};
use crate::wire::response::{BodyFraming, RESPONSE_HEAD_BYTES_MAX, ResponseError, ResponseHead};

/// Interim answers before the final one (RFC 9110 section 15.2).
pub(crate) const INTERIM_ANSWERS_MAX: u8 = 16;

/// An admitted plain request.
pub(crate) struct PlainRequest {
    pub(crate) to: To,
    pub(crate) forwarded_head: Vec<u8>,
    pub(crate) framing: Framing,
    pub(crate) version: Version,
    pub(crate) expect_continue: bool,
    /// The client would send another request on this connection.
    pub(crate) keep_alive: bool,
    pub(crate) content_bytes_max: Option<u64>,
    pub(crate) head_bytes: usize,
    pub(crate) facts: Facts,
}

impl PlainRequest {
    /// Whether content follows the head.
    pub(crate) fn has_content(&self) -> bool {
        !matches!(self.framing, Framing::None | Framing::Length(0))
    }

    /// Whether it may be sent a second time when a kept connection turns out to be dead (RFC 9110 section 9.2.2).
    fn is_repeatable(&self) -> bool {
        !self.has_content()
            && matches!(self.facts.method(), "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE")
    }
}

/// How the exchange went.
pub(crate) struct Exchanged {
    pub(crate) outcome: Outcome,
    /// Bytes of the request that went upstream, as the client framed its head.
    pub(crate) bytes_in: u64,
    /// Bytes that the client's socket took.
    pub(crate) bytes_out: u64,
}

pub(crate) enum Outcome {
    /// The answer is complete.
    Answered { status: u16, next: Next },
    /// The answer had begun and could not be brought to its end; the client's connection will be reset.
    Cut { status: u16 },
    /// The client is gone; nothing was answered.
    ClientLeft,
    /// There is no answer to relay.
    Refused {
        refusal: Refusal,
        /// No request can follow: content of this one is still to come, or the upstream switched protocols.
        ends_connection: bool,
    },
}

/// What comes after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// The next request of this client.
    Request,
    /// The end of the client's connection.
    Close,
}

/// Why there is no complete answer.
enum Stop {
    ClientLeft,
    /// A kept connection was dead, which says nothing about the upstream.
    Stale,
    Refused(Refusal),
    Cut {
        status: u16,
    },
}

/// What the two directions of an exchange know of each other.
#[derive(Default)]
struct Progress {
    /// The whole request is with the upstream.
    request_sent: Cell<bool>,
    /// By then the head of the answer has to be there.
    head_due: Cell<Option<Instant>>,
    /// The client has received a part of an answer.
    answer_begun: Cell<bool>,
    status: Cell<u16>,
    interim_answers: Cell<u8>,
    /// The upstream answered 101 to a request that asked for no other protocol.
    switched: Cell<bool>,
    to_upstream_bytes: Cell<u64>,
    to_client_bytes: Cell<u64>,
}

/// The part of the request's content that is still to be sent.
enum Content<'p> {
    None,
    Length(u64),
    Chunks(Passage<'p>),
}

struct Exchange<'e> {
    core: &'e Core,
    policy: &'e Policy,
    client: &'e Socket,
    request: &'e PlainRequest,
    progress: Progress,
}

/// Sends the request and relays its answer. `buffer` holds what the client sent after the head; afterwards what it sent
/// after the content.
pub(crate) async fn exchange(
    core: &Core,
    policy: &Policy,
    client: &Socket,
    request: &PlainRequest,
    buffer: &mut HeadBuffer<'_>,
) -> Exchanged {
    let exchange = Exchange { core, policy, client, request, progress: Progress::default() };
    let outcome = exchange.run(buffer).await.unwrap_or_else(|stop| match stop {
        Stop::ClientLeft => Outcome::ClientLeft,
        Stop::Cut { status } => Outcome::Cut { status },
        Stop::Stale => exchange.refused(closed()),
        Stop::Refused(refusal) => exchange.refused(refusal),
    });
    let progress = &exchange.progress;
    Exchanged {
        outcome,
        bytes_in: request.head_bytes as u64 + progress.to_upstream_bytes.get(),
        bytes_out: progress.to_client_bytes.get(),
    }
}

fn closed() -> Refusal {
    Refusal::UpstreamUnavailable(Unavailable::Closed)
}

impl Exchange<'_> {
    fn addresses(&self) -> &Addresses {
        &self.policy.destination(self.request.to).addresses
    }

    fn refused(&self, refusal: Refusal) -> Outcome {
        let content_unread = self.request.has_content() && !self.progress.request_sent.get();
        let ends_connection = content_unread || self.progress.switched.get();
        Outcome::Refused { refusal, ends_connection }
    }

    async fn run(&self, buffer: &mut HeadBuffer<'_>) -> Result<Outcome, Stop> {
        let mut begun = Vec::new();
        let mut content = self.begin_content(buffer, &mut begun)?;
        let begun_head = self.begin_head(&begun);
        let head = begun_head.as_deref().unwrap_or(&self.request.forwarded_head);
        if let Some((upstream, place)) = self.core.pool.take(self.addresses()) {
            match self.over(&upstream, head, 0, &mut content, buffer, true).await {
                Err(Stop::Stale) if self.request.is_repeatable() => {}
                done => return self.finish(upstream, place, done),
            }
        }
        let connected = connect(self.core, self.policy, self.addresses(), head, None).await;
        let Connected { upstream, place, sent_bytes } = connected.map_err(Stop::Refused)?;
        if let (Addresses::Tcp(_), Some(after)) =
            (self.addresses(), self.policy.config.server.dead_peer_after)
        {
            // Fails only on a socket that is about to end by itself.
            let _ = set_liveness(upstream.fd(), after);
        }
        let done = self.over(&upstream, head, sent_bytes, &mut content, buffer, false).await;
        self.finish(upstream, place, done)
    }

    /// Takes what is already there of the content into `begun`.
    fn begin_content(
        &self,
        buffer: &mut HeadBuffer<'_>,
        begun: &mut Vec<u8>,
    ) -> Result<Content<'_>, Stop> {
        match self.request.framing {
            Framing::None | Framing::Length(0) => Ok(Content::None),
            Framing::Length(length) => {
                let left = length - buffer.take_into(begun, length) as u64;
                Ok(if left == 0 { Content::None } else { Content::Length(left) })
            }
            Framing::Chunked => {
                let limits = ContentLimits {
                    trailer_bytes_max: self.policy.config.server.max_header_bytes,
                    content_bytes_max: self.request.content_bytes_max,
                    reserved_names: self.policy.authentication.reserved_names(),
                };
                let mut passage = Passage::new(ContentFraming::Chunked, limits);
                let consumed = passage
                    .pass(buffer.filled(), begun)
                    .map_err(|error| Stop::Refused(error.into()))?;
                buffer.consume(consumed);
                let complete = passage.is_complete();
                Ok(if complete { Content::None } else { Content::Chunks(passage) })
            }
        }
    }

    /// The forwarded head with the content that is already there, when there is any: one segment for both.
    fn begin_head(&self, begun: &[u8]) -> Option<Vec<u8>> {
        self.progress.to_upstream_bytes.set(begun.len() as u64);
        (!begun.is_empty()).then(|| [&self.request.forwarded_head, begun].concat())
    }

    /// The exchange over one upstream connection. `sent_bytes` of the head are on their way already.
    async fn over(
        &self,
        upstream: &Socket,
        head: &[u8],
        sent_bytes: usize,
        content: &mut Content<'_>,
        buffer: &mut HeadBuffer<'_>,
        kept: bool,
    ) -> Result<Finished, Stop> {
        let rest = head.get(sent_bytes..).unwrap_or_default();
        let patience = self.policy.config.server.write_timeout;
        match upstream.send_all(rest, patience).await {
            Err(Errno::TIME) => return Err(Stop::Refused(late(patience))),
            Err(_) if kept => return Err(Stop::Stale),
            // One that closed may have answered before.
            Ok(()) | Err(_) => {}
        }
        let mut received = HeadBuffer::new(&self.core.buffers);
        if matches!(content, Content::None) {
            self.request_is_sent();
            return self.answer(upstream, &mut received, kept).await;
        }
        Box::pin(self.both_ways(upstream, content, buffer, &mut received)).await
    }

    fn request_is_sent(&self) {
        self.progress.request_sent.set(true);
        self.head_is_due();
    }

    fn head_is_due(&self) {
        self.progress.head_due.set(deadline_after(self.policy.config.upstream_head_timeout));
    }

    /// The rest of the request goes up while its answer comes down, in whichever order the upstream wants.
    async fn both_ways(
        &self,
        upstream: &Socket,
        content: &mut Content<'_>,
        buffer: &mut HeadBuffer<'_>,
        received: &mut HeadBuffer<'_>,
    ) -> Result<Finished, Stop> {
        let mut answering = pin!(self.answer(upstream, received, false));
        let sent = {
            let sending = pin!(self.send_content(upstream, content, buffer));
            match select(answering.as_mut(), sending).await {
                // The answer is complete and the request is not: the client's connection ends.
                Either::Left((done, _)) => return done,
                Either::Right((sent, _)) => sent,
            }
        };
        let error = match sent {
            Ok(()) => {
                self.request_is_sent();
                return answering.await;
            }
            Err(TransferError::ReceiverLeft) => {
                // It may have answered before it closed.
                self.head_is_due();
                return answering.await;
            }
            Err(error) => error,
        };
        // The upstream must not take a part for the whole.
        upstream.reset_on_close();
        if self.progress.answer_begun.get() {
            self.client.reset_on_close();
            return Err(match self.progress.status.get() {
                // In the middle of an interim answer.
                0 => Stop::ClientLeft,
                status => Stop::Cut { status },
            });
        }
        Err(match error {
            TransferError::SenderStalled => Stop::Refused(Refusal::RequestTimeout),
            TransferError::ReceiverStalled => {
                Stop::Refused(late(self.policy.config.server.write_timeout))
            }
            TransferError::Refused(error) => Stop::Refused(error.into()),
            TransferError::SenderEnded
            | TransferError::SenderFailed
            | TransferError::ReceiverLeft => Stop::ClientLeft,
        })
    }

    async fn send_content(
        &self,
        upstream: &Socket,
        content: &mut Content<'_>,
        buffer: &mut HeadBuffer<'_>,
    ) -> Result<(), TransferError> {
        let server = &self.policy.config.server;
        let transfer = Transfer {
            core: self.core,
            from: self.client,
            to: upstream,
            pauses: Pauses::Bounded(server.read_timeout),
            patience: server.write_timeout,
            sent_bytes: &self.progress.to_upstream_bytes,
        };
        match std::mem::replace(content, Content::None) {
            Content::None => Ok(()),
            Content::Length(left) => transfer.by_length(left, buffer, Vec::new()).await,
            Content::Chunks(passage) => transfer.by_chunks(passage, buffer, Vec::new()).await,
        }
    }

    /// Waits for the answer and relays it.
    async fn answer(
        &self,
        upstream: &Socket,
        received: &mut HeadBuffer<'_>,
        kept: bool,
    ) -> Result<Finished, Stop> {
        let answer = loop {
            let head_bytes = self.read_head(upstream, received, kept).await?;
            let bytes = received.filled().get(..head_bytes).unwrap_or_default();
            let head = ResponseHead::parse(bytes).map_err(invalid)?;
            if head.status == 101 {
                upstream.reset_on_close();
                self.progress.switched.set(true);
                return Err(invalid(ResponseError::Switching));
            }
            let answer = if head.is_interim() {
                self.relay_interim(&head).await?;
                None
            } else {
                Some(self.final_answer(&head).map_err(invalid)?)
            };
            received.consume(head_bytes);
            if let Some(answer) = answer {
                break answer;
            }
        };
        self.progress.answer_begun.set(true);
        self.progress.status.set(answer.status);
        let Answer { status, head, body, framing, upstream_keeps, next } = answer;
        let transfer = Transfer {
            core: self.core,
            from: upstream,
            to: self.client,
            pauses: Pauses::While(self.client),
            patience: self.policy.config.server.write_timeout,
            sent_bytes: &self.progress.to_client_bytes,
        };
        if relay_answer(&transfer, head, body, framing, received).await.is_err() {
            return Err(Stop::Cut { status });
        }
        let reusable = upstream_keeps
            && body != BodyFraming::UntilClose
            && received.filled().is_empty()
            && self.progress.request_sent.get();
        Ok(Finished { status, next, reusable })
    }

    fn final_answer(&self, head: &ResponseHead<'_>) -> Result<Answer, ResponseError> {
        let body = head.body(self.request.facts.method())?;
        // A request that is not all with the upstream cannot be followed by another.
        let goes_on =
            self.request.keep_alive && self.progress.request_sent.get() && !self.core.is_draining();
        let to = Recipient { version: self.request.version, close: !goes_on };
        let framing = ContentFraming::of(body, to.version);
        let mut out = Vec::with_capacity(ANSWER_BYTES);
        write_final(&mut out, head, body, to, &self.policy.answer_headers);
        Ok(Answer {
            status: head.status,
            head: out,
            body,
            framing,
            upstream_keeps: head.keep_alive,
            next: if goes_on { Next::Request } else { Next::Close },
        })
    }

    /// 100 is for a client that asked for it, 102 and 103 are for every client that knows interim answers.
    async fn relay_interim(&self, head: &ResponseHead<'_>) -> Result<(), Stop> {
        let count = self.progress.interim_answers.get() + 1;
        self.progress.interim_answers.set(count);
        if count > INTERIM_ANSWERS_MAX {
            return Err(invalid(ResponseError::TooManyInterim));
        }
        let wanted = head.status != 100 || self.request.expect_continue;
        if !wanted || self.request.version == Version::Http10 {
            return Ok(());
        }
        let mut out = Vec::new();
        write_interim(&mut out, head, &self.policy.answer_headers);
        // Half an interim answer cannot be followed by an answer of our own.
        self.progress.answer_begun.set(true);
        let patience = self.policy.config.server.write_timeout;
        self.client.send_all(&out, patience).await.map_err(|_| Stop::ClientLeft)?;
        self.progress.answer_begun.set(false);
        let sent_bytes = &self.progress.to_client_bytes;
        sent_bytes.set(sent_bytes.get() + out.len() as u64);
        Ok(())
    }

    /// Reads one head; it stands at the beginning of `received` then, and this is its length.
    async fn read_head(
        &self,
        upstream: &Socket,
        received: &mut HeadBuffer<'_>,
        kept: bool,
    ) -> Result<usize, Stop> {
        let mut scanner = HeadScanner::new(RESPONSE_HEAD_BYTES_MAX);
        loop {
            if let Some(head_bytes) =
                scanner.advance(received.filled()).map_err(|error| invalid(error.into()))?
            {
                return Ok(head_bytes);
            }
            self.wait_for_head(upstream).await?;
            match received.receive(upstream, RESPONSE_HEAD_BYTES_MAX + 1) {
                Ok(received) if received > 0 => {}
                Err(Errno::AGAIN) => {}
                _ if kept && received.filled().is_empty() && !self.has_interim() => {
                    return Err(Stop::Stale);
                }
                _ => return Err(Stop::Refused(closed())),
            }
        }
    }

    fn has_interim(&self) -> bool {
        self.progress.interim_answers.get() > 0
    }

    /// Waits until the upstream says something, for as long as it may take and the client waits for it.
    async fn wait_for_head(&self, upstream: &Socket) -> Result<(), Stop> {
        loop {
            let check = deadline_after(Some(CLIENT_CHECK));
            let due = self.progress.head_due.get();
            let until = due.into_iter().chain(check).min();
            match upstream.readable_until(until).await {
                Ok(()) => return Ok(()),
                Err(Errno::TIME) => {}
                // It cannot be waited for; whoever tried again would do nothing else.
                Err(_) => return Err(Stop::Refused(closed())),
            }
            let client_left = self.client.is_hung_up();
            if client_left || due.is_some_and(|due| due <= clock::now()) {
                upstream.reset_on_close();
                return Err(if client_left {
                    Stop::ClientLeft
                } else {
                    Stop::Refused(late(self.policy.config.upstream_head_timeout))
                });
            }
        }
    }

    /// Keeps the upstream connection when nothing on it is open.
    fn finish(
        &self,
        upstream: Socket,
        place: Place,
        done: Result<Finished, Stop>,
    ) -> Result<Outcome, Stop> {
        match done {
            Ok(Finished { status, next, reusable }) => {
                if reusable && !self.core.is_draining() {
                    self.core.pool.put(upstream, place, clock::now());
                }
                Ok(Outcome::Answered { status, next })
            }
            Err(Stop::Cut { status }) => {
                self.client.reset_on_close();
                upstream.reset_on_close();
                Err(Stop::Cut { status })
            }
            Err(stop) => Err(stop),
        }
    }
}

/// Room for the head of an answer and the first of its content, so that it is allocated once.
const ANSWER_BYTES: usize = 4 * 1024;

/// An answer that is complete with the client.
struct Finished {
    status: u16,
    next: Next,
    /// The upstream connection can carry another request.
    reusable: bool,
}

/// The head of a final answer as it goes to the client, and how its content ends on both sides.
struct Answer {
    status: u16,
    head: Vec<u8>,
    body: BodyFraming,
    framing: ContentFraming,
    upstream_keeps: bool,
    next: Next,
}

/// Sends a final answer: its head, then its content, of which `begun` may hold the first.
pub(crate) fn relay_answer<'a>(
    transfer: &'a Transfer<'_>,
    head: Vec<u8>,
    body: BodyFraming,
    framing: ContentFraming,
    begun: &'a mut HeadBuffer<'_>,
) -> Pin<Box<dyn Future<Output = Result<(), TransferError>> + 'a>> {
    match body {
        BodyFraming::None => Box::pin(async move { transfer.send(&head).await }),
        BodyFraming::Length(length) => Box::pin(transfer.by_length(length, begun, head)),
        BodyFraming::UntilClose => Box::pin(transfer.until_close(framing, begun, head)),
        BodyFraming::Chunked => {
            let limits = ContentLimits {
                trailer_bytes_max: RESPONSE_HEAD_BYTES_MAX,
                content_bytes_max: None,
                reserved_names: &[],
            };
            Box::pin(transfer.by_chunks(Passage::new(framing, limits), begun, head))
        }
    }
}

fn invalid(error: ResponseError) -> Stop {
    Stop::Refused(error.into())
}

fn late(limit: Option<Duration>) -> Refusal {
    Refusal::upstream_timeout(limit.unwrap_or_default())
}

impl From<PassageError> for Refusal {
    fn from(error: PassageError) -> Self {
        match error {
            PassageError::TooLarge => Self::PayloadTooLarge,
            PassageError::Broken(error) => Self::BadRequest(error.message()),
        }
    }
}
