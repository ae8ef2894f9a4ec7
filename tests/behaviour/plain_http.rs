//! Group (i): bodies, framings, interim answers and connections of plain requests, byte for byte at both ends.

use std::time::Duration;

use crate::harness::application::Application;
use crate::harness::message::{Framing, Message, Recorded, Source, chunked};
use crate::harness::payload::{Stream, seed, show};
use crate::harness::{
    ANSWER_KEPT, ANSWER_LAST, After, Conn, Driver, End, Peer, Proxy, Setup, Upstream, behind,
    forwarded, wire,
};

on_drivers!(
    every:
        bodies_of_every_size_come_back,
        answers_without_a_body_have_none;
    both:
        large_bodies_come_back,
        answers_of_every_framing_arrive,
        an_old_client_gets_no_chunks,
        trailers_of_an_answer_are_trailers,
        statuses_are_passed_or_refused,
        an_asked_100_comes_back_once,
        an_unasked_100_is_skipped,
        early_hints_are_relayed_in_order,
        too_many_interim_answers_are_502,
        a_refused_expectation_needs_no_body,
        an_unasked_101_is_502,
        ten_thousand_requests_on_one_connection,
        events_are_not_held_back,
        an_answer_before_the_end_of_the_body_is_relayed,
        a_slow_reader_costs_no_memory,
        a_slow_application_costs_no_memory,
        a_client_that_leaves_ends_the_request,
        an_upstream_that_dies_in_its_answer_is_no_clean_end,
        broken_chunks_of_an_answer_are_no_clean_end,
        invalid_answers_to_plain_requests_are_502,
        a_plain_request_over_a_unix_socket,
);

over_tls!(
    bodies_of_every_size_come_back,
    answers_without_a_body_have_none,
    large_bodies_come_back,
    answers_of_every_framing_arrive,
    an_old_client_gets_no_chunks,
    an_asked_100_comes_back_once,
    an_answer_before_the_end_of_the_body_is_relayed,
    a_slow_reader_costs_no_memory,
    a_slow_application_costs_no_memory,
    a_client_that_leaves_ends_the_request,
    an_upstream_that_dies_in_its_answer_is_no_clean_end,
    broken_chunks_of_an_answer_are_no_clean_end,
);

const SIZES: [usize; 8] = [0, 1, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537];
const LARGE: usize = 10 << 20;

