//! Sections 14 and 15 for plain requests: what is under way is finished, what is idle is closed, and a reload is for the next request.

use rustix::process::Signal;

use crate::harness::{
    ANSWER_KEPT, Driver, End, Setup, Upstream, behind_one_worker, eventually, wire,
};

on_drivers!(
    every:
        requests_under_way_are_finished;
    both:
        idle_connections_are_closed,
        a_second_signal_waits_for_no_request,
        a_reload_is_for_the_next_request,
);

/// H1: before the answer, inside it, and inside the request's body.
fn requests_under_way_are_finished(driver: Driver) {
    let (mut proxy, upstream) = behind_one_worker(driver);
    let mut waiting = proxy.sent(&wire("GET /waiting HTTP/1.1\r\n{H}\r\n"));
    let mut waiting_conn = upstream.accept();
    waiting_conn.read_request();
    let mut reading = proxy.sent(&wire("GET /reading HTTP/1.1\r\n{H}\r\n"));
    let mut reading_conn = upstream.accept();
    reading_conn.read_request();
    reading_conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
    assert_eq!(reading.read_head().status(), 200);
    reading.expect(b"hello");
    let mut sending =
        proxy.sent(&wire("POST /sending HTTP/1.1\r\n{H}Content-Length: 10\r\n\r\nhello"));
    let mut sending_conn = upstream.accept();
    sending_conn.read_head();
    sending_conn.expect(b"hello");
    proxy.signal(Signal::TERM);
    // The listeners are closed; a connect is refused or never accepted.
    eventually("closed listeners", || {
        std::net::TcpStream::connect(proxy.address()).err().map(|_| ())
    });
    sending.send(b"world");
    sending_conn.expect(b"world");
    sending_conn.send(ANSWER_KEPT);
    waiting_conn.send(ANSWER_KEPT);
    reading_conn.send(b"world");
    for client in [&mut sending, &mut waiting] {
        let answer = client.read_response();
        assert_eq!(answer.body, b"ok");
        assert!(answer.says_close(), "{answer:?}");
        assert_eq!(client.expect_end(), End::Eof);
    }
    reading.expect(b"world");
    assert_eq!(reading.expect_end(), End::Eof);
    let stopped = proxy.wait_stopped();
    assert_eq!(stopped.code, Some(0));
    assert_eq!(stopped.of_kind("request.proxied").len(), 3);
    for conn in [waiting_conn, reading_conn, sending_conn] {
        conn.wait_end();
    }
}

/// H3: between two requests, and upstream connections that nobody uses.
fn idle_connections_are_closed(driver: Driver) {
    let (mut proxy, upstream) = behind_one_worker(driver);
    let mut client = proxy.sent(&wire("GET /e HTTP/1.1\r\n{H}\r\n"));
    let mut conn = upstream.accept();
    conn.read_request();
    conn.send(ANSWER_KEPT);
    assert!(!client.read_response().says_close());
    proxy.wait_event("the line of the request", |event| event.is("request.proxied"));
    proxy.signal(Signal::TERM);
    assert_eq!(client.expect_end(), End::Eof);
    conn.expect_end();
    assert_eq!(proxy.wait_stopped().code, Some(0));
}

/// H2.
fn a_second_signal_waits_for_no_request(driver: Driver) {
    let (mut proxy, upstream) = behind_one_worker(driver);
    let mut client = proxy.sent(&wire("GET /e HTTP/1.1\r\n{H}\r\n"));
    let mut conn = upstream.accept();
    conn.read_request();
    proxy.signal(Signal::TERM);
    eventually("closed listeners", || {
        std::net::TcpStream::connect(proxy.address()).err().map(|_| ())
    });
    assert!(client.pending().is_empty());
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait_stopped().code, Some(128 + 15));
    client.drain();
}

/// 14: a request under way keeps what it started with; the next one on the same connection has the new limits.
fn a_reload_is_for_the_next_request(driver: Driver) {
    let upstream = Upstream::start();
    let setup = |limit: &str| {
        Setup::new(driver, upstream.url()).set("server.workers", "1").set("body_size.max", limit)
    };
    let proxy = setup("1KB").start();
    let start = "POST /e HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let mut client = proxy.sent(&wire(start));
    let mut conn = upstream.accept();
    conn.read_head();
    proxy.replace_config(&setup("7B"));
    proxy.signal(Signal::HUP);
    proxy.wait_event("the reload", |event| event.is("config.reloaded"));
    client.send(b"5\r\nworld\r\n0\r\n\r\n");
    conn.read_through(b"0\r\n\r\n");
    conn.send(ANSWER_KEPT);
    assert_eq!(client.read_response().body, b"ok");
    client.send(&wire("POST /e HTTP/1.1\r\n{H}Content-Length: 7\r\n\r\n1234567"));
    assert_eq!(conn.read_request().body, b"1234567");
    conn.send(ANSWER_KEPT);
    assert_eq!(client.read_response().body, b"ok");
    client.send(&wire("POST /e HTTP/1.1\r\n{H}Content-Length: 8\r\n\r\n12345678"));
    client.read_answer().assert_refusal(413, "payload_too_large");
    assert!(conn.pending().is_empty());
}
