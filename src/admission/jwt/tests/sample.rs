//! Keys and tokens for the tests, signed with the primitives of `aws-lc-rs`, so that any header and any bytes can be signed.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self as primitive, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair,
    RsaPublicKeyComponents,
};
use serde_json::{Value, json};

use super::*;

pub(super) const NOW_SECONDS: u64 = 1_750_000_000;

pub(super) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_SECONDS)
}

/// A private key of each kind.
pub(super) enum Signer {
    Rsa(Box<RsaKeyPair>),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

pub(super) fn rsa() -> Signer {
    Signer::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).expect("a key")))
}

pub(super) fn p256() -> Signer {
    Signer::P256(
        EcdsaKeyPair::generate(&primitive::ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key"),
    )
}

pub(super) fn p384() -> Signer {
    Signer::P384(
        EcdsaKeyPair::generate(&primitive::ECDSA_P384_SHA384_FIXED_SIGNING).expect("a key"),
    )
}

pub(super) fn ed25519() -> Signer {
    Signer::Ed25519(Ed25519KeyPair::generate().expect("a key"))
}

impl Signer {
    /// The public half as a JWK without `kid`, `alg` and `use`.
    pub(super) fn jwk(&self) -> Value {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Rsa(pair) => {
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({"kty": "RSA", "n": encode(&public.n), "e": encode(&public.e)})
            }
            Self::P256(pair) => point("P-256", pair.public_key().as_ref()),
            Self::P384(pair) => point("P-384", pair.public_key().as_ref()),
            Self::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref())})
            }
        }
    }

    pub(super) fn jwk_with(&self, members: Value) -> Value {
        let mut jwk = self.jwk();
        let (Value::Object(all), Value::Object(more)) = (&mut jwk, members) else {
            panic!("objects");
        };
        all.extend(more);
        jwk
    }

    /// A raw signature; `algorithm` decides padding and digest for RSA.
    pub(super) fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(pair) => {
                let padding: &'static dyn primitive::RsaEncoding = match algorithm {
                    "RS256" => &primitive::RSA_PKCS1_SHA256,
                    "RS384" => &primitive::RSA_PKCS1_SHA384,
                    "RS512" => &primitive::RSA_PKCS1_SHA512,
                    "PS256" => &primitive::RSA_PSS_SHA256,
                    "PS384" => &primitive::RSA_PSS_SHA384,
                    "PS512" => &primitive::RSA_PSS_SHA512,
                    other => panic!("{other} is no algorithm of RSA"),
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, message, &mut signature).expect("signed");
                signature
            }
            Self::P256(pair) | Self::P384(pair) => {
                pair.sign(&random, message).expect("signed").as_ref().to_vec()
            }
            Self::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// A token with exactly these bytes as header and claims.
    pub(super) fn token_of(&self, algorithm: &str, header: &[u8], claims: &[u8]) -> String {
        let message =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = self.sign(algorithm, message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    pub(super) fn token(&self, algorithm: &str, claims: &Value) -> String {
        let header = json!({"alg": algorithm, "kid": "k", "typ": "JWT"});
        self.token_of(algorithm, header.to_string().as_bytes(), claims.to_string().as_bytes())
    }
}

fn point(curve: &str, bytes: &[u8]) -> Value {
    let (x, y) = bytes[1..].split_at((bytes.len() - 1) / 2);
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    json!({"kty": "EC", "crv": curve, "x": encode(x), "y": encode(y)})
}

pub(super) fn set(keys: &[Value]) -> KeySet {
    KeySet::parse(json!({"keys": keys}).to_string().as_bytes()).expect("a set")
}

/// A set with the one key under the `kid` that [`Signer::token`] names.
pub(super) fn set_of(signer: &Signer) -> KeySet {
    set(&[signer.jwk_with(json!({"kid": "k"}))])
}

pub(super) fn rules() -> Rules {
    Rules {
        issuer: "https://issuer.test".into(),
        audience: "vibewarden".into(),
        algorithms: Algorithm::ALL.to_vec(),
        headers: ClaimHeaders::default(),
    }
}

/// Claims that are accepted at [`now`].
pub(super) fn claims() -> Value {
    json!({
        "iss": "https://issuer.test", "aud": "vibewarden", "sub": "alice",
        "iat": NOW_SECONDS - 60, "exp": NOW_SECONDS + 600,
        "email": "alice@example.test", "email_verified": true,
    })
}

/// The good claims with some members replaced; `null` removes one.
pub(super) fn claims_with(changes: Value) -> Value {
    let (Value::Object(mut all), Value::Object(changes)) = (claims(), changes) else {
        panic!("objects");
    };
    for (name, value) in changes {
        if value.is_null() {
            all.remove(&name);
        } else {
            all.insert(name, value);
        }
    }
    Value::Object(all)
}

/// The good claims as text, with one member written as it stands.
pub(super) fn claims_text(without: &str, member: &str) -> String {
    let mut text = claims_with(json!({without: null})).to_string();
    text.truncate(text.len() - 1);
    format!("{text},{member}}}")
}

pub(super) fn denial(token: &str, keys: &KeySet) -> Option<Denial> {
    verify(token.as_bytes(), keys, &rules(), now()).err()
}
