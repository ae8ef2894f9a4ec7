//! Where the credential of a request may stand, and what has to go before the upstream sees it (contract sections 10.1
//! and 10.3). Whether it is any good is decided elsewhere.

use std::borrow::Cow;
use std::fmt;

use crate::wire::field::list;
use crate::wire::request::RequestHead;
use crate::wire::{cookie, query};

/// A place where a credential may stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `Authorization: Bearer <token>` (RFC 6750 section 2.1).
    Bearer,
    /// The whole value of the header of this name.
    Header(Box<str>),
    /// The cookie of this name.
    Cookie(Box<str>),
    /// The query parameter of this name.
    Query(Box<str>),
    /// What follows this prefix in an entry of `Sec-WebSocket-Protocol`, on upgrades.
    Subprotocol(Box<str>),
}

/// The places of one mode, in the order in which they are tried.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sources(Box<[Source]>);

/// What a request presents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presented<'b> {
    /// The one credential, none, or a contradiction.
    pub credential: Credential<'b>,
    /// Whether a cookie carries one: a browser adds it to requests that another site made.
    pub in_cookie: bool,
}

/// The credential of a request.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential<'b> {
    /// No source has one; an empty value is none.
    None,
    /// Never empty. Equal repeats count as one.
    One(Cow<'b, [u8]>),
    /// Values that differ, within one source or between two. Whoever reads the request next might take the other one.
    Several,
}

/// Never the value.
impl fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::One(_) => "One(***)",
            Self::Several => "Several",
        })
    }
}

impl Sources {
    /// In the order in which they are tried.
    pub fn new(sources: impl IntoIterator<Item = Source>) -> Self {
        Self(sources.into_iter().collect())
    }

    /// The credential of the request `head`.
    pub fn presented<'b>(&self, head: &RequestHead<'b>, is_upgrade: bool) -> Presented<'b> {
        let mut presented = Presented { credential: Credential::None, in_cookie: false };
        for source in &self.0 {
            let found = source.presented(head, is_upgrade);
            presented.in_cookie |= matches!(source, Source::Cookie(_)) && found != Credential::None;
            presented.credential = presented.credential.and(found);
        }
        presented
    }

    /// The target as the upstream may see it: without the query parameters that may carry a credential.
    pub fn forwarded_target<'b>(&self, target: &'b str) -> Cow<'b, str> {
        let names = self.0.iter().filter_map(|source| match source {
            Source::Query(name) => Some(&**name),
            _ => None,
        });
        query::without(target, &names)
    }

    /// Entries of `Sec-WebSocket-Protocol` that begin so are not for the upstream.
    pub fn subprotocol_prefixes(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|source| {
            if let Source::Subprotocol(prefix) = source { Some(&**prefix) } else { None }
        })
    }
}

impl Source {
    fn presented<'b>(&self, head: &RequestHead<'b>, is_upgrade: bool) -> Credential<'b> {
        match self {
            Self::Bearer => one_of(head.header("authorization").map(bearer).map(Cow::Borrowed)),
            Self::Header(name) => one_of(head.header(name).map(Cow::Borrowed)),
            Self::Cookie(name) => one_of(cookie::values(head, name).map(Cow::Borrowed)),
            Self::Query(name) => one_of(query::values(head.target, name)),
            Self::Subprotocol(_) if !is_upgrade => Credential::None,
            Self::Subprotocol(prefix) => {
                let entries = head.header("sec-websocket-protocol").flat_map(list);
                let tokens = entries.filter_map(|entry| entry.strip_prefix(prefix.as_bytes()));
                one_of(tokens.map(Cow::Borrowed))
            }
        }
    }
}

/// The token of an `Authorization` value, empty when there is none: scheme in any case, one or more spaces.
fn bearer(value: &[u8]) -> &[u8] {
    const SCHEME: &[u8] = b"bearer";
    match value.split_at_checked(SCHEME.len()) {
        Some((scheme, [b' ', token @ ..])) if scheme.eq_ignore_ascii_case(SCHEME) => token
            .iter()
            .position(|&byte| byte != b' ')
            .and_then(|at| token.get(at..))
            .unwrap_or(b""),
        _ => b"",
    }
}

/// The values of one source. Here an empty one beside another is a contradiction too: it is a repeated field.
fn one_of<'b>(mut values: impl Iterator<Item = Cow<'b, [u8]>>) -> Credential<'b> {
    let Some(first) = values.next() else {
        return Credential::None;
    };
    if values.any(|value| value != first) {
        Credential::Several
    } else if first.is_empty() {
        Credential::None
    } else {
        Credential::One(first)
    }
}

impl Credential<'_> {
    /// What two sources come to together.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, only) | (only, Self::None) => only,
            (Self::One(first), Self::One(second)) if first == second => Self::One(first),
            _ => Self::Several,
        }
    }
}

#[cfg(test)]
mod tests;
