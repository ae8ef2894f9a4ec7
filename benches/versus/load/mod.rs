//! The load: one epoll loop that holds both ends of every connection, the clients before the proxy and the application behind it.
//! No thread and no measuring lives here; every byte that is counted has been checked, or is checked by its position in a checked stream.
//! Called by `sample`, which opens connections and runs the loop until a count or a time is reached.

mod end;
pub(crate) mod head;
mod pattern;
mod plain;
mod refusal;
pub(crate) mod tls;

use std::borrow::Cow;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::time::Timespec;

use crate::failure::{Doing as _, Failure};
use end::{End, Role};
use head::Application;
use pattern::Pattern;

/// Event token of the listener; ends count from zero.
const LISTENER: u64 = u64::MAX;
/// Most events taken from the kernel at once.
const EVENTS_MAX: usize = 256;
/// Connections accepted per event.
const ACCEPTS_MAX: usize = 16;
/// Longest wait for events, so that a time limit is noticed.
const WAIT_MAX_MS: i64 = 5;
/// Room for one read. Sinks read this much at once.
const SCRATCH_BYTES: usize = 256 * 1024;

/// How a client ends a connection once the 101 has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Close {
    /// `SO_LINGER` 0: a reset.
    Reset,
    /// An orderly end.
    Fin,
}

/// What a tunnel is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Opened, closed, and opened again.
    Handshake(Close),
    /// Refused with 429 and closed by the proxy, then asked for again.
    Refusal,
    /// A message out, the same message back.
    Echo,
    /// Upstream to client, as fast as it goes.
    Download,
    /// Client to upstream, as fast as it goes.
    Upload,
}

impl Purpose {
    fn application(self) -> Application {
        match self {
            Self::Handshake(_) | Self::Refusal | Self::Echo => Application::Echo,
            Self::Download => Application::Source,
            Self::Upload => Application::Sink,
        }
    }
}

/// What has happened so far.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Upgrades that the application granted.
    pub(crate) granted: u64,
    /// Valid 101s that clients got, and first answers of clients with plain requests.
    pub(crate) opened: u64,
    /// Whole refusals that clients got, each followed by the end of its connection.
    pub(crate) refused: u64,
    /// Connections that clients closed on purpose.
    pub(crate) closed: u64,
    /// Client ends that are open or opening.
    pub(crate) clients: u64,
    /// Application ends that are open.
    pub(crate) upstreams: u64,
    /// Messages that came back as they were sent.
    pub(crate) echoes: u64,
    /// Plain requests that clients sent.
    pub(crate) requests: u64,
    /// Plain requests that the application got.
    pub(crate) served: u64,
    /// Application ends on which such a request came.
    pub(crate) upstreams_used: u64,
    /// Whole answers that clients got as they asked for.
    pub(crate) answers: u64,
    /// Bytes of the pattern given to the kernel, or to TLS.
    pub(crate) sourced_bytes: u64,
    /// Bytes of the pattern taken from the kernel.
    pub(crate) sunk_bytes: u64,
    /// Bytes of these whose content was compared.
    pub(crate) verified_bytes: u64,
}

/// What clients add to their upgrade requests: whole header lines.
pub(crate) enum Fields {
    /// All the same.
    Same(String),
    /// Each another; never one twice. Taken from the end.
    Each(Vec<String>),
}

impl Fields {
    /// The lines of the next request.
    fn next(&mut self) -> Result<Cow<'_, str>, Failure> {
        match self {
            Self::Same(lines) => Ok(Cow::Borrowed(lines)),
            Self::Each(left) => {
                left.pop().map(Cow::Owned).ok_or(Failure::Ended { kind: "the stock of tokens" })
            }
        }
    }
}

/// What the ends do next; `sample` turns it between two runs of the loop.
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches of different kinds of ends, not one state"
)]
#[derive(Debug)]
pub(crate) struct Orders {
    /// A handshake that is done is followed by another.
    pub(crate) reopen: bool,
    /// An echo or answer that is done is followed by another.
    pub(crate) ping: bool,
    /// The time of each echo or answer is kept.
    pub(crate) time_each: bool,
    /// Sources send.
    pub(crate) send: bool,
    /// Sinks and clients compare all they get; else the kernel drops it uncopied (`MSG_TRUNC`) and only its length counts.
    pub(crate) verify: bool,
}

/// The loop and everything it holds.
pub(crate) struct Load {
    epoll: OwnedFd,
    listener: OwnedFd,
    proxy: SocketAddrV4,
    ends: Vec<Option<End>>,
    free: Vec<usize>,
    scratch: Vec<u8>,
    pattern: Pattern,
    counts: Counts,
    times: Vec<Duration>,
    /// What clients add to their upgrade requests.
    pub(crate) fields: Fields,
    /// How clients that open tunnels speak TLS; `None`: they do not.
    pub(crate) tls: Option<tls::Terms>,
    /// What the ends do next.
    pub(crate) orders: Orders,
}

