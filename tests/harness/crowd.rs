//! Many requests at once, and an application that takes whatever comes: for tests of who may pass.

use super::application::{After, Application};
use super::http::{Head, assert_error_body};
use super::peer::Peer;
use super::proxy::Proxy;
use super::upstream::{Upstream, echo_until_end};

/// Keys `alice-key` and `bob-key` by name and SHA-256, as the value of `auth.api_key.keys`.
pub(crate) const KEYS: &str = "[\
    {name: alice, hash: 72ee9d4355ccb9d3a4c9dbf37382e38e75c1b1a225b5bd1f729ee91bbda30c20}, \
    {name: bob, hash: 9b94dc1a51a38769f135edf04033ad7f2f487b6c25929be7a861cfc1ab10cf98}]";

/// Answers plain requests with 200 and upgrades with 101, and sends back every byte of a tunnel.
pub(crate) fn willing() -> Application {
    Upstream::start().answer(|request, peer| {
        // The proxy may have let go of it.
        if request.head.one("upgrade").is_some() {
            let _may_be_gone = peer.try_send(super::ANSWER_101);
            echo_until_end(peer);
            return After::Close;
        }
        let _may_be_gone = peer.try_send(super::ANSWER_KEPT);
        After::Keep
    })
}

/// A `GET` with these header lines, each with its line end.
pub(crate) fn get(path: &str, lines: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: t.test\r\n{lines}\r\n").into_bytes()
}

/// An upgrade with these header lines, each with its line end.
pub(crate) fn upgrade(lines: &str) -> Vec<u8> {
    let text = String::from_utf8_lossy(super::HANDSHAKE);
    let head = text.trim_end_matches("\r\n");
    format!("{head}\r\n{lines}\r\n").into_bytes()
}

/// One who was answered.
pub(crate) struct Answered {
    pub(crate) client: Peer,
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
}

impl Answered {
    pub(crate) fn passed(&self) -> bool {
        matches!(self.head.status(), 101 | 200)
    }

    /// Checks that a bucket refused, down to the last byte; returns the seconds to wait.
    #[track_caller]
    pub(crate) fn assert_no_token(&self) -> u32 {
        assert_error_body(&self.head, &self.body, 429, "rate_limit_exceeded");
        let quota = self.head.names().into_iter().find(|name| name.starts_with("X-RateLimit"));
        assert_eq!(quota, None, "8.2: no such header");
        let seconds = self.head.one("retry-after").expect("Retry-After");
        seconds.parse().expect("seconds")
    }

    /// Checks that a quota of tunnels refused.
    #[track_caller]
    pub(crate) fn assert_no_place(&self) {
        assert_error_body(&self.head, &self.body, 429, "connection_limit_exceeded");
    }
}

/// Sends one request on a connection of its own.
#[track_caller]
pub(crate) fn ask(proxy: &Proxy, request: &[u8]) -> Answered {
    answered(proxy.sent(request))
}

#[track_caller]
fn answered(mut client: Peer) -> Answered {
    let (head, body) = client.read_kept_answer();
    Answered { client, head, body }
}

/// Sends each request on a connection of its own, all of them before the first answer is read.
#[track_caller]
pub(crate) fn ask_at_once(proxy: &Proxy, requests: &[Vec<u8>]) -> Vec<Answered> {
    let mut clients: Vec<Peer> = requests.iter().map(|_| proxy.connect()).collect();
    let half = clients.len() / 2;
    let (first, second) = clients.split_at_mut(half);
    std::thread::scope(|scope| {
        scope.spawn(|| send_each(first, &requests[..half]));
        send_each(second, &requests[half..]);
    });
    clients.into_iter().map(answered).collect()
}

fn send_each(clients: &mut [Peer], requests: &[Vec<u8>]) {
    for (client, request) in clients.iter_mut().zip(requests) {
        client.send(request);
    }
}

/// How many passed; the others were refused for want of a token.
#[track_caller]
pub(crate) fn passes(answers: &[Answered]) -> usize {
    for refused in answers.iter().filter(|answer| !answer.passed()) {
        refused.assert_no_token();
    }
    answers.iter().filter(|answer| answer.passed()).count()
}
