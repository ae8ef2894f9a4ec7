//! 3.6: the headers that the proxy sets on the 101 and on refusals behind the own endpoints, and `Via`.

use rustix::process::Signal;

use crate::harness::http::Head;
use crate::harness::{
    ANSWER_101, Driver, HANDSHAKE, OUTDATED, Proxy, Setup, Upstream, eventually, wire,
};

on_drivers!(
    every:
        the_101_has_them;
    both:
        what_is_set_replaces_what_the_upstream_said,
        what_is_empty_leaves_the_upstream_alone,
        a_declined_upgrade_has_them,
        a_plain_answer_has_them,
        a_refusal_has_them_once_it_is_past_the_own_endpoints,
        via_is_suppressed_or_appended,
        a_reload_changes_them,
        the_start_says_whether_they_are_on,
);

/// The table of section 3.6 without TLS.
const DEFAULTS: [(&str, &str); 6] = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "strict-origin-when-cross-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("X-Permitted-Cross-Domain-Policies", "none"),
];

/// Everything that the section can set.
const ALL: [&str; 9] = [
    "Strict-Transport-Security",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "Content-Security-Policy",
    "Referrer-Policy",
    "Permissions-Policy",
    "Cross-Origin-Opener-Policy",
    "Cross-Origin-Resource-Policy",
    "X-Permitted-Cross-Domain-Policies",
];

/// With the section as it is by default.
fn by_default(driver: Driver, upstream: &Upstream) -> Setup {
    Setup::new(driver, upstream.url()).unset("security_headers.enabled")
}

/// An upgrade whose upstream gives this answer: the head that the client gets.
#[track_caller]
fn answered(proxy: &Proxy, upstream: &Upstream, answer: &[u8]) -> Head {
    let mut client = proxy.sent(HANDSHAKE);
    let mut conn = upstream.accept();
    conn.read_head();
    conn.send(answer);
    client.read_head()
}

/// The right 101 with more header lines.
fn switching_with(lines: &str) -> Vec<u8> {
    let end = ANSWER_101.len() - 2;
    [&ANSWER_101[..end], lines.as_bytes(), b"\r\n"].concat()
}

#[track_caller]
fn assert_defaults(head: &Head) {
    for (name, value) in DEFAULTS {
        assert_eq!(head.one(name), Some(value), "{name} in {head:?}");
    }
    for name in ["Strict-Transport-Security", "Content-Security-Policy", "Permissions-Policy"] {
        assert_eq!(head.one(name), None, "{name} in {head:?}");
    }
}

#[track_caller]
fn assert_none(head: &Head) {
    for name in ALL {
        assert_eq!(head.one(name), None, "{name} in {head:?}");
    }
}

