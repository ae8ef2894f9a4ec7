//! Binds, builds the shared parts, starts and names every thread, drains, and joins them.
//! No request is looked at here. Called by `cli` for `serve` and `demo`.

use std::fmt;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use socket2::{Domain, Protocol, Socket, Type};

use crate::admission::policy::Policy;
use crate::clock;
use crate::config::{Config, DriverChoice, Source};
use crate::control::{self, ControlParts};
use crate::event::{self, Event, EventSender, EventWriter};
use crate::metrics::Metrics;
use crate::process::{DriverReport, Phase, Process, VERSION};
use crate::proxy::core::{self, Command, CoreParts};
use crate::proxy::driver::{CoreRuntime, Mode, error_name};
use crate::published::Published;

/// Waiting connections per listener; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;

/// Descriptors kept free for everything that is not a client or its upstream.
const RESERVED_DESCRIPTORS: u64 = 256;

/// Pending event lines may take this long at the end.
const EVENTS_END: Duration = Duration::from_secs(1);

/// Why the start failed.
#[derive(Debug)]
pub enum StartError {
    /// The address cannot be listened on.
    Listen(SocketAddr, io::Error),
    /// No driver works; one line per attempt.
    Driver(Vec<String>),
    /// A thread or the runtime of the control plane could not be made.
    Thread(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(address, error) => write!(f, "cannot listen on {address}: {error}"),
            Self::Driver(attempts) => write!(f, "no driver works: {}", attempts.join("; ")),
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
    notify: mpsc::Sender<Notice>,
}

#[derive(Debug)]
struct RunningCore {
    commands: flume::Sender<Command>,
    thread: JoinHandle<()>,
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
    u32::try_from(pairs)
        .unwrap_or(u32::MAX)
        .clamp(16, 1_048_576)
}

/// Raises the soft descriptor limit to the hard one and returns it.
pub fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    let raised = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(hard),
            maximum: limit.maximum,
        },
    );
    if raised.is_ok() {
        hard
    } else {
        limit.current.unwrap_or(hard)
    }
}

