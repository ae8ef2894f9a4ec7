//! 10.1, 10.2, 10.4, 10.7: what a session of Kratos opens and for how long, who shares a call, and where a browser is sent.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::auth_kratos::{INVALID, NONE, UNAVAILABLE, WHOAMI, cookie, session, stage};
use crate::harness::guarded::{Denial, FORMS, Form, Guarded, assert_denied, request};
use crate::harness::provider::{Provider, Reply};
use crate::harness::{ANSWER_101, ANSWER_LAST, Driver, Setup, Upstream, eventually, wire};

on_drivers!(
    every: ;
    both:
        a_provider_that_hangs_ends_in_503,
        what_is_no_clear_answer_lets_nobody_pass,
        good_sessions_are_remembered_when_asked_for,
        a_session_is_not_remembered_past_its_end,
        plain_requests_and_upgrades_share_a_call,
        a_client_that_leaves_takes_nobody_along,
        calls_share_connections,
        names_of_cookies_are_compared_exactly,
        the_login_page_is_the_configured_one,
        only_pages_are_sent_to_the_login,
        the_paths_around_the_login_are_public,
        an_identity_is_told_as_far_as_it_is_known,
        a_tunnel_ends_with_its_session,
        the_identity_is_the_actor,
        the_provider_may_live_below_a_path,
);

/// An active session whose identity is changed by `change`.
fn session_with(change: impl Fn(&mut Value)) -> Reply {
    let Reply::Answer(_, _, body) = session(true, "user") else {
        panic!("a session is an answer");
    };
    let mut value: Value = serde_json::from_str(&body).expect("JSON");
    change(&mut value);
    Reply::json(200, value.to_string())
}

fn session_until(end: Timestamp) -> Reply {
    session_with(|value| value["expires_at"] = json!(end.to_string()))
}

fn in_seconds(seconds: i64) -> Timestamp {
    Timestamp::now() + SignedDuration::from_secs(seconds)
}

/// 5.2: one call has 5 s. Plain request and upgrade wait together.
fn a_provider_that_hangs_ends_in_503(driver: Driver) {
    let (mut guarded, provider) = stage(driver, session(true, "user"), |setup| setup);
    provider.hold();
    let clients =
        FORMS.map(|form| guarded.proxy.sent(&request(form, "/private/x", &cookie("canary-hangs"))));
    for mut client in clients {
        let id = assert_denied(&client.read_answer(), &UNAVAILABLE);
        guarded.expect_denied_event(&id, UNAVAILABLE);
    }
    guarded.upstream.assert_untouched();
    // Nobody is asked about where nothing is required.
    guarded.allowed("/public/x", "");
    provider.release();
    guarded.allowed("/private/x", &cookie("canary-hangs"));
    let url = provider.url();
    let stopped = guarded.finish(&["canary-hangs"]);
    let away = stopped.only("auth.provider_unavailable");
    assert!(away.text("payload.provider_url").starts_with(&url), "{}", away.line);
    assert_eq!(away.text("payload.affected_path"), "/private/x", "{}", away.line);
    let back = stopped.only("auth.provider_recovered");
    assert!(back.text("payload.provider_url").starts_with(&url), "{}", back.line);
}

