//! What the kernel knows of one TCP socket of anybody, asked over netlink (`sock_diag(7)`). `/proc/net/tcp` knows it too, but
//! is read as a whole, which takes long where thousands of connections are in TIME-WAIT.

use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};

const AF_NETLINK: i32 = 16;
const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const ENOENT: i32 = 2;
const NLM_F_REQUEST: u16 = 1;
const AF_INET: u8 = 2;
const IPPROTO_TCP: u8 = 6;
const TCP_LISTEN: u8 = 10;

/// Bytes that arrived at the IPv4 socket `local` and were not read by its owner; 0 when there is no such socket. `None` when the
/// kernel does not say.
pub(super) fn unread_bytes(local: SocketAddr, remote: SocketAddr) -> Option<u32> {
    let socket =
        Socket::new(Domain::from(AF_NETLINK), Type::DGRAM, Some(Protocol::from(NETLINK_SOCK_DIAG)));
    let socket = socket.ok()?;
    socket.send(&question(local, remote)?).ok()?;
    let mut answer = [0; 512];
    let count = std::io::Read::read(&mut &socket, &mut answer).ok()?;
    let answer = &answer[..count];
    // `struct nlmsghdr`, then `struct inet_diag_msg`: family, state, timer, retransmissions, identity, expiry, both queues.
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    if kind == NLMSG_ERROR && answer.get(16..20)? == (-ENOENT).to_ne_bytes() {
        return Some(0);
    }
    let state = *answer.get(17)?;
    if kind != SOCK_DIAG_BY_FAMILY || state == TCP_LISTEN {
        return None;
    }
    Some(u32::from_ne_bytes(answer.get(72..76)?.try_into().ok()?))
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2` for exactly one socket.
fn question(local: SocketAddr, remote: SocketAddr) -> Option<Vec<u8>> {
    let (SocketAddr::V4(local), SocketAddr::V4(remote)) = (local, remote) else {
        return None;
    };
    let mut bytes = Vec::with_capacity(72);
    bytes.extend(72_u32.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([AF_INET, IPPROTO_TCP, 0, 0]);
    bytes.extend([0xff; 4]);
    bytes.extend(local.port().to_be_bytes());
    bytes.extend(remote.port().to_be_bytes());
    for address in [local, remote] {
        bytes.extend(address.ip().octets());
        bytes.extend([0; 12]);
    }
    // Any interface, and no cookie.
    bytes.extend([0; 4]);
    bytes.extend([0xff; 8]);
    Some(bytes)
}
