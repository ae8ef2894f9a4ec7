//! Heads as they go on, byte for byte.

use super::super::sample::expand;
use super::*;

fn forwarding() -> Forwarding<'static> {
    Forwarding {
        target: None,
        hidden_subprotocols: &[],
        client: IpAddr::from([192, 0, 2, 1]),
        peer: IpAddr::from([192, 0, 2, 1]),
        peer_trusted: false,
        tls: false,
        request_id: "req_ABCDEFGHIJKL",
        upstream_authority: "127.0.0.1:3000",
        identity: &[],
        identity_names: &["X-Roles", "X-Forwarded-Email"],
        api_key_header: Some("X-API-Key"),
    }
}

fn trusted() -> Forwarding<'static> {
    Forwarding {
        client: IpAddr::from([198, 51, 100, 7]),
        peer: IpAddr::from([10, 0, 0, 1]),
        peer_trusted: true,
        ..forwarding()
    }
}

fn forward(short: &[u8], forwarding: &Forwarding<'_>, purpose: Purpose) -> String {
    let bytes = expand(short);
    let head = RequestHead::parse(&bytes).expect("valid");
    let mut out = Vec::new();
    write_request(&mut out, &head, forwarding, purpose);
    String::from_utf8(out).expect("UTF-8")
}

/// The client's lines that are left of a plain GET with `lines`, from a peer that is not trusted.
fn left(lines: &str) -> String {
    left_from(lines, &forwarding())
}

fn left_from(lines: &str, forwarding: &Forwarding<'_>) -> String {
    let out = forward(
        format!("GET /e HTTP/1.1\r\n{{H}}{lines}\r\n").as_bytes(),
        forwarding,
        Purpose::Plain,
    );
    let rest =
        out.strip_prefix("GET /e HTTP/1.1\r\nHost: t.test\r\n").expect("line and host first");
    let own = rest.find("X-Forwarded-For: ").expect("our lines");
    rest[..own].to_owned()
}

#[test]
fn a_credential_in_the_target_stays_here() {
    let forwarding = Forwarding { target: Some("/ws?a=1"), ..forwarding() };
    for purpose in [Purpose::Upgrade, Purpose::Plain] {
        let out = forward(b"GET /ws?a=1&token=x HTTP/1.1\r\n{H}{U}{K}\r\n", &forwarding, purpose);
        assert!(out.starts_with("GET /ws?a=1 HTTP/1.1\r\n"), "{out}");
        assert!(!out.contains("token"), "{out}");
    }
}

#[test]
fn a_credential_among_subprotocols_stays_here() {
    let forwarding = Forwarding { hidden_subprotocols: &["token.", "k:"], ..forwarding() };
    for (lines, expected) in [
        ("Sec-WebSocket-Protocol: chat, token.x\r\n", "Sec-WebSocket-Protocol: chat\r\n"),
        ("sec-websocket-protocol:token.x,chat ,, v2\r\n", "sec-websocket-protocol: chat, v2\r\n"),
        ("Sec-WebSocket-Protocol: token.x\r\nA: 1\r\n", "A: 1\r\n"),
        ("Sec-WebSocket-Protocol: token.x, k:y, \r\n", ""),
        ("Sec-WebSocket-Protocol: token.\r\n", ""),
        (
            "Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: token.x\r\n",
            "Sec-WebSocket-Protocol: a\r\n",
        ),
        (
            "Sec-WebSocket-Protocol: Token.x,  mytoken.y\r\n",
            "Sec-WebSocket-Protocol: Token.x,  mytoken.y\r\n",
        ),
        ("Sec-WebSocket-Extensions: token.x\r\n", "Sec-WebSocket-Extensions: token.x\r\n"),
    ] {
        assert_eq!(left_from(lines, &forwarding), expected, "{lines}");
    }
}

#[test]
fn an_upgrade_goes_on_with_our_lines_last() {
    let expected = "GET /ws?a=%2e%2e HTTP/1.1\r\n\
        Host: t.test\r\n\
        Origin: https://t.test\r\n\
        sec-websocket-protocol: a, b\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
        Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
        X-Forwarded-For: 192.0.2.1\r\n\
        X-Forwarded-Proto: http\r\n\
        X-Forwarded-Host: t.test\r\n\
        X-Real-IP: 192.0.2.1\r\n\
        X-Request-ID: req_ABCDEFGHIJKL\r\n\
        Via: 1.1 vibewarden\r\n\
        Upgrade: websocket\r\n\
        Connection: Upgrade\r\n\r\n";
    let short = b"GET /ws?a=%2e%2e HTTP/1.1\r\n{H}connection: keep-alive, Upgrade\r\nOrigin: https://t.test\r\n\
        sec-websocket-protocol: a, b\r\nUpgrade: WebSocket\r\n{K}\
        Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
        Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
    assert_eq!(forward(short, &forwarding(), Purpose::Upgrade), expected);
    // As a plain request only the last two lines are missing.
    let plain = expected.replace("Upgrade: websocket\r\nConnection: Upgrade\r\n", "");
    assert_eq!(forward(short, &forwarding(), Purpose::Plain), plain);
}

