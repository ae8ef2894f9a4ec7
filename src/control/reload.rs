//! Reload: the whole new configuration is loaded and validated first, then published as one snapshot, or not at all.

use std::path::Path;

use tokio::sync::watch;

use super::identities::Identities;
use super::{ControlParts, blocking, resolve};
use crate::admission::paths::Pattern;
use crate::admission::policy::Policy;
use crate::clock;
use crate::config::{self, Loaded};
use crate::event::Event;

/// What made the configuration be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trigger {
    Signal,
    FileWatcher,
}

impl Trigger {
    fn word(self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::FileWatcher => "file_watcher",
        }
    }
}

/// The state of the only writer.
pub(super) struct Reload {
    parts: ControlParts,
    /// The file as it was read last, so that an event that changed nothing reloads nothing.
    seen: Option<Vec<u8>>,
    /// Told of every new configuration.
    probe: watch::Sender<()>,
    identities: Option<Identities>,
}

impl Reload {
    pub(super) fn new(
        parts: ControlParts,
        probe: watch::Sender<()>,
        identities: Option<Identities>,
    ) -> Self {
        let seen = parts.origin.as_ref().map(|origin| origin.text.clone().into_bytes());
        Self { parts, seen, probe, identities }
    }

    /// Whether the file differs from what was read last.
    pub(super) async fn has_changed(&self) -> bool {
        let path = self.parts.policy.current().config.path.clone();
        self.parts.origin.is_some()
            && blocking(move || read(path.as_deref())).await != Some(self.seen.clone())
    }

    /// Loads, validates, publishes.
    pub(super) async fn run(&mut self, trigger: Trigger) {
        let Some(source) = self.parts.origin.as_ref().map(|origin| origin.source.clone()) else {
            return;
        };
        let begun = clock::now();
        let path = self.parts.policy.current().config.path.clone();
        let Some((seen, loaded)) =
            blocking(move || (read(path.as_deref()), config::load(&source))).await
        else {
            return self.failed(trigger, &[], "a defect: the load panicked");
        };
        self.seen = seen;
        match loaded {
            Ok(loaded) => self.publish(trigger, loaded, begun).await,
            Err(mistakes) => self.failed(trigger, &mistakes.lines(), &mistakes.to_string()),
        }
    }

    async fn publish(&self, trigger: Trigger, loaded: Loaded, begun: std::time::Instant) {
        let current = self.parts.policy.current();
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let restart_required = current.config.restart_required(&loaded.config);
        if !restart_required.is_empty() {
            let keys = restart_required.join(", ");
            tracing::warn!(keys, "these changes need a restart; the old values stay in force");
        }
        let next = current.config.keep_startup_values(loaded.config);
        let addresses = if next.upstream.target == current.config.upstream.target {
            current.upstream.addresses.clone()
        } else {
            resolve::resolve(&next.upstream.target).await
        };
        let kratos = match &current.kratos {
            Some(known) if next.auth.kratos_flows() == current.config.auth.kratos_flows() => {
                known.destination.addresses.clone()
            }
            _ => resolve::resolve_kratos(&next).await,
        };
        if let Some(identities) = &self.identities {
            identities.follow(&next);
        }
        if next.auth.public_paths != current.config.auth.public_paths {
            log_public_paths(&next.auth.public_paths);
        }
        self.parts.policy.publish(Policy::new(next, addresses, kratos));
        self.probe.send_replace(());
        self.parts.metrics.reloads_ok.add(1);
        let took = clock::now().saturating_duration_since(begun);
        let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let config_path = self.path();
        tracing::info!(config_path, duration_ms, "configuration reloaded");
        let event = Event::ConfigReloaded {
            config_path: &config_path,
            duration_ms,
            restart_required: &restart_required,
            trigger_source: trigger.word(),
        };
        self.parts.events.send(&event, clock::wall());
    }

    fn failed(&self, trigger: Trigger, validation_errors: &[String], text: &str) {
        self.parts.metrics.reloads_failed.add(1);
        tracing::error!("the new configuration was not taken, the old one stays in force: {text}");
        let event = Event::ConfigReloadFailed {
            config_path: &self.path(),
            reason: "the new configuration is not valid; the old one stays in force",
            trigger_source: trigger.word(),
            validation_errors,
        };
        self.parts.events.send(&event, clock::wall());
    }

    fn path(&self) -> String {
        let policy = self.parts.policy.current();
        policy.config.path.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
    }
}

/// Tells the operator which paths need no credential, where there are any (contract section 10.2).
pub fn log_public_paths(patterns: &[Pattern]) {
    if patterns.is_empty() {
        return;
    }
    let paths = patterns.iter().map(Pattern::as_str).collect::<Vec<_>>().join(", ");
    tracing::info!(paths, "public paths: they need no credential");
}

fn read(path: Option<&Path>) -> Option<Vec<u8>> {
    path.and_then(|path| std::fs::read(path).ok())
}
