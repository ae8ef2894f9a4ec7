//! The Prometheus text format 0.0.4 of all counters.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use super::{
    BUCKETS_SECONDS, CloseReason, CoreMetrics, Counter, Histogram, LIMIT_TYPES, Labelled, Metrics,
};
use crate::admission::limit::Limits;
use crate::process::{Process, UpstreamHealth, VERSION};

const UPGRADE_RESULTS: [&str; 6] =
    ["opened", "refused", "declined", "failed", "timeout", "abandoned"];

/// Everything, as text. The sum over the cores is taken here.
pub fn render(metrics: &Metrics, process: &Process) -> String {
    let mut text = Text { out: String::with_capacity(8 * 1024), metrics };
    text.family("vibewarden_build_info", "gauge", "Version of the running program.");
    text.line("vibewarden_build_info", &[("version", VERSION)], 1);
    text.family("vibewarden_driver_info", "gauge", "Driver that runs the cores, and why.");
    let driver = &process.driver;
    text.line(
        "vibewarden_driver_info",
        &[("driver", driver.name), ("mode", driver.mode), ("reason", &driver.reason)],
        1,
    );
    text.connections(process);
    text.websocket();
    text.requests();
    text.limits();
    text.authentication();
    text.upstream(process);
    text.process_wide();
    text.out
}

struct Text<'a> {
    out: String,
    metrics: &'a Metrics,
}

