//! 8.1, 8.3: whom buckets and quotas of users count, when users come with tokens and sessions: the person, not the credential.

use serde_json::{Value, json};

use crate::auth_jwt::{Stage, bearer};
use crate::auth_kratos::{cookie, session, stage};
use crate::harness::guarded::{FORMS, Form, Guarded, request};
use crate::harness::provider::{Provider, Reply};
use crate::harness::token::claims;
use crate::harness::{ANSWER_101, Conn, Driver, Peer, Setup};

on_drivers!(
    every: ;
    both:
        a_user_has_one_bucket_whatever_the_token,
        a_user_is_whom_the_claim_of_the_user_id_names,
        a_user_has_one_bucket_whatever_the_session,
        a_user_has_one_quota_whatever_the_credential,
);

/// Addresses have tokens in plenty, users four and no more.
fn four_each(setup: Setup) -> Setup {
    setup
        .set("rate_limit.enabled", "true")
        .set("rate_limit.per_ip.burst", "1000")
        .set("rate_limit.per_user.requests_per_second", "0")
        .set("rate_limit.per_user.burst", "4")
}

/// Both forms are refused for want of a token of this user.
#[track_caller]
fn is_used_up(guarded: &Guarded, headers: &str, user: &str) {
    for form in FORMS {
        let answer = guarded.proxy.answer_to(&request(form, "/private/x", headers));
        let id = answer.assert_refusal(429, "rate_limit_exceeded");
        guarded.upstream.assert_untouched();
        let event = guarded.proxy.wait_event("a refusal", |event| event.request_id() == id);
        assert!(event.is("rate_limit.blocked"), "{}", event.line);
        assert_eq!(event.text("payload.limit_type"), "user", "{}", event.line);
        assert_eq!(event.text("payload.identifier"), user, "{}", event.line);
    }
}

fn token(stage: &Stage, changed: Value) -> String {
    bearer(&stage.elliptic.token(&claims(changed)))
}

fn a_user_has_one_bucket_whatever_the_token(driver: Driver) {
    let stage = Stage::new(driver, four_each);
    let [first, second, third] =
        [1, 2, 3].map(|number| token(&stage, json!({"jti": number.to_string()})));
    stage.guarded.allowed("/private/x", &first);
    stage.guarded.allowed("/private/x", &second);
    for headers in [&first, &second, &third] {
        is_used_up(&stage.guarded, headers, "zoe");
    }
    stage.guarded.allowed("/private/x", &token(&stage, json!({"sub": "ann"})));
    // Nobody in particular is counted by the address alone.
    for _ in 0..4 {
        stage.guarded.allowed("/public/x", &first);
    }
}

fn a_user_is_whom_the_claim_of_the_user_id_names(driver: Driver) {
    let stage = Stage::new(driver, |setup| {
        four_each(setup).set("auth.jwt.claims_to_headers", "{email: X-User-Id}")
    });
    let of = |sub: &str, email: &str| token(&stage, json!({"sub": sub, "email": email}));
    stage.guarded.allowed("/private/x", &of("one", "same@example.test"));
    stage.guarded.allowed("/private/x", &of("two", "same@example.test"));
    is_used_up(&stage.guarded, &of("three", "same@example.test"), "same@example.test");
    stage.guarded.allowed("/private/x", &of("one", "other@example.test"));
}

/// Kratos knows everybody who asks by this id from now on.
fn known_as(provider: &Provider, id: &str) {
    let Reply::Answer(_, _, body) = session(true, "user") else {
        panic!("a session is an answer");
    };
    let mut body: Value = serde_json::from_str(&body).expect("JSON");
    body["identity"]["id"] = json!(id);
    provider.say("/sessions/whoami", Reply::json(200, body.to_string()));
}

fn a_user_has_one_bucket_whatever_the_session(driver: Driver) {
    let (guarded, provider) = stage(driver, session(true, "user"), four_each);
    guarded.allowed("/private/x", &cookie("at-home"));
    guarded.allowed("/private/x", &cookie("at-work"));
    is_used_up(&guarded, &cookie("on-the-way"), "id-1");
    known_as(&provider, "id-2");
    guarded.allowed("/private/x", &cookie("at-home"));
}

/// Opens a tunnel that stays.
#[track_caller]
fn tunnel(guarded: &Guarded, headers: &str) -> (Peer, Conn) {
    let mut client = guarded.proxy.sent(&request(Form::Upgrade, "/private/x", headers));
    let mut conn = guarded.upstream.accept();
    conn.read_head();
    conn.send(ANSWER_101);
    client.open();
    (client, conn)
}

fn a_user_has_one_quota_whatever_the_credential(driver: Driver) {
    let two_each = |setup: Setup| setup.set("websocket.max_per_user", "2");
    let tokens = Stage::new(driver, two_each);
    let headers = [1, 2, 3].map(|number| token(&tokens, json!({"jti": number.to_string()})));
    let other = token(&tokens, json!({"sub": "ann"}));
    is_full_with_two(&tokens.guarded, &headers, &other, || {});
    let (sessions, provider) = stage(driver, session(true, "user"), two_each);
    let headers = ["at-home", "at-work", "on-the-way"].map(cookie);
    let other = cookie("somebody");
    is_full_with_two(&sessions, &headers, &other, || known_as(&provider, "id-2"));
}

/// `before_other` is called before somebody else comes.
#[track_caller]
fn is_full_with_two(
    guarded: &Guarded,
    headers: &[String; 3],
    other: &str,
    before_other: impl Fn(),
) {
    let [first, second, third] = headers;
    let mut open = [tunnel(guarded, first), tunnel(guarded, second)];
    let answer = guarded.proxy.answer_to(&request(Form::Upgrade, "/private/x", third));
    answer.assert_refusal(429, "connection_limit_exceeded");
    guarded.upstream.assert_untouched();
    guarded.allowed_as(Form::Plain, "/private/x", third);
    before_other();
    drop(tunnel(guarded, other));
    for (client, conn) in &mut open {
        client.ping(conn, b"still here");
    }
}
