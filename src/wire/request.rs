//! Request heads under the strict rules: what one party could read differently from another is refused (RFC 9112).

use std::fmt;
use std::mem::MaybeUninit;

use super::field::{Fields, Single, folded_eq};
use super::head::{self, FramingError, HEADER_LINES_MAX, HeadError};
use super::target::{self, Target, TargetError};

pub use super::head::{Framing, Header, Version};

/// Longest method, in bytes.
const METHOD_BYTES_MAX: usize = 32;

/// A request head that passed every rule. Borrows from the bytes it was read from.
#[derive(Clone)]
pub struct RequestHead<'b> {
    /// Method, case-sensitive (RFC 9110 section 9.1); never CONNECT or TRACE.
    pub method: &'b str,
    /// Request target as received, in origin form, or `*` with OPTIONS. An absolute form is reduced to its origin form.
    pub target: &'b str,
    /// HTTP version.
    pub version: Version,
    /// `Host` as received, else the authority of an absolute target; empty for an HTTP/1.0 request with neither.
    pub host: &'b str,
    /// Length of the content.
    pub framing: Framing,
    /// Header lines in order.
    pub headers: Vec<Header<'b>>,
    /// Whether the client would keep the connection: HTTP/1.1 without `Connection: close`.
    pub keep_alive: bool,
    /// Whether the client waits for a 100 before it sends content (RFC 9110 section 10.1.1); never with HTTP/1.0.
    pub expect_continue: bool,
    /// The whole head, from the method on.
    pub(super) bytes: &'b [u8],
    pub(super) fields: Fields<'b>,
}

/// The query and the values of the lines may be credentials.
impl fmt::Debug for RequestHead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead")
            .field("method", &self.method)
            .field("path", &self.path())
            .field("version", &self.version)
            .field("framing", &self.framing)
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

/// What a refused head still tells the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glance<'b> {
    /// The method.
    pub method: &'b str,
    /// The target without its query, whatever its form.
    pub path: &'b str,
    /// The client's `X-Request-ID`, when it is acceptable.
    pub request_id: Option<&'b str>,
}

/// Why a request head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestError {
    /// The bytes do not end where the head ends.
    Incomplete,
    /// More bytes than allowed.
    TooLarge,
    /// More than [`HEADER_LINES_MAX`] header lines.
    TooManyLines,
    /// A line feed without a carriage return.
    BareLineFeed,
    /// A carriage return without a line feed.
    BareCarriageReturn,
    /// Not `method SP target SP version`.
    RequestLine,
    /// Longer than 32 bytes.
    Method,
    /// CONNECT or TRACE.
    MethodNotAllowed,
    /// A target with a forbidden byte or in no accepted form.
    Target,
    /// A path with an invalid escape, an encoded control character or a dot segment.
    Path,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    Version,
    /// Empty, not a token, folded, or not directly followed by a colon.
    HeaderName,
    /// A control character in a value.
    HeaderValue,
    /// An HTTP/1.1 request without `Host`.
    HostMissing,
    /// More than one `Host` line.
    HostRepeated,
    /// `Host` that is not `host[:port]`.
    HostInvalid,
    /// An absolute target that names another authority than `Host`.
    AuthorityMismatch,
    /// `Content-Length` and `Transfer-Encoding` together.
    FramingConflict,
    /// `Content-Length` repeated, a list, or not 1 to 19 digits.
    ContentLength,
    /// `Transfer-Encoding` repeated or not exactly `chunked`.
    TransferEncoding,
    /// `Transfer-Encoding` with HTTP/1.0.
    TransferEncodingHttp10,
    /// `Connection` names too many fields.
    ConnectionOptions,
    /// `Expect` other than one line with `100-continue`.
    Expectation,
}

