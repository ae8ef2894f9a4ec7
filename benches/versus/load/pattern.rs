//! The endless byte stream that bulk tunnels carry. Its period is a prime, so lost, doubled or swapped pieces of any usual size show.

use crate::failure::Failure;

/// Bytes after which the stream repeats.
const PERIOD: usize = 65_521;

/// One period and enough of the next that any piece of [`Pattern::PIECE_BYTES`] is one slice.
pub(crate) struct Pattern {
    bytes: Vec<u8>,
}

impl Pattern {
    /// Largest piece that [`Pattern::piece`] gives.
    pub(crate) const PIECE_BYTES: usize = 64 * 1024;

    /// The same stream in every process: xorshift from a fixed seed.
    pub(crate) fn new() -> Self {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut bytes: Vec<u8> = (0..PERIOD)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[3]
            })
            .collect();
        while bytes.len() < PERIOD + Self::PIECE_BYTES {
            bytes.push(bytes[bytes.len() - PERIOD]);
        }
        Self { bytes }
    }

    /// The stream's bytes from `offset` on.
    pub(crate) fn piece(&self, offset: u64) -> &[u8] {
        let start = usize::try_from(offset % PERIOD as u64).unwrap_or(0);
        &self.bytes[start..start + Self::PIECE_BYTES]
    }

    /// Compares received bytes with the stream at `offset`; `kind` is the connection that a failure names.
    pub(crate) fn check(
        &self,
        kind: &'static str,
        offset: u64,
        received: &[u8],
    ) -> Result<(), Failure> {
        let mut at = offset;
        for chunk in received.chunks(Self::PIECE_BYTES) {
            if chunk != &self.piece(at)[..chunk.len()] {
                return Err(Failure::Corrupt { kind, at });
            }
            at += chunk.len() as u64;
        }
        Ok(())
    }
}
