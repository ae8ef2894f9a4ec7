//! The floor: a bare TCP relay on epoll, one thread, without HTTP. Nothing that parses a head can cost less than this on the same machine.
//!
//! Small reads are copied through one buffer; a direction whose reads keep filling it goes over to splice(2) through a pipe of its own.

use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, sockopt,
};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use crate::failure::{Doing as _, Failure};

const LISTENER: u64 = u64::MAX;
const SCRATCH_BYTES: usize = 64 * 1024;
const PIPE_BYTES: usize = 512 * 1024;
/// Full reads in a row after which a direction is bulk.
const FULL_READS: u32 = 4;
/// Moves per direction and event.
const MOVES_MAX: u32 = 8;

/// What a direction waits for.
#[derive(Debug, Clone, Copy, PartialEq)]
enum WaitsFor {
    Input,
    Room,
    /// It is over.
    Nothing,
}

struct Direction {
    /// Read and not yet taken by the other side.
    remainder: Vec<u8>,
    full_reads: u32,
    pipe: Option<(OwnedFd, OwnedFd)>,
    piped_bytes: usize,
    waits_for: WaitsFor,
}

struct Tunnel {
    sockets: [OwnedFd; 2],
    interests: [EventFlags; 2],
    /// `directions[i]` reads from `sockets[i]`.
    directions: [Direction; 2],
}

struct Relay {
    epoll: OwnedFd,
    listener: OwnedFd,
    upstream: SocketAddrV4,
    tunnels: Vec<Option<Box<Tunnel>>>,
    free: Vec<usize>,
    scratch: Vec<u8>,
}

/// Relays between `listen` and `upstream` until it is killed.
pub(crate) fn run(listen: SocketAddrV4, upstream: SocketAddrV4) -> Result<(), Failure> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).doing("epoll_create")?;
    let listener = socket()?;
    sockopt::set_socket_reuseaddr(&listener, true).doing("SO_REUSEADDR")?;
    rustix::net::bind(&listener, &listen).doing("bind")?;
    rustix::net::listen(&listener, 4096).doing("listen")?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)
        .doing("epoll_ctl")?;
    let scratch = vec![0; SCRATCH_BYTES];
    let mut relay =
        Relay { epoll, listener, upstream, tunnels: Vec::new(), free: Vec::new(), scratch };
    let mut events = Vec::with_capacity(256);
    loop {
        events.clear();
        match epoll::wait(&relay.epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).doing("epoll_wait"),
        }
        for event in &events {
            match event.data.u64() {
                LISTENER => relay.accept()?,
                token => relay.pump(token, event.flags)?,
            }
        }
    }
}

impl Relay {
    fn accept(&mut self) -> Result<(), Failure> {
        loop {
            let client = match rustix::net::accept_with(
                &self.listener,
                SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
            ) {
                Ok(client) => client,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::CONNABORTED | Errno::INTR) => continue,
                Err(error) => return Err(error).doing("accept"),
            };
            let upstream = socket()?;
            match rustix::net::connect(&upstream, &self.upstream) {
                Ok(()) | Err(Errno::INPROGRESS) => {}
                Err(error) => return Err(error).doing("connect"),
            }
            let slot = self.free.pop().unwrap_or_else(|| {
                self.tunnels.push(None);
                self.tunnels.len() - 1
            });
            for (side, socket) in [&client, &upstream].into_iter().enumerate() {
                sockopt::set_tcp_nodelay(socket, true).doing("TCP_NODELAY")?;
                epoll::add(&self.epoll, socket, token(slot, side), EventFlags::IN)
                    .doing("epoll_ctl")?;
            }
            self.tunnels[slot] = Some(Box::new(Tunnel {
                sockets: [client, upstream],
                interests: [EventFlags::IN; 2],
                directions: [Direction::new(), Direction::new()],
            }));
        }
    }

    /// Moves what this event lets move, and closes the tunnel when both directions are over or either side was reset.
    fn pump(&mut self, token_of_event: u64, event: EventFlags) -> Result<(), Failure> {
        let slot = usize::try_from(token_of_event / 2).unwrap_or(usize::MAX);
        let Some(Some(tunnel)) = self.tunnels.get_mut(slot) else {
            return Ok(());
        };
        let [to_upstream, to_client] = &mut tunnel.directions;
        let [client, upstream] = &tunnel.sockets;
        let at_client = token_of_event.is_multiple_of(2);
        let (input, room) = (event != EventFlags::OUT, event != EventFlags::IN);
        let mut reset = None;
        if if at_client { input } else { room }
            && to_upstream.pump(client, upstream, &mut self.scratch).is_err()
        {
            reset = Some(upstream);
        }
        if if at_client { room } else { input }
            && to_client.pump(upstream, client, &mut self.scratch).is_err()
        {
            reset = Some(client);
        }
        if let Some(other) = reset {
            sockopt::set_socket_linger(other, Some(Duration::ZERO)).doing("SO_LINGER")?;
        }
        if reset.is_some()
            || (to_upstream.waits_for == WaitsFor::Nothing
                && to_client.waits_for == WaitsFor::Nothing)
        {
            self.tunnels[slot] = None;
            self.free.push(slot);
            return Ok(());
        }
        for side in 0..2 {
            let mut interest = EventFlags::empty();
            interest.set(EventFlags::IN, tunnel.directions[side].waits_for == WaitsFor::Input);
            interest.set(EventFlags::OUT, tunnel.directions[1 - side].waits_for == WaitsFor::Room);
            if interest != tunnel.interests[side] {
                tunnel.interests[side] = interest;
                epoll::modify(&self.epoll, &tunnel.sockets[side], token(slot, side), interest)
                    .doing("epoll_ctl")?;
            }
        }
        Ok(())
    }
}