/// Refused as no session or as no provider; the application hears nothing either way.
fn what_is_no_clear_answer_lets_nobody_pass(driver: Driver) {
    let (guarded, provider) = stage(driver, Reply::Close, |setup| setup);
    let padding = "x".repeat(2 << 20);
    for (reply, statuses) in [
        (Reply::json(200, ""), &[503][..]),
        (Reply::json(200, "{\"active\":true"), &[503]),
        (
            Reply::json(
                200,
                format!("{{\"active\":true,\"identity\":{{\"id\":\"a\"}},\"x\":\"{padding}\"}}"),
            ),
            &[503],
        ),
        (Reply::json(201, "{\"active\":true,\"identity\":{\"id\":\"a\"}}"), &[503]),
        (Reply::json(404, "{\"active\":true}"), &[503]),
        (Reply::json(429, "{}"), &[503]),
        (Reply::json(502, "<html>"), &[503]),
        (Reply::json(200, "null"), &[401, 503]),
        (Reply::json(200, "[]"), &[401, 503]),
        (Reply::json(200, "{\"active\":\"true\"}"), &[401, 503]),
        (Reply::json(200, "{\"active\":1}"), &[401, 503]),
        (Reply::json(200, "{\"Active\":true}"), &[401, 503]),
        (Reply::json(200, "{\"session\":{\"active\":true}}"), &[401, 503]),
        (Reply::json(200, "{\"active\":true}"), &[401, 503]),
        (Reply::json(200, "{\"active\":true,\"identity\":{\"id\":7}}"), &[401, 503]),
        (session_with(|value| value["identity"]["id"] = json!("")), &[401, 503]),
        (
            session_with(|value| value["identity"]["id"] = json!("a\r\nX-User-Role: admin")),
            &[401, 503],
        ),
    ] {
        println!("{}", format!("{reply:?}").chars().take(200).collect::<String>());
        provider.say(WHOAMI, reply);
        for form in FORMS {
            let answer = guarded.proxy.answer_to(&request(form, "/private/x", &cookie("unclear")));
            let status = answer.head.status();
            assert!(statuses.contains(&status), "{answer:?}");
            let denial = if status == 401 { INVALID } else { UNAVAILABLE };
            assert_denied(&answer, &denial);
            guarded.upstream.assert_untouched();
        }
    }
    guarded.finish(&["unclear"]);
}

/// `kratos.cache_ttl`: positive answers, per cookie.
fn good_sessions_are_remembered_when_asked_for(driver: Driver) {
    let (mut guarded, provider) = stage(driver, session(true, "user"), |setup| {
        setup.set("kratos.cache_ttl", "60s").set("server.workers", "1")
    });
    guarded.allowed("/private/x", &cookie("cookie-one"));
    guarded.allowed("/private/y", &cookie("cookie-one"));
    assert_eq!(provider.count(WHOAMI), 1);
    provider.say(WHOAMI, Reply::json(401, "{}"));
    guarded.allowed("/private/x", &cookie("cookie-one"));
    guarded.denied("/private/x", &cookie("cookie-two"), INVALID);
    assert_eq!(provider.count(WHOAMI), 3, "a refusal is not remembered");
    provider.say(WHOAMI, session(true, "user"));
    guarded.allowed("/private/x", &cookie("cookie-two"));
    assert_eq!(provider.count(WHOAMI), 4);
    // What is remembered does not need the provider.
    provider.say(WHOAMI, Reply::Close);
    for head in guarded.allowed("/private/x", &cookie("cookie-one")) {
        assert_eq!(head.one("x-user-id"), Some("id-1"));
    }
    let hits = guarded
        .proxy
        .scrape()
        .value("vibewarden_auth_cache_total", &[("cache", "kratos"), ("result", "hit")]);
    assert_eq!(format!("{hits:.0}"), "8");
    guarded.finish(&["cookie-one", "cookie-two"]);
}

fn a_session_is_not_remembered_past_its_end(driver: Driver) {
    let (mut guarded, provider) = stage(driver, session_until(in_seconds(3)), |setup| {
        setup.set("kratos.cache_ttl", "60s").set("server.workers", "1")
    });
    guarded.allowed_as(Form::Plain, "/private/x", &cookie("short-one"));
    provider.say(WHOAMI, Reply::json(401, "{}"));
    let end = in_seconds(3);
    eventually("its end", || (Timestamp::now() > end).then_some(()));
    guarded.denied("/private/x", &cookie("short-one"), INVALID);
    guarded.finish(&["short-one"]);
}

/// An application that accepts whatever comes.
fn accepting() -> crate::harness::upstream::Serving {
    Upstream::start().serve(|mut peer| {
        let head = peer.read_head();
        let is_upgrade = head.one("upgrade").is_some();
        let answer = if is_upgrade { ANSWER_101 } else { ANSWER_LAST };
        let _may_be_gone = peer.try_send(answer);
        peer.drain();
    })
}

/// A proxy in front of [`accepting`], one worker for each of two cores.
fn open_stage(driver: Driver, reply: Reply) -> (crate::harness::Proxy, Provider, impl Sized) {
    let provider = Provider::start();
    provider.say(WHOAMI, reply);
    let application = accepting();
    let proxy = Setup::new(driver, application.url())
        .set("auth.mode", "kratos")
        .set("kratos.public_url", &provider.url())
        .start();
    (proxy, provider, application)
}

