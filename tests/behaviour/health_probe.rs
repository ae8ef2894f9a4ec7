//! 3.2: the active probe of the upstream, and what it changes: health, ready, an event and a metric, never traffic.

use std::net::Ipv6Addr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::Signal;

use crate::harness::event::Event;
use crate::harness::http::Head;
use crate::harness::json::Json;
use crate::harness::setup::Scratch;
use crate::harness::upstream::Serving;
use crate::harness::{
    ANSWER_101, Driver, HANDSHAKE, Peer, Proxy, Setup, Upstream, eventually, vacant_address,
};

on_drivers!(
    every:
        health_follows_the_application;
    both:
        health_over_a_unix_socket,
        an_application_that_is_away_and_comes_back,
        an_application_that_does_not_answer,
        only_2xx_is_good,
        every_address_of_a_name_is_tried,
        a_reload_starts_anew_and_switches_off,
        no_proxy_of_the_environment_is_used,
);

/// An application whose probe answers what the test says, and that opens every tunnel.
struct Application {
    serving: Serving,
    status: Arc<AtomicU16>,
    probes: Arc<Mutex<Vec<Head>>>,
}

impl Application {
    fn start(upstream: Upstream, status: u16) -> Self {
        let status = Arc::new(AtomicU16::new(status));
        let probes: Arc<Mutex<Vec<Head>>> = Arc::default();
        let (said, seen) = (Arc::clone(&status), Arc::clone(&probes));
        let serving = upstream.serve(move |mut peer: Peer| {
            let head = peer.read_head();
            if head.one("upgrade").is_some() {
                peer.send(ANSWER_101);
                peer.count_to_end();
                return;
            }
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(head);
            let status = said.load(Ordering::Relaxed);
            let more = if status == 302 { "Location: /good\r\n" } else { "" };
            let answer = format!("HTTP/1.1 {status} X\r\n{more}Content-Length: 2\r\n\r\nok");
            peer.send(answer.as_bytes());
            peer.count_to_end();
        });
        Self { serving, status, probes }
    }

