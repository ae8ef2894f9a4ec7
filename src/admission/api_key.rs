//! API keys and their scopes (contract section 10.6).

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};

use super::credential::{Credential, Sources};
use super::paths::MatchingPath;
use crate::config::{self, KeyHash, ScopeRule};
use crate::refusal::{AuthMode, Denial, DenialReason, Refusal};
use crate::wire::request::RequestHead;

/// The keys that are known, and what they may do.
///
/// A key is looked up by its SHA-256, so the time that takes says nothing of use: what is compared are digests, and who
/// guesses a key cannot choose its digest. To learn the next byte of a stored digest from the clock one would have to
/// try keys whose digests share all bytes before it, 256 times more of them for each byte; and the digest of a key of
/// 32 random bytes is no way to the key.
#[derive(Debug, Clone)]
pub struct ApiKeys {
    sources: Sources,
    known: HashMap<KeyHash, ApiKey>,
    scope_rules: Box<[ScopeRule]>,
}

/// A known key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// What events, limits and quotas call it.
    pub name: Arc<str>,
    scopes: Box<[String]>,
}

impl ApiKeys {
    /// From the configuration.
    pub fn new(config: &config::ApiKeys) -> Self {
        let known = config.keys.iter().map(|key| {
            let scopes = key.scopes.clone().into();
            (key.hash, ApiKey { name: key.name.as_str().into(), scopes })
        });
        Self {
            sources: config.sources.clone(),
            known: known.collect(),
            scope_rules: config.scope_rules.clone().into(),
        }
    }

    /// Where a key may stand.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Whose key the request presents.
    ///
    /// # Errors
    /// [`Refusal::Denied`] without a key, with two that differ, and with one that is not known.
    pub fn identify(&self, head: &RequestHead<'_>, is_upgrade: bool) -> Result<&ApiKey, Refusal> {
        match self.sources.presented(head, is_upgrade).credential {
            Credential::None => Err(denied(DenialReason::NoCredentials)),
            Credential::Several => Err(denied(DenialReason::MultipleCredentials)),
            Credential::One(key) => {
                self.known.get(&hash_of(&key)).ok_or(denied(DenialReason::InvalidKey))
            }
        }
    }

    /// Whether `key` has the scopes that the first matching rule asks for. Without a matching rule nothing is asked for.
    ///
    /// # Errors
    /// [`Refusal::Denied`] when one is missing; [`Refusal::BadRequest`] when there are rules and the path is ambiguous, so
    /// that the rule that was meant might be passed by.
    pub fn authorize(
        &self,
        key: &ApiKey,
        method: &str,
        path: &MatchingPath<'_>,
    ) -> Result<(), Refusal> {
        if self.scope_rules.is_empty() {
            return Ok(());
        }
        path.require_clear()?;
        let rule = self.scope_rules.iter().find(|rule| {
            (rule.methods.is_empty() || rule.methods.iter().any(|listed| listed == method))
                && rule.path.matches(path)
        });
        let has_all =
            |rule: &ScopeRule| rule.required_scopes.iter().all(|scope| key.scopes.contains(scope));
        match rule {
            Some(rule) if !has_all(rule) => Err(denied(DenialReason::InsufficientScopes)),
            _ => Ok(()),
        }
    }
}

fn denied(reason: DenialReason) -> Refusal {
    Refusal::Denied(Denial { mode: AuthMode::ApiKey, reason })
}

/// The hash under which a key stands in the configuration.
pub fn hash_of(key: &[u8]) -> KeyHash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, key).as_ref());
    KeyHash(hash)
}

#[cfg(test)]
mod tests;
