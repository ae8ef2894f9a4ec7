//! Chunked content (RFC 9112 section 7.1): a strict decoder that is fed as bytes arrive, and the few bytes of the encoder.

use std::io::Write as _;
use std::ops::Range;

use super::field::{Field, folded_eq, is_token_byte, trim_white_space};
use super::head::{HEADER_LINES_MAX, Header};
use super::target::hex_digit;

/// Longest chunk line (size and extensions), in bytes.
pub const CHUNK_LINE_BYTES_MAX: usize = 4 * 1024;

/// What follows the data of a chunk.
pub const CHUNK_END: &[u8] = b"\r\n";

/// The last chunk, without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Bytes of chunk lines that any content may have; see [`OVERHEAD_PER_DATA_BYTE`].
const OVERHEAD_BYTES_FREE: u64 = 128 * 1024;

/// Bytes of chunk lines beyond the free ones that each byte of data pays for. Chunks of two bytes without extensions
/// never end; an endless row of one-byte chunks or of long extensions does.
const OVERHEAD_PER_DATA_BYTE: u64 = 4;

/// Appends the line that begins a chunk of `data_bytes` bytes, which must not be 0: that would end the content.
pub fn write_chunk_line(out: &mut Vec<u8>, data_bytes: usize) {
    debug_assert!(data_bytes > 0, "an empty chunk is the last chunk");
    // Writing to a vector cannot fail.
    let _ = write!(out, "{data_bytes:x}\r\n");
}

/// Why chunked content is refused. Nothing after it can be trusted: the connection has to close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// A size that is not 1 to 16 hex digits.
    ChunkSize,
    /// A malformed extension, or a control character in one.
    ChunkExtension,
    /// A chunk line over [`CHUNK_LINE_BYTES_MAX`].
    ChunkLineTooLong,
    /// A line that does not end in CRLF.
    LineEnd,
    /// Data that is not followed by CRLF.
    DataEnd,
    /// Far more chunk lines than data.
    Overhead,
    /// A trailer line that is no header line.
    Trailer,
    /// More trailers than allowed, in bytes or lines.
    TrailersTooLarge,
}

impl BodyError {
    /// Text for the answer; never repeats what the peer sent.
    pub fn message(self) -> &'static str {
        match self {
            Self::ChunkSize => "malformed chunk size",
            Self::ChunkExtension => "malformed chunk extension",
            Self::ChunkLineTooLong => "a chunk line is too long",
            Self::LineEnd => "a chunk line or trailer does not end in CRLF",
            Self::DataEnd => "the data of a chunk is not followed by CRLF",
            Self::Overhead => "the content consists mostly of chunk lines",
            Self::Trailer => "malformed trailer",
            Self::TrailersTooLarge => "the trailers are too large",
        }
    }
}

/// What one call of [`ChunkedDecoder::decode`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes of the input that are dealt with, `data` included; the next call starts after them.
    pub consumed: usize,
    /// Where in the input the content is; may be empty.
    pub data: Range<usize>,
    /// Whether the content is complete. What follows in the input belongs to the next message.
    pub is_complete: bool,
}

/// Decodes chunked content, wherever the bytes are split.
#[derive(Debug, Clone)]
pub struct ChunkedDecoder {
    state: State,
    trailer_bytes_max: usize,
    /// Bytes of the chunk line under way.
    line_bytes: usize,
    data_bytes: u64,
    overhead_bytes: u64,
    /// Trailer lines so far, each ended by one LF. Allocates only when there are trailers.
    trailers: Vec<u8>,
    /// Where in `trailers` the line under way begins.
    trailer_start: usize,
    trailer_lines: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the digits of a size.
    Size { digits: u8, size: u64 },
    /// In white space after a size, which only an extension may follow.
    BeforeExtension { size: u64 },
    /// After the semicolon of an extension, before its name.
    ExtensionStart { size: u64 },
    /// In an extension.
    Extension { size: u64 },
    /// After the CR of a chunk line.
    SizeLineFeed { size: u64 },
    /// In data, this many bytes from its end.
    Data { left: u64 },
    /// After data.
    DataReturn,
    /// After the CR after data.
    DataLineFeed,
    /// At the start of a trailer line or of the final empty line.
    TrailerStart,
    /// In a trailer line.
    Trailer,
    /// After the CR of a trailer line.
    TrailerLineFeed,
    /// After the CR of the final empty line.
    EndLineFeed,
    /// After the end.
    Complete,
}

