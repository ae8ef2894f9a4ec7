//! Section 11: what is written, when, and that writing never stands in the way of a request.

use crate::harness::event::Event;
use crate::harness::proxy::Stopped;
use crate::harness::{
    ANSWER_101, Driver, HANDSHAKE, OUTDATED, Setup, Upstream, behind, eventually, wire,
};

on_drivers!(
    every:
        a_start_and_a_stop_are_told,
        a_tunnel_is_two_lines_of_one_request,
        close_reasons_name_who_ended;
    both:
        a_client_that_leaves_early_is_no_event,
        the_access_log_can_be_switched_off,
        hostile_values_stay_inside_their_strings,
        lines_are_never_mixed_under_load,
        a_closed_output_stops_nothing,
        a_stalled_output_blocks_nobody,
);

fn a_start_and_a_stop_are_told(driver: Driver) {
    let (mut proxy, upstream) = behind(driver);
    let address = proxy.address().to_string();
    let stopped = proxy.stop();
    assert_eq!(stopped.events.len(), 2, "{:#?}", stopped.events);
    let started = &stopped.events[0];
    assert!(started.is("proxy.started"));
    let name = if driver == Driver::IoUring { "io_uring" } else { "epoll" };
    assert_eq!(started.text("payload.driver"), name);
    assert!(!started.text("payload.driver_reason").is_empty());
    assert_eq!(started.text("payload.listen"), address);
    assert_eq!(started.text("payload.version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(started.count("payload.workers"), 2);
    let told = started.text("payload.upstream");
    assert!(told.contains(&upstream.port().to_string()), "{told}");
    for key in ["payload.tls_enabled", "payload.security_headers_enabled"] {
        assert_eq!(started.json.at(key), Some(&crate::harness::json::Json::Bool(false)));
    }
    let last = &stopped.events[1];
    assert!(last.is("proxy.stopped"));
    assert_eq!(last.count("payload.tunnels_closed"), 0);
    assert!(!last.text("payload.reason").is_empty());
    assert!(last.json.number("payload.uptime_seconds").is_some());
}

/// Seed 24, 25.
fn a_tunnel_is_two_lines_of_one_request(driver: Driver) {
    let (mut proxy, upstream) = behind(driver);
    let request = wire("GET /room/7?token=canary HTTP/1.1\r\n{H}{U}{K}X-Request-ID: once\r\n\r\n");
    let mut client = proxy.sent(&request);
    let mut conn = upstream.accept();
    conn.read_head();
    assert_eq!(proxy.event_count(), 1, "nothing is written before the 101");
    conn.send(ANSWER_101);
    client.open();
    let opened = proxy.wait_event("request.proxied", |event| event.is("request.proxied"));
    assert_eq!(opened.request_id(), "once");
    assert_eq!(opened.text("payload.path"), "/room/7");
    assert_eq!(opened.text("payload.method"), "GET");
    assert_eq!(opened.text("payload.client_ip"), "127.0.0.1");
    assert_eq!(opened.count("payload.status_code"), 101);
    assert_eq!(opened.json.at("payload.websocket"), Some(&crate::harness::json::Json::Bool(true)));
    assert!(opened.count("payload.bytes_in") > 0);
    assert!(opened.count("payload.bytes_out") > 0);
    for _ in 0..500 {
        client.ping(&mut conn, b"frame");
    }
    assert_eq!(proxy.event_count(), 2, "frames produce no events");
    client.send(b"12345");
    client.fin();
    conn.fin();
    let closed = proxy.wait_closed("once");
    assert_eq!(closed.count("payload.bytes_to_upstream"), 2505);
    assert_eq!(closed.count("payload.bytes_to_client"), 2500);
    for member in ["actor", "resource", "outcome"] {
        assert_eq!(closed.json.at(member), opened.json.at(member), "{member}");
    }
    let stopped = proxy.stop();
    assert_eq!(stopped.events.len(), 4);
    let everything = stopped.events.iter().map(|event| event.line.as_str());
    assert!(!everything.collect::<String>().contains("canary"), "a query in an event");
}

/// 7.4.
fn close_reasons_name_who_ended(driver: Driver) {
    let (mut proxy, upstream) = behind(driver);
    let mut expected = Vec::new();
    for round in 0..6 {
        let (mut client, mut conn) = proxy.tunnel(&upstream);
        client.ping(&mut conn, b"ping");
        let reason = match round {
            0 => {
                client.fin();
                conn.expect_end();
                conn.fin();
                "client_closed"
            }
            1 => {
                conn.fin();
                client.expect_end();
                client.fin();
                "upstream_closed"
            }
            2 => {
                client.reset();
                "client_reset"
            }
            3 => {
                conn.reset();
                "upstream_reset"
            }
            4 => {
                // Named after the side that ended first, though the other one closes for good first.
                client.fin();
                conn.expect_end();
                drop(conn);
                "client_closed"
            }
            _ => {
                drop(client);
                conn.expect_end();
                drop(conn);
                "client_closed"
            }
        };
        expected.push(reason);
        let seen = eventually("websocket.closed", || {
            let events = proxy.events();
            let closed: Vec<&Event> = events.iter().filter(|e| e.is("websocket.closed")).collect();
            (closed.len() == expected.len())
                .then(|| closed[round].text("payload.reason").to_owned())
        });
        assert_eq!(seen, reason, "round {round}");
    }
    for (reason, count) in [
        ("client_closed", 3.0),
        ("upstream_closed", 1.0),
        ("client_reset", 1.0),
        ("upstream_reset", 1.0),
    ] {
        let labels = [("reason", reason)];
        proxy.wait_metric("vibewarden_websocket_closed_total", &labels, count);
    }
    drop(proxy.stop());
}

/// "none for clients that leave before an answer" (11.2), C30.
fn a_client_that_leaves_early_is_no_event(driver: Driver) {
    let (mut proxy, upstream) = behind(driver);
    for reset in [false, true] {
        let client = proxy.sent(HANDSHAKE);
        let mut conn = upstream.accept();
        conn.read_head();
        if reset {
            client.reset();
        } else {
            drop(client);
        }
        conn.wait_end();
    }
    // Half-closed counts as left: the upgrade cannot go on without its client.
    let mut client = proxy.sent(HANDSHAKE);
    let mut conn = upstream.accept();
    conn.read_head();
    client.fin();
    conn.wait_end();
    let labels = [("result", "abandoned")];
    proxy.wait_metric("vibewarden_websocket_upgrades_total", &labels, 3.0);
    proxy.sent(&HANDSHAKE[..40]).reset();
    proxy.connect().reset();
    let stopped = proxy.stop();
    assert_eq!(stopped.events.len(), 2, "{:#?}", stopped.events);
    upstream.assert_untouched();
}

fn the_access_log_can_be_switched_off(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = Setup::new(driver, upstream.url()).set("log.access_log", "false").start();
    let (mut client, mut conn) = proxy.tunnel(&upstream);
    client.ping(&mut conn, b"x");
    drop((client, conn));
    proxy.wait_metric("vibewarden_websocket_active", &[], 0.0);
    proxy.answer_to(OUTDATED);
    let mut client = proxy.sent(HANDSHAKE);
    drop(upstream.accept());
    assert_eq!(client.read_answer().head.status(), 502);
    let stopped = proxy.stop();
    let kinds: Vec<&str> = stopped.events.iter().map(Event::kind).collect();
    assert_eq!(
        kinds,
        ["proxy.started", "request.blocked", "upstream.unavailable", "proxy.stopped"]
    );
}

/// G14: no raw CR, LF, ESC or quote gets out of its string.
fn hostile_values_stay_inside_their_strings(driver: Driver) {
    let (mut proxy, upstream) = behind(driver);
    let path = "/a\"b'<c>{d}`|^%20%e2%82%ac";
    let id = "i\"}\\u000a\\n{'<x>";
    let request = wire(format!(
        "GET {path}?\"q HTTP/1.1\r\nHost: t.test\r\n{{U}}{{K}}X-Request-ID: {id}\r\nUser-Agent: \x22}}\r\n\r\n"
    ));
    let mut client = proxy.sent(&request);
    let mut conn = upstream.accept();
    conn.read_head();
    conn.send(ANSWER_101);
    client.open();
    drop((client, conn));
    let stopped = proxy.stop();
    let opened = stopped.only("request.proxied");
    assert_eq!(opened.request_id(), id);
    assert_eq!(stopped.only("websocket.closed").request_id(), id);
    // The path as it was sent, or decoded once; never more of the target.
    let seen = opened.text("payload.path");
    assert!([path, "/a\"b'<c>{d}`|^ \u{20ac}"].contains(&seen), "{}", opened.line);
    for event in &stopped.events {
        assert!(event.line.bytes().all(|byte| byte >= b' '), "{}", event.line);
    }
}

fn lines_are_never_mixed_under_load(driver: Driver) {
    const THREADS: usize = 8;
    const EACH: usize = 100;
    let upstream = Upstream::start().echo();
    let mut proxy = Setup::new(driver, upstream.url()).start();
    let stopped: Stopped = {
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let proxy = &proxy;
                scope.spawn(move || {
                    for number in 0..EACH {
                        let long = "p".repeat(300 + number);
                        let mut client = proxy.sent(&wire(format!(
                            "GET /{long} HTTP/1.1\r\n{{H}}{{U}}{{K}}X-Request-ID: t{thread}-{number}\r\n\r\n"
                        )));
                        client.open();
                        client.send(b"x");
                        client.expect(b"x");
                        client.fin();
                        client.drain();
                    }
                });
            }
        });
        proxy.stop()
    };
    for thread in 0..THREADS {
        for number in 0..EACH {
            let id = format!("t{thread}-{number}");
            let kinds: Vec<&str> = stopped
                .events
                .iter()
                .filter(|event| event.request_id() == id)
                .map(Event::kind)
                .collect();
            assert_eq!(kinds, ["request.proxied", "websocket.closed"], "{id}");
        }
    }
    assert_eq!(stopped.events.len(), 2 + 2 * THREADS * EACH);
}

