//! The certificate that every peer serves in the rows over TLS: ECDSA on P-256, signed by itself, one for each sample.

use std::fs;
use std::io;
use std::path::Path;

use rustls::pki_types::CertificateDer;

use crate::credentials::pem;
use crate::failure::{Doing as _, Failure};

/// Host that clients ask for, in TLS and in their requests.
pub(crate) const HOST: &str = "chat.example.com";
/// Name of the file with the certificate, beside the peer's configuration.
pub(crate) const CHAIN_FILE: &str = "certificate.pem";
/// Name of the file with its private key.
pub(crate) const KEY_FILE: &str = "certificate-key.pem";
/// Name of the file with both.
pub(crate) const CHAIN_AND_KEY_FILE: &str = "certificate-and-key.pem";

/// Makes it and writes its files to `dir`.
pub(crate) fn make(dir: &Path) -> Result<CertificateDer<'static>, Failure> {
    const DOING: &str = "making of the certificate";
    let made = rcgen::generate_simple_self_signed([HOST.to_owned()])
        .map_err(io::Error::other)
        .doing(DOING)?;
    let chain = pem("CERTIFICATE", made.cert.der());
    let key = pem("PRIVATE KEY", &made.signing_key.serialize_der());
    fs::write(dir.join(CHAIN_AND_KEY_FILE), format!("{chain}{key}")).doing(DOING)?;
    fs::write(dir.join(CHAIN_FILE), chain).doing(DOING)?;
    fs::write(dir.join(KEY_FILE), key).doing(DOING)?;
    Ok(made.cert.der().clone())
}
