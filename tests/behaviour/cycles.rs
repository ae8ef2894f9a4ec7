//! Tunnels opened, used and ended in every way, again and again: whatever they held is given back.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use crate::harness::payload::Stream;
use crate::harness::upstream::{answer_handshake, echo_until_end};
use crate::harness::{
    Driver, End, HANDSHAKE, Peer, Proxy, Setup, Upstream, eventually, vacant_address,
};

on_drivers!(
    every: ;
    both:
        two_thousand_tunnels_leave_nothing_behind,
        a_killed_upstream_ends_its_tunnels_and_may_come_back,
);

over_tls!(two_thousand_tunnels_leave_nothing_behind,);

/// Number of ways to end a tunnel.
const WAYS: usize = 8;

/// One tunnel to an echoing upstream, used and ended in one of the ways.
#[track_caller]
fn cycle(proxy: &Proxy, way: usize) {
    let mut client = proxy.sent(HANDSHAKE);
    client.open();
    let count = if way == 7 { 600_000 } else { 1 + way * 997 };
    let bytes = Stream::new(way as u64).take(count);
    let mut sender = client.twin();
    let sent = bytes.clone();
    let sending = std::thread::spawn(move || sender.send(&sent));
    let seen = client.read_exact(count);
    sending.join().expect("sender");
    assert!(seen == bytes, "way {way}");
    match way {
        // The client ends, the upstream ends after it.
        0 => {
            client.fin();
            assert_eq!(client.expect_end(), End::Eof);
        }
        // The upstream is asked to end first; the client follows.
        1 => {
            client.send(b"FIN!");
            assert_eq!(client.expect_end(), End::Eof);
            client.fin();
        }
        2 => client.reset(),
        3 => {
            client.send(b"RST!");
            assert_eq!(client.expect_end(), End::Reset);
        }
        // The client's end, then data from the upstream, then its end.
        4 => {
            client.fin();
            assert_eq!(client.expect_end(), End::Eof);
            client.reset();
        }
        // The upstream's end, then data from the client, then its end.
        5 => {
            client.send(b"FIN!");
            assert_eq!(client.expect_end(), End::Eof);
            client.send(&[0; 5000]);
            client.fin();
        }
        // Both at once.
        6 => {
            client.send(b"FIN!");
            client.fin();
            client.drain();
        }
        _ => drop(client),
    }
}

/// Echoes; `FIN!` makes it end first, `RST!` makes it reset.
fn play(mut peer: Peer) {
    if answer_handshake(&mut peer).is_none() {
        return;
    }
    let mut chunk = vec![0; 64 * 1024];
    loop {
        match std::io::Read::read(&mut &*peer.socket(), &mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(count) => match &chunk[..count] {
                b"RST!" => return peer.reset(),
                b"FIN!" => {
                    peer.fin();
                    peer.drain();
                    return;
                }
                bytes => {
                    if peer.try_send(bytes).is_err() {
                        return;
                    }
                }
            },
        }
    }
}

fn run_cycles(proxy: &Proxy, each: usize) {
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for number in 0..each {
                    cycle(proxy, (number + thread) % WAYS);
                }
            });
        }
    });
}

fn two_thousand_tunnels_leave_nothing_behind(driver: Driver) {
    let upstream = Upstream::start().serve(play);
    let mut proxy = Setup::new(driver, upstream.url()).set("log.access_log", "false").start();
    // What is made once per core, pipe pools included, is made in the first rounds.
    run_cycles(&proxy, 100);
    proxy.wait_metric("vibewarden_websocket_active", &[], 0.0);
    proxy.wait_metric("vibewarden_active_connections", &[], 1.0);
    let descriptors = proxy.process.descriptors();
    let resident = proxy.process.resident_bytes();
    run_cycles(&proxy, 500);
    proxy.wait_metric("vibewarden_websocket_active", &[], 0.0);
    proxy.wait_metric("vibewarden_active_connections", &[], 1.0);
    eventually("descriptors as before", || {
        (proxy.process.descriptors() <= descriptors).then_some(())
    });
    let grown = proxy.process.resident_bytes().saturating_sub(resident);
    assert!(grown < 3 << 20, "{grown} bytes kept by 2000 tunnels");
    let opened = [("result", "opened")];
    let scrape = proxy.scrape();
    let count = |value: f64| format!("{value:.0}");
    assert_eq!(count(scrape.value("vibewarden_websocket_upgrades_total", &opened)), "2400");
    assert_eq!(count(scrape.value("vibewarden_websocket_closed_total", &[])), "2400");
    let errors = [("reason", "connection_error")];
    assert_eq!(count(scrape.value("vibewarden_websocket_closed_total", &errors)), "0");
    drop(proxy.stop());
}

const CHILD_PORT: &str = "BEHAVIOUR_UPSTREAM_PORT";

/// Not a test of its own: the upstream process that the next test starts and kills, which is this binary again.
#[test]
fn the_upstream_process() {
    let Ok(port) = std::env::var(CHILD_PORT) else {
        return;
    };
    let port: u16 = port.parse().expect("a port");
    let upstream = Upstream::on(([127, 0, 0, 1], port).into());
    println!("\nlistening");
    std::io::stdout().flush().expect("stdout");
    let _serving = upstream.serve(|mut peer| {
        if answer_handshake(&mut peer).is_some() {
            echo_until_end(&mut peer);
        }
    });
    // Ends with its parent: the input closes.
    let _end = std::io::stdin().lines().next();
}

struct UpstreamProcess {
    child: Child,
}

impl UpstreamProcess {
    #[track_caller]
    fn start(port: u16) -> Self {
        let this_binary = std::env::current_exe().expect("this test binary");
        let mut child = Command::new(this_binary)
            .args(["--exact", "cycles::the_upstream_process", "--nocapture"])
            .env(CHILD_PORT, port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the upstream process");
        let listens = BufReader::new(child.stdout.take().expect("stdout"))
            .lines()
            .map_while(Result::ok)
            .any(|line| line == "listening");
        assert!(listens, "the upstream process ended");
        Self { child }
    }

    fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }
}

/// H11, C21.
fn a_killed_upstream_ends_its_tunnels_and_may_come_back(driver: Driver) {
    let port = vacant_address().port();
    let upstream = UpstreamProcess::start(port);
    let mut proxy = Setup::new(driver, format!("http://127.0.0.1:{port}")).start();
    let mut clients: Vec<Peer> = (0..100)
        .map(|_| {
            let mut client = proxy.sent(HANDSHAKE);
            client.open();
            client.send(b"alive");
            client.expect(b"alive");
            client
        })
        .collect();
    upstream.kill();
    for client in &mut clients {
        let (bytes, _) = client.read_to_end();
        assert!(bytes.is_empty());
    }
    drop(clients);
    proxy.wait_metric("vibewarden_websocket_active", &[], 0.0);
    assert_eq!(proxy.answer_to(HANDSHAKE).head.status(), 502);
    let upstream = UpstreamProcess::start(port);
    let mut client = proxy.sent(HANDSHAKE);
    client.open();
    client.send(b"back again");
    client.expect(b"back again");
    upstream.kill();
    client.drain();
    let stopped = proxy.stop();
    let closed = stopped.of_kind("websocket.closed");
    assert_eq!(closed.len(), 101);
    for event in closed {
        let reason = event.text("payload.reason");
        let fine = ["upstream_closed", "upstream_reset"].contains(&reason);
        assert!(fine, "{}", event.line);
    }
}
