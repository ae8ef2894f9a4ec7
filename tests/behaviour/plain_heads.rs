//! Group (a), sections 2.3 to 2.5, for plain requests: which heads are refused, and what the upstream sees of those that are not,
//! line by line; then what the client sees of the answer's head.

use crate::harness::http::{Head, is_made_request_id};
use crate::harness::message::Framing;
use crate::harness::payload::TARGETS;
use crate::harness::{
    ANSWER_KEPT, ANSWER_LAST, Driver, End, Setup, Upstream, behind, behind_one_worker, forwarded,
    wire,
};
use crate::request_heads::{BAD_HOSTS, BAD_LINES, BAD_STARTS, refuse_all};

on_drivers!(
    every:
        a_request_reaches_the_upstream_as_sent,
        an_answer_reaches_the_client_as_sent;
    both:
        malformed_plain_heads_are_refused,
        targets_go_on_byte_for_byte,
        methods_go_on_as_they_are,
        hosts_in_every_valid_form,
        one_empty_line_is_skipped,
        a_plain_head_may_arrive_in_any_two_pieces,
        plain_heads_are_bounded,
        hop_by_hop_headers_stay_behind,
        identity_headers_and_look_alikes_stay_behind,
        the_api_key_header_has_no_look_alike_and_no_trailer,
        forwarding_headers_follow_the_trust,
        request_ids_are_kept_or_made_for_plain_requests,
        security_headers_and_via_to_the_client,
        tls_on_a_plain_port_is_no_request,
);

/// Headers that the proxy sets or may set on every request.
const SET: [&str; 7] = [
    "connection",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-real-ip",
    "x-request-id",
    "via",
];

fn pairs(head: &Head, without: &[&str]) -> Vec<(String, String)> {
    head.headers
        .iter()
        .filter(|(name, _)| !without.iter().any(|known| known.eq_ignore_ascii_case(name)))
        .cloned()
        .collect()
}

#[track_caller]
fn assert_pairs(head: &Head, without: &[&str], expected: &[(&str, &str)]) {
    let seen = pairs(head, without);
    let seen: Vec<_> = seen.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(seen, expected);
}

/// Whether the connection to the upstream says anything but that it stays.
#[track_caller]
fn assert_connection_stays(head: &Head) {
    let option = head.one("connection").unwrap_or("keep-alive");
    assert!(option.eq_ignore_ascii_case("keep-alive"), "{head:?}");
}

