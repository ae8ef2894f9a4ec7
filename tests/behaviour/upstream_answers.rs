//! Group (c): what the upstream answers to a handshake, and the ways in which it does not.

use std::net::Ipv6Addr;

use crate::harness::payload::{Stream, seed, show};
use crate::harness::peer::wait_until_consumed;
use crate::harness::setup::Scratch;
use crate::harness::{
    ANSWER_101, Answer, Conn, Driver, End, HANDSHAKE, Peer, Proxy, Setup, Upstream, behind,
    eventually, vacant_address, wire,
};

on_drivers!(
    every:
        an_invalid_answer_is_502,
        a_declined_upgrade_is_relayed_and_ends,
        the_101_is_relayed_clean,
        an_upstream_that_goes_away_is_502_once;
    both:
        interim_answers_are_skipped,
        too_many_interim_answers_are_502,
        an_answer_head_is_bounded,
        an_answer_may_arrive_in_any_two_pieces,
        bytes_behind_the_101_come_right_after_it,
        a_broken_declined_body_has_no_clean_end,
        a_large_declined_body_arrives_whole,
        a_refused_connect_is_502,
        an_upstream_behind_a_unix_socket,
        an_upstream_by_name,
        localhost_is_both_loopbacks,
        an_ipv6_upstream,
);

over_tls!(
    an_invalid_answer_is_502,
    a_declined_upgrade_is_relayed_and_ends,
    the_101_is_relayed_clean,
    interim_answers_are_skipped,
    an_answer_may_arrive_in_any_two_pieces,
    bytes_behind_the_101_come_right_after_it,
    a_broken_declined_body_has_no_clean_end,
    a_large_declined_body_arrives_whole,
);

/// A handshake under way: the upstream has the whole head.
fn half_open(proxy: &Proxy, upstream: &Upstream) -> (Peer, Conn) {
    let client = proxy.sent(HANDSHAKE);
    let mut conn = upstream.accept();
    conn.read_head();
    (client, conn)
}