#[test]
fn lines_of_one_hop_stay_behind() {
    // A39, A117, B8, B12, B21, E7, E10, I4, I6
    for (lines, expected) in [
        ("Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMA\r\n", ""),
        ("Upgrade: websocket\r\nAccept: */*\r\n", "Accept: */*\r\n"),
        (
            "Keep-Alive: 5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Bearer good\r\n",
            "",
        ),
        ("Proxy-Authenticate: Basic\r\nConnection: close\r\n", ""),
        (
            "Connection: Authorization, cookie\r\nAuthorization: x\r\nCookie: a=b\r\nAccept: c\r\n",
            "Accept: c\r\n",
        ),
        ("X-A: 1\r\nConnection: x-a\r\nx-a: 2\r\nX-AB: 3\r\n", "X-AB: 3\r\n"),
        (
            "Connection: Host, Sec-WebSocket-Key\r\nSec-WebSocket-Key: k\r\n",
            "Sec-WebSocket-Key: k\r\n",
        ),
        ("Connection: Via, X-Request-ID\r\nVia: 1.0 a\r\n", "Via: 1.0 a\r\n"),
        ("TE: gzip, Trailers\r\n", "TE: trailers\r\n"),
        ("te: trailers\r\nConnection: te\r\n", "te: trailers\r\n"),
        ("TE: gzip\r\nTE: trailers;q=0.5\r\n", ""),
        ("Trailer: X-A\r\n", "Trailer: X-A\r\n"),
    ] {
        assert_eq!(left(lines), expected, "{lines}");
    }
}

#[test]
fn the_proxy_alone_says_who_the_user_is() {
    // E49, E50, E52, A18
    for lines in [
        "X-User-Id: admin\r\n",
        "x-user-id: admin\r\nX-USER-ID: root\r\n",
        "X_User_Id: admin\r\n",
        "X.User.Id: admin\r\n",
        "X-User_Id: admin\r\n",
        "X-User-Anything: x\r\n",
        "X-Roles: admin\r\n",
        "x-roles: admin\r\nX_Roles: admin\r\nX.rOLES: a\r\n",
        "X-Forwarded-Email: a@b\r\nX_Forwarded_Email: a@b\r\n",
        "X_API_Key: good\r\nx.api-key: good\r\n",
        "X_Request_ID: a\r\nX_Real_IP: 1.1.1.1\r\nX-Real-IP: 1.1.1.1\r\n",
        "Content_Length: 3\r\nTransfer_Encoding: chunked\r\n",
        "X_Forwarded_For: 1.1.1.1\r\nX-Forwarded_Proto: https\r\n",
    ] {
        assert_eq!(left(lines), "", "{lines}");
        assert_eq!(left_from(lines, &trusted()), "", "from a trusted peer: {lines}");
    }
    let kept =
        "X-API-Key: good\r\nAuthorization: Bearer t\r\nCookie: a=b\r\nX-Role: x\r\nX-User: y\r\n";
    assert_eq!(left(kept), kept);
}

#[test]
fn identity_stands_before_our_other_lines_and_cannot_be_nominated() {
    // B31
    let forwarding =
        Forwarding { identity: &[("X-User-Id", "alice"), ("X-Roles", "a,b")], ..forwarding() };
    let short = b"GET /ws HTTP/1.1\r\n{H}Upgrade: websocket\r\n\
        Connection: Upgrade, X-User-Id, X-Roles, X-Forwarded-For, X-Real-IP, Sec-WebSocket-Key\r\n\
        X-User-Id: admin\r\nx-roles: root\r\nX-Forwarded-For: 1.1.1.1\r\n{K}\r\n";
    let out = forward(short, &forwarding, Purpose::Upgrade);
    let expected = "GET /ws HTTP/1.1\r\n\
        Host: t.test\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Version: 13\r\n\
        X-User-Id: alice\r\n\
        X-Roles: a,b\r\n\
        X-Forwarded-For: 192.0.2.1\r\n";
    assert!(out.starts_with(expected), "{out}");
    assert!(!out.contains("admin") && !out.contains("root") && !out.contains("1.1.1.1"), "{out}");
}

