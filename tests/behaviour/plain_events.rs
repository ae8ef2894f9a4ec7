//! Sections 11 and 12 for plain requests: one line each, with the right numbers, and the counters beside it.

use crate::harness::event::Event;
use crate::harness::json::Json;
use crate::harness::{
    ANSWER_KEPT, Driver, Setup, Upstream, behind, behind_one_worker, eventually, forwarded, wire,
};

on_drivers!(
    every:
        a_plain_request_is_one_line;
    both:
        bytes_are_counted_both_ways,
        each_end_of_a_request_has_its_line,
        an_answer_that_is_cut_is_told,
        the_access_log_of_plain_requests_can_be_switched_off,
        hostile_plain_requests_stay_inside_their_strings,
        plain_requests_are_counted,
        failures_of_plain_requests_are_counted,
        heads_just_below_the_limit_cost_what_they_say,
);

#[track_caller]
fn assert_plain(event: &Event, method: &str, path: &str, status: u64) {
    assert!(event.is("request.proxied"), "{}", event.line);
    assert_eq!(event.json.at("payload.websocket"), Some(&Json::Bool(false)), "{}", event.line);
    assert_eq!(event.text("payload.method"), method, "{}", event.line);
    assert_eq!(event.text("payload.path"), path, "{}", event.line);
    assert_eq!(event.count("payload.status_code"), status, "{}", event.line);
    let duration = event.json.number("payload.duration_ms");
    assert!(duration.is_some_and(|ms| (0.0..60_000.0).contains(&ms)), "{}", event.line);
}

