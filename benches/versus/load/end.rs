//! One end of one connection, and what it does when its socket is ready.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, sockopt};

use super::head::{self, Application};
use super::plain::{Answer, Client};
use super::{Close, Load, Purpose, tls};
use crate::failure::{Doing as _, Failure};

/// Size of an echoed message.
pub(crate) const MESSAGE_BYTES: usize = 64;
/// No head is longer, on either side.
pub(super) const HEAD_BYTES_MAX: usize = 16 * 1024;

/// A socket and what it is there for.
pub(super) struct End {
    pub(super) socket: OwnedFd,
    pub(super) role: Role,
}

/// What an end is doing.
pub(super) enum Role {
    /// Client: connect has begun.
    Connecting(Purpose),
    /// Client: the request is sent; what has come of the answer's head.
    Asking(Purpose, Vec<u8>),
    /// Client: a message and its echo.
    EchoClient(Exchange),
    /// Client: connect has begun; what comes are plain requests for answers of this many bytes.
    PlainConnecting(u64),
    /// Client: a plain request and its answer.
    Client(Client),
    /// Client: any of this over TLS.
    Tls(Box<tls::Client>),
    /// Application: what has come of the request's head.
    Asked {
        head: Vec<u8>,
        /// The connection has carried a request before.
        used_before: bool,
    },
    /// Application: a plain answer under way.
    Answering(Answer),
    /// Application: sends back what it gets.
    EchoServer,
    /// Either: sends the pattern from this offset on.
    Source(u64),
    /// Either: takes the pattern from this offset on.
    Sink(u64),
}

/// What becomes of an end after its event.
pub(super) enum Next {
    Keep(Role),
    Close,
}

impl End {
    /// Whether its work can be long.
    pub(super) fn is_bulk(&self) -> bool {
        match &self.role {
            Role::Source(_) | Role::Sink(_) => true,
            Role::Tls(client) => client.is_bulk(),
            _ => false,
        }
    }
}

impl Role {
    /// Whether it stands before the proxy; of sources and sinks, which never end, nobody asks.
    fn is_client(&self) -> bool {
        matches!(
            self,
            Self::Connecting(_)
                | Self::Asking(..)
                | Self::EchoClient(_)
                | Self::PlainConnecting(_)
                | Self::Client(_)
                | Self::Tls(_)
        )
    }
}

/// One message under way and its echo as far as it has come.
pub(super) struct Exchange {
    message: [u8; MESSAGE_BYTES],
    number: u64,
    echoed_bytes: usize,
    sent_at: Instant,
    /// The echo is not complete yet.
    pub(super) waiting: bool,
}

impl Exchange {
    pub(super) fn new(slot: usize) -> Self {
        let mut message = [0xA5; MESSAGE_BYTES];
        message[..8].copy_from_slice(&(slot as u64).to_le_bytes());
        Self { message, number: 0, echoed_bytes: 0, sent_at: Instant::now(), waiting: false }
    }

    /// Sends the next message.
    pub(super) fn begin(&mut self, socket: &OwnedFd) -> Result<(), Failure> {
        send_all(socket, self.next(), "send of a message")
    }

    /// The next message, to be sent now; each is different.
    pub(super) fn next(&mut self) -> &[u8] {
        self.number += 1;
        self.message[8..16].copy_from_slice(&self.number.to_le_bytes());
        self.echoed_bytes = 0;
        self.waiting = true;
        self.sent_at = Instant::now();
        &self.message
    }

    /// Takes bytes of the echo; the time since sending once it is complete.
    pub(super) fn take(&mut self, received: &[u8]) -> Result<Option<Duration>, Failure> {
        let to = self.echoed_bytes + received.len();
        if !self.waiting || self.message.get(self.echoed_bytes..to) != Some(received) {
            return Err(Failure::Corrupt { kind: "an echo tunnel", at: self.number });
        }
        self.echoed_bytes = to;
        if to < MESSAGE_BYTES {
            return Ok(None);
        }
        self.waiting = false;
        Ok(Some(self.sent_at.elapsed()))
    }
}

