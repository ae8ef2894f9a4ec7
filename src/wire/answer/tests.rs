//! Heads as they go to the client, byte for byte.

use super::super::sample::expand;
use super::*;

fn plain(via: Via) -> AnswerHeaders {
    AnswerHeaders::new([], via)
}

fn answer(short: &[u8], write: impl FnOnce(&mut Vec<u8>, &ResponseHead<'_>)) -> String {
    let bytes = expand(short);
    let head = ResponseHead::parse(&bytes).expect("valid");
    let mut out = Vec::new();
    write(&mut out, &head);
    String::from_utf8_lossy(&out).into_owned()
}

#[test]
fn a_101_goes_to_the_client_with_the_hop_lines_renewed() {
    let short = b"HTTP/1.1 101 Switching Protocols\r\nAlt-Svc: a\r\nupgrade: WebSocket\r\n\
        Connection: Upgrade, X-Custom-ID, Sec-WebSocket-Accept\r\nX-Custom-ID: v\r\nKeep-Alive: 5\r\n\
        Proxy-Authenticate: x\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nContent-Length: 5\r\n\
        Transfer-Encoding: chunked\r\nSec-WebSocket-Protocol:  b\r\nVia: 1.1 u\r\nSet-Cookie: a\r\nset-cookie: b\r\n\r\n";
    let expected = "HTTP/1.1 101 Switching Protocols\r\nAlt-Svc: a\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: b\r\n\
        Set-Cookie: a\r\nset-cookie: b\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    assert_eq!(
        answer(short, |out, head| write_switching(out, head, &plain(Via::Suppressed))),
        expected
    );
    let with_via = expected
        .replace("b\r\nSet-Cookie: a", "b\r\nVia: 1.1 u\r\nSet-Cookie: a")
        .replace("Upgrade: websocket", "Via: 1.1 vibewarden\r\nUpgrade: websocket");
    assert_eq!(
        answer(short, |out, head| write_switching(out, head, &plain(Via::Appended))),
        with_via
    );
}

#[test]
fn a_declined_upgrade_is_an_ordinary_answer_and_the_last() {
    let declined = |short: &[u8]| {
        answer(short, |out, head| {
            let body = head.body("GET").expect("clear framing");
            let to = Recipient { version: Version::Http11, close: true };
            write_final(out, head, body, to, &plain(Via::Suppressed));
        })
    };
    for (short, expected) in [
        // C8, C9, C11
        (
            &b"HTTP/1.1 200 OK\r\n{U}Content-Length: 02\r\nServer: u\r\n\r\n"[..],
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: u\r\nConnection: close\r\n\r\n",
        ),
        (
            b"HTTP/1.0 401 No\r\nWWW-Authenticate: Basic\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 401 No\r\nWWW-Authenticate: Basic\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        ),
        (
            b"HTTP/1.1 503 \xc3\xbc\r\nRetry-After: 1\r\ntransfer-encoding: CHUNKED\r\nA: b\r\n\r\n",
            "HTTP/1.1 503 \u{fc}\r\nRetry-After: 1\r\ntransfer-encoding: chunked\r\nA: b\r\nConnection: close\r\n\r\n",
        ),
        (
            b"HTTP/1.1 302\r\nLocation: /x\r\n\r\n",
            "HTTP/1.1 302 \r\nLocation: /x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        ),
        (
            b"HTTP/1.1 304 Not Modified\r\nETag: a\r\nContent-Length: 9\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\nETag: a\r\nContent-Length: 9\r\nConnection: close\r\n\r\n",
        ),
        (
            b"HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n",
            "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
        ),
        (
            b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
        ),
        (
            b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 13\r\nContent-Length: 0\r\n\
             Upgrade: websocket\r\nConnection: close, Upgrade\r\n\r\n",
        ),
        (
            b"HTTP/1.1 426 X\r\nUpgrade: h2c\r\nContent-Length: 0\r\nVia: 1.1 u\r\n\r\n",
            "HTTP/1.1 426 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        ),
    ] {
        assert_eq!(declined(short), expected);
    }
}

#[test]
fn headers_of_the_proxy_replace_those_of_the_upstream_and_stand_last() {
    let headers = AnswerHeaders::new([("X-Frame-Options", "DENY"), ("A", "b")], Via::Suppressed);
    let short =
        b"HTTP/1.1 200 OK\r\nx-frame-options: ALLOW\r\nContent-Length: 1\r\na: c\r\nAb: d\r\n\r\n";
    let out = answer(short, |out, head| {
        let to = Recipient { version: Version::Http11, close: false };
        write_final(out, head, head.body("GET").expect("framing"), to, &headers);
    });
    let expected =
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nAb: d\r\nX-Frame-Options: DENY\r\nA: b\r\n\r\n";
    assert_eq!(out, expected);
    assert_eq!(headers.lines(), b"X-Frame-Options: DENY\r\nA: b\r\n");
    let switched = answer(b"HTTP/1.1 101 S\r\n{U}\r\n", |out, head| {
        write_switching(out, head, &headers);
    });
    assert!(switched.contains("\r\nA: b\r\nUpgrade: websocket\r\n"), "{switched}");
}

#[test]
fn a_client_of_http_1_0_gets_no_chunks() {
    for (short, expected) in [
        (
            &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"[..],
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n",
        ),
    ] {
        let out = answer(short, |out, head| {
            let to = Recipient { version: Version::Http10, close: true };
            write_final(out, head, head.body("GET").expect("framing"), to, &plain(Via::Suppressed));
        });
        assert_eq!(out, expected);
    }
}

#[test]
fn an_interim_answer_keeps_its_own_lines() {
    let short = b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nConnection: close\r\nContent-Length: 3\r\n\r\n";
    let out = answer(short, |out, head| write_interim(out, head, &plain(Via::Suppressed)));
    assert_eq!(out, "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n");
}
