//! One sample: one peer, freshly started in a fresh network namespace, does the work of one row.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustls::HandshakeKind;

use crate::account::{self, Cpu};
use crate::certificate;
use crate::credentials::Credentials;
use crate::failure::{Doing as _, Failure};
use crate::load::head::{self, Application};
use crate::load::{Close, Counts, Load, Purpose, loopback, tls};
use crate::peers::{Peer, Place};
use crate::rows::{Check, Work};

const PROXY_PORT: u16 = 8080;
const UPSTREAM_PORT: u16 = 9000;
/// Handshakes under way at the same time, and tunnels opened at the same time.
const OPENING: u64 = 64;
const ECHO_TUNNELS: u32 = 64;
const LATENCY_TUNNELS: u32 = 8;
/// Client connections with plain requests.
const REQUEST_CLIENTS: u64 = 64;
/// Nothing that is waited for takes this long.
const PATIENCE: Duration = Duration::from_mins(1);
/// Before anything is measured: TCP windows, pools, branch predictors.
const WARM_UP: Duration = Duration::from_millis(300);

/// A refusal comes sooner; when there is none, the request waits for the application, which does not run yet.
const REFUSAL_WAIT: Duration = Duration::from_secs(3);
/// Content compared in full after the measured time.
const CHECKED_BYTES: u64 = 10_000_000;
/// After the last answer nothing may come for this long.
const SILENCE: Duration = Duration::from_millis(50);

/// How much is measured, and where.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Extent {
    /// Seconds measured per sample of echo, bulk, http and latency
    #[arg(long, default_value_t = 2.0, global = true)]
    pub(crate) seconds: f64,
    /// Handshakes measured per sample; the same number for every peer, because each may leave a port unusable for a while
    #[arg(long, default_value_t = 20_000, global = true)]
    pub(crate) handshakes: u64,
    /// Idle tunnels; the proxy needs two descriptors for each
    #[arg(long, default_value_t = 8_000, global = true)]
    pub(crate) tunnels: u64,
    /// Core of the proxy
    #[arg(long, default_value_t = 0, global = true)]
    pub(crate) proxy_core: usize,
    /// Core of clients and application
    #[arg(long, default_value_t = 1, global = true)]
    pub(crate) load_core: usize,
    /// Binary to measure in place of the one built with this benchmark
    #[arg(long, default_value = env!("CARGO_BIN_EXE_vibewarden"), global = true)]
    pub(crate) vibewarden: PathBuf,
}

/// The figures of a sample by key, as `Work::figures` names them.
pub(crate) type Figures = BTreeMap<String, f64>;

/// CPU and time of a piece of work.
struct Measured {
    cpu: Cpu,
    wall: Duration,
}

impl Measured {
    /// CPU, user CPU and the busy share of the core; per `count` operations, in units of `unit_ns`.
    fn per(&self, count: f64, unit_ns: f64, unit: &str) -> Figures {
        let (total, user) = (float(self.cpu.scheduled_ns), float(self.cpu.user_ns()));
        Figures::from([
            (format!("cpu_{unit}"), total / unit_ns / count),
            (format!("user_{unit}"), user / unit_ns / count),
            ("busy_percent".to_owned(), total / 1e7 / self.wall.as_secs_f64()),
        ])
    }
}

/// A running peer.
struct Proxy {
    child: Child,
    dir: PathBuf,
}

