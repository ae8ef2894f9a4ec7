//! Addresses on which nobody listens until the test does, also while what listened there is away.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant, SystemTime};

/// A server on a port may want another one so far above it (Redis does, for its cluster).
const SECOND_PORT: u16 = 10_000;

/// An address of 127.0.0.1 that refuses connections now. Where the kernel leaves some, its port is one that is given to nobody who
/// asks for any (ip(7), `ip_local_port_range`), so that no other test comes to listen on it by chance.
#[track_caller]
pub(crate) fn vacant_address() -> SocketAddr {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").expect("procfs");
    let first = range.split_whitespace().next().and_then(|first| first.parse::<u16>().ok());
    let below = 1024..first.expect("the first of two ports").saturating_sub(SECOND_PORT);
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock");
        let number = std::process::id().wrapping_mul(7919).wrapping_add(now.subsec_nanos());
        let port = match u32::try_from(below.len()) {
            Ok(count) if count > 0 => {
                below.start + u16::try_from(number % count).expect("less than a port")
            }
            _ => 0,
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        if let Ok(address) = listener.and_then(|listener| listener.local_addr()) {
            return address;
        }
        assert!(Instant::now() < until, "no free port in {below:?}");
    }
}
