//! Section 5.2 for plain requests: which clock runs when, with fractions of seconds, and which does not.

use std::time::Duration;

use crate::harness::message::{Recorded, Source};
use crate::harness::payload::{find, show};
use crate::harness::{
    ANSWER_KEPT, ANSWER_LAST, Driver, End, Setup, Upstream, eventually, vacant_address, wire,
};

on_drivers!(
    every:
        a_body_that_stops_is_408,
        an_application_without_an_answer_is_504;
    both:
        a_slow_body_has_no_deadline_as_a_whole,
        a_body_that_stops_in_an_answer_closes,
        the_answer_clock_starts_behind_the_body,
        interim_answers_do_not_answer,
        without_an_answer_timeout_nothing_runs_out,
        an_answer_body_may_pause,
        an_application_that_does_not_read_is_504,
        a_client_that_does_not_read_its_answer_is_let_go,
        a_kept_connection_idles_out_silently,
        a_later_head_has_its_own_deadline,
        an_unreachable_application_is_504_for_plain_requests,
);

/// Longer than the timer under test, shorter than a test may be.
const LONGER: Duration = Duration::from_millis(700);

/// G3, by length and in chunks, before and inside the body.
fn a_body_that_stops_is_408(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = Setup::new(driver, upstream.url()).set("server.read_timeout", "0.3s").start();
    let mut ids = Vec::new();
    for body in [
        "Content-Length: 10\r\n\r\n",
        "Content-Length: 10\r\n\r\nhello",
        "Transfer-Encoding: chunked\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    ] {
        let mut client = proxy.sent(&wire(format!("POST /e HTTP/1.1\r\n{{H}}{body}")));
        ids.push(client.read_answer().assert_refusal(408, "request_timeout"));
        if let Some(conn) = upstream.try_accept() {
            conn.wait_end();
            let seen = conn.pending();
            assert!(Recorded(&seen).request().is_err(), "a whole request: {}", show(&seen));
        }
    }
    let stopped = proxy.stop();
    let blocked = stopped.of_kind("request.blocked");
    assert_eq!(blocked.len(), ids.len());
    for event in blocked {
        assert!(ids.iter().any(|id| id == event.request_id()), "{}", event.line);
        assert_eq!(event.text("payload.reason"), "request_timeout", "{}", event.line);
        assert_eq!(event.text("payload.path"), "/e", "{}", event.line);
    }
}

/// The body's clock restarts with each byte, so a body may last longer than the timer.
fn a_slow_body_has_no_deadline_as_a_whole(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = Setup::new(driver, upstream.url()).set("server.read_timeout", "1s").start();
    let mut client = proxy.sent(&wire("POST /e HTTP/1.1\r\n{H}Content-Length: 5\r\n\r\n"));
    for byte in [b"h", b"e", b"l", b"l"] {
        client.expect_silence(Duration::from_millis(400));
        client.send(byte);
    }
    client.send(b"o");
    let mut conn = upstream.accept();
    assert_eq!(conn.read_request().body, b"hello");
    conn.send(ANSWER_LAST);
    assert_eq!(client.read_response().body, b"ok");
}

/// "or close if the answer has begun".
fn a_body_that_stops_in_an_answer_closes(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = Setup::new(driver, upstream.url()).set("server.read_timeout", "300ms").start();
    let mut client = proxy.sent(&wire("POST /e HTTP/1.1\r\n{H}Content-Length: 10\r\n\r\nhello"));
    let mut conn = upstream.accept();
    conn.read_head();
    conn.expect(b"hello");
    conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
    assert_eq!(client.read_head().status(), 200);
    let (body, _) = client.read_to_end();
    assert_eq!(body, b"hello");
    conn.expect_end();
}

