//! Relays an open tunnel in both directions until it ends. Knows nothing of logs, users, policy or HTTP.
//!
//! A direction waits for readiness without a buffer and then moves what is there (see `mover`). What the other side does
//! not take is held, and nothing more is received until it is gone.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use rustix::io::Errno;

use super::core::Core;
use super::mover::{Course, Effort, Failed, Held, Mover, Turn};
use super::stream::{Fault, Socket, errno};
use super::tunnels::Tunnel;
use crate::metrics::CloseReason;

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
    mover: Mover,
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
        let (moved_bytes, flushing) = (Cell::new(0), Cell::new(false));
        Self { core, tunnel, from_side, moved_bytes, flushing, mover: Mover::default() }
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
        let bytes = self.tunnel.take_waiting(self.to_side() == Side::Client);
        if !bytes.is_empty() {
            Box::pin(self.flush(Held::Bytes { bytes, sent: 0 })).await?;
        }
        let mut effort = Effort::default();
        while self.tunnel.ordered_to_end().is_none() {
            // Nothing of a turn is alive while the next one is waited for, which keeps an idle tunnel small.
            let before = self.moved_bytes.get();
            let flush = match self.turn()? {
                Turn::Empty | Turn::Over => None,
                Turn::Blocked(held) => Some(Box::pin(self.flush(held))),
                Turn::Ended => return self.end_of_input().await,
            };
            let is_enough = effort.is_enough_with(self.moved_bytes.get() - before);
            if let Some(flush) = flush {
                flush.await?;
            }
            if is_enough {
                self.core.let_others_run().await;
            }
            let ready = self.from().readable().await;
            ready.map_err(|error| failed(self.from_side, errno(&error)))?;
        }
        Ok(())
    }

    /// Carries the end over to the other side.
    async fn end_of_input(&self) -> Result<(), Failure> {
        let ended = match self.to().try_end() {
            Err(Errno::AGAIN) => Box::pin(self.to().end()).await,
            ended => ended,
        };
        ended.map_err(|error| failed(self.to_side(), error))
    }

    fn turn(&self) -> Result<Turn<'t>, Failure> {
        let course = Course { core: self.core, from: self.from(), to: self.to() };
        let mut all = u64::MAX;
        let turn = self.mover.turn(&course, &mut all, |bytes| self.count(bytes));
        turn.map_err(|error| self.move_failed(error))
    }

    /// Sends what is held as the other side takes it.
    async fn flush(&self, mut held: Held<'t>) -> Result<(), Failure> {
        self.flushing.set(true);
        loop {
            self.to().writable().await.map_err(|error| failed(self.to_side(), errno(&error)))?;
            let flushed = held.flush_now(self.to(), |bytes| self.count(bytes));
            if flushed.map_err(|error| self.move_failed(error))? {
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

    fn move_failed(&self, error: Failed) -> Failure {
        match error {
            Failed::From(error) => failed(self.from_side, error),
            Failed::To(error) => failed(self.to_side(), error),
        }
    }
}

fn failed(side: Side, error: Errno) -> Failure {
    Failure { side, fault: error.into() }
}
