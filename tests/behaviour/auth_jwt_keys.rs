//! 10.5: every algorithm, what is remembered of keys and tokens and for how long, and requests of many people on one connection.

use serde_json::json;

use crate::auth_jwt::{EXPIRED, NONE, Stage, UNAVAILABLE, bad, bearer, refused, setup, wait_keys};
use crate::harness::guarded::{Form, Guarded, assert_denied, request};
use crate::harness::provider::{Provider, Reply};
use crate::harness::token::{Key, claims, jwks, now};
use crate::harness::{ANSWER_KEPT, ANSWER_LAST, Driver, Setup, Upstream, eventually, wire};

on_drivers!(
    every: ;
    both:
        every_algorithm_verifies_with_its_own_keys_only,
        a_redirect_to_another_scheme_is_not_followed,
        strangers_that_come_together_cause_one_fetch,
        keys_are_fetched_again_and_take_their_tokens_along,
        a_remembered_token_still_expires,
        one_connection_may_serve_many_people,
        a_pipelined_request_is_asked_on_its_own,
        a_refused_body_is_neither_wanted_nor_read,
        names_of_claims_do_not_pass_as_trailers,
        the_user_is_the_actor,
        own_endpoints_ask_nobody,
);

const ALGORITHMS: [&str; 9] =
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

/// 3.4, E25, E48: each algorithm alone is allowed; then all of them.
fn every_algorithm_verifies_with_its_own_keys_only(driver: Driver) {
    let keys = ALGORITHMS.map(|name| Key::of(name, name));
    let set = jwks(&keys.each_ref().map(|key| key.jwk(json!({}))));
    let provider = Provider::start();
    provider.say("/jwks", Reply::json(200, set));
    let upstream = Upstream::start();
    let all = setup(driver, &upstream, &format!("{}/jwks", provider.url()))
        .set("auth.jwt.allowed_algorithms", &format!("[{}]", ALGORITHMS.join(", ")));
    let guarded = Guarded::start(&all, upstream);
    wait_keys(&guarded.proxy);
    for key in &keys {
        for head in guarded.allowed("/private/x", &bearer(&key.token(&claims(json!({}))))) {
            assert_eq!(head.one("x-user-id"), Some("zoe"));
        }
        // The signature is good for another algorithm than the one that the header states.
        for stated in ALGORITHMS {
            let header = key.header(json!({"alg": stated}));
            if header["alg"] == key.header(json!({}))["alg"] {
                continue;
            }
            let token = key.sign(&header.to_string(), &claims(json!({})).to_string());
            let answer = guarded.proxy.answer_to(&request(Form::Plain, "/p", &bearer(&token)));
            let id = answer.assert_refusal(401, "invalid_token");
            guarded.upstream.assert_untouched();
            let event = guarded.proxy.wait_event(&id, |event| event.request_id() == id);
            let reasons = ["invalid_signature", "algorithm_not_allowed", "unknown_key"];
            let reason = event.text("payload.reason");
            assert!(reasons.contains(&reason) || reason == "invalid_token", "{}", event.line);
        }
    }
    let upstream = guarded.upstream;
    for allowed in ["EdDSA", "PS512"] {
        let only = all
            .clone()
            .set("upstream.url", &upstream.url())
            .set("auth.jwt.allowed_algorithms", &format!("[{allowed}]"));
        let proxy = only.start();
        wait_keys(&proxy);
        for (name, key) in ALGORITHMS.iter().zip(&keys) {
            let headers = bearer(&key.token(&claims(json!({}))));
            if *name == allowed {
                let mut client = proxy.sent(&request(Form::Plain, "/p", &headers));
                let mut conn = upstream.accept();
                conn.read_request();
                conn.send(ANSWER_LAST);
                assert_eq!(client.read_response().status(), 200);
            } else {
                let answer = proxy.answer_to(&request(Form::Plain, "/p", &headers));
                assert_denied(&answer, &bad("algorithm_not_allowed"));
                upstream.assert_untouched();
            }
        }
    }
}

