//! The PROXY header of a load balancer in front, which every connection begins with where it is switched on (contract
//! section 9.2).

use std::net::IpAddr;
use std::time::Instant;

use rustix::io::Errno;

use super::core::Core;
use super::head_buffer::HeadBuffer;
use super::stream::Socket;
use crate::wire::proxy_protocol::{HEADER_BYTES_MAX, parse};

/// Reads the header and returns the address of the client. `None`: the connection is closed without an answer, because the
/// peer is not trusted, or sent no complete header until `deadline`. What follows the header stays in `buffer`.
pub(crate) async fn read_source(
    core: &Core,
    client: &Socket,
    peer: IpAddr,
    buffer: &mut HeadBuffer<'_>,
    deadline: Option<Instant>,
) -> Option<IpAddr> {
    let source = if core.policy().is_trusted(peer) {
        read_header(client, buffer, deadline).await
    } else {
        None
    };
    if source.is_none() {
        core.metrics.connections_proxy_protocol.add(1);
    }
    source.map(|source| source.unwrap_or(peer))
}

async fn read_header(
    client: &Socket,
    buffer: &mut HeadBuffer<'_>,
    deadline: Option<Instant>,
) -> Option<Option<IpAddr>> {
    loop {
        if let Some(header) = parse(buffer.filled()).ok()? {
            buffer.consume(header.bytes);
            return Some(header.source.map(|source| source.ip().to_canonical()));
        }
        match buffer.receive(client, HEADER_BYTES_MAX) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(Errno::AGAIN) => client.readable_until(deadline).await.ok()?,
            Err(_) => return None,
        }
    }
}
