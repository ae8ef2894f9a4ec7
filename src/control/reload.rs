//! Reload: the whole new configuration is loaded and validated first, then published as one snapshot, or not at all.

use std::path::{Path, PathBuf};

use tokio::sync::watch;

use super::identities::Identities;
use super::{ControlParts, blocking, resolve};
use crate::admission::paths::Pattern;
use crate::admission::policy::Policy;
use crate::certificate::FilesDigest;
use crate::clock;
use crate::config::{self, Config, Loaded, Tls};
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

/// The files as they were read last, so that an event that changed nothing reloads nothing.
#[derive(Clone, PartialEq)]
struct Seen {
    config: Option<Vec<u8>>,
    certificate: Option<FilesDigest>,
}

impl Seen {
    fn now(path: Option<&Path>, certificate: Option<&[PathBuf; 2]>) -> Self {
        Self {
            config: path.and_then(|path| std::fs::read(path).ok()),
            certificate: certificate.and_then(|[chain, key]| FilesDigest::of(chain, key)),
        }
    }
}

fn certificate_digest(config: &Config) -> Option<FilesDigest> {
    match &config.tls {
        Some(Tls::External(certificate)) => certificate.digest(),
        _ => None,
    }
}

/// The state of the only writer.
pub(super) struct Reload {
    parts: ControlParts,
    seen: Seen,
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
        let config = parts.origin.as_ref().map(|origin| origin.text.clone().into_bytes());
        let certificate = certificate_digest(&parts.policy.current().config);
        let seen = Seen { config, certificate };
        Self { parts, seen, probe, identities }
    }

    /// Whether a file differs from what was read last.
    pub(super) async fn has_changed(&self) -> bool {
        self.parts.origin.is_some() && blocking(self.look()).await != Some(self.seen.clone())
    }

    /// Every file whose change is one of the configuration.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let config = &self.parts.policy.current().config;
        config
            .path
            .iter()
            .cloned()
            .chain(config.certificate_files().into_iter().flatten())
            .collect()
    }

    fn look(&self) -> impl FnOnce() -> Seen + Send + use<> {
        let config = &self.parts.policy.current().config;
        let (path, certificate) = (config.path.clone(), config.certificate_files());
        move || Seen::now(path.as_deref(), certificate.as_ref())
    }

    /// Loads, validates, publishes.
    pub(super) async fn run(&mut self, trigger: Trigger) {
        let Some(source) = self.parts.origin.as_ref().map(|origin| origin.source.clone()) else {
            return;
        };
        let begun = clock::now();
        let look = self.look();
        let Some((seen, loaded)) = blocking(move || (look(), config::load(&source))).await else {
            return self.failed(trigger, &[], "a defect: the load panicked");
        };
        self.seen = seen;
        match loaded {
            Ok(loaded) => {
                self.publish(trigger, loaded, begun).await;
                // Its files may be others than those that were looked at.
                self.seen.certificate = certificate_digest(&self.parts.policy.current().config);
            }
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
        self.renew_certificate(&current.config, &next);
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

    fn renew_certificate(&self, before: &Config, next: &Config) {
        let (Some(offer), Some(Tls::External(certificate))) = (&self.parts.offer, &next.tls) else {
            return;
        };
        if before.tls == next.tls {
            return;
        }
        match offer.renew(certificate) {
            Ok(()) => tracing::info!("new connections get the new certificate"),
            Err(error) => tracing::error!(%error, "the certificate was not renewed"),
        }
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