/// E35.
fn a_redirect_to_another_scheme_is_not_followed(driver: Driver) {
    let (elsewhere, upstream) = (Upstream::start(), Upstream::start());
    let provider = Provider::start();
    let location = format!("Location: https://127.0.0.1:{}/jwks\r\n", elsewhere.port());
    provider.say("/jwks", Reply::Answer(302, location, String::new()));
    let setup = setup(driver, &upstream, &format!("{}/jwks", provider.url()));
    let mut guarded = Guarded::start(&setup, upstream);
    guarded.proxy.wait_event("a failed fetch", |event| event.is("auth.jwks_error"));
    let token = Key::elliptic("k").token(&claims(json!({})));
    guarded.denied("/private/x", &bearer(&token), UNAVAILABLE);
    elsewhere.assert_untouched();
    guarded.finish(&[&token]);
}

/// E34: whoever waits for the fetch or comes while it lasts, there is one.
fn strangers_that_come_together_cause_one_fetch(driver: Driver) {
    let (old, new) = (Key::rsa("old"), Key::elliptic("new"));
    let provider = Provider::start();
    provider.say("/jwks", Reply::json(200, jwks(&[old.jwk(json!({}))])));
    let application = Upstream::start().name_targets();
    let place = Upstream::start();
    let proxy = setup(driver, &place, &format!("{}/jwks", provider.url()))
        .set("upstream.url", &application.url())
        .start();
    wait_keys(&proxy);
    let before = provider.count("/jwks");
    provider.say("/jwks", Reply::json(200, jwks(&[new.jwk(json!({}))])));
    provider.hold();
    let asks = request(Form::Plain, "/private/x", &bearer(&new.token(&claims(json!({})))));
    let mut first = eventually("a fetch", || {
        let mut client = proxy.sent(&asks);
        // Either it is refused because the start fetched a moment ago, or its fetch begins.
        eventually("a fetch or a refusal", || {
            let fetching = provider.count("/jwks") > before;
            (fetching || client.has_ended()).then_some(fetching)
        })
        .then_some(client)
    });
    let mut others: Vec<_> = (0..6).map(|_| proxy.sent(&asks)).collect();
    for client in &others {
        proxy.wait_consumed(client);
    }
    provider.release();
    assert_eq!(first.read_answer().head.status(), 200);
    for client in &mut others {
        let answer = client.read_answer();
        assert!([200, 401].contains(&answer.head.status()), "{answer:?}");
    }
    assert_eq!(proxy.answer_to(&asks).head.status(), 200);
    assert_eq!(provider.count("/jwks") - before, 1);
}

/// `cache_ttl`, and "only as long as the key set lives".
fn keys_are_fetched_again_and_take_their_tokens_along(driver: Driver) {
    let mut stage = Stage::new(driver, |setup| setup.set("auth.jwt.cache_ttl", "10s"));
    let (gone, stays) = (stage.rsa.token(&claims(json!({}))), stage.good());
    stage.guarded.allowed("/private/x", &bearer(&gone));
    stage.provider.say("/jwks", Reply::json(200, jwks(&[stage.elliptic.jwk(json!({}))])));
    stage.guarded.proxy.wait_event("the next set", |event| {
        event.is("auth.jwks_refresh") && event.count("payload.key_count") == 1
    });
    stage.guarded.allowed("/private/x", &bearer(&stays));
    refused(&mut stage, &bearer(&gone), bad("unknown_key"));
    stage.guarded.finish(&[&gone, &stays]);
}

/// "never past `exp`", and 12: `vibewarden_auth_cache_total`.
fn a_remembered_token_still_expires(driver: Driver) {
    let mut stage = Stage::new(driver, |setup| setup.set("server.workers", "1"));
    let count = |stage: &Stage, result: &str| {
        let labels = [("cache", "jwt"), ("result", result)];
        let value = stage.guarded.proxy.scrape().value("vibewarden_auth_cache_total", &labels);
        format!("{value:.0}")
    };
    let good = stage.good();
    stage.guarded.allowed("/private/x", &bearer(&good));
    stage.guarded.allowed("/private/x", &bearer(&good));
    assert_eq!([count(&stage, "miss"), count(&stage, "hit")], ["1", "3"]);
    // Past its `exp` and inside the leeway it is good, but no longer remembered.
    let late = stage.rsa.token(&claims(json!({"exp": now() - 25})));
    stage.guarded.allowed("/private/x", &bearer(&late));
    assert_eq!(count(&stage, "hit"), "3");
    let end = now() + 5;
    eventually("the end of the leeway", || (now() > end).then_some(()));
    refused(&mut stage, &bearer(&late), EXPIRED);
    stage.guarded.finish(&[&good, &late]);
}