#[test]
fn forwarding_lines_of_a_peer_that_is_not_trusted_are_replaced() {
    // E54
    for lines in [
        "X-Forwarded-For: 1.2.3.4\r\n",
        "X-Forwarded-For: 1.2.3.4\r\nx-forwarded-for: junk\r\n",
        "Forwarded: for=1.2.3.4\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.test\r\nX-Forwarded-Port: 1\r\n",
        "Connection: X-Forwarded-For\r\nX-Forwarded-For: 1.2.3.4\r\n",
    ] {
        let short = format!("GET / HTTP/1.1\r\n{{H}}{lines}\r\n");
        let expected = "GET / HTTP/1.1\r\nHost: t.test\r\n\
            X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: t.test\r\n\
            X-Real-IP: 192.0.2.1\r\nX-Request-ID: req_ABCDEFGHIJKL\r\nVia: 1.1 vibewarden\r\n\r\n";
        assert_eq!(forward(short.as_bytes(), &forwarding(), Purpose::Plain), expected, "{lines}");
    }
}

#[test]
fn forwarding_lines_of_a_trusted_peer_are_completed() {
    // E55
    let tail =
        "X-Real-IP: 198.51.100.7\r\nX-Request-ID: req_ABCDEFGHIJKL\r\nVia: 1.1 vibewarden\r\n\r\n";
    let out = |lines: &str| {
        let short = format!("GET / HTTP/1.1\r\n{{H}}{lines}\r\n");
        let out = forward(short.as_bytes(), &trusted(), Purpose::Plain);
        let out = out.strip_prefix("GET / HTTP/1.1\r\nHost: t.test\r\n").expect("start").to_owned();
        out.strip_suffix(tail).expect("end").to_owned()
    };
    let proto_and_host = "X-Forwarded-Proto: http\r\nX-Forwarded-Host: t.test\r\n";
    assert_eq!(out(""), format!("X-Forwarded-For: 10.0.0.1\r\n{proto_and_host}"));
    assert_eq!(
        out(
            "X-Forwarded-For: junk, 1.1.1.1\r\nX-Forwarded-For:\r\nx-forwarded-for: 198.51.100.7\r\n"
        ),
        format!("X-Forwarded-For: junk, 1.1.1.1, 198.51.100.7, 10.0.0.1\r\n{proto_and_host}")
    );
    let kept = "X-Forwarded-Proto: https\r\nx-forwarded-host: a.test:8443\r\nForwarded: for=1\r\nX-Forwarded-Port: 1\r\n";
    assert_eq!(out(kept), format!("{kept}X-Forwarded-For: 10.0.0.1\r\n"));
    for bad in [
        "X-Forwarded-Proto: wss\r\n",
        "X-Forwarded-Proto: https, http\r\n",
        "X-Forwarded-Proto: https\r\nX-Forwarded-Proto: https\r\n",
        "X-Forwarded-Host: a.test, b.test\r\n",
        "X-Forwarded-Host: a.test\r\nX-Forwarded-Host: a.test\r\n",
        "X-Forwarded-Host:\r\n",
        "X-Forwarded-Host: a/b\r\n",
    ] {
        assert_eq!(out(bad), format!("X-Forwarded-For: 10.0.0.1\r\n{proto_and_host}"), "{bad}");
    }
}

#[test]
fn addresses_and_scheme_as_the_client_connected() {
    let forwarding = Forwarding {
        client: "2001:db8::1".parse().expect("address"),
        peer: "::ffff:192.0.2.9".parse().expect("address"),
        tls: true,
        ..forwarding()
    };
    let out = forward(b"GET / HTTP/1.1\r\n{H}\r\n", &forwarding, Purpose::Plain);
    assert!(out.contains("X-Forwarded-For: 192.0.2.9\r\nX-Forwarded-Proto: https\r\n"), "{out}");
    assert!(out.contains("X-Real-IP: 2001:db8::1\r\n"), "{out}");
}

