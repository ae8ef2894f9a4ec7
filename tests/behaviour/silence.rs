//! Seed 17: no timer of any kind touches an open tunnel.

use std::time::Duration;

use rustix::process::Signal;

use crate::harness::payload::{Stream, seed};
use crate::harness::setup::short_read_timeout;
use crate::harness::{ANSWER_101, Driver, End, HANDSHAKE, Peer, Setup, Upstream};

on_drivers!(
    every: a_silent_tunnel_outlives_every_timeout;
    both:
        a_stalled_tunnel_outlives_every_timeout,
        bytes_held_at_the_101_have_no_timer_either,
        a_reader_that_pauses_is_not_dead,
        a_reader_that_pauses_outlives_a_reload_of_liveness,
);

over_tls!(
    a_silent_tunnel_outlives_every_timeout,
    a_stalled_tunnel_outlives_every_timeout,
    bytes_held_at_the_101_have_no_timer_either,
    a_reader_that_pauses_is_not_dead,
);

fn short(driver: Driver, upstream: &Upstream) -> Setup {
    Setup::new(driver, upstream.url())
        .set("server.read_timeout", short_read_timeout(driver))
        .set("server.write_timeout", "150ms")
        .set("server.idle_timeout", "150ms")
        .set("resilience.timeout", "150ms")
        .set("watch.debounce", "100ms")
}

/// Lets every timer run out several times, each time on something that it does end.
#[track_caller]
fn let_every_timer_run_out(proxy: &crate::harness::Proxy, upstream: &Upstream) {
    for _ in 0..5 {
        let mut idle = proxy.sent(b"GET /_vibewarden/ready HTTP/1.1\r\nHost: t\r\n\r\n");
        idle.read_kept_answer();
        assert_eq!(idle.expect_end(), End::Eof, "idle_timeout");
        assert_eq!(proxy.connect().expect_end(), End::Eof, "read_timeout");
        assert_eq!(proxy.sent(b"GET").read_answer().head.status(), 408);
        let mut unanswered = proxy.sent(HANDSHAKE);
        let mut conn = upstream.accept();
        conn.read_head();
        assert_eq!(unanswered.read_answer().head.status(), 504);
    }
}

fn a_silent_tunnel_outlives_every_timeout(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = short(driver, &upstream).start();
    let (mut never_used, mut never_used_conn) = proxy.tunnel(&upstream);
    let (mut used, mut used_conn) = proxy.tunnel(&upstream);
    used.ping(&mut used_conn, b"once");
    // Begun with early bytes, and as a second request of its connection.
    let mut early = proxy.connect();
    early.send(b"GET /_vibewarden/ready HTTP/1.1\r\nHost: t\r\n\r\n");
    early.read_kept_answer();
    early.send(&[HANDSHAKE, b"early"].concat());
    let mut early_conn = upstream.accept();
    early_conn.read_head();
    early_conn.send(ANSWER_101);
    early.open();
    early_conn.expect(b"early");
    let_every_timer_run_out(&proxy, &upstream);
    never_used.ping(&mut never_used_conn, b"first bytes");
    used.ping(&mut used_conn, b"second bytes");
    early.ping(&mut early_conn, b"later bytes");
    assert!(never_used.pending().is_empty(), "something was injected");
    drop((never_used, never_used_conn, used, used_conn, early, early_conn));
    let stopped = proxy.stop();
    for closed in stopped.of_kind("websocket.closed") {
        assert_eq!(closed.text("payload.reason"), "client_closed", "{}", closed.line);
    }
}

/// Data that nobody takes is not a timeout either.
fn a_stalled_tunnel_outlives_every_timeout(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = short(driver, &upstream).start();
    let (mut client, mut far): (Peer, Peer) = proxy.unrecorded_tunnel(&upstream);
    let quiet = Duration::from_millis(200);
    let down = far.send_until_blocked(quiet, 64 << 20, |count| vec![b'd'; count]);
    let up = client.send_until_blocked(quiet, 64 << 20, |count| vec![b'u'; count]);
    assert!(down.blocked && up.blocked);
    let_every_timer_run_out(&proxy, &upstream);
    assert!(client.read_exact(down.taken).iter().all(|byte| *byte == b'd'));
    assert!(far.read_exact(up.taken).iter().all(|byte| *byte == b'u'));
    client.ping(&mut far, b"and on it goes");
}

