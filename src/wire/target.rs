//! Request targets, authorities and paths (RFC 9112 section 3.2, RFC 3986).

use std::fmt;
use std::net::Ipv6Addr;

use memchr::memchr2;

/// A target in the form that goes upstream.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Target<'b> {
    /// Origin form, or `*`.
    pub(super) origin_form: &'b str,
    /// What the absolute form named before it was reduced.
    pub(super) authority: Option<Authority<'b>>,
}

/// The query may be a credential.
impl fmt::Debug for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("path", &path(self.origin_form))
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}

/// Why a target is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TargetError {
    /// A byte that may not stand there, or none of the accepted forms.
    Form,
    /// The path could be read differently by whoever decodes or normalises it next.
    Path,
}

/// `host[:port]` with the default port of its scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Authority<'b> {
    pub(super) text: &'b str,
    port_default: u16,
}

impl<'b> Target<'b> {
    /// Reads the target of a request with `method`.
    pub(super) fn parse(method: &str, target: &'b str) -> Result<Self, TargetError> {
        if !target.bytes().all(is_target_byte) {
            return Err(TargetError::Form);
        }
        let reduced = if target.starts_with('/') {
            Self { origin_form: target, authority: None }
        } else if target == "*" && method == "OPTIONS" {
            return Ok(Self { origin_form: target, authority: None });
        } else {
            Self::reduce(method, target).ok_or(TargetError::Form)?
        };
        if reduced.origin_form != "*" {
            check_path(path(reduced.origin_form).as_bytes())?;
        }
        Ok(reduced)
    }

    /// Takes the absolute form apart. An absolute form without a path means `/`, and the server as a whole for OPTIONS
    /// (RFC 9112 section 3.2.4); without a path but with a query it has no origin form that is part of it: refused.
    fn reduce(method: &str, target: &'b str) -> Option<Self> {
        let (scheme, rest) = target.split_once("://")?;
        let port_default = if scheme.eq_ignore_ascii_case("http") {
            80
        } else if scheme.eq_ignore_ascii_case("https") {
            443
        } else {
            return None;
        };
        let authority_bytes = rest.find(['/', '?']).unwrap_or(rest.len());
        let (text, path_and_query) = rest.split_at_checked(authority_bytes)?;
        if !is_authority(text) {
            return None;
        }
        let origin_form = match path_and_query {
            "" if method == "OPTIONS" => "*",
            "" => "/",
            _ if path_and_query.starts_with('/') => path_and_query,
            _ => return None,
        };
        Some(Self { origin_form, authority: Some(Authority { text, port_default }) })
    }
}

impl Authority<'_> {
    /// Whether `host`, a valid authority, names the same place: host without case, port with its default.
    pub(super) fn is(&self, host: &str) -> bool {
        let (own_host, own_port) = split_port(self.text);
        let (other_host, other_port) = split_port(host);
        own_host.eq_ignore_ascii_case(other_host)
            && own_port.unwrap_or(self.port_default) == other_port.unwrap_or(self.port_default)
    }
}

fn is_target_byte(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7E) && !matches!(byte, b'#' | b'\\')
}

/// The path of a target in origin form: all before the query.
pub(super) fn path(origin_form: &str) -> &str {
    origin_form.split_once('?').map_or(origin_form, |(path, _)| path)
}

/// Whether `text` is `host[:port]`: a name, an IPv4 address or a bracketed IPv6 address, and a port of 0 to 65535.
///
/// Names are letters, digits, `-`, `.`, `_` and `~`, without empty labels but with or without the final dot. That is less
/// than RFC 3986 allows: no sub-delimiters, no percent encoding, no empty port, no port with leading zeros.
pub fn is_authority(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else {
                return false;
            };
            if address.parse::<Ipv6Addr>().is_err() {
                return false;
            }
            if port.is_empty() {
                return true;
            }
            let Some(port) = port.strip_prefix(':') else {
                return false;
            };
            return is_port(port);
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    is_name(host) && port.is_none_or(is_port)
}

fn is_name(host: &str) -> bool {
    let mut label_bytes = 0;
    for byte in host.bytes() {
        match byte {
            b'.' if label_bytes == 0 => return false,
            b'.' => label_bytes = 0,
            b'-' | b'_' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => label_bytes += 1,
            _ => return false,
        }
    }
    !host.is_empty()
}

fn is_port(port: &str) -> bool {
    port.bytes().all(|byte| byte.is_ascii_digit())
        && (port == "0" || !port.starts_with('0'))
        && port.parse::<u16>().is_ok()
}

/// Takes the port off a valid authority; the host keeps its brackets.
pub fn split_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
        _ => (authority, None),
    }
}

/// Refuses a path that a decoding or normalising application could read as another path: an invalid escape, an encoded
/// control character, a `.` or `..` segment in any disguise.
fn check_path(path: &[u8]) -> Result<(), TargetError> {
    if memchr2(b'%', b'.', path).is_none() {
        return Ok(());
    }
    let mut segment = Segment::default();
    let mut rest = path.iter();
    while let Some(&byte) = rest.next() {
        let decoded = if byte == b'%' {
            let decoded = escape(rest.next(), rest.next()).ok_or(TargetError::Path)?;
            if decoded.is_ascii_control() {
                return Err(TargetError::Path);
            }
            decoded
        } else {
            byte
        };
        if matches!(decoded, b'/' | b'\\') {
            if segment.is_dots() {
                return Err(TargetError::Path);
            }
            segment = Segment::default();
        } else {
            segment.push(decoded);
        }
    }
    if segment.is_dots() {
        return Err(TargetError::Path);
    }
    Ok(())
}

/// What matters of a path segment: whether it is `.` or `..`, a `;` and all after it not counted.
#[derive(Default)]
struct Segment {
    dots: usize,
    has_other: bool,
    is_cut: bool,
}

impl Segment {
    fn push(&mut self, byte: u8) {
        match byte {
            _ if self.is_cut => {}
            b';' => self.is_cut = true,
            b'.' => self.dots += 1,
            _ => self.has_other = true,
        }
    }

    fn is_dots(&self) -> bool {
        !self.has_other && matches!(self.dots, 1 | 2)
    }
}

fn escape(high: Option<&u8>, low: Option<&u8>) -> Option<u8> {
    Some(hex_digit(*high?)? << 4 | hex_digit(*low?)?)
}

pub(super) fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// The bytes of a path, percent-decoded once. Escapes that are not valid stand for themselves; a checked head has none.
pub fn decoded(path: &str) -> impl Iterator<Item = u8> + '_ {
    let mut rest = path.as_bytes();
    std::iter::from_fn(move || {
        if let [b'%', high, low, after @ ..] = rest
            && let Some(byte) = escape(Some(high), Some(low))
        {
            rest = after;
            return Some(byte);
        }
        let (&byte, after) = rest.split_first()?;
        rest = after;
        Some(byte)
    })
}

#[cfg(test)]
mod tests;
