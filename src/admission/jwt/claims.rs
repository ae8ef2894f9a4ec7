//! What the claims of a verified token become: a user and identity headers (contract section 10.5).

use std::sync::Arc;

use serde_json::value::RawValue;

use super::json::Members;
use super::{Denial, Invalid};
use crate::admission::header_value::{is_header_value, is_user_id};

const USER_ID_HEADER: &str = "X-User-Id";

/// `auth.jwt.claims_to_headers`: which claim becomes which header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimHeaders(Vec<(String, Arc<str>)>);

impl ClaimHeaders {
    /// From pairs of claim and header name, in the order in which the headers are set.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let pairs = pairs.into_iter();
        Self(pairs.map(|(claim, header)| (claim.to_owned(), header.into())).collect())
    }

    /// The headers for these claims, and the user: what goes into `X-User-Id`, else `sub`.
    pub(super) fn apply(
        &self,
        claims: &Members<'_>,
        subject: Option<String>,
    ) -> Result<(Option<Box<str>>, Headers), Denial> {
        let mut headers: Headers = Vec::with_capacity(self.0.len());
        let mut user = None;
        for (claim, header) in &self.0 {
            let is_set = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(header));
            let Some(value) = claims.get(claim).filter(|_| !is_set) else {
                continue;
            };
            let value = value_text(value);
            if header.eq_ignore_ascii_case(USER_ID_HEADER) {
                let value = value.filter(|value| is_user_id(value));
                let value: Box<str> = value.ok_or(Denial::InvalidToken(Invalid::UserId))?.into();
                user = Some(value.clone());
                headers.push((Arc::clone(header), value));
            } else if let Some(value) = value.filter(|value| is_header_value(value)) {
                headers.push((Arc::clone(header), value.into()));
            }
        }
        match (user, subject) {
            (Some(user), _) => Ok((Some(user), headers)),
            (None, Some(subject)) if is_user_id(&subject) => Ok((Some(subject.into()), headers)),
            (None, Some(_)) => Err(Denial::InvalidToken(Invalid::UserId)),
            (None, None) => Ok((None, headers)),
        }
    }
}

impl Default for ClaimHeaders {
    /// The map of the contract: `sub`, `email` and `email_verified`.
    fn default() -> Self {
        Self::new([
            ("sub", USER_ID_HEADER),
            ("email", "X-User-Email"),
            ("email_verified", "X-User-Verified"),
        ])
    }
}

/// Names and values of identity headers.
pub type Headers = Vec<(Arc<str>, Box<str>)>;

/// Strings as they are, arrays joined with commas, `true` and `false`, numbers as in JSON. Objects, `null` and arrays of
/// them have no such form.
fn value_text(value: &RawValue) -> Option<String> {
    if !value.get().starts_with('[') {
        return scalar_text(value);
    }
    let elements: Vec<&RawValue> = serde_json::from_str(value.get()).ok()?;
    let texts: Option<Vec<String>> = elements.into_iter().map(scalar_text).collect();
    Some(texts?.join(","))
}

fn scalar_text(value: &RawValue) -> Option<String> {
    match value.get().as_bytes().first()? {
        b'"' => serde_json::from_str(value.get()).ok(),
        b't' | b'f' | b'-' | b'0'..=b'9' => Some(value.get().to_owned()),
        _ => None,
    }
}
