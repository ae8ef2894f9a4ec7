//! Heads while they arrive, and what came with them. Buffers are pooled per core: a connection that waits without a byte
//! holds none.

use std::cell::RefCell;
use std::time::Instant;

use rustix::io::Errno;

use super::core::Core;
use super::stream::{Socket, deadline_after};
use crate::clock;
use crate::refusal::Refusal;
use crate::wire::head::{HeadError, HeadScanner};
use crate::wire::response::{RESPONSE_HEAD_BYTES_MAX, ResponseError};

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
    /// Something has come, though it may be dealt with already.
    has_received: bool,
}

impl<'p> HeadBuffer<'p> {
    pub(crate) fn new(pool: &'p RefCell<Vec<Vec<u8>>>) -> Self {
        Self { pool, bytes: Vec::new(), filled: 0, has_received: false }
    }

    /// Whether anything was ever received.
    pub(crate) fn has_received(&self) -> bool {
        self.has_received
    }

    /// What was received and not consumed.
    pub(crate) fn filled(&self) -> &[u8] {
        self.bytes.get(..self.filled).unwrap_or_default()
    }

    /// Receives more, growing up to `bytes_max`. 0 is the end of input, `ENOBUFS` means full, `EAGAIN` nothing yet.
    pub(crate) fn receive(&mut self, from: &Socket, bytes_max: usize) -> Result<usize, Errno> {
        self.take_memory();
        if self.filled == self.bytes.len() {
            if self.filled >= bytes_max {
                return Err(Errno::NOBUFS);
            }
            self.bytes.resize((self.filled * 2).clamp(FIRST_BYTES, bytes_max.max(FIRST_BYTES)), 0);
        }
        let received = from.try_recv(self.bytes.get_mut(self.filled..).unwrap_or_default())?;
        self.filled += received;
        self.has_received |= received > 0;
        Ok(received)
    }

    /// Moves the first bytes, at most `bytes_max`, to the end of `out`; returns how many.
    pub(crate) fn take_into(&mut self, out: &mut Vec<u8>, bytes_max: u64) -> usize {
        let bytes = usize::try_from(bytes_max).map_or(self.filled, |most| most.min(self.filled));
        out.extend_from_slice(self.filled().get(..bytes).unwrap_or_default());
        self.consume(bytes);
        bytes
    }

    /// Adds bytes that were received elsewhere.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.take_memory();
        let end = self.filled + bytes.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        if let Some(room) = self.bytes.get_mut(self.filled..end) {
            room.copy_from_slice(bytes);
            self.filled = end;
        }
    }

    fn take_memory(&mut self) {
        if self.bytes.is_empty() {
            self.bytes = self.pool.borrow_mut().pop().unwrap_or_else(|| vec![0; FIRST_BYTES]);
        }
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

/// Why there is no head to judge.
pub(crate) enum HeadEnd {
    /// The client closed, failed, or sent nothing in time: no answer.
    Left,
    Refused(Refusal),
}

/// Reads one head. The first has `server.read_timeout` from `accepted` on; a later one has `server.idle_timeout` for its
/// first byte and then `server.read_timeout`.
pub(crate) async fn read_request_head(
    core: &Core,
    client: &Socket,
    buffer: &mut HeadBuffer<'_>,
    accepted: Option<Instant>,
) -> Result<usize, HeadEnd> {
    if accepted.is_none() && buffer.filled().is_empty() {
        // The head that comes is read under the policy of its own time; this wait holds none.
        wait_for_next(core, client, buffer).await?;
    }
    let policy = core.policy();
    let server = &policy.config.server;
    let mut scanner = HeadScanner::new(server.max_header_bytes);
    let since = accepted.unwrap_or_else(clock::now);
    let deadline = server.read_timeout.and_then(|time| since.checked_add(time));
    loop {
        match scanner.advance(buffer.filled()) {
            Ok(Some(head_bytes)) => return Ok(head_bytes),
            Ok(None) => {}
            Err(error) => return Err(HeadEnd::Refused(error.into())),
        }
        match buffer.receive(client, server.max_header_bytes) {
            Ok(0) => return Err(HeadEnd::Left),
            Ok(_) => {}
            Err(Errno::AGAIN) => {
                buffer.release_if_empty();
                // Who has connected and said nothing is idle. After a TLS handshake or a PROXY header the request is on its way.
                let is_silent = !buffer.has_received() && !client.is_encrypted();
                let waited = if is_silent {
                    core.idle(client, deadline).await
                } else {
                    client.readable_until(deadline).await
                };
                match waited {
                    Ok(()) => {}
                    Err(Errno::TIME) if !buffer.filled().is_empty() => {
                        return Err(HeadEnd::Refused(Refusal::RequestTimeout));
                    }
                    Err(_) => return Err(HeadEnd::Left),
                }
            }
            Err(_) => return Err(HeadEnd::Left),
        }
    }
}

/// Waits for the first bytes of a later request, for as long as the configuration of now allows, and receives them. The
/// beginning of a drain ends the wait.
async fn wait_for_next(
    core: &Core,
    client: &Socket,
    buffer: &mut HeadBuffer<'_>,
) -> Result<(), HeadEnd> {
    let deadline = deadline_after(core.policy().config.server.idle_timeout);
    loop {
        core.idle(client, deadline).await.map_err(|_| HeadEnd::Left)?;
        match buffer.receive(client, FIRST_BYTES) {
            Ok(received) if received > 0 => return Ok(()),
            // The readiness was none.
            Err(Errno::AGAIN) => buffer.release_if_empty(),
            _ => return Err(HeadEnd::Left),
        }
    }
}

/// Why there is no head of an answer.
pub(crate) enum ResponseEnd {
    /// The deadline has passed.
    Late,
    /// The upstream closed, reset, or failed before the end of its head.
    Closed,
    /// The head breaks a rule.
    Invalid(ResponseError),
}

/// Reads one head of an answer; it stands at the beginning of `received` then, and this is its length.
pub(crate) async fn read_response_head(
    upstream: &Socket,
    received: &mut HeadBuffer<'_>,
    deadline: Option<Instant>,
) -> Result<usize, ResponseEnd> {
    let mut scanner = HeadScanner::new(RESPONSE_HEAD_BYTES_MAX);
    loop {
        let end = scanner.advance(received.filled());
        if let Some(head_bytes) = end.map_err(|error| ResponseEnd::Invalid(error.into()))? {
            return Ok(head_bytes);
        }
        // Wait first: an answer is never there already when its request has just left.
        match upstream.readable_until(deadline).await {
            Ok(()) => {}
            Err(Errno::TIME) => return Err(ResponseEnd::Late),
            Err(_) => return Err(ResponseEnd::Closed),
        }
        match received.receive(upstream, RESPONSE_HEAD_BYTES_MAX + 1) {
            Ok(received) if received > 0 => {}
            Err(Errno::AGAIN) => {}
            _ => return Err(ResponseEnd::Closed),
        }
    }
}

impl From<HeadError> for Refusal {
    fn from(error: HeadError) -> Self {
        crate::wire::request::RequestError::from(error).into()
    }
}

impl From<ResponseError> for ResponseEnd {
    fn from(error: ResponseError) -> Self {
        Self::Invalid(error)
    }
}