/// 10: who somebody is belongs to a request, not to a connection on either side.
fn one_connection_may_serve_many_people(driver: Driver) {
    let stage = Stage::new(driver, |setup| setup.set("server.workers", "1"));
    let token = |name: &str| stage.rsa.token(&claims(json!({"sub": name})));
    let (ann, bob) = (token("ann"), token("bob"));
    let mut client = stage.guarded.proxy.connect();
    let mut conn = None;
    for (headers, path, user) in [
        (bearer(&ann), "/private/a", Some("ann")),
        (bearer(&bob), "/private/b", Some("bob")),
        (String::new(), "/public/c", None),
        (String::new(), "/private/d", None),
        (bearer("junk"), "/private/e", None),
        (bearer(&ann), "/private/f", Some("ann")),
    ] {
        client.send(&wire(format!("GET {path} HTTP/1.1\r\n{{H}}{headers}\r\n")));
        if path.ends_with(['d', 'e']) {
            let answer = client.read_response();
            assert_eq!(answer.status(), 401, "{answer:?}");
            assert!(!answer.says_close(), "{answer:?}");
            continue;
        }
        let conn = conn.get_or_insert_with(|| stage.guarded.upstream.accept());
        let seen = conn.read_request();
        assert_eq!(seen.target(), path);
        assert_eq!(seen.head.one("x-user-id"), user, "{seen:?}");
        conn.send(ANSWER_KEPT);
        assert_eq!(client.read_response().status(), 200);
    }
    drop(client);
    stage.guarded.finish(&[&ann, &bob]);
}

fn a_pipelined_request_is_asked_on_its_own(driver: Driver) {
    let stage = Stage::new(driver, |setup| setup);
    let good = bearer(&stage.good());
    let first = wire(format!("GET /private/1 HTTP/1.1\r\n{{H}}{good}\r\n"));
    let upgrade = request(Form::Upgrade, "/private/2", "");
    let third = wire(format!("GET /private/3 HTTP/1.1\r\n{{H}}{good}\r\n"));
    let mut client = stage.guarded.proxy.sent(&[first, upgrade, third].concat());
    let mut conn = stage.guarded.upstream.accept();
    assert_eq!(conn.read_request().target(), "/private/1");
    conn.send(ANSWER_KEPT);
    assert_eq!(client.read_response().status(), 200);
    // What follows a refused upgrade is never a request.
    let answer = client.read_answer();
    assert_denied(&answer, &NONE);
    assert_eq!(answer.head.one("connection"), Some("close"));
    let more = conn.pending();
    assert!(more.is_empty(), "{}", crate::harness::payload::show(&more));
    let stopped = stage.guarded.finish(&[]);
    let ends = stopped.events.iter().filter(|event| event.ends_a_request());
    assert_eq!(ends.count(), 2);
}

