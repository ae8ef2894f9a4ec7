//! The harness against itself: a client talks straight to the recording upstream, so that a wrong harness is not taken for a wrong proxy.

use crate::harness::json::Json;
use crate::harness::message::{Framing, Recorded, Source, chunked};
use crate::harness::payload::Stream;
use crate::harness::scrape::Scrape;
use crate::harness::setup::Setup;
use crate::harness::{ANSWER_101, End, HANDSHAKE, Peer, SMUGGLED, Upstream, wire};

fn pair() -> (Peer, crate::harness::Conn) {
    let upstream = Upstream::start();
    let client = Peer::connect(([127, 0, 0, 1], upstream.port()).into());
    let conn = upstream.accept();
    (client, conn)
}

#[test]
fn macros_expand_to_the_bytes_of_the_case_list() {
    assert_eq!(SMUGGLED.len(), 40);
    assert_eq!(wire("GET /ws HTTP/1.1\r\n{H}{U}{K}\r\n"), HANDSHAKE);
    assert_eq!(wire(b"{101}\x80{x}"), [ANSWER_101, b"\x80{x}"].concat());
}

#[test]
fn recorded_bytes_keep_their_order_and_their_end() {
    let (mut client, mut conn) = pair();
    client.send(HANDSHAKE);
    assert_eq!(conn.read_head().one("upgrade"), Some("websocket"));
    conn.send(ANSWER_101);
    assert_eq!(client.open().all("connection"), ["Upgrade"]);
    client.ping(&mut conn, b"one");
    let offset = conn.offset();
    client.send(b"two");
    client.fin();
    assert_eq!(conn.wait_end(), End::Eof);
    assert!(conn.arrived(offset) >= conn.arrived(0));
    conn.expect(b"two");
    conn.send(b"late");
    drop(conn);
    assert_eq!(client.read_to_end(), (b"late".to_vec(), End::Eof));
}

