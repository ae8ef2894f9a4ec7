//! Group (a), section 2.1, and the unread bodies of 2.6: a body has one length for everybody, or it is refused; what stood in it is
//! never a second request.

use crate::harness::message::Framing;
use crate::harness::payload::show;
use crate::harness::{
    ANSWER_KEPT, ANSWER_LAST, Driver, SMUGGLED, Setup, Upstream, behind, behind_one_worker,
    forwarded, wire,
};
use crate::request_heads::refuse_all;

on_drivers!(
    every:
        two_meanings_of_a_length_are_refused;
    both:
        framing_that_is_not_plain_is_refused,
        a_huge_length_costs_nothing,
        a_length_may_have_zeros_and_white_space,
        a_look_alike_is_no_length,
        any_spelling_of_chunked_is_chunked,
        connection_options_cannot_remove_framing,
        a_body_that_looks_like_a_request_is_a_body,
        a_local_answer_leaves_no_second_request,
        an_answer_before_the_body_leaves_no_second_request,
);

/// A1, A3, A4, A6, A22, A41.
fn two_meanings_of_a_length_are_refused(driver: Driver) {
    let requests: Vec<Vec<u8>> = [
        "POST /e HTTP/1.1\r\n{H}Content-Length: 45\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SM}",
        "POST /e HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n28\r\n{SM}\r\n0\r\n\r\n",
        "POST /e HTTP/1.1\r\n{H}Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SM}",
        "POST /e HTTP/1.1\r\n{H}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab{SM}",
        "POST /e HTTP/1.1\r\n{H}Content-Length: 40\r\nContent-Length: 0\r\n\r\n{SM}",
        "POST /e HTTP/1.1\r\n{H}Content-Length: 3\r\ncontent-length: 3\r\n\r\nabc{SM}",
        "POST /e HTTP/1.1\r\n{H}Content-Length: 3, 3\r\n\r\nabc{SM}",
        "POST /e HTTP/1.1\r\n{H}Content-Length: 40, 0\r\n\r\n{SM}",
        "POST /e HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SM}",
        "POST /e HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n{SM}",
        "POST /e HTTP/1.0\r\n{H}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SM}",
        "POST /e HTTP/1.0\r\n{H}Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SM}",
        "GET /e HTTP/1.1\r\n{H}Content-Length: 40\r\nTransfer-Encoding: chunked\r\n\r\n{SM}",
    ]
    .map(wire)
    .into();
    refuse_all(driver, 400, "bad_request", &requests);
}

/// A9, A10, A13, A19, A21, A24, A25, A27, A29, A36, A38; each with a request where the body would be.
fn framing_that_is_not_plain_is_refused(driver: Driver) {
    let lines: [&[u8]; 47] = [
        b"Content-Length: -1\r\n",
        b"Content-Length: -48\r\n",
        b"Content-Length: -0\r\n",
        b"Content-Length: +40\r\n",
        b"Content-Length: -123456789123456789123456789\r\n",
        b"Content-Length: 00000000000000000040\r\n",
        b"Content-Length: 0x28\r\n",
        b"Content-Length: 0o3\r\n",
        b"Content-Length: 4e1\r\n",
        b"Content-Length: 40.0\r\n",
        b"Content-Length: 40Z\r\n",
        b"Content-Length: Z40\r\n",
        b"Content-Length: 4 0\r\n",
        b"Content-Length: 4_0\r\n",
        b"Content-Length: \"40\"\r\n",
        b"Content-Length: 40;\r\n",
        b"Content-Length: ,\r\n",
        b"Content-Length: \r\n",
        b"Content-Length:\r\nContent-Length: 43\r\n",
        b"Content-Length : 40\r\n",
        b"Content-Length\t: 40\r\n",
        b"Content-Length\x85: 40\r\n",
        b"Content-Length\xa0: 40\r\n",
        b"Content-Length\x00: 40\r\n",
        b"Content-Length 40\r\n",
        b"Content-Length: 40\x0b\r\n",
        b"Content-Length: \xd9\xa4\xd9\xa0\r\n",
        b"Transfer-Encoding: chunked, gzip\r\n",
        b"Transfer-Encoding: chunked, gzip, chunked\r\n",
        b"Transfer-Encoding: chunked, chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"Transfer-Encoding: identity\r\n",
        b"Transfer-Encoding: \r\n",
        b"Transfer-Encoding:\r\nContent-Length: 40\r\n",
        b"Transfer-Encoding: chunked;x=y\r\n",
        b"Transfer-Encoding: ,chunked\r\n",
        b"Transfer-Encoding: \x0bchunked\r\n",
        b"Transfer-Encoding: \x0cchunked\r\n",
        b"Transfer-Encoding: chunked\x00\r\n",
        b"Transfer-Encoding: \xa0chunked\xa0\r\n",
        b"Transfer-Encoding: \xffchunked\xff\r\n",
        b"Transfer-Encoding: \"chunked\"\r\n",
        b"Transfer-Encoding: 'chunked'\r\n",
        b"Transfer-Encoding:\r\n chunked\r\n",
        b"Transfer-Encoding: chunked\r\n\tabc\r\n",
        b"Transfer-Encoding : chunked\r\n",
    ];
    let hidden: [&[u8]; 4] = [
        b"Foo: bar\rTransfer-Encoding: chunked\r\n",
        b"Foo: bar\nTransfer-Encoding: chunked\r\n",
        b"Foo: bar\r\n\rTransfer-Encoding: chunked\r\n",
        b"Foo: bar\nContent-Length: 40\r\n",
    ];
    let requests: Vec<Vec<u8>> = lines
        .iter()
        .chain(&hidden)
        .map(|line| wire([b"POST /e HTTP/1.1\r\n{H}", *line, b"\r\n{SM}"].concat()))
        .collect();
    refuse_all(driver, 400, "bad_request", &requests);
}

