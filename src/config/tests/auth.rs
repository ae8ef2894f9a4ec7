//! Sections `auth` and `kratos`, and what of `websocket` belongs to them.

use super::*;
use crate::admission::credential::{Source, Sources};
use crate::admission::jwt::Algorithm;
use crate::admission::paths::Pattern;

/// A hash of 64 digits that begin with `digits`.
fn hash(digits: &str) -> String {
    format!("{digits:0<64}")
}

fn patterns(texts: &[&str]) -> Vec<Pattern> {
    texts.iter().map(|text| Pattern::parse(text).expect(text)).collect()
}

fn auth(text: &str) -> Auth {
    config(text).auth
}

fn kratos(text: &str) -> Kratos {
    match auth(text).mode {
        Mode::Kratos(kratos) => kratos,
        other => panic!("{other:?}"),
    }
}

fn jwt(more: &str) -> Jwt {
    let text =
        format!("auth: {{mode: jwt, jwt: {{issuer: 'https://i.test/', audience: a, {more}}}}}");
    match auth(&text).mode {
        Mode::Jwt(jwt) => jwt,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nobody_is_asked_by_default() {
    let config = Config::default();
    assert_eq!(config.auth.mode, Mode::None);
    assert_eq!(config.auth.public_paths, []);
    assert_eq!(config.auth.identity_headers, ["X-User-Id", "X-User-Email", "X-User-Verified"]);
    assert_eq!(config.auth.api_key_header, "X-API-Key");
    assert_eq!(config.allowed_origins, AllowedOrigins::default());
    assert!(!config.close_on_expiry);
}

#[test]
fn kratos_by_default_and_by_its_plugin() {
    let expected = Kratos {
        public_url: "http://127.0.0.1:4433".to_owned(),
        flows: Some((
            UpstreamTarget::Tcp { host: "127.0.0.1".to_owned(), port: 4433 },
            String::new(),
        )),
        cache_ttl: None,
        session_cookie_name: "ory_kratos_session".to_owned(),
        login_url: "/self-service/login/browser".to_owned(),
        on_unavailable: OnUnavailable::Refuse,
        role_paths: Vec::new(),
    };
    assert_eq!(expected.sources(), Sources::new([Source::Cookie("ory_kratos_session".into())]));
    for text in ["auth: {mode: kratos}", "plugins: {user-management: {enabled: true}}"] {
        assert_eq!(kratos(text), expected, "{text}");
        let own_pages =
            ["/auth/*", "/login", "/registration", "/recovery", "/verification", "/error"];
        assert_eq!(auth(text).public_paths, patterns(&own_pages), "{text}");
    }
    let both = "auth: {public_paths: [/health]}\nplugins: {user-management: {enabled: true}}";
    assert_eq!(auth(both).public_paths[..2], patterns(&["/health", "/auth/*"]));
}

#[test]
fn kratos_as_written() {
    let text = "auth:\n  mode: kratos\n  session_cookie_name: sid\n  on_kratos_unavailable: allow_public\n  \
                ui: {mode: custom, login_url: 'https://l.test/in'}\n  login_url: /never\n  \
                role_paths: {moderator: '/mod/*, /both', admin: [/both], user: []}\n\
                kratos: {public_url: 'https://k.test/base/', cache_ttl: 5s}\n";
    let kratos = kratos(text);
    assert_eq!(kratos.public_url, "https://k.test/base");
    assert_eq!(kratos.cache_ttl, Some(Duration::from_secs(5)));
    assert_eq!(kratos.session_cookie_name, "sid");
    assert_eq!(kratos.login_url, "https://l.test/in");
    assert_eq!(kratos.on_unavailable, OnUnavailable::AllowPublic);
    assert_eq!(
        kratos.role_paths,
        [
            RolePaths { role: Role::Admin, paths: patterns(&["/both"]) },
            RolePaths { role: Role::Moderator, paths: patterns(&["/mod/*", "/both"]) },
        ]
    );
}

#[test]
fn the_login_page_of_a_custom_ui() {
    let login = |ui: &str| {
        let loaded = loaded(&format!("auth: {{mode: kratos, login_url: /in, ui: {{{ui}}}}}"));
        let Mode::Kratos(kratos) = loaded.config.auth.mode else { panic!("{ui}") };
        (kratos.login_url, loaded.warnings.len())
    };
    assert_eq!(login(""), ("/in".to_owned(), 0));
    assert_eq!(login("login_url: /own"), ("/in".to_owned(), 0));
    assert_eq!(login("mode: custom, login_url: /own"), ("/own".to_owned(), 0));
    assert_eq!(login("mode: custom"), ("/in".to_owned(), 1), "with a warning");
}

#[test]
fn tokens_by_default_and_as_written() {
    let least = jwt("");
    assert_eq!(least.key_set, KeySet::Issuer("https://i.test".to_owned()));
    assert_eq!((least.issuer.as_str(), least.audience.as_str()), ("https://i.test/", "a"));
    let claims =
        [("sub", "X-User-Id"), ("email", "X-User-Email"), ("email_verified", "X-User-Verified")];
    assert_eq!(least.claims_to_headers, claims.map(|(a, b)| (a.to_owned(), b.to_owned())));
    assert_eq!(least.algorithms, [Algorithm::Rs256, Algorithm::Es256]);
    assert_eq!(least.cache_ttl, Duration::from_hours(1));
    assert_eq!(least.sources, Sources::new([Source::Bearer]));

    let full = jwt(
        "jwks_url: 'https://j.test/keys?v=1', issuer_url: 'https://never.test', cache_ttl: 10s, \
         allowed_algorithms: [EdDSA, PS384], claims_to_headers: {roles: X-Roles}, \
         sources: 'header, cookie:jwt, query:token, subprotocol:bearer.'",
    );
    assert_eq!(full.key_set, KeySet::Jwks("https://j.test/keys?v=1".to_owned()));
    assert_eq!(full.claims_to_headers, [("roles".to_owned(), "X-Roles".to_owned())]);
    assert_eq!(full.algorithms, [Algorithm::Ps384, Algorithm::EdDsa]);
    assert_eq!(
        full.sources,
        Sources::new([
            Source::Bearer,
            Source::Cookie("jwt".into()),
            Source::Query("token".into()),
            Source::Subprotocol("bearer.".into()),
        ])
    );
    let by_url = jwt("issuer_url: 'http://d.test/x'").key_set;
    assert_eq!(by_url, KeySet::Issuer("http://d.test/x".to_owned()));
    let map = "auth: {jwt: {claims_to_headers: {a: X-Forwarded-Email}}}";
    assert_eq!(auth(map).identity_headers, ["X-Forwarded-Email"], "in every mode");
}

#[test]
fn every_algorithm_has_its_name() {
    for algorithm in Algorithm::ALL {
        let name = algorithm.name();
        assert_eq!(jwt(&format!("allowed_algorithms: [{name}]")).algorithms, [algorithm]);
    }
}

#[test]
fn api_keys_as_written() {
    let (first, second) = (hash("0A"), hash("ff"));
    let text = format!(
        "auth:\n  mode: api-key\n  api_key:\n    header: X-Token\n    query: key\n    keys:\n      \
         - {{name: a, hash: '{first}'}}\n      - {{name: b, hash: '{second}', scopes: [r, w]}}\n    \
         scope_rules:\n      - {{path: '/a/*', methods: [GET], required_scopes: 'r, w'}}\n      - {{path: /b}}\n"
    );
    let auth = auth(&text);
    assert_eq!(auth.api_key_header, "X-Token");
    let Mode::ApiKey(keys) = auth.mode else { panic!("{:?}", auth.mode) };
    assert_eq!(
        keys.sources,
        Sources::new([Source::Header("X-Token".into()), Source::Query("key".into())])
    );
    let named = |name: &str, byte: u8, scopes: &[&str]| {
        let mut hash = [0; 32];
        hash[0] = byte;
        let scopes = scopes.iter().map(|&scope| scope.to_owned()).collect();
        ApiKey { name: name.to_owned(), hash: KeyHash(hash), scopes }
    };
    assert_eq!(keys.keys, [named("a", 0x0A, &[]), named("b", 0xFF, &["r", "w"])]);
    assert_eq!(
        keys.scope_rules,
        [
            ScopeRule {
                path: Pattern::glob("/a/*").expect("a glob"),
                methods: vec!["GET".to_owned()],
                required_scopes: vec!["r".to_owned(), "w".to_owned()],
            },
            ScopeRule {
                path: Pattern::glob("/b").expect("a glob"),
                methods: Vec::new(),
                required_scopes: Vec::new(),
            },
        ]
    );
    assert!(!format!("{keys:?}").contains("255"), "{keys:?}");
    for wrong in [hash("+a"), hash("0"), hash("")[1..].to_owned()] {
        assert_eq!(KeyHash::parse(&wrong).is_some(), wrong == hash("0"), "{wrong}");
    }
}

#[rustfmt::skip]
const MISSING: &[(&str, &[&str])] = &[
    ("auth: {mode: api-key}", &["auth.api_key.keys: required when auth.mode is api-key"]),
    ("auth: {mode: api-key, api_key: {keys: []}}", &["auth.api_key.keys: required when auth.mode is api-key"]),
    ("plugins: {auth: {mode: api-key}}", &["auth.api_key.keys: required when auth.mode is api-key"]),
    ("auth: {mode: jwt}", &[
        "auth.jwt.jwks_url: required when auth.mode is jwt",
        "auth.jwt.issuer: required when auth.mode is jwt",
        "auth.jwt.audience: required when auth.mode is jwt",
    ]),
    ("auth: {mode: jwt, jwt: {issuer: 'me', audience: a}}", &["auth.jwt.jwks_url: required when auth.mode is jwt"]),
    ("auth: {mode: jwt, jwt: {issuer: 'https://i/?q', audience: a}}", &["auth.jwt.jwks_url: required when auth.mode is jwt"]),
    ("auth: {mode: jwt, jwt: {jwks_url: 'https://j', issuer: me, audience: a, sources: [], allowed_algorithms: []}}", &[
        "auth.jwt.allowed_algorithms: required when auth.mode is jwt",
        "auth.jwt.sources: required when auth.mode is jwt",
    ]),
    ("auth: {mode: kratos}\nkratos: {public_url: ''}", &["kratos.public_url: required when auth.mode is kratos"]),
    ("auth: {mode: jwt, role_paths: {admin: [/a]}, jwt: {issuer: 'https://i', audience: a}}", &[
        "auth.mode: required when auth.role_paths is given, and has to be \"kratos\"",
    ]),
    ("auth: {role_paths: {admin: [/a]}}", &[
        "auth.mode: required when auth.role_paths is given, and has to be \"kratos\"",
    ]),
];

#[test]
fn what_a_mode_cannot_do_without() {
    for (text, expected) in MISSING {
        assert_eq!(lines(text), *expected, "{text}");
    }
    // what is there but wrong is told once
    for text in [
        "auth: {mode: api-key, api_key: {keys: [{name: a, hash: x}]}}",
        "plugins: {auth: {mode: api-key, api_key: {keys: [{name: a, hash: x}]}}}",
        "auth: {mode: jwt, jwt: {jwks_url: 'ftp://a', issuer: me, audience: a}}",
        "auth: {mode: jtw, role_paths: {admin: [/a]}}",
    ] {
        assert_eq!(lines(text).len(), 1, "{text}: {:?}", lines(text));
    }
    // a wrong neighbour whose name begins alike hides nothing
    let text =
        "auth: {mode: jwt, jwt: {jwks_url: 'https://j', issuer_url: 'ftp://a', audience: a}}";
    assert_eq!(lines(text).len(), 2, "{:?}", lines(text));
}

#[rustfmt::skip]
const NOT_VALID: &[(&str, &str)] = &[
    ("auth: {public_paths: ['/a/*/b/*']}", "auth.public_paths[0]: \"/a/*/b/*\" is not valid here: it ends in /* and so names a prefix, which cannot contain other wildcards"),
    ("auth: {role_paths: {user: [/a], admin: [b]}, mode: kratos}", "auth.role_paths.admin[0]: \"b\" is not valid here: a pattern must begin with /"),
    ("auth: {api_key: {scope_rules: [{path: /a}, {path: '/[a'}]}}", "auth.api_key.scope_rules[1].path: \"/[a\" is not valid here: it has a [ without its ]"),
    ("auth: {api_key: {scope_rules: [{path: /a, methods: ['G T']}]}}", "auth.api_key.scope_rules[0].methods[0]: \"G T\" is not valid here: it is not a method"),
    ("auth: {api_key: {header: X-User-Key}}", "auth.api_key.header: \"X-User-Key\" is not valid here: this header has another meaning to the proxy"),
    ("auth: {api_key: {header: Sec-WebSocket-Key}}", "auth.api_key.header: \"Sec-WebSocket-Key\" is not valid here: this header has another meaning to the proxy"),
    ("auth: {jwt: {claims_to_headers: {a: Cookie}}}", "auth.jwt.claims_to_headers.a: \"Cookie\" is not valid here: this header has another meaning to the proxy"),
    ("auth: {jwt: {claims_to_headers: {a: X_User_Id}}}", "auth.jwt.claims_to_headers.a: \"X_User_Id\" is not valid here: this header has another meaning to the proxy"),
    ("auth: {jwt: {claims_to_headers: {a: X-Request-ID}}}", "auth.jwt.claims_to_headers.a: \"X-Request-ID\" is not valid here: this header has another meaning to the proxy"),
    ("auth: {jwt: {claims_to_headers: {a: x-id, b: X-Id}}}", "auth.jwt.claims_to_headers.b: \"X-Id\" is not valid here: auth.jwt.claims_to_headers.a already goes into this header"),
    ("auth: {login_url: ''}", "auth.login_url: \"\" is not a usable URL: it is empty"),
    ("auth: {jwt: {issuer_url: 'https://a?b'}}", "auth.jwt.issuer_url: \"https://a?b\" is not a usable URL: a query is not supported"),
    ("websocket: {allowed_origins: ['https://a:0080x']}", "websocket.allowed_origins[0]: \"https://a:0080x\" is not valid here: an origin is scheme://host[:port] with nothing after it, null or *"),
];

#[test]
fn what_is_not_valid_says_why() {
    for (text, expected) in NOT_VALID {
        assert_eq!(lines(text), [*expected], "{text}");
    }
    // where only globs are meant, a glob may end in /*
    loaded(
        "rate_limit: {exempt_paths: ['/a/*/b/*']}\nauth: {api_key: {scope_rules: [{path: '/a/*/b/*'}]}}",
    );
}

#[test]
fn rules_without_effect_are_named() {
    let loaded = loaded("auth: {api_key: {scope_rules: [{path: /a}]}}");
    assert_eq!(loaded.warnings, ["auth.api_key.scope_rules has no effect with auth.mode none"]);
}

#[test]
fn origins_are_kept_in_one_form() {
    let config = config(
        "websocket: {allowed_origins: ['HTTPS://A.test:443', 'null'], close_on_expiry: true}",
    );
    assert_eq!(config.settings.list("websocket.allowed_origins"), ["https://a.test", "null"]);
    assert_ne!(config.allowed_origins, AllowedOrigins::default());
    assert!(config.close_on_expiry);
}

#[test]
fn what_is_printed_loads_again() {
    let (first, second) = (hash("0A"), hash("ff"));
    for text in [
        "auth: {mode: kratos, role_paths: {admin: [/a]}, public_paths: [/b]}".to_owned(),
        "plugins: {user-management: {enabled: true}}".to_owned(),
        "auth: {mode: jwt, jwt: {issuer: 'https://i', audience: a, claims_to_headers: {}}}"
            .to_owned(),
        format!(
            "auth: {{mode: api-key, api_key: {{keys: [{{name: a, hash: '{first}'}}, {{name: b, hash: '{second}'}}], \
             scope_rules: [{{path: /a, required_scopes: [r]}}]}}}}"
        ),
        "websocket: {allowed_origins: '*, https://A', close_on_expiry: true}".to_owned(),
    ] {
        loaded(&text);
        fuzz_oracle(&text);
    }
}
