//! The PROXY header of a load balancer in front, which every connection begins with where it is switched on (contract
//! section 9.2).

use std::net::IpAddr;
use std::time::Instant;

use rustix::io::Errno;

use super::core::Core;
use super::head_buffer::HeadBuffer;
use super::stream::Socket;
use crate::wire::proxy_protocol::{HEADER_BYTES_MAX, parse};

/// The address that takes the place of the peer's: the one in the header, where connections begin with one. `None`: the
/// connection is closed without an answer, because the peer is not trusted, or sent no complete header within
/// `server.read_timeout` of the accept. What follows the header stays in `buffer`.
pub(crate) async fn source(
    core: &Core,
    client: &Socket,
    peer: IpAddr,
    buffer: &mut HeadBuffer<'_>,
    accepted: Instant,
) -> Option<IpAddr> {
    let (is_trusted, limit) = {
        let policy = core.policy();
        let server = &policy.config.server;
        if !server.proxy_protocol {
            return Some(peer);
        }
        (policy.is_trusted(peer), server.read_timeout)
    };
    let source = if is_trusted {
        let deadline = limit.and_then(|limit| accepted.checked_add(limit));
        Box::pin(read_header(core, client, buffer, deadline)).await
    } else {
        None
    };
    // A connection opened in advance and never used until the drain is no failure.
    if source.is_none() && !(is_trusted && core.is_draining() && !buffer.has_received()) {
        core.metrics.connections_proxy_protocol.add(1);
    }
    source.map(|source| source.unwrap_or(peer))
}

async fn read_header(
    core: &Core,
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
            Err(Errno::AGAIN) if buffer.has_received() => {
                client.readable_until(deadline).await.ok()?;
            }
            Err(Errno::AGAIN) => core.idle(client, deadline).await.ok()?,
            Err(_) => return None,
        }
    }
}
