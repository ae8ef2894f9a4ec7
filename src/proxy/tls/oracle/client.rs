//! A client that rustls plays with its buffered interface, as the session does not. It trusts every certificate, and it can
//! put TLS 1.3 records on the wire that rustls alone never sends.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConnection, Resumption};
use rustls::crypto::aws_lc_rs as provider;
use rustls::crypto::cipher::{
    AeadKey, Iv, MessageDecrypter, MessageEncrypter, OutboundChunks, OutboundOpaqueMessage,
    OutboundPlainMessage, Tls13AeadAlgorithm, UnsupportedOperationError,
};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ConnectionTrafficSecrets, ContentType, DigitallySignedStruct, Error,
    SignatureScheme, SupportedCipherSuite, Tls13CipherSuite, version,
};

/// What is done to the next record of TLS 1.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Trick {
    Nothing,
    /// So many records without content go before it.
    EmptyBefore(u8),
    /// Its content comes in two records, the first of which has so much of it.
    Cut(usize),
    /// It says that it is of the handshake.
    AsHandshake,
}

thread_local! {
    static TRICK: Cell<Trick> = const { Cell::new(Trick::Nothing) };
    /// Records that go before those of rustls.
    static BEFORE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// How a client begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Greeting {
    pub(in super::super) is_tls12: bool,
    pub(in super::super) resumes: bool,
    pub(in super::super) has_alpn: bool,
}

/// The clients of one thread; those that resume share their tickets.
pub(in super::super) struct Clients(Vec<(Greeting, Arc<ClientConfig>)>);

impl Clients {
    pub(in super::super) fn new() -> Result<Self, Error> {
        let provider = Arc::new(provider());
        let mut clients = Vec::new();
        for bits in 0_u8..8 {
            let greeting = Greeting {
                is_tls12: bits & 1 != 0,
                resumes: bits & 2 != 0,
                has_alpn: bits & 4 != 0,
            };
            let versions = if greeting.is_tls12 { &[&version::TLS12] } else { &[&version::TLS13] };
            let verifier = TrustsAll(provider.signature_verification_algorithms);
            let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(versions)?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
                .with_no_client_auth();
            config.resumption = if greeting.resumes {
                Resumption::in_memory_sessions(4)
            } else {
                Resumption::disabled()
            };
            if greeting.has_alpn {
                config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            }
            clients.push((greeting, Arc::new(config)));
        }
        Ok(Self(clients))
    }

    pub(in super::super) fn greet(&self, greeting: Greeting) -> Result<ClientConnection, String> {
        let found = self.0.iter().find(|(kind, _)| *kind == greeting);
        let (_, config) = found.ok_or("no such client")?;
        let name = ServerName::try_from("localhost").map_err(|error| error.to_string())?;
        ClientConnection::new(Arc::clone(config), name).map_err(|error| error.to_string())
    }
}

/// Lets the client `act` with a `trick`, and puts all that it then sends on the wire.
pub(in super::super) fn act(
    client: &mut ClientConnection,
    trick: Trick,
    act: impl FnOnce(&mut ClientConnection),
) -> Vec<u8> {
    let mut later = Vec::new();
    put_on(client, &mut later);
    TRICK.set(trick);
    act(client);
    TRICK.set(Trick::Nothing);
    let mut out = later;
    out.append(&mut BEFORE.take());
    put_on(client, &mut out);
    out
}

fn put_on(client: &mut ClientConnection, out: &mut Vec<u8>) {
    while client.wants_write() {
        if client.write_tls(out).is_err() {
            return;
        }
    }
}

/// One record of content, unless there is less room.
pub(in super::super) fn write(client: &mut ClientConnection, bytes: &[u8]) -> usize {
    client.writer().write(bytes).unwrap_or(0)
}

/// How the client's input looks.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) enum Input {
    Open,
    /// `close_notify` has come.
    Ended,
    Failed(Error),
}

