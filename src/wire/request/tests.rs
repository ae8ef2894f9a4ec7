//! Every rule for request heads, with the payloads of the case list.

use super::super::sample::{expand, show};
use super::RequestError as E;
use super::*;

fn verdict(short: &[u8]) -> Result<(), RequestError> {
    RequestHead::parse(&expand(short)).map(drop)
}

fn refused(cases: &[(&[u8], RequestError)]) {
    for (short, error) in cases {
        assert_eq!(verdict(short), Err(*error), "{}", show(short));
    }
}

/// Reads a head that has to be accepted and looks at it.
fn accepted<T>(short: &[u8], look: impl FnOnce(&RequestHead<'_>) -> T) -> T {
    let bytes = expand(short);
    match RequestHead::parse(&bytes) {
        Ok(head) => look(&head),
        Err(error) => panic!("{error:?}: {}", show(&bytes)),
    }
}

#[test]
fn ambiguous_or_malformed_lengths_are_refused() {
    refused(&[
        // A1, A3
        (b"{POST}Content-Length: 45\r\nTransfer-Encoding: chunked\r\n\r\n", E::FramingConflict),
        (b"{POST}Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", E::FramingConflict),
        // A4, A6
        (b"{POST}Content-Length: 1\r\nContent-Length: 2\r\n\r\n", E::ContentLength),
        (b"{POST}Content-Length: 1\r\nContent-Length: 1\r\n\r\n", E::ContentLength),
        (b"{POST}Content-Length: 3, 3\r\n\r\n", E::ContentLength),
        // A9
        (b"{POST}Content-Length: -1\r\n\r\n", E::ContentLength),
        (b"{POST}Content-Length: -48\r\n\r\n", E::ContentLength),
        (b"{POST}Content-Length: -0\r\n\r\n", E::ContentLength),
        (b"{POST}Content-Length: -123456789123456789123456789\r\n\r\n", E::ContentLength),
        // A10
        (b"{POST}Content-Length: 0x3\r\n\r\n", E::ContentLength),
        (b"{POST}Content-Length: 0o3\r\n\r\n", E::ContentLength),
        (b"{POST}Content-Length: 3e0\r\n\r\n", E::ContentLength),
        (b"{POST}Content-Length: 3.0\r\n\r\n", E::ContentLength),
        (b"{POST}Content-Length: 3Z\r\n\r\n", E::ContentLength),
        (b"{POST}Content-Length: Z3\r\n\r\n", E::ContentLength),
        (b"{POST}Content-Length: +3\r\n\r\n", E::ContentLength),
        // A13
        (b"{POST}Content-Length: \r\n\r\n", E::ContentLength),
        (b"{POST}Content-Length:\r\nContent-Length: 43\r\n\r\n", E::ContentLength),
        // A19, A21
        (b"{POST}Content-Length : 3\r\n\r\n", E::HeaderName),
        (b"{POST}Content-Length\x85: 3\r\n\r\n", E::HeaderName),
        (b"{POST}Content-Length\xa0: 3\r\n\r\n", E::HeaderName),
        (b"{POST}Content-Length\x00: 3\r\n\r\n", E::HeaderName),
        (b"{POST}Content-Length 3\r\n\r\n", E::HeaderName),
    ]);
}

#[test]
fn transfer_encodings_but_chunked_are_refused() {
    refused(&[
        // A22
        (
            b"{POST}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            E::TransferEncoding,
        ),
        // A24, A25
        (b"{POST}Transfer-Encoding: chunked, gzip\r\n\r\n", E::TransferEncoding),
        (b"{POST}Transfer-Encoding: chunked, gzip, chunked\r\n\r\n", E::TransferEncoding),
        (b"{POST}Transfer-Encoding: gzip, chunked\r\n\r\n", E::TransferEncoding),
        (b"{POST}Transfer-Encoding: identity\r\n\r\n", E::TransferEncoding),
        (b"{POST}Transfer-Encoding: chunked;q=1\r\n\r\n", E::TransferEncoding),
        // A27
        (b"{POST}Transfer-Encoding: \r\n\r\n", E::TransferEncoding),
        (b"{POST}Content-Length: 3\r\nTransfer-Encoding:\r\n\r\n", E::FramingConflict),
        // A29
        (b"{POST}Transfer-Encoding: \x0bchunked\r\n\r\n", E::HeaderValue),
        (b"{POST}Transfer-Encoding: \x0cchunked\r\n\r\n", E::HeaderValue),
        (b"{POST}Transfer-Encoding: chunked\x00\r\n\r\n", E::HeaderValue),
        (b"{POST}Transfer-Encoding: \xa0chunked\xa0\r\n\r\n", E::TransferEncoding),
        (b"{POST}Transfer-Encoding: \xffchunked\xff\r\n\r\n", E::TransferEncoding),
        (b"{POST}Transfer-Encoding: \"chunked\"\r\n\r\n", E::TransferEncoding),
        (b"{POST}Transfer-Encoding: 'chunked'\r\n\r\n", E::TransferEncoding),
        // A36
        (b"{POST}Transfer-Encoding:\r\n chunked\r\n\r\n", E::HeaderName),
        (b"{POST}Transfer-Encoding: chunked\r\n\tabc\r\n\r\n", E::HeaderName),
        // A41
        (b"POST /e HTTP/1.0\r\n{H}Transfer-Encoding: chunked\r\n\r\n", E::TransferEncodingHttp10),
    ]);
}

#[test]
fn lengths_that_are_clear_are_accepted() {
    for (short, framing) in [
        (&b"{POST}\r\n"[..], Framing::None),
        (b"{POST}Content-Length: 0\r\n\r\n", Framing::Length(0)),
        // A14, A16, A17
        (b"{POST}Content-Length: 010\r\n\r\n", Framing::Length(10)),
        (
            b"{POST}Content-Length: 9223372036854775807\r\n\r\n",
            Framing::Length(9_223_372_036_854_775_807),
        ),
        (b"{POST}Content-Length:\t3 \t\r\n\r\n", Framing::Length(3)),
        // A18: the look-alike has no say
        (b"{POST}Content_Length: 3\r\n\r\n", Framing::None),
        // A31, A39
        (b"{POST}tRANSFER-eNCODING: CHUNKED\r\n\r\n", Framing::Chunked),
        (
            b"{POST}X: x\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n",
            Framing::Chunked,
        ),
        // A43
        (b"GET /e HTTP/1.1\r\n{H}Content-Length: 40\r\n\r\n", Framing::Length(40)),
    ] {
        assert_eq!(accepted(short, |head| head.framing), framing, "{}", show(short));
    }
}

#[test]
fn lines_that_are_not_clean_are_refused() {
    refused(&[
        // A38, A68, A69, A72 (refused by the scanner before; here without it)
        (b"{POST}Foo: bar\rTransfer-Encoding: chunked\r\n\r\n", E::HeaderValue),
        (b"{POST}Foo: bar\nTransfer-Encoding: chunked\r\n\r\n", E::BareLineFeed),
        (b"{POST}Foo: bar\r\n\rTransfer-Encoding: chunked\r\n\r\n", E::RequestLine),
        (b"GET /e HTTP/1.1\n{H}\r\n", E::BareLineFeed),
        (b"GET /e HTTP/1.1\nHost: t.test\n\n", E::BareLineFeed),
        (b"GET /e HTTP/1.1\r\n{H}\n", E::BareLineFeed),
        (b"{POST}Foo:\n\r\n", E::BareLineFeed),
        (b"GET /e HTTP/1.1\rHost: t.test\r\r", E::RequestLine),
        (b"{POST}Foo: 1\rBar: 2\r\n\r\n", E::HeaderValue),
        (b"{POST}Foo: va\rlue\r\n\r\n", E::HeaderValue),
        // A73
        (b"{POST}Foo: a\0b\r\n\r\n", E::HeaderValue),
        (b"GET / HTTP/1.1\r\nHost: good.test\0.evil\r\n\r\n", E::HeaderValue),
        (b"{POST}Foo: a\x7fb\r\n\r\n", E::HeaderValue),
        (b"{POST}Foo: a\x1bb\r\n\r\n", E::HeaderValue),
        // A76
        (b"{POST}: value\r\n\r\n", E::HeaderName),
        (b"{POST}:\r\n\r\n", E::HeaderName),
        // A77
        (b"{POST}fo o: b\r\n\r\n", E::HeaderName),
        (b"{POST}fo[o: b\r\n\r\n", E::HeaderName),
        (b"{POST}Fo@: b\r\n\r\n", E::HeaderName),
        (b"{POST}f(o: b\r\n\r\n", E::HeaderName),
        (b"{POST}{: 1\r\n\r\n", E::HeaderName),
        (b"{POST}/: 1\r\n\r\n", E::HeaderName),
        (b"{POST}fo\xc3\xb6: 1\r\n\r\n", E::HeaderName),
        // A80, A82
        (b"{POST}name\r\n : value\r\n\r\n", E::HeaderName),
        (b"{POST}name \r\n: v\r\n\r\n", E::HeaderName),
        (b"{POST}X: a\r\n b\r\n\r\n", E::HeaderName),
        (b"GET / HTTP/1.1\r\n X: a\r\n{H}\r\n", E::HeaderName),
        // E8, B34
        (b"{POST}Authorization : Bearer good\r\n\r\n", E::HeaderName),
        (b"GET /ws HTTP/1.1\r\n{H}Upgrade: websocket\0\r\n\r\n", E::HeaderValue),
        (b"GET /ws HTTP/1.1\r\n{H}Upgrade: websocket\x0b\r\n\r\n", E::HeaderValue),
    ]);
}

#[test]
fn request_lines_that_are_not_exact_are_refused() {
    refused(&[
        // A86
        (b"GET  /e HTTP/1.1\r\n{H}\r\n", E::RequestLine),
        (b"GET /e  HTTP/1.1\r\n{H}\r\n", E::Version),
        (b"GET /e HTTP/1.1 \r\n{H}\r\n", E::RequestLine),
        (b"GET\t/e HTTP/1.1\r\n{H}\r\n", E::RequestLine),
        // A88: only one empty line
        (b"\r\n\r\nGET /e HTTP/1.1\r\n{H}\r\n", E::RequestLine),
        (b"\nGET /e HTTP/1.1\r\n{H}\r\n", E::RequestLine),
        // A90
        (b"GET /e\r\n", E::RequestLine),
        (b"GET /e \r\n\r\n", E::Version),
        (b"GET\r\n\r\n", E::RequestLine),
        (b"GET  HTTP/1.1\r\n\r\n", E::RequestLine),
        (b" GET / HTTP/1.1\r\n{H}\r\n", E::RequestLine),
        // A91, A92
        (b"GET / HTTP/1.2\r\n{H}\r\n", E::Version),
        (b"GET / HTTP/1.10\r\n{H}\r\n", E::RequestLine),
        (b"GET / HTTP/01.1\r\n{H}\r\n", E::Version),
        (b"GET / HTTP/1.\r\n{H}\r\n", E::Version),
        (b"GET / HTTP/1.1x\r\n{H}\r\n", E::RequestLine),
        (b"GET / http/1.1\r\n{H}\r\n", E::Version),
        (b"GET / HTTP/ 1.1\r\n{H}\r\n", E::Version),
        (b"GET / HTTP/4294967295.255\r\n{H}\r\n", E::Version),
        (b"GET / HTTP/2.0\r\n{H}\r\n", E::Version),
        (b"GET / HTTP/9.9\r\n{H}\r\n", E::Version),
        (b"PRI * HTTP/2.0\r\n\r\n", E::Version),
        // A94
        (b"G=\":<>(e),[T];?\" / HTTP/1.1\r\n{H}\r\n", E::RequestLine),
        (b"G\0T / HTTP/1.1\r\n{H}\r\n", E::RequestLine),
        (b"P()ST / HTTP/1.1\r\n{H}\r\n", E::RequestLine),
        (b" / HTTP/1.1\r\n{H}\r\n", E::RequestLine),
        // A96
        (b"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG / HTTP/1.1\r\n{H}\r\n", E::Method),
        // A97, A99, A101
        (b"GET /\x00 HTTP/1.1\r\n{H}\r\n", E::RequestLine),
        (b"GET /\x7f HTTP/1.1\r\n{H}\r\n", E::RequestLine),
        (b"GET /\x80 HTTP/1.1\r\n{H}\r\n", E::RequestLine),
        (b"GET /\xc3\xa9 HTTP/1.1\r\n{H}\r\n", E::Target),
        (b"GET /a b HTTP/1.1\r\n{H}\r\n", E::Version),
        (b"GET /e#frag HTTP/1.1\r\n{H}\r\n", E::Target),
        (b"GET * HTTP/1.1\r\n{H}\r\n", E::Target),
        (b"OPTIONS */test HTTP/1.1\r\n{H}\r\n", E::Target),
        (b"GET admin/a/b HTTP/1.1\r\n{H}\r\n", E::Target),
        (b"GET /a/../b HTTP/1.1\r\n{H}\r\n", E::Path),
    ]);
    assert_eq!(
        accepted(b"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEF / HTTP/1.1\r\n{H}\r\n", |head| head
            .method
            .len()),
        32
    );
    assert_eq!(accepted(b"\r\nGET /e HTTP/1.1\r\n{H}\r\n", |head| head.path().len()), 2);
}

#[test]
fn connect_and_trace_are_not_allowed() {
    // A102
    refused(&[
        (b"CONNECT t.test:80 HTTP/1.1\r\n{H}\r\n", E::MethodNotAllowed),
        (b"CONNECT / HTTP/1.1\r\n{H}\r\n", E::MethodNotAllowed),
        (b"CONNECT http://t.test:80 HTTP/1.1\r\n{H}\r\n", E::MethodNotAllowed),
        (b"CONNECT t.test: HTTP/1.1\r\n{H}\r\n", E::MethodNotAllowed),
        (b"CONNECT t.test:65536 HTTP/1.1\r\n{H}\r\n", E::MethodNotAllowed),
        (b"TRACE / HTTP/1.1\r\n{H}\r\n", E::MethodNotAllowed),
    ]);
}

#[test]
fn hosts() {
    refused(&[
        // A105, A108
        (b"GET http://evil.test/e HTTP/1.1\r\n{H}\r\n", E::AuthorityMismatch),
        (b"GET http://t.test:81/e HTTP/1.1\r\n{H}\r\n", E::AuthorityMismatch),
        (b"GET javascript://t.test/e HTTP/1.1\r\n{H}\r\n", E::Target),
        (b"GET ws://t.test/ws HTTP/1.1\r\n{H}\r\n", E::Target),
        // A109, A110, A112
        (b"GET / HTTP/1.1\r\n\r\n", E::HostMissing),
        (b"GET http://t.test/ HTTP/1.1\r\n\r\n", E::HostMissing),
        (b"GET / HTTP/1.1\r\n{H}Host: u.test\r\n\r\n", E::HostRepeated),
        (b"GET / HTTP/1.1\r\n{H}{H}\r\n", E::HostRepeated),
        (b"GET / HTTP/1.0\r\n{H}{H}\r\n", E::HostRepeated),
        (b"GET / HTTP/1.1\r\nHost: \r\n\r\n", E::HostInvalid),
        (b"GET / HTTP/1.0\r\nHost:\r\n\r\n", E::HostInvalid),
        // A113
        (b"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", E::HostInvalid),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", E::HostInvalid),
        (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", E::HostInvalid),
        (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", E::HostInvalid),
        (b"GET / HTTP/1.1\r\nHost: a?b\r\n\r\n", E::HostInvalid),
        (b"GET / HTTP/1.1\r\nHost: a#b\r\n\r\n", E::HostInvalid),
        (b"GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n", E::HostInvalid),
        (b"GET / HTTP/1.1\r\nHost: a\xe9b\r\n\r\n", E::HostInvalid),
        // A115
        (b"GET / HTTP/1.1\r\nHost: t.test:\r\n\r\n", E::HostInvalid),
    ]);
    for (short, host, target) in [
        (&b"GET /e HTTP/1.1\r\n{H}\r\n"[..], "t.test", "/e"),
        (b"GET /e HTTP/1.1\r\nHost: T.TEST\r\n\r\n", "T.TEST", "/e"),
        (b"GET /e HTTP/1.1\r\nHost: t.test.\r\n\r\n", "t.test.", "/e"),
        (b"GET /e HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "[::1]:80", "/e"),
        // A104, A108, A117
        (b"GET http://t.test/e HTTP/1.1\r\n{H}\r\n", "t.test", "/e"),
        (b"GET https://t.test/e HTTP/1.1\r\n{H}\r\n", "t.test", "/e"),
        (b"GET /e HTTP/1.1\r\nConnection: Host\r\n{H}\r\n", "t.test", "/e"),
        (b"GET http://u.test:81/e HTTP/1.0\r\n\r\n", "u.test:81", "/e"),
        (b"GET /e HTTP/1.0\r\n\r\n", "", "/e"),
    ] {
        let seen = accepted(short, |head| (head.host.to_owned(), head.target.to_owned()));
        assert_eq!(seen, (host.to_owned(), target.to_owned()), "{}", show(short));
    }
}

#[test]
fn expectations() {
    // A129
    refused(&[
        (b"{POST}Expect: x 100-continue\r\n\r\n", E::Expectation),
        (b"{POST}Expect: 100-continue, 100-continue\r\n\r\n", E::Expectation),
        (b"{POST}Expect: 100-continue\r\nExpect: 100-continue\r\n\r\n", E::Expectation),
        (b"{POST}Expect: \r\n\r\n", E::Expectation),
        (b"{POST}Expect: 200-ok\r\n\r\n", E::Expectation),
    ]);
    for (short, expects) in [
        (&b"{POST}\r\n"[..], false),
        (b"{POST}Expect:\t100-continue\r\n\r\n", true),
        (b"{POST}Expect: 100-Continue\r\n\r\n", true),
        (b"POST /e HTTP/1.0\r\n{H}Expect: 100-continue\r\n\r\n", false),
    ] {
        assert_eq!(accepted(short, |head| head.expect_continue), expects, "{}", show(short));
    }
}

#[test]
fn keep_alive() {
    for (short, keep_alive) in [
        (&b"{POST}\r\n"[..], true),
        (b"{POST}Connection: keep-alive\r\n\r\n", true),
        (b"{POST}Connection: foo, Close\r\n\r\n", false),
        (b"{POST}Connection: keep-alive\r\nConnection: close\r\n\r\n", false),
        (b"{POST}Connection: closed\r\n\r\n", true),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", false),
    ] {
        assert_eq!(accepted(short, |head| head.keep_alive), keep_alive, "{}", show(short));
    }
}

#[test]
fn lines_keep_their_order_and_values_lose_only_outer_white_space() {
    // A83, A85
    let short = b"{POST}X-Empty:\r\nX-EMPTY: \t \r\nx-empty:\t a  b \t\r\nX-Obs: \xff\xfe\r\n\r\n";
    accepted(short, |head| {
        let lines: Vec<_> = head.headers.iter().map(|header| (header.name, header.value)).collect();
        assert_eq!(
            lines,
            [
                ("Host", &b"t.test"[..]),
                ("X-Empty", b""),
                ("X-EMPTY", b""),
                ("x-empty", b"a  b"),
                ("X-Obs", b"\xff\xfe"),
            ]
        );
        assert_eq!(head.header("X-empty").collect::<Vec<_>>(), [&b""[..], b"", b"a  b"]);
        assert_eq!(head.header("x-empty").next_back(), Some(&b"a  b"[..]));
        assert_eq!(head.header("x-none").count(), 0);
    });
}

#[test]
fn two_hundred_and_fifty_six_lines_and_no_more() {
    // A121
    for (lines, expected) in [
        (HEADER_LINES_MAX - 1, Ok(())),
        (HEADER_LINES_MAX, Err(E::TooManyLines)),
        (1000, Err(E::TooManyLines)),
    ] {
        let head = [expand(b"{POST}"), b"a: b\r\n".repeat(lines), b"\r\n".to_vec()].concat();
        assert_eq!(verdict(&head), expected, "{lines} lines and Host");
    }
    let names = [b"{POST}Connection: ", &b"a,".repeat(65)[..], b"\r\n\r\n"].concat();
    assert_eq!(verdict(&names), Err(E::ConnectionOptions));
}

#[test]
fn what_is_not_exactly_one_head_is_refused() {
    let head = expand(b"{HS}");
    for bytes in 0..head.len() {
        assert!(RequestHead::parse(&head[..bytes]).is_err(), "{}", show(&head[..bytes]));
    }
    assert_eq!(verdict(b"{HS}x"), Err(E::Incomplete));
    assert_eq!(verdict(b"{HS}{HS}"), Err(E::Incomplete));
}

#[test]
fn own_endpoints_are_recognised_by_their_decoded_path() {
    for (target, own) in [
        ("/_vibewarden", true),
        ("/_vibewarden?x", true),
        ("/_vibewarden/", true),
        ("/_vibewarden/health", true),
        ("/_vibewarden%2fhealth", true),
        ("/%5fvibewarden/ready?a=b", true),
        ("/%5F%76ibewarden", true),
        ("/_vibewarden/unknown/../", false),
        ("/_vibewardenX", false),
        ("/_vibewarde", false),
        ("//_vibewarden/health", false),
        ("/_Vibewarden/health", false),
        ("/_vibewarden;/health", false),
        ("/_vibewarden%5chealth", false),
        ("/x?/_vibewarden/health", false),
        ("/%255fvibewarden/health", false),
        ("/", false),
    ] {
        let head = expand(format!("GET {target} HTTP/1.1\r\n{{H}}\r\n").as_bytes());
        let seen = RequestHead::parse(&head).is_ok_and(|head| head.is_own_endpoint());
        assert_eq!(seen, own, "{target}");
    }
    accepted(b"GET /_vibewarden/%68ealth?x HTTP/1.1\r\n{H}\r\n", |head| {
        assert!(head.path_is("/_vibewarden/health"));
        assert!(!head.path_is("/_vibewarden/healt"));
        assert!(!head.path_is("/_vibewarden/health/"));
    });
    accepted(b"OPTIONS * HTTP/1.1\r\n{H}\r\n", |head| {
        assert!(!head.is_own_endpoint());
    });
}

#[test]
fn statuses_and_messages() {
    assert_eq!(E::MethodNotAllowed.status(), 405);
    assert_eq!(E::Expectation.status(), 417);
    assert_eq!(E::TooLarge.status(), 431);
    assert_eq!(E::TooManyLines.status(), 431);
    assert_eq!(E::HostMissing.status(), 400);
    assert_eq!(RequestError::from(HeadError::TooLarge), E::TooLarge);
    assert!(!E::Path.message().is_empty());
}

/// A target that is refused may hold more than a path: nothing of it but a path is for the log.
#[test]
fn a_glance_shows_a_path_and_nothing_else() {
    for (target, path) in [
        ("/a?token=secret", "/a"),
        ("/cb#access_token=secret", "/cb"),
        ("/a?x#y", "/a"),
        ("http://user:secret@t.test/", ""),
        ("t.test:80", "t.test:80"),
        ("*", "*"),
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: t.test\r\n\r\n");
        let glance = RequestHead::glance(head.as_bytes()).expect(target);
        assert_eq!((glance.method, glance.path), ("GET", path), "{target}");
    }
}
