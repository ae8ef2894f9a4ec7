//! 10.4, 10.5 under load: what a crowd of strangers, a crowd with one cookie and a crowd with a cookie each cost the provider.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use crate::auth_jwt::{bearer, setup, wait_keys};
use crate::auth_kratos::cookie;
use crate::harness::application::Application;
use crate::harness::crowd::{ask_at_once, upgrade};
use crate::harness::payload::{Random, seed};
use crate::harness::provider::{Provider, Reply};
use crate::harness::token::{Key, claims, jwks};
use crate::harness::{ANSWER_101, After, Driver, Proxy, Setup, Upstream, eventually};

on_drivers!(
    every: ;
    both:
        strangers_cannot_make_it_fetch,
        a_thousand_with_one_cookie_are_one_call,
        a_thousand_with_a_cookie_each_are_a_call_each,
        calls_about_one_cookie_follow_each_other,
);

/// 10.5: between the beginnings of two fetches.
const DAMPING: Duration = Duration::from_secs(10);
const STRANGERS: usize = 10_000;
const STRANGERS_AT_ONCE: usize = 16;
const CROWD: usize = 1_000;

/// Calls at one time; no number of the contract.
const CALLS_MAX: usize = 256;

/// Both ends of a crowd are in this process.
fn allow_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let more = Rlimit { current: limit.maximum, ..limit };
    setrlimit(Resource::Nofile, more).expect("RLIMIT_NOFILE");
}

/// An application that accepts each upgrade and ends its tunnel.
fn curt() -> Application {
    Upstream::start().answer(|_, peer| {
        let _may_be_gone = peer.try_send(ANSWER_101);
        After::Close
    })
}

