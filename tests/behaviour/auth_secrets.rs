//! 10.3, 11.2: a credential is for the proxy alone. Whatever becomes of the request that carries it, nothing of it stands in an
//! event, in the operator log at its most talkative, in the metrics, in health and readiness, or in an answer; and where the
//! contract takes it out of the request, the application never sees it either.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;

use crate::harness::application::Application;
use crate::harness::guarded::{FORMS, Form, request};
use crate::harness::payload::{find, show};
use crate::harness::provider::{Provider, Reply};
use crate::harness::token::{AUDIENCE, ISSUER, Key, claims, encode, jwks, key_hash, now};
use crate::harness::upstream::Serving;
use crate::harness::{ANSWER_101, ANSWER_LAST, After, Driver, Proxy, Setup, Upstream};

on_drivers!(
    every: ;
    both:
        tokens_leave_no_trace,
        api_keys_leave_no_trace,
        session_cookies_leave_no_trace,
);

/// Bytes of a mark: long enough to be nothing else, short enough to find a credential that was cut off.
const MARK_BYTES: usize = 16;

/// Where a credential stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Bearer,
    Field(&'static str),
    Cookie(&'static str),
    Query(&'static str),
    Subprotocol(&'static str),
}

impl Place {
    /// What to add to the target, and header lines.
    fn parts(self, values: &[&str]) -> (String, String) {
        let lines = |form: &dyn Fn(&str) -> String| {
            values.iter().map(|value| form(value) + "\r\n").collect::<String>()
        };
        let pairs: Vec<String> = values
            .iter()
            .map(|value| match self {
                Self::Query(name) => format!("{name}={value}"),
                _ => String::new(),
            })
            .collect();
        match self {
            Self::Bearer => {
                (String::new(), lines(&|value| format!("Authorization: Bearer {value}")))
            }
            Self::Field(name) => (String::new(), lines(&|value| format!("{name}: {value}"))),
            Self::Cookie(name) => {
                (String::new(), lines(&|value| format!("Cookie: a=b; {name}={value}; c=d")))
            }
            Self::Query(_) => (format!("?a=1&{}&b=2", pairs.join("&")), String::new()),
            Self::Subprotocol(prefix) => {
                let line = |value: &str| format!("Sec-WebSocket-Protocol: chat, {prefix}{value}");
                (String::new(), lines(&line))
            }
        }
    }

    /// Whether the application is not to see it.
    fn is_hidden(self) -> bool {
        matches!(self, Self::Query(_) | Self::Subprotocol(_))
    }
}

/// A credential that can be recognised.
#[derive(Debug, Clone)]
struct Canary {
    place: Place,
    value: String,
    /// Texts that stand in nothing but credentials.
    marks: Vec<String>,
    /// A text that stands in nothing but this one.
    own: String,
}

impl Canary {
    fn plain(place: Place, value: &str) -> Self {
        let own = value[..MARK_BYTES].to_owned();
        Self { place, value: value.to_owned(), marks: vec![own.clone()], own }
    }

    /// Each part by its beginning and its end, and a claim as it is read.
    fn token(place: Place, token: String, claim: &str) -> Self {
        let own = token[token.len() - MARK_BYTES..].to_owned();
        let ends = token.split('.').flat_map(|part| {
            [&part[..MARK_BYTES.min(part.len())], &part[part.len().saturating_sub(MARK_BYTES)..]]
        });
        let marks = ends.map(str::to_owned).chain([claim.to_owned()]).collect();
        Self { place, value: token, marks, own }
    }
}

/// One request, in both forms.
struct Case {
    what: &'static str,
    path: &'static str,
    /// After the query.
    tail: &'static str,
    lines: String,
    /// Of a plain request, and of an upgrade.
    statuses: [u16; 2],
}

impl Case {
    fn new(what: &'static str, path: &'static str, statuses: [u16; 2]) -> Self {
        Self { what, path, tail: "", lines: String::new(), statuses }
    }

    fn with(self, lines: impl Into<String>) -> Self {
        Self { lines: lines.into(), ..self }
    }

    fn ending_in(self, tail: &'static str) -> Self {
        Self { tail, ..self }
    }

    /// What becomes of a request with these credentials at `place`.
    fn status(&self, form: Form, place: Place) -> u16 {
        let status = self.statuses[usize::from(form == Form::Upgrade)];
        // A subprotocol is a thing of upgrades; elsewhere nobody has proved anything.
        let asks = self.path.starts_with("/private") && ![400, 403, 429, 431].contains(&status);
        let is_nobody = matches!(place, Place::Subprotocol(_)) && form == Form::Plain;
        if asks && is_nobody { 401 } else { status }
    }
}

/// What can become of a request whose credential is good.
fn usual() -> Vec<Case> {
    let bad = |what| Case::new(what, "/private/x", [400, 400]);
    vec![
        Case::new("allowed", "/private/x", [200, 101]),
        Case::new("public", "/public/x", [200, 101]),
        Case::new("own endpoint", "/_vibewarden/health", [200, 200]),
        Case::new("no own endpoint", "/_vibewarden/nothing", [404, 404]),
        Case::new("foreign origin", "/private/x", [200, 403]).with("Origin: https://evil.test\r\n"),
        Case::new("too much content", "/private/x", [413, 400]).with("Content-Length: 2000000\r\n"),
        bad("broken line").with("Broken Name: 1\r\n"),
        bad("two hosts").with("Host: t.test\r\n"),
        bad("fragment").ending_in("#x"),
        bad("control character").ending_in("\u{1}"),
        bad("broken request line").ending_in(" x"),
        bad("long request line").ending_in(" HTTP/1.1"),
        Case::new("dot segments", "/private/../private/x", [400, 400]),
        Case::new("too large", "/private/x", [431, 431])
            .with(format!("Padding: {}\r\n", "x".repeat(20_000))),
        Case::new("too many lines", "/private/x", [431, 431]).with("A: 1\r\n".repeat(300)),
        Case::new("application answers garbage", "/private/garbage", [502, 502]),
        Case::new("application answers nothing", "/private/nothing", [502, 502]),
        Case::new("application switches wrongly", "/private/wrong", [502, 502]),
    ]
}

/// Everything that an application was sent.
type Record = Arc<Mutex<Vec<u8>>>;

/// An application that does as the path says.
fn application() -> (Serving, Record) {
    let record = Record::default();
    let seen = Arc::clone(&record);
    let serving = Upstream::start().serve(move |mut peer| {
        let (mut head, mut chunk) = (Vec::new(), [0; 4096]);
        while find(&head, b"\r\n\r\n").is_none() {
            match std::io::Read::read(&mut &*peer.socket(), &mut chunk) {
                Ok(count) if count > 0 => head.extend_from_slice(&chunk[..count]),
                _ => break,
            }
        }
        seen.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&head);
        let asks_for = |part: &[u8]| find(&head, part).is_some();
        let answer = if asks_for(b"/garbage") {
            b"garbage\r\n\r\n".as_slice()
        } else if asks_for(b"/nothing") {
            b""
        } else if asks_for(b"/wrong") {
            b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"
        } else if asks_for(b"/silent") {
            peer.twin().drain();
            b""
        } else if asks_for(b"\r\nUpgrade: websocket\r\n") {
            ANSWER_101
        } else {
            ANSWER_LAST
        };
        // The proxy may have let go of it.
        let _may_be_gone = peer.try_send(answer);
        peer.fin();
    });
    (serving, record)
}

/// A proxy, and what it may and may not have told.
struct Watch {
    proxy: Proxy,
    application: Record,
    _serving: Serving,
    carried: Vec<Canary>,
    answers: Vec<(String, Vec<u8>)>,
}

impl Watch {
    #[track_caller]
    fn start(driver: Driver, change: impl FnOnce(Setup) -> Setup) -> Self {
        let (serving, application) = application();
        let setup = Setup::new(driver, serving.url())
            .set("watch.enabled", "false")
            .set("log.level", "debug")
            .set("auth.public_paths", "[\"/public/*\"]")
            .set("websocket.allowed_origins", "[\"https://friend.test\"]");
        let proxy = change(setup).start();
        Self { proxy, application, _serving: serving, carried: Vec::new(), answers: Vec::new() }
    }

    /// Sends a request in both forms with these credentials, which stand at the same place.
    #[track_caller]
    fn send(&mut self, case: &Case, canaries: &[&Canary]) {
        let place = canaries[0].place;
        let values: Vec<&str> = canaries.iter().map(|canary| canary.value.as_str()).collect();
        let (query, lines) = place.parts(&values);
        let target = format!("{}{query}{}", case.path, case.tail);
        for form in FORMS {
            let bytes = request(form, &target, &format!("{lines}{}", case.lines));
            let what = format!("{} as {form:?} with {place:?}", case.what);
            let (answer, _) = self.proxy.sent(&bytes).read_to_end();
            let status = format!("HTTP/1.1 {} ", case.status(form, place));
            assert!(answer.starts_with(status.as_bytes()), "{what}: {}", show(&answer));
            self.answers.push((what, answer));
        }
        self.carried.extend(canaries.iter().map(|canary| (*canary).clone()));
    }

    /// Stops the proxy and looks everywhere. The application has to have seen the canaries that are `passed` on.
    #[track_caller]
    fn finish(mut self, passed: &[&Canary]) {
        for path in ["health", "ready", "metrics"] {
            let (head, body) = self.proxy.get(&format!("/_vibewarden/{path}"));
            self.answers.push((path.to_owned(), format!("{head:?}\n{body}").into_bytes()));
        }
        let stopped = self.proxy.stop();
        assert!(!stopped.events.is_empty() && !stopped.log.is_empty());
        self.answers.push(("the events".to_owned(), self.proxy.process.out.text().into_bytes()));
        self.answers.push(("the operator log".to_owned(), stopped.log.into_bytes()));
        for (what, text) in &self.answers {
            for mark in self.carried.iter().flat_map(|canary| &canary.marks) {
                let found = find(text, mark.as_bytes());
                assert_eq!(
                    found,
                    None,
                    "{mark:?} of a credential stands in {what}: {}",
                    show(text)
                );
            }
        }
        let seen = self.application.lock().unwrap_or_else(PoisonError::into_inner);
        for canary in self.carried.iter().filter(|canary| canary.place.is_hidden()) {
            let found = find(&seen, canary.own.as_bytes());
            assert_eq!(found, None, "{canary:?} reached the application: {}", show(&seen));
        }
        for canary in passed.iter().filter(|canary| !canary.place.is_hidden()) {
            let found = find(&seen, canary.own.as_bytes());
            assert!(found.is_some(), "{canary:?} did not reach the application");
        }
    }
}

/// Good credentials in front of a proxy that lets nobody through, for reasons of its own.
#[track_caller]
fn refuses_for_other_reasons(driver: Driver, mode: &dyn Fn(Setup) -> Setup, good: &[Canary]) {
    let gone = Upstream::start().url();
    let every = |status| [status, status];
    for (what, path, statuses, keys) in [
        ("application down", "/private/x", every(502), vec![("upstream.url", gone.as_str())]),
        (
            "application silent",
            "/private/silent",
            every(504),
            vec![("resilience.timeout", "300ms")],
        ),
        (
            "empty bucket",
            "/private/x",
            every(429),
            vec![("rate_limit.enabled", "true"), ("rate_limit.per_ip.burst", "0")],
        ),
        (
            "refused address",
            "/private/x",
            every(403),
            vec![("ip_filter.enabled", "true"), ("ip_filter.addresses", "[127.0.0.1]")],
        ),
    ] {
        let set = |setup: Setup, (key, value): &(&str, &str)| setup.set(key, value);
        let mut watch = Watch::start(driver, |setup| keys.iter().fold(mode(setup), set));
        wait_ready(&watch.proxy);
        for canary in good {
            watch.send(&Case::new(what, path, statuses), &[canary]);
        }
        watch.finish(&[]);
    }
}

/// Waits for the keys of tokens where there are any.
#[track_caller]
fn wait_ready(proxy: &Proxy) {
    let config = std::fs::read_to_string(proxy.config_path()).expect("the configuration");
    if config.contains("jwks_url") {
        proxy.wait_event("a key set", |event| event.is("auth.jwks_refresh"));
    }
}

/// All that can become of good credentials, and of bad ones of each kind.
#[track_caller]
fn leave_no_trace(
    driver: Driver,
    mode: &dyn Fn(Setup) -> Setup,
    good: &[Canary],
    bad: &[(&'static str, Canary)],
) {
    let mut watch = Watch::start(driver, mode);
    wait_ready(&watch.proxy);
    for canary in good {
        for case in usual() {
            watch.send(&case, &[canary]);
        }
    }
    for (what, canary) in bad {
        watch.send(&Case::new(what, "/private/x", [401, 401]), &[canary]);
        watch.send(&Case::new(what, "/public/x", [200, 101]), &[canary]);
        let other = good.iter().find(|other| other.place == canary.place).expect("a good one");
        watch.send(&Case::new("several", "/private/x", [401, 401]), &[other, canary]);
    }
    watch.finish(&good.iter().collect::<Vec<_>>());
    refuses_for_other_reasons(driver, mode, good);
}

fn tokens_leave_no_trace(driver: Driver) {
    let places =
        [Place::Bearer, Place::Cookie("sid"), Place::Query("token"), Place::Subprotocol("bearer.")];
    let (key, forger, unknown) =
        (Key::elliptic("canary-kid"), Key::elliptic("canary-kid"), Key::elliptic("canary-kid-2"));
    let mint = |key: &Key, place, exp: u64| {
        let token = key.token(&claims(json!({"exp": exp, "canary": "canary in a claim"})));
        Canary::token(place, token, "canary in a claim")
    };
    let (good_until, past) = (now() + 600, now() - 600);
    let good = places.map(|place| mint(&key, place, good_until));
    let claim = "canary in a claim";
    let bad = [0, 1, 2, 3].map(|number| {
        let place = places[number];
        let header = encode("{\"alg\":\"none\",\"typ\":\"JWT\"}");
        let claims = encode(claims(json!({"canary": claim})).to_string());
        let signature = encode(format!("signed by canary {number}"));
        let unsigned = format!("{header}.{claims}.{signature}");
        let junk = format!("canary-{number}-that-is-no-token");
        [
            ("bad signature", mint(&forger, place, good_until)),
            ("expired", mint(&key, place, past)),
            ("unknown key", mint(&unknown, place, good_until)),
            ("unsigned", Canary::token(place, unsigned, claim)),
            ("no token", Canary::plain(place, &junk)),
        ]
    });
    let provider = Provider::start();
    provider.say("/jwks", Reply::json(200, jwks(&[key.jwk(json!({}))])));
    let from = |url: String| {
        move |setup: Setup| {
            setup
                .set("auth.mode", "jwt")
                .set("auth.jwt.jwks_url", &url)
                .set("auth.jwt.issuer", ISSUER)
                .set("auth.jwt.audience", AUDIENCE)
                .set(
                    "auth.jwt.sources",
                    "[header, \"cookie:sid\", \"query:token\", \"subprotocol:bearer.\"]",
                )
        }
    };
    leave_no_trace(driver, &from(format!("{}/jwks", provider.url())), &good, bad.as_flattened());
    // The keys cannot be had.
    for path in ["/nothing", "/closed"] {
        provider.say("/closed", Reply::Close);
        let mode = from(format!("{}{path}", provider.url()));
        let mut watch = Watch::start(driver, mode);
        watch.proxy.wait_event("a failed fetch", |event| event.is("auth.jwks_error"));
        for canary in &good {
            watch.send(&Case::new("no keys", "/private/x", [503, 503]), &[canary]);
        }
        watch.finish(&[]);
    }
    for request in ["/jwks", "/nothing", "/closed"].map(|path| provider.requests(path)).concat() {
        assert!(!format!("{request:?}").contains("canary"), "{request:?}");
        assert_eq!(request.head.one("authorization"), None, "{request:?}");
    }
}

fn api_keys_leave_no_trace(driver: Driver) {
    let places = [Place::Field("X-API-Key"), Place::Query("key")];
    let good = [
        Canary::plain(places[0], "canary-in-a-field-4b1d9e"),
        Canary::plain(places[1], "canary-in-a-query-0c77aa"),
    ];
    let bad = [
        ("wrong", Canary::plain(places[0], "canary-a-wrong-one-1")),
        ("wrong", Canary::plain(places[1], "canary-wrong-too-22")),
    ];
    let keys = ["a", "b"]
        .iter()
        .zip(&good)
        .map(|(name, canary)| json!({"name": name, "hash": key_hash(&canary.value)}));
    let keys = json!(keys.collect::<Vec<_>>()).to_string();
    let mode = |setup: Setup| {
        setup
            .set("auth.mode", "api-key")
            .set("auth.api_key.query", "key")
            .set("auth.api_key.keys", &keys)
    };
    leave_no_trace(driver, &mode, &good, &bad);
}

/// Answers by what the cookie says.
fn kratos() -> Application {
    Upstream::start().answer(|request, peer| {
        let session = request.head.one("cookie").or(request.head.one("x-session-token"));
        let session = session.unwrap_or_default();
        let (status, body) = if session.contains("good") {
            (200, json!({"active": true, "identity": {"id": "id-1", "traits": {}}}).to_string())
        } else if session.contains("inactive") {
            (200, "{\"active\":false}".to_owned())
        } else {
            (401, "{}".to_owned())
        };
        let length = body.len();
        let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{body}");
        // The proxy may have let go of it.
        let _may_be_gone = peer.try_send(answer.as_bytes());
        After::Keep
    })
}

fn session_cookies_leave_no_trace(driver: Driver) {
    let place = Place::Cookie("ory_kratos_session");
    let good =
        ["canary-session-good", "ory_st_canary-session-good"].map(|it| Canary::plain(place, it));
    let bad = [
        ("unknown", Canary::plain(place, "canary-unknown-session")),
        ("inactive", Canary::plain(place, "canary-inactive-one")),
        ("unknown token", Canary::plain(place, "ory_st_canary-unknown")),
    ];
    let at = |url: String| {
        move |setup: Setup| {
            setup
                .set("auth.mode", "kratos")
                .set("kratos.public_url", &url)
                .set("kratos.cache_ttl", "30s")
        }
    };
    let provider = kratos();
    leave_no_trace(driver, &at(provider.url()), &good, &bad);
    let trouble = Provider::start();
    let gone = Upstream::start().url();
    let echo = "{\"error\":{\"message\":\"canary-session-good is not for me\"}}";
    for (url, reply) in [
        (trouble.url(), Reply::json(500, echo)),
        (trouble.url(), Reply::json(200, "canary-session-good is no JSON")),
        (trouble.url(), Reply::Close),
        (gone, Reply::Close),
    ] {
        trouble.say("/sessions/whoami", reply);
        let mut watch = Watch::start(driver, at(url));
        for canary in &good {
            for path in ["/private/x", "/public/x"] {
                watch.send(&Case::new("Kratos in trouble", path, [503, 503]), &[canary]);
            }
        }
        watch.finish(&[]);
    }
}
