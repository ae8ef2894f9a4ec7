//! Group (a) as far as a head goes, over real sockets: what is refused, with which answer, and that nothing of it reaches the upstream.

use crate::harness::payload::{TARGETS, show};
use crate::harness::{Answer, Driver, End, Setup, Upstream, behind, wire};

on_drivers!(
    every: ;
    both:
    malformed_heads_are_refused,
    other_statuses_of_a_head,
    heads_are_bounded_in_size_and_lines,
    a_refusal_arrives_whole_while_the_client_still_sends,
    a_cut_head_is_no_request,
    paths_that_climb_are_refused,
);

over_tls!(
    malformed_heads_are_refused,
    heads_are_bounded_in_size_and_lines,
    a_refusal_arrives_whole_while_the_client_still_sends,
    a_cut_head_is_no_request,
);

#[track_caller]
pub(crate) fn refuse_all(driver: Driver, status: u16, code: &str, requests: &[Vec<u8>]) {
    let (mut proxy, upstream) = behind(driver);
    let mut ids = Vec::new();
    for request in requests {
        let answer: Answer = proxy.answer_to(request);
        let seen = answer.head.status();
        assert_eq!(seen, status, "for {}", show(request));
        ids.push(answer.assert_refusal(status, code));
    }
    let stopped = proxy.stop();
    upstream.assert_untouched();
    let blocked = stopped.of_kind("request.blocked");
    assert_eq!(blocked.len(), ids.len());
    for event in blocked {
        assert!(ids.iter().any(|id| id == event.request_id()), "{}", event.line);
        assert_eq!(event.text("payload.blocked_by"), "http", "{}", event.line);
        assert_eq!(event.text("payload.reason"), code, "{}", event.line);
        assert_eq!(event.count("payload.status_code"), u64::from(status));
        // These heads were read; it is what they ask for that is refused.
        if [405, 417].contains(&status) {
            assert!(!event.text("payload.method").is_empty(), "{}", event.line);
            assert!(!event.text("payload.path").is_empty(), "{}", event.line);
        }
    }
}

/// Header lines that spoil a head.
pub(crate) const BAD_LINES: [&[u8]; 52] = [
    b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    b"Content-Length: 1\r\nContent-Length: 2\r\n",
    b"Content-Length: 0\r\nContent-Length: 0\r\n",
    b"Content-Length: 3, 3\r\n",
    b"Content-Length: -1\r\n",
    b"Content-Length: +1\r\n",
    b"Content-Length: 0x3\r\n",
    b"Content-Length: 3.0\r\n",
    b"Content-Length: 3e0\r\n",
    b"Content-Length: \r\n",
    b"Content-Length: 1 1\r\n",
    b"Content-Length: 12345678901234567890\r\n",
    b"Content-Length : 3\r\n",
    b"Content-Length\x00: 3\r\n",
    b"Content-Length\x85: 3\r\n",
    b"Content-Length\xa0: 3\r\n",
    b"Content-Length 3\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked, gzip\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding: \r\n",
    b"Transfer-Encoding: \x0bchunked\r\n",
    b"Transfer-Encoding: chunked\x00\r\n",
    b"Transfer-Encoding: \"chunked\"\r\n",
    b"Transfer-Encoding: xchunked\r\n",
    b"Transfer-Encoding:\r\n chunked\r\n",
    b"Foo: bar\rTransfer-Encoding: chunked\r\n",
    b"Foo: bar\nTransfer-Encoding: chunked\r\n",
    b"Foo: bar\r\n\rTransfer-Encoding: chunked\r\n",
    b"Foo: bar\n",
    b"Foo: va\rlue\r\n",
    b"Foo: a\x00b\r\n",
    b"Foo: a\x1bb\r\n",
    b"Foo: a\x7fb\r\n",
    b": value\r\n",
    b":\r\n",
    b"fo o: b\r\n",
    b"fo[o: b\r\n",
    b"Fo@: b\r\n",
    b"f(o: b\r\n",
    b"{: 1\r\n",
    b"name\r\n : value\r\n",
    b"name \r\n: v\r\n",
    b"X: a\r\n b\r\n",
    b"X: a\r\n\tb\r\n",
    b" X: a\r\n",
    b"Authorization : Bearer good\r\n",
    b"Upgrade : websocket\r\n",
    b"no colon at all\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
    b"X-Tab\t: v\r\n",
];

