//! Heads as they go on: the request to the upstream, the answer to the client. Lines that stay keep their order, spelling
//! and repetition; lines of one hop go; what the proxy says about the client comes last and cannot be forged or removed.

use std::io::Write as _;
use std::net::IpAddr;

use super::field::{Field, Fields, list};
use super::head::{Framing, Header};
use super::request::RequestHead;
use super::response::{BodyFraming, ResponseHead};
use super::target;

/// What the proxy knows about a request and tells the upstream.
#[derive(Debug, Clone, Copy)]
pub struct Forwarding<'a> {
    /// The client's address.
    pub client: IpAddr,
    /// The other end of the client's connection.
    pub peer: IpAddr,
    /// Whether the forwarding headers that the peer sent are believed.
    pub peer_trusted: bool,
    /// Whether the client connected over TLS.
    pub tls: bool,
    /// Id of this request: what [`request_id`] gave, else a new one.
    pub request_id: &'a str,
    /// Authority of the upstream: `Host` for the rare HTTP/1.0 request that has none.
    pub upstream_authority: &'a str,
    /// Headers that authentication sets, name and value; checked to be free of control characters.
    pub identity: &'a [(&'a str, &'a str)],
    /// Names that only authentication may set, besides `X-User-*`.
    pub identity_names: &'a [&'a str],
    /// Name of the header that carries API keys, when there is one.
    pub api_key_header: Option<&'a str>,
}

/// What the forwarded request asks of the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To open a WebSocket.
    Upgrade,
    /// To answer.
    Plain,
}

/// What happens to `Via` on the way to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// No `Via` at all.
    Suppressed,
    /// The upstream's lines and our own.
    Appended,
}

/// Longest request id that is taken over from a client, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The client's `X-Request-ID`, if it is exactly one line of 1 to 128 visible ASCII characters.
pub fn request_id<'b>(head: &RequestHead<'b>) -> Option<&'b str> {
    acceptable_request_id(&head.fields)
}

pub(super) fn acceptable_request_id<'b>(fields: &Fields<'b>) -> Option<&'b str> {
    fields
        .request_id
        .one()
        .filter(|id| {
            matches!(id.len(), 1..=REQUEST_ID_BYTES_MAX) && id.iter().all(u8::is_ascii_graphic)
        })
        .and_then(|id| str::from_utf8(id).ok())
}

