//! Section 5.2 as far as a handshake goes: each timer ends what it should, with the answer it should.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::harness::setup::short_read_timeout;
use crate::harness::{ANSWER_101, Driver, End, HANDSHAKE, Setup, Upstream, eventually, wire};

on_drivers!(
    every:
        a_half_head_is_408,
        a_silent_client_is_closed_without_a_word,
        an_upstream_that_never_answers_is_504;
    both:
        a_trickled_head_has_one_deadline,
        a_second_request_has_its_own_deadline,
        an_idle_connection_is_closed_silently,
        an_upstream_that_trickles_is_504,
        interim_answers_do_not_stop_the_clock,
        without_an_answer_timeout_the_write_timeout_bounds_it,
        a_connect_without_an_answer_is_504_after_three_seconds,
        an_address_without_an_answer_leaves_time_for_the_next,
        a_client_that_leaves_frees_everything,
        a_client_that_said_too_much_may_leave_too,
        a_client_that_does_not_read_is_let_go,
);

over_tls!(
    a_half_head_is_408,
    a_trickled_head_has_one_deadline,
    a_second_request_has_its_own_deadline,
    an_idle_connection_is_closed_silently,
    a_client_that_leaves_frees_everything,
    a_client_that_said_too_much_may_leave_too,
    a_client_that_does_not_read_is_let_go,
);

/// A131, seed 19.
fn a_half_head_is_408(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = Setup::new(driver, upstream.url())
        .set("server.read_timeout", short_read_timeout(driver))
        .start();
    let mut ids = Vec::new();
    for cut in [1, 20, HANDSHAKE.len() - 1] {
        let mut client = proxy.sent(&HANDSHAKE[..cut]);
        ids.push(client.read_answer().assert_refusal(408, "request_timeout"));
    }
    let stopped = proxy.stop();
    upstream.assert_untouched();
    let blocked = stopped.of_kind("request.blocked");
    assert_eq!(blocked.len(), 3);
    for event in blocked {
        assert!(ids.iter().any(|id| id == event.request_id()));
        assert_eq!(event.text("payload.reason"), "request_timeout");
        assert_eq!(event.text("payload.blocked_by"), "http");
        assert_eq!(event.count("payload.status_code"), 408);
    }
}

/// G1.
fn a_silent_client_is_closed_without_a_word(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = Setup::new(driver, upstream.url()).set("server.read_timeout", "200ms").start();
    let clients: Vec<_> = (0..50).map(|_| proxy.connect()).collect();
    for mut client in clients {
        assert_eq!(client.expect_end(), End::Eof);
    }
    proxy.wait_metric("vibewarden_active_connections", &[], 1.0);
    let stopped = proxy.stop();
    assert_eq!(stopped.events.len(), 2, "{:#?}", stopped.events);
}

/// The deadline is for the whole head; bytes that keep coming do not move it.
fn a_trickled_head_has_one_deadline(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = Setup::new(driver, upstream.url())
        .set("server.read_timeout", short_read_timeout(driver))
        .start();
    let mut client = proxy.sent(b"GET /");
    eventually("an answer to a head without end", || {
        let _may_be_gone = client.try_send(b"a");
        (!client.pending().is_empty()).then_some(())
    });
    assert_eq!(client.read_head().status(), 408);
    upstream.assert_untouched();
}

/// From the first byte of a later request.
fn a_second_request_has_its_own_deadline(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = Setup::new(driver, upstream.url())
        .set("server.read_timeout", short_read_timeout(driver))
        .set("server.idle_timeout", "60s")
        .start();
    let mut client = proxy.sent(&wire("GET /_vibewarden/health HTTP/1.1\r\n{H}\r\n"));
    client.read_kept_answer();
    // Longer than read_timeout, shown by another connection that runs into it.
    assert_eq!(proxy.connect().expect_end(), End::Eof);
    assert_eq!(proxy.connect().expect_end(), End::Eof);
    client.send(b"GET /ws HT");
    client.read_answer().assert_refusal(408, "request_timeout");
}

