//! Section 9.2: where it is switched on, a PROXY header says who comes, and nobody is served without one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

use crate::harness::application::Application;
use crate::harness::crowd::{Answered, get, upgrade, willing};
use crate::harness::http::{Answer, Head};
use crate::harness::scrape::Scrape;
use crate::harness::{Driver, Peer, Proxy, SMUGGLED, Setup, Upstream, eventually};

on_drivers!(
    every:
        the_header_names_the_client;
    both:
        local_and_unknown_keep_the_address_of_the_socket,
        a_header_may_come_in_pieces,
        a_header_that_ends_early_is_closed,
        wrong_headers_are_closed_without_a_byte,
        an_untrusted_peer_is_closed_whatever_it_sends,
        the_header_has_to_be_there_in_time,
        trust_is_asked_of_the_address_in_the_header,
        the_header_counts_once_and_for_the_whole_connection,
        limits_count_by_the_address_in_the_header,
        where_it_is_off_a_header_is_a_malformed_request,
);

/// Balancers connect from here.
const BALANCER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

const V1: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.2 4660 443\r\n";

fn behind_a_balancer(driver: Driver, url: impl AsRef<str>) -> Setup {
    Setup::new(driver, url)
        .set("watch.enabled", "false")
        .set("server.proxy_protocol", "true")
        .set("server.trusted_proxies", "[127.0.0.2, 10.0.0.0/8]")
}

#[track_caller]
fn connect_from(proxy: &Proxy, source: Ipv4Addr) -> Peer {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((source, 0)).into()).expect("bind");
    socket.connect(&proxy.address().into()).expect("connect");
    Peer::over(socket)
}

/// A balancer's connection that begins with these parts, in one packet.
#[track_caller]
fn sent(proxy: &Proxy, parts: &[&[u8]]) -> Peer {
    let mut balancer = connect_from(proxy, BALANCER);
    balancer.send(&parts.concat());
    balancer
}

#[track_caller]
fn ask(proxy: &Proxy, header: &[u8], request: &[u8]) -> Answered {
    let mut client = sent(proxy, &[header, request]);
    let (head, body) = client.read_kept_answer();
    Answered { client, head, body }
}

#[track_caller]
fn scrape(proxy: &Proxy) -> Scrape {
    let request = b"GET /_vibewarden/metrics HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
    let answer = sent(proxy, &[b"PROXY UNKNOWN\r\n", request]).read_answer();
    Scrape::parse(&String::from_utf8(answer.body).expect("text"))
}

/// Waits until so many connections were turned away for their header.
#[track_caller]
fn turned_away(proxy: &Proxy, count: usize) {
    let count = f64::from(u32::try_from(count).expect("few"));
    eventually("connections that were turned away", || {
        let labels = [("result", "proxy_protocol")];
        let seen = scrape(proxy).value("vibewarden_connections_total", &labels);
        assert!(seen < count + 0.5, "{seen} instead of {count}");
        (seen > count - 0.5).then_some(())
    });
}

/// A header of version 2.
fn v2(version_command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).expect("a block").to_be_bytes();
    let signature = b"\r\n\r\n\0\r\nQUIT\n";
    [&signature[..], &[version_command, family], &length, block].concat()
}

/// Source, a destination, ports; then whatever follows.
fn block(source: &str, rest: &[u8]) -> Vec<u8> {
    let mut block = match source.parse().expect("an address") {
        IpAddr::V4(source) => [source.octets(), [198, 51, 100, 2]].concat(),
        IpAddr::V6(source) => [source.octets(), [0xEE; 16]].concat(),
    };
    block.extend([0x12, 0x34, 1, 187]);
    block.extend(rest);
    block
}

/// An extension of this type with so many bytes.
fn extension(kind: u8, bytes: u16) -> Vec<u8> {
    let [high, low] = bytes.to_be_bytes();
    [vec![kind, high, low], vec![0xAA; bytes.into()]].concat()
}

