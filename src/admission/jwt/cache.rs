//! Verified tokens of one core. A hit costs a hash of the token instead of a signature.

use std::time::SystemTime;

use super::{Accepted, Denial, KeySet, Rules, verify};
use crate::admission::cache::{Digest, VerdictCache};

/// What a verdict depends on besides the token and the time. A change of either part empties the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation {
    /// Of the key set: [`super::Keys::generation`].
    pub keys: u64,
    /// Of the rules; counts up when a reload changed them.
    pub rules: u64,
}

/// At most so many verified tokens, each until its `exp`, and only while the generation is the same.
///
/// Tokens are found by SHA-256: an attacker would need a second preimage of a token that somebody else has verified here.
/// Refused tokens are not kept, so that junk cannot push out what is useful.
#[derive(Debug)]
pub struct TokenCache {
    verified: VerdictCache<Accepted>,
    generation: Generation,
}

/// How a verdict was found, label `result` of `vibewarden_auth_cache_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the label values")]
pub enum Found {
    Hit,
    Miss,
}

impl TokenCache {
    /// An empty cache for at most `tokens_max` tokens; about 400 bytes each.
    pub fn new(tokens_max: usize) -> Self {
        Self {
            verified: VerdictCache::new(tokens_max),
            generation: Generation { keys: 0, rules: 0 },
        }
    }

    /// [`verify`], unless this very token was verified before under the same keys and rules and has not expired.
    ///
    /// A token inside the leeway after its `exp` is verified each time.
    pub fn verify(
        &mut self,
        token: &[u8],
        keys: &KeySet,
        rules: &Rules,
        generation: Generation,
        now: SystemTime,
    ) -> (Found, Result<Accepted, Denial>) {
        if self.generation != generation {
            self.verified.clear();
            self.generation = generation;
        }
        let digest = Digest::of(token);
        if let Some(accepted) = self.verified.get(&digest, now) {
            return (Found::Hit, Ok(Accepted::clone(accepted)));
        }
        let verdict = verify(token, keys, rules, now).map(Accepted::new);
        if let Ok(accepted) = &verdict {
            self.verified.insert(digest, Accepted::clone(accepted), accepted.expires_at, now);
        }
        (Found::Miss, verdict)
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.verified.len()
    }

    /// Whether no token is held.
    pub fn is_empty(&self) -> bool {
        self.verified.is_empty()
    }
}
