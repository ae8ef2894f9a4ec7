//! The active probe of the upstream (contract section 3.2): asks for a page now and then, and tells all threads what it
//! thinks of the answers. No request waits for it and none is refused because of it.

use std::error::Error;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{CONNECTION, HOST};
use reqwest::redirect;
use reqwest::{Client, Response};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::ControlParts;
use crate::admission::policy::{Addresses, Policy};
use crate::clock;
use crate::config::{self, Upstream, UpstreamTarget};
use crate::event::{Event, EventSender};
use crate::process::{Process, UpstreamHealth, VERSION};
use crate::published::Published;

/// So much of an answer's content is read, so that an application does not write into a closed connection.
const CONTENT_BYTES_READ: usize = 64 * 1024;

/// What the probe works with.
#[derive(Clone)]
struct Parts {
    policy: Published<Policy>,
    events: EventSender,
    process: Arc<Process>,
}

/// Starts the task that probes while the configuration in force asks for it. Whoever publishes another configuration tells
/// it through the sender; it ends when that is dropped.
pub(super) fn start(parts: &ControlParts) -> watch::Sender<()> {
    let (tell, told) = watch::channel(());
    let parts = Parts {
        policy: parts.policy.clone(),
        events: parts.events.clone(),
        process: Arc::clone(&parts.process),
    };
    tokio::spawn(run(parts, told));
    tell
}