impl RequestError {
    /// Text for the answer; never repeats what the client sent.
    pub fn message(self) -> &'static str {
        match self {
            Self::Incomplete => "the request head is not complete",
            Self::TooLarge => "the request head is too large",
            Self::TooManyLines => "the request head has too many lines",
            Self::BareLineFeed => "a line of the request head ends in a bare line feed",
            Self::BareCarriageReturn => "the request head contains a bare carriage return",
            Self::RequestLine => "malformed request line",
            Self::Method => "the method is too long",
            Self::MethodNotAllowed => "this method is not allowed",
            Self::Target => "malformed request target",
            Self::Path => {
                "the path contains a dot segment, an invalid escape or an encoded control character"
            }
            Self::Version => "the HTTP version must be 1.0 or 1.1",
            Self::HeaderName => "malformed header name",
            Self::HeaderValue => "a header value contains a control character",
            Self::HostMissing => "the Host header is missing",
            Self::HostRepeated => "more than one Host header",
            Self::HostInvalid => "malformed Host header",
            Self::AuthorityMismatch => {
                "the request target and the Host header name different authorities"
            }
            Self::FramingConflict => "Content-Length and Transfer-Encoding together",
            Self::ContentLength => "malformed Content-Length",
            Self::TransferEncoding => "the only accepted Transfer-Encoding is chunked",
            Self::TransferEncodingHttp10 => "Transfer-Encoding with HTTP/1.0",
            Self::ConnectionOptions => "too many options in the Connection header",
            Self::Expectation => "the only accepted expectation is 100-continue",
        }
    }

    /// Status of the answer: 400, 405, 417 or 431.
    pub fn status(self) -> u16 {
        match self {
            Self::MethodNotAllowed => 405,
            Self::Expectation => 417,
            Self::TooLarge | Self::TooManyLines => 431,
            _ => 400,
        }
    }
}

impl<'b> RequestHead<'b> {
    /// Reads a whole head, as found by [`HeadScanner`](super::head::HeadScanner), and checks every rule.
    pub fn parse(head: &'b [u8]) -> Result<Self, RequestError> {
        let bytes = head.strip_prefix(b"\r\n").unwrap_or(head);
        let mut raw = [const { MaybeUninit::uninit() }; HEADER_LINES_MAX];
        let mut request = httparse::Request::new(&mut []);
        let (method, target, version) = tokenize(bytes, &mut request, &mut raw)?;
        if method.len() > METHOD_BYTES_MAX {
            return Err(RequestError::Method);
        }
        if matches!(method, "CONNECT" | "TRACE") {
            return Err(RequestError::MethodNotAllowed);
        }
        let target = Target::parse(method, target)?;
        let head::Lines { headers, fields } = head::classify(request.headers);
        if fields.connection.overflowed {
            return Err(RequestError::ConnectionOptions);
        }
        let framing = head::framing(&fields, version)?;
        let expect_continue = expects_continue(&fields)? && version == Version::Http11;
        Ok(Self {
            method,
            target: target.origin_form,
            version,
            host: host(&fields, &target, version)?,
            framing,
            headers,
            keep_alive: version == Version::Http11 && !fields.connection.close,
            expect_continue,
            bytes,
            fields,
        })
    }

    /// Method, path and request id of a head that was refused, for the log, when its lines could be told apart.
    pub fn glance(head: &'b [u8]) -> Option<Glance<'b>> {
        let bytes = head.strip_prefix(b"\r\n").unwrap_or(head);
        let mut raw = [const { MaybeUninit::uninit() }; HEADER_LINES_MAX];
        let mut request = httparse::Request::new(&mut []);
        let (method, target, _) = tokenize(bytes, &mut request, &mut raw).ok()?;
        let visible = target.bytes().all(|byte| byte.is_ascii_graphic());
        if method.len() > METHOD_BYTES_MAX || !visible {
            return None;
        }
        let head::Lines { fields, .. } = head::classify(request.headers);
        let request_id = super::forward::acceptable_request_id(&fields);
        // A target that is refused may carry more than a path: userinfo, a fragment.
        let shown = target.starts_with('/') || !target.contains('@');
        let path = target.split(['?', '#']).next().filter(|_| shown).unwrap_or_default();
        Some(Glance { method, path, request_id })
    }

    /// The target without its query; `*` for the server as a whole.
    pub fn path(&self) -> &'b str {
        target::path(self.target)
    }

    /// The values of all lines with `name` (any case), in order.
    pub fn header<'s>(&'s self, name: &'s str) -> impl DoubleEndedIterator<Item = &'b [u8]> + 's {
        self.headers
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value)
    }

    /// Whether the path, percent-decoded once, is exactly `path`.
    pub fn path_is(&self, path: &str) -> bool {
        target::decoded(self.path()).eq(path.bytes())
    }

    /// Whether the path, percent-decoded once, is `/_vibewarden` or lies below it.
    pub fn is_own_endpoint(&self) -> bool {
        let mut path = target::decoded(self.path());
        b"/_vibewarden".iter().all(|&byte| path.next() == Some(byte))
            && matches!(path.next(), None | Some(b'/'))
    }

    /// Whether the sender declared `name` hop-by-hop in `Connection`.
    pub(super) fn nominates(&self, name: &str) -> bool {
        self.fields.connection.nominates(name)
    }

    /// Whether a line with `name` could pass for the field `other` without being it.
    pub(super) fn is_look_alike(name: &str, other: &str) -> bool {
        folded_eq(name.as_bytes(), other.as_bytes()) && !name.eq_ignore_ascii_case(other)
    }
}

