//! 10.5 with an `OpenID` provider that nobody of this project wrote (`oidc-provider` for Node): it is found by discovery, its access tokens
//! pass, and its keys are rotated while a crowd comes in.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

use super::foreign::{Foreign, Library, available};
use super::harness::crowd::upgrade;
use super::harness::guarded::{Denial, Form, Guarded};
use super::harness::token::Key;
use super::harness::upstream::Serving;
use super::harness::wait::eventually_within;
use super::harness::{Driver, PATIENCE, Peer, Proxy, Setup, Upstream};
use super::reports::Reports;

const AUDIENCE: &str = "urn:vibewarden";
/// 10.5: between the beginnings of two fetches, in nanoseconds.
const DAMPING: u64 = 10_000_000_000;
const CLIENTS: usize = 200;
/// How many rotations follow each fetch that is seen; ten in all.
const ROTATIONS: [usize; 3] = [4, 3, 3];
/// Upgrades that are answered between two rotations.
const BETWEEN: usize = 2 * CLIENTS;

/// Nanoseconds on the clock of the provider.
fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let parts = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    let (Ok(seconds), Ok(rest)) = parts else { panic!("{now:?}") };
    seconds * 1_000_000_000 + rest
}

/// The running provider; stopped when dropped.
struct OpenId {
    issuer: String,
    /// Another issuer with the same keys.
    other: String,
    control: String,
    first_kid: String,
    reports: Reports,
    _child: Foreign,
}

/// What a key set had, and when.
#[derive(Debug, Clone)]
struct Keys {
    at: u64,
    kids: Vec<String>,
}

impl Keys {
    fn of(value: &Value) -> Self {
        let kids = value["kids"].as_array().expect("names of keys").iter();
        let kids = kids.map(|kid| kid.as_str().expect("a name").to_owned()).collect();
        Self { at: value["at"].as_u64().expect("a time"), kids }
    }
}

#[track_caller]
fn post(url: &str, path: &str, headers: &str, body: &str) -> Value {
    let host = url.strip_prefix("http://").expect("a URL");
    let address: SocketAddr = host.parse().expect("an address");
    let mut peer = Peer::connect(address);
    let length = body.len();
    peer.send(
        format!("POST {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
            .as_bytes(),
    );
    let (head, body) = peer.read_kept_answer();
    assert_eq!(head.status(), 200, "{head:?} {}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).expect("JSON")
}

impl OpenId {
    #[track_caller]
    fn start() -> Self {
        let (child, reports) = Foreign::start(Library::Node, "provider", &[]);
        let listening = reports.wait(|report| report["event"] == "listening");
        let listening = listening.expect("the provider must listen");
        let text = |name: &str| listening[name].as_str().expect("text").to_owned();
        let first_kid = listening["kids"][0].as_str().expect("a name").to_owned();
        let (issuer, other, control) = (text("issuer"), text("other"), text("control"));
        Self { issuer, other, control, first_kid, reports, _child: child }
    }

    /// An access token for a service, as the provider gives it to a client that asks (RFC 6749 section 4.4, RFC 8707).
    #[track_caller]
    fn token(issuer: &str, audience: &str) -> String {
        let headers = format!(
            "Authorization: Basic {}\r\nContent-Type: application/x-www-form-urlencoded\r\n",
            STANDARD.encode("device:device-secret")
        );
        let body = format!("grant_type=client_credentials&resource={audience}");
        let answer = post(issuer, "/token", &headers, &body);
        answer["access_token"].as_str().expect("a token").to_owned()
    }

    /// The provider signs with a new key from now on.
    #[track_caller]
    fn rotate(&self) -> Keys {
        Keys::of(&post(&self.control, "/rotate", "", ""))
    }

    /// Node's own cryptography finds each signature good.
    #[track_caller]
    fn assert_genuine(&self, tokens: &[&str]) {
        let answer = post(&self.control, "/verify", "", &tokens.join("\n"));
        let genuine = answer["genuine"].as_array().expect("verdicts");
        assert_eq!(genuine.len(), tokens.len());
        assert!(genuine.iter().all(|verdict| verdict == true), "{answer}");
    }

    /// Every key set that was asked for so far.
    fn fetches(&self) -> Vec<Keys> {
        self.reports.of("fetched").iter().map(Keys::of).collect()
    }

    #[track_caller]
    fn wait_fetches(&self, count: usize) {
        eventually_within(PATIENCE * 2, &format!("{count} fetches"), || {
            (self.fetches().len() >= count).then_some(())
        });
    }

    fn setup(&self, driver: Driver, upstream_url: &str) -> Setup {
        Setup::new(driver, upstream_url)
            .set("watch.enabled", "false")
            .set("log.access_log", "false")
            .set("auth.mode", "jwt")
            .set("auth.jwt.issuer_url", &self.issuer)
            .set("auth.jwt.issuer", &self.issuer)
            .set("auth.jwt.audience", AUDIENCE)
    }
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// Header and claims of a token as text.
fn parts(token: &str) -> [String; 2] {
    let mut parts = token.split('.').map(|part| {
        let text = URL_SAFE_NO_PAD.decode(part).expect("base64url");
        String::from_utf8_lossy(&text).into_owned()
    });
    [(); 2].map(|()| parts.next().expect("a part"))
}

/// The same token, signed by somebody who names the key of the provider.
fn forged(token: &str, stranger: &Key) -> String {
    let [header, claims] = parts(token);
    stranger.sign(&header, &claims)
}

#[track_caller]
fn real_tokens(driver: Driver) {
    if !available() {
        return;
    }
    let provider = OpenId::start();
    let upstream = Upstream::start();
    let setup = provider.setup(driver, &upstream.url());
    let mut guarded = Guarded::start(&setup, upstream);
    let keys = guarded.proxy.wait_event("a key set", |event| event.is("auth.jwks_refresh"));
    assert_eq!(keys.text("payload.jwks_url"), format!("{}/jwks", provider.issuer));
    let good = OpenId::token(&provider.issuer, AUDIENCE);
    for head in guarded.allowed("/private/x", &bearer(&good)) {
        assert_eq!(head.one("x-user-id"), Some("device"));
    }
    let stranger = Key::rsa("any");
    for (token, reason) in [
        (OpenId::token(&provider.issuer, "urn:vibewarden2"), "invalid_audience"),
        (OpenId::token(&provider.other, AUDIENCE), "invalid_issuer"),
        (forged(&good, &stranger), "invalid_signature"),
    ] {
        let message = "token is not valid";
        let denial = Denial { status: 401, code: "invalid_token", message, reason };
        guarded.denied_as(Form::Plain, "/private/x", &bearer(&token), denial);
        guarded.denied_as(Form::Upgrade, "/private/x", &bearer(&token), denial);
    }
    assert_eq!(provider.fetches().len(), 1);
    guarded.finish(&[&good]);
}

/// A token that the crowd brings.
struct Offer {
    token: String,
    kid: String,
    is_genuine: bool,
}

/// One upgrade, from before it was sent until its answer was read.
struct Attempt {
    from: u64,
    to: u64,
    offer: Arc<Offer>,
    passed: bool,
}

/// Those who come in over and over, and what they are given to come in with.
#[derive(Default)]
struct Crowd {
    offers: RwLock<Vec<Arc<Offer>>>,
    attempts: Mutex<Vec<Attempt>>,
    answered: AtomicUsize,
    enough: AtomicBool,
}

/// Ends the crowd also when the test fails.
struct Sending<'a>(&'a Crowd);

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.0.enough.store(true, Ordering::Relaxed);
    }
}

