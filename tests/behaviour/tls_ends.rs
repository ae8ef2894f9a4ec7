//! Sections 7.3, 7.4 and 15 where clients speak TLS: `close_notify` is an end, a TCP end without it is none.

use std::sync::Arc;

use rustix::process::Signal;

use crate::harness::payload::Stream;
use crate::harness::tls::{ONLY_12, ONLY_13, client};
use crate::harness::{
    ANSWER_101, Driver, End, HANDSHAKE, Peer, Proxy, Setup, Upstream, eventually, wire,
};

on_drivers!(
    every:
        close_notify_is_an_end_and_a_bare_fin_is_none;
    both:
        a_client_may_close_right_behind_its_close_notify,
        an_upstream_that_ends_is_heard_and_answered,
        the_end_may_stand_right_behind_the_data,
        a_bare_fin_in_a_request_is_no_end_of_it,
        a_client_that_leaves_before_the_101_takes_its_upstream_along,
        a_cut_answer_never_ends_cleanly,
        a_drained_tunnel_ends_cleanly,
        a_shutdown_at_once_ends_cleanly,
);

/// The proxy with clients of either version.
fn each_version(driver: Driver, check: impl Fn(&mut Proxy, &Upstream)) {
    for versions in [ONLY_13, ONLY_12] {
        let upstream = Upstream::start();
        let setup = Setup::new(driver, upstream.url()).set("tls.enabled", "true");
        let mut proxy = setup.start().with_clients(client(versions));
        check(&mut proxy, &upstream);
    }
}

#[track_caller]
fn reason_after(proxy: &Proxy, from: usize) -> String {
    let closed = proxy.wait_event_after(from, "the end", |event| event.is("websocket.closed"));
    closed.text("payload.reason").to_owned()
}

/// D21.
fn close_notify_is_an_end_and_a_bare_fin_is_none(driver: Driver) {
    const BYTES: usize = 1 << 20;
    each_version(driver, |proxy, upstream| {
        // close_notify alone: the other direction goes on for as long as it likes.
        let from = proxy.event_count();
        let (mut client, mut far) = proxy.unrecorded_tunnel(upstream);
        client.send(b"the last words");
        client.fin();
        assert_eq!(far.read_to_end(), (b"the last words".to_vec(), End::Eof));
        let mut sender = far.twin();
        let sending = std::thread::spawn(move || sender.send(&Stream::new(7).take(BYTES)));
        assert!(client.read_exact(BYTES) == Stream::new(7).take(BYTES));
        sending.join().expect("sender");
        far.fin();
        assert_eq!(client.expect_end(), End::Eof);
        drop((client, far));
        assert_eq!(reason_after(proxy, from), "client_closed");
        // A FIN alone: whoever is between could have sent it.
        let from = proxy.event_count();
        let (mut client, mut conn) = proxy.tunnel(upstream);
        client.ping(&mut conn, b"alive");
        client.fin_without_notice();
        assert_eq!(conn.expect_end(), End::Reset);
        assert_ne!(client.read_to_end().1, End::Eof, "no clean end for the client either");
        assert_eq!(reason_after(proxy, from), "client_reset");
        // The same in the middle of a record.
        let from = proxy.event_count();
        let (mut client, mut conn) = proxy.tunnel(upstream);
        client.ping(&mut conn, b"alive");
        std::io::Write::write_all(&mut &*client.socket(), &[23, 3, 3, 1, 0, 9, 9]).expect("send");
        client.fin_without_notice();
        assert_eq!(conn.expect_end(), End::Reset);
        assert_eq!(reason_after(proxy, from), "client_reset");
        // And while the upstream is sending.
        let from = proxy.event_count();
        let (mut client, mut far) = proxy.unrecorded_tunnel(upstream);
        let mut sender = far.twin();
        let sending = std::thread::spawn(move || {
            let bulk = vec![b'x'; 65_536];
            while sender.try_send(&bulk).is_ok() {}
        });
        client.read_exact(BYTES);
        client.fin_without_notice();
        sending.join().expect("the sender was told");
        far.has_ended();
        assert_eq!(reason_after(proxy, from), "client_reset");
    });
}

