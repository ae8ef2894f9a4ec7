//! What is true of the process as a whole and shared by every core: its driver, its phase, the cap on connections.
//! Plain atomics and values only: nobody waits here. Written by `server` and `control`, read by `proxy` and `metrics`.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

/// Version in events, health and metrics.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The driver that runs the cores (contract section 16).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverReport {
    /// `io_uring` or `epoll`.
    pub name: &'static str,
    /// `defer_taskrun`, `plain`, or empty.
    pub mode: &'static str,
    /// Why this one.
    pub reason: String,
}

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not all cores listen yet.
    Starting,
    /// Serving.
    Ready,
    /// Stopping: no new connections.
    Draining,
}

/// What the probe found out about the upstream (contract section 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamHealth {
    /// No probe runs, or it has not seen enough yet.
    Unknown,
    /// It answers.
    Ok,
    /// It does not.
    Failing,
}

impl UpstreamHealth {
    /// The word in health, ready and events.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Ok => "ok",
            Self::Failing => "failing",
        }
    }
}

/// Shared by all threads for the life of the process.
#[derive(Debug)]
pub struct Process {
    /// When it started.
    pub started: Instant,
    /// Address it listens on, with the real port.
    pub listen: SocketAddr,
    /// Number of cores.
    pub workers: usize,
    /// The driver in use.
    pub driver: DriverReport,
    /// The connection cap and its count.
    pub connections: Connections,
    phase: AtomicU8,
    upstream_health: AtomicU8,
}

impl Process {
    /// In phase `Starting`.
    pub fn new(
        started: Instant,
        listen: SocketAddr,
        workers: usize,
        driver: DriverReport,
        connections_max: u32,
    ) -> Self {
        Self {
            started,
            listen,
            workers,
            driver,
            connections: Connections::new(connections_max),
            phase: AtomicU8::new(Phase::Starting as u8),
            upstream_health: AtomicU8::new(UpstreamHealth::Unknown as u8),
        }
    }

    /// Enters the next phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Ready,
            _ => Phase::Draining,
        }
    }

    /// Tells all threads what the probe found out.
    pub fn set_upstream_health(&self, health: UpstreamHealth) {
        self.upstream_health.store(health as u8, Ordering::Relaxed);
    }

    /// What the probe found out last.
    pub fn upstream_health(&self) -> UpstreamHealth {
        match self.upstream_health.load(Ordering::Relaxed) {
            0 => UpstreamHealth::Unknown,
            1 => UpstreamHealth::Ok,
            _ => UpstreamHealth::Failing,
        }
    }
}

/// Open client connections of all cores, and the most there may be (`server.max_connections`).
#[derive(Debug)]
pub struct Connections {
    open: AtomicU32,
    max: u32,
    refused: AtomicU64,
    warned_at_ms: AtomicU64,
}

/// At most one `max_connections` warning in this time, for the whole process.
const WARNING_INTERVAL_MS: u64 = 30_000;

impl Connections {
    fn new(max: u32) -> Self {
        Self {
            open: AtomicU32::new(0),
            max,
            refused: AtomicU64::new(0),
            warned_at_ms: AtomicU64::new(0),
        }
    }

    /// Takes a place, or says that there is none.
    pub fn take(&self) -> bool {
        if self.open.fetch_add(1, Ordering::Relaxed) < self.max {
            return true;
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.refused.fetch_add(1, Ordering::Relaxed);
        false
    }

    /// Gives a place back.
    pub fn give_back(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Open connections now.
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// The cap.
    pub fn max(&self) -> u32 {
        self.max
    }

    /// The total of refused connections, when a warning about them is due now. `uptime_ms` is the time since the start.
    pub fn warning_due(&self, uptime_ms: u64) -> Option<u64> {
        // 0 stands for "never warned", so that the first refusal warns at once.
        let now = uptime_ms.max(1);
        let last = self.warned_at_ms.load(Ordering::Relaxed);
        if last != 0 && now.saturating_sub(last) < WARNING_INTERVAL_MS {
            return None;
        }
        let claimed = self
            .warned_at_ms
            .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
        claimed.then(|| self.refused.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cap_is_exact_and_places_come_back() {
        let connections = Connections::new(2);
        assert!(connections.take() && connections.take());
        assert!(!connections.take());
        assert_eq!(connections.open(), 2);
        connections.give_back();
        assert!(connections.take());
    }

    #[test]
    fn one_warning_in_thirty_seconds() {
        let connections = Connections::new(0);
        connections.take();
        assert_eq!(connections.warning_due(0), Some(1));
        connections.take();
        assert_eq!(connections.warning_due(29_999), None);
        assert_eq!(connections.warning_due(30_001), Some(2));
    }
}
