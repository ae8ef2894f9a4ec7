//! Moves the bytes of an open tunnel in both directions until it ends. Knows nothing of logs, users, policy or HTTP.
//!
//! A direction waits for readiness without a buffer, receives into the core's one scratch buffer and sends at once.
//! What the peer does not take is copied into an owned remainder, and nothing more is received until it is gone. A
//! direction that keeps filling the buffer is bulk: its bytes move by `splice(2)` through a pooled pipe.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;

use rustix::io::Errno;

use super::core::Core;
use super::pipe::Lease;
use super::stream::{Fault, Socket};
use super::tunnels::Tunnel;
use crate::metrics::CloseReason;

/// Reads in a row that fill the whole scratch buffer, after which a direction counts as bulk.
const BULK_AFTER_READS: u8 = 3;

/// A bulk turn that moves less than this ends the bulk: such a stream is cheaper to copy.
const BULK_MIN_BYTES: usize = 16 * 1024;

/// What one direction may move before every other tunnel of the core has had its turn.
const TURN_BYTES: usize = 512 * 1024;

/// How the relay of one tunnel went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Relayed {
    /// Bytes from the client that the upstream's socket took.
    pub(crate) to_upstream_bytes: u64,
    /// Bytes from the upstream that the client's socket took.
    pub(crate) to_client_bytes: u64,
    /// Why it is over.
    pub(crate) ended: CloseReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Upstream,
}

/// A connection failed, and whose it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Failure {
    side: Side,
    fault: Fault,
}

impl Failure {
    fn reason(self) -> CloseReason {
        match (self.fault, self.side) {
            (Fault::Reset, Side::Client) => CloseReason::ClientReset,
            (Fault::Reset, Side::Upstream) => CloseReason::UpstreamReset,
            (Fault::Dead, _) => CloseReason::DeadPeer,
            (Fault::Other, _) => CloseReason::ConnectionError,
        }
    }
}

/// One direction of a tunnel. A tunnel holds two of them for its life, so what can be derived is not stored.
struct OneWay<'t> {
    core: &'t Core,
    tunnel: &'t Tunnel,
    /// Where the bytes come from.
    from_side: Side,
    moved_bytes: Cell<u64>,
    /// Bytes that were received wait for room at the other side.
    flushing: Cell<bool>,
    full_reads: Cell<u8>,
}

/// What a turn of copying ended with.
enum Step {
    /// Nothing more to receive for now.
    Wait,
    /// The turn's budget is used up; there is more.
    Yield,
    /// The other side took only part; this is the rest.
    Blocked(Box<[u8]>),
    /// The pipe holds what the other side did not take.
    PipeBlocked,
    /// Go on with the other kind of turn.
    Switch,
    /// End of input.
    Ended,
}

/// Relays until both directions have ended, one side fails, or the tunnel is ordered to end. On return nothing is in flight;
/// the caller closes both sockets. After a failure the close of the other side will be a reset.
pub(crate) async fn relay(core: &Core, tunnel: &Tunnel) -> Relayed {
    let up = OneWay::new(core, tunnel, Side::Client);
    let down = OneWay::new(core, tunnel, Side::Upstream);
    let ended = run(tunnel, &up, &down).await;
    Relayed {
        to_upstream_bytes: up.moved_bytes.get(),
        to_client_bytes: down.moved_bytes.get(),
        ended,
    }
}

