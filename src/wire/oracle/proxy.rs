//! PROXY headers, read as simply as can be and without the code under test.

use std::net::{IpAddr, SocketAddr};

use super::super::proxy_protocol::{HEADER_BYTES_MAX, ProxyHeader, parse};

/// Any bytes as the start of a connection behind a load balancer.
///
/// # Panics
///
/// When a property does not hold.
pub fn proxy_protocol(data: &[u8]) {
    let whole = parse(data);
    assert_eq!(whole.ok().flatten(), expected(data), "{}", data.escape_ascii());
    if let Err(error) = whole {
        assert!(!error.message().is_empty());
    }
    if data.len() >= HEADER_BYTES_MAX {
        assert_ne!(whole, Ok(None), "a full buffer decides");
    }
    // More bytes decide what was open and change nothing that was decided.
    let decided = (0..=data.len().min(300)).map(|length| data.get(..length).unwrap_or_default());
    let mut last = Ok(None);
    for prefix in decided {
        let now = parse(prefix);
        assert!(last == Ok(None) || last == now, "{}", prefix.escape_ascii());
        if let Ok(Some(header)) = now {
            assert!(header.bytes <= prefix.len() && Some(header) == whole.ok().flatten());
        }
        last = now;
    }
}

fn expected(data: &[u8]) -> Option<ProxyHeader> {
    if data.starts_with(b"PROXY ") { expected_line(data) } else { expected_binary(data) }
}

fn expected_line(data: &[u8]) -> Option<ProxyHeader> {
    let bytes = data.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let line = data.get(..bytes - 2)?;
    let visible = line.iter().all(|byte| *byte == b' ' || byte.is_ascii_graphic());
    let text = str::from_utf8(line).ok().filter(|_| visible && bytes <= 107)?;
    let parts: Vec<&str> = text.split(' ').collect();
    let port = |text: &str| {
        let number: Option<u16> = text.parse().ok();
        number.filter(|number| number.to_string() == text)
    };
    let source = match parts.as_slice() {
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", family @ ("TCP4" | "TCP6"), source, destination, from, to] => {
            let address = |text: &str| {
                let address: Option<IpAddr> = text.parse().ok();
                address.filter(|address| address.is_ipv4() == (*family == "TCP4"))
            };
            let (source, _) = (address(source)?, address(destination)?);
            let (from, _) = (port(from)?, port(to)?);
            Some(SocketAddr::new(source.to_canonical(), from))
        }
        _ => return None,
    };
    Some(ProxyHeader { source, bytes })
}

fn expected_binary(data: &[u8]) -> Option<ProxyHeader> {
    let rest = data.strip_prefix(b"\r\n\r\n\0\r\nQUIT\n")?;
    let byte = |at: usize| rest.get(at).copied();
    let length = usize::from(byte(2)?) * 256 + usize::from(byte(3)?);
    let bytes = 16 + length;
    let block = data.get(16..bytes).filter(|_| bytes <= HEADER_BYTES_MAX)?;
    let addresses = match (byte(0)?, byte(1)?) {
        (0x20, _) | (0x21, 0) => return Some(ProxyHeader { source: None, bytes }),
        (0x21, 0x11) => 4,
        (0x21, 0x21) => 16,
        _ => return None,
    };
    let number =
        |at: usize| Some(u16::from(*block.get(at)?) * 256 + u16::from(*block.get(at + 1)?));
    let octets = block.get(..addresses)?;
    let address = match addresses {
        4 => IpAddr::from(<[u8; 4]>::try_from(octets).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(octets).ok()?),
    };
    let port = number(2 * addresses)?;
    let mut at = 2 * addresses + 4;
    while at != block.len() {
        at += 3 + usize::from(number(at + 1)?);
        if at > block.len() {
            return None;
        }
    }
    Some(ProxyHeader { source: Some(SocketAddr::new(address.to_canonical(), port)), bytes })
}
