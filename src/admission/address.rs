//! Who the client is: the peer, or the address that a trusted peer names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::Cidr;

/// The client's address and whether the peer is trusted to name it.
///
/// `forwarded_for` are the values of all `X-Forwarded-For` lines in order, read as one list from right to left: trusted
/// addresses are skipped, the first other one is the client, the leftmost when all are trusted. An entry that is not an
/// IP address ends the walk at the address reached before it. Addresses are canonical: IPv4-mapped IPv6 is IPv4.
pub fn client_address<'v>(
    peer: IpAddr,
    forwarded_for: impl DoubleEndedIterator<Item = &'v [u8]>,
    trusted: &[Cidr],
) -> (IpAddr, bool) {
    let peer = peer.to_canonical();
    if !is_trusted(peer, trusted) {
        return (peer, false);
    }
    let mut client = peer;
    for entry in forwarded_for.rev().flat_map(|line| line.rsplit(|&byte| byte == b',')) {
        let Some(address) = parse_entry(entry) else {
            break;
        };
        client = address;
        if !is_trusted(address, trusted) {
            break;
        }
    }
    (client, true)
}

/// Whether private and loopback peers are trusted although no list names them: the second form of contract section 9.1.
pub fn trusts_private_peers(trusted: &[Cidr], trust_proxy_headers: bool) -> bool {
    trusted.is_empty() && trust_proxy_headers
}

/// The peers that the second form trusts: loopback and private addresses (RFC 1918, RFC 4193).
pub const PRIVATE_PEERS: [Cidr; 6] = [
    v4_block([127, 0, 0, 0], 8),
    v4_block([10, 0, 0, 0], 8),
    v4_block([172, 16, 0, 0], 12),
    v4_block([192, 168, 0, 0], 16),
    Cidr { network: IpAddr::V6(Ipv6Addr::LOCALHOST), prefix: 128 },
    Cidr { network: IpAddr::V6(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0)), prefix: 7 },
];

const fn v4_block([a, b, c, d]: [u8; 4], prefix: u8) -> Cidr {
    Cidr { network: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix }
}

/// The peers whose forwarding headers are believed: those of the list, or without a list, when a `trust_proxy_headers` key is
/// true, [`PRIVATE_PEERS`].
pub fn trusted_peers(listed: &[Cidr], trust_proxy_headers: bool) -> &[Cidr] {
    if trusts_private_peers(listed, trust_proxy_headers) { &PRIVATE_PEERS } else { listed }
}

/// The key of a client in buckets and quotas: the address itself for IPv4, its block of `ipv6_prefix` bits for IPv6. Written
/// as `192.0.2.7` and `2001:db8:1:2::/64`.
pub fn client_key(client: IpAddr, ipv6_prefix: u8) -> Cidr {
    match client.to_canonical() {
        address @ IpAddr::V4(_) => Cidr { network: address, prefix: 32 },
        IpAddr::V6(address) => {
            let prefix = ipv6_prefix.min(128);
            let host_bits = 128 - u32::from(prefix);
            let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
            let network = Ipv6Addr::from_bits(address.to_bits() & mask);
            Cidr { network: IpAddr::V6(network), prefix }
        }
    }
}

/// Reads an address that may have a port, and when it is IPv6, brackets and a zone.
fn parse_entry(entry: &[u8]) -> Option<IpAddr> {
    let entry = str::from_utf8(entry).ok()?.trim_matches([' ', '\t']);
    if let Some(bracketed) = entry.strip_prefix('[') {
        let (address, port) = bracketed.split_once(']')?;
        return (port.is_empty() || is_port(port.strip_prefix(':')?))
            .then(|| parse_ipv6(address))
            .flatten();
    }
    match entry.split_once(':') {
        Some((address, port)) if !port.contains(':') => {
            is_port(port).then(|| address.parse().ok().map(IpAddr::V4)).flatten()
        }
        Some(_) => parse_ipv6(entry),
        None => entry.parse().ok().map(IpAddr::V4),
    }
}

/// The zone (RFC 4007) says something only on the machine that wrote it.
fn parse_ipv6(text: &str) -> Option<IpAddr> {
    let address = match text.split_once('%') {
        Some((_, "")) => return None,
        Some((address, _)) => address,
        None => text,
    };
    Some(IpAddr::V6(address.parse::<Ipv6Addr>().ok()?).to_canonical())
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

fn is_trusted(address: IpAddr, trusted: &[Cidr]) -> bool {
    trusted.iter().any(|block| contains(block, address))
}

/// Whether `address` lies in `block`.
fn contains(block: &Cidr, address: IpAddr) -> bool {
    match (block.network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let host_bits = 32_u32.saturating_sub(block.prefix.into());
            (network.to_bits() ^ address.to_bits()).checked_shr(host_bits).unwrap_or(0) == 0
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let host_bits = 128_u32.saturating_sub(block.prefix.into());
            (network.to_bits() ^ address.to_bits()).checked_shr(host_bits).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
