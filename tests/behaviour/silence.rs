//! Seed 17: no timer of any kind touches an open tunnel.

use std::time::Duration;

use crate::harness::{Driver, End, HANDSHAKE, Peer, Setup, Upstream};

on_drivers!(
    every: a_silent_tunnel_outlives_every_timeout;
    both: a_stalled_tunnel_outlives_every_timeout,
);

fn short(driver: Driver, upstream: &Upstream) -> Setup {
    Setup::new(driver, upstream.url())
        .set("server.read_timeout", "150ms")
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
    early_conn.send(crate::harness::ANSWER_101);
    early.open();
    early_conn.expect(b"early");
    let_every_timer_run_out(&proxy, &upstream);
    never_used.ping(&mut never_used_conn, b"first bytes");
    used.ping(&mut used_conn, b"second bytes");
    early.ping(&mut early_conn, b"later bytes");
    assert!(never_used.pending().is_empty(), "something was injected");
    drop((
        never_used,
        never_used_conn,
        used,
        used_conn,
        early,
        early_conn,
    ));
    let stopped = proxy.stop();
    for closed in stopped.of_kind("websocket.closed") {
        assert_eq!(
            closed.text("payload.reason"),
            "client_closed",
            "{}",
            closed.line
        );
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
    assert!(
        client
            .read_exact(down.taken)
            .iter()
            .all(|byte| *byte == b'd')
    );
    assert!(far.read_exact(up.taken).iter().all(|byte| *byte == b'u'));
    client.ping(&mut far, b"and on it goes");
}
