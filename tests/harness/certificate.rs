//! Certificates that tests make for a proxy, as PEM files.

use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SignatureAlgorithm,
};

use super::setup::{Scratch, Setup};

/// A chain and the key that belongs to it, both as PEM.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) chain: String,
    pub(crate) key: String,
    /// The first certificate of the chain, as clients see it.
    pub(crate) leaf: Vec<u8>,
    /// What a client has to trust, as PEM.
    pub(crate) authority: String,
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<String> =
        text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

impl Pair {
    /// A leaf for `localhost` and `127.0.0.1` under an authority of its own; the chain holds both.
    pub(crate) fn new(algorithm: &'static SignatureAlgorithm) -> Self {
        let key = |algorithm| KeyPair::generate_for(algorithm).expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        let authority_key = key(&rcgen::PKCS_ECDSA_P256_SHA256);
        let authority = params.self_signed(&authority_key).expect("an authority");
        let issuer = Issuer::new(params, authority_key);
        let key = key(algorithm);
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut leaf = CertificateParams::new(names).expect("names");
        leaf.use_authority_key_identifier_extension = true;
        let leaf = leaf.signed_by(&key, &issuer).expect("a leaf");
        Self {
            chain: [leaf.der(), authority.der()].map(|der| pem("CERTIFICATE", der)).concat(),
            key: pem("PRIVATE KEY", &key.serialize_der()),
            leaf: leaf.der().to_vec(),
            authority: pem("CERTIFICATE", authority.der()),
        }
    }

    pub(crate) fn ecdsa() -> Self {
        Self::new(&rcgen::PKCS_ECDSA_P256_SHA256)
    }

    /// An RSA key of 2048 bits with a self-signed certificate, made by `openssl`.
    pub(crate) fn rsa() -> Self {
        let scratch = Scratch::new();
        let (chain, key) = (scratch.path().join("chain"), scratch.path().join("key"));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"])
            .args([
                "-subj",
                "/CN=localhost",
                "-addext",
                "subjectAltName=DNS:localhost,IP:127.0.0.1",
            ])
            .arg("-out")
            .arg(&chain)
            .arg("-keyout")
            .arg(&key)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(made.expect("openssl").success());
        let read = |path| std::fs::read_to_string(path).expect("a file of openssl");
        let (chain, key) = (read(chain), read(key));
        let body: String = chain.lines().filter(|line| !line.starts_with("---")).collect();
        Self { leaf: STANDARD.decode(body).expect("base64"), authority: chain.clone(), chain, key }
    }

    /// Writes `chain.pem`, `key.pem` and `authority.pem` into a folder, over what is there.
    pub(crate) fn write_into(&self, folder: &Path) {
        std::fs::write(folder.join("chain.pem"), &self.chain).expect("chain.pem");
        std::fs::write(folder.join("key.pem"), &self.key).expect("key.pem");
        std::fs::write(folder.join("authority.pem"), &self.authority).expect("authority.pem");
    }
}

/// The proxy serves the files of [`Pair::write_into`] in this folder.
pub(crate) fn external(setup: Setup, folder: &Path) -> Setup {
    let file = |name: &str| format!("'{}'", folder.join(name).display());
    setup
        .set("tls.enabled", "true")
        .set("tls.provider", "external")
        .set("tls.cert_path", &file("chain.pem"))
        .set("tls.key_path", &file("key.pem"))
}
