//! TLS 1.3 (RFC 8446) at the clients' end: each handshake must come to what the row says, then a tunnel does what it does without TLS.
//! The application speaks none.

use std::collections::VecDeque;
use std::io::{self, BufRead as _, IoSlice, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::epoll::EventFlags;
use rustix::net::{RecvFlags, SendFlags, sockopt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientConfig, ClientConnection, ClientSessionStore, Resumption, Tls12ClientSessionValue,
    Tls13ClientSessionValue,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, HandshakeKind, NamedGroup, SignatureScheme,
};

use super::end::{Exchange, HEAD_BYTES_MAX, Next, Role, no_101, receive};
use super::{Close, Load, Purpose, head};
use crate::certificate::HOST;
use crate::failure::{Doing as _, Failure};

/// The only protocol that clients offer (RFC 7301).
const ALPN: &[u8] = b"http/1.1";
/// Of so many signatures one is verified: it costs a client nearly as much as the proxy, and clients shall not be what is waited for.
const SIGNATURES_PER_CHECK: u64 = 16;
/// Tickets kept; some proxies give more than are used.
const TICKETS_MAX: usize = 256;
/// What a failure calls the client's end.
const KIND: &str = "a connection over TLS";

/// What clients offer, and what must come of it.
pub(crate) struct Terms {
    config: Arc<ClientConfig>,
    host: ServerName<'static>,
    /// What each handshake has to be from now on.
    pub(crate) due: HandshakeKind,
}

impl Terms {
    /// TLS 1.3 with one suite and one group for clients that accept this certificate alone. Each gets tickets; they use them with
    /// `resumes`.
    pub(crate) fn new(
        certificate: CertificateDer<'static>,
        resumes: bool,
    ) -> Result<Self, Failure> {
        const DOING: &str = "TLS of the clients";
        let crypto = CryptoProvider {
            cipher_suites: vec![provider::cipher_suite::TLS13_AES_128_GCM_SHA256],
            kx_groups: vec![provider::kx_group::X25519],
            ..provider::default_provider()
        };
        let verifier = Pin { certificate, seen: AtomicU64::new(0) };
        let mut config = ClientConfig::builder_with_provider(Arc::new(crypto))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)
            .doing(DOING)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = if resumes {
            Resumption::store(Arc::new(Tickets::default()))
        } else {
            Resumption::disabled()
        };
        let host = ServerName::try_from(HOST).map_err(io::Error::other).doing(DOING)?;
        Ok(Self { config: Arc::new(config), host, due: HandshakeKind::Full })
    }

    /// Whether this handshake came to what is due.
    fn check(&self, session: &ClientConnection) -> Result<(), Failure> {
        let (kind, protocol) = (session.handshake_kind(), session.alpn_protocol());
        if kind == Some(self.due) && protocol == Some(ALPN) {
            return Ok(());
        }
        let protocol = protocol.map(String::from_utf8_lossy);
        Err(Failure::Tls {
            due: format!("{:?}", self.due),
            got: format!("{kind:?} with {protocol:?}"),
        })
    }
}

