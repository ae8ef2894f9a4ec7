//! What Kratos says about a session cookie (contract section 10.4; Ory Kratos, `GET /sessions/whoami`).

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value;

use super::header_value::{is_header_value, is_user_id};
use crate::config::Role;

/// Longest answer of Kratos that is read.
pub const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Values that begin with this are session tokens of native clients, sent in `X-Session-Token`.
pub const SESSION_TOKEN_PREFIX: &[u8] = b"ory_st_";

/// An active session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// `identity.id`, checked to be a header value.
    pub user_id: Box<str>,
    /// The first verifiable address with `via: email`, else the trait `email`; `None` when it cannot be a header value.
    pub email: Option<Box<str>>,
    /// Whether that address is verified. An address from the traits never is.
    pub verified: bool,
    /// The trait `role`; `user` when it is none of the known ones.
    pub role: Role,
    /// When the session ends.
    pub expires_at: Option<SystemTime>,
}

impl Session {
    /// The identity headers.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let email = self.email.as_deref().map(|email| ("X-User-Email", email));
        [("X-User-Id", &*self.user_id)].into_iter().chain(email).chain([
            ("X-User-Verified", if self.verified { "true" } else { "false" }),
            ("X-User-Role", self.role.word()),
        ])
    }
}

/// What has to be asked about a session cookie.
pub struct SessionCheck {
    /// The value of the session cookie, as received. Never empty.
    pub cookie: Box<[u8]>,
    /// The path of the request, for `affected_path` when Kratos is found unreachable.
    pub path: Box<str>,
}

impl fmt::Debug for SessionCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionCheck").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The verdict about a session cookie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionVerdict {
    /// A session.
    Active(Arc<Session>),
    /// Kratos was asked, and it is none.
    Inactive,
    /// Kratos could not be asked, or gave no usable answer.
    Unreachable(Unreachable),
}

/// Why there is no usable answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreachable {
    /// No connection, or it broke.
    Connection,
    /// The certificate of the provider is not trusted.
    Certificate,
    /// No complete answer in time.
    Timeout,
    /// A status that says nothing about the session.
    Status(u16),
    /// The answer is longer than allowed.
    TooLarge,
    /// Not a JSON object with an identity.
    Malformed,
    /// Too many questions wait already.
    Busy,
}

impl Unreachable {
    /// In words, for events and the log.
    pub fn message(self) -> String {
        match self {
            Self::Connection => "cannot connect".into(),
            Self::Certificate => "the certificate is not trusted".into(),
            Self::Timeout => "no answer in time".into(),
            Self::Status(status) => format!("unexpected status {status}"),
            Self::TooLarge => "the answer is too large".into(),
            Self::Malformed => "the answer is not a session".into(),
            Self::Busy => "too many checks are waiting".into(),
        }
    }
}

/// Whether the status alone decides, so that no body has to be read.
pub fn verdict_of_status(status: u16) -> Option<SessionVerdict> {
    match status {
        200 => None,
        401 | 403 => Some(SessionVerdict::Inactive),
        other => Some(SessionVerdict::Unreachable(Unreachable::Status(other))),
    }
}

/// Reads the body of a 200.
pub fn read_session(body: &[u8]) -> SessionVerdict {
    if body.len() > ANSWER_BYTES_MAX {
        return SessionVerdict::Unreachable(Unreachable::TooLarge);
    }
    match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(session)) if session.get("active") != Some(&Value::Bool(true)) => {
            SessionVerdict::Inactive
        }
        Ok(Value::Object(session)) => match active_session(&Value::Object(session)) {
            Some(session) => SessionVerdict::Active(Arc::new(session)),
            None => SessionVerdict::Unreachable(Unreachable::Malformed),
        },
        _ => SessionVerdict::Unreachable(Unreachable::Malformed),
    }
}

fn active_session(session: &Value) -> Option<Session> {
    let identity = session.get("identity")?;
    let user_id = identity.get("id")?.as_str().filter(|id| is_user_id(id))?;
    let traits = identity.get("traits");
    let addresses = identity.get("verifiable_addresses").and_then(Value::as_array);
    let address = addresses.into_iter().flatten().find(|address| {
        address.get("via").and_then(Value::as_str) == Some("email")
            && address.get("value").is_some()
    });
    let email = match address {
        Some(address) => address.get("value"),
        None => traits.and_then(|traits| traits.get("email")),
    };
    let verified = address.and_then(|address| address.get("verified")).and_then(Value::as_bool);
    let role = match traits.and_then(|traits| traits.get("role")).and_then(Value::as_str) {
        Some("admin") => Role::Admin,
        Some("moderator") => Role::Moderator,
        _ => Role::User,
    };
    let expires_at = match session.get("expires_at") {
        None | Some(Value::Null) => None,
        Some(time) => Some(time.as_str()?.parse::<jiff::Timestamp>().ok()?.into()),
    };
    let email = email.and_then(Value::as_str).filter(|email| is_header_value(email));
    Some(Session {
        user_id: user_id.into(),
        email: email.map(Into::into),
        verified: verified.unwrap_or(false),
        role,
        expires_at,
    })
}

#[cfg(test)]
mod tests;
