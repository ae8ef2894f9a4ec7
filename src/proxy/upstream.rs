//! Connections to the upstream: made within the connect deadline, over TCP or a Unix socket.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::core::Core;
use super::readiness::Readiness;
use super::stream::{Socket, deadline_after};
use crate::admission::policy::{Addresses, Policy};
use crate::clock;
use crate::refusal::{Refusal, Unavailable};

/// All addresses of the upstream together have this long to accept a connection.
const CONNECT_TIME: Duration = Duration::from_secs(3);

/// Where a connection leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Place {
    /// Whether this is still one of the upstream's addresses.
    pub(crate) fn is_of(&self, addresses: &Addresses) -> bool {
        match (self, addresses) {
            (Self::Tcp(address), Addresses::Tcp(all)) => all.contains(address),
            (Self::Unix(path), Addresses::Unix(wanted)) => path == wanted,
            _ => false,
        }
    }
}

/// A connection that was just made.
pub(crate) struct Connected {
    pub(crate) upstream: Socket,
    pub(crate) place: Place,
    /// How much of the head went out with it.
    pub(crate) sent_bytes: usize,
}

/// Connects to the first address that accepts, and sends what fits of `head`. `limit` bounds the time further.
pub(crate) async fn connect(
    core: &Core,
    policy: &Policy,
    addresses: &Addresses,
    head: &[u8],
    limit: Option<Duration>,
) -> Result<Connected, Refusal> {
    let limit = limit.map_or(CONNECT_TIME, |limit| limit.min(CONNECT_TIME));
    let deadline = deadline_after(Some(limit));
    let connected = match addresses {
        Addresses::Tcp(addresses) => {
            send_over_tcp(&core.readiness, addresses, head, deadline).await
        }
        Addresses::Unix(path) => {
            connect_unix(&core.readiness, path, deadline).await.map(|upstream| Connected {
                upstream,
                place: Place::Unix(path.clone()),
                sent_bytes: 0,
            })
        }
    };
    connected.map_err(|reason| {
        let failures = &core.metrics.connect_failures;
        failures.count(reason.word(), 0, policy.no_pattern(), Duration::ZERO);
        match reason {
            Unavailable::Timeout => Refusal::upstream_timeout(limit),
            reason => Refusal::UpstreamUnavailable(reason),
        }
    })
}

async fn send_over_tcp(
    readiness: &Rc<Readiness>,
    addresses: &[SocketAddr],
    head: &[u8],
    deadline: Option<Instant>,
) -> Result<Connected, Unavailable> {
    let mut last = Unavailable::Unresolved;
    for (tried, address) in addresses.iter().enumerate() {
        // An address that answers nothing must leave time for those after it.
        let share = deadline.map(|deadline| {
            let now = clock::now();
            now + share(deadline.saturating_duration_since(now), addresses.len() - tried)
        });
        match connect_tcp(readiness, address, head, share).await {
            Ok((upstream, sent_bytes)) => {
                return Ok(Connected { upstream, place: Place::Tcp(*address), sent_bytes });
            }
            Err(error) => last = unavailable(error),
        }
    }
    Err(last)
}

/// The part of the time that is left for the next one of so many addresses; the last one has it all.
fn share(left: Duration, addresses: usize) -> Duration {
    left / u32::try_from(addresses.max(1)).unwrap_or(u32::MAX)
}

async fn connect_tcp(
    readiness: &Rc<Readiness>,
    address: &SocketAddr,
    head: &[u8],
    deadline: Option<Instant>,
) -> Result<(Socket, usize), Errno> {
    let upstream = Socket::adopt_tcp(Socket::connect_tcp(address)?, readiness);
    loop {
        // Until it is established there is nothing to send into; when it fails, the send says why.
        match upstream.try_send(head) {
            Ok(sent) => return Ok((upstream, sent)),
            Err(Errno::AGAIN) => upstream.writable_until(deadline).await?,
            Err(error) => return Err(error),
        }
    }
}

/// A full backlog of a Unix listener answers at once instead of letting the caller wait; so it is asked again.
const BACKLOG_PAUSE: Duration = Duration::from_millis(5);

async fn connect_unix(
    readiness: &Rc<Readiness>,
    path: &Path,
    deadline: Option<Instant>,
) -> Result<Socket, Unavailable> {
    loop {
        match Socket::connect_unix(path) {
            Ok(fd) => {
                return Ok(Socket::adopt(fd, readiness));
            }
            Err(Errno::AGAIN) if deadline.is_none_or(|deadline| clock::now() < deadline) => {
                monoio::time::sleep(BACKLOG_PAUSE).await;
            }
            Err(Errno::AGAIN) => return Err(Unavailable::Timeout),
            Err(error) => return Err(unavailable(error)),
        }
    }
}

fn unavailable(error: Errno) -> Unavailable {
    match error {
        Errno::CONNREFUSED | Errno::NOENT => Unavailable::Refused,
        Errno::TIME | Errno::TIMEDOUT => Unavailable::Timeout,
        Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::HOSTDOWN | Errno::NETDOWN => {
            Unavailable::Unreachable
        }
        Errno::ADDRNOTAVAIL => Unavailable::NoPorts,
        _ => Unavailable::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_has_its_share_and_all_together_no_more_than_the_whole() {
        for addresses in 1..=300 {
            let mut left = CONNECT_TIME;
            for tried in 0..addresses {
                let time = share(left, addresses - tried);
                let even = CONNECT_TIME / u32::try_from(addresses).unwrap();
                assert!(time.abs_diff(even) < Duration::from_micros(1), "{tried} of {addresses}");
                left -= time;
            }
            assert_eq!(left, Duration::ZERO);
        }
        // What one did not need is for the others.
        assert_eq!(share(Duration::from_millis(2900), 2), Duration::from_millis(1450));
        assert_eq!(share(CONNECT_TIME, 0), CONNECT_TIME);
    }
}
