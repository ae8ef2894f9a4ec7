use serde_json::json;
use tokio::sync::Semaphore;

use super::super::double::{Double, Log, PATIENCE, Reply, SHORT, within};
use super::*;
use crate::config::Config;
use crate::question::{self, Answer, Asker};

fn session(id: &str) -> String {
    json!({
        "id": "s", "active": true, "expires_at": "2126-01-01T00:00:00Z",
        "identity": {"id": id, "traits": {"email": "a@example.test"}}
    })
    .to_string()
}

/// What Kratos answers without a session (API reference, `toSession`).
fn no_session() -> Reply {
    let body =
        json!({"error": {"code": 401, "status": "Unauthorized", "message": "No valid session"}});
    Reply::Full(401, "Content-Type: application/json\r\n", body.to_string())
}

/// The machine under test, driven by hand.
struct Case {
    kratos: Kratos,
    log: Log,
    asker: Asker<SessionCheck, SessionVerdict>,
    questions: SessionQuestions,
}

impl Case {
    fn new(double: &Double, cache_ttl: Duration) -> Self {
        let log = Log::new();
        let settings = KratosSettings {
            rules: Config::default().auth,
            public_url: format!("{}/kratos/", double.url),
            cookie_name: "ory_kratos_session".into(),
            cache_ttl,
        };
        let client = fetch::client(Redirects::None, PATIENCE);
        let kratos = Kratos::new(client, Some(settings), log.events.clone(), Arc::default());
        let (asker, questions) = question::queue(64);
        Self { kratos, log, asker, questions }
    }

    async fn ask(&mut self, cookie: &str, path: &str) -> Answer<SessionVerdict> {
        let check = SessionCheck { cookie: cookie.as_bytes().into(), path: path.into() };
        let answer = self.asker.ask(check).expect("room");
        let question = within(self.questions.next()).await.expect("asked");
        self.kratos.asked(question);
        answer
    }

    /// Lets every call end.
    async fn settle(&mut self) {
        while let Some(called) = within(self.kratos.calls.join_next()).await {
            self.kratos.called(called.ok());
        }
    }

    async fn verdict(&mut self, cookie: &str) -> SessionVerdict {
        let answer = self.ask(cookie, "/ws").await;
        self.settle().await;
        within(answer.wait()).await.expect("an answer")
    }

    /// The counters: hit, miss, merged.
    fn counts(&self) -> [u64; 3] {
        let metrics = &self.kratos.metrics;
        [&metrics.kratos_cache_hits, &metrics.kratos_cache_misses, &metrics.kratos_cache_merged]
            .map(crate::metrics::Counter::get)
    }
}

fn user(verdict: &SessionVerdict) -> Option<&str> {
    match verdict {
        SessionVerdict::Active(session) => Some(&session.user_id),
        _ => None,
    }
}

#[tokio::test]
async fn a_check_carries_the_cookie_and_nothing_else() {
    let double = Double::start(Reply::ok(&session("alice"))).await;
    let mut case = Case::new(&double, Duration::ZERO);
    assert_eq!(user(&case.verdict("MTIz==").await), Some("alice"));
    assert_eq!(user(&case.verdict("ory_st_abc").await), Some("alice"));
    let seen = double.seen();
    let heads: Vec<_> = seen
        .requests
        .iter()
        .map(|head| {
            let mut lines: Vec<_> = head.trim_end().split("\r\n").map(str::to_owned).collect();
            lines[1..].sort_unstable();
            lines.retain(|line| !line.starts_with("host: ") && !line.starts_with("user-agent: "));
            lines
        })
        .collect();
    assert_eq!(
        heads,
        [
            [
                "GET /kratos/sessions/whoami HTTP/1.1",
                "accept: application/json",
                "cookie: ory_kratos_session=MTIz=="
            ],
            [
                "GET /kratos/sessions/whoami HTTP/1.1",
                "accept: application/json",
                "x-session-token: ory_st_abc"
            ],
        ]
    );
    assert_eq!(seen.connections, 1, "connections are kept");
}

