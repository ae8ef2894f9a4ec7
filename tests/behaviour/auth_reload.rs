//! 14 for authentication: from the next head on a new configuration decides, and nothing that the old one had found out counts.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::auth_api_key::{READ_KEY, keyed, with};
use crate::auth_jwt::{bad, bearer, setup as tokens, wait_keys};
use crate::auth_kratos::{INVALID, WHOAMI, cookie, session};
use crate::harness::guarded::{Denial, Form, Guarded, request};
use crate::harness::provider::{Provider, Reply};
use crate::harness::token::{AUDIENCE, Key, claims, jwks};
use crate::harness::{ANSWER_101, Driver, Proxy, Setup, Upstream};

on_drivers!(
    every: ;
    both:
        a_withdrawn_key_opens_nothing_more,
        a_remembered_token_meets_the_new_rules,
        a_remembered_session_is_asked_about_again,
        one_mode_follows_another,
        a_mistake_leaves_everything_as_it_was,
        public_paths_are_listed_once_for_each_change,
);

const NO_KEY: Denial = Denial {
    status: 401,
    code: "unauthorized",
    message: "API key required",
    reason: "no_credentials",
};
const WRONG_KEY: Denial =
    Denial { message: "invalid or inactive API key", reason: "invalid_key", ..NO_KEY };

/// Takes over this configuration; returns whether it was taken.
#[track_caller]
fn reload(proxy: &Proxy, setup: &Setup) -> bool {
    let from = proxy.event_count();
    proxy.replace_config(&setup.clone().set("watch.enabled", "false"));
    proxy.signal(Signal::HUP);
    let outcomes = ["config.reloaded", "config.reload_failed"];
    let event = proxy.wait_event_after(from, "the outcome of a reload", |event| {
        outcomes.contains(&event.kind())
    });
    event.is("config.reloaded")
}

fn start(setup: &Setup, upstream: Upstream) -> Guarded {
    Guarded::start(&setup.clone().set("watch.enabled", "false"), upstream)
}

/// Seed 5: a tunnel that is open does not notice.
fn a_withdrawn_key_opens_nothing_more(driver: Driver) {
    let upstream = Upstream::start();
    let before = keyed(driver, &upstream).set("auth.public_paths", "[/open]");
    // The hash of another key.
    let other = "[{name: other, hash: \"f50bf24c1a92ed6855c08688bfaca3521dd30a45b271a6bbc242b0be707db69b\", scopes: []}]";
    let after = before.clone().set("auth.api_key.keys", other).set("auth.public_paths", "[/else]");
    let mut guarded = start(&before, upstream);
    let mut client = guarded.proxy.sent(&request(Form::Upgrade, "/private/x", &with(READ_KEY)));
    let mut conn = guarded.upstream.accept();
    conn.read_head();
    conn.send(ANSWER_101);
    client.open();
    guarded.allowed("/open", "");
    guarded.denied("/else", "", NO_KEY);
    assert!(reload(&guarded.proxy, &after));
    client.ping(&mut conn, b"still here");
    guarded.denied("/private/x", &with(READ_KEY), WRONG_KEY);
    guarded.denied("/open", "", NO_KEY);
    guarded.allowed("/else", "");
    guarded.allowed("/private/x", &with("Canary-Bare-0c0c0c"));
    assert!(reload(&guarded.proxy, &before));
    guarded.allowed("/private/x", &with(READ_KEY));
    client.ping(&mut conn, b"still here");
    drop((client, conn));
    guarded.finish(&[READ_KEY]);
}

