//! Chunked content on its way through the proxy: decoded under the strict rules and framed again for the receiver, so that
//! nothing but data and harmless trailers is ever passed on.

use super::answer::ContentFraming;
use super::body::{
    BodyError, CHUNK_END, ChunkedDecoder, LAST_CHUNK, is_relayed_trailer, write_chunk_line,
};
use super::lines::put_line;

/// What chunked content may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentLimits<'a> {
    /// Most bytes of trailers.
    pub trailer_bytes_max: usize,
    /// Most bytes of data; `None` is no limit.
    pub content_bytes_max: Option<u64>,
    /// Names that authentication sets or reads, and that no trailer may have.
    pub reserved_names: &'a [String],
}

/// Why content does not go on. Nothing after it on this connection can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassageError {
    /// It breaks a rule of the chunked coding.
    Broken(BodyError),
    /// It has more data than allowed.
    TooLarge,
}

/// Chunked content under way; wherever the bytes are split, what comes out is the same content.
#[derive(Debug, Clone)]
pub struct Passage<'a> {
    decoder: ChunkedDecoder,
    limits: ContentLimits<'a>,
    chunked: bool,
    content_bytes: u64,
    ended: bool,
}

impl<'a> Passage<'a> {
    /// For a receiver that gets chunks, or with another framing the bare data.
    pub fn new(framing: ContentFraming, limits: ContentLimits<'a>) -> Self {
        Self {
            decoder: ChunkedDecoder::new(limits.trailer_bytes_max),
            limits,
            chunked: framing == ContentFraming::Chunked,
            content_bytes: 0,
            ended: false,
        }
    }

    /// Goes on with `input` and appends what goes to the receiver. Returns how many bytes belong to this content: all of
    /// them, until it is complete. What was appended before an error must not be sent.
    pub fn pass(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, PassageError> {
        let mut consumed = 0;
        while !self.ended {
            let rest = input.get(consumed..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            let decoded = self.decoder.decode(rest).map_err(PassageError::Broken)?;
            let data = rest.get(decoded.data).unwrap_or_default();
            self.content_bytes = self.content_bytes.saturating_add(data.len() as u64);
            // A chunk says at its beginning what it will be too much of.
            let announced = self.content_bytes.saturating_add(self.decoder.announced_bytes());
            if self.limits.content_bytes_max.is_some_and(|most| announced > most) {
                return Err(PassageError::TooLarge);
            }
            self.put_data(data, out);
            consumed += decoded.consumed;
            if decoded.is_complete || self.decoder.is_complete() {
                self.end(out);
            }
        }
        Ok(consumed)
    }

    /// Whether the content, with its trailers, is complete.
    pub fn is_complete(&self) -> bool {
        self.ended
    }

    fn put_data(&self, data: &[u8], out: &mut Vec<u8>) {
        if self.chunked {
            put_chunk(out, data);
        } else {
            out.extend_from_slice(data);
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.ended = true;
        if !self.chunked {
            return;
        }
        let mut relayed = self
            .decoder
            .trailers()
            .filter(|trailer| is_relayed_trailer(trailer, self.limits.reserved_names))
            .peekable();
        if relayed.peek().is_none() {
            out.extend_from_slice(LAST_CHUNK);
            return;
        }
        out.extend_from_slice(b"0\r\n");
        for trailer in relayed {
            put_line(out, trailer.name, trailer.value);
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends `data` as one chunk; none for no data, which would end the content.
pub fn put_chunk(out: &mut Vec<u8>, data: &[u8]) {
    if !data.is_empty() {
        write_chunk_line(out, data.len());
        out.extend_from_slice(data);
        out.extend_from_slice(CHUNK_END);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(
        framing: ContentFraming,
        input: &[u8],
        piece_bytes: usize,
    ) -> Result<(Vec<u8>, usize, bool), PassageError> {
        let limits = ContentLimits {
            trailer_bytes_max: 1024,
            content_bytes_max: Some(10),
            reserved_names: &["X-Tenant".to_owned()],
        };
        let (mut passage, mut out, mut consumed) = (Passage::new(framing, limits), Vec::new(), 0);
        for piece in input.chunks(piece_bytes) {
            let taken = passage.pass(piece, &mut out)?;
            consumed += taken;
            if taken < piece.len() {
                break;
            }
        }
        Ok((out, consumed, passage.is_complete()))
    }

    #[test]
    fn what_comes_out_is_clean_and_what_follows_is_left_alone() {
        let input =
            b"3;x=\"y\"\r\nabc\r\n0002\r\nde\r\n0\r\nX-Sum: 1\r\nCookie: a=b\r\nX-User-Id: 1\r\n\
            X-Tenant: t\r\nContent-Length: 9\r\n\r\nGET /next";
        let (out, consumed, complete) =
            passed(ContentFraming::Chunked, input, input.len()).unwrap();
        assert_eq!(out, b"3\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n");
        assert!(complete);
        assert_eq!(&input[consumed..], b"GET /next");
        let (bare, ..) = passed(ContentFraming::UntilClose, input, input.len()).unwrap();
        assert_eq!(bare, b"abcde");
        for piece_bytes in 1..40 {
            let (bare, in_pieces, complete) =
                passed(ContentFraming::UntilClose, input, piece_bytes).unwrap();
            assert_eq!((bare.as_slice(), in_pieces, complete), (&b"abcde"[..], consumed, true));
        }
    }

    #[test]
    fn an_incomplete_content_never_gets_an_end() {
        let whole = b"3\r\nabc\r\n0\r\n\r\n";
        for cut in 0..whole.len() {
            let (out, consumed, complete) =
                passed(ContentFraming::Chunked, &whole[..cut], 64).unwrap();
            assert_eq!((consumed, complete), (cut, false));
            assert!(!out.ends_with(LAST_CHUNK), "{}", out.escape_ascii());
        }
    }

    #[test]
    fn data_over_the_limit_and_broken_chunks_are_errors() {
        let ten = b"a\r\n0123456789\r\n0\r\n\r\n";
        assert!(passed(ContentFraming::Chunked, ten, 5).unwrap().2);
        let eleven = b"a\r\n0123456789\r\n1\r\nx\r\n0\r\n\r\n";
        assert_eq!(passed(ContentFraming::Chunked, eleven, 5), Err(PassageError::TooLarge));
        let announced = b"ffffffffffffffff\r\nx";
        assert_eq!(passed(ContentFraming::Chunked, announced, 64), Err(PassageError::TooLarge));
        assert_eq!(
            passed(ContentFraming::Chunked, b"5\nhello\r\n0\r\n\r\n", 64),
            Err(PassageError::Broken(BodyError::ChunkSize))
        );
    }
}