/// C1, C2, C5, C24, C31, C34 and the head rules of 6.1 and 7.2; C23 is with those who go away.
fn an_invalid_answer_is_502(driver: Driver) {
    let (mut proxy, upstream) = behind(driver);
    let switching =
        |lines: &str| format!("HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n").into_bytes();
    let accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    let up = "Upgrade: websocket\r\nConnection: Upgrade\r\n";
    let mut answers = vec![
        switching(&format!("{up}Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n")),
        switching(&format!("{up}Sec-WebSocket-Accept: S3PPLMBITXAQ9KYGZZHZRBK+XOO=\r\n")),
        switching(&format!("{up}Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo\r\n")),
        switching(&format!("{up}Sec-WebSocket-Accept:\r\n")),
        switching(&format!("{up}{accept}{accept}")),
        switching(up),
        switching(&format!("Upgrade: foo\r\nConnection: Upgrade\r\n{accept}")),
        switching(&format!("Upgrade: h2c\r\nConnection: Upgrade\r\n{accept}")),
        switching(&format!("Upgrade: websocket, foo\r\nConnection: Upgrade\r\n{accept}")),
        switching(&format!(
            "Upgrade: websocket\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{accept}"
        )),
        switching(&format!("Connection: Upgrade\r\n{accept}")),
        switching(&format!("Upgrade: websocket\r\n{accept}")),
        switching(&format!("Upgrade: websocket\r\nConnection: keep-alive\r\n{accept}")),
        switching(""),
    ];
    let garbage: [&[u8]; 28] = [
        b"BLAH\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"HTTP/1.1 200X OK\r\n\r\n",
        b"HTTP/1.1 99 200 OK\r\n\r\n",
        b"HTTP/1.1  OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.2z 200 OK\r\n\r\n",
        b"HTTP/1. 200 OK\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"http/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 1000 X\r\n\r\n",
        b"HTTP/1.1 65737 X\r\n\r\n",
        b"HTTP/1.1 20 X\r\n\r\n",
        b"HTTP/1.1 -200 X\r\n\r\n",
        b"HTTP/1.1\t200 X\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 200 OK\r\nX: a\nY: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\rY: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3x\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ];
    answers.extend(garbage.iter().map(|bytes| bytes.to_vec()));
    for answer in &answers {
        let (mut client, mut conn) = half_open(&proxy, &upstream);
        client.send(b"never sent on");
        conn.send(answer);
        let seen = client.read_answer();
        assert_eq!(seen.head.status(), 502, "for {}", show(answer));
        seen.assert_refusal(502, "upstream_invalid_response");
        conn.wait_end();
        assert!(conn.pending().is_empty(), "after {}", show(answer));
    }
    let count = f64::from(u16::try_from(answers.len()).expect("few"));
    let labels = [("result", "failed")];
    proxy.wait_metric("vibewarden_websocket_upgrades_total", &labels, count);
    let stopped = proxy.stop();
    upstream.assert_untouched();
    assert_eq!(stopped.of_kind("upstream.unavailable").len(), answers.len());
}

/// A declining answer, and what the client has to see of it besides `Connection: close`.
struct Declined {
    answer: &'static [u8],
    line: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: &'static [u8],
}

const DECLINED: [Declined; 7] = [
    Declined {
        answer: b"HTTP/1.1 200 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 5\r\nServer: app\r\n\r\nplain",
        line: "HTTP/1.1 200 OK",
        headers: &[("Content-Length", "5"), ("Server", "app")],
        body: b"plain",
    },
    Declined {
        answer: b"HTTP/1.1 401 Who are you\r\nWWW-Authenticate: Basic realm=\"x, y\"\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nno",
        line: "HTTP/1.1 401 Who are you",
        headers: &[("WWW-Authenticate", "Basic realm=\"x, y\""), ("Content-Length", "2")],
        body: b"no",
    },
    Declined {
        answer: b"HTTP/1.1 429 Too Many\r\nretry-after: 7\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nContent-Length: 0\r\n\r\n",
        line: "HTTP/1.1 429 Too Many",
        headers: &[("retry-after", "7"), ("Set-Cookie", "a=1"), ("set-cookie", "b=2"), ("Content-Length", "0")],
        body: b"",
    },
    Declined {
        answer: b"HTTP/1.1 302 Found\r\nLocation: /login?x=1\r\nContent-Length: 0\r\nX-Gone: 1\r\nConnection: close, x-gone\r\nKeep-Alive: timeout=5\r\n\r\n",
        line: "HTTP/1.1 302 Found",
        headers: &[("Location", "/login?x=1"), ("Content-Length", "0")],
        body: b"",
    },
    Declined {
        answer: b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n",
        line: "HTTP/1.1 204 No Content",
        headers: &[("X-A", "b")],
        body: b"",
    },
    Declined {
        answer: b"HTTP/1.1 304 Not Modified\r\nETag: \"q\"\r\n\r\n",
        line: "HTTP/1.1 304 Not Modified",
        headers: &[("ETag", "\"q\"")],
        body: b"",
    },
    Declined {
        answer: b"HTTP/1.1 500 \r\nContent-Length: 3\r\n\r\nbad",
        line: "HTTP/1.1 500 ",
        headers: &[("Content-Length", "3")],
        body: b"bad",
    },
];

/// C8, C9, C11, C17 for declined answers.
fn a_declined_upgrade_is_relayed_and_ends(driver: Driver) {
    let (mut proxy, upstream) = behind(driver);
    for case in &DECLINED {
        let (mut client, mut conn) = half_open(&proxy, &upstream);
        conn.send(case.answer);
        let seen: Answer = client.read_answer();
        assert_eq!(seen.head.line, case.line);
        let (ours, theirs): (Vec<_>, Vec<_>) = seen
            .head
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .partition(|(name, _)| name.eq_ignore_ascii_case("connection"));
        assert_eq!(theirs, case.headers);
        assert_eq!(ours.len(), 1, "{seen:?}");
        assert_eq!(ours[0].1, "close");
        assert_eq!(seen.body, case.body);
        assert_eq!(seen.end, End::Eof);
        conn.wait_end();
    }
    // Upgrade and Sec-WebSocket-Version of a 426 tell the client what would work; the version has to arrive.
    let (mut client, mut conn) = half_open(&proxy, &upstream);
    conn.send(b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nContent-Length: 0\r\n\r\n");
    let seen = client.read_answer();
    assert_eq!(seen.head.status(), 426);
    assert_eq!(seen.head.one("sec-websocket-version"), Some("13"));
    conn.wait_end();
    // Bodies without a length: chunked, and until the end.
    for (answer, fin) in [
        (&b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"[..], false),
        (b"HTTP/1.1 403 No\r\n\r\nabcdefg", true),
        (b"HTTP/1.0 403 No\r\n\r\nabcdefg", true),
        (b"HTTP/1.0 403 No\r\nContent-Length: 7\r\n\r\nabcdefg", false),
    ] {
        let (mut client, mut conn) = half_open(&proxy, &upstream);
        conn.send(answer);
        if fin {
            conn.fin();
        }
        let seen = client.read_answer();
        assert_eq!(seen.head.line, "HTTP/1.1 403 No");
        assert_eq!(body_of(&seen), b"abcdefg", "{seen:?}");
        assert_eq!(seen.end, End::Eof);
        conn.wait_end();
    }
    let count = f64::from(u16::try_from(DECLINED.len() + 5).expect("few"));
    let labels = [("result", "declined")];
    proxy.wait_metric("vibewarden_websocket_upgrades_total", &labels, count);
    let stopped = proxy.stop();
    upstream.assert_untouched();
    let proxied = stopped.of_kind("request.proxied");
    assert_eq!(proxied.len(), DECLINED.len() + 5);
    assert_eq!(proxied[0].count("payload.status_code"), 200);
    assert!(stopped.of_kind("websocket.closed").is_empty());
}

/// The body of an answer in whatever framing it came; panics when the framing is not ended.
#[track_caller]
fn body_of(answer: &Answer) -> Vec<u8> {
    if answer.head.one("transfer-encoding").is_none() {
        if let Some(length) = answer.head.one("content-length") {
            assert_eq!(length, answer.body.len().to_string(), "{answer:?}");
        }
        return answer.body.clone();
    }
    unchunked(&answer.body).unwrap_or_else(|| panic!("broken chunks: {answer:?}"))
}

/// Decodes chunks strictly; `None` when they are broken or the last one is missing.
fn unchunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let at = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..at]).ok()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        rest = &rest[at + 2..];
        if size == 0 {
            return (rest == b"\r\n").then_some(out);
        }
        out.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

/// C17, C19, 7.2: hop-by-hop headers and framing go, everything else comes in order and spelling.
fn the_101_is_relayed_clean(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let (mut client, mut conn) = half_open(&proxy, &upstream);
    conn.send(
        b"HTTP/1.1 101 Web Socket Protocol Handshake\r\nserver: app/1\r\nupgrade: WebSocket\r\nAlt-Svc: h3=\":443\"\r\n\
        CONNECTION: keep-alive, upgrade, X-Custom-ID\r\nX-Custom-ID: v\r\nKeep-Alive: 5\r\nProxy-Authenticate: x\r\n\
        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\
        Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\n\
        Content-Length: 5\r\nTransfer-Encoding: chunked\r\nDate: today\r\n\r\n5\r\nhello",
    );
    let head = client.open();
    assert_eq!(head.one("upgrade").map(str::to_ascii_lowercase), Some("websocket".to_owned()));
    assert_eq!(head.one("connection"), Some("Upgrade"));
    let theirs: Vec<(&str, &str)> = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .filter(|(name, _)| {
            !["upgrade", "connection"].contains(&name.to_ascii_lowercase().as_str())
        })
        .collect();
    assert_eq!(
        theirs,
        [
            ("server", "app/1"),
            ("Alt-Svc", "h3=\":443\""),
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            ("Sec-WebSocket-Protocol", "chat"),
            ("Sec-WebSocket-Extensions", "permessage-deflate; server_no_context_takeover"),
            ("Set-Cookie", "a=b"),
            ("Set-Cookie", "c=d"),
            ("Date", "today"),
        ]
    );
    client.expect(b"5\r\nhello");
    client.ping(&mut conn, b"raw");
}

/// C21, C23: once, without a second try.
fn an_upstream_that_goes_away_is_502_once(driver: Driver) {
    let (mut proxy, upstream) = behind(driver);
    let part: [&[u8]; 4] = [
        b"",
        b"HTTP/1.1 101 Swi",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n",
    ];
    for part in part {
        for reset in [false, true] {
            let (mut client, mut conn) = half_open(&proxy, &upstream);
            conn.send(part);
            if reset {
                let (local, remote) = (conn.peer().remote(), conn.peer().local());
                wait_until_consumed(local, remote);
                conn.reset();
            } else {
                conn.fin();
            }
            let answer = client.read_answer();
            answer.assert_refusal(502, "upstream_unavailable");
        }
    }
    // Closed on accept, before anything is read.
    let mut client = proxy.sent(HANDSHAKE);
    drop(upstream.accept_unrecorded());
    client.read_answer().assert_refusal(502, "upstream_unavailable");
    let stopped = proxy.stop();
    upstream.assert_untouched();
    assert_eq!(stopped.of_kind("upstream.unavailable").len(), 9);
}

/// C12.
fn interim_answers_are_skipped(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let (mut client, mut conn) = half_open(&proxy, &upstream);
    conn.send(&wire(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n{101}behind",
    ));
    assert!(client.open().one("link").is_none());
    client.expect(b"behind");
    client.ping(&mut conn, b"works");
    let (mut client, mut conn) = half_open(&proxy, &upstream);
    conn.send(b"HTTP/1.1 102 Processing\r\n\r\n");
    wait_until_consumed(conn.peer().remote(), conn.peer().local());
    conn.send(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.read_answer().head.status(), 403);
    let (mut client, mut conn) = half_open(&proxy, &upstream);
    let mut answer = b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n".repeat(16);
    answer.extend_from_slice(ANSWER_101);
    conn.send(&answer);
    client.open();
}

/// C14.
fn too_many_interim_answers_are_502(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let (mut client, mut conn) = half_open(&proxy, &upstream);
    let mut answer = b"HTTP/1.1 103 X\r\n\r\n".repeat(17);
    answer.extend_from_slice(ANSWER_101);
    conn.send(&answer);
    client.read_answer().assert_refusal(502, "upstream_invalid_response");
    let (mut client, mut conn) = half_open(&proxy, &upstream);
    let many = b"HTTP/1.1 103 X\r\n\r\n".repeat(1000);
    for _ in 0..100 {
        if conn.try_send(&many).is_err() {
            break;
        }
    }
    client.read_answer().assert_refusal(502, "upstream_invalid_response");
    conn.wait_end();
}

/// C26: 64 KiB, 256 lines.
fn an_answer_head_is_bounded(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let lined = |count: usize, value: usize| {
        let line = format!("X: {}\r\n", "v".repeat(value));
        let (start, rest) = ANSWER_101.split_at(ANSWER_101.len() - 2);
        [start, line.repeat(count - 3).as_bytes(), rest].concat()
    };
    for fine in [lined(256, 8), lined(4, 60_000)] {
        let (mut client, mut conn) = half_open(&proxy, &upstream);
        conn.send(&fine);
        client.open();
        client.ping(&mut conn, b"open");
    }
    let before = proxy.process.resident_bytes();
    for large in
        [lined(257, 8), lined(10_000, 8), lined(4, 66_000), lined(4, 256 << 10), lined(20_000, 50)]
    {
        let (mut client, mut conn) = half_open(&proxy, &upstream);
        let _may_be_cut = conn.try_send(&large);
        client.read_answer().assert_refusal(502, "upstream_invalid_response");
        conn.wait_end();
    }
    let grown = proxy.process.resident_bytes().saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes for heads over the limit");
}

/// The answer's head split at every place, each piece read before the next.
fn an_answer_may_arrive_in_any_two_pieces(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    for point in 1..ANSWER_101.len() {
        let (mut client, mut conn) = half_open(&proxy, &upstream);
        conn.send(&ANSWER_101[..point]);
        wait_until_consumed(conn.peer().remote(), conn.peer().local());
        conn.send(&ANSWER_101[point..]);
        client.open();
    }
}

/// C15.
fn bytes_behind_the_101_come_right_after_it(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    for count in [1, 1000, 4096, 16_384, 65_536, 1 << 20] {
        let (mut client, mut conn) = half_open(&proxy, &upstream);
        let bytes = Stream::new(seed()).take(count);
        conn.send(&[ANSWER_101, &bytes].concat());
        client.open();
        let seen = client.read_exact(count);
        assert!(seen == bytes, "{count} bytes behind the 101 (seed {})", seed());
        client.ping(&mut conn, b"and on");
    }
}

/// C36, C37.
fn a_broken_declined_body_has_no_clean_end(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let broken: [&[u8]; 7] = [
        b"3\r\nabc\r\n",
        b"3\r\nabc\r\n5\r\nde",
        b"3\nabc\r\n0\r\n\r\n",
        b"1x\r\na\r\n0\r\n\r\n",
        b"3\r\nabcde\r\n0\r\n\r\n",
        b"3\r\nabc\r\n-1\r\n0\r\n\r\n",
        b"3\r\nabc\r\n11111111111111111\r\n0\r\n\r\n",
    ];
    for body in broken {
        let (mut client, mut conn) = half_open(&proxy, &upstream);
        conn.send(b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n");
        conn.send(body);
        conn.fin();
        let seen = client.read_answer();
        if seen.head.status() == 502 {
            continue;
        }
        let clean = seen.head.one("transfer-encoding").is_none() || unchunked(&seen.body).is_some();
        let cut = !clean || seen.end == End::Reset;
        assert!(cut, "a clean end after {}: {seen:?}", show(body));
        conn.wait_end();
    }
    let (mut client, mut conn) = half_open(&proxy, &upstream);
    conn.send(b"HTTP/1.1 403 No\r\nContent-Length: 10\r\n\r\nabc");
    conn.fin();
    let seen = client.read_answer();
    assert_eq!(seen.head.one("content-length"), Some("10"));
    assert_eq!(seen.body, b"abc");
    // More than it said: the rest is dropped.
    let (mut client, mut conn) = half_open(&proxy, &upstream);
    conn.send(b"HTTP/1.1 403 No\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\n\r\n");
    let seen = client.read_answer();
    assert_eq!(seen.body, b"abc");
}

/// A refusal page of any size, to a client that reads it late.
fn a_large_declined_body_arrives_whole(driver: Driver) {
    const BODY_BYTES: usize = 24 << 20;
    let (proxy, upstream) = behind(driver);
    let (mut client, mut conn) = half_open(&proxy, &upstream);
    let before = proxy.process.resident_bytes();
    let sending = std::thread::spawn(move || {
        conn.send(format!("HTTP/1.1 503 No\r\nContent-Length: {BODY_BYTES}\r\n\r\n").as_bytes());
        let mut stream = Stream::new(seed());
        for _ in 0..BODY_BYTES / 65_536 {
            conn.send(&stream.take(65_536));
        }
        conn.wait_end();
    });
    let head = client.read_head();
    assert_eq!(head.status(), 503);
    let (body, end) = client.read_to_end();
    assert_eq!((body.len(), end), (BODY_BYTES, End::Eof));
    assert!(body == Stream::new(seed()).take(BODY_BYTES), "seed {}", seed());
    sending.join().expect("upstream");
    let grown = proxy.process.resident_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes of memory for a streamed body");
}

/// C29, first half.
fn a_refused_connect_is_502(driver: Driver) {
    let address = vacant_address();
    let mut proxy = Setup::new(driver, format!("http://{address}")).start();
    proxy.answer_to(HANDSHAKE).assert_refusal(502, "upstream_unavailable");
    let refused = [("reason", "refused")];
    proxy.wait_metric("vibewarden_upstream_connect_failures_total", &refused, 1.0);
    proxy.wait_metric("vibewarden_upstream_errors_total", &[], 1.0);
    // The application comes up: no operator has to do anything.
    let upstream = Upstream::on(address);
    let (mut client, mut conn) = proxy.tunnel(&upstream);
    client.ping(&mut conn, b"now it is there");
    drop((client, conn));
    let stopped = proxy.stop();
    let event = stopped.only("upstream.unavailable");
    let shown = event.text("payload.upstream");
    assert!(shown.contains(&address.port().to_string()), "{}", event.line);
}

/// Contract 3.2: `unix:/path.sock`; missing and refused sockets are 502.
fn an_upstream_behind_a_unix_socket(driver: Driver) {
    let directory = Scratch::new();
    let path = directory.path().join("app.sock");
    let mut proxy = Setup::new(driver, format!("unix:{}", path.display())).start();
    proxy.answer_to(HANDSHAKE).assert_refusal(502, "upstream_unavailable");
    let upstream = Upstream::unix(&path);
    let (mut client, mut conn) = proxy.tunnel(&upstream);
    client.ping(&mut conn, b"over a file");
    conn.fin();
    assert_eq!(client.expect_end(), End::Eof);
    client.send(b"half");
    client.fin();
    conn.expect(b"half");
    assert_eq!(conn.expect_end(), End::Eof);
    drop(conn);
    let stopped = proxy.stop();
    assert_eq!(stopped.only("websocket.closed").text("payload.reason"), "upstream_closed");
}

/// Contract 3.2: a name is an upstream like any address.
fn an_upstream_by_name(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = Setup::new(driver, format!("http://localhost:{}", upstream.port())).start();
    open_when_resolved(&proxy, &upstream);
}

/// Seed 22: also when only `::1` listens there.
fn localhost_is_both_loopbacks(driver: Driver) {
    let upstream = Upstream::on((Ipv6Addr::LOCALHOST, 0).into());
    let proxy = Setup::new(driver, format!("http://localhost:{}", upstream.port())).start();
    open_when_resolved(&proxy, &upstream);
}

/// Names are resolved away from the request path, so the first requests may come too early.
#[track_caller]
fn open_when_resolved(proxy: &Proxy, upstream: &Upstream) {
    let (mut client, mut conn) = eventually("an upgrade that reaches the upstream", || {
        let mut client = proxy.sent(HANDSHAKE);
        let conn = eventually("the upstream or a refusal", || match upstream.try_accept() {
            Some(conn) => Some(Some(conn)),
            None => (!client.pending().is_empty()).then_some(None),
        });
        Some((client, conn?))
    });
    conn.read_head();
    conn.send(ANSWER_101);
    client.open();
    client.ping(&mut conn, b"by name");
}

fn an_ipv6_upstream(driver: Driver) {
    let upstream = Upstream::on((Ipv6Addr::LOCALHOST, 0).into());
    let proxy = Setup::new(driver, upstream.url()).start();
    let (mut client, mut conn) = proxy.tunnel(&upstream);
    client.ping(&mut conn, b"six");
    let proxy = Setup::new(driver, "http://127.0.0.1:1")
        .unset("upstream.url")
        .set("upstream.host", "\"::1\"")
        .set("upstream.port", &upstream.port().to_string())
        .start();
    let (mut client, mut conn) = proxy.tunnel(&upstream);
    client.ping(&mut conn, b"six again");
}