impl Direction {
    fn new() -> Self {
        Self {
            remainder: Vec::new(),
            full_reads: 0,
            pipe: None,
            piped_bytes: 0,
            waits_for: WaitsFor::Input,
        }
    }

    /// Moves bytes until a socket blocks or the turn is over; `waits_for` says what comes next. An error is a reset.
    fn pump(&mut self, from: &OwnedFd, to: &OwnedFd, scratch: &mut [u8]) -> rustix::io::Result<()> {
        if self.waits_for == WaitsFor::Nothing {
            return Ok(());
        }
        for _ in 0..MOVES_MAX {
            let moved = self.flush(to).and_then(|()| match self.full_reads {
                FULL_READS.. => self.splice(from, to),
                _ => self.copy(from, to, scratch),
            });
            match moved {
                Ok(true) => {}
                Ok(false) => {
                    self.waits_for = WaitsFor::Nothing;
                    return rustix::net::shutdown(to, Shutdown::Write);
                }
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error),
            }
        }
        let holds_bytes = !self.remainder.is_empty() || self.piped_bytes > 0;
        self.waits_for = if holds_bytes { WaitsFor::Room } else { WaitsFor::Input };
        Ok(())
    }

    /// Sends what was read earlier; AGAIN while some is left.
    fn flush(&mut self, to: &OwnedFd) -> rustix::io::Result<()> {
        while !self.remainder.is_empty() {
            let sent = rustix::net::send(to, &self.remainder, SendFlags::NOSIGNAL)?;
            self.remainder.drain(..sent);
        }
        while self.piped_bytes > 0
            && let Some((out, _)) = &self.pipe
        {
            self.piped_bytes -= splice(
                out,
                None,
                to,
                None,
                self.piped_bytes,
                SpliceFlags::NONBLOCK | SpliceFlags::MOVE,
            )?;
        }
        Ok(())
    }

    /// One read through the buffer; false at the end of the stream, AGAIN when there is nothing more to read or no room.
    fn copy(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        scratch: &mut [u8],
    ) -> rustix::io::Result<bool> {
        let (_, read) = rustix::net::recv(from, &mut *scratch, RecvFlags::empty())?;
        if read == 0 {
            return Ok(false);
        }
        self.full_reads = if read == scratch.len() { self.full_reads + 1 } else { 0 };
        let sent = match rustix::net::send(to, &scratch[..read], SendFlags::NOSIGNAL) {
            Ok(sent) => sent,
            Err(Errno::AGAIN) => 0,
            Err(error) => return Err(error),
        };
        self.remainder.extend_from_slice(&scratch[sent..read]);
        // A short read has emptied the socket.
        if read < scratch.len() { Err(Errno::AGAIN) } else { Ok(true) }
    }

    /// One move through the pipe, with the same results.
    fn splice(&mut self, from: &OwnedFd, to: &OwnedFd) -> rustix::io::Result<bool> {
        if self.pipe.is_none() {
            let pipe = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
            fcntl_setpipe_size(&pipe.1, PIPE_BYTES)?;
            self.pipe = Some(pipe);
        }
        let Some((_, into)) = &self.pipe else {
            return Ok(false);
        };
        self.piped_bytes =
            splice(from, None, into, None, PIPE_BYTES, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?;
        if self.piped_bytes == 0 {
            return Ok(false);
        }
        self.flush(to).map(|()| true)
    }
}

/// Names a socket of a tunnel: side 0 is the client's.
fn token(slot: usize, side: usize) -> EventData {
    EventData::new_u64((slot * 2 + side) as u64)
}

fn socket() -> Result<OwnedFd, Failure> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).doing("socket")
}