/// A85, A83; contract 6.3 and 9.3: everything in order, spelling and repetition.
fn a_request_reaches_the_upstream_as_sent(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let request = wire(
        "POST /a%20b//c;d?x=1&y=%2f..%2f&z HTTP/1.1\r\nhOST: t.test:8080\r\nUser-Agent: a \t b\r\nX-Same: 1\r\nAccept: */*\r\n\
         x-same: 2\r\nX-SAME:3\r\nX-Empty:\r\nX-Blank: \t \r\nx-Same:\t4\t\r\nContent-Type: text/plain; charset=\"utf-8\"\r\n\
         Cookie: a=b; c=d\r\nCookie: e=f\r\nauthorization: Bearer q\r\nX-API-Key: k\r\ncontent-length: 5\r\nRange: bytes=0-1,-5\r\n\
         If-None-Match: W/\"x\", \"y\"\r\nAccept-Encoding: gzip, br;q=0.5\r\nX-Last: \"a\tb\"\r\nxXx-sAmE: 5\r\n\r\nhello",
    );
    let seen = forwarded(&proxy, &upstream, &request);
    let head = &seen.head;
    assert_eq!(head.line, "POST /a%20b//c;d?x=1&y=%2f..%2f&z HTTP/1.1");
    let theirs = [
        ("hOST", "t.test:8080"),
        ("User-Agent", "a \t b"),
        ("X-Same", "1"),
        ("Accept", "*/*"),
        ("x-same", "2"),
        ("X-SAME", "3"),
        ("X-Empty", ""),
        ("X-Blank", ""),
        ("x-Same", "4"),
        ("Content-Type", "text/plain; charset=\"utf-8\""),
        ("Cookie", "a=b; c=d"),
        ("Cookie", "e=f"),
        ("authorization", "Bearer q"),
        ("X-API-Key", "k"),
        ("Range", "bytes=0-1,-5"),
        ("If-None-Match", "W/\"x\", \"y\""),
        ("Accept-Encoding", "gzip, br;q=0.5"),
        ("X-Last", "\"a\tb\""),
        ("xXx-sAmE", "5"),
    ];
    // The length may be written anew, and then stands among what the proxy sets.
    assert_pairs(head, &[&SET[..], &["content-length"]].concat(), &theirs);
    for (name, value) in [
        ("content-length", "5"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "t.test:8080"),
        ("x-real-ip", "127.0.0.1"),
        ("via", "1.1 vibewarden"),
    ] {
        assert_eq!(head.one(name), Some(value), "{name} in {head:?}");
    }
    assert!(is_made_request_id(head.one("x-request-id").unwrap_or_default()), "{head:?}");
    assert_connection_stays(head);
    let place = |wanted: &str| {
        head.names().iter().position(|name| name.eq_ignore_ascii_case(wanted)).expect("a header")
    };
    for name in &SET[1..] {
        assert!(place(name) > place("xxx-same"), "{name} stands before a client's: {head:?}");
    }
    assert_eq!(seen.body, b"hello");
    // Without a body: no framing is invented for a method that needs none.
    let seen = forwarded(&proxy, &upstream, &wire("GET / HTTP/1.1\r\n{H}\r\n"));
    assert_pairs(&seen.head, &SET, &[("Host", "t.test")]);
    assert_eq!(seen.framing, Framing::Bodyless);
    // An HTTP/1.0 client without Host: the upstream still gets one well-formed request.
    let request = b"GET /old HTTP/1.0\r\nX-A: b\r\n\r\n";
    let mut client = proxy.sent(request);
    let mut conn = upstream.accept();
    let head = conn.read_head();
    assert_eq!(head.line, "GET /old HTTP/1.1");
    assert_eq!(head.all("host").len(), 1, "{head:?}");
    assert_eq!(head.one("x-a"), Some("b"));
    conn.send(ANSWER_LAST);
    assert_eq!(client.read_answer().head.status(), 200);
}

