use std::sync::Arc;

use serde_json::json;
use tokio::sync::Semaphore;

use super::super::double::{Double, Log, PATIENCE, Reply, SHORT, within};
use super::*;
use crate::question::{self, Answer, Asker};

/// A public key of P-256 (RFC 7517 appendix A.1) under a `kid`.
fn set(kids: &[&str]) -> String {
    let keys: Vec<_> = kids
        .iter()
        .map(|kid| {
            json!({
                "kty": "EC", "crv": "P-256", "kid": kid,
                "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
                "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
            })
        })
        .collect();
    json!({"keys": keys}).to_string()
}

/// The machine under test, driven by hand and by a clock of the test.
struct Case {
    jwks: Jwks,
    start: Instant,
    log: Log,
    asker: Asker<(), ()>,
    questions: KeyQuestions,
}

impl Case {
    fn new(source: config::KeySet) -> Self {
        let log = Log::new();
        let start = clock::now();
        let settings = JwksSettings { source, cache_ttl: Duration::from_hours(1) };
        let client = fetch::client(Redirects::SameOrigin, PATIENCE);
        let keys = Published::new(Keys::default());
        let jwks = Jwks::new(client, Some(settings), keys, log.events.clone(), start);
        let (asker, questions) = question::queue(64);
        Self { jwks, start, log, asker, questions }
    }

    fn of(double: &Double) -> Self {
        Self::new(config::KeySet::Jwks(format!("{}/keys", double.url)))
    }

    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    /// A core asks at that time.
    async fn ask(&mut self, seconds: u64) -> Answer<()> {
        let answer = self.asker.ask(()).expect("room");
        let question = within(self.questions.next()).await.expect("asked");
        self.jwks.asked(question, self.at(seconds));
        answer
    }

    /// Lets a fetch that is due begin, and end.
    async fn fetch(&mut self, seconds: u64) {
        let now = self.at(seconds);
        if self.jwks.fetches.is_empty() && self.jwks.due.is_some_and(|due| due <= now) {
            self.jwks.begin(now);
        }
        assert_eq!(self.jwks.fetches.len(), 1, "one fetch at a time");
        let fetched = within(self.jwks.fetches.join_next()).await.expect("a fetch");
        self.jwks.fetched(fetched.ok(), now);
    }

    fn keys(&self) -> usize {
        self.jwks.keys.current().set.as_ref().map_or(0, |set| set.len())
    }

    fn end(self) -> Vec<(String, serde_json::Value)> {
        drop(self.jwks);
        self.log.end()
    }
}

#[tokio::test]
async fn the_set_is_fetched_at_the_start_and_when_its_time_is_over() {
    let double = Double::start(Reply::ok(&set(&["a"]))).await;
    let mut case = Case::of(&double);
    case.fetch(0).await;
    assert_eq!(case.keys(), 1);
    let first = case.jwks.keys.current().generation;
    assert_eq!(case.jwks.due.map(|due| due >= case.at(3_600)), Some(true));
    case.fetch(3_601).await;
    assert_eq!(case.jwks.keys.current().generation, first, "the same set is the same generation");
    double.set(Reply::ok(&set(&["a", "b"])));
    case.fetch(7_300).await;
    assert_eq!((case.keys(), case.jwks.keys.current().generation), (2, first + 1));
    let requests = double.seen().requests;
    assert_eq!(requests.len(), 3);
    let head = requests.first().map(|head| head.to_ascii_lowercase()).unwrap_or_default();
    assert!(head.starts_with("get /keys http/1.1\r\n"), "{head}");
    assert!(head.contains("accept: application/json\r\n"), "{head}");
    assert_eq!(double.seen().connections, 1, "connections are kept");
    let url = format!("{}/keys", double.url);
    let event =
        |count| ("auth.jwks_refresh".to_owned(), json!({"jwks_url": url, "key_count": count}));
    assert_eq!(case.end(), [event(1), event(1), event(2)]);
}

