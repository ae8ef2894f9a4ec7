//! Content of a plain message on its way from one side to the other, streamed with backpressure: by length, by chunks, or
//! until the sender closes. Bytes that need no change take the copy path of the relay (`mover`); chunks are decoded and
//! framed again piece by piece. Memory does not grow with the content.

use std::cell::Cell;
use std::time::Duration;

use rustix::io::Errno;

use super::core::Core;
use super::head_buffer::HeadBuffer;
use super::mover::{Course, Effort, Failed, Held, Mover, Turn};
use super::stream::{Socket, deadline_after};
use crate::wire::answer::ContentFraming;
use crate::wire::body::LAST_CHUNK;
use crate::wire::content::{Passage, PassageError, put_chunk};

/// How often a wait for the upstream makes sure that the client is still there.
pub(crate) const CLIENT_CHECK: Duration = Duration::from_millis(500);

/// One direction of an exchange.
pub(crate) struct Transfer<'t> {
    pub(crate) core: &'t Core,
    pub(crate) from: &'t Socket,
    pub(crate) to: &'t Socket,
    pub(crate) pauses: Pauses<'t>,
    /// The receiver has to take a byte within this time.
    pub(crate) patience: Option<Duration>,
    /// Bytes that the receiver took.
    pub(crate) sent_bytes: &'t Cell<u64>,
}

/// How long the sender may pause.
#[derive(Clone, Copy)]
pub(crate) enum Pauses<'t> {
    /// For so long; the time begins again with every byte.
    Bounded(Option<Duration>),
    /// For as long as this client waits.
    While(&'t Socket),
}

/// Why content did not arrive as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TransferError {
    /// The sender closed before the end of the content.
    SenderEnded,
    /// The sender's connection failed.
    SenderFailed,
    /// The sender paused too long.
    SenderStalled,
    /// The receiver closed or failed.
    ReceiverLeft,
    /// The receiver took nothing for too long.
    ReceiverStalled,
    /// The content breaks a rule, or has too much data.
    Refused(PassageError),
}

impl From<Failed> for TransferError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::From(_) => Self::SenderFailed,
            Failed::To(_) => Self::ReceiverLeft,
        }
    }
}

impl From<PassageError> for TransferError {
    fn from(error: PassageError) -> Self {
        Self::Refused(error)
    }
}

