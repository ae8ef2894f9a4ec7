//! Properties that hold for every input, as functions: the fuzz targets are one line each and call them, and
//! `tests/corpus.rs` runs them over the corpus and over mutations of it.
//!
//! What is expected is worked out here a second time, naively and from the contract, without the code under test. They
//! panic when a property does not hold. Compiled always (nothing calls them in the program, so they are not linked), because
//! an integration test and the fuzz targets both need them and a feature would be one more build to keep alive.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::answer::{AnswerHeaders, Recipient, Via, write_final, write_switching};
use super::body::{BodyError, ChunkedDecoder};
use super::forward::{Forwarding, Purpose, request_id, write_request};
use super::head::{Framing, HeadError, HeadScanner, Version};
use super::request::RequestHead;
use super::response::{BodyFraming, ResponseHead};
use super::upgrade::Upgrade;
use expected::{expected_answer_lines, expected_request_lines, number};
use plain::{Plain, naive_dechunk, naive_decode};

mod expected;
pub(crate) mod plain;
mod proxy;

pub use proxy::proxy_protocol;

const HEAD_BYTES_MAX: usize = 16 * 1024;
const TRAILER_BYTES_MAX: usize = 1024;

/// Any bytes as the start of a client's connection.
///
/// # Panics
///
/// When a property does not hold.
pub fn request_head(data: &[u8]) {
    let scanned = scan(data);
    if RequestHead::parse(data).is_ok() && data.len() <= HEAD_BYTES_MAX {
        assert_eq!(scanned, Ok(Some(data.len())), "the parser takes what the scanner refuses");
    }
    let Some(head_bytes) = scanned.ok().flatten().and_then(|end| data.get(..end)) else {
        return;
    };
    let head = match RequestHead::parse(head_bytes) {
        Ok(head) => head,
        Err(error) => {
            assert!(matches!(error.status(), 400 | 405 | 417 | 431));
            assert!(!error.message().is_empty());
            return;
        }
    };
    let plain = Plain::read(head_bytes).expect_clean(head_bytes);
    assert_eq!(
        plain.first,
        [
            head.method,
            plain.target(),
            if head.version == Version::Http11 { "HTTP/1.1" } else { "HTTP/1.0" }
        ]
        .join(" "),
    );
    check_accepted(&head, &plain);
    let upgrade = Upgrade::of(&head);
    assert_eq!(upgrade != Ok(None), asks_for_web_socket(&plain));
    if let Ok(Some(upgrade)) = upgrade {
        check_upgrade(&head, &plain, &upgrade);
    }
    for forwarding in [stranger(&head), proxied(&head)] {
        check_forwarded(&head, &plain, &forwarding, Purpose::Plain);
        if matches!(upgrade, Ok(Some(_))) {
            check_forwarded(&head, &plain, &forwarding, Purpose::Upgrade);
        }
    }
}

/// Any bytes as the start of an upstream's answer.
///
/// # Panics
///
/// When a property does not hold.
pub fn response_head(data: &[u8]) {
    let scanned = scan(data);
    if ResponseHead::parse(data).is_ok() && data.len() <= HEAD_BYTES_MAX {
        assert_eq!(scanned, Ok(Some(data.len())), "the parser takes what the scanner refuses");
    }
    let Some(head_bytes) = scanned.ok().flatten().and_then(|end| data.get(..end)) else {
        return;
    };
    let Ok(head) = ResponseHead::parse(head_bytes) else {
        return;
    };
    let plain = Plain::read(head_bytes).expect_clean(head_bytes);
    let accept = Upgrade { key: "dGhlIHNhbXBsZSBub25jZQ==" }.accept();
    for via in [Via::Suppressed, Via::Appended] {
        if head.check_switching(&accept).is_ok() {
            assert_eq!(head.status, 101);
            check_switched(&head, &plain, via);
        }
        if let Ok(body) = head.body("GET")
            && !head.is_interim()
            && head.status != 101
        {
            check_declined(&head, &plain, body, via);
        }
    }
}