/// Request lines that are none.
pub(crate) const BAD_STARTS: [&[u8]; 34] = [
    b"GET  /ws HTTP/1.1",
    b"GET /ws  HTTP/1.1",
    b"GET /ws HTTP/1.1 ",
    b" GET /ws HTTP/1.1",
    b"GET\t/ws HTTP/1.1",
    b"GET /ws",
    b"GET /ws ",
    b"GET  HTTP/1.1",
    b"GET /ws HTTP/1.2",
    b"GET /ws HTTP/1.10",
    b"GET /ws HTTP/01.1",
    b"GET /ws HTTP/1.1x",
    b"GET /ws http/1.1",
    b"GET /ws HTTP/ 1.1",
    b"GET /ws HTTP/2.0",
    b"GET /ws HTTP/0.9",
    b"G=\":<>(e),[T];?\" /ws HTTP/1.1",
    b"G\x00T /ws HTTP/1.1",
    b"P()ST /ws HTTP/1.1",
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG /ws HTTP/1.1",
    b"GET /ws\x00 HTTP/1.1",
    b"GET /w\x1fs HTTP/1.1",
    b"GET /w\x7fs HTTP/1.1",
    b"GET /w\xc3\xa9s HTTP/1.1",
    b"GET /a b HTTP/1.1",
    b"GET /ws#frag HTTP/1.1",
    b"GET /w\\s HTTP/1.1",
    b"GET * HTTP/1.1",
    b"OPTIONS */test HTTP/1.1",
    b"GET admin HTTP/1.1",
    b"GET t.test:80 HTTP/1.1",
    b"GET http://evil.test/ws HTTP/1.1",
    b"GET http://user@t.test/ws HTTP/1.1",
    b"GET ws://t.test/ws HTTP/1.1",
];

/// `Host` lines that name no host, or two.
pub(crate) const BAD_HOSTS: [&[u8]; 15] = [
    b"",
    b"Host: t.test\r\nHost: t.test\r\n",
    b"Host: t.test\r\nHost: u.test\r\n",
    b"Host:\r\n",
    b"Host: \r\n",
    b"Host: a,b\r\n",
    b"Host: a b\r\n",
    b"Host: a/b\r\n",
    b"Host: u@a\r\n",
    b"Host: a?b\r\n",
    b"Host: a#b\r\n",
    b"Host: a\\b\r\n",
    b"Host: a:b\r\n",
    b"Host: a:99999\r\n",
    b"Host: good.test\x00.evil\r\n",
];