/// A16: refused by the limit where there is one, and streamed where there is none; no memory either way.
fn a_huge_length_costs_nothing(driver: Driver) {
    let lengths = ["9223372036854775807", "9999999999999999999"];
    let upstream = Upstream::start();
    let proxy = Setup::new(driver, upstream.url()).set("body_size.max", "1MB").start();
    for length in lengths {
        let request = format!("POST /e HTTP/1.1\r\n{{H}}Content-Length: {length}\r\n\r\nx");
        proxy.answer_to(&wire(request)).assert_refusal(413, "payload_too_large");
    }
    upstream.assert_untouched();
    let proxy = Setup::new(driver, upstream.url()).set("body_size.max", "0").start();
    let before = proxy.process.resident_bytes();
    for length in lengths {
        let request = format!("POST /e HTTP/1.1\r\n{{H}}Content-Length: {length}\r\n\r\nx");
        let client = proxy.sent(&wire(request));
        let mut conn = upstream.accept();
        let head = conn.read_head();
        assert_eq!(head.one("content-length"), Some(length));
        conn.expect(b"x");
        let grown = proxy.process.resident_bytes().saturating_sub(before);
        assert!(grown < 4 << 20, "{grown} bytes for a length of {length}");
        drop(client);
        conn.expect_end();
    }
}

/// A14, A17.
fn a_length_may_have_zeros_and_white_space(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let request = wire("POST /e HTTP/1.1\r\n{H}Content-Length:\t3 \t\r\n\r\nabc");
    let seen = forwarded(&proxy, &upstream, &request);
    assert_eq!(seen.head.one("content-length"), Some("3"));
    assert_eq!(seen.body, b"abc");
    // Decimal, written so that nobody reads it as octal; or refused.
    let mut client =
        proxy.sent(&wire("POST /e HTTP/1.1\r\n{H}Content-Length: 010\r\n\r\n0123456789"));
    if let Some(mut conn) =
        crate::harness::eventually("the request or a refusal", || match upstream.try_accept() {
            Some(conn) => Some(Some(conn)),
            None => (!client.pending().is_empty()).then_some(None),
        })
    {
        let seen = conn.read_request();
        assert_eq!(seen.head.one("content-length"), Some("10"));
        assert_eq!(seen.body, b"0123456789");
        conn.send(ANSWER_LAST);
        assert_eq!(client.read_response().status(), 200);
    } else {
        client.read_answer().assert_refusal(400, "bad_request");
    }
}

/// A18.
fn a_look_alike_is_no_length(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    for line in ["Content_Length: 3", "Content.Length: 3", "Transfer_Encoding: chunked"] {
        let mut client =
            proxy.sent(&wire(format!("POST /e HTTP/1.1\r\n{{H}}{line}\r\n\r\nabc\r\n\r\n")));
        let mut conn = upstream.accept();
        let seen = conn.read_request();
        assert!(seen.body.is_empty(), "{seen:?}");
        let names = seen.head.names().join(" ").to_ascii_lowercase();
        assert!(!names.contains('_') && !names.contains('.'), "{names}");
        conn.send(ANSWER_KEPT);
        assert_eq!(client.read_response().body, b"ok");
        // The stray bytes are a new, broken request.
        client.read_answer().assert_refusal(400, "bad_request");
        assert!(conn.pending().is_empty(), "{}", show(&conn.pending()));
    }
}

/// A31.
fn any_spelling_of_chunked_is_chunked(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    for line in [
        "tRANSFER-eNCODING: CHUNKED",
        "Transfer-Encoding: chunked",
        "transfer-encoding:chunked",
        "Transfer-Encoding: \tChunked \t",
    ] {
        let request =
            format!("POST /e HTTP/1.1\r\n{{H}}{line}\r\n\r\n28\r\n{{SM}}\r\n1\r\n!\r\n0\r\n\r\n");
        let seen = forwarded(&proxy, &upstream, &wire(request));
        assert_eq!(seen.framing, Framing::Chunked, "{line}");
        assert_eq!(seen.body, [SMUGGLED, b"!"].concat(), "{line}");
    }
}