/// As every browser does it: `close_notify`, then `close`.
fn a_client_may_close_right_behind_its_close_notify(driver: Driver) {
    each_version(driver, |proxy, upstream| {
        for _ in 0..20 {
            let from = proxy.event_count();
            let (mut client, mut conn) = proxy.tunnel(upstream);
            client.ping(&mut conn, b"a while");
            drop(client);
            assert_eq!(conn.expect_end(), End::Eof);
            drop(conn);
            assert_eq!(reason_after(proxy, from), "client_closed");
        }
    });
}

fn an_upstream_that_ends_is_heard_and_answered(driver: Driver) {
    const BYTES: usize = 1 << 20;
    each_version(driver, |proxy, upstream| {
        let from = proxy.event_count();
        let (mut client, mut far) = proxy.unrecorded_tunnel(upstream);
        far.send(b"that was all");
        far.fin();
        assert_eq!(client.read_to_end(), (b"that was all".to_vec(), End::Eof));
        let mut sender = client.twin();
        let sending = std::thread::spawn(move || sender.send(&Stream::new(8).take(BYTES)));
        assert!(far.read_exact(BYTES) == Stream::new(8).take(BYTES));
        sending.join().expect("sender");
        client.fin();
        assert_eq!(far.expect_end(), End::Eof);
        drop((client, far));
        assert_eq!(reason_after(proxy, from), "upstream_closed");
        // A reset is none.
        let from = proxy.event_count();
        let (mut client, mut conn) = proxy.tunnel(upstream);
        client.ping(&mut conn, b"alive");
        conn.reset();
        assert_ne!(client.expect_end(), End::Eof);
        assert_eq!(reason_after(proxy, from), "upstream_reset");
    });
}

/// Request, data and `close_notify` in one go.
fn the_end_may_stand_right_behind_the_data(driver: Driver) {
    each_version(driver, |proxy, upstream| {
        for bytes in [0, 1, 16_384, 100_000] {
            let data = Stream::new(9).take(bytes);
            let (mut client, mut far) = proxy.unrecorded_tunnel(upstream);
            client.send(&data);
            client.fin();
            let (seen, end) = far.read_to_end();
            assert!(seen == data && end == End::Eof, "{bytes}: {} {end:?}", seen.len());
            far.send(b"thanks");
            client.expect(b"thanks");
            far.fin();
            assert_eq!(client.expect_end(), End::Eof);
        }
    });
}

/// What was cut could be a part of something else.
fn a_bare_fin_in_a_request_is_no_end_of_it(driver: Driver) {
    each_version(driver, |proxy, upstream| {
        for notice in [true, false] {
            for framing in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
                let head = wire(format!("POST / HTTP/1.1\r\n{{H}}{framing}\r\n\r\n"));
                let part = if framing.starts_with('T') { "9\r\n1234" } else { "1234" };
                let mut client = proxy.sent(&[&head[..], part.as_bytes()].concat());
                let mut conn = upstream.accept();
                conn.read_head();
                if notice {
                    client.fin();
                } else {
                    client.fin_without_notice();
                }
                conn.wait_end();
                assert!(!conn.pending().ends_with(b"0\r\n\r\n"), "a whole body: {framing}");
                let _refused_or_ended = client.read_to_end();
            }
        }
    });
}

fn a_client_that_leaves_before_the_101_takes_its_upstream_along(driver: Driver) {
    each_version(driver, |proxy, upstream| {
        for way in 0..3 {
            let mut client = proxy.sent(HANDSHAKE);
            let mut conn = upstream.accept();
            conn.read_head();
            match way {
                0 => client.fin(),
                1 => client.fin_without_notice(),
                _ => client.reset(),
            }
            conn.wait_end();
        }
        let abandoned = [("result", "abandoned")];
        proxy.wait_metric("vibewarden_websocket_upgrades_total", &abandoned, 3.0);
        proxy.wait_metric("vibewarden_active_connections", &[], 1.0);
    });
}