/// What was held back until the 101, or came with it, may be taken as late as everything else.
fn bytes_held_at_the_101_have_no_timer_either(driver: Driver) {
    const HELD_BYTES: usize = 60_000;
    let upstream = Upstream::start().with_receive_buffer(2048);
    let proxy = short(driver, &upstream).start();
    let bytes = Stream::new(seed()).take(HELD_BYTES);
    let mut client = proxy.connect_with_receive_buffer(Some(2048));
    client.send(HANDSHAKE);
    let mut far = upstream.accept_unrecorded();
    far.read_head();
    let mut twins = (client.twin(), far.twin());
    let (early, late) = (bytes.clone(), [ANSWER_101, &bytes].concat());
    // Both sides write more than anybody takes for now.
    let early = std::thread::spawn(move || twins.0.send(&early));
    let late = std::thread::spawn(move || twins.1.send(&late));
    for _ in 0..5 {
        let mut idle = proxy.sent(b"GET /_vibewarden/ready HTTP/1.1\r\nHost: t\r\n\r\n");
        idle.read_kept_answer();
        assert_eq!(idle.expect_end(), End::Eof, "idle_timeout");
        assert_eq!(proxy.connect().expect_end(), End::Eof, "read_timeout");
    }
    client.open();
    assert!(client.read_exact(HELD_BYTES) == bytes, "to the client");
    assert!(far.read_exact(HELD_BYTES) == bytes, "to the upstream");
    early.join().expect("early bytes");
    late.join().expect("late bytes");
    client.ping(&mut far, b"and on");
}

/// 7.5: a living peer is never cut, not even one that has kept its window closed for longer than `dead_peer_after`.
fn a_reader_that_pauses_is_not_dead(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = Setup::new(driver, upstream.url())
        .set("server.dead_peer_after", "5s")
        .set("server.read_timeout", "2s")
        .start();
    let (mut client, mut far): (Peer, Peer) = proxy.unrecorded_tunnel(&upstream);
    let quiet = Duration::from_millis(200);
    let down = far.send_until_blocked(quiet, 64 << 20, |count| vec![b'd'; count]);
    let up = client.send_until_blocked(quiet, 64 << 20, |count| vec![b'u'; count]);
    assert!(down.blocked && up.blocked);
    // 5 s and a quarter pass, shown by connections that each take 2 s to be closed.
    for _ in 0..5 {
        assert_eq!(proxy.connect().expect_end(), End::Eof);
    }
    assert!(client.read_exact(down.taken).iter().all(|byte| *byte == b'd'));
    assert!(far.read_exact(up.taken).iter().all(|byte| *byte == b'u'));
    client.ping(&mut far, b"never dead");
}

/// Switched off, no limit of the kernel stays behind; switched on, the pause until then does not count.
fn a_reader_that_pauses_outlives_a_reload_of_liveness(driver: Driver) {
    let upstream = Upstream::start();
    let setup = |after| {
        Setup::new(driver, upstream.url())
            .set("server.dead_peer_after", after)
            .set("server.read_timeout", "2s")
            .set("watch.enabled", "false")
    };
    let proxy = setup("5s").start();
    let (mut client, mut far): (Peer, Peer) = proxy.unrecorded_tunnel(&upstream);
    let quiet = Duration::from_millis(200);
    let down = far.send_until_blocked(quiet, 64 << 20, |count| vec![b'd'; count]);
    let up = client.send_until_blocked(quiet, 64 << 20, |count| vec![b'u'; count]);
    assert!(down.blocked && up.blocked);
    // Time passes, shown by connections that each take 2 s to be closed.
    for (after, rounds) in [("5s", 1), ("0", 6), ("5s", 3)] {
        let from = proxy.event_count();
        proxy.replace_config(&setup(after));
        proxy.signal(Signal::HUP);
        proxy.wait_event_after(from, "a reload", |event| event.is("config.reloaded"));
        for _ in 0..rounds {
            assert_eq!(proxy.connect().expect_end(), End::Eof);
        }
    }
    assert!(client.read_exact(down.taken).iter().all(|byte| *byte == b'd'));
    assert!(far.read_exact(up.taken).iter().all(|byte| *byte == b'u'));
    client.ping(&mut far, b"never dead");
}