/// Any bytes as chunked content.
///
/// # Panics
///
/// When a property does not hold.
pub fn chunked(data: &[u8]) {
    let at_once = dechunk(data, &[data.len()]);
    assert_eq!(dechunk(data, &[1]), at_once, "one byte at a time");
    assert_eq!(dechunk(data, &splits(data)), at_once, "in random pieces");
    if let Ok((content, Some(end))) = &at_once {
        assert_eq!(naive_dechunk(data), Some((content.clone(), *end)), "{}", data.escape_ascii());
    }
}

/// The scanner's result, which must not depend on how the bytes arrive.
fn scan(data: &[u8]) -> Result<Option<usize>, HeadError> {
    let at_once = HeadScanner::new(HEAD_BYTES_MAX).advance(data);
    for pieces in [&[1][..], &splits(data)] {
        let mut scanner = HeadScanner::new(HEAD_BYTES_MAX);
        let mut end = 0;
        let mut result = Ok(None);
        for piece in pieces.iter().cycle() {
            end = data.len().min(end + piece);
            result = scanner.advance(data.get(..end).unwrap_or_default());
            if result != Ok(None) || end == data.len() {
                break;
            }
        }
        assert_eq!(result, at_once, "in pieces: {}", data.escape_ascii());
    }
    at_once
}

/// Sizes of pieces, 1 to 16 bytes, that depend on the data only.
fn splits(data: &[u8]) -> Vec<usize> {
    let mut state = data
        .iter()
        .fold(0x9E37_79B9_u32, |state, byte| (state ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        usize::from((state >> 28) as u8) + 1
    };
    (0..17).map(|_| next()).collect()
}

/// Whether a request is an upgrade, if perhaps a bad one.
fn asks_for_web_socket(plain: &Plain) -> bool {
    let protocols = plain.values("upgrade");
    plain.first.ends_with(" HTTP/1.1")
        && plain.options().any(|option| option == "upgrade")
        && protocols.len() == 1
        && protocols.iter().all(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
}

/// What an upgrade must be.
fn check_upgrade(head: &RequestHead<'_>, plain: &Plain, upgrade: &Upgrade<'_>) {
    assert!(plain.first.starts_with("GET "));
    assert!(matches!(head.framing, Framing::None | Framing::Length(0)));
    assert_eq!(plain.values("sec-websocket-version"), [b"13"]);
    assert_eq!(plain.values("sec-websocket-key"), [upgrade.key.as_bytes()]);
    let decoded = STANDARD.decode(upgrade.key).unwrap_or_default();
    assert_eq!(decoded.len(), 16, "{}", upgrade.key);
    assert_eq!(STANDARD.encode(decoded), upgrade.key, "canonical");
}

/// What an accepted request head must be, whatever it says.
fn check_accepted(head: &RequestHead<'_>, plain: &Plain) {
    assert!(plain.lines.len() <= 256 && plain.lines.len() == head.headers.len());
    for ((name, value), header) in plain.lines.iter().zip(&head.headers) {
        assert_eq!(
            (name.as_str(), value.as_slice()),
            (header.name.to_ascii_lowercase().as_str(), header.value)
        );
    }
    assert!(head.method.len() <= 32 && head.method != "CONNECT" && head.method != "TRACE");
    assert_eq!(
        head.keep_alive,
        head.version == Version::Http11 && !plain.options().any(|option| option == "close")
    );
    let expectations = plain.values("expect");
    assert!(
        expectations.len() <= 1
            && expectations.iter().all(|value| value.eq_ignore_ascii_case(b"100-continue"))
    );
    assert_eq!(head.expect_continue, head.version == Version::Http11 && !expectations.is_empty());
    assert!(plain.values("host").len() <= 1);
    assert!(
        !head.host.is_empty()
            || (head.version == Version::Http10 && plain.values("host").is_empty())
    );
    check_target(head, plain);
    check_framing(head, plain);
}

/// What the target, the path and the authority of an accepted request must be.
fn check_target(head: &RequestHead<'_>, plain: &Plain) {
    assert!(
        head.target.starts_with('/') || (head.target == "*" && head.method == "OPTIONS"),
        "{}",
        head.target
    );
    assert!(plain.target().ends_with(head.target) || matches!(head.target, "/" | "*"));
    assert!(
        head.target
            .bytes()
            .all(|byte| (0x21..=0x7E).contains(&byte) && byte != b'#' && byte != b'\\')
    );
    let decoded = naive_decode(head.path());
    assert!(!decoded.iter().any(u8::is_ascii_control), "{}", head.target);
    for segment in decoded.split(|byte| matches!(byte, b'/' | b'\\')) {
        let segment = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        assert!(segment != b"." && segment != b"..", "{}", head.target);
    }
    let own = decoded == b"/_vibewarden" || decoded.starts_with(b"/_vibewarden/");
    assert_eq!(head.is_own_endpoint(), own, "{}", head.target);
    let absolute = plain.target().to_ascii_lowercase();
    if let Some((scheme, rest)) = absolute.split_once("://").filter(|_| !absolute.starts_with('/'))
    {
        let port_default = if scheme == "https" { ":443" } else { ":80" };
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let host = head.host.to_ascii_lowercase();
        assert_eq!(
            authority.strip_suffix(port_default).unwrap_or(authority),
            host.strip_suffix(port_default).unwrap_or(&host)
        );
    }
}

/// What the framing of an accepted request must be.
fn check_framing(head: &RequestHead<'_>, plain: &Plain) {
    let lengths = plain.values("content-length");
    let codings = plain.values("transfer-encoding");
    match head.framing {
        Framing::None => assert!(lengths.is_empty() && codings.is_empty()),
        Framing::Length(length) => {
            assert!(codings.is_empty() && lengths.len() == 1);
            let digits = lengths
                .first()
                .map(|value| String::from_utf8_lossy(value).into_owned())
                .unwrap_or_default();
            assert_eq!(digits.parse::<u128>().ok(), Some(u128::from(length)), "{digits}");
        }
        Framing::Chunked => {
            assert!(lengths.is_empty() && codings.len() == 1 && head.version == Version::Http11);
        }
    }
}

/// A request of a client that nobody vouches for.
fn stranger<'a>(head: &RequestHead<'a>) -> Forwarding<'a> {
    Forwarding {
        target: None,
        hidden_subprotocols: &["b", "token."],
        client: IpAddr::from([192, 0, 2, 1]),
        peer: IpAddr::from([192, 0, 2, 1]),
        peer_trusted: false,
        tls: false,
        request_id: request_id(head).unwrap_or("req_ABCDEFGHIJKL"),
        upstream_authority: "upstream.test:3000",
        identity: &[("X-User-Id", "alice"), ("X-Roles", "a")],
        identity_names: &["X-Roles", "X-Forwarded-Email"],
        api_key_header: Some("X-API-Key"),
    }
}

