//! Section 15: an orderly end, a paced one, and an impatient one.

use std::fs::File;
use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::io::ioctl_fionread;
use rustix::process::Signal;

use crate::harness::payload::{Stream, seed};
use crate::harness::peer::is_kept_alive;
use crate::harness::{
    ANSWER_101, Conn, Driver, End, HANDSHAKE, Peer, Proxy, Setup, Upstream, behind, eventually,
    wire,
};

on_drivers!(
    every:
        both_signals_end_an_idle_proxy,
        tunnels_are_closed_evenly_over_the_drain;
    both:
        no_drain_time_closes_at_once,
        a_second_signal_ends_it_at_once,
        connections_already_there_are_served,
        a_handshake_under_way_is_finished,
        what_was_read_is_sent_before_the_end,
        idle_connections_close_and_the_listener_too,
        connections_that_said_nothing_hold_nothing_up,
        tunnels_that_end_themselves_keep_their_reason,
        a_reader_that_stopped_does_not_hold_the_end_up,
        a_file_that_cannot_be_read_does_not_hold_the_end_up,
);

over_tls!(
    tunnels_are_closed_evenly_over_the_drain,
    no_drain_time_closes_at_once,
    connections_already_there_are_served,
    a_handshake_under_way_is_finished,
    what_was_read_is_sent_before_the_end,
    idle_connections_close_and_the_listener_too,
    a_reader_that_stopped_does_not_hold_the_end_up,
);

fn draining(driver: Driver, upstream: &Upstream, time: &str) -> Proxy {
    Setup::new(driver, upstream.url()).set("server.drain_timeout", time).start()
}

fn both_signals_end_an_idle_proxy(driver: Driver) {
    // Several times: the last line must be written whatever the writer is doing at that moment.
    for signal in [Signal::TERM, Signal::INT].repeat(8) {
        let (mut proxy, _upstream) = behind(driver);
        proxy.signal(signal);
        let stopped = proxy.wait_stopped();
        assert_eq!(stopped.code, Some(0));
        assert_eq!(stopped.only("proxy.stopped").count("payload.tunnels_closed"), 0);
        assert!(stopped.events.last().expect("events").is("proxy.stopped"));
    }
}

/// H1: N closes over T. The bounds are wide; what matters is that they are neither at once nor all at the end.
fn tunnels_are_closed_evenly_over_the_drain(driver: Driver) {
    const TUNNELS: usize = 16;
    const DRAIN: Duration = Duration::from_millis(1600);
    let upstream = Upstream::start();
    let mut proxy = draining(driver, &upstream, "1600ms");
    let mut tunnels: Vec<(Peer, Conn)> = (0..TUNNELS).map(|_| proxy.tunnel(&upstream)).collect();
    for (client, conn) in &mut tunnels {
        client.ping(conn, b"here");
    }
    let begun = Instant::now();
    proxy.signal(Signal::TERM);
    let ends: Vec<_> = tunnels
        .into_iter()
        .map(|(client, conn)| {
            std::thread::spawn(move || {
                let mut client = client;
                let end = client.expect_end();
                let at = begun.elapsed();
                conn.wait_end();
                (at, end)
            })
        })
        .collect();
    let mut times: Vec<Duration> = ends
        .into_iter()
        .map(|thread| {
            let (at, end) = thread.join().expect("a tunnel");
            assert_eq!(end, End::Eof, "the client sees an orderly end");
            at
        })
        .collect();
    times.sort();
    let stopped = proxy.wait_stopped();
    assert_eq!(stopped.code, Some(0));
    let closed = stopped.of_kind("websocket.closed");
    assert_eq!(closed.len(), TUNNELS);
    let drained = closed.iter().filter(|e| e.text("payload.reason") == "drained").count();
    assert!(drained >= TUNNELS - 1, "{closed:#?}");
    assert_eq!(stopped.only("proxy.stopped").count("payload.tunnels_closed"), TUNNELS as u64);
    let spread = times[TUNNELS - 1].saturating_sub(times[0]);
    assert!(spread > DRAIN / 2, "{times:?}");
    let within_half = times.iter().filter(|at| **at < DRAIN / 2).count();
    assert!((4..=12).contains(&within_half), "{times:?}");
}

fn no_drain_time_closes_at_once(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = draining(driver, &upstream, "0");
    let mut tunnels: Vec<(Peer, Conn)> = (0..5).map(|_| proxy.tunnel(&upstream)).collect();
    proxy.signal(Signal::TERM);
    for (client, conn) in &mut tunnels {
        client.expect_end();
        conn.wait_end();
    }
    let stopped = proxy.wait_stopped();
    assert_eq!(stopped.code, Some(0));
    let closed = stopped.of_kind("websocket.closed");
    assert_eq!(closed.len(), 5);
    for event in closed {
        assert_eq!(event.text("payload.reason"), "shutdown", "{}", event.line);
    }
    assert_eq!(stopped.only("proxy.stopped").count("payload.tunnels_closed"), 5);
}