#[test]
fn messages_are_read_in_every_framing_at_both_ends() {
    let (mut client, mut conn) = pair();
    let body = Stream::new(3).take(100_000);
    let framed = chunked(&body, &[1, 7, 70_000]);
    client.send(b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send(&framed[..framed.len() - 2]);
    client.send(
        b"X-T: u\r\n\r\nPUT /b HTTP/1.1\r\nContent-Length: 2\r\n\r\nhiGET /c HTTP/1.1\r\n\r\n",
    );
    let seen = conn.read_request();
    assert!(seen.body == body);
    assert_eq!(seen.framing, Framing::Chunked);
    assert_eq!(seen.trailers, [("X-T".to_owned(), "u".to_owned())]);
    let seen = conn.read_request();
    assert_eq!((seen.method(), seen.target(), seen.body.as_slice()), ("PUT", "/b", &b"hi"[..]));
    assert_eq!(conn.read_request().framing, Framing::Bodyless);
    conn.send(b"HTTP/1.1 103 X\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n");
    conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 OK\r\nConnection: x, Close\r\n\r\nlast");
    assert_eq!(client.read_response().status(), 103);
    assert_eq!(client.read_response().body, b"ok");
    assert_eq!(client.read_response_to_head().head.one("content-length"), Some("5"));
    drop(conn);
    let last = client.read_response();
    assert!(last.says_close());
    assert_eq!((last.framing, last.body.as_slice()), (Framing::UntilEnd, &b"last"[..]));
}

#[test]
fn broken_messages_are_not_read() {
    for broken in [
        "Transfer-Encoding: chunked\r\n\r\n2;x=y\r\nok\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n2\r\nokk\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n+2\r\nok\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
        "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        "Transfer-Encoding: gzip\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
        "Content-Length: 3\r\n\r\nok",
        "Content-Length: +2\r\n\r\nok",
    ] {
        let text = format!("POST / HTTP/1.1\r\n{broken}");
        assert!(Recorded(text.as_bytes()).request().is_err(), "{broken}");
    }
}

#[test]
fn an_application_remembers_requests_and_connections() {
    let upstream = Upstream::start();
    let address: std::net::SocketAddr = ([127, 0, 0, 1], upstream.port()).into();
    let application = upstream.name_targets();
    let (mut one, mut other) = (Peer::connect(address), Peer::connect(address));
    for target in ["/1", "/2"] {
        one.send(&wire(format!("GET {target} HTTP/1.1\r\n{{H}}\r\n")));
        assert_eq!(one.read_response().body, target.as_bytes());
    }
    other.send(&wire("HEAD /3 HTTP/1.1\r\n{H}\r\n"));
    assert_eq!(other.read_response_to_head().head.one("content-length"), Some("2"));
    assert_eq!(application.targets(), ["/1", "/2", "/3"]);
    assert_eq!(application.connections(), 2);
}

#[test]
#[should_panic(expected = "instead of silence")]
fn a_broken_silence_is_found() {
    let (mut client, mut conn) = pair();
    conn.send(b"x");
    client.expect_silence(std::time::Duration::from_secs(5));
}

#[test]
fn resets_are_seen_as_resets_on_both_sides() {
    let (client, conn) = pair();
    client.reset();
    assert_eq!(conn.wait_end(), End::Reset);
    let (mut client, conn) = pair();
    conn.reset();
    assert_eq!(client.expect_end(), End::Reset);
}

#[test]
#[should_panic(expected = "the upstream was reached")]
fn an_unexpected_connection_is_found() {
    let upstream = Upstream::start();
    drop(Peer::connect(([127, 0, 0, 1], upstream.port()).into()));
    upstream.assert_untouched();
}

#[test]
fn a_black_hole_takes_no_connection() {
    let (hole, _fill) = Upstream::black_hole();
    let address: std::net::SocketAddr = ([127, 0, 0, 1], hole.port()).into();
    let patience = std::time::Duration::from_millis(50);
    assert!(std::net::TcpStream::connect_timeout(&address, patience).is_err());
}

#[test]
fn streams_of_one_seed_are_equal_however_they_are_cut() {
    let (mut one, mut other) = (Stream::new(7), Stream::new(7));
    let whole = one.take(1000);
    let parts = [other.take(1), other.take(98), other.take(901)].concat();
    assert!(whole == parts);
    assert!(Stream::new(8).take(1000) != whole);
}

#[test]
fn json_keeps_key_order_and_refuses_repeats() {
    let json = Json::parse(r#"{"b":[1,{"c":null}],"a":"x\u0041\n","t":true}"#).expect("valid");
    assert_eq!(json.keys(""), ["b", "a", "t"]);
    assert_eq!(json.text("a"), Some("xA\n"));
    for broken in [r#"{"a":1,"a":2}"#, r#"{"a":1} "#, "{\"a\":\"\n\"}", "{'a':1}", ""] {
        assert!(Json::parse(broken).is_err(), "{broken}");
    }
}

#[test]
fn metrics_are_read_with_their_labels() {
    let text = "# TYPE a counter\na{x=\"1\",y=\"q\\\"\"} 2\na{x=\"2\"} 3\nb 0.5\n";
    let scrape = Scrape::parse(text);
    let value = |name: &str, labels: &[(&str, &str)]| format!("{}", scrape.value(name, labels));
    assert_eq!(value("a", &[]), "5");
    assert_eq!(value("a", &[("y", "q\"")]), "2");
    assert_eq!(value("b", &[]), "0.5");
    assert_eq!(value("absent", &[]), "0");
}

#[test]
fn dotted_keys_become_yaml() {
    let setup = Setup::empty().set("a.b", "1").set("a.c.d", "[x]").set("a_b", "2");
    assert_eq!(setup.yaml(), "a:\n  b: 1\n  c:\n    d: [x]\na_b: 2\n");
}
