//! Lives here: the built proxy as a child process, a raw client, a recording upstream, and readers of what the proxy prints and of `/proc`.
//! Never lives here: an import from `src`, a test, or an opinion on what is right beyond the contract's fixed forms.
//! Called by the behaviour tests only; they talk to the binary through sockets, signals and files like any user.

pub(crate) mod event;
pub(crate) mod http;
pub(crate) mod json;
pub(crate) mod payload;
pub(crate) mod peer;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod scrape;
pub(crate) mod setup;
pub(crate) mod upstream;
pub(crate) mod wait;

pub(crate) use http::Answer;
pub(crate) use payload::{ANSWER_101, HANDSHAKE, OUTDATED, SMUGGLED, wire};
pub(crate) use peer::{End, Peer};
pub(crate) use proxy::Proxy;
pub(crate) use setup::{Driver, Setup};
pub(crate) use upstream::{Conn, Upstream};
pub(crate) use wait::{PATIENCE, eventually};

/// A proxy with the smallest configuration, and the application behind it.
#[track_caller]
pub(crate) fn behind(driver: Driver) -> (Proxy, Upstream) {
    let upstream = Upstream::start();
    (Setup::new(driver, upstream.url()).start(), upstream)
}
