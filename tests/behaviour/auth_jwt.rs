//! 10.1, 10.3, 10.5, 10.7: tokens as a client and an attacker send them, held against the answers, the events and what the application sees.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::harness::guarded::{Denial, FORMS, Form, Guarded, request, said};
use crate::harness::payload::find;
use crate::harness::provider::{Provider, Reply};
use crate::harness::token::{
    AUDIENCE, ISSUER, Key, claims, claims_without, encode, hmac_token, jwks, now,
};
use crate::harness::{ANSWER_101, Driver, Proxy, Setup, Upstream, eventually, vacant_address};

on_drivers!(
    every: ;
    both:
        good_tokens_pass_and_say_who_comes,
        what_carries_no_token,
        several_credentials,
        forged_tokens,
        claims_that_do_not_hold,
        keys_that_do_not_fit,
        claims_become_headers,
        a_token_of_nobody,
        an_unknown_key_is_looked_for_once,
        a_new_key_is_found_by_one_fetch,
        a_failed_fetch_keeps_the_last_set,
        a_provider_that_is_away_and_comes_back,
        sets_that_are_none,
        the_key_set_is_found_by_discovery,
        a_token_in_a_cookie,
        a_token_in_the_query,
        a_token_among_the_subprotocols,
        a_token_where_none_is_looked_for,
        a_tunnel_ends_with_its_token,
);

pub(crate) const NONE: Denial = Denial {
    status: 401,
    code: "unauthorized",
    message: "missing token",
    reason: "no_credentials",
};

pub(crate) const UNAVAILABLE: Denial = Denial {
    status: 503,
    code: "auth_provider_unavailable",
    message: "authentication service is temporarily unavailable",
    reason: "provider_unavailable",
};

/// A token that is there and not good.
pub(crate) const fn bad(reason: &'static str) -> Denial {
    Denial { status: 401, code: "invalid_token", message: "token is not valid", reason }
}

pub(crate) const EXPIRED: Denial = Denial { message: "token has expired", ..bad("token_expired") };

pub(crate) fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

pub(crate) fn setup(driver: Driver, upstream: &Upstream, jwks_url: &str) -> Setup {
    Setup::new(driver, upstream.url())
        .set("watch.enabled", "false")
        .set("auth.mode", "jwt")
        .set("auth.jwt.jwks_url", jwks_url)
        .set("auth.jwt.issuer", ISSUER)
        .set("auth.jwt.audience", AUDIENCE)
        .set("auth.public_paths", "[\"/public/*\"]")
}

/// A proxy that has fetched its keys, and a provider of one of each kind.
pub(crate) struct Stage {
    pub(crate) guarded: Guarded,
    pub(crate) provider: Provider,
    pub(crate) rsa: Key,
    pub(crate) elliptic: Key,
}

impl Stage {
    #[track_caller]
    pub(crate) fn new(driver: Driver, change: impl Fn(Setup) -> Setup) -> Self {
        let (rsa, elliptic) = (Key::rsa("rsa"), Key::elliptic("elliptic"));
        let provider = Provider::start();
        let set = jwks(&[rsa.jwk(json!({})), elliptic.jwk(json!({}))]);
        provider.say("/jwks", Reply::json(200, set));
        let upstream = Upstream::start();
        let setup = change(setup(driver, &upstream, &format!("{}/jwks", provider.url())));
        let guarded = Guarded::start(&setup, upstream);
        let event = wait_keys(&guarded.proxy);
        assert_eq!(event, 2);
        Self { guarded, provider, rsa, elliptic }
    }

    pub(crate) fn good(&self) -> String {
        self.elliptic.token(&claims(json!({})))
    }
}

/// Waits for the first key set; returns how many keys it has.
#[track_caller]
pub(crate) fn wait_keys(proxy: &Proxy) -> u64 {
    let event = proxy.wait_event("a key set", |event| event.is("auth.jwks_refresh"));
    event.count("payload.key_count")
}

#[track_caller]
fn challenge(answer: &crate::harness::Answer) -> &str {
    answer.head.one("www-authenticate").unwrap_or_else(|| panic!("no challenge: {answer:?}"))
}

/// Refused with 401 as no credential at all.
#[track_caller]
fn none(stage: &mut Stage, headers: &str) {
    for answer in stage.guarded.denied("/private/x", headers, NONE) {
        assert_eq!(challenge(&answer), "Bearer");
    }
}

/// Refused with 401 as a credential that is not good.
#[track_caller]
pub(crate) fn refused(stage: &mut Stage, headers: &str, denial: Denial) {
    for answer in stage.guarded.denied("/private/x", headers, denial) {
        let challenge = challenge(&answer);
        assert!(challenge.starts_with("Bearer"), "{challenge}");
        assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
    }
}

