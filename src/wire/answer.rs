//! Heads of answers as they go to the client: interim ones, the 101, and final ones. Lines that stay keep their order,
//! spelling and repetition; lines of one hop go; what the proxy sets replaces what the upstream said.

use super::field::{Field, list};
use super::head::{Header, Version};
use super::lines::{Lines, put, put_line};
use super::response::{BodyFraming, ResponseHead};

/// What happens to `Via` on the way to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// No `Via` at all.
    Suppressed,
    /// The upstream's lines and our own.
    Appended,
}

/// What the proxy sets on every answer that it relays, made once per configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerHeaders {
    /// Whole lines, each with its CRLF.
    lines: Box<[u8]>,
    /// The upstream's lines with these names are replaced.
    names: Box<[Box<str>]>,
    via: Via,
}

impl AnswerHeaders {
    /// `set` are names and values without control characters; an upstream's lines of these names are replaced.
    pub fn new<'s>(set: impl IntoIterator<Item = (&'s str, &'s str)>, via: Via) -> Self {
        let (mut lines, mut names) = (Vec::new(), Vec::new());
        for (name, value) in set {
            put_line(&mut lines, name, value.as_bytes());
            names.push(name.into());
        }
        Self { lines: lines.into(), names: names.into(), via }
    }

    /// The lines that also stand on the proxy's own answers, each with its CRLF.
    pub fn lines(&self) -> &[u8] {
        &self.lines
    }

    /// Whether a line of an answer is for the client, its framing aside.
    fn keeps(&self, header: &Header<'_>, head: &ResponseHead<'_>) -> bool {
        match header.field {
            Field::Connection | Field::Upgrade | Field::HopByHop | Field::Te => false,
            Field::Via => self.via == Via::Appended,
            Field::WebSocketKey
            | Field::WebSocketVersion
            | Field::WebSocketAccept
            | Field::WebSocket => true,
            _ => {
                !head.nominates(header.name)
                    && !self.names.iter().any(|name| name.eq_ignore_ascii_case(header.name))
            }
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.lines);
        if self.via == Via::Appended {
            out.extend_from_slice(b"Via: 1.1 vibewarden\r\n");
        }
    }
}

/// To whom a final answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipient {
    /// The version of the client's request.
    pub version: Version,
    /// Whether the client connection ends after the answer.
    pub close: bool,
}

/// How the content of an answer has to be framed for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentFraming {
    /// Nothing follows the head.
    None,
    /// Exactly this many bytes.
    Length(u64),
    /// Chunks, so that a cut shows as one.
    Chunked,
    /// Bytes until the connection ends, for a client of HTTP/1.0.
    UntilClose,
}

impl ContentFraming {
    /// For content that ends as `body` says, to a client of `version`.
    pub fn of(body: BodyFraming, version: Version) -> Self {
        match (body, version) {
            (BodyFraming::None, _) => Self::None,
            (BodyFraming::Length(length), _) => Self::Length(length),
            (BodyFraming::Chunked | BodyFraming::UntilClose, Version::Http11) => Self::Chunked,
            (BodyFraming::Chunked | BodyFraming::UntilClose, Version::Http10) => Self::UntilClose,
        }
    }
}

/// Appends the 101 that goes to the client. The head passed [`ResponseHead::check_switching`].
pub fn write_switching(out: &mut Vec<u8>, head: &ResponseHead<'_>, headers: &AnswerHeaders) {
    put_status_line(out, head);
    put_lines_without_content(out, head, headers);
    headers.put(out);
    out.extend_from_slice(b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
}

/// Appends an interim answer (RFC 9110 section 15.2), for a client that speaks HTTP/1.1.
pub fn write_interim(out: &mut Vec<u8>, head: &ResponseHead<'_>, headers: &AnswerHeaders) {
    put_status_line(out, head);
    put_lines_without_content(out, head, headers);
    out.extend_from_slice(b"\r\n");
}

fn put_lines_without_content(out: &mut Vec<u8>, head: &ResponseHead<'_>, headers: &AnswerHeaders) {
    let mut lines = Lines::new(out, head.bytes);
    for header in &head.headers {
        if !matches!(header.field, Field::ContentLength | Field::TransferEncoding)
            && headers.keeps(header, head)
        {
            lines.keep(header);
        }
    }
    lines.finish();
}

/// Appends the head of a final answer. `body` is what [`ResponseHead::body`] said of it; the content that follows must be
/// framed as [`ContentFraming::of`] says.
pub fn write_final(
    out: &mut Vec<u8>,
    head: &ResponseHead<'_>,
    body: BodyFraming,
    to: Recipient,
    headers: &AnswerHeaders,
) {
    put_status_line(out, head);
    let framing = ContentFraming::of(body, to.version);
    let mut lines = Lines::new(out, head.bytes);
    let mut number = itoa::Buffer::new();
    let mut says_chunked = false;
    for header in &head.headers {
        match header.field {
            Field::ContentLength => match framing {
                ContentFraming::Length(length) => {
                    lines.keep_as(header, number.format(length).as_bytes());
                }
                ContentFraming::None if head.status != 204 => lines.keep(header),
                _ => {}
            },
            Field::TransferEncoding if framing == ContentFraming::Chunked => {
                says_chunked = true;
                lines.keep_as(header, b"chunked");
            }
            Field::TransferEncoding => {}
            _ if headers.keeps(header, head) => lines.keep(header),
            _ => {}
        }
    }
    lines.finish();
    if framing == ContentFraming::Chunked && !says_chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    headers.put(out);
    // A 426 has to say to what (RFC 9110 section 15.5.22); the upstream's own line was for its hop.
    let asks_for_web_socket = head.status == 426
        && head.headers.iter().filter(|header| header.field == Field::Upgrade).any(|header| {
            list(header.value).any(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
        });
    let connection: &[u8] = match (asks_for_web_socket, to.close) {
        (true, true) => b"Upgrade: websocket\r\nConnection: close, Upgrade\r\n\r\n",
        (true, false) => b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        (false, true) => b"Connection: close\r\n\r\n",
        (false, false) => b"\r\n",
    };
    out.extend_from_slice(connection);
}

fn put_status_line(out: &mut Vec<u8>, head: &ResponseHead<'_>) {
    out.reserve(head.bytes.len() + 512);
    let mut number = itoa::Buffer::new();
    let status = number.format(head.status).as_bytes();
    put(out, &[b"HTTP/1.1 ", status, b" ", head.reason, b"\r\n"]);
}

#[cfg(test)]
mod tests;
