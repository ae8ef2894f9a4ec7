//! Counters: one struct per core with that core as its only writer, summed when somebody asks (contract section 12).
//! No lock and no contention: a reader may see two counters of different moments, never a torn or falling one.
//! Written by `proxy` and `control`, rendered by the metrics endpoint.

mod text;

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::admission::limit::Limits;

pub use text::render;

/// A number with one writing thread and any number of readers.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning thread may call it: a plain load and store, no locked instruction.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the histogram buckets in seconds.
pub const BUCKETS_SECONDS: [f64; 11] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const BUCKETS_US: [u64; 11] = [
    5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000,
];

/// A latency histogram with the buckets of the contract.
#[derive(Debug, Default)]
pub struct Histogram {
    /// One count per bucket, not cumulative; the last is everything above.
    buckets: [Counter; 12],
    sum_us: Counter,
}

impl Histogram {
    /// Counts one observation.
    pub fn observe(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let place = BUCKETS_US.iter().position(|&bound| us <= bound).unwrap_or(BUCKETS_US.len());
        if let Some(bucket) = self.buckets.get(place) {
            bucket.add(1);
        }
        self.sum_us.add(us);
    }

    /// Observations so far.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(Counter::get).sum()
    }
}

/// The results of an upgrade, label `result` of `vibewarden_websocket_upgrades_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the label values, explained in the contract")]
pub enum UpgradeResult {
    Opened,
    Refused,
    Declined,
    Failed,
    Timeout,
    Abandoned,
}

/// Why a tunnel ended, label `reason` of `vibewarden_websocket_closed_total` and of `websocket.closed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// Orderly end, the client ended first.
    ClientClosed,
    /// Orderly end, the upstream ended first.
    UpstreamClosed,
    /// The client's connection was reset.
    ClientReset,
    /// The upstream's connection was reset.
    UpstreamReset,
    /// Liveness ended one leg.
    DeadPeer,
    /// The credential ended.
    Expired,
    /// Closed by the paced drain.
    Drained,
    /// Closed at once at shutdown.
    Shutdown,
    /// Any other I/O error.
    ConnectionError,
}

impl CloseReason {
    /// All, in the order of their counters.
    pub const ALL: [Self; 9] = [
        Self::ClientClosed,
        Self::UpstreamClosed,
        Self::ClientReset,
        Self::UpstreamReset,
        Self::DeadPeer,
        Self::Expired,
        Self::Drained,
        Self::Shutdown,
        Self::ConnectionError,
    ];

    /// The word in event and metric.
    pub fn word(self) -> &'static str {
        match self {
            Self::ClientClosed => "client_closed",
            Self::UpstreamClosed => "upstream_closed",
            Self::ClientReset => "client_reset",
            Self::UpstreamReset => "upstream_reset",
            Self::DeadPeer => "dead_peer",
            Self::Expired => "expired",
            Self::Drained => "drained",
            Self::Shutdown => "shutdown",
            Self::ConnectionError => "connection_error",
        }
    }
}

/// The values of the label `limit_type`, in the order of their counters.
pub const LIMIT_TYPES: [&str; 4] = ["ip", "user", "ip_connections", "user_connections"];

/// The counters of one core.
#[derive(Debug, Default)]
#[expect(
    missing_docs,
    reason = "each field is the metric of its name in section 12 of the contract"
)]
pub struct CoreMetrics {
    pub connections_accepted: Counter,
    pub connections_over_limit: Counter,
    pub connections_proxy_protocol: Counter,
    /// Closed because their TLS handshake did not end well, or not in time.
    pub connections_tls_failed: Counter,
    pub task_panics: Counter,
    pub tunnels_opened: Counter,
    pub tunnels_closed: Counter,
    pub upgrades: [Counter; 6],
    pub handshake: Histogram,
    pub to_upstream_bytes: Counter,
    pub to_client_bytes: Counter,
    pub closed: [Counter; 9],
    pub refusals: Labelled,
    pub requests: Labelled,
    pub rate_limit_hits: [Counter; 4],
    pub connect_failures: Labelled,
    pub upstream_errors: Counter,
    pub upstream_timeouts: Counter,
    pub auth_allowed: Counter,
    pub auth_blocked: Counter,
    pub jwt_cache_hits: Counter,
    pub jwt_cache_misses: Counter,
}

impl CoreMetrics {
    /// Counts the result of one upgrade.
    pub fn upgrade(&self, result: UpgradeResult) {
        if let Some(counter) = self.upgrades.get(result as usize) {
            counter.add(1);
        }
    }

    /// Counts the end of a tunnel.
    pub fn tunnel_closed(&self, reason: CloseReason) {
        self.tunnels_closed.add(1);
        if let Some(counter) = self.closed.get(reason as usize) {
            counter.add(1);
        }
    }