fn request_in(framing: Framing, method: &str, body: &[u8]) -> Vec<u8> {
    let start = format!("{method} /echo HTTP/1.1\r\nHost: t.test\r\n");
    if framing == Framing::Chunked {
        let head = format!("{start}Transfer-Encoding: chunked\r\n\r\n");
        [head.into_bytes(), chunked(body, &[1, 1000, 70_000, 16_384])].concat()
    } else {
        [format!("{start}Content-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
    }
}

/// Sends a request body back in the framing in which it came.
fn echo() -> Application {
    Upstream::start().answer(|request, peer| {
        let answer = if request.framing == Framing::Chunked {
            let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            [&head[..], &chunked(&request.body, &[7, 50_000, 4096])].concat()
        } else {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.body.len());
            [head.as_bytes(), &request.body].concat()
        };
        let _may_be_gone = peer.try_send(&answer);
        After::Keep
    })
}

/// Sends from a thread of its own, reads the answer meanwhile.
#[track_caller]
fn exchange(client: &mut Peer, request: Vec<u8>) -> Message {
    let mut sender = client.twin();
    let sending = std::thread::spawn(move || sender.send(&request));
    let answer = client.read_response();
    sending.join().expect("the client");
    answer
}

/// I1.
fn bodies_of_every_size_come_back(driver: Driver) {
    let application = echo();
    let proxy = Setup::new(driver, application.url()).set("body_size.max", "1MB").start();
    let mut client = proxy.connect();
    for method in ["POST", "PUT", "PATCH", "DELETE", "GET"] {
        for framing in [Framing::Length, Framing::Chunked] {
            for size in SIZES {
                let body = Stream::new(seed()).take(size);
                let answer = exchange(&mut client, request_in(framing, method, &body));
                assert_eq!(answer.framing, framing, "{method} {size}");
                assert!(answer.body == body, "{method} {size} {framing:?}, seed {}", seed());
            }
        }
    }
    for (_, request) in application.requests() {
        assert!(request.body == Stream::new(seed()).take(request.body.len()), "seed {}", seed());
    }
    assert_eq!(application.requests().len(), 80);
    assert_eq!(application.connections(), 1);
}

/// I1, 10 MB both ways in both framings.
fn large_bodies_come_back(driver: Driver) {
    let application = echo();
    let proxy = Setup::new(driver, application.url()).set("body_size.max", "11MB").start();
    let body = Stream::new(seed()).take(LARGE);
    for framing in [Framing::Length, Framing::Chunked] {
        let mut client = proxy.connect();
        let answer = exchange(&mut client, request_in(framing, "POST", &body));
        assert_eq!(answer.framing, framing);
        assert!(answer.body == body, "{framing:?}, seed {}", seed());
    }
    for (_, request) in application.requests() {
        assert!(request.body == body, "seed {}", seed());
    }
}

/// Sends a request; the upstream connection may be a new one or, on the same client connection, the last one.
fn asked(client: &mut Peer, conn: Option<Conn>, upstream: &Upstream, request: &str) -> Conn {
    client.send(&wire(request));
    let mut conn = conn.unwrap_or_else(|| upstream.accept());
    conn.read_request();
    conn
}

/// 6.2: an answer without a length goes to HTTP/1.1 clients chunked, and the client connection stays.
fn answers_of_every_framing_arrive(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let mut client = proxy.connect();
    let answers: [(&[u8], bool, Framing); 6] = [
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 10\r\n\r\n0123456789", false, Framing::Length),
        (
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n",
            false,
            Framing::Chunked,
        ),
        (b"HTTP/1.1 200 OK\r\n\r\n0123456789", true, Framing::Chunked),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n0123456789", true, Framing::Chunked),
        (b"HTTP/1.0 200 OK\r\n\r\n0123456789", true, Framing::Chunked),
        (b"HTTP/1.0 200 OK\r\nConnection: close\r\nContent-Length: 10\r\n\r\n0123456789", true, Framing::Length),
    ];
    for (answer, fin, framing) in answers {
        let mut conn = asked(&mut client, None, &upstream, "GET /e HTTP/1.1\r\n{H}\r\n");
        conn.send(answer);
        if fin {
            conn.fin();
        }
        let seen = client.read_response();
        assert_eq!(seen.framing, framing, "for {}", show(answer));
        assert_eq!(seen.body, b"0123456789", "for {}", show(answer));
        assert!(!seen.says_close(), "for {}", show(answer));
        // Not to be used for the next one, whichever this was.
        conn.fin();
        conn.wait_end();
    }
    // An empty one.
    for answer in [&b"HTTP/1.1 200 OK\r\n\r\n"[..], b"HTTP/1.0 404 No\r\n\r\n"] {
        let mut conn = asked(&mut client, None, &upstream, "GET /e HTTP/1.1\r\n{H}\r\n");
        conn.send(answer);
        conn.fin();
        let seen = client.read_response();
        assert!(seen.body.is_empty());
        assert!(!seen.says_close());
    }
}

/// I14.
fn an_old_client_gets_no_chunks(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let answers: [(&[u8], bool, Framing); 4] = [
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 10\r\n\r\n0123456789", false, Framing::Length),
        (
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n5\r\n56789\r\n0\r\nX-T: r\r\n\r\n",
            false,
            Framing::UntilEnd,
        ),
        (b"HTTP/1.1 200 OK\r\n\r\n0123456789", true, Framing::UntilEnd),
        (b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 10\r\n\r\n0123456789", false, Framing::Length),
    ];
    for version in [
        "GET /e HTTP/1.0\r\n{H}\r\n",
        "GET /e HTTP/1.0\r\n{H}Connection: keep-alive\r\nKeep-Alive: 5\r\n\r\n",
        "POST /e HTTP/1.0\r\n{H}Content-Length: 2\r\n\r\nhi",
    ] {
        for (answer, fin, framing) in answers {
            let mut client = proxy.connect();
            let mut conn = asked(&mut client, None, &upstream, version);
            conn.send(answer);
            if fin {
                conn.fin();
            }
            let seen = client.read_response();
            assert_eq!(seen.framing, framing, "{version} {}", show(answer));
            assert_eq!(seen.body, b"0123456789", "{version} {}", show(answer));
            assert!(seen.says_close(), "{version} {seen:?}");
            assert_eq!(client.expect_end(), End::Eof);
            conn.fin();
            conn.wait_end();
        }
    }
}

/// I10, 6.2: HEAD, 204, 304; what stands behind their heads is never the next answer.
fn answers_without_a_body_have_none(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let mut client = proxy.connect();
    for (request, answer, length) in [
        ("HEAD /e HTTP/1.1\r\n{H}\r\n", "200 OK\r\nContent-Length: 100", Some("100")),
        ("HEAD /e HTTP/1.1\r\n{H}\r\n", "200 OK\r\nContent-Length: 0", Some("0")),
        ("HEAD /e HTTP/1.1\r\n{H}\r\n", "404 No\r\nX-No: length", None),
        ("HEAD /e HTTP/1.1\r\n{H}\r\n", "200 OK\r\nTransfer-Encoding: chunked", None),
        ("GET /e HTTP/1.1\r\n{H}\r\n", "204 No Content\r\nX-A: b", None),
        ("GET /e HTTP/1.1\r\n{H}\r\n", "304 Not Modified\r\nETag: \"q\"", None),
        ("GET /e HTTP/1.1\r\n{H}\r\n", "304 Not Modified\r\nContent-Length: 100", Some("100")),
        ("DELETE /e HTTP/1.1\r\n{H}\r\n", "204 No Content\r\nX-A: b", None),
        ("GET /e HTTP/1.1\r\n{H}\r\n", "205 Reset\r\nContent-Length: 0", Some("0")),
    ] {
        let mut conn = asked(&mut client, None, &upstream, request);
        conn.send(format!("HTTP/1.1 {answer}\r\nConnection: close\r\n\r\n").as_bytes());
        let seen = client.read_response_to_head();
        assert!(seen.head.line.ends_with(answer.split("\r\n").next().expect("a status")));
        if let Some(length) = length {
            assert_eq!(seen.head.one("content-length"), Some(length), "{answer}");
        } else {
            let stated = seen.head.one("content-length");
            assert!(stated.is_none_or(|stated| stated == "0"), "{answer}: {seen:?}");
        }
        assert!(!seen.says_close(), "{answer}: {seen:?}");
        // The connection stays good: the next answer begins with its own head.
        conn.fin();
        conn.wait_end();
    }
    // A body that must not be there is dropped, and so is its connection.
    for (request, answer) in [
        ("HEAD /e HTTP/1.1\r\n{H}\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n{SM}"),
        (
            "GET /e HTTP/1.1\r\n{H}\r\n",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 40\r\n\r\n{SM}",
        ),
        ("GET /e HTTP/1.1\r\n{H}\r\n", "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
    ] {
        let mut conn = asked(&mut client, None, &upstream, request);
        conn.send(&wire(answer));
        client.read_response_to_head();
        conn.wait_end();
        assert_eq!(proxy.get("/_vibewarden/health").0.status(), 200);
        assert!(client.pending().is_empty(), "{}", show(&client.pending()));
    }
}

/// I3: relayed as trailers or dropped, never merged into the head, never one of the proxy's names.
fn trailers_of_an_answer_are_trailers(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let mut client = proxy.connect();
    let request = "GET /e HTTP/1.1\r\n{H}TE: trailers\r\nConnection: TE\r\n\r\n";
    let mut conn = asked(&mut client, None, &upstream, request);
    conn.send(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 5d41\r\n\
        Content-Length: 99\r\nTransfer-Encoding: x\r\nx-more: 1\r\nx-more: 2\r\n\r\n",
    );
    let answer = client.read_response();
    assert_eq!(answer.body, b"hello");
    assert_eq!(answer.head.one("x-sum"), None);
    let seen: Vec<(&str, &str)> =
        answer.trailers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert!(
        seen.is_empty() || seen == [("X-Sum", "5d41"), ("x-more", "1"), ("x-more", "2")],
        "{seen:?}"
    );
    client.send(&wire("GET /next HTTP/1.1\r\n{H}\r\n"));
    assert_eq!(conn.read_request().target(), "/next");
}

/// I12.
fn statuses_are_passed_or_refused(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    for status in [
        200_u16, 201, 203, 206, 226, 299, 300, 301, 307, 308, 400, 401, 404, 410, 418, 422, 451,
        499, 500, 501, 503, 505, 511, 599,
    ] {
        let mut client = proxy.connect();
        let mut conn = asked(&mut client, None, &upstream, "GET /e HTTP/1.1\r\n{H}\r\n");
        let line = format!("HTTP/1.1 {status} Some Reason, or \t another");
        conn.send(format!("{line}\r\nConnection: close\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 2\r\n\r\nok").as_bytes());
        let answer = client.read_response();
        assert_eq!(answer.head.line, line);
        assert_eq!(answer.head.one("www-authenticate"), Some("Basic realm=\"x\""));
        assert_eq!(answer.body, b"ok");
        assert!(!answer.says_close(), "{answer:?}");
    }
    for status in ["600", "999", "099", "000"] {
        let mut client = proxy.connect();
        let mut conn = asked(&mut client, None, &upstream, "GET /e HTTP/1.1\r\n{H}\r\n");
        conn.send(
            format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
                .as_bytes(),
        );
        conn.fin();
        let answer = client.read_response();
        let passed = answer.head.line.starts_with(&format!("HTTP/1.1 {status} "));
        assert!(passed || answer.status() == 502, "{answer:?}");
    }
}

/// I7, A129: `Expect` goes up, its 100 comes back once, then the body flows.
fn an_asked_100_comes_back_once(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    for (framing, body) in [
        ("Content-Length: 5", &b"hello"[..]),
        ("Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n"),
    ] {
        for expect in ["Expect: 100-continue", "expect:\t100-Continue "] {
            let mut client = proxy
                .sent(&wire(format!("POST /e HTTP/1.1\r\n{{H}}{expect}\r\n{framing}\r\n\r\n")));
            let mut conn = upstream.accept();
            let head = conn.read_head();
            let asked = head.one("expect").unwrap_or_default();
            assert!(asked.eq_ignore_ascii_case("100-continue"), "{head:?}");
            // Nobody but the upstream says 100.
            assert_eq!(proxy.get("/_vibewarden/health").0.status(), 200);
            assert!(client.pending().is_empty(), "{}", show(&client.pending()));
            conn.send(b"HTTP/1.1 100 Continue\r\n\r\n");
            assert_eq!(client.read_head().status(), 100);
            client.send(body);
            if framing.starts_with("Content") {
                conn.expect(b"hello");
            } else {
                assert_eq!(conn.chunks().expect("chunks"), b"hello");
                conn.expect(b"\r\n");
            }
            conn.send(ANSWER_LAST);
            let answer = client.read_response();
            assert_eq!((answer.status(), answer.body.as_slice()), (200, &b"ok"[..]));
            conn.fin();
            conn.wait_end();
        }
    }
    // A client that does not wait is served too; the 100 that nobody needs any more may come or not.
    let mut client = proxy.sent(&wire(
        "POST /e HTTP/1.1\r\n{H}Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    ));
    let mut conn = upstream.accept();
    assert_eq!(conn.read_request().body, b"hello");
    conn.send(b"HTTP/1.1 100 Continue\r\n\r\n");
    conn.send(ANSWER_LAST);
    let mut answer = client.read_response();
    if answer.status() == 100 {
        answer = client.read_response();
    }
    assert_eq!(answer.status(), 200);
}

fn an_unasked_100_is_skipped(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    for request in [
        "GET /e HTTP/1.1\r\n{H}\r\n",
        "POST /e HTTP/1.1\r\n{H}Content-Length: 2\r\n\r\nhi",
        "GET /e HTTP/1.0\r\n{H}\r\n",
    ] {
        let mut client = proxy.connect();
        let mut conn = asked(&mut client, None, &upstream, request);
        conn.send(b"HTTP/1.1 100 Continue\r\nX-A: b\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n");
        conn.send(ANSWER_LAST);
        let answer = client.read_response();
        assert_eq!((answer.status(), answer.body.as_slice()), (200, &b"ok"[..]), "{request}");
    }
}

/// 6.2: 102 and 103 go to HTTP/1.1 clients at once, in order, and to no others.
fn early_hints_are_relayed_in_order(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let mut client = proxy.connect();
    let mut conn = asked(&mut client, None, &upstream, "GET /e HTTP/1.1\r\n{H}\r\n");
    conn.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nlink: </b>\r\nConnection: close, x-hop\r\nX-Hop: 1\r\n\r\n");
    let hints = client.read_head();
    assert_eq!(hints.line, "HTTP/1.1 103 Early Hints");
    assert_eq!(hints.all("link"), ["</a.css>; rel=preload", "</b>"]);
    assert_eq!(hints.one("x-hop"), None);
    conn.send(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Again\r\nLink: </c>\r\n\r\n");
    assert_eq!(client.read_head().status(), 102);
    assert_eq!(client.read_head().all("link"), ["</c>"]);
    conn.send(ANSWER_KEPT);
    let answer = client.read_response();
    assert_eq!((answer.status(), answer.body.as_slice()), (200, &b"ok"[..]));
    assert_eq!(answer.head.one("link"), None);
    client.send(&wire("GET /next HTTP/1.1\r\n{H}\r\n"));
    assert_eq!(conn.read_request().target(), "/next");
}

/// C14 for plain requests: 16 are enough.
fn too_many_interim_answers_are_502(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    for (interim, relayed) in [("100 Continue", false), ("103 Early Hints", true)] {
        for count in [16, 17] {
            let mut client = proxy.connect();
            let mut conn = asked(&mut client, None, &upstream, "GET /e HTTP/1.1\r\n{H}\r\n");
            conn.send(format!("HTTP/1.1 {interim}\r\n\r\n").repeat(count).as_bytes());
            let _may_be_gone = conn.try_send(ANSWER_LAST);
            let mut seen = 0;
            let last = loop {
                let answer = client.read_response();
                if answer.status() >= 200 {
                    break answer.status();
                }
                seen += 1;
            };
            assert_eq!(last, if count == 16 { 200 } else { 502 }, "{count} of {interim}");
            let most = if relayed { 16 } else { 0 };
            assert!(seen <= most, "{seen} of {count} {interim}");
            assert!(seen == most || count > 16, "{seen} of {count} {interim}");
            conn.fin();
            conn.wait_end();
        }
    }
}

/// I7: the upstream says no before the body; the client never sends it.
fn a_refused_expectation_needs_no_body(driver: Driver) {
    let (mut proxy, upstream) = behind(driver);
    for status in [401_u16, 413, 417, 500] {
        let mut client = proxy.sent(&wire(
            "POST /e HTTP/1.1\r\n{H}Expect: 100-continue\r\nContent-Length: 1000000\r\n\r\n",
        ));
        let mut conn = upstream.accept();
        conn.read_head();
        conn.send(format!("HTTP/1.1 {status} No\r\nContent-Length: 2\r\n\r\nno").as_bytes());
        let answer = client.read_response();
        assert_eq!((answer.status(), answer.body.as_slice()), (status, &b"no"[..]));
        // A body that is still owed: the connection is of no use to either side.
        assert!(answer.says_close(), "{answer:?}");
        assert_eq!(client.expect_end(), End::Eof);
        conn.expect_end();
    }
    // The proxy's own refusal does not wait for the body either.
    let mut client = proxy.sent(&wire(
        "POST /e HTTP/1.1\r\n{H}Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n",
    ));
    client.read_answer().assert_refusal(413, "payload_too_large");
    for expect in ["x 100-continue", "100-continue, 100-continue", "200-ok", ""] {
        let mut client = proxy.sent(&wire(format!(
            "POST /e HTTP/1.1\r\n{{H}}Expect: {expect}\r\nContent-Length: 40\r\n\r\n{{SM}}"
        )));
        client.read_answer().assert_refusal(417, "expectation_failed");
    }
    let stopped = proxy.stop();
    upstream.assert_untouched();
    assert_eq!(stopped.of_kind("request.proxied").len(), 4);
}

/// C6.
fn an_unasked_101_is_502(driver: Driver) {
    let (mut proxy, upstream) = behind(driver);
    for request in [
        "GET /ws HTTP/1.1\r\n{H}\r\n{SM}",
        "GET /ws HTTP/1.1\r\n{H}Upgrade: websocket\r\n{K}\r\n{SM}",
        "GET /ws HTTP/1.1\r\n{H}Connection: Upgrade\r\n{K}\r\n{SM}",
        "GET /ws HTTP/1.1\r\n{H}Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n{SM}",
        "GET /ws HTTP/1.0\r\n{H}{U}{K}\r\n{SM}",
    ] {
        let mut client = proxy.connect();
        let mut conn = asked(&mut client, None, &upstream, request);
        conn.send(crate::harness::ANSWER_101);
        client.read_answer().assert_refusal(502, "upstream_invalid_response");
        conn.expect_end();
    }
    let stopped = proxy.stop();
    upstream.assert_untouched();
    assert!(!stopped.events.iter().any(|event| event.line.contains("smuggled")));
}

/// I13.
fn ten_thousand_requests_on_one_connection(driver: Driver) {
    let application = Upstream::start().name_targets();
    let proxy = Setup::new(driver, application.url()).set("log.access_log", "false").start();
    let mut client = proxy.connect();
    for number in 0..10_000 {
        client.send(format!("GET /{number} HTTP/1.1\r\nHost: t.test\r\n\r\n").as_bytes());
        assert_eq!(client.read_response().body, format!("/{number}").as_bytes());
    }
    client.send(&wire("GET /last HTTP/1.1\r\n{H}Connection: close\r\n\r\n"));
    let answer = client.read_response();
    assert_eq!(answer.body, b"/last");
    assert!(answer.says_close());
    assert_eq!(client.expect_end(), End::Eof);
    assert_eq!(application.connections(), 1);
    assert_eq!(application.requests().len(), 10_001);
}

/// I18: each event has reached the client before the next one is made, in every framing and with a client of either version.
fn events_are_not_held_back(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    for (request, framing, chunks) in [
        (
            "GET /sse HTTP/1.1\r\n{H}Accept: text/event-stream\r\n\r\n",
            "Transfer-Encoding: chunked\r\n",
            true,
        ),
        ("GET /sse HTTP/1.1\r\n{H}\r\n", "", false),
        ("GET /sse HTTP/1.0\r\n{H}\r\n", "", false),
        ("GET /sse HTTP/1.1\r\n{H}\r\n", "Content-Length: 500000\r\n", false),
    ] {
        let mut client = proxy.connect();
        let mut conn = asked(&mut client, None, &upstream, request);
        conn.send(
            format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{framing}\r\n")
                .as_bytes(),
        );
        // The head comes before there is any body.
        assert_eq!(client.read_head().status(), 200);
        for number in 0..50 {
            let event = format!("data: {number}\n\n");
            if chunks {
                conn.send(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes());
            } else {
                conn.send(event.as_bytes());
            }
            let seen = client.try_take(|held, _| {
                let at = crate::harness::payload::find(held, event.as_bytes())?;
                Some(at + event.len())
            });
            assert!(seen.is_ok(), "event {number} was held back: {seen:?}");
        }
        drop(client);
        conn.wait_end();
    }
}

/// An application that has heard enough: its answer arrives whole while the client still sends.
fn an_answer_before_the_end_of_the_body_is_relayed(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = Setup::new(driver, upstream.url()).set("body_size.max", "0").start();
    for close in [false, true] {
        let mut client =
            proxy.sent(&wire("POST /e HTTP/1.1\r\n{H}Content-Length: 100000000\r\n\r\nbegin"));
        let mut conn = upstream.accept();
        conn.read_head();
        conn.expect(b"begin");
        let mut sender = client.twin();
        let sending = std::thread::spawn(move || {
            let block = vec![b'x'; 64 * 1024];
            for _ in 0..16 {
                if sender.try_send(&block).is_err() {
                    break;
                }
            }
        });
        conn.send(b"HTTP/1.1 403 Enough\r\nContent-Length: 6\r\n\r\nenough");
        if close {
            conn.fin();
        }
        let answer = client.read_response();
        assert_eq!((answer.status(), answer.body.as_slice()), (403, &b"enough"[..]));
        sending.join().expect("the client");
        drop(client);
        conn.wait_end();
    }
}

/// I17: an answer larger than any buffer, to a client that does not read for a while.
fn a_slow_reader_costs_no_memory(driver: Driver) {
    // What is copied makes the kernel widen the receive buffer of the upstream leg, up to 32 MiB.
    let bytes_max: usize = 48 << 20;
    let (proxy, upstream) = behind(driver);
    for chunks in [false, true] {
        let mut client = proxy.connect_with_receive_buffer(Some(64 * 1024));
        client.send(&wire("GET /large HTTP/1.1\r\n{H}\r\n"));
        let mut far = upstream.accept_unrecorded();
        far.read_request();
        let before = proxy.process.resident_bytes();
        let framing = if chunks {
            "Transfer-Encoding: chunked".to_owned()
        } else {
            format!("Content-Length: {bytes_max}")
        };
        far.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n").as_bytes());
        let mut made = Stream::new(seed());
        let mut body_bytes = 0;
        let sent = far.send_until_blocked(Duration::from_millis(500), bytes_max, |_| {
            let count = (64 * 1024).min(bytes_max - body_bytes);
            body_bytes += count;
            let block = made.take(count);
            if chunks {
                [format!("{count:x}\r\n").as_bytes(), &block, b"\r\n"].concat()
            } else {
                block
            }
        });
        assert!(sent.blocked, "{} bytes were taken for a client that reads nothing", sent.taken);
        let grown = proxy.process.resident_bytes().saturating_sub(before);
        assert!(grown < 4 << 20, "{grown} bytes of memory for a client that reads nothing");
        let mut rest = far.twin();
        let total = if chunks { body_bytes } else { bytes_max };
        let sending = std::thread::spawn(move || {
            rest.send(&sent.rest);
            if chunks {
                rest.send(b"0\r\n\r\n");
            } else {
                while body_bytes < bytes_max {
                    let count = (64 * 1024).min(bytes_max - body_bytes);
                    body_bytes += count;
                    rest.send(&made.take(count));
                }
            }
        });
        let answer = client.read_response();
        assert!(answer.body == Stream::new(seed()).take(total), "seed {}", seed());
        sending.join().expect("the application");
    }
}

/// The same for a request to an application that does not read.
fn a_slow_application_costs_no_memory(driver: Driver) {
    // More than the kernel's buffers of both legs take together, which it widens while bytes flow.
    let bytes_max: usize = 64 << 20;
    let upstream = Upstream::start().with_receive_buffer(64 * 1024);
    let proxy = Setup::new(driver, upstream.url()).set("body_size.max", "0").start();
    let mut client = proxy.connect();
    let before = proxy.process.resident_bytes();
    client.send(&wire(format!("POST /large HTTP/1.1\r\n{{H}}Content-Length: {bytes_max}\r\n\r\n")));
    let mut far = upstream.accept_unrecorded();
    let mut made = Stream::new(seed());
    let sent =
        client.send_until_blocked(Duration::from_millis(500), bytes_max, |count| made.take(count));
    assert!(sent.blocked, "{} bytes were taken for an application that reads nothing", sent.taken);
    let grown = proxy.process.resident_bytes().saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes of memory for an application that reads nothing");
    let mut sender = client.twin();
    let sending = std::thread::spawn(move || {
        sender.send(&sent.rest);
        let mut left = bytes_max - sent.taken - sent.rest.len();
        while left > 0 {
            let count = left.min(64 * 1024);
            sender.send(&made.take(count));
            left -= count;
        }
    });
    let request = far.read_request();
    assert!(request.body == Stream::new(seed()).take(bytes_max), "seed {}", seed());
    sending.join().expect("the client");
    far.send(ANSWER_LAST);
    assert_eq!(client.read_response().body, b"ok");
}

/// C30 and A62 for plain requests: while the upstream is silent, in the request's body, in the answer.
fn a_client_that_leaves_ends_the_request(driver: Driver) {
    let (mut proxy, upstream) = behind(driver);
    let leave = |client: Peer, reset: bool, conn: &Conn| {
        if reset {
            client.reset();
        } else {
            drop(client);
        }
        conn.wait_end();
    };
    for reset in [false, true] {
        let mut client = proxy.connect();
        let conn = asked(&mut client, None, &upstream, "GET /silent HTTP/1.1\r\n{H}\r\n");
        leave(client, reset, &conn);
        assert!(conn.pending().is_empty());
        let client = proxy.sent(&wire("POST /body HTTP/1.1\r\n{H}Content-Length: 10\r\n\r\nhello"));
        let mut conn = upstream.accept();
        conn.read_head();
        conn.expect(b"hello");
        leave(client, reset, &conn);
        let mut client = proxy.connect();
        let mut conn = asked(&mut client, None, &upstream, "GET /answer HTTP/1.1\r\n{H}\r\n");
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\nbegin");
        assert_eq!(client.read_head().status(), 200);
        client.expect(b"begin");
        leave(client, reset, &conn);
    }
    proxy.wait_metric("vibewarden_active_connections", &[], 1.0);
    let stopped = proxy.stop();
    upstream.assert_untouched();
    // Those that left before an answer have no event; a cut answer has one.
    let ended: Vec<_> = stopped.events.iter().filter(|event| event.ends_a_request()).collect();
    assert_eq!(ended.len(), 2, "{ended:#?}");
    assert!(ended.iter().all(|event| event.is("request.proxied")));
    assert!(ended.iter().all(|event| event.text("payload.path") == "/answer"));
}

/// C36.
fn an_upstream_that_dies_in_its_answer_is_no_clean_end(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    for (start, lengths) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhello", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n", false),
    ] {
        for reset in [false, true] {
            let mut client = proxy.connect();
            let mut conn = asked(&mut client, None, &upstream, "GET /e HTTP/1.1\r\n{H}\r\n");
            conn.send(start.as_bytes());
            assert_eq!(client.read_head().status(), 200);
            if reset {
                // What it has sent is on its way before it goes.
                client
                    .try_take(|held, _| show(held).contains("hello").then_some(0))
                    .expect("hello");
                conn.reset();
            } else {
                conn.fin();
            }
            let (body, end) = client.read_to_end();
            if lengths {
                assert!(body.len() < 10, "{}", show(&body));
            } else {
                let seen = Recorded(&body).chunks();
                let whole = seen.is_ok() && body.ends_with(b"0\r\n\r\n");
                assert!(!whole || end == End::Reset, "a clean end: {}", show(&body));
            }
        }
    }
    // An answer that lasts until the end is whole at an orderly end, and cut at a reset.
    let mut client = proxy.connect();
    let mut conn = asked(&mut client, None, &upstream, "GET /e HTTP/1.1\r\n{H}\r\n");
    conn.send(b"HTTP/1.1 200 OK\r\n\r\nhello");
    client.read_head();
    client.try_take(|held, _| show(held).contains("hello").then_some(0)).expect("hello");
    conn.reset();
    let (body, end) = client.read_to_end();
    assert!(!body.ends_with(b"0\r\n\r\n") || end == End::Reset, "{}", show(&body));
}

/// C37.
fn broken_chunks_of_an_answer_are_no_clean_end(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let broken: [&[u8]; 14] = [
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello\r\n0\n\r\n",
        b"5\r\nhello\r\n0\r\n\n",
        b"5\rhello\r\n0\r\n\r\n",
        b"1x\r\nh\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhelloXX\r\n0\r\n\r\n",
        b"5\r\nhello\r\n-1\r\n0\r\n\r\n",
        b"5\r\nhello\r\n11111111111111111\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX : y\r\n\r\n",
        b"5\r\nhello\r\n0\r\nno colon\r\n\r\n",
        b"5;a=\x00\r\nhello\r\n0\r\n\r\n",
    ];
    for body in broken {
        let mut client = proxy.connect();
        let mut conn = asked(&mut client, None, &upstream, "GET /e HTTP/1.1\r\n{H}\r\n");
        conn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        conn.send(body);
        let head = client.read_head();
        if head.status() == 502 {
            continue;
        }
        let (seen, end) = client.read_to_end();
        let whole = Recorded(&seen).chunks();
        let clean = whole.is_ok() && seen.ends_with(b"\r\n\r\n");
        assert!(!clean || end == End::Reset, "a clean end after {}: {}", show(body), show(&seen));
        conn.wait_end();
    }
}

/// C21, C23, C24, C26, C31, C34 for plain requests: each is 502 and both sides get over it.
fn invalid_answers_to_plain_requests_are_502(driver: Driver) {
    let (mut proxy, upstream) = behind(driver);
    let many_lines = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(257)).into_bytes();
    let long_head = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(65_536)).into_bytes();
    let invalid: [&[u8]; 21] = [
        b"BLAH\r\n\r\n",
        b"HTTP/1.1 200X OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.2 200 OK\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 1000 X\r\n\r\n",
        b"HTTP/1.1 65737 X\r\n\r\n",
        b"HTTP/1.1 20 X\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 200 OK\r\nX: a\nY: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        &many_lines,
        &long_head,
    ];
    for answer in invalid {
        let mut client = proxy.connect();
        let mut conn =
            asked(&mut client, None, &upstream, "GET /e HTTP/1.1\r\n{H}Connection: close\r\n\r\n");
        let _may_be_gone = conn.try_send(answer);
        client.read_answer().assert_refusal(502, "upstream_invalid_response");
        conn.wait_end();
    }
    for part in ["", "HTTP/1.1 200 O", "HTTP/1.1 103 Early\r\n\r\n", "HTTP/1.1 200 OK\r\nX: y\r\n"]
    {
        let mut client = proxy.connect();
        let mut conn =
            asked(&mut client, None, &upstream, "GET /e HTTP/1.1\r\n{H}Connection: close\r\n\r\n");
        conn.send(part.as_bytes());
        conn.fin();
        if part.contains("103") {
            assert_eq!(client.read_head().status(), 103);
        }
        client.read_answer().assert_refusal(502, "upstream_unavailable");
        conn.wait_end();
    }
    let stopped = proxy.stop();
    upstream.assert_untouched();
    assert_eq!(stopped.of_kind("upstream.unavailable").len(), invalid.len() + 4);
}

/// Contract 3.2.
fn a_plain_request_over_a_unix_socket(driver: Driver) {
    let directory = crate::harness::setup::Scratch::new();
    let path = directory.path().join("app.sock");
    let upstream = Upstream::unix(&path);
    let proxy: Proxy = Setup::new(driver, upstream.url()).start();
    let seen = forwarded(
        &proxy,
        &upstream,
        &wire("POST /file HTTP/1.1\r\n{H}Content-Length: 2\r\n\r\nhi"),
    );
    assert_eq!((seen.target(), seen.body.as_slice()), ("/file", &b"hi"[..]));
}