fn a_remembered_token_meets_the_new_rules(driver: Driver) {
    let (rsa, elliptic) = (Key::rsa("k"), Key::elliptic("k"));
    let provider = Provider::start();
    provider.say("/jwks", Reply::json(200, jwks(&[rsa.jwk(json!({}))])));
    provider.say("/next", Reply::json(200, jwks(&[elliptic.jwk(json!({}))])));
    let upstream = Upstream::start();
    let before = tokens(driver, &upstream, &format!("{}/jwks", provider.url()));
    let mut guarded = start(&before, upstream);
    wait_keys(&guarded.proxy);
    let token = rsa.token(&claims(json!({"team": "blue"})));
    let headers = bearer(&token);
    for head in guarded.allowed("/private/x", &headers) {
        assert_eq!((head.one("x-user-id"), head.one("x-team")), (Some("zoe"), None));
    }
    let map = before.clone().set("auth.jwt.claims_to_headers", "{team: X-Team}");
    assert!(reload(&guarded.proxy, &map));
    for head in guarded.allowed("/private/x", &headers) {
        assert_eq!((head.one("x-user-id"), head.one("x-team")), (None, Some("blue")));
    }
    assert!(reload(&guarded.proxy, &before.clone().set("auth.jwt.audience", "other")));
    guarded.denied("/private/x", &headers, bad("invalid_audience"));
    assert!(reload(&guarded.proxy, &before.clone().set("auth.jwt.issuer", "https://other.test")));
    guarded.denied("/private/x", &headers, bad("invalid_issuer"));
    assert!(reload(&guarded.proxy, &before.clone().set("auth.jwt.allowed_algorithms", "[ES256]")));
    guarded.denied("/private/x", &headers, bad("algorithm_not_allowed"));
    assert!(reload(&guarded.proxy, &before));
    guarded.allowed("/private/x", &headers);
    // Another set, in which the same name is another key.
    let from = guarded.proxy.event_count();
    let url = format!("{}/next", provider.url());
    assert!(reload(&guarded.proxy, &before.clone().set("auth.jwt.jwks_url", &url)));
    guarded.proxy.wait_event_after(from, "the other set", |event| {
        event.is("auth.jwks_refresh") && event.text("payload.jwks_url") == url
    });
    guarded.allowed("/private/x", &bearer(&elliptic.token(&claims(json!({})))));
    let answer = guarded.proxy.answer_to(&request(Form::Plain, "/private/x", &headers));
    answer.assert_refusal(401, "invalid_token");
    guarded.finish(&[&token]);
}

fn a_remembered_session_is_asked_about_again(driver: Driver) {
    let (one, two) = (Provider::start(), Provider::start());
    one.say(WHOAMI, session(true, "user"));
    two.say(WHOAMI, Reply::json(401, "{}"));
    let upstream = Upstream::start();
    let before = Setup::new(driver, upstream.url())
        .set("auth.mode", "kratos")
        .set("kratos.public_url", &one.url())
        .set("kratos.cache_ttl", "60s");
    let mut guarded = start(&before, upstream);
    guarded.allowed("/private/x", &cookie("some-cookie"));
    guarded.allowed("/private/x", &cookie("some-cookie"));
    assert!(reload(&guarded.proxy, &before.clone().set("kratos.public_url", &two.url())));
    let asked = one.count(WHOAMI);
    guarded.denied("/private/x", &cookie("some-cookie"), INVALID);
    assert!(reload(&guarded.proxy, &before));
    one.say(WHOAMI, Reply::json(401, "{}"));
    guarded.denied("/private/x", &cookie("some-cookie"), INVALID);
    assert_eq!(one.count(WHOAMI), asked + 2);
    guarded.finish(&["some-cookie"]);
}

