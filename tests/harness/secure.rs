//! A provider of identities that speaks TLS, with a certificate of an authority that nobody knows unless a test says so.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, Stream};

use super::http::Head;
use super::payload::find;
use super::peer::Peer;
use super::upstream::{Serving, Upstream};

/// Who signs certificates.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        Self { issuer }
    }

    /// Its own certificate as PEM.
    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A server with a certificate for this name or address, good until the end of that year.
    pub(crate) fn certify(&self, name: &str, last_year: i32) -> Arc<ServerConfig> {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        params.not_after = date_time_ymd(last_year, 12, 31);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions of TLS")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("a certificate with its key");
        Arc::new(config)
    }
}

/// A running provider; stopped when dropped.
pub(crate) struct SecureProvider {
    serving: Serving,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    bodies: Mutex<HashMap<String, String>>,
    asked: Mutex<Vec<Head>>,
}

impl SecureProvider {
    /// Knows no path yet: everything is 404.
    pub(crate) fn start(config: Arc<ServerConfig>) -> Self {
        let shared = Arc::new(Shared::default());
        let serving = Upstream::start().serve({
            let shared = Arc::clone(&shared);
            move |peer| shared.play(&peer, &config)
        });
        Self { serving, shared }
    }

    pub(crate) fn url(&self) -> String {
        self.serving.url().replace("http://", "https://")
    }

    /// From now on this path gets 200 with this JSON.
    pub(crate) fn say(&self, path: &str, body: String) {
        let mut bodies = self.shared.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        bodies.insert(path.to_owned(), body);
    }

    /// Heads of the requests so far.
    pub(crate) fn asked(&self) -> Vec<Head> {
        self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Shared {
    /// Answers the requests of one connection, which have no bodies, until it ends or is no TLS.
    fn play(&self, peer: &Peer, config: &Arc<ServerConfig>) {
        let socket = peer.socket();
        socket.set_read_timeout(None).expect("SO_RCVTIMEO");
        let mut plain = &*socket;
        let mut session = ServerConnection::new(Arc::clone(config)).expect("a session");
        let mut stream = Stream::new(&mut session, &mut plain);
        let (mut arrived, mut chunk) = (Vec::new(), [0; 4096]);
        loop {
            let Some(end) = find(&arrived, b"\r\n\r\n") else {
                match stream.read(&mut chunk) {
                    Ok(0) | Err(_) => return,
                    Ok(count) => arrived.extend_from_slice(&chunk[..count]),
                }
                continue;
            };
            let rest = arrived.split_off(end + 4);
            let head = Head::parse(&std::mem::replace(&mut arrived, rest));
            let path = head.line.split(' ').nth(1).unwrap_or_default().to_owned();
            self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(head);
            let body =
                self.bodies.lock().unwrap_or_else(PoisonError::into_inner).get(&path).cloned();
            let status = if body.is_some() { 200 } else { 404 };
            let body = body.unwrap_or_default();
            let length = body.len();
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{body}");
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}
