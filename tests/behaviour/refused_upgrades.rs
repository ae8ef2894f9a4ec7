//! Section 7.2: after an answer that is no 101 the connection ends, and the client has the whole answer first, whatever it has
//! sent behind its head.

use crate::harness::crowd::{KEYS, upgrade};
use crate::harness::{Answer, Driver, End, Peer, Proxy, Setup, Upstream};

on_drivers!(
    every: ;
    both:
        a_refusal_arrives_whole_whatever_came_behind_the_head,
        an_answer_after_a_wait_arrives_whole_whatever_came_meanwhile,
        a_refused_client_that_keeps_sending_gets_its_answer,
        a_refused_client_that_says_nothing_more_is_let_go,
);

/// Frames behind a head: none, some, more than a first read takes, more than is held.
const FRAMES: [usize; 5] = [0, 1, 10, 20_000, 300_000];

/// Each upgrade is refused in its own way.
fn refusing(driver: Driver, upstream: &Upstream) -> Proxy {
    Setup::new(driver, upstream.url())
        .set("rate_limit.enabled", "true")
        .set("rate_limit.per_ip.requests_per_second", "0")
        .set("rate_limit.per_ip.burst", "10")
        .set("server.trusted_proxies", "[127.0.0.1]")
        .set("websocket.allowed_origins", "[\"https://good.test\"]")
        .set("ip_filter.enabled", "true")
        .set("ip_filter.addresses", "[192.0.2.9]")
        .set("auth.mode", "api-key")
        .set("auth.api_key.keys", KEYS)
        .start()
}

/// Header lines of an upgrade, and how it is refused. The last one finds its bucket empty.
fn refusals() -> Vec<(&'static str, u16, &'static str)> {
    let mut all = vec![
        ("X-Forwarded-For: 192.0.2.9\r\n", 403, "forbidden"),
        ("Origin: https://evil.test\r\n", 403, "origin_not_allowed"),
        ("", 401, "unauthorized"),
    ];
    all.extend([("X-Forwarded-For: 192.0.2.1\r\n", 401, "unauthorized"); 10]);
    all.push(("X-Forwarded-For: 192.0.2.1\r\n", 429, "rate_limit_exceeded"));
    all
}

/// A large write may not be taken whole.
fn send_what_is_taken(client: &mut Peer, bytes: &[u8]) {
    let _may_be_gone = client.try_send(bytes);
}

fn a_refusal_arrives_whole_whatever_came_behind_the_head(driver: Driver) {
    let upstream = Upstream::start();
    for frames in FRAMES {
        let proxy = refusing(driver, &upstream);
        for (lines, status, code) in refusals() {
            let mut client = proxy.connect();
            send_what_is_taken(&mut client, &[upgrade(lines), vec![0xAA; frames]].concat());
            client.read_answer().assert_refusal(status, code);
        }
        // A head that breaks a rule: nobody knows what follows it.
        for lines in ["Content-Length: 9\r\n", "Sec-WebSocket-Key: again\r\n"] {
            let mut client = proxy.connect();
            send_what_is_taken(&mut client, &[upgrade(lines), vec![0xAA; frames]].concat());
            client.read_answer().assert_refusal(400, "bad_request");
        }
    }
    upstream.assert_untouched();
}

/// Read by the proxy before the upstream answers, as far as it reads.
fn an_answer_after_a_wait_arrives_whole_whatever_came_meanwhile(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = Setup::new(driver, upstream.url()).start();
    let declined = b"HTTP/1.1 404 Not Found\r\nContent-Length: 70000\r\n\r\n";
    let declined = [&declined[..], &vec![b'x'; 70_000]].concat();
    for frames in FRAMES {
        for is_declined in [true, false] {
            let mut client = proxy.sent(&upgrade(""));
            let mut conn = upstream.accept();
            conn.read_head();
            // In packets of their own; more than the proxy and its socket hold is not taken.
            let quiet = std::time::Duration::from_millis(100);
            client.send_until_blocked(quiet, frames, |_| vec![0xAA; frames]);
            if frames < 20_000 {
                proxy.wait_consumed(&client);
            }
            if is_declined {
                conn.send(&declined);
                let Answer { head, body, end } = client.read_answer();
                assert_eq!((head.status(), body.len(), end), (404, 70_000, End::Eof), "{frames}");
            } else {
                conn.reset();
                client.read_answer().assert_refusal(502, "upstream_unavailable");
            }
        }
    }
}

/// It breaks RFC 6455, and section 6.1 holds for it all the same.
fn a_refused_client_that_keeps_sending_gets_its_answer(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = refusing(driver, &upstream);
    for (lines, status, code) in refusals() {
        let mut client = proxy.sent(&[upgrade(lines), vec![0xAA; 10]].concat());
        let mut sender = client.twin();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // Less than what is discarded before a close that is none of the client's doing.
                for _ in 0..200 {
                    if sender.try_send(&[0xAA; 1000]).is_err() {
                        return;
                    }
                }
                sender.fin();
            });
            client.read_answer().assert_refusal(status, code);
        });
    }
    upstream.assert_untouched();
}

/// The proxy holds nothing for it, although it does not close its own side.
fn a_refused_client_that_says_nothing_more_is_let_go(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = refusing(driver, &upstream);
    let mut refused = Vec::new();
    for (lines, status, code) in refusals() {
        let mut client = proxy.sent(&upgrade(lines));
        client.read_answer().assert_refusal(status, code);
        refused.push(client);
    }
    // The one that asks.
    proxy.wait_metric("vibewarden_active_connections", &[], 1.0);
    drop(refused);
}