fn an_idle_connection_is_closed_silently(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = Setup::new(driver, upstream.url()).set("server.idle_timeout", "200ms").start();
    let mut client = proxy.sent(&wire("GET /_vibewarden/health HTTP/1.1\r\n{H}\r\n"));
    client.read_kept_answer();
    assert_eq!(client.expect_end(), End::Eof);
    assert_eq!(proxy.stop().events.len(), 2);
}

/// C28, seed 19.
fn an_upstream_that_never_answers_is_504(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = Setup::new(driver, upstream.url()).set("resilience.timeout", "300ms").start();
    let mut client = proxy.sent(HANDSHAKE);
    let mut conn = upstream.accept();
    conn.read_head();
    let id = client.read_answer().assert_refusal(504, "upstream_timeout");
    conn.expect_end();
    // A client that has sent more is answered all the same.
    let mut client = proxy.sent(&wire("{HS}early bytes"));
    let mut conn = upstream.accept();
    conn.read_head();
    client.read_answer().assert_refusal(504, "upstream_timeout");
    conn.expect_end();
    let timeouts = [("result", "timeout")];
    proxy.wait_metric("vibewarden_websocket_upgrades_total", &timeouts, 2.0);
    proxy.wait_metric("vibewarden_upstream_timeouts_total", &[], 2.0);
    let stopped = proxy.stop();
    let events = stopped.of_kind("upstream.timeout");
    assert_eq!(events.len(), 2);
    let event = events.iter().find(|event| event.request_id() == id);
    let seconds = event.expect("the event").json.number("payload.timeout_seconds");
    assert!(seconds.is_some_and(|seconds| (0.29..0.31).contains(&seconds)), "{event:?}");
    upstream.assert_untouched();
}

fn an_upstream_that_trickles_is_504(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = Setup::new(driver, upstream.url()).set("resilience.timeout", "400ms").start();
    let mut client = proxy.sent(HANDSHAKE);
    let mut conn = upstream.accept();
    conn.read_head();
    conn.send(b"HTTP/1.1 101 Switching Protocols\r\nX: ");
    eventually("an answer to a head without end", || {
        let _may_be_gone = conn.try_send(b"x");
        (!client.pending().is_empty()).then_some(())
    });
    assert_eq!(client.read_answer().head.status(), 504);
}

fn interim_answers_do_not_stop_the_clock(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = Setup::new(driver, upstream.url()).set("resilience.timeout", "400ms").start();
    let mut client = proxy.sent(HANDSHAKE);
    let mut conn = upstream.accept();
    conn.read_head();
    conn.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    client.read_answer().assert_refusal(504, "upstream_timeout");
}

fn without_an_answer_timeout_the_write_timeout_bounds_it(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = Setup::new(driver, upstream.url())
        .set("resilience.timeout", "0")
        .set("server.write_timeout", "300ms")
        .start();
    let mut client = proxy.sent(HANDSHAKE);
    let mut conn = upstream.accept();
    conn.read_head();
    client.read_answer().assert_refusal(504, "upstream_timeout");
    conn.expect_end();
}

/// C29, second half, and G10 in small: all wait at the same time.
fn a_connect_without_an_answer_is_504_after_three_seconds(driver: Driver) {
    let (hole, _fill) = Upstream::black_hole();
    let proxy = Setup::new(driver, hole.url()).start();
    let mut clients: Vec<_> = (0..20).map(|_| proxy.sent(HANDSHAKE)).collect();
    // Three seconds are fixed: nothing has come after one of them, everything within the patience of a test.
    let second = std::time::Duration::from_secs(1);
    clients[0].socket().set_read_timeout(Some(second)).expect("SO_RCVTIMEO");
    let mut byte = [std::mem::MaybeUninit::uninit()];
    assert!(clients[0].socket().peek(&mut byte).is_err(), "answered within a second");
    clients[0].socket().set_read_timeout(Some(crate::harness::PATIENCE)).expect("SO_RCVTIMEO");
    assert_eq!(proxy.get("/_vibewarden/health").0.status(), 200);
    for client in &mut clients {
        client.read_answer().assert_refusal(504, "upstream_timeout");
    }
    let timeout = [("reason", "timeout")];
    proxy.wait_metric("vibewarden_upstream_connect_failures_total", &timeout, 20.0);
}

