//! Whether what happened is what was planned.

use serde_json::Value;

use super::naive::{self, Answer, Answers};
use super::plan::{Call, Content, Expected, From, Plan};
use super::reply::{CONTENT, Reply, TRAILER, TUNNEL_END, TUNNEL_HELLO};
use super::stage::Outcome;
use super::upstream::Seen;
use crate::wire::oracle::plain::Plain;

/// What must be the same, however the bytes arrive: the statuses of the answers.
pub(super) type Summary = Vec<u16>;

type Told<T> = Result<T, String>;

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Told<()> {
    if holds { Ok(()) } else { Err(what()) }
}

/// The first thing that is not as planned.
pub(super) fn judge(bytes: &[u8], plan: &Plan, outcome: &Outcome) -> Told<Summary> {
    let record = &outcome.record;
    ensure(record.faults.is_empty(), || record.faults.join("; "))?;
    judge_calls(plan, &record.seen)?;
    let to_head = |number| plan.answers.get(number).is_some_and(|answer: &Expected| answer.to_head);
    let read = naive::answers(&outcome.received, true, to_head);
    ensure(read.fault.is_none(), || format!("to the client: {:?}", read.fault))?;
    ensure(read.interim.is_empty() || plan.last.interim > 0, || "interim answers last".to_owned())?;
    judge_answers(bytes, plan, &read)?;
    judge_tunnel(plan, &read, &record.seen)?;
    judge_events(plan, &read, &record.seen, &outcome.events)?;
    Ok(read.finals.iter().map(|answer| answer.status).collect())
}

fn judge_calls(plan: &Plan, seen: &[Seen]) -> Told<()> {
    let may_lack =
        plan.calls.iter().filter(|call| matches!(call.content, Content::AtMost(_))).count();
    ensure(seen.len() <= plan.calls.len() && seen.len() + may_lack >= plan.calls.len(), || {
        format!("{} requests at the upstream, not {}", seen.len(), plan.calls.len())
    })?;
    for (number, (call, seen)) in plan.calls.iter().zip(seen).enumerate() {
        judge_call(call, seen)
            .map_err(|what| format!("request {number} at the upstream: {what}"))?;
    }
    let is_alone =
        |one: &Seen| seen.iter().filter(|other| other.connection == one.connection).count() == 1;
    let mut upgrades = seen.iter().filter(|seen| !seen.head.values("upgrade").is_empty());
    ensure(upgrades.all(is_alone), || "an upgrade shares its connection".to_owned())
}

fn judge_call(call: &Call, seen: &Seen) -> Told<()> {
    let first = format!("{} {} HTTP/1.1", call.method, call.target);
    ensure(seen.head.first == first, || format!("{} instead of {first}", seen.head.first))?;
    let upgrades = matches!(
        call.reply,
        Reply::Open | Reply::OpenAfterInterim | Reply::WrongAccept | Reply::Decline
    );
    judge_head(&seen.head)?;
    ensure(!upgrades || !seen.head.values("upgrade").is_empty(), || "no upgrade".to_owned())?;
    if let Some(host) = &call.host {
        ensure(seen.head.values("host") == [host.as_bytes()], || format!("not for {host}"))?;
    }
    ensure((seen.place > 0) == call.is_kept, || {
        format!("as number {} of its connection", seen.place)
    })?;
    let is_as_planned = match &call.content {
        Content::Whole(content) => seen.is_whole && seen.content == *content,
        Content::Part(content) => !seen.is_whole && seen.content == *content,
        Content::AtMost(content) => !seen.is_whole && content.starts_with(&seen.content),
    };
    ensure(is_as_planned, || {
        format!("content {}, not {:?}", seen.content.escape_ascii(), call.content)
    })?;
    ensure(seen.trailers == call.trailers, || format!("trailers {:?}", seen.trailers))?;
    ensure(seen.tunnel == call.tunnel, || format!("in the tunnel: {:?}", seen.tunnel))
}