/// Splits a head into method, target and version; leaves the header lines in `request`.
fn tokenize<'h, 'b>(
    bytes: &'b [u8],
    request: &mut httparse::Request<'h, 'b>,
    raw: &'h mut [MaybeUninit<httparse::Header<'b>>],
) -> Result<(&'b str, &'b str, Version), RequestError> {
    if matches!(bytes.first(), Some(b'\r' | b'\n')) {
        return Err(RequestError::RequestLine);
    }
    match request.parse_with_uninit_headers(bytes, raw) {
        Ok(httparse::Status::Complete(head_bytes)) if head_bytes == bytes.len() => {}
        Ok(_) => return Err(RequestError::Incomplete),
        Err(error) => return Err(error.into()),
    }
    if !head::has_only_crlf(bytes, request.headers.len()) {
        return Err(RequestError::BareLineFeed);
    }
    match (request.method, request.path, request.version) {
        (Some(method), Some(target), Some(0)) => Ok((method, target, Version::Http10)),
        (Some(method), Some(target), Some(1)) => Ok((method, target, Version::Http11)),
        _ => Err(RequestError::RequestLine),
    }
}

fn expects_continue(fields: &Fields<'_>) -> Result<bool, RequestError> {
    match fields.expect {
        Single::Absent => Ok(false),
        Single::One(value) if value.eq_ignore_ascii_case(b"100-continue") => Ok(true),
        _ => Err(RequestError::Expectation),
    }
}

/// The authority that the request is for, under the rules for `Host` (RFC 9112 section 3.2).
fn host<'b>(
    fields: &Fields<'b>,
    target: &Target<'b>,
    version: Version,
) -> Result<&'b str, RequestError> {
    let host = match fields.host {
        Single::One(value) => str::from_utf8(value).map_err(|_| RequestError::HostInvalid)?,
        Single::Repeated => return Err(RequestError::HostRepeated),
        Single::Absent if version == Version::Http11 => return Err(RequestError::HostMissing),
        Single::Absent => return Ok(target.authority.map_or("", |authority| authority.text)),
    };
    if !target::is_authority(host) {
        return Err(RequestError::HostInvalid);
    }
    if target.authority.is_some_and(|authority| !authority.is(host)) {
        return Err(RequestError::AuthorityMismatch);
    }
    Ok(host)
}

impl From<HeadError> for RequestError {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::TooLarge => Self::TooLarge,
            HeadError::TooManyLines => Self::TooManyLines,
            HeadError::BareLineFeed => Self::BareLineFeed,
            HeadError::BareCarriageReturn => Self::BareCarriageReturn,
            HeadError::StartLine => Self::RequestLine,
        }
    }
}

impl From<FramingError> for RequestError {
    fn from(error: FramingError) -> Self {
        match error {
            FramingError::Both => Self::FramingConflict,
            FramingError::ContentLength => Self::ContentLength,
            FramingError::TransferEncoding => Self::TransferEncoding,
            FramingError::TransferEncodingHttp10 => Self::TransferEncodingHttp10,
        }
    }
}

impl From<TargetError> for RequestError {
    fn from(error: TargetError) -> Self {
        match error {
            TargetError::Form => Self::Target,
            TargetError::Path => Self::Path,
        }
    }
}

impl From<httparse::Error> for RequestError {
    fn from(error: httparse::Error) -> Self {
        match error {
            httparse::Error::HeaderName => Self::HeaderName,
            httparse::Error::HeaderValue => Self::HeaderValue,
            httparse::Error::TooManyHeaders => Self::TooManyLines,
            httparse::Error::Version => Self::Version,
            httparse::Error::NewLine | httparse::Error::Status | httparse::Error::Token => {
                Self::RequestLine
            }
        }
    }
}

#[cfg(test)]
mod tests;
