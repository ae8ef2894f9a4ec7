//! 10.1, 10.4, 10.6: sessions of Kratos, played by a scripted provider: what it is asked, and what follows from what it says.

use serde_json::{Value, json};

use crate::harness::guarded::{Denial, FORMS, Form, Guarded, assert_denied, request, said};
use crate::harness::provider::{Provider, Reply};
use crate::harness::{Driver, Setup, Upstream};

on_drivers!(
    every: ;
    both:
        a_session_passes_and_says_who_comes,
        no_session_is_refused,
        a_page_is_sent_to_the_login,
        a_provider_in_trouble,
        roles_open_paths,
        several_cookies,
        checks_that_overlap_share_one_call,
        flows_go_to_the_provider,
        a_foreign_origin_is_refused_before_a_call,
);

pub(crate) const WHOAMI: &str = "/sessions/whoami";

pub(crate) const NONE: Denial = Denial {
    status: 401,
    code: "unauthorized",
    message: "missing or invalid session",
    reason: "no_credentials",
};
pub(crate) const INVALID: Denial = Denial { reason: "invalid_session", ..NONE };
pub(crate) const UNAVAILABLE: Denial = Denial {
    status: 503,
    code: "auth_provider_unavailable",
    message: "authentication service is temporarily unavailable",
    reason: "provider_unavailable",
};

pub(crate) fn session(active: bool, role: &str) -> Reply {
    let body: Value = json!({
        "active": active,
        "expires_at": "2999-01-01T00:00:00Z",
        "identity": {
            "id": "id-1",
            "traits": {"email": "trait@example.test", "role": role},
            "verifiable_addresses": [
                {"via": "sms", "value": "1", "verified": false},
                {"via": "email", "value": "zoe@example.test", "verified": true},
            ],
        },
    });
    Reply::json(200, body.to_string())
}

#[track_caller]
pub(crate) fn stage(
    driver: Driver,
    reply: Reply,
    change: impl Fn(Setup) -> Setup,
) -> (Guarded, Provider) {
    let provider = Provider::start();
    provider.say(WHOAMI, reply);
    let upstream = Upstream::start();
    let setup = Setup::new(driver, upstream.url())
        .set("watch.enabled", "false")
        .set("auth.mode", "kratos")
        .set("auth.public_paths", "[\"/public/*\"]")
        .set("kratos.public_url", &provider.url());
    (Guarded::start(&change(setup), upstream), provider)
}

pub(crate) fn cookie(value: &str) -> String {
    format!("Cookie: ory_kratos_session={value}\r\n")
}

fn a_session_passes_and_says_who_comes(driver: Driver) {
    let (guarded, provider) = stage(driver, session(true, "admin"), |setup| setup);
    let headers = format!(
        "X-User-Id: root\r\nX_User_Role: root\r\nAuthorization: Bearer q\r\nCookie: other=1\r\n{}",
        cookie("canary-one")
    );
    for path in ["/private/x", "/public/x"] {
        for head in guarded.allowed(path, &headers) {
            assert_eq!(head.one("x-user-id"), Some("id-1"));
            assert_eq!(head.one("x-user-email"), Some("zoe@example.test"));
            assert_eq!(head.one("x-user-verified"), Some("true"));
            assert_eq!(head.one("x-user-role"), Some("admin"));
            assert!(!format!("{head:?}").contains("root"), "{head:?}");
        }
    }
    for request in provider.requests(WHOAMI) {
        assert_eq!(request.head.line, "GET /sessions/whoami HTTP/1.1");
        assert_eq!(request.head.all("cookie"), ["ory_kratos_session=canary-one"]);
        assert_eq!(request.head.one("accept"), Some("application/json"));
        for absent in ["authorization", "x-user-id", "x-session-token"] {
            assert_eq!(request.head.one(absent), None, "{request:?}");
        }
    }
    assert_eq!(provider.count(WHOAMI), 4, "every request asks again");
    guarded.allowed("/private/x", &cookie("ory_st_canary"));
    let asked = provider.requests(WHOAMI).pop().expect("a call");
    assert_eq!(asked.head.one("x-session-token"), Some("ory_st_canary"));
    assert_eq!(asked.head.one("cookie"), None);
    guarded.finish(&["canary-one", "ory_st_canary"]);
}