impl Crowd {
    /// Comes in with one token after the other until it is enough. `first` is where it begins.
    fn come(&self, proxy: SocketAddr, first: usize) {
        let mut seen = Vec::new();
        for turn in first.. {
            if self.enough.load(Ordering::Relaxed) {
                break;
            }
            let offer = {
                let offers = self.offers.read().unwrap_or_else(PoisonError::into_inner);
                Arc::clone(&offers[turn % offers.len()])
            };
            let request = upgrade(&bearer(&offer.token));
            let from = monotonic();
            let mut client = Peer::connect(proxy);
            client.send(&request);
            let status = client.read_head().status();
            let to = monotonic();
            assert!(matches!(status, 101 | 401), "{status}");
            let passed = status == 101;
            if passed {
                client.send(b"there and back");
                client.expect(b"there and back");
            }
            seen.push(Attempt { from, to, offer, passed });
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner).extend(seen);
    }

    /// From now on also a token of the key that signs, and a forged one; of the keys before it as many as the provider keeps, and one more.
    fn give(&self, provider: &OpenId, kid: &str, stranger: &Key) {
        let token = OpenId::token(&provider.issuer, AUDIENCE);
        let [header, _] = parts(&token);
        assert!(header.contains(kid), "{header} is not signed by {kid}");
        let forged = forged(&token, stranger);
        let mut offers = self.offers.write().unwrap_or_else(PoisonError::into_inner);
        for (token, is_genuine) in [(token, true), (forged, false)] {
            offers.push(Arc::new(Offer { token, kid: kid.to_owned(), is_genuine }));
        }
        let old = offers.len().saturating_sub(12);
        offers.drain(..old);
    }

    #[track_caller]
    fn wait_more(&self, count: usize) {
        let before = self.answered.load(Ordering::Relaxed);
        eventually_within(PATIENCE * 2, "more answers", || {
            (self.answered.load(Ordering::Relaxed) - before >= count).then_some(())
        });
    }
}

