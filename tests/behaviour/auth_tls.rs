//! 10.4, 10.5 over https: whom the proxy believes to be the provider. An operator with an authority of his own names its certificates in
//! `SSL_CERT_FILE`; they then take the place of those of the machine.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use serde_json::json;

use crate::auth_jwt::{UNAVAILABLE, bearer};
use crate::auth_kratos::{WHOAMI, cookie};
use crate::harness::guarded::Guarded;
use crate::harness::secure::{Authority, SecureProvider};
use crate::harness::setup::Scratch;
use crate::harness::token::{AUDIENCE, Key, claims, jwks};
use crate::harness::{Driver, Setup, Upstream};

on_drivers!(
    every: ;
    both:
        keys_come_from_a_provider_that_is_trusted,
        keys_do_not_come_from_anybody_else,
        sessions_are_asked_of_a_provider_that_is_trusted,
        no_cookie_is_shown_to_anybody_else,
);

const DISCOVERY: &str = "/.well-known/openid-configuration";
const ADDRESS: &str = "127.0.0.1";

/// Trusts these authorities, or those of the machine.
fn trusting(setup: Setup, directory: &Path, authority: Option<&Authority>) -> Setup {
    let Some(authority) = authority else { return setup };
    let path = directory.join("authorities.pem");
    std::fs::write(&path, authority.pem()).expect("the file of the authorities");
    setup.environment("SSL_CERT_FILE", path.to_str().expect("a path in UTF-8"))
}

/// An issuer with its document and its keys.
fn issuer(config: Arc<ServerConfig>, key: &Key) -> SecureProvider {
    let provider = SecureProvider::start(config);
    let url = provider.url();
    provider.say(DISCOVERY, json!({"issuer": url, "jwks_uri": format!("{url}/jwks")}).to_string());
    provider.say("/jwks", jwks(&[key.jwk(json!({}))]));
    provider
}

fn with_keys_of(driver: Driver, upstream: &Upstream, provider: &SecureProvider) -> Setup {
    Setup::new(driver, upstream.url())
        .set("watch.enabled", "false")
        .set("auth.mode", "jwt")
        .set("auth.jwt.issuer_url", &provider.url())
        .set("auth.jwt.issuer", &provider.url())
        .set("auth.jwt.audience", AUDIENCE)
}

fn with_sessions_of(driver: Driver, upstream: &Upstream, provider: &SecureProvider) -> Setup {
    Setup::new(driver, upstream.url())
        .set("watch.enabled", "false")
        .set("auth.mode", "kratos")
        .set("kratos.public_url", &provider.url())
}

fn keys_come_from_a_provider_that_is_trusted(driver: Driver) {
    let (authority, directory, key) = (Authority::new(), Scratch::new(), Key::rsa("one"));
    let provider = issuer(authority.certify(ADDRESS, 2999), &key);
    let upstream = Upstream::start();
    let setup = with_keys_of(driver, &upstream, &provider);
    let guarded = Guarded::start(&trusting(setup, directory.path(), Some(&authority)), upstream);
    let event = guarded.proxy.wait_event("a key set", |event| event.is("auth.jwks_refresh"));
    assert_eq!(event.text("payload.jwks_url"), format!("{}/jwks", provider.url()));
    let token = key.token(&claims(json!({"iss": provider.url()})));
    for head in guarded.allowed("/private/x", &bearer(&token)) {
        assert_eq!(head.one("x-user-id"), Some("zoe"));
    }
    let lines: Vec<String> = provider.asked().into_iter().map(|head| head.line).collect();
    assert_eq!(lines, [format!("GET {DISCOVERY} HTTP/1.1"), "GET /jwks HTTP/1.1".to_owned()]);
    guarded.finish(&[&token]);
}

/// Certificates that are not good, each with whom the proxy trusts.
fn impostors(authority: &Authority) -> [(&'static str, Arc<ServerConfig>, bool); 4] {
    [
        ("of an unknown authority", Authority::new().certify(ADDRESS, 2999), true),
        ("of no authority of the machine", authority.certify(ADDRESS, 2999), false),
        ("for another name", authority.certify("other.test", 2999), true),
        ("of yesterday", authority.certify(ADDRESS, 2025), true),
    ]
}

fn keys_do_not_come_from_anybody_else(driver: Driver) {
    let (authority, directory, key) = (Authority::new(), Scratch::new(), Key::rsa("one"));
    for (what, config, is_own) in impostors(&authority) {
        println!("a certificate {what}");
        let provider = issuer(config, &key);
        let upstream = Upstream::start();
        let setup = with_keys_of(driver, &upstream, &provider);
        let trusted = is_own.then_some(&authority);
        let mut guarded = Guarded::start(&trusting(setup, directory.path(), trusted), upstream);
        let event = guarded.proxy.wait_event("a failure", |event| event.is("auth.jwks_error"));
        assert_eq!(event.text("payload.detail"), "the certificate is not trusted");
        assert_eq!(event.text("payload.jwks_url"), format!("{}{DISCOVERY}", provider.url()));
        let token = key.token(&claims(json!({"iss": provider.url()})));
        guarded.denied("/private/x", &bearer(&token), UNAVAILABLE);
        assert!(provider.asked().is_empty(), "{:?}", provider.asked());
        let stopped = guarded.finish(&[&token]);
        assert!(stopped.of_kind("auth.jwks_refresh").is_empty(), "{what}");
    }
}

fn sessions_are_asked_of_a_provider_that_is_trusted(driver: Driver) {
    let (authority, directory) = (Authority::new(), Scratch::new());
    let provider = SecureProvider::start(authority.certify(ADDRESS, 2999));
    provider.say(WHOAMI, json!({"active": true, "identity": {"id": "zoe"}}).to_string());
    let upstream = Upstream::start();
    let setup = with_sessions_of(driver, &upstream, &provider);
    let guarded = Guarded::start(&trusting(setup, directory.path(), Some(&authority)), upstream);
    for head in guarded.allowed("/private/x", &cookie("canary")) {
        assert_eq!(head.one("x-user-id"), Some("zoe"));
    }
    assert_eq!(provider.asked().len(), 2);
    guarded.finish(&["canary"]);
}

fn no_cookie_is_shown_to_anybody_else(driver: Driver) {
    let (authority, directory) = (Authority::new(), Scratch::new());
    for (what, config, is_own) in impostors(&authority) {
        println!("a certificate {what}");
        let provider = SecureProvider::start(config);
        provider.say(WHOAMI, json!({"active": true, "identity": {"id": "zoe"}}).to_string());
        let upstream = Upstream::start();
        let setup = with_sessions_of(driver, &upstream, &provider);
        let trusted = is_own.then_some(&authority);
        let mut guarded = Guarded::start(&trusting(setup, directory.path(), trusted), upstream);
        guarded.denied("/private/x", &cookie("canary"), UNAVAILABLE);
        assert!(provider.asked().is_empty(), "{:?}", provider.asked());
        let stopped = guarded.finish(&["canary"]);
        let event = stopped.only("auth.provider_unavailable");
        assert_eq!(event.text("payload.error"), "the certificate is not trusted", "{what}");
    }
}