/// E4, E5, E10, E49, E50; 6.3.
fn good_tokens_pass_and_say_who_comes(driver: Driver) {
    let stage = Stage::new(driver, |setup| setup);
    let (rsa, elliptic) = (stage.rsa.token(&claims(json!({}))), stage.good());
    let spoofed = "X-User-Id: admin\r\nx-user-id: root\r\nX_User_Id: admin\r\nX.User.Id: admin\r\n\
                   X-User_Id: admin\r\nX-User-Email: a@b\r\nX-User-Role: admin\r\nX-User-Verified: no\r\n";
    for line in [
        bearer(&rsa),
        bearer(&elliptic),
        format!("authorization: bearer {rsa}\r\n"),
        format!("Authorization: BEARER {rsa}\r\n"),
        format!("Authorization: BeArEr   {elliptic}\r\n"),
        format!("Authorization: Bearer {elliptic} \t\r\n"),
        format!("{}{}", bearer(&rsa), bearer(&rsa)),
    ] {
        for head in stage.guarded.allowed("/private/x?y=1", &format!("{spoofed}{line}")) {
            assert_eq!(head.line, "GET /private/x?y=1 HTTP/1.1");
            assert_eq!(head.one("x-user-id"), Some("zoe"), "{head:?}");
            assert_eq!(head.one("x-user-email"), Some("zoe@example.test"));
            assert_eq!(head.one("x-user-verified"), Some("true"));
            assert_eq!(head.one("x-user-role"), None, "{head:?}");
            assert!(!format!("{head:?}").contains("admin"), "{head:?}");
            assert!(!head.all("authorization").is_empty(), "{head:?}");
        }
    }
    // A hop-by-hop option takes the header away behind the proxy, not before it looks.
    for form in FORMS {
        let bytes = request(form, "/private/x", &bearer(&rsa));
        let text = String::from_utf8(bytes).expect("text");
        let text = text.replace("Connection: ", "Connection: Authorization, X-User-Id, ");
        let head = stage.guarded.allowed_raw(form, text.as_bytes());
        assert_eq!(head.one("x-user-id"), Some("zoe"), "{head:?}");
        assert_eq!(head.one("authorization"), None, "{head:?}");
    }
    // On a public path nothing is asked, and nobody names himself.
    for line in ["", "Authorization: Bearer junk\r\n"] {
        for head in stage.guarded.allowed("/public/x", &format!("{spoofed}{line}")) {
            assert_eq!(head.one("x-user-id"), None, "{head:?}");
            assert!(!format!("{head:?}").contains("admin"), "{head:?}");
        }
    }
    let stopped = stage.guarded.finish(&[&rsa, &elliptic]);
    for event in stopped.of_kind("request.proxied") {
        let private = event.text("payload.path") == "/private/x";
        assert_eq!(
            event.text("payload.user_id"),
            if private { "zoe" } else { "" },
            "{}",
            event.line
        );
    }
}

/// E1, E5, E7, E8.
fn what_carries_no_token(driver: Driver) {
    let mut stage = Stage::new(driver, |setup| setup);
    let good = stage.good();
    for headers in [
        String::new(),
        "Authorization:\r\n".to_owned(),
        "Authorization: Bearer\r\n".to_owned(),
        "Authorization: Bearer   \r\n".to_owned(),
        "Authorization: Basic em9lOnpvZQ==\r\n".to_owned(),
        format!("Proxy-Authorization: Bearer {good}\r\n"),
        format!("X-Authorization: Bearer {good}\r\n"),
        format!("Cookie: token={good}\r\n"),
        format!("Sec-WebSocket-Protocol: bearer.{good}, chat\r\n"),
    ] {
        none(&mut stage, &headers);
    }
    for headers in [
        format!("Authorization: Bearer\t{good}\r\n"),
        format!("Authorization: Bearer{good}\r\n"),
        format!("Authorization: {good}\r\n"),
    ] {
        for form in FORMS {
            let answer = stage.guarded.proxy.answer_to(&request(form, "/private/x", &headers));
            assert_eq!(answer.head.status(), 401, "{headers:?}: {answer:?}");
            assert!(challenge(&answer).starts_with("Bearer"));
            stage.guarded.upstream.assert_untouched();
        }
    }
    for line in
        ["Authorization : ", "Authorization\0: ", "Authorization\u{a0}: ", "Authorization: \u{b}"]
    {
        for form in FORMS {
            let headers = format!("{line}Bearer {good}\r\n");
            let answer = stage.guarded.proxy.answer_to(&request(form, "/private/x", &headers));
            answer.assert_refusal(400, "bad_request");
            stage.guarded.upstream.assert_untouched();
        }
    }
    for form in FORMS {
        let headers = format!("Proxy-Authorization: Bearer {good}\r\n");
        let head = stage.guarded.allowed_as(form, "/public/x", &headers);
        assert_eq!(head.one("proxy-authorization"), None);
    }
    // HEAD has the same head and no body.
    let answer = stage
        .guarded
        .proxy
        .answer_to(b"HEAD /private/x HTTP/1.1\r\nHost: t.test\r\nConnection: close\r\n\r\n");
    answer.assert_refusal_without_body(401);
    stage.guarded.finish(&[&good]);
}

/// E2, E11, E17; the last row of 10.1.
fn several_credentials(driver: Driver) {
    let mut stage = Stage::new(driver, |setup| {
        setup.set("auth.jwt.sources", "[header, \"cookie:sid\", \"query:token\"]")
    });
    let good = stage.good();
    let other = stage.rsa.token(&claims(json!({"sub": "ann"})));
    let two = |a: &str, b: &str| format!("{}{}", bearer(a), bearer(b));
    for headers in [
        two("junk", &good),
        two(&good, "junk"),
        two(&good, &other),
        format!("{}Cookie: sid={other}\r\n", bearer(&good)),
        format!("{}Cookie: sid=junk\r\n", bearer(&good)),
        format!("Cookie: sid={good}; sid={other}\r\n"),
        format!("Cookie: sid=bad; sid={good}\r\n"),
        format!("Cookie: sid={good}\r\nCookie: sid=bad\r\n"),
    ] {
        refused(&mut stage, &headers, bad("multiple_credentials"));
    }
    for (target, headers) in [
        (format!("/private/x?token={other}"), bearer(&good)),
        (format!("/private/x?token={other}&token={good}"), String::new()),
        (format!("/private/x?token={other}"), format!("Cookie: sid={good}\r\n")),
    ] {
        stage.guarded.denied(&target, &headers, bad("multiple_credentials"));
    }
    // Equal repeats count as one.
    for headers in [
        two(&good, &good),
        format!("{}Cookie: sid={good}; sid={good}\r\n", bearer(&good)),
        format!("Cookie: sid={good}\r\nCookie: a=b; sid={good}\r\n"),
    ] {
        for head in stage.guarded.allowed(&format!("/private/x?token={good}"), &headers) {
            assert_eq!(head.one("x-user-id"), Some("zoe"));
        }
    }
    stage.guarded.finish(&[&good, &other]);
}

