//! Group (b): what counts as an upgrade, what the upstream gets to see of it, and what happens to bytes that come too early.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use crate::harness::http::is_made_request_id;
use crate::harness::json::Json;
use crate::harness::payload::{Stream, seed};
use crate::harness::{
    ANSWER_101, Driver, End, HANDSHAKE, Setup, Upstream, behind, forwarded, wire,
};

on_drivers!(
    every:
        a_handshake_reaches_the_upstream_as_sent,
        every_spelling_of_an_upgrade_opens,
        a_broken_upgrade_is_refused,
        other_requests_are_not_upgrades,
        early_bytes_wait_for_the_101,
        early_bytes_are_never_a_second_request;
    both:
        any_key_gets_its_own_accept,
        a_head_may_arrive_in_any_two_pieces,
        early_bytes_are_bounded,
        hop_by_hop_and_identity_headers_stay_behind,
        forwarding_headers_of_strangers_are_replaced,
        forwarding_headers_of_trusted_peers_are_kept,
        request_ids_are_kept_or_made,
);

over_tls!(
    a_handshake_reaches_the_upstream_as_sent,
    early_bytes_wait_for_the_101,
    early_bytes_are_never_a_second_request,
    a_head_may_arrive_in_any_two_pieces,
    early_bytes_are_bounded,
);

