//! The request head as it goes upstream. Lines that stay keep their order, spelling and repetition; lines of one hop go;
//! what the proxy says about the client comes last and cannot be forged or removed.

use std::io::Write as _;
use std::net::IpAddr;

use super::field::{Field, Fields, list};
use super::head::{Framing, Header};
use super::lines::{Lines, put, put_line};
use super::request::RequestHead;
use super::target;

/// What the proxy knows about a request and tells the upstream.
#[derive(Debug, Clone, Copy)]
pub struct Forwarding<'a> {
    /// What is left of the target without a credential, when it carried one; else that of the head goes on.
    pub target: Option<&'a str>,
    /// Entries of `Sec-WebSocket-Protocol` that begin so carry a credential and stay here; a line left empty too.
    pub hidden_subprotocols: &'a [&'a str],
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
    let target = forwarding.target.unwrap_or(head.target);
    put(out, &[head.method.as_bytes(), b" ", target.as_bytes(), b" HTTP/1.1\r\n"]);
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
            Field::WebSocket if forwarding.hides_entry_of(header) => {
                let left = forwarding.left_of(header);
                if !left.is_empty() {
                    lines.keep_as(header, &left);
                }
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

    fn hides_entry_of(&self, header: &Header<'_>) -> bool {
        !self.hidden_subprotocols.is_empty()
            && header.name.eq_ignore_ascii_case("sec-websocket-protocol")
            && list(header.value).any(|entry| self.hides(entry))
    }

    fn hides(&self, entry: &[u8]) -> bool {
        self.hidden_subprotocols.iter().any(|prefix| entry.starts_with(prefix.as_bytes()))
    }

    /// The entries that go on.
    fn left_of(&self, header: &Header<'_>) -> Vec<u8> {
        let mut left = Vec::with_capacity(header.value.len());
        for entry in list(header.value).filter(|entry| !entry.is_empty() && !self.hides(entry)) {
            if !left.is_empty() {
                left.extend_from_slice(b", ");
            }
            left.extend_from_slice(entry);
        }
        left
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

#[cfg(test)]
mod tests;