/// H2.
fn a_second_signal_ends_it_at_once(driver: Driver) {
    for (first, second, code) in [
        (Signal::TERM, Signal::TERM, 143),
        (Signal::TERM, Signal::INT, 130),
        (Signal::INT, Signal::TERM, 143),
        (Signal::INT, Signal::INT, 130),
    ] {
        let upstream = Upstream::start();
        let mut proxy = draining(driver, &upstream, "600s");
        let (client, _conn) = proxy.tunnel(&upstream);
        proxy.signal(first);
        // The first signal was taken: nobody can connect any more.
        wait_refused(&proxy);
        proxy.signal(second);
        assert_eq!(proxy.process.wait_exit(), Some(code), "{first:?}, {second:?}");
        client.drain();
    }
}

#[track_caller]
fn wait_refused(proxy: &Proxy) {
    eventually("connections are refused", || {
        TcpStream::connect_timeout(&proxy.address(), Duration::from_secs(1)).is_err().then_some(())
    });
}

/// H3: connections that were accepted before are served, and told to go.
fn connections_already_there_are_served(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = draining(driver, &upstream, "5s");
    let (tunnel, _conn) = proxy.tunnel(&upstream);
    let request = wire("GET /_vibewarden/ready HTTP/1.1\r\n{H}\r\n");
    let mut ready = proxy.sent(&request[..20]);
    let request_health = wire("GET /_vibewarden/health HTTP/1.1\r\n{H}\r\n");
    let mut health = proxy.sent(&request_health[..20]);
    let mut upgrade = proxy.sent(&HANDSHAKE[..20]);
    for client in [&ready, &health, &upgrade] {
        proxy.wait_consumed(client);
    }
    proxy.signal(Signal::TERM);
    wait_refused(&proxy);
    ready.send(&request[20..]);
    let answer = ready.read_answer();
    assert_eq!(answer.head.status(), 503);
    assert_eq!(answer.head.one("connection"), Some("close"));
    let body = String::from_utf8(answer.body).expect("text");
    assert_eq!(body.trim_end(), r#"{"ready":false,"reason":"draining","upstream":"unknown"}"#);
    health.send(&request_health[20..]);
    let answer = health.read_answer();
    assert_eq!(answer.head.status(), 200);
    assert_eq!(answer.head.one("connection"), Some("close"));
    // A request that was begun before is still an upgrade.
    upgrade.send(&HANDSHAKE[20..]);
    let mut conn = upstream.accept();
    conn.read_head();
    conn.send(ANSWER_101);
    upgrade.open();
    drop((tunnel, upgrade, conn));
    let stopped = proxy.wait_stopped();
    assert_eq!(stopped.code, Some(0));
}

fn a_handshake_under_way_is_finished(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = draining(driver, &upstream, "1s");
    let mut client = proxy.sent(HANDSHAKE);
    let mut conn = upstream.accept();
    conn.read_head();
    let mut declined = proxy.sent(HANDSHAKE);
    let mut declining = upstream.accept();
    declining.read_head();
    proxy.signal(Signal::TERM);
    wait_refused(&proxy);
    declining.send(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno");
    let answer = declined.read_answer();
    assert_eq!(answer.head.status(), 403);
    assert_eq!(answer.head.one("connection"), Some("close"));
    conn.send(ANSWER_101);
    client.open();
    client.expect_end();
    let stopped = proxy.wait_stopped();
    assert_eq!(stopped.code, Some(0));
    assert_eq!(stopped.of_kind("request.proxied").len(), 2);
    let reason = stopped.only("websocket.closed").text("payload.reason").to_owned();
    assert!(["drained", "shutdown"].contains(&reason.as_str()), "{reason}");
}

/// 7.4: when the proxy itself ends a tunnel it sends what it has already read. What it has read shows in what comes out:
/// everything that arrives is a clean beginning of what was sent, and the byte counts of the event agree with it.
fn what_was_read_is_sent_before_the_end(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = draining(driver, &upstream, "300ms");
    let (mut client, far) = proxy.unrecorded_tunnel(&upstream);
    let mut writer = far.twin();
    let writing = std::thread::spawn(move || {
        let mut stream = Stream::new(seed());
        while writer.try_send(&stream.take(10_000)).is_ok() {}
    });
    client.read_exact(1 << 20);
    proxy.signal(Signal::TERM);
    let (rest, _) = client.read_to_end();
    writing.join().expect("writer");
    let mut expected = Stream::new(seed()).take((1 << 20) + rest.len());
    let tail = expected.split_off(1 << 20);
    assert!(rest == tail, "not a clean beginning (seed {})", seed());
    let stopped = proxy.wait_stopped();
    let closed = stopped.only("websocket.closed");
    assert_eq!(closed.count("payload.bytes_to_client"), ((1 << 20) + rest.len()) as u64);
}

fn idle_connections_close_and_the_listener_too(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = draining(driver, &upstream, "600s");
    let (tunnel, conn) = proxy.tunnel(&upstream);
    let mut idle = proxy.connect();
    idle.send(&wire("GET /_vibewarden/health HTTP/1.1\r\n{H}\r\n"));
    idle.read_kept_answer();
    proxy.signal(Signal::TERM);
    assert_eq!(idle.expect_end(), End::Eof);
    wait_refused(&proxy);
    assert!(proxy.process.has_exited().is_none(), "a tunnel is still open");
    // The last tunnel ends by itself: nothing is left to wait for.
    drop((tunnel, conn));
    let stopped = proxy.wait_stopped();
    assert_eq!(stopped.code, Some(0));
}

fn connections_that_said_nothing_hold_nothing_up(driver: Driver) {
    for key in ["websocket.close_on_expiry", "tls.enabled", "server.proxy_protocol"] {
        let upstream = Upstream::start();
        let mut proxy = Setup::new(driver, upstream.url())
            .set("server.drain_timeout", "600s")
            .set("server.read_timeout", "600s")
            .set("server.trusted_proxies", "[127.0.0.1]")
            .set(key, "true")
            .start();
        let mut silent = proxy.connect_bare();
        eventually("the kernel hands it over", || {
            // Then it has what the listener gives it.
            (is_kept_alive(proxy.address(), silent.local()) == Some(true)).then_some(())
        });
        // It keeps this one to itself.
        let _latest = proxy.connect_bare();
        proxy.signal(Signal::TERM);
        assert_eq!(silent.expect_end(), End::Eof, "{key}");
        assert_eq!(proxy.wait_stopped().code, Some(0), "{key}");
    }
}

fn tunnels_that_end_themselves_keep_their_reason(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = draining(driver, &upstream, "600s");
    let (mut client, mut conn) = proxy.tunnel(&upstream);
    proxy.signal(Signal::TERM);
    wait_refused(&proxy);
    client.ping(&mut conn, b"still carried while draining");
    client.fin();
    conn.expect_end();
    conn.fin();
    assert_eq!(client.expect_end(), End::Eof);
    let stopped = proxy.wait_stopped();
    assert_eq!(stopped.code, Some(0));
    let closed = stopped.only("websocket.closed");
    assert_eq!(closed.text("payload.reason"), "client_closed");
}

/// What is still open when the drain time is over is closed at once, whether its data was taken or not.
fn a_reader_that_stopped_does_not_hold_the_end_up(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = draining(driver, &upstream, "300ms");
    let (client, mut far) = proxy.unrecorded_tunnel(&upstream);
    let quiet = Duration::from_millis(200);
    let sent = far.send_until_blocked(quiet, 64 << 20, |count| vec![b's'; count]);
    assert!(sent.blocked);
    proxy.signal(Signal::TERM);
    let stopped = proxy.wait_stopped();
    assert_eq!(stopped.code, Some(0));
    let closed = stopped.only("websocket.closed");
    let reason = closed.text("payload.reason");
    assert!(["drained", "shutdown"].contains(&reason), "{}", closed.line);
    drop(client);
}

/// A file system that hangs: a FIFO whose writer says something and then nothing more.
fn a_file_that_cannot_be_read_does_not_hold_the_end_up(driver: Driver) {
    for by_signal in [true, false] {
        let upstream = Upstream::start();
        let mut proxy = Setup::new(driver, upstream.url())
            .set("server.drain_timeout", "0")
            .set("watch.enabled", if by_signal { "false" } else { "true" })
            .set("watch.debounce", "50ms")
            .start();
        let (mut client, mut conn) = proxy.tunnel(&upstream);
        let fifo = proxy.config_path().with_extension("fifo");
        mkfifoat(CWD, &fifo, Mode::RUSR | Mode::WUSR).expect("a FIFO");
        let mut writer = File::options().read(true).write(true).open(&fifo).expect("both ends");
        std::fs::rename(&fifo, proxy.config_path()).expect("rename");
        writer.write_all(b"# and then").expect("the beginning");
        if by_signal {
            proxy.signal(Signal::HUP);
        }
        eventually("the file is being read", || {
            (ioctl_fionread(&writer).expect("FIONREAD") == 0).then_some(())
        });
        client.ping(&mut conn, b"undisturbed");
        proxy.signal(Signal::TERM);
        let stopped = proxy.wait_stopped();
        assert_eq!(stopped.code, Some(0));
        assert_eq!(stopped.only("websocket.closed").text("payload.reason"), "shutdown");
    }
}