/// B1, seed 2 and 28; contract 6.3, 7.2, 9.3.
fn a_handshake_reaches_the_upstream_as_sent(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let request = wire(
        "GET /chat%20room/?room=1&token=%2f..%2f HTTP/1.1\r\nhOST: t.test:8080\r\nUser-Agent: a \t b\r\n{U}{K}\
         Origin: http://else.test\r\nSec-WebSocket-Protocol: chat, b.c\r\nX-Empty:\r\nSec-WebSocket-Protocol: d\r\n\
         Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\nSec-WebSocket-Extensions: x-y;z=\"1\"\r\n\
         Cookie: a=b; c=d\r\nauthorization: Bearer q\r\nX-API-Key: k\r\nX-Request-ID: my-id\r\n\r\n",
    );
    let mut client = proxy.sent(&request);
    let mut conn = upstream.accept();
    let head = conn.read_head();
    assert_eq!(head.line, "GET /chat%20room/?room=1&token=%2f..%2f HTTP/1.1");
    let ours = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("X-Forwarded-For", "127.0.0.1"),
        ("X-Forwarded-Proto", if driver.tls().is_some() { "https" } else { "http" }),
        ("X-Forwarded-Host", "t.test:8080"),
        ("X-Real-IP", "127.0.0.1"),
        ("Via", "1.1 vibewarden"),
        ("X-Request-ID", "my-id"),
    ];
    for (name, value) in ours {
        assert_eq!(head.one(name), Some(value), "{name} in {head:?}");
    }
    let theirs: Vec<(&str, &str)> = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .filter(|(name, _)| !ours.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)))
        .collect();
    assert_eq!(
        theirs,
        [
            ("hOST", "t.test:8080"),
            ("User-Agent", "a \t b"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Sec-WebSocket-Version", "13"),
            ("Origin", "http://else.test"),
            ("Sec-WebSocket-Protocol", "chat, b.c"),
            ("X-Empty", ""),
            ("Sec-WebSocket-Protocol", "d"),
            ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),
            ("Sec-WebSocket-Extensions", "x-y;z=\"1\""),
            ("Cookie", "a=b; c=d"),
            ("authorization", "Bearer q"),
            ("X-API-Key", "k"),
        ]
    );
    let place =
        |wanted: &str| head.names().iter().position(|name| name.eq_ignore_ascii_case(wanted));
    let last_of_theirs = place("x-api-key");
    for name in ["upgrade", "connection", "x-forwarded-for", "x-real-ip", "via"] {
        assert!(place(name) > last_of_theirs, "{name} stands before a client's header: {head:?}");
    }
    conn.send(ANSWER_101);
    let answer = client.open();
    assert_eq!(answer.one("upgrade"), Some("websocket"));
    assert_eq!(answer.one("connection"), Some("Upgrade"));
    assert_eq!(answer.one("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(answer.headers.len(), 3, "added to the 101: {answer:?}");
    client.ping(&mut conn, b"\x81\x05hello");
}

/// B2, B5, B24, B29, A83, A88, A104, A115.
fn every_spelling_of_an_upgrade_opens(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    for request in [
        "GET /ws HTTP/1.1\r\n{H}Upgrade: websocket\r\nconnection: keep-alive, Upgrade\r\n{K}\r\n",
        "GET /ws HTTP/1.1\r\n{H}Upgrade: websocket\r\nConnection: Upgrade,keep-alive\r\n{K}\r\n",
        "GET /ws HTTP/1.1\r\n{H}Upgrade: websocket\r\nConnection: keep-alive\r\nConnection: UPGRADE\r\n{K}\r\n",
        "GET /ws HTTP/1.1\r\n{H}Upgrade: websocket\r\nConnection:\tx , ,upgrade \r\n{K}\r\n",
        "GET /ws HTTP/1.1\r\n{H}Upgrade: websocket\r\nConnection: close, Upgrade\r\n{K}\r\n",
        "GET /ws HTTP/1.1\r\n{H}uPGRADE: WebSocket\r\ncONNECTION: uPGRADE\r\n{K}\r\n",
        "GET /ws HTTP/1.1\r\n{H}Upgrade: WEBSOCKET\r\nConnection: Upgrade\r\n{K}\r\n",
        "GET /ws HTTP/1.1\r\n{H}{U}{K}Content-Length: 0\r\n\r\n",
        "GET /ws HTTP/1.1\r\n{H}{U}{K}Expect: 100-continue\r\n\r\n",
        "GET /ws HTTP/1.1\r\n{H}{U}{K}X-Empty: \t \r\nX-Last: \"a\tb\"\r\n\r\n",
        "\r\nGET /ws HTTP/1.1\r\n{H}{U}{K}\r\n",
        "GET http://t.test/ws HTTP/1.1\r\n{H}{U}{K}\r\n",
        "GET /ws HTTP/1.1\r\nHost: [::1]:80\r\n{U}{K}\r\n",
        "GET /ws HTTP/1.1\r\nHost: T.TEST.\r\n{U}{K}\r\n",
    ] {
        let mut client = proxy.sent(&wire(request));
        let mut conn = upstream.accept();
        let head = conn.read_head();
        assert_eq!(head.line, "GET /ws HTTP/1.1", "for {request}");
        assert_eq!(head.one("upgrade"), Some("websocket"), "for {request}");
        assert_eq!(head.one("connection"), Some("Upgrade"), "for {request}");
        // B29: no 100 of the proxy's own; the 101 is the first answer.
        conn.send(ANSWER_101);
        client.open();
        client.ping(&mut conn, b"through");
    }
}

/// The accept value depends on the key; a proxy that knows one pair by heart fails here.
fn any_key_gets_its_own_accept(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let mut keys = Stream::new(seed());
    for _ in 0..50 {
        let key = STANDARD.encode(keys.take(16));
        let guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
        let accept = STANDARD.encode(Sha1::digest(format!("{key}{guid}")));
        let request = String::from_utf8_lossy(HANDSHAKE).replace("dGhlIHNhbXBsZSBub25jZQ==", &key);
        let answer =
            String::from_utf8_lossy(ANSWER_101).replace("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", &accept);
        let mut client = proxy.sent(request.as_bytes());
        let mut conn = upstream.accept();
        assert_eq!(conn.read_head().one("sec-websocket-key"), Some(key.as_str()));
        conn.send(answer.as_bytes());
        assert_eq!(client.open().one("sec-websocket-accept"), Some(accept.as_str()), "key {key}");
    }
}

/// B14, B16, B17, B19, B22; contract 7.1.
fn a_broken_upgrade_is_refused(driver: Driver) {
    let (mut proxy, upstream) = behind(driver);
    let key = |value: &str| {
        format!(
            "GET /ws HTTP/1.1\r\n{{H}}{{U}}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {value}\r\n\r\n"
        )
    };
    let good_key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let version = |lines: &str| format!("GET /ws HTTP/1.1\r\n{{H}}{{U}}{good_key}{lines}\r\n");
    let bad_requests = [
        "GET /ws HTTP/1.1\r\n{H}{U}Sec-WebSocket-Version: 13\r\n\r\n".to_owned(),
        format!("GET /ws HTTP/1.1\r\n{{H}}{{U}}{{K}}{good_key}\r\n"),
        key("abc"),
        key(&STANDARD.encode([7; 15])),
        key(&STANDARD.encode([7; 17])),
        key(&"A".repeat(4096)),
        key("===="),
        key(""),
        key("dGhlIHNhbXBsZSBub25jZQ="),
        key("dGhlIHNhbXBsZSBub25jZQ"),
        // The same 16 bytes with spare bits set: not canonical.
        key("dGhlIHNhbXBsZSBub25jZR=="),
        key("dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ=="),
        key("dGhlIHNhbXBsZSBub25j_-=="),
        "POST /ws HTTP/1.1\r\n{H}{U}{K}\r\n".to_owned(),
        "HEAD /ws HTTP/1.1\r\n{H}{U}{K}\r\n".to_owned(),
        "get /ws HTTP/1.1\r\n{H}{U}{K}\r\n".to_owned(),
        "GET /ws HTTP/1.1\r\n{H}{U}{K}Content-Length: 5\r\n\r\nhello".to_owned(),
        "GET /ws HTTP/1.1\r\n{H}{U}{K}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "GET /ws HTTP/1.1\r\n{H}{U}{K}Content-Length: 40\r\n\r\n{SM}".to_owned(),
    ];
    let wrong_versions = [
        version("Sec-WebSocket-Version: 12\r\n"),
        version("Sec-WebSocket-Version: 99\r\n"),
        version("Sec-WebSocket-Version: 013\r\n"),
        version("Sec-WebSocket-Version: 13.0\r\n"),
        version("Sec-WebSocket-Version: -13\r\n"),
        version("Sec-WebSocket-Version: 13, 8\r\n"),
        version("Sec-WebSocket-Version:\r\n"),
        version("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 13\r\n"),
        version(""),
    ];
    let mut ids = Vec::new();
    for request in &bad_requests {
        let answer = proxy.answer_to(&wire(request));
        if request.starts_with("HEAD") {
            ids.push(answer.assert_refusal_without_body(400));
        } else {
            ids.push(answer.assert_refusal(400, "bad_request"));
        }
    }
    for request in &wrong_versions {
        let answer = proxy.answer_to(&wire(request));
        ids.push(answer.assert_refusal(426, "unsupported_websocket_version"));
        assert_eq!(answer.head.one("sec-websocket-version"), Some("13"));
        assert_eq!(answer.head.one("upgrade"), Some("websocket"));
    }
    let stopped = proxy.stop();
    upstream.assert_untouched();
    let blocked = stopped.of_kind("request.blocked");
    assert_eq!(blocked.len(), ids.len());
    for (at, event) in blocked.iter().enumerate() {
        assert!(ids.iter().any(|id| id == event.request_id()), "{}", event.line);
        assert_eq!(event.text("payload.blocked_by"), "websocket", "case {at}: {}", event.line);
        assert_eq!(event.text("payload.path"), "/ws", "{}", event.line);
    }
}

/// B6, B7, B8, B12, B21: plain requests, which reach the upstream without a trace of the upgrade, and are answered like any.
fn other_requests_are_not_upgrades(driver: Driver) {
    let (mut proxy, upstream) = behind(driver);
    let cases = [
        "GET /ws HTTP/1.1\r\n{H}Upgrade: websocket/13\r\nConnection: Upgrade\r\n{K}\r\n",
        "GET /ws HTTP/1.1\r\n{H}Upgrade: xwebsocket\r\nConnection: Upgrade\r\n{K}\r\n",
        "GET /ws HTTP/1.1\r\n{H}Upgrade: web socket\r\nConnection: Upgrade\r\n{K}\r\n",
        "GET /ws HTTP/1.1\r\n{H}Upgrade: foo, websocket\r\nConnection: Upgrade\r\n{K}\r\n",
        "GET /ws HTTP/1.1\r\n{H}Upgrade: websocket, foo\r\nConnection: Upgrade\r\n{K}\r\n",
        "GET /ws HTTP/1.1\r\n{H}Upgrade: websocket\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{K}\r\n",
        "GET /ws HTTP/1.1\r\n{H}Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        "GET /ws HTTP/1.1\r\n{H}Upgrade: websocket\r\n{K}\r\n",
        "GET /ws HTTP/1.1\r\n{H}Upgrade: websocket\r\nConnection: upgraded, keep-alive\r\n{K}\r\n",
        "GET /ws HTTP/1.1\r\n{H}Upgrade: websocket\r\nConnection: \"upgrade\"\r\n{K}\r\n",
        "GET /ws HTTP/1.1\r\n{H}Connection: Upgrade\r\n{K}\r\n",
        "GET /ws HTTP/1.0\r\n{H}{U}{K}\r\n",
        "POST /ws HTTP/1.1\r\n{H}Connection: Upgrade\r\nUpgrade: foo\r\nContent-Length: 40\r\n\r\n{SM}",
    ];
    for request in cases {
        let seen = forwarded(&proxy, &upstream, &wire(request));
        assert_eq!(seen.target(), "/ws", "{request}");
        for removed in ["upgrade", "http2-settings"] {
            assert_eq!(seen.head.one(removed), None, "{request}: {seen:?}");
        }
        let connection = seen.head.one("connection").unwrap_or("keep-alive");
        assert_eq!(connection.to_ascii_lowercase(), "keep-alive", "{request}");
    }
    let stopped = proxy.stop();
    upstream.assert_untouched();
    let ended: Vec<_> = stopped.events.iter().filter(|e| e.ends_a_request()).collect();
    assert_eq!(ended.len(), cases.len(), "{ended:#?}");
    for event in ended {
        assert!(event.is("request.proxied"), "{}", event.line);
        assert_eq!(event.count("payload.status_code"), 200, "{}", event.line);
        assert_eq!(event.json.at("payload.websocket"), Some(&Json::Bool(false)), "{}", event.line);
    }
}

/// B25.
fn early_bytes_wait_for_the_101(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let mut client = proxy.sent(&wire("{HS}twenty early bytes, "));
    let mut conn = upstream.accept();
    conn.read_head();
    let first = conn.offset();
    proxy.wait_consumed(&client);
    client.send(b"and more");
    // Time for a mistake: another request lives and ends meanwhile.
    assert_eq!(proxy.get("/_vibewarden/health").0.status(), 200);
    let answered = Instant::now();
    conn.send(ANSWER_101);
    client.open();
    conn.expect(b"twenty early bytes, and more");
    assert!(conn.arrived(first) >= answered, "sent before the 101");
    client.ping(&mut conn, b"then data");
}

/// B26.
fn early_bytes_are_never_a_second_request(driver: Driver) {
    let (mut proxy, upstream) = behind(driver);
    let statuses = [200_u16, 301, 401, 403, 404, 426, 500, 503];
    for status in statuses {
        let mut client = proxy.sent(&wire("{HS}{SM}"));
        let mut conn = upstream.accept();
        conn.read_head();
        let answer =
            format!("HTTP/1.1 {status} Said\r\nContent-Length: 3\r\nX-Its: own\r\n\r\nno!");
        conn.send(answer.as_bytes());
        let seen = client.read_answer();
        assert_eq!(seen.head.status(), status);
        assert_eq!(seen.body, b"no!");
        assert_eq!(seen.end, End::Eof);
        assert_eq!(seen.head.one("connection"), Some("close"));
        conn.wait_end();
        assert!(conn.pending().is_empty(), "{status}: held bytes were sent");
    }
    let stopped = proxy.stop();
    upstream.assert_untouched();
    let proxied = stopped.of_kind("request.proxied");
    let seen: Vec<u64> = proxied.iter().map(|e| e.count("payload.status_code")).collect();
    assert_eq!(seen, statuses.map(u64::from));
    assert!(!stopped.events.iter().any(|event| event.line.contains("smuggled")));
}

/// B28: reading stops while the upstream is silent, and nothing of it is lost.
fn early_bytes_are_bounded(driver: Driver) {
    const EARLY_BYTES_MAX: usize = 64 << 20;
    let (proxy, upstream) = behind(driver);
    let mut client = proxy.sent(HANDSHAKE);
    let mut conn = upstream.accept_unrecorded();
    conn.read_head();
    let before = proxy.process.resident_bytes();
    let mut stream = Stream::new(seed());
    let sent = client.send_until_blocked(Duration::from_millis(500), EARLY_BYTES_MAX, |count| {
        stream.take(count)
    });
    let grown = proxy.process.resident_bytes().saturating_sub(before);
    assert!(sent.blocked, "{} early bytes were taken", sent.taken);
    assert!(grown < 4 << 20, "{grown} bytes of memory for early bytes");
    conn.send(ANSWER_101);
    client.open();
    client.send(&[sent.rest.as_slice(), b"the end"].concat());
    let mut expected = Stream::new(seed()).take(sent.taken + sent.rest.len());
    expected.extend_from_slice(b"the end");
    let got = conn.read_exact(expected.len());
    assert!(got == expected, "early bytes were changed (seed {})", seed());
}

/// A118.
fn a_head_may_arrive_in_any_two_pieces(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    for point in 1..HANDSHAKE.len() {
        let mut client = proxy.connect();
        proxy.send_split(&mut client, HANDSHAKE, &[point]);
        let mut conn = upstream.accept();
        assert_eq!(conn.read_head().line, "GET /ws HTTP/1.1", "split at {point}");
        conn.send(ANSWER_101);
        client.open();
    }
    let every_byte: Vec<usize> = (1..HANDSHAKE.len()).collect();
    let mut client = proxy.connect();
    proxy.send_split(&mut client, HANDSHAKE, &every_byte);
    let mut conn = upstream.accept();
    conn.read_head();
    conn.send(ANSWER_101);
    client.open();
    client.ping(&mut conn, b"whole");
}

/// B31, A117, E49, E50, E52; contract 6.3.
fn hop_by_hop_and_identity_headers_stay_behind(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let request = wire(
        "GET /ws HTTP/1.1\r\n{H}Upgrade: websocket\r\n\
         Connection: Upgrade, X-Named, Host, Sec-WebSocket-Key, Sec-WebSocket-Version, X-Forwarded-For, X-Real-IP, X-Request-ID, Via, Content-Length\r\n\
         {K}X-Named: 1\r\nKeep-Alive: 5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Bearer p\r\nProxy-Authenticate: x\r\n\
         HTTP2-Settings: AAMA\r\nTE: gzip\r\nX-User-Id: admin\r\nx-user-EMAIL: a@b\r\nX-User-Anything: 1\r\n\
         X_User_Id: admin\r\nX.User.Id: admin\r\nX-User_Id: admin\r\nX_Forwarded_For: 1.2.3.4\r\nX-Real_IP: 1.2.3.4\r\nX_Request_ID: q\r\n\
         Content_Length: 3\r\nTransfer.Encoding: chunked\r\nX-Kept: yes\r\n\r\n",
    );
    let mut client = proxy.sent(&request);
    let mut conn = upstream.accept();
    let head = conn.read_head();
    let mut names: Vec<String> =
        head.names().iter().map(|name| name.to_ascii_lowercase()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "connection",
            "host",
            "sec-websocket-key",
            "sec-websocket-version",
            "upgrade",
            "via",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-kept",
            "x-real-ip",
            "x-request-id",
        ]
    );
    assert_eq!(head.one("connection"), Some("Upgrade"));
    assert_eq!(head.one("host"), Some("t.test"));
    conn.send(ANSWER_101);
    client.open();
}