/// C28: `resilience.timeout` with a fraction; the client connection and its event.
fn an_application_without_an_answer_is_504(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = Setup::new(driver, upstream.url()).set("resilience.timeout", "0.3s").start();
    for request in [
        "GET /e HTTP/1.1\r\n{H}Connection: close\r\n\r\n",
        "POST /e HTTP/1.1\r\n{H}Connection: close\r\nContent-Length: 2\r\n\r\nhi",
    ] {
        let mut client = proxy.sent(&wire(request));
        let mut conn = upstream.accept();
        conn.read_request();
        client.read_answer().assert_refusal(504, "upstream_timeout");
        conn.expect_end();
    }
    // A head that trickles is no head.
    let mut client = proxy.sent(&wire("GET /e HTTP/1.1\r\n{H}Connection: close\r\n\r\n"));
    let mut conn = upstream.accept();
    conn.read_request();
    conn.send(b"HTTP/1.1 200 OK\r\nX: ");
    eventually("an answer to a head without end", || {
        let _may_be_gone = conn.try_send(b"x");
        (!client.pending().is_empty()).then_some(())
    });
    client.read_answer().assert_refusal(504, "upstream_timeout");
    proxy.wait_metric("vibewarden_upstream_timeouts_total", &[], 3.0);
    let stopped = proxy.stop();
    upstream.assert_untouched();
    let timeouts = stopped.of_kind("upstream.timeout");
    assert_eq!(timeouts.len(), 3);
    for event in timeouts {
        let seconds = event.json.number("payload.timeout_seconds");
        assert!(seconds.is_some_and(|seconds| (0.29..0.31).contains(&seconds)), "{}", event.line);
    }
}

/// "request fully sent → head": a slow upload is not a slow application.
fn the_answer_clock_starts_behind_the_body(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = Setup::new(driver, upstream.url()).set("resilience.timeout", "300ms").start();
    let mut client = proxy.sent(&wire("POST /e HTTP/1.1\r\n{H}Content-Length: 10\r\n\r\nhello"));
    let mut conn = upstream.accept();
    conn.read_head();
    conn.expect(b"hello");
    client.expect_silence(LONGER);
    client.send(b"world");
    conn.expect(b"world");
    conn.send(ANSWER_LAST);
    assert_eq!(client.read_response().body, b"ok");
}

fn interim_answers_do_not_answer(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = Setup::new(driver, upstream.url()).set("resilience.timeout", "400ms").start();
    let mut client = proxy.sent(&wire("GET /e HTTP/1.1\r\n{H}Connection: close\r\n\r\n"));
    let mut conn = upstream.accept();
    conn.read_request();
    conn.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    assert_eq!(client.read_head().status(), 103);
    client.read_answer().assert_refusal(504, "upstream_timeout");
    conn.expect_end();
}

/// 0 is off; the other timers do not stand in for it.
fn without_an_answer_timeout_nothing_runs_out(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = Setup::new(driver, upstream.url())
        .set("resilience.timeout", "0")
        .set("server.read_timeout", "200ms")
        .set("server.write_timeout", "200ms")
        .set("server.idle_timeout", "200ms")
        .start();
    let mut client = proxy.sent(&wire("POST /e HTTP/1.1\r\n{H}Content-Length: 2\r\n\r\nhi"));
    let mut conn = upstream.accept();
    conn.read_request();
    client.expect_silence(LONGER);
    conn.send(ANSWER_LAST);
    assert_eq!(client.read_response().body, b"ok");
}

