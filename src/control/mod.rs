//! The control plane: one thread with a tokio runtime for signals, the file watch, name resolution and reload.
//! No client or upstream socket of a request may live here, and nothing here is waited for by the data plane.
//! Started by `server`; it is the only writer of the policy.

mod reload;
mod resolve;
pub mod store;
mod watch;

use std::io;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc as changes;
use tokio::time::Instant;

use crate::admission::policy::{Addresses, Policy};
use crate::clock;
use crate::config::{Source, UpstreamTarget};
use crate::event::EventSender;
use crate::metrics::ControlMetrics;
use crate::published::Published;

use reload::{Reload, Trigger};

/// What the control thread tells the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// SIGTERM or SIGINT, by number.
    Stop(i32),
}

/// Where the configuration in force comes from.
#[derive(Debug)]
pub struct Origin {
    /// What is loaded again.
    pub source: Source,
    /// The file as it was loaded, so that a change since then is noticed.
    pub text: String,
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
}

/// Starts the thread. It runs until the process ends; `notices` gets what the process has to know.
pub fn start<N: From<Notice> + Send + 'static>(
    parts: ControlParts,
    notices: mpsc::SyncSender<N>,
) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Signals are caught from here on, not from some later moment on the new thread.
    let signals = {
        let _entered = runtime.enter();
        Signals {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        }
    };
    std::thread::Builder::new()
        .name("vw-control".into())
        .spawn(move || runtime.block_on(run(parts, signals, notices)))
}

/// The addresses of the upstream for the start, before the control thread runs. A name that does not resolve has none.
pub fn first_addresses(target: &UpstreamTarget) -> io::Result<Addresses> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let addresses = runtime.block_on(resolve::resolve(target));
    // A resolver that hangs keeps its thread for a while; the start does not wait for it.
    runtime.shutdown_background();
    Ok(addresses)
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

async fn run<N: From<Notice>>(
    parts: ControlParts,
    mut signals: Signals,
    notices: mpsc::SyncSender<N>,
) {
    let (seen, mut changes) = changes::channel(16);
    let mut watcher =
        parts.policy.current().config.path.as_deref().and_then(|path| watch::start(path, seen));
    let mut reload = Reload::new(parts);
    // What changed between the load and the watch is found by one look after the watch stands.
    let mut settled: Option<Instant> = Some(now() + reload.debounce());
    let mut resolve_at = now() + resolve::FIRST_AFTER;
    loop {
        tokio::select! {
            _ = signals.hangup.recv() => reload.run(Trigger::Signal).await,
            _ = signals.terminate.recv() => notify(&notices, libc::SIGTERM),
            _ = signals.interrupt.recv() => notify(&notices, libc::SIGINT),
            Some(()) = changes.recv() => settled = Some(now() + reload.debounce()),
            () = at(settled) => {
                settled = None;
                if let Some(watcher) = &mut watcher {
                    // A swapped link or a new file under the old name has to be found again.
                    watcher.follow();
                }
                if reload.is_watching() && reload.has_changed() {
                    reload.run(Trigger::FileWatcher).await;
                }
            }
            () = tokio::time::sleep_until(resolve_at) => {
                resolve_at = now() + reload.resolve_again().await;
            }
        }
    }
}

fn notify<N: From<Notice>>(notices: &mpsc::SyncSender<N>, signal: i32) {
    // A full or closed channel belongs to a process that is ending already.
    let _ = notices.try_send(Notice::Stop(signal).into());
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