/// G14: the log pipe is closed.
fn a_closed_output_stops_nothing(driver: Driver) {
    let (mut proxy, upstream) = behind(driver);
    proxy.process.out.hang_up();
    let drops = [("reason", "write_error")];
    eventually("dropped lines are counted", || {
        let (mut client, mut conn) = proxy.tunnel(&upstream);
        client.ping(&mut conn, b"x");
        let dropped = proxy.scrape().value("vibewarden_event_log_drops_total", &drops);
        (dropped > 0.5).then_some(())
    });
    let (mut client, mut conn) = proxy.tunnel(&upstream);
    client.ping(&mut conn, b"still served");
    drop((client, conn));
    proxy.signal(rustix::process::Signal::TERM);
    assert_eq!(proxy.process.wait_exit(), Some(0));
}

/// 11: the writer is a bounded queue that never blocks a request.
fn a_stalled_output_blocks_nobody(driver: Driver) {
    let (proxy, _upstream) = behind(driver);
    proxy.process.out.stall();
    let drops = [("reason", "queue_full")];
    let refused = wire(format!("POST /{} HTTP/1.1\r\n{{H}}{{U}}{{K}}\r\n", "p".repeat(8000)));
    for _ in 0..200 {
        for _ in 0..200 {
            assert_eq!(proxy.answer_to(&refused).head.status(), 400);
        }
        if proxy.scrape().value("vibewarden_event_log_drops_total", &drops) > 0.5 {
            proxy.process.out.hang_up();
            return;
        }
    }
    panic!("40 000 lines of 8 kB were queued");
}
