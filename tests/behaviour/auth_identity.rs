//! Contract 6.3, E49 to E52, B31: who somebody is comes from the proxy alone, in every mode, whatever `Connection` names.

use crate::auth_api_key::{READ_KEY, keyed, passes, plain, with};
use crate::harness::http::{Head, is_made_request_id};
use crate::harness::upstream::Serving;
use crate::harness::{Driver, Setup, Upstream};

on_drivers!(
    every: ;
    both:
        identity_headers_of_clients_stay_behind_in_every_mode,
        headers_of_claims_stay_behind_on_public_paths,
        a_session_gives_identity_headers_once,
        nothing_that_the_proxy_sets_can_be_named_away,
);

const FORGED: &str = "X-User-Id: admin\r\nX-User-Id: second\r\nx-user-id: third\r\nX-USER-EMAIL: a@evil.test\r\nX-User-Role: admin\r\n\
    X-User-Verified: true\r\nX-User-Anything: 1\r\nX-User-: 1\r\nX_User_Id: admin\r\nX.User.Id: admin\r\nX-User_Id: admin\r\n\
    x_user.email: a@evil.test\r\nX-User.Role: admin\r\nX-Users: kept\r\nX_Kept: kept\r\n";

/// Names that are, or look like, an identity.
fn identities(head: &Head) -> Vec<(&str, &str)> {
    let named = head.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    named
        .filter(|(name, _)| name.to_lowercase().replace(['_', '.'], "-").starts_with("x-user-"))
        .collect()
}

fn identity_headers_of_clients_stay_behind_in_every_mode(driver: Driver) {
    let upstream = Upstream::start();
    let fresh = || Setup::new(driver, upstream.url());
    let nobody = "\"http://127.0.0.1:1\"";
    let kratos = fresh().set("auth.mode", "kratos").set("kratos.public_url", nobody);
    let modes = [
        (fresh(), String::new()),
        (keyed(driver, &upstream), with(READ_KEY)),
        (keyed(driver, &upstream).set("auth.public_paths", "[\"/e\"]"), String::new()),
        (kratos.set("auth.public_paths", "[\"/e\"]"), String::new()),
    ];
    for (setup, credential) in modes {
        let proxy = setup.start();
        for head in passes(&proxy, &upstream, "/e", &format!("{FORGED}{credential}")) {
            assert_eq!(identities(&head), [], "with {}", setup.yaml());
            assert_eq!((head.one("x-users"), head.one("x_kept")), (Some("kept"), Some("kept")));
        }
    }
}

/// 6.3: the names that claims are given are identity headers too. The provider is not there; a public path needs none.
fn headers_of_claims_stay_behind_on_public_paths(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = Setup::new(driver, upstream.url())
        .set("auth.mode", "jwt")
        .set("auth.public_paths", "[\"/e\"]")
        .set("auth.jwt.jwks_url", "\"http://127.0.0.1:1/jwks\"")
        .set("auth.jwt.issuer", "\"https://issuer.test\"")
        .set("auth.jwt.audience", "app")
        .set("auth.jwt.claims_to_headers", "{sub: X-User-Id, team: X-Tenant}")
        .start();
    let tenant = "X-Tenant: evil\r\nx-tenant: evil\r\nX_Tenant: evil\r\nX.Tenant: evil\r\nX-Tenants: kept\r\n";
    for lines in
        [format!("{FORGED}{tenant}"), format!("{FORGED}{tenant}Authorization: Bearer x.y.z\r\n")]
    {
        for head in passes(&proxy, &upstream, "/e", &lines) {
            assert_eq!(identities(&head), []);
            let like = |name: &&str| name.to_lowercase().replace(['_', '.'], "-") == "x-tenant";
            assert!(!head.names().iter().any(like), "{head:?}");
            assert_eq!(head.one("x-tenants"), Some("kept"));
        }
    }
    let refused = proxy.answer_to(&plain("/private", FORGED));
    assert_eq!(refused.head.status(), 401, "{refused:?}");
    assert_eq!(refused.head.one("www-authenticate"), Some("Bearer"));
    refused.assert_refusal(401, "unauthorized");
    upstream.assert_untouched();
}

