//! Names of upstreams become addresses here and nowhere else: the resolver of the C library blocks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::admission::policy::{Addresses, Policy};
use crate::config::{Config, UpstreamTarget};
use crate::published::Published;

/// How long a resolved name is used before it is asked again.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// How long after the start, or after a failure.
const FIRST_AFTER: Duration = Duration::from_secs(1);

/// One resolution may take this long.
const LIMIT: Duration = Duration::from_secs(5);

/// The name to resolve, unless the target is an address or a path already.
fn name_of(target: &UpstreamTarget) -> Option<(&str, u16)> {
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

/// Asks for the addresses of the upstream again and again, and publishes those that are new. One that a reload brought and
/// that has none yet does not wait for its turn.
pub(super) async fn keep_resolved(policy: Published<Policy>) {
    let mut due = super::now() + FIRST_AFTER;
    loop {
        tokio::time::sleep(FIRST_AFTER).await;
        let is_missing = policy.current().all_addresses().any(|found| *found == nowhere());
        if is_missing || due <= super::now() {
            let pause = resolve_again(&policy).await;
            due = super::now() + pause;
        }
    }
}

/// Returns after which time to do it next.
async fn resolve_again(policy: &Published<Policy>) -> Duration {
    let current = policy.current();
    let target = &current.config.upstream.target;
    let flows = current.config.auth.kratos_flows().map(|(target, _)| target);
    if name_of(target).is_none() && flows.and_then(name_of).is_none() {
        return AGAIN_AFTER;
    }
    let known = |found: Addresses, before: &Addresses| match found {
        // A name that was known and fails now keeps its last addresses.
        Addresses::Tcp(none) if none.is_empty() => before.clone(),
        found => found,
    };
    let upstream = known(resolve(target).await, &current.upstream.addresses);
    let kratos_before = current.kratos.as_ref().map(|kratos| &kratos.destination.addresses);
    let kratos = resolve_kratos(&current.config).await;
    let kratos = kratos_before.map_or_else(nowhere, |before| known(kratos, before));
    if !Arc::ptr_eq(&current, &policy.current()) {
        // A reload came in between, and these may be the addresses of an upstream from before it.
        return FIRST_AFTER;
    }
    let missing = upstream == nowhere() || (kratos_before.is_some() && kratos == nowhere());
    if upstream != current.upstream.addresses
        || kratos_before.is_some_and(|before| kratos != *before)
    {
        let url = &*current.upstream.url;
        tracing::info!(upstream = url, addresses = ?upstream, ?kratos, "names have new addresses");
        policy.publish(Policy::new(current.config.clone(), upstream, kratos));
    }
    if missing { FIRST_AFTER } else { AGAIN_AFTER }
}

/// Where the requests go that are for Kratos itself; nowhere in another mode.
pub(super) async fn resolve_kratos(config: &Config) -> Addresses {
    match config.auth.kratos_flows() {
        Some((target, _)) => resolve(target).await,
        None => nowhere(),
    }
}

fn nowhere() -> Addresses {
    Addresses::Tcp(Vec::new())
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
