//! The endpoints under `/_vibewarden/`: health, ready, metrics. Never proxied, no limits, no events (contract section 12).

use serde::Serialize;

use super::core::Core;
use super::stream::Socket;
use crate::admission::policy::Policy;
use crate::metrics;
use crate::process::{Phase, VERSION};
use crate::refusal::{Answer, Refusal};
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
    request_id: Box<str>,
}

#[derive(Clone, Copy)]
enum Endpoint {
    Health,
    Ready,
    Metrics,
}

impl Request {
    pub(crate) fn of(head: &RequestHead<'_>, request_id: Box<str>) -> Self {
        let known = [
            ("/_vibewarden/health", Endpoint::Health),
            ("/_vibewarden/ready", Endpoint::Ready),
            ("/_vibewarden/metrics", Endpoint::Metrics),
        ];
        let endpoint = known
            .into_iter()
            .find(|(path, _)| head.path_is(path))
            .map(|(_, endpoint)| endpoint);
        let has_content = !matches!(head.framing, Framing::None | Framing::Length(0));
        // An upgrade is answered like a plain request, but what follows it may be frames.
        let asks_to_upgrade = head.header("upgrade").next().is_some();
        Self {
            endpoint,
            is_read: matches!(head.method, "GET" | "HEAD"),
            head_only: head.method == "HEAD",
            keep_alive: head.keep_alive && !has_content && !asks_to_upgrade,
            request_id,
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
struct Ready {
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    upstream: &'static str,
}

/// State of the upstream where no probe runs.
const UPSTREAM_UNKNOWN: &str = "unknown";

/// Answers; true when the connection goes on with the next request.
pub(crate) async fn answer(
    core: &Core,
    client: &Socket,
    policy: &Policy,
    request: &Request,
) -> bool {
    let keep_alive = request.keep_alive && !core.is_draining();
    let mut out = Vec::with_capacity(1024);
    let refused = |out: &mut Vec<u8>, refusal: Refusal| {
        let answer: Answer = refusal.answer();
        core.metrics.refusals.count(
            answer.code,
            0,
            policy.no_pattern(),
            std::time::Duration::ZERO,
        );
        answer.write(out, &request.request_id, request.head_only, !keep_alive);
    };
    match request.endpoint {
        _ if !request.is_read => refused(&mut out, Refusal::MethodNotAllowed),
        Some(Endpoint::Health) => {
            let body = json(&health(core, policy));
            put(
                &mut out,
                200,
                "OK",
                "application/json",
                "X-Vibewarden: 1\r\n",
                &body,
                request,
                keep_alive,
            );
        }
        Some(Endpoint::Ready) => {
            let ready = ready(core.process.phase());
            let (status, phrase) = if ready.ready {
                (200, "OK")
            } else {
                (503, "Service Unavailable")
            };
            put(
                &mut out,
                status,
                phrase,
                "application/json",
                "",
                &json(&ready),
                request,
                keep_alive,
            );
        }
        Some(Endpoint::Metrics) if policy.config.telemetry.enabled => {
            let body = metrics::render(&core.all_metrics, &core.process);
            let kind = "text/plain; version=0.0.4; charset=utf-8";
            put(
                &mut out,
                200,
                "OK",
                kind,
                "",
                body.as_bytes(),
                request,
                keep_alive,
            );
        }
        Some(Endpoint::Metrics) | None => refused(&mut out, Refusal::NotFound),
    }
    let sent = client
        .send_all(&out, policy.config.server.write_timeout)
        .await
        .is_ok();
    if sent && !keep_alive {
        super::connection::linger(client).await;
    }
    sent && keep_alive
}

fn health<'a>(core: &'a Core, policy: &Policy) -> Health<'a> {
    let driver = &core.process.driver;
    Health {
        status: "ok",
        version: policy.config.expose_version.then_some(VERSION),
        driver: Driver {
            name: driver.name,
            mode: driver.mode,
            reason: &driver.reason,
        },
        components: Components {
            sidecar: "ok",
            upstream: UPSTREAM_UNKNOWN,
        },
    }
}

fn ready(phase: Phase) -> Ready {
    let reason = match phase {
        Phase::Ready => None,
        Phase::Starting => Some("starting"),
        Phase::Draining => Some("draining"),
    };
    Ready {
        ready: reason.is_none(),
        reason,
        upstream: UPSTREAM_UNKNOWN,
    }
}

fn json(body: &impl Serialize) -> Vec<u8> {
    // Plain structs of strings always serialise.
    serde_json::to_vec(body).unwrap_or_default()
}

#[expect(
    clippy::too_many_arguments,
    reason = "the parts of an HTTP answer, in the order in which they are written"
)]
fn put(
    out: &mut Vec<u8>,
    status: u16,
    phrase: &str,
    content_type: &str,
    header_lines: &str,
    body: &[u8],
    request: &Request,
    keep_alive: bool,
) {
    for part in [
        "HTTP/1.1 ",
        itoa::Buffer::new().format(status),
        " ",
        phrase,
        "\r\nContent-Type: ",
        content_type,
        "\r\nContent-Length: ",
        itoa::Buffer::new().format(body.len()),
        "\r\nCache-Control: no-store\r\n",
        header_lines,
        if keep_alive {
            "\r\n"
        } else {
            "Connection: close\r\n\r\n"
        },
    ] {
        out.extend_from_slice(part.as_bytes());
    }
    if !request.head_only {
        out.extend_from_slice(body);
    }
}
