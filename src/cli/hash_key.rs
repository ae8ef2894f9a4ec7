//! `hash-key`: the form in which an API key stands in the configuration.

use std::fmt;
use std::io::{self, Read, Write};

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::admission::api_key::hash_of;

/// A made key has 256 bits: nobody finds it from its hash.
const KEY_BYTES: usize = 32;

/// More than any header carries.
const INPUT_BYTES_MAX: u64 = 1 << 20;

/// Why there is no hash.
#[derive(Debug)]
pub(super) enum HashKeyError {
    /// Nothing but perhaps a line ending.
    Empty,
    /// More than a key can have.
    TooLong,
    /// Standard input or output.
    Io(io::Error),
    /// The system gave no random bytes.
    Random,
}

impl fmt::Display for HashKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "there is no key on standard input"),
            Self::TooLong => write!(f, "the key is longer than any header"),
            Self::Io(error) => write!(f, "{error}"),
            Self::Random => write!(f, "the system gave no random bytes"),
        }
    }
}

impl std::error::Error for HashKeyError {}

impl From<io::Error> for HashKeyError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Writes the hash of the one key that `input` holds; one line ending after it is not part of it. Says on `notes` when no
/// request could ever present such a key.
pub(super) fn of_input(
    input: impl Read,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> Result<(), HashKeyError> {
    let mut bytes = Vec::new();
    input.take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > INPUT_BYTES_MAX) {
        return Err(HashKeyError::TooLong);
    }
    let key = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let key = key.strip_suffix(b"\r").filter(|_| key.len() < bytes.len()).unwrap_or(key);
    if key.is_empty() {
        return Err(HashKeyError::Empty);
    }
    if key.iter().any(u8::is_ascii_control) || key.trim_ascii() != key {
        let note = "note: no header can carry this key: it has a control character, or white space at an end";
        writeln!(notes, "{note}")?;
    }
    writeln!(out, "{}", hash_of(key).to_hex())?;
    Ok(())
}

/// Makes a key and writes it with its hash.
pub(super) fn generate(out: &mut impl Write) -> Result<(), HashKeyError> {
    let (key, hash) = new_key()?;
    writeln!(out, "key: {key}\nhash: {hash}")?;
    Ok(())
}

/// A fresh key, and its hash.
pub(super) fn new_key() -> Result<(String, String), HashKeyError> {
    let mut bytes = [0; KEY_BYTES];
    rand::fill(&mut bytes).map_err(|_| HashKeyError::Random)?;
    let key = URL_SAFE_NO_PAD.encode(bytes);
    let hash = hash_of(key.as_bytes()).to_hex();
    Ok((key, hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of `abc` (FIPS 180-2, appendix B.1).
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n";

    fn hashed(input: &[u8]) -> Result<(String, bool), String> {
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        of_input(input, &mut out, &mut notes).map_err(|error| error.to_string())?;
        Ok((String::from_utf8_lossy(&out).into_owned(), !notes.is_empty()))
    }

    #[test]
    fn one_line_ending_is_not_part_of_the_key() {
        for input in [&b"abc"[..], b"abc\n", b"abc\r\n"] {
            assert_eq!(hashed(input), Ok((ABC.to_owned(), false)));
        }
        for input in [&b"abc\n\n"[..], b"abc\r", b"abc\n\r\n", b" abc", b"abc\r\r\n"] {
            let (hash, is_noted) = hashed(input).expect("a hash");
            assert!(hash != ABC && is_noted, "{}", input.escape_ascii());
        }
    }

    #[test]
    fn without_a_key_there_is_no_hash() {
        for input in [&b""[..], b"\n", b"\r\n"] {
            assert!(hashed(input).is_err(), "{}", input.escape_ascii());
        }
        assert!(hashed(&vec![b'a'; 1 << 20]).is_ok());
        assert!(hashed(&vec![b'a'; (1 << 20) + 1]).is_err());
    }

    #[test]
    fn a_made_key_has_its_hash_beside_it() {
        let mut keys = Vec::new();
        for _ in 0..2 {
            let mut out = Vec::new();
            generate(&mut out).expect("random bytes");
            let text = String::from_utf8(out).expect("text");
            let lines: Vec<&str> = text.lines().collect();
            let key = lines[0].strip_prefix("key: ").expect("the key");
            let hash = lines[1].strip_prefix("hash: ").expect("its hash");
            assert_eq!(lines.len(), 2);
            assert_eq!(URL_SAFE_NO_PAD.decode(key).map(|bytes| bytes.len()), Ok(32));
            assert_eq!(hashed(key.as_bytes()), Ok((format!("{hash}\n"), false)));
            keys.push(key.to_owned());
        }
        assert_ne!(keys[0], keys[1]);
    }
}
