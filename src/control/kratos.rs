//! Asks Kratos whether a session cookie is a session, once for all who ask at the same time (contract section 10.4).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::header::{ACCEPT, COOKIE, HeaderValue};
use reqwest::{Client, RequestBuilder};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::fetch::{self, FetchError, Redirects};
use crate::admission::cache::{Digest, VerdictCache};
use crate::admission::session::{
    ANSWER_BYTES_MAX, SESSION_TOKEN_PREFIX, Session, SessionCheck, SessionVerdict, Unreachable,
    read_session, verdict_of_status,
};
use crate::clock;
use crate::config::Auth;
use crate::event::{Event, EventSender};
use crate::metrics::ControlMetrics;
use crate::question::{Question, Questions};

/// Calls at one time, so many that each can leave its connection to the next one. Beyond that, questions wait in their queue
/// until it is full.
const CALLS_MAX: usize = fetch::IDLE_CONNECTIONS_MAX;

/// Sessions that are remembered while `kratos.cache_ttl` is set.
const SESSIONS_MAX: usize = 16 * 1024;

/// Where Kratos is, and how it is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct KratosSettings {
    /// `kratos.public_url`.
    pub public_url: String,
    /// `auth.session_cookie_name`.
    pub cookie_name: String,
    /// `kratos.cache_ttl`; zero switches the cache off.
    pub cache_ttl: Duration,
    /// The whole of `auth`: any change of it drops what is remembered.
    pub rules: Auth,
}

/// From the cores.
pub type SessionQuestions = Questions<SessionCheck, SessionVerdict>;

/// What the task works with.
#[derive(Debug)]
pub struct KratosParts {
    /// `None` while the mode is another one: then nobody has a session. A change drops what is remembered.
    pub settings: watch::Receiver<Option<KratosSettings>>,
    /// From the cores.
    pub questions: SessionQuestions,
    /// The event log.
    pub events: EventSender,
    /// The counters of the control thread.
    pub metrics: Arc<ControlMetrics>,
}

/// Runs until nobody can ask any more.
pub async fn run(parts: KratosParts) {
    let KratosParts { mut settings, questions, events, metrics } = parts;
    let current = settings.borrow_and_update().clone();
    let client = fetch::client(Redirects::None, fetch::LIMIT);
    let mut kratos = Kratos::new(client, current, events, metrics);
    let mut may_change = true;
    loop {
        tokio::select! {
            biased;
            changed = settings.changed(), if may_change => {
                may_change = changed.is_ok();
                let next = settings.borrow_and_update().clone();
                kratos.change(next);
            }
            Some(called) = kratos.calls.join_next() => kratos.called(called.ok()),
            question = questions.next(), if kratos.calls.len() < CALLS_MAX => match question {
                Some(question) => kratos.asked(question),
                None => return,
            },
        }
    }
}

type Waiting = Question<SessionCheck, SessionVerdict>;

struct Kratos {
    client: Client,
    settings: Option<Arc<KratosSettings>>,
    events: EventSender,
    metrics: Arc<ControlMetrics>,
    calls: JoinSet<Called>,
    /// Who waits for which call.
    waiting: HashMap<Digest, Vec<Waiting>>,
    sessions: VerdictCache<Arc<Session>>,
    is_unavailable: bool,
}

/// The end of a call.
struct Called {
    digest: Digest,
    verdict: SessionVerdict,
}

impl Kratos {
    fn new(
        client: Client,
        settings: Option<KratosSettings>,
        events: EventSender,
        metrics: Arc<ControlMetrics>,
    ) -> Self {
        Self {
            client,
            settings: settings.map(Arc::new),
            events,
            metrics,
            calls: JoinSet::new(),
            waiting: HashMap::new(),
            sessions: VerdictCache::new(SESSIONS_MAX),
            is_unavailable: false,
        }
    }

    /// New settings: what another Kratos said is worth nothing, and who waits for it is asked about again.
    fn change(&mut self, settings: Option<KratosSettings>) {
        if settings == self.settings.as_deref().cloned() {
            return;
        }
        self.settings = settings.map(Arc::new);
        self.sessions.clear();
        self.calls.abort_all();
        self.calls = JoinSet::new();
        for (_, waiting) in std::mem::take(&mut self.waiting) {
            for question in waiting {
                self.asked(question);
            }
        }
    }