fn one_mode_follows_another(driver: Driver) {
    let provider = Provider::start();
    let key = Key::elliptic("k");
    provider.say("/jwks", Reply::json(200, jwks(&[key.jwk(json!({}))])));
    provider.say(WHOAMI, session(true, "user"));
    let upstream = Upstream::start();
    let none = Setup::new(driver, upstream.url());
    let keys = keyed(driver, &upstream);
    let token = tokens(driver, &upstream, &format!("{}/jwks", provider.url()));
    let kratos = none.clone().set("auth.mode", "kratos").set("kratos.public_url", &provider.url());
    let mut guarded = start(&none, upstream);
    let everything = format!(
        "{}{}{}",
        with(READ_KEY),
        bearer(&key.token(&claims(json!({"aud": AUDIENCE})))),
        cookie("some-cookie")
    );
    let user = |guarded: &Guarded| {
        guarded
            .allowed("/private/x", &everything)
            .map(|head| head.one("x-user-id").map(str::to_owned))
    };
    guarded.allowed("/private/x", "");
    assert_eq!(user(&guarded), [None, None]);
    assert!(reload(&guarded.proxy, &keys));
    guarded.denied("/private/x", "", NO_KEY);
    assert_eq!(user(&guarded), [None, None]);
    let from = guarded.proxy.event_count();
    assert!(reload(&guarded.proxy, &token));
    guarded.proxy.wait_event_after(from, "a key set", |event| event.is("auth.jwks_refresh"));
    guarded.denied("/private/x", &with(READ_KEY), crate::auth_jwt::NONE);
    assert_eq!(user(&guarded), [Some("zoe".to_owned()), Some("zoe".to_owned())]);
    assert!(reload(&guarded.proxy, &kratos));
    guarded.denied("/private/x", &with(READ_KEY), crate::auth_kratos::NONE);
    assert_eq!(user(&guarded), [Some("id-1".to_owned()), Some("id-1".to_owned())]);
    assert!(reload(&guarded.proxy, &none));
    guarded.allowed("/private/x", "");
    assert_eq!(user(&guarded), [None, None]);
    guarded.finish(&[READ_KEY, "some-cookie"]);
}

fn a_mistake_leaves_everything_as_it_was(driver: Driver) {
    let upstream = Upstream::start();
    let before = keyed(driver, &upstream);
    let mut guarded = start(&before, upstream);
    for (key, value) in [
        ("auth.mode", "jtw"),
        ("auth.mode", "jwt"),
        ("auth.api_key.keys", "[]"),
        ("auth.api_key.keys", "[{name: a, hash: \"abc\", scopes: []}]"),
        ("auth.public_paths", "[\"/[a\"]"),
        ("auth.api_key.header", "Host"),
        ("auth.api_key.header", "Transfer-Encoding"),
        ("websocket.allowed_origins", "[\"app.test\"]"),
        ("auth.enabled", "false"),
    ] {
        println!("{key}: {value}");
        assert!(!reload(&guarded.proxy, &before.clone().set(key, value)), "{key}: {value}");
        guarded.denied("/private/x", "", NO_KEY);
        guarded.allowed("/private/x", &with(READ_KEY));
    }
    guarded.finish(&[READ_KEY]);
}

/// 10.2: one line at the start and at a reload that changes them, where there are any.
fn public_paths_are_listed_once_for_each_change(driver: Driver) {
    let upstream = Upstream::start();
    let none = Setup::new(driver, upstream.url()).set("watch.enabled", "false");
    let two = keyed(driver, &upstream).set("auth.public_paths", "[/open, \"/public/*\"]");
    let kratos = none.clone().set("auth.mode", "kratos").set("auth.public_paths", "[\"/a[0-9]\"]");
    let own = "/a[0-9], /auth/*, /login, /registration, /recovery, /verification, /error";
    let other_limit = two.clone().set("body_size.max", "1KB");
    for (start, then, expected) in [
        (&none, vec![&none], vec![]),
        (&two, vec![&two, &other_limit], vec!["/open, /public/*"]),
        (&none, vec![&two, &none, &kratos], vec!["/open, /public/*", own]),
        (&kratos, vec![&two, &kratos], vec![own, "/open, /public/*", own]),
    ] {
        let mut proxy = start.start();
        for next in then {
            assert!(reload(&proxy, next));
        }
        proxy.replace_config(&two.clone().set("auth.public_paths", "[no-path]"));
        proxy.signal(Signal::HUP);
        proxy.wait_event("a mistake", |event| event.is("config.reload_failed"));
        let stopped = proxy.stop();
        let lines = stopped.log.lines().filter(|line| line.contains("public paths"));
        let listed: Vec<String> = lines
            .map(|line| {
                let line: Value = serde_json::from_str(line).expect("JSON");
                assert_eq!(line["level"], "INFO");
                line["paths"].as_str().expect("a list").to_owned()
            })
            .collect();
        assert_eq!(listed, expected, "{}", stopped.log);
    }
}