/// The client takes ciphertext and gives the plaintext in it to `out`.
pub(in super::super) fn take(
    client: &mut ClientConnection,
    mut bytes: VecDeque<u8>,
    out: &mut Vec<u8>,
) -> Input {
    let mut failure = None;
    while !bytes.is_empty() && failure.is_none() {
        if client.read_tls(&mut bytes).is_err() {
            break;
        }
        failure = client.process_new_packets().err();
        let mut content = vec![0; 20 * 1024];
        loop {
            match client.reader().read(&mut content) {
                Ok(0) => return Input::Ended,
                Ok(read) => out.extend_from_slice(content.get(..read).unwrap_or_default()),
                Err(_) => break,
            }
        }
    }
    failure.map_or(Input::Open, Input::Failed)
}

/// One suite of each version; that of TLS 1.3 knows the tricks. It lives as long as its thread's oracle, which is as long as
/// the process.
fn provider() -> CryptoProvider {
    let base = provider::default_provider();
    let mut cipher_suites = vec![provider::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256];
    if let SupportedCipherSuite::Tls13(suite) = provider::cipher_suite::TLS13_AES_128_GCM_SHA256 {
        let tricky: &'static Tricky = Box::leak(Box::new(Tricky(suite.aead_alg)));
        let suite: &'static Tls13CipherSuite = Box::leak(Box::new(Tls13CipherSuite {
            common: provider_common(suite),
            hkdf_provider: suite.hkdf_provider,
            aead_alg: tricky,
            quic: None,
        }));
        cipher_suites.push(SupportedCipherSuite::Tls13(suite));
    }
    CryptoProvider { cipher_suites, ..base }
}

fn provider_common(suite: &Tls13CipherSuite) -> rustls::crypto::CipherSuiteCommon {
    let common = &suite.common;
    rustls::crypto::CipherSuiteCommon {
        suite: common.suite,
        hash_provider: common.hash_provider,
        confidentiality_limit: common.confidentiality_limit,
    }
}

struct Tricky(&'static dyn Tls13AeadAlgorithm);

impl Tls13AeadAlgorithm for Tricky {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        Box::new(TrickyEncrypter { inner: self.0.encrypter(key, iv), more: 0 })
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        self.0.decrypter(key, iv)
    }

    fn key_len(&self) -> usize {
        self.0.key_len()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.0.extract_keys(key, iv)
    }
}

struct TrickyEncrypter {
    inner: Box<dyn MessageEncrypter>,
    /// Records with these keys that rustls does not know of.
    more: u64,
}

impl TrickyEncrypter {
    fn before(
        &mut self,
        typ: ContentType,
        payload: OutboundChunks<'_>,
        seq: u64,
    ) -> Result<(), Error> {
        let message = OutboundPlainMessage { typ, version: version(), payload };
        let record = self.inner.encrypt(message, seq + self.more)?.encode();
        self.more += 1;
        BEFORE.with_borrow_mut(|before| before.extend_from_slice(&record));
        Ok(())
    }
}

fn version() -> rustls::ProtocolVersion {
    rustls::ProtocolVersion::TLSv1_2
}

impl MessageEncrypter for TrickyEncrypter {
    fn encrypt(
        &mut self,
        mut message: OutboundPlainMessage<'_>,
        seq: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        match TRICK.replace(Trick::Nothing) {
            Trick::Nothing => {}
            Trick::EmptyBefore(records) => {
                for _ in 0..records {
                    self.before(ContentType::ApplicationData, OutboundChunks::new_empty(), seq)?;
                }
            }
            Trick::Cut(at) => {
                let at = at.min(message.payload.len().saturating_sub(1));
                let (first, rest) = message.payload.split_at(at);
                self.before(message.typ, first, seq)?;
                message.payload = rest;
            }
            Trick::AsHandshake => message.typ = ContentType::Handshake,
        }
        self.inner.encrypt(message, seq + self.more)
    }

    fn encrypted_payload_len(&self, payload_len: usize) -> usize {
        self.inner.encrypted_payload_len(payload_len)
    }
}

/// Looks at signatures alone.
#[derive(Debug)]
struct TrustsAll(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for TrustsAll {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
