//! The carrier under a session: bytes arrive and find room when the script says so.

use std::collections::VecDeque;

use rustix::io::Errno;

use super::super::super::session::Carrier;

/// More calls within one of the session are an endless loop.
const CALLS_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Wire {
    /// Has arrived and is not received.
    pub(super) arrived: VecDeque<u8>,
    /// Nothing comes after that.
    pub(super) has_ended: bool,
    /// What `send` still takes.
    pub(super) room: usize,
    /// Was sent, and the client has not taken it.
    pub(super) sent: VecDeque<u8>,
    pub(super) received_bytes: usize,
    pub(super) calls: usize,
    /// Everything it is asked for has to wait.
    pub(super) is_stuck: bool,
}

impl Wire {
    fn count(&mut self) -> Result<(), Errno> {
        self.calls += 1;
        if self.calls > CALLS_MAX { Err(Errno::DEADLK) } else { Ok(()) }
    }
}

impl Carrier for Wire {
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        self.count()?;
        if self.is_stuck || (self.arrived.is_empty() && !self.has_ended) {
            return Err(Errno::AGAIN);
        }
        let bytes = buffer.len().min(self.arrived.len());
        for (place, byte) in buffer.iter_mut().zip(self.arrived.drain(..bytes)) {
            *place = byte;
        }
        self.received_bytes += bytes;
        Ok(bytes)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        self.count()?;
        if self.is_stuck || self.room == 0 {
            return Err(Errno::AGAIN);
        }
        let taken = bytes.len().min(self.room);
        self.sent.extend(bytes.iter().take(taken));
        self.room -= taken;
        Ok(taken)
    }
}
