//! 10.4, 5.1 step 7: the flows of Kratos go to Kratos alone, nothing else does, and no other mode knows of them.

use crate::auth_api_key::keyed;
use crate::auth_kratos::{NONE, WHOAMI, cookie, stage};
use crate::harness::guarded::{FORMS, Form, request};
use crate::harness::provider::Reply;
use crate::harness::{Driver, Setup, Upstream, forwarded, wire};

on_drivers!(
    every: ;
    both:
        every_flow_goes_to_the_provider,
        a_flow_is_relayed_as_it_is,
        neighbours_of_flows_are_no_flows,
        no_spelling_leads_elsewhere_at_the_provider,
        a_flow_without_a_provider_reaches_nobody,
        flows_are_not_written_down_without_an_access_log,
        other_modes_know_no_flows,
);

const FLOWS: [&str; 14] = [
    "/self-service/login",
    "/self-service/login/browser",
    "/self-service/login/flows",
    "/self-service/registration",
    "/self-service/registration/api",
    "/self-service/logout",
    "/self-service/logout/browser",
    "/self-service/settings/browser",
    "/self-service/recovery/link",
    "/self-service/verification/code/x",
    "/.ory/kratos/public/",
    "/.ory/kratos/public/x/y",
    "/self-service/login/",
    WHOAMI,
];

fn every_flow_goes_to_the_provider(driver: Driver) {
    let (guarded, provider) = stage(driver, Reply::json(401, "{}"), |setup| setup);
    for path in FLOWS {
        for form in FORMS {
            // A cookie is not checked here, an origin neither; nobody names himself.
            let headers = format!(
                "X-User-Id: root\r\nX_User_Id: root\r\nOrigin: http://evil.test\r\n{}",
                cookie("flow-cookie")
            );
            let before = provider.count(path);
            let bytes = request(form, &format!("{path}?flow=%20b&x"), &headers);
            let mut client = guarded.proxy.sent(&bytes);
            client.read_response();
            client.expect_end();
            let asked = provider.requests(path);
            assert_eq!(asked.len(), before + 1, "{path}: one request and no check");
            let head = &asked[before].head;
            assert_eq!(head.line, format!("GET {path}?flow=%20b&x HTTP/1.1"));
            assert_eq!(head.all("cookie"), ["ory_kratos_session=flow-cookie"]);
            assert_eq!((head.one("x-user-id"), head.one("x_user_id")), (None, None));
            assert_eq!((head.one("upgrade"), head.one("via")), (None, Some("1.1 vibewarden")));
            assert_eq!(head.one("x-forwarded-for"), Some("127.0.0.1"));
            guarded.upstream.assert_untouched();
        }
    }
    let stopped = guarded.finish(&["flow-cookie"]);
    let flows = stopped.of_kind("proxy.kratos_flow");
    assert_eq!(flows.len(), 2 * FLOWS.len());
    for (event, path) in flows.iter().zip(FLOWS.iter().flat_map(|path| [path, path])) {
        assert_eq!(event.text("payload.path"), *path, "{}", event.line);
        let status = if *path == WHOAMI { 401 } else { 404 };
        assert_eq!(event.count("payload.status_code"), status, "{}", event.line);
    }
    let ends = stopped.events.iter().filter(|event| event.ends_a_request());
    assert_eq!(ends.count(), flows.len());
}

