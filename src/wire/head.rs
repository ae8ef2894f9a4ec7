//! What both directions share: finding the end of a head in a growing buffer, its header lines, and its framing.

use std::fmt;

use memchr::memchr2;

use super::field::{Field, Fields, is_token_byte};

/// Most header lines a head may have (RFC 6585 section 5 gives the status for more).
pub const HEADER_LINES_MAX: usize = 256;

/// Why a head cannot be read, seen before it is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadError {
    /// The head has more bytes than allowed.
    TooLarge,
    /// The head has more than [`HEADER_LINES_MAX`] header lines.
    TooManyLines,
    /// A line feed without a carriage return before it (RFC 9112 section 2.2).
    BareLineFeed,
    /// A carriage return without a line feed after it (RFC 9112 section 2.2).
    BareCarriageReturn,
    /// The first line is neither a request line nor a status line.
    StartLine,
}

/// Finds the end of a head in a growing buffer; every byte is looked at once.
///
/// What it refuses, it refuses as soon as the offending byte is there, not when the deadline comes. One scanner is good
/// for one head.
#[derive(Debug, Clone)]
pub struct HeadScanner {
    head_bytes_max: usize,
    /// All before this index is judged.
    next: usize,
    /// Where the line under way begins.
    line_start: usize,
    /// Complete lines so far, the first line included, a skipped empty line not.
    lines: usize,
    empty_line_skipped: bool,
}

impl HeadScanner {
    /// A scanner for one head of at most `head_bytes_max` bytes, final empty line included.
    pub fn new(head_bytes_max: usize) -> Self {
        Self { head_bytes_max, next: 0, line_start: 0, lines: 0, empty_line_skipped: false }
    }

    /// Goes on with `buf`, which holds the head from its first byte and may have grown since the last call.
    ///
    /// `Some(n)`: `buf[..n]` is the whole head, with its final empty line and with one empty line before it if there was
    /// one (RFC 9112 section 2.2). `None`: the end is not there yet. The result does not depend on how the bytes were
    /// split over the calls.
    pub fn advance(&mut self, buf: &[u8]) -> Result<Option<usize>, HeadError> {
        let window = buf.get(..self.head_bytes_max).unwrap_or(buf);
        loop {
            self.check_first_byte(window)?;
            let unseen = window.get(self.next..).unwrap_or_default();
            let Some(offset) = memchr2(b'\r', b'\n', unseen) else {
                self.next = window.len();
                break;
            };
            if unseen.get(offset) == Some(&b'\n') {
                return Err(HeadError::BareLineFeed);
            }
            let line_end = self.next + offset;
            match unseen.get(offset + 1) {
                None => {
                    self.next = line_end;
                    break;
                }
                Some(b'\n') => {}
                Some(_) => return Err(HeadError::BareCarriageReturn),
            }
            let line = window.get(self.line_start..line_end).unwrap_or_default();
            self.next = line_end + 2;
            self.line_start = self.next;
            if self.end_line(line)? {
                return Ok(Some(self.next));
            }
        }
        if window.len() >= self.head_bytes_max {
            return Err(HeadError::TooLarge);
        }
        Ok(None)
    }

    /// Refuses a start that can become neither a method nor a status line: a TLS hello, a PROXY v2 header, an empty line
    /// too many.
    fn check_first_byte(&self, window: &[u8]) -> Result<(), HeadError> {
        if self.lines > 0 {
            return Ok(());
        }
        match window.get(self.line_start) {
            None | Some(b'\n') => Ok(()),
            Some(b'\r') if !self.empty_line_skipped => Ok(()),
            Some(&first) if is_token_byte(first) => Ok(()),
            Some(_) => Err(HeadError::StartLine),
        }
    }

    /// Accounts for a complete line; true when it was the last of the head.
    fn end_line(&mut self, line: &[u8]) -> Result<bool, HeadError> {
        if line.is_empty() {
            if self.lines > 0 {
                return Ok(true);
            }
            self.empty_line_skipped = true;
            return Ok(false);
        }
        if self.lines == 0 && !is_start_line(line) {
            return Err(HeadError::StartLine);
        }
        self.lines += 1;
        if self.lines > 1 + HEADER_LINES_MAX {
            return Err(HeadError::TooManyLines);
        }
        Ok(false)
    }
}

