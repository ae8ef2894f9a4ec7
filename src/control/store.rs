//! The shared rate limit store in Redis (contract section 8.4): one script per decision, many of them pipelined on each of a few
//! connections, none of them waited for longer than 100 ms.

mod script;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo,
    RedisError,
};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::now;
use crate::clock;
use crate::config::{RedisLocation, RedisStore};
use crate::event::{Event, EventSender};
use crate::shared_store::{Question, Questions, StoreVerdict};
use script::Script;

/// A decision that takes longer has failed.
const CALL: Duration = Duration::from_millis(100);

/// A look whether Redis answers, connecting included.
const PROBE: Duration = Duration::from_secs(5);

/// Least time between two looks that refused requests ask for, where there is no fallback.
const PROBE_AGAIN: Duration = Duration::from_secs(1);

/// Decisions under way; those who come later wait in the queue.
const CALLS_MAX: usize = 4096;

/// Most connections, whatever `pool_size` says.
const CONNECTIONS_MAX: u32 = 64;

/// Why Redis does not decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// The URL cannot be used; the configuration checked its form already.
    Address,
    /// No connection.
    Connect,
    /// User or password are wrong.
    Authentication,
    /// The server is part of a cluster, whose keys are spread over nodes that this client does not follow.
    Cluster,
    /// No answer in time.
    Timeout,
    /// The connection ended.
    Closed,
    /// The server answered with an error, or something else than the script returns.
    Reply,
}

impl Failure {
    fn message(self) -> &'static str {
        match self {
            Self::Address => "rate_limit.redis.url cannot be used",
            Self::Connect => "cannot connect to Redis",
            Self::Authentication => "Redis refused user or password",
            Self::Cluster => "this Redis is a cluster, which is not supported; use a single server",
            Self::Timeout => "Redis did not answer in time",
            Self::Closed => "the connection to Redis ended",
            Self::Reply => "Redis answered with an error",
        }
    }
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        match error.kind() {
            ErrorKind::AuthenticationFailed => Self::Authentication,
            // No password was given where one is required.
            _ if error.code() == Some("NOAUTH") => Self::Authentication,
            ErrorKind::InvalidClientConfig => Self::Address,
            _ if error.is_cluster_error() => Self::Cluster,
            _ if error.is_timeout() => Self::Timeout,
            _ if error.is_connection_refusal() => Self::Connect,
            _ if error.is_connection_dropped() || error.is_io_error() => Self::Closed,
            _ => Self::Reply,
        }
    }
}

/// What a look found: connections that answer.
type Looked = Result<Vec<MultiplexedConnection>, Failure>;

/// How a task ended.
enum Ended {
    /// A decision on the connections of this generation.
    Call { generation: u64, failed: Option<Failure> },
    /// A look whether Redis answers.
    Probe { generation: u64, looked: Looked },
}

/// Answers the questions of the cores until nobody can ask any more. Redis need not be there.
pub async fn run(settings: RedisStore, questions: Questions, events: EventSender) {
    let mut tasks = JoinSet::new();
    let mut keeper = Keeper::new(&settings, Arc::clone(&questions.is_down), events);
    // Questions of the first moments wait for the connection, as long as they may wait for anything. It may take longer: with
    // TLS it is several round trips.
    keeper.probe(&mut tasks);
    if let Ok(Some(first)) = timeout(CALL, tasks.join_next()).await {
        keeper.ended(first);
    }
    loop {
        tokio::select! {
            question = questions.asked.recv_async(), if tasks.len() < CALLS_MAX => match question {
                Ok(question) => keeper.ask(question, &mut tasks),
                Err(_) => return,
            },
            Some(ended) = tasks.join_next(), if !tasks.is_empty() => keeper.ended(ended),
            () = sleep_until(keeper.probe_at), if !keeper.is_probing => keeper.probe(&mut tasks),
        }
    }
}

/// Where Redis is and how it is spoken to.
struct Place {
    client: Result<Client, Failure>,
    config: AsyncConnectionConfig,
    connections: u32,
    script: Script,
    key_prefix: String,
}

/// The state of the store.
struct Keeper {
    place: Arc<Place>,
    connections: Vec<MultiplexedConnection>,
    /// The connection that is next.
    next: usize,
    /// Counts how often the connections were given up, so that late failures of old ones are told apart.
    generation: u64,
    is_down: Arc<AtomicBool>,
    falls_back: bool,
    interval: Duration,
    probe_at: Instant,
    is_probing: bool,
    events: EventSender,
}

impl Keeper {
    fn new(settings: &RedisStore, is_down: Arc<AtomicBool>, events: EventSender) -> Self {
        let client = connection_info(settings).and_then(Client::open).map_err(|_| Failure::Address);
        // Each call has a limit of its own here, and it is shorter.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PROBE))
            .set_response_timeout(Some(PROBE));
        let place = Place {
            client,
            config,
            connections: settings.pool_size.clamp(1, CONNECTIONS_MAX),
            script: Script::new(),
            key_prefix: settings.key_prefix.clone(),
        };
        Self {
            place: Arc::new(place),
            connections: Vec::new(),
            next: 0,
            generation: 0,
            is_down,
            falls_back: settings.fallback,
            interval: settings.health_check_interval,
            probe_at: now(),
            is_probing: false,
            events,
        }
    }

    fn is_down(&self) -> bool {
        self.is_down.load(Ordering::Relaxed)
    }

