//! Lives here: the built proxy as a child process, a raw client, a recording upstream, and readers of what the proxy prints and of `/proc`.
//! Never lives here: an import from `src`, a test, or an opinion on what is right beyond the contract's fixed forms.
//! Called by the behaviour tests only; they talk to the binary through sockets, signals and files like any user.

pub(crate) mod application;
pub(crate) mod certificate;
pub(crate) mod crowd;
pub(crate) mod event;
pub(crate) mod guarded;
pub(crate) mod http;
pub(crate) mod json;
pub(crate) mod message;
pub(crate) mod payload;
pub(crate) mod peer;
pub(crate) mod process;
pub(crate) mod provider;
pub(crate) mod proxy;
pub(crate) mod redis;
pub(crate) mod scrape;
pub(crate) mod secure;
pub(crate) mod setup;
mod sockets;
pub(crate) mod stepwise;
pub(crate) mod tls;
pub(crate) mod token;
pub(crate) mod upstream;
pub(crate) mod vacant;
pub(crate) mod wait;

pub(crate) use application::After;
pub(crate) use http::Answer;
pub(crate) use message::Message;
pub(crate) use payload::{ANSWER_101, HANDSHAKE, OUTDATED, SMUGGLED, wire};
pub(crate) use peer::{End, Peer};
pub(crate) use proxy::Proxy;
pub(crate) use setup::{Driver, Setup};
pub(crate) use upstream::{Conn, Upstream};
pub(crate) use vacant::vacant_address;
pub(crate) use wait::{PATIENCE, eventually};

/// A proxy with the smallest configuration, and the application behind it.
#[track_caller]
pub(crate) fn behind(driver: Driver) -> (Proxy, Upstream) {
    let upstream = Upstream::start();
    (Setup::new(driver, upstream.url()).start(), upstream)
}

/// [`behind`] with one worker, so that there is one pool of upstream connections.
#[track_caller]
pub(crate) fn behind_one_worker(driver: Driver) -> (Proxy, Upstream) {
    let upstream = Upstream::start();
    (Setup::new(driver, upstream.url()).set("server.workers", "1").start(), upstream)
}

/// An answer after which the upstream connection is not used again.
pub(crate) const ANSWER_LAST: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

/// An answer after which the upstream connection may be used again.
pub(crate) const ANSWER_KEPT: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Sends one plain request on a connection of its own over a fresh upstream connection; returns what the upstream saw,
/// which was this request and nothing else.
#[track_caller]
pub(crate) fn forwarded(proxy: &Proxy, upstream: &Upstream, request: &[u8]) -> Message {
    let mut client = proxy.sent(request);
    let mut conn = upstream.accept();
    let seen = conn.read_request();
    conn.send(ANSWER_LAST);
    let answer = if seen.method() == "HEAD" {
        client.read_response_to_head()
    } else {
        client.read_response()
    };
    assert_eq!(answer.status(), 200, "{answer:?}");
    conn.fin();
    conn.wait_end();
    let more = conn.pending();
    assert!(more.is_empty(), "after the request: {}", payload::show(&more));
    seen
}
