//! Heads for tests, written short: `{H}` is a `Host` line, `{U}` the two upgrade lines, `{K}` key and version, `{POST}` the
//! beginning of a POST, `{HS}` a whole upgrade request, `{101}` the whole answer to it.

const MACROS: &[(&str, &str)] = &[
    (
        "{101}",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    ),
    ("{HS}", "GET /ws HTTP/1.1\r\n{H}{U}{K}\r\n"),
    ("{POST}", "POST /e HTTP/1.1\r\n{H}"),
    ("{H}", "Host: t.test\r\n"),
    ("{U}", "Upgrade: websocket\r\nConnection: Upgrade\r\n"),
    ("{K}", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"),
];

/// The bytes that `short` stands for.
pub(super) fn expand(short: &[u8]) -> Vec<u8> {
    let mut bytes = short.to_vec();
    for (name, meaning) in MACROS {
        while let Some(at) = memchr::memmem::find(&bytes, name.as_bytes()) {
            bytes.splice(at..at + name.len(), meaning.bytes());
        }
    }
    bytes
}

/// For messages of assertions.
pub(super) fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