    fn ask(&mut self, question: Question, tasks: &mut JoinSet<Ended>) {
        self.next = self.next.wrapping_add(1);
        let number = self.next.checked_rem(self.connections.len());
        let Some(connection) = number.and_then(|number| self.connections.get(number)).cloned()
        else {
            question.answer(StoreVerdict::Failed);
            // The first look takes long.
            self.goes_down(Failure::Timeout);
            // Without a fallback every request is refused now, so nobody waits for the next look.
            if !self.falls_back {
                self.probe_at = self.probe_at.min(now() + PROBE_AGAIN);
            }
            return;
        };
        let (place, generation) = (Arc::clone(&self.place), self.generation);
        tasks.spawn(async move {
            let failed = decide(&place, connection, &question).await.err();
            Ended::Call { generation, failed }
        });
    }

    fn ended(&mut self, ended: Result<Ended, JoinError>) {
        match ended {
            Ok(Ended::Call { generation, failed }) => self.called(generation, failed),
            Ok(Ended::Probe { generation, looked }) => self.probed(generation, looked),
            Err(defect) => {
                tracing::error!("a task of the rate limit store ended: {defect}");
                self.is_probing = false;
            }
        }
    }

    fn called(&mut self, generation: u64, failed: Option<Failure>) {
        if let Some(failure) = failed.filter(|_| generation == self.generation) {
            self.goes_down(failure);
        }
    }

    fn probe(&mut self, tasks: &mut JoinSet<Ended>) {
        self.is_probing = true;
        let (place, connections) = (Arc::clone(&self.place), self.connections.clone());
        let generation = self.generation;
        tasks.spawn(async move {
            let look = async {
                if connections.is_empty() { connect(place).await } else { ping(connections).await }
            };
            let looked = timeout(PROBE, look).await.unwrap_or(Err(Failure::Timeout));
            Ended::Probe { generation, looked }
        });
    }

    fn probed(&mut self, generation: u64, looked: Looked) {
        self.is_probing = false;
        self.probe_at = now() + self.interval;
        match looked {
            // The connections that answered were given up meanwhile; new ones are looked for at once.
            Ok(_) if generation != self.generation => self.probe_at = now(),
            Ok(connections) => {
                self.connections = connections;
                if self.is_down.swap(false, Ordering::Relaxed) {
                    tracing::info!("Redis answers again; rate limits are shared");
                    self.events.send(&Event::RateLimitStoreRecovered, clock::wall());
                }
            }
            Err(failure) => self.goes_down(failure),
        }
    }

    fn goes_down(&mut self, failure: Failure) {
        // A look under way that began without connections makes new ones, which are as good as any.
        if !self.connections.is_empty() {
            self.connections.clear();
            self.generation += 1;
        }
        if !self.is_down() {
            self.is_down.store(true, Ordering::Relaxed);
            let (reason, falls_back) = (failure.message(), self.falls_back);
            tracing::warn!(falls_back, "the rate limit store does not decide: {reason}");
            self.events.send(&Event::RateLimitStoreFallback { reason }, clock::wall());
        }
    }
}

/// What the settings say, the separate ones before those in the URL.
fn connection_info(settings: &RedisStore) -> Result<ConnectionInfo, RedisError> {
    let info = match &settings.location {
        RedisLocation::Url(url) => url.expose().into_connection_info()?,
        RedisLocation::Address(address) => {
            let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            ConnectionAddr::Tcp(host, port.parse().unwrap_or(6379)).into_connection_info()?
        }
    };
    let mut redis = info.redis_settings().clone();
    if !settings.password.expose().is_empty() {
        redis = redis.set_password(settings.password.expose());
    }
    if settings.db > 0 {
        redis = redis.set_db(settings.db.into());
    }
    Ok(info.set_redis_settings(redis))
}

/// All connections, each of them tried, to a server that is no cluster.
async fn connect(place: Arc<Place>) -> Looked {
    let client = place.client.as_ref().map_err(|failure| *failure)?;
    let mut connections = Vec::new();
    for _ in 0..place.connections {
        let connection = client.get_multiplexed_async_connection_with_config(&place.config);
        connections.push(connection.await.map_err(|error| match Failure::from(error) {
            Failure::Closed => Failure::Connect,
            failure => failure,
        })?);
    }
    let connections = ping(connections).await?;
    if let Some(mut first) = connections.first().cloned() {
        // Whoever may not ask is told by the first script, if it is one.
        let info: Result<String, RedisError> =
            redis::cmd("INFO").arg("cluster").query_async(&mut first).await;
        if info.is_ok_and(|info| info.contains("cluster_enabled:1")) {
            return Err(Failure::Cluster);
        }
    }
    Ok(connections)
}

async fn ping(mut connections: Vec<MultiplexedConnection>) -> Looked {
    for connection in &mut connections {
        let () = redis::cmd("PING").query_async(connection).await?;
    }
    Ok(connections)
}

/// Asks Redis, within the time that the question has left, and answers.
async fn decide(
    place: &Place,
    connection: MultiplexedConnection,
    question: &Question,
) -> Result<(), Failure> {
    let late = Instant::from_std(question.asked + CALL);
    if question.is_abandoned() {
        // The client has left, or nobody could wait so long for us.
        return if now() < late { Ok(()) } else { Err(Failure::Timeout) };
    }
    let call = place.script.call(connection, &place.key_prefix, question, clock::wall());
    let decided = match timeout_at(late, call).await {
        Ok(decided) => decided.map_err(Failure::from),
        Err(_) => Err(Failure::Timeout),
    };
    question.answer(decided.unwrap_or(StoreVerdict::Failed));
    decided.map(|_| ())
}

#[cfg(test)]
mod tests;