/// A request through a trusted proxy.
fn proxied<'a>(head: &RequestHead<'a>) -> Forwarding<'a> {
    Forwarding {
        client: IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
        peer: IpAddr::from([10, 0, 0, 1]),
        peer_trusted: true,
        tls: true,
        hidden_subprotocols: &[],
        identity: &[],
        ..stranger(head)
    }
}

/// The forwarded head against the lines that the contract asks for, and against itself read again.
fn check_forwarded(
    head: &RequestHead<'_>,
    plain: &Plain,
    forwarding: &Forwarding<'_>,
    purpose: Purpose,
) {
    let mut out = Vec::new();
    write_request(&mut out, head, forwarding, purpose);
    let seen = Plain::read(&out).expect_clean(&out);
    assert_eq!(seen.first, format!("{} {} HTTP/1.1", head.method, head.target));
    let expected = expected_request_lines(head, plain, forwarding, purpose);
    assert_eq!(seen.lines, expected, "{}", out.escape_ascii());

    let again = RequestHead::parse(&out);
    assert!(again.is_ok(), "{:?} {}", again.err(), out.escape_ascii());
    let Ok(again) = again else { return };
    assert_eq!(
        (again.method, again.target, again.framing),
        (head.method, head.target, head.framing)
    );
    assert_eq!(
        again.host,
        if head.host.is_empty() { forwarding.upstream_authority } else { head.host }
    );
    assert_eq!(again.expect_continue, head.expect_continue);
    assert_eq!(matches!(Upgrade::of(&again), Ok(Some(_))), purpose == Purpose::Upgrade);
    assert_eq!(request_id(&again), Some(forwarding.request_id));
}