fn the_101_has_them(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = by_default(driver, &upstream).start();
    let head = answered(&proxy, &upstream, ANSWER_101);
    assert_eq!(head.status(), 101);
    assert_defaults(&head);
    assert_eq!(head.one("upgrade"), Some("websocket"));
    assert_eq!(head.one("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    for path in ["health", "ready", "metrics", "nothing"] {
        assert_none(&proxy.get(&format!("/_vibewarden/{path}")).0);
    }
    let off = Setup::new(driver, upstream.url()).start();
    assert_none(&answered(&off, &upstream, ANSWER_101));
}

fn what_is_set_replaces_what_the_upstream_said(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = by_default(driver, &upstream)
        .set("security_headers.content_security_policy", "\"default-src 'none'\"")
        .set("security_headers.csp.img_src", "[ignored.test]")
        .set("security_headers.frame_option", "SAMEORIGIN")
        .set("security_headers.permissions_policy", "\"camera=()\"")
        .start();
    let theirs = "x-frame-options: ALLOWALL\r\nX-FRAME-OPTIONS: again\r\nX-Mine: 1\r\n\
                  Content-Security-Policy: default-src *\r\nReferrer-Policy: unsafe-url\r\n\
                  Strict-Transport-Security: max-age=5\r\n";
    let head = answered(&proxy, &upstream, &switching_with(theirs));
    assert_eq!(head.status(), 101);
    for (name, value) in [
        ("X-Frame-Options", "SAMEORIGIN"),
        ("Content-Security-Policy", "default-src 'none'"),
        ("Permissions-Policy", "camera=()"),
        ("Referrer-Policy", "strict-origin-when-cross-origin"),
        ("X-Mine", "1"),
        // Without TLS this one is not ours.
        ("Strict-Transport-Security", "max-age=5"),
    ] {
        assert_eq!(head.one(name), Some(value), "{name} in {head:?}");
    }
    let lists = by_default(driver, &upstream)
        .set("security_headers.csp.script_src", "\"'self', cdn.test\"")
        .set("security_headers.csp.default_src", "[\"'none'\"]")
        .start();
    let head = answered(&lists, &upstream, ANSWER_101);
    let policy = "default-src 'none'; script-src 'self' cdn.test";
    assert_eq!(head.one("content-security-policy"), Some(policy));
}

fn what_is_empty_leaves_the_upstream_alone(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = by_default(driver, &upstream)
        .set("security_headers.frame_option", "\"\"")
        .set("security_headers.referrer_policy", "\"\"")
        .set("security_headers.content_type_nosniff", "false")
        .start();
    let theirs = "X-Frame-Options: ALLOWALL\r\nContent-Security-Policy: default-src *\r\n";
    let head = answered(&proxy, &upstream, &switching_with(theirs));
    assert_eq!(head.one("x-frame-options"), Some("ALLOWALL"));
    assert_eq!(head.one("content-security-policy"), Some("default-src *"));
    assert_eq!(head.one("referrer-policy"), None);
    assert_eq!(head.one("x-content-type-options"), None);
    assert_eq!(head.one("cross-origin-opener-policy"), Some("same-origin"));
}

fn a_declined_upgrade_has_them(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = by_default(driver, &upstream).start();
    let answer = b"HTTP/1.1 403 No\r\nContent-Length: 0\r\nX-Frame-Options: ALLOWALL\r\n\r\n";
    let head = answered(&proxy, &upstream, answer);
    assert_eq!(head.status(), 403);
    assert_defaults(&head);
}

fn a_plain_answer_has_them(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = by_default(driver, &upstream).start();
    let mut client = proxy.sent(&wire("GET /page HTTP/1.1\r\n{H}\r\n"));
    let mut conn = upstream.accept();
    conn.read_head();
    conn.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    conn.send(b"HTTP/1.1 200 OK\r\nX-Frame-Options: ALLOWALL\r\nContent-Length: 2\r\n\r\nok");
    // Interim answers are not the answer.
    let early = client.read_head();
    assert_eq!(early.status(), 103);
    assert_none(&early);
    let (head, body) = client.read_kept_answer();
    assert_eq!((head.status(), &*body), (200, &b"ok"[..]));
    assert_defaults(&head);
}

fn a_refusal_has_them_once_it_is_past_the_own_endpoints(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = by_default(driver, &upstream).start();
    // Step 12.
    let mut client = proxy.sent(HANDSHAKE);
    drop(upstream.accept());
    let answer = client.read_answer();
    answer.assert_refusal(502, "upstream_unavailable");
    assert_defaults(&answer.head);
    // Step 11.
    let large = "POST / HTTP/1.1\r\n{H}Content-Length: 1048577\r\n\r\n";
    let answer = proxy.answer_to(&wire(large));
    answer.assert_refusal(413, "payload_too_large");
    assert_defaults(&answer.head);
    upstream.assert_untouched();
    // Step 2.
    let answer = proxy.answer_to(OUTDATED);
    answer.assert_refusal(426, "unsupported_websocket_version");
    assert_none(&answer.head);
    let answer = proxy.answer_to(b"GET / HTTP/1.1\r\n\r\n");
    answer.assert_refusal(400, "bad_request");
    assert_none(&answer.head);
    // Step 3.
    let own = "POST /_vibewarden/health HTTP/1.1\r\n{H}Connection: close\r\n\r\n";
    let answer = proxy.answer_to(&wire(own));
    answer.assert_refusal(405, "method_not_allowed");
    assert_none(&answer.head);
}

fn via_is_suppressed_or_appended(driver: Driver) {
    let upstream = Upstream::start();
    let theirs = switching_with("Via: 1.0 fred\r\n");
    // It has nothing to do with the headers above.
    for enabled in ["true", "false"] {
        let setup = Setup::new(driver, upstream.url()).set("security_headers.enabled", enabled);
        let head = answered(&setup.start(), &upstream, &theirs);
        assert_eq!(head.one("via"), None, "{head:?}");
        let shown = setup.set("security_headers.suppress_via_header", "false").start();
        let head = answered(&shown, &upstream, &theirs);
        assert_eq!(head.all("via"), ["1.0 fred", "1.1 vibewarden"], "{head:?}");
    }
}

fn a_reload_changes_them(driver: Driver) {
    let upstream = Upstream::start();
    let setup = by_default(driver, &upstream).set("watch.enabled", "false");
    let proxy = setup.start();
    assert_defaults(&answered(&proxy, &upstream, ANSWER_101));
    proxy.replace_config(&setup.set("security_headers.frame_option", "SAMEORIGIN"));
    proxy.signal(Signal::HUP);
    proxy.wait_event("config.reloaded", |event| event.is("config.reloaded"));
    eventually("the new value", || {
        let head = answered(&proxy, &upstream, ANSWER_101);
        (head.one("x-frame-options") == Some("SAMEORIGIN")).then_some(())
    });
}

fn the_start_says_whether_they_are_on(driver: Driver) {
    let upstream = Upstream::start();
    for (setup, on) in
        [(by_default(driver, &upstream), true), (Setup::new(driver, upstream.url()), false)]
    {
        let stopped = setup.start().stop();
        let line = &stopped.only("proxy.started").line;
        assert!(line.contains(&format!("\"security_headers_enabled\":{on}")), "{line}");
    }
}
