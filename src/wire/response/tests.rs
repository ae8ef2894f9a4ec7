//! Answers of an upstream, good and bad.

use super::super::head::HeadScanner;
use super::super::sample::{expand, show};
use super::super::upgrade::Upgrade;
use super::ResponseError as E;
use super::*;

fn with<T>(short: &[u8], look: impl FnOnce(Result<ResponseHead<'_>, ResponseError>) -> T) -> T {
    look(ResponseHead::parse(&expand(short)))
}

fn accept() -> Accept {
    Upgrade { key: "dGhlIHNhbXBsZSBub25jZQ==" }.accept()
}

#[test]
fn bad_heads_are_refused() {
    let cases: &[(&[u8], ResponseError)] = &[
        // C24
        (b"BLAH\r\n\r\n", E::StatusLine),
        (b"\x16\x03\x01\r\n\r\n", E::StatusLine),
        (b"HTTP/1.1 200X OK\r\n\r\n", E::StatusLine),
        (b"HTTP/1.1 99 200 OK\r\n\r\n", E::StatusLine),
        (b"HTTP/1.1  OK\r\n\r\n", E::StatusLine),
        (b"HTTP/1.2z 200\r\n\r\n", E::StatusLine),
        (b"HTTP/1. 200\r\n\r\n", E::StatusLine),
        (b"HTTP/1.1 1000 X\r\n\r\n", E::StatusLine),
        (b"HTTP/1.1 65737 X\r\n\r\n", E::StatusLine),
        (b"HTTP/1.1 099 X\r\n\r\n", E::StatusLine),
        (b"HTTP/1.1 000 X\r\n\r\n", E::StatusLine),
        (b"HTTP/1.0 099 X\r\n\r\n", E::StatusLine),
        (b"HTTP/2.0 200 OK\r\n\r\n", E::StatusLine),
        (b"HTTP/1.1  200 OK\r\n\r\n", E::StatusLine),
        (b"http/1.1 200 OK\r\n\r\n", E::StatusLine),
        (b"HTTP/1.1 200 O\x00K\r\n\r\n", E::StatusLine),
        (b"\r\nHTTP/1.1 200 OK\r\n\r\n", E::StatusLine),
        // bare line ends, folds, names
        (b"HTTP/1.1 200 OK\n\r\n", E::LineEnd),
        (b"HTTP/1.1 200\n\r\n", E::LineEnd),
        (b"HTTP/1.1 200 OK\r\nA: b\n\r\n", E::LineEnd),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n\n", E::LineEnd),
        (b"HTTP/1.1 200 OK\r\nA: b\rC: d\r\n\r\n", E::HeaderLine),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", E::HeaderLine),
        (b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n", E::HeaderLine),
        (b"HTTP/1.1 200 OK\r\n: b\r\n\r\n", E::HeaderLine),
        (b"HTTP/1.1 200 OK\r\nA\r\n\r\n", E::HeaderLine),
        (b"HTTP/1.1 200 OK\r\nA: \0\r\n\r\n", E::HeaderLine),
        // C23
        (b"HTTP/1.1 101 Swi", E::Incomplete),
        (b"HTTP/1.1 200 OK\r\n\r\nx", E::Incomplete),
    ];
    for (short, error) in cases {
        with(short, |head| {
            assert_eq!(head.map(drop), Err(*error), "{}", show(short));
        });
    }
    // C26
    let long =
        [b"HTTP/1.1 200 OK\r\n".to_vec(), b"a: b\r\n".repeat(257), b"\r\n".to_vec()].concat();
    with(&long, |head| {
        assert_eq!(head.map(drop), Err(E::TooManyLines));
    });
    let names = [b"HTTP/1.1 200 OK\r\nConnection: ", &b"a,".repeat(65)[..], b"\r\n\r\n"].concat();
    with(&names, |head| {
        assert_eq!(head.map(drop), Err(E::ConnectionOptions));
    });
    let endless = [b"HTTP/1.1 200 OK\r\na: ".to_vec(), vec![b'x'; 256 * 1024]].concat();
    let scanned = HeadScanner::new(RESPONSE_HEAD_BYTES_MAX).advance(&endless);
    assert_eq!(scanned.map_err(E::from), Err(E::TooLarge));
}

#[test]
fn status_lines() {
    for (short, status, version, reason) in [
        (&b"HTTP/1.1 200 OK\r\n\r\n"[..], 200, Version::Http11, &b"OK"[..]),
        (b"HTTP/1.1 200\r\n\r\n", 200, Version::Http11, b""),
        (b"HTTP/1.1 200 \r\n\r\n", 200, Version::Http11, b""),
        (b"HTTP/1.0 404 Not  Found \r\n\r\n", 404, Version::Http10, b"Not  Found "),
        (b"HTTP/1.1 500 Arg\xc3\xbc\tx\r\n\r\n", 500, Version::Http11, b"Arg\xc3\xbc\tx"),
        (b"HTTP/1.1 999 X\r\n\r\n", 999, Version::Http11, b"X"),
        (b"HTTP/1.1 600 X\r\n\r\n", 600, Version::Http11, b"X"),
    ] {
        with(short, |head| {
            let head = head.expect("valid");
            assert_eq!(
                (head.status, head.version, head.reason),
                (status, version, reason),
                "{}",
                show(short)
            );
        });
    }
}

#[test]
fn interim_answers_are_every_1xx_but_101() {
    for (status, interim) in [
        (100, true),
        (101, false),
        (102, true),
        (103, true),
        (199, true),
        (200, false),
        (426, false),
    ] {
        let head = format!("HTTP/1.1 {status} X\r\n\r\n");
        with(head.as_bytes(), |head| {
            assert_eq!(head.expect("valid").is_interim(), interim, "{status}");
        });
    }
}

#[test]
fn a_101_opens_only_what_was_asked_for() {
    let right = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    let answer =
        |status_line: &str, lines: &str| expand(format!("{status_line}\r\n{lines}\r\n").as_bytes());
    let line = "HTTP/1.1 101 Switching Protocols";
    for opens in [
        expand(b"{101}"),
        answer("HTTP/1.1 101", &format!("{{U}}{right}")),
        // C17: lengths mean nothing here
        answer(line, &format!("{{U}}{right}Content-Length: 5\r\n")),
        answer(line, &format!("{{U}}{right}Transfer-Encoding: chunked\r\nContent-Length: x\r\n")),
        // C19
        answer(
            line,
            &format!(
                "upgrade: WebSocket\r\nconnection: X-Custom-ID, UPGRADE\r\nX-Custom-ID: v\r\n{right}"
            ),
        ),
    ] {
        let head = ResponseHead::parse(&opens).expect("valid");
        assert_eq!(head.check_switching(&accept()), Ok(()), "{}", show(&opens));
    }
    for refused in [
        // C1, C2
        answer(line, "{U}Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOp=\r\n"),
        answer(line, "{U}Sec-WebSocket-Accept: S3PPLMBITXAQ9KYGZZHZRBK+XOO=\r\n"),
        answer(line, "{U}Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo\r\n"),
        answer(line, "{U}Sec-WebSocket-Accept:\r\n"),
        answer(line, "{U}"),
        answer(line, &format!("{{U}}{right}{right}")),
        // C5
        answer(line, &format!("Upgrade: foo\r\nConnection: Upgrade\r\n{right}")),
        answer(line, &format!("Upgrade: h2c\r\nConnection: Upgrade\r\n{right}")),
        answer(line, &format!("Upgrade: websocket, foo\r\nConnection: Upgrade\r\n{right}")),
        answer(
            line,
            &format!("Upgrade: websocket\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{right}"),
        ),
        answer(line, &format!("Connection: Upgrade\r\n{right}")),
        answer(line, &format!("Upgrade: websocket\r\n{right}")),
        answer(line, &format!("Upgrade: websocket\r\nConnection: close\r\n{right}")),
        // C8
        answer("HTTP/1.1 200 OK", &format!("{{U}}{right}")),
        answer("HTTP/1.0 101 X", &format!("{{U}}{right}")),
    ] {
        let head = ResponseHead::parse(&refused).expect("valid as a head");
        assert_eq!(head.check_switching(&accept()), Err(E::Switching), "{}", show(&refused));
    }
}

#[test]
fn content_ends_as_the_head_says() {
    use BodyFraming::{Chunked, Length, None, UntilClose};
    let cases: &[(&[u8], &str, Result<BodyFraming, ResponseError>)] = &[
        (b"HTTP/1.1 200 OK\r\n\r\n", "GET", Ok(UntilClose)),
        (b"HTTP/1.0 200 OK\r\n\r\n", "GET", Ok(UntilClose)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "GET", Ok(Length(0))),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", "GET", Ok(Length(12))),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", "HEAD", Ok(None)),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", "GET", Ok(Chunked)),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HEAD", Ok(None)),
        (b"HTTP/1.1 200 OK\r\n\r\n", "HEAD", Ok(None)),
        // C11
        (b"HTTP/1.1 204 No Content\r\n\r\n", "GET", Ok(None)),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", "GET", Ok(None)),
        (b"HTTP/1.1 302 Found\r\n\r\n", "GET", Ok(UntilClose)),
        (b"HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n\r\n", "GET", Ok(Length(0))),
        // C31, C34
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET",
            Err(E::Framing),
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
            "HEAD",
            Err(E::Framing),
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            "GET",
            Err(E::Framing),
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n", "GET", Err(E::Framing)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "GET", Err(E::Framing)),
        (b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n", "GET", Err(E::Framing)),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "GET", Err(E::Framing)),
        (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "GET", Err(E::Framing)),
    ];
    for (short, method, expected) in cases {
        with(short, |head| {
            assert_eq!(head.expect("valid").body(method), *expected, "{method} {}", show(short));
        });
    }
}

#[test]
fn whether_the_upstream_keeps_the_connection() {
    for (short, keep_alive) in [
        (&b"HTTP/1.1 200 OK\r\n\r\n"[..], true),
        (b"HTTP/1.1 200 OK\r\nConnection: x, close\r\n\r\n", false),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", false),
    ] {
        with(short, |head| {
            assert_eq!(head.expect("valid").keep_alive, keep_alive);
        });
    }
}