/// A1–A43, A68–A115, B34 and E8, as far as they are 400; every one of them inside an otherwise good upgrade.
fn malformed_heads_are_refused(driver: Driver) {
    let request = |start: &[u8], host: &[u8], line: &[u8]| {
        wire([start, b"\r\n", host, b"{U}{K}", line, b"\r\n"].concat())
    };
    let (start, host) = (&b"GET /ws HTTP/1.1"[..], &b"{H}"[..]);
    let mut requests: Vec<Vec<u8>> = Vec::new();
    requests.extend(BAD_LINES.map(|line| request(start, host, line)));
    requests.extend(BAD_STARTS.map(|start| request(start, host, b"")));
    requests.extend(BAD_HOSTS.map(|host| request(start, host, b"")));
    requests.extend([
        wire("GET /ws HTTP/1.1\n{H}{U}{K}\r\n"),
        b"GET /ws HTTP/1.1\nHost: t.test\n\n".to_vec(),
        wire("GET /ws HTTP/1.1\r{H}\r\r"),
        wire("\r\n\r\nGET /ws HTTP/1.1\r\n{H}{U}{K}\r\n"),
        wire("\nGET /ws HTTP/1.1\r\n{H}{U}{K}\r\n"),
        wire("GET /ws HTTP/1.1\r\n{H}Upgrade: websocket\x00\r\nConnection: Upgrade\r\n{K}\r\n"),
        wire("GET /ws HTTP/1.1\r\n{H}Upgrade: websocket\x0b\r\nConnection: Upgrade\r\n{K}\r\n"),
        wire("POST /e HTTP/1.0\r\n{H}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        wire("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        wire("PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n{HS}"),
    ]);
    refuse_all(driver, 400, "bad_request", &requests);
}

/// A102, A129 and `TRACE`.
fn other_statuses_of_a_head(driver: Driver) {
    refuse_all(
        driver,
        405,
        "method_not_allowed",
        &[
            wire("CONNECT t.test:80 HTTP/1.1\r\n{H}\r\n"),
            wire("CONNECT / HTTP/1.1\r\n{H}\r\n"),
            wire("CONNECT t.test:80 HTTP/1.1\r\n{H}{U}{K}\r\n"),
            wire("TRACE / HTTP/1.1\r\n{H}\r\n"),
            wire("TRACE /ws HTTP/1.1\r\n{H}{U}{K}\r\n"),
        ],
    );
    refuse_all(
        driver,
        417,
        "expectation_failed",
        &[
            wire("GET /ws HTTP/1.1\r\n{H}{U}{K}Expect: x 100-continue\r\n\r\n"),
            wire("GET /ws HTTP/1.1\r\n{H}{U}{K}Expect: 100-continue, 100-continue\r\n\r\n"),
            wire("GET /ws HTTP/1.1\r\n{H}{U}{K}Expect: 200-ok\r\n\r\n"),
        ],
    );
}

/// A96, A119, A121, G8.
fn heads_are_bounded_in_size_and_lines(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy =
        Setup::new(driver, upstream.url()).set("server.max_header_bytes", "2KB").start();
    let sized = |bytes: usize| {
        let empty = wire("GET / HTTP/1.1\r\n{H}{U}{K}\r\n").len();
        let target = "a".repeat(bytes - empty);
        wire(format!("GET /{target} HTTP/1.1\r\n{{H}}{{U}}{{K}}\r\n"))
    };
    let mut client = proxy.sent(&sized(2048));
    let mut conn = upstream.accept();
    conn.read_head();
    conn.send(crate::harness::ANSWER_101);
    client.open();
    drop((client, conn));
    let mut too_large = vec![
        sized(2049),
        sized(65_536),
        wire(format!("GET /ws HTTP/1.1\r\n{{H}}X: {}\r\n{{U}}{{K}}\r\n", "v".repeat(2048))),
        // No end of the head is needed to know.
        format!("GET /{}", "a".repeat(4096)).into_bytes(),
        format!("{} / HTTP/1.1\r\n", "M".repeat(65_536)).into_bytes(),
    ];
    for request in too_large.drain(..) {
        let answer = proxy.answer_to(&request);
        // A method of 64 kB may be named bad before it is named large.
        if answer.head.status() == 400 && request.starts_with(b"MMM") {
            continue;
        }
        answer.assert_refusal(431, "headers_too_large");
    }
    drop(proxy.stop());
    upstream.assert_untouched();

    let (proxy, upstream) = behind(driver);
    let lined = |count: usize| {
        let lines = "X: y\r\n".repeat(count - 5);
        wire(format!("GET /ws HTTP/1.1\r\n{{H}}{{U}}{{K}}{lines}\r\n"))
    };
    let _client = proxy.sent(&lined(256));
    assert_eq!(upstream.accept().read_head().all("x").len(), 251);
    for count in [257, 1000, 2600] {
        let answer = proxy.answer_to(&lined(count));
        answer.assert_refusal(431, "headers_too_large");
    }
    upstream.assert_untouched();
}

/// Contract 6.1: the proxy reads and discards for a bounded time before it closes.
fn a_refusal_arrives_whole_while_the_client_still_sends(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    for request in [
        wire("POST /ws HTTP/1.1\r\n{H}{U}{K}Content-Length: 8000000\r\n\r\n"),
        wire("POST /ws HTTP/1.1\r\n{H}Content-Length: 1, 2\r\n\r\n"),
    ] {
        let mut client = proxy.sent(&request);
        let mut sender = client.twin();
        let sending = std::thread::spawn(move || {
            let body = vec![b'x'; 64 * 1024];
            for _ in 0..8 {
                sender.send(&body);
            }
            sender.fin();
        });
        let answer = client.read_head();
        assert_eq!(answer.status(), 400);
        let length: usize = answer.one("content-length").unwrap_or("0").parse().expect("a number");
        client.read_exact(length);
        assert_eq!(client.expect_end(), End::Eof, "closed over unread bytes");
        sending.join().expect("what the client sends is read and dropped");
    }
    upstream.assert_untouched();
    // A client that never stops is let go of all the same.
    let mut client = proxy.sent(&wire("POST /ws HTTP/1.1\r\n{H}Content-Length: 1, 2\r\n\r\n"));
    let body = vec![b'x'; 64 * 1024];
    let deadline = std::time::Instant::now() + crate::harness::PATIENCE;
    while client.try_send(&body).is_ok() {
        assert!(std::time::Instant::now() < deadline, "still read");
    }
}

/// A131: the end of input inside a head is no request, and not worth an answer of success.
fn a_cut_head_is_no_request(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = Setup::new(driver, upstream.url()).set("server.read_timeout", "60s").start();
    for cut in [1, 10, 60, crate::harness::HANDSHAKE.len() - 1] {
        let mut client = proxy.sent(&crate::harness::HANDSHAKE[..cut]);
        client.fin();
        let (bytes, _) = client.read_to_end();
        let fine = bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 400 ");
        assert!(fine, "cut at {cut}: {}", show(&bytes));
    }
    let mut client = proxy.connect();
    client.fin();
    assert_eq!(client.expect_end(), End::Eof);
    proxy.connect().reset();
    drop(proxy.stop());
    upstream.assert_untouched();
}

/// Contract 6.1, path; E58, E59, E63, E66, E72.
fn paths_that_climb_are_refused(driver: Driver) {
    let targets = [
        "/public/../private",
        "/public/./x",
        "/public/..",
        "/..",
        "/.",
        "/public/%2e%2e/private",
        "/public/%2E%2e/private",
        "/public/.%2e/private",
        "/public/%2e/x",
        "/a%2f..%2fb",
        "/public%5c..%5cprivate",
        "/public/..;a=b/private",
        "/public/..;/private",
        "//../x",
        "/private%00/x",
        "/private%0a",
        "/private%0D%0AX",
        "/private%7f",
        "/private/.",
        "/public/%",
        "/public/%1",
        "/public/%zz/../private",
        "/_vibewarden/../private",
        "/x/../_vibewarden/health",
    ];
    let requests: Vec<Vec<u8>> = targets
        .iter()
        .map(|target| wire(format!("GET {target} HTTP/1.1\r\n{{H}}{{U}}{{K}}\r\n")))
        .collect();
    refuse_all(driver, 400, "bad_request", &requests);
    let (proxy, upstream) = behind(driver);
    for target in TARGETS {
        let _client = proxy.sent(&wire(format!("GET {target} HTTP/1.1\r\n{{H}}{{U}}{{K}}\r\n")));
        let line = upstream.accept().read_head().line;
        assert_eq!(line, format!("GET {target} HTTP/1.1"), "byte for byte");
    }
}
