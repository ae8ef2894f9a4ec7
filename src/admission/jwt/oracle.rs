//! A property that holds for every token, as a function: the fuzz target is one line and calls it, and `tests/corpus.rs` runs
//! it over the corpus and over mutations of it. See `wire::oracle` for the style.
//!
//! What is expected is worked out here a second time: the library's own decoder for signature, issuer and audience, and
//! naive rules from the contract for the rest.

use std::time::{Duration, SystemTime};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{DecodingKey, Validation};
use serde_json::Value;

use super::{Algorithm, ClaimHeaders, Denial, KeySet, Rules, verify};

/// The key of the property; everybody may know it.
const SEED: [u8; 32] = [7; 32];
const KID: &str = "k";
const NOW_SECONDS: u32 = 1_750_000_000;
const LEEWAY_SECONDS: f64 = 30.0;

/// Any header and claims, one line each, signed; what follows on a third line is a token as it stands.
///
/// # Panics
///
/// When the property does not hold.
pub fn token(data: &[u8]) {
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let (header, claims) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    check(sign(header, claims).as_bytes());
    check(lines.next().unwrap_or(data));
}

fn key_pair() -> Option<Ed25519KeyPair> {
    Ed25519KeyPair::from_seed_unchecked(&SEED).ok()
}

fn sign(header: &[u8], claims: &[u8]) -> String {
    let message = [URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims)].join(".");
    let signature = key_pair().map(|pair| URL_SAFE_NO_PAD.encode(pair.sign(message.as_bytes())));
    [message, signature.unwrap_or_default()].join(".")
}

fn public_key() -> Vec<u8> {
    key_pair().map(|pair| pair.public_key().as_ref().to_vec()).unwrap_or_default()
}

fn rules() -> Rules {
    Rules {
        issuer: "i".into(),
        audience: "a".into(),
        algorithms: vec![Algorithm::EdDsa],
        headers: ClaimHeaders::new([
            ("sub", "X-User-Id"),
            ("email", "X-User-Email"),
            ("r", "X-Roles"),
        ]),
    }
}

fn check(token: &[u8]) {
    let x = URL_SAFE_NO_PAD.encode(public_key());
    let set = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"{x}","kid":"{KID}"}}]}}"#);
    let keys = KeySet::parse(set.as_bytes()).unwrap_or_default();
    assert_eq!(keys.len(), 1);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_SECONDS.into());
    let verdict = verify(token, &keys, &rules(), now);
    let shown = token.escape_ascii();
    assert_eq!(verdict.is_ok(), is_acceptable(token), "{verdict:?}: {shown}");
    match verdict {
        Ok(verified) => {
            let values = verified.headers.iter().map(|(_, value)| value);
            for value in values.chain(&verified.user_id) {
                assert!(!value.chars().any(char::is_control) && value.len() <= 1024, "{shown}");
            }
            assert!(verified.ends_at > now && verified.expires_at <= verified.ends_at, "{shown}");
        }
        Err(denial) => {
            assert!(!denial.reason().is_empty() && !denial.message().is_empty());
            assert!(denial != Denial::AmbiguousKey, "there is exactly one key: {shown}");
        }
    }
}

/// Whether the contract lets this token in.
fn is_acceptable(token: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(token) else {
        return false;
    };
    let parts: Vec<&str> = text.split('.').collect();
    let &[header, claims, _] = parts.as_slice() else {
        return false;
    };
    // The library knows more members of the header than the contract does, and wants them well typed: it gets a clean one.
    let (Some(header), Some(claims)) = (object(header), object(claims)) else {
        return false;
    };
    let kid = header.get("kid");
    header.get("alg") == Some(&Value::from("EdDSA"))
        && (kid.is_none() || kid == Some(&Value::from(KID)))
        && header.get("crit").is_none()
        && parts.iter().all(|part| is_canonical(part))
        && is_signed(&parts)
        && are_acceptable(&claims)
}

fn is_signed(parts: &[&str]) -> bool {
    let &[header, claims, signature] = parts else {
        return false;
    };
    let message = [header, claims].join(".");
    let key = DecodingKey::from_ed_der(&public_key());
    let algorithm = jsonwebtoken::Algorithm::EdDSA;
    jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key, algorithm) == Ok(true)
}

/// One object in which no member is repeated: it then has as many members as there are colons outside of strings.
fn object(part: &str) -> Option<Value> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(part).ok()?).ok()?;
    let value: Value = serde_json::from_str(&text).ok()?;
    let (mut colons, mut in_string, mut escaped) = (0, false, false);
    for character in text.chars() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => in_string = !in_string,
            ':' if !in_string => colons += 1,
            _ => {}
        }
    }
    (value.is_object() && members(&value) == colons).then_some(value)
}

fn members(value: &Value) -> usize {
    match value {
        Value::Object(map) => map.len() + map.values().map(members).sum::<usize>(),
        Value::Array(values) => values.iter().map(members).sum(),
        _ => 0,
    }
}

fn is_canonical(part: &str) -> bool {
    URL_SAFE_NO_PAD.decode(part).is_ok_and(|bytes| URL_SAFE_NO_PAD.encode(bytes) == part)
}

fn are_acceptable(claims: &Value) -> bool {
    let is_text = |name| claims.get(name).is_none_or(Value::is_string);
    let is_number = |name| claims.get(name).is_none_or(Value::is_number);
    let number = |name| claims.get(name).and_then(Value::as_f64);
    let now = f64::from(NOW_SECONDS);
    let audience = match claims.get("aud") {
        Some(Value::Array(all)) => all.iter().all(Value::is_string) && all.contains(&"a".into()),
        other => other == Some(&"a".into()),
    };
    let user = claims.get("sub").and_then(Value::as_str).is_none_or(|user| {
        !user.chars().any(char::is_control)
            && (1..=1024).contains(&user.len())
            && user.trim_matches(' ') == user
    });
    ["iss", "sub", "jti"].into_iter().all(is_text)
        && ["exp", "nbf", "iat"].into_iter().all(is_number)
        && claims.get("iss") == Some(&"i".into())
        && audience
        && user
        && number("exp").is_some_and(|end| now < end + LEEWAY_SECONDS)
        && number("nbf").is_none_or(|begin| begin <= now + LEEWAY_SECONDS)
        && number("iat").is_none_or(|begin| begin <= now + LEEWAY_SECONDS)
}

/// What the library itself says about issuer and audience, with every option set: nothing that it refuses is accepted.
///
/// # Panics
///
/// When the property does not hold.
pub fn library_agrees(data: &[u8]) {
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let (header, claims) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let token = sign(header, claims);
    if !is_acceptable(token.as_bytes()) {
        return;
    }
    let mut validation = Validation::new(jsonwebtoken::Algorithm::EdDSA);
    validation.set_issuer(&["i"]);
    validation.set_audience(&["a"]);
    validation.set_required_spec_claims(&["exp", "iss", "aud"]);
    // It reads the clock itself, and this property has a clock of its own.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    let key = DecodingKey::from_ed_der(&public_key());
    let clean = sign(br#"{"alg":"EdDSA"}"#, claims);
    let decoded = jsonwebtoken::decode::<Value>(clean, &key, &validation);
    assert!(decoded.is_ok(), "{decoded:?}: {}", token.escape_debug());
}