/// Headers that name a client, and the client.
fn naming() -> Vec<(Vec<u8>, &'static str)> {
    let extensions = [extension(0x04, 3), extension(0x20, 200), extension(0x02, 0)].concat();
    let longest = "PROXY TCP6 2001:0db8:0000:0000:0000:0000:0000:0001 \
        2001:0db8:0000:0000:0000:0000:0000:0002 65535 65535\r\n";
    vec![
        (V1.to_vec(), "192.0.2.1"),
        (b"PROXY TCP6 2001:DB8::1 ::1 4660 443\r\n".to_vec(), "2001:db8::1"),
        (longest.into(), "2001:db8::1"),
        (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 4660 443\r\n".to_vec(), "192.0.2.1"),
        (v2(0x21, 0x11, &block("192.0.2.1", b"")), "192.0.2.1"),
        (v2(0x21, 0x21, &block("2001:db8::1", b"")), "2001:db8::1"),
        (v2(0x21, 0x21, &block("::ffff:192.0.2.1", b"")), "192.0.2.1"),
        (v2(0x21, 0x11, &block("192.0.2.1", &extensions)), "192.0.2.1"),
        (v2(0x21, 0x21, &block("2001:db8::1", &extension(0xE0, 4000))), "2001:db8::1"),
        (v2(0x21, 0x11, &block("192.0.2.1", &extension(0xE0, 4081))), "192.0.2.1"),
    ]
}

/// What the upstream was told of the last request, which passed.
#[track_caller]
fn told(application: &Application) -> Head {
    application.requests().pop().expect("a request").1.head
}

/// The same client to the upstream and in the event.
#[track_caller]
fn assert_client(proxy: &Proxy, head: &Head, client: &str) {
    assert_eq!(head.all("x-forwarded-for"), [client]);
    assert_eq!(head.all("x-real-ip"), [client]);
    let id = head.one("x-request-id").expect("X-Request-ID");
    let event = proxy.wait_event("the request", |event| event.request_id() == id);
    assert_eq!(event.text("payload.client_ip"), client);
    assert_eq!(event.text("actor.ip"), client);
}

/// F24: in one packet with what follows, of which nothing is lost.
fn the_header_names_the_client(driver: Driver) {
    let application = willing();
    let proxy = behind_a_balancer(driver, application.url()).start();
    for (header, client) in naming() {
        println!("{}", header.escape_ascii());
        let claims = "X-Forwarded-For: 203.0.113.9\r\nX-Real-IP: 203.0.113.9\r\n";
        assert!(ask(&proxy, &header, &get("/", claims)).passed());
        assert_client(&proxy, &told(&application), client);
        let early = [upgrade(claims), b"early frames".to_vec()].concat();
        let mut tunnel = ask(&proxy, &header, &early);
        assert_eq!(tunnel.head.status(), 101);
        tunnel.client.expect(b"early frames");
        assert_client(&proxy, &told(&application), client);
        tunnel.client.send(b"PROXY UNKNOWN\r\n");
        tunnel.client.expect(b"PROXY UNKNOWN\r\n");
    }
    turned_away(&proxy, 0);
}

/// E57: then the socket's address is the client's, and that of a trusted peer.
fn local_and_unknown_keep_the_address_of_the_socket(driver: Driver) {
    let application = willing();
    let proxy = behind_a_balancer(driver, application.url()).start();
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN ffff:f:f ::1 99999 x\r\n".to_vec(),
        v2(0x20, 0x00, b""),
        v2(0x20, 0x11, &block("192.0.2.1", b"")),
        v2(0x20, 0x77, b"whatever"),
        v2(0x21, 0x00, b""),
        v2(0x21, 0x00, &extension(0x04, 9)),
    ] {
        println!("{}", header.escape_ascii());
        assert!(ask(&proxy, &header, &get("/", "")).passed());
        assert_client(&proxy, &told(&application), "127.0.0.2");
        let line = "X-Forwarded-For: 203.0.113.9\r\n";
        assert!(ask(&proxy, &header, &get("/", line)).passed());
        assert_eq!(told(&application).all("x-forwarded-for"), ["203.0.113.9, 127.0.0.2"]);
        assert_eq!(told(&application).all("x-real-ip"), ["203.0.113.9"]);
    }
    turned_away(&proxy, 0);
}