/// One round per configuration: what was found out about one upstream says nothing about another one.
async fn run(parts: Parts, mut told: watch::Receiver<()>) {
    loop {
        let policy = parts.policy.current();
        let upstream = policy.config.upstream.clone();
        parts.process.set_upstream_health(UpstreamHealth::Unknown);
        let round = async {
            match &upstream.health {
                Some(probe) => parts.watch_upstream(&policy, probe).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = round => {}
            changed = another(&parts.policy, &upstream, &mut told) => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// Completes when the upstream or its probe is not what it was.
async fn another(
    policy: &Published<Policy>,
    upstream: &Upstream,
    told: &mut watch::Receiver<()>,
) -> Result<(), watch::error::RecvError> {
    loop {
        told.changed().await?;
        if policy.current().config.upstream != *upstream {
            return Ok(());
        }
    }
}

impl Parts {
    /// Never completes, but for a client that cannot be built.
    async fn watch_upstream(&self, policy: &Policy, probe: &config::Probe) {
        let client = match client(&self.policy, &policy.config.upstream, probe) {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(%error, "the upstream cannot be probed");
                return std::future::pending().await;
            }
        };
        let url = url(&policy.config.upstream.target, &probe.path);
        let mut standing = Standing::default();
        let mut ticks = tokio::time::interval(probe.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let asked = client
                .get(&url)
                .header(HOST, &*policy.upstream.authority)
                .header(CONNECTION, "close")
                .send()
                .await;
            let (answer, fault) = match asked {
                Ok(answer) if answer.status().is_success() => (Some(answer), None),
                Ok(answer) => {
                    let fault = format!("status {}", answer.status().as_u16());
                    (Some(answer), Some(fault))
                }
                Err(error) => (None, Some(cause(&error))),
            };
            if let Some(change) = standing.observe(fault.is_none(), probe) {
                self.tell(&change, fault.as_deref(), &policy.upstream.url);
            }
            if let Some(answer) = answer {
                read_content(answer).await;
            }
        }
    }

    fn tell(&self, change: &Change, fault: Option<&str>, upstream_url: &str) {
        let (previous_status, new_status) = (change.previous.word(), change.new.word());
        self.process.set_upstream_health(change.new);
        tracing::warn!(
            upstream = upstream_url,
            previous_status,
            new_status,
            error = fault,
            "the health of the upstream changed"
        );
        let event = Event::UpstreamHealthChanged {
            consecutive: change.consecutive,
            last_error: fault,
            new_status,
            previous_status,
            upstream_url,
        };
        self.events.send(&event, clock::wall());
    }
}

/// A connection of its own for each probe: a kept one tells nothing about new ones, and many applications close theirs
/// after just the time that lies between two probes.
fn client(
    policy: &Published<Policy>,
    upstream: &Upstream,
    probe: &config::Probe,
) -> reqwest::Result<Client> {
    let builder = Client::builder()
        .no_proxy()
        .redirect(redirect::Policy::none())
        .pool_max_idle_per_host(0)
        .timeout(probe.timeout)
        .user_agent(format!("vibewarden/{VERSION}"));
    match &upstream.target {
        UpstreamTarget::Unix(path) => builder.unix_socket(path.as_path()).build(),
        UpstreamTarget::Tcp { .. } => builder.dns_resolver(KnownAddresses(policy.clone())).build(),
    }
}

/// The host in the URL is a placeholder: [`KnownAddresses`] says where it is, and `Host` what it is called.
fn url(target: &UpstreamTarget, path: &str) -> String {
    match target {
        UpstreamTarget::Tcp { port, .. } => format!("http://upstream:{port}{path}"),
        UpstreamTarget::Unix(_) => format!("http://upstream{path}"),
    }
}

/// The addresses that requests are sent to, as they are known at each probe.
struct KnownAddresses(Published<Policy>);

impl Resolve for KnownAddresses {
    fn resolve(&self, _: Name) -> Resolving {
        let addresses = match &self.0.current().upstream.addresses {
            Addresses::Tcp(addresses) => addresses.clone(),
            Addresses::Unix(_) => Vec::new(),
        };
        Box::pin(async move {
            if addresses.is_empty() {
                return Err("the name of the upstream does not resolve".into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// The innermost reason, which is the one that an operator can act on.
fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut innermost: &dyn Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

async fn read_content(mut answer: Response) {
    let mut read = 0;
    // The verdict stands; an error here says nothing more.
    while let Ok(Some(piece)) = answer.chunk().await {
        read += piece.len();
        if read > CONTENT_BYTES_READ {
            return;
        }
    }
}

/// What is thought of the upstream, and what could change it.
struct Standing {
    health: UpstreamHealth,
    /// Whether the last answers were good, and how many alike there were in a row.
    streak: (bool, u32),
}

/// Another health than before.
#[derive(Debug, PartialEq, Eq)]
struct Change {
    previous: UpstreamHealth,
    new: UpstreamHealth,
    /// Answers in a row that led to it.
    consecutive: u32,
}

impl Default for Standing {
    fn default() -> Self {
        Self { health: UpstreamHealth::Unknown, streak: (true, 0) }
    }
}

impl Standing {
    /// Takes one outcome. The thresholds hold for leaving `unknown` too.
    fn observe(&mut self, good: bool, probe: &config::Probe) -> Option<Change> {
        let consecutive = if self.streak.0 == good { self.streak.1.saturating_add(1) } else { 1 };
        self.streak = (good, consecutive);
        let (new, threshold) = if good {
            (UpstreamHealth::Ok, probe.healthy_threshold)
        } else {
            (UpstreamHealth::Failing, probe.unhealthy_threshold)
        };
        if new == self.health || consecutive < threshold {
            return None;
        }
        let previous = std::mem::replace(&mut self.health, new);
        Some(Change { previous, new, consecutive })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn changes(outcomes: &str, healthy_threshold: u32, unhealthy_threshold: u32) -> Vec<String> {
        let probe = config::Probe {
            path: "/".to_owned(),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            unhealthy_threshold,
            healthy_threshold,
        };
        let mut standing = Standing::default();
        let observed = outcomes.chars().enumerate().filter_map(|(at, outcome)| {
            let change = standing.observe(outcome == '+', &probe)?;
            let (previous, new) = (change.previous.word(), change.new.word());
            Some(format!("{at}: {previous} {new} {}", change.consecutive))
        });
        observed.collect()
    }

    #[test]
    fn it_takes_so_many_alike_in_a_row() {
        assert_eq!(changes("++", 2, 3), ["1: unknown ok 2"]);
        assert_eq!(changes("+-+-+-", 2, 2), [""; 0]);
        assert_eq!(changes("--+--+---", 2, 3), ["8: unknown failing 3"]);
        assert_eq!(
            changes("+++--+---+++", 2, 3),
            ["1: unknown ok 2", "8: ok failing 3", "10: failing ok 2"]
        );
        assert_eq!(changes("+-+", 1, 1), ["0: unknown ok 1", "1: ok failing 1", "2: failing ok 1"]);
    }
}