/// C29: whichever loopback address of `localhost` comes first, the one that answers is reached.
fn an_address_without_an_answer_leaves_time_for_the_next(driver: Driver) {
    for (answers, drops) in [
        (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)),
        (Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()),
    ] {
        let upstream = Upstream::on((answers, 0).into());
        let (_hole, _fill) = Upstream::black_hole_on((drops, upstream.port()).into());
        let url = format!("http://localhost:{}", upstream.port());
        let proxy = Setup::new(driver, url).start();
        let (mut client, mut conn) = proxy.tunnel(&upstream);
        client.ping(&mut conn, b"by the other address");
    }
}

/// C30: while the upstream is silent, and while it cannot even be reached.
fn a_client_that_leaves_frees_everything(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = Setup::new(driver, upstream.url()).set("resilience.timeout", "600s").start();
    drop(proxy.tunnel(&upstream));
    proxy.wait_metric("vibewarden_active_connections", &[], 1.0);
    let before = proxy.process.descriptors();
    for reset in [false, true] {
        for early in [&b""[..], b"early bytes"] {
            let client = proxy.sent(&[HANDSHAKE, early].concat());
            let mut conn = upstream.accept();
            conn.read_head();
            proxy.wait_consumed(&client);
            if reset {
                client.reset();
            } else {
                drop(client);
            }
            conn.wait_end();
            assert!(conn.pending().is_empty());
        }
    }
    eventually("descriptors as before", || (proxy.process.descriptors() <= before).then_some(()));
    let (hole, _fill) = Upstream::black_hole();
    let proxy = Setup::new(driver, hole.url()).start();
    proxy.get("/_vibewarden/health");
    let before = proxy.process.descriptors();
    let clients: Vec<_> = (0..10).map(|_| proxy.sent(HANDSHAKE)).collect();
    eventually("ten attempts", || (proxy.process.descriptors() >= before + 15).then_some(()));
    for client in clients {
        client.reset();
    }
    let abandoned = [("result", "abandoned")];
    proxy.wait_metric("vibewarden_websocket_upgrades_total", &abandoned, 10.0);
    // The watch of the configuration may have taken its few descriptors meanwhile.
    eventually("no orphan attempts", || (proxy.process.descriptors() < before + 5).then_some(()));
}

/// C30 with B28: a full buffer of early bytes does not hide that the client is gone.
fn a_client_that_said_too_much_may_leave_too(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = Setup::new(driver, upstream.url()).set("resilience.timeout", "600s").start();
    let mut client = proxy.sent(HANDSHAKE);
    let mut conn = upstream.accept();
    conn.read_head();
    let quiet = std::time::Duration::from_millis(200);
    let sent = client.send_until_blocked(quiet, 64 << 20, |count| vec![b'e'; count]);
    assert!(sent.blocked);
    // Only a reset: an orderly end would stand behind the bytes that nobody reads.
    client.reset();
    conn.wait_end();
    assert!(conn.pending().is_empty());
}

/// `server.write_timeout` while a declined answer is relayed.
fn a_client_that_does_not_read_is_let_go(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = Setup::new(driver, upstream.url()).set("server.write_timeout", "300ms").start();
    let client = proxy.sent(HANDSHAKE);
    let mut conn = upstream.accept();
    conn.read_head();
    conn.send(b"HTTP/1.1 503 No\r\nContent-Length: 1000000000\r\n\r\n");
    let chunk = vec![b'x'; 1 << 20];
    eventually("the upstream is let go", || conn.try_send(&chunk).err());
    conn.wait_end();
    drop(client);
    proxy.wait_metric("vibewarden_active_connections", &[], 1.0);
    // A tunnel has no such timer.
    let (mut client, mut conn) = proxy.tunnel(&upstream);
    client.ping(&mut conn, ANSWER_101);
}