/// Refused as a bad token for whatever reason: the contract names none for these.
#[track_caller]
fn refused_somehow(stage: &mut Stage, what: &str, token: &str) {
    for form in FORMS {
        let bytes = request(form, "/private/x", &bearer(token));
        let answer = stage.guarded.proxy.answer_to(&bytes);
        assert_eq!(answer.head.status(), 401, "{what}: {answer:?}");
        assert_eq!(said(&answer), "invalid_token", "{what}");
        stage.guarded.upstream.assert_untouched();
        let id = answer.head.one("x-request-id").unwrap_or_default();
        let event = stage
            .guarded
            .proxy
            .wait_event(&format!("the end of {id}"), |event| event.request_id() == id);
        assert!(event.is("auth.denied"), "{}", event.line);
    }
}

/// E23, E24, E28, E29, E30, E40.
fn forged_tokens(driver: Driver) {
    let mut stage = Stage::new(driver, |setup| setup);
    let good = stage.good();
    let (signed, signature) = good.rsplit_once('.').expect("three parts");
    let (signed, signature) = (signed.to_owned(), signature.to_owned());
    let claims = claims(json!({}));
    for alg in [json!("none"), json!("None"), json!("nOnE"), json!("NONE"), json!(""), Value::Null]
    {
        let mut header = stage.rsa.header(json!({"alg": alg}));
        if alg.is_null() {
            header.as_object_mut().expect("an object").remove("alg");
        }
        let parts = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        for end in ["", "junk", signature.as_str()] {
            refused_somehow(&mut stage, &format!("alg {alg}"), &format!("{parts}.{end}"));
        }
    }
    let mut secrets = stage.rsa.public_bytes();
    let body = STANDARD.encode(&secrets[0]);
    let lines: Vec<&str> =
        body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("text")).collect();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", lines.join("\n"));
    secrets.push(pem.clone().into_bytes());
    secrets.push(format!("{pem}\n").into_bytes());
    secrets.push(stage.rsa.jwk(json!({})).to_string().into_bytes());
    for secret in secrets {
        let token = hmac_token(&stage.rsa.header(json!({"alg": "HS256"})), &claims, &secret);
        refused(&mut stage, &bearer(&token), bad("algorithm_not_allowed"));
    }
    let stranger = Key::elliptic("elliptic");
    refused(&mut stage, &bearer(&stranger.token(&claims)), bad("invalid_signature"));
    let other = stage.elliptic.token(&crate::harness::token::claims(json!({"sub": "root"})));
    let payload = other.split('.').nth(1).expect("three parts").to_owned();
    let swapped = format!("{}.{payload}.{signature}", signed.split('.').next().expect("a part"));
    refused(&mut stage, &bearer(&swapped), bad("invalid_signature"));
    let cut = &signature[..signature.len() - 1];
    let flipped = signature.replacen(
        signature.get(..1).expect("text"),
        if signature.starts_with('A') { "B" } else { "A" },
        1,
    );
    // 64 bytes leave four spare bits in the last character.
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = alphabet.find(&signature[cut.len()..]).expect("base64url");
    let spare = format!("{cut}{}", &alphabet[last + 1..last + 2]);
    let four = format!("{signature}.{signature}");
    for end in
        [&format!("{signature}AAA"), cut, &flipped, &spare, "", &four, &format!("{signature}=")]
    {
        refused_somehow(&mut stage, end, &format!("{signed}.{end}"));
    }
    for token in ["junk", "a.b", "a.b.c.d.e", "..", ".", "....", &".".repeat(4000), &signed] {
        refused_somehow(&mut stage, "segments", token);
    }
    let set = jwks(&[stranger.jwk(json!({}))]);
    stage.provider.say("/evil", Reply::json(200, set));
    let evil = format!("{}/evil", stage.provider.url());
    for more in [
        json!({"jwk": stranger.jwk(json!({}))}),
        json!({"jku": evil}),
        json!({"x5u": evil}),
        json!({"x5c": [encode("junk")]}),
    ] {
        let header = stage.elliptic.header(more.clone()).to_string();
        let token = stranger.sign(&header, &claims.to_string());
        refused(&mut stage, &bearer(&token), bad("invalid_signature"));
        // The members mean nothing, so they do no harm either.
        let token = stage.elliptic.sign(&header, &claims.to_string());
        stage.guarded.allowed("/private/x", &bearer(&token));
    }
    assert_eq!(stage.provider.count("/evil"), 0);
    for crit in [json!(["exp"]), json!(["x"]), json!([]), json!("exp")] {
        let header = stage.elliptic.header(json!({"crit": crit}));
        let token = stage.elliptic.sign(&header.to_string(), &claims.to_string());
        refused_somehow(&mut stage, "crit", &token);
    }
    let header = stage.elliptic.header(json!({"crit": ["b64"], "b64": false})).to_string();
    let token = stage.elliptic.sign(&header, &claims.to_string());
    refused_somehow(&mut stage, "b64", &token);
    let twice = r#"{"alg":"RS256","alg":"ES256","kid":"elliptic"}"#;
    let token = stage.elliptic.sign(twice, &claims.to_string());
    refused_somehow(&mut stage, "alg twice", &token);
    stage.guarded.finish(&[&signature]);
}

