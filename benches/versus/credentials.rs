//! What clients prove who they are with in the rows with checks: one API key, and tokens signed RS256 by a key of this sample, whose public
//! half a thread serves as a JWKS (RFC 7517 section 5) and a file holds as PEM.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;

use crate::failure::{Doing as _, Failure};
use crate::load::{Fields, loopback};
use crate::rows::Check;
use crate::sessions::{self, Sessions};

/// The only accepted `iss`.
pub(crate) const ISSUER: &str = "https://issuer.example.test/realms/main";
/// What `aud` contains.
pub(crate) const AUDIENCE: &str = "versus";
/// Port of the JWKS.
pub(crate) const KEYS_PORT: u16 = 9001;
/// Name of the file with the public key, beside the peer's configuration.
pub(crate) const PUBLIC_KEY_FILE: &str = "token-key.pem";

/// The API key of every client.
pub(crate) const KEY: &str = "vw_3c1f9a7e5b2d48860f4e6a91d7c3b5a2e8f01d94";
/// How long a token is good; longer than any sample.
const TOKEN_LIFE: Duration = Duration::from_hours(1);

/// SHA-256 of the API key in upper case, as `HAProxy`'s `hex` writes it.
pub(crate) fn key_hash() -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for byte in digest::digest(&digest::SHA256, KEY.as_bytes()).as_ref() {
        let _ = write!(text, "{byte:02X}");
    }
    text
}

/// What the clients of a row send, and what somebody else would.
pub(crate) struct Credentials {
    /// Fields of good requests, in the order of use.
    pub(crate) good: Fields,
    /// Fields of a request that must be refused; `None` where nobody is asked.
    pub(crate) wrong: Option<String>,
    /// Who is asked about them, where somebody else is.
    pub(crate) sessions: Option<Sessions>,
}

impl Credentials {
    /// Makes them; for tokens, the key set is served and written from now on, and for sessions Kratos is there. `handshakes` is how many will be begun at most.
    pub(crate) fn prepare(check: Check, handshakes: u64, dir: &Path) -> Result<Self, Failure> {
        match check {
            Check::None | Check::Storm => {
                Ok(Self { good: Fields::Same(String::new()), wrong: None, sessions: None })
            }
            Check::Key | Check::Limited => Ok(Self {
                good: Fields::Same(format!("X-API-Key: {KEY}\r\n")),
                wrong: Some(format!("X-API-Key: {KEY}0\r\n")),
                sessions: None,
            }),
            Check::Session => Ok(Self {
                good: Fields::Each((0..handshakes).map(sessions::field).collect()),
                wrong: Some(sessions::wrong_field()),
                sessions: Some(Sessions::serve()?),
            }),
            Check::Token { new } => {
                let issuer = Issuer::new()?;
                fs::write(dir.join(PUBLIC_KEY_FILE), issuer.public_key()?)
                    .doing("write of the public key")?;
                serve(issuer.key_set())?;
                let good = if new {
                    let each: Result<_, _> =
                        (0..handshakes).map(|number| issuer.field(number)).collect();
                    Fields::Each(each?)
                } else {
                    Fields::Same(issuer.field(0)?)
                };
                // Signed by another key that says it is this one.
                Ok(Self { good, wrong: Some(Issuer::new()?.field(0)?), sessions: None })
            }
        }
    }
}

/// Who signs tokens.
struct Issuer {
    pair: RsaKeyPair,
}

impl Issuer {
    fn new() -> Result<Self, Failure> {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048)
            .map_err(io::Error::other)
            .doing("generation of a key")?;
        Ok(Self { pair })
    }

    /// The field with a token of some 500 bytes; each number gives another.
    fn field(&self, number: u64) -> Result<String, Failure> {
        let now = SystemTime::UNIX_EPOCH.elapsed().map_err(io::Error::other).doing("clock")?;
        let header = json!({ "alg": "RS256", "typ": "JWT", "kid": "versus" });
        let claims = json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": format!("user-{number}"),
            "iat": now.as_secs(), "exp": (now + TOKEN_LIFE).as_secs(),
        });
        let text = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", text(&header), text(&claims));
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
            .map_err(io::Error::other)
            .doing("signature of a token")?;
        Ok(format!("Authorization: Bearer {signed}.{}\r\n", URL_SAFE_NO_PAD.encode(signature)))
    }

    fn key_set(&self) -> String {
        let public = RsaPublicKeyComponents::<Vec<u8>>::from(self.pair.public_key());
        let text = |number: &[u8]| URL_SAFE_NO_PAD.encode(number);
        json!({ "keys": [{
            "kty": "RSA", "use": "sig", "alg": "RS256", "kid": "versus", "n": text(&public.n), "e": text(&public.e),
        }] })
        .to_string()
    }

    /// The public key as `SubjectPublicKeyInfo` (RFC 7468 section 13).
    fn public_key(&self) -> Result<String, Failure> {
        let der = self
            .pair
            .public_key()
            .as_der()
            .map_err(io::Error::other)
            .doing("encoding of the public key")?;
        Ok(pem("PUBLIC KEY", der.as_ref()))
    }
}

/// The textual encoding of RFC 7468.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// Answers every request with the key set, on a thread that ends with the sample.
fn serve(key_set: String) -> Result<(), Failure> {
    let listener = TcpListener::bind(loopback(KEYS_PORT)).doing("bind of the key set")?;
    thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let mut head = [0; 4096];
            // A proxy that does not get its keys fails the row by itself.
            let _ = socket.read(&mut head).and_then(|_| {
                write!(
                    socket,
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{key_set}",
                    key_set.len()
                )
            });
        }
    });
    Ok(())
}