/// Accepts one certificate.
#[derive(Debug)]
struct Pin {
    certificate: CertificateDer<'static>,
    /// Signatures made by it.
    seen: AtomicU64,
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *end_entity == self.certificate {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::UnknownIssuer.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(CertificateError::BadSignature.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if !self.seen.fetch_add(1, Ordering::Relaxed).is_multiple_of(SIGNATURES_PER_CHECK) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = provider::default_provider().signature_verification_algorithms;
        verify_tls13_signature(message, cert, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// The tickets of all clients, each used once, the oldest first. The store that comes with rustls keeps eight, fewer than there are clients.
#[derive(Debug, Default)]
struct Tickets {
    kept: Mutex<VecDeque<Tls13ClientSessionValue>>,
}

impl Tickets {
    fn kept(&self) -> MutexGuard<'_, VecDeque<Tls13ClientSessionValue>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        let mut kept = self.kept();
        if kept.len() < TICKETS_MAX {
            kept.push_back(ticket);
        }
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.kept().pop_front()
    }
}

/// The client's end of a connection over TLS.
pub(super) struct Client {
    session: ClientConnection,
    stage: Stage,
}

/// What it is doing; as the roles of an end without TLS.
enum Stage {
    /// The TLS handshake is under way.
    Shaking(Purpose),
    /// The request is sent; what has come of the answer's head.
    Asking(Purpose, Vec<u8>),
    /// A message and its echo.
    Echo(Exchange),
    /// Sends the pattern from this offset on.
    Source(u64),
    /// Takes the pattern from this offset on.
    Sink(u64),
}

impl Client {
    /// Whether its work can be long.
    pub(super) fn is_bulk(&self) -> bool {
        matches!(self.stage, Stage::Source(_) | Stage::Sink(_))
    }

    /// Sends the next message when it waits for none; whether it did.
    pub(super) fn ping(&mut self, socket: &OwnedFd) -> Result<bool, Failure> {
        match &mut self.stage {
            Stage::Echo(exchange) if !exchange.waiting => {
                send_all(&mut self.session, socket, exchange.next(), "send of a message")?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

impl Load {
    /// Client: connected, so the TLS handshake begins.
    pub(super) fn begin_tls(
        &self,
        slot: usize,
        socket: &OwnedFd,
        terms: &Terms,
        purpose: Purpose,
    ) -> Result<Next, Failure> {
        let mut session = ClientConnection::new(Arc::clone(&terms.config), terms.host.clone())
            .map_err(io::Error::other)
            .doing("TLS handshake")?;
        send_all(&mut session, socket, &[], "send of a ClientHello")?;
        self.watch(slot, socket, EventFlags::IN)?;
        Ok(keep(session, Stage::Shaking(purpose)))
    }

    /// Client: what the socket is ready for.
    pub(super) fn advance_tls(
        &mut self,
        slot: usize,
        socket: &OwnedFd,
        client: Client,
    ) -> Result<Next, Failure> {
        let Client { session, stage } = client;
        match stage {
            Stage::Shaking(purpose) => self.shake(socket, session, purpose),
            Stage::Asking(purpose, head) => {
                self.await_101_tls(slot, socket, session, purpose, head)
            }
            Stage::Echo(exchange) => self.take_echo_tls(socket, session, exchange),
            Stage::Source(offset) => self.pour_tls(slot, socket, session, offset),
            Stage::Sink(offset) => self.drain_tls(socket, session, offset),
        }
    }

    /// The TLS handshake; the request goes out together with its end.
    fn shake(
        &mut self,
        socket: &OwnedFd,
        mut session: ClientConnection,
        purpose: Purpose,
    ) -> Result<Next, Failure> {
        pull(&mut session, socket, &mut self.scratch, |_| {
            Err(Failure::Corrupt { kind: KIND, at: 0 })
        })?;
        if session.is_handshaking() {
            send_all(&mut session, socket, &[], "send of a TLS handshake")?;
            return Ok(keep(session, Stage::Shaking(purpose)));
        }
        if let Some(terms) = &self.tls {
            terms.check(&session)?;
        }
        let request = head::request(purpose.application(), &self.fields.next()?);
        send_all(&mut session, socket, request.as_bytes(), "send of a request")?;
        Ok(keep(session, Stage::Asking(purpose, Vec::new())))
    }

    fn await_101_tls(
        &mut self,
        slot: usize,
        socket: &OwnedFd,
        mut session: ClientConnection,
        purpose: Purpose,
        mut head: Vec<u8>,
    ) -> Result<Next, Failure> {
        pull(&mut session, socket, &mut self.scratch, |content| {
            head.extend_from_slice(content);
            Ok(())
        })?;
        let Some(end) = head::end(&head) else {
            return if head.len() > HEAD_BYTES_MAX {
                Err(no_101(&head))
            } else {
                Ok(keep(session, Stage::Asking(purpose, head)))
            };
        };
        if !head::accepted(&head[..end]) {
            return Err(no_101(&head));
        }
        self.counts.opened += 1;
        match purpose {
            Purpose::Handshake(close) => {
                self.counts.closed += 1;
                match close {
                    Close::Reset => sockopt::set_socket_linger(socket, Some(Duration::ZERO))
                        .doing("SO_LINGER")?,
                    Close::Fin => {
                        session.send_close_notify();
                        send_all(&mut session, socket, &[], "send of an end")?;
                    }
                }
                if self.orders.reopen {
                    self.open(purpose)?;
                }
                Ok(Next::Close)
            }
            Purpose::Refusal => Err(no_101(&head)),
            Purpose::Echo => {
                let mut exchange = Exchange::new(slot);
                send_all(&mut session, socket, exchange.next(), "send of a message")?;
                Ok(keep(session, Stage::Echo(exchange)))
            }
            Purpose::Download => {
                let early = &head[end..];
                self.pattern.check("a bulk tunnel", 0, early)?;
                self.counts.sunk_bytes += early.len() as u64;
                self.counts.verified_bytes += early.len() as u64;
                Ok(keep(session, Stage::Sink(early.len() as u64)))
            }
            Purpose::Upload => {
                self.watch(slot, socket, EventFlags::OUT)?;
                Ok(keep(session, Stage::Source(0)))
            }
        }
    }

    fn take_echo_tls(
        &mut self,
        socket: &OwnedFd,
        mut session: ClientConnection,
        mut exchange: Exchange,
    ) -> Result<Next, Failure> {
        let mut complete = None;
        pull(&mut session, socket, &mut self.scratch, |content| {
            complete = exchange.take(content)?;
            Ok(())
        })?;
        if let Some(time) = complete {
            self.counts.echoes += 1;
            if self.orders.time_each {
                self.times.push(time);
            }
            if self.orders.ping {
                send_all(&mut session, socket, exchange.next(), "send of a message")?;
            }
        }
        Ok(keep(session, Stage::Echo(exchange)))
    }

    /// One piece of the pattern, once the one before has gone.
    fn pour_tls(
        &mut self,
        slot: usize,
        socket: &OwnedFd,
        mut session: ClientConnection,
        mut offset: u64,
    ) -> Result<Next, Failure> {
        if flush(&mut session, socket).doing("send on a bulk tunnel")? {
            if self.orders.send {
                let piece = self.pattern.piece(offset);
                let sent = session.writer().write(piece).doing("encryption")? as u64;
                self.counts.sourced_bytes += sent;
                offset += sent;
                flush(&mut session, socket).doing("send on a bulk tunnel")?;
            } else {
                self.watch(slot, socket, EventFlags::empty())?;
            }
        }
        Ok(keep(session, Stage::Source(offset)))
    }

    /// What is there, compared or only counted; deciphering authenticates it in either case.
    fn drain_tls(
        &mut self,
        socket: &OwnedFd,
        mut session: ClientConnection,
        mut offset: u64,
    ) -> Result<Next, Failure> {
        pull(&mut session, socket, &mut self.scratch, |content| {
            let bytes = content.len() as u64;
            if self.orders.verify {
                self.pattern.check("a bulk tunnel", offset, content)?;
                self.counts.verified_bytes += bytes;
            }
            self.counts.sunk_bytes += bytes;
            offset += bytes;
            Ok(())
        })?;
        Ok(keep(session, Stage::Sink(offset)))
    }
}

fn keep(session: ClientConnection, stage: Stage) -> Next {
    Next::Keep(Role::Tls(Box::new(Client { session, stage })))
}

/// Reads once and gives every piece of content to `take`.
fn pull(
    session: &mut ClientConnection,
    socket: &OwnedFd,
    scratch: &mut [u8],
    mut take: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let Some(received) = receive(socket, scratch, RecvFlags::empty())? else {
        return Ok(());
    };
    let mut left = &scratch[..received];
    if left.is_empty() {
        return Err(Failure::Ended { kind: KIND });
    }
    while !left.is_empty() {
        session.read_tls(&mut left).doing("TLS")?;
        let state = session.process_new_packets().map_err(io::Error::other).doing("TLS")?;
        if state.peer_has_closed() {
            return Err(Failure::Ended { kind: KIND });
        }
        let mut ready = state.plaintext_bytes_to_read();
        while ready > 0 {
            let mut reader = session.reader();
            let content = reader.fill_buf().doing("TLS")?;
            let bytes = content.len();
            take(content)?;
            reader.consume(bytes);
            ready -= bytes;
        }
    }
    Ok(())
}

/// Sends what always fits into an empty socket buffer, after what the session itself has to say.
fn send_all(
    session: &mut ClientConnection,
    socket: &OwnedFd,
    bytes: &[u8],
    doing: &'static str,
) -> Result<(), Failure> {
    session.writer().write_all(bytes).doing(doing)?;
    if flush(session, socket).doing(doing)? {
        Ok(())
    } else {
        Err(Failure::Late { waiting_for: "room for a small message" })
    }
}

/// Sends ciphertext; whether all of it has gone.
fn flush(session: &mut ClientConnection, socket: &OwnedFd) -> io::Result<bool> {
    while session.wants_write() {
        match session.write_tls(&mut Ciphertext(socket)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// The socket as rustls writes to it.
struct Ciphertext<'s>(&'s OwnedFd);

impl Write for Ciphertext<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(rustix::io::writev(self.0, pieces)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
