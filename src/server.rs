//! Binds, builds the shared parts, starts and names every thread, drains, and joins them.
//! No request is looked at here. Called by `cli` for `serve` and `demo`.

mod seat;

use std::fmt;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::admission::policy::Policy;
use crate::certificate::{Certificate, CertificateError, Offer};
use crate::clock;
use crate::config::{Config, RateLimitStore, Tls};
use crate::control::{self, ControlParts, Origin, StoreParts};
use crate::event::{self, Event, EventSender, EventWriter};
use crate::metrics::Metrics;
use crate::process::{Phase, Process, VERSION};
use crate::providers::{self, ProviderQuestions};
use crate::proxy::core::{Command, CoreParts, prepare_listener};
use crate::proxy::limited::SharedLimits;
use crate::published::Published;
use crate::shared_store::Store;

use seat::{RunningCore, Seat, seat_cores, usable_cpus};

/// Waiting connections per listener; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;

/// Descriptors kept free for everything that is not a client or its upstream.
const RESERVED_DESCRIPTORS: u64 = 256;

/// Notices that wait for the main thread, besides one per core.
const NOTICES: usize = 16;

/// Pending event lines may take this long at the end.
const EVENTS_END: Duration = Duration::from_secs(1);

/// Why the start failed.
#[derive(Debug)]
pub enum StartError {
    /// The address cannot be listened on.
    Listen(SocketAddr, io::Error),
    /// No driver works; one line per attempt.
    Driver(Vec<String>),
    /// The certificate that was to be made, or the parts of TLS.
    Tls(CertificateError),
    /// A thread or the runtime of the control plane could not be made.
    Thread(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(address, error) => write!(f, "cannot listen on {address}: {error}"),
            Self::Driver(attempts) => write!(f, "no driver works: {}", attempts.join("; ")),
            Self::Tls(error) => write!(f, "TLS cannot be served: {error}"),
            Self::Thread(error) => write!(f, "cannot start a thread: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// A serving process.
#[derive(Debug)]
pub struct Server {
    process: Arc<Process>,
    policy: Published<Policy>,
    events: EventSender,
    writer: EventWriter,
    cores: Vec<RunningCore>,
    notices: mpsc::Receiver<Notice>,
    notify: mpsc::SyncSender<Notice>,
}

/// What the main thread waits for.
enum Notice {
    Signal(i32),
    CoreEnded(io::Result<u64>),
}

impl From<control::Notice> for Notice {
    fn from(notice: control::Notice) -> Self {
        match notice {
            control::Notice::Stop(signal) => Self::Signal(signal),
        }
    }
}

/// The effective connection cap for a configured one and a soft descriptor limit (contract section 3.1).
pub fn connections_max(configured: u32, descriptors: u64) -> u32 {
    if configured > 0 {
        return configured;
    }
    let pairs = descriptors.saturating_sub(RESERVED_DESCRIPTORS) / 2;
    u32::try_from(pairs).unwrap_or(u32::MAX).clamp(16, 1_048_576)
}

/// Raises the soft descriptor limit to the hard one and returns it.
pub fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    let raised =
        setrlimit(Resource::Nofile, Rlimit { current: Some(hard), maximum: limit.maximum });
    if raised.is_ok() { hard } else { limit.current.unwrap_or(hard) }
}

impl Server {
    /// Starts serving. `origin` is what a reload reads; `out` takes the event lines.
    pub fn start(
        config: Config,
        origin: Option<Origin>,
        out: impl Write + Send + 'static,
    ) -> Result<Self, StartError> {
        let started = clock::now();
        let descriptors = raise_descriptor_limit();
        let connections_max = connections_max(config.server.max_connections, descriptors);
        let cpus = usable_cpus();
        let workers = match usize::from(config.server.workers) {
            0 => cpus.len().max(1),
            workers => workers,
        };
        let wanted = SocketAddr::new(config.server.host, config.server.port);
        let metrics = Arc::new(Metrics::new(workers));
        let offer = config.tls.as_ref().map(|tls| first_offer(tls, &metrics)).transpose();
        let offer = offer.map_err(StartError::Tls)?;
        let (listeners, listen) = bind(wanted, workers, config.server.dead_peer_after)?;
        let pin = config.server.pin_cores.then_some(cpus.as_slice());
        let (mode, driver, seats) = seat_cores(config.server.driver, workers, pin)?;
        let (name, reason) = (driver.name, &driver.reason);
        tracing::info!(driver = name, mode = driver.mode, reason, workers, "driver chosen");
        tracing::info!(descriptors, max_connections = connections_max, "limits");
        let (events, writer) =
            event::start(out, Arc::clone(&metrics.event_log)).map_err(StartError::Thread)?;
        let (upstream, kratos) = control::first_addresses(&config).map_err(StartError::Thread)?;
        let policy = Published::new(Policy::new(config, upstream, kratos));
        let process = Process::new(started, listen, workers, driver, connections_max);
        let (providers, questions) = providers::connect();
        let (limits, store) = shared_limits(&policy.current().config, started);
        // Only this thread sets it.
        let _ = metrics.limits.set(Arc::clone(&limits.buckets));
        let process = Arc::new(process);
        let tls = offer.as_ref().map(Offer::current);
        let parts = CoreParts { number: 0, mode, process, metrics, events, providers, limits, tls };
        let control = ControlEnds { origin, questions, store, offer };
        let server = Self::serve(parts, policy, control, seats, listeners, writer)?;
        server.announce();
        Ok(server)
    }

    /// Seats the cores and starts the control thread.
    fn serve(
        parts: CoreParts,
        policy: Published<Policy>,
        ends: ControlEnds,
        seats: Vec<Seat>,
        listeners: Vec<TcpListener>,
        writer: EventWriter,
    ) -> Result<Self, StartError> {
        let (notify, notices) = mpsc::sync_channel(seats.len() + NOTICES);
        let mut cores = Vec::with_capacity(seats.len());
        for (number, (seat, listener)) in seats.into_iter().zip(listeners).enumerate() {
            let parts = CoreParts { number, ..parts.clone() };
            cores.push(seat.run(parts, &policy, listener, notify.clone()));
        }
        let ControlEnds { origin, questions, store, offer } = ends;
        let control = ControlParts {
            origin,
            policy: policy.clone(),
            events: parts.events.clone(),
            metrics: Arc::clone(&parts.metrics.control),
            process: Arc::clone(&parts.process),
            keys: parts.providers.keys.clone(),
            questions: Some(questions),
            store,
            offer,
        };
        control::start(control, notify.clone()).map_err(StartError::Thread)?;
        let CoreParts { process, events, .. } = parts;
        Ok(Self { process, policy, events, writer, cores, notices, notify })
    }

    /// The address it listens on.
    pub fn listen(&self) -> SocketAddr {
        self.process.listen
    }

    /// Lets another thread stop the server as the signal would.
    pub fn stopper(&self) -> impl Fn() + Send + 'static {
        let notify = self.notify.clone();
        move || {
            // The server is gone already when nobody listens.
            let _ = notify.try_send(Notice::Signal(libc::SIGTERM));
        }
    }

    fn announce(&self) {
        self.process.enter(Phase::Ready);
        let policy = self.policy.current();
        tracing::info!(listen = %self.process.listen, upstream = &*policy.upstream.url, "serving");
        control::log_public_paths(&policy.config.auth.public_paths);
        let event = Event::ProxyStarted {
            driver: self.process.driver.name,
            driver_reason: &self.process.driver.reason,
            listen: self.process.listen.to_string(),
            security_headers_enabled: policy.config.security_headers.enabled,
            tls_provider: policy.config.tls.as_ref().map_or("", Tls::provider),
            upstream: &policy.upstream.url,
            version: VERSION,
            workers: self.process.workers,
        };
        self.events.send(&event, clock::wall());
    }

    /// Serves until a signal, then drains. Returns the exit code: 0, 128 + n when a second signal n cut it
    /// short, 1 when every core has ended by itself.
    pub fn run(self) -> u8 {
        // Every core says once that it has ended, whatever ended it.
        let mut running = self.cores.len();
        let signal = loop {
            match self.notices.recv() {
                Ok(Notice::Signal(signal)) => break signal,
                Ok(Notice::CoreEnded(ended)) => {
                    running -= 1;
                    tracing::error!(error = ?ended.err(), "a core ended before the shutdown");
                    if running == 0 {
                        // Nothing is served any more; whoever supervises the process starts it again.
                        self.finish("no core is left", 0);
                        return 1;
                    }
                }
                // Impossible while this thread holds a sender; then there is nothing left to wait for.
                Err(_) => break libc::SIGTERM,
            }
        };
        let reason = if signal == libc::SIGINT { "SIGINT" } else { "SIGTERM" };
        tracing::info!(reason, "draining");
        self.process.enter(Phase::Draining);
        let time = self.policy.current().config.server.drain_timeout;
        for core in &self.cores {
            // A core that ended before has dropped its receiver.
            let _ = core.commands.send(Command::Drain(time));
        }
        let mut tunnels_closed = 0;
        while running > 0 {
            match self.notices.recv() {
                Ok(Notice::CoreEnded(ended)) => {
                    running -= 1;
                    match ended {
                        Ok(closed) => tunnels_closed += closed,
                        Err(error) => tracing::error!(%error, "a core ended badly in the drain"),
                    }
                }
                Ok(Notice::Signal(second)) => return 128 + u8::try_from(second).unwrap_or(127),
                Err(_) => break,
            }
        }
        self.finish(reason, tunnels_closed);
        0
    }

    fn finish(self, reason: &str, tunnels_closed: u64) {
        for core in self.cores {
            // A panic of a core was reported when it happened.
            let _ = core.thread.join();
        }
        let uptime_seconds = clock::now().saturating_duration_since(self.process.started).as_secs();
        let event = Event::ProxyStopped { reason, tunnels_closed, uptime_seconds };
        self.events.send(&event, clock::wall());
        tracing::info!(reason, tunnels_closed, uptime_seconds, "stopped");
        self.writer.finish(EVENTS_END);
    }
}

/// What only the control thread gets.
struct ControlEnds {
    origin: Option<Origin>,
    questions: ProviderQuestions,
    store: Option<StoreParts>,
    offer: Option<Offer>,
}

/// The certificate with which the process starts.
fn first_offer(tls: &Tls, metrics: &Metrics) -> Result<Offer, CertificateError> {
    let certificate = match tls {
        Tls::SelfSigned(domain) => {
            tracing::warn!(
                domain,
                "self-signed certificate: every client has to be told to trust it"
            );
            &Certificate::self_signed(domain)?
        }
        Tls::External(certificate) => certificate,
    };
    Offer::new(certificate, Arc::clone(&metrics.control))
}

/// The limits of the process, and for a shared store the control thread's end of it.
fn shared_limits(config: &Config, epoch: Instant) -> (SharedLimits, Option<StoreParts>) {
    let alone = SharedLimits::alone(config.rate_limit.max_keys, epoch);
    match &config.rate_limit.store {
        RateLimitStore::Memory => (alone, None),
        RateLimitStore::Redis(settings) => {
            let (store, questions) = Store::new(settings.fallback);
            let parts = StoreParts { settings: settings.clone(), questions };
            (SharedLimits { store: Some(store), ..alone }, Some(parts))
        }
    }
}

/// One listener per core on the same address (socket(7), `SO_REUSEPORT`). With port 0 the first one finds the port.
fn bind(
    wanted: SocketAddr,
    workers: usize,
    dead_peer_after: Option<Duration>,
) -> Result<(Vec<TcpListener>, SocketAddr), StartError> {
    let failed = |error| StartError::Listen(wanted, error);
    // Listeners that share a port never collide, not even with those of another process. So one that does not share takes it, and
    // shares only when it is taken: whoever asks meanwhile is told.
    let first = listen(wanted, |_| Ok(())).map_err(failed)?;
    let address = first.local_addr().map_err(failed)?;
    SockRef::from(&first).set_reuse_port(true).map_err(failed)?;
    let shared = |listener: &Socket| {
        listener.set_reuse_port(true)?;
        prepare_listener(listener, dead_peer_after)
    };
    let listeners: io::Result<Vec<TcpListener>> =
        (0..workers).map(|_| listen(address, shared)).collect();
    Ok((listeners.map_err(failed)?, address))
}

fn listen(
    address: SocketAddr,
    prepare: impl FnOnce(&Socket) -> io::Result<()>,
) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    prepare(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests;