fn plain_requests_and_upgrades_share_a_call(driver: Driver) {
    let (proxy, provider, _application) = open_stage(driver, session(true, "user"));
    provider.hold();
    let ask = |form, value| proxy.sent(&request(form, "/private/x", &cookie(value)));
    let mut clients: Vec<_> =
        (0..4).flat_map(|_| FORMS.map(|form| (form, ask(form, "one")))).collect();
    clients.push((Form::Upgrade, ask(Form::Upgrade, "other")));
    provider.wait_count(WHOAMI, 2);
    let merged = [("cache", "kratos"), ("result", "merged")];
    proxy.wait_metric("vibewarden_auth_cache_total", &merged, 7.0);
    provider.release();
    for (form, client) in &mut clients {
        let status = client.read_head().status();
        assert_eq!(status, if *form == Form::Upgrade { 101 } else { 200 });
    }
    assert_eq!(provider.count(WHOAMI), 2, "one call for each cookie");
    // Later requests ask again.
    assert_eq!(ask(Form::Plain, "one").read_head().status(), 200);
    assert_eq!(provider.count(WHOAMI), 3);
}

fn a_client_that_leaves_takes_nobody_along(driver: Driver) {
    let (mut proxy, provider, _application) = open_stage(driver, session(true, "user"));
    provider.hold();
    let ask = |form| proxy.sent(&request(form, "/private/x", &cookie("held")));
    let first = ask(Form::Upgrade);
    provider.wait_count(WHOAMI, 1);
    let mut others = FORMS.map(ask);
    let merged = [("cache", "kratos"), ("result", "merged")];
    proxy.wait_metric("vibewarden_auth_cache_total", &merged, 2.0);
    first.reset();
    provider.release();
    for client in &mut others {
        assert!([101, 200].contains(&client.read_head().status()));
    }
    drop(others);
    assert_eq!(provider.count(WHOAMI), 1);
    let left = [("result", "abandoned")];
    proxy.wait_metric("vibewarden_websocket_upgrades_total", &left, 1.0);
    let stopped = proxy.stop();
    assert_eq!(stopped.of_kind("request.proxied").len(), 2, "{:#?}", stopped.events);
    assert_eq!(stopped.of_kind("auth.denied").len(), 0, "{:#?}", stopped.events);
}

fn calls_share_connections(driver: Driver) {
    let body = "{\"active\":false}";
    let kratos = Upstream::start().answer(move |_, peer| {
        let length = body.len();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
        let answer = format!("{head}Content-Length: {length}\r\n\r\n{body}");
        let _may_be_gone = peer.try_send(answer.as_bytes());
        crate::harness::After::Keep
    });
    let upstream = Upstream::start();
    let setup = Setup::new(driver, upstream.url())
        .set("auth.mode", "kratos")
        .set("kratos.public_url", &kratos.url());
    let mut guarded = Guarded::start(&setup, upstream);
    for _ in 0..5 {
        guarded.denied("/private/x", &cookie("same-one"), INVALID);
    }
    assert_eq!(kratos.requests().len(), 10);
    assert!(kratos.connections() < 5, "{} connections for 10 calls", kratos.connections());
    guarded.finish(&["same-one"]);
}