/// E36, E38; 10.5.
fn claims_that_do_not_hold(driver: Driver) {
    let mut stage = Stage::new(driver, |setup| setup);
    let time = now();
    let with = |stage: &Stage, changed: Value| stage.elliptic.token(&claims(changed));
    for (changed, denial) in [
        (json!({"exp": time - 120}), EXPIRED),
        (json!({"exp": 0}), EXPIRED),
        (json!({"nbf": time + 120}), bad("token_not_yet_valid")),
        (json!({"iat": time + 120}), bad("token_not_yet_valid")),
        (json!({"iss": "https://issuer.test/"}), bad("invalid_issuer")),
        (json!({"iss": "https://ISSUER.test"}), bad("invalid_issuer")),
        (json!({"iss": ""}), bad("invalid_issuer")),
        (json!({"aud": "vibewarden2"}), bad("invalid_audience")),
        (json!({"aud": "vibe"}), bad("invalid_audience")),
        (json!({"aud": "Vibewarden"}), bad("invalid_audience")),
        (json!({"aud": "vibewarden/"}), bad("invalid_audience")),
        (json!({"aud": ["a", "b"]}), bad("invalid_audience")),
        (json!({"aud": []}), bad("invalid_audience")),
    ] {
        let token = with(&stage, changed);
        refused(&mut stage, &bearer(&token), denial);
    }
    for changed in [
        json!({"exp": "4000000000"}),
        json!({"exp": null}),
        json!({"exp": [time + 600]}),
        json!({"exp": -1}),
        json!({"exp": true}),
        json!({"nbf": "1"}),
        json!({"nbf": null}),
        json!({"iat": "1"}),
        json!({"iss": [ISSUER]}),
        json!({"iss": null}),
        json!({"aud": ["vibewarden", ["b"]]}),
        json!({"aud": {"vibewarden": 1}}),
        json!({"aud": null}),
    ] {
        let token = with(&stage, changed.clone());
        refused_somehow(&mut stage, &changed.to_string(), &token);
    }
    for absent in ["exp", "iss", "aud"] {
        let token = stage.elliptic.token(&claims_without(absent));
        refused_somehow(&mut stage, absent, &token);
    }
    let header = stage.elliptic.header(json!({})).to_string();
    let base = format!(r#""iss":"{ISSUER}","aud":"{AUDIENCE}","sub":"zoe""#);
    for text in [
        format!(r#"{{{base},"exp":1e400}}"#),
        format!(r#"{{{base},"exp":1,"exp":4000000000}}"#),
        format!(r#"{{{base},"exp":4000000000,"sub":"root"}}"#),
        format!(r#"{{{base},"exp":4000000000}} "#).repeat(2),
        format!(r#"[{{{base},"exp":4000000000}}]"#),
        "\"text\"".to_owned(),
        String::new(),
    ] {
        let token = stage.elliptic.sign(&header, &text);
        refused_somehow(&mut stage, &text, &token);
    }
    for changed in [
        json!({"exp": time - 5}),
        json!({"nbf": time + 5}),
        json!({"iat": time + 5}),
        json!({"aud": ["other", AUDIENCE]}),
        json!({"aud": [AUDIENCE]}),
    ] {
        let token = with(&stage, changed);
        stage.guarded.allowed("/private/x", &bearer(&token));
    }
    stage.guarded.finish(&[]);
}

/// E25, E35, E48; `kid` of 10.5.
fn keys_that_do_not_fit(driver: Driver) {
    let mut stage = Stage::new(driver, |setup| setup.set("auth.jwt.allowed_algorithms", "[RS256]"));
    let (rsa, elliptic) = (stage.rsa.token(&claims(json!({}))), stage.good());
    refused(&mut stage, &bearer(&elliptic), bad("algorithm_not_allowed"));
    stage.guarded.allowed("/private/x", &bearer(&rsa));
    let crossed = stage.elliptic.header(json!({"alg": "RS256"})).to_string();
    let crossed = stage.elliptic.sign(&crossed, &claims(json!({})).to_string());
    refused_somehow(&mut stage, "RS256 by a curve", &crossed);
    let nameless = stage.rsa.header(json!({"kid": null})).to_string().replace(",\"kid\":null", "");
    let nameless = nameless.replace("\"kid\":null,", "");
    let nameless = stage.rsa.sign(&nameless, &claims(json!({})).to_string());
    drop(stage);
    let good = Key::rsa("good");
    for misfit in [
        json!({"alg": "PS256"}),
        json!({"use": "enc"}),
        json!({"key_ops": ["sign"]}),
        json!({"key_ops": []}),
        json!({"kty": "EC"}),
        json!({"n": "!!"}),
        json!({"e": ""}),
    ] {
        let key = Key::rsa("misfit");
        let provider = Provider::start();
        let oct =
            json!({"kty": "oct", "kid": "oct", "k": encode("a secret of thirty-two bytes ok.")});
        let set = jwks(&[
            json!(7),
            key.jwk(misfit.clone()),
            oct,
            good.jwk(json!({"alg": "RS256", "use": "sig", "key_ops": ["verify"]})),
        ]);
        provider.say("/jwks", Reply::json(200, set));
        let upstream = Upstream::start();
        let setup = setup(driver, &upstream, &format!("{}/jwks", provider.url()));
        let guarded = Guarded::start(&setup, upstream);
        wait_keys(&guarded.proxy);
        let mut stage = Stage { guarded, provider, rsa: key, elliptic: Key::elliptic("e") };
        let token = stage.rsa.token(&claims(json!({})));
        refused_somehow(&mut stage, &misfit.to_string(), &token);
        let header = json!({"alg": "HS256", "kid": "oct"});
        let token = hmac_token(&header, &claims(json!({})), b"a secret of thirty-two bytes ok.");
        refused(&mut stage, &bearer(&token), bad("algorithm_not_allowed"));
        stage.guarded.allowed("/private/x", &bearer(&good.token(&claims(json!({})))));
    }
    // Without a name a token needs a set of one key.
    let mut stage = Stage::new(driver, |setup| setup);
    refused_somehow(&mut stage, "two keys, no kid", &nameless);
    let single = Provider::start();
    single.say("/jwks", Reply::json(200, jwks(&[good.jwk(json!({}))])));
    let upstream = Upstream::start();
    let setup = setup(driver, &upstream, &format!("{}/jwks", single.url()));
    let guarded = Guarded::start(&setup, upstream);
    assert_eq!(wait_keys(&guarded.proxy), 1);
    let token = good.sign(r#"{"alg":"RS256"}"#, &claims(json!({})).to_string());
    guarded.allowed("/private/x", &bearer(&token));
}

/// E49, E52; the map of 10.5.
fn claims_become_headers(driver: Driver) {
    let stage = Stage::new(driver, |setup| {
        setup.set(
            "auth.jwt.claims_to_headers",
            "{sub: X-Who, roles: X-Roles, level: X-Level, admin: X-Admin, note: X-Note}",
        )
    });
    let spoofed =
        "X-Who: admin\r\nX-ROLES: admin\r\nX_Roles: admin\r\nX-User-Id: admin\r\nX-Note: admin\r\n";
    let token = stage.rsa.token(&claims(json!({
        "roles": ["a", "b"], "level": 1.50, "admin": false, "note": "x\r\nX-Roles: admin",
    })));
    for head in stage.guarded.allowed("/private/x", &format!("{spoofed}{}", bearer(&token))) {
        assert_eq!(head.one("x-who"), Some("zoe"));
        assert_eq!(head.one("x-roles"), Some("a,b"));
        assert_eq!(head.one("x-level"), Some("1.5"));
        assert_eq!(head.one("x-admin"), Some("false"));
        assert_eq!(head.one("x-note"), None, "control characters");
        assert_eq!(head.one("x-user-id"), None, "{head:?}");
        assert!(!format!("{head:?}").contains(": admin"), "{head:?}");
        assert!(!head.names().contains(&"X_Roles"), "{head:?}");
    }
    let long = "x".repeat(1025);
    let token = stage.rsa.token(&claims(json!({"roles": [], "note": long})));
    for head in stage.guarded.allowed("/private/x", &format!("{spoofed}{}", bearer(&token))) {
        assert_eq!(head.one("x-note"), None, "over 1 KiB");
        assert_ne!(head.one("x-roles"), Some("admin"));
    }
    stage.guarded.finish(&[&token]);
}

/// E45, E52.
fn a_token_of_nobody(driver: Driver) {
    let mut stage = Stage::new(driver, |setup| setup);
    for sub in
        ["a\r\nX-Role: admin", "a\0b", "a\tb", "\u{7f}", &"x".repeat(1025), &"x".repeat(5_000)]
    {
        let token = stage.elliptic.token(&claims(json!({"sub": sub})));
        refused_somehow(&mut stage, sub, &token);
    }
    for (sub, expected) in
        [(json!("x".repeat(1024)), "x".repeat(1024)), (json!("zoë"), "zoë".to_owned())]
    {
        let token = stage.elliptic.token(&claims(json!({"sub": sub})));
        for head in stage.guarded.allowed("/private/x", &bearer(&token)) {
            assert_eq!(head.one("x-user-id"), Some(expected.as_str()));
        }
    }
    // RFC 7519 section 4.1.2: it is a string.
    for sub in [json!(42), json!(["zoe"]), json!({"id": "zoe"})] {
        let token = stage.elliptic.token(&claims(json!({"sub": sub})));
        refused_somehow(&mut stage, "sub of another type", &token);
    }
    let token = stage.elliptic.token(&claims_without("sub"));
    let headers = format!("X-User-Id: admin\r\n{}", bearer(&token));
    for head in stage.guarded.allowed("/private/x", &headers) {
        assert_eq!(head.one("x-user-id"), None, "{head:?}");
    }
    stage.guarded.finish(&[]);
}

/// 10.5: at most one fetch in 10 s. The fetch of the start is not one that a stranger caused.
fn an_unknown_key_is_looked_for_once(driver: Driver) {
    let mut stage = Stage::new(driver, |setup| setup);
    let before = stage.provider.count("/jwks");
    for number in 0..20 {
        let token = Key::elliptic(&format!("unknown-{number}")).token(&claims(json!({})));
        refused(&mut stage, &bearer(&token), bad("unknown_key"));
    }
    let good = stage.good();
    stage.guarded.allowed("/private/x", &bearer(&good));
    let fetches = stage.provider.count("/jwks") - before;
    assert!(fetches <= 1 + 1, "{fetches} fetches for 40 strangers");
    let asked = &stage.provider.requests("/jwks")[0];
    assert_eq!(asked.method(), "GET");
    assert_eq!(asked.head.one("authorization"), None);
    assert_eq!(asked.head.one("cookie"), None);
    stage.guarded.finish(&[&good]);
}

/// E34.
fn a_new_key_is_found_by_one_fetch(driver: Driver) {
    let (old, new) = (Key::rsa("old"), Key::elliptic("new"));
    let provider = Provider::start();
    provider.say("/jwks", Reply::json(200, jwks(&[old.jwk(json!({}))])));
    let application = Upstream::start().name_targets();
    let place = Upstream::start();
    let setup = setup(driver, &place, &format!("{}/jwks", provider.url()))
        .set("upstream.url", &application.url());
    let mut proxy = setup.start();
    wait_keys(&proxy);
    provider.say("/jwks", Reply::json(200, jwks(&[new.jwk(json!({}))])));
    let before = provider.count("/jwks");
    let token = new.token(&claims(json!({})));
    let status = |token: &str| {
        let answer = proxy.answer_to(&request(Form::Plain, "/private/x", &bearer(token)));
        answer.head.status()
    };
    eventually("the new key is known", || match status(&token) {
        200 => Some(()),
        other => {
            assert_eq!(other, 401);
            None
        }
    });
    assert_eq!(provider.count("/jwks") - before, 1);
    // The old one has gone with its set, and with it what was remembered of its tokens.
    assert_eq!(status(&old.token(&claims(json!({})))), 401);
    let stopped = proxy.stop();
    assert_eq!(stopped.of_kind("auth.jwks_refresh").len(), 2);
}

/// E35.
fn a_failed_fetch_keeps_the_last_set(driver: Driver) {
    let replies = [
        Reply::json(500, "{}"),
        Reply::json(200, "<html>"),
        Reply::json(200, "{\"keys\":[]}"),
        Reply::Close,
    ];
    // All at once: each may have to wait until a fetch is allowed again.
    let stages = replies.map(|reply| {
        let stage = Stage::new(driver, |setup| setup);
        stage.provider.say("/jwks", reply);
        stage
    });
    let token = Key::elliptic("unknown").token(&claims(json!({})));
    for mut stage in stages {
        eventually("a fetch", || {
            let bytes = request(Form::Plain, "/private/x", &bearer(&token));
            let answer = stage.guarded.proxy.answer_to(&bytes);
            assert_eq!(answer.head.status(), 401, "{answer:?}");
            (stage.provider.count("/jwks") > 1).then_some(())
        });
        stage.guarded.proxy.wait_event("a failed fetch", |event| event.is("auth.jwks_error"));
        for key in [&stage.rsa, &stage.elliptic] {
            let token = key.token(&claims(json!({"sub": "late"})));
            stage.guarded.allowed("/private/x", &bearer(&token));
        }
        refused(&mut stage, &bearer("junk"), bad("invalid_token"));
    }
}

/// 10.5: 503 only while there is no usable set; the start does not wait for it.
fn a_provider_that_is_away_and_comes_back(driver: Driver) {
    let address = vacant_address();
    let url = format!("http://{address}/jwks");
    let upstream = Upstream::start();
    let mut guarded = Guarded::start(&setup(driver, &upstream, &url), upstream);
    let key = Key::rsa("k");
    let token = key.token(&claims(json!({})));
    for answer in guarded.denied("/private/x", &bearer(&token), UNAVAILABLE) {
        assert_eq!(answer.head.one("www-authenticate"), None);
    }
    guarded.allowed("/public/x", &bearer(&token));
    for answer in guarded.denied("/private/x", "", NONE) {
        assert_eq!(challenge(&answer), "Bearer");
    }
    let event = guarded.proxy.wait_event("a failed fetch", |event| event.is("auth.jwks_error"));
    assert_eq!(event.text("payload.jwks_url"), url);
    let provider = Provider::on(address);
    provider.say("/jwks", Reply::json(200, jwks(&[key.jwk(json!({}))])));
    assert_eq!(wait_keys(&guarded.proxy), 1);
    for head in guarded.allowed("/private/x", &bearer(&token)) {
        assert_eq!(head.one("x-user-id"), Some("zoe"));
    }
    guarded.finish(&[&token]);
}

/// E35: nothing of this is a key set, and nobody passes.
fn sets_that_are_none(driver: Driver) {
    let key = Key::rsa("k");
    let token = key.token(&claims(json!({})));
    let good = jwks(&[key.jwk(json!({}))]);
    let padded = good.replacen('{', &format!("{{\"x\":\"{}\",", "y".repeat(2 << 20)), 1);
    for (what, reply) in [
        ("500", Reply::json(500, good.clone())),
        ("404", Reply::json(404, good.clone())),
        (
            "html",
            Reply::Answer(
                200,
                "Content-Type: text/html\r\n".to_owned(),
                "<html></html>".to_owned(),
            ),
        ),
        ("no keys", Reply::json(200, "{\"keys\":[]}")),
        ("another form", Reply::json(200, "{\"keys\":{}}")),
        ("a list", Reply::json(200, "[]")),
        (
            "only oct",
            Reply::json(200, "{\"keys\":[{\"kty\":\"oct\",\"k\":\"c2VjcmV0\",\"kid\":\"k\"}]}"),
        ),
        ("over 1 MiB", Reply::json(200, padded)),
        ("an end", Reply::Close),
    ] {
        println!("{what}");
        let provider = Provider::start();
        provider.say("/jwks", reply);
        let upstream = Upstream::start();
        let setup = setup(driver, &upstream, &format!("{}/jwks", provider.url()));
        let mut guarded = Guarded::start(&setup, upstream);
        guarded.proxy.wait_event("a failed fetch", |event| event.is("auth.jwks_error"));
        guarded.denied("/private/x", &bearer(&token), UNAVAILABLE);
        guarded.allowed("/public/x", "");
    }
    // A provider that hangs ends in 503, too.
    let provider = Provider::start();
    provider.hold();
    let upstream = Upstream::start();
    let setup = setup(driver, &upstream, &format!("{}/jwks", provider.url()));
    let mut guarded = Guarded::start(&setup, upstream);
    guarded.allowed("/public/x", "");
    guarded.denied_as(Form::Plain, "/private/x", &bearer(&token), UNAVAILABLE);
    provider.say("/jwks", Reply::json(200, good));
    provider.release();
    wait_keys(&guarded.proxy);
    guarded.allowed("/private/x", &bearer(&token));
}

/// 3.4: `issuer_url`, and `issuer` in its place.
fn the_key_set_is_found_by_discovery(driver: Driver) {
    for key_name in ["auth.jwt.issuer_url", "auth.jwt.issuer"] {
        let key = Key::elliptic("k");
        let provider = Provider::start();
        let url = provider.url();
        let document = json!({"issuer": url, "jwks_uri": format!("{url}/jwks")}).to_string();
        provider.say("/.well-known/openid-configuration", Reply::json(200, document));
        provider.say("/jwks", Reply::json(200, jwks(&[key.jwk(json!({}))])));
        let upstream = Upstream::start();
        let setup = setup(driver, &upstream, "x")
            .unset("auth.jwt.jwks_url")
            .set("auth.jwt.issuer", &url)
            .set(key_name, &url);
        let guarded = Guarded::start(&setup, upstream);
        assert_eq!(wait_keys(&guarded.proxy), 1);
        let token = key.token(&claims(json!({"iss": url})));
        guarded.allowed("/private/x", &bearer(&token));
        assert_eq!(provider.count("/.well-known/openid-configuration"), 1);
        guarded.finish(&[&token]);
    }
}

/// 10.3, 10.6; E19.
fn a_token_in_a_cookie(driver: Driver) {
    let mut stage = Stage::new(driver, |setup| setup.set("auth.jwt.sources", "[\"cookie:sid\"]"));
    let good = stage.good();
    for cookie in [
        format!("Cookie: sid={good}\r\n"),
        format!("Cookie: a=b; sid={good}; c=d\r\n"),
        format!("cookie: a=b\r\nCookie: sid={good}\r\n"),
        format!("Cookie: ;;;sid={good};;\r\n"),
        format!("Cookie: SID=junk; sid={good}; sid2=x\r\n"),
    ] {
        for head in stage.guarded.allowed("/private/x", &cookie) {
            assert_eq!(head.one("x-user-id"), Some("zoe"));
            assert!(head.all("cookie").concat().contains(&good), "a cookie goes on");
        }
    }
    for cookie in ["", "Cookie: sid=\r\n", "Cookie: sid\r\n", "Cookie: a=b\r\n"] {
        none(&mut stage, cookie);
    }
    none(&mut stage, &bearer(&good));
    none(&mut stage, &format!("Cookie: =sid={good}\r\n"));
    none(&mut stage, &format!("Cookie: SID={good}\r\n"));
    refused(&mut stage, "Cookie: sid=junk\r\n", bad("invalid_token"));
    // A page of another site can make a browser send it.
    let cookie = format!("Cookie: sid={good}\r\n");
    for origin in [
        "Origin: http://evil.test\r\n",
        "Origin: null\r\n",
        "Origin: http://t.test\r\nOrigin: http://t.test\r\n",
    ] {
        let headers = format!("{cookie}{origin}");
        let answer = stage.guarded.proxy.answer_to(&request(Form::Upgrade, "/private/x", &headers));
        assert_eq!(answer.head.status(), 403, "{answer:?}");
        assert_eq!(said(&answer), "origin_not_allowed");
        stage.guarded.upstream.assert_untouched();
    }
    stage.guarded.allowed_as(
        Form::Plain,
        "/private/x",
        &format!("{cookie}Origin: http://evil.test\r\n"),
    );
    stage.guarded.allowed("/private/x", &format!("{cookie}Origin: https://t.test\r\n"));
    stage.guarded.finish(&[&good]);
}

/// 10.3: every occurrence goes, the rest of the query stays byte for byte.
fn a_token_in_the_query(driver: Driver) {
    let mut stage = Stage::new(driver, |setup| setup.set("auth.jwt.sources", "[\"query:token\"]"));
    let good = stage.good();
    for (query, rest) in [
        (format!("a=1&token={good}&b=%20+%2f"), "a=1&b=%20+%2f"),
        (format!("token={good}&a=1&token={good}&b"), "a=1&b"),
        (format!("Token=x&a=%zz&token={good}"), "Token=x&a=%zz"),
        (format!("mytoken=x&token={good}&token2=y&&=z"), "mytoken=x&token2=y&&=z"),
    ] {
        for head in stage.guarded.allowed(&format!("/private/x?{query}"), "") {
            assert_eq!(head.line, format!("GET /private/x?{rest} HTTP/1.1"));
            assert_eq!(head.one("x-user-id"), Some("zoe"));
            assert!(!format!("{head:?}").contains(&good), "{head:?}");
        }
    }
    for head in stage.guarded.allowed(&format!("/private/x?token={good}"), "") {
        assert!(!format!("{head:?}").contains("token"), "{head:?}");
    }
    let canary = "canary-4711";
    for answer in stage.guarded.denied(&format!("/private/{canary}?token="), "", NONE) {
        assert_eq!(challenge(&answer), "Bearer");
    }
    let junk = "kanarienvogel";
    stage.guarded.denied(&format!("/private/x?a=1&token={junk}"), "", bad("invalid_token"));
    stage.guarded.denied("/private/x", &bearer(&good), NONE);
    let signature = good.rsplit('.').next().expect("a part").to_owned();
    stage.guarded.finish(&[&good, &signature, junk]);
}

/// 10.3: that entry goes, and a header left empty goes too.
fn a_token_among_the_subprotocols(driver: Driver) {
    let mut stage = Stage::new(driver, |setup| {
        setup.set("auth.jwt.sources", "[\"subprotocol:bearer.\"]").set("log.level", "debug")
    });
    let good = stage.good();
    let name = "Sec-WebSocket-Protocol";
    for (lines, rest) in [
        (format!("{name}: bearer.{good}, chat\r\n"), "chat"),
        (format!("{name}: chat,bearer.{good}\r\n"), "chat"),
        (format!("{name}: chat\r\n{name}: bearer.{good}\r\n"), "chat"),
        (format!("{name}: a, bearer.{good}, b.c\r\n"), "a, b.c"),
        (format!("{name}: bearer.{good}\r\n"), ""),
        (format!("{name}: bearer.{good}, bearer.{good}, chat\r\n"), "chat"),
    ] {
        let mut client = stage.guarded.proxy.sent(&request(Form::Upgrade, "/private/x", &lines));
        let mut conn = stage.guarded.upstream.accept();
        let bytes = conn.read_through(b"\r\n\r\n");
        assert_eq!(find(&bytes, good.as_bytes()), None, "the application got the token");
        assert_eq!(find(&bytes, b"bearer."), None, "the application got the prefix");
        let head = crate::harness::http::Head::parse(&bytes);
        let offered: Vec<&str> =
            head.all(name).iter().flat_map(|line| line.split(',')).map(str::trim).collect();
        let expected: Vec<&str> =
            rest.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        assert_eq!(offered, expected, "{head:?}");
        assert_eq!(head.one("x-user-id"), Some("zoe"));
        let protocol =
            if rest.is_empty() { String::new() } else { format!("{name}: {}\r\n", expected[0]) };
        let answer = String::from_utf8_lossy(ANSWER_101).replacen(
            "\r\n\r\n",
            &format!("\r\n{protocol}\r\n"),
            1,
        );
        conn.send(answer.as_bytes());
        let head = client.open();
        assert_eq!(head.one(name), expected.first().copied());
        client.ping(&mut conn, b"open");
    }
    let junk = "kanarienvogel";
    for (lines, denial) in [
        (format!("{name}: bearer.{junk}, chat\r\n"), bad("invalid_token")),
        (format!("{name}: bearer.{good}, bearer.{junk}\r\n"), bad("multiple_credentials")),
        (format!("{name}: chat\r\n"), NONE),
        (format!("{name}: bearer., chat\r\n"), NONE),
        (bearer(&good), NONE),
    ] {
        let answer = stage.guarded.denied_as(Form::Upgrade, "/private/x", &lines, denial);
        assert!(challenge(&answer).starts_with("Bearer"));
    }
    // It is a thing of upgrades.
    stage.guarded.denied_as(Form::Plain, "/private/x", &format!("{name}: bearer.{good}\r\n"), NONE);
    let signature = good.rsplit('.').next().expect("a part").to_owned();
    stage.guarded.finish(&[&good, &signature, junk]);
}

/// E11.
fn a_token_where_none_is_looked_for(driver: Driver) {
    let mut stage = Stage::new(driver, |setup| setup.set("log.level", "debug"));
    let good = stage.good();
    let target = format!("/private/x?token={good}&access_token={good}");
    for answer in stage.guarded.denied(&target, "", NONE) {
        assert_eq!(challenge(&answer), "Bearer");
    }
    let own = stage.rsa.token(&claims(json!({"sub": "ann"})));
    for head in stage.guarded.allowed(&target, &bearer(&own)) {
        assert_eq!(head.line, format!("GET {target} HTTP/1.1"));
        assert_eq!(head.one("x-user-id"), Some("ann"));
    }
    stage.guarded.finish(&[&good, &own]);
}

/// E46; 10.7.
fn a_tunnel_ends_with_its_token(driver: Driver) {
    let ending = Stage::new(driver, |setup| setup.set("websocket.close_on_expiry", "true"));
    let staying = Stage::new(driver, |setup| setup);
    let open = |stage: &Stage, token: &str| {
        let mut client =
            stage.guarded.proxy.sent(&request(Form::Upgrade, "/private/x", &bearer(token)));
        let mut conn = stage.guarded.upstream.accept();
        conn.read_head();
        conn.send(ANSWER_101);
        let id = client.open().one("x-request-id").unwrap_or_default().to_owned();
        client.ping(&mut conn, b"open");
        (client, conn, id)
    };
    // One before its end, one inside the leeway, whose end is that of the leeway.
    for leeway in [0, 30] {
        let end = now() + 4;
        let exp = end - leeway;
        let soon = |stage: &Stage| stage.rsa.token(&claims(json!({"exp": exp})));
        let (mut stays, mut far, _) = open(&staying, &soon(&staying));
        let (mut lasting, mut lasting_far, _) = open(&ending, &ending.good());
        let (mut client, mut conn, _) = open(&ending, &soon(&ending));
        let seen = ending.guarded.proxy.event_count();
        let event =
            ending.guarded.proxy.wait_event_after(seen.saturating_sub(1), "an end", |event| {
                event.is("websocket.closed") && event.text("payload.reason") == "expired"
            });
        assert!(now() >= end, "before its time: {}", event.line);
        assert_eq!(event.count("payload.bytes_to_upstream"), 4);
        client.expect_end();
        conn.expect_end();
        stays.ping(&mut far, b"still here");
        lasting.ping(&mut lasting_far, b"still here");
    }
    let exp = now() - 29;
    let expired = claims(json!({"exp": exp}));
    eventually("the end of the leeway", || (now() > exp + 31).then_some(()));
    let mut ending = ending;
    let token = ending.rsa.token(&expired);
    refused(&mut ending, &bearer(&token), EXPIRED);
    let stopped = ending.guarded.proxy.stop();
    let reasons = stopped.of_kind("websocket.closed");
    let expired = reasons.iter().filter(|event| event.text("payload.reason") == "expired");
    assert_eq!(expired.count(), 2);
}