impl Transfer<'_> {
    /// Sends `out`, which holds a head and perhaps the first of the content, then `left` bytes, of which `begun` may hold some.
    pub(crate) async fn by_length(
        &self,
        mut left: u64,
        begun: &mut HeadBuffer<'_>,
        mut out: Vec<u8>,
    ) -> Result<(), TransferError> {
        left -= begun.take_into(&mut out, left) as u64;
        self.send(&out).await?;
        drop(out);
        begun.release_if_empty();
        self.move_bytes(left, &Mover::for_length(left)).await
    }

    /// Sends `out`, then what arrives until the sender ends it.
    pub(crate) async fn until_close(
        &self,
        framing: ContentFraming,
        begun: &mut HeadBuffer<'_>,
        mut out: Vec<u8>,
    ) -> Result<(), TransferError> {
        if framing != ContentFraming::Chunked {
            begun.take_into(&mut out, u64::MAX);
            self.send(&out).await?;
            return match self.move_bytes(u64::MAX, &Mover::default()).await {
                Err(TransferError::SenderEnded) => Ok(()),
                ended => ended,
            };
        }
        put_chunk(&mut out, begun.filled());
        begun.consume(begun.filled().len());
        let mut effort = Effort::default();
        loop {
            self.send(&out).await?;
            self.end_turn(&mut effort, out.len() as u64).await;
            out.clear();
            let received = self.receive(|bytes| put_chunk(&mut out, bytes)).await?;
            if received == 0 {
                return self.send(LAST_CHUNK).await;
            }
        }
    }

    /// Sends `out`, then the chunks that arrive; the first may be in `begun`, which also takes what follows the last.
    pub(crate) async fn by_chunks(
        &self,
        mut passage: Passage<'_>,
        begun: &mut HeadBuffer<'_>,
        mut out: Vec<u8>,
    ) -> Result<(), TransferError> {
        let head_bytes = out.len();
        match passage.pass(begun.filled(), &mut out) {
            Ok(consumed) => begun.consume(consumed),
            Err(error) => {
                out.truncate(head_bytes);
                self.send(&out).await?;
                return Err(error.into());
            }
        }
        begun.release_if_empty();
        let mut effort = Effort::default();
        loop {
            self.send(&out).await?;
            if passage.is_complete() {
                return Ok(());
            }
            self.end_turn(&mut effort, out.len() as u64).await;
            out.clear();
            let mut passed = Ok(0);
            let received = self
                .receive(|bytes| {
                    passed = passage.pass(bytes, &mut out);
                    let consumed = passed.unwrap_or(bytes.len());
                    begun.append(bytes.get(consumed..).unwrap_or_default());
                })
                .await?;
            passed?;
            if received == 0 {
                return Err(TransferError::SenderEnded);
            }
        }
    }

    /// Moves exactly `left` bytes.
    async fn move_bytes(&self, mut left: u64, mover: &Mover) -> Result<(), TransferError> {
        let course = Course { core: self.core, from: self.from, to: self.to };
        let mut effort = Effort::default();
        while left > 0 {
            let before = left;
            let turn = mover.turn(&course, &mut left, |bytes| self.count(bytes))?;
            self.end_turn(&mut effort, before - left).await;
            match turn {
                Turn::Empty | Turn::Over if left > 0 => self.wait_for_sender().await?,
                Turn::Empty | Turn::Over => {}
                Turn::Blocked(held) => self.flush(held).await?,
                Turn::Ended => return Err(TransferError::SenderEnded),
            }
        }
        Ok(())
    }

    /// Lets every other connection of the core have its turn when this one has had its own. Where bytes keep coming and are
    /// taken at once nothing else would suspend.
    async fn end_turn(&self, effort: &mut Effort, moved_bytes: u64) {
        if effort.is_enough_with(moved_bytes) {
            self.core.let_others_run().await;
        }
    }

    async fn flush(&self, mut held: Held<'_>) -> Result<(), TransferError> {
        loop {
            self.to.room_within(self.patience).await.map_err(receiver)?;
            if held.flush_now(self.to, |bytes| self.count(bytes))? {
                return Ok(());
            }
        }
    }

    /// Receives once through the core's scratch buffer; 0 is the end of input.
    async fn receive(&self, mut take: impl FnMut(&[u8])) -> Result<usize, TransferError> {
        loop {
            {
                let mut scratch = self.core.scratch.borrow_mut();
                match self.from.try_recv(&mut scratch) {
                    Ok(received) => {
                        take(scratch.get(..received).unwrap_or_default());
                        return Ok(received);
                    }
                    Err(Errno::AGAIN) => {}
                    Err(_) => return Err(TransferError::SenderFailed),
                }
            }
            self.wait_for_sender().await?;
        }
    }

    async fn wait_for_sender(&self) -> Result<(), TransferError> {
        loop {
            let limit = match self.pauses {
                Pauses::Bounded(limit) => limit,
                Pauses::While(_) => Some(CLIENT_CHECK),
            };
            match (self.from.readable_until(deadline_after(limit)).await, self.pauses) {
                (Ok(()), _) => return Ok(()),
                (Err(Errno::TIME), Pauses::While(client)) if !client.is_hung_up() => {}
                (Err(Errno::TIME), Pauses::While(_)) => return Err(TransferError::ReceiverLeft),
                (Err(Errno::TIME), Pauses::Bounded(_)) => return Err(TransferError::SenderStalled),
                (Err(_), _) => return Err(TransferError::SenderFailed),
            }
        }
    }

    /// Sends everything.
    pub(crate) async fn send(&self, bytes: &[u8]) -> Result<(), TransferError> {
        self.to.send_all(bytes, self.patience).await.map_err(receiver)?;
        self.count(bytes.len());
        Ok(())
    }

    fn count(&self, bytes: usize) {
        self.sent_bytes.set(self.sent_bytes.get() + bytes as u64);
    }
}

fn receiver(error: Errno) -> TransferError {
    match error {
        Errno::TIME => TransferError::ReceiverStalled,
        _ => TransferError::ReceiverLeft,
    }
}

#[cfg(test)]
mod tests;