/// E17, E19, E21 and `auth.session_cookie_name`.
fn names_of_cookies_are_compared_exactly(driver: Driver) {
    let (mut guarded, provider) = stage(driver, session(true, "user"), |setup| {
        setup.set("auth.session_cookie_name", "sid").set("server.max_header_bytes", "64KB")
    });
    for line in [
        "sid=good-value",
        ";;;sid=good-value;;",
        "a=b; sid=good-value; c=d",
        "a=b;sid=good-value",
        "SID=bad; sid=good-value; sidx=bad; xsid=bad; s=sid=bad",
        "sid=good-value; sid=good-value",
        "ory_kratos_session=bad; sid=good-value",
        "a; b;=; sid=good-value; =x",
    ] {
        let before = provider.count(WHOAMI);
        guarded.allowed("/private/x", &format!("Cookie: {line}\r\n"));
        for asked in &provider.requests(WHOAMI)[before..] {
            assert_eq!(asked.head.all("cookie"), ["sid=good-value"], "for {line}");
        }
    }
    let before = provider.count(WHOAMI);
    for line in [
        "",
        "sid",
        "sid=",
        "sid=; a=b",
        "=sid=good-value",
        "SID=good-value",
        "sidx=good-value",
        "xsid=good-value",
        "ory_kratos_session=good-value",
        "a=b, sid=good-value",
        "a=\"; sid2=good-value\"",
    ] {
        guarded.denied("/private/x", &format!("Cookie: {line}\r\n"), NONE);
    }
    let many = |count: usize| format!("Cookie: {}\r\n", "a=b; ".repeat(count));
    guarded.denied("/private/x", &many(4_000), NONE);
    assert_eq!(provider.count(WHOAMI), before, "nothing to ask about");
    let answer = guarded.proxy.answer_to(&request(Form::Upgrade, "/private/x", &many(20_000)));
    answer.assert_refusal(431, "headers_too_large");
    for pair in ["sid=bad; sid=good-value", "sid=good-value; a=b; sid=bad"] {
        let denial = Denial { reason: "multiple_credentials", ..NONE };
        guarded.denied("/private/x", &format!("Cookie: {pair}\r\n"), denial);
    }
    guarded.finish(&["good-value"]);
}

const PAGE: &str = "Accept: text/html,application/xhtml+xml\r\n";

/// `auth.login_url`, `auth.ui.mode`, `auth.ui.login_url`: as they are.
fn the_login_page_is_the_configured_one(driver: Driver) {
    for (keys, expected) in [
        (&[("auth.login_url", "/sign-in?x=1")][..], "/sign-in?x=1"),
        (&[("auth.login_url", "\"https://id.test/login\"")], "https://id.test/login"),
        (
            &[
                ("auth.login_url", "/sign-in"),
                ("auth.ui.mode", "custom"),
                ("auth.ui.login_url", "/own/login"),
            ],
            "/own/login",
        ),
        (&[("auth.login_url", "/sign-in"), ("auth.ui.login_url", "/own/login")], "/sign-in"),
    ] {
        let (guarded, _provider) = stage(driver, Reply::json(401, "{}"), |setup| {
            keys.iter().fold(setup, |setup, (key, value)| setup.set(key, value))
        });
        let answer = guarded.proxy.answer_to(&request(Form::Plain, "/private/x?secret=1", PAGE));
        assert_eq!(answer.head.status(), 302, "{answer:?}");
        assert_eq!(answer.head.one("location"), Some(expected));
        guarded.finish(&[]);
    }
}

/// 10.1, the row of 302: everything in it is needed.
fn only_pages_are_sent_to_the_login(driver: Driver) {
    let (mut guarded, provider) = stage(driver, Reply::json(401, "{}"), |setup| {
        setup.set("auth.role_paths", "{admin: [\"/admin/*\"]}")
    });
    let send = |guarded: &Guarded, method: &str, headers: &str| {
        guarded.proxy.answer_to(&wire(format!(
            "{method} /private/x HTTP/1.1\r\n{{H}}{headers}Connection: close\r\n\r\n"
        )))
    };
    for method in ["GET", "HEAD"] {
        let answer = send(&guarded, method, PAGE);
        assert_eq!(answer.head.status(), 302, "{answer:?}");
        assert_eq!(answer.head.one("location"), Some("/self-service/login/browser"));
        assert_eq!(answer.head.one("cache-control"), Some("no-store"));
        assert!(answer.body.is_empty(), "{answer:?}");
        assert!(answer.head.one("x-request-id").is_some(), "{answer:?}");
    }
    for method in ["POST", "PUT", "OPTIONS", "FOO", "get"] {
        assert_denied(&send(&guarded, method, PAGE), &NONE);
    }
    for accept in ["", "Accept: */*\r\n", "Accept: application/json\r\n", "Accept: text/plain\r\n"]
    {
        assert_denied(&send(&guarded, "GET", accept), &NONE);
    }
    // A browser that has to wait for the provider, or may not go there, is not sent to log in.
    provider.say(WHOAMI, Reply::json(500, "{}"));
    let headers = format!("{PAGE}{}", cookie("page-cookie"));
    guarded.denied("/private/x", &headers, UNAVAILABLE);
    provider.say(WHOAMI, session(true, "user"));
    let role = Denial {
        status: 403,
        code: "forbidden",
        message: "insufficient role for this path",
        reason: "insufficient_role",
    };
    guarded.denied("/admin/x", &headers, role);
    // A connection that was redirects to the login goes on.
    let mut client = guarded.proxy.connect();
    for _ in 0..2 {
        client.send(&wire(format!("GET /private/x HTTP/1.1\r\n{{H}}{PAGE}\r\n")));
        let answer = client.read_response();
        assert_eq!(answer.status(), 302);
        assert!(!answer.says_close(), "{answer:?}");
    }
    drop(client);
    let stopped = guarded.finish(&["page-cookie"]);
    let redirects = stopped.of_kind("auth.denied");
    let redirects = redirects.iter().filter(|event| event.count("payload.status_code") == 302);
    assert_eq!(redirects.count(), 4);
}

