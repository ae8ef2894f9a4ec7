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

/// A splice that moves less than this speaks against bulk.
const BULK_MIN_BYTES: usize = 16 * 1024;

/// A long bulk forgives as many small pieces as this exceeds [`BULK_AFTER_READS`].
const BULK_PATIENCE_READS: u8 = 12;

/// What one direction may move before every other tunnel of the core has had its turn.
const TURN_BYTES: usize = 512 * 1024;

/// Turns after which the others run in any case.
const TURNS_IN_A_ROW: u8 = 64;

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

/// What a turn ended with.
enum Turn<'p> {
    /// Nothing more to receive for now.
    Empty,
    /// The budget is used up; there is more.
    Over,
    /// The other side took only part.
    Blocked(Held<'p>),
    /// End of input.
    Ended,
}

/// Bytes that were received and wait for room at the other side.
enum Held<'p> {
    Bytes(Box<[u8]>),
    Pipe(Lease<'p>),
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
        for (over, direction, side) in
            [(&mut up_over, true, Side::Client), (&mut down_over, false, Side::Upstream)]
        {
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
            // A drain has the time to send what was already received; nothing else has.
            let flushing = (!up_over && up.flushing.get()) || (!down_over && down.flushing.get());
            let waits = flushing && order == CloseReason::Drained;
            return if waits { Poll::Pending } else { Poll::Ready(Ok(order)) };
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
        Self { core, tunnel, from_side, moved_bytes, flushing, full_reads }
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
        let mut turns: u8 = 0;
        while self.tunnel.ordered_to_end().is_none() {
            // Nothing of a turn is alive while the next one is waited for, which keeps an idle tunnel small.
            let (over, flush) = match self.turn()? {
                Turn::Empty => (false, None),
                Turn::Over => (true, None),
                Turn::Blocked(held) => (false, Some(Box::pin(self.flush(held)))),
                Turn::Ended => return self.end_of_input(),
            };
            if let Some(flush) = flush {
                flush.await?;
                continue;
            }
            // A wait need not suspend where bytes keep coming in small pieces.
            turns = turns.wrapping_add(1);
            if over || turns.is_multiple_of(TURNS_IN_A_ROW) {
                self.core.let_others_run().await;
            }
            let ready = self.from().readable().await;
            ready.map_err(|error| self.wait_failed(self.from_side, &error))?;
        }
        Ok(())
    }

    /// Carries the end over to the other side.
    fn end_of_input(&self) -> Result<(), Failure> {
        self.to().shutdown_write().map_err(|error| self.failed(self.to_side(), error))
    }

    /// Moves what is there, without blocking, until there is nothing more or the turn is over.
    fn turn(&self) -> Result<Turn<'t>, Failure> {
        let mut turn_bytes = 0;
        while turn_bytes < TURN_BYTES {
            // An idle direction holds neither a buffer nor a pipe; a bulk one takes a pipe for its turn. Without
            // descriptors for a pipe copying goes on.
            let pipe = if self.full_reads.get() < BULK_AFTER_READS {
                None
            } else {
                self.core.pipes.take().ok()
            };
            let step = match pipe {
                Some(pipe) => self.splice(pipe, &mut turn_bytes)?,
                None => self.copy(&mut turn_bytes)?,
            };
            if let Some(end) = step {
                return Ok(end);
            }
        }
        Ok(Turn::Over)
    }

    /// Receives and sends through the scratch buffer. `None`: there is more to do in this turn.
    fn copy(&self, turn_bytes: &mut usize) -> Result<Option<Turn<'t>>, Failure> {
        let mut scratch = self.core.scratch.borrow_mut();
        let received = match self.from().try_recv(&mut scratch) {
            Ok(0) => return Ok(Some(Turn::Ended)),
            Ok(received) => received,
            Err(Errno::AGAIN) => return Ok(Some(Turn::Empty)),
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
        *turn_bytes += received;
        if taken < received {
            let rest = bytes.get(taken..).unwrap_or_default();
            return Ok(Some(Turn::Blocked(Held::Bytes(rest.into()))));
        }
        // Less than a full buffer was all there was.
        Ok(if full { None } else { Some(Turn::Empty) })
    }

    /// Moves bytes through a pipe. `None`: there is more to do in this turn.
    fn splice(
        &self,
        mut pipe: Lease<'t>,
        turn_bytes: &mut usize,
    ) -> Result<Option<Turn<'t>>, Failure> {
        while *turn_bytes < TURN_BYTES {
            let received = match pipe.fill(self.from(), TURN_BYTES) {
                Ok(0) => return Ok(Some(Turn::Ended)),
                Ok(received) => received,
                Err(Errno::AGAIN) => return Ok(Some(Turn::Empty)),
                Err(Errno::INVAL) => {
                    // A socket that cannot be spliced is copied.
                    self.full_reads.set(0);
                    return Ok(None);
                }
                Err(error) => return Err(self.failed(self.from_side, error)),
            };
            *turn_bytes += received;
            if !self.empty_now(&mut pipe)? {
                return Ok(Some(Turn::Blocked(Held::Pipe(pipe))));
            }
            // One small piece is an accident of scheduling; a stream of them is cheaper to copy.
            let bulk = self.full_reads.get();
            if received >= BULK_MIN_BYTES {
                self.full_reads.set(bulk.saturating_add(1).min(BULK_PATIENCE_READS));
            } else {
                self.full_reads.set(bulk.saturating_sub(1));
                if self.full_reads.get() < BULK_AFTER_READS {
                    return Ok(None);
                }
            }
        }
        Ok(None)
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

    /// Sends what is held as the other side takes it.
    async fn flush(&self, mut held: Held<'t>) -> Result<(), Failure> {
        self.flushing.set(true);
        let mut sent = 0;
        loop {
            self.to().writable().await.map_err(|error| self.wait_failed(self.to_side(), &error))?;
            let done = match &mut held {
                Held::Bytes(rest) => {
                    sent += self.send_now(rest.get(sent..).unwrap_or_default())?;
                    sent >= rest.len()
                }
                Held::Pipe(pipe) => self.empty_now(pipe)?,
            };
            if done {
                self.flushing.set(false);
                return Ok(());
            }
        }
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

    #[expect(clippy::unused_self, reason = "reads as: this direction failed at that side")]
    fn failed(&self, side: Side, error: Errno) -> Failure {
        Failure { side, fault: error.into() }
    }

    fn wait_failed(&self, side: Side, error: &io::Error) -> Failure {
        self.failed(side, Errno::from_io_error(error).unwrap_or(Errno::IO))
    }
}
