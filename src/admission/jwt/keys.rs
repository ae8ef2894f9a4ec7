//! A JSON Web Key Set (RFC 7517) as the keys of it that may verify a signature, and what was wrong with the others.

use std::sync::Arc;
use std::time::Instant;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use serde_json::value::RawValue;

use super::algorithm::{Algorithm, KeyKind};
use super::json::Members;

/// Keys beyond this many are skipped: a set of a megabyte would keep a thread busy for seconds.
const KEYS_MAX: usize = 128;
const RSA_BITS_MIN: usize = 2048;
const RSA_BITS_MAX: usize = 8192;

/// What the cores know about the keys of the provider. Published by the control plane as one snapshot.
#[derive(Debug, Default)]
pub struct Keys {
    /// The last good set; `None` while there never was one, which means 503.
    pub set: Option<Arc<KeySet>>,
    /// Changes with every other set; verdicts of another generation are worth nothing.
    pub generation: u64,
    /// Until then an unknown key starts no fetch; the cores need not ask.
    pub quiet_until: Option<Instant>,
}

/// The usable keys of a set. It is immutable; a new set replaces it.
#[derive(Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
    skipped: Vec<SkippedKey>,
}

/// One key that verifies signatures.
#[derive(Debug)]
pub(super) struct Key {
    kid: Option<String>,
    kind: KeyKind,
    algorithm: Option<Algorithm>,
    pub(super) verifying: DecodingKey,
}

/// A key of the set that is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedKey {
    /// Its `kid`, when it has a readable one.
    pub kid: Option<String>,
    /// Why.
    pub reason: SkipReason,
}

/// Why a key is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// `oct`: a shared secret has no place in a public set (RFC 8725 section 2.1).
    Symmetric,
    /// `kty` is none of `RSA`, `EC`, `OKP`.
    KeyType,
    /// `crv` is none of `P-256`, `P-384` (EC), `Ed25519` (OKP).
    Curve,
    /// `use` is not `sig`.
    Use,
    /// `key_ops` lacks `verify`.
    Operations,
    /// `alg` is unknown, or not for this kind of key.
    Algorithm,
    /// An RSA modulus under 2048 bits (RFC 7518 section 3.3).
    SmallModulus,
    /// An RSA modulus over 8192 bits.
    LargeModulus,
    /// Not an object, a repeated member, a member of the wrong type, or numbers that are no key of its kind.
    Malformed,
    /// An earlier key of the same kind has the same `kid`.
    RepeatedKid,
    /// The set has too many keys.
    TooMany,
}

impl SkipReason {
    /// In words, for the log.
    pub fn message(self) -> &'static str {
        match self {
            Self::Symmetric => "a symmetric key is never used",
            Self::KeyType => "the key type is not supported",
            Self::Curve => "the curve is not supported",
            Self::Use => "the key is not for signatures",
            Self::Operations => "the key is not for verifying",
            Self::Algorithm => "the algorithm is unknown or does not fit the key",
            Self::SmallModulus => "the RSA modulus has less than 2048 bits",
            Self::LargeModulus => "the RSA modulus has more than 8192 bits",
            Self::Malformed => "the key is malformed",
            Self::RepeatedKid => "an earlier key has the same kid",
            Self::TooMany => "the set has too many keys",
        }
    }
}

/// The text is no key set at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAKeySet;

/// Which keys a token may be verified with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// No key has the `kid` of the token.
    Unknown,
    /// The token has no `kid`, and the set has not exactly one usable key.
    Ambiguous,
    /// There are keys with this `kid`, none of them for this algorithm.
    Unfit,
}

impl KeySet {
    /// Reads a set as it was fetched. Keys that cannot be used are skipped, each with its reason.
    pub fn parse(text: &[u8]) -> Result<Self, NotAKeySet> {
        // One bad key must not spoil the set: what is inside a key is read with that key.
        let members = Members::parse_outer(text).ok_or(NotAKeySet)?;
        let list = members.get("keys").ok_or(NotAKeySet)?;
        let entries: Vec<&RawValue> = serde_json::from_str(list.get()).map_err(|_| NotAKeySet)?;
        let mut set = Self::default();
        for entry in entries {
            set.add(entry.get().as_bytes());
        }
        Ok(set)
    }

    fn add(&mut self, entry: &[u8]) {
        let members = Members::parse(entry);
        let kid = members.as_ref().and_then(|members| members.text("kid").ok()?);
        let key = if self.keys.len() >= KEYS_MAX {
            Err(SkipReason::TooMany)
        } else {
            members.as_ref().ok_or(SkipReason::Malformed).and_then(Key::read)
        };
        let repeats = |key: &Key| {
            self.keys.iter().any(|earlier| {
                earlier.kid.is_some() && earlier.kid == key.kid && earlier.kind == key.kind
            })
        };
        match key {
            Ok(key) if repeats(&key) => {
                self.skipped.push(SkippedKey { kid, reason: SkipReason::RepeatedKid });
            }
            Ok(key) => self.keys.push(key),
            Err(reason) => self.skipped.push(SkippedKey { kid, reason }),
        }
    }

    /// Number of usable keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is no usable key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys that are not used.
    pub fn skipped(&self) -> &[SkippedKey] {
        &self.skipped
    }

