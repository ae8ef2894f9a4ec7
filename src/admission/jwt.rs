//! JSON Web Tokens: whether one is accepted, and who it speaks for (contract section 10.5; RFC 7515, 7519, 8725).
//!
//! The library checks the signature and nothing else. Everything that has led to holes elsewhere is decided here, in the
//! open: the algorithm is one of the allowed ones and fits the key, whatever the token asks for; JSON is read strictly, so
//! that nobody else can read another token in the same bytes; a claim of the wrong type is never an absent one.

mod algorithm;
mod cache;
mod claims;
mod json;
mod keys;
pub mod oracle;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::crypto;

use json::{Members, WrongType};
use keys::Missing;

pub use algorithm::Algorithm;
pub use cache::{Found, Generation, TokenCache};
pub use claims::{ClaimHeaders, Headers};
pub use keys::{KeySet, Keys, NotAKeySet, SkipReason, SkippedKey};

/// Longest token.
pub const TOKEN_BYTES_MAX: usize = 64 * 1024;

/// Longest encoded header of a token. It is read before anything is known about who sent it.
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// Clocks may differ by this much: `exp`, `nbf` and a future `iat` (contract section 10.5).
pub const LEEWAY: Duration = Duration::from_secs(30);

/// The last second of the year 9999: later times are as good as this one.
const END_OF_TIME_SECONDS: f64 = 253_402_300_799.0;

/// What a token has to fulfil.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// `iss`, exactly.
    pub issuer: String,
    /// One member of `aud`, exactly.
    pub audience: String,
    /// What may be used, whatever token or key say.
    pub algorithms: Vec<Algorithm>,
    /// Which claims become headers.
    pub headers: ClaimHeaders,
}

/// An accepted token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The value of `X-User-Id`, else `sub`; `None` when the token has neither.
    pub user_id: Option<Box<str>>,
    /// The identity headers.
    pub headers: Headers,
    /// `exp`.
    pub expires_at: SystemTime,
    /// When a tunnel that was opened with it ends: `exp`, or with a token that was accepted inside the leeway the end of it.
    pub ends_at: SystemTime,
}

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// The token is not one, or breaks a rule of its form.
    InvalidToken(Invalid),
    /// The signature was not made by the key.
    InvalidSignature,
    /// The set has no key with the `kid` of the token. A newer set may have one.
    UnknownKey,
    /// The token has no `kid`, and the set has not exactly one usable key.
    AmbiguousKey,
    /// `alg` is not allowed, unknown, or not for the key.
    AlgorithmNotAllowed,
    /// `exp` is over, and its leeway.
    TokenExpired,
    /// `nbf` or `iat` is in the future, and beyond its leeway.
    TokenNotYetValid,
    /// `iss` is missing or another one.
    InvalidIssuer,
    /// `aud` is missing or names others only.
    InvalidAudience,
}

/// What is wrong with the form of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalid {
    /// Longer than any token.
    TooLong,
    /// Not three parts between dots.
    Parts,
    /// A part is not canonical base64url without padding (RFC 7515 section 2).
    Encoding,
    /// The header is not one JSON object without repeated members, or a member has the wrong type.
    Header,
    /// `crit`: no extension is understood (RFC 7515 section 4.1.11).
    Critical,
    /// The claims are not one JSON object without repeated members.
    Claims,
    /// A registered claim (RFC 7519 section 4.1) has the wrong type.
    ClaimType,
    /// `exp` is missing.
    NoExpiry,
    /// What would be the user id cannot be one.
    UserId,
}

impl Denial {
    /// The word in `auth.denied`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::InvalidToken(_) => "invalid_token",
            Self::InvalidSignature => "invalid_signature",
            Self::UnknownKey | Self::AmbiguousKey => "unknown_key",
            Self::AlgorithmNotAllowed => "algorithm_not_allowed",
            Self::TokenExpired => "token_expired",
            Self::TokenNotYetValid => "token_not_yet_valid",
            Self::InvalidIssuer => "invalid_issuer",
            Self::InvalidAudience => "invalid_audience",
        }
    }

    /// A fixed text for `detail` in `auth.denied`; nothing of the token is in it.
    pub fn message(self) -> &'static str {
        match self {
            Self::InvalidToken(invalid) => invalid.message(),
            Self::InvalidSignature => "the signature does not verify",
            Self::UnknownKey => "no key of the set has this kid",
            Self::AmbiguousKey => "the token has no kid and the set has not exactly one usable key",
            Self::AlgorithmNotAllowed => "the algorithm is not allowed or does not fit the key",
            Self::TokenExpired => "exp is over",
            Self::TokenNotYetValid => "nbf or iat is in the future",
            Self::InvalidIssuer => "iss is not the configured issuer",
            Self::InvalidAudience => "aud does not contain the configured audience",
        }
    }

    /// Whether a newer set of keys could change the verdict.
    pub fn asks_for_keys(self) -> bool {
        self == Self::UnknownKey
    }
}

