//! Limits on connections and descriptors: what is over them is turned away, what is under them goes on.

use crate::harness::{Driver, End, HANDSHAKE, Peer, Setup, Upstream, eventually};

on_drivers!(
    every: ;
    both:
        connections_over_the_cap_are_closed_at_once,
        a_tunnel_keeps_its_place_until_it_ends,
        running_out_of_descriptors_is_no_end,
        the_cap_follows_the_descriptor_limit,
);

fn connections_over_the_cap_are_closed_at_once(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = Setup::new(driver, upstream.url())
        .set("server.max_connections", "5")
        .set("server.read_timeout", "60s")
        .start();
    let mut tunnels: Vec<_> = (0..3).map(|_| proxy.tunnel(&upstream)).collect();
    let mut waiting: Vec<Peer> = (0..2)
        .map(|_| {
            let client = proxy.sent(&HANDSHAKE[..30]);
            proxy.wait_consumed(&client);
            client
        })
        .collect();
    for _ in 0..10 {
        // Closed without a byte, whatever it says.
        let mut over = proxy.connect();
        let _may_be_gone = over.try_send(HANDSHAKE);
        over.expect_end();
    }
    for (client, conn) in &mut tunnels {
        client.ping(conn, b"untouched");
    }
    // A place comes free, and only then.
    drop(waiting.pop());
    let mut client = eventually("the free place", || {
        let mut client = proxy.connect();
        client.try_send(HANDSHAKE).ok()?;
        (!ends_at_once(&mut client)).then_some(client)
    });
    let mut conn = upstream.accept();
    conn.read_head();
    conn.send(crate::harness::ANSWER_101);
    client.open();
    drop((client, conn, tunnels, waiting));
    let over = [("result", "over_limit")];
    let refused = eventually("room for a scrape", || {
        let mut probe = proxy.connect();
        let request = b"GET /_vibewarden/metrics HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
        probe.try_send(request).ok()?;
        (!ends_at_once(&mut probe))
            .then(|| proxy.scrape().value("vibewarden_connections_total", &over))
    });
    assert!(refused > 9.5, "{refused}");
    let stopped = proxy.stop();
    upstream.assert_untouched();
    let warnings: Vec<&str> = stopped
        .log
        .lines()
        .filter(|line| line.contains("connection refused: max_connections reached"))
        .collect();
    assert_eq!(warnings.len(), 1, "at most one in 30 s: {}", stopped.log);
    assert!(warnings[0].contains("max_connections") && warnings[0].contains("refused_total"));
}

/// Waits for the first thing to come: an end (true) or a byte that it can be read (false).
fn ends_at_once(client: &mut Peer) -> bool {
    ends_within(client, std::time::Duration::from_millis(200))
}

fn ends_within(client: &mut Peer, time: std::time::Duration) -> bool {
    client.socket().set_read_timeout(Some(time)).expect("SO_RCVTIMEO");
    let mut byte = [std::mem::MaybeUninit::uninit()];
    let seen = client.socket().peek(&mut byte);
    client.socket().set_read_timeout(Some(crate::harness::PATIENCE)).expect("SO_RCVTIMEO");
    match seen {
        Ok(count) => count == 0,
        Err(error) => End::of(&error).is_some(),
    }
}

/// 3.1: a tunnel keeps its place until it ends, however it ends.
fn a_tunnel_keeps_its_place_until_it_ends(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = Setup::new(driver, upstream.url()).set("server.max_connections", "1").start();
    for round in 0..6 {
        let (mut client, mut conn) = eventually("the only place", || {
            let mut client = proxy.connect();
            client.try_send(HANDSHAKE).ok()?;
            if ends_at_once(&mut client) {
                return None;
            }
            let mut conn = upstream.accept();
            conn.read_head();
            conn.send(crate::harness::ANSWER_101);
            client.open();
            Some((client, conn))
        });
        proxy.sent(b"G").expect_end();
        client.ping(&mut conn, b"alone");
        match round % 3 {
            0 => {
                // A half-closed tunnel is a tunnel.
                client.fin();
                conn.expect_end();
                proxy.sent(b"G").expect_end();
                conn.fin();
            }
            1 => client.reset(),
            _ => conn.reset(),
        }
    }
}

