//! Contract 10.6, B39: from which pages a WebSocket may be opened.

use crate::auth_api_key::{
    MISSING, READ_KEY, Refused, keyed, opened, passes, plain, refuses, upgrade, with,
};
use crate::harness::{Driver, Setup, Upstream, forwarded, wire};

on_drivers!(
    every: ;
    both:
        with_a_list_every_upgrade_is_checked,
        the_own_host_is_no_stranger,
        what_is_no_single_origin_is_refused,
        a_list_may_name_null_or_everything,
        without_a_list_only_cookies_are_protected,
        plain_requests_have_no_origin_check,
        the_origin_is_checked_before_the_key,
);

const STRANGER: Refused<'_> = Refused {
    status: 403,
    code: "origin_not_allowed",
    message: "this origin may not open a WebSocket here",
    reasons: &["origin_not_allowed"],
    blocked_by: Some("origin"),
};

const LIST: &str = "[\"https://app.test\", \"http://other.test:8080\"]";

/// Modes `none` and `api-key` with a list, and what opens an upgrade there besides the origin.
fn listed(driver: Driver, upstream: &Upstream, list: &str) -> [(Setup, String); 2] {
    let none = Setup::new(driver, upstream.url());
    [(none, String::new()), (keyed(driver, upstream), with(READ_KEY))]
        .map(|(setup, lines)| (setup.set("websocket.allowed_origins", list), lines))
}

fn origin(value: &str) -> String {
    format!("Origin: {value}\r\n")
}

/// An upgrade with this `Host`.
fn to_host(host: &str, lines: &str) -> Vec<u8> {
    wire(format!("GET /ws HTTP/1.1\r\nHost: {host}\r\n{{U}}{{K}}{lines}\r\n"))
}

fn with_a_list_every_upgrade_is_checked(driver: Driver) {
    let upstream = Upstream::start();
    let refused = [
        "https://evil.test",
        "null",
        "http://app.test",
        "https://app.test:444",
        "https://app.test:80",
        "https://app.test.evil.test",
        "https://evilapp.test",
        "https://x.app.test",
        "https://app.tes",
        "https://app.testx",
        "wss://app.test",
        "http://other.test",
        "http://other.test:80801",
        "http://other.test:808",
        "https://other.test:8080",
        "http://a:b",
    ];
    for (setup, credential) in listed(driver, &upstream, LIST) {
        let cases: Vec<_> = refused
            .iter()
            .map(|value| (upgrade("/ws", &(origin(value) + &credential)), &STRANGER))
            .collect();
        refuses(&setup, &upstream, &cases);
        let proxy = setup.start();
        let origins =
            ["https://app.test", "http://other.test:8080", "\t https://app.test \t"].map(origin);
        for lines in origins.iter().map(String::as_str).chain([""]) {
            let head = opened(&proxy, &upstream, &upgrade("/ws", &format!("{lines}{credential}")));
            assert_eq!(head.all("origin").len(), usize::from(!lines.is_empty()), "{head:?}");
        }
        // Public paths are no exception.
    }
    let setup = keyed(driver, &upstream)
        .set("websocket.allowed_origins", LIST)
        .set("auth.public_paths", "[/open]");
    refuses(&setup, &upstream, &[(upgrade("/open", &origin("https://evil.test")), &STRANGER)]);
}

/// Same host and port whatever the scheme; a missing port is the scheme's; a `Host` without one stands for 80 and 443.
fn the_own_host_is_no_stranger(driver: Driver) {
    let upstream = Upstream::start();
    let own = [
        ("t.test", "http://t.test"),
        ("t.test", "https://t.test"),
        ("t.test", "http://t.test:80"),
        ("t.test", "https://t.test:443"),
        ("t.test", "http://t.test:443"),
        ("T.Test", "http://t.test"),
        ("t.test:80", "http://t.test"),
        ("t.test:443", "https://t.test"),
        ("t.test:9000", "http://t.test:9000"),
        ("t.test:9000", "https://t.test:9000"),
        ("[::1]:9000", "http://[::1]:9000"),
        ("[::1]", "http://[::1]"),
        ("127.0.0.1:9000", "http://127.0.0.1:9000"),
    ];
    let strange = [
        ("t.test", "http://t.test:8080"),
        ("t.test", "http://t.test.evil.test"),
        ("t.test", "http://x.t.test"),
        ("t.test", "http://evilt.test"),
        ("t.test:80", "https://t.test"),
        ("t.test:443", "http://t.test"),
        ("t.test:9000", "http://t.test"),
        ("t.test:9000", "https://t.test"),
        ("t.test:9000", "http://t.test:9001"),
        ("t.test:9000", "http://t.test:900"),
        ("[::1]:9000", "http://[::2]:9000"),
    ];
    for (setup, credential) in listed(driver, &upstream, LIST) {
        let cases: Vec<_> = strange
            .iter()
            .map(|(host, value)| (to_host(host, &(origin(value) + &credential)), &STRANGER))
            .collect();
        refuses(&setup, &upstream, &cases);
        let proxy = setup.start();
        for (host, value) in own {
            println!("{value} at {host}");
            opened(&proxy, &upstream, &to_host(host, &(origin(value) + &credential)));
        }
    }
}

