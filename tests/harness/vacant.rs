//! Addresses on which nobody listens until the test does, also while what listened there is away.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant, SystemTime};

/// An address of 127.0.0.1 that refuses connections now, and whose port the kernel gives to nobody who asks for any (ip(7),
/// `ip_local_port_range`): no other test comes to listen on it by chance.
#[track_caller]
pub(crate) fn vacant_address() -> SocketAddr {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").expect("procfs");
    let first = range.split_whitespace().next().and_then(|first| first.parse::<u16>().ok());
    let below = 1024..first.expect("the first of two ports");
    let count = u32::from(below.end.saturating_sub(below.start));
    assert!(count > 0, "every port may be anybody's: {range}");
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock");
        let number = std::process::id().wrapping_mul(7919).wrapping_add(now.subsec_nanos()) % count;
        let port = below.start + u16::try_from(number).expect("a port");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return (Ipv4Addr::LOCALHOST, port).into();
        }
        assert!(Instant::now() < until, "no free port in {below:?}");
    }
}
