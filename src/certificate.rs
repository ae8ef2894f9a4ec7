//! The certificate that clients of a TLS listener see: made in memory, or read from files, and the terms on which rustls
//! offers it. Called by `config` (files), `server` (start) and `control` (reload); the cores read the result as a snapshot.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{NoServerSessionStorage, ProducesTickets, ServerConfig};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::clock;
use crate::metrics::ControlMetrics;
use crate::published::Published;

/// Largest file of a chain or a key.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// From here on the operator log warns of the end of a certificate that is read from files.
const ENDS_SOON: Duration = Duration::from_hours(24 * 14);

/// A chain with the private key that belongs to it.
#[derive(Clone)]
pub struct Certificate {
    certified: Arc<CertifiedKey>,
    /// The last moment of its validity.
    not_after: SystemTime,
    /// Of the files it came from.
    digest: Option<FilesDigest>,
}

/// Tells whether files are still those that were read, without keeping a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilesDigest([u8; 32]);

impl FilesDigest {
    /// Of a chain and its key as they are now; `None` when one cannot be read.
    pub fn of(chain: &Path, key: &Path) -> Option<Self> {
        Some(Self::new(&read(chain).ok()?, &read(key).ok()?))
    }

    fn new(chain: &[u8], key: &[u8]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for bytes in [chain, key] {
            context.update(&bytes.len().to_le_bytes());
            context.update(bytes);
        }
        let mut out = [0; 32];
        out.copy_from_slice(context.finish().as_ref());
        Self(out)
    }
}

/// Which of the two files is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateFile {
    /// `tls.cert_path`
    Chain,
    /// `tls.key_path`
    Key,
}

/// Why a certificate cannot be used.
#[derive(Debug)]
pub enum CertificateError {
    /// A file cannot be read.
    Read(CertificateFile, io::Error),
    /// The chain file holds no certificate in PEM.
    NoCertificate,
    /// The first certificate of the chain is not one.
    BrokenCertificate,
    /// The key file holds no private key in PEM.
    NoKey,
    /// The kind of key is not supported.
    UnusableKey,
    /// The key belongs to another certificate.
    OtherKey,
    /// The self-signed certificate could not be made.
    NotMade(String),
    /// rustls or the system refuses to serve with it.
    NotOffered(String),
}

impl CertificateError {
    /// The file that has to be mended.
    pub fn file(&self) -> CertificateFile {
        match self {
            Self::Read(file, _) => *file,
            Self::NoCertificate
            | Self::BrokenCertificate
            | Self::NotMade(_)
            | Self::NotOffered(_) => CertificateFile::Chain,
            Self::NoKey | Self::UnusableKey | Self::OtherKey => CertificateFile::Key,
        }
    }
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(_, error) => error.fmt(f),
            Self::NoCertificate => write!(f, "it holds no PEM certificate"),
            Self::BrokenCertificate => write!(f, "its first certificate cannot be read"),
            Self::NoKey => write!(f, "it holds no PEM private key"),
            Self::UnusableKey => write!(f, "its private key is not RSA, ECDSA or Ed25519"),
            Self::OtherKey => write!(f, "it does not belong to the certificate in tls.cert_path"),
            Self::NotMade(why) => write!(f, "no self-signed certificate could be made: {why}"),
            Self::NotOffered(why) => write!(f, "it cannot be served: {why}"),
        }
    }
}

impl std::error::Error for CertificateError {}

impl Certificate {
    /// A chain and its key from PEM files.
    ///
    /// # Errors
    /// When a file cannot be read, holds something else, or the two do not belong together.
    pub fn read(chain: &Path, key: &Path) -> Result<Self, CertificateError> {
        let read = |file, path| read(path).map_err(|error| CertificateError::Read(file, error));
        let (chain, key) = (read(CertificateFile::Chain, chain)?, read(CertificateFile::Key, key)?);
        let digest = FilesDigest::new(&chain, &key);
        let chain: Result<Vec<CertificateDer<'static>>, _> =
            CertificateDer::pem_slice_iter(&chain).collect();
        let chain = chain.map_err(|_| CertificateError::BrokenCertificate)?;
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| CertificateError::NoKey)?;
        Ok(Self { digest: Some(digest), ..Self::new(chain, &key)? })
    }

    /// A new one for `domain`, which every client has to be told to trust. It is good for ten years and for as long as
    /// the process lives.
    ///
    /// # Errors
    /// When `domain` cannot stand in a certificate.
    pub fn self_signed(domain: &str) -> Result<Self, CertificateError> {
        let not_made = |error: rcgen::Error| CertificateError::NotMade(error.to_string());
        let mut names = vec![domain.to_owned()];
        if domain == "localhost" {
            names.extend(["127.0.0.1".to_owned(), "::1".to_owned()]);
        }
        let mut params = rcgen::CertificateParams::new(names).map_err(not_made)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, domain);
        let now = clock::wall();
        let year = i32::from(now.to_zoned(jiff::tz::TimeZone::UTC).year());
        params.not_before = rcgen::date_time_ymd(year - 1, 1, 1);
        params.not_after = rcgen::date_time_ymd(year + 10, 1, 1);
        let key = rcgen::KeyPair::generate().map_err(not_made)?;
        let certificate = params.self_signed(&key).map_err(not_made)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        Self::new(vec![certificate.der().clone()], &key.into())
    }

    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKeyDer<'_>,
    ) -> Result<Self, CertificateError> {
        let leaf = chain.first().ok_or(CertificateError::NoCertificate)?;
        let (_, parsed) =
            X509Certificate::from_der(leaf).map_err(|_| CertificateError::BrokenCertificate)?;
        let not_after = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        let key =
            provider::sign::any_supported_type(key).map_err(|_| CertificateError::UnusableKey)?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) => {}
            Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
                return Err(CertificateError::OtherKey);
            }
            Err(_) => return Err(CertificateError::BrokenCertificate),
        }
        let not_after = UNIX_EPOCH + Duration::from_secs(not_after);
        Ok(Self { certified: Arc::new(certified), not_after, digest: None })
    }

    /// The files it was read from.
    pub fn digest(&self) -> Option<FilesDigest> {
        self.digest
    }
}

