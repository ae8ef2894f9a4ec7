//! Who a request is from: what `admission::authentication` cannot say from the head alone is looked up in this core's
//! cache, or asked of the control thread within a bounded time.

use std::time::{Duration, SystemTime};

use super::core::Core;
use crate::admission::authentication::{Identity, Next, unavailable};
use crate::admission::jwt::{self, Accepted, Found, Generation};
use crate::admission::paths::MatchingPath;
use crate::admission::policy::Policy;
use crate::admission::session::{SessionCheck, SessionVerdict, Unreachable};
use crate::clock;
use crate::refusal::{AuthMode, Refusal};
use crate::wire::request::RequestHead;

/// A call to Kratos takes at most 5 s; a little more for the way to the control thread and back.
const SESSION_TIME: Duration = Duration::from_secs(6);

/// Discovery and keys are two calls of at most 5 s each.
const KEYS_TIME: Duration = Duration::from_secs(11);

/// Steps 8 and 9 of section 5.1.
pub(crate) async fn identify(
    core: &Core,
    policy: &Policy,
    head: &RequestHead<'_>,
    path: &MatchingPath<'_>,
    is_upgrade: bool,
) -> Result<Identity, Refusal> {
    let authentication = &policy.authentication;
    match authentication.begin(&policy.config, head, path, is_upgrade)? {
        Next::Admit(identity) => Ok(identity),
        Next::Token(token) => Box::pin(verified(core, policy, &token)).await.map(Identity::Token),
        Next::Session { cookie, required } => {
            let verdict = Box::pin(session(core, &cookie, head.path())).await;
            authentication.with_session(head, path, is_upgrade, required, verdict)
        }
    }
}

/// Verifies a token with the keys that are there; when they lack the one it names, perhaps with newer ones.
async fn verified(core: &Core, policy: &Policy, token: &[u8]) -> Result<Accepted, Refusal> {
    let verdict = verify_now(core, policy, token);
    let ask = match &verdict {
        None => true,
        Some(Err(denial)) => denial.asks_for_keys() && !core.keys_are_quiet(),
        Some(Ok(_)) => false,
    };
    let verdict = match ask.then(|| core.providers.newer_keys.ask(())).flatten() {
        Some(answer) => {
            // However it ends: the keys that are there then decide.
            let _ = monoio::time::timeout(KEYS_TIME, answer.wait()).await;
            verify_now(core, policy, token)
        }
        None => verdict,
    };
    match verdict {
        None => Err(unavailable(AuthMode::Jwt)),
        Some(verdict) => verdict.map_err(Refusal::from),
    }
}

/// `None` while there is no set of keys at all.
fn verify_now(core: &Core, policy: &Policy, token: &[u8]) -> Option<Result<Accepted, jwt::Denial>> {
    let keys = core.keys();
    let (set, rules) = (keys.set.as_ref()?, policy.authentication.token_rules()?);
    let generation =
        Generation { keys: keys.generation, rules: policy.authentication.generation() };
    let now = SystemTime::from(clock::wall());
    let (found, verdict) = core.tokens.borrow_mut().verify(token, set, rules, generation, now);
    match found {
        Found::Hit => core.metrics.jwt_cache_hits.add(1),
        Found::Miss => core.metrics.jwt_cache_misses.add(1),
    }
    Some(verdict)
}

async fn session(core: &Core, cookie: &[u8], path: &str) -> SessionVerdict {
    let check = SessionCheck { cookie: cookie.into(), path: path.into() };
    let Some(answer) = core.providers.sessions.ask(check) else {
        return SessionVerdict::Unreachable(Unreachable::Busy);
    };
    match monoio::time::timeout(SESSION_TIME, answer.wait()).await {
        Ok(Some(verdict)) => verdict,
        Ok(None) => SessionVerdict::Unreachable(Unreachable::Connection),
        Err(_) => SessionVerdict::Unreachable(Unreachable::Timeout),
    }
}
