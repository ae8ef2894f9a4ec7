//! Pipes for `splice(2)`, pooled per core. A pipe goes back to the pool only when it is empty; otherwise it is closed,
//! so that bytes of one tunnel can never come out of another.

use std::cell::RefCell;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};

use super::readiness::Interest;
use super::stream::Socket;

/// Wanted size of a pipe. Where the user's limit (`fs.pipe-user-pages-soft`) refuses it, the default of 64 kB stays.
const PIPE_BYTES: usize = 512 * 1024;

/// Idle pipes that are kept.
const POOL_MAX: usize = 64;

/// The pipes of one core that no tunnel uses at the moment.
#[derive(Debug, Default)]
pub(crate) struct PipePool {
    idle: RefCell<Vec<Pipe>>,
}

#[derive(Debug)]
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

/// A pipe in use by one direction of one tunnel, and how many bytes are in it.
#[derive(Debug)]
pub(crate) struct Lease<'p> {
    pool: &'p PipePool,
    /// Present until the lease is dropped.
    pipe: Option<Pipe>,
    held_bytes: usize,
}

impl PipePool {
    /// Takes an idle pipe or makes one; fails when descriptors have run out.
    pub(crate) fn take(&self) -> Result<Lease<'_>, Errno> {
        let idle = self.idle.borrow_mut().pop();
        let pipe = match idle {
            Some(pipe) => pipe,
            None => Pipe::new()?,
        };
        Ok(Lease { pool: self, pipe: Some(pipe), held_bytes: 0 })
    }
}

impl Pipe {
    fn new() -> Result<Self, Errno> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A smaller pipe works as well, only with more calls.
        let _ = rustix::pipe::fcntl_setpipe_size(&writer, PIPE_BYTES);
        Ok(Self { reader, writer })
    }
}

impl Lease<'_> {
    /// Bytes that were taken in and not given out yet.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Moves what is there from the socket into the pipe; 0 is the end of input.
    pub(crate) fn fill(&mut self, from: &Socket, bytes_max: usize) -> Result<usize, Errno> {
        let Some(pipe) = &self.pipe else {
            return Err(Errno::BADF);
        };
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        let moved = rustix::io::retry_on_intr(|| {
            splice(from.fd(), None, &pipe.writer, None, bytes_max, flags)
        })
        .inspect_err(|error| {
            if *error == Errno::AGAIN {
                from.used_up(Interest::Read);
            }
        })?;
        self.held_bytes += moved;
        Ok(moved)
    }

    /// Moves what fits from the pipe into the socket.
    pub(crate) fn empty(&mut self, to: &Socket) -> Result<usize, Errno> {
        let Some(pipe) = &self.pipe else {
            return Err(Errno::BADF);
        };
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        let moved = rustix::io::retry_on_intr(|| {
            splice(&pipe.reader, None, to.fd(), None, self.held_bytes, flags)
        })
        .inspect_err(|error| {
            if *error == Errno::AGAIN {
                to.used_up(Interest::Write);
            }
        })?;
        self.held_bytes = self.held_bytes.saturating_sub(moved);
        Ok(moved)
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if self.held_bytes == 0
            && let Some(pipe) = self.pipe.take()
        {
            let mut idle = self.pool.idle.borrow_mut();
            if idle.len() < POOL_MAX {
                idle.push(pipe);
            }
        }
    }
}
