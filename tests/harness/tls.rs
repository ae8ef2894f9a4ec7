//! TLS as a client speaks it, over a connected socket: rustls, with the order of every step in the hand of the test.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme,
    SupportedProtocolVersion,
};
use socket2::Socket;

use super::peer::is_deadline;

/// Most that is encrypted at once.
const WRITE_BYTES: usize = 64 * 1024;

/// One TLS connection, shared by the handles on its socket. Reading and writing do not wait for each other.
pub(crate) struct Secured {
    state: Mutex<State>,
    /// Ciphertext that the kernel has not taken. Locked before the state, so that records leave in their order.
    outgoing: Mutex<Vec<u8>>,
}

struct State {
    connection: ClientConnection,
    plaintext: VecDeque<u8>,
    /// Says nothing more, not even that it ends.
    is_silent: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Secured {
    /// Shakes hands over a blocking socket.
    pub(crate) fn shake(socket: &Socket, config: Arc<ClientConfig>) -> io::Result<Self> {
        let name = ServerName::try_from("localhost").expect("a name");
        let mut connection = ClientConnection::new(config, name).expect("a client");
        connection.set_buffer_limit(None);
        let mut carrier = socket;
        while connection.is_handshaking() || connection.wants_write() {
            connection.complete_io(&mut carrier)?;
        }
        let state = State { connection, plaintext: VecDeque::new(), is_silent: false };
        Ok(Self { state: Mutex::new(state), outgoing: Mutex::default() })
    }

    /// Asks or tells the connection itself.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut ClientConnection) -> T) -> T {
        act(&mut lock(&self.state).connection)
    }

    /// Reads plaintext; `Ok(0)` is `close_notify`, `UnexpectedEof` an end without it.
    pub(crate) fn read(&self, socket: &Socket, into: &mut [u8]) -> io::Result<usize> {
        let mut chunk = vec![0; 32 * 1024];
        loop {
            let mut state = lock(&self.state);
            let has_ended = state.decrypt(&mut &[][..]);
            if !state.plaintext.is_empty() {
                return state.plaintext.read(into);
            }
            if has_ended? {
                return Ok(0);
            }
            drop(state);
            let count = (&*socket).read(&mut chunk)?;
            let mut state = lock(&self.state);
            if count == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            // An error shows in the next round, behind the plaintext before it.
            let _shows_later = state.decrypt(&mut &chunk[..count]);
        }
    }

    /// Plaintext that was decrypted and not read.
    pub(crate) fn has_plaintext(&self) -> bool {
        !lock(&self.state).plaintext.is_empty()
    }

    /// Encrypts bytes and sends them as far as the kernel takes them; the rest goes before the next bytes. Says how many it
    /// has encrypted.
    pub(crate) fn write(&self, socket: &Socket, bytes: &[u8]) -> io::Result<usize> {
        let mut outgoing = lock(&self.outgoing);
        send(socket, &mut outgoing)?;
        let now = &bytes[..bytes.len().min(WRITE_BYTES)];
        lock(&self.state).encrypt(&mut outgoing, |connection| {
            connection.writer().write_all(now).expect("no limit");
        });
        match send(socket, &mut outgoing) {
            Err(error) if !is_deadline(&error) => Err(error),
            _ => Ok(now.len()),
        }
    }

    /// Sends what the kernel has not taken.
    pub(crate) fn flush(&self, socket: &Socket) -> io::Result<()> {
        send(socket, &mut lock(&self.outgoing))
    }

    /// Sends what the kernel has not taken, as far as it takes it now; true when nothing is left.
    pub(crate) fn flush_now(&self, socket: &Socket) -> io::Result<bool> {
        let mut outgoing = lock(&self.outgoing);
        while !outgoing.is_empty() {
            match socket.send_with_flags(&outgoing, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) {
                Ok(count) => drop(outgoing.drain(..count)),
                Err(error) if is_deadline(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Asks for new keys of both directions (TLS 1.3), in order with the bytes around.
    pub(crate) fn refresh_keys(&self, socket: &Socket) -> io::Result<()> {
        let mut outgoing = lock(&self.outgoing);
        lock(&self.state).encrypt(&mut outgoing, |connection| {
            connection.refresh_traffic_keys().expect("TLS 1.3");
        });
        send(socket, &mut outgoing)
    }

    /// Ends our direction with `close_notify`.
    pub(crate) fn end(&self, socket: &Socket) -> io::Result<()> {
        let mut outgoing = lock(&self.outgoing);
        lock(&self.state).end(&mut outgoing);
        send(socket, &mut outgoing)
    }

    /// [`end`](Self::end) as far as the kernel takes it at once, for a client that goes.
    pub(crate) fn end_at_once(&self, socket: &Socket) {
        lock(&self.state).end(&mut lock(&self.outgoing));
        let _as_far_as_it_goes = self.flush_now(socket);
    }

    /// Whatever ends this connection, it does so without `close_notify`.
    pub(crate) fn fall_silent(&self) {
        lock(&self.state).is_silent = true;
    }
}

impl State {
    /// Decrypts ciphertext; true when the other side has said `close_notify`.
    fn decrypt(&mut self, bytes: &mut &[u8]) -> io::Result<bool> {
        loop {
            if !bytes.is_empty() {
                self.connection.read_tls(bytes)?;
            }
            let state = self.connection.process_new_packets().map_err(invalid)?;
            let mut chunk = vec![0; state.plaintext_bytes_to_read()];
            if !chunk.is_empty() {
                self.connection.reader().read_exact(&mut chunk)?;
                self.plaintext.extend(&chunk);
            }
            if bytes.is_empty() {
                return Ok(state.peer_has_closed());
            }
        }
    }

    fn encrypt(&mut self, outgoing: &mut Vec<u8>, make: impl FnOnce(&mut ClientConnection)) {
        make(&mut self.connection);
        while self.connection.wants_write() {
            self.connection.write_tls(outgoing).expect("memory takes everything");
        }
    }

    fn end(&mut self, outgoing: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.is_silent, true) {
            self.encrypt(outgoing, |connection| connection.send_close_notify());
        }
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}

fn send(socket: &Socket, outgoing: &mut Vec<u8>) -> io::Result<()> {
    while !outgoing.is_empty() {
        match (&*socket).write(outgoing) {
            Ok(count) => drop(outgoing.drain(..count)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// TLS 1.3 alone.
pub(crate) const ONLY_13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// TLS 1.2 alone.
pub(crate) const ONLY_12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];

/// A client that trusts every certificate whose key the server has, resumes nothing, and says nothing about protocols.
pub(crate) fn client(versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("versions that the provider has")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting::new()))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config
}

/// Trusts every certificate whose key the server has.
#[derive(Debug)]
pub(crate) struct Trusting(Arc<CryptoProvider>);

impl Trusting {
    pub(crate) fn new() -> Self {
        Self(Arc::new(aws_lc_rs::default_provider()))
    }
}

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
