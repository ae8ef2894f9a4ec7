//! The opening handshake as client and as upstream (RFC 6455 section 4), real on both ends: the upstream computes
//! Sec-WebSocket-Accept from the key it was given, the client checks it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

use crate::certificate::HOST;

/// Key that every client sends; the example of RFC 6455 section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// What RFC 6455 section 1.3 says must answer [`KEY`].
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// Appended to the key before hashing (RFC 6455 section 4.2.2).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What the upstream does on a tunnel; the client chooses it by path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Application {
    /// Sends back what it gets.
    Echo,
    /// Sends the pattern without end.
    Source,
    /// Takes the pattern without end.
    Sink,
}

impl Application {
    const ALL: [Self; 3] = [Self::Echo, Self::Source, Self::Sink];

    fn path(self) -> &'static str {
        match self {
            Self::Echo => "/echo",
            Self::Source => "/source",
            Self::Sink => "/sink",
        }
    }
}

/// A request as a browser sends it, about 600 bytes, and these lines.
pub(crate) fn request(application: Application, lines: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\n\
         Host: {HOST}\r\n\
         Connection: Upgrade\r\n\
         Pragma: no-cache\r\n\
         Cache-Control: no-cache\r\n\
         User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36\r\n\
         Upgrade: websocket\r\n\
         Origin: https://{HOST}\r\n\
         Sec-WebSocket-Version: 13\r\n\
         Accept-Encoding: gzip, deflate, br, zstd\r\n\
         Accept-Language: en-GB,en;q=0.9\r\n\
         Cookie: theme=dark; session=4f1c2a9be07d4c55a1e86d1f0b7c93d2\r\n\
         Sec-WebSocket-Key: {KEY}\r\n\
         Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n{lines}\r\n",
        path = application.path()
    )
}

/// Length of the head in `received`, empty line included, once it is complete.
pub(crate) fn end(received: &[u8]) -> Option<usize> {
    memchr::memmem::find(received, b"\r\n\r\n").map(|at| at + 4)
}

/// The upstream's side: what is asked for, and the 101 that grants it. `None` when it is not an upgrade.
pub(crate) fn answer(head: &[u8]) -> Option<(Application, String)> {
    let text = std::str::from_utf8(head).ok()?;
    let path = text.split(' ').nth(1)?;
    let application = Application::ALL.into_iter().find(|it| it.path() == path)?;
    if !field(text, "upgrade")?.eq_ignore_ascii_case("websocket") {
        return None;
    }
    let mut hash = Sha1::new();
    hash.update(field(text, "sec-websocket-key")?);
    hash.update(GUID);
    let accept = STANDARD.encode(hash.finalize());
    Some((
        application,
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        ),
    ))
}

/// The client's side: whether this answer opens the WebSocket.
pub(crate) fn accepted(head: &[u8]) -> bool {
    std::str::from_utf8(head).is_ok_and(|text| {
        text.starts_with("HTTP/1.1 101 ")
            && field(text, "upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket"))
            && field(text, "sec-websocket-accept") == Some(ACCEPT)
    })
}

/// The first field of this name in a head.
pub(super) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (this, value) = line.split_once(':')?;
        this.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