async fn run(tunnel: &Tunnel, up: &OneWay<'_>, down: &OneWay<'_>) -> CloseReason {
    let mut upward = pin!(up.run());
    let mut downward = pin!(down.run());
    let (mut up_over, mut down_over) = (false, false);
    let mut first_end = None;
    let outcome = poll_fn(|context| {
        tunnel.watch(context.waker());
        for (over, direction, side) in [
            (&mut up_over, true, Side::Client),
            (&mut down_over, false, Side::Upstream),
        ] {
            if *over {
                continue;
            }
            let polled = if direction {
                upward.as_mut().poll(context)
            } else {
                downward.as_mut().poll(context)
            };
            match polled {
                Poll::Ready(Ok(())) => {
                    *over = true;
                    first_end.get_or_insert(side);
                }
                Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
                Poll::Pending => {}
            }
        }
        if let Some(order) = tunnel.ordered_to_end() {
            // What was already received still goes out, unless there is no time left.
            let flushing = (!up_over && up.flushing.get()) || (!down_over && down.flushing.get());
            return if flushing && order != CloseReason::Shutdown {
                Poll::Pending
            } else {
                Poll::Ready(Ok(order))
            };
        }
        match first_end {
            Some(side) if up_over && down_over => Poll::Ready(Ok(match side {
                Side::Client => CloseReason::ClientClosed,
                Side::Upstream => CloseReason::UpstreamClosed,
            })),
            _ => Poll::Pending,
        }
    })
    .await;
    outcome.unwrap_or_else(|failure| {
        // The side that failed is reset already, or gone.
        match failure.side {
            Side::Client => tunnel.upstream.reset_on_close(),
            Side::Upstream => tunnel.client.reset_on_close(),
        }
        failure.reason()
    })
}

impl<'t> OneWay<'t> {
    fn new(core: &'t Core, tunnel: &'t Tunnel, from_side: Side) -> Self {
        let (moved_bytes, flushing, full_reads) = (Cell::new(0), Cell::new(false), Cell::new(0));
        Self {
            core,
            tunnel,
            from_side,
            moved_bytes,
            flushing,
            full_reads,
        }
    }