impl Text<'_> {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into a String cannot fail.
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.out.push_str(name);
        self.labels(labels, None);
        let _ = writeln!(self.out, " {value}");
    }

    fn labels(&mut self, labels: &[(&str, &str)], bound: Option<&str>) {
        let all = labels.iter().copied().chain(bound.map(|bound| ("le", bound)));
        for (place, (name, value)) in all.enumerate() {
            let _ = write!(self.out, "{}{name}=\"", if place == 0 { '{' } else { ',' });
            for character in value.chars() {
                match character {
                    '\\' => self.out.push_str("\\\\"),
                    '"' => self.out.push_str("\\\""),
                    '\n' => self.out.push_str("\\n"),
                    other => self.out.push(other),
                }
            }
            self.out.push('"');
        }
        if bound.is_some() || !labels.is_empty() {
            self.out.push('}');
        }
    }

    fn sum(&self, pick: impl Fn(&CoreMetrics) -> u64) -> u64 {
        self.metrics.cores.iter().map(|core| pick(core)).sum()
    }

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], sum: &Summed) {
        let mut cumulative = 0;
        for (count, bound) in sum
            .buckets
            .iter()
            .zip(BUCKETS_SECONDS.iter().map(f64::to_string).chain(["+Inf".into()]))
        {
            cumulative += count;
            let _ = write!(self.out, "{name}_bucket");
            self.labels(labels, Some(&bound));
            let _ = writeln!(self.out, " {cumulative}");
        }
        let _ = write!(self.out, "{name}_sum");
        self.labels(labels, None);
        let _ = writeln!(self.out, " {}.{:06}", sum.sum_us / 1_000_000, sum.sum_us % 1_000_000);
        self.line(&format!("{name}_count"), labels, cumulative);
    }

    fn connections(&mut self, process: &Process) {
        self.family(
            "vibewarden_connections_total",
            "counter",
            "Client connections by what became of them at accept.",
        );
        let accepted = self.sum(|core| core.connections_accepted.get());
        let proxy_protocol = self.sum(|core| core.connections_proxy_protocol.get());
        let over_limit = self.sum(|core| core.connections_over_limit.get());
        let tls_failed = self.sum(|core| core.connections_tls_failed.get());
        for (result, value) in [
            ("accepted", accepted),
            ("over_limit", over_limit),
            ("proxy_protocol", proxy_protocol),
            ("tls_failed", tls_failed),
        ] {
            self.line("vibewarden_connections_total", &[("result", result)], value);
        }
        self.family(
            "vibewarden_active_connections",
            "gauge",
            "Open client connections, tunnels included.",
        );
        self.line("vibewarden_active_connections", &[], u64::from(process.connections.open()));
        self.family(
            "vibewarden_connections_max",
            "gauge",
            "Effective cap on open client connections.",
        );
        self.line("vibewarden_connections_max", &[], u64::from(process.connections.max()));
        self.family(
            "vibewarden_task_panics_total",
            "counter",
            "Connections ended by a defect of the proxy.",
        );
        let panics = self.sum(|core| core.task_panics.get());
        self.line("vibewarden_task_panics_total", &[], panics);
    }

    fn websocket(&mut self) {
        self.family("vibewarden_websocket_active", "gauge", "Open tunnels.");
        let open = self.sum(CoreMetrics::tunnels_open);
        self.line("vibewarden_websocket_active", &[], open);
        self.family(
            "vibewarden_websocket_upgrades_total",
            "counter",
            "Upgrade requests by result.",
        );
        for (place, result) in UPGRADE_RESULTS.iter().enumerate() {
            let value = self.sum(|core| core.upgrades.get(place).map_or(0, Counter::get));
            self.line("vibewarden_websocket_upgrades_total", &[("result", result)], value);
        }
        let name = "vibewarden_websocket_handshake_seconds";
        self.family(name, "histogram", "From the request head read to the 101 relayed.");
        let mut sum = Summed::default();
        self.metrics.cores.iter().for_each(|core| sum.add(&core.handshake));
        self.histogram(name, &[], &sum);
        self.family("vibewarden_websocket_bytes_total", "counter", "Bytes relayed on tunnels.");
        let to_upstream = self.sum(|core| core.to_upstream_bytes.get());
        let to_client = self.sum(|core| core.to_client_bytes.get());
        self.line("vibewarden_websocket_bytes_total", &[("direction", "to_upstream")], to_upstream);
        self.line("vibewarden_websocket_bytes_total", &[("direction", "to_client")], to_client);
        self.family("vibewarden_websocket_closed_total", "counter", "Ended tunnels by reason.");
        for (place, reason) in CloseReason::ALL.iter().enumerate() {
            let value = self.sum(|core| core.closed.get(place).map_or(0, Counter::get));
            self.line("vibewarden_websocket_closed_total", &[("reason", reason.word())], value);
        }
    }

    fn requests(&mut self) {
        self.family("vibewarden_refusals_total", "counter", "Refused requests by error code.");
        for ((code, _, _), sum) in self.merge(|core| &core.refusals) {
            self.line("vibewarden_refusals_total", &[("reason", code)], sum.count());
        }
        let requests = self.merge(|core| &core.requests);
        self.family("vibewarden_requests_total", "counter", "Requests that reached the upstream.");
        for ((method, status, pattern), sum) in &requests {
            let status = status.to_string();
            let labels = [
                ("method", *method),
                ("status_code", status.as_str()),
                ("path_pattern", pattern.as_str()),
            ];
            self.line("vibewarden_requests_total", &labels, sum.count());
        }
        let name = "vibewarden_request_duration_seconds";
        self.family(name, "histogram", "Time of a request; of an upgrade, its handshake.");
        let mut without_status: BTreeMap<(&'static str, String), Summed> = BTreeMap::new();
        for ((method, _, pattern), sum) in requests {
            without_status.entry((method, pattern)).or_default().merge(&sum);
        }
        for ((method, pattern), sum) in &without_status {
            self.histogram(name, &[("method", method), ("path_pattern", pattern)], sum);
        }
    }

    fn limits(&mut self) {
        self.family("vibewarden_rate_limit_hits_total", "counter", "Refusals by a limit.");
        for (place, limit_type) in LIMIT_TYPES.into_iter().enumerate() {
            let value = self.sum(|core| core.rate_limit_hits.get(place).map_or(0, Counter::get));
            let labels = [("limit_type", limit_type)];
            self.line("vibewarden_rate_limit_hits_total", &labels, value);
        }
        let limits = self.metrics.limits.get();
        let of = |value: fn(&Limits) -> u64| limits.map_or(0, |limits| value(limits));
        let keys =
            [("ip", of(|limits| limits.ip.keys())), ("user", of(|limits| limits.user.keys()))];
        let overflow = [
            ("ip", of(|limits| limits.ip.overflow_total())),
            ("user", of(|limits| limits.user.overflow_total())),
        ];
        self.family("vibewarden_rate_limit_keys", "gauge", "Keys that have a bucket.");
        for (scope, value) in keys {
            self.line("vibewarden_rate_limit_keys", &[("scope", scope)], value);
        }
        self.family(
            "vibewarden_rate_limit_overflow_total",
            "counter",
            "Decisions by a bucket that keys share because the table is full.",
        );
        for (scope, value) in overflow {
            self.line("vibewarden_rate_limit_overflow_total", &[("scope", scope)], value);
        }
    }

    fn upstream(&mut self, process: &Process) {
        self.family(
            "vibewarden_upstream_connect_failures_total",
            "counter",
            "Connections to the upstream that failed.",
        );
        for ((reason, _, _), sum) in self.merge(|core| &core.connect_failures) {
            self.line(
                "vibewarden_upstream_connect_failures_total",
                &[("reason", reason)],
                sum.count(),
            );
        }
        self.family("vibewarden_upstream_errors_total", "counter", "Answers 502.");
        let errors = self.sum(|core| core.upstream_errors.get());
        self.line("vibewarden_upstream_errors_total", &[], errors);
        self.family("vibewarden_upstream_timeouts_total", "counter", "Answers 504.");
        let timeouts = self.sum(|core| core.upstream_timeouts.get());
        self.line("vibewarden_upstream_timeouts_total", &[], timeouts);
        let healthy = match process.upstream_health() {
            UpstreamHealth::Unknown => return,
            UpstreamHealth::Ok => 1,
            UpstreamHealth::Failing => 0,
        };
        let name = "vibewarden_upstream_healthy";
        self.family(name, "gauge", "Whether the upstream answers its probe.");
        self.line(name, &[], healthy);
    }

    fn authentication(&mut self) {
        let name = "vibewarden_auth_decisions_total";
        self.family(name, "counter", "Decisions of authentication.");
        for (decision, value) in [
            ("allowed", self.sum(|core| core.auth_allowed.get())),
            ("blocked", self.sum(|core| core.auth_blocked.get())),
        ] {
            self.line(name, &[("decision", decision)], value);
        }
        self.family(
            "vibewarden_auth_cache_total",
            "counter",
            "Credentials by how their verdict was found.",
        );
        let control = &self.metrics.control;
        for (cache, result, value) in [
            ("jwt", "hit", self.sum(|core| core.jwt_cache_hits.get())),
            ("jwt", "miss", self.sum(|core| core.jwt_cache_misses.get())),
            ("kratos", "hit", control.kratos_cache_hits.get()),
            ("kratos", "miss", control.kratos_cache_misses.get()),
            ("kratos", "merged", control.kratos_cache_merged.get()),
        ] {
            let labels = [("cache", cache), ("result", result)];
            self.line("vibewarden_auth_cache_total", &labels, value);
        }
    }

    fn process_wide(&mut self) {
        let not_after = self.metrics.control.certificate_not_after.load(Ordering::Relaxed);
        if not_after > 0 {
            let name = "vibewarden_tls_certificate_not_after_seconds";
            self.family(name, "gauge", "End of the certificate in force, in seconds since 1970.");
            self.line(name, &[], not_after);
        }
        self.family("vibewarden_config_reloads_total", "counter", "Reloads by result.");
        let control = &self.metrics.control;
        for (result, value) in
            [("ok", control.reloads_ok.get()), ("failed", control.reloads_failed.get())]
        {
            self.line("vibewarden_config_reloads_total", &[("result", result)], value);
        }
        self.family(
            "vibewarden_event_log_drops_total",
            "counter",
            "Event lines that were dropped whole.",
        );
        let log = &self.metrics.event_log;
        for (reason, value) in [("queue_full", &log.queue_full), ("write_error", &log.write_error)]
        {
            self.line(
                "vibewarden_event_log_drops_total",
                &[("reason", reason)],
                value.load(Ordering::Relaxed),
            );
        }
    }

    fn merge(
        &self,
        pick: impl Fn(&CoreMetrics) -> &Labelled,
    ) -> BTreeMap<(&'static str, u16, String), Summed> {
        let mut merged: BTreeMap<(&'static str, u16, String), Summed> = BTreeMap::new();
        for series in self.metrics.cores.iter().flat_map(|core| pick(core).series()) {
            let labels =
                (series.labels.first, series.labels.status, series.labels.pattern.to_string());
            merged.entry(labels).or_default().add(&series.took);
        }
        merged
    }
}

/// A histogram summed over the cores.
#[derive(Default)]
struct Summed {
    buckets: [u64; 12],
    sum_us: u64,
}

impl Summed {
    fn add(&mut self, histogram: &Histogram) {
        for (sum, bucket) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *sum += bucket.get();
        }
        self.sum_us += histogram.sum_us.get();
    }

    fn merge(&mut self, other: &Self) {
        for (sum, bucket) in self.buckets.iter_mut().zip(&other.buckets) {
            *sum += bucket;
        }
        self.sum_us += other.sum_us;
    }

    fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}