#[tokio::test]
async fn without_a_cache_every_check_asks_again() {
    let double = Double::start(Reply::ok(&session("alice"))).await;
    let mut case = Case::new(&double, Duration::ZERO);
    for _ in 0..3 {
        assert_eq!(user(&case.verdict("c").await), Some("alice"));
    }
    double.set(no_session());
    assert_eq!(case.verdict("c").await, SessionVerdict::Inactive);
    assert_eq!((double.seen().requests.len(), case.counts()), (4, [0, 4, 0]));
}

#[tokio::test]
async fn checks_for_the_same_cookie_share_one_call() {
    let permit = Arc::new(Semaphore::new(0));
    let held = Reply::After(Arc::clone(&permit), Box::new(Reply::ok(&session("alice"))));
    let double = Double::start(held).await;
    let mut case = Case::new(&double, Duration::ZERO);
    let mut answers = Vec::new();
    for _ in 0..20 {
        answers.push(case.ask("same", "/ws").await);
    }
    let other = case.ask("other", "/ws").await;
    double.requests(2).await;
    permit.add_permits(2);
    case.settle().await;
    for answer in answers.into_iter().chain([other]) {
        let verdict = within(answer.wait()).await.expect("an answer");
        assert_eq!(user(&verdict), Some("alice"));
    }
    assert_eq!((double.seen().requests.len(), case.counts()), (2, [0, 2, 19]));
}

#[tokio::test]
async fn a_cache_keeps_what_is_good_and_nothing_else() {
    let double = Double::start(Reply::ok(&session("alice"))).await;
    let mut case = Case::new(&double, Duration::from_mins(1));
    for _ in 0..3 {
        assert_eq!(user(&case.verdict("c").await), Some("alice"));
    }
    assert_eq!((double.seen().requests.len(), case.counts()), (1, [2, 1, 0]));
    double.set(no_session());
    for _ in 0..2 {
        assert_eq!(case.verdict("bad").await, SessionVerdict::Inactive);
    }
    assert_eq!(double.seen().requests.len(), 3);
    for end in [json!("2020-01-01T00:00:00Z"), json!(null)] {
        let body = json!({"active": true, "expires_at": end, "identity": {"id": "bob"}});
        double.set(Reply::ok(&body));
        let before = double.seen().requests.len();
        for _ in 0..2 {
            assert_eq!(user(&case.verdict("bob").await), Some("bob"));
        }
        assert_eq!(double.seen().requests.len(), before + 2, "not past its end: {end}");
    }
    // Other settings: what was remembered is gone.
    let mut settings = case.kratos.settings.as_deref().cloned();
    case.kratos.change(settings.clone());
    assert_eq!(user(&case.verdict("c").await), Some("alice"));
    if let Some(settings) = &mut settings {
        settings.cookie_name = "sid".into();
    }
    case.kratos.change(settings);
    assert_eq!(user(&case.verdict("c").await), Some("bob"));
}

