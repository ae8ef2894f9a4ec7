//! What the checks make of a request head: everything that is decided before the upstream is asked.

use std::cell::Cell;
use std::net::IpAddr;
use std::time::SystemTime;

use super::core::Core;
use super::exchange::PlainRequest;
use super::facts::{Facts, new_request_id};
use super::identify::identify;
use super::limited::Places;
use super::own_endpoint;
use crate::admission::authentication::Identity;
use crate::admission::paths::MatchingPath;
use crate::admission::policy::{Origin, Policy, To};
use crate::refusal::{Refusal, Unavailable};
use crate::wire::forward::{self, Forwarding, Purpose};
use crate::wire::head::Framing;
use crate::wire::request::RequestHead;
use crate::wire::upgrade::{Accept, Upgrade};

/// What becomes of a head that is not refused.
pub(crate) enum Judged {
    Own(own_endpoint::Request),
    Upgrade(Attempt),
    Plain(PlainRequest),
}

/// What the client may send after a head that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follows {
    /// Another request: where this one ends is beyond doubt, and nothing of it is unread.
    Request,
    /// Nothing until it has read the answer to its upgrade (RFC 6455 section 4.1), and so far it has kept to that.
    Nothing,
    /// The content of this request, or nobody knows what.
    Content,
}

impl Follows {
    /// After the head of a request whose checks failed.
    fn refused(framing: Framing, is_upgrade: bool, keep_alive: bool) -> Self {
        match framing {
            _ if is_upgrade => Self::Nothing,
            Framing::None | Framing::Length(0) if keep_alive => Self::Request,
            _ => Self::Content,
        }
    }

    /// After an upgrade, when these are the bytes that came behind its head.
    pub(crate) fn upgrade(early: &[u8]) -> Self {
        if early.is_empty() { Self::Nothing } else { Self::Content }
    }
}

/// A head that is refused.
pub(crate) struct Rejected {
    pub(crate) refusal: Refusal,
    pub(crate) facts: Facts,
    /// It asked for a WebSocket.
    pub(crate) is_upgrade: bool,
    pub(crate) follows: Follows,
    /// It was no own endpoint: the answer gets the security headers (section 3.6 of the contract).
    pub(crate) past_own_endpoints: bool,
}

impl Rejected {
    /// For its head alone (step 2).
    fn malformed(refusal: Refusal, facts: Facts, is_upgrade: bool) -> Self {
        let follows = Follows::Content;
        Self { refusal, facts, is_upgrade, follows, past_own_endpoints: false }
    }
}

/// An admitted upgrade: what goes upstream, and what has to come back.
pub(crate) struct Attempt {
    pub(crate) forwarded_head: Vec<u8>,
    pub(crate) accept: Accept,
    pub(crate) head_bytes: usize,
    /// When the tunnel has to end because its credential does.
    pub(crate) ends_at: Option<SystemTime>,
    /// Its places in the quotas.
    pub(crate) places: Cell<Option<Box<Places>>>,
    pub(crate) facts: Facts,
}

/// Steps 2 to 11 of section 5.1: everything before the upstream is asked.
pub(crate) async fn judge(
    core: &Core,
    policy: &Policy,
    head: &[u8],
    peer: IpAddr,
) -> Result<Judged, Rejected> {
    let parsed = RequestHead::parse(head)
        .map_err(|error| Rejected::malformed(error.into(), Facts::refused(peer, head), false))?;
    let origin = policy.origin(&parsed, peer);
    let mut new_id = String::new();
    let request_id = forward::request_id(&parsed).unwrap_or_else(|| new_request_id(&mut new_id));
    let mut facts = Facts::new(origin.client, request_id, parsed.method, parsed.path());
    let upgrade = match Upgrade::of(&parsed) {
        Ok(upgrade) => upgrade,
        Err(error) => return Err(Rejected::malformed(error.into(), facts, true)),
    };
    if parsed.is_own_endpoint() {
        return Ok(Judged::Own(own_endpoint::Request::of(&parsed, request_id)));
    }
    let path = MatchingPath::of(parsed.path());
    let to = policy.authentication.destination(&path);
    // What is for Kratos itself is never a tunnel; but what follows it may be frames, and is no request.
    let keep_alive = parsed.keep_alive && upgrade.is_none();
    let upgrade = upgrade.filter(|_| to == To::Upstream);
    let is_upgrade = upgrade.is_some();
    let content_bytes_max = policy.content_bytes_max(&path).filter(|_| to == To::Upstream);
    let places = Places::default();
    let mut checks = Checks { core, policy, path: &path, to, is_upgrade, places };
    let admitted = match checks.admit(&parsed, &origin, &mut facts).await {
        Ok(identity) => check_length(parsed.framing, content_bytes_max).map(|()| identity),
        Err(refusal) => Err(refusal),
    };
    let identity = match admitted {
        Ok(identity) => identity,
        Err(refusal) => {
            let follows = Follows::refused(parsed.framing, is_upgrade, keep_alive);
            let past_own_endpoints = true;
            return Err(Rejected { refusal, facts, is_upgrade, follows, past_own_endpoints });
        }
    };
    let purpose = if is_upgrade { Purpose::Upgrade } else { Purpose::Plain };
    let onward = Onward { to, purpose, request_id, identity: &identity };
    let forwarded_head = forwarded(policy, &parsed, &origin, &onward);
    let head_bytes = head.len();
    Ok(match upgrade {
        Some(upgrade) => Judged::Upgrade(Attempt {
            forwarded_head,
            accept: upgrade.accept(),
            head_bytes,
            ends_at: identity.ends_at().filter(|_| policy.config.close_on_expiry),
            places: Cell::new(checks.places.boxed()),
            facts,
        }),
        None => Judged::Plain(PlainRequest {
            to,
            forwarded_head,
            framing: parsed.framing,
            version: parsed.version,
            expect_continue: parsed.expect_continue,
            keep_alive,
            content_bytes_max,
            head_bytes,
            facts,
        }),
    })
}