/// Takes one sample. The caller has made the network namespace and the empty directory `dir`.
pub(crate) fn take(
    peer: &Peer,
    work: Work,
    extent: &Extent,
    dir: &Path,
) -> Result<Figures, Failure> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
        .doing("RLIMIT_NOFILE")?;
    let mut core = CpuSet::new();
    core.set(extent.load_core);
    sched_setaffinity(None, &core).doing("sched_setaffinity")?;
    let mut load = Load::new(loopback(UPSTREAM_PORT), loopback(PROXY_PORT))?;
    let credentials = Credentials::prepare(work.check(), begun_max(work, extent), dir)?;
    load.fields = credentials.good;
    if let Work::Tls { resumed, .. } = work {
        load.tls = Some(tls::Terms::new(certificate::make(dir)?, resumed)?);
    }
    let place = Place { dir, port: PROXY_PORT, upstream_port: UPSTREAM_PORT, work };
    let mut proxy = Proxy::start(peer, extent, &place)?;
    if let Some(wrong) = credentials.wrong {
        refuses(&wrong).map_err(|failure| proxy.explain(failure))?;
    }
    let stolen = account::stolen_ms(extent.proxy_core)?;
    let figures = proxy.work(work, extent, &mut load).map_err(|failure| proxy.explain(failure));
    let stolen = account::stolen_ms(extent.proxy_core)? - stolen;
    proxy.child.kill().and_then(|()| proxy.child.wait()).doing("end of the proxy")?;
    let mut figures = figures?;
    figures.insert("stolen_ms".to_owned(), float(stolen));
    if let Some(sessions) = credentials.sessions {
        let connections = sessions.check(load.counts().granted)?;
        figures.insert("kratos_connections".to_owned(), float(connections));
    }
    if work.access_log() || work == Work::Storm {
        let lines = lines(&dir.join("access.log"))? + lines(&dir.join("stdout"))?;
        figures.insert(
            "log_lines_percent".to_owned(),
            100.0 * float(lines) / float(load.counts().granted + load.counts().refused),
        );
    }
    Ok(figures)
}

