//! Upstream connections of plain requests: used again when nothing stands in the way, never when anything is left over. C35, C40, C41, I23.
//!
//! One worker everywhere, so that there is one pool and a connection that may be used again is.

use crate::harness::payload::show;
use crate::harness::{
    ANSWER_101, ANSWER_KEPT, ANSWER_LAST, After, Conn, Driver, HANDSHAKE, Peer, Proxy, Setup,
    Upstream, behind_one_worker, eventually, wire,
};

on_drivers!(
    every:
        connections_are_used_again,
        stale_bytes_reach_nobody;
    both:
        as_many_connections_as_requests_at_a_time,
        an_answer_that_says_close_is_the_last,
        bytes_behind_an_answer_end_the_connection,
        an_upgrade_is_never_pooled,
        a_connection_that_was_left_is_not_used_again,
        a_dead_connection_is_replaced_once_for_what_may_be_repeated,
        a_dead_connection_is_no_excuse_to_repeat_anything_else,
        an_idle_connection_that_ends_is_no_error,
        a_pool_ends_with_its_upstream,
);

const GET: &str = "GET /e HTTP/1.1\r\n{H}\r\n";

/// Waits until the proxy has written the line of a request: then its upstream connection is free again.
#[track_caller]
fn settled(proxy: &Proxy, id: &str) {
    proxy.wait_event(&format!("the line of {id}"), |event| event.request_id() == id);
}

/// A connection in the pool: one request of a client of its own has been answered on it.
#[track_caller]
fn pooled(proxy: &Proxy, upstream: &Upstream) -> Conn {
    let mut client = proxy.connect();
    let id = format!("pooled-{}", client.local().port());
    client.send(&wire(format!("GET /first HTTP/1.1\r\n{{H}}X-Request-ID: {id}\r\n\r\n")));
    let mut conn = upstream.accept();
    assert_eq!(conn.read_request().target(), "/first");
    conn.send(ANSWER_KEPT);
    assert_eq!(client.read_response().body, b"ok");
    settled(proxy, &id);
    conn
}

/// The next request of another client is served, and over a fresh connection.
#[track_caller]
fn assert_fresh(proxy: &Proxy, upstream: &Upstream, what: &str) {
    let mut client = proxy.sent(&wire("POST /fresh HTTP/1.1\r\n{H}Content-Length: 2\r\n\r\nhi"));
    let mut conn = eventually(what, || {
        let answer = client.pending();
        assert!(answer.is_empty(), "{what}: {}", show(&answer));
        upstream.try_accept()
    });
    let seen = conn.read_request();
    assert_eq!((seen.target(), seen.body.as_slice()), ("/fresh", &b"hi"[..]), "{what}");
    conn.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nfresh");
    assert_eq!(client.read_response().body, b"fresh", "{what}");
    conn.fin();
    conn.wait_end();
}

/// Requests of many clients, one after the other, with every framing and method, over one connection.
fn connections_are_used_again(driver: Driver) {
    let application = Upstream::start().answer(|request, peer| {
        let answer: &[u8] = match (request.method(), request.target()) {
            ("HEAD", _) => b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
            (_, "/none") => b"HTTP/1.1 204 No Content\r\n\r\n",
            (_, "/same") => b"HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n",
            (_, "/chunks") => {
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: u\r\n\r\n"
            }
            (_, "/hints") => {
                b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            }
            (_, "/old") => b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n",
            _ => ANSWER_KEPT,
        };
        let _may_be_gone = peer.try_send(answer);
        After::Keep
    });
    let proxy = Setup::new(driver, application.url()).set("server.workers", "1").start();
    let mut count = 0;
    for _ in 0..5 {
        for request in [
            GET,
            "HEAD /e HTTP/1.1\r\n{H}\r\n",
            "GET /none HTTP/1.1\r\n{H}\r\n",
            "GET /same HTTP/1.1\r\n{H}\r\n",
            "GET /chunks HTTP/1.1\r\n{H}\r\n",
            "GET /hints HTTP/1.1\r\n{H}\r\n",
            "GET /old HTTP/1.1\r\n{H}\r\n",
            "POST /e HTTP/1.1\r\n{H}Content-Length: 5\r\n\r\nhello",
            "PUT /e HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "GET /e HTTP/1.0\r\n\r\n",
            "GET /e HTTP/1.1\r\n{H}Connection: close\r\n\r\n",
        ] {
            let mut client = proxy.sent(&wire(request));
            let is_head = request.starts_with("HEAD");
            loop {
                let answer =
                    if is_head { client.read_response_to_head() } else { client.read_response() };
                if answer.status() >= 200 {
                    break;
                }
            }
            // One line each, after `proxy.started`.
            count += 1;
            eventually("the line of a request", || {
                (proxy.event_count() == 1 + count).then_some(())
            });
        }
    }
    assert_eq!(application.requests().len(), 55);
    assert_eq!(application.connections(), 1, "connections for requests one after the other");
}

