//! The scanner, whole and in pieces.

use super::super::sample::{expand, show};
use super::*;

fn at_once(bytes: &[u8], head_bytes_max: usize) -> Result<Option<usize>, HeadError> {
    HeadScanner::new(head_bytes_max).advance(bytes)
}

/// Feeds `bytes` in steps of `step` and gives the first result that is not "go on".
fn in_steps(bytes: &[u8], step: usize, head_bytes_max: usize) -> Result<Option<usize>, HeadError> {
    let mut scanner = HeadScanner::new(head_bytes_max);
    for end in (step..bytes.len()).step_by(step).chain([bytes.len()]) {
        match scanner.advance(&bytes[..end]) {
            Ok(None) => {}
            decided => return decided,
        }
    }
    Ok(None)
}

type Scanned = Result<Option<usize>, HeadError>;

const CASES: &[(&[u8], Scanned)] = &[
    (b"GET / HTTP/1.1\r\n\r\n", Ok(Some(18))),
    (b"GET / HTTP/1.1\r\n{H}\r\nrest", Ok(Some(32))),
    // A88
    (b"\r\nGET / HTTP/1.1\r\n\r\n", Ok(Some(20))),
    (b"\r\n\r\nGET / HTTP/1.1\r\n\r\n", Err(HeadError::StartLine)),
    (b"\nGET / HTTP/1.1\r\n\r\n", Err(HeadError::BareLineFeed)),
    // A68, A69
    (b"GET /e HTTP/1.1\n{H}\r\n", Err(HeadError::BareLineFeed)),
    (b"GET /e HTTP/1.1\nHost: t.test\n\n", Err(HeadError::BareLineFeed)),
    (b"GET /e HTTP/1.1\r\n{H}\n", Err(HeadError::BareLineFeed)),
    (b"GET /e HTTP/1.1\rHost: t.test\r\r", Err(HeadError::BareCarriageReturn)),
    (b"GET /e HTTP/1.1\r\r\n", Err(HeadError::BareCarriageReturn)),
    // A38, A72
    (b"{POST}Foo: bar\rTransfer-Encoding: chunked\r\n\r\n", Err(HeadError::BareCarriageReturn)),
    (b"{POST}Foo: bar\nTransfer-Encoding: chunked\r\n\r\n", Err(HeadError::BareLineFeed)),
    (b"{POST}Foo: bar\r\n\rTransfer-Encoding: chunked\r\n\r\n", Err(HeadError::BareCarriageReturn)),
    // A90: refused without waiting for header lines that never come
    (b"GET /e\r\n", Err(HeadError::StartLine)),
    (b"GET\r\n\r\n", Err(HeadError::StartLine)),
    (b"GET  HTTP/1.1\r\n\r\n", Ok(Some(17))),
    // A132 and other protocols on this port
    (b"\x16\x03\x01\x02\x00\x01", Err(HeadError::StartLine)),
    (b"\r\n\r\n\0\r\nQUIT\n", Err(HeadError::StartLine)),
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", Err(HeadError::StartLine)),
    (b" GET / HTTP/1.1\r\n", Err(HeadError::StartLine)),
    // C24
    (b"BLAH\r\n\r\n", Err(HeadError::StartLine)),
    (b"HTTP/1.1 200 OK\r\n\r\n", Ok(Some(19))),
    (b"HTTP/1.1 101 Swi", Ok(None)),
    (b"GET / HTTP/1.1\r\nHost: t.te", Ok(None)),
    (b"GET / HTTP/1.1\r", Ok(None)),
    (b"", Ok(None)),
];

#[test]
fn every_case_at_once_and_however_it_is_split() {
    for (short, expected) in CASES {
        let bytes = expand(short);
        assert_eq!(at_once(&bytes, 4096), *expected, "{}", show(&bytes));
        for step in 1..bytes.len() {
            assert_eq!(
                in_steps(&bytes, step, 4096),
                *expected,
                "steps of {step}: {}",
                show(&bytes)
            );
        }
    }
}

#[test]
fn a_head_of_exactly_the_limit_passes_and_one_byte_more_does_not() {
    let head = expand(b"{HS}");
    let bytes = head.len();
    for step in [1, 7, bytes] {
        assert_eq!(in_steps(&head, step, bytes), Ok(Some(bytes)));
        assert_eq!(in_steps(&head, step, bytes - 1), Err(HeadError::TooLarge));
    }
}

#[test]
fn too_large_is_seen_as_soon_as_the_limit_is_full() {
    assert_eq!(at_once(b"GET /aaaaaaaaaaaaaaaa", 16), Err(HeadError::TooLarge));
    assert_eq!(at_once(b"GET /aaaaaaaaaaaaaaaa", 21), Err(HeadError::TooLarge));
    assert_eq!(at_once(b"GET /aaaaaaaaaaaaaaaa", 22), Ok(None));
}

#[test]
fn what_lies_beyond_the_limit_is_not_looked_at() {
    let bytes = b"GET / HTTP/1.1\r\nA: bbbbbbbb\n";
    assert_eq!(at_once(bytes, 20), Err(HeadError::TooLarge));
    assert_eq!(at_once(bytes, 100), Err(HeadError::BareLineFeed));
}

#[test]
fn lines_are_counted() {
    let with_lines = |count: usize| {
        [b"GET / HTTP/1.1\r\n".to_vec(), b"a: b\r\n".repeat(count), b"\r\n".to_vec()].concat()
    };
    let most = with_lines(HEADER_LINES_MAX);
    assert_eq!(at_once(&most, 1 << 20), Ok(Some(most.len())));
    let more = with_lines(HEADER_LINES_MAX + 1);
    assert_eq!(at_once(&more, 1 << 20), Err(HeadError::TooManyLines));
    assert_eq!(in_steps(&more, 13, 1 << 20), Err(HeadError::TooManyLines));
}

#[test]
fn lengths_are_one_to_nineteen_plain_digits() {
    for (value, expected) in [
        (&b"0"[..], Some(0)),
        (b"010", Some(10)),
        (b"9223372036854775807", Some(9_223_372_036_854_775_807)),
        (b"9999999999999999999", Some(9_999_999_999_999_999_999)),
        (b"18446744073709551616", None),
        (b"00000000000000000001", None),
        (b"", None),
        (b"+1", None),
        (b"-0", None),
        (b"1 1", None),
        (b"\xb2", None),
    ] {
        assert_eq!(content_length(value), expected, "{}", show(value));
    }
}
