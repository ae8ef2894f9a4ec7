//! The one copy path of the proxy: moves bytes from one socket to another as they are, without blocking. Tunnels use it
//! for their whole life, plain HTTP for content whose bytes need no change.
//!
//! Bytes are received into the core's one scratch buffer and sent at once. What the receiver does not take is handed back
//! as an owned remainder. A direction that keeps filling the buffer is bulk: its bytes move by `splice(2)` through a
//! pooled pipe. Waiting is the caller's part.

use std::cell::Cell;

use rustix::io::Errno;

use super::core::Core;
use super::pipe::Lease;
use super::stream::Socket;
use super::tls::RECORD_CONTENT_MAX;

/// Reads in a row that fill the whole scratch buffer, after which a direction counts as bulk.
const BULK_AFTER_READS: u8 = 3;

/// A splice that moves less than this speaks against bulk.
const BULK_MIN_BYTES: usize = 16 * 1024;

/// A long bulk forgives as many small pieces as this exceeds [`BULK_AFTER_READS`].
const BULK_PATIENCE_READS: u8 = 12;

/// What one direction may move before every other connection of the core has had its turn.
pub(crate) const TURN_BYTES: usize = 256 * 1024;

/// What one direction has moved since every other connection of the core had its turn, in pieces of 4 kB or less. A wait is
/// over at once while there is more, so it cannot be relied on to let others run.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Effort(u8);

impl Effort {
    const PIECE_BYTES: u64 = 4096;
    const PIECES_MAX: u64 = TURN_BYTES as u64 / Self::PIECE_BYTES;

    /// Adds one piece of work; true, and all is forgotten, when it is time for the others.
    pub(crate) fn is_enough_with(&mut self, bytes: u64) -> bool {
        let pieces = u64::from(self.0).saturating_add(bytes.div_ceil(Self::PIECE_BYTES).max(1));
        let is_enough = pieces >= Self::PIECES_MAX;
        self.0 = if is_enough { 0 } else { u8::try_from(pieces).unwrap_or(u8::MAX) };
        is_enough
    }
}

/// Whether a direction is bulk. One byte, because every idle tunnel has two of them.
#[derive(Debug, Default)]
pub(crate) struct Mover {
    full_reads: Cell<u8>,
}

/// Where the bytes go in one turn.
pub(crate) struct Course<'t, 'c> {
    pub(crate) core: &'c Core,
    pub(crate) from: &'t Socket,
    pub(crate) to: &'t Socket,
}

impl Course<'_, '_> {
    fn is_encrypted(&self) -> bool {
        self.from.is_encrypted() || self.to.is_encrypted()
    }
}

/// What a turn ended with.
pub(crate) enum Turn<'c> {
    /// Nothing more to receive for now.
    Empty,
    /// The budget is used up, or all that was wanted is moved.
    Over,
    /// The receiver took only part.
    Blocked(Held<'c>),
    /// End of input.
    Ended,
}

/// Bytes that were received and wait for room at the receiver.
pub(crate) enum Held<'c> {
    Bytes {
        bytes: Box<[u8]>,
        /// The first of them are sent already.
        sent: usize,
    },
    Pipe(Lease<'c>),
}

/// Which of the two sockets failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failed {
    From(Errno),
    To(Errno),
}

impl Mover {
    /// For a known amount: what cannot fit into a few buffers is bulk from the start.
    pub(crate) fn for_length(bytes: u64) -> Self {
        let bulk = bytes >= 4 * TURN_BYTES as u64;
        Self { full_reads: Cell::new(if bulk { BULK_AFTER_READS } else { 0 }) }
    }