    /// The key that a token with this header must be signed with.
    pub(super) fn choose(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<&Key, Missing> {
        let Some(kid) = kid else {
            return match self.keys.as_slice() {
                [only] if only.fits(algorithm) => Ok(only),
                [_] => Err(Missing::Unfit),
                _ => Err(Missing::Ambiguous),
            };
        };
        let mut named = self.keys.iter().filter(|key| key.kid.as_deref() == Some(kid)).peekable();
        if named.peek().is_none() {
            return Err(Missing::Unknown);
        }
        named.find(|key| key.fits(algorithm)).ok_or(Missing::Unfit)
    }
}

impl Key {
    fn fits(&self, algorithm: Algorithm) -> bool {
        self.kind == algorithm.key_kind() && self.algorithm.is_none_or(|own| own == algorithm)
    }

    /// Reads one key (RFC 7517 section 4, RFC 7518 section 6, RFC 8037 section 2).
    fn read(members: &Members<'_>) -> Result<Self, SkipReason> {
        let text = |name| members.text(name).map_err(|_| SkipReason::Malformed);
        let kid = text("kid")?;
        let key_kind = match text("kty")?.ok_or(SkipReason::Malformed)?.as_str() {
            "RSA" => KeyKind::Rsa,
            "EC" => match text("crv")?.as_deref() {
                Some("P-256") => KeyKind::P256,
                Some("P-384") => KeyKind::P384,
                _ => return Err(SkipReason::Curve),
            },
            "OKP" => match text("crv")?.as_deref() {
                Some("Ed25519") => KeyKind::Ed25519,
                _ => return Err(SkipReason::Curve),
            },
            "oct" => return Err(SkipReason::Symmetric),
            _ => return Err(SkipReason::KeyType),
        };
        if text("use")?.is_some_and(|purpose| purpose != "sig") {
            return Err(SkipReason::Use);
        }
        let operations = members.texts("key_ops").map_err(|_| SkipReason::Malformed)?;
        if operations.is_some_and(|all| !all.iter().any(|operation| operation == "verify")) {
            return Err(SkipReason::Operations);
        }
        let algorithm = match text("alg")? {
            None => None,
            Some(name) => match Algorithm::from_name(&name) {
                Some(algorithm) if algorithm.key_kind() == key_kind => Some(algorithm),
                _ => return Err(SkipReason::Algorithm),
            },
        };
        let number = |name| -> Result<Vec<u8>, SkipReason> {
            let encoded = text(name)?.ok_or(SkipReason::Malformed)?;
            URL_SAFE_NO_PAD.decode(encoded).map_err(|_| SkipReason::Malformed)
        };
        let verifying = match key_kind {
            KeyKind::Rsa => rsa(&number("n")?, &number("e")?)?,
            KeyKind::P256 => elliptic(&number("x")?, &number("y")?, 32)?,
            KeyKind::P384 => elliptic(&number("x")?, &number("y")?, 48)?,
            KeyKind::Ed25519 => edwards(&number("x")?)?,
        };
        Ok(Self { kid, kind: key_kind, algorithm, verifying })
    }
}

fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<DecodingKey, SkipReason> {
    // Some encoders leave the sign byte of their number type in front.
    let n = without_leading_zeros(modulus);
    let e = without_leading_zeros(exponent);
    let first = n.first().ok_or(SkipReason::Malformed)?;
    let bits = n.len() * 8 - first.leading_zeros() as usize;
    if bits < RSA_BITS_MIN {
        return Err(SkipReason::SmallModulus);
    }
    if bits > RSA_BITS_MAX {
        return Err(SkipReason::LargeModulus);
    }
    let is_odd = |number: &[u8]| number.last().is_some_and(|byte| byte % 2 == 1);
    if !is_odd(n) || !is_odd(e) || e == [1] {
        return Err(SkipReason::Malformed);
    }
    RsaPublicKeyComponents { n, e }
        .to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256)
        .map_err(|_| SkipReason::Malformed)?;
    Ok(DecodingKey::from_rsa_raw_components(n, e))
}

fn without_leading_zeros(number: &[u8]) -> &[u8] {
    let start = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    number.get(start..).unwrap_or_default()
}

/// An uncompressed point (SEC 1 section 2.3.3); one that is not on the curve is no key.
fn elliptic(x: &[u8], y: &[u8], bytes: usize) -> Result<DecodingKey, SkipReason> {
    if x.len() != bytes || y.len() != bytes {
        return Err(SkipReason::Malformed);
    }
    let point = [&[4], x, y].concat();
    let curve = if bytes == 32 { &ECDSA_P256_SHA256_FIXED } else { &ECDSA_P384_SHA384_FIXED };
    ParsedPublicKey::new(curve, &point).map_err(|_| SkipReason::Malformed)?;
    Ok(DecodingKey::from_ec_der(&point))
}

fn edwards(x: &[u8]) -> Result<DecodingKey, SkipReason> {
    if x.len() != 32 {
        return Err(SkipReason::Malformed);
    }
    ParsedPublicKey::new(&ED25519, x).map_err(|_| SkipReason::Malformed)?;
    Ok(DecodingKey::from_ed_der(x))
}
