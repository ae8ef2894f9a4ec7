//! Headless Chromium as the one who has a credential: what a page can do with its own, and what a page of another origin
//! cannot do with the cookie of its visitor.

use serde_json::{Value, json};
use vibewarden::demo::{self, Echo};

use super::browser::Browser;
use super::foreign::{Application, Library, Place, application, available};
use super::harness::application::Application as Scripted;
use super::harness::event::Event;
use super::harness::token::{AUDIENCE, ISSUER, Key, claims, jwks, key_hash, now};
use super::harness::{After, Driver, Message, Proxy, Setup, Upstream};

/// What the application chooses when it is offered.
const PROTOCOL: &str = "chat.v2";

/// Where a page puts its credential.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// In the cookie of this name
    Cookie(&'static str),
    /// In the query parameter of this name
    Query(&'static str),
    /// Behind this prefix among the subprotocols
    Subprotocol(&'static str),
}

/// One kind of authentication, with credentials for it.
struct Gate {
    /// Mode and keys of the configuration
    keys: Vec<(&'static str, String)>,
    good: Vec<(Way, String)>,
    /// Each with the reason of `auth.denied`
    bad: Vec<(Way, String, &'static str)>,
    user: Option<&'static str>,
    /// Event after which it can judge; empty = at once
    ready: &'static str,
    provider: Option<Scripted>,
}

/// An identity provider that answers each request with a status and a body of its own.
fn provider(answer: impl Fn(&Message) -> (u16, String) + Send + Sync + 'static) -> Scripted {
    Upstream::start().answer(move |request, peer| {
        let (status, body) = answer(request);
        let kind = "Content-Type: application/json";
        let length = body.len();
        let answer =
            format!("HTTP/1.1 {status} X\r\n{kind}\r\nContent-Length: {length}\r\n\r\n{body}");
        // The proxy may have let go of it.
        let _may_be_gone = peer.try_send(answer.as_bytes());
        After::Keep
    })
}

impl Gate {
    fn jwt() -> Self {
        let ways = [Way::Cookie("sid"), Way::Query("token"), Way::Subprotocol("bearer.")];
        let (key, stranger) = (Key::elliptic("k"), Key::elliptic("k"));
        let set = jwks(&[key.jwk(json!({}))]);
        let provider = provider(move |_| (200, set.clone()));
        let good = key.token(&claims(json!({})));
        let expired = key.token(&claims(json!({"exp": now() - 3600})));
        let forged = stranger.token(&claims(json!({})));
        let bad = [
            (expired, "token_expired"),
            (forged, "invalid_signature"),
            ("canary-no-token".to_owned(), "invalid_token"),
        ];
        let bad = ways.iter().flat_map(|&way| {
            bad.clone().into_iter().map(move |(token, reason)| (way, token, reason))
        });
        Self {
            keys: vec![
                ("auth.mode", "jwt".to_owned()),
                ("auth.jwt.jwks_url", provider.url()),
                ("auth.jwt.issuer", ISSUER.to_owned()),
                ("auth.jwt.audience", AUDIENCE.to_owned()),
                (
                    "auth.jwt.sources",
                    "[\"cookie:sid\", \"query:token\", \"subprotocol:bearer.\"]".to_owned(),
                ),
            ],
            good: ways.iter().map(|&way| (way, good.clone())).collect(),
            bad: bad.collect(),
            user: Some("zoe"),
            ready: "auth.jwks_refresh",
            provider: Some(provider),
        }
    }

    fn kratos() -> Self {
        let way = Way::Cookie("ory_kratos_session");
        let provider = provider(|request| match request.head.one("cookie") {
            Some("ory_kratos_session=canary-active") => {
                (200, json!({"active": true, "identity": {"id": "id-1", "traits": {}}}).to_string())
            }
            Some("ory_kratos_session=canary-inactive") => (200, "{\"active\":false}".to_owned()),
            Some("ory_kratos_session=canary-in-trouble") => (500, "{}".to_owned()),
            _ => (401, "{}".to_owned()),
        });
        Self {
            keys: vec![("auth.mode", "kratos".to_owned()), ("kratos.public_url", provider.url())],
            good: vec![(way, "canary-active".to_owned())],
            bad: [
                ("canary-unknown", "invalid_session"),
                ("canary-inactive", "invalid_session"),
                ("canary-in-trouble", "provider_unavailable"),
            ]
            .map(|(session, reason)| (way, session.to_owned(), reason))
            .into(),
            user: Some("id-1"),
            ready: "",
            provider: Some(provider),
        }
    }

    fn api_key() -> Self {
        let key = "canary-key";
        let hash = key_hash(key);
        let way = Way::Query("key");
        Self {
            keys: vec![
                ("auth.mode", "api-key".to_owned()),
                ("auth.api_key.query", "key".to_owned()),
                ("auth.api_key.keys", format!("[{{name: page, hash: \"{hash}\"}}]")),
            ],
            good: vec![(way, key.to_owned())],
            bad: vec![(way, "canary-other".to_owned(), "invalid_key")],
            user: None,
            ready: "",
            provider: None,
        }
    }

    #[track_caller]
    fn start(&self, driver: Driver, application: &Application, origins: &[&str]) -> Proxy {
        let setup = Setup::new(driver, &application.url)
            .set("log.level", "debug")
            // A browser connects once more than it needs to; the proxy waits for a request there also while it stops.
            .set("server.read_timeout", "5s")
            .set("auth.public_paths", "[/blank]")
            .set("websocket.allowed_origins", &json!(origins).to_string());
        let set = |setup: Setup, (key, value): &(&str, String)| setup.set(key, value);
        let proxy = self.keys.iter().fold(setup, set).start();
        if !self.ready.is_empty() {
            proxy.wait_event(self.ready, |event| event.is(self.ready));
        }
        proxy
    }

    fn asked(&self) -> usize {
        self.provider.as_ref().map_or(0, |provider| provider.requests().len())
    }

    /// Stops the proxy: it has written down none of the credentials.
    #[track_caller]
    fn finish(&self, mut proxy: Proxy) {
        let stopped = proxy.stop();
        let lines: String = stopped.events.iter().map(|event| event.line.as_str()).collect();
        let bad = self.bad.iter().map(|(_, credential, _)| credential);
        for credential in self.good.iter().map(|(_, credential)| credential).chain(bad) {
            assert!(!lines.contains(credential), "{credential} stands in an event");
            assert!(!stopped.log.contains(credential), "{credential} stands in the log");
        }
    }
}

/// A browser that shows a page, and the application that the page wants to reach.
struct Visit<'a> {
    browser: &'a Browser,
    application: &'a Application,
    /// Connections that the application had seen before.
    before: usize,
    sockets: usize,
}

impl<'a> Visit<'a> {
    fn of(browser: &'a Browser, application: &'a Application) -> Self {
        let before = application.reports.of("connection").len();
        Self { browser, application, before, sockets: 0 }
    }

    /// Lets the page open a socket; returns its path without the credential, and what came of it.
    #[track_caller]
    fn socket(&self, proxy: &Proxy, way: Way, credential: &str) -> (String, Value) {
        println!("{way:?} {credential}");
        // All sockets of the application that opened, also those of earlier visits, have numbers of their own.
        let number = self.application.reports.of("opened").len();
        let path = format!("/echo?n={number}");
        let mut url = format!("ws://{}{path}", proxy.address());
        let mut protocols = vec![PROTOCOL.to_owned()];
        let mut cookie = None;
        match way {
            Way::Cookie(name) => cookie = Some((name, credential)),
            Way::Query(name) => url = format!("{url}&{name}={credential}"),
            Way::Subprotocol(prefix) => protocols.insert(0, format!("{prefix}{credential}")),
        }
        self.browser.keep_cookie(cookie);
        let arguments = json!([url, protocols, "from the page"]);
        (path, self.browser.run(include_str!("in_page.js"), &arguments))
    }

    /// The socket opens and echoes; the application saw nothing of a credential that is not meant for it.
    #[track_caller]
    fn opens(&mut self, proxy: &Proxy, way: Way, credential: &str) -> Value {
        self.sockets += 1;
        let (path, came) = self.socket(proxy, way, credential);
        let expected =
            json!({"opened": true, "protocol": PROTOCOL, "echo": "from the page", "code": 1000});
        assert_eq!(came, expected);
        let seen = self
            .application
            .reports
            .wait(|report| report["event"] == "opened" && report["path"].as_str() == Some(&path));
        let seen = seen.unwrap_or_else(|| panic!("the application saw no {path}"));
        let goes_on = matches!(way, Way::Cookie(_));
        assert_eq!(seen.to_string().contains(credential), goes_on, "{seen}");
        assert_eq!(seen["request"]["sec-websocket-protocol"], json!([PROTOCOL]), "{seen}");
        seen
    }

    /// The socket does not open, and this is how it is written down.
    #[track_caller]
    fn refused(&self, proxy: &Proxy, way: Way, credential: &str) -> Event {
        let from = proxy.event_count();
        let (_, came) = self.socket(proxy, way, credential);
        let expected = json!({"opened": false, "protocol": null, "echo": null, "code": 1006});
        assert_eq!(came, expected);
        let event = proxy.wait_event_after(from, "a refusal", Event::ends_a_request);
        assert_eq!(event.text("payload.path"), "/echo", "{}", event.line);
        event
    }

    /// The application saw one connection for each socket that opened. The last one did, and connections are reported in
    /// the order in which they came.
    #[track_caller]
    fn finish(self) {
        let seen = self.application.reports.of("connection").len() - self.before;
        assert_eq!(seen, self.sockets, "connections of sockets that did not open");
    }
}

/// The origin of another page, on a port of its own.
fn another_page() -> (Echo, String) {
    let page = demo::start_echo().expect("a page");
    let origin = format!("http://{}", page.addr);
    (page, origin)
}

/// Its page comes through the proxy itself, or from an origin that may open sockets.
#[track_caller]
fn a_page_presents_its_credential(driver: Driver, library: Library) {
    if !available() {
        return;
    }
    let Some(browser) = Browser::start() else {
        return;
    };
    let application = application(library, Place::Tcp);
    let (_page, elsewhere) = another_page();
    for gate in [Gate::jwt(), Gate::kratos(), Gate::api_key()] {
        // The other application has no pages.
        let through_the_proxy = library == Library::Node;
        let origins = if through_the_proxy { &[][..] } else { &[elsewhere.as_str()] };
        let proxy = gate.start(driver, &application, origins);
        let origin = if through_the_proxy {
            format!("http://{}", proxy.address())
        } else {
            elsewhere.clone()
        };
        browser.open(&format!("{origin}/blank"));
        let mut visit = Visit::of(&browser, &application);
        for (way, credential) in &gate.good {
            let seen = visit.opens(&proxy, *way, credential);
            assert_eq!(seen["request"]["origin"], json!([origin]), "{seen}");
            let user = gate.user.map_or(Value::Null, |user| json!([user]));
            assert_eq!(seen["request"]["x-user-id"], user, "{seen}");
        }
        for (way, credential, reason) in &gate.bad {
            let event = visit.refused(&proxy, *way, credential);
            assert!(event.is("auth.denied"), "{}", event.line);
            assert_eq!(event.text("payload.reason"), *reason, "{}", event.line);
        }
        let (way, credential) = &gate.good[0];
        visit.opens(&proxy, *way, credential);
        visit.finish();
        gate.finish(proxy);
    }
}

/// Cookies know no ports: the browser sends them along whoever asks.
#[track_caller]
fn a_page_of_another_origin_uses_the_cookie_of_its_visitor(driver: Driver, library: Library) {
    if !available() {
        return;
    }
    let Some(browser) = Browser::start() else {
        return;
    };
    let application = application(library, Place::Tcp);
    let (_page, friend) = another_page();
    let (page, stranger) = another_page();
    for gate in [Gate::jwt(), Gate::kratos()] {
        let (way, credential) = &gate.good[0];
        let alone = gate.start(driver, &application, &[]);
        let with_a_friend = gate.start(driver, &application, &[&friend]);
        let with_the_stranger = gate.start(driver, &application, &[&stranger]);
        let before = gate.asked();
        let mut visit = Visit::of(&browser, &application);
        let refused = |visit: &Visit<'_>, proxy: &Proxy| {
            let event = visit.refused(proxy, *way, credential);
            assert!(event.is("request.blocked"), "{}", event.line);
            assert_eq!(event.text("payload.blocked_by"), "origin", "{}", event.line);
            assert_eq!(event.text("payload.reason"), "origin_not_allowed", "{}", event.line);
            assert_eq!(event.count("payload.status_code"), 403, "{}", event.line);
        };
        browser.open(&format!("{stranger}/blank"));
        refused(&visit, &alone);
        refused(&visit, &with_a_friend);
        // The same machine by another name.
        browser.open(&format!("http://localhost:{}/blank", page.addr.port()));
        refused(&visit, &with_a_friend);
        assert_eq!(gate.asked(), before, "asked about a request of a stranger");
        // The very same page and cookie, where that origin may: so it was the origin.
        browser.open(&format!("{stranger}/blank"));
        let seen = visit.opens(&with_the_stranger, *way, credential);
        assert_eq!(seen["request"]["origin"], json!([stranger]), "{seen}");
        browser.open(&format!("{friend}/blank"));
        visit.opens(&with_a_friend, *way, credential);
        visit.finish();
        for proxy in [alone, with_a_friend, with_the_stranger] {
            gate.finish(proxy);
        }
    }
}

#[test]
fn a_page_presents_its_credential_to_node_on_io_uring() {
    a_page_presents_its_credential(Driver::IoUring, Library::Node);
}

#[test]
fn a_page_presents_its_credential_to_python_on_epoll() {
    a_page_presents_its_credential(Driver::Epoll, Library::Python);
}

#[test]
fn a_page_of_another_origin_uses_the_cookie_of_its_visitor_on_io_uring() {
    a_page_of_another_origin_uses_the_cookie_of_its_visitor(Driver::IoUring, Library::Python);
}

#[test]
fn a_page_of_another_origin_uses_the_cookie_of_its_visitor_on_epoll() {
    a_page_of_another_origin_uses_the_cookie_of_its_visitor(Driver::Epoll, Library::Node);
}
