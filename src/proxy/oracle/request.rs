//! Requests under the rules of sections 6.1 and 7.1 of the contract, read as simply as can be and without the code under
//! test.

use std::net::Ipv6Addr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::naive::is_token;
use crate::wire::oracle::plain::Plain;

/// `server.max_header_bytes`
pub(super) const HEAD_BYTES_MAX: usize = 16 * 1024;

/// A request that keeps the rules.
pub(super) struct Request {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) host: Option<String>,
    pub(super) is_http11: bool,
    pub(super) keeps: bool,
    pub(super) expects: bool,
    pub(super) upgrade: Upgrade,
    pub(super) framing: Framing,
}

/// What `Upgrade` asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Upgrade {
    Nothing,
    /// What the proxy does not know, or not as it has to be asked for.
    Other,
    WebSocket,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
}

impl Request {
    /// The request, or the statuses with which it may be refused.
    pub(super) fn read(head: &[u8]) -> Result<Self, Vec<u16>> {
        let mut wrong = Vec::new();
        if head.len() > HEAD_BYTES_MAX {
            wrong.push(431);
        }
        let Some(plain) = Plain::read(head).ok() else {
            return Err([wrong, vec![400, 431]].concat());
        };
        if plain.lines.len() > 256 {
            wrong.push(431);
        }
        let parts: Vec<&str> = plain.first.split(' ').collect();
        let ([method, target, version], true) = (parts.as_slice(), parts.len() == 3) else {
            return Err([wrong, vec![400]].concat());
        };
        if !matches!(*version, "HTTP/1.0" | "HTTP/1.1") || !is_method(method) {
            wrong.push(400);
        }
        let is_http11 = *version == "HTTP/1.1";
        if matches!(*method, "CONNECT" | "TRACE") {
            wrong.push(405);
        }
        let (target, authority) = origin_form(method, target).unwrap_or_else(|| {
            wrong.push(400);
            Default::default()
        });
        let host = host(&plain, is_http11, authority.as_ref()).unwrap_or_else(|| {
            wrong.push(400);
            None
        });
        let framing = framing(&plain, is_http11).unwrap_or_else(|| {
            wrong.push(400);
            Framing::Length(0)
        });
        let expectations = plain.values("expect");
        let is_continue = |value: &&[u8]| value.eq_ignore_ascii_case(b"100-continue");
        if expectations.len() > 1 || !expectations.iter().all(is_continue) {
            wrong.push(417);
        }
        let upgrades = is_http11
            && plain.options().any(|option| option == "upgrade")
            && plain.values("upgrade").len() == 1
            && plain.values("upgrade").iter().all(|value| value.eq_ignore_ascii_case(b"websocket"));
        if upgrades && wrong.is_empty() {
            let is_read = *method == "GET" && framing == Framing::Length(0);
            wrong.extend((!is_read || !has_key(&plain)).then_some(400));
            wrong.extend((plain.values("sec-websocket-version") != [b"13"]).then_some(426));
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        Ok(Self {
            method: (*method).to_owned(),
            target,
            host,
            is_http11,
            keeps: is_http11 && !plain.options().any(|option| option == "close"),
            expects: is_http11 && !expectations.is_empty(),
            upgrade: match plain.values("upgrade").is_empty() {
                true => Upgrade::Nothing,
                false if upgrades => Upgrade::WebSocket,
                false => Upgrade::Other,
            },
            framing,
        })
    }

    /// The status of an own endpoint (section 12), if it asks for one.
    pub(super) fn own_endpoint(&self) -> Option<u16> {
        let path = decoded(self.target.split('?').next()?)?;
        (path == b"/_vibewarden" || path.starts_with(b"/_vibewarden/")).then(|| {
            let known: [&[u8]; 3] =
                [b"/_vibewarden/health", b"/_vibewarden/ready", b"/_vibewarden/metrics"];
            match self.method.as_str() {
                "GET" | "HEAD" if known.contains(&path.as_slice()) => 200,
                "GET" | "HEAD" => 404,
                _ => 405,
            }
        })
    }
}

fn is_method(method: &str) -> bool {
    (1..=32).contains(&method.len()) && method.chars().all(is_token)
}

fn has_key(plain: &Plain) -> bool {
    let keys = plain.values("sec-websocket-key");
    let is_key = |key: &&[u8]| {
        let decoded = STANDARD.decode(key).unwrap_or_default();
        decoded.len() == 16 && STANDARD.encode(decoded).as_bytes() == *key
    };
    keys.len() == 1 && keys.iter().all(is_key)
}

fn framing(plain: &Plain, is_http11: bool) -> Option<Framing> {
    match (plain.values("content-length").as_slice(), plain.values("transfer-encoding").as_slice())
    {
        ([], []) => Some(Framing::Length(0)),
        ([length], []) => {
            let is_plain =
                (1..=19).contains(&length.len()) && length.iter().all(u8::is_ascii_digit);
            let length = is_plain.then(|| str::from_utf8(length).ok()?.parse().ok())??;
            Some(Framing::Length(length))
        }
        ([], [coding]) if is_http11 && coding.eq_ignore_ascii_case(b"chunked") => {
            Some(Framing::Chunked)
        }
        _ => None,
    }
}

/// `host:port`, and the port that goes without saying.
type Authority = (String, &'static str);

/// The target in origin form, or `*`, and what an absolute form named.
fn origin_form(method: &str, target: &str) -> Option<(String, Option<Authority>)> {
    if !target.chars().all(|char| ('!'..='~').contains(&char) && char != '#' && char != '\\') {
        return None;
    }
    if target == "*" && method == "OPTIONS" {
        return Some((target.to_owned(), None));
    }
    let (path, authority) = if target.starts_with('/') {
        (target, None)
    } else {
        let (scheme, rest) = target.split_once("://")?;
        let port = match scheme.to_ascii_lowercase().as_str() {
            "http" => "80",
            "https" => "443",
            _ => return None,
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end)?;
        let path = match path {
            "" if method == "OPTIONS" => "*",
            "" => "/",
            _ => path,
        };
        (path, Some((with_port(authority, port)?, port)))
    };
    let is_form = path == "*" || path.starts_with('/');
    (is_form && is_safe_path(path.split('?').next()?)).then(|| (path.to_owned(), authority))
}

/// `host:port` in lower case, with a default where none is given; `None` for what is no authority.
fn with_port(authority: &str, port_default: &str) -> Option<String> {
    let authority = authority.to_ascii_lowercase();
    let (host, port) = match authority.rfind(':') {
        Some(colon) if !authority.ends_with(']') => {
            let (host, port) = authority.split_at_checked(colon)?;
            (host.to_owned(), port.get(1..)?.to_owned())
        }
        _ => (authority, port_default.to_owned()),
    };
    let number: u16 = port.parse().ok()?;
    if number.to_string() != port {
        return None;
    }
    let is_valid = if let Some(address) = host.strip_prefix('[') {
        address.strip_suffix(']')?.parse::<Ipv6Addr>().is_ok()
    } else {
        let name = host.strip_suffix('.').unwrap_or(&host);
        let is_label = |label: &str| {
            let known = |char: char| char.is_ascii_alphanumeric() || "-_~".contains(char);
            !label.is_empty() && label.chars().all(known)
        };
        name.split('.').all(is_label)
    };
    is_valid.then(|| format!("{host}:{port}"))
}

/// `Host` as it stands there; the outer `None` is a refusal, the inner one a request that has none.
#[expect(clippy::option_option, reason = "both answers are expected")]
fn host(plain: &Plain, is_http11: bool, authority: Option<&Authority>) -> Option<Option<String>> {
    match plain.values("host").as_slice() {
        [] if is_http11 => None,
        [] => Some(None),
        [host] => {
            let host = str::from_utf8(host).ok()?;
            with_port(host, "80")?;
            let is_same = authority
                .is_none_or(|(authority, port)| with_port(host, port).as_ref() == Some(authority));
            is_same.then(|| Some(host.to_owned()))
        }
        _ => None,
    }
}

/// Percent-decoded once; `None` when an escape is not valid.
fn decoded(path: &str) -> Option<Vec<u8>> {
    let mut parts = path.split('%');
    let mut decoded = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        digits.chars().all(|char| char.is_ascii_hexdigit()).then_some(())?;
        decoded.push(u8::from_str_radix(digits, 16).ok()?);
        decoded.extend_from_slice(rest.as_bytes());
    }
    Some(decoded)
}

fn is_safe_path(path: &str) -> bool {
    let Some(decoded) = decoded(path) else { return false };
    let has_control = decoded.iter().any(u8::is_ascii_control);
    let mut segments = decoded.split(|byte| matches!(byte, b'/' | b'\\'));
    let is_dots = |segment: &[u8]| {
        let segment = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        segment == b"." || segment == b".."
    };
    !has_control && !segments.any(is_dots)
}
