//! What the upstream of the oracle answers. The last letter of the target chooses, so that whoever writes the request
//! also writes the answer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

/// One way to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    /// 200 with a length.
    Length,
    /// 200 in chunks.
    Chunked,
    /// 200 in chunks, with trailers, some of which nobody may relay.
    Trailers,
    /// 204.
    NoContent,
    /// 304 that names a length.
    NotModified,
    /// 200 that ends with the connection.
    UntilClose,
    /// 200 with a length that says that the connection ends.
    SaysClose,
    /// 200, then another answer that nobody asked for.
    Extra,
    /// 200 before the content of the request.
    Early,
    /// Reads the request and closes.
    Drop,
    /// Reads the request and closes, but answers on a fresh connection.
    DropKept,
    /// 200 with two framings.
    Conflict,
    /// 101 to a request that was none.
    Switching,
    /// 100, 103 and 102 before the 200.
    Interim,
    /// Seventeen 103.
    InterimWithoutEnd,
    /// 200 that ends too early.
    Cut,
    /// The right 101, and a tunnel.
    Open,
    /// Interim answers, then the right 101.
    OpenAfterInterim,
    /// A 101 with the wrong accept.
    WrongAccept,
    /// 403 to an upgrade.
    Decline,
}

/// What the upstream says first in a tunnel, in one piece with its 101, and last.
pub(super) const TUNNEL_HELLO: &[u8] = b"\x81\x05hello";
pub(super) const TUNNEL_END: &[u8] = b"\x88\x00";

/// What an upgrade is declined with, too.
pub(super) const CONTENT: &[u8] = b"the answer of the application\n";

/// What stands where no answer may be.
const POISON: &[u8] = b"HTTP/1.1 200 OK\r\nX-Answer: poison\r\nContent-Length: 6\r\n\r\npoison";

/// The trailers of [`Reply::Trailers`], and the one of them that is relayed.
const TRAILERS: &[u8] = b"X-Sum: 1\r\nSet-Cookie: a=b\r\nContent-Length: 3\r\nX-User-Id: 1\r\n";
pub(super) const TRAILER: (&str, &[u8]) = ("x-sum", b"1");

impl Reply {
    /// The answer to a plain request.
    pub(super) fn to_plain(target: &str, method: &str, has_content: bool) -> Self {
        match target.chars().last() {
            Some('b') => Self::Conflict,
            Some('c') => Self::Chunked,
            Some('d') => Self::Drop,
            Some('e') if has_content => Self::Early,
            Some('h') if method != "HEAD" => Self::Cut,
            Some('i') => Self::Interim,
            Some('j') if !has_content => Self::InterimWithoutEnd,
            Some('k') => Self::SaysClose,
            Some('m') => Self::NotModified,
            Some('n') => Self::NoContent,
            Some('r') => Self::DropKept,
            Some('s') => Self::Switching,
            Some('t') => Self::Trailers,
            Some('x') => Self::Extra,
            Some('z') if method != "HEAD" => Self::UntilClose,
            _ => Self::Length,
        }
    }

    /// The answer to an upgrade.
    pub(super) fn to_upgrade(target: &str) -> Self {
        match target.chars().last() {
            Some('d') => Self::Drop,
            Some('f') => Self::Decline,
            Some('i') => Self::OpenAfterInterim,
            Some('j') => Self::InterimWithoutEnd,
            Some('w') => Self::WrongAccept,
            _ => Self::Open,
        }
    }

    /// Status of its final answer.
    pub(super) fn status(self) -> u16 {
        match self {
            Self::NoContent => 204,
            Self::NotModified => 304,
            Self::Decline => 403,
            Self::Switching | Self::Open | Self::OpenAfterInterim | Self::WrongAccept => 101,
            _ => 200,
        }
    }

    /// Whether the client gets a 502 instead.
    pub(super) fn is_refused(self) -> bool {
        matches!(
            self,
            Self::Drop
                | Self::Conflict
                | Self::Switching
                | Self::InterimWithoutEnd
                | Self::WrongAccept
        )
    }

    /// Whether the upstream connection is good for another request afterwards.
    pub(super) fn keeps(self) -> bool {
        matches!(
            self,
            Self::Length
                | Self::Chunked
                | Self::Trailers
                | Self::NoContent
                | Self::NotModified
                | Self::Interim
                | Self::DropKept
        )
    }

    /// Statuses of the interim answers that go before it.
    pub(super) fn interim(self) -> &'static [u16] {
        match self {
            Self::Interim | Self::OpenAfterInterim => &[100, 103, 102],
            Self::InterimWithoutEnd => &[103; 17],
            _ => &[],
        }
    }

    /// The final answer to the call of this number as it is sent.
    pub(super) fn write(self, number: usize, method: &str, key: &[u8]) -> Vec<u8> {
        let status = self.status();
        let mut out =
            format!("HTTP/1.1 {status} Of the application\r\nX-Answer: {number}\r\n").into_bytes();
        let length = format!("Content-Length: {}\r\n", CONTENT.len()).into_bytes();
        let fields: &[u8] = match self {
            Self::Chunked | Self::Trailers => b"Transfer-Encoding: chunked\r\n",
            Self::NoContent | Self::UntilClose => b"",
            Self::Conflict => b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            Self::SaysClose => &[&length, &b"Connection: close\r\n"[..]].concat(),
            Self::Switching | Self::Open | Self::OpenAfterInterim | Self::WrongAccept => {
                let accept = if self == Self::WrongAccept { accept(b"") } else { accept(key) };
                &[
                    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
                    accept.as_bytes(),
                    b"\r\n",
                ]
                .concat()
            }
            _ => &length,
        };
        out.extend_from_slice(fields);
        out.extend_from_slice(b"\r\n");
        if method != "HEAD" {
            out.extend_from_slice(&self.content());
        }
        match self {
            Self::Extra => out.extend_from_slice(POISON),
            Self::Open | Self::OpenAfterInterim => out.extend_from_slice(TUNNEL_HELLO),
            _ => {}
        }
        out
    }

    fn content(self) -> Vec<u8> {
        let (first, second) = CONTENT.split_at_checked(5).unwrap_or_default();
        let chunks = [b"5\r\n", first, b"\r\n19;x=y\r\n", second, b"\r\n0\r\n"].concat();
        match self {
            Self::Chunked => [&chunks, &b"\r\n"[..]].concat(),
            Self::Trailers => [&chunks, TRAILERS, b"\r\n"].concat(),
            Self::Cut => first.to_vec(),
            Self::NoContent
            | Self::NotModified
            | Self::Switching
            | Self::Open
            | Self::OpenAfterInterim
            | Self::WrongAccept => Vec::new(),
            _ => CONTENT.to_vec(),
        }
    }
}

/// The right answer to a key (RFC 6455 section 4.2.2).
fn accept(key: &[u8]) -> String {
    let joined = [key, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    STANDARD.encode(Sha1::digest(joined))
}