/// 10.2.
fn the_paths_around_the_login_are_public(driver: Driver) {
    let (mut guarded, provider) = stage(driver, Reply::json(401, "{}"), |setup| setup);
    for path in [
        "/auth",
        "/auth/",
        "/auth/a/b",
        "/login",
        "/registration",
        "/recovery",
        "/verification",
        "/error",
        "/logi%6e",
        "/error?x=//",
    ] {
        for head in guarded.allowed(path, "X-User-Id: root\r\n") {
            assert_eq!(head.line, format!("GET {path} HTTP/1.1"));
            assert_eq!(head.one("x-user-id"), None);
        }
    }
    for path in [
        "/",
        "/authx",
        "/auth-evil",
        "/Auth/x",
        "/login/",
        "/login/x",
        "/loginx",
        "/Login",
        "/x/login",
        "/logout",
        "/settings",
        "/errors",
        "/auth//x",
        "/auth;x",
        "/auth%2fx",
        "/auth/%2561",
    ] {
        guarded.denied(path, "", NONE);
    }
    assert_eq!(provider.count(WHOAMI), 0);
    guarded.finish(&[]);
}

/// 10.4, identity; E45, E52.
fn an_identity_is_told_as_far_as_it_is_known(driver: Driver) {
    let (guarded, provider) = stage(driver, Reply::Close, |setup| setup);
    let spoofed =
        "X-User-Email: evil\r\nX-User-Verified: evil\r\nX-User-Role: evil\r\nX-User-Id: evil\r\n";
    let see = |reply: Reply| {
        provider.say(WHOAMI, reply);
        guarded.allowed("/private/x", &format!("{spoofed}{}", cookie("any-cookie")))
    };
    let addresses = |value: Value| {
        session_with(move |session| session["identity"]["verifiable_addresses"] = value.clone())
    };
    for (reply, email, verified) in [
        (
            addresses(json!([{"via": "email", "value": "b@b.test", "verified": false}])),
            Some("b@b.test"),
            &[Some("false")][..],
        ),
        (
            addresses(json!([
                {"via": "email", "value": "first@b.test", "verified": false},
                {"via": "email", "value": "second@b.test", "verified": true},
            ])),
            Some("first@b.test"),
            &[Some("false")],
        ),
        // The contract does not say what is verified without an address.
        (addresses(json!([])), Some("trait@example.test"), &[None, Some("false")]),
        (
            addresses(json!([{"via": "sms", "value": "1", "verified": true}])),
            Some("trait@example.test"),
            &[None, Some("false")],
        ),
        (
            session_with(|session| {
                session["identity"]["verifiable_addresses"] = Value::Null;
                session["identity"]["traits"] = json!({});
            }),
            None,
            &[None, Some("false")],
        ),
    ] {
        for head in see(reply.clone()) {
            assert_eq!(head.one("x-user-id"), Some("id-1"));
            assert_eq!(head.one("x-user-email"), email, "{reply:?}");
            assert!(verified.contains(&head.one("x-user-verified")), "{reply:?}: {head:?}");
            assert_eq!(head.one("x-user-role"), Some("user"));
        }
    }
    for role in
        [json!("Admin"), json!("admin "), json!("root"), json!(["admin"]), json!(7), Value::Null]
    {
        let reply = session_with(|session| session["identity"]["traits"]["role"] = role.clone());
        for head in see(reply) {
            assert_eq!(head.one("x-user-role"), Some("user"), "{role}");
        }
    }
    let split = json!("a@b.test\r\nX-User-Role: admin");
    for head in see(session_with(|session| {
        session["identity"]["verifiable_addresses"][1]["value"] = split.clone();
        session["identity"]["traits"]["email"] = split.clone();
    })) {
        assert_eq!(head.one("x-user-role"), Some("user"));
        assert_eq!(head.one("x-user-email"), None, "{head:?}");
    }
    guarded.finish(&["any-cookie"]);
}