impl Load {
    /// Lets the end in this slot do what its socket is ready for.
    pub(super) fn advance(&mut self, slot: usize) -> Result<(), Failure> {
        let Some(End { socket, role }) = self.ends.get_mut(slot).and_then(Option::take) else {
            return Ok(());
        };
        let is_client = role.is_client();
        let next = match role {
            Role::Connecting(purpose) => self.ask(slot, &socket, purpose)?,
            Role::Asking(Purpose::Refusal, answer) => self.await_refusal(&socket, answer)?,
            Role::Asking(purpose, head) => self.await_101(slot, &socket, purpose, head)?,
            Role::EchoClient(exchange) => self.take_echo(&socket, exchange)?,
            Role::PlainConnecting(answer_bytes) => self.begin_plain(slot, &socket, answer_bytes)?,
            Role::Client(client) => self.take_answer(&socket, client)?,
            Role::Tls(client) => self.advance_tls(slot, &socket, *client)?,
            Role::Asked { head, used_before } => self.grant(slot, &socket, head, used_before)?,
            Role::Answering(answer) => self.send_answer(slot, &socket, answer)?,
            Role::EchoServer => self.echo(&socket)?,
            Role::Source(offset) => self.pour(slot, &socket, offset)?,
            Role::Sink(offset) => self.drain(&socket, offset)?,
        };
        match next {
            Next::Keep(role) => self.ends[slot] = Some(End { socket, role }),
            Next::Close => {
                self.free.push(slot);
                let open =
                    if is_client { &mut self.counts.clients } else { &mut self.counts.upstreams };
                *open -= 1;
            }
        }
        Ok(())
    }

    /// Client: connected, so the request goes out, or TLS begins.
    fn ask(&mut self, slot: usize, socket: &OwnedFd, purpose: Purpose) -> Result<Next, Failure> {
        sockopt::socket_error(socket).doing("SO_ERROR")?.doing("connect to the proxy")?;
        if let Some(terms) = &self.tls {
            return self.begin_tls(slot, socket, terms, purpose);
        }
        let request = head::request(purpose.application(), &self.fields.next()?);
        send_all(socket, request.as_bytes(), "send of a request")?;
        self.watch(slot, socket, EventFlags::IN)?;
        Ok(Next::Keep(Role::Asking(purpose, Vec::new())))
    }

    /// Client: the answer, which must be the right 101, and perhaps the application's first bytes after it.
    fn await_101(
        &mut self,
        slot: usize,
        socket: &OwnedFd,
        purpose: Purpose,
        mut head: Vec<u8>,
    ) -> Result<Next, Failure> {
        let Some(bytes) = receive(socket, &mut self.scratch, RecvFlags::empty())? else {
            return Ok(Next::Keep(Role::Asking(purpose, head)));
        };
        head.extend_from_slice(&self.scratch[..bytes]);
        let Some(end) = head::end(&head) else {
            return if bytes == 0 || head.len() > HEAD_BYTES_MAX {
                Err(no_101(&head))
            } else {
                Ok(Next::Keep(Role::Asking(purpose, head)))
            };
        };
        if !head::accepted(&head[..end]) {
            return Err(no_101(&head));
        }
        self.counts.opened += 1;
        let early = &head[end..];
        match purpose {
            Purpose::Handshake(close) => {
                self.counts.closed += 1;
                if close == Close::Reset {
                    sockopt::set_socket_linger(socket, Some(Duration::ZERO)).doing("SO_LINGER")?;
                }
                if self.orders.reopen {
                    self.open(purpose)?;
                }
                Ok(Next::Close)
            }
            Purpose::Refusal => Err(no_101(&head)),
            Purpose::Echo => {
                let mut exchange = Exchange::new(slot);
                exchange.begin(socket)?;
                Ok(Next::Keep(Role::EchoClient(exchange)))
            }
            Purpose::Download => {
                self.pattern.check("a bulk tunnel", 0, early)?;
                self.counts.sunk_bytes += early.len() as u64;
                self.counts.verified_bytes += early.len() as u64;
                Ok(Next::Keep(Role::Sink(early.len() as u64)))
            }
            Purpose::Upload => {
                self.watch(slot, socket, EventFlags::OUT)?;
                Ok(Next::Keep(Role::Source(0)))
            }
        }
    }

    /// Client: bytes of an echo.
    fn take_echo(&mut self, socket: &OwnedFd, mut exchange: Exchange) -> Result<Next, Failure> {
        match receive(socket, &mut self.scratch, RecvFlags::empty())? {
            None => return Ok(Next::Keep(Role::EchoClient(exchange))),
            Some(0) => {
                return Err(Failure::Ended { kind: "an echo tunnel" });
            }
            Some(bytes) => {
                if let Some(time) = exchange.take(&self.scratch[..bytes])? {
                    self.counts.echoes += 1;
                    if self.orders.time_each {
                        self.times.push(time);
                    }
                    if self.orders.ping {
                        exchange.begin(socket)?;
                    }
                }
            }
        }
        Ok(Next::Keep(Role::EchoClient(exchange)))
    }