/// G6: accept pauses and resumes; no exit, no busy loop, tunnels go on.
fn running_out_of_descriptors_is_no_end(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = Setup::new(driver, upstream.url())
        .set("server.max_connections", "1000")
        .set("server.read_timeout", "60s")
        .set("resilience.timeout", "60s")
        .descriptors_max(96)
        .start();
    let mut tunnels = vec![proxy.tunnel(&upstream), proxy.tunnel(&upstream)];
    let mut held: Vec<Peer> = Vec::new();
    eventually("descriptors run out", || {
        held.push(proxy.sent(b"G"));
        (proxy.process.descriptors() >= 90 || held.len() > 200).then_some(())
    });
    assert!(proxy.process.descriptors() >= 90, "{}", proxy.process.descriptors());
    // More than can be accepted: they wait in the kernel's queue.
    held.extend((0..50).map(|_| proxy.sent(b"G")));
    let cpu = proxy.process.cpu_ms();
    let begun = std::time::Instant::now();
    for _ in 0..300 {
        for (client, conn) in &mut tunnels {
            client.ping(conn, b"undisturbed");
        }
    }
    let quiet = std::time::Duration::from_millis(700);
    let mut silent = proxy.connect();
    silent.socket().set_read_timeout(Some(quiet)).expect("SO_RCVTIMEO");
    let mut byte = [std::mem::MaybeUninit::uninit()];
    let _nothing_comes = silent.socket().peek(&mut byte);
    silent.socket().set_read_timeout(Some(crate::harness::PATIENCE)).expect("SO_RCVTIMEO");
    let busy = proxy.process.cpu_ms() - cpu;
    let wall = u64::try_from(begun.elapsed().as_millis()).expect("short");
    assert!(busy < wall / 2, "{busy} ms of CPU in {wall} ms of waiting");
    let told = proxy.process.err.all();
    let told = told.iter().filter(|line| line.contains("cannot be accepted")).count();
    assert!((1..=2).contains(&told), "one warning per worker at most, not {told}");
    // Places come free: whoever waited is served.
    held.clear();
    silent.send(b"GET /_vibewarden/health HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
    assert_eq!(silent.read_answer().head.status(), 200);
    let (mut client, mut conn) = proxy.tunnel(&upstream);
    client.ping(&mut conn, b"as before");
    for (client, conn) in &mut tunnels {
        client.ping(conn, b"as before");
    }
}

/// 3.1: (L − 256) / 2, at least 16; shown in `check`.
fn the_cap_follows_the_descriptor_limit(driver: Driver) {
    let upstream = Upstream::start();
    for (descriptors, cap) in [(64, 16), (300, 22), (1256, 500)] {
        let setup = Setup::new(driver, upstream.url()).descriptors_max(descriptors);
        let directory = crate::harness::setup::Scratch::new();
        let path = directory.path().join("v.yaml");
        std::fs::write(&path, setup.yaml()).expect("write");
        let mut check = setup.spawn(&["check", "--config", &path.display().to_string()]);
        assert_eq!(check.wait_exit(), Some(0));
        let shown = check.out.text();
        let line = shown.lines().find(|line| line.contains("max_connections"));
        let line = line.unwrap_or_else(|| panic!("no max_connections in {shown}"));
        assert!(line.contains(&cap.to_string()), "L = {descriptors}: {line}");
        if cap == 22 {
            let mut proxy = setup.start();
            let mut clients: Vec<Peer> = (0..40).map(|_| proxy.connect()).collect();
            // A client has its place as soon as it says something.
            for client in &mut clients {
                client.send(b"G");
            }
            let moment = std::time::Duration::from_millis(5);
            let mut ended =
                || clients.iter_mut().map(|client| usize::from(ends_within(client, moment))).sum();
            eventually("the others are turned away", || {
                let ended: usize = ended();
                (ended >= 40 - 22).then_some(())
            });
            let ended: usize = ended();
            assert_eq!(ended, 40 - 22);
            drop(clients);
            drop(proxy.stop());
        }
    }
}
