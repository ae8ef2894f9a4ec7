//! The WebSocket upgrade: what counts as one, what it must have, and the answer its key asks for (RFC 6455 section 4).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

use super::field::Single;
use super::request::{Framing, RequestHead, Version};

/// The value that every key is joined with (RFC 6455 section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A request that asks for a WebSocket and may have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upgrade<'b> {
    /// `Sec-WebSocket-Key`: 16 bytes in canonical base64.
    pub key: &'b str,
}

/// Why a request that asks for a WebSocket is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpgradeError {
    /// Not a GET.
    Method,
    /// The request has content, or might have.
    Content,
    /// `Sec-WebSocket-Key` missing, repeated or not 16 bytes in canonical base64.
    Key,
    /// `Sec-WebSocket-Version` missing, repeated or not `13`.
    Version,
}

impl UpgradeError {
    /// Text for the answer; never repeats what the client sent.
    pub fn message(self) -> &'static str {
        match self {
            Self::Method => "a WebSocket is opened with GET",
            Self::Content => "a WebSocket upgrade has no content",
            Self::Key => "missing or malformed Sec-WebSocket-Key",
            Self::Version => "the only accepted Sec-WebSocket-Version is 13",
        }
    }

    /// Status of the answer: 400, or 426 for the version.
    pub fn status(self) -> u16 {
        match self {
            Self::Version => 426,
            Self::Method | Self::Content | Self::Key => 400,
        }
    }
}

impl<'b> Upgrade<'b> {
    /// `None`: an ordinary request, whatever it says in `Upgrade` and `Connection`.
    pub fn of(head: &RequestHead<'b>) -> Result<Option<Self>, UpgradeError> {
        if head.version != Version::Http11 || !head.fields.upgrades_to_web_socket() {
            return Ok(None);
        }
        if head.method != "GET" {
            return Err(UpgradeError::Method);
        }
        if !matches!(head.framing, Framing::None | Framing::Length(0)) {
            return Err(UpgradeError::Content);
        }
        let key = head
            .fields
            .web_socket_key
            .one()
            .filter(|key| is_key(key))
            .and_then(|key| str::from_utf8(key).ok())
            .ok_or(UpgradeError::Key)?;
        if head.fields.web_socket_version != Single::One(b"13") {
            return Err(UpgradeError::Version);
        }
        Ok(Some(Self { key }))
    }

    /// The only right answer to the key.
    pub fn accept(&self) -> Accept {
        let digest = Sha1::new().chain_update(self.key.as_bytes()).chain_update(GUID).finalize();
        let mut accept = [0; Accept::BYTES];
        // 20 bytes are 28 in base64: the slice always fits.
        let _ = STANDARD.encode_slice(digest, &mut accept);
        Accept(accept)
    }
}

/// A `Sec-WebSocket-Accept` value (RFC 6455 section 4.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accept([u8; Self::BYTES]);

impl Accept {
    /// Length in bytes.
    const BYTES: usize = 28;

    /// The value as it stands in the header.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Whether `key` is canonical base64 of 16 bytes: 22 digits, the last with four zero bits, and two pads.
fn is_key(key: &[u8]) -> bool {
    let [digits @ .., last, b'=', b'='] = key else {
        return false;
    };
    digits.len() == 21
        && matches!(last, b'A' | b'Q' | b'g' | b'w')
        && digits.iter().all(|digit| digit.is_ascii_alphanumeric() || matches!(digit, b'+' | b'/'))
}

#[cfg(test)]
mod tests;