/// 6.2. Over TLS an end without `close_notify` or a reset tells; a clean end would pass for the whole.
fn a_cut_answer_never_ends_cleanly(driver: Driver) {
    each_version(driver, |proxy, upstream| {
        let answers: [&[u8]; 3] = [
            b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\npart of it",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\npart of it",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\npart of it\r\n",
        ];
        for version in ["1.0", "1.1"] {
            for (number, answer) in answers.iter().enumerate() {
                for reset in [true, false] {
                    if number == 0 && !reset {
                        // An end that is no fault: the close is the framing.
                        continue;
                    }
                    let request = wire(format!("GET / HTTP/{version}\r\n{{H}}\r\n"));
                    let mut client = proxy.sent(&request);
                    let mut conn = upstream.accept();
                    conn.read_head();
                    conn.send(answer);
                    client.read_head();
                    eventually("the part that was sent", || {
                        client.pending().windows(4).any(|part| part == b"part").then_some(())
                    });
                    if reset {
                        conn.reset();
                    } else {
                        drop(conn);
                    }
                    let (_, end) = client.read_to_end();
                    assert_ne!(end, End::Eof, "HTTP/{version}, answer {number}, reset: {reset}");
                }
            }
            // The same with a close where the close is the framing.
            let mut client = proxy.sent(&wire(format!("GET / HTTP/{version}\r\n{{H}}\r\n")));
            let mut conn = upstream.accept();
            conn.read_head();
            conn.send(answers[0]);
            drop(conn);
            client.read_head();
            if version == "1.0" {
                assert_eq!(client.read_to_end(), (b"part of it".to_vec(), End::Eof));
            } else {
                client.expect(b"a\r\npart of it\r\n0\r\n\r\n");
            }
        }
    });
}

/// 15: what is closed over the drain.
fn a_drained_tunnel_ends_cleanly(driver: Driver) {
    let upstream = Upstream::start();
    let setup = Setup::new(driver, upstream.url())
        .set("tls.enabled", "true")
        .set("server.drain_timeout", "2s");
    let mut proxy = setup.start();
    let mut tunnels: Vec<_> = [ONLY_12, ONLY_13, ONLY_12, ONLY_13]
        .map(|versions| open_with(&proxy, &upstream, versions))
        .into_iter()
        .collect();
    let mut idle = proxy.sent(b"GET /_vibewarden/ready HTTP/1.1\r\nHost: t\r\n\r\n");
    idle.read_kept_answer();
    proxy.signal(Signal::TERM);
    assert_eq!(idle.expect_end(), End::Eof, "a connection between two requests");
    for (client, far) in &mut tunnels {
        assert_eq!(client.expect_end(), End::Eof);
        assert_eq!(far.expect_end(), End::Eof);
    }
    let stopped = proxy.wait_stopped();
    assert_eq!(stopped.code, Some(0));
    for closed in stopped.of_kind("websocket.closed") {
        assert_eq!(closed.text("payload.reason"), "drained", "{}", closed.line);
    }
    assert_eq!(stopped.of_kind("websocket.closed").len(), 4);
}

fn a_shutdown_at_once_ends_cleanly(driver: Driver) {
    let upstream = Upstream::start();
    let setup = Setup::new(driver, upstream.url())
        .set("tls.enabled", "true")
        .set("server.drain_timeout", "0");
    let mut proxy = setup.start();
    let (mut client, mut far) = open_with(&proxy, &upstream, ONLY_13);
    client.ping(&mut far, b"open");
    proxy.signal(Signal::TERM);
    assert_eq!(client.expect_end(), End::Eof);
    far.expect_end();
    let stopped = proxy.wait_stopped();
    assert_eq!(stopped.only("websocket.closed").text("payload.reason"), "shutdown");
}

#[track_caller]
fn open_with(
    proxy: &Proxy,
    upstream: &Upstream,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> (Peer, Peer) {
    let mut client = proxy.connect_bare().secure(Arc::new(client(versions)));
    client.send(HANDSHAKE);
    let mut far = upstream.accept_unrecorded();
    far.read_head();
    far.send(ANSWER_101);
    client.open();
    (client, far)
}