    fn from(&self) -> &'t Socket {
        match self.from_side {
            Side::Client => &self.tunnel.client,
            Side::Upstream => &self.tunnel.upstream,
        }
    }

    fn to(&self) -> &'t Socket {
        match self.from_side {
            Side::Client => &self.tunnel.upstream,
            Side::Upstream => &self.tunnel.client,
        }
    }

    fn to_side(&self) -> Side {
        match self.from_side {
            Side::Client => Side::Upstream,
            Side::Upstream => Side::Client,
        }
    }

    /// Until the end of input was carried over, or an order to end came.
    async fn run(&self) -> Result<(), Failure> {
        let mut bulk: Option<Lease<'_>> = None;
        loop {
            if self.tunnel.ordered_to_end().is_some() {
                return Ok(());
            }
            let step = match &mut bulk {
                None => self.copy_turn()?,
                Some(pipe) => self.bulk_turn(pipe)?,
            };
            match step {
                Step::Ended => {
                    return self
                        .to()
                        .shutdown_write()
                        .map_err(|error| self.failed(self.to_side(), error));
                }
                // An idle direction holds neither a buffer nor a pipe.
                Step::Wait => bulk = None,
                Step::Yield => self.core.let_others_run().await,
                Step::Switch if bulk.is_some() => {
                    self.full_reads.set(0);
                    bulk = None;
                    continue;
                }
                Step::Switch => {
                    // Without descriptors for a pipe copying goes on.
                    bulk = self.core.pipes.take().ok();
                    continue;
                }
                Step::Blocked(rest) => {
                    Box::pin(self.flush(&rest)).await?;
                    continue;
                }
                Step::PipeBlocked => {
                    if let Some(pipe) = &mut bulk {
                        Box::pin(self.flush_pipe(pipe)).await?;
                    }
                    continue;
                }
            }
            self.from()
                .readable()
                .await
                .map_err(|error| self.wait_failed(self.from_side, &error))?;
            if self.full_reads.get() >= BULK_AFTER_READS && bulk.is_none() {
                bulk = self.core.pipes.take().ok();
            }
        }
    }

    /// Receives and sends through the scratch buffer, without blocking, until there is nothing more or the turn is over.
    fn copy_turn(&self) -> Result<Step, Failure> {
        let mut scratch = self.core.scratch.borrow_mut();
        let mut turn_bytes = 0;
        loop {
            let received = match self.from().try_recv(&mut scratch) {
                Ok(0) => return Ok(Step::Ended),
                Ok(received) => received,
                Err(Errno::AGAIN) => return Ok(Step::Wait),
                Err(error) => return Err(self.failed(self.from_side, error)),
            };
            let full = received == scratch.len();
            if full {
                self.full_reads.set(self.full_reads.get().saturating_add(1));
            } else if received < BULK_MIN_BYTES {
                self.full_reads.set(0);
            }
            let bytes = scratch.get(..received).unwrap_or_default();
            let taken = self.send_now(bytes)?;
            if taken < received {
                return Ok(Step::Blocked(bytes.get(taken..).unwrap_or_default().into()));
            }
            turn_bytes += received;
            if !full {
                return Ok(Step::Wait);
            }
            if self.full_reads.get() >= BULK_AFTER_READS {
                return Ok(Step::Switch);
            }
            if turn_bytes >= TURN_BYTES {
                return Ok(Step::Yield);
            }
        }
    }

    /// Moves bytes through the pipe, without blocking, until there is nothing more or the turn is over.
    fn bulk_turn(&self, pipe: &mut Lease<'_>) -> Result<Step, Failure> {
        let mut turn_bytes = 0;
        while turn_bytes < TURN_BYTES {
            let received = match pipe.fill(self.from(), TURN_BYTES) {
                Ok(0) => return Ok(Step::Ended),
                Ok(received) => received,
                Err(Errno::AGAIN) => return Ok(Step::Wait),
                // A socket that cannot be spliced is copied.
                Err(Errno::INVAL) => return Ok(Step::Switch),
                Err(error) => return Err(self.failed(self.from_side, error)),
            };
            if !self.empty_now(pipe)? {
                return Ok(Step::PipeBlocked);
            }
            turn_bytes += received;
            if received < BULK_MIN_BYTES {
                return Ok(Step::Switch);
            }
        }
        Ok(Step::Yield)
    }

    /// Sends what fits now.
    fn send_now(&self, bytes: &[u8]) -> Result<usize, Failure> {
        let mut sent = 0;
        while sent < bytes.len() {
            match self.to().try_send(bytes.get(sent..).unwrap_or_default()) {
                Ok(taken) => sent += taken,
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(self.failed(self.to_side(), error)),
            }
        }
        self.count(sent);
        Ok(sent)
    }

    /// Empties the pipe as far as it goes now; true when nothing is left in it.
    fn empty_now(&self, pipe: &mut Lease<'_>) -> Result<bool, Failure> {
        while pipe.held_bytes() > 0 {
            match pipe.empty(self.to()) {
                Ok(moved) => self.count(moved),
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(self.failed(self.to_side(), error)),
            }
        }
        Ok(true)
    }

    /// Sends the remainder as the other side takes it.
    async fn flush(&self, rest: &[u8]) -> Result<(), Failure> {
        self.flushing.set(true);
        let mut sent = 0;
        while sent < rest.len() {
            self.to()
                .writable()
                .await
                .map_err(|error| self.wait_failed(self.to_side(), &error))?;
            sent += self.send_now(rest.get(sent..).unwrap_or_default())?;
        }
        self.flushing.set(false);
        Ok(())
    }

    async fn flush_pipe(&self, pipe: &mut Lease<'_>) -> Result<(), Failure> {
        self.flushing.set(true);
        while !self.empty_now(pipe)? {
            self.to()
                .writable()
                .await
                .map_err(|error| self.wait_failed(self.to_side(), &error))?;
        }
        self.flushing.set(false);
        Ok(())
    }

    fn count(&self, bytes: usize) {
        let bytes = bytes as u64;
        self.moved_bytes.set(self.moved_bytes.get() + bytes);
        match self.from_side {
            Side::Client => self.core.metrics.to_upstream_bytes.add(bytes),
            Side::Upstream => self.core.metrics.to_client_bytes.add(bytes),
        }
        self.tunnel.sent(self.from_side == Side::Upstream);
    }

    #[expect(
        clippy::unused_self,
        reason = "reads as: this direction failed at that side"
    )]
    fn failed(&self, side: Side, error: Errno) -> Failure {
        Failure {
            side,
            fault: error.into(),
        }
    }

    fn wait_failed(&self, side: Side, error: &io::Error) -> Failure {
        self.failed(side, Errno::from_io_error(error).unwrap_or(Errno::IO))
    }
}