/// Bodies, redirects and cookies of both sides.
fn a_flow_is_relayed_as_it_is(driver: Driver) {
    let (guarded, provider) = stage(driver, Reply::json(401, "{}"), |setup| setup);
    let path = "/self-service/login";
    let headers = "Location: http://app.test/home?a=%2f\r\nSet-Cookie: ory_kratos_session=new; HttpOnly\r\n\
        Set-Cookie: csrf=1; Path=/\r\nCache-Control: private\r\n";
    provider.say(path, Reply::Answer(303, headers.to_owned(), "see there".to_owned()));
    let answer = guarded.proxy.answer_to(&wire(format!(
        "POST {path}?flow=1 HTTP/1.1\r\n{{H}}Content-Type: application/x-www-form-urlencoded\r\nCookie: csrf=1; a=b\r\n\
         Accept: text/html\r\nContent-Length: 18\r\nConnection: close\r\n\r\npassword=secret%20"
    )));
    assert_eq!(answer.head.status(), 303, "{answer:?}");
    assert_eq!(answer.head.one("location"), Some("http://app.test/home?a=%2f"));
    assert_eq!(
        answer.head.all("set-cookie"),
        ["ory_kratos_session=new; HttpOnly", "csrf=1; Path=/"]
    );
    assert_eq!(answer.head.one("cache-control"), Some("private"));
    assert_eq!(answer.body, b"see there");
    let asked = provider.requests(path).pop().expect("a request");
    assert_eq!(asked.head.line, format!("POST {path}?flow=1 HTTP/1.1"));
    assert_eq!(asked.body, b"password=secret%20");
    assert_eq!(asked.head.all("cookie"), ["csrf=1; a=b"]);
    assert_eq!(asked.head.one("accept"), Some("text/html"));
    let chunked = wire(format!(
        "POST {path} HTTP/1.1\r\n{{H}}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    ));
    assert_eq!(guarded.proxy.answer_to(&chunked).head.status(), 303);
    assert_eq!(provider.requests(path).pop().expect("a request").body, b"hello");
    let stopped = guarded.finish(&["secret%20"]);
    assert_eq!(stopped.of_kind("proxy.kratos_flow").len(), 2);
    assert_eq!(stopped.of_kind("proxy.kratos_flow")[0].text("payload.method"), "POST");
}

/// Each of these is a path of the application, which needs a session.
fn neighbours_of_flows_are_no_flows(driver: Driver) {
    let (mut guarded, provider) = stage(driver, Reply::json(401, "{}"), |setup| setup);
    for path in [
        "/self-service",
        "/self-service/",
        "/self-service/loginx",
        "/self-service/login-evil/x",
        "/self-service/errors",
        "/self-service/x/login",
        "/Self-Service/login",
        "/self-service/Login",
        "/x/self-service/login",
        "/sessions",
        "/sessions/whoamix",
        "/sessions/whoami/x",
        "/sessions/whoami/",
        "/sessions/other",
        "/.ory/kratos",
        "/.ory/kratos/publicx",
        "/.ory/kratos/admin/identities",
        "/.ory/kratos/public-evil/x",
        "/ory/kratos/public/x",
        "/admin/identities",
        "/x?/self-service/login",
    ] {
        guarded.denied(path, "", NONE);
        let bare = path.split('?').next().expect("a path");
        assert_eq!(provider.count(bare), 0, "{path} went to the provider");
    }
    guarded.finish(&[]);
}

/// E58 to E72 at the provider: what it would decode or normalise to a path that is no flow.
fn no_spelling_leads_elsewhere_at_the_provider(driver: Driver) {
    let (guarded, provider) = stage(driver, Reply::json(401, "{}"), |setup| setup);
    for path in [
        "/self-service/login/../../admin/identities",
        "/self-service/login/%2e%2e/%2e%2e/admin/identities",
        "/self-service/login/..%2f..%2fadmin",
        "/self-service/login/..;/..;/admin",
        "/self-service/login/..%5c..%5cadmin",
        "/.ory/kratos/public/../admin/identities",
        "/.ory/kratos/public/%2e%2e/admin/identities",
        "/sessions/whoami/..",
        "/sessions/whoami%00",
        "/self-service/login/%zz",
        "/sessions/whoami%0d%0aX:%20y",
    ] {
        for form in FORMS {
            let answer = guarded.proxy.answer_to(&request(form, path, ""));
            answer.assert_refusal(400, "bad_request");
        }
    }
    // Here the contract leaves it open who sees it; the application never does without a session.
    for path in [
        "//self-service/login",
        "/self-service//login",
        "/self-service/login//x",
        "/self-service%2flogin",
        "/self-service;/login",
        "/self-service/login;x",
        "/self-service/login/%252e%252e/%252e%252e/admin",
        "/.ory/kratos/public%2fx",
        "/sessions%2fwhoami",
        "/%73essions/whoami",
    ] {
        for form in FORMS {
            let before = provider.count(path);
            let mut client = guarded.proxy.sent(&request(form, path, ""));
            let answer = client.read_answer();
            if provider.count(path) == before {
                assert!([400, 401].contains(&answer.head.status()), "{path}: {answer:?}");
            }
            guarded.upstream.assert_untouched();
        }
    }
    guarded.finish(&[]);
}

/// The answer is the proxy's own; the contract leaves open which of the two.
fn a_flow_without_a_provider_reaches_nobody(driver: Driver) {
    let (guarded, provider) = stage(driver, Reply::Close, |setup| setup);
    drop(provider);
    for form in FORMS {
        let answer = guarded.proxy.answer_to(&request(form, "/self-service/login", ""));
        let code = match answer.head.status() {
            502 => "upstream_unavailable",
            _ => "auth_provider_unavailable",
        };
        let id = answer.assert_refusal(answer.head.status(), code);
        let event = guarded.proxy.wait_event(&id, |event| event.request_id() == id);
        assert!(event.ends_a_request(), "{}", event.line);
        assert!(!event.is("request.proxied"), "{}", event.line);
    }
    // The application is not taken down with it.
    guarded.allowed("/public/x", "");
    guarded.finish(&[]);
}

fn flows_are_not_written_down_without_an_access_log(driver: Driver) {
    let (mut guarded, _provider) =
        stage(driver, Reply::json(401, "{}"), |setup| setup.set("log.access_log", "false"));
    let answer = guarded.proxy.answer_to(&request(Form::Plain, WHOAMI, ""));
    assert_eq!(answer.head.status(), 401);
    guarded.allowed("/public/x", "");
    guarded.denied("/private/x", "", NONE);
    let stopped = guarded.finish(&[]);
    let ends = stopped.events.iter().filter(|event| event.ends_a_request());
    assert_eq!(ends.count(), 2, "{:#?}", stopped.events);
}

fn other_modes_know_no_flows(driver: Driver) {
    let upstream = Upstream::start();
    let open = Setup::new(driver, upstream.url()).start();
    let keyed = keyed(driver, &upstream).start();
    for path in ["/self-service/login/browser", "/.ory/kratos/public/x", WHOAMI] {
        let seen = forwarded(&open, &upstream, &request(Form::Plain, path, ""));
        assert_eq!(seen.target(), path);
        for form in FORMS {
            let answer = keyed.answer_to(&request(form, path, ""));
            answer.assert_refusal(401, "unauthorized");
            upstream.assert_untouched();
        }
    }
    // Nor do they have the public paths of the pages around the login.
    let answer = keyed.answer_to(&request(Form::Plain, "/login", ""));
    answer.assert_refusal(401, "unauthorized");
    upstream.assert_untouched();
}