#[tokio::test]
async fn an_unknown_key_starts_one_fetch_in_ten_seconds_and_waits_for_it() {
    let double = Double::start(Reply::ok(&set(&["a"]))).await;
    let mut case = Case::of(&double);
    case.fetch(0).await;
    // Within ten seconds: answered at once, without a fetch. The cores know and need not even ask.
    assert_eq!(case.jwks.keys.current().quiet_until, Some(case.at(10)));
    within(case.ask(9).await.wait()).await.expect("an answer");
    assert_eq!(double.seen().requests.len(), 1);
    // After them: many ask, one fetch, and all wait for its end.
    let permit = Arc::new(Semaphore::new(0));
    double.set(Reply::After(Arc::clone(&permit), Box::new(Reply::ok(&set(&["a", "b"])))));
    let mut answers = Vec::new();
    for _ in 0..20 {
        answers.push(case.ask(10).await);
    }
    double.requests(2).await;
    permit.add_permits(1);
    assert_eq!(case.keys(), 1);
    case.fetch(11).await;
    for answer in answers {
        within(answer.wait()).await.expect("an answer");
    }
    assert_eq!((case.keys(), double.seen().requests.len()), (2, 2));
    // Ten seconds count from the beginning of that fetch.
    assert_eq!(case.jwks.keys.current().quiet_until, Some(case.at(20)));
    for seconds in [11, 15, 19] {
        within(case.ask(seconds).await.wait()).await.expect("an answer");
    }
    assert_eq!(double.seen().requests.len(), 2);
}