/// A provider that knows everybody with a cookie as the same user.
fn provider() -> Serving {
    const SESSION: &str = "{\"active\":true,\"expires_at\":\"2999-01-01T00:00:00Z\",\"identity\":{\"id\":\"user-1\",\
        \"traits\":{\"email\":\"a@b.test\",\"role\":\"moderator\"},\
        \"verifiable_addresses\":[{\"value\":\"a@b.test\",\"via\":\"email\",\"verified\":true}]}}";
    Upstream::start().serve(|mut peer| {
        let head = peer.read_head();
        assert_eq!(head.line, "GET /sessions/whoami HTTP/1.1");
        let length = SESSION.len();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{SESSION}"
        );
        peer.send(answer.as_bytes());
        peer.drain();
    })
}

fn with_provider(driver: Driver, upstream: &Upstream, provider: &Serving) -> Setup {
    Setup::new(driver, upstream.url())
        .set("auth.mode", "kratos")
        .set("kratos.public_url", &format!("\"{}\"", provider.url()))
}

const COOKIE: &str = "Cookie: ory_kratos_session=abc\r\n";

const FOUND: [(&str, &str); 4] = [
    ("x-user-email", "a@b.test"),
    ("x-user-id", "user-1"),
    ("x-user-role", "moderator"),
    ("x-user-verified", "true"),
];

#[track_caller]
fn assert_found(head: &Head) {
    let mut seen: Vec<_> =
        identities(head).iter().map(|(name, value)| (name.to_lowercase(), *value)).collect();
    seen.sort();
    let seen: Vec<_> = seen.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    assert_eq!(seen, FOUND, "{head:?}");
}

/// E49, 10.4.
fn a_session_gives_identity_headers_once(driver: Driver) {
    let (upstream, provider) = (Upstream::start(), provider());
    let proxy = with_provider(driver, &upstream, &provider).start();
    for lines in [COOKIE.to_owned(), format!("{FORGED}{COOKIE}"), format!("{COOKIE}{FORGED}")] {
        for head in passes(&proxy, &upstream, "/e", &lines) {
            assert_found(&head);
        }
    }
}

/// B31, E10.
fn nothing_that_the_proxy_sets_can_be_named_away(driver: Driver) {
    let (upstream, provider) = (Upstream::start(), provider());
    let named = "Connection: X-User-Id, x-user-email, X-User-Role, X-User-Verified, X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host\r\n\
        Connection: X-Real-IP, X-Request-ID, Via, Authorization, Cookie, X-API-Key, Host, Content-Length\r\n\
        Connection: Sec-WebSocket-Key, Sec-WebSocket-Version, Sec-WebSocket-Protocol, Sec-WebSocket-Extensions\r\n";
    let setups = [
        (Setup::new(driver, upstream.url()), String::new(), false),
        (keyed(driver, &upstream), with(READ_KEY), false),
        (with_provider(driver, &upstream, &provider), COOKIE.to_owned(), true),
    ];
    for (setup, credential, has_session) in setups {
        let proxy = setup.start();
        let lines = format!(
            "{named}{credential}{FORGED}Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: x-y\r\n"
        );
        let [plain, upgrade] = passes(&proxy, &upstream, "/e", &lines);
        for head in [&plain, &upgrade] {
            for (name, value) in [
                ("host", "t.test"),
                ("x-forwarded-for", "127.0.0.1"),
                ("x-forwarded-proto", "http"),
                ("x-forwarded-host", "t.test"),
                ("x-real-ip", "127.0.0.1"),
                ("via", "1.1 vibewarden"),
            ] {
                assert_eq!(head.one(name), Some(value), "{name} in {head:?}");
            }
            assert!(is_made_request_id(head.one("x-request-id").unwrap_or_default()), "{head:?}");
            if has_session {
                assert_found(head);
            } else {
                assert_eq!(identities(head), []);
            }
        }
        for (name, value) in [
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", "13"),
            ("sec-websocket-protocol", "chat"),
            ("sec-websocket-extensions", "x-y"),
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
        ] {
            assert_eq!(upgrade.one(name), Some(value), "{name} in {upgrade:?}");
        }
    }
}
