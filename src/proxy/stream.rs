//! A socket as the cores use it: wait for readiness through the runtime, then act with a direct system call that never
//! blocks. A wait holds no buffer and may be dropped at any time without losing a byte, which is why nothing here uses
//! monoio's `read` and `write` (they own a buffer while they wait, and lose data when they are dropped).

use std::cell::{OnceCell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType,
    ipproto, socket_with, sockopt,
};

use super::readiness::{Interest, Readiness, Registration};
use super::tls::{Carrier, Session};
use crate::clock;
use crate::sys;

/// A non-blocking descriptor that the runtime can wait for: a TCP or Unix connection, a listener, an eventfd.
#[derive(Debug)]
pub(crate) struct Socket {
    // Closed before its registration is dropped.
    fd: OwnedFd,
    registration: Registration,
    /// There when the peer speaks TLS. Whoever sends and receives need not know.
    session: OnceCell<Box<RefCell<Session>>>,
}

/// The socket under its TLS session.
pub(crate) struct Ciphertext<'s>(&'s Socket);

impl Carrier for Ciphertext<'_> {
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        self.0.receive_bytes(buffer)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        self.0.send_bytes(bytes)
    }
}

/// How a connection failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The peer reset it.
    Reset,
    /// The kernel gave the peer up: no acknowledgement in time, or no route any more.
    Dead,
    /// Anything else.
    Other,
}

impl From<Errno> for Fault {
    fn from(error: Errno) -> Self {
        match error {
            // EPIPE and ENOTCONN on an established connection: the reset was already delivered, or came with the FIN seen.
            Errno::CONNRESET | Errno::PIPE | Errno::NOTCONN | Errno::CONNABORTED => Self::Reset,
            Errno::TIMEDOUT
            | Errno::HOSTUNREACH
            | Errno::NETUNREACH
            | Errno::HOSTDOWN
            | Errno::NETDOWN => Self::Dead,
            _ => Self::Other,
        }
    }
}

/// How long and how much a client may still send after an answer that ends the connection.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 4 * 1024 * 1024;

impl Socket {
    /// Takes over the descriptor of a TCP socket that is already non-blocking.
    pub(crate) fn adopt_tcp(fd: OwnedFd, readiness: &Rc<Readiness>) -> Self {
        Self::registered(fd, Registration::new(readiness, true))
    }

    /// Takes over any other descriptor that is already non-blocking.
    pub(crate) fn adopt(fd: OwnedFd, readiness: &Rc<Readiness>) -> Self {
        Self::registered(fd, Registration::new(readiness, false))
    }

    fn registered(fd: OwnedFd, registration: Registration) -> Self {
        Self { fd, registration, session: OnceCell::new() }
    }