impl Proxy {
    /// Starts the peer on its core and waits until it listens.
    fn start(peer: &Peer, extent: &Extent, place: &Place<'_>) -> Result<Self, Failure> {
        if let Some((name, text)) = peer.config {
            fs::write(place.dir.join(name), peer.fill(text, place))
                .doing("write of the configuration")?;
        }
        let program = match (peer.program, peer.config) {
            ("", Some(_)) => extent.vibewarden.clone(),
            ("", None) => std::env::current_exe().doing("path of this program")?,
            (program, _) => PathBuf::from(program),
        };
        let child = Command::new("taskset")
            .args(["-c", &extent.proxy_core.to_string()])
            .arg(program)
            .args(peer.arguments.iter().map(|argument| peer.fill(argument, place)))
            .envs(peer.environment.iter().map(|(name, value)| (*name, peer.fill(value, place))))
            .stdin(Stdio::null())
            .stdout(File::create(place.dir.join("stdout")).doing("file for stdout")?)
            .stderr(File::create(place.dir.join("stderr")).doing("file for stderr")?)
            .spawn()
            .doing("start of the proxy")?;
        let mut proxy = Self { child, dir: place.dir.to_owned() };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(loopback(place.port)).is_err() {
            if proxy.child.try_wait().doing("wait for the proxy")?.is_some() {
                return Err(Failure::ProxyExited { stderr: proxy.last_words() });
            }
            if Instant::now() > deadline {
                return Err(Failure::Late { waiting_for: "the proxy to listen" });
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(proxy)
    }

    /// The end of what the proxy wrote to stderr, on one line.
    fn last_words(&self) -> String {
        let text = fs::read_to_string(self.dir.join("stderr")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(3)..].join(" | ")
    }

    /// Replaces a failure by its cause when the proxy has ended.
    fn explain(&mut self, failure: Failure) -> Failure {
        match self.child.try_wait() {
            Ok(Some(_)) => Failure::ProxyExited { stderr: self.last_words() },
            _ => failure,
        }
    }

    fn cpu(&self) -> Result<Cpu, Failure> {
        Cpu::of_tree(self.child.id())
    }

    fn measure(&self, work: impl FnOnce() -> Result<(), Failure>) -> Result<Measured, Failure> {
        let (cpu, start) = (self.cpu()?, Instant::now());
        work()?;
        Ok(Measured { wall: start.elapsed(), cpu: self.cpu()?.since(cpu)? })
    }

    fn work(&self, work: Work, extent: &Extent, load: &mut Load) -> Result<Figures, Failure> {
        let time = Duration::from_secs_f64(extent.seconds);
        match work {
            Work::Handshake { close, .. } => {
                self.handshakes(load, Purpose::Handshake(close), measured_handshakes(work, extent))
            }
            Work::Storm => self.storm(load, extent.handshakes),
            Work::Echo => self.echo(load, time),
            Work::Bulk { to_client: true, tunnels } => {
                self.bulk(load, Purpose::Download, tunnels, time)
            }
            Work::Bulk { to_client: false, tunnels } => {
                self.bulk(load, Purpose::Upload, tunnels, time)
            }
            Work::Requests { answer_bytes } => self.requests(load, answer_bytes, time),
            Work::Idle => self.idle(load, extent.tunnels),
            Work::Latency => latency(load, time),
            Work::Tls { resumed, work } => {
                if resumed {
                    take_tickets(load)?;
                }
                // Each costs several times as much; a quarter has as many ticks of user CPU.
                let handshakes = extent.handshakes / 4;
                self.work(*work, &Extent { handshakes, ..extent.clone() }, load)
            }
        }
    }

    fn handshakes(
        &self,
        load: &mut Load,
        purpose: Purpose,
        count: u64,
    ) -> Result<Figures, Failure> {
        let warm = count / 10;
        load.orders.reopen = true;
        for _ in 0..OPENING {
            load.open(purpose)?;
        }
        load.run_until("the first handshakes", PATIENCE, |counts| counts.opened >= warm)?;
        let before = load.counts().opened;
        let measured = self.measure(|| {
            load.run_until("handshakes", PATIENCE, |counts| counts.opened >= before + count)
        })?;
        let opened = float(load.counts().opened - before);
        load.orders.reopen = false;
        // Each closed client must be noticed by the application through the proxy, or the proxy has lost a close.
        load.run_until("the ends of all handshakes", PATIENCE, |counts| {
            counts.clients == 0 && counts.upstreams == 0
        })?;
        let Counts { granted, opened: total, .. } = *load.counts();
        if granted != total {
            return Err(Failure::Miscount {
                counted: "handshakes",
                begun: granted,
                finished: total,
            });
        }
        let mut figures = measured.per(opened, 1e3, "us");
        figures.extend([
            ("per_second".to_owned(), opened / measured.wall.as_secs_f64()),
            ("per_cpu_second".to_owned(), opened * 1e9 / float(measured.cpu.scheduled_ns)),
        ]);
        Ok(figures)
    }

    fn storm(&self, load: &mut Load, count: u64) -> Result<Figures, Failure> {
        // The only one that the limit lets through.
        open_all(load, Purpose::Handshake(Close::Reset), 1)?;
        load.orders.reopen = true;
        for _ in 0..OPENING {
            load.open(Purpose::Refusal)?;
        }
        load.run_until("the first refusals", PATIENCE, |counts| counts.refused >= count / 10)?;
        let before = load.counts().refused;
        let measured = self.measure(|| {
            load.run_until("refusals", PATIENCE, |counts| counts.refused >= before + count)
        })?;
        let refused = float(load.counts().refused - before);
        load.orders.reopen = false;
        load.run_until("the last refusals", PATIENCE, |counts| {
            counts.clients == 0 && counts.upstreams == 0
        })?;
        if load.counts().granted != 1 {
            return Err(Failure::Miscount {
                counted: "upgrades within the limit",
                begun: 1,
                finished: load.counts().granted,
            });
        }
        let mut figures = measured.per(refused, 1e3, "us");
        figures.insert("per_second".to_owned(), refused / measured.wall.as_secs_f64());
        Ok(figures)
    }

    fn echo(&self, load: &mut Load, time: Duration) -> Result<Figures, Failure> {
        load.orders.ping = true;
        open_all(load, Purpose::Echo, ECHO_TUNNELS)?;
        load.run_for(WARM_UP)?;
        load.orders.time_each = true;
        let before = load.counts().echoes;
        let measured = self.measure(|| load.run_for(time))?;
        let echoes = float(load.counts().echoes - before);
        let mut figures = measured.per(echoes, 1e3, "us");
        figures
            .insert("messages_per_second".to_owned(), 2.0 * echoes / measured.wall.as_secs_f64());
        figures.extend(percentiles(load.take_times(), ""));
        Ok(figures)
    }

    fn bulk(
        &self,
        load: &mut Load,
        purpose: Purpose,
        tunnels: u32,
        time: Duration,
    ) -> Result<Figures, Failure> {
        open_all(load, purpose, tunnels)?;
        load.run_for(WARM_UP)?;
        load.orders.verify = false;
        load.run_for(WARM_UP)?;
        let before = load.counts().sunk_bytes;
        let measured = self.measure(|| load.run_for(time))?;
        let bytes = float(load.counts().sunk_bytes - before);
        finish_bulk(load)?;
        let mut figures = measured.per(bytes / 1e9, 1e6, "ms");
        figures.insert("gb_per_second".to_owned(), bytes / 1e9 / measured.wall.as_secs_f64());
        Ok(figures)
    }

    fn requests(
        &self,
        load: &mut Load,
        answer_bytes: u64,
        time: Duration,
    ) -> Result<Figures, Failure> {
        load.orders.ping = true;
        for _ in 0..REQUEST_CLIENTS {
            load.open_plain(answer_bytes)?;
        }
        load.run_until("the first answers", PATIENCE, |counts| counts.opened == REQUEST_CLIENTS)?;
        load.run_for(WARM_UP)?;
        load.orders.verify = false;
        load.run_for(WARM_UP)?;
        load.orders.time_each = true;
        let before = load.counts().answers;
        let measured = self.measure(|| load.run_for(time))?;
        let answers = float(load.counts().answers - before);
        let times = load.take_times();
        finish_requests(load)?;
        let mut figures = measured.per(answers, 1e3, "us");
        figures.extend(percentiles(times, ""));
        figures.extend([
            ("per_cpu_second".to_owned(), answers * 1e9 / float(measured.cpu.scheduled_ns)),
            ("requests_per_second".to_owned(), answers / measured.wall.as_secs_f64()),
            ("requests".to_owned(), float(load.counts().served)),
            ("upstream_connections".to_owned(), float(load.counts().upstreams_used)),
        ]);
        Ok(figures)
    }

    fn idle(&self, load: &mut Load, tunnels: u64) -> Result<Figures, Failure> {
        // One tunnel first, so that what is made once is not counted.
        open_all(load, Purpose::Echo, 1)?;
        load.run_until("the first echo", PATIENCE, |counts| counts.echoes == 1)?;
        let root = self.child.id();
        let before = (account::anonymous_bytes(root)?, account::resident_bytes(root)?);
        for begun in 1..=tunnels {
            load.run_until("a tunnel", PATIENCE, |counts| counts.opened + OPENING > begun)?;
            load.open(Purpose::Echo)?;
        }
        load.run_until("the first echoes", PATIENCE, |counts| counts.echoes == tunnels + 1)?;
        load.run_for(Duration::from_secs(1))?;
        let after = (account::anonymous_bytes(root)?, account::resident_bytes(root)?);
        // All of them still work.
        let sent = load.ping_all()?;
        load.run_until("the second echoes", PATIENCE, |counts| counts.echoes == 2 * (tunnels + 1))?;
        if sent != tunnels + 1 {
            return Err(Failure::Miscount {
                counted: "idle tunnels",
                begun: tunnels + 1,
                finished: sent,
            });
        }
        Ok(Figures::from([
            ("anonymous_bytes".to_owned(), (float(after.0) - float(before.0)) / float(tunnels)),
            ("resident_bytes".to_owned(), (float(after.1) - float(before.1)) / float(tunnels)),
            ("start_kb".to_owned(), float(before.0) / 1024.0),
        ]))
    }
}

/// Handshakes that the row measures. Tokens are signed before, which costs more than checking them, so fewer where each is new.
fn measured_handshakes(work: Work, extent: &Extent) -> u64 {
    match work.check() {
        Check::Token { new: true } => extent.handshakes / 4,
        _ => extent.handshakes,
    }
}

/// Handshakes begun at most: warm-up, the measured ones, and those under way when either ends.
fn begun_max(work: Work, extent: &Extent) -> u64 {
    let measured = measured_handshakes(work, extent);
    measured + measured / 10 + 4 * OPENING
}

/// Waits until the proxy refuses a wrong credential, which shows that it checks. Before it has its keys it says 503.
fn refuses(wrong: &str) -> Result<(), Failure> {
    let request = head::request(Application::Echo, wrong);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut socket =
            TcpStream::connect(loopback(PROXY_PORT)).doing("connect with a wrong credential")?;
        socket.set_read_timeout(Some(REFUSAL_WAIT)).doing("SO_RCVTIMEO")?;
        socket.write_all(request.as_bytes()).doing("send of a wrong credential")?;
        let mut start = [0; 13];
        socket.read_exact(&mut start).doing("answer to a wrong credential")?;
        match &start {
            b"HTTP/1.1 401 " => return Ok(()),
            b"HTTP/1.1 503 " if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(20));
            }
            _ => {
                return Err(Failure::Refusal {
                    answer: String::from_utf8_lossy(&start).into_owned(),
                });
            }
        }
    }
}

