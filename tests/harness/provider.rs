//! A provider of identities: an HTTP/1.1 server whose answers a test scripts and changes, and which remembers what it was asked.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::message::{Message, Source};
use super::peer::Peer;
use super::upstream::{Serving, Upstream};
use super::wait::eventually;

/// What the provider says to one path.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// A status, header lines that each end in CRLF, and a body.
    Answer(u16, String, String),
    /// The connection ends without a byte.
    Close,
}

impl Reply {
    pub(crate) fn json(status: u16, body: impl Into<String>) -> Self {
        Self::Answer(status, "Content-Type: application/json\r\n".to_owned(), body.into())
    }
}

/// A running provider; stopped when dropped.
pub(crate) struct Provider {
    serving: Serving,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    opened: Condvar,
}

#[derive(Default)]
struct State {
    script: HashMap<String, Reply>,
    requests: Vec<Message>,
    held: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers the requests of one connection until it ends.
    fn play(&self, mut peer: Peer) {
        peer.socket().set_read_timeout(None).expect("SO_RCVTIMEO");
        while let Ok(request) = peer.request() {
            let path = request.target().split('?').next().unwrap_or_default().to_owned();
            let method = request.method().to_owned();
            let mut state = self.lock();
            state.requests.push(request);
            while state.held {
                state = self.opened.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let reply = state.script.get(&path).cloned();
            drop(state);
            let reply = reply.unwrap_or_else(|| Reply::json(404, "{}"));
            let Reply::Answer(status, headers, body) = reply else {
                return;
            };
            let length = body.len();
            let body = if method == "HEAD" { "" } else { &body };
            let answer =
                format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
            if peer.try_send(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}

impl Provider {
    /// Knows no path yet: everything is 404.
    pub(crate) fn start() -> Self {
        Self::on((Ipv4Addr::LOCALHOST, 0).into())
    }

    pub(crate) fn on(address: SocketAddr) -> Self {
        let shared = Arc::new(Shared::default());
        let serving = Upstream::on(address).serve({
            let shared = Arc::clone(&shared);
            move |peer| shared.play(peer)
        });
        Self { serving, shared }
    }

    pub(crate) fn url(&self) -> String {
        self.serving.url()
    }

    /// From now on this path gets this reply.
    pub(crate) fn say(&self, path: &str, reply: Reply) {
        self.shared.lock().script.insert(path.to_owned(), reply);
    }

    /// Answers wait from now on until [`release`](Self::release).
    pub(crate) fn hold(&self) {
        self.shared.lock().held = true;
    }

    pub(crate) fn release(&self) {
        self.shared.lock().held = false;
        self.shared.opened.notify_all();
    }

    /// Every complete request so far to this path, its query left out.
    pub(crate) fn requests(&self, path: &str) -> Vec<Message> {
        let state = self.shared.lock();
        let asked = |request: &&Message| request.target().split('?').next() == Some(path);
        state.requests.iter().filter(asked).cloned().collect()
    }

    pub(crate) fn count(&self, path: &str) -> usize {
        self.requests(path).len()
    }

    /// Waits until this path was asked so often.
    #[track_caller]
    pub(crate) fn wait_count(&self, path: &str, count: usize) {
        eventually(&format!("{count} requests of {path}"), || {
            (self.count(path) >= count).then_some(())
        });
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.release();
    }
}