    /// Moves what is there, at most `left` bytes, until there is nothing more or the turn is over. `left` falls by what was
    /// received; `sent` is told of every byte that the receiver took.
    pub(crate) fn turn<'c>(
        &self,
        course: &Course<'_, 'c>,
        left: &mut u64,
        mut sent: impl FnMut(usize),
    ) -> Result<Turn<'c>, Failed> {
        let mut turn_bytes = TURN_BYTES;
        while turn_bytes > 0 && *left > 0 {
            // An idle direction holds neither a buffer nor a pipe; a bulk one takes a pipe for its turn. Without
            // descriptors for a pipe copying goes on.
            let pipe = if self.full_reads.get() < BULK_AFTER_READS || course.is_encrypted() {
                None
            } else {
                course.core.pipes.take().ok()
            };
            let step = match pipe {
                Some(pipe) => self.splice(course, pipe, &mut turn_bytes, left, &mut sent)?,
                None => self.copy(course, &mut turn_bytes, left, &mut sent)?,
            };
            if let Some(end) = step {
                return Ok(end);
            }
        }
        Ok(Turn::Over)
    }

    /// Receives and sends through the scratch buffer. `None`: there is more to do in this turn.
    fn copy<'c>(
        &self,
        course: &Course<'_, 'c>,
        turn_bytes: &mut usize,
        left: &mut u64,
        sent: &mut impl FnMut(usize),
    ) -> Result<Option<Turn<'c>>, Failed> {
        let mut scratch = course.core.scratch.borrow_mut();
        let room = bounded(scratch.len(), *left);
        let room = scratch.get_mut(..room).unwrap_or_default();
        let received = match course.from.try_recv(room) {
            Ok(0) => return Ok(Some(Turn::Ended)),
            Ok(received) => received,
            Err(Errno::AGAIN) => return Ok(Some(Turn::Empty)),
            Err(error) => return Err(Failed::From(error)),
        };
        // Over TLS a buffer is as full as it gets when no whole record fits any more.
        let gap = if course.from.is_encrypted() { RECORD_CONTENT_MAX } else { 1 };
        let full = room.len() - received < gap;
        if full {
            self.full_reads.set(self.full_reads.get().saturating_add(1));
        } else if received < BULK_MIN_BYTES {
            self.full_reads.set(0);
        }
        *left -= received as u64;
        *turn_bytes = turn_bytes.saturating_sub(received);
        let bytes = room.get(..received).unwrap_or_default();
        let taken = send_now(course.to, bytes, sent)?;
        if taken < received {
            let bytes = bytes.get(taken..).unwrap_or_default().into();
            return Ok(Some(Turn::Blocked(Held::Bytes { bytes, sent: 0 })));
        }
        // Less than a full buffer was all there was.
        Ok(if full { None } else { Some(Turn::Empty) })
    }

    /// Moves bytes through a pipe. `None`: there is more to do in this turn.
    fn splice<'c>(
        &self,
        course: &Course<'_, 'c>,
        mut pipe: Lease<'c>,
        turn_bytes: &mut usize,
        left: &mut u64,
        sent: &mut impl FnMut(usize),
    ) -> Result<Option<Turn<'c>>, Failed> {
        while *turn_bytes > 0 && *left > 0 {
            let received = match pipe.fill(course.from, bounded(TURN_BYTES, *left)) {
                Ok(0) => return Ok(Some(Turn::Ended)),
                Ok(received) => received,
                Err(Errno::AGAIN) => return Ok(Some(Turn::Empty)),
                Err(Errno::INVAL) => {
                    // A socket that cannot be spliced is copied.
                    self.full_reads.set(0);
                    return Ok(None);
                }
                Err(error) => return Err(Failed::From(error)),
            };
            *left = left.saturating_sub(received as u64);
            *turn_bytes = turn_bytes.saturating_sub(received);
            if !empty_now(&mut pipe, course.to, sent)? {
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
}

impl Held<'_> {
    /// Sends what fits now; true when nothing is left.
    pub(crate) fn flush_now(
        &mut self,
        to: &Socket,
        mut told: impl FnMut(usize),
    ) -> Result<bool, Failed> {
        match self {
            Self::Bytes { bytes, sent } => {
                *sent += send_now(to, bytes.get(*sent..).unwrap_or_default(), &mut told)?;
                Ok(*sent >= bytes.len())
            }
            Self::Pipe(pipe) => empty_now(pipe, to, &mut told),
        }
    }
}

/// Sends what fits now.
fn send_now(to: &Socket, bytes: &[u8], sent: &mut impl FnMut(usize)) -> Result<usize, Failed> {
    let mut taken = 0;
    while taken < bytes.len() {
        match to.try_send(bytes.get(taken..).unwrap_or_default()) {
            Ok(more) => taken += more,
            Err(Errno::AGAIN) => break,
            Err(error) => {
                sent(taken);
                return Err(Failed::To(error));
            }
        }
    }
    if taken > 0 {
        sent(taken);
    }
    Ok(taken)
}

/// Empties the pipe as far as it goes now; true when nothing is left in it.
fn empty_now(
    pipe: &mut Lease<'_>,
    to: &Socket,
    sent: &mut impl FnMut(usize),
) -> Result<bool, Failed> {
    while pipe.held_bytes() > 0 {
        match pipe.empty(to) {
            Ok(moved) => sent(moved),
            Err(Errno::AGAIN) => return Ok(false),
            Err(error) => return Err(Failed::To(error)),
        }
    }
    Ok(true)
}

fn bounded(room: usize, left: u64) -> usize {
    usize::try_from(left).map_or(room, |left| left.min(room))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixty_four_pieces_are_enough_however_small_or_as_many_bytes_as_a_turn_has() {
        let after = |bytes: u64| {
            let mut effort = Effort::default();
            let pieces = (1..1000).find(|_| effort.is_enough_with(bytes)).unwrap();
            let again = (1..1000).find(|_| effort.is_enough_with(bytes)).unwrap();
            assert_eq!(pieces, again, "{bytes}");
            pieces
        };
        let turn = TURN_BYTES as u64;
        let counts = [0, 1, 4096, 4097, 64 * 1024, turn - 1, turn, u64::MAX].map(after);
        assert_eq!(counts, [64, 64, 64, 32, 4, 1, 1, 1]);
    }
}