fn latency(load: &mut Load, time: Duration) -> Result<Figures, Failure> {
    load.orders.ping = true;
    open_all(load, Purpose::Echo, LATENCY_TUNNELS)?;
    load.run_for(WARM_UP)?;
    load.orders.time_each = true;
    load.run_for(time)?;
    let mut figures = percentiles(load.take_times(), "_alone");
    load.orders.time_each = false;
    open_all(load, Purpose::Download, 1)?;
    load.run_for(WARM_UP)?;
    load.orders.verify = false;
    load.run_for(WARM_UP)?;
    load.orders.time_each = true;
    let (before, start) = (load.counts().sunk_bytes, Instant::now());
    load.run_for(time)?;
    let rate = float(load.counts().sunk_bytes - before) / 1e9 / start.elapsed().as_secs_f64();
    figures.extend(percentiles(load.take_times(), "_beside"));
    figures.insert("bulk_gb_per_second".to_owned(), rate);
    figures.insert("p99_growth".to_owned(), figures["p99_beside_us"] / figures["p99_alone_us"]);
    finish_bulk(load)?;
    Ok(figures)
}

/// Shakes hands in full until each client has a ticket; from then on every session must be resumed.
fn take_tickets(load: &mut Load) -> Result<(), Failure> {
    for _ in 0..OPENING {
        load.open(Purpose::Handshake(Close::Reset))?;
    }
    load.run_until("the first tickets", PATIENCE, |counts| counts.closed == OPENING)?;
    if let Some(terms) = &mut load.tls {
        terms.due = HandshakeKind::Resumed;
    }
    Ok(())
}