fn no_session_is_refused(driver: Driver) {
    let (mut guarded, provider) = stage(driver, Reply::json(401, "{}"), |setup| setup);
    for headers in [String::new(), cookie(""), "Cookie: other=1\r\n".to_owned()] {
        guarded.denied("/private/x", &headers, NONE);
    }
    assert_eq!(provider.count(WHOAMI), 0, "nothing to ask about");
    let inactive = session(false, "user");
    for reply in [Reply::json(401, "{}"), Reply::json(403, "{}"), inactive, Reply::json(200, "{}")]
    {
        provider.say(WHOAMI, reply);
        for answer in guarded.denied("/private/x", &cookie("canary-two"), INVALID) {
            assert_eq!(answer.head.one("www-authenticate"), None);
        }
        for head in
            guarded.allowed("/public/x", &format!("X-User-Id: root\r\n{}", cookie("canary-two")))
        {
            assert_eq!(head.one("x-user-id"), None);
        }
    }
    guarded.finish(&["canary-two"]);
}

fn a_page_is_sent_to_the_login(driver: Driver) {
    let (guarded, _provider) = stage(driver, Reply::json(401, "{}"), |setup| setup);
    for headers in [
        "Accept: text/html,*/*;q=0.8\r\n".to_owned(),
        format!("Accept: text/html\r\n{}", cookie("bad")),
    ] {
        let answer = guarded.proxy.answer_to(&request(Form::Plain, "/private/x", &headers));
        assert_eq!(answer.head.status(), 302, "{answer:?}");
        assert_eq!(answer.head.one("location"), Some("/self-service/login/browser"));
        assert_eq!(answer.head.one("cache-control"), Some("no-store"));
        assert!(answer.body.is_empty());
        let id = answer.head.one("x-request-id").unwrap_or_default().to_owned();
        let event = guarded.proxy.wait_event("a denial", |event| event.request_id() == id);
        assert!(event.is("auth.denied"), "{}", event.line);
        assert_eq!(event.count("payload.status_code"), 302);
        let answer = guarded.proxy.answer_to(&request(Form::Upgrade, "/private/x", &headers));
        assert_eq!(answer.head.status(), 401, "{answer:?}");
    }
    guarded.finish(&[]);
}

fn a_provider_in_trouble(driver: Driver) {
    for allow in [false, true] {
        let (mut guarded, provider) = stage(driver, Reply::Close, |setup| {
            setup.set("auth.on_kratos_unavailable", if allow { "allow_public" } else { "\"503\"" })
        });
        for reply in
            [Reply::Close, Reply::json(500, "{}"), Reply::json(200, "junk"), Reply::json(302, "{}")]
        {
            provider.say(WHOAMI, reply);
            guarded.denied("/private/x", &cookie("canary-three"), UNAVAILABLE);
            if allow {
                for head in guarded.allowed("/public/x", &cookie("canary-three")) {
                    assert_eq!(head.one("x-user-id"), None);
                }
            } else {
                guarded.denied("/public/x", &cookie("canary-three"), UNAVAILABLE);
            }
            guarded.allowed("/public/x", "");
        }
        provider.say(WHOAMI, session(true, "user"));
        guarded.allowed("/private/x", &cookie("canary-three"));
        let stopped = guarded.finish(&["canary-three"]);
        stopped.only("auth.provider_unavailable");
        stopped.only("auth.provider_recovered");
    }
}

