//! Chunks, whole and one byte at a time.

use super::super::sample::show;
use super::BodyError as E;
use super::*;

const TRAILER_BYTES_MAX: usize = 16 * 1024;

/// Decodes `input` in pieces of `piece` bytes: the content, and how many bytes belong to the message if it is complete.
fn decode(input: &[u8], piece: usize) -> Result<(Vec<u8>, Option<usize>), BodyError> {
    let mut decoder = ChunkedDecoder::new(TRAILER_BYTES_MAX);
    let mut content = Vec::new();
    let mut consumed = 0;
    for piece in input.chunks(piece) {
        let mut rest = piece;
        while !rest.is_empty() {
            let step = decoder.decode(rest)?;
            assert!(step.consumed > 0 || step.is_complete, "progress");
            content.extend_from_slice(&rest[step.data.clone()]);
            rest = &rest[step.consumed..];
            consumed += step.consumed;
            if step.is_complete {
                assert!(decoder.is_complete());
                return Ok((content, Some(consumed)));
            }
        }
    }
    Ok((content, None))
}

#[test]
fn good_chunks_however_they_are_split() {
    for (input, content, complete) in [
        (&b"5\r\nhello\r\n0\r\n\r\n"[..], &b"hello"[..], true),
        (b"0\r\n\r\n", b"", true),
        (b"000\r\n\r\n", b"", true),
        (b"1\r\na\r\n00000000000000A\r\n0123456789\r\n0\r\n\r\n", b"a0123456789", true),
        (b"5;a=b;c=\"d e;\\\" \xff\";f\r\nhello\r\n0;x\r\n\r\n", b"hello", true),
        (b"5 \t; \ta = b\r\nhello\r\n0\r\n\r\n", b"hello", true),
        (b"5;a\t\r\nhello\r\n0\r\n\r\n", b"hello", true),
        (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n", true),
        (b"0\r\nX: y\r\nZ:\r\n\r\n", b"", true),
        // A59: one message with a trailer
        (b"0\r\nX:POST / HTTP/1.1\r\nHost: t.test\r\n\r\n", b"", true),
        // A62, C36: no end
        (b"5\r\nhello\r\n", b"hello", false),
        (b"5\r\nhel", b"hel", false),
        (b"0\r\n", b"", false),
        (b"0\r\n\r", b"", false),
        // A56: neither overflow nor allocation
        (b"ffffffffffffffff\r\nabc", b"abc", false),
    ] {
        // A67
        for piece in 1..=input.len() {
            let end = complete.then_some(input.len());
            assert_eq!(
                decode(input, piece),
                Ok((content.to_vec(), end)),
                "{piece}: {}",
                show(input)
            );
        }
    }
}

#[test]
fn bad_chunks_however_they_are_split() {
    let cases: &[(&[u8], BodyError)] = &[
        // A45
        (b"5\nhello\r\n0\r\n\r\n", E::ChunkSize),
        (b"5\r\nhello\n0\r\n\r\n", E::DataEnd),
        (b"5\rhello\r\n0\r\n\r\n", E::LineEnd),
        // A47
        (b"0\r\n\n", E::LineEnd),
        (b"0\n\r\n", E::ChunkSize),
        (b"0\r\nX: y\n\r\n", E::LineEnd),
        (b"0\r\nX: y\r\n\n", E::LineEnd),
        (b"0\r\n\rX", E::LineEnd),
        (b"0\r\nX: y\rZ: z\r\n\r\n", E::LineEnd),
        // A49, A51, A52
        (b"5;\nxhello\r\n0\r\n\r\n", E::ChunkExtension),
        (b"2;\nab\r\n0\r\n\r\n", E::ChunkExtension),
        (b"2;a\nab\r\n0\r\n\r\n", E::ChunkExtension),
        (b"5;\x00ext\r\nhello\r\n", E::ChunkExtension),
        (b"5;a\x00b\r\nhello\r\n", E::ChunkExtension),
        (b"5;a\x7f\r\nhello\r\n", E::ChunkExtension),
        (b"5;a\x0b\r\nhello\r\n", E::ChunkExtension),
        (b"5;\r\nhello\r\n0\r\n\r\n", E::ChunkExtension),
        (b"5;=b\r\nhello\r\n0\r\n\r\n", E::ChunkExtension),
        (b"5;a\rb\r\nhello\r\n", E::LineEnd),
        // A54
        (b"0x5\r\nhello\r\n0\r\n\r\n", E::ChunkSize),
        (b"+5\r\nhello\r\n0\r\n\r\n", E::ChunkSize),
        (b"-5\r\nhello\r\n0\r\n\r\n", E::ChunkSize),
        (b"5_0\r\nhello\r\n0\r\n\r\n", E::ChunkSize),
        (b"0_2e\r\nhello\r\n0\r\n\r\n", E::ChunkSize),
        (b"1x\r\na\r\n0\r\n\r\n", E::ChunkSize),
        (b"Z\r\n\r\n", E::ChunkSize),
        (b"\r\n\r\n", E::ChunkSize),
        (b";a\r\n", E::ChunkSize),
        (b" 5\r\nhello\r\n", E::ChunkSize),
        (b"5 \r\nhello\r\n", E::ChunkSize),
        (b"5 5\r\nhello\r\n", E::ChunkSize),
        (b"5\x85\r\nhello\r\n", E::ChunkSize),
        // A56: 17 digits
        (b"00000000000000005\r\nhello\r\n", E::ChunkSize),
        (b"fffffffffffffffff\r\n", E::ChunkSize),
        // A57
        (b"5\r\nhelloXX\r\n0\r\n\r\n", E::DataEnd),
        (b"5\r\nhello\rX", E::DataEnd),
        (b"5\r\nhelloX\n0\r\n\r\n", E::DataEnd),
        // Trailers
        (b"0\r\nX\r\n\r\n", E::Trailer),
        (b"0\r\n: y\r\n\r\n", E::Trailer),
        (b"0\r\nX : y\r\n\r\n", E::Trailer),
        (b"0\r\n X: y\r\n\r\n", E::Trailer),
        (b"0\r\nX: y\r\n z\r\n\r\n", E::Trailer),
        (b"0\r\nX: \0\r\n\r\n", E::Trailer),
    ];
    for (input, error) in cases {
        for piece in 1..=input.len() {
            assert_eq!(decode(input, piece), Err(*error), "{piece}: {}", show(input));
        }
    }
}

#[test]
fn what_follows_the_end_is_not_touched() {
    let input = b"1\r\na\r\n0\r\n\r\nGET / HTTP/1.1\r\n";
    assert_eq!(decode(input, input.len()), Ok((b"a".to_vec(), Some(11))));
    let mut decoder = ChunkedDecoder::new(TRAILER_BYTES_MAX);
    decoder.decode(b"0\r\n\r\n").expect("end");
    let after = decoder.decode(b"GET").expect("still the end");
    assert_eq!((after.consumed, after.is_complete), (0, true));
}

#[test]
fn a_chunk_line_has_a_limit() {
    let line = |extension_bytes: usize| {
        [b"1;".to_vec(), vec![b'x'; extension_bytes], b"\r\na\r\n0\r\n\r\n".to_vec()].concat()
    };
    assert!(decode(&line(CHUNK_LINE_BYTES_MAX - 4), 1000).is_ok());
    assert_eq!(decode(&line(CHUNK_LINE_BYTES_MAX - 3), 1000), Err(E::ChunkLineTooLong));
    // A65: one extension of 64 kB
    assert_eq!(decode(&line(64 * 1024), 1000), Err(E::ChunkLineTooLong));
}

#[test]
fn content_that_is_mostly_chunk_lines_has_a_limit() {
    // A65
    let one_byte_chunks = [b"1\r\na\r\n".repeat(1_000_000), b"0\r\n\r\n".to_vec()].concat();
    assert_eq!(decode(&one_byte_chunks, 16 * 1024), Err(E::Overhead));
    let extension = [b"1;".to_vec(), vec![b'x'; 1024], b"\r\na\r\n".to_vec()].concat();
    assert_eq!(decode(&extension.repeat(10_000), 16 * 1024), Err(E::Overhead));
    // Small chunks are no attack as long as there is something in them, or not many of them.
    let two_byte_chunks = [b"2\r\nab\r\n".repeat(1_000_000), b"0\r\n\r\n".to_vec()].concat();
    assert!(
        decode(&two_byte_chunks, 16 * 1024).is_ok_and(|(content, _)| content.len() == 2_000_000)
    );
    let few = [b"1\r\na\r\n".repeat(100_000), b"0\r\n\r\n".to_vec()].concat();
    assert!(decode(&few, 16 * 1024).is_ok());
}

#[test]
fn trailers_have_a_limit() {
    // A66
    let many = [b"0\r\n".to_vec(), b"a: b\r\n".repeat(10_000)].concat();
    assert_eq!(decode(&many, 1000), Err(E::TrailersTooLarge));
    let lines = |count| [b"0\r\n".to_vec(), b"a: b\r\n".repeat(count), b"\r\n".to_vec()].concat();
    assert!(decode(&lines(HEADER_LINES_MAX), 1000).is_ok());
    assert_eq!(decode(&lines(HEADER_LINES_MAX + 1), 1000), Err(E::TrailersTooLarge));
    let long = [b"0\r\na: ".to_vec(), vec![b'x'; 1 << 20]].concat();
    assert_eq!(decode(&long, 1000), Err(E::TrailersTooLarge));
}

#[test]
fn trailers_are_kept_apart_and_filtered() {
    // A63
    let input = b"0\r\nX-Checksum:  abc \r\nContent-Length: 99\r\nTransfer-Encoding: x\r\nHost: evil\r\n\
        Authorization: Bearer x\r\nX-User-Id: admin\r\nX_User_Id: admin\r\nCookie: a\r\nX-API-Key: k\r\nx_api_key: k\r\n\
        X-Forwarded-For: 1.1.1.1\r\nConnection: close\r\nX-Request-ID: r\r\nSec-WebSocket-Key: k\r\nGrpc-Status: 0\r\n\r\n";
    let mut decoder = ChunkedDecoder::new(TRAILER_BYTES_MAX);
    assert!(decoder.decode(input).expect("valid").is_complete);
    assert_eq!(decoder.trailers().count(), 15);
    let relayed: Vec<_> = decoder
        .trailers()
        .filter(|trailer| is_relayed_trailer(trailer, &["X-API-Key"]))
        .map(|trailer| (trailer.name, trailer.value))
        .collect();
    assert_eq!(relayed, [("X-Checksum", &b"abc"[..]), ("Grpc-Status", b"0")]);
}

#[test]
fn what_is_encoded_decodes_to_itself() {
    let mut encoded = Vec::new();
    let data = vec![b'd'; 300];
    write_chunk_line(&mut encoded, data.len());
    encoded.extend_from_slice(&data);
    encoded.extend_from_slice(CHUNK_END);
    encoded.extend_from_slice(LAST_CHUNK);
    assert!(encoded.starts_with(b"12c\r\nddd"));
    assert_eq!(decode(&encoded, 7), Ok((data, Some(encoded.len()))));
}