/// Cut at every byte, and byte by byte.
fn a_header_may_come_in_pieces(driver: Driver) {
    let application = willing();
    let proxy = behind_a_balancer(driver, application.url()).start();
    let request = get("/", "Connection: close\r\n");
    for header in [V1.to_vec(), v2(0x21, 0x11, &block("192.0.2.1", &extension(0x04, 3)))] {
        let whole = [&header[..], &request].concat();
        let each: Vec<usize> = (1..whole.len()).collect();
        let cuts = (1..=header.len()).map(|cut| vec![cut]);
        for points in cuts.chain([each]) {
            let mut client = connect_from(&proxy, BALANCER);
            proxy.send_split(&mut client, &whole, &points);
            assert_eq!(client.read_answer().head.status(), 200, "{points:?}");
            assert_eq!(told(&application).all("x-real-ip"), ["192.0.2.1"], "{points:?}");
        }
    }
    turned_away(&proxy, 0);
}

fn a_header_that_ends_early_is_closed(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = behind_a_balancer(driver, upstream.url()).start();
    let mut count = 0;
    for header in [V1.to_vec(), v2(0x21, 0x11, &block("192.0.2.1", &extension(0x04, 3)))] {
        for cut in 0..header.len() {
            let mut client = sent(&proxy, &[&header[..cut]]);
            client.fin();
            client.expect_end();
            count += 1;
        }
    }
    turned_away(&proxy, count);
    // No request, no line.
    assert!(proxy.stop().events.iter().all(|event| !event.ends_a_request()));
    upstream.assert_untouched();
}

/// What begins like no header, or is one that the text of the protocol does not allow for a stream.
fn wrong() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = [
        "",
        "\r\n",
        " PROXY TCP4 192.0.2.1 198.51.100.2 4660 443\r\n",
        "proxy TCP4 192.0.2.1 198.51.100.2 4660 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 4660 443\n",
        "PROXY  TCP4 192.0.2.1 198.51.100.2 4660 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 4660 443 \r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 4660\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 4660 65536\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 04660 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 -1 443\r\n",
        "PROXY TCP4 192.0.2.256 198.51.100.2 4660 443\r\n",
        "PROXY TCP4 2001:db8::1 ::1 4660 443\r\n",
        "PROXY TCP6 192.0.2.1 198.51.100.2 4660 443\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 4660 443\r\n",
        "PROXY UDP4 192.0.2.1 198.51.100.2 4660 443\r\n",
        "PROXY UNKNOWNX\r\n",
        "PROXY \r\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into();
    all.extend([
        format!("PROXY UNKNOWN {}\r\n", "f".repeat(107 - 15)).into_bytes(),
        vec![b'A'; 5000],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        v2(0x11, 0x11, &block("192.0.2.1", b"")),
        v2(0x22, 0x11, &block("192.0.2.1", b"")),
        v2(0x21, 0x12, &block("192.0.2.1", b"")),
        v2(0x21, 0x31, &[0; 216]),
        v2(0x21, 0x21, &block("192.0.2.1", b"")),
        v2(0x21, 0x11, &[192, 0, 2, 1]),
        v2(0x21, 0x11, &block("192.0.2.1", &extension(0x04, 9)[..11])),
        v2(0x21, 0x11, &block("192.0.2.1", &[0x04, 0])),
        v2(0x21, 0x11, &block("192.0.2.1", &extension(0xE0, 4082))),
        v2(0x21, 0x11, &block("192.0.2.1", &extension(0xE0, 60_000))),
    ]);
    all
}

/// The request that follows is never served, nor answered.
fn wrong_headers_are_closed_without_a_byte(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = behind_a_balancer(driver, upstream.url()).start();
    let all = wrong();
    for header in &all {
        println!("{}", header[..header.len().min(200)].escape_ascii());
        for request in [get("/", ""), upgrade(""), get("/_vibewarden/health", "")] {
            let mut client = connect_from(&proxy, BALANCER);
            // It may be closed in the middle.
            let _may_be_gone = client.try_send(&[&header[..], &request].concat());
            client.expect_end();
        }
    }
    turned_away(&proxy, 3 * all.len());
    assert!(proxy.stop().events.iter().all(|event| !event.ends_a_request()));
    upstream.assert_untouched();
}

