//! TLS at the door: the handshake of a client connection, within the time that its first request head has.

pub(crate) mod oracle;
mod session;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use rustls::ServerConfig;

use super::core::Core;
use super::head_buffer::HeadBuffer;
use super::stream::Socket;
use crate::published::Reader;

use session::{Buffers, Handshake};
pub(crate) use session::{Carrier, RECORD_CONTENT_MAX, Session};

/// What the TLS connections of one core share.
pub(crate) struct Tls {
    /// With the certificate in force.
    config: RefCell<Reader<ServerConfig>>,
    buffers: Rc<Buffers>,
}

impl Tls {
    pub(crate) fn new(config: Reader<ServerConfig>) -> Self {
        Self { config: RefCell::new(config), buffers: Buffers::new() }
    }

    fn config(&self) -> Arc<ServerConfig> {
        self.config.borrow_mut().load()
    }
}

/// Answers a client that speaks HTTP where TLS is spoken; it would not understand an alert.
const PLAIN_HTTP: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
Content-Length: 54\r\nConnection: close\r\n\r\n\
This port speaks TLS: use https:// or wss:// instead.\n";

/// Shakes hands where the listener speaks TLS. `received` holds what was read before. `None`: the connection is closed
/// without an answer but for the alert of the protocol.
pub(crate) async fn accept(
    core: &Core,
    client: &Socket,
    received: &mut HeadBuffer<'_>,
    accepted: Instant,
) -> Option<()> {
    match &core.tls {
        // Boxed, because a connection without TLS has no room to spare for it.
        Some(tls) => Box::pin(shake_hands(core, tls, client, received, accepted)).await,
        None => Some(()),
    }
}

async fn shake_hands(
    core: &Core,
    tls: &Tls,
    client: &Socket,
    received: &mut HeadBuffer<'_>,
    accepted: Instant,
) -> Option<()> {
    let limit = core.policy().config.server.read_timeout;
    let deadline = limit.and_then(|limit| accepted.checked_add(limit));
    let mut session =
        Session::new(tls.config(), Rc::clone(&tls.buffers), received.filled()).ok()?;
    received.consume(received.filled().len());
    received.release_if_empty();
    loop {
        let waited = match session.handshake(&mut client.carrier()) {
            Ok(Handshake::Done) => {
                client.encrypt(session);
                return Some(());
            }
            Ok(Handshake::WantsBytes) if session.has_begun() => {
                client.readable_until(deadline).await
            }
            Ok(Handshake::WantsBytes) => core.idle(client, deadline).await,
            Ok(Handshake::WantsRoom) => client.writable_until(deadline).await,
            Ok(Handshake::PlainHttp) => {
                if client.send_all_until(PLAIN_HTTP, deadline).await.is_ok() {
                    client.linger(&core.scratch).await;
                }
                break;
            }
            Err(_) => break,
        };
        if waited.is_err() {
            break;
        }
    }
    // A probe that only connects is no failure.
    if session.has_begun() {
        core.metrics.connections_tls_failed.add(1);
    }
    None
}
