//! Response heads from the upstream, as strict as requests (RFC 9112 sections 4 and 6).

use std::fmt;
use std::mem::MaybeUninit;

use super::field::Fields;
use super::head::{self, FramingError, HEADER_LINES_MAX, HeadError};
use super::upgrade::Accept;

pub use super::head::{Framing, Header, Version};

/// Largest response head, in bytes.
pub const RESPONSE_HEAD_BYTES_MAX: usize = 64 * 1024;

/// A response head. Borrows from the bytes it was read from.
#[derive(Clone)]
pub struct ResponseHead<'b> {
    /// Status code, 100 to 999.
    pub status: u16,
    /// HTTP version.
    pub version: Version,
    /// Reason phrase as received; may be empty, may hold bytes above 0x7F.
    pub reason: &'b [u8],
    /// Header lines in order.
    pub headers: Vec<Header<'b>>,
    /// Whether the upstream would keep the connection: HTTP/1.1 without `Connection: close`.
    pub keep_alive: bool,
    /// The whole head.
    pub(super) bytes: &'b [u8],
    pub(super) fields: Fields<'b>,
}

/// The values of the lines may be credentials: cookies that are set.
impl fmt::Debug for ResponseHead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseHead")
            .field("status", &self.status)
            .field("version", &self.version)
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

/// How the content of an answer ends (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFraming {
    /// There is no content, whatever the head says about its length.
    None,
    /// After this many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    UntilClose,
}

/// Why an answer of the upstream is not relayed. All of them are the upstream's fault (502).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseError {
    /// The bytes do not end where the head ends.
    Incomplete,
    /// More than [`RESPONSE_HEAD_BYTES_MAX`] bytes.
    TooLarge,
    /// More than [`HEADER_LINES_MAX`] header lines.
    TooManyLines,
    /// A bare line feed or a bare carriage return.
    LineEnd,
    /// Not `version SP status SP reason`.
    StatusLine,
    /// A malformed header line.
    HeaderLine,
    /// `Connection` names too many fields.
    ConnectionOptions,
    /// The length of the content is ambiguous.
    Framing,
    /// A 101 that does not open the WebSocket that was asked for.
    Switching,
    /// Interim answers (RFC 9110 section 15.2) without end.
    TooManyInterim,
}

impl ResponseError {
    /// Text for the event; never repeats what the upstream sent.
    pub fn message(self) -> &'static str {
        match self {
            Self::Incomplete => "the response head is not complete",
            Self::TooLarge => "the response head is too large",
            Self::TooManyLines => "the response head has too many lines",
            Self::LineEnd => "a line of the response head does not end in CRLF",
            Self::StatusLine => "malformed status line",
            Self::HeaderLine => "malformed header line",
            Self::ConnectionOptions => "too many options in the Connection header",
            Self::Framing => "the length of the content is ambiguous",
            Self::Switching => "the 101 does not open the WebSocket that was asked for",
            Self::TooManyInterim => "too many interim responses",
        }
    }
}

impl<'b> ResponseHead<'b> {
    /// Reads a whole head, as found by [`HeadScanner`](super::head::HeadScanner).
    pub fn parse(head: &'b [u8]) -> Result<Self, ResponseError> {
        let mut raw = [const { MaybeUninit::uninit() }; HEADER_LINES_MAX];
        let mut response = httparse::Response::new(&mut []);
        let (version, status) = tokenize(head, &mut response, &mut raw)?;
        let head::Lines { headers, fields } = head::classify(response.headers);
        if fields.connection.overflowed {
            return Err(ResponseError::ConnectionOptions);
        }
        Ok(Self {
            status,
            version,
            reason: reason(head),
            headers,
            keep_alive: version == Version::Http11 && !fields.connection.close,
            bytes: head,
            fields,
        })
    }