    /// Accepts a connection that waits at this listener; `EAGAIN`: there is none.
    pub(crate) fn try_accept(&self) -> Result<(OwnedFd, Option<SocketAddr>), Errno> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let accepted = rustix::net::acceptfrom_with(self.fd(), flags);
        if matches!(accepted, Err(Errno::AGAIN)) {
            self.used_up(Interest::Read);
        }
        let (fd, peer) = accepted?;
        Ok((fd, peer.and_then(|peer| SocketAddr::try_from(peer).ok())))
    }

    /// Begins a TCP connection without delay of small segments. It may be established already, as on loopback: the first
    /// `try_send` tells (`EAGAIN`: not yet; then it is when `writable` says so).
    pub(crate) fn connect_tcp(address: &SocketAddr) -> Result<OwnedFd, Errno> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
        sockopt::set_tcp_nodelay(&fd, true)?;
        match rustix::net::connect(&fd, address) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(fd),
            Err(error) => Err(error),
        }
    }

    /// Connects to a Unix socket. `EAGAIN` means that the listener's backlog is full.
    pub(crate) fn connect_unix(path: &Path) -> rustix::io::Result<OwnedFd> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&fd, &SocketAddrUnix::new(path)?)?;
        Ok(fd)
    }

    /// Everything that is sent and received from now on is encrypted.
    pub(crate) fn encrypt(&self, session: Session) {
        // A connection has one handshake.
        let _ = self.session.set(Box::new(RefCell::new(session)));
    }

    /// Whether the kernel sees other bytes than we do.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.session.get().is_some()
    }

    /// What carries a TLS session.
    pub(crate) fn carrier(&self) -> Ciphertext<'_> {
        Ciphertext(self)
    }

    /// Waits until `try_recv` has something to say. May be dropped at any time.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        if self.session.get().is_some_and(|session| session.borrow().is_ready()) {
            return Ok(());
        }
        self.registration.wait(&self.fd, Interest::Read).await
    }

    /// Waits until `try_send` has room. May be dropped at any time.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        self.registration.wait(&self.fd, Interest::Write).await
    }

    /// Receives what is there; 0 is the end of input, `EAGAIN` means nothing yet.
    pub(crate) fn try_recv(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self.session.get() {
            None => self.receive_bytes(buffer),
            Some(session) => session.borrow_mut().receive(&mut self.carrier(), buffer),
        }
    }

    /// Sends what fits; `EAGAIN` means that there is no room. Then the same bytes have to be offered again, perhaps with
    /// more behind them: over TLS some of them may be encrypted already.
    pub(crate) fn try_send(&self, bytes: &[u8]) -> Result<usize, Errno> {
        match self.session.get() {
            None => self.send_bytes(bytes),
            Some(session) => session.borrow_mut().send(&mut self.carrier(), bytes),
        }
    }

    fn receive_bytes(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let received = rustix::io::retry_on_intr(|| {
            rustix::net::recv(self.fd(), &mut *buffer, RecvFlags::DONTWAIT)
        })
        .map(|(taken, _)| taken);
        match received {
            Err(Errno::AGAIN) => self.used_up(Interest::Read),
            Ok(taken) if taken > 0 && taken < buffer.len() => self.registration.read_short(),
            _ => {}
        }
        received
    }

    fn send_bytes(&self, bytes: &[u8]) -> Result<usize, Errno> {
        self.send_flagged(bytes, SendFlags::empty())
    }

    fn send_flagged(&self, bytes: &[u8], flags: SendFlags) -> Result<usize, Errno> {
        let flags = flags | SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = rustix::io::retry_on_intr(|| rustix::net::send(self.fd(), bytes, flags));
        if sent == Err(Errno::AGAIN) {
            self.used_up(Interest::Write);
        }
        sent
    }

    /// [`readable`](Self::readable) with a deadline: `ETIME` when it passes. No timer is made before it is needed.
    pub(crate) async fn readable_until(&self, deadline: Option<Instant>) -> Result<(), Errno> {
        until(deadline, self.readable()).await
    }

    /// [`writable`](Self::writable) with a deadline, likewise.
    pub(crate) async fn writable_until(&self, deadline: Option<Instant>) -> Result<(), Errno> {
        until(deadline, self.writable()).await
    }

    /// Sends everything; `ETIME` when the deadline passes first.
    pub(crate) async fn send_all_until(
        &self,
        mut bytes: &[u8],
        deadline: Option<Instant>,
    ) -> Result<(), Errno> {
        while !bytes.is_empty() {
            match self.try_send(bytes) {
                Ok(taken) => bytes = bytes.get(taken..).unwrap_or_default(),
                Err(Errno::AGAIN) => self.writable_until(deadline).await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends everything; `ETIME` when the peer takes no byte for as long as `patience`.
    pub(crate) async fn send_all(
        &self,
        mut bytes: &[u8],
        patience: Option<Duration>,
    ) -> Result<(), Errno> {
        while !bytes.is_empty() {
            match self.try_send(bytes) {
                Ok(taken) => bytes = bytes.get(taken..).unwrap_or_default(),
                Err(Errno::AGAIN) => self.room_within(patience).await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends the last bytes of our direction and its end, in one segment where they fit: half the packets of an answer and an end
    /// that go one after the other. `ETIME` as [`send_all`](Self::send_all).
    pub(crate) async fn send_last(
        &self,
        bytes: &[u8],
        patience: Option<Duration>,
    ) -> Result<(), Errno> {
        let sent = match self.session.get() {
            // Held back by the kernel until the end, which follows at once (send(2), `MSG_MORE`).
            None => match self.send_flagged(bytes, SendFlags::MORE) {
                Err(Errno::AGAIN) => 0,
                sent => sent?,
            },
            Some(_) => 0,
        };
        self.send_all(bytes.get(sent..).unwrap_or_default(), patience).await?;
        loop {
            match self.try_end() {
                Err(Errno::AGAIN) => self.room_within(patience).await?,
                other => return other,
            }
        }
    }

    /// Waits for room to send; `ETIME` when the peer takes no byte for as long as `patience`. The kernel reports room only when
    /// a good part of its buffer is free (tcp(7), `SO_SNDLOWAT`), so a slow reader is told from a stalled one by the queue.
    pub(crate) async fn room_within(&self, patience: Option<Duration>) -> Result<(), Errno> {
        let queued = || sys::send_queue_bytes(self.fd()).unwrap_or(0);
        let mut before = queued();
        loop {
            match self.writable_until(deadline_after(patience)).await {
                Err(Errno::TIME) => {
                    let now = queued();
                    if now >= before {
                        return Err(Errno::TIME);
                    }
                    before = now;
                }
                other => return other,
            }
        }
    }

    /// Whether the peer has closed or reset, even while its bytes are not read.
    pub(crate) fn is_hung_up(&self) -> bool {
        let asked = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let mut polled = [PollFd::from_borrowed_fd(self.fd(), asked)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut polled, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// The failures that wait on two connections to be told, and takes them: whoever asks has to act on them. Nothing is
    /// said of an orderly end.
    pub(crate) fn take_failures(pair: [&Self; 2]) -> [Option<Fault>; 2] {
        let mut polled =
            pair.map(|socket| PollFd::from_borrowed_fd(socket.fd(), PollFlags::empty()));
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if rustix::event::poll(&mut polled, Some(&now)).unwrap_or(0) == 0 {
            return [None, None];
        }
        polled.map(|polled| {
            // Asked only then: without a failure the kernel would tell of a route that was lost for a moment instead.
            let failed = polled.revents().contains(PollFlags::ERR);
            let error = failed.then(|| sockopt::socket_error(&polled)).and_then(Result::ok)?;
            error.err().map(Fault::from)
        })
    }

    /// Ends our direction; the other goes on. `EAGAIN` means that there is no room for what TLS says about it.
    pub(crate) fn try_end(&self) -> Result<(), Errno> {
        let shut_down = || rustix::net::shutdown(self.fd(), Shutdown::Write);
        let Some(session) = self.session.get() else { return shut_down() };
        let mut session = session.borrow_mut();
        match session.end(&mut self.carrier()).and_then(|()| shut_down()) {
            // A client may close right behind its own end, without waiting for ours (RFC 8446 section 6.1).
            Err(error) if session.has_ended() && Fault::from(error) == Fault::Reset => Ok(()),
            other => other,
        }
    }

    /// Ends our direction as soon as there is room for it.
    pub(crate) async fn end(&self) -> Result<(), Errno> {
        loop {
            match self.try_end() {
                Err(Errno::AGAIN) => self.writable_until(None).await?,
                other => return other,
            }
        }
    }

    /// Ends our direction and discards what still arrives: a close with unread input would be a reset, which can overtake
    /// the answer on its way to the client (RFC 9112 section 9.6).
    pub(crate) async fn linger(&self, scratch: &RefCell<Box<[u8]>>) {
        let discard = async {
            let mut discarded = 0;
            if self.end().await.is_err() {
                return;
            }
            while discarded < LINGER_BYTES {
                let received = self.try_recv(&mut scratch.borrow_mut());
                match received {
                    Ok(0) => return,
                    Ok(received) => discarded += received,
                    Err(Errno::AGAIN) if self.readable().await.is_ok() => {}
                    Err(_) => return,
                }
            }
        };
        // The time being over is as good an end as any.
        let _ = monoio::time::timeout(LINGER, discard).await;
    }

    /// Ends a connection after an answer that the client waits for before it sends anything more. When nothing that it has sent
    /// is unread, the close that follows is an orderly end and needs no wait; otherwise as [`linger`](Self::linger).
    pub(crate) async fn end_waited_for(&self, scratch: &RefCell<Box<[u8]>>) {
        let unread = self.try_recv(&mut scratch.borrow_mut());
        if !matches!(unread, Err(Errno::AGAIN) | Ok(0)) {
            self.linger(scratch).await;
        }
    }

    /// Makes the coming close a reset (socket(7), `SO_LINGER`).
    pub(crate) fn reset_on_close(&self) {
        if let Some(session) = self.session.get() {
            session.borrow_mut().abandon();
        }
        // Fails only on a socket that is gone, where there is nothing left to reset.
        let _ = sockopt::set_socket_linger(self.fd(), Some(Duration::ZERO));
    }

    /// To be told when a call that was not made here found nothing more to read, or no room (`EAGAIN`).
    pub(crate) fn used_up(&self, interest: Interest) {
        self.registration.used_up(interest);
    }

    /// The descriptor, for system calls.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The moment that ends a time which begins now; `None` never comes.
pub(crate) fn deadline_after(time: Option<Duration>) -> Option<Instant> {
    time.and_then(|time| clock::now().checked_add(time))
}

/// Waits for readiness until the deadline: `ETIME` when it passes.
async fn until(
    deadline: Option<Instant>,
    ready: impl Future<Output = io::Result<()>>,
) -> Result<(), Errno> {
    let ready = match deadline {
        None => ready.await,
        Some(deadline) => {
            let left = deadline.saturating_duration_since(clock::now());
            monoio::time::timeout(left, ready).await.map_err(|_| Errno::TIME)?
        }
    };
    ready.map_err(|error| errno(&error))
}

/// The number of an error that a system call gave.
pub(crate) fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// Tells a client that speaks TLS that this end is meant, unless its direction has ended before.
impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(session) = self.session.get() {
            let _ = session.borrow_mut().end(&mut self.carrier());
        }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Sets keep-alive and `TCP_USER_TIMEOUT` (tcp(7)) so that a peer that acknowledges nothing is given up within `after` plus a quarter:
/// the first probe goes out after half the time, then eight more at most until the user timeout strikes.
pub(crate) fn set_liveness(fd: impl std::os::fd::AsFd, after: Duration) -> rustix::io::Result<()> {
    let second = Duration::from_secs(1);
    // The kernel takes at most 32767 s for both.
    let longest = Duration::from_secs(32_767);
    sockopt::set_tcp_keepidle(&fd, (after / 2).clamp(second, longest))?;
    sockopt::set_tcp_keepintvl(&fd, (after / 8).clamp(second, longest))?;
    set_user_timeout(&fd, after)?;
    sockopt::set_socket_keepalive(&fd, true)
}

/// Undoes [`set_liveness`].
pub(crate) fn clear_liveness(fd: impl std::os::fd::AsFd) -> rustix::io::Result<()> {
    sockopt::set_tcp_user_timeout(&fd, 0)?;
    sockopt::set_socket_keepalive(&fd, false)
}

/// Sets `TCP_USER_TIMEOUT` alone.
pub(crate) fn set_user_timeout(
    fd: impl std::os::fd::AsFd,
    after: Duration,
) -> rustix::io::Result<()> {
    let ms = u32::try_from(after.as_millis()).unwrap_or(u32::MAX).min(i32::MAX.unsigned_abs());
    sockopt::set_tcp_user_timeout(&fd, ms)
}

#[cfg(test)]
pub(super) mod tests;