fn what_is_no_single_origin_is_refused(driver: Driver) {
    let upstream = Upstream::start();
    let unparsable = [
        "",
        "t.test",
        "//t.test",
        "http://",
        "http:t.test",
        "://t.test",
        "http://t.test http://t.test",
        "http://t.test, http://t.test",
        "http://t.test,https://app.test",
        "http://t.test:80:80",
        "http://t.test:",
        "http://t.test:x",
        "http://t.test:99999",
        "http://t.test:-1",
        "http://t.test/",
        "http://t.test/x",
        "http://t.test?x",
        "http://t.test#x",
        "http://t.test@evil.test",
        "http://evil.test@t.test",
        "http://t.test\\@evil.test",
        "http://[::1",
        "http://::1",
        "http://t test",
        "*",
        "https://*",
        "file://",
        "\"https://app.test\"",
        "https://app.test;",
        "NULL x",
    ];
    for (setup, credential) in listed(driver, &upstream, LIST) {
        let lines = unparsable.iter().map(|value| origin(value));
        let two = [
            origin("https://app.test") + &origin("https://app.test"),
            origin("https://app.test") + &origin("https://evil.test"),
            origin("https://evil.test") + "oRIGIN: https://app.test\r\n",
            origin("http://t.test") + &origin(""),
        ];
        let cases: Vec<_> = lines
            .chain(two)
            .map(|lines| (upgrade("/ws", &(lines + &credential)), &STRANGER))
            .collect();
        refuses(&setup, &upstream, &cases);
    }
}

fn a_list_may_name_null_or_everything(driver: Driver) {
    let upstream = Upstream::start();
    for (setup, credential) in listed(driver, &upstream, "[\"null\", \"https://app.test\"]") {
        let cases = ["https://evil.test", "null, null", "nul"]
            .map(|value| (upgrade("/ws", &(origin(value) + &credential)), &STRANGER));
        refuses(&setup, &upstream, &cases);
        let proxy = setup.start();
        for value in ["null", "https://app.test"] {
            opened(&proxy, &upstream, &upgrade("/ws", &(origin(value) + &credential)));
        }
    }
    for (setup, credential) in listed(driver, &upstream, "[\"*\"]") {
        let proxy = setup.start();
        for value in ["null", "https://evil.test", "http://evil.test:1", "app://local"] {
            opened(&proxy, &upstream, &upgrade("/ws", &(origin(value) + &credential)));
        }
    }
}

fn without_a_list_only_cookies_are_protected(driver: Driver) {
    let upstream = Upstream::start();
    for (setup, credential) in listed(driver, &upstream, "[]") {
        let proxy = setup.start();
        for value in ["https://evil.test", "null", "http://a:b"] {
            let lines = format!("{}Cookie: ory_kratos_session=abc\r\n{credential}", origin(value));
            opened(&proxy, &upstream, &upgrade("/ws", &lines));
        }
    }
    // The provider is not there: the answer comes from the check before it.
    let kratos = Setup::new(driver, upstream.url())
        .set("auth.mode", "kratos")
        .set("kratos.public_url", "\"http://127.0.0.1:1\"");
    let cookie = "Cookie: ory_kratos_session=abc\r\n";
    let cases = ["https://evil.test", "null", "http://t.test:81", "http://a:b", "https://app.test"]
        .map(|value| (upgrade("/ws", &(origin(value) + cookie)), &STRANGER));
    refuses(&kratos, &upstream, &cases);
    let proxy = kratos.start();
    let without = upgrade("/ws", &origin("https://evil.test"));
    proxy.answer_to(&without).assert_refusal(401, "unauthorized");
}

fn plain_requests_have_no_origin_check(driver: Driver) {
    let upstream = Upstream::start();
    for (setup, credential) in listed(driver, &upstream, LIST) {
        let proxy = setup.start();
        for value in ["https://evil.test", "null", "http://a:b", ""] {
            let lines = origin(value) + &origin(value) + &credential;
            let seen = forwarded(&proxy, &upstream, &plain("/ws", &lines));
            assert_eq!(seen.head.all("origin"), [value; 2]);
        }
        passes(&proxy, &upstream, "/", &(origin("http://t.test") + &credential));
    }
}

/// 5.1.
fn the_origin_is_checked_before_the_key(driver: Driver) {
    let upstream = Upstream::start();
    let setup = keyed(driver, &upstream).set("websocket.allowed_origins", LIST);
    let (evil, good) = (origin("https://evil.test"), origin("https://app.test"));
    let cases = [
        (upgrade("/ws", &evil), &STRANGER),
        (upgrade("/ws", &(evil.clone() + &with("Canary-None"))), &STRANGER),
        (upgrade("/ws", &good), &MISSING),
        (plain("/ws", &evil), &MISSING),
    ];
    refuses(&setup, &upstream, &cases);
}
