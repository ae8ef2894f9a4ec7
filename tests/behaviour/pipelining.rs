//! Group (a), section 2.6: several requests on one connection, each through the whole pipeline, one after the other.

use std::time::Duration;

use crate::harness::http::assert_error_body;
use crate::harness::{
    ANSWER_101, ANSWER_KEPT, ANSWER_LAST, After, Driver, End, SMUGGLED, Setup, Upstream, behind,
    behind_one_worker, wire,
};

on_drivers!(
    every:
        two_requests_in_one_segment_are_two_requests;
    both:
        the_second_request_waits_for_the_first,
        each_request_is_judged_by_itself,
        bodies_and_requests_keep_their_borders,
        an_upgrade_may_follow_a_plain_request,
        nothing_follows_the_last_request,
        requests_nobody_reads_the_answers_of_are_bounded,
        many_are_answered_in_order,
        a_refusal_without_an_unread_body_keeps_the_connection,
);

over_tls!(
    two_requests_in_one_segment_are_two_requests,
    an_upgrade_may_follow_a_plain_request,
    nothing_follows_the_last_request,
    requests_nobody_reads_the_answers_of_are_bounded,
    many_are_answered_in_order,
);

/// A123.
fn two_requests_in_one_segment_are_two_requests(driver: Driver) {
    let (mut proxy, upstream) = behind_one_worker(driver);
    let mut client = proxy.sent(&wire(
        "GET /one HTTP/1.1\r\n{H}X-Request-ID: r1\r\nX-A: 1\r\n\r\nPOST /two HTTP/1.1\r\nHost: u.test\r\nX-Request-ID: r2\r\nContent-Length: 2\r\n\r\nhi",
    ));
    let mut conn = upstream.accept();
    let first = conn.read_request();
    assert_eq!((first.method(), first.target()), ("GET", "/one"));
    conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst");
    assert_eq!(client.read_response().body, b"first");
    let second = conn.read_request();
    assert_eq!((second.method(), second.target()), ("POST", "/two"));
    assert_eq!(second.body, b"hi");
    assert_eq!(second.head.one("host"), Some("u.test"));
    assert_eq!(second.head.one("x-a"), None);
    conn.send(b"HTTP/1.1 404 No\r\nContent-Length: 6\r\n\r\nsecond");
    let answer = client.read_response();
    assert_eq!((answer.status(), answer.body.as_slice()), (404, &b"second"[..]));
    drop(client);
    let stopped = proxy.stop();
    upstream.assert_untouched();
    let proxied = stopped.of_kind("request.proxied");
    let told: Vec<_> = proxied
        .iter()
        .map(|event| (event.request_id(), event.count("payload.status_code")))
        .collect();
    assert_eq!(told, [("r1", 200), ("r2", 404)]);
}

/// 6.2: reading stops while one is busy; an answer in two pieces is finished before the next request leaves.
fn the_second_request_waits_for_the_first(driver: Driver) {
    let (proxy, upstream) = behind_one_worker(driver);
    let mut client = proxy.sent(&wire("GET /one HTTP/1.1\r\n{H}\r\nGET /two HTTP/1.1\r\n{H}\r\n"));
    let mut conn = upstream.accept();
    assert_eq!(conn.read_request().target(), "/one");
    let quiet = || {
        // Time for a mistake: another request lives and ends meanwhile.
        assert_eq!(proxy.get("/_vibewarden/health").0.status(), 200);
        upstream.assert_untouched();
    };
    quiet();
    assert!(conn.pending().is_empty());
    conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
    assert_eq!(client.read_head().status(), 200);
    client.expect(b"first");
    quiet();
    assert!(conn.pending().is_empty());
    conn.send(b" half");
    client.expect(b" half");
    assert_eq!(conn.read_request().target(), "/two");
    conn.send(ANSWER_KEPT);
    assert_eq!(client.read_response().body, b"ok");
}

