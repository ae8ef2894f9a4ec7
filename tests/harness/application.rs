//! An application that answers plain requests by itself, and remembers what it was asked and over which connections.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::message::{Message, Source};
use super::peer::Peer;
use super::upstream::{Serving, Upstream};

/// What becomes of the connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    Keep,
    Close,
}

/// A running application; stopped when dropped.
pub(crate) struct Application {
    serving: Serving,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    connections: AtomicUsize,
    requests: Mutex<Vec<(usize, Message)>>,
}

impl Application {
    pub(crate) fn url(&self) -> String {
        self.serving.url()
    }

    /// How many connections have come in so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Every complete request so far, with the number of its connection.
    pub(crate) fn requests(&self) -> Vec<(usize, Message)> {
        self.lock().clone()
    }

    /// Targets of the complete requests so far, in order.
    pub(crate) fn targets(&self) -> Vec<String> {
        self.lock().iter().map(|(_, request)| request.target().to_owned()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(usize, Message)>> {
        self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Upstream {
    /// Reads complete requests and lets `play` answer each, until the connection ends.
    pub(crate) fn answer(
        self,
        play: impl Fn(&Message, &mut Peer) -> After + Send + Sync + 'static,
    ) -> Application {
        let shared = Arc::new(Shared::default());
        let serving = self.serve({
            let shared = Arc::clone(&shared);
            move |mut peer| {
                let number = shared.connections.fetch_add(1, Ordering::SeqCst);
                // A pooled connection waits for its next request as long as the proxy likes.
                peer.socket().set_read_timeout(None).expect("SO_RCVTIMEO");
                while let Ok(request) = peer.request() {
                    let mut requests =
                        shared.requests.lock().unwrap_or_else(PoisonError::into_inner);
                    requests.push((number, request.clone()));
                    drop(requests);
                    if play(&request, &mut peer) == After::Close {
                        break;
                    }
                }
            }
        });
        Application { serving, shared }
    }

    /// Answers 200 with the target as the body, and keeps every connection.
    pub(crate) fn name_targets(self) -> Application {
        self.answer(|request, peer| {
            let target = request.target();
            let length = target.len();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            let body = if request.method() == "HEAD" { "" } else { target };
            // The proxy may have let go of it.
            let _may_be_gone = peer.try_send(format!("{head}{body}").as_bytes());
            After::Keep
        })
    }
}