    fn asked(&mut self, question: Waiting) {
        let Some(settings) = self.settings.clone() else {
            question.answer(SessionVerdict::Inactive);
            return;
        };
        let cookie = &question.about.cookie;
        let digest = Digest::of(cookie);
        let known = self.sessions.get(&digest, SystemTime::from(clock::wall()));
        if let Some(session) = known.cloned() {
            self.metrics.kratos_cache_hits.add(1);
            question.answer(SessionVerdict::Active(session));
            return;
        }
        if let Some(waiting) = self.waiting.get_mut(&digest) {
            self.metrics.kratos_cache_merged.add(1);
            waiting.push(question);
            return;
        }
        let Some(request) = whoami(&self.client, &settings, cookie) else {
            question.answer(SessionVerdict::Inactive);
            return;
        };
        self.metrics.kratos_cache_misses.add(1);
        self.waiting.insert(digest, vec![question]);
        self.calls.spawn(async move { Called { digest, verdict: call(request).await } });
    }

    /// `None` when a call ended without a verdict: a defect, and nobody knows whose.
    fn called(&mut self, called: Option<Called>) {
        let Some(Called { digest, verdict }) = called else {
            // Without an answer everybody who waits is refused; a call that nobody ends must not be joined by more.
            self.waiting.clear();
            return;
        };
        let waiting = self.waiting.remove(&digest).unwrap_or_default();
        let path = waiting.first().map_or("", |question| &question.about.path);
        self.note(&verdict, path);
        if let (SessionVerdict::Active(session), Some(settings)) = (&verdict, &self.settings) {
            self.remember(digest, session.clone(), settings.cache_ttl);
        }
        for question in waiting {
            question.answer(verdict.clone());
        }
    }

    /// Only what is good is kept, and never past the end of the session. One without an end is not kept.
    fn remember(&mut self, digest: Digest, session: Arc<Session>, ttl: Duration) {
        let now = SystemTime::from(clock::wall());
        if let Some(until) = now.checked_add(ttl).zip(session.expires_at).map(|(a, b)| a.min(b)) {
            self.sessions.insert(digest, session, until, now);
        }
    }

    /// Writes the transitions between reachable and not, each once.
    fn note(&mut self, verdict: &SessionVerdict, path: &str) {
        let url = self.settings.as_ref().map(|settings| fetch::shown(&settings.public_url));
        let url = url.unwrap_or_default();
        match verdict {
            SessionVerdict::Unreachable(why) if !self.is_unavailable => {
                self.is_unavailable = true;
                let error = why.message();
                tracing::error!(url, error, "Kratos is unreachable");
                let event = Event::AuthProviderUnavailable {
                    affected_path: path,
                    error: &error,
                    provider_url: &url,
                };
                self.events.send(&event, clock::wall());
            }
            SessionVerdict::Active(_) | SessionVerdict::Inactive if self.is_unavailable => {
                self.is_unavailable = false;
                tracing::info!(url, "Kratos answers again");
                let event = Event::AuthProviderRecovered { provider_url: &url };
                self.events.send(&event, clock::wall());
            }
            _ => {}
        }
    }
}

/// The call for a cookie; `None` when no header can carry it, and so Kratos never gave it out.
fn whoami(client: &Client, settings: &KratosSettings, cookie: &[u8]) -> Option<RequestBuilder> {
    let url = format!("{}/sessions/whoami", settings.public_url.trim_end_matches('/'));
    let request = client.get(url).header(ACCEPT, "application/json");
    let secret = |value: &[u8]| {
        let mut value = HeaderValue::from_bytes(value).ok()?;
        value.set_sensitive(true);
        Some(value)
    };
    if cookie.starts_with(SESSION_TOKEN_PREFIX) {
        return Some(request.header("X-Session-Token", secret(cookie)?));
    }
    let line = [settings.cookie_name.as_bytes(), b"=", cookie].concat();
    Some(request.header(COOKIE, secret(&line)?))
}

async fn call(request: RequestBuilder) -> SessionVerdict {
    match fetch::fetch(request, ANSWER_BYTES_MAX).await {
        Ok(answer) => {
            verdict_of_status(answer.status).unwrap_or_else(|| read_session(&answer.body))
        }
        Err(error) => SessionVerdict::Unreachable(match error {
            FetchError::Timeout => Unreachable::Timeout,
            FetchError::TooLarge => Unreachable::TooLarge,
            FetchError::Certificate => Unreachable::Certificate,
            FetchError::Connection | FetchError::Redirect => Unreachable::Connection,
        }),
    }
}

#[cfg(test)]
mod tests;
