//! The lines that the contract asks for, worked out line by line from lower-case names.

use super::super::answer::Via;
use super::super::forward::{Forwarding, Purpose, request_id};
use super::super::request::RequestHead;
use super::super::target::is_authority;
use super::plain::Plain;

const HOP_BY_HOP: [&str; 7] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "upgrade",
    "http2-settings",
];

pub(super) fn expected_request_lines(
    head: &RequestHead<'_>,
    plain: &Plain,
    forwarding: &Forwarding<'_>,
    purpose: Purpose,
) -> Vec<(String, Vec<u8>)> {
    let mut lines = Vec::new();
    let host = if head.host.is_empty() { forwarding.upstream_authority } else { head.host };
    if plain.values("host").is_empty() {
        lines.push(("host".to_owned(), host.into()));
    }
    for (name, value) in &plain.lines {
        lines.extend(
            expected_request_line(head, plain, forwarding, name, value)
                .map(|value| (name.clone(), value)),
        );
    }
    let mut own = |name: &str, value: &[u8]| lines.push((name.to_owned(), value.to_vec()));
    for (name, value) in forwarding.identity {
        own(&name.to_ascii_lowercase(), value.as_bytes());
    }
    let peer = forwarding.peer.to_string();
    let mut addresses = plain.values("x-forwarded-for");
    addresses.retain(|value| forwarding.peer_trusted && !value.is_empty());
    addresses.push(peer.as_bytes());
    own("x-forwarded-for", &addresses.join(&b", "[..]));
    if !keeps_proto(plain, forwarding) {
        own("x-forwarded-proto", if forwarding.tls { b"https" } else { b"http" });
    }
    if !keeps_host(plain, forwarding) && !head.host.is_empty() {
        own("x-forwarded-host", head.host.as_bytes());
    }
    own("x-real-ip", forwarding.client.to_string().as_bytes());
    if request_id(head).is_none() {
        own("x-request-id", forwarding.request_id.as_bytes());
    }
    own("via", b"1.1 vibewarden");
    if purpose == Purpose::Upgrade {
        own("upgrade", b"websocket");
        own("connection", b"Upgrade");
    }
    lines
}

/// The value with which one of the client's lines goes on, if it does.
pub(super) fn expected_request_line(
    head: &RequestHead<'_>,
    plain: &Plain,
    forwarding: &Forwarding<'_>,
    name: &str,
    value: &[u8],
) -> Option<Vec<u8>> {
    let folded = name.replace(['_', '.'], "-");
    let looks_like = |protected: &str| folded == protected && name != protected;
    let removed = HOP_BY_HOP.contains(&name)
        || matches!(name, "x-real-ip" | "x-forwarded-for" | "x-roles" | "x-forwarded-email")
        || folded.starts_with("x-user-")
        || (folded.starts_with("x-forwarded-") && !name.starts_with("x-forwarded-"))
        || [
            "x-real-ip",
            "x-request-id",
            "content-length",
            "transfer-encoding",
            "x-api-key",
            "x-roles",
            "x-forwarded-email",
        ]
        .into_iter()
        .any(looks_like);
    let keeps = match name {
        "sec-websocket-protocol" => return subprotocols(forwarding, value),
        "te" => {
            let trailers = String::from_utf8_lossy(value)
                .split(',')
                .any(|coding| coding.trim_matches([' ', '\t']).eq_ignore_ascii_case("trailers"));
            return trailers.then(|| b"trailers".to_vec());
        }
        "content-length" => return number(value),
        "transfer-encoding" => return Some(value.to_ascii_lowercase()),
        "expect" => head.expect_continue,
        "via" => true,
        "x-request-id" => request_id(head).is_some(),
        "x-forwarded-proto" => keeps_proto(plain, forwarding),
        "x-forwarded-host" => keeps_host(plain, forwarding),
        _ if name == "forwarded" || name.starts_with("x-forwarded-") => {
            forwarding.peer_trusted && !plain.nominates(name)
        }
        _ => !plain.nominates(name),
    };
    (keeps && !removed).then(|| value.to_vec())
}

/// The entries that carry no credential; the line as it was when that is all of them, no line when it is none.
fn subprotocols(forwarding: &Forwarding<'_>, value: &[u8]) -> Option<Vec<u8>> {
    let hidden = forwarding.hidden_subprotocols;
    let (mut left, mut is_changed) = (Vec::new(), false);
    for entry in value.split(|byte| *byte == b',') {
        let entry = entry.trim_ascii();
        if hidden.iter().any(|prefix| entry.starts_with(prefix.as_bytes())) {
            is_changed = true;
        } else if !entry.is_empty() {
            left.push(entry);
        }
    }
    match (is_changed, left.is_empty()) {
        (false, _) => Some(value.to_vec()),
        (true, true) => None,
        (true, false) => Some(left.join(&b", "[..])),
    }
}

pub(super) fn number(value: &[u8]) -> Option<Vec<u8>> {
    let number: u128 = String::from_utf8_lossy(value).parse().ok()?;
    Some(number.to_string().into_bytes())
}

pub(super) fn keeps_proto(plain: &Plain, forwarding: &Forwarding<'_>) -> bool {
    let values = plain.values("x-forwarded-proto");
    forwarding.peer_trusted && (values == [b"http"] || values == [b"https"])
}

pub(super) fn keeps_host(plain: &Plain, forwarding: &Forwarding<'_>) -> bool {
    let values = plain.values("x-forwarded-host");
    let valid = |host: &&[u8]| str::from_utf8(host).is_ok_and(is_authority);
    forwarding.peer_trusted && values.len() == 1 && values.iter().all(valid)
}

/// The lines of an answer that the client gets, before ours; framing lines as `framing` says.
pub(super) fn expected_answer_lines(
    plain: &Plain,
    via: Via,
    framing: impl Fn(&str, &[u8]) -> Option<Vec<u8>>,
) -> Vec<(String, Vec<u8>)> {
    let mut lines = Vec::new();
    for (name, value) in &plain.lines {
        let value = match name.as_str() {
            "content-length" | "transfer-encoding" => framing(name, value),
            "te" => None,
            "via" if via == Via::Suppressed => None,
            "via" => Some(value.clone()),
            _ if HOP_BY_HOP.contains(&name.as_str()) || plain.nominates(name) => None,
            _ => Some(value.clone()),
        };
        lines.extend(value.map(|value| (name.clone(), value)));
    }
    lines
}
