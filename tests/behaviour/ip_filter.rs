//! Step 5 of section 5.1: who may not come at all.

use rustix::process::Signal;

use crate::harness::crowd::{ask, get, upgrade, willing};
use crate::harness::http::assert_error_body;
use crate::harness::{Driver, Proxy, Setup};

on_drivers!(
    every: ;
    both:
        a_blocklist_keeps_out,
        an_allowlist_lets_in,
        an_empty_allowlist_lets_nobody_in,
        the_filter_comes_before_the_bucket,
        a_reload_changes_the_list,
);

/// Refused before anything was taken from the bucket or sent to the upstream?
#[track_caller]
fn is_refused(proxy: &Proxy, request: &[u8]) -> bool {
    let answer = ask(proxy, request);
    if answer.passed() {
        return false;
    }
    assert_error_body(&answer.head, &answer.body, 403, "forbidden");
    true
}

fn from(address: &str) -> Vec<u8> {
    get("/a", &format!("X-Forwarded-For: {address}\r\n"))
}

fn filtered(driver: Driver, url: String, mode: &str, list: &str) -> Setup {
    Setup::new(driver, url)
        .set("watch.enabled", "false")
        .set("server.trusted_proxies", "[127.0.0.1]")
        .set("ip_filter.enabled", "true")
        .set("ip_filter.mode", mode)
        .set("ip_filter.addresses", list)
}

const LIST: &str = "[192.0.2.7, 198.51.100.0/24, \"2001:db8:1::/48\"]";
const ON_LIST: [&str; 6] = [
    "192.0.2.7",
    "::ffff:192.0.2.7",
    "198.51.100.0",
    "198.51.100.255",
    "2001:db8:1::1",
    "[2001:DB8:1:ffff::1]:80",
];
const OFF_LIST: [&str; 5] =
    ["192.0.2.6", "198.51.101.0", "198.51.99.255", "2001:db8:2::1", "203.0.113.9"];

fn a_blocklist_keeps_out(driver: Driver) {
    let application = willing();
    let mut proxy = filtered(driver, application.url(), "blocklist", LIST).start();
    for address in ON_LIST {
        assert!(is_refused(&proxy, &from(address)), "{address}");
    }
    let line = "X-Forwarded-For: 192.0.2.7\r\n";
    assert!(is_refused(&proxy, &upgrade(line)));
    assert!(application.requests().is_empty(), "NOUP");
    for address in OFF_LIST {
        assert!(!is_refused(&proxy, &from(address)), "{address}");
    }
    // Only the client counts, not what it claims before itself, and not the trusted peer.
    assert!(!is_refused(&proxy, &from("192.0.2.7, 203.0.113.9")));
    assert!(is_refused(&proxy, &from("203.0.113.9, 192.0.2.7")));
    assert!(!is_refused(&proxy, &get("/a", "")));
    // Own endpoints are answered before.
    let own = b"GET /_vibewarden/health HTTP/1.1\r\nHost: t\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n";
    assert_eq!(ask(&proxy, own).head.status(), 200);
    proxy.wait_metric("vibewarden_refusals_total", &[("reason", "forbidden")], 8.0);
    let stopped = proxy.stop();
    let blocked = stopped.of_kind("ip_filter.blocked");
    assert_eq!(blocked.len(), 8);
    assert_eq!(blocked[0].text("payload.client_ip"), "192.0.2.7");
    assert_eq!(blocked[0].text("payload.path"), "/a");
    assert!(blocked.iter().all(|event| event.text("payload.mode") == "blocklist"));
}

fn an_allowlist_lets_in(driver: Driver) {
    let application = willing();
    let proxy = filtered(driver, application.url(), "allowlist", LIST).start();
    for address in OFF_LIST {
        assert!(is_refused(&proxy, &from(address)), "{address}");
    }
    assert!(is_refused(&proxy, &get("/", "")), "the peer itself");
    assert!(application.requests().is_empty(), "NOUP");
    for address in ON_LIST {
        assert!(!is_refused(&proxy, &from(address)), "{address}");
    }
    let blocked = proxy.wait_event("a refusal", |event| event.is("ip_filter.blocked"));
    assert_eq!(blocked.text("payload.mode"), "allowlist");
}

fn an_empty_allowlist_lets_nobody_in(driver: Driver) {
    let application = willing();
    let proxy = filtered(driver, application.url(), "allowlist", "[]").start();
    assert!(is_refused(&proxy, &get("/", "")));
    assert!(is_refused(&proxy, &from("192.0.2.7")));
    assert!(application.requests().is_empty(), "NOUP");
    let proxy = filtered(driver, application.url(), "blocklist", "[]").start();
    assert!(!is_refused(&proxy, &from("192.0.2.7")));
}

fn the_filter_comes_before_the_bucket(driver: Driver) {
    let application = willing();
    let setup = filtered(driver, application.url(), "blocklist", "[192.0.2.7]")
        .set("rate_limit.enabled", "true")
        .set("rate_limit.per_ip.requests_per_second", "0")
        .set("rate_limit.per_ip.burst", "1");
    let proxy = setup.start();
    for _ in 0..4 {
        assert!(is_refused(&proxy, &from("192.0.2.7")));
    }
    proxy.wait_metric("vibewarden_rate_limit_keys", &[("scope", "ip")], 0.0);
    proxy.replace_config(&setup.set("ip_filter.enabled", "false"));
    proxy.signal(Signal::HUP);
    proxy.wait_event("a reload", |event| event.is("config.reloaded"));
    assert!(!is_refused(&proxy, &from("192.0.2.7")), "the token is still there");
    ask(&proxy, &from("192.0.2.7")).assert_no_token();
}

fn a_reload_changes_the_list(driver: Driver) {
    let application = willing();
    let setup = filtered(driver, application.url(), "blocklist", "[192.0.2.7]");
    let proxy = setup.start();
    let mut kept = proxy.connect();
    kept.send(&from("192.0.2.8"));
    assert_eq!(kept.read_kept_answer().0.status(), 200);
    proxy.replace_config(&setup.set("ip_filter.addresses", "[192.0.2.8]"));
    proxy.signal(Signal::HUP);
    proxy.wait_event("a reload", |event| event.is("config.reloaded"));
    // Also on a connection that was there before.
    kept.send(&from("192.0.2.8"));
    assert_eq!(kept.read_kept_answer().0.status(), 403);
    assert!(!is_refused(&proxy, &from("192.0.2.7")));
}