    /// Application: a request, answered with the 101 or with what a plain one asks for.
    fn grant(
        &mut self,
        slot: usize,
        socket: &OwnedFd,
        mut head: Vec<u8>,
        used_before: bool,
    ) -> Result<Next, Failure> {
        match receive(socket, &mut self.scratch, RecvFlags::empty()) {
            Ok(None) => return Ok(Next::Keep(Role::Asked { head, used_before })),
            // A proxy may connect and think better of it, as the bare relay does while one waits for it to listen.
            Ok(Some(0)) | Err(_) => return Ok(Next::Close),
            Ok(Some(bytes)) => head.extend_from_slice(&self.scratch[..bytes]),
        }
        if head::end(&head).is_none() {
            return Ok(Next::Keep(Role::Asked { head, used_before }));
        }
        if let Some(next) = self.answer_plain(slot, socket, &head, used_before)? {
            return Ok(next);
        }
        let Some((application, answer)) = head::answer(&head) else {
            return Err(Failure::Corrupt { kind: "a request head", at: 0 });
        };
        send_all(socket, answer.as_bytes(), "send of a 101")?;
        self.counts.granted += 1;
        Ok(Next::Keep(match application {
            Application::Echo => Role::EchoServer,
            Application::Sink => Role::Sink(0),
            Application::Source => {
                self.watch(slot, socket, EventFlags::OUT)?;
                Role::Source(0)
            }
        }))
    }

    /// Application: sends back what came. An end here is the client's doing; the client's end knows whether it is right.
    fn echo(&mut self, socket: &OwnedFd) -> Result<Next, Failure> {
        match receive(socket, &mut self.scratch, RecvFlags::empty()) {
            Ok(None) => {}
            Ok(Some(0)) | Err(_) => return Ok(Next::Close),
            Ok(Some(bytes)) => send_all(socket, &self.scratch[..bytes], "send of an echo")?,
        }
        Ok(Next::Keep(Role::EchoServer))
    }

    /// Source: one piece of the pattern, or silence when sending is over.
    fn pour(&mut self, slot: usize, socket: &OwnedFd, offset: u64) -> Result<Next, Failure> {
        if !self.orders.send {
            self.watch(slot, socket, EventFlags::empty())?;
            return Ok(Next::Keep(Role::Source(offset)));
        }
        let sent = match rustix::net::send(socket, self.pattern.piece(offset), SendFlags::NOSIGNAL)
        {
            Ok(bytes) => bytes as u64,
            Err(Errno::AGAIN) => 0,
            Err(error) => return Err(error).doing("send on a bulk tunnel"),
        };
        self.counts.sourced_bytes += sent;
        Ok(Next::Keep(Role::Source(offset + sent)))
    }

    /// Sink: what is there, compared or only counted.
    fn drain(&mut self, socket: &OwnedFd, offset: u64) -> Result<Next, Failure> {
        let flags = if self.orders.verify { RecvFlags::empty() } else { RecvFlags::TRUNC };
        let bytes = match rustix::net::recv(socket, self.scratch.as_mut_slice(), flags) {
            Ok((_, 0)) => {
                return Err(Failure::Ended { kind: "a bulk tunnel" });
            }
            Ok((_, bytes)) => bytes,
            Err(Errno::AGAIN) => return Ok(Next::Keep(Role::Sink(offset))),
            Err(error) => return Err(error).doing("receive on a bulk tunnel"),
        };
        if self.orders.verify {
            self.pattern.check("a bulk tunnel", offset, &self.scratch[..bytes])?;
            self.counts.verified_bytes += bytes as u64;
        }
        self.counts.sunk_bytes += bytes as u64;
        Ok(Next::Keep(Role::Sink(offset + bytes as u64)))
    }
}

/// Bytes read; zero at the end of the stream, `None` when there is nothing yet.
pub(super) fn receive(
    socket: &OwnedFd,
    scratch: &mut [u8],
    flags: RecvFlags,
) -> Result<Option<usize>, Failure> {
    match rustix::net::recv(socket, scratch, flags) {
        Ok((_, bytes)) => Ok(Some(bytes)),
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error).doing("receive"),
    }
}

/// Sends what always fits into an empty socket buffer.
pub(super) fn send_all(socket: &OwnedFd, bytes: &[u8], doing: &'static str) -> Result<(), Failure> {
    match rustix::net::send(socket, bytes, SendFlags::NOSIGNAL).doing(doing)? {
        sent if sent == bytes.len() => Ok(()),
        _ => Err(Failure::Late { waiting_for: "room for a small message" }),
    }
}

pub(super) fn no_101(head: &[u8]) -> Failure {
    Failure::Handshake {
        answer: String::from_utf8_lossy(&head[..head.len().min(200)]).into_owned(),
    }
}