/// I19: the answer's head in order and spelling, without what belongs to one connection.
fn an_answer_reaches_the_client_as_sent(driver: Driver) {
    let (proxy, upstream) = behind_one_worker(driver);
    let mut client = proxy.sent(&wire("GET / HTTP/1.1\r\n{H}\r\n"));
    let mut conn = upstream.accept();
    conn.read_request();
    conn.send(
        b"HTTP/1.1 206 Partly here\r\nserver: app/1 (x)\r\nDATE: today\r\nVary: Accept-Encoding, Origin\r\nvary: Cookie\r\n\
        ETag: W/\"x\"\r\nSet-Cookie: a=1; Path=/\r\nContent-Range: bytes 0-4/10\r\nset-cookie: b=2\r\nX-Empty:\r\n\
        Content-Encoding: gzip\r\nContent-Type: text/html\r\nCache-Control: no-store\r\nX-Named: 1\r\nConnection: keep-alive, x-NAMED\r\n\
        Keep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nProxy-Connection: keep-alive\r\nX-Tab: a\tb\r\nContent-Length: 5\r\n\
        Alt-Svc: h3=\":443\"\r\nX-Request-ID: its-own\r\nLast: one\r\n\r\nhello",
    );
    let answer = client.read_response();
    assert_eq!(answer.head.line, "HTTP/1.1 206 Partly here");
    assert_pairs(
        &answer.head,
        &["connection"],
        &[
            ("server", "app/1 (x)"),
            ("DATE", "today"),
            ("Vary", "Accept-Encoding, Origin"),
            ("vary", "Cookie"),
            ("ETag", "W/\"x\""),
            ("Set-Cookie", "a=1; Path=/"),
            ("Content-Range", "bytes 0-4/10"),
            ("set-cookie", "b=2"),
            ("X-Empty", ""),
            ("Content-Encoding", "gzip"),
            ("Content-Type", "text/html"),
            ("Cache-Control", "no-store"),
            ("X-Tab", "a\tb"),
            ("Content-Length", "5"),
            ("Alt-Svc", "h3=\":443\""),
            ("X-Request-ID", "its-own"),
            ("Last", "one"),
        ],
    );
    assert_connection_stays(&answer.head);
    assert_eq!(answer.body, b"hello");
    // Nothing is added to an answer that has nothing.
    client.send(&wire("GET /second HTTP/1.1\r\n{H}\r\n"));
    let mut conn = eventually_next(conn, &upstream);
    conn.send(b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n");
    let answer = client.read_response();
    assert_eq!(answer.head.line, "HTTP/1.1 200 ");
    assert_pairs(&answer.head, &["connection"], &[("Content-Length", "0")]);
    // An HTTP/1.0 answer is an HTTP/1.1 answer to the client.
    client.send(&wire("GET /third HTTP/1.1\r\n{H}\r\n"));
    let mut conn = eventually_next(conn, &upstream);
    conn.send(b"HTTP/1.0 404 Nope\r\nContent-Length: 2\r\n\r\nno");
    let answer = client.read_response();
    assert_eq!(answer.head.line, "HTTP/1.1 404 Nope");
    assert_eq!(answer.body, b"no");
}

/// The connection on which the next request of the same client stands: the pooled one.
#[track_caller]
fn eventually_next(mut conn: crate::harness::Conn, upstream: &Upstream) -> crate::harness::Conn {
    conn.read_request();
    upstream.assert_untouched();
    conn
}

/// A68 to A115 and 2.1 once more, as far as they are 400: inside plain requests.
fn malformed_plain_heads_are_refused(driver: Driver) {
    let request = |start: &[u8], host: &[u8], line: &[u8]| {
        wire([start, b"\r\n", host, line, b"\r\n"].concat())
    };
    let (start, host) = (&b"GET /e HTTP/1.1"[..], &b"{H}"[..]);
    let mut requests: Vec<Vec<u8>> = Vec::new();
    requests.extend(BAD_LINES.map(|line| request(start, host, line)));
    requests.extend(BAD_STARTS.map(|start| request(start, host, b"")));
    requests.extend(BAD_HOSTS.map(|host| request(start, host, b"")));
    requests.extend([
        b"GET /e HTTP/1.1\nHost: t.test\r\n\r\n".to_vec(),
        b"GET /e HTTP/1.1\nHost: t.test\n\n".to_vec(),
        wire("GET /e HTTP/1.1\r{H}\r\r"),
        wire("\r\n\r\nGET /e HTTP/1.1\r\n{H}\r\n"),
        wire("GET /e HTTP/1.1\r\n{H}\n"),
        wire("GET /e HTTP/1.1\r\n\r\n{H}\r\n"),
        wire("GET /e\r\n\r\n"),
        wire("GET\r\n\r\n"),
        wire("GET /e HTTP/4294967295.255\r\n{H}\r\n"),
        wire("GET /e HTTP/1.\r\n{H}\r\n"),
        wire("GET /e HTTP/9.9\r\n{H}\r\n"),
        wire(" /e HTTP/1.1\r\n{H}\r\n"),
        wire("GET admin/a/b HTTP/1.1\r\n{H}\r\n"),
        wire("GET javascript://t.test/e HTTP/1.1\r\n{H}\r\n"),
        wire("GET ftp://t.test/e HTTP/1.1\r\n{H}\r\n"),
        wire("GET http:///e HTTP/1.1\r\n{H}\r\n"),
        wire("GET http://t.test:81/e HTTP/1.1\r\n{H}\r\n"),
        wire("GET http://t.test/e HTTP/1.1\r\nHost: t.test:81\r\n\r\n"),
        wire("GET http://t.test/e HTTP/1.1\r\n\r\n"),
        wire("GET http://t.test/../e HTTP/1.1\r\n{H}\r\n"),
        wire("POST * HTTP/1.1\r\n{H}\r\n"),
        wire("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        wire("PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET /e HTTP/1.1\r\n{H}\r\n"),
        b"\r\n\r\n\x00\r\nQUIT\n!\x11\x00\x0c\x7f\x00\x00\x01\x7f\x00\x00\x01\x00\x01\x00\x02GET / HTTP/1.1\r\n\r\n".to_vec(),
    ]);
    refuse_all(driver, 400, "bad_request", &requests);
}

/// E73, A104, A108.
fn targets_go_on_byte_for_byte(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    for target in TARGETS {
        let seen =
            forwarded(&proxy, &upstream, &wire(format!("GET {target} HTTP/1.1\r\n{{H}}\r\n")));
        assert_eq!(seen.head.line, format!("GET {target} HTTP/1.1"));
    }
    for (target, origin_form) in [
        ("http://t.test/e", "/e"),
        ("http://t.test/", "/"),
        ("http://t.test", "/"),
        ("http://t.test/a//b%20?c=http://x/y", "/a//b%20?c=http://x/y"),
        ("https://t.test/e", "/e"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\n{{H}}\r\n");
        let seen = forwarded(&proxy, &upstream, &wire(request));
        assert_eq!(seen.head.line, format!("GET {origin_form} HTTP/1.1"), "{target}");
        assert_eq!(seen.head.one("host"), Some("t.test"), "{target}");
        assert_eq!(seen.head.one("x-forwarded-proto"), Some("http"), "{target}");
    }
    let seen = forwarded(&proxy, &upstream, &wire("OPTIONS * HTTP/1.1\r\n{H}\r\n"));
    assert_eq!(seen.head.line, "OPTIONS * HTTP/1.1");
}

fn methods_go_on_as_they_are(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    for method in [
        "GET",
        "get",
        "PUT",
        "DELETE",
        "PATCH",
        "OPTIONS",
        "PROPFIND",
        "M-SEARCH",
        "X!#$%&'*+-.^_`|~9",
        "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEF",
    ] {
        let seen =
            forwarded(&proxy, &upstream, &wire(format!("{method} /e HTTP/1.1\r\n{{H}}\r\n")));
        assert_eq!(seen.head.line, format!("{method} /e HTTP/1.1"));
        assert!(seen.body.is_empty());
    }
}

/// A115, A117.
fn hosts_in_every_valid_form(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    for host in
        ["t.test", "T.TEST", "t.test.", "t.test:8080", "1.2.3.4", "[::1]", "[2001:db8::1]:80", "a"]
    {
        let request = format!("GET /e HTTP/1.1\r\nHost: {host}\r\nConnection: Host\r\n\r\n");
        let seen = forwarded(&proxy, &upstream, request.as_bytes());
        assert_eq!(seen.head.one("host"), Some(host));
        assert_eq!(seen.head.one("x-forwarded-host"), Some(host));
    }
}

/// A88.
fn one_empty_line_is_skipped(driver: Driver) {
    let (proxy, upstream) = behind_one_worker(driver);
    let mut client = proxy.sent(&wire("\r\nGET /first HTTP/1.1\r\n{H}\r\n"));
    let mut conn = upstream.accept();
    assert_eq!(conn.read_request().head.line, "GET /first HTTP/1.1");
    conn.send(ANSWER_KEPT);
    client.read_response();
    // Old clients send one behind a body.
    client.send(&wire(
        "POST /second HTTP/1.1\r\n{H}Content-Length: 2\r\n\r\nhi\r\nGET /third HTTP/1.1\r\n{H}\r\n",
    ));
    for target in ["/second", "/third"] {
        assert_eq!(conn.read_request().target(), target);
        conn.send(ANSWER_KEPT);
        client.read_response();
    }
    upstream.assert_untouched();
}

/// A118.
fn a_plain_head_may_arrive_in_any_two_pieces(driver: Driver) {
    let application = Upstream::start().name_targets();
    let proxy = Setup::new(driver, application.url()).set("server.read_timeout", "600s").start();
    let request = wire("PUT /p HTTP/1.1\r\n{H}X-A: \"b\"\r\nContent-Length: 3\r\n\r\nabc");
    let mut client = proxy.connect();
    for point in 1..request.len() {
        proxy.send_split(&mut client, &request, &[point]);
        assert_eq!(client.read_response().body, b"/p", "split at {point}");
    }
    let every_byte: Vec<usize> = (1..request.len()).collect();
    proxy.send_split(&mut client, &request, &every_byte);
    assert_eq!(client.read_response().body, b"/p");
    let requests = application.requests();
    assert_eq!(requests.len(), request.len());
    assert!(requests.iter().all(|(_, request)| request.body == b"abc"));
}

/// A119, A121.
fn plain_heads_are_bounded(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let lined = |count: usize| {
        let lines = "X: y\r\n".repeat(count - 1);
        wire(format!("GET /e HTTP/1.1\r\n{{H}}{lines}\r\n"))
    };
    let seen = forwarded(&proxy, &upstream, &lined(256));
    assert_eq!(seen.head.all("x").len(), 255);
    let sized = |bytes: usize| {
        let empty = wire("GET / HTTP/1.1\r\n{H}\r\n").len();
        wire(format!("GET /{} HTTP/1.1\r\n{{H}}\r\n", "a".repeat(bytes - empty)))
    };
    let seen = forwarded(&proxy, &upstream, &sized(16_384));
    assert!(seen.target().len() > 16_000);
    for request in [lined(257), lined(2_000), sized(16_385), sized(65_536)] {
        proxy.answer_to(&request).assert_refusal(431, "headers_too_large");
    }
    upstream.assert_untouched();
}

/// I3, I4, I6.
fn hop_by_hop_headers_stay_behind(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let request = wire(
        "GET /e HTTP/1.1\r\n{H}Connection: X-Named, close,Keep-Alive, Host, X-Forwarded-For, x-real-ip, X-Request-ID, Via, X-Forwarded-Proto\r\n\
         X-Named: 1\r\nx-other: 2\r\nconnection: \tX-Other\t, ,cache-control\r\nKeep-Alive: 5\r\nProxy-Connection: keep-alive\r\n\
         Proxy-Authorization: Basic p\r\nProxy-Authenticate: x\r\nUpgrade: foo\r\nHTTP2-Settings: AAMA\r\nTE: gzip, trailers\r\n\
         Cache-Control: no-cache\r\nX-Named-Not: 3\r\nX-Kept: yes\r\n\r\n",
    );
    let seen = forwarded(&proxy, &upstream, &request);
    let expected = [("Host", "t.test"), ("X-Named-Not", "3"), ("X-Kept", "yes")];
    assert_pairs(&seen.head, &[&SET[..], &["te"]].concat(), &expected);
    let te = seen.head.one("te");
    assert!(te.is_none_or(|te| te.eq_ignore_ascii_case("trailers")), "{te:?}");
    for name in &SET[1..] {
        assert!(seen.head.one(name).is_some(), "{name} was removed: {:?}", seen.head);
    }
    let option = seen.head.all("connection").join(",").to_ascii_lowercase();
    assert!(
        ["", "keep-alive", "te", "te, keep-alive", "keep-alive, te"].contains(&option.as_str())
    );
    for (te, forwarded_te) in [
        ("trailers", true),
        ("Trailers", true),
        ("gzip", false),
        ("trailers;q=0.5", false),
        ("trailersx", false),
    ] {
        let request = format!("GET /e HTTP/1.1\r\n{{H}}Connection: TE\r\nTE: {te}\r\n\r\n");
        let seen = forwarded(&proxy, &upstream, &wire(request));
        let passed = seen.head.one("te").map(str::to_ascii_lowercase);
        if forwarded_te {
            assert!(passed.is_none_or(|te| te == "trailers"), "{te}");
        } else {
            assert_eq!(passed, None, "{te}");
        }
    }
    // Half an upgrade is a plain request.
    for lines in [
        "Upgrade: websocket\r\n{K}",
        "Connection: Upgrade\r\n{K}",
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMA\r\n",
    ] {
        let request = format!("GET /e HTTP/1.1\r\n{{H}}{lines}\r\n");
        let seen = forwarded(&proxy, &upstream, &wire(request));
        for name in ["upgrade", "http2-settings"] {
            assert_eq!(seen.head.one(name), None, "{lines}");
        }
        assert_connection_stays(&seen.head);
    }
}

/// A18, E49, E50, E52.
fn identity_headers_and_look_alikes_stay_behind(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let request = wire(
        "GET /e HTTP/1.1\r\n{H}X-User-Id: admin\r\nx-user-EMAIL: a@b\r\nX-USER-ANYTHING: 1\r\nX-User-Id: second\r\nX_User_Id: admin\r\n\
         X.User.Id: admin\r\nX-User_Id: admin\r\nx_user-role: admin\r\nX_Forwarded_For: 1.2.3.4\r\nX.Forwarded-Host: e\r\nX-Real_IP: 1.2.3.4\r\n\
         X_Request_ID: q\r\nContent_Length: 3\r\nTransfer.Encoding: chunked\r\nX_Kept: underscore\r\nX.Kept: dot\r\nX-Users: kept\r\n\r\n",
    );
    let seen = forwarded(&proxy, &upstream, &request);
    let expected =
        [("Host", "t.test"), ("X_Kept", "underscore"), ("X.Kept", "dot"), ("X-Users", "kept")];
    assert_pairs(&seen.head, &SET, &expected);
    assert!(is_made_request_id(seen.head.one("x-request-id").unwrap_or_default()));
}

/// 6.2, 6.3, E13: in every mode, and under its configured name.
fn the_api_key_header_has_no_look_alike_and_no_trailer(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let request = wire(
        "POST /e HTTP/1.1\r\n{H}X_API_Key: evil\r\nx.api-key: evil\r\nX-API-Key: good\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\
         X-API-Key: evil\r\nX_API_Key: evil\r\n\r\n",
    );
    let seen = forwarded(&proxy, &upstream, &request);
    let expected = [("Host", "t.test"), ("X-API-Key", "good")];
    assert_pairs(&seen.head, &[&SET[..], &["transfer-encoding"]].concat(), &expected);
    assert!(seen.trailers.is_empty(), "{:?}", seen.trailers);
}

/// E54, E55; contract 9.3 for plain requests.
fn forwarding_headers_follow_the_trust(driver: Driver) {
    let upstream = Upstream::start();
    let request = wire(
        "GET /e HTTP/1.1\r\n{H}X-Forwarded-For: 6.6.6.6\r\nx-forwarded-for: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: app.test\r\n\
         X-Forwarded-Port: 1\r\nX-Forwarded-Prefix: /p\r\nForwarded: for=1.2.3.4\r\nX-Real-IP: 6.6.6.6\r\nVia: 1.0 before\r\n\r\n",
    );
    let proxy = Setup::new(driver, upstream.url()).start();
    let seen = forwarded(&proxy, &upstream, &request);
    for (name, value) in [
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "t.test"),
        ("x-real-ip", "127.0.0.1"),
    ] {
        assert_eq!(seen.head.one(name), Some(value), "{name}");
    }
    for removed in ["x-forwarded-port", "x-forwarded-prefix", "forwarded"] {
        assert_eq!(seen.head.one(removed), None, "{:?}", seen.head);
    }
    assert_eq!(seen.head.all("via").join(", "), "1.0 before, 1.1 vibewarden");
    let mut proxy =
        Setup::new(driver, upstream.url()).set("server.trusted_proxies", "[127.0.0.1]").start();
    let seen = forwarded(&proxy, &upstream, &request);
    assert_eq!(seen.head.all("x-forwarded-for").join(", "), "6.6.6.6, 1.2.3.4, 127.0.0.1");
    for (name, value) in [
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "app.test"),
        ("x-forwarded-port", "1"),
        ("x-forwarded-prefix", "/p"),
        ("forwarded", "for=1.2.3.4"),
        ("x-real-ip", "1.2.3.4"),
    ] {
        assert_eq!(seen.head.one(name), Some(value), "{name}");
    }
    let stopped = proxy.stop();
    let event = stopped.only("request.proxied");
    assert_eq!(event.text("payload.client_ip"), "1.2.3.4");
}

fn request_ids_are_kept_or_made_for_plain_requests(driver: Driver) {
    let (mut proxy, upstream) = behind(driver);
    let with = |lines: &str| wire(format!("GET /e HTTP/1.1\r\n{{H}}{lines}\r\n"));
    let seen = forwarded(&proxy, &upstream, &with("X-Request-ID: a-b_c.9\r\n"));
    assert_eq!(seen.head.one("x-request-id"), Some("a-b_c.9"));
    let mut made = Vec::new();
    let too_long = format!("X-Request-ID: {}\r\n", "i".repeat(129));
    for lines in
        ["", "x-request-id: two words\r\n", "X-Request-ID: a\r\nX-Request-ID: a\r\n", &too_long]
    {
        let seen = forwarded(&proxy, &upstream, &with(lines));
        let id = seen.head.one("x-request-id").unwrap_or_default().to_owned();
        assert!(is_made_request_id(&id), "{lines:?}: {id:?}");
        made.push(id);
    }
    let stopped = proxy.stop();
    let proxied = stopped.of_kind("request.proxied");
    let ids: Vec<&str> = proxied.iter().map(|event| event.request_id()).collect();
    for id in made.iter().map(String::as_str).chain(["a-b_c.9"]) {
        assert_eq!(ids.iter().filter(|seen| **seen == id).count(), 1, "{id} in {ids:?}");
    }
}

/// Contract 3.6: set ones replace the upstream's, on proxied answers and refusals, not on own endpoints; `Via` as configured.
fn security_headers_and_via_to_the_client(driver: Driver) {
    let defaults = [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "strict-origin-when-cross-origin"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("x-permitted-cross-domain-policies", "none"),
    ];
    let upstream = Upstream::start().answer(|_, peer| {
        let _may_be_gone = peer.try_send(
            b"HTTP/1.1 200 OK\r\nX-Frame-Options: ALLOWALL\r\nx-frame-options: again\r\nReferrer-Policy: unsafe-url\r\n\
            Permissions-Policy: camera=()\r\nVia: 1.0 app\r\nContent-Length: 2\r\n\r\nok",
        );
        crate::harness::After::Keep
    });
    let get = wire("GET /e HTTP/1.1\r\n{H}\r\n");
    let proxy = Setup::new(driver, upstream.url()).set("security_headers.enabled", "true").start();
    let answer = proxy.sent(&get).read_response();
    for (name, value) in defaults {
        assert_eq!(answer.head.one(name), Some(value), "{:?}", answer.head);
    }
    assert_eq!(answer.head.one("permissions-policy"), Some("camera=()"));
    assert_eq!(answer.head.one("strict-transport-security"), None, "TLS is off");
    assert_eq!(answer.head.one("via"), None);
    let own = proxy.get("/_vibewarden/health").0;
    assert!(defaults.iter().all(|(name, _)| own.one(name).is_none()), "{own:?}");
    let proxy = Setup::new(driver, upstream.url())
        .set("security_headers.enabled", "true")
        .set("security_headers.suppress_via_header", "false")
        .set("security_headers.frame_option", "\"\"")
        .set("security_headers.content_security_policy", "\"default-src 'self'\"")
        .set("body_size.max", "10B")
        .start();
    let answer = proxy.sent(&get).read_response();
    assert_eq!(answer.head.all("via").join(", "), "1.0 app, 1.1 vibewarden");
    assert_eq!(answer.head.all("x-frame-options"), ["ALLOWALL", "again"]);
    assert_eq!(answer.head.one("content-security-policy"), Some("default-src 'self'"));
    // A refusal after step 3 has them too.
    let refused =
        proxy.answer_to(&wire("POST /e HTTP/1.1\r\n{H}Content-Length: 11\r\n\r\n01234567890"));
    refused.assert_refusal(413, "payload_too_large");
    assert_eq!(refused.head.one("x-content-type-options"), Some("nosniff"));
    assert_eq!(refused.head.one("content-security-policy"), Some("default-src 'self'"));
}

/// A132: no hang, and nothing of it goes on.
fn tls_on_a_plain_port_is_no_request(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let hello = b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\r\n\r\n";
    let mut client = proxy.sent(hello);
    let (bytes, end) = client.read_to_end();
    assert!(bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 400 "));
    assert_eq!(end, End::Eof);
    upstream.assert_untouched();
}