#[tokio::test]
async fn a_failed_fetch_keeps_the_last_good_set() {
    let double = Double::start(Reply::ok(&set(&["a"]))).await;
    let mut case = Case::of(&double);
    case.fetch(0).await;
    let generation = case.jwks.keys.current().generation;
    let failures = [
        (Reply::status(500), "unexpected status 500"),
        (Reply::status(404), "unexpected status 404"),
        (Reply::Full(204, "", String::new()), "unexpected status 204"),
        (Reply::Hang, "no answer in time"),
        (Reply::Close, "cannot connect"),
        (Reply::Raw("nonsense\r\n\r\n~"), "cannot connect"),
        (Reply::Raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n~"), "cannot connect"),
        (Reply::Endless, "the answer is too large"),
        (Reply::ok("<html>"), "not a key set"),
        (Reply::ok(r#"{"keys":[]}"#), "the key set has no usable key"),
        (Reply::ok(r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#), "the key set has no usable key"),
    ];
    let mut now = 4_000;
    for (reply, _) in &failures {
        double.set(reply.clone());
        // Only what never comes is waited for a short time.
        let limit = if matches!(reply, Reply::Hang) { SHORT } else { PATIENCE };
        case.jwks.client = fetch::client(Redirects::SameOrigin, limit);
        case.fetch(now).await;
        assert_eq!((case.keys(), case.jwks.keys.current().generation), (1, generation));
        now += 100;
    }
    double.set(Reply::ok(&set(&["b"])));
    case.fetch(now).await;
    assert_eq!(case.jwks.keys.current().generation, generation + 1);
    let details: Vec<_> = case
        .end()
        .into_iter()
        .filter(|(kind, _)| kind == "auth.jwks_error")
        .map(|(_, payload)| payload["detail"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(details, failures.map(|(_, detail)| detail));
}

#[tokio::test]
async fn retries_back_off_and_there_is_no_set_before_the_first_good_one() {
    let double = Double::start(Reply::status(503)).await;
    let mut case = Case::of(&double);
    let (mut now, mut pauses) = (0, Vec::new());
    for _ in 0..9 {
        case.fetch(now).await;
        assert!(case.jwks.keys.current().set.is_none());
        let due = case.jwks.due.expect("a retry");
        let pause = due.duration_since(case.at(now)).as_secs();
        pauses.push(pause);
        now += pause;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    double.set(Reply::ok(&set(&["a"])));
    case.fetch(now).await;
    assert_eq!((case.keys(), case.jwks.retry), (1, RETRY_FIRST));
}

#[tokio::test]
async fn redirects_stay_with_the_origin_that_was_configured() {
    let other = Double::start(Reply::ok(&set(&["theirs"]))).await;
    let to = |location: String| {
        Reply::Full(
            302,
            Box::leak(format!("Location: {location}\r\n").into_boxed_str()),
            String::new(),
        )
    };
    let double = Double::start(to(format!("{}/keys", other.url))).await;
    let mut case = Case::of(&double);
    case.fetch(0).await;
    assert!(case.jwks.keys.current().set.is_none() && other.seen().requests.is_empty());
    double.set(to("https://127.0.0.1:1/keys".into()));
    case.fetch(100).await;
    double.set(to("/again".into()));
    case.fetch(200).await;
    assert!(case.jwks.keys.current().set.is_none());
    assert!(double.seen().requests.len() <= 9, "redirects have an end");
    let details: Vec<_> =
        case.end().into_iter().map(|(_, payload)| payload["detail"].clone()).collect();
    assert_eq!(details, vec![json!("redirected to another origin, or too often"); 3]);
}

#[tokio::test]
async fn discovery_names_the_keys_of_its_own_issuer_only() {
    let keys = Double::start(Reply::ok(&set(&["a"]))).await;
    let issuer = Double::start(Reply::Close).await;
    let mut case = Case::new(config::KeySet::Issuer(issuer.url.clone()));
    let uri = format!("{}/jwks", keys.url);
    let mut now = 0;
    for (document, expected) in [
        (json!({"issuer": issuer.url, "jwks_uri": uri}), 1),
        (json!({"issuer": format!("{}/", issuer.url), "jwks_uri": uri}), 2),
        (json!({"issuer": "http://other.test", "jwks_uri": uri}), 2),
        (json!({"issuer": issuer.url, "jwks_uri": "file:///etc/passwd"}), 2),
        (json!({"issuer": issuer.url, "jwks_uri": "/jwks"}), 2),
        (json!({"issuer": issuer.url}), 2),
        (json!([]), 2),
    ] {
        issuer.set(Reply::ok(&document));
        case.fetch(now).await;
        assert_eq!(keys.seen().requests.len(), expected, "{document}");
        now += 4_000;
    }
    let path = issuer.seen().requests.into_iter().next().unwrap_or_default();
    assert!(path.starts_with("GET /.well-known/openid-configuration HTTP/1.1\r\n"), "{path}");
    let kinds: Vec<_> = case.end().into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds[..2], ["auth.jwks_refresh"; 2]);
    assert_eq!(kinds[2..], ["auth.jwks_error"; 5]);
}

#[tokio::test]
async fn keys_of_an_https_issuer_do_not_come_over_http() {
    let client = fetch::client(Redirects::None, PATIENCE);
    let double = Double::start(Reply::ok(&json!({"issuer": "i", "jwks_uri": "http://j"}))).await;
    assert_eq!(discover(&client, &double.url, "i").await, Ok("http://j".into()));
    assert_eq!(allowed("https://i", "http://j"), Err(JwksError::Scheme));
    assert_eq!(allowed("https://i", "https://j"), Ok(()));
    assert_eq!(allowed("http://i", "https://j"), Ok(()));
    assert_eq!(allowed("http://i", "ftp://j"), Err(JwksError::Scheme));
}

#[tokio::test]
async fn another_source_drops_the_keys_and_the_same_one_keeps_them() {
    let double = Double::start(Reply::ok(&set(&["a"]))).await;
    let mut case = Case::of(&double);
    case.fetch(0).await;
    let settings = case.jwks.settings.clone().expect("settings");
    let shorter = JwksSettings { cache_ttl: Duration::from_mins(1), ..settings.clone() };
    case.jwks.change(Some(shorter), case.at(1));
    assert_eq!((case.keys(), case.jwks.due), (1, Some(case.at(60))));
    let generation = case.jwks.keys.current().generation;
    let other =
        JwksSettings { source: config::KeySet::Jwks(format!("{}/other", double.url)), ..settings };
    case.jwks.change(Some(other), case.at(2));
    assert_eq!(case.keys(), 0);
    assert_ne!(case.jwks.keys.current().generation, generation);
    case.fetch(2).await;
    assert_eq!(case.keys(), 1);
    case.jwks.change(None, case.at(3));
    assert_eq!(case.keys(), 0);
    within(case.ask(30).await.wait()).await.expect("an answer");
    assert_eq!(double.seen().requests.len(), 2);
}

#[tokio::test]
async fn the_task_fetches_publishes_answers_and_ends() {
    let double = Double::start(Reply::ok(&set(&["a", "b"]))).await;
    let log = Log::new();
    let keys = Published::new(Keys::default());
    let (asker, questions) = question::queue(4);
    let source = config::KeySet::Jwks(double.url.clone());
    let settings = JwksSettings { source, cache_ttl: Duration::from_mins(1) };
    let (change, settings) = watch::channel(Some(settings));
    let parts = JwksParts { settings, questions, keys: keys.clone(), events: log.events.clone() };
    let task = tokio::spawn(run(parts));
    // Asked before the first fetch is over: the answer comes with it.
    double.requests(1).await;
    within(asker.ask(()).expect("room").wait()).await.expect("an answer");
    assert_eq!(keys.current().set.as_ref().map(|set| set.len()), Some(2));
    drop(change);
    within(asker.ask(()).expect("room").wait()).await.expect("an answer, settings or not");
    drop(asker);
    within(task).await.expect("no panic");
    assert_eq!(double.seen().requests.len(), 1);
    assert_eq!(log.end().len(), 1);
}

#[test]
fn a_url_is_shown_without_userinfo() {
    assert_eq!(fetch::shown("https://u:secret@h.test/k?a=1"), "https://h.test/k?a=1");
    assert_eq!(fetch::shown("http://h.test/k"), "http://h.test/k");
    assert_eq!(fetch::shown("::"), "");
}