/// Whether a line has the version of a request line at its end or that of a status line at its start. The version itself
/// is judged later; a line without any (HTTP/0.9) would only wait for header lines that never come.
fn is_start_line(line: &[u8]) -> bool {
    line.starts_with(b"HTTP/")
        || line
            .rsplit(|&byte| byte == b' ')
            .next()
            .is_some_and(|version| version.starts_with(b"HTTP/"))
}

/// One header line of a head.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Header<'b> {
    /// The name as the peer spelled it; a token (RFC 9110 section 5.1).
    pub name: &'b str,
    /// The value without the white space around it; no control character but tab (RFC 9110 section 5.5).
    pub value: &'b [u8],
    /// What the name means to a proxy.
    pub field: Field,
}

/// Any value may be a credential.
impl fmt::Debug for Header<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ({} bytes)", self.name, self.value.len())
    }
}

/// `HTTP/1.0` or `HTTP/1.1`; there is no other version here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// `HTTP/1.0`
    Http10,
    /// `HTTP/1.1`
    Http11,
}

/// How long the content after a head is, as the head says it (RFC 9112 section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// The head does not say.
    None,
    /// `Content-Length`, in bytes.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// Why the framing of a head is ambiguous or unreadable (RFC 9112 section 6.3; each is a way to smuggle).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FramingError {
    /// `Content-Length` and `Transfer-Encoding` together.
    Both,
    /// Repeated, a list, or not 1 to 19 plain digits.
    ContentLength,
    /// Repeated, or not exactly `chunked`.
    TransferEncoding,
    /// `Transfer-Encoding` in an HTTP/1.0 message.
    TransferEncodingHttp10,
}

/// What the tokenizer found of a head of either direction.
pub(super) struct Lines<'b> {
    pub(super) headers: Vec<Header<'b>>,
    pub(super) fields: Fields<'b>,
}

/// Gives every header line its meaning and collects the fields that decide, in one pass.
pub(super) fn classify<'b>(raw: &[httparse::Header<'b>]) -> Lines<'b> {
    let mut headers = Vec::with_capacity(raw.len());
    let mut fields = Fields::default();
    for line in raw {
        let field = Field::of(line.name.as_bytes());
        fields.add(field, line.value);
        headers.push(Header { name: line.name, value: line.value, field });
    }
    Lines { headers, fields }
}

/// Whether every line of a tokenized head ends in CRLF.
///
/// The tokenizer takes CR only directly before LF, and takes LF alone as a line end as well. So one CR per line (start
/// line, header lines, empty line) means that no line ended in LF alone.
pub(super) fn has_only_crlf(head: &[u8], header_lines: usize) -> bool {
    memchr::memchr_iter(b'\r', head).count() == header_lines + 2
}

/// The framing that the fields of a message with `version` declare.
pub(super) fn framing(fields: &Fields<'_>, version: Version) -> Result<Framing, FramingError> {
    use super::field::Single::{Absent, One, Repeated};
    match (fields.content_length, fields.transfer_encoding) {
        (Absent, Absent) => Ok(Framing::None),
        (_, Absent) => match fields.content_length {
            One(value) => {
                content_length(value).map(Framing::Length).ok_or(FramingError::ContentLength)
            }
            _ => Err(FramingError::ContentLength),
        },
        (Absent, One(_) | Repeated) if version == Version::Http10 => {
            Err(FramingError::TransferEncodingHttp10)
        }
        (Absent, One(value)) if value.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        (Absent, _) => Err(FramingError::TransferEncoding),
        _ => Err(FramingError::Both),
    }
}

/// Reads 1 to 19 digits; 19 cannot overflow.
fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 {
        return None;
    }
    value.iter().try_fold(0_u64, |length, byte| match byte {
        b'0'..=b'9' => Some(length * 10 + u64::from(byte - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
