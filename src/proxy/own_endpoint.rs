//! The endpoints under `/_vibewarden/`: health, ready, metrics. Never proxied, no limits, no events (contract section 12).

use std::time::Duration;

use serde::Serialize;

use super::core::Core;
use super::stream::Socket;
use crate::admission::policy::Policy;
use crate::metrics;
use crate::process::{Phase, Process, UpstreamHealth, VERSION};
use crate::refusal::Refusal;
use crate::wire::head::Framing;
use crate::wire::request::RequestHead;

/// A request for an own endpoint, without the head it came from.
pub(crate) struct Request {
    endpoint: Option<Endpoint>,
    /// GET or HEAD.
    is_read: bool,
    head_only: bool,
    /// The client keeps the connection and nothing of this request is unread.
    keep_alive: bool,
    id: Box<str>,
}

#[derive(Clone, Copy)]
enum Endpoint {
    Health,
    Ready,
    Metrics,
}

impl Request {
    pub(crate) fn of(head: &RequestHead<'_>, request_id: &str) -> Self {
        let known = [
            ("/_vibewarden/health", Endpoint::Health),
            ("/_vibewarden/ready", Endpoint::Ready),
            ("/_vibewarden/metrics", Endpoint::Metrics),
        ];
        let endpoint =
            known.into_iter().find(|(path, _)| head.path_is(path)).map(|(_, endpoint)| endpoint);
        let has_content = !matches!(head.framing, Framing::None | Framing::Length(0));
        // An upgrade is answered like a plain request, but what follows it may be frames.
        let asks_to_upgrade = head.header("upgrade").next().is_some();
        Self {
            endpoint,
            is_read: matches!(head.method, "GET" | "HEAD"),
            head_only: head.method == "HEAD",
            keep_alive: head.keep_alive && !has_content && !asks_to_upgrade,
            id: request_id.into(),
        }
    }
}

#[derive(Serialize)]
struct Health<'a> {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'static str>,
    driver: Driver<'a>,
    components: Components,
}

#[derive(Serialize)]
struct Driver<'a> {
    name: &'a str,
    mode: &'a str,
    reason: &'a str,
}

#[derive(Serialize)]
struct Components {
    sidecar: &'static str,
    upstream: &'static str,
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    upstream: &'static str,
}

/// What an own endpoint says when it answers.
struct Page {
    status: u16,
    phrase: &'static str,
    content_type: &'static str,
    header_lines: &'static str,
    body: Vec<u8>,
}

/// Answers; true when the connection goes on with the next request.
pub(crate) async fn answer(
    core: &Core,
    client: &Socket,
    policy: &Policy,
    request: &Request,
) -> bool {
    let keep_alive = request.keep_alive && !core.is_draining();
    let mut out = Vec::with_capacity(1024);
    match page(core, policy, request) {
        Ok(page) => page.write(&mut out, request.head_only, keep_alive),
        Err(refusal) => {
            let answer = refusal.answer();
            core.metrics.refusals.count(answer.code, 0, policy.no_pattern(), Duration::ZERO);
            answer.write(&mut out, &request.id, request.head_only, !keep_alive, b"");
        }
    }
    let patience = policy.config.server.write_timeout;
    if keep_alive {
        return client.send_all(&out, patience).await.is_ok();
    }
    if client.send_last(&out, patience).await.is_ok() {
        client.linger(&core.scratch).await;
    }
    false
}

fn page(core: &Core, policy: &Policy, request: &Request) -> Result<Page, Refusal> {
    if !request.is_read {
        return Err(Refusal::MethodNotAllowed);
    }
    let ok = |header_lines, body| Page {
        status: 200,
        phrase: "OK",
        content_type: "application/json",
        header_lines,
        body,
    };
    match request.endpoint {
        Some(Endpoint::Health) => Ok(ok("X-Vibewarden: 1\r\n", json(&health(core, policy)))),
        Some(Endpoint::Ready) => {
            let ready = ready(&core.process);
            let page = ok("", json(&ready));
            if ready.ready {
                return Ok(page);
            }
            Ok(Page { status: 503, phrase: "Service Unavailable", ..page })
        }
        Some(Endpoint::Metrics) if policy.config.telemetry.enabled => {
            let page = ok("", metrics::render(&core.all_metrics, &core.process).into_bytes());
            Ok(Page { content_type: "text/plain; version=0.0.4; charset=utf-8", ..page })
        }
        Some(Endpoint::Metrics) | None => Err(Refusal::NotFound),
    }
}

fn health<'a>(core: &'a Core, policy: &Policy) -> Health<'a> {
    let driver = &core.process.driver;
    let upstream = core.process.upstream_health();
    Health {
        status: if upstream == UpstreamHealth::Failing { "degraded" } else { "ok" },
        version: policy.config.expose_version.then_some(VERSION),
        driver: Driver { name: driver.name, mode: driver.mode, reason: &driver.reason },
        components: Components { sidecar: "ok", upstream: upstream.word() },
    }
}

fn ready(process: &Process) -> Readiness {
    let upstream = process.upstream_health();
    let reason = match process.phase() {
        Phase::Starting => Some("starting"),
        Phase::Draining => Some("draining"),
        Phase::Ready if upstream == UpstreamHealth::Failing => Some("upstream_failing"),
        Phase::Ready => None,
    };
    Readiness { ready: reason.is_none(), reason, upstream: upstream.word() }
}

fn json(body: &impl Serialize) -> Vec<u8> {
    // Plain structs of strings always serialise.
    serde_json::to_vec(body).unwrap_or_default()
}

impl Page {
    fn write(&self, out: &mut Vec<u8>, head_only: bool, keep_alive: bool) {
        for part in [
            "HTTP/1.1 ",
            itoa::Buffer::new().format(self.status),
            " ",
            self.phrase,
            "\r\nContent-Type: ",
            self.content_type,
            "\r\nContent-Length: ",
            itoa::Buffer::new().format(self.body.len()),
            "\r\nCache-Control: no-store\r\n",
            self.header_lines,
            if keep_alive { "\r\n" } else { "Connection: close\r\n\r\n" },
        ] {
            out.extend_from_slice(part.as_bytes());
        }
        if !head_only {
            out.extend_from_slice(&self.body);
        }
    }
}
