//! The PROXY protocol, versions 1 and 2: who is at the other end of a load balancer (contract section 9.2).
//!
//! Source: "The PROXY protocol, versions 1 & 2", HAProxy, sections 2.1 and 2.2. Own code, because the header decides who a client
//! is: nothing may be read that the text does not allow, what is not complete is not an error, and both are hard to get from a
//! library that parses what it can. The header is read once per connection, so nothing here is in a hurry.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Begins every header of version 1.
const V1: &[u8] = b"PROXY ";

/// Begins every header of version 2.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The longest line of version 1, with its end (section 2.1).
const V1_BYTES_MAX: usize = 107;

/// Signature, version and command, family, length (section 2.2).
const V2_FIXED_BYTES: usize = 16;

/// What may follow the fixed part of version 2. The text allows 64 KiB; addresses and the TLVs that balancers send take a few
/// hundred bytes, and whoever has not been believed yet gets no more memory than a small head.
const V2_REST_BYTES_MAX: usize = 4096;

/// A buffer of this size holds every header that is accepted.
pub const HEADER_BYTES_MAX: usize = V2_FIXED_BYTES + V2_REST_BYTES_MAX;

/// A complete header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The client as the balancer saw it, IPv4-mapped addresses as IPv4. `None` for `LOCAL`, `UNKNOWN` and an unspecified
    /// family: the addresses of the socket stay.
    pub source: Option<SocketAddr>,
    /// Bytes that the header takes; what follows belongs to the client.
    pub bytes: usize,
}

/// Why the bytes are not a PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyHeaderError {
    /// They begin like neither version.
    Signature,
    /// The line of version 1 is too long, or is none.
    Line,
    /// The line of version 1 has other parts than the text allows.
    Parts,
    /// Version 2 with another version, command or family than the text allows for a stream.
    Kind,
    /// Version 2 with a length that does not fit what it announces, or is over [`HEADER_BYTES_MAX`].
    Length,
}

impl ProxyHeaderError {
    /// What was wrong, for the operator log.
    pub fn message(self) -> &'static str {
        match self {
            Self::Signature => "the connection does not begin with a PROXY header",
            Self::Line => "the PROXY line is too long or not a line",
            Self::Parts => "the PROXY line has wrong parts",
            Self::Kind => "the PROXY header has an unknown version, command or family",
            Self::Length => "the PROXY header has a wrong length",
        }
    }
}

/// Reads the header at the start of `buffer`; `None` while it is not complete.
pub fn parse(buffer: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    if begins_like(buffer, V1) {
        parse_v1(buffer)
    } else if begins_like(buffer, V2) {
        parse_v2(buffer)
    } else {
        Err(ProxyHeaderError::Signature)
    }
}

/// Whether the bytes that are there are those of the signature.
fn begins_like(buffer: &[u8], signature: &[u8]) -> bool {
    buffer.iter().zip(signature).all(|(byte, wanted)| byte == wanted)
}

fn parse_v1(buffer: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    let line_end = buffer.iter().position(|byte| !(b' '..=b'~').contains(byte));
    let length = line_end.unwrap_or(buffer.len());
    if length + 2 > V1_BYTES_MAX {
        return Err(ProxyHeaderError::Line);
    }
    let (line, end) = buffer.split_at_checked(length).ok_or(ProxyHeaderError::Line)?;
    match end {
        [b'\r', b'\n', ..] => {}
        [] | [b'\r'] => return Ok(None),
        _ => return Err(ProxyHeaderError::Line),
    }
    let source = v1_source(line)?;
    Ok(Some(ProxyHeader { source, bytes: length + 2 }))
}

/// The source in a line without its end.
fn v1_source(line: &[u8]) -> Result<Option<SocketAddr>, ProxyHeaderError> {
    // What follows UNKNOWN is to be ignored.
    if line == b"PROXY UNKNOWN" || line.starts_with(b"PROXY UNKNOWN ") {
        return Ok(None);
    }
    v1_named(line).map(Some).ok_or(ProxyHeaderError::Parts)
}

fn v1_named(line: &[u8]) -> Option<SocketAddr> {
    let line = str::from_utf8(line).ok()?.strip_prefix("PROXY ")?;
    let mut parts = line.split(' ');
    let mut next = || parts.next();
    let family = next()?;
    let (source, destination) = (next()?, next()?);
    let (source_port, _) = (v1_port(next()?)?, v1_port(next()?)?);
    let address = |text: &str| match family {
        "TCP4" => text.parse().ok().map(IpAddr::V4),
        "TCP6" => text.parse().ok().map(IpAddr::V6),
        _ => None,
    };
    let (source, _) = (address(source)?, address(destination)?);
    next().is_none().then_some(client(source, source_port))
}

/// A decimal number without a sign or leading zeros.
fn v1_port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = digits && (text.len() == 1 || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

fn client(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address.to_canonical(), port)
}

/// What version 2 says about the addresses that follow.
enum Addresses {
    /// None that are to be used.
    Ignored,
    V4,
    V6,
}

fn parse_v2(buffer: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    let Some((fixed, rest)) = buffer.split_first_chunk::<V2_FIXED_BYTES>() else {
        return Ok(None);
    };
    let [.., version_command, family, high, low] = *fixed;
    let addresses = match (version_command, family) {
        (0x20, _) | (0x21, 0x00) => Addresses::Ignored,
        (0x21, 0x11) => Addresses::V4,
        (0x21, 0x21) => Addresses::V6,
        _ => return Err(ProxyHeaderError::Kind),
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let fits = match addresses {
        Addresses::Ignored => true,
        Addresses::V4 => length >= 12,
        Addresses::V6 => length >= 36,
    };
    if length > V2_REST_BYTES_MAX || !fits {
        return Err(ProxyHeaderError::Length);
    }
    let Some((block, _)) = rest.split_at_checked(length) else {
        return Ok(None);
    };
    let source = match addresses {
        Addresses::Ignored => None,
        Addresses::V4 => Some(v4_source(block).ok_or(ProxyHeaderError::Length)?),
        Addresses::V6 => Some(v6_source(block).ok_or(ProxyHeaderError::Length)?),
    };
    Ok(Some(ProxyHeader { source, bytes: V2_FIXED_BYTES + length }))
}

/// Source and destination address, source and destination port, extensions.
fn v4_source(block: &[u8]) -> Option<SocketAddr> {
    let ([a, b, c, d, _, _, _, _, high, low, _, _], rest) = block.split_first_chunk::<12>()?;
    let address = IpAddr::V4(Ipv4Addr::new(*a, *b, *c, *d));
    are_extensions(rest).then(|| client(address, u16::from_be_bytes([*high, *low])))
}

/// As [`v4_source`].
fn v6_source(block: &[u8]) -> Option<SocketAddr> {
    let (source, rest) = block.split_first_chunk::<16>()?;
    let (_destination, rest) = rest.split_first_chunk::<16>()?;
    let ([high, low, _, _], rest) = rest.split_first_chunk::<4>()?;
    let address = IpAddr::V6(Ipv6Addr::from(*source));
    are_extensions(rest).then(|| client(address, u16::from_be_bytes([*high, *low])))
}

/// Whether the bytes are type, length and value, again and again (section 2.2.7). Nobody here needs what they say.
fn are_extensions(mut bytes: &[u8]) -> bool {
    while let Some(([_, high, low], rest)) = bytes.split_first_chunk::<3>() {
        match rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low]))) {
            Some((_, rest)) => bytes = rest,
            None => return false,
        }
    }
    bytes.is_empty()
}

#[cfg(test)]
mod tests;