#[tokio::test]
async fn what_is_no_answer_is_unreachable_and_said_once() {
    let double = Double::start(Reply::Hang).await;
    let mut case = Case::new(&double, Duration::ZERO);
    let elsewhere = Reply::Full(302, "Location: http://127.0.0.1:1/\r\n", String::new());
    for (reply, expected) in [
        (Reply::Hang, Unreachable::Timeout),
        (Reply::Close, Unreachable::Connection),
        (Reply::Endless, Unreachable::TooLarge),
        (Reply::status(500), Unreachable::Status(500)),
        (Reply::status(429), Unreachable::Status(429)),
        (elsewhere, Unreachable::Status(302)),
        (Reply::ok("<html>"), Unreachable::Malformed),
        (Reply::ok("{\"active\":true}"), Unreachable::Malformed),
    ] {
        // Only what never comes is waited for a short time.
        let limit = if matches!(reply, Reply::Hang) { SHORT } else { PATIENCE };
        case.kratos.client = fetch::client(Redirects::None, limit);
        double.set(reply);
        assert_eq!(case.verdict("c").await, SessionVerdict::Unreachable(expected));
    }
    double.set(no_session());
    for _ in 0..2 {
        assert_eq!(case.verdict("c").await, SessionVerdict::Inactive);
    }
    double.set(Reply::status(503));
    case.verdict("c").await;
    double.set(Reply::ok(&session("alice")));
    case.verdict("c").await;
    let url = format!("{}/kratos/", double.url);
    drop(case.kratos);
    let down = |error| {
        let payload = json!({"affected_path": "/ws", "error": error, "provider_url": url});
        ("auth.provider_unavailable".to_owned(), payload)
    };
    let up = ("auth.provider_recovered".to_owned(), json!({"provider_url": url}));
    assert_eq!(
        case.log.end(),
        [down("no answer in time"), up.clone(), down("unexpected status 503"), up]
    );
}

#[tokio::test]
async fn nobody_listens() {
    let double = Double::start(Reply::Close).await;
    let mut case = Case::new(&double, Duration::ZERO);
    let mut settings = case.kratos.settings.as_deref().cloned().expect("settings");
    settings.public_url = "http://127.0.0.1:1".to_owned();
    case.kratos.change(Some(settings));
    assert_eq!(case.verdict("c").await, SessionVerdict::Unreachable(Unreachable::Connection));
}

#[tokio::test]
async fn without_settings_nobody_has_a_session() {
    let double = Double::start(Reply::ok(&session("alice"))).await;
    let mut case = Case::new(&double, Duration::ZERO);
    case.kratos.change(None);
    assert_eq!(case.verdict("c").await, SessionVerdict::Inactive);
    assert!(double.seen().requests.is_empty());
}

#[tokio::test]
async fn a_change_of_settings_asks_the_new_one_for_who_waits() {
    let old = Double::start(Reply::Hang).await;
    let new = Double::start(Reply::ok(&session("bob"))).await;
    let mut case = Case::new(&old, Duration::ZERO);
    let answer = case.ask("c", "/ws").await;
    old.requests(1).await;
    let mut settings = case.kratos.settings.as_deref().cloned().expect("settings");
    settings.public_url.clone_from(&new.url);
    case.kratos.change(Some(settings));
    case.settle().await;
    let verdict = within(answer.wait()).await.expect("an answer");
    assert_eq!(user(&verdict), Some("bob"));
}

#[tokio::test]
async fn a_call_that_ends_without_a_verdict_is_not_joined_again() {
    let double = Double::start(Reply::ok(&session("alice"))).await;
    let mut case = Case::new(&double, Duration::ZERO);
    let lost = case.ask("c", "/ws").await;
    case.kratos.called(None);
    assert_eq!(within(lost.wait()).await, None);
    case.settle().await;
    assert_eq!(user(&case.verdict("c").await), Some("alice"));
}

#[tokio::test]
async fn the_task_answers_other_threads_and_ends_with_them() {
    let double = Double::start(Reply::ok(&session("alice"))).await;
    let log = Log::new();
    let (asker, questions) = question::queue(4);
    let settings = KratosSettings {
        rules: Config::default().auth,
        public_url: double.url.clone(),
        cookie_name: "sid".into(),
        cache_ttl: Duration::ZERO,
    };
    let (_change, settings) = watch::channel(Some(settings));
    let parts =
        KratosParts { settings, questions, events: log.events.clone(), metrics: Arc::default() };
    let task = tokio::spawn(run(parts));
    let check = SessionCheck { cookie: b"c".as_slice().into(), path: "/".into() };
    assert!(!format!("{check:?}").contains('c') || !format!("{check:?}").contains("cookie"));
    let verdict = within(asker.ask(check).expect("room").wait()).await.expect("an answer");
    assert_eq!(user(&verdict), Some("alice"));
    drop(asker);
    within(task).await.expect("no panic");
}