fn an_untrusted_peer_is_closed_whatever_it_sends(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = behind_a_balancer(driver, upstream.url()).start();
    let strangers = [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 3)];
    // Also when it sends nothing, and when it claims to be a balancer.
    let claim = b"PROXY TCP4 127.0.0.2 127.0.0.1 4660 443\r\n";
    let v2 = v2(0x21, 0x11, &block("10.0.0.1", b""));
    let headers = [&b""[..], b"PROXY UNKNOWN\r\n", V1, claim, &v2];
    for stranger in strangers {
        connect_from(&proxy, stranger).expect_end();
        for header in headers {
            for request in [get("/", ""), upgrade("")] {
                let mut client = connect_from(&proxy, stranger);
                let _may_be_gone = client.try_send(&[header, &request].concat());
                client.expect_end();
            }
        }
    }
    turned_away(&proxy, strangers.len() * (1 + 2 * headers.len()));
    assert!(proxy.stop().events.iter().all(|event| !event.ends_a_request()));
    upstream.assert_untouched();
}

/// Within `read_timeout` of the accept, together with the head.
fn the_header_has_to_be_there_in_time(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy =
        behind_a_balancer(driver, upstream.url()).set("server.read_timeout", "700ms").start();
    // No byte, half a header, and one that never stops: closed without an answer, and counted.
    let mut nothing = connect_from(&proxy, BALANCER);
    let mut half = sent(&proxy, &[&V1[..20]]);
    let mut slow = connect_from(&proxy, BALANCER);
    let long = v2(0x21, 0x11, &block("192.0.2.1", &extension(0xE0, 4000)));
    let (first, rest) = long.split_at(100);
    slow.send(first);
    let mut rest = rest.chunks(1);
    eventually("the end of a header that never stops", || {
        let _may_be_gone = slow.try_send(rest.next().unwrap_or_default());
        slow.has_ended().then_some(())
    });
    assert!(rest.next().is_some(), "it was closed before it was over");
    assert!(slow.pending().is_empty());
    nothing.expect_end();
    half.expect_end();
    turned_away(&proxy, 3);
    // A header alone is a connection without a request; a header and half a head are a late head.
    let mut alone = sent(&proxy, &[V1]);
    let late = sent(&proxy, &[V1, &SMUGGLED[..20]]).read_answer();
    let id = late.assert_refusal(408, "request_timeout");
    alone.expect_end();
    turned_away(&proxy, 3);
    let stopped = proxy.stop();
    let event = stopped.only("request.blocked");
    assert_eq!((event.request_id(), event.text("payload.client_ip")), (&*id, "192.0.2.1"));
    upstream.assert_untouched();
}

/// 9.3: what the client of the balancer says is believed when that client is trusted itself.
fn trust_is_asked_of_the_address_in_the_header(driver: Driver) {
    let application = willing();
    let proxy = behind_a_balancer(driver, application.url()).start();
    let line = "X-Forwarded-For: 198.51.100.7, 203.0.113.9\r\nX-Forwarded-Proto: https\r\n";
    for (source, list, client, proto) in [
        ("10.1.2.3", "198.51.100.7, 203.0.113.9, 10.1.2.3", "203.0.113.9", "https"),
        ("127.0.0.2", "198.51.100.7, 203.0.113.9, 127.0.0.2", "203.0.113.9", "https"),
        ("192.0.2.1", "192.0.2.1", "192.0.2.1", "http"),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1", "http"),
    ] {
        let v1 = format!("PROXY TCP4 {source} 198.51.100.2 4660 443\r\n").into_bytes();
        let mapped = format!("::ffff:{source}");
        for header in [v1, v2(0x21, 0x21, &block(&mapped, b""))] {
            assert!(ask(&proxy, &header, &get("/", line)).passed());
            let head = told(&application);
            assert_eq!(head.all("x-forwarded-for"), [list], "{source}");
            assert_eq!(head.all("x-real-ip"), [client], "{source}");
            assert_eq!(head.all("x-forwarded-proto"), [proto], "{source}");
        }
    }
}

