use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::*;

/// The answer to `request`, sent straight to the echo upstream.
fn ask(addr: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_plain_get_is_answered_with_the_page() {
    let echo = start_echo().unwrap();
    let answer = ask(echo.addr, "GET /?from=a-test HTTP/1.1\r\nHost: a\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}\r\n", PAGE.len())), "{head}");
    assert_eq!(body, PAGE);
}

#[test]
fn head_has_no_body_and_another_path_is_not_found() {
    let echo = start_echo().unwrap();
    assert!(ask(echo.addr, "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").ends_with("\r\n\r\n"));
    assert!(ask(echo.addr, "GET /x HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("HTTP/1.1 404 "));
    assert!(ask(echo.addr, "POST / HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("HTTP/1.1 404 "));
}

#[test]
fn dropping_the_echo_closes_its_listener_and_its_connections() {
    let echo = start_echo().unwrap();
    let addr = echo.addr;
    let mut open = TcpStream::connect(addr).unwrap();
    open.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    drop(echo);
    assert!(TcpStream::connect(addr).is_err());
    // Closed, or reset when it was still waiting to be accepted.
    assert!(matches!(open.read(&mut [0]), Ok(0) | Err(_)));
}

#[test]
fn the_page_names_no_other_place_than_the_proxy() {
    for foreign in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!PAGE.contains(foreign), "the page must not load anything: {foreign}");
    }
}

const STARTED: &str = r#"{"event_type":"proxy.started"}"#;
const PROXIED: &str = r#"{"event_type":"request.proxied"}"#;

#[test]
fn event_lines_are_held_in_order_and_then_pass() {
    let events = EventLines::new();
    let mut stdout = Vec::new();
    let mut tee = events.tee(&mut stdout);
    // Written in pieces, as a writer may.
    let (left, right) = STARTED.split_at(7);
    write!(tee, "{left}").unwrap();
    writeln!(tee, "{right}\n{PROXIED}").unwrap();
    assert_eq!(events.take_through("request.proxied", Duration::ZERO).unwrap(), [STARTED, PROXIED]);
    assert_eq!(events.take_through("request.proxied", Duration::ZERO), None);

    writeln!(tee, "{STARTED}").unwrap();
    let mut rest = Vec::new();
    events.pass(&mut rest).unwrap();
    writeln!(tee, "{PROXIED}").unwrap();
    assert_eq!(rest, format!("{STARTED}\n").into_bytes());
    assert_eq!(stdout, format!("{PROXIED}\n").into_bytes());
}

#[test]
fn an_event_line_that_comes_later_wakes_the_waiting_step() {
    let events = EventLines::new();
    let mut tee = events.tee(Vec::new());
    let lines = std::thread::scope(|scope| {
        let waiting =
            scope.spawn(|| events.take_through("request.proxied", Duration::from_secs(10)));
        writeln!(tee, "{PROXIED}").unwrap();
        waiting.join().unwrap()
    });
    assert_eq!(lines.unwrap(), [PROXIED]);
}

/// Straight to the echo upstream, with the event lines of a proxy written beforehand: the allowed session goes as described, and the first
/// refusal fails, because the echo upstream refuses nothing in the way the proxy does.
#[test]
fn the_self_check_tells_what_went_well_and_stops_at_the_first_fault() {
    let echo = start_echo().unwrap();
    let events = EventLines::new();
    let mut tee = events.tee(Vec::new());
    writeln!(tee, "{STARTED}\n{PROXIED}").unwrap();
    writeln!(tee, r#"{{"event_type":"websocket.closed"}}"#).unwrap();
    writeln!(tee, "{PROXIED}").unwrap();
    let mut told = Vec::new();
    let fault = self_check(&echo, echo.addr, "key", &events, &mut told).unwrap_err();
    let told = String::from_utf8(told).unwrap();
    assert!(told.contains("came back unchanged"), "{told}");
    assert!(told.contains("websocket.closed"), "{told}");
    assert!(told.ends_with("3. An upgrade without a key.\n"), "{told}");
    assert!(matches!(fault, DemoError::Status { expected: 401, seen: 101 }), "{fault}");
}

#[test]
fn the_self_check_fails_where_nothing_listens() {
    let closed = SocketAddr::from(([127, 0, 0, 1], 1));
    let echo = start_echo().unwrap();
    let events = EventLines::new();
    writeln!(events.tee(Vec::new()), "{STARTED}").unwrap();
    let fault = self_check(&echo, closed, "key", &events, &mut Vec::new()).unwrap_err();
    assert!(matches!(fault, DemoError::Connect(_)), "{fault}");
}