/// Appends the head that goes upstream.
pub fn write_request(
    out: &mut Vec<u8>,
    head: &RequestHead<'_>,
    forwarding: &Forwarding<'_>,
    purpose: Purpose,
) {
    out.reserve(head.bytes.len() + 256);
    put(out, &[head.method.as_bytes(), b" ", head.target.as_bytes(), b" HTTP/1.1\r\n"]);
    if head.headers.iter().all(|header| header.field != Field::Host) {
        let host = if head.host.is_empty() { forwarding.upstream_authority } else { head.host };
        put_line(out, "Host", host.as_bytes());
    }
    let kept = Kept::of(head, forwarding);
    let mut lines = Lines::new(out, head.bytes);
    let mut number = itoa::Buffer::new();
    for header in &head.headers {
        match header.field {
            Field::ContentLength => match head.framing {
                Framing::Length(length) => lines.keep_as(header, number.format(length).as_bytes()),
                Framing::None | Framing::Chunked => {}
            },
            Field::TransferEncoding => lines.keep_as(header, b"chunked"),
            Field::Te
                if list(header.value).any(|coding| coding.eq_ignore_ascii_case(b"trailers")) =>
            {
                lines.keep_as(header, b"trailers");
            }
            _ if kept.keeps(header, head, forwarding) => lines.keep(header),
            _ => {}
        }
    }
    lines.finish();
    put_own_lines(out, head, forwarding, &kept);
    if purpose == Purpose::Upgrade {
        out.extend_from_slice(b"Upgrade: websocket\r\nConnection: Upgrade\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Which of the client's lines stand in for one that the proxy would set.
struct Kept {
    request_id: bool,
    forwarded_proto: bool,
    forwarded_host: bool,
}

impl Kept {
    fn of(head: &RequestHead<'_>, forwarding: &Forwarding<'_>) -> Self {
        let trusted = forwarding.peer_trusted;
        Self {
            request_id: request_id(head) == Some(forwarding.request_id),
            forwarded_proto: trusted
                && matches!(head.fields.forwarded_proto.one(), Some(b"http" | b"https")),
            forwarded_host: trusted
                && head
                    .fields
                    .forwarded_host
                    .one()
                    .and_then(|host| str::from_utf8(host).ok())
                    .is_some_and(target::is_authority),
        }
    }

    /// Whether a line goes on as it is.
    fn keeps(
        &self,
        header: &Header<'_>,
        head: &RequestHead<'_>,
        forwarding: &Forwarding<'_>,
    ) -> bool {
        let keeps = match header.field {
            Field::Host
            | Field::WebSocketKey
            | Field::WebSocketVersion
            | Field::WebSocketAccept
            | Field::WebSocket => return true,
            Field::Expect => head.expect_continue,
            Field::Via => true,
            Field::RequestId => self.request_id,
            Field::ForwardedProto => self.forwarded_proto,
            Field::ForwardedHost => self.forwarded_host,
            Field::Forwarded => forwarding.peer_trusted && !head.nominates(header.name),
            Field::Credential | Field::Other => !head.nominates(header.name),
            Field::ContentLength
            | Field::TransferEncoding
            | Field::Te
            | Field::Connection
            | Field::Upgrade
            | Field::HopByHop
            | Field::RealIp
            | Field::ForwardedFor
            | Field::Identity
            | Field::LookAlike => false,
        };
        keeps && !forwarding.reserves(header.name)
    }
}

impl Forwarding<'_> {
    /// Whether a client may not send a field of this name: authentication sets it, or it is a look-alike of one that
    /// authentication sets or reads.
    fn reserves(&self, name: &str) -> bool {
        self.identity_names.iter().any(|identity| {
            name.eq_ignore_ascii_case(identity) || RequestHead::is_look_alike(name, identity)
        }) || self.api_key_header.is_some_and(|api_key| RequestHead::is_look_alike(name, api_key))
    }
}

/// The lines that the proxy sets.
fn put_own_lines(
    out: &mut Vec<u8>,
    head: &RequestHead<'_>,
    forwarding: &Forwarding<'_>,
    kept: &Kept,
) {
    for (name, value) in forwarding.identity {
        debug_assert!(
            !value.bytes().any(|byte| byte.is_ascii_control()),
            "identity value of {name}"
        );
        put_line(out, name, value.as_bytes());
    }
    out.extend_from_slice(b"X-Forwarded-For: ");
    if forwarding.peer_trusted {
        for header in &head.headers {
            if header.field == Field::ForwardedFor && !header.value.is_empty() {
                put(out, &[header.value, b", "]);
            }
        }
    }
    put_address(out, forwarding.peer);
    out.extend_from_slice(b"\r\n");
    if !kept.forwarded_proto {
        let proto: &[u8] = if forwarding.tls { b"https" } else { b"http" };
        put_line(out, "X-Forwarded-Proto", proto);
    }
    if !kept.forwarded_host && !head.host.is_empty() {
        put_line(out, "X-Forwarded-Host", head.host.as_bytes());
    }
    out.extend_from_slice(b"X-Real-IP: ");
    put_address(out, forwarding.client);
    out.extend_from_slice(b"\r\n");
    if !kept.request_id {
        put_line(out, "X-Request-ID", forwarding.request_id.as_bytes());
    }
    out.extend_from_slice(b"Via: 1.1 vibewarden\r\n");
}

/// Appends the 101 that goes to the client. The head passed [`ResponseHead::check_switching`].
pub fn write_switching(out: &mut Vec<u8>, head: &ResponseHead<'_>, via: Via) {
    put_status_line(out, head);
    let mut lines = Lines::new(out, head.bytes);
    for header in &head.headers {
        if !matches!(header.field, Field::ContentLength | Field::TransferEncoding)
            && keeps_answer(header, head, via)
        {
            lines.keep(header);
        }
    }
    lines.finish();
    put_own_via(out, via);
    out.extend_from_slice(b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
}

/// Appends the head of an answer that declines an upgrade, for a client that speaks HTTP/1.1. The client connection is
/// closed after it.
///
/// `body` is what [`ResponseHead::body`] said. The content that follows must be framed as: nothing for `None`, exactly
/// that many bytes for `Length`, and chunks for both `Chunked` and `UntilClose`, so that a cut answer shows as one.
pub fn write_declined(out: &mut Vec<u8>, head: &ResponseHead<'_>, body: BodyFraming, via: Via) {
    put_status_line(out, head);
    let mut lines = Lines::new(out, head.bytes);
    let mut number = itoa::Buffer::new();
    for header in &head.headers {
        match header.field {
            Field::ContentLength => match body {
                BodyFraming::Length(length) => {
                    lines.keep_as(header, number.format(length).as_bytes());
                }
                BodyFraming::None if head.status != 204 => lines.keep(header),
                _ => {}
            },
            Field::TransferEncoding if body == BodyFraming::Chunked => {
                lines.keep_as(header, b"chunked");
            }
            Field::TransferEncoding => {}
            _ if keeps_answer(header, head, via) => lines.keep(header),
            _ => {}
        }
    }
    lines.finish();
    if body == BodyFraming::UntilClose {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    put_own_via(out, via);
    // A 426 has to say to what (RFC 9110 section 15.5.22); the upstream's own line was for its hop.
    let asks_for_web_socket = head.status == 426
        && head.headers.iter().filter(|header| header.field == Field::Upgrade).any(|header| {
            list(header.value).any(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
        });
    if asks_for_web_socket {
        out.extend_from_slice(b"Upgrade: websocket\r\nConnection: close, Upgrade\r\n\r\n");
    } else {
        out.extend_from_slice(b"Connection: close\r\n\r\n");
    }
}

/// Whether a line of an answer is for the client, its framing aside.
fn keeps_answer(header: &Header<'_>, head: &ResponseHead<'_>, via: Via) -> bool {
    match header.field {
        Field::Connection | Field::Upgrade | Field::HopByHop | Field::Te => false,
        Field::Via => via == Via::Appended,
        Field::WebSocketKey
        | Field::WebSocketVersion
        | Field::WebSocketAccept
        | Field::WebSocket => true,
        _ => !head.nominates(header.name),
    }
}

fn put_status_line(out: &mut Vec<u8>, head: &ResponseHead<'_>) {
    out.reserve(head.bytes.len() + 128);
    let mut number = itoa::Buffer::new();
    let status = number.format(head.status).as_bytes();
    put(out, &[b"HTTP/1.1 ", status, b" ", head.reason, b"\r\n"]);
}

fn put_own_via(out: &mut Vec<u8>, via: Via) {
    if via == Via::Appended {
        out.extend_from_slice(b"Via: 1.1 vibewarden\r\n");
    }
}

fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

fn put_line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    put(out, &[name.as_bytes(), b": ", value, b"\r\n"]);
}

fn put_address(out: &mut Vec<u8>, address: IpAddr) {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let mut number = itoa::Buffer::new();
            for (index, octet) in address.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                out.extend_from_slice(number.format(octet).as_bytes());
            }
        }
        IpAddr::V6(address) => {
            // Writing to a vector cannot fail.
            let _ = write!(out, "{address}");
        }
    }
}

/// Copies lines from one head to another. Neighbouring lines that are already in the form we write go in one piece.
struct Lines<'o, 'b> {
    out: &'o mut Vec<u8>,
    head: &'b [u8],
    /// Start and end of the lines that are kept but not yet copied.
    run: (usize, usize),
}

impl<'o, 'b> Lines<'o, 'b> {
    fn new(out: &'o mut Vec<u8>, head: &'b [u8]) -> Self {
        Self { out, head, run: (0, 0) }
    }

    /// Keeps a line; white space around its value becomes one space before it.
    fn keep(&mut self, header: &Header<'_>) {
        let Some((start, end)) = self.plain(header) else {
            self.flush();
            put_line(self.out, header.name, header.value);
            return;
        };
        if self.run.1 != start {
            self.flush();
            self.run.0 = start;
        }
        self.run.1 = end;
    }

    /// Keeps a line with another value.
    fn keep_as(&mut self, header: &Header<'_>, value: &[u8]) {
        if header.value == value {
            self.keep(header);
        } else {
            self.flush();
            put_line(self.out, header.name, value);
        }
    }

    fn finish(mut self) {
        self.flush();
    }

    fn flush(&mut self) {
        self.out.extend_from_slice(self.head.get(self.run.0..self.run.1).unwrap_or_default());
        self.run = (0, 0);
    }

    /// Where the line stands in the head, if it stands there as `name: value CRLF`.
    fn plain(&self, header: &Header<'_>) -> Option<(usize, usize)> {
        let start = header.name.as_ptr().addr().checked_sub(self.head.as_ptr().addr())?;
        let value_start = start + header.name.len() + 2;
        let value_end = value_start + header.value.len();
        let is_plain = std::ptr::eq(self.head.get(value_start..value_end)?, header.value)
            && self.head.get(value_start - 1) == Some(&b' ')
            && self.head.get(value_end..value_end + 2) == Some(b"\r\n");
        is_plain.then_some((start, value_end + 2))
    }
}

#[cfg(test)]
mod tests;