/// What a head may be at the upstream, whoever sent it (sections 6.3 and 9.3).
fn judge_head(head: &Plain) -> Told<()> {
    let exactly = |name: &str, value: &[u8]| {
        ensure(head.values(name) == [value], || format!("{name} is {:?}", head.values(name)))
    };
    ensure(head.values("host").len() == 1, || "not one Host".to_owned())?;
    exactly("x-forwarded-for", b"127.0.0.1")?;
    exactly("x-real-ip", b"127.0.0.1")?;
    exactly("x-forwarded-proto", b"http")?;
    ensure(head.values("x-request-id").len() == 1, || "not one X-Request-ID".to_owned())?;
    ensure(head.values("via").last() == Some(&&b"1.1 vibewarden"[..]), || "no Via".to_owned())?;
    ensure(head.values("x-forwarded-host").len() <= 1, || "two X-Forwarded-Host".to_owned())?;
    let set =
        ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-real-ip", "x-request-id"];
    let gone = [
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
        "http2-settings",
        "forwarded",
    ];
    for (name, value) in &head.lines {
        let folded = name.replace(['_', '.'], "-");
        let looks_alike = ["content-length", "transfer-encoding", "x-request-id", "x-real-ip"]
            .contains(&folded.as_str())
            && folded != *name;
        let is_forbidden = looks_alike
            || gone.contains(&name.as_str())
            || folded.starts_with("x-user-")
            || (folded.starts_with("x-forwarded-") && !set.contains(&name.as_str()))
            || (name == "te" && value != b"trailers");
        ensure(!is_forbidden, || format!("a line {name}"))?;
    }
    match (head.values("upgrade").as_slice(), head.values("connection").as_slice()) {
        ([], []) => Ok(()),
        ([b"websocket"], [b"Upgrade"]) => {
            let is_handshake = head.first.starts_with("GET ")
                && head.values("sec-websocket-key").len() == 1
                && head.values("sec-websocket-version") == [b"13"];
            ensure(is_handshake, || "no handshake".to_owned())
        }
        (upgrade, connection) => Err(format!("upgrade {upgrade:?}, connection {connection:?}")),
    }
}

fn judge_answers(bytes: &[u8], plan: &Plan, read: &Answers) -> Told<()> {
    let (least, most) = (plan.answers.len(), plan.answers.len() + usize::from(plan.may_be_refused));
    ensure((least..=most).contains(&read.finals.len()), || {
        format!("{} answers, not {least} to {most}", read.finals.len())
    })?;
    for (number, answer) in read.finals.iter().enumerate() {
        match plan.answers.get(number) {
            Some(expected) => judge_answer(bytes, plan, expected, answer),
            None => judge_refusal(answer, &[400, 405, 417, 426, 431]),
        }
        .map_err(|what| format!("answer {number}: {what}"))?;
    }
    Ok(())
}

/// A refusal after which the connection ends.
fn judge_refusal(answer: &Answer, statuses: &[u16]) -> Told<()> {
    ensure(statuses.contains(&answer.status), || {
        format!("status {}, not one of {statuses:?}", answer.status)
    })?;
    ensure(says_close(answer), || "it does not say that the connection ends".to_owned())?;
    ensure(answer.head.values("x-answer").is_empty(), || "an answer of the upstream".to_owned())
}

fn says_close(answer: &Answer) -> bool {
    answer.head.options().any(|option| option == "close")
}