impl Load {
    /// Listens on `application` and will connect to `proxy`.
    pub(crate) fn new(application: SocketAddrV4, proxy: SocketAddrV4) -> Result<Self, Failure> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).doing("epoll_create")?;
        let listener = socket()?;
        sockopt::set_socket_reuseaddr(&listener, true).doing("SO_REUSEADDR")?;
        rustix::net::bind(&listener, &application).doing("bind of the application")?;
        rustix::net::listen(&listener, 4096).doing("listen of the application")?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)
            .doing("epoll_ctl")?;
        Ok(Self {
            epoll,
            listener,
            proxy,
            ends: Vec::new(),
            free: Vec::new(),
            scratch: vec![0; SCRATCH_BYTES],
            pattern: Pattern::new(),
            counts: Counts::default(),
            times: Vec::new(),
            fields: Fields::Same(String::new()),
            tls: None,
            orders: Orders {
                reopen: false,
                ping: false,
                time_each: false,
                send: true,
                verify: true,
            },
        })
    }

    /// What has happened so far.
    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The times kept since the last call.
    pub(crate) fn take_times(&mut self) -> Vec<Duration> {
        std::mem::take(&mut self.times)
    }

    /// Begins one tunnel.
    pub(crate) fn open(&mut self, purpose: Purpose) -> Result<(), Failure> {
        self.connect(Role::Connecting(purpose))
    }

    /// Begins one client connection that carries plain requests for answers of `answer_bytes`.
    pub(crate) fn open_plain(&mut self, answer_bytes: u64) -> Result<(), Failure> {
        self.connect(Role::PlainConnecting(answer_bytes))
    }

    fn connect(&mut self, role: Role) -> Result<(), Failure> {
        let socket = socket()?;
        sockopt::set_tcp_nodelay(&socket, true).doing("TCP_NODELAY")?;
        match rustix::net::connect(&socket, &self.proxy) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error).doing("connect to the proxy"),
        }
        self.counts.clients += 1;
        self.keep(End { socket, role }, EventFlags::OUT)
    }

    /// Sends one message on every echo tunnel that waits for none.
    pub(crate) fn ping_all(&mut self) -> Result<u64, Failure> {
        let mut sent = 0;
        for end in self.ends.iter_mut().flatten() {
            match &mut end.role {
                Role::EchoClient(exchange) if !exchange.waiting => {
                    exchange.begin(&end.socket)?;
                    sent += 1;
                }
                Role::Tls(client) => sent += u64::from(client.ping(&end.socket)?),
                _ => {}
            }
        }
        Ok(sent)
    }

    /// Runs until `done`; a failure when that takes longer than `limit`.
    pub(crate) fn run_until(
        &mut self,
        waiting_for: &'static str,
        limit: Duration,
        done: impl Fn(&Counts) -> bool,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + limit;
        while !done(&self.counts) {
            if Instant::now() > deadline {
                return Err(Failure::Late { waiting_for });
            }
            self.turn()?;
        }
        Ok(())
    }

    /// Runs for this long.
    pub(crate) fn run_for(&mut self, time: Duration) -> Result<(), Failure> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.turn()?;
        }
        Ok(())
    }

    /// One wait and everything it brought; bulk comes last, so that it adds little to the times of small messages.
    fn turn(&mut self) -> Result<(), Failure> {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let wait = Timespec { tv_sec: 0, tv_nsec: WAIT_MAX_MS * 1_000_000 };
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&wait)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).doing("epoll_wait"),
        }
        let mut bulk = Vec::new();
        for event in &events {
            let token = event.data.u64();
            if token == LISTENER {
                self.accept()?;
                continue;
            }
            let slot = usize::try_from(token).unwrap_or(usize::MAX);
            if self.ends.get(slot).and_then(Option::as_ref).is_some_and(End::is_bulk) {
                bulk.push(slot);
            } else {
                self.advance(slot)?;
            }
        }
        for slot in bulk {
            self.advance(slot)?;
        }
        Ok(())
    }

    fn accept(&mut self) -> Result<(), Failure> {
        for _ in 0..ACCEPTS_MAX {
            match rustix::net::accept_with(
                &self.listener,
                SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
            ) {
                Ok(socket) => {
                    sockopt::set_tcp_nodelay(&socket, true).doing("TCP_NODELAY")?;
                    self.counts.upstreams += 1;
                    let role = Role::Asked { head: Vec::new(), used_before: false };
                    self.keep(End { socket, role }, EventFlags::IN)?;
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(error) => return Err(error).doing("accept of the application"),
            }
        }
        Ok(())
    }

    fn keep(&mut self, end: End, interest: EventFlags) -> Result<(), Failure> {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.ends.push(None);
            self.ends.len() - 1
        });
        epoll::add(&self.epoll, &end.socket, EventData::new_u64(slot as u64), interest)
            .doing("epoll_ctl")?;
        self.ends[slot] = Some(end);
        Ok(())
    }

    fn watch(&self, slot: usize, socket: &OwnedFd, interest: EventFlags) -> Result<(), Failure> {
        epoll::modify(&self.epoll, socket, EventData::new_u64(slot as u64), interest)
            .doing("epoll_ctl")
    }
}

/// A non-blocking TCP socket.
fn socket() -> Result<OwnedFd, Failure> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).doing("socket")
}

/// Where everything of a sample listens: its network namespace is its own.
pub(crate) const fn loopback(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
}