/// Opens tunnels and waits for all of their 101s.
fn open_all(load: &mut Load, purpose: Purpose, tunnels: u32) -> Result<(), Failure> {
    let opened = load.counts().opened + u64::from(tunnels);
    for _ in 0..tunnels {
        load.open(purpose)?;
    }
    load.run_until("all tunnels to open", PATIENCE, |counts| counts.opened == opened)
}

/// Checks the content of what still comes, then that every byte has come: one that was lost or doubled before would shift it.
fn finish_bulk(load: &mut Load) -> Result<(), Failure> {
    load.orders.verify = true;
    let verified = load.counts().verified_bytes;
    load.run_until("bulk to check", PATIENCE, |counts| {
        counts.verified_bytes > verified + CHECKED_BYTES
    })?;
    load.orders.send = false;
    load.run_until("the last bytes", PATIENCE, |counts| counts.sunk_bytes == counts.sourced_bytes)
}

/// Checks the whole content of more answers, then that each request was answered once, by the application, and that nothing follows.
fn finish_requests(load: &mut Load) -> Result<(), Failure> {
    load.orders.time_each = false;
    load.orders.verify = true;
    let verified = load.counts().verified_bytes;
    load.run_until("answers to check", PATIENCE, |counts| {
        counts.verified_bytes > verified + CHECKED_BYTES
    })?;
    load.orders.ping = false;
    load.run_until("the last answers", PATIENCE, |counts| counts.answers == counts.requests)?;
    load.run_for(SILENCE)?;
    let Counts { served, answers, .. } = *load.counts();
    if served != answers {
        return Err(Failure::Miscount {
            counted: "plain requests",
            begun: served,
            finished: answers,
        });
    }
    Ok(())
}

fn percentiles(mut times: Vec<Duration>, suffix: &str) -> Figures {
    times.sort_unstable();
    let at = |percent: usize| {
        let time = times.get(times.len() * percent / 100).copied().unwrap_or_default();
        time.as_secs_f64() * 1e6
    };
    Figures::from([(format!("p50{suffix}_us"), at(50)), (format!("p99{suffix}_us"), at(99))])
}

fn lines(path: &Path) -> Result<u64, Failure> {
    match fs::read(path) {
        Ok(bytes) => Ok(memchr::memchr_iter(b'\n', &bytes).count() as u64),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error).doing("read of the access log"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts and nanoseconds here stay far below 2^52")]
fn float(count: u64) -> f64 {
    count as f64
}
