//! `body_size`: step 11 of section 5.1, I24.

use crate::harness::message::{Recorded, Source, chunked};
use crate::harness::payload::show;
use crate::harness::{ANSWER_LAST, Driver, End, Setup, Upstream, behind, forwarded, wire};

on_drivers!(
    every: ;
    both:
        a_stated_length_over_the_limit_never_leaves,
        a_growing_body_over_the_limit_is_cut,
        the_limit_is_one_megabyte_unless_told,
        no_limit_is_no_limit,
        overrides_follow_segments_and_the_longest_wins,
        an_answer_under_way_is_cut_with_its_request,
        a_refused_body_may_still_arrive,
);

over_tls!(
    a_growing_body_over_the_limit_is_cut,
    an_answer_under_way_is_cut_with_its_request,
    a_refused_body_may_still_arrive,
);

fn with_length(bytes: usize) -> Vec<u8> {
    let head = wire(format!("POST /e HTTP/1.1\r\n{{H}}Content-Length: {bytes}\r\n\r\n"));
    [head, vec![b'x'; bytes]].concat()
}

fn in_chunks(bytes: usize, sizes: &[usize]) -> Vec<u8> {
    let head = wire("POST /e HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n");
    [head, chunked(&vec![b'x'; bytes], sizes)].concat()
}

/// The exact limit passes, one more does not, and nothing of it reaches the upstream.
fn a_stated_length_over_the_limit_never_leaves(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = Setup::new(driver, upstream.url()).set("body_size.max", "1KB").start();
    for bytes in [0, 1, 1023, 1024] {
        let seen = forwarded(&proxy, &upstream, &with_length(bytes));
        assert_eq!(seen.body.len(), bytes);
    }
    for request in [
        with_length(1025),
        with_length(5000),
        wire("POST /e HTTP/1.1\r\n{H}Content-Length: 1025\r\n\r\n"),
        wire("GET /e HTTP/1.1\r\n{H}Content-Length: 99999\r\n\r\nabc"),
        wire("POST /e HTTP/1.0\r\n{H}Content-Length: 1025\r\n\r\n"),
    ] {
        proxy.answer_to(&request).assert_refusal(413, "payload_too_large");
    }
    let answer = proxy.answer_to(&wire("HEAD /e HTTP/1.1\r\n{H}Content-Length: 1025\r\n\r\n"));
    answer.assert_refusal_without_body(413);
    let stopped = proxy.stop();
    upstream.assert_untouched();
    let blocked = stopped.of_kind("request.blocked");
    assert_eq!(blocked.len(), 6);
    for event in blocked {
        assert_eq!(event.text("payload.blocked_by"), "body_size", "{}", event.line);
        assert_eq!(event.text("payload.reason"), "payload_too_large", "{}", event.line);
        assert_eq!(event.count("payload.status_code"), 413, "{}", event.line);
        assert_eq!(event.text("payload.path"), "/e", "{}", event.line);
    }
}

/// 413 before the upstream sees an end; its connection is ended.
fn a_growing_body_over_the_limit_is_cut(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = Setup::new(driver, upstream.url()).set("body_size.max", "1KB").start();
    for sizes in [&[1024][..], &[1], &[100, 7], &[1000, 24]] {
        let seen = forwarded(&proxy, &upstream, &in_chunks(1024, sizes));
        assert_eq!(seen.body.len(), 1024, "{sizes:?}");
    }
    for sizes in [&[1024, 1][..], &[1], &[100, 7], &[1025], &[5000]] {
        for bytes in [1025, 5000] {
            let answer = proxy.answer_to(&in_chunks(bytes, sizes));
            answer.assert_refusal(413, "payload_too_large");
            if let Some(conn) = upstream.try_accept() {
                conn.wait_end();
                let seen = conn.pending();
                let whole = Recorded(&seen).request();
                assert!(seen.is_empty() || whole.is_err(), "a whole request: {}", show(&seen));
            }
        }
    }
    // The first byte over the limit is enough; nobody waits for the rest.
    let mut client =
        proxy.sent(&wire("POST /e HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n400\r\n"));
    client.send(&[b'x'; 1024]);
    client.send(b"\r\n1\r\nx");
    client.read_answer().assert_refusal(413, "payload_too_large");
    let stopped = proxy.stop();
    let blocked = stopped.of_kind("request.blocked");
    assert_eq!(blocked.len(), 11);
    assert!(blocked.iter().all(|event| event.text("payload.blocked_by") == "body_size"));
}