/// A second header is part of a request, and a bad one.
fn the_header_counts_once_and_for_the_whole_connection(driver: Driver) {
    let application = willing();
    let proxy = behind_a_balancer(driver, application.url()).start();
    let other = b"PROXY TCP4 203.0.113.9 198.51.100.2 1 2\r\n";
    let v2 = v2(0x21, 0x11, &block("203.0.113.9", b""));
    let refused = |answer: &Answer| {
        let id = answer.assert_refusal(400, "bad_request");
        let event = proxy.wait_event("a refusal", |event| event.request_id() == id);
        assert_eq!(event.text("payload.client_ip"), "192.0.2.1", "{}", event.line);
    };
    for second in [&other[..], &v2] {
        refused(&sent(&proxy, &[V1, second, &get("/", "")]).read_answer());
        let mut client = sent(&proxy, &[V1, &get("/first", "")]);
        for turn in 0..3 {
            let (head, _) = client.read_kept_answer();
            assert_eq!(head.status(), 200);
            assert_eq!(told(&application).all("x-real-ip"), ["192.0.2.1"], "{turn}");
            client.send(&get("/next", ""));
        }
        assert_eq!(client.read_kept_answer().0.status(), 200);
        client.send(&[second, &get("/smuggled", "")].concat());
        refused(&client.read_answer());
    }
    assert!(application.requests().iter().all(|(_, request)| request.target() != "/smuggled"));
    turned_away(&proxy, 0);
}

fn limits_count_by_the_address_in_the_header(driver: Driver) {
    let application = willing();
    let from = |source: &str| v2(0x21, 0x21, &block(source, b""));
    let limited = behind_a_balancer(driver, application.url())
        .set("rate_limit.enabled", "true")
        .set("rate_limit.per_ip.requests_per_second", "0")
        .set("rate_limit.per_ip.burst", "2")
        .start();
    for network in ["2001:db8:1:1", "2001:db8:1:2"] {
        for host in 0..4 {
            let request = get("/", &format!("X-Forwarded-For: 203.0.113.{host}\r\n"));
            let answer = ask(&limited, &from(&format!("{network}::{host}")), &request);
            if host < 2 {
                assert!(answer.passed(), "{network} {host}");
            } else {
                answer.assert_no_token();
            }
        }
    }
    let blocked = limited.wait_event("a refusal", |event| event.is("rate_limit.blocked"));
    assert_eq!(blocked.text("payload.identifier"), "2001:db8:1:1::/64");
    // Places for tunnels likewise.
    let quota = behind_a_balancer(driver, application.url()).set("websocket.max_per_ip", "1");
    let quota = quota.start();
    let first = ask(&quota, &from("::ffff:192.0.2.1"), &upgrade(""));
    assert!(first.passed());
    ask(&quota, V1, &upgrade("")).assert_no_place();
    assert!(ask(&quota, &from("2001:db8::1"), &upgrade("")).passed());
    // And the filter.
    let filtered = behind_a_balancer(driver, application.url())
        .set("ip_filter.enabled", "true")
        .set("ip_filter.addresses", "[192.0.2.0/24]")
        .start();
    assert_eq!(ask(&filtered, V1, &upgrade("")).head.status(), 403);
    assert!(ask(&filtered, &from("2001:db8::1"), &upgrade("")).passed());
    assert!(ask(&filtered, b"PROXY UNKNOWN\r\n", &upgrade("")).passed());
}

/// E57
fn where_it_is_off_a_header_is_a_malformed_request(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = behind_a_balancer(driver, upstream.url()).unset("server.proxy_protocol").start();
    let mut headers: Vec<_> = naming().into_iter().map(|(header, _)| header).collect();
    headers.extend([b"PROXY UNKNOWN\r\n".to_vec(), v2(0x20, 0, b"")]);
    for header in headers {
        println!("{}", header[..header.len().min(100)].escape_ascii());
        for request in [get("/", ""), upgrade("")] {
            let answer = sent(&proxy, &[&header, &request]).read_answer();
            answer.assert_refusal(400, "bad_request");
        }
    }
    upstream.assert_untouched();
}