/// Server-sent events: no timer runs between the pieces of an answer.
fn an_answer_body_may_pause(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = Setup::new(driver, upstream.url())
        .set("resilience.timeout", "200ms")
        .set("server.read_timeout", "200ms")
        .set("server.write_timeout", "200ms")
        .set("server.idle_timeout", "200ms")
        .start();
    let after = |part: &'static [u8]| move |held: &[u8], _| Some(find(held, part)? + part.len());
    for (head, pieces, end) in [
        ("Transfer-Encoding: chunked\r\n", ["5\r\nhello\r\n", "5\r\nworld\r\n"], "0\r\n\r\n"),
        ("Content-Length: 10\r\n", ["hello", "world"], ""),
        ("", ["hello", "world"], ""),
    ] {
        let mut client = proxy.sent(&wire("GET /e HTTP/1.1\r\n{H}\r\n"));
        let mut conn = upstream.accept();
        conn.read_request();
        conn.send(format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{head}\r\n").as_bytes());
        assert_eq!(client.read_head().status(), 200);
        client.expect_silence(LONGER);
        conn.send(pieces[0].as_bytes());
        // In whatever chunks it comes, its last line end included.
        let framed = if head.starts_with("Content") { &b"hello"[..] } else { b"hello\r\n" };
        client.try_take(after(framed)).expect("the first piece");
        client.expect_silence(LONGER);
        conn.send(pieces[1].as_bytes());
        client.try_take(after(b"world")).expect("the second piece");
        conn.send(end.as_bytes());
        conn.fin();
    }
}

/// "504 if the upstream stalls before its head".
fn an_application_that_does_not_read_is_504(driver: Driver) {
    let upstream = Upstream::start().with_receive_buffer(64 * 1024);
    let mut proxy = Setup::new(driver, upstream.url())
        .set("body_size.max", "0")
        .set("server.write_timeout", "400ms")
        .start();
    let mut client = proxy.sent(&wire("POST /e HTTP/1.1\r\n{H}Content-Length: 1000000000\r\n\r\n"));
    let far = upstream.accept_unrecorded();
    let mut sender = client.twin();
    let sending = std::thread::spawn(move || {
        let block = vec![b'x'; 64 * 1024];
        while sender.try_send(&block).is_ok() {}
    });
    let head = client.read_head();
    assert_eq!(head.status(), 504);
    let body = client.try_take(|held, _| Some(find(held, b"\n")? + 1));
    crate::harness::http::assert_error_body(&head, &body.expect("a body"), 504, "upstream_timeout");
    client.reset();
    sending.join().expect("the client");
    drop(far);
    assert_eq!(proxy.stop().of_kind("upstream.timeout").len(), 1);
}

/// G3: a client that does not take its answer.
fn a_client_that_does_not_read_its_answer_is_let_go(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = Setup::new(driver, upstream.url()).set("server.write_timeout", "300ms").start();
    let client = proxy.sent(&wire("GET /e HTTP/1.1\r\n{H}\r\n"));
    let mut conn = upstream.accept();
    conn.read_request();
    conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
    let block = vec![b'x'; 1 << 20];
    eventually("the upstream is let go", || conn.try_send(&block).err());
    conn.wait_end();
    proxy.wait_metric("vibewarden_active_connections", &[], 1.0);
    drop(client);
    assert_eq!(proxy.stop().only("request.proxied").count("payload.status_code"), 200);
}

/// Between two requests, without a word; a request in time is served.
fn a_kept_connection_idles_out_silently(driver: Driver) {
    let upstream = Upstream::start().name_targets();
    let mut proxy = Setup::new(driver, upstream.url()).set("server.idle_timeout", "0.5s").start();
    let mut client = proxy.connect();
    for _ in 0..3 {
        client.send(&wire("GET /e HTTP/1.1\r\n{H}\r\n"));
        assert_eq!(client.read_response().body, b"/e");
        client.expect_silence(Duration::from_millis(200));
    }
    assert_eq!(client.expect_end(), End::Eof);
    assert_eq!(proxy.stop().events.len(), 5);
}

/// From the first byte of a later request; the idle clock has nothing to say any more.
fn a_later_head_has_its_own_deadline(driver: Driver) {
    let application = Upstream::start().name_targets();
    let proxy = Setup::new(driver, application.url())
        .set("server.read_timeout", "300ms")
        .set("server.idle_timeout", "30s")
        .start();
    let mut client = proxy.sent(&wire("GET /e HTTP/1.1\r\n{H}\r\n"));
    assert_eq!(client.read_response().body, b"/e");
    client.expect_silence(LONGER);
    client.send(b"GET /f HT");
    client.read_answer().assert_refusal(408, "request_timeout");
    assert_eq!(application.targets(), ["/e"]);
}

/// C29 for plain requests; the three seconds themselves are with the upgrades.
fn an_unreachable_application_is_504_for_plain_requests(driver: Driver) {
    let (hole, _fill) = Upstream::black_hole();
    let proxy = Setup::new(driver, hole.url()).start();
    let mut client = proxy.sent(&wire("GET /e HTTP/1.1\r\n{H}Connection: close\r\n\r\n"));
    client.read_answer().assert_refusal(504, "upstream_timeout");
    let timeout = [("reason", "timeout")];
    proxy.wait_metric("vibewarden_upstream_connect_failures_total", &timeout, 1.0);
    // Refused is another thing, and at once.
    let address = vacant_address();
    let proxy = Setup::new(driver, format!("http://{address}")).start();
    let mut client = proxy.sent(&wire("GET /e HTTP/1.1\r\n{H}Connection: close\r\n\r\n"));
    client.read_answer().assert_refusal(502, "upstream_unavailable");
    let refused = [("reason", "refused")];
    proxy.wait_metric("vibewarden_upstream_connect_failures_total", &refused, 1.0);
    // The application comes up: the next request finds it.
    let upstream = Upstream::on(address);
    let mut client = proxy.sent(&wire("GET /e HTTP/1.1\r\n{H}\r\n"));
    let mut conn = upstream.accept();
    conn.read_request();
    conn.send(ANSWER_KEPT);
    assert_eq!(client.read_response().body, b"ok");
}