/// Rotates ten times in the middle of the crowd; returns the key sets that the provider had, and what the crowd met.
fn rotated(provider: &OpenId, proxy: &Proxy) -> (Vec<Keys>, Vec<Attempt>) {
    let (crowd, stranger) = (Crowd::default(), Key::rsa("any"));
    let mut sets = vec![Keys { at: 0, kids: vec![provider.first_kid.clone()] }];
    crowd.give(provider, &provider.first_kid, &stranger);
    std::thread::scope(|scope| {
        let sending = Sending(&crowd);
        for number in 0..CLIENTS {
            let crowd = &crowd;
            scope.spawn(move || crowd.come(proxy.address(), number));
        }
        for (fetches, rotations) in ROTATIONS.into_iter().enumerate() {
            provider.wait_fetches(fetches + 1);
            for _ in 0..rotations {
                crowd.wait_more(BETWEEN);
                let set = provider.rotate();
                crowd.give(provider, &set.kids[0], &stranger);
                sets.push(set);
            }
        }
        provider.wait_fetches(ROTATIONS.len() + 1);
        // The answer is on its way to the keys in force; then everybody comes once more with each of the tokens.
        crowd.wait_more(15 * CLIENTS);
        drop(sending);
    });
    (sets, crowd.attempts.into_inner().expect("attempts"))
}

/// Forged tokens never pass. Genuine ones pass only by a key of a set that the provider gave out; they are refused only while no fetch may
/// begin, and never any more after one of the same key has passed, as long as the provider has that key.
#[track_caller]
fn check(sets: &[Keys], fetches: &[Keys], attempts: &[Attempt]) {
    // When the provider dropped a key.
    let dropped = |kid: &String| {
        let gone = sets.iter().skip_while(|set| !set.kids.contains(kid));
        gone.skip_while(|set| set.kids.contains(kid)).map(|set| set.at).next()
    };
    let first_pass = |kid: &String| {
        let passes = attempts.iter().filter(|attempt| attempt.passed && attempt.offer.kid == *kid);
        passes.map(|attempt| attempt.to).min()
    };
    for kid in sets.iter().map(|set| &set.kids[0]) {
        let first = first_pass(kid).unwrap_or_else(|| panic!("no token of {kid} ever passed"));
        let end = dropped(kid).unwrap_or(u64::MAX);
        for attempt in attempts.iter().filter(|attempt| attempt.offer.kid == *kid) {
            let Attempt { from, to, ref offer, passed } = *attempt;
            if !offer.is_genuine {
                assert!(!passed, "a forged token of {kid} passed");
                continue;
            }
            let before = fetches.iter().filter(|fetch| fetch.at <= to);
            let last = before.clone().next_back().expect("keys").at;
            if passed {
                // The last set and, while its answer is on the way, the one before it.
                let has_it = before.rev().take(2).any(|fetch| fetch.kids.contains(kid));
                assert!(has_it, "a token of {kid} passed without a set that has its key");
            } else if to < end {
                assert!(from < first, "a token of {kid} was refused after one had passed");
                assert!(from < last + DAMPING, "a token of {kid} was refused without a fetch");
            }
        }
    }
}

fn rotation_under_load(driver: Driver) {
    if !available() {
        return;
    }
    let provider = OpenId::start();
    let application: Serving = Upstream::start().echo();
    let setup = provider.setup(driver, &application.url());
    let began = monotonic();
    let proxy = setup.start();
    proxy.wait_event("a key set", |event| event.is("auth.jwks_refresh"));
    let (sets, attempts) = rotated(&provider, &proxy);
    let fetches = provider.fetches();
    let lasted = monotonic() - began;
    let count = |passed| attempts.iter().filter(|attempt| attempt.passed == passed).count();
    let (passed, refused) = (count(true), count(false));
    println!(
        "{passed} passed, {refused} refused, {} fetches in {:?}",
        fetches.len(),
        Duration::from_nanos(lasted)
    );
    assert_eq!(sets.len(), 11, "ten rotations");
    check(&sets, &fetches, &attempts);
    // The first one begins after the start, and each at least so long after the one before it.
    let allowed = usize::try_from(lasted / DAMPING + 1).expect("a number");
    assert!(fetches.len() <= allowed, "{} fetches, {allowed} allowed", fetches.len());
    let tokens = attempts.iter().filter(|attempt| attempt.passed);
    let tokens: HashSet<&str> = tokens.map(|attempt| attempt.offer.token.as_str()).collect();
    assert_eq!(tokens.len(), sets.len(), "one of each key passed");
    provider.assert_genuine(&tokens.into_iter().collect::<Vec<_>>());
}

macro_rules! on_both_drivers {
    ($($name:ident)*) => {
        mod io_uring {
            $(#[test] fn $name() { super::$name(super::Driver::IoUring); })*
        }
        mod epoll {
            $(#[test] fn $name() { super::$name(super::Driver::Epoll); })*
        }
    };
}

on_both_drivers!(real_tokens rotation_under_load);