fn roles_open_paths(driver: Driver) {
    let (mut guarded, provider) = stage(driver, session(true, "stranger"), |setup| {
        setup.set("auth.role_paths", "{admin: [\"/admin/*\"], moderator: [\"/admin/mod\"]}")
    });
    let denial = Denial {
        status: 403,
        code: "forbidden",
        message: "insufficient role for this path",
        reason: "insufficient_role",
    };
    guarded.denied("/admin/x", &cookie("good-cookie"), denial);
    for head in guarded.allowed("/private/x", &cookie("good-cookie")) {
        assert_eq!(head.one("x-user-role"), Some("user"), "an unknown role is none");
    }
    provider.say(WHOAMI, session(true, "moderator"));
    guarded.allowed("/admin/mod", &cookie("good-cookie"));
    guarded.denied("/admin/x", &cookie("good-cookie"), denial);
    provider.say(WHOAMI, session(true, "admin"));
    guarded.allowed("/admin/x", &cookie("good-cookie"));
    guarded.finish(&["good-cookie"]);
}

fn several_cookies(driver: Driver) {
    let (mut guarded, provider) = stage(driver, session(true, "user"), |setup| setup);
    let denial = Denial { reason: "multiple_credentials", ..NONE };
    let two = format!("{}{}", cookie("first-one"), cookie("second-one"));
    guarded.denied("/private/x", &two, denial);
    guarded.denied("/private/x", &cookie("first-one; ory_kratos_session=second-one"), denial);
    assert_eq!(provider.count(WHOAMI), 0);
    guarded.allowed("/private/x", &format!("{}{}", cookie("same"), cookie("same")));
    guarded.finish(&["first-one", "second-one"]);
}

fn checks_that_overlap_share_one_call(driver: Driver) {
    let (guarded, provider) = stage(driver, Reply::json(401, "{}"), |setup| setup);
    provider.hold();
    let ask = || guarded.proxy.sent(&request(Form::Plain, "/private/x", &cookie("held")));
    let clients: Vec<_> = (0..8).map(|_| ask()).collect();
    provider.wait_count(WHOAMI, 1);
    guarded.proxy.wait_metric(
        "vibewarden_auth_cache_total",
        &[("cache", "kratos"), ("result", "merged")],
        7.0,
    );
    assert_eq!(provider.count(WHOAMI), 1);
    provider.release();
    for mut client in clients {
        assert_denied(&client.read_answer(), &INVALID);
    }
    assert_eq!(provider.count(WHOAMI), 1);
    guarded.finish(&[]);
}

fn flows_go_to_the_provider(driver: Driver) {
    let (guarded, provider) = stage(driver, Reply::json(401, "{}"), |setup| setup);
    for path in ["/self-service/login/browser", "/.ory/kratos/public/x", WHOAMI] {
        provider.say(path, Reply::json(200, "\"flow\""));
        for form in FORMS {
            let before = provider.count(path);
            let mut client = guarded.proxy.sent(&request(form, &format!("{path}?a=%20b"), ""));
            let answer = client.read_response();
            assert_eq!(answer.status(), 200, "{answer:?}");
            assert_eq!(answer.body, b"\"flow\"");
            if form == Form::Plain {
                client.expect_end();
            }
            let asked = &provider.requests(path)[before];
            assert_eq!(asked.target(), format!("{path}?a=%20b"));
            assert_eq!(asked.head.one("upgrade"), None);
            guarded.upstream.assert_untouched();
        }
    }
    let stopped = guarded.finish(&[]);
    assert_eq!(stopped.of_kind("proxy.kratos_flow").len(), 6);
}

fn a_foreign_origin_is_refused_before_a_call(driver: Driver) {
    let (guarded, provider) = stage(driver, session(true, "user"), |setup| setup);
    let headers = format!("Origin: http://evil.test\r\n{}", cookie("good"));
    let answer = guarded.proxy.answer_to(&request(Form::Upgrade, "/private/x", &headers));
    assert_eq!(answer.head.status(), 403, "{answer:?}");
    assert_eq!(said(&answer), "origin_not_allowed");
    assert_eq!(provider.count(WHOAMI), 0);
    guarded.allowed_as(Form::Plain, "/private/x", &headers);
    guarded.allowed("/private/x", &format!("Origin: http://t.test\r\n{}", cookie("good")));
    guarded.finish(&[]);
}