fn as_many_connections_as_requests_at_a_time(driver: Driver) {
    let (proxy, upstream) = behind_one_worker(driver);
    let mut clients: Vec<Peer> = Vec::new();
    let mut conns: Vec<Conn> = Vec::new();
    for _ in 0..4 {
        clients.push(proxy.sent(&wire(GET)));
        let mut conn = upstream.accept();
        conn.read_request();
        conns.push(conn);
    }
    for (client, conn) in clients.iter_mut().zip(&mut conns) {
        conn.send(ANSWER_KEPT);
        client.read_response();
    }
    eventually("four lines", || (proxy.event_count() == 1 + 4).then_some(()));
    // All four are free now; four more requests at a time need no other.
    let mut clients: Vec<Peer> = (0..4).map(|_| proxy.sent(&wire(GET))).collect();
    for conn in &mut conns {
        conn.read_request();
    }
    for conn in &mut conns {
        conn.send(ANSWER_KEPT);
    }
    for client in &mut clients {
        assert_eq!(client.read_response().body, b"ok");
    }
    upstream.assert_untouched();
}

/// By its head, by its version, and by having no other end.
fn an_answer_that_says_close_is_the_last(driver: Driver) {
    let (proxy, upstream) = behind_one_worker(driver);
    for (answer, fin) in [
        (&b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"[..], false),
        (b"HTTP/1.1 200 OK\r\nConnection: x, CLOSE\r\nContent-Length: 2\r\n\r\nok", false),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", false),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", false),
        (b"HTTP/1.1 200 OK\r\n\r\nok", true),
    ] {
        let mut client = proxy.sent(&wire(GET));
        let mut conn = upstream.accept();
        conn.read_request();
        conn.send(answer);
        if fin {
            conn.fin();
        }
        assert_eq!(client.read_response().body, b"ok", "{}", show(answer));
        conn.expect_end();
        assert_fresh(&proxy, &upstream, &show(answer));
    }
}

