//! What the checks make of a request head: everything that is decided before anybody else is asked.

use std::net::IpAddr;

use super::exchange::PlainRequest;
use super::facts::{Facts, new_request_id};
use super::own_endpoint;
use crate::admission::paths::MatchingPath;
use crate::admission::policy::Policy;
use crate::refusal::Refusal;
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

/// A head that is refused.
pub(crate) struct Rejected {
    pub(crate) refusal: Refusal,
    pub(crate) facts: Facts,
    /// It asked for a WebSocket.
    pub(crate) is_upgrade: bool,
    /// The connection can carry another request: where this one ends is beyond doubt, and nothing of it is unread.
    pub(crate) goes_on: bool,
    /// It was no own endpoint: the answer gets the security headers (section 3.6 of the contract).
    pub(crate) past_own_endpoints: bool,
}

impl Rejected {
    /// For its head alone (step 2).
    fn malformed(refusal: Refusal, facts: Facts, is_upgrade: bool) -> Self {
        Self { refusal, facts, is_upgrade, goes_on: false, past_own_endpoints: false }
    }
}

/// An admitted upgrade: what goes upstream, and what has to come back.
pub(crate) struct Attempt {
    pub(crate) forwarded_head: Vec<u8>,
    pub(crate) accept: Accept,
    pub(crate) head_bytes: usize,
    pub(crate) facts: Facts,
}

/// Steps 2 to 11 of section 5.1: everything that is decided from the head alone.
pub(crate) fn judge(policy: &Policy, head: &[u8], peer: IpAddr) -> Result<Judged, Rejected> {
    let parsed = RequestHead::parse(head)
        .map_err(|error| Rejected::malformed(error.into(), Facts::refused(peer, head), false))?;
    let origin = policy.origin(&parsed, peer);
    let mut new_id = String::new();
    let request_id = forward::request_id(&parsed).unwrap_or_else(|| new_request_id(&mut new_id));
    let facts = Facts::new(origin.client, request_id, parsed.method, parsed.path());
    let upgrade = match Upgrade::of(&parsed) {
        Ok(upgrade) => upgrade,
        Err(error) => return Err(Rejected::malformed(error.into(), facts, true)),
    };
    if parsed.is_own_endpoint() {
        return Ok(Judged::Own(own_endpoint::Request::of(&parsed, request_id)));
    }
    let is_upgrade = upgrade.is_some();
    let has_content = !matches!(parsed.framing, Framing::None | Framing::Length(0));
    let goes_on = parsed.keep_alive && !is_upgrade && !has_content;
    let content_bytes_max = policy.content_bytes_max(&MatchingPath::of(parsed.path()));
    let admitted = policy.admit(&parsed, &origin).and_then(|admitted| {
        match (parsed.framing, content_bytes_max) {
            (Framing::Length(length), Some(most)) if length > most => Err(Refusal::PayloadTooLarge),
            _ => Ok(admitted),
        }
    });
    let admitted = match admitted {
        Ok(admitted) => admitted,
        Err(refusal) => {
            let past_own_endpoints = true;
            return Err(Rejected { refusal, facts, is_upgrade, goes_on, past_own_endpoints });
        }
    };
    let forwarding = Forwarding {
        target: None,
        hidden_subprotocols: &[],
        client: origin.client,
        peer: origin.peer,
        peer_trusted: origin.peer_trusted,
        tls: false,
        request_id,
        upstream_authority: &policy.upstream_authority,
        identity: admitted.identity.headers(),
        identity_names: &[],
        api_key_header: None,
    };
    let purpose = if is_upgrade { Purpose::Upgrade } else { Purpose::Plain };
    let mut forwarded_head = Vec::with_capacity(head.len() + FORWARDED_EXTRA_BYTES);
    forward::write_request(&mut forwarded_head, &parsed, &forwarding, purpose);
    let head_bytes = head.len();
    Ok(match upgrade {
        Some(upgrade) => {
            Judged::Upgrade(Attempt { forwarded_head, accept: upgrade.accept(), head_bytes, facts })
        }
        None => Judged::Plain(PlainRequest {
            forwarded_head,
            framing: parsed.framing,
            version: parsed.version,
            expect_continue: parsed.expect_continue,
            keep_alive: parsed.keep_alive,
            content_bytes_max,
            head_bytes,
            facts,
        }),
    })
}

/// Room for the header lines that the proxy adds, so that the forwarded head is allocated once.
const FORWARDED_EXTRA_BYTES: usize = 320;