fn check_switched(head: &ResponseHead<'_>, plain: &Plain, via: Via) {
    let mut out = Vec::new();
    write_switching(&mut out, head, &AnswerHeaders::new([], via));
    let seen = Plain::read(&out).expect_clean(&out);
    assert!(seen.first.starts_with("HTTP/1.1 101 "));
    let mut expected = expected_answer_lines(plain, via, |_, _| None);
    if via == Via::Appended {
        expected.push(("via".to_owned(), b"1.1 vibewarden".to_vec()));
    }
    expected.push(("upgrade".to_owned(), b"websocket".to_vec()));
    expected.push(("connection".to_owned(), b"Upgrade".to_vec()));
    assert_eq!(seen.lines, expected, "{}", out.escape_ascii());
    let again = ResponseHead::parse(&out).map(|again| (again.status, again.reason == head.reason));
    assert_eq!(again, Ok((101, true)), "{}", out.escape_ascii());
}

fn check_declined(head: &ResponseHead<'_>, plain: &Plain, body: BodyFraming, via: Via) {
    let mut out = Vec::new();
    let to = Recipient { version: Version::Http11, close: true };
    write_final(&mut out, head, body, to, &AnswerHeaders::new([], via));
    let seen = Plain::read(&out).expect_clean(&out);
    let mut expected = expected_answer_lines(plain, via, |name, value| match (name, body) {
        ("content-length", BodyFraming::Length(_)) => number(value),
        ("content-length", BodyFraming::None) if head.status != 204 => Some(value.to_vec()),
        ("transfer-encoding", BodyFraming::Chunked) => Some(b"chunked".to_vec()),
        _ => None,
    });
    if body == BodyFraming::UntilClose {
        expected.push(("transfer-encoding".to_owned(), b"chunked".to_vec()));
    }
    if via == Via::Appended {
        expected.push(("via".to_owned(), b"1.1 vibewarden".to_vec()));
    }
    let own = seen.lines.get(expected.len()..).unwrap_or_default();
    assert_eq!(seen.lines.get(..expected.len()), Some(&expected[..]), "{}", out.escape_ascii());
    let own: Vec<_> = own.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
    let close = [("connection", &b"close"[..])];
    let close_and_upgrade = [("upgrade", &b"websocket"[..]), ("connection", b"close, Upgrade")];
    assert!(
        own == close || (head.status == 426 && own == close_and_upgrade),
        "{}",
        out.escape_ascii()
    );

    let again = ResponseHead::parse(&out);
    assert!(again.is_ok(), "{:?} {}", again.err(), out.escape_ascii());
    let Ok(again) = again else { return };
    assert_eq!((again.status, again.reason, again.keep_alive), (head.status, head.reason, false));
    let expected_body = if body == BodyFraming::UntilClose { BodyFraming::Chunked } else { body };
    assert_eq!(again.body("GET"), Ok(expected_body));
}

/// The content and the end of the message, fed in pieces of these sizes, over and over.
fn dechunk(data: &[u8], pieces: &[usize]) -> Result<(Vec<u8>, Option<usize>), BodyError> {
    let mut decoder = ChunkedDecoder::new(TRAILER_BYTES_MAX);
    let mut content = Vec::new();
    let mut at = 0;
    for piece in pieces.iter().cycle() {
        if at == data.len() {
            break;
        }
        let end = data.len().min(at + piece);
        while at < end {
            let input = data.get(at..end).unwrap_or_default();
            let step = decoder.decode(input)?;
            assert!(step.consumed > 0 && step.consumed <= input.len());
            content.extend_from_slice(input.get(step.data).unwrap_or_default());
            at += step.consumed;
            if step.is_complete {
                assert!(decoder.trailers().all(|trailer| !trailer.name.is_empty()));
                return Ok((content, Some(at)));
            }
        }
    }
    Ok((content, None))
}