fn each_request_is_judged_by_itself(driver: Driver) {
    let application = Upstream::start().name_targets();
    let mut proxy = Setup::new(driver, application.url()).set("body_size.max", "5B").start();
    let good = "GET /good HTTP/1.1\r\n{H}\r\n";
    let own = "GET /_vibewarden/ready HTTP/1.1\r\n{H}\r\n";
    for (bad, status, code) in [
        ("GET /../x HTTP/1.1\r\n{H}\r\n", 400, "bad_request"),
        ("GET /x HTTP/1.1\r\n\r\n", 400, "bad_request"),
        ("POST /x HTTP/1.1\r\n{H}Content-Length: 40\r\n\r\n", 413, "payload_too_large"),
        ("POST /x HTTP/1.1\r\n{H}Content-Length: 4, 4\r\n\r\n", 400, "bad_request"),
        ("TRACE /x HTTP/1.1\r\n{H}\r\n", 405, "method_not_allowed"),
        ("GET /x HTTP/1.1\r\n{H}{U}\r\n", 400, "bad_request"),
    ] {
        let mut client = proxy.sent(&wire(format!("{good}{own}{good}{bad}{{SM}}")));
        assert_eq!(client.read_response().body, b"/good");
        assert!(client.read_response().body.starts_with(b"{\"ready\""));
        assert_eq!(client.read_response().body, b"/good");
        client.read_answer().assert_refusal(status, code);
    }
    let stopped = proxy.stop();
    assert_eq!(stopped.of_kind("request.proxied").len(), 12);
    assert_eq!(stopped.of_kind("request.blocked").len(), 6);
    assert!(application.targets().iter().all(|target| target == "/good"));
}

/// Bodies of both framings between requests, cut at every place that matters.
fn bodies_and_requests_keep_their_borders(driver: Driver) {
    let application = Upstream::start().name_targets();
    let proxy = Setup::new(driver, application.url()).start();
    let stream = wire(
        "POST /1 HTTP/1.1\r\n{H}Content-Length: 40\r\n\r\n{SM}POST /2 HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n28\r\n{SM}\r\n0\r\n\r\n\
         PUT /3 HTTP/1.1\r\n{H}Content-Length: 0\r\n\r\nGET /4 HTTP/1.1\r\n{H}\r\nPOST /5 HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\nHEAD /6 HTTP/1.1\r\n{H}\r\nGET /7 HTTP/1.1\r\n{H}Connection: close\r\n\r\n{SM}",
    );
    let targets = ["/1", "/2", "/3", "/4", "/5", "/6", "/7"];
    for step in [stream.len(), 1, 7, 40, 41] {
        let mut client = proxy.connect();
        let mut sender = client.twin();
        let pieces = stream.clone();
        let sending = std::thread::spawn(move || {
            for piece in pieces.chunks(step) {
                // The last request says close, so what follows it may find nobody.
                let _may_be_gone = sender.try_send(piece);
            }
        });
        for target in targets {
            if target == "/6" {
                client.read_response_to_head();
            } else {
                assert_eq!(client.read_response().body, target.as_bytes(), "pieces of {step}");
            }
        }
        let (more, _) = client.read_to_end();
        assert!(more.is_empty(), "pieces of {step}");
        sending.join().expect("the client");
    }
    let requests = application.requests();
    assert_eq!(application.targets(), targets.repeat(5));
    for (_, request) in requests {
        let expected = if ["/1", "/2"].contains(&request.target()) { SMUGGLED } else { b"" };
        assert_eq!(request.body, expected, "{request:?}");
    }
}

/// On a client connection that was used before, and pipelined with early bytes behind it; the upstream connection is fresh.
fn an_upgrade_may_follow_a_plain_request(driver: Driver) {
    let (proxy, upstream) = behind_one_worker(driver);
    let mut client = proxy.sent(&wire("GET /one HTTP/1.1\r\n{H}\r\n{HS}early"));
    let mut pooled = upstream.accept();
    pooled.read_request();
    pooled.send(ANSWER_KEPT);
    assert_eq!(client.read_response().body, b"ok");
    let mut conn = upstream.accept();
    assert_eq!(conn.read_head().one("upgrade"), Some("websocket"));
    assert!(conn.pending().is_empty());
    conn.send(ANSWER_101);
    client.open();
    conn.expect(b"early");
    client.ping(&mut conn, SMUGGLED);
    assert!(pooled.pending().is_empty());
}