    fn say(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    fn probes(&self) -> Vec<Head> {
        self.probes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn probing(driver: Driver, url: impl AsRef<str>) -> Setup {
    Setup::new(driver, url)
        .set("watch.enabled", "false")
        .set("upstream.health.enabled", "true")
        .set("upstream.health.interval", "100ms")
        .set("upstream.health.timeout", "10s")
}

/// Waits for the next change of health and holds it against everything that shows it.
#[track_caller]
fn changes(proxy: &Proxy, from: usize, previous: &str, new: &str, consecutive: u64) -> Event {
    let event = proxy
        .wait_event_after(from, "a change of health", |event| event.is("upstream.health_changed"));
    assert_eq!(event.text("payload.previous_status"), previous, "{}", event.line);
    assert_eq!(event.text("payload.new_status"), new, "{}", event.line);
    assert_eq!(event.count("payload.consecutive"), consecutive, "{}", event.line);
    assert_eq!(event.text("actor.type"), "system", "{}", event.line);
    let faulty = !event.text("payload.last_error").is_empty();
    assert_eq!(faulty, new == "failing", "{}", event.line);
    shows(proxy, new);
    event
}

/// Health, ready and the metric say the same.
#[track_caller]
fn shows(proxy: &Proxy, upstream: &str) {
    let (head, body) = proxy.get("/_vibewarden/health");
    assert_eq!(head.status(), 200);
    let json = Json::parse(body.trim_end()).expect("JSON");
    let status = if upstream == "failing" { "degraded" } else { "ok" };
    assert_eq!(json.text("status"), Some(status), "{body}");
    assert_eq!(json.text("components.sidecar"), Some("ok"), "{body}");
    assert_eq!(json.text("components.upstream"), Some(upstream), "{body}");
    let (head, body) = proxy.get("/_vibewarden/ready");
    let (status, expected) = match upstream {
        "failing" => {
            (503, r#"{"ready":false,"reason":"upstream_failing","upstream":"failing"}"#.to_owned())
        }
        _ => (200, format!(r#"{{"ready":true,"upstream":"{upstream}"}}"#)),
    };
    assert_eq!((head.status(), body.trim_end()), (status, expected.as_str()));
    let scrape = proxy.scrape();
    let name = "vibewarden_upstream_healthy";
    let present = usize::from(upstream != "unknown");
    assert_eq!(scrape.labels(name).len(), present, "{}", scrape.text);
    let healthy = if upstream == "ok" { 1.0 } else { 0.0 };
    assert!((scrape.value(name, &[]) - healthy).abs() < 0.1, "{}", scrape.text);
    let kind = scrape.text.matches("# TYPE vibewarden_upstream_healthy gauge\n").count();
    assert_eq!(kind, present, "{}", scrape.text);
}

#[track_caller]
fn opens_a_tunnel(proxy: &Proxy) {
    proxy.sent(HANDSHAKE).open();
}

#[track_caller]
fn follows(driver: Driver, upstream: Upstream, host: &str) {
    let application = Application::start(upstream, 200);
    let url = application.serving.url();
    let mut proxy = probing(driver, &url).set("upstream.health.path", "\"/up/here?x=1\"").start();
    let event = changes(&proxy, 0, "unknown", "ok", 2);
    assert_eq!(event.text("payload.upstream_url"), url);
    let from = proxy.event_count();
    application.say(503);
    let event = changes(&proxy, from, "ok", "failing", 3);
    assert_eq!(event.text("payload.last_error"), "status 503");
    // The probe never blocks traffic.
    opens_a_tunnel(&proxy);
    let from = proxy.event_count();
    application.say(204);
    changes(&proxy, from, "failing", "ok", 2);
    let probes = application.probes();
    assert!(probes.len() >= 7);
    for probe in probes {
        assert_eq!(probe.line, "GET /up/here?x=1 HTTP/1.1");
        assert_eq!(probe.one("host"), Some(host));
        for absent in ["content-length", "transfer-encoding", "referer", "cookie", "upgrade"] {
            assert_eq!(probe.one(absent), None, "{probe:?}");
        }
    }
    let stopped = proxy.stop();
    assert_eq!(stopped.of_kind("upstream.health_changed").len(), 3);
    assert_eq!(stopped.of_kind("request.proxied").len(), 1, "a probe is no request of a client");
}

fn health_follows_the_application(driver: Driver) {
    let upstream = Upstream::start();
    let host = format!("127.0.0.1:{}", upstream.port());
    follows(driver, upstream, &host);
}

fn health_over_a_unix_socket(driver: Driver) {
    let directory = Scratch::new();
    let upstream = Upstream::unix(&directory.path().join("app.sock"));
    follows(driver, upstream, "localhost");
}

fn an_application_that_is_away_and_comes_back(driver: Driver) {
    let address = vacant_address();
    let proxy = probing(driver, format!("http://{address}"))
        .set("upstream.health.unhealthy_threshold", "1")
        .set("upstream.health.healthy_threshold", "4")
        .start();
    let event = changes(&proxy, 0, "unknown", "failing", 1);
    let error = event.text("payload.last_error");
    assert!(error.to_lowercase().contains("refused"), "{error}");
    let from = proxy.event_count();
    let application = Application::start(Upstream::on(address), 200);
    changes(&proxy, from, "failing", "ok", 4);
    // Gone again, and its probe with it.
    let from = proxy.event_count();
    drop(application);
    changes(&proxy, from, "ok", "failing", 1);
}

fn an_application_that_does_not_answer(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = probing(driver, upstream.url())
        .set("upstream.health.timeout", "100ms")
        .set("upstream.health.unhealthy_threshold", "2")
        .start();
    let mut silent = upstream.accept();
    silent.read_head();
    let event = changes(&proxy, 0, "unknown", "failing", 2);
    assert_eq!(event.text("payload.last_error"), "no answer in time");
    // A probe that is given up is closed, not left to the application.
    silent.wait_end();
}

fn only_2xx_is_good(driver: Driver) {
    for status in [302, 404, 500] {
        let application = Application::start(Upstream::start(), status);
        let proxy = probing(driver, application.serving.url()).start();
        let event = changes(&proxy, 0, "unknown", "failing", 3);
        assert_eq!(event.text("payload.last_error"), format!("status {status}"));
        for probe in application.probes() {
            assert_eq!(probe.line, "GET /health HTTP/1.1", "a redirect is not followed");
        }
    }
}

/// 3.2: `localhost` works when the application listens on IPv6 only.
fn every_address_of_a_name_is_tried(driver: Driver) {
    let upstream = Upstream::on((Ipv6Addr::LOCALHOST, 0).into());
    let host = format!("localhost:{}", upstream.port());
    let application = Application::start(upstream, 200);
    let proxy = probing(driver, format!("http://{host}")).start();
    changes(&proxy, 0, "unknown", "ok", 2);
    assert_eq!(application.probes()[0].one("host"), Some(host.as_str()));
}

#[track_caller]
fn reload(proxy: &Proxy, setup: &Setup) {
    let from = proxy.event_count();
    proxy.replace_config(setup);
    proxy.signal(Signal::HUP);
    let event = proxy.wait_event_after(from, "the outcome of a reload", |event| {
        event.is("config.reloaded") || event.is("config.reload_failed")
    });
    assert!(event.is("config.reloaded"), "{}", event.line);
}

#[track_caller]
fn becomes_unknown(proxy: &Proxy) {
    eventually("health is unknown again", || {
        let (_, body) = proxy.get("/_vibewarden/ready");
        body.contains(r#""upstream":"unknown""#).then_some(())
    });
    shows(proxy, "unknown");
}

fn a_reload_starts_anew_and_switches_off(driver: Driver) {
    let good = Application::start(Upstream::start(), 200);
    let bad = Application::start(Upstream::start(), 500);
    let off = Setup::new(driver, good.serving.url()).set("watch.enabled", "false");
    let mut proxy = off.start();
    shows(&proxy, "unknown");
    assert!(good.probes().is_empty(), "nobody asked for a probe");
    let from = proxy.event_count();
    reload(&proxy, &probing(driver, good.serving.url()));
    changes(&proxy, from, "unknown", "ok", 2);
    // Something else that changes leaves it alone.
    let from = proxy.event_count();
    reload(&proxy, &probing(driver, good.serving.url()).set("log.level", "debug"));
    shows(&proxy, "ok");
    // Another upstream is unknown until it has been asked.
    reload(&proxy, &probing(driver, bad.serving.url()));
    changes(&proxy, from, "unknown", "failing", 3);
    // So is the same one under other rules: the first probe comes at once, the second would take an hour.
    let from = proxy.event_count();
    let hourly = probing(driver, bad.serving.url())
        .set("upstream.health.interval", "1h")
        .set("upstream.health.unhealthy_threshold", "1");
    reload(&proxy, &hourly);
    changes(&proxy, from, "unknown", "failing", 1);
    let count = bad.probes().len();
    reload(&proxy, &off);
    becomes_unknown(&proxy);
    // The next reload takes its turn after whatever a leftover probe could do.
    reload(&proxy, &off);
    assert_eq!(bad.probes().len(), count);
    let stopped = proxy.stop();
    assert_eq!(stopped.of_kind("upstream.health_changed").len(), 3);
}

fn no_proxy_of_the_environment_is_used(driver: Driver) {
    let application = Application::start(Upstream::start(), 200);
    let elsewhere = Upstream::start();
    let mut setup = probing(driver, application.serving.url());
    for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        setup = setup.environment(name, &elsewhere.url());
    }
    let proxy = setup.start();
    changes(&proxy, 0, "unknown", "ok", 2);
    elsewhere.assert_untouched();
}