impl Server {
    /// Starts serving. `source` is what a reload reads; `out` takes the event lines.
    pub fn start(
        config: Config,
        source: Option<Source>,
        out: impl Write + Send + 'static,
    ) -> Result<Self, StartError> {
        let started = clock::now();
        let descriptors = raise_descriptor_limit();
        let connections_max = connections_max(config.server.max_connections, descriptors);
        let cpus = usable_cpus();
        let workers = if config.server.workers == 0 {
            cpus.len().max(1)
        } else {
            usize::from(config.server.workers)
        };
        let (listeners, listen) = bind(
            SocketAddr::new(config.server.host, config.server.port),
            workers,
        )?;
        let metrics = Arc::new(Metrics::new(workers));
        let (events, writer) =
            event::start(out, Arc::clone(&metrics.event_log)).map_err(StartError::Thread)?;
        let pin = config.server.pin_cores.then_some(cpus.as_slice());
        let (mode, driver, seats) = seat_cores(config.server.driver, workers, pin)?;
        tracing::info!(
            driver = driver.name,
            mode = driver.mode,
            reason = driver.reason,
            workers,
            "driver chosen"
        );
        tracing::info!(descriptors, max_connections = connections_max, "limits");
        let addresses =
            control::first_addresses(&config.upstream.target).map_err(StartError::Thread)?;
        let policy = Published::new(Policy::new(config, addresses));
        let process = Arc::new(Process::new(
            started,
            listen,
            workers,
            driver,
            connections_max,
        ));
        let (notify, notices) = mpsc::channel();
        let parts = CoreParts {
            number: 0,
            mode,
            process: Arc::clone(&process),
            metrics: Arc::clone(&metrics),
            events: events.clone(),
        };
        let cores = seats
            .into_iter()
            .zip(listeners)
            .enumerate()
            .map(|(number, (seat, listener))| {
                seat.run(
                    CoreParts {
                        number,
                        ..parts.clone()
                    },
                    &policy,
                    listener,
                    notify.clone(),
                )
            })
            .collect();
        drop(parts);
        let control = ControlParts {
            source,
            policy: policy.clone(),
            events: events.clone(),
            metrics: Arc::clone(&metrics.control),
        };
        control::start(control, notify.clone()).map_err(StartError::Thread)?;
        let server = Self {
            process,
            policy,
            events,
            writer,
            cores,
            notices,
            notify,
        };
        server.announce();
        Ok(server)
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
            let _ = notify.send(Notice::Signal(libc::SIGTERM));
        }
    }

    fn announce(&self) {
        self.process.enter(Phase::Ready);
        let policy = self.policy.current();
        tracing::info!(listen = %self.process.listen, upstream = &*policy.upstream_url, "serving");
        let event = Event::ProxyStarted {
            driver: self.process.driver.name,
            driver_reason: &self.process.driver.reason,
            listen: self.process.listen.to_string(),
            upstream: &policy.upstream_url,
            version: VERSION,
            workers: self.process.workers,
        };
        self.events.send(&event, clock::wall());
    }

    /// Serves until a signal, then drains. Returns the exit code: 0, or 128 + n when a second signal n cut it short.
    pub fn run(self) -> u8 {
        let signal = loop {
            match self.notices.recv() {
                Ok(Notice::Signal(signal)) => break signal,
                Ok(Notice::CoreEnded(ended)) => {
                    tracing::error!(error = ?ended.err(), "a core ended before the shutdown")
                }
                // Impossible while this thread holds a sender; then there is nothing left to wait for.
                Err(_) => break libc::SIGTERM,
            }
        };
        let reason = if signal == libc::SIGINT {
            "SIGINT"
        } else {
            "SIGTERM"
        };
        tracing::info!(reason, "draining");
        self.process.enter(Phase::Draining);
        let time = self.policy.current().config.server.drain_timeout;
        let mut running = 0;
        for core in &self.cores {
            // A core that ended before has dropped its receiver.
            running += usize::from(core.commands.send(Command::Drain(time)).is_ok());
        }
        let mut tunnels_closed = 0;
        while running > 0 {
            match self.notices.recv() {
                Ok(Notice::CoreEnded(ended)) => {
                    running -= 1;
                    tunnels_closed += ended.unwrap_or(0);
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
        let uptime_seconds = clock::now()
            .saturating_duration_since(self.process.started)
            .as_secs();
        let event = Event::ProxyStopped {
            reason,
            tunnels_closed,
            uptime_seconds,
        };
        self.events.send(&event, clock::wall());
        tracing::info!(reason, tunnels_closed, uptime_seconds, "stopped");
        self.writer.finish(EVENTS_END);
    }
}

/// One listener per core on the same address (socket(7), `SO_REUSEPORT`). With port 0 the first one finds the port.
fn bind(wanted: SocketAddr, workers: usize) -> Result<(Vec<TcpListener>, SocketAddr), StartError> {
    let mut address = wanted;
    let mut listeners = Vec::with_capacity(workers);
    for _ in 0..workers {
        let listener = listen(address).map_err(|error| StartError::Listen(wanted, error))?;
        address = listener
            .local_addr()
            .map_err(|error| StartError::Listen(wanted, error))?;
        listeners.push(listener);
    }
    Ok((listeners, address))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Processors this process may run on.
fn usable_cpus() -> Vec<usize> {
    match sched_getaffinity(None) {
        Ok(set) => (0..CpuSet::MAX_CPU)
            .filter(|&cpu| set.is_set(cpu))
            .collect(),
        Err(_) => (0..std::thread::available_parallelism().map_or(1, Into::into)).collect(),
    }
}

/// A thread whose runtime stands and that waits to be told what to serve.
struct Seat {
    begin: mpsc::Sender<Begin>,
    thread: JoinHandle<()>,
}

struct Begin {
    parts: CoreParts,
    policy: crate::published::Reader<Policy>,
    listener: TcpListener,
    commands: flume::Receiver<Command>,
    notify: mpsc::Sender<Notice>,
}

impl Seat {
    fn run(
        self,
        parts: CoreParts,
        policy: &Published<Policy>,
        listener: TcpListener,
        notify: mpsc::Sender<Notice>,
    ) -> RunningCore {
        let (sender, commands) = flume::bounded(4);
        // The thread waits for nothing else; it is gone only after a panic, which ends the start loudly anyway.
        let _ = self.begin.send(Begin {
            parts,
            policy: policy.reader(),
            listener,
            commands,
            notify,
        });
        RunningCore {
            commands: sender,
            thread: self.thread,
        }
    }
}

/// Tries the drivers in their order until every core has a working runtime on its own thread.
fn seat_cores(
    choice: DriverChoice,
    workers: usize,
    pin: Option<&[usize]>,
) -> Result<(Mode, DriverReport, Vec<Seat>), StartError> {
    let mut attempts: Vec<String> = Vec::new();
    for &mode in Mode::ladder(choice) {
        match seat_all(mode, workers, pin) {
            Ok(seats) => {
                let reason = match (mode, choice, attempts.last()) {
                    (_, _, Some(failed)) => format!("{failed}; using {}", mode.described()),
                    (Mode::Epoll, _, None) => "server.driver is epoll".to_owned(),
                    (_, _, None) => format!("{} works", mode.described()),
                };
                return Ok((
                    mode,
                    DriverReport {
                        name: mode.name(),
                        mode: mode.label(),
                        reason,
                    },
                    seats,
                ));
            }
            Err(error) => attempts.push(format!("{}: {}", mode.call(), error_name(&error))),
        }
    }
    Err(StartError::Driver(attempts))
}

fn seat_all(mode: Mode, workers: usize, pin: Option<&[usize]>) -> io::Result<Vec<Seat>> {
    let (report, reports) = mpsc::channel();
    let mut seats = Vec::with_capacity(workers);
    for number in 0..workers {
        let (begin, begun) = mpsc::channel::<Begin>();
        let report = report.clone();
        let cpu = pin.and_then(|cpus| cpus.get(number % cpus.len().max(1)).copied());
        let thread = std::thread::Builder::new()
            .name(format!("vw-core-{number}"))
            .spawn(move || {
                pin_to(cpu);
                let built = CoreRuntime::build(mode);
                let (runtime, outcome) = match built {
                    Ok(runtime) => (Some(runtime), Ok(())),
                    Err(error) => (None, Err(error)),
                };
                drop((report.send(outcome), report));
                if let (Some(mut runtime), Ok(begin)) = (runtime, begun.recv()) {
                    let Begin {
                        parts,
                        policy,
                        listener,
                        commands,
                        notify,
                    } = begin;
                    let ended = runtime.block_on(core::run(parts, policy, listener, commands));
                    // Nobody waits for it when a second signal has ended the process.
                    let _ = notify.send(Notice::CoreEnded(ended));
                }
            })?;
        seats.push(Seat { begin, thread });
    }
    drop(report);
    // A thread that dies without a report closes the channel, which counts as a failure.
    let working = reports
        .iter()
        .take(workers)
        .collect::<io::Result<Vec<()>>>()?
        .len();
    if working == workers {
        Ok(seats)
    } else {
        Err(io::ErrorKind::Other.into())
    }
}

fn pin_to(cpu: Option<usize>) {
    let Some(cpu) = cpu else { return };
    let mut set = CpuSet::new();
    set.set(cpu);
    if let Err(error) = sched_setaffinity(None, &set) {
        tracing::warn!(cpu, %error, "cannot pin this core to its processor");
    }
}