/// 10.7.
fn a_tunnel_ends_with_its_session(driver: Driver) {
    for closes in [true, false] {
        let end = in_seconds(2);
        let (guarded, provider) = stage(driver, session_until(end), |setup| {
            setup.set("websocket.close_on_expiry", if closes { "true" } else { "false" })
        });
        let open = || {
            let mut client =
                guarded.proxy.sent(&request(Form::Upgrade, "/private/x", &cookie("short-lived")));
            let mut conn = guarded.upstream.accept();
            conn.read_head();
            conn.send(ANSWER_101);
            client.open();
            client.ping(&mut conn, b"open");
            (client, conn)
        };
        let (mut short, mut short_far) = open();
        provider.say(WHOAMI, session(true, "user"));
        let (mut long, mut long_far) = open();
        if closes {
            let event = guarded.proxy.wait_event("an end", |event| event.is("websocket.closed"));
            assert_eq!(event.text("payload.reason"), "expired", "{}", event.line);
            assert!(Timestamp::now() >= end, "before its time: {}", event.line);
            short.expect_end();
            short_far.expect_end();
        } else {
            let later = end + SignedDuration::from_secs(2);
            eventually("a while after the end", || (Timestamp::now() > later).then_some(()));
            short.ping(&mut short_far, b"still here");
        }
        long.ping(&mut long_far, b"still here");
        drop((short, long, short_far, long_far));
        guarded.finish(&["short-lived"]);
    }
}

/// 11.1, 11.2.
fn the_identity_is_the_actor(driver: Driver) {
    let (mut guarded, provider) = stage(driver, session(true, "user"), |setup| setup);
    guarded.allowed("/private/x", &cookie("some-cookie"));
    guarded.allowed("/public/x", &cookie("some-cookie"));
    provider.say(WHOAMI, Reply::json(401, "{}"));
    guarded.allowed("/public/nobody", &cookie("some-cookie"));
    guarded.denied("/private/x", &cookie("some-cookie"), INVALID);
    let stopped = guarded.finish(&["some-cookie"]);
    assert_eq!(stopped.of_kind("websocket.closed").len(), 3);
    for event in &stopped.events {
        let actor = (event.text("actor.type"), event.text("actor.id"));
        let known = event.text("resource.path") != "/public/nobody";
        match event.kind() {
            "request.proxied" | "websocket.closed" if known => {
                assert_eq!(actor, ("user", "id-1"), "{}", event.line);
            }
            "auth.denied" => {
                assert_eq!(actor.0, "ip", "{}", event.line);
                assert_eq!(event.text("payload.mode"), "kratos", "{}", event.line);
            }
            _ => assert_ne!(actor.0, "user", "{}", event.line),
        }
    }
}

/// 3.4: "path prefix allowed".
fn the_provider_may_live_below_a_path(driver: Driver) {
    for end in ["", "/"] {
        let (guarded, provider) = stage(driver, Reply::json(401, "{}"), |setup| setup);
        drop(guarded);
        provider.say("/id/kratos/sessions/whoami", session(true, "user"));
        let url = format!("{}/id/kratos{end}", provider.url());
        let upstream = Upstream::start();
        let setup = Setup::new(driver, upstream.url())
            .set("auth.mode", "kratos")
            .set("kratos.public_url", &url);
        let guarded = Guarded::start(&setup, upstream);
        for head in guarded.allowed("/private/x", &cookie("some-cookie")) {
            assert_eq!(head.one("x-user-id"), Some("id-1"));
        }
        assert_eq!(provider.count(WHOAMI), 0);
        guarded.finish(&["some-cookie"]);
    }
}
