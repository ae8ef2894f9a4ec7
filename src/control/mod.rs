//! The control plane: one thread with a tokio runtime for signals, the file watch, name resolution, reload, the probe of the
//! upstream, and calls to providers of identities and to the shared rate limit store.
//! No client or upstream socket of a request may live here. The data plane asks through bounded queues and waits a bounded time.
//! Started by `server`; it is the only writer of the policy and of the keys.

#[cfg(test)]
mod double;
mod fetch;
mod identities;
pub mod jwks;
pub mod kratos;
mod probe;
mod reload;
mod resolve;
pub mod store;
mod watch;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc as changes;
use tokio::time::Instant;

use crate::admission::jwt::Keys;
use crate::admission::policy::{Addresses, Policy};
use crate::certificate::Offer;
use crate::clock;
use crate::config::{Config, RedisStore, Source};
use crate::event::EventSender;
use crate::metrics::ControlMetrics;
use crate::process::Process;
use crate::providers::ProviderQuestions;
use crate::published::Published;
use crate::shared_store::Questions as StoreQuestions;

use reload::{Reload, Trigger};
use watch::FileWatch;

pub use reload::log_public_paths;

/// How often the end of the certificate is looked at.
const A_DAY: Duration = Duration::from_hours(24);

/// What the control thread tells the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// SIGTERM or SIGINT, by number.
    Stop(i32),
}

/// Where the configuration in force comes from.
pub struct Origin {
    /// What is loaded again.
    pub source: Source,
    /// The file as it was loaded, so that a change since then is noticed.
    pub text: String,
}

/// The text of the file may hold secrets.
impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin").field("source", &self.source).finish_non_exhaustive()
    }
}

/// What the control thread works with.
#[derive(Debug)]
pub struct ControlParts {
    /// Where the configuration comes from; `None` when the program made it itself and nothing can be reloaded.
    pub origin: Option<Origin>,
    /// What the cores read.
    pub policy: Published<Policy>,
    /// The event log.
    pub events: EventSender,
    /// The counters of this thread.
    pub metrics: Arc<ControlMetrics>,
    /// Where the probe of the upstream tells what it found out.
    pub process: Arc<Process>,
    /// Where the keys of tokens go.
    pub keys: Published<Keys>,
    /// What the cores ask about identities.
    pub questions: Option<ProviderQuestions>,
    /// The shared store of buckets, where there is one.
    pub store: Option<StoreParts>,
    /// The certificate that clients see, where they come over TLS.
    pub offer: Option<Offer>,
}

/// What keeps the shared store of buckets.
#[derive(Debug)]
pub struct StoreParts {
    /// Where it is.
    pub settings: RedisStore,
    /// What the cores ask.
    pub questions: StoreQuestions,
}

/// Starts the thread. It runs until the process ends; `notices` gets what the process has to know.
pub fn start<N: From<Notice> + Send + 'static>(
    parts: ControlParts,
    notices: mpsc::SyncSender<N>,
) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Signals are caught from here on, not from some later moment on the new thread.
    let (hangup, stop) = {
        let _entered = runtime.enter();
        let stop = StopSignals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        };
        (signal(SignalKind::hangup())?, stop)
    };
    std::thread::Builder::new().name("vw-control".into()).spawn(move || {
        runtime.spawn(stop.pass_on(notices));
        runtime.spawn(resolve::keep_resolved(parts.policy.clone()));
        runtime.block_on(run(parts, hangup));
    })
}

/// The addresses of the upstream and of Kratos for the start, before the control thread runs. A name that does not resolve
/// has none.
pub fn first_addresses(config: &Config) -> io::Result<(Addresses, Addresses)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let addresses = runtime.block_on(async {
        let upstream = resolve::resolve(&config.upstream.target).await;
        (upstream, resolve::resolve_kratos(config).await)
    });
    // A resolver that hangs keeps its thread for a while; the start does not wait for it.
    runtime.shutdown_background();
    Ok(addresses)
}

/// Signals that stop the process.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// A task of its own, so that nothing else that this thread waits for can hold a stop up.
    async fn pass_on<N: From<Notice>>(mut self, notices: mpsc::SyncSender<N>) {
        loop {
            let signal = tokio::select! {
                _ = self.terminate.recv() => libc::SIGTERM,
                _ = self.interrupt.recv() => libc::SIGINT,
            };
            // A full or closed channel belongs to a process that is ending already.
            let _ = notices.try_send(Notice::Stop(signal).into());
        }
    }
}

/// Reloads at SIGHUP and when the file has changed. Reading files may take for ever, on a network file system for
/// instance; this task waits for it, the others do not.
async fn run(mut parts: ControlParts, mut hangup: Signal) {
    let (seen, mut changes) = changes::channel(16);
    let config = parts.policy.current().config.clone();
    if let Some(StoreParts { settings, questions }) = parts.store.take() {
        tokio::spawn(store::run(settings, questions, parts.events.clone()));
    }
    let probe = probe::start(&parts);
    let identities = parts.questions.take().map(|questions| identities::start(&parts, questions));
    if let Some(offer) = &parts.offer {
        tokio::spawn(keep_warned(offer.clone()));
    }
    let mut reload = Reload::new(parts, probe, identities);
    let files = reload.files();
    let mut watcher = if config.watch.enabled && config.path.is_some() {
        blocking(move || watch::start(&files, seen)).await.flatten()
    } else {
        None
    };
    // What changed between the load and the watch is found by one look after the watch stands.
    let mut settled: Option<Instant> = Some(now() + config.watch.debounce);
    let mut look_again = now() + watch::LOOK_AGAIN;
    loop {
        tokio::select! {
            _ = hangup.recv() => reload.run(Trigger::Signal).await,
            Some(()) = changes.recv() => settled = Some(now() + config.watch.debounce),
            () = at(settled) => {
                settled = None;
                // A swapped link or a new file under the old name has to be found again.
                watcher = follow(watcher, reload.files()).await.0;
                if watcher.is_some() && reload.has_changed().await {
                    reload.run(Trigger::FileWatcher).await;
                }
            }
            () = tokio::time::sleep_until(look_again), if watcher.is_some() => {
                let moved;
                (watcher, moved) = follow(watcher, reload.files()).await;
                if moved {
                    settled = Some(now() + config.watch.debounce);
                }
                look_again = now() + watch::LOOK_AGAIN;
            }
        }
    }
}

/// Says every day that the certificate is about to end.
async fn keep_warned(offer: Offer) {
    loop {
        tokio::time::sleep(A_DAY).await;
        offer.warn_of_end();
    }
}

/// Lets the watch find its folders again; true when they are not those from before.
async fn follow(watcher: Option<FileWatch>, files: Vec<PathBuf>) -> (Option<FileWatch>, bool) {
    let Some(mut watcher) = watcher else { return (None, false) };
    let followed = blocking(move || {
        let moved = watcher.follow(&files);
        (watcher, moved)
    });
    followed.await.map_or((None, false), |(watcher, moved)| (Some(watcher), moved))
}

/// Runs on another thread what may block. `None` after a panic there, which was reported when it happened.
async fn blocking<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(act).await.ok()
}

fn now() -> Instant {
    Instant::from_std(clock::now())
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
