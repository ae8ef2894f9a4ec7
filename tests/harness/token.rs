//! Tokens that a test signs with keys of its own, well made or forged.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaEncoding, RsaKeyPair, RsaPublicKeyComponents,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

pub(crate) const ISSUER: &str = "https://issuer.test";
pub(crate) const AUDIENCE: &str = "vibewarden";

/// A key pair with its name.
pub(crate) struct Key {
    kid: String,
    algorithm: &'static str,
    pair: Pair,
}

enum Pair {
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Elliptic(EcdsaKeyPair, &'static str),
    Edwards(Ed25519KeyPair),
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// What the configuration knows an API key by.
pub(crate) fn key_hash(key: &str) -> String {
    digest(&SHA256, key.as_bytes()).as_ref().iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a string");
        hex
    })
}

/// Claims that pass, with these members set anew.
pub(crate) fn claims(changed: Value) -> Value {
    merged(
        json!({
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "zoe",
            "iat": now(),
            "exp": now() + 600,
            "email": "zoe@example.test",
            "email_verified": true,
        }),
        changed,
    )
}

/// Claims that pass but for this one, which is not there.
pub(crate) fn claims_without(name: &str) -> Value {
    let mut claims = claims(json!({}));
    claims.as_object_mut().expect("an object").remove(name);
    claims
}

fn merged(mut object: Value, changed: Value) -> Value {
    let members = object.as_object_mut().expect("an object");
    if let Value::Object(changed) = changed {
        members.extend(changed);
    }
    object
}

/// A key set of these keys.
pub(crate) fn jwks(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// A token of these parts, authenticated with a shared secret.
pub(crate) fn hmac_token(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let signed = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", encode(tag))
}

impl Key {
    /// RSA with 2048 bits, for `RS256`.
    pub(crate) fn rsa(kid: &str) -> Self {
        Self::of(kid, "RS256")
    }

    /// P-256, for `ES256`.
    pub(crate) fn elliptic(kid: &str) -> Self {
        Self::of(kid, "ES256")
    }

    /// A key for one of the algorithms that the configuration may allow.
    pub(crate) fn of(kid: &str, algorithm: &'static str) -> Self {
        let rsa = |encoding: &'static dyn RsaEncoding| {
            Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).expect("a key"), encoding)
        };
        let pair = match algorithm {
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "RS384" => rsa(&RSA_PKCS1_SHA384),
            "RS512" => rsa(&RSA_PKCS1_SHA512),
            "PS256" => rsa(&RSA_PSS_SHA256),
            "PS384" => rsa(&RSA_PSS_SHA384),
            "PS512" => rsa(&RSA_PSS_SHA512),
            "ES256" => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
                Pair::Elliptic(pair.expect("a key"), "P-256")
            }
            "ES384" => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING);
                Pair::Elliptic(pair.expect("a key"), "P-384")
            }
            "EdDSA" => Pair::Edwards(Ed25519KeyPair::generate().expect("a key")),
            other => panic!("no key for {other}"),
        };
        Self { kid: kid.to_owned(), algorithm, pair }
    }

    /// The public half, with these members set anew.
    pub(crate) fn jwk(&self, changed: Value) -> Value {
        let jwk = match &self.pair {
            Pair::Rsa(pair, _) => {
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({
                    "kty": "RSA", "kid": self.kid, "n": encode(&public.n), "e": encode(&public.e),
                })
            }
            Pair::Elliptic(pair, curve) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let (x, y) = (encode(x), encode(y));
                json!({"kty": "EC", "crv": curve, "kid": self.kid, "x": x, "y": y})
            }
            Pair::Edwards(pair) => {
                let x = encode(pair.public_key());
                json!({"kty": "OKP", "crv": "Ed25519", "kid": self.kid, "x": x})
            }
        };
        merged(jwk, changed)
    }

    /// The public half as bytes that an attacker may take for a shared secret: DER, and the modulus where there is one.
    pub(crate) fn public_bytes(&self) -> Vec<Vec<u8>> {
        match &self.pair {
            Pair::Rsa(pair, _) => {
                let der: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("DER");
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                vec![der.as_ref().to_vec(), public.n]
            }
            Pair::Elliptic(pair, _) => vec![pair.public_key().as_ref().to_vec()],
            Pair::Edwards(pair) => vec![pair.public_key().as_ref().to_vec()],
        }
    }

    /// Signs these two texts, whatever they say.
    pub(crate) fn sign(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = match &self.pair {
            Pair::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                let random = SystemRandom::new();
                pair.sign(*encoding, &random, signed.as_bytes(), &mut signature).expect("signed");
                signature
            }
            Pair::Edwards(pair) => pair.sign(signed.as_bytes()).as_ref().to_vec(),
            Pair::Elliptic(pair, _) => {
                let signature = pair.sign(&SystemRandom::new(), signed.as_bytes());
                signature.expect("signed").as_ref().to_vec()
            }
        };
        format!("{signed}.{}", encode(signature))
    }

    /// The header that names this key, with these members set anew.
    pub(crate) fn header(&self, changed: Value) -> Value {
        merged(json!({"alg": self.algorithm, "typ": "JWT", "kid": self.kid}), changed)
    }

    /// A well-made token.
    pub(crate) fn token(&self, claims: &Value) -> String {
        self.sign(&self.header(json!({})).to_string(), &claims.to_string())
    }
}