    /// Counts a refusal by a limit, by the `limit_type` of its event.
    pub fn rate_limit_hit(&self, limit_type: &str) {
        let place = LIMIT_TYPES.iter().position(|known| *known == limit_type);
        if let Some(counter) = place.and_then(|place| self.rate_limit_hits.get(place)) {
            counter.add(1);
        }
    }

    /// Open tunnels of this core.
    pub fn tunnels_open(&self) -> u64 {
        self.tunnels_opened.get().saturating_sub(self.tunnels_closed.get())
    }
}

/// The counters of the control thread.
#[derive(Debug, Default)]
#[expect(
    missing_docs,
    reason = "each field is the metric of its name in section 12 of the contract"
)]
pub struct ControlMetrics {
    pub reloads_ok: Counter,
    pub reloads_failed: Counter,
    pub kratos_cache_hits: Counter,
    pub kratos_cache_misses: Counter,
    pub kratos_cache_merged: Counter,
    /// Seconds since 1970; 0 without TLS.
    pub certificate_not_after: AtomicU64,
}

/// The counters of the event writer; several threads count drops.
#[derive(Debug, Default)]
#[expect(
    missing_docs,
    reason = "each field is the metric of its name in section 12 of the contract"
)]
pub struct EventLogMetrics {
    pub waiting_bytes: AtomicU64,
    pub queue_full: AtomicU64,
    pub write_error: AtomicU64,
}

/// All counters of the process.
#[derive(Debug)]
pub struct Metrics {
    /// One per core.
    pub cores: Vec<Arc<CoreMetrics>>,
    /// Of the control thread.
    pub control: Arc<ControlMetrics>,
    /// Of the event writer.
    pub event_log: Arc<EventLogMetrics>,
    /// The buckets, which count themselves; empty until they are there.
    pub limits: OnceLock<Arc<Limits>>,
}

impl Metrics {
    /// For this many cores.
    pub fn new(workers: usize) -> Self {
        Self {
            cores: (0..workers).map(|_| Arc::default()).collect(),
            control: Arc::default(),
            event_log: Arc::default(),
            limits: OnceLock::new(),
        }
    }
}

/// Series of one core that are told apart by labels. Append-only with one writer: a series takes the first free
/// place and keeps it, so that readers walk it without a lock. Bounded: what no longer fits counts in the last place.
#[derive(Debug)]
pub struct Labelled {
    places: Box<[OnceLock<Series>]>,
}

/// Labels of a series: up to three values, their names belong to the metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// First label: a method, an error code, a reason.
    pub first: &'static str,
    /// HTTP status, 0 where the metric has none.
    pub status: u16,
    /// `path_pattern`, empty where the metric has none.
    pub pattern: Arc<str>,
}

#[derive(Debug)]
struct Series {
    labels: Labels,
    /// Its count is the series' count.
    took: Histogram,
}

/// Distinct label sets per metric and core. Methods × statuses × patterns stay far below it in practice.
const SERIES_MAX: usize = 512;

impl Default for Labelled {
    fn default() -> Self {
        Self { places: (0..SERIES_MAX).map(|_| OnceLock::new()).collect() }
    }
}

impl Labelled {
    /// Counts one for the labels, with its duration where the metric has a histogram. Only the owning thread may call it.
    pub fn count(&self, first: &'static str, status: u16, pattern: &Arc<str>, took: Duration) {
        for place in &self.places {
            let series = place.get_or_init(|| Series {
                labels: Labels { first, status, pattern: Arc::clone(pattern) },
                took: Histogram::default(),
            });
            if series.labels.first == first
                && series.labels.status == status
                && series.labels.pattern == *pattern
            {
                series.took.observe(took);
                return;
            }
        }
        if let Some(last) = self.places.last().and_then(OnceLock::get) {
            last.took.observe(took);
        }
    }

    fn series(&self) -> impl Iterator<Item = &Series> {
        self.places.iter().map_while(OnceLock::get)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_keeps_its_place_and_overflow_is_bounded() {
        let labelled = Labelled::default();
        for status in 0..2_000u16 {
            labelled.count("GET", status, &"other".into(), Duration::ZERO);
        }
        labelled.count("GET", 3, &"other".into(), Duration::ZERO);
        assert_eq!(labelled.series().count(), SERIES_MAX);
        assert_eq!(labelled.series().map(|series| series.took.count()).sum::<u64>(), 2_001);
        assert_eq!(labelled.series().nth(3).map(|series| series.took.count()), Some(2));
    }

    #[test]
    fn an_observation_counts_in_the_first_bucket_that_holds_it() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(5));
        histogram.observe(Duration::from_micros(5_001));
        histogram.observe(Duration::from_secs(11));
        let counts: Vec<u64> = histogram.buckets.iter().map(Counter::get).collect();
        assert_eq!(counts, [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    }
}