#[test]
fn a_request_id_is_kept_when_it_is_one_visible_word() {
    let long = "i".repeat(128);
    for id in ["a", "req_1", "!~\"<>", long.as_str()] {
        let bytes =
            expand(format!("GET / HTTP/1.1\r\n{{H}}x-request-id: {id}\r\nA: b\r\n\r\n").as_bytes());
        let head = RequestHead::parse(&bytes).expect("valid");
        assert_eq!(request_id(&head), Some(id));
        let forwarding = Forwarding { request_id: id, ..forwarding() };
        let mut out = Vec::new();
        write_request(&mut out, &head, &forwarding, Purpose::Plain);
        let out = String::from_utf8(out).expect("UTF-8");
        assert!(out.contains(&format!("x-request-id: {id}\r\nA: b\r\n")), "{out}");
        assert!(!out.contains("X-Request-ID"), "{out}");
    }
    let too_long = "i".repeat(129);
    for lines in ["", "a b", "\u{e9}", "a\tb", "a\r\nX-Request-ID: a", too_long.as_str()] {
        let short = format!("GET / HTTP/1.1\r\n{{H}}X-Request-ID: {lines}\r\n\r\n");
        let bytes = expand(short.as_bytes());
        let head = RequestHead::parse(&bytes).expect("valid");
        assert_eq!(request_id(&head), None, "{lines:?}");
        let mut out = Vec::new();
        write_request(&mut out, &head, &forwarding(), Purpose::Plain);
        let out = String::from_utf8(out).expect("UTF-8");
        assert_eq!(out.matches("X-Request-ID: ").count(), 1, "{out}");
        assert!(out.contains("X-Request-ID: req_ABCDEFGHIJKL\r\n"), "{out}");
    }
}

#[test]
fn framing_is_written_in_its_plain_form() {
    for (lines, expected) in [
        ("Content-Length: 010\r\nA: b\r\n", "Content-Length: 10\r\nA: b\r\n"),
        ("content-length:\t3 \t\r\n", "content-length: 3\r\n"),
        ("Content-Length: 40\r\n", "Content-Length: 40\r\n"),
        ("tRANSFER-eNCODING: CHUNKED\r\n", "tRANSFER-eNCODING: chunked\r\n"),
        (
            "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\n",
        ),
        ("Connection: Content-Length\r\nContent-Length: 3\r\n", "Content-Length: 3\r\n"),
        ("Expect: 100-continue\r\nConnection: expect\r\n", "Expect: 100-continue\r\n"),
    ] {
        assert_eq!(left(lines), expected, "{lines}");
    }
}

#[test]
fn kept_lines_have_one_space_before_the_value_and_none_after_it() {
    for (lines, expected) in [
        (
            "A:b\r\nC:  d\r\nE:\tf\r\nG: h \r\nI:\r\nK: \r\nL: m\r\n",
            "A: b\r\nC: d\r\nE: f\r\nG: h\r\nI: \r\nK: \r\nL: m\r\n",
        ),
        ("A:b \r\n", "A: b\r\n"),
        (
            "X-Empty: \t \r\nx-empty: a\r\nX-EMPTY: b\r\n",
            "X-Empty: \r\nx-empty: a\r\nX-EMPTY: b\r\n",
        ),
        (
            "Via: 1.0 fred\r\nAccept: a\r\nAccept: b\r\n",
            "Via: 1.0 fred\r\nAccept: a\r\nAccept: b\r\n",
        ),
    ] {
        assert_eq!(left(lines), expected, "{lines}");
    }
}

#[test]
fn http_1_0_and_absolute_targets_go_on_as_http_1_1_in_origin_form() {
    for (short, expected) in [
        (
            &b"GET /e HTTP/1.0\r\n\r\n"[..],
            "GET /e HTTP/1.1\r\nHost: 127.0.0.1:3000\r\nX-Forwarded-For: ",
        ),
        (
            b"GET /e HTTP/1.0\r\nA: b\r\n{H}\r\n",
            "GET /e HTTP/1.1\r\nA: b\r\nHost: t.test\r\nX-Forwarded-For: ",
        ),
        (
            b"GET http://u.test/e HTTP/1.0\r\n\r\n",
            "GET /e HTTP/1.1\r\nHost: u.test\r\nX-Forwarded-For: ",
        ),
        (
            b"GET http://t.test/e?q HTTP/1.1\r\n{H}\r\n",
            "GET /e?q HTTP/1.1\r\nHost: t.test\r\nX-Forwarded-For: ",
        ),
        (
            b"\r\nOPTIONS http://t.test HTTP/1.1\r\n{H}\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: t.test\r\nX-Forwarded-For: ",
        ),
        (
            b"GET /e HTTP/1.0\r\n{H}{U}{K}Expect: 100-continue\r\n\r\n",
            "GET /e HTTP/1.1\r\nHost: t.test\r\nSec-WebSocket-Key: ",
        ),
    ] {
        let out = forward(short, &forwarding(), Purpose::Plain);
        assert!(out.starts_with(expected), "{out}");
        assert!(!out.contains("Upgrade") && !out.contains("Expect"), "{out}");
    }
    let out = forward(b"GET /e HTTP/1.0\r\n\r\n", &forwarding(), Purpose::Plain);
    assert!(!out.contains("X-Forwarded-Host"), "{out}");
}