/// 6.1: no 100 for a body that nobody will read; the whole refusal arrives while the body still comes.
fn a_refused_body_is_neither_wanted_nor_read(driver: Driver) {
    let stage = Stage::new(driver, |setup| setup);
    let expecting =
        wire("POST /private/x HTTP/1.1\r\n{H}Expect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let answer = stage.guarded.proxy.answer_to(&expecting);
    assert_denied(&answer, &NONE);
    let mut large = wire("POST /private/x HTTP/1.1\r\n{H}Content-Length: 500000\r\n\r\n");
    large.resize(large.len() + 500_000, b'x');
    let mut client = stage.guarded.proxy.connect();
    // The other side may be gone before the last byte is out.
    let _cut = client.try_send(&large);
    assert_denied(&client.read_answer(), &NONE);
    let chunked = wire(
        "POST /private/x HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n{SM}",
    );
    let mut client = stage.guarded.proxy.sent(&chunked);
    assert_denied(&client.read_answer(), &NONE);
    stage.guarded.upstream.assert_untouched();
    let stopped = stage.guarded.finish(&[]);
    assert_eq!(stopped.of_kind("auth.denied").len(), 3);
}

/// 6.2.
fn names_of_claims_do_not_pass_as_trailers(driver: Driver) {
    let stage = Stage::new(driver, |setup| {
        setup.set("auth.jwt.claims_to_headers", "{sub: X-Who, team: X-Team}")
    });
    let good = bearer(&stage.good());
    let mut client = stage.guarded.proxy.sent(&wire(format!(
        "POST /private/x HTTP/1.1\r\n{{H}}{good}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
         5\r\nhello\r\n0\r\nX-Who: root\r\nx-team: root\r\nX_Team: root\r\nX-User-Id: root\r\n\
         X.User.Role: root\r\nAuthorization: root\r\nX-Kept: kept\r\n\r\n"
    )));
    let mut conn = stage.guarded.upstream.accept();
    let seen = conn.read_request();
    assert_eq!(seen.head.one("x-who"), Some("zoe"));
    assert_eq!(seen.trailers, [("X-Kept".to_owned(), "kept".to_owned())]);
    conn.send(ANSWER_LAST);
    assert_eq!(client.read_response().status(), 200);
    stage.guarded.finish(&[]);
}

/// 11.1, 11.2.
fn the_user_is_the_actor(driver: Driver) {
    let mut stage = Stage::new(driver, |setup| setup);
    let good = bearer(&stage.good());
    stage.guarded.allowed("/private/x", &good);
    stage.guarded.denied("/private/x", &bearer("junk"), bad("invalid_token"));
    let stopped = stage.guarded.finish(&[]);
    assert_eq!(stopped.of_kind("request.proxied").len(), 2);
    assert_eq!(stopped.of_kind("websocket.closed").len(), 1);
    for event in &stopped.events {
        let actor = (event.text("actor.type"), event.text("actor.id"));
        match event.kind() {
            "request.proxied" | "websocket.closed" => {
                assert_eq!(actor, ("user", "zoe"), "{}", event.line);
                assert_eq!(event.text("actor.ip"), "127.0.0.1", "{}", event.line);
            }
            "auth.denied" => {
                assert_eq!(actor, ("ip", ""), "{}", event.line);
                assert_eq!(event.text("payload.mode"), "jwt", "{}", event.line);
                assert!(!event.text("payload.detail").is_empty(), "{}", event.line);
            }
            _ => {}
        }
    }
}

/// 5.1, 12: in every mode, also while no provider is there, and without an event.
fn own_endpoints_ask_nobody(driver: Driver) {
    let upstream = Upstream::start();
    let none = "\"http://127.0.0.1:1\"";
    let fresh = || Setup::new(driver, upstream.url());
    for setup in [
        setup(driver, &upstream, "http://127.0.0.1:1/jwks"),
        fresh().set("auth.mode", "kratos").set("kratos.public_url", none),
        crate::auth_api_key::keyed(driver, &upstream),
    ] {
        let mut proxy = setup.start();
        for path in ["/_vibewarden/health", "/_vibewarden/ready", "/%5Fvibewarden/health"] {
            for form in [Form::Plain, Form::Upgrade] {
                let answer =
                    proxy.answer_to(&request(form, path, "Cookie: ory_kratos_session=x\r\n"));
                assert_eq!(answer.head.status(), 200, "{path}: {answer:?}");
            }
        }
        let answer = proxy.answer_to(&request(Form::Plain, "/_vibewarden", ""));
        answer.assert_refusal(404, "not_found");
        // Its neighbours are paths like any other.
        let answer = proxy.answer_to(&request(Form::Upgrade, "/_vibewardenx", ""));
        assert_eq!(answer.head.status(), 401, "{answer:?}");
        let stopped = proxy.stop();
        let ends = stopped.events.iter().filter(|event| event.ends_a_request());
        assert_eq!(ends.count(), 1, "{:#?}", stopped.events);
    }
    upstream.assert_untouched();
}