/// E54; contract 9.3, peer not trusted.
fn forwarding_headers_of_strangers_are_replaced(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let many = "X-Forwarded-For: 9.9.9.9\r\n".repeat(100);
    for lines in [
        "X-Forwarded-For: 1.2.3.4\r\n",
        "X-Forwarded-For: 1.2.3.4, 5.6.7.8\r\nx-forwarded-for: ::1\r\n",
        "X-Forwarded-For: junk\"'<>\r\n",
        "X-Forwarded-For: [2001:db8::1]:443\r\n",
        &many,
    ] {
        let request = wire(format!(
            "GET /ws HTTP/1.1\r\n{{H}}{{U}}{{K}}{lines}X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.test\r\n\
             X-Forwarded-Port: 1\r\nX-Forwarded-Prefix: /p\r\nForwarded: for=1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\nVia: 1.0 before\r\n\r\n"
        ));
        let _client = proxy.sent(&request);
        let mut conn = upstream.accept();
        let head = conn.read_head();
        assert_eq!(head.one("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(head.one("x-forwarded-proto"), Some("http"));
        assert_eq!(head.one("x-forwarded-host"), Some("t.test"));
        assert_eq!(head.one("x-real-ip"), Some("127.0.0.1"));
        for removed in ["x-forwarded-port", "x-forwarded-prefix", "forwarded"] {
            assert_eq!(head.one(removed), None, "{head:?}");
        }
        assert_eq!(head.all("via").join(", "), "1.0 before, 1.1 vibewarden");
    }
}

/// E55; contract 9.1 and 9.3, peer trusted.
fn forwarding_headers_of_trusted_peers_are_kept(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = Setup::new(driver, upstream.url())
        .set("server.trusted_proxies", "[127.0.0.0/8, 10.0.0.0/8]")
        .start();
    for (at, (received, client_ip)) in [
        ("1.2.3.4", "1.2.3.4"),
        ("6.6.6.6, 1.2.3.4", "1.2.3.4"),
        ("1.2.3.4, 10.1.1.1", "1.2.3.4"),
        ("10.1.1.1, 10.2.2.2", "10.1.1.1"),
        ("1.2.3.4, unknown, 10.1.1.1", "10.1.1.1"),
        ("unknown", "127.0.0.1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("1.2.3.4:5678", "1.2.3.4"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
    ]
    .into_iter()
    .enumerate()
    {
        let request = wire(format!(
            "GET /ws HTTP/1.1\r\n{{H}}{{U}}{{K}}X-Request-ID: case-{at}\r\nX-Forwarded-For: {received}\r\nX-Forwarded-Proto: https\r\n\
             X-Forwarded-Host: app.test\r\nX-Forwarded-Port: 1\r\nForwarded: for=1.2.3.4\r\nX-Real-IP: 6.6.6.6\r\n\r\n"
        ));
        let mut client = proxy.sent(&request);
        let mut conn = upstream.accept();
        let head = conn.read_head();
        let appended = format!("{received}, 127.0.0.1");
        assert_eq!(head.all("x-forwarded-for").join(", "), appended);
        assert_eq!(head.one("x-forwarded-proto"), Some("https"));
        assert_eq!(head.one("x-forwarded-host"), Some("app.test"));
        assert_eq!(head.one("x-forwarded-port"), Some("1"));
        assert_eq!(head.one("forwarded"), Some("for=1.2.3.4"));
        assert_eq!(head.one("x-real-ip"), Some(client_ip), "for {received}");
        conn.send(ANSWER_101);
        client.open();
        let event =
            proxy.wait_event("request.proxied", |event| event.request_id() == format!("case-{at}"));
        assert_eq!(event.text("payload.client_ip"), client_ip);
    }
    // Anything but http and https is set anew.
    let _client = proxy.sent(&wire(
        "GET /ws HTTP/1.1\r\n{H}{U}{K}X-Forwarded-Proto: wss\r\nX-Forwarded-Host: a\r\nX-Forwarded-Host: b\r\n\r\n",
    ));
    let mut conn = upstream.accept();
    let head = conn.read_head();
    assert_eq!(head.one("x-forwarded-proto"), Some("http"));
    assert_eq!(head.one("x-forwarded-host"), Some("t.test"));
    assert_eq!(head.one("x-forwarded-for"), Some("127.0.0.1"));
    drop(conn);
    drop(proxy.stop());
}

/// Contract 6.3: one line of 1–128 visible ASCII characters is kept, everything else is replaced.
fn request_ids_are_kept_or_made(driver: Driver) {
    let (mut proxy, upstream) = behind(driver);
    let longest = "i".repeat(128);
    let too_long = "i".repeat(129);
    let kept = ["x", "a-b_c.9", "!\"#$%&'()*+,/:;<=>?@[]^`{|}~", &longest];
    let replaced = ["", "two words", "\u{e9}", &too_long];
    for id in kept {
        let request = format!("GET /ws HTTP/1.1\r\n{{H}}{{U}}{{K}}X-Request-ID: {id}\r\n\r\n");
        let _client = proxy.sent(&wire(request));
        let mut conn = upstream.accept();
        assert_eq!(conn.read_head().one("x-request-id"), Some(id));
    }
    for id in replaced {
        let request = format!("GET /ws HTTP/1.1\r\n{{H}}{{U}}{{K}}x-request-id: {id}\r\n\r\n");
        let _client = proxy.sent(&wire(request));
        let mut conn = upstream.accept();
        let made = conn.read_head();
        let made = made.one("x-request-id").unwrap_or_default();
        assert!(is_made_request_id(made), "{id:?} became {made:?}");
    }
    let _client = proxy
        .sent(&wire("GET /ws HTTP/1.1\r\n{H}{U}{K}X-Request-ID: a\r\nX-Request-ID: a\r\n\r\n"));
    let mut conn = upstream.accept();
    let made = conn.read_head();
    assert!(is_made_request_id(made.one("x-request-id").unwrap_or_default()));
    drop(conn);
    // The same id in the refusal and its event.
    let answer = proxy.answer_to(&wire(
        "GET /ws HTTP/1.1\r\n{H}{U}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Request-ID: mine\r\n\r\n",
    ));
    assert_eq!(answer.assert_refusal(426, "unsupported_websocket_version"), "mine");
    let blocked = proxy.stop();
    assert_eq!(blocked.only("request.blocked").request_id(), "mine");
}