/// C35: the bytes that are too many reach nobody, and the connection is at its end.
fn bytes_behind_an_answer_end_the_connection(driver: Driver) {
    let (proxy, upstream) = behind_one_worker(driver);
    let stray = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen";
    for (request, answer) in [
        (GET, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        (GET, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        (GET, "HTTP/1.1 204 No Content\r\n\r\n"),
        (GET, "HTTP/1.1 304 Not Modified\r\nContent-Length: 40\r\n\r\n"),
        (GET, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("HEAD /e HTTP/1.1\r\n{H}\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n"),
        (
            "POST /e HTTP/1.1\r\n{H}Content-Length: 2\r\n\r\nhi",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ),
    ] {
        for stray in [stray, "x", "\r\n"] {
            let mut client = proxy.sent(&wire(request));
            let mut conn = upstream.accept();
            conn.read_request();
            conn.send(format!("{answer}{stray}").as_bytes());
            let seen = if request.starts_with("HEAD") {
                client.read_response_to_head()
            } else {
                client.read_response()
            };
            let expected: &[u8] = if answer.contains("ok") { b"ok" } else { b"" };
            assert_eq!(seen.body, expected, "{answer}");
            conn.wait_end();
            assert_fresh(&proxy, &upstream, answer);
            // The client of the answer has not got them either.
            assert!(client.pending().is_empty(), "{}", show(&client.pending()));
        }
    }
}

/// C40: bytes nobody asked for on an idle connection, a whole answer or a part of one.
fn stale_bytes_reach_nobody(driver: Driver) {
    let (proxy, upstream) = behind_one_worker(driver);
    for stale in [
        "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen",
        "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "\r\n",
        "x",
    ] {
        for fin in [false, true] {
            let mut conn = pooled(&proxy, &upstream);
            conn.send(stale.as_bytes());
            if fin {
                conn.fin();
            }
            // At once, before anything can have noticed.
            assert_fresh(&proxy, &upstream, stale);
            conn.wait_end();
            assert!(conn.pending().is_empty(), "a request behind {stale:?}");
        }
    }
}

/// 7.2: never taken from the pool, never put into it.
fn an_upgrade_is_never_pooled(driver: Driver) {
    let (proxy, upstream) = behind_one_worker(driver);
    let mut idle = pooled(&proxy, &upstream);
    let mut client = proxy.sent(HANDSHAKE);
    let mut conn = upstream.accept();
    assert_eq!(conn.read_head().one("upgrade"), Some("websocket"));
    conn.send(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno");
    assert_eq!(client.read_response().status(), 403);
    conn.expect_end();
    let mut client = proxy.sent(HANDSHAKE);
    let mut conn = upstream.accept();
    conn.read_head();
    conn.send(ANSWER_101);
    client.open();
    client.ping(&mut conn, b"through");
    // The one that was free before still is; the tunnel's is not for anybody else.
    let mut plain = proxy.sent(&wire("GET /plain HTTP/1.1\r\n{H}\r\n"));
    assert_eq!(idle.read_request().target(), "/plain");
    idle.send(ANSWER_KEPT);
    assert_eq!(plain.read_response().body, b"ok");
    drop(idle);
    drop(client);
    conn.expect_end();
    drop(conn);
    upstream.assert_untouched();
}

/// A connection on which something is still owed: a body, an answer.
fn a_connection_that_was_left_is_not_used_again(driver: Driver) {
    let (proxy, upstream) = behind_one_worker(driver);
    // The client leaves before the answer is whole.
    for part in ["", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"] {
        let mut client = proxy.sent(&wire(GET));
        let mut conn = upstream.accept();
        conn.read_request();
        conn.send(part.as_bytes());
        if !part.is_empty() {
            client.read_head();
            client.expect(b"hello");
        }
        drop(client);
        conn.expect_end();
        assert_fresh(&proxy, &upstream, part);
    }
    // The answer comes before the request is whole.
    let mut client = proxy.sent(&wire("POST /e HTTP/1.1\r\n{H}Content-Length: 10\r\n\r\nhello"));
    let mut conn = upstream.accept();
    conn.read_head();
    conn.expect(b"hello");
    conn.send(ANSWER_KEPT);
    assert_eq!(client.read_response().body, b"ok");
    drop(client);
    conn.expect_end();
    assert_fresh(&proxy, &upstream, "a body that is owed");
}

/// C41, I23: U reads the request on the pooled connection and goes away without a byte.
fn a_dead_connection_is_replaced_once_for_what_may_be_repeated(driver: Driver) {
    let (mut proxy, upstream) = behind_one_worker(driver);
    for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"] {
        for reset in [false, true] {
            let mut conn = pooled(&proxy, &upstream);
            let mut client = proxy.sent(&wire(format!("{method} /again HTTP/1.1\r\n{{H}}\r\n")));
            assert_eq!(conn.read_request().target(), "/again");
            if reset {
                conn.reset();
            } else {
                drop(conn);
            }
            let mut conn = upstream.accept();
            let seen = conn.read_request();
            assert_eq!((seen.method(), seen.target()), (method, "/again"));
            conn.send(if method == "HEAD" {
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"
            } else {
                ANSWER_LAST
            });
            let answer = if method == "HEAD" {
                client.read_response_to_head()
            } else {
                client.read_response()
            };
            assert_eq!(answer.status(), 200, "{method}");
            conn.expect_end();
        }
    }
    // Once: the second connection is fresh, and its failure is the upstream's.
    let mut conn = pooled(&proxy, &upstream);
    let mut client = proxy.sent(&wire("GET /twice HTTP/1.1\r\n{H}Connection: close\r\n\r\n"));
    conn.read_request();
    drop(conn);
    let mut conn = upstream.accept();
    conn.read_request();
    drop(conn);
    client.read_answer().assert_refusal(502, "upstream_unavailable");
    let stopped = proxy.stop();
    upstream.assert_untouched();
    let again: Vec<_> = stopped
        .of_kind("request.proxied")
        .into_iter()
        .filter(|event| event.text("payload.path") == "/again")
        .collect();
    assert_eq!(again.len(), 10, "one line for each request");
    assert_eq!(stopped.of_kind("upstream.unavailable").len(), 1);
}

fn a_dead_connection_is_no_excuse_to_repeat_anything_else(driver: Driver) {
    let (mut proxy, upstream) = behind_one_worker(driver);
    let repeated = [
        "POST /no HTTP/1.1\r\n{H}Connection: close\r\n\r\n",
        "POST /no HTTP/1.1\r\n{H}Connection: close\r\nContent-Length: 2\r\n\r\nhi",
        "PATCH /no HTTP/1.1\r\n{H}Connection: close\r\n\r\n",
        "FOO /no HTTP/1.1\r\n{H}Connection: close\r\n\r\n",
        "get /no HTTP/1.1\r\n{H}Connection: close\r\n\r\n",
        "PUT /no HTTP/1.1\r\n{H}Connection: close\r\nContent-Length: 2\r\n\r\nhi",
        "DELETE /no HTTP/1.1\r\n{H}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "GET /no HTTP/1.1\r\n{H}Connection: close\r\nContent-Length: 2\r\n\r\nhi",
    ];
    for request in repeated {
        let mut conn = pooled(&proxy, &upstream);
        let mut client = proxy.sent(&wire(request));
        assert_eq!(conn.read_request().target(), "/no");
        drop(conn);
        client.read_answer().assert_refusal(502, "upstream_unavailable");
        upstream.assert_untouched();
    }
    // Nor when an answer has begun, nor on a connection that was fresh.
    for part in ["H", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 100 Continue\r\n\r\n"] {
        let mut conn = pooled(&proxy, &upstream);
        let mut client = proxy.sent(&wire("GET /no HTTP/1.1\r\n{H}Connection: close\r\n\r\n"));
        conn.read_request();
        conn.send(part.as_bytes());
        conn.fin();
        client.read_answer().assert_refusal(502, "upstream_unavailable");
        upstream.assert_untouched();
    }
    let mut client = proxy.sent(&wire("GET /no HTTP/1.1\r\n{H}Connection: close\r\n\r\n"));
    let mut conn = upstream.accept();
    conn.read_request();
    drop(conn);
    client.read_answer().assert_refusal(502, "upstream_unavailable");
    let stopped = proxy.stop();
    upstream.assert_untouched();
    assert_eq!(stopped.of_kind("upstream.unavailable").len(), repeated.len() + 4);
}

/// Closed while nobody uses it: not an error of any request, and not of the next one either.
fn an_idle_connection_that_ends_is_no_error(driver: Driver) {
    let (mut proxy, upstream) = behind_one_worker(driver);
    for reset in [false, true] {
        let conn = pooled(&proxy, &upstream);
        if reset {
            conn.reset();
        } else {
            drop(conn);
        }
        // A POST is not repeated, so the end must have been seen before it left.
        assert_fresh(&proxy, &upstream, "a connection that ended while it was idle");
    }
    let stopped = proxy.stop();
    assert!(stopped.of_kind("upstream.unavailable").is_empty(), "{:#?}", stopped.events);
}

/// 14: an upstream that changed is used by new requests; a connection to the old one is not.
fn a_pool_ends_with_its_upstream(driver: Driver) {
    let (old, new) = (Upstream::start(), Upstream::start());
    let setup = |upstream: &Upstream| Setup::new(driver, upstream.url()).set("server.workers", "1");
    let proxy = setup(&old).start();
    let conn = pooled(&proxy, &old);
    proxy.replace_config(&setup(&new));
    proxy.signal(rustix::process::Signal::HUP);
    proxy.wait_event("the reload", |event| event.is("config.reloaded"));
    assert_fresh(&proxy, &new, "the new upstream");
    assert!(conn.pending().is_empty());
    old.assert_untouched();
}
