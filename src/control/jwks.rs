//! Fetches the key set of the provider, keeps it fresh, and fetches it again for a key that nobody knows
//! (contract section 10.5).

use std::time::{Duration, Instant};

use reqwest::{Client, Url};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::fetch::{self, FetchError, Redirects};
use crate::admission::jwt::{KeySet, Keys};
use crate::clock;
use crate::config;
use crate::event::{Event, EventSender};
use crate::published::Published;
use crate::question::{Question, Questions};

/// A key set and a discovery document are at most so long.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// An unknown key starts no fetch within this time after another one began.
const QUIET: Duration = Duration::from_secs(10);

/// A failed fetch is tried again after this time, then after twice as much, and so on.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_mins(1);

/// Where the keys are, and how long they are good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwksSettings {
    /// Where the keys are.
    pub source: config::KeySet,
    /// `auth.jwt.cache_ttl`.
    pub cache_ttl: Duration,
}

/// A core asks for newer keys, because a token names one that it does not have, or because there is no set. The answer comes
/// when a fetch is over, or at once when none may begin; then the published keys are the newest there are.
pub type KeyQuestions = Questions<(), ()>;

/// What the task works with.
#[derive(Debug)]
pub struct JwksParts {
    /// `None` while no mode needs keys. A change of `source` drops the set in force.
    pub settings: watch::Receiver<Option<JwksSettings>>,
    /// From the cores.
    pub questions: KeyQuestions,
    /// To the cores.
    pub keys: Published<Keys>,
    /// The event log.
    pub events: EventSender,
}

/// Runs until nobody can ask any more.
pub async fn run(parts: JwksParts) {
    let JwksParts { mut settings, questions, keys, events } = parts;
    let current = settings.borrow_and_update().clone();
    let client = fetch::client(Redirects::SameOrigin, fetch::LIMIT);
    let mut jwks = Jwks::new(client, current, keys, events, clock::now());
    let mut may_change = true;
    loop {
        tokio::select! {
            biased;
            changed = settings.changed(), if may_change => {
                may_change = changed.is_ok();
                let next = settings.borrow_and_update().clone();
                jwks.change(next, clock::now());
            }
            Some(fetched) = jwks.fetches.join_next() => jwks.fetched(fetched.ok(), clock::now()),
            () = super::at(jwks.due.map(tokio::time::Instant::from_std)) => jwks.begin(clock::now()),
            question = questions.next() => match question {
                Some(question) => jwks.asked(question, clock::now()),
                None => return,
            },
        }
    }
}

struct Jwks {
    client: Client,
    settings: Option<JwksSettings>,
    keys: Published<Keys>,
    events: EventSender,
    /// Who waits for the fetch under way.
    waiting: Vec<Question<(), ()>>,
    /// None or one.
    fetches: JoinSet<Fetched>,
    /// When the last fetch began.
    begun: Option<Instant>,
    /// When the next fetch is due; `None` while one is under way or none is needed.
    due: Option<Instant>,
    retry: Duration,
    /// The set in force as it was fetched, so that a set that did not change stays the same generation.
    text: Vec<u8>,
}

/// The end of a fetch: what was fetched last, and what came of it.
struct Fetched {
    url: String,
    result: Result<(KeySet, Vec<u8>), JwksError>,
}

/// Why a fetch gave no keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum JwksError {
    Fetch(FetchError),
    Status(u16),
    NotAUrl,
    Scheme,
    NotADiscovery,
    OtherIssuer,
    NotAKeySet,
    NoUsableKey,
}

impl JwksError {
    fn message(self) -> String {
        match self {
            Self::Fetch(error) => error.message().into(),
            Self::Status(status) => format!("unexpected status {status}"),
            Self::NotAUrl => "not a URL".into(),
            Self::Scheme => "jwks_uri is not an http or https URL".into(),
            Self::NotADiscovery => "not a discovery document".into(),
            Self::OtherIssuer => "the discovery document is of another issuer".into(),
            Self::NotAKeySet => "not a key set".into(),
            Self::NoUsableKey => "the key set has no usable key".into(),
        }
    }
}

impl From<FetchError> for JwksError {
    fn from(error: FetchError) -> Self {
        Self::Fetch(error)
    }
}

impl Jwks {
    fn new(
        client: Client,
        settings: Option<JwksSettings>,
        keys: Published<Keys>,
        events: EventSender,
        now: Instant,
    ) -> Self {
        Self {
            client,
            settings,
            keys,
            events,
            waiting: Vec::new(),
            fetches: JoinSet::new(),
            begun: None,
            due: Some(now),
            retry: RETRY_FIRST,
            text: Vec::new(),
        }
    }

    /// New settings. Keys of another source are worth nothing from now on.
    fn change(&mut self, settings: Option<JwksSettings>, now: Instant) {
        let source = |settings: &Option<JwksSettings>| {
            settings.as_ref().map(|settings| settings.source.clone())
        };
        let is_other = source(&settings) != source(&self.settings);
        self.settings = settings;
        if is_other {
            self.fetches.abort_all();
            self.fetches = JoinSet::new();
            self.text.clear();
            self.retry = RETRY_FIRST;
            let generation = self.keys.current().generation + 1;
            self.keys.publish(Keys { set: None, generation, quiet_until: None });
            self.begun = None;
            self.due = Some(now);
        } else if let (Some(begun), Some(due), Some(settings)) =
            (self.begun, self.due, &self.settings)
        {
            self.due = Some(due.min(begun + settings.cache_ttl));
        }
    }