const SIZE_START: State = State::Size { digits: 0, size: 0 };

impl ChunkedDecoder {
    /// A decoder for one message whose trailers may have `trailer_bytes_max` bytes.
    pub fn new(trailer_bytes_max: usize) -> Self {
        Self {
            state: SIZE_START,
            trailer_bytes_max,
            line_bytes: 0,
            data_bytes: 0,
            overhead_bytes: 0,
            trailers: Vec::new(),
            trailer_start: 0,
            trailer_lines: 0,
        }
    }

    /// Goes on with `input` up to the end of the first run of data in it, the end of the content, or the end of the input.
    /// Consumes at least one byte of an input that has one, until the content is complete.
    pub fn decode(&mut self, input: &[u8]) -> Result<Decoded, BodyError> {
        let mut rest = input.iter();
        loop {
            let at = input.len() - rest.len();
            match self.state {
                State::Complete => {
                    return Ok(Decoded { consumed: at, data: at..at, is_complete: true });
                }
                State::Data { left } => return Ok(self.take_data(left, at, input.len())),
                state => match rest.next() {
                    Some(&byte) => self.state = self.step(state, byte)?,
                    None => {
                        return Ok(Decoded { consumed: at, data: at..at, is_complete: false });
                    }
                },
            }
        }
    }

    /// Whether the content is complete.
    pub fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// Bytes of data that the chunk under way still announces.
    pub fn announced_bytes(&self) -> u64 {
        match self.state {
            State::Data { left } => left,
            _ => 0,
        }
    }