/// What steps 5 to 10 need, and the places that they took for a tunnel.
struct Checks<'c> {
    core: &'c Core,
    policy: &'c Policy,
    path: &'c MatchingPath<'c>,
    to: To,
    is_upgrade: bool,
    places: Places,
}

impl Checks<'_> {
    /// Steps 5 to 10; the first refusal ends it.
    async fn admit(
        &mut self,
        head: &RequestHead<'_>,
        origin: &Origin,
        facts: &mut Facts,
    ) -> Result<Identity, Refusal> {
        let Self { core, policy, path, to, is_upgrade, ref mut places } = *self;
        let limits = &core.limits;
        limits.admit_address(policy, path, origin.client, is_upgrade, places).await?;
        if to == To::Kratos {
            // Step 7: Kratos looks after itself.
            return policy.kratos.as_ref().map(|_| Identity::Anonymous).ok_or(KRATOS_UNREACHED);
        }
        let identity = identify(core, policy, head, path, is_upgrade).await?;
        facts.identify(&identity);
        if policy.authentication.is_on() {
            core.metrics.auth_allowed.add(1);
        }
        if let Some(user) = identity.actor() {
            limits.admit_user(policy, path, user.id, is_upgrade, places).await?;
        }
        Ok(identity)
    }
}

/// Step 11, as far as the head decides it.
fn check_length(framing: Framing, content_bytes_max: Option<u64>) -> Result<(), Refusal> {
    match (framing, content_bytes_max) {
        (Framing::Length(length), Some(most)) if length > most => Err(Refusal::PayloadTooLarge),
        _ => Ok(()),
    }
}

/// A Kratos that speaks TLS only is asked about sessions, but its own pages cannot be passed on.
const KRATOS_UNREACHED: Refusal = Refusal::UpstreamUnavailable(Unavailable::Other);

/// What goes on besides the client's head.
struct Onward<'o> {
    to: To,
    purpose: Purpose,
    request_id: &'o str,
    identity: &'o Identity,
}

/// The head as its destination gets it.
fn forwarded(
    policy: &Policy,
    head: &RequestHead<'_>,
    origin: &Origin,
    onward: &Onward<'_>,
) -> Vec<u8> {
    let sources = policy.authentication.sources();
    let mut target = sources.forwarded_target(head.target);
    if let (To::Kratos, Some(kratos)) = (onward.to, &policy.kratos) {
        target.to_mut().insert_str(0, &kratos.prefix);
    }
    let hidden_subprotocols: Vec<&str> = sources.subprotocol_prefixes().collect();
    let forwarding = Forwarding {
        target: Some(&*target),
        hidden_subprotocols: &hidden_subprotocols,
        client: origin.client,
        peer: origin.peer,
        peer_trusted: origin.peer_trusted,
        tls: policy.config.tls.is_some(),
        request_id: onward.request_id,
        upstream_authority: &policy.destination(onward.to).authority,
        identity: &onward.identity.headers(),
        identity_names: &policy.authentication.identity_names(),
        api_key_header: Some(&policy.config.auth.api_key_header),
    };
    let mut out = Vec::with_capacity(head.target.len() + FORWARDED_EXTRA_BYTES);
    forward::write_request(&mut out, head, &forwarding, onward.purpose);
    out
}

/// Room for what the proxy adds to a head, so that the forwarded head is allocated once; `write_request` reserves the rest.
const FORWARDED_EXTRA_BYTES: usize = 1024;
