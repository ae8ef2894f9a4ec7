//! The buffer of a head while it arrives, and of what came with it. Buffers are pooled per core: a connection that
//! waits without a byte holds none.

use std::cell::RefCell;

use rustix::io::Errno;

use super::stream::Socket;

/// Size of a fresh buffer; nearly every head fits.
const FIRST_BYTES: usize = 4 * 1024;

/// Buffers that are kept, and the largest that is.
const POOL_MAX: usize = 32;
const POOLED_BYTES_MAX: usize = 16 * 1024;

/// Received bytes that are not dealt with yet.
pub(crate) struct HeadBuffer<'p> {
    pool: &'p RefCell<Vec<Vec<u8>>>,
    /// Initialised over its whole length, of which `filled` bytes were received.
    bytes: Vec<u8>,
    filled: usize,
}

impl<'p> HeadBuffer<'p> {
    pub(crate) fn new(pool: &'p RefCell<Vec<Vec<u8>>>) -> Self {
        Self { pool, bytes: Vec::new(), filled: 0 }
    }

    /// What was received and not consumed.
    pub(crate) fn filled(&self) -> &[u8] {
        self.bytes.get(..self.filled).unwrap_or_default()
    }

    /// Receives more, growing up to `bytes_max`. 0 is the end of input, `ENOBUFS` means full, `EAGAIN` nothing yet.
    pub(crate) fn receive(&mut self, from: &Socket, bytes_max: usize) -> Result<usize, Errno> {
        if self.bytes.is_empty() {
            self.bytes = self.pool.borrow_mut().pop().unwrap_or_else(|| vec![0; FIRST_BYTES]);
        }
        if self.filled == self.bytes.len() {
            if self.filled >= bytes_max {
                return Err(Errno::NOBUFS);
            }
            self.bytes.resize((self.filled * 2).clamp(FIRST_BYTES, bytes_max.max(FIRST_BYTES)), 0);
        }
        let received = from.try_recv(self.bytes.get_mut(self.filled..).unwrap_or_default())?;
        self.filled += received;
        Ok(received)
    }

    /// Drops the first bytes.
    pub(crate) fn consume(&mut self, bytes: usize) {
        let rest = bytes.min(self.filled)..self.filled;
        let left = rest.len();
        self.bytes.copy_within(rest, 0);
        self.filled = left;
    }

    /// Gives the memory back while there is nothing in it.
    pub(crate) fn release_if_empty(&mut self) {
        if self.filled == 0 {
            self.give_back();
        }
    }

    fn give_back(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut pool = self.pool.borrow_mut();
        if !bytes.is_empty() && bytes.len() <= POOLED_BYTES_MAX && pool.len() < POOL_MAX {
            pool.push(bytes);
        }
    }
}

impl Drop for HeadBuffer<'_> {
    fn drop(&mut self) {
        self.give_back();
    }
}