    /// A core waits for newer keys.
    fn asked(&mut self, question: Question<(), ()>, now: Instant) {
        let is_quiet = self.begun.is_some_and(|begun| now < begun + QUIET);
        if !self.fetches.is_empty() {
            self.waiting.push(question);
        } else if is_quiet || self.settings.is_none() {
            question.answer(());
        } else {
            self.waiting.push(question);
            self.begin(now);
        }
    }

    fn begin(&mut self, now: Instant) {
        self.due = None;
        let Some(settings) = self.settings.clone() else {
            self.answer();
            return;
        };
        self.begun = Some(now);
        let client = self.client.clone();
        self.fetches.spawn(async move { fetch_keys(&client, &settings.source).await });
    }

    /// `None` when the task ended without a result.
    fn fetched(&mut self, fetched: Option<Fetched>, now: Instant) {
        let Some(settings) = self.settings.clone() else {
            return;
        };
        match fetched {
            Some(Fetched { url, result: Ok((set, text)) }) => {
                self.publish(&url, set, text);
                self.retry = RETRY_FIRST;
                self.due = Some(now + settings.cache_ttl);
            }
            failed => {
                let error = failed.and_then(|fetched| Some((fetched.url, fetched.result.err()?)));
                let (url, detail) = error.map_or_else(
                    || (String::new(), "the fetch was cut off".to_owned()),
                    |(url, error)| (url, error.message()),
                );
                tracing::warn!(url, detail, "the keys could not be fetched");
                let event = Event::AuthJwksError { detail: &detail, jwks_url: &url };
                self.events.send(&event, clock::wall());
                self.due = Some(now + self.retry);
                self.retry = (self.retry * 2).min(RETRY_MAX);
                self.quiet();
            }
        }
        self.answer();
    }

    fn publish(&mut self, url: &str, set: KeySet, text: Vec<u8>) {
        let event = Event::AuthJwksRefresh { jwks_url: url, key_count: set.len() };
        self.events.send(&event, clock::wall());
        if text == self.text && self.keys.current().set.is_some() {
            self.quiet();
            return;
        }
        for key in set.skipped() {
            let (kid, reason) = (key.kid.as_deref().unwrap_or_default(), key.reason.message());
            tracing::warn!(kid, reason, "a key of the set is not used");
        }
        tracing::info!(url, keys = set.len(), "new keys");
        let generation = self.keys.current().generation + 1;
        self.text = text;
        self.keys.publish(Keys {
            set: Some(set.into()),
            generation,
            quiet_until: self.quiet_until(),
        });
    }

    /// The same keys, and for how long no core need ask.
    fn quiet(&self) {
        let current = self.keys.current();
        self.keys.publish(Keys {
            set: current.set.clone(),
            generation: current.generation,
            quiet_until: self.quiet_until(),
        });
    }

    fn quiet_until(&self) -> Option<Instant> {
        self.begun.map(|begun| begun + QUIET)
    }

    fn answer(&mut self) {
        for question in self.waiting.drain(..) {
            question.answer(());
        }
    }
}

/// The members of a discovery document that are used.
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

async fn fetch_keys(client: &Client, source: &config::KeySet) -> Fetched {
    let mut url = match source {
        config::KeySet::Jwks(url) => url.clone(),
        config::KeySet::Issuer(issuer) => {
            format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'))
        }
    };
    if let config::KeySet::Issuer(issuer) = source {
        match discover(client, &url, issuer).await {
            Ok(found) => url = found,
            Err(error) => return Fetched { url: fetch::shown(&url), result: Err(error) },
        }
    }
    let result = fetch_set(client, &url).await;
    Fetched { url: fetch::shown(&url), result }
}

async fn discover(client: &Client, url: &str, issuer: &str) -> Result<String, JwksError> {
    let body = get(client, url).await?;
    let found: Discovery = serde_json::from_slice(&body).map_err(|_| JwksError::NotADiscovery)?;
    // A final slash is no difference between the URL that was configured and the name it has.
    if found.issuer.trim_end_matches('/') != issuer.trim_end_matches('/') {
        return Err(JwksError::OtherIssuer);
    }
    allowed(url, &found.jwks_uri)?;
    Ok(found.jwks_uri)
}

/// Keys of an https issuer do not come over http, and nothing but these two is fetched.
fn allowed(from: &str, to: &str) -> Result<(), JwksError> {
    let (from, to) = (parse(from)?, parse(to).map_err(|_| JwksError::Scheme)?);
    match (from.scheme(), to.scheme()) {
        (_, "https") | ("http", "http") => Ok(()),
        _ => Err(JwksError::Scheme),
    }
}

async fn fetch_set(client: &Client, url: &str) -> Result<(KeySet, Vec<u8>), JwksError> {
    let text = get(client, url).await?;
    let set = KeySet::parse(&text).map_err(|_| JwksError::NotAKeySet)?;
    if set.is_empty() { Err(JwksError::NoUsableKey) } else { Ok((set, text)) }
}

async fn get(client: &Client, url: &str) -> Result<Vec<u8>, JwksError> {
    let request = client.get(parse(url)?).header("Accept", "application/json");
    match fetch::fetch(request, BODY_BYTES_MAX).await? {
        answer if answer.status == 200 => Ok(answer.body),
        answer => Err(JwksError::Status(answer.status)),
    }
}

fn parse(url: &str) -> Result<Url, JwksError> {
    Url::parse(url).map_err(|_| JwksError::NotAUrl)
}

#[cfg(test)]
mod tests;