/// A39, and the same for a length.
fn connection_options_cannot_remove_framing(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    for (option, framed) in [
        ("Transfer-Encoding", "Transfer-Encoding: chunked\r\n\r\n28\r\n{SM}\r\n0\r\n\r\n"),
        ("transfer-encoding, close", "Transfer-Encoding: chunked\r\n\r\n28\r\n{SM}\r\n0\r\n\r\n"),
        ("Content-Length", "Content-Length: 40\r\n\r\n{SM}"),
        ("close, CONTENT-LENGTH, Host", "Content-Length: 40\r\n\r\n{SM}"),
    ] {
        let request = format!("POST /e HTTP/1.1\r\n{{H}}X: x\r\nConnection: {option}\r\n{framed}");
        let seen = forwarded(&proxy, &upstream, &wire(request));
        assert_eq!(seen.body, SMUGGLED, "{option}");
        assert_eq!(seen.head.one("host"), Some("t.test"), "{option}");
    }
}

/// A43: whatever the method, and whatever the answer.
fn a_body_that_looks_like_a_request_is_a_body(driver: Driver) {
    let (mut proxy, upstream) = behind(driver);
    for method in ["GET", "HEAD", "DELETE", "OPTIONS", "POST", "FOO"] {
        for framed in [
            "Content-Length: 40\r\n\r\n{SM}",
            "Transfer-Encoding: chunked\r\n\r\n28\r\n{SM}\r\n0\r\n\r\n",
        ] {
            let request = format!("{method} /e HTTP/1.1\r\n{{H}}{framed}");
            let seen = forwarded(&proxy, &upstream, &wire(&request));
            assert_eq!(seen.body, SMUGGLED, "{request}");
        }
    }
    let stopped = proxy.stop();
    upstream.assert_untouched();
    assert_eq!(stopped.of_kind("request.proxied").len(), 12);
    assert!(!stopped.events.iter().any(|event| event.line.contains("smuggled")));
}

/// A126, I25: the answers that the proxy gives by itself.
fn a_local_answer_leaves_no_second_request(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = Setup::new(driver, upstream.url()).set("body_size.max", "30B").start();
    let bodies = [
        "Content-Length: 40\r\n\r\n{SM}",
        "Content-Length: 1000\r\n\r\n{SM}",
        "Transfer-Encoding: chunked\r\n\r\n28\r\n{SM}\r\n0\r\n\r\n",
    ];
    for body in bodies {
        for (start, status) in [
            ("POST /_vibewarden/health", 405_u16),
            ("GET /_vibewarden/nothing", 404),
            ("TRACE /e", 405),
            ("POST /e\\", 400),
            ("POST /%00", 400),
        ] {
            let request = wire(format!("{start} HTTP/1.1\r\n{{H}}{body}"));
            let mut client = proxy.sent(&request);
            client.fin();
            let answer = client.read_answer();
            assert_eq!(answer.head.status(), status, "{}", show(&request));
            let length = answer.head.one("content-length").unwrap_or_default();
            assert_eq!(length, answer.body.len().to_string(), "{}", show(&answer.body));
        }
    }
    for body in &bodies[..2] {
        let request = wire(format!("POST /e HTTP/1.1\r\n{{H}}{body}"));
        proxy.answer_to(&request).assert_refusal(413, "payload_too_large");
    }
    let stopped = proxy.stop();
    upstream.assert_untouched();
    assert!(!stopped.events.iter().any(|event| event.line.contains("smuggled")));
}

/// A128: the upstream answers at once and never reads the body.
fn an_answer_before_the_body_leaves_no_second_request(driver: Driver) {
    let (mut proxy, upstream) = behind_one_worker(driver);
    for expect in ["", "Expect: 100-continue\r\n"] {
        let mut client = proxy
            .sent(&wire(format!("POST /e HTTP/1.1\r\n{{H}}{expect}Content-Length: 40\r\n\r\n")));
        let mut conn = upstream.accept();
        assert_eq!(conn.read_head().one("content-length"), Some("40"));
        conn.send(ANSWER_KEPT);
        assert_eq!(client.read_response().body, b"ok");
        let _may_be_closed = client.try_send(SMUGGLED);
        client.fin();
        let (more, _) = client.read_to_end();
        assert!(more.is_empty(), "a second answer: {}", show(&more));
        // Never another request on a connection that still owes a body.
        conn.wait_end();
        assert!([&b""[..], SMUGGLED].contains(&conn.pending().as_slice()));
        let seen = forwarded(&proxy, &upstream, &wire("GET /next HTTP/1.1\r\n{H}\r\n"));
        assert_eq!(seen.target(), "/next");
    }
    let stopped = proxy.stop();
    upstream.assert_untouched();
    assert!(!stopped.events.iter().any(|event| event.line.contains("smuggled")));
}