/// Nothing is written before the answer is complete; then everything.
fn a_plain_request_is_one_line(driver: Driver) {
    let (mut proxy, upstream) = behind_one_worker(driver);
    let mut client = proxy.sent(&wire(
        "POST /room/7?token=canary HTTP/1.1\r\n{H}X-Request-ID: once\r\nCookie: sid=canary\r\nAuthorization: Bearer canary\r\nContent-Length: 5\r\n\r\nhello",
    ));
    let mut conn = upstream.accept();
    conn.read_request();
    conn.send(b"HTTP/1.1 201 Created\r\nContent-Length: 10\r\n\r\nhello");
    client.read_head();
    client.expect(b"hello");
    assert_eq!(proxy.event_count(), 1, "nothing is written before the end");
    conn.send(b"world");
    client.expect(b"world");
    let event = proxy.wait_event("request.proxied", |event| event.is("request.proxied"));
    assert_plain(&event, "POST", "/room/7", 201);
    assert_eq!(event.request_id(), "once");
    assert_eq!(event.text("payload.client_ip"), "127.0.0.1");
    assert!(event.text("payload.upstream").contains(&upstream.port().to_string()));
    // The next one on the same connection is the next line.
    client.send(&wire("DELETE /room/8 HTTP/1.1\r\n{H}\r\n"));
    conn.read_request();
    conn.send(b"HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(client.read_head().status(), 204);
    drop(client);
    let stopped = proxy.stop();
    let proxied = stopped.of_kind("request.proxied");
    assert_eq!(proxied.len(), 2);
    assert_plain(proxied[1], "DELETE", "/room/8", 204);
    assert_ne!(proxied[1].request_id(), "once");
    assert_eq!(stopped.events.len(), 4, "{:#?}", stopped.events);
    assert!(!stopped.events.iter().any(|event| event.line.contains("canary")));
}

/// The body at least; the head and the framing may be counted with it.
fn bytes_are_counted_both_ways(driver: Driver) {
    let application = Upstream::start().answer(|request, peer| {
        let bytes = request.target().trim_start_matches('/').parse().unwrap_or(0);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n");
        let _may_be_gone = peer.try_send(&[head.into_bytes(), vec![b'b'; bytes]].concat());
        crate::harness::After::Keep
    });
    let mut proxy = Setup::new(driver, application.url()).start();
    let cases = [(0_usize, 0_usize), (5, 0), (0, 5), (70_000, 3), (3, 200_000)];
    for (to_upstream, to_client) in cases {
        let head = format!(
            "POST /{to_client} HTTP/1.1\r\n{{H}}X-Request-ID: {to_upstream}-{to_client}\r\nContent-Length: {to_upstream}\r\n\r\n"
        );
        let mut client = proxy.sent(&[wire(head), vec![b'a'; to_upstream]].concat());
        assert_eq!(client.read_response().body.len(), to_client);
    }
    let stopped = proxy.stop();
    for (to_upstream, to_client) in cases {
        let id = format!("{to_upstream}-{to_client}");
        let event = stopped.events.iter().find(|event| event.request_id() == id).expect("a line");
        for (counted, body) in [
            (event.count("payload.bytes_in"), to_upstream),
            (event.count("payload.bytes_out"), to_client),
        ] {
            let body = u64::try_from(body).expect("small");
            assert!((body..body + 1000).contains(&counted), "{}", event.line);
        }
    }
}

/// One line of the first group each, and none for who left.
fn each_end_of_a_request_has_its_line(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = Setup::new(driver, upstream.url())
        .set("server.workers", "1")
        .set("body_size.max", "10B")
        .set("resilience.timeout", "300ms")
        .start();
    let named = |method: &str, path: &str, rest: &str| {
        wire(format!(
            "{method} {path} HTTP/1.1\r\n{{H}}Connection: close\r\nX-Request-ID: id{}\r\n{rest}",
            path.replace('/', "-")
        ))
    };
    forwarded(&proxy, &upstream, &named("GET", "/fine", "\r\n"));
    proxy.answer_to(&named("POST", "/large", "Content-Length: 11\r\n\r\n"));
    proxy.answer_to(&named("TRACE", "/trace", "\r\n"));
    proxy.answer_to(&named("POST", "/expect", "Expect: x\r\nContent-Length: 1\r\n\r\n"));
    let mut client = proxy.sent(&named("GET", "/silent", "\r\n"));
    let mut conn = upstream.accept();
    conn.read_request();
    assert_eq!(client.read_answer().head.status(), 504);
    let mut client = proxy.sent(&named("GET", "/garbage", "\r\n"));
    let mut conn = upstream.accept();
    conn.read_request();
    conn.send(b"BLAH\r\n\r\n");
    assert_eq!(client.read_answer().head.status(), 502);
    let mut client = proxy.sent(&named("POST", "/gone", "\r\n"));
    let mut conn = upstream.accept();
    conn.read_request();
    drop(conn);
    assert_eq!(client.read_answer().head.status(), 502);
    let stopped = proxy.stop();
    let told: Vec<(&str, &str)> = stopped
        .events
        .iter()
        .filter(|event| event.ends_a_request())
        .map(|event| (event.kind(), event.text("payload.path")))
        .collect();
    assert_eq!(
        told,
        [
            ("request.proxied", "/fine"),
            ("request.blocked", "/large"),
            ("request.blocked", "/trace"),
            ("request.blocked", "/expect"),
            ("upstream.timeout", "/silent"),
            ("upstream.unavailable", "/garbage"),
            ("upstream.unavailable", "/gone"),
        ]
    );
    for event in stopped.events.iter().filter(|event| event.ends_a_request()) {
        let path = event.text("payload.path").replace('/', "-");
        assert_eq!(event.request_id(), format!("id{path}"), "{}", event.line);
    }
    let (mut proxy, upstream) = behind(driver);
    for reset in [false, true] {
        let client = proxy.sent(&wire("GET /left HTTP/1.1\r\n{H}\r\n"));
        let mut conn = upstream.accept();
        conn.read_request();
        if reset {
            client.reset();
        } else {
            drop(client);
        }
        conn.wait_end();
    }
    let stopped = proxy.stop();
    assert_eq!(stopped.events.len(), 2, "{:#?}", stopped.events);
}

/// "when the answer is complete or cut off".
fn an_answer_that_is_cut_is_told(driver: Driver) {
    let (mut proxy, upstream) = behind(driver);
    for by_client in [false, true] {
        let mut client = proxy.sent(&wire("GET /cut HTTP/1.1\r\n{H}\r\n"));
        let mut conn = upstream.accept();
        conn.read_request();
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhello");
        client.read_head();
        client.expect(b"hello");
        if by_client {
            client.reset();
            conn.wait_end();
        } else {
            conn.fin();
            client.expect_end();
        }
    }
    eventually("both lines", || (proxy.event_count() == 3).then_some(()));
    let stopped = proxy.stop();
    for event in stopped.of_kind("request.proxied") {
        assert_plain(event, "GET", "/cut", 200);
        assert!(event.count("payload.bytes_out") < 1000, "{}", event.line);
    }
    assert_eq!(stopped.events.len(), 4);
}

fn the_access_log_of_plain_requests_can_be_switched_off(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = Setup::new(driver, upstream.url()).set("log.access_log", "false").start();
    forwarded(&proxy, &upstream, &wire("GET /e HTTP/1.1\r\n{H}\r\n"));
    proxy.answer_to(&wire("GET /%00 HTTP/1.1\r\n{H}\r\n"));
    let mut client = proxy.sent(&wire("GET /e HTTP/1.1\r\n{H}Connection: close\r\n\r\n"));
    let mut conn = upstream.accept();
    conn.read_request();
    drop(conn);
    client.read_answer();
    let stopped = proxy.stop();
    let kinds: Vec<&str> = stopped.events.iter().map(Event::kind).collect();
    assert_eq!(
        kinds,
        ["proxy.started", "request.blocked", "upstream.unavailable", "proxy.stopped"]
    );
}

/// G14: no raw control byte or quote gets out of its string, from the request or from the answer.
fn hostile_plain_requests_stay_inside_their_strings(driver: Driver) {
    let (mut proxy, upstream) = behind(driver);
    let path = "/a\"b'<c>{d}`|^%20%e2%82%ac";
    let id = "i\"}\\u000a\\n{'<x>";
    let method = "X!#$%&'*+-.^_`|~";
    let mut client = proxy.sent(&wire(format!(
        "{method} {path}?\"q HTTP/1.1\r\n{{H}}X-Request-ID: {id}\r\nUser-Agent: \x22}}\r\nConnection: close\r\n\r\n"
    )));
    let mut conn = upstream.accept();
    conn.read_request();
    conn.send(b"HTTP/1.1 200 \"}{\r\nX: \"}\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    assert_eq!(client.read_response().body, b"ok");
    let stopped = proxy.stop();
    let event = stopped.only("request.proxied");
    assert_eq!(event.request_id(), id);
    assert_eq!(event.text("payload.method"), method);
    let seen = event.text("payload.path");
    assert!([path, "/a\"b'<c>{d}`|^ \u{20ac}"].contains(&seen), "{}", event.line);
    for event in &stopped.events {
        assert!(event.line.bytes().all(|byte| byte >= b' '), "{}", event.line);
    }
}

fn plain_requests_are_counted(driver: Driver) {
    let application = Upstream::start().answer(|request, peer| {
        let status = request.target().rsplit('/').next().unwrap_or("200");
        let body = if status == "204" || request.method() == "HEAD" {
            ""
        } else {
            "Content-Length: 0\r\n"
        };
        let _may_be_gone = peer.try_send(format!("HTTP/1.1 {status} X\r\n{body}\r\n").as_bytes());
        crate::harness::After::Keep
    });
    let proxy = Setup::new(driver, application.url())
        .set("telemetry.path_patterns", "[\"/users/:id\", \"/users/:id/:status\"]")
        .start();
    for (count, method, path) in [
        (3, "GET", "/users/200"),
        (2, "POST", "/users/7/201"),
        (1, "DELETE", "/other/204"),
        (1, "FOO", "/users/404"),
        (2, "HEAD", "/users/200"),
        (1, "get", "/users/7/500"),
    ] {
        for _ in 0..count {
            let mut client = proxy.sent(&wire(format!("{method} {path} HTTP/1.1\r\n{{H}}\r\n")));
            client.read_head();
        }
    }
    for (value, method, status, pattern) in [
        (3.0, "GET", "200", "/users/:id"),
        (2.0, "POST", "201", "/users/:id/:status"),
        (1.0, "DELETE", "204", "other"),
        (1.0, "other", "404", "/users/:id"),
        (2.0, "HEAD", "200", "/users/:id"),
        (1.0, "other", "500", "/users/:id/:status"),
    ] {
        let labels = [("method", method), ("status_code", status), ("path_pattern", pattern)];
        proxy.wait_metric("vibewarden_requests_total", &labels, value);
    }
    let labels = [("method", "GET"), ("path_pattern", "/users/:id")];
    proxy.wait_metric("vibewarden_request_duration_seconds_count", &labels, 3.0);
    // Scraping is no request of anybody's.
    assert_eq!(format!("{:.0}", proxy.scrape().value("vibewarden_requests_total", &[])), "10");
    let bytes = proxy.scrape().value("vibewarden_websocket_bytes_total", &[]);
    assert_eq!(format!("{bytes:.0}"), "0", "no WebSocket was opened");
    let upgrades = proxy.scrape().value("vibewarden_websocket_upgrades_total", &[]);
    assert_eq!(format!("{upgrades:.0}"), "0", "no upgrade was asked for");
}

fn failures_of_plain_requests_are_counted(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = Setup::new(driver, upstream.url())
        .set("body_size.max", "10B")
        .set("resilience.timeout", "300ms")
        .start();
    proxy.answer_to(&wire("POST /e HTTP/1.1\r\n{H}Content-Length: 11\r\n\r\n"));
    proxy.answer_to(&wire("GET /%00 HTTP/1.1\r\n{H}\r\n"));
    for answer in ["", "BLAH\r\n\r\n", "HTTP/1.1 200"] {
        let mut client = proxy.sent(&wire("GET /e HTTP/1.1\r\n{H}Connection: close\r\n\r\n"));
        let mut conn = upstream.accept();
        conn.read_request();
        conn.send(answer.as_bytes());
        conn.fin();
        client.read_answer();
    }
    let mut client = proxy.sent(&wire("GET /e HTTP/1.1\r\n{H}Connection: close\r\n\r\n"));
    let mut conn = upstream.accept();
    conn.read_request();
    client.read_answer();
    for (name, labels, value) in [
        ("vibewarden_refusals_total", &[("reason", "payload_too_large")][..], 1.0),
        ("vibewarden_refusals_total", &[("reason", "bad_request")], 1.0),
        ("vibewarden_refusals_total", &[("reason", "upstream_unavailable")], 2.0),
        ("vibewarden_refusals_total", &[("reason", "upstream_invalid_response")], 1.0),
        ("vibewarden_refusals_total", &[("reason", "upstream_timeout")], 1.0),
        ("vibewarden_upstream_errors_total", &[], 3.0),
        ("vibewarden_upstream_timeouts_total", &[], 1.0),
    ] {
        proxy.wait_metric(name, labels, value);
    }
    // Answers of the upstream that look like failures are not the proxy's.
    let mut client = proxy.sent(&wire("GET /e HTTP/1.1\r\n{H}\r\n"));
    let mut conn = upstream.accept();
    conn.read_request();
    conn.send(b"HTTP/1.1 502 Its own\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.read_response().status(), 502);
    let own = [("status_code", "502"), ("method", "GET")];
    eventually("the answer is counted", || {
        (proxy.scrape().value("vibewarden_requests_total", &own) > 0.5).then_some(())
    });
    proxy.wait_metric("vibewarden_upstream_errors_total", &[], 3.0);
}

/// G8: no more than the limit for each connection.
fn heads_just_below_the_limit_cost_what_they_say(driver: Driver) {
    const CLIENTS: usize = 100;
    let upstream = Upstream::start();
    // The clients are looked at one by one, which takes its time on a busy machine.
    let proxy = Setup::new(driver, upstream.url()).set("server.read_timeout", "600s").start();
    proxy.get("/_vibewarden/health");
    let before = proxy.process.resident_bytes();
    let head = format!("GET /{} HTTP/1.1\r\nHost: t.test\r\n", "a".repeat(16_000));
    let clients: Vec<_> = (0..CLIENTS).map(|_| proxy.sent(head.as_bytes())).collect();
    for client in &clients {
        proxy.wait_consumed(client);
    }
    let grown = proxy.process.resident_bytes().saturating_sub(before);
    assert!(grown < CLIENTS * 20 * 1024 + (4 << 20), "{grown} bytes for {CLIENTS} heads");
    // Each is a request all the same.
    let mut clients = clients;
    let mut last = clients.pop().expect("a client");
    drop(clients);
    last.send(b"\r\n");
    let mut conn = upstream.accept();
    assert_eq!(conn.read_request().target().len(), 16_001);
    conn.send(ANSWER_KEPT);
    assert_eq!(last.read_response().body, b"ok");
}