fn the_limit_is_one_megabyte_unless_told(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    assert_eq!(forwarded(&proxy, &upstream, &with_length(1 << 20)).body.len(), 1 << 20);
    for bytes in [(1 << 20) + 1, 2 << 20] {
        let request = format!("POST /e HTTP/1.1\r\n{{H}}Content-Length: {bytes}\r\n\r\n");
        proxy.answer_to(&wire(request)).assert_refusal(413, "payload_too_large");
    }
    upstream.assert_untouched();
}

fn no_limit_is_no_limit(driver: Driver) {
    for off in ["0", "\"\""] {
        let upstream = Upstream::start();
        let proxy = Setup::new(driver, upstream.url()).set("body_size.max", off).start();
        let request = with_length(3 << 20);
        let mut client = proxy.connect();
        let mut sender = client.twin();
        let sending = std::thread::spawn(move || sender.send(&request));
        let mut conn = upstream.accept();
        assert_eq!(conn.read_request().body.len(), 3 << 20, "{off}");
        conn.send(ANSWER_LAST);
        assert_eq!(client.read_response().body, b"ok");
        sending.join().expect("the client");
    }
}

/// 3.6 and 10.2: on a segment boundary, the longest, decoded once; a path that is not plain matches none.
fn overrides_follow_segments_and_the_longest_wins(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = Setup::new(driver, upstream.url())
        .set("body_size.max", "10B")
        .set(
            "body_size.overrides",
            "[{path: /up, max: 20B}, {path: /up/large, max: 1KB}, {path: /none, max: 0}, {path: /up/small, max: 5B}]",
        )
        .start();
    for (target, limit) in [
        ("/", 10),
        ("/other", 10),
        ("/up", 20),
        ("/up/", 20),
        ("/up/x", 20),
        ("/up?x=/up/large", 20),
        ("/upper", 10),
        ("/UP", 10),
        ("/x/up", 10),
        ("/up/large", 1024),
        ("/up/large/x/y", 1024),
        ("/up/larger", 20),
        ("/up/%6carge", 1024),
        ("/up/small/x", 5),
        ("/up//large", 10),
        ("/up%2flarge", 10),
        ("/up;x", 10),
    ] {
        let request = |bytes: usize| {
            let head = format!("POST {target} HTTP/1.1\r\n{{H}}Content-Length: {bytes}\r\n\r\n");
            [wire(head), vec![b'x'; bytes]].concat()
        };
        let seen = forwarded(&proxy, &upstream, &request(limit));
        assert_eq!((seen.target(), seen.body.len()), (target, limit));
        let answer = proxy.answer_to(&request(limit + 1));
        assert_eq!(answer.head.status(), 413, "{target} with {}", limit + 1);
        answer.assert_refusal(413, "payload_too_large");
    }
    let request = wire("POST /none/x HTTP/1.1\r\n{H}Content-Length: 2000\r\n\r\n");
    let seen = forwarded(&proxy, &upstream, &[request, vec![b'x'; 2000]].concat());
    assert_eq!(seen.body.len(), 2000);
    upstream.assert_untouched();
}

/// 6.2: if the answer has begun, both sides are closed.
fn an_answer_under_way_is_cut_with_its_request(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = Setup::new(driver, upstream.url()).set("body_size.max", "1KB").start();
    let mut client = proxy
        .sent(&wire("POST /e HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n"));
    let mut conn = upstream.accept();
    conn.read_head();
    conn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    assert_eq!(client.read_head().status(), 200);
    client.try_take(|held, _| show(held).contains("hello").then_some(0)).expect("hello");
    let _may_be_gone = client.try_send(&chunked(&[b'x'; 5000], &[5000]));
    let (body, end) = client.read_to_end();
    let clean = Recorded(&body).chunks().is_ok();
    assert!(!clean || end == End::Reset, "{}", show(&body));
    assert!(!show(&body).contains("HTTP/1.1"), "a second head: {}", show(&body));
    conn.wait_end();
    let seen = conn.pending();
    assert!(!seen.ends_with(b"0\r\n\r\n"), "{}", show(&seen));
}

/// 6.1: the refusal arrives whole while the body is still sent.
fn a_refused_body_may_still_arrive(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    for start in [
        "POST /e HTTP/1.1\r\n{H}Content-Length: 8000000\r\n\r\n",
        "POST /e HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n1000000\r\n",
    ] {
        let mut client = proxy.sent(&wire(start));
        let mut sender = client.twin();
        let sending = std::thread::spawn(move || {
            let block = vec![b'x'; 64 * 1024];
            for _ in 0..32 {
                sender.send(&block);
            }
            sender.fin();
        });
        let answer = client.read_answer();
        answer.assert_refusal(413, "payload_too_large");
        sending.join().expect("what the client sends is read and dropped");
    }
    if let Some(conn) = upstream.try_accept() {
        conn.wait_end();
        assert!(Recorded(&conn.pending()).request().is_err());
    }
}
