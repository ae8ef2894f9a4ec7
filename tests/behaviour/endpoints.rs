//! Section 12: the proxy's own endpoints.

use crate::harness::json::Json;
use crate::harness::payload::show;
use crate::harness::{Driver, End, HANDSHAKE, OUTDATED, Setup, Upstream, behind, wire};

on_drivers!(
    every:
        health_and_ready_have_their_exact_bodies,
        counters_count_what_happened;
    both:
        only_get_and_head,
        every_own_path_stays_here,
        requests_on_one_connection_are_answered_in_order,
        an_upgrade_of_an_own_endpoint_is_no_tunnel,
        every_metric_has_its_type,
        labels_of_requests,
        switches_take_things_away,
        a_body_for_an_own_endpoint_is_no_request,
        pipelined_requests_are_bounded,
);

fn health_and_ready_have_their_exact_bodies(driver: Driver) {
    let (mut proxy, upstream) = behind(driver);
    let (head, body) = proxy.get("/_vibewarden/health");
    assert_eq!(head.status(), 200);
    assert_eq!(head.one("x-vibewarden"), Some("1"));
    assert_eq!(head.one("content-type"), Some("application/json"));
    let json = Json::parse(body.trim_end()).expect("JSON");
    assert_eq!(json.keys(""), ["status", "version", "driver", "components"]);
    assert_eq!(json.keys("driver"), ["name", "mode", "reason"]);
    assert_eq!(json.text("status"), Some("ok"));
    assert_eq!(json.text("version"), Some(env!("CARGO_PKG_VERSION")));
    assert!(
        body.trim_end().ends_with(r#""components":{"sidecar":"ok","upstream":"unknown"}}"#),
        "{body}"
    );
    let (head, body) = proxy.get("/_vibewarden/ready");
    assert_eq!(head.status(), 200);
    assert_eq!(body.trim_end(), r#"{"ready":true,"upstream":"unknown"}"#);
    let stopped = proxy.stop();
    assert_eq!(stopped.events.len(), 2, "own endpoints produce no events");
    upstream.assert_untouched();
}

fn only_get_and_head(driver: Driver) {
    let (mut proxy, upstream) = behind(driver);
    for path in ["health", "ready", "metrics"] {
        let head_only =
            wire(format!("HEAD /_vibewarden/{path} HTTP/1.1\r\n{{H}}Connection: close\r\n\r\n"));
        let answer = proxy.answer_to(&head_only);
        assert_eq!(answer.head.status(), 200, "{path}");
        assert!(answer.body.is_empty(), "{path}");
        let length = answer.head.one("content-length").map(str::parse::<usize>);
        assert!(matches!(length, None | Some(Ok(1..))), "{path}: {answer:?}");
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "FOO", "get"] {
            let request = wire(format!(
                "{method} /_vibewarden/{path} HTTP/1.1\r\n{{H}}Connection: close\r\n\r\n"
            ));
            let answer = proxy.answer_to(&request);
            answer.assert_refusal(405, "method_not_allowed");
            let allow = answer.head.one("allow").unwrap_or_default();
            let mut methods: Vec<&str> = allow.split(", ").collect();
            methods.sort_unstable();
            assert_eq!(methods, ["GET", "HEAD"], "{method} {path}");
        }
    }
    let stopped = proxy.stop();
    assert_eq!(stopped.events.len(), 2, "{:#?}", stopped.events);
    upstream.assert_untouched();
}

fn every_own_path_stays_here(driver: Driver) {
    let (mut proxy, upstream) = behind(driver);
    for path in [
        "/_vibewarden",
        "/_vibewarden/",
        "/_vibewarden/nothing",
        "/_vibewarden/health/",
        "/_vibewarden/Health",
        "/_vibewarden/health/x",
        "/_vibewarden//health",
    ] {
        for upgrade in ["", "{U}{K}"] {
            let request =
                wire(format!("GET {path} HTTP/1.1\r\n{{H}}Connection: close\r\n{upgrade}\r\n"));
            let answer = proxy.answer_to(&request);
            answer.assert_refusal(404, "not_found");
        }
    }
    for path in [
        "/%5fvibewarden/health",
        "/_vibe%77arden/health",
        "/_vibewarden%2fhealth",
        "/_vibewarden/%68ealth",
        "/%5Fvibewarden",
        "/_vibewarden/health?x=1",
    ] {
        for upgrade in ["", "{U}{K}"] {
            let request =
                wire(format!("GET {path} HTTP/1.1\r\n{{H}}Connection: close\r\n{upgrade}\r\n"));
            let status = proxy.answer_to(&request).head.status();
            assert!([200, 404].contains(&status), "{path}: {status}");
        }
    }
    let stopped = proxy.stop();
    assert_eq!(stopped.events.len(), 2, "{:#?}", stopped.events);
    upstream.assert_untouched();
    // Next door is not ours.
    let (proxy, upstream) = behind(driver);
    for path in
        ["/_vibewardenx", "/x/_vibewarden/health", "/_VIBEWARDEN/health", "/%255fvibewarden/health"]
    {
        let _client = proxy.sent(&wire(format!("GET {path} HTTP/1.1\r\n{{H}}{{U}}{{K}}\r\n")));
        let line = upstream.accept().read_head().line;
        assert_eq!(line, format!("GET {path} HTTP/1.1"));
    }
}

/// A123 as far as own endpoints go.
fn requests_on_one_connection_are_answered_in_order(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let health = "GET /_vibewarden/health HTTP/1.1\r\n{H}\r\n";
    let ready = "GET /_vibewarden/ready HTTP/1.1\r\n{H}\r\n";
    let last = "GET /_vibewarden/ready HTTP/1.1\r\n{H}Connection: close\r\n\r\n";
    let mut client = proxy.connect();
    for _ in 0..3 {
        client.send(&wire(health));
        let (head, body) = client.read_kept_answer();
        assert_eq!(head.status(), 200);
        assert!(body.starts_with(b"{\"status\""));
    }
    client.send(&wire(format!("{ready}{health}{ready}{last}")));
    for start in ["{\"ready\"", "{\"status\"", "{\"ready\"", "{\"ready\""] {
        let (head, body) = client.read_kept_answer();
        assert_eq!(head.status(), 200);
        assert!(body.starts_with(start.as_bytes()));
    }
    assert_eq!(client.expect_end(), End::Eof);
    // HTTP/1.0 is not kept, unless it asks.
    let mut client = proxy.sent(b"GET /_vibewarden/ready HTTP/1.0\r\n\r\n");
    let answer = client.read_answer();
    assert_eq!(answer.head.one("connection"), Some("close"));
    assert_eq!(answer.end, End::Eof);
    // An upgrade may follow on the same connection.
    let mut client = proxy.connect();
    client.send(&wire(health));
    client.read_kept_answer();
    client.send(HANDSHAKE);
    let mut conn = upstream.accept();
    conn.read_head();
    conn.send(crate::harness::ANSWER_101);
    client.open();
    client.ping(&mut conn, b"second request");
    // Pipelined behind an answer of our own.
    let mut client = proxy.sent(&wire(format!("{health}{{HS}}early")));
    client.read_kept_answer();
    let mut conn = upstream.accept();
    conn.read_head();
    conn.send(crate::harness::ANSWER_101);
    client.open();
    conn.expect(b"early");
}

fn an_upgrade_of_an_own_endpoint_is_no_tunnel(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let mut client = proxy.sent(&wire("GET /_vibewarden/health HTTP/1.1\r\n{H}{U}{K}\r\n"));
    let (head, body) = client.read_kept_answer();
    assert_eq!(head.status(), 200);
    assert_eq!(head.one("upgrade"), None);
    assert!(body.starts_with(b"{\"status\":\"ok\""));
    upstream.assert_untouched();
}

const METRICS: [(&str, &str); 17] = [
    ("vibewarden_build_info", "gauge"),
    ("vibewarden_driver_info", "gauge"),
    ("vibewarden_connections_total", "counter"),
    ("vibewarden_active_connections", "gauge"),
    ("vibewarden_websocket_active", "gauge"),
    ("vibewarden_websocket_upgrades_total", "counter"),
    ("vibewarden_websocket_handshake_seconds", "histogram"),
    ("vibewarden_websocket_bytes_total", "counter"),
    ("vibewarden_websocket_closed_total", "counter"),
    ("vibewarden_refusals_total", "counter"),
    ("vibewarden_requests_total", "counter"),
    ("vibewarden_request_duration_seconds", "histogram"),
    ("vibewarden_upstream_connect_failures_total", "counter"),
    ("vibewarden_upstream_errors_total", "counter"),
    ("vibewarden_upstream_timeouts_total", "counter"),
    ("vibewarden_config_reloads_total", "counter"),
    ("vibewarden_event_log_drops_total", "counter"),
];

fn every_metric_has_its_type(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let (client, conn) = proxy.tunnel(&upstream);
    drop((client, conn));
    proxy.answer_to(OUTDATED);
    let (head, _) = proxy.get("/_vibewarden/metrics");
    let kind = head.one("content-type").unwrap_or_default();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    let scrape = proxy.scrape();
    for (name, kind) in METRICS {
        let line = format!("# TYPE {name} {kind}\n");
        assert!(scrape.text.contains(&line), "no {line}{}", scrape.text);
        assert_eq!(scrape.text.matches(&line).count(), 1, "{line}");
    }
    let buckets: Vec<String> = scrape
        .labels("vibewarden_websocket_handshake_seconds_bucket")
        .iter()
        .filter_map(|labels| labels.iter().find(|(key, _)| key == "le"))
        .map(|(_, bound)| bound.clone())
        .collect();
    assert_eq!(
        buckets,
        ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf"]
    );
    let build = [("version", env!("CARGO_PKG_VERSION"))];
    assert_eq!(format!("{}", scrape.value("vibewarden_build_info", &build)), "1");
    assert_eq!(scrape.labels("vibewarden_driver_info").len(), 1);
}

fn counters_count_what_happened(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let before = proxy.scrape();
    let (mut client, mut conn) = proxy.tunnel(&upstream);
    client.ping(&mut conn, &[7; 1000]);
    proxy.wait_metric("vibewarden_websocket_active", &[], 1.0);
    for direction in ["to_upstream", "to_client"] {
        let labels = [("direction", direction)];
        proxy.wait_metric("vibewarden_websocket_bytes_total", &labels, 1000.0);
    }
    drop((client, conn));
    proxy.wait_metric("vibewarden_websocket_active", &[], 0.0);
    for _ in 0..3 {
        proxy.answer_to(OUTDATED);
    }
    proxy.answer_to(&wire("POST /ws HTTP/1.1\r\n{H}{U}{K}\r\n"));
    let mut client = proxy.sent(HANDSHAKE);
    let mut conn = upstream.accept();
    conn.read_head();
    conn.send(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n");
    client.read_answer();
    let mut client = proxy.sent(HANDSHAKE);
    drop(upstream.accept());
    client.read_answer();
    for (name, labels, value) in [
        ("vibewarden_websocket_upgrades_total", &[("result", "opened")][..], 1.0),
        ("vibewarden_websocket_upgrades_total", &[("result", "refused")], 4.0),
        ("vibewarden_websocket_upgrades_total", &[("result", "declined")], 1.0),
        ("vibewarden_websocket_upgrades_total", &[("result", "failed")], 1.0),
        ("vibewarden_refusals_total", &[("reason", "unsupported_websocket_version")], 3.0),
        ("vibewarden_refusals_total", &[("reason", "bad_request")], 1.0),
        ("vibewarden_refusals_total", &[("reason", "upstream_unavailable")], 1.0),
        ("vibewarden_upstream_errors_total", &[], 1.0),
        ("vibewarden_websocket_closed_total", &[("reason", "client_closed")], 1.0),
        ("vibewarden_websocket_handshake_seconds_count", &[], 1.0),
        ("vibewarden_requests_total", &[("method", "GET"), ("status_code", "101")], 1.0),
        ("vibewarden_requests_total", &[("method", "GET"), ("status_code", "403")], 1.0),
    ] {
        proxy.wait_metric(name, labels, value);
    }
    let accepted = [("result", "accepted")];
    let after = proxy.scrape();
    assert!(after.value("vibewarden_connections_total", &accepted) > 7.5);
    // The scraping connection is the only one left.
    proxy.wait_metric("vibewarden_active_connections", &[], 1.0);
    for (series, value) in before.series().filter(|(name, _)| name.contains("_total")) {
        let now = after.series().find(|(name, _)| *name == series);
        assert!(now.is_some_and(|(_, now)| now >= value), "{series} went back");
    }
}

/// 12: the first match of `path_patterns`, else `other`; unknown methods are `other`.
fn labels_of_requests(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = Setup::new(driver, upstream.url())
        .set("telemetry.path_patterns", "[\"/users/:id\", \"/users/:id/feed\"]")
        .start();
    for (path, pattern) in [
        ("/users/7", "/users/:id"),
        ("/users/8?x=/y", "/users/:id"),
        ("/users/7/feed", "/users/:id/feed"),
        ("/users", "other"),
        ("/users/7/other", "other"),
        ("/users/", "other"),
    ] {
        let mut client = proxy.sent(&wire(format!("GET {path} HTTP/1.1\r\n{{H}}{{U}}{{K}}\r\n")));
        let mut conn = upstream.accept();
        conn.read_head();
        conn.send(crate::harness::ANSWER_101);
        client.open();
        let labels = [("method", "GET"), ("path_pattern", pattern), ("status_code", "101")];
        let seen = crate::harness::eventually(path, || {
            let seen = proxy.scrape().value("vibewarden_requests_total", &labels);
            (seen > 0.5).then_some(seen)
        });
        assert!(seen < 3.5, "{path}");
    }
}

fn switches_take_things_away(driver: Driver) {
    let upstream = Upstream::start();
    for key in ["telemetry.enabled", "telemetry.prometheus.enabled", "metrics.enabled"] {
        let proxy = Setup::new(driver, upstream.url()).set(key, "false").start();
        let answer = proxy
            .answer_to(&wire("GET /_vibewarden/metrics HTTP/1.1\r\n{H}Connection: close\r\n\r\n"));
        answer.assert_refusal(404, "not_found");
        assert_eq!(proxy.get("/_vibewarden/health").0.status(), 200);
    }
    let proxy = Setup::new(driver, upstream.url()).set("health.expose_version", "false").start();
    let (_, body) = proxy.get("/_vibewarden/health");
    let json = Json::parse(body.trim_end()).expect("JSON");
    assert_eq!(json.keys(""), ["status", "driver", "components"]);
}

/// A126: whatever was announced as a body is never read as the next request.
fn a_body_for_an_own_endpoint_is_no_request(driver: Driver) {
    let (mut proxy, upstream) = behind(driver);
    for method in ["GET", "HEAD", "POST"] {
        for body in [
            "Content-Length: 40\r\n\r\n{SM}",
            "Content-Length: 1000\r\n\r\n{SM}",
            "Transfer-Encoding: chunked\r\n\r\n28\r\n{SM}\r\n0\r\n\r\n",
        ] {
            let request = format!("{method} /_vibewarden/ready HTTP/1.1\r\n{{H}}{body}");
            let mut client = proxy.sent(&wire(&request));
            client.fin();
            let (bytes, _) = client.read_to_end();
            let answers = String::from_utf8_lossy(&bytes).matches("HTTP/1.1 ").count();
            assert_eq!(answers, 1, "{request}: {}", show(&bytes));
        }
    }
    let stopped = proxy.stop();
    upstream.assert_untouched();
    assert!(!stopped.events.iter().any(|event| event.line.contains("smuggled")));
}

/// A125: answers that nobody reads stop the reading of further requests.
fn pipelined_requests_are_bounded(driver: Driver) {
    let (proxy, _upstream) = behind(driver);
    let request = wire("GET /_vibewarden/ready HTTP/1.1\r\n{H}\r\n");
    let mut client = proxy.connect();
    let before = proxy.process.resident_bytes();
    let quiet = std::time::Duration::from_millis(500);
    let sent = client.send_until_blocked(quiet, 64 << 20, |_| request.repeat(1000));
    assert!(sent.blocked, "{} bytes of requests were taken", sent.taken);
    let grown = proxy.process.resident_bytes().saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes for requests nobody answers");
    let mut rest = client.twin();
    let sending = std::thread::spawn(move || {
        rest.send(&sent.rest);
        rest.fin();
    });
    let count = (sent.taken + 1000 * request.len()) / request.len();
    for number in 0..count - 1000 {
        let (head, _) = client.read_kept_answer();
        assert_eq!(head.status(), 200, "answer {number} of about {count}");
    }
    client.drain();
    sending.join().expect("sender");
}