/// The same chain is the same certificate; its key cannot be another one.
impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.certified.cert == other.certified.cert
    }
}

/// The key is a secret.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate(chain of {})", self.certified.cert.len())
    }
}

/// A FIFO or a device may never end.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(bytes)
}

/// How the certificate in force is offered to clients. All certificates of a process share the keys of session tickets, so
/// that a session goes on at any core and after a renewal.
#[derive(Debug, Clone)]
pub struct Offer {
    tickets: Arc<dyn ProducesTickets>,
    crypto: Arc<CryptoProvider>,
    current: Published<ServerConfig>,
    metrics: Arc<ControlMetrics>,
}

impl Offer {
    /// The first offer of a process. Tells `metrics` and the operator log when the certificate ends.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub fn new(
        certificate: &Certificate,
        metrics: Arc<ControlMetrics>,
    ) -> Result<Self, CertificateError> {
        let failed = |error: rustls::Error| CertificateError::NotOffered(error.to_string());
        let tickets = provider::Ticketer::new().map_err(failed)?;
        let crypto = Arc::new(crypto());
        let current = Published::new(terms(&tickets, &crypto, certificate).map_err(failed)?);
        let offer = Self { tickets, crypto, current, metrics };
        offer.tell_end(certificate);
        Ok(offer)
    }

    /// Offers another certificate from the next handshake on; connections that are open keep theirs.
    ///
    /// # Errors
    /// None that a running system could meet.
    pub fn renew(&self, certificate: &Certificate) -> Result<(), CertificateError> {
        let terms = terms(&self.tickets, &self.crypto, certificate);
        self.current
            .publish(terms.map_err(|error| CertificateError::NotOffered(error.to_string()))?);
        self.tell_end(certificate);
        Ok(())
    }

    fn tell_end(&self, certificate: &Certificate) {
        let seconds = certificate.not_after.duration_since(UNIX_EPOCH).map_or(0, |at| at.as_secs());
        self.metrics.certificate_not_after.store(seconds, Ordering::Relaxed);
        self.warn_of_end();
    }

    /// Warns the operator when the certificate has ended or will soon.
    pub fn warn_of_end(&self) {
        let end = Duration::from_secs(self.metrics.certificate_not_after.load(Ordering::Relaxed));
        if let Some(warning) = end_warning(UNIX_EPOCH + end, SystemTime::from(clock::wall())) {
            tracing::warn!("{warning}");
        }
    }

    /// What the cores read.
    pub fn current(&self) -> Published<ServerConfig> {
        self.current.clone()
    }
}

/// What the operator is told at `now` about a certificate whose validity ends then.
fn end_warning(not_after: SystemTime, now: SystemTime) -> Option<String> {
    let days = |time: Duration| time.as_secs() / (24 * 3600);
    match not_after.duration_since(now) {
        Ok(left) if left > ENDS_SOON => None,
        Ok(left) => Some(format!("the certificate ends in {} days", days(left))),
        Err(ended) => Some(format!("the certificate ended {} days ago", days(ended.duration()))),
    }
}

/// TLS 1.2 and 1.3, ALPN `http/1.1` alone, resumption by tickets, no early data.
fn terms(
    tickets: &Arc<dyn ProducesTickets>,
    crypto: &Arc<CryptoProvider>,
    certificate: &Certificate,
) -> Result<ServerConfig, rustls::Error> {
    let resolver = SingleCertAndKey::from(Arc::clone(&certificate.certified));
    let mut config = ServerConfig::builder_with_provider(Arc::clone(crypto))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ignore_client_order = true;
    config.ticketer = Arc::clone(tickets);
    // A session goes on by its ticket; a table of them would have a lock.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // A WebSocket client comes back with one connection.
    config.send_tls13_tickets = 1;
    Ok(config)
}

/// The suites in our order: AES-128 first, because it costs least. TLS 1.2 cannot change its keys, and rustls ends an AES
/// connection of it after 2^24 records (RFC 8446 section 5.5); a tunnel must not end for that, so `ChaCha20` comes first there.
fn crypto() -> CryptoProvider {
    use provider::cipher_suite as suites;
    CryptoProvider {
        cipher_suites: vec![
            suites::TLS13_AES_128_GCM_SHA256,
            suites::TLS13_AES_256_GCM_SHA384,
            suites::TLS13_CHACHA20_POLY1305_SHA256,
            suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            suites::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
            suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            suites::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            suites::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        ],
        ..provider::default_provider()
    }
}

#[cfg(test)]
mod tests;