impl Invalid {
    fn message(self) -> &'static str {
        match self {
            Self::TooLong => "the token is too long",
            Self::Parts => "the token has not three parts",
            Self::Encoding => "a part is not canonical base64url",
            Self::Header => "the header is not a valid JSON object",
            Self::Critical => "the header asks for extensions that are not supported",
            Self::Claims => "the claims are not a valid JSON object",
            Self::ClaimType => "a claim has the wrong type",
            Self::NoExpiry => "exp is missing",
            Self::UserId => {
                "the user id is empty, too long, or has characters that are not allowed"
            }
        }
    }
}

impl From<Invalid> for Denial {
    fn from(invalid: Invalid) -> Self {
        Self::InvalidToken(invalid)
    }
}

/// Checks a token and says who it speaks for.
pub fn verify(
    token: &[u8],
    keys: &KeySet,
    rules: &Rules,
    now: SystemTime,
) -> Result<Verified, Denial> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Invalid::TooLong.into());
    }
    let token = str::from_utf8(token).map_err(|_| Invalid::Encoding)?;
    let (message, signature) = token.rsplit_once('.').ok_or(Invalid::Parts)?;
    let (header, claims) = message.split_once('.').ok_or(Invalid::Parts)?;
    if claims.contains('.') {
        return Err(Invalid::Parts.into());
    }
    if header.len() > HEADER_BYTES_MAX {
        return Err(Invalid::TooLong.into());
    }
    let (algorithm, kid) = read_header(header, rules)?;
    let key = keys.choose(kid.as_deref(), algorithm).map_err(|missing| match missing {
        Missing::Unknown => Denial::UnknownKey,
        Missing::Ambiguous => Denial::AmbiguousKey,
        Missing::Unfit => Denial::AlgorithmNotAllowed,
    })?;
    match crypto::verify(signature, message.as_bytes(), &key.verifying, algorithm.of_library()) {
        Ok(true) => {}
        Ok(false) => return Err(Denial::InvalidSignature),
        // The key was checked when the set was read; what is left to fail is the encoding of the signature.
        Err(_) => return Err(Invalid::Encoding.into()),
    }
    let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| Invalid::Encoding)?;
    let claims = Members::parse(&claims).ok_or(Invalid::Claims)?;
    check_claims(&claims, rules, now)
}

/// What the token says it is signed with. Keys and addresses of keys in the header (`jwk`, `jku`, `x5u`, `x5c`) are never
/// looked at (RFC 8725 section 3.10).
fn read_header(encoded: &str, rules: &Rules) -> Result<(Algorithm, Option<String>), Denial> {
    let text = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| Invalid::Encoding)?;
    let members = Members::parse(&text).ok_or(Invalid::Header)?;
    let member = |name| members.text(name).map_err(|WrongType| Denial::from(Invalid::Header));
    let algorithm = member("alg")?.ok_or(Invalid::Header)?;
    let kid = member("kid")?;
    if members.get("crit").is_some() {
        return Err(Invalid::Critical.into());
    }
    let algorithm = Algorithm::from_name(&algorithm).ok_or(Denial::AlgorithmNotAllowed)?;
    if !rules.algorithms.contains(&algorithm) {
        return Err(Denial::AlgorithmNotAllowed);
    }
    Ok((algorithm, kid))
}

fn check_claims(claims: &Members<'_>, rules: &Rules, now: SystemTime) -> Result<Verified, Denial> {
    let text = |name| claims.text(name).map_err(|WrongType| Denial::from(Invalid::ClaimType));
    let number = |name| claims.number(name).map_err(|WrongType| Denial::from(Invalid::ClaimType));
    // Types first: a token that is wrong in its form is not judged by its content.
    let (issuer, subject, _) = (text("iss")?, text("sub")?, text("jti")?);
    let (expires, not_before, issued_at) = (number("exp")?, number("nbf")?, number("iat")?);
    let audience = read_audience(claims)?;
    let expires = expires.ok_or(Invalid::NoExpiry)?;
    if issuer.as_deref() != Some(&*rules.issuer) {
        return Err(Denial::InvalidIssuer);
    }
    if !audience.contains(&rules.audience) {
        return Err(Denial::InvalidAudience);
    }
    let leeway = LEEWAY.as_secs_f64();
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    if now >= expires + leeway {
        return Err(Denial::TokenExpired);
    }
    if [not_before, issued_at].into_iter().flatten().any(|begin| begin > now + leeway) {
        return Err(Denial::TokenNotYetValid);
    }
    let (user_id, headers) = rules.headers.apply(claims, subject)?;
    let ends = if now < expires { expires } else { expires + leeway };
    Ok(Verified { user_id, headers, expires_at: time(expires), ends_at: time(ends) })
}

/// A string or an array of strings (RFC 7519 section 4.1.3).
fn read_audience(claims: &Members<'_>) -> Result<Vec<String>, Denial> {
    if let Ok(one) = claims.text("aud") {
        return Ok(one.into_iter().collect());
    }
    let several = claims.texts("aud").map_err(|WrongType| Invalid::ClaimType)?;
    Ok(several.unwrap_or_default())
}

/// A `NumericDate` (RFC 7519 section 2), which may have a fraction.
fn time(seconds: f64) -> SystemTime {
    let seconds = seconds.clamp(0.0, END_OF_TIME_SECONDS);
    SystemTime::UNIX_EPOCH + Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

/// An accepted token, shared between the cache and the requests that came with it.
pub type Accepted = Arc<Verified>;

#[cfg(test)]
mod tests;