/// E34, E35: while some of them wait for a fetch too, whose answer is slow.
fn strangers_cannot_make_it_fetch(driver: Driver) {
    let (key, stranger) = (Key::rsa("known"), Key::elliptic("any"));
    let provider = Provider::start();
    provider.say("/jwks", Reply::json(200, jwks(&[key.jwk(json!({}))])));
    let (application, place) = (curt(), Upstream::start());
    let began = Instant::now();
    let proxy = setup(driver, &place, &format!("{}/jwks", provider.url()))
        .set("upstream.url", &application.url())
        .start();
    wait_keys(&proxy);
    provider.hold();
    let (refused, passed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = Ending(&enough);
        for number in 0..STRANGERS_AT_ONCE {
            let (proxy, stranger, refused, enough) = (&proxy, &stranger, &refused, &enough);
            let mut random = Random::new(seed() + number as u64);
            scope.spawn(move || {
                while !enough.load(Ordering::Relaxed) {
                    let kid = format!("{:016x}", random.next());
                    let header = stranger.header(json!({"kid": kid})).to_string();
                    let token = stranger.sign(&header, &claims(json!({})).to_string());
                    let answer = proxy.answer_to(&upgrade(&bearer(&token)));
                    answer.assert_refusal(401, "invalid_token");
                    refused.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| {
            for number in 0.. {
                if enough.load(Ordering::Relaxed) {
                    break;
                }
                let token = key.token(&claims(json!({"sub": format!("user-{number}")})));
                let answer = proxy.sent(&upgrade(&bearer(&token))).read_head();
                assert_eq!(answer.status(), 101, "{answer:?}");
                passed.fetch_add(1, Ordering::Relaxed);
            }
        });
        let more = |counter: &AtomicUsize, count: usize, what: &str| {
            let before = counter.load(Ordering::Relaxed);
            eventually(what, || (counter.load(Ordering::Relaxed) >= before + count).then_some(()));
        };
        // The start has fetched a moment ago: for a while everybody is refused at once. Then somebody's fetch hangs, and all wait for it.
        provider.wait_count("/jwks", 2);
        more(&passed, 20, "known users while strangers wait for a fetch");
        provider.release();
        more(&refused, STRANGERS_AT_ONCE, "strangers after the fetch");
        while refused.load(Ordering::Relaxed) < STRANGERS {
            more(&refused, 100, "100 more strangers");
        }
    });
    let (fetches, lasted) = (provider.count("/jwks"), began.elapsed());
    let (refused, passed) = (refused.into_inner(), passed.into_inner());
    println!("{refused} refused, {passed} passed, {fetches} fetches in {lasted:?}");
    let allowed = lasted.as_secs() / DAMPING.as_secs() + 1;
    assert!(fetches as u64 <= allowed, "{fetches} fetches, {allowed} allowed in {lasted:?}");
    assert_eq!(application.connections(), passed, "the application saw known users alone");
    let counted = proxy.scrape().value("vibewarden_refusals_total", &[("reason", "invalid_token")]);
    assert_eq!(format!("{counted:.0}"), refused.to_string());
    place.assert_untouched();
}

/// Ends the crowd also when the test fails.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Kratos: finds every session active, and counts the calls that it is at.
struct Kratos {
    application: Application,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    held: Mutex<bool>,
    opened: Condvar,
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Kratos {
    fn start() -> Self {
        let state = Arc::new(State::default());
        let application = Upstream::start().answer({
            let state = Arc::clone(&state);
            move |request, peer| {
                let now = state.now.fetch_add(1, Ordering::SeqCst) + 1;
                state.most.fetch_max(now, Ordering::SeqCst);
                let held = state.held.lock().unwrap_or_else(PoisonError::into_inner);
                drop(state.opened.wait_while(held, |held| *held));
                let sent = request.head.one("cookie").unwrap_or_default();
                let body = json!({"active": true, "identity": {"id": sent}}).to_string();
                let length = body.len();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
                state.now.fetch_sub(1, Ordering::SeqCst);
                let _may_be_gone = peer.try_send(answer.as_bytes());
                After::Keep
            }
        });
        Self { application, state }
    }

    /// Whether answers wait.
    fn hold(&self, held: bool) {
        *self.state.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
        self.state.opened.notify_all();
    }

    fn calls(&self) -> usize {
        self.application.requests().len()
    }

    /// The most calls that it was at.
    fn most(&self) -> usize {
        self.state.most.load(Ordering::SeqCst)
    }

    fn in_front_of(&self, driver: Driver, application: &Application) -> Proxy {
        allow_descriptors();
        Setup::new(driver, application.url())
            .set("watch.enabled", "false")
            .set("auth.mode", "kratos")
            .set("kratos.public_url", &self.application.url())
            .start()
    }
}

impl Drop for Kratos {
    fn drop(&mut self) {
        self.hold(false);
    }
}

fn counted(proxy: &Proxy, result: &str) -> usize {
    let labels = [("cache", "kratos"), ("result", result)];
    let value = proxy.scrape().value("vibewarden_auth_cache_total", &labels);
    format!("{value:.0}").parse().expect("a count")
}

/// All come while Kratos is at the first call, so that there is no other: the call ends only after the last has come.
fn a_thousand_with_one_cookie_are_one_call(driver: Driver) {
    let (kratos, application) = (Kratos::start(), curt());
    let proxy = kratos.in_front_of(driver, &application);
    kratos.hold(true);
    let asks = upgrade(&cookie("the-same"));
    // The call may last 5 s: who connects first loses none of them.
    let mut clients: Vec<_> = (0..CROWD).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        client.send(&asks);
    }
    eventually("all of them wait", || (counted(&proxy, "merged") == CROWD - 1).then_some(()));
    eventually("the call", || (kratos.calls() > 0).then_some(()));
    assert_eq!((kratos.calls(), application.connections()), (1, 0));
    kratos.hold(false);
    for client in &mut clients {
        client.open();
    }
    assert_eq!(kratos.calls(), 1);
    assert_eq!(application.connections(), CROWD);
}

/// More than may be under way at one time: the others wait their turn, and connections are used again.
fn a_thousand_with_a_cookie_each_are_a_call_each(driver: Driver) {
    let (kratos, application) = (Kratos::start(), curt());
    let proxy = kratos.in_front_of(driver, &application);
    for round in 1..=3 {
        kratos.hold(true);
        let asks = |number| upgrade(&cookie(&format!("cookie-{round}-{number}")));
        let mut clients: Vec<_> = (0..CROWD).map(|_| proxy.connect()).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(&asks(number));
        }
        eventually("as many calls as may be", || {
            (kratos.state.now.load(Ordering::SeqCst) == CALLS_MAX).then_some(())
        });
        kratos.hold(false);
        for client in &mut clients {
            client.open();
        }
        let asked: Vec<String> = kratos
            .application
            .requests()
            .into_iter()
            .map(|(_, request)| request.head.one("cookie").expect("a cookie").to_owned())
            .collect();
        assert_eq!(asked.len(), round * CROWD);
        assert_eq!(asked.iter().collect::<HashSet<_>>().len(), asked.len(), "a call each");
        println!("{} calls over {} connections", asked.len(), kratos.application.connections());
    }
    assert_eq!(kratos.most(), CALLS_MAX);
    // 256 are seen. A call may begin just before the connection that it could have used is free.
    let connections = kratos.application.connections();
    assert!(connections <= 2 * CALLS_MAX, "{connections} connections");
    assert_eq!(application.connections(), 3 * CROWD);
    assert_eq!([counted(&proxy, "miss"), counted(&proxy, "merged")], [3 * CROWD, 0]);
    // Who comes is who the cookie says, in whichever order the answers were.
    for (_, request) in application.requests() {
        let sent = request.head.one("cookie");
        assert_eq!(request.head.one("x-user-id"), sent, "{request:?}");
    }
}

/// Nobody is made to wait here: whether calls are shared is up to chance, but never are there two at one time.
fn calls_about_one_cookie_follow_each_other(driver: Driver) {
    let (kratos, application) = (Kratos::start(), curt());
    let proxy = kratos.in_front_of(driver, &application);
    let asks = upgrade(&cookie("the-same"));
    for answer in ask_at_once(&proxy, &vec![asks; CROWD]) {
        assert_eq!(answer.head.status(), 101, "{:?}", answer.head);
    }
    let (calls, merged) = (kratos.calls(), counted(&proxy, "merged"));
    println!("{calls} calls, {merged} merged");
    assert_eq!(calls + merged, CROWD);
    assert_eq!(kratos.most(), 1);
}