    /// The trailers, once the content is complete.
    pub fn trailers(&self) -> impl Iterator<Item = Header<'_>> {
        self.trailers.split(|&byte| byte == b'\n').filter_map(|line| {
            let (name, value) =
                line.split_at_checked(line.iter().position(|&byte| byte == b':')?)?;
            Some(Header {
                name: str::from_utf8(name).ok()?,
                value: trim_white_space(value.get(1..)?),
                field: Field::of(name),
            })
        })
    }

    fn take_data(&mut self, left: u64, at: usize, input_bytes: usize) -> Decoded {
        let there = input_bytes - at;
        let taken = usize::try_from(left).map_or(there, |left| left.min(there));
        let left = left - taken as u64;
        self.data_bytes = self.data_bytes.saturating_add(taken as u64);
        self.state = if left == 0 { State::DataReturn } else { State::Data { left } };
        Decoded { consumed: at + taken, data: at..at + taken, is_complete: false }
    }

    /// One byte of a chunk line, of the CRLF after data, or of a trailer.
    fn step(&mut self, state: State, byte: u8) -> Result<State, BodyError> {
        match state {
            State::Size { .. }
            | State::BeforeExtension { .. }
            | State::ExtensionStart { .. }
            | State::Extension { .. }
            | State::SizeLineFeed { .. } => {
                self.line_bytes += 1;
                if self.line_bytes > CHUNK_LINE_BYTES_MAX {
                    return Err(BodyError::ChunkLineTooLong);
                }
                self.step_in_chunk_line(state, byte)
            }
            State::DataReturn if byte == b'\r' => Ok(State::DataLineFeed),
            State::DataLineFeed if byte == b'\n' => Ok(SIZE_START),
            State::DataReturn | State::DataLineFeed => Err(BodyError::DataEnd),
            State::TrailerStart if byte == b'\r' => Ok(State::EndLineFeed),
            State::EndLineFeed if byte == b'\n' => Ok(State::Complete),
            State::TrailerStart | State::Trailer => self.step_in_trailer(byte),
            State::TrailerLineFeed if byte == b'\n' => self.end_trailer(),
            State::TrailerLineFeed | State::EndLineFeed => Err(BodyError::LineEnd),
            State::Data { .. } | State::Complete => Ok(state),
        }
    }

    fn step_in_chunk_line(&mut self, state: State, byte: u8) -> Result<State, BodyError> {
        match (state, byte) {
            (State::SizeLineFeed { size }, b'\n') => self.end_chunk_line(size),
            (State::SizeLineFeed { .. }, _) => Err(BodyError::LineEnd),
            (State::Size { digits: 1.., size } | State::Extension { size }, b'\r') => {
                Ok(State::SizeLineFeed { size })
            }
            (State::Size { digits: 1.., size } | State::BeforeExtension { size }, b';') => {
                Ok(State::ExtensionStart { size })
            }
            (State::Size { digits: 1.., size } | State::BeforeExtension { size }, b' ' | b'\t') => {
                Ok(State::BeforeExtension { size })
            }
            (State::Size { digits, size }, _) => match hex_digit(byte) {
                Some(digit) if digits < 16 => {
                    Ok(State::Size { digits: digits + 1, size: size << 4 | u64::from(digit) })
                }
                _ => Err(BodyError::ChunkSize),
            },
            (State::BeforeExtension { .. }, _) => Err(BodyError::ChunkSize),
            (State::ExtensionStart { size }, b' ' | b'\t') => Ok(State::ExtensionStart { size }),
            (State::ExtensionStart { size }, _) if is_token_byte(byte) => {
                Ok(State::Extension { size })
            }
            (State::Extension { size }, b'\t' | b' '..=b'~' | 0x80..) => {
                Ok(State::Extension { size })
            }
            _ => Err(BodyError::ChunkExtension),
        }
    }

    fn end_chunk_line(&mut self, size: u64) -> Result<State, BodyError> {
        // The CRLF after the data counts as well.
        self.overhead_bytes = self.overhead_bytes.saturating_add(self.line_bytes as u64 + 2);
        self.line_bytes = 0;
        let allowed = OVERHEAD_BYTES_FREE
            .saturating_add(self.data_bytes.saturating_mul(OVERHEAD_PER_DATA_BYTE));
        if self.overhead_bytes > allowed {
            return Err(BodyError::Overhead);
        }
        Ok(if size == 0 { State::TrailerStart } else { State::Data { left: size } })
    }

    fn step_in_trailer(&mut self, byte: u8) -> Result<State, BodyError> {
        match byte {
            b'\r' => return Ok(State::TrailerLineFeed),
            b'\n' => return Err(BodyError::LineEnd),
            b'\t' | b' '..=b'~' | 0x80.. => {}
            _ => return Err(BodyError::Trailer),
        }
        if self.trailers.len() >= self.trailer_bytes_max {
            return Err(BodyError::TrailersTooLarge);
        }
        self.trailers.push(byte);
        Ok(State::Trailer)
    }

    fn end_trailer(&mut self) -> Result<State, BodyError> {
        let line = self.trailers.get(self.trailer_start..).unwrap_or_default();
        let mut parts = line.splitn(2, |&byte| byte == b':');
        let name = parts.next().unwrap_or_default();
        if name.is_empty() || !name.iter().copied().all(is_token_byte) || parts.next().is_none() {
            return Err(BodyError::Trailer);
        }
        self.trailer_lines += 1;
        if self.trailer_lines > HEADER_LINES_MAX {
            return Err(BodyError::TrailersTooLarge);
        }
        self.trailers.push(b'\n');
        self.trailer_start = self.trailers.len();
        Ok(State::TrailerStart)
    }
}

/// Whether a trailer may be relayed: it may not say anything that is decided by a head (RFC 9110 section 6.5.1) or that
/// only the proxy may say. `reserved` are the names that authentication sets or reads.
pub fn is_relayed_trailer(trailer: &Header<'_>, reserved: &[impl AsRef<str>]) -> bool {
    trailer.field == Field::Other
        && !reserved.iter().any(|name| folded_eq(trailer.name.as_bytes(), name.as_ref().as_bytes()))
}

#[cfg(test)]
mod tests;