fn judge_answer(bytes: &[u8], plan: &Plan, expected: &Expected, answer: &Answer) -> Told<()> {
    ensure(answer.interim == expected.interim, || {
        format!("after {:?}, not {:?}", answer.interim, expected.interim)
    })?;
    if let (From::Refusal(None), true) = (expected.from, expected.closes) {
        // Where the head could not be read, nobody knows whether it was HEAD.
        let is_bare = answer.content.is_empty() && bytes.windows(4).any(|window| window == b"HEAD");
        ensure(answer.is_whole || is_bare, || "half a refusal".to_owned())?;
        return judge_refusal(answer, &expected.statuses);
    }
    ensure(expected.statuses.contains(&answer.status), || {
        format!("status {}, not one of {:?}", answer.status, expected.statuses)
    })?;
    ensure(answer.is_whole == expected.is_whole, || format!("whole: {}", answer.is_whole))?;
    if expected.is_whole && answer.status != 101 {
        ensure(says_close(answer) == expected.closes, || {
            format!("it says that the connection ends: {}", says_close(answer))
        })?;
    }
    let From::Call(number) = expected.from else {
        let is_own = answer.head.values("x-answer").is_empty();
        return ensure(is_own, || "an answer of the upstream".to_owned());
    };
    let ids = answer.head.values("x-answer");
    ensure(ids == [number.to_string().as_bytes()], || format!("the answer to {ids:?}"))?;
    let reply = plan.calls.get(number).map(|call| call.reply);
    let is_empty = expected.to_head || matches!(answer.status, 101 | 204 | 304);
    let content = if is_empty { &b""[..] } else { CONTENT };
    let has_content =
        answer.content == content || (!expected.is_whole && content.starts_with(&answer.content));
    ensure(has_content, || format!("content {}", answer.content.escape_ascii()))?;
    let (name, value) = TRAILER;
    let has_trailers = match answer.trailers.as_slice() {
        [] => {
            reply != Some(Reply::Trailers)
                || is_empty
                || answer.head.values("transfer-encoding").is_empty()
        }
        [(found, with)] => reply == Some(Reply::Trailers) && found == name && with == value,
        _ => false,
    };
    ensure(has_trailers, || format!("trailers {:?}", answer.trailers))
}

fn judge_tunnel(plan: &Plan, read: &Answers, seen: &[Seen]) -> Told<()> {
    let is_planned = plan.calls.iter().any(|call| call.tunnel.is_some());
    let is_seen = seen.iter().any(|seen| seen.tunnel.is_some());
    ensure(is_planned == is_seen && is_planned == read.tunnel.is_some(), || {
        "a tunnel on one side".to_owned()
    })?;
    let expected = [TUNNEL_HELLO, TUNNEL_END].concat();
    let is_intact = read.tunnel.as_ref().is_none_or(|tunnel| *tunnel == expected);
    ensure(is_intact, || format!("from the tunnel: {:?}", read.tunnel))
}

/// One event of the first group for every answer but those of own endpoints, in order, with the id of the request.
fn judge_events(plan: &Plan, read: &Answers, seen: &[Seen], events: &[Value]) -> Told<()> {
    let word = |event: &Value, field: &str| {
        event.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let (closed, events): (Vec<&Value>, Vec<&Value>) =
        events.iter().partition(|event| word(event, "event_type") == "websocket.closed");
    ensure(closed.len() == usize::from(read.tunnel.is_some()), || format!("{closed:?}"))?;
    let mut events = events.into_iter();
    for (number, answer) in read.finals.iter().enumerate() {
        let from = plan.answers.get(number).map_or(From::Refusal(None), |expected| expected.from);
        if from == From::OwnEndpoint {
            continue;
        }
        let Some(event) = events.next() else {
            return Err(format!("no event for answer {number}"));
        };
        let (kind, call) = match from {
            From::Call(call) => ("request.proxied", Some(call)),
            From::Refusal(Some(call)) => ("upstream.unavailable", Some(call)),
            From::Refusal(None) | From::OwnEndpoint => ("request.blocked", None),
        };
        ensure(word(event, "event_type") == kind, || format!("{event} for answer {number}"))?;
        let status = event.pointer("/payload/status_code").and_then(Value::as_u64);
        let is_right = status.is_none_or(|status| status == u64::from(answer.status));
        ensure(is_right, || format!("{event} for answer {number}"))?;
        if let Some(call) = call.and_then(|call| plan.calls.get(call)) {
            let path = call.target.split('?').next().unwrap_or_default();
            let payload = event.get("payload").cloned().unwrap_or_default();
            let is_right =
                word(&payload, "method") == call.method && word(&payload, "path") == path;
            ensure(is_right, || format!("{event} for {} {path}", call.method))?;
        }
        let id = match call.and_then(|call| seen.get(call)) {
            Some(seen) => seen.head.values("x-request-id").concat(),
            None => answer.head.values("x-request-id").concat(),
        };
        ensure(word(event, "request_id").as_bytes() == id, || format!("{event} is of another"))?;
    }
    let left: Vec<&Value> = events.collect();
    ensure(left.is_empty(), || format!("nobody got an answer for {left:?}"))
}