/// Whatever ends the connection ends the requests on it.
fn nothing_follows_the_last_request(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    for (request, answer) in [
        ("GET /e HTTP/1.1\r\n{H}Connection: close\r\n\r\n", ANSWER_LAST),
        ("GET /e HTTP/1.1\r\n{H}Connection: foo, CLOSE\r\n\r\n", ANSWER_LAST),
        ("GET /e HTTP/1.0\r\n{H}\r\n", ANSWER_LAST),
        ("GET /e HTTP/1.0\r\n{H}Connection: keep-alive\r\n\r\n", ANSWER_LAST),
        ("{HS}", b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nok"),
    ] {
        let mut client = proxy.sent(&wire(format!("{request}{{SM}}")));
        let mut conn = upstream.accept();
        conn.read_head();
        conn.send(answer);
        let seen = client.read_response();
        assert_eq!(seen.body, b"ok", "{request}");
        assert!(seen.says_close(), "{request}: {seen:?}");
        assert_eq!(client.expect_end(), End::Eof, "{request}");
        conn.wait_end();
        assert!(conn.pending().is_empty(), "{request}");
    }
    upstream.assert_untouched();
}

/// A125.
fn requests_nobody_reads_the_answers_of_are_bounded(driver: Driver) {
    const ANSWER_BYTES: usize = 64 * 1024;
    let application = Upstream::start().answer(|_, peer| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {ANSWER_BYTES}\r\n\r\n");
        let _may_be_gone = peer.try_send(&[head.as_bytes(), &vec![b'b'; ANSWER_BYTES]].concat());
        After::Keep
    });
    let proxy = Setup::new(driver, application.url()).start();
    let request = wire("GET /pipelined HTTP/1.1\r\n{H}\r\n");
    let mut client = proxy.connect();
    let before = proxy.process.resident_bytes();
    let quiet = Duration::from_millis(500);
    let sent = client.send_until_blocked(quiet, 64 << 20, |_| request.repeat(1000));
    assert!(sent.blocked, "{} bytes of requests were taken", sent.taken);
    let grown = proxy.process.resident_bytes().saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes for requests nobody reads the answers of");
    let asked = application.requests().len();
    assert!(asked * request.len() < sent.taken, "reading never stopped");
    // Once they are read, it goes on where it stopped.
    for number in 0..asked + 10 {
        assert_eq!(client.read_response().body.len(), ANSWER_BYTES, "answer {number}");
    }
}

fn many_are_answered_in_order(driver: Driver) {
    const COUNT: usize = 2000;
    let application = Upstream::start().name_targets();
    let proxy = Setup::new(driver, application.url()).start();
    let mut client = proxy.connect();
    let mut sender = client.twin();
    let sending = std::thread::spawn(move || {
        let requests: Vec<String> =
            (0..COUNT).map(|number| format!("GET /{number} HTTP/1.1\r\nHost: t\r\n\r\n")).collect();
        sender.send(requests.concat().as_bytes());
    });
    for number in 0..COUNT {
        assert_eq!(client.read_response().body, format!("/{number}").as_bytes());
    }
    sending.join().expect("the client");
    assert_eq!(application.requests().len(), COUNT);
    assert_eq!(application.connections(), 1, "one client, one after the other");
}

/// 6.1, I25: an error that is no reason to close leaves the connection to the next request.
fn a_refusal_without_an_unread_body_keeps_the_connection(driver: Driver) {
    let (proxy, upstream) = behind_one_worker(driver);
    let mut client = proxy.connect();
    for (request, answer) in [
        ("GET /bad HTTP/1.1\r\n{H}\r\n", &b"BLAH\r\n\r\n"[..]),
        ("GET /half HTTP/1.1\r\n{H}\r\n", b"HTTP/1.1 200"),
        ("HEAD /bad HTTP/1.1\r\n{H}\r\n", b"BLAH\r\n\r\n"),
    ] {
        client.send(&wire(request));
        let mut conn = upstream.accept();
        let is_head = conn.read_request().method() == "HEAD";
        conn.send(answer);
        conn.fin();
        let seen = if is_head { client.read_response_to_head() } else { client.read_response() };
        assert_eq!(seen.status(), 502, "{seen:?}");
        assert!(!seen.says_close(), "{seen:?}");
        if !is_head {
            let whole = answer.ends_with(b"\n");
            let code = if whole { "upstream_invalid_response" } else { "upstream_unavailable" };
            assert_error_body(&seen.head, &seen.body, 502, code);
        }
        conn.wait_end();
    }
    client.send(&wire("GET /good HTTP/1.1\r\n{H}\r\n"));
    let mut conn = upstream.accept();
    assert_eq!(conn.read_request().target(), "/good");
    conn.send(ANSWER_KEPT);
    assert_eq!(client.read_response().body, b"ok");
}