    /// The values of all lines with `name` (any case), in order.
    pub fn header<'s>(&'s self, name: &'s str) -> impl DoubleEndedIterator<Item = &'b [u8]> + 's {
        self.headers
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value)
    }

    /// Whether another head follows: every 1xx but 101.
    pub fn is_interim(&self) -> bool {
        matches!(self.status, 100 | 102..=199)
    }

    /// Whether this is the 101 that opens the WebSocket for which `accept` is the right answer (RFC 6455 section 4.1).
    /// A length in a 101 means nothing and is no mistake.
    pub fn check_switching(&self, accept: &Accept) -> Result<(), ResponseError> {
        let opens = self.status == 101
            && self.version == Version::Http11
            && self.fields.upgrades_to_web_socket()
            && self.fields.web_socket_accept.one() == Some(accept.as_bytes());
        if opens { Ok(()) } else { Err(ResponseError::Switching) }
    }

    /// How the content of this final answer to a request with `request_method` ends.
    pub fn body(&self, request_method: &str) -> Result<BodyFraming, ResponseError> {
        let framing = head::framing(&self.fields, self.version)?;
        if request_method == "HEAD" || matches!(self.status, 100..=199 | 204 | 304) {
            return Ok(BodyFraming::None);
        }
        Ok(match framing {
            Framing::None => BodyFraming::UntilClose,
            Framing::Length(length) => BodyFraming::Length(length),
            Framing::Chunked => BodyFraming::Chunked,
        })
    }

    /// Whether the sender declared `name` hop-by-hop in `Connection`.
    pub(super) fn nominates(&self, name: &str) -> bool {
        self.fields.connection.nominates(name)
    }
}

/// Splits a head into version and status; leaves the header lines in `response`.
fn tokenize<'h, 'b>(
    head: &'b [u8],
    response: &mut httparse::Response<'h, 'b>,
    raw: &'h mut [MaybeUninit<httparse::Header<'b>>],
) -> Result<(Version, u16), ResponseError> {
    if matches!(head.first(), Some(b'\r' | b'\n')) {
        return Err(ResponseError::StatusLine);
    }
    match httparse::ParserConfig::default().parse_response_with_uninit_headers(response, head, raw)
    {
        Ok(httparse::Status::Complete(head_bytes)) if head_bytes == head.len() => {}
        Ok(_) => return Err(ResponseError::Incomplete),
        Err(error) => return Err(error.into()),
    }
    if !head::has_only_crlf(head, response.headers.len()) {
        return Err(ResponseError::LineEnd);
    }
    match (response.version, response.code) {
        (Some(0), Some(status @ 100..)) => Ok((Version::Http10, status)),
        (Some(1), Some(status @ 100..)) => Ok((Version::Http11, status)),
        _ => Err(ResponseError::StatusLine),
    }
}

/// What follows `HTTP/1.1 200 ` in the status line; the tokenizer drops phrases that are not ASCII.
fn reason(head: &[u8]) -> &[u8] {
    let line_bytes = memchr::memchr(b'\r', head).unwrap_or_default();
    head.get(b"HTTP/1.1 200 ".len()..line_bytes).unwrap_or_default()
}

impl From<HeadError> for ResponseError {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::TooLarge => Self::TooLarge,
            HeadError::TooManyLines => Self::TooManyLines,
            HeadError::BareLineFeed | HeadError::BareCarriageReturn => Self::LineEnd,
            HeadError::StartLine => Self::StatusLine,
        }
    }
}

impl From<FramingError> for ResponseError {
    fn from(_: FramingError) -> Self {
        Self::Framing
    }
}

impl From<httparse::Error> for ResponseError {
    fn from(error: httparse::Error) -> Self {
        match error {
            httparse::Error::HeaderName | httparse::Error::HeaderValue => Self::HeaderLine,
            httparse::Error::TooManyHeaders => Self::TooManyLines,
            httparse::Error::NewLine
            | httparse::Error::Status
            | httparse::Error::Token
            | httparse::Error::Version => Self::StatusLine,
        }
    }
}

#[cfg(test)]
mod tests;
