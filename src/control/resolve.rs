//! Names of upstreams become addresses here and nowhere else: the resolver of the C library blocks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::admission::policy::Addresses;
use crate::config::UpstreamTarget;

/// How long a resolved name is used before it is asked again.
pub(super) const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// How long after the start, or after a failure.
pub(super) const FIRST_AFTER: Duration = Duration::from_secs(1);

/// One resolution may take this long.
const LIMIT: Duration = Duration::from_secs(5);

/// The name to resolve, unless the target is an address or a path already.
pub(super) fn name_of(target: &UpstreamTarget) -> Option<(&str, u16)> {
    match target {
        UpstreamTarget::Tcp { host, port } if host.parse::<IpAddr>().is_err() => {
            Some((host, *port))
        }
        _ => None,
    }
}

/// Where the target is. A name that does not resolve has no addresses; that is not an error of the start.
pub(super) async fn resolve(target: &UpstreamTarget) -> Addresses {
    match target {
        UpstreamTarget::Unix(path) => Addresses::Unix(path.clone()),
        UpstreamTarget::Tcp { host, port } => {
            Addresses::Tcp(match (host.parse(), name_of(target)) {
                (Ok(ip), _) => vec![SocketAddr::new(ip, *port)],
                (_, Some(name)) => look_up(name).await,
                _ => Vec::new(),
            })
        }
    }
}

async fn look_up(name: (&str, u16)) -> Vec<SocketAddr> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    match tokio::time::timeout(LIMIT, tokio::net::lookup_host(name)).await {
        Ok(Ok(found)) => {
            for address in found {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        Ok(Err(error)) => {
            tracing::warn!(host = name.0, %error, "the name of the upstream does not resolve");
        }
        Err(_) => {
            tracing::warn!(host = name.0, "resolving the name of the upstream takes too long");
        }
    }
    if name.0.eq_ignore_ascii_case("localhost") {
        // Both loopbacks, whatever the hosts file says (RFC 6761 section 6.3): the application may listen on either.
        for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
            let address = SocketAddr::new(ip, name.1);
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    addresses
}
