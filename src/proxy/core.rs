//! One core: what its connections share, its accept loop, liveness, and its drain.
//! Everything here belongs to one thread; other threads reach it by snapshots and by [`Command`].

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::{Either, select};
use rustix::io::Errno;
use rustix::net::sockopt;
use rustls::ServerConfig;
use slab::Slab;

use super::connection;
use super::driver::Mode;
use super::expiries::Expiries;
use super::limited::SharedLimits;
use super::pipe::PipePool;
use super::pool::{Pool, SWEEP_INTERVAL};
use super::readiness::Readiness;
use super::seldom::Seldom;
use super::stream::{Socket, clear_liveness, set_liveness};
use super::tls::Tls;
use super::tunnels::{Tunnels, share_interval};
use crate::admission::jwt::{Keys, TokenCache};
use crate::admission::policy::Policy;
use crate::clock;
use crate::event::EventSender;
use crate::metrics::{CloseReason, CoreMetrics, Metrics};
use crate::process::Process;
use crate::providers::Providers;
use crate::published::{Published, Reader};
use crate::sys;

/// One read of a tunnel takes at most this much. Larger reads gain nothing: bulk is spliced.
pub(super) const SCRATCH_BYTES: usize = 64 * 1024;

/// A connection comes with its first bytes, so that accepting and reading are one wake-up and no timer. The kernel keeps one
/// that says nothing to itself for so long, which is the shortest that it knows; then it is ours, and its deadline begins.
const SILENCE_SECONDS: i32 = 1;

/// Connections that are accepted in a row before those that are open get their turn.
const ACCEPT_BURST: usize = 64;

/// Bursts that found an end, after which the others run in any case.
const BURSTS_IN_A_ROW: u8 = 16;

/// Bursts after the command to drain: as many as the longest backlog has, so that newcomers cannot keep the listener open.
const LAST_BURSTS: usize = 1024;

/// Pause of the accept loop when descriptors or memory have run out.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// Requests under way may finish for this long even when `server.drain_timeout` is shorter.
const REQUEST_GRACE: Duration = Duration::from_secs(5);

/// For connections that were cut at the very end.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Verified tokens that one core remembers.
const TOKENS_MAX: usize = 16 * 1024;

/// How often ended credentials are looked for: a tunnel ends within a second of its credential.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(400);

/// A longer drain is as good as none; the bound keeps the arithmetic of deadlines safe.
const DRAIN_MAX: Duration = Duration::from_hours(24 * 365);

/// What another thread may tell a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Stop accepting, close the tunnels evenly over this time, then end.
    Drain(Duration),
}

/// What every core gets at its start.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "snapshots of monoio parts have none")]
pub struct CoreParts {
    /// Its number, from 0.
    pub number: usize,
    /// The driver that was chosen.
    pub mode: Mode,
    /// The process.
    pub process: Arc<Process>,
    /// The counters of all cores; those of this one are at `number`.
    pub metrics: Arc<Metrics>,
    /// The event log.
    pub events: EventSender,
    /// Whom to ask about identities.
    pub providers: Providers,
    /// What limits all cores together.
    pub limits: SharedLimits,
    /// How clients are served over TLS, with the certificate in force; `None` = without TLS.
    pub tls: Option<Published<ServerConfig>>,
}

/// What the connections of one core share.
pub(crate) struct Core {
    pub(crate) process: Arc<Process>,
    pub(crate) metrics: Arc<CoreMetrics>,
    pub(crate) all_metrics: Arc<Metrics>,
    pub(crate) events: EventSender,
    pub(crate) scratch: RefCell<Box<[u8]>>,
    pub(crate) pipes: PipePool,
    pub(crate) pool: Pool,
    pub(crate) tunnels: Tunnels,
    pub(crate) buffers: RefCell<Vec<Vec<u8>>>,
    pub(crate) providers: Providers,
    pub(crate) limits: SharedLimits,
    pub(crate) tokens: RefCell<TokenCache>,
    pub(crate) expiries: Expiries,
    pub(crate) tls: Option<Tls>,
    keys: RefCell<Reader<Keys>>,
    policy: RefCell<Reader<Policy>>,
    pub(crate) readiness: Rc<Readiness>,
    draining: Notice,
    open: Cell<usize>,
    all_closed: Notice,
    /// The last warning about connections that cannot be accepted.
    accept_warned: Seldom,
}

impl Core {
    /// A core without connections.
    pub(super) fn new(parts: CoreParts, policy: Reader<Policy>) -> io::Result<Self> {
        let metrics = parts.metrics.cores.get(parts.number).map(Arc::clone).unwrap_or_default();
        Ok(Self {
            process: parts.process,
            metrics,
            all_metrics: parts.metrics,
            events: parts.events,
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice()),
            pipes: PipePool::default(),
            pool: Pool::default(),
            tunnels: Tunnels::default(),
            buffers: RefCell::default(),
            tokens: RefCell::new(TokenCache::new(TOKENS_MAX)),
            expiries: Expiries::default(),
            tls: parts.tls.map(|config| Tls::new(config.reader())),
            keys: RefCell::new(parts.providers.keys.reader()),
            providers: parts.providers,
            limits: parts.limits,
            policy: RefCell::new(policy),
            readiness: Readiness::start()?,
            draining: Notice::default(),
            open: Cell::new(0),
            all_closed: Notice::default(),
            accept_warned: Seldom::default(),
        })
    }

    /// The policy in force now.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.policy.borrow_mut().load()
    }

    /// The keys of tokens that are known now.
    pub(crate) fn keys(&self) -> Arc<Keys> {
        self.keys.borrow_mut().load()
    }

    /// Whether newer keys were asked for so lately that it is of no use to ask again.
    pub(crate) fn keys_are_quiet(&self) -> bool {
        self.keys().quiet_until.is_some_and(|until| clock::now() < until)
    }

    /// Completes when the drain has begun.
    pub(crate) async fn drain_begins(&self) {
        self.draining.wait().await;
    }

    /// Waits until a client that owes us nothing says something; `ETIME` when the deadline passes, `ECANCELED` when the drain
    /// begins.
    pub(crate) async fn idle(
        &self,
        client: &Socket,
        deadline: Option<Instant>,
    ) -> Result<(), Errno> {
        match select(pin!(client.readable_until(deadline)), pin!(self.drain_begins())).await {
            Either::Left((ready, _)) => ready,
            Either::Right(_) => Err(Errno::CANCELED),
        }
    }

    /// Whether the drain has begun.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.given.get()
    }

    /// Lets every other ready task of this core run before it returns.
    pub(crate) async fn let_others_run(&self) {
        self.readiness.let_others_run().await;
    }

    /// Client connections that are open now.
    pub(super) fn connections_open(&self) -> usize {
        self.open.get()
    }

    /// Warns of a connection that cannot be taken, unless it has just done so: it is tried again many times a second.
    fn warn_accept(&self, error: &dyn std::fmt::Display) {
        if self.accept_warned.is_due(clock::now()) {
            tracing::warn!(%error, "connections cannot be accepted; trying on");
        }
    }

    fn connection_opened(self: &Rc<Self>) -> ConnectionPlace {
        self.open.set(self.open.get() + 1);
        ConnectionPlace(Rc::clone(self))
    }
}

/// The place of one client connection in the counts; given back when dropped, however the connection ends.
pub(crate) struct ConnectionPlace(Rc<Core>);

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        let core = &self.0;
        core.process.connections.give_back();
        core.open.set(core.open.get().saturating_sub(1));
        if core.open.get() == 0 && core.is_draining() {
            core.all_closed.give();
        }
    }
}

/// Runs one core until it has drained. Returns how many tunnels the shutdown closed.
pub async fn run(
    parts: CoreParts,
    policy: Reader<Policy>,
    listener: TcpListener,
    commands: flume::Receiver<Command>,
) -> io::Result<u64> {
    let core = Rc::new(Core::new(parts, policy)?);
    listener.set_nonblocking(true)?;
    let listener = Rc::new(Socket::adopt_tcp(OwnedFd::from(listener), &core.readiness));
    monoio::spawn(keep_liveness(Rc::clone(&core), Rc::downgrade(&listener)));
    monoio::spawn(keep_pool(Rc::clone(&core)));
    monoio::spawn(keep_expiries(Rc::clone(&core)));
    let time = serve_until_drain(&core, listener, &commands).await;
    let closed = drain(&core, time).await;
    core.readiness.forget_waiting();
    Ok(closed)
}

/// What accepted connections inherit from their listener, which saves the calls for each of them. Set before it listens:
/// a connection takes it over at its handshake.
pub fn prepare_listener(listener: impl AsFd, dead_peer_after: Option<Duration>) -> io::Result<()> {
    sockopt::set_tcp_nodelay(&listener, true)?;
    // Without it connections come earlier, and have to be waited for.
    let _ = sys::defer_accept(listener.as_fd(), SILENCE_SECONDS);
    if let Some(after) = dead_peer_after {
        set_liveness(&listener, after)?;
    }
    Ok(())
}

async fn serve_until_drain(
    core: &Rc<Core>,
    listener: Rc<Socket>,
    commands: &flume::Receiver<Command>,
) -> Duration {
    let mut commanded = pin!(commands.recv_async());
    let mut bursts: u8 = 0;
    loop {
        // The command first: a full backlog is always ready.
        match select(commanded.as_mut(), pin!(listener.readable())).await {
            Either::Left((command, _)) => {
                // Who has connected and spoken is served; a closed listener would reset it.
                for _ in 0..LAST_BURSTS {
                    let Accepted::More = accept_burst(core, &listener) else { break };
                }
                // The sender is gone only when the process ends without a drain.
                let Command::Drain(time) = command.unwrap_or(Command::Drain(Duration::ZERO));
                return time;
            }
            Either::Right((ready, _)) => {
                if let Err(error) = &ready {
                    core.warn_accept(error);
                }
                bursts = bursts.wrapping_add(1);
                match ready.map_or(Accepted::Exhausted, |()| accept_burst(core, &listener)) {
                    Accepted::More => core.let_others_run().await,
                    // Newcomers one by one may keep the wait from suspending, too.
                    Accepted::All if bursts.is_multiple_of(BURSTS_IN_A_ROW) => {
                        core.let_others_run().await;
                    }
                    Accepted::All => {}
                    Accepted::Exhausted => monoio::time::sleep(EXHAUSTED_PAUSE).await,
                }
            }
        }
    }
}

enum Accepted {
    /// The burst is over and there may be more.
    More,
    /// Nobody is waiting any more.
    All,
    /// The next one cannot be taken now: no descriptor, no memory.
    Exhausted,
}

fn accept_burst(core: &Rc<Core>, listener: &Socket) -> Accepted {
    for _ in 0..ACCEPT_BURST {
        match listener.try_accept() {
            Ok((fd, peer)) => {
                if let Some(peer) = peer {
                    admit_connection(core, fd, peer);
                }
            }
            Err(Errno::AGAIN) => return Accepted::All,
            // The connection that was next is gone already (accept(2)); the one after it may be well.
            Err(Errno::CONNABORTED | Errno::PROTO | Errno::PERM | Errno::INTR) => {}
            // Out of descriptors or memory, mostly.
            Err(error) => {
                core.warn_accept(&error);
                return Accepted::Exhausted;
            }
        }
    }
    Accepted::More
}

/// Serves a connection that was just accepted, unless it is one too many.
pub(super) fn admit_connection(core: &Rc<Core>, fd: OwnedFd, peer: SocketAddr) {
    let connections = &core.process.connections;
    if !connections.take() {
        core.metrics.connections_over_limit.add(1);
        let uptime = clock::now().saturating_duration_since(core.process.started);
        if let Some(refused_total) =
            connections.warning_due(u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX))
        {
            tracing::warn!(
                max_connections = connections.max(),
                refused_total,
                "connection refused: max_connections reached"
            );
        }
        return;
    }
    let place = core.connection_opened();
    let client = Socket::adopt_tcp(fd, &core.readiness);
    core.metrics.connections_accepted.add(1);
    monoio::spawn(connection::serve(Rc::clone(core), place, client, peer));
}

/// Visits the open tunnels again and again; see `tunnels`. What new connections inherit follows a reload, too.
async fn keep_liveness(core: Rc<Core>, listener: Weak<Socket>) {
    let mut inherited = core.policy().config.server.dead_peer_after;
    loop {
        let after = core.policy().config.server.dead_peer_after;
        if after != inherited
            && let Some(listener) = listener.upgrade()
        {
            // Without it a connection gets the new value when it is a tunnel, at its first visit.
            let _ = match after {
                Some(after) => set_liveness(listener.fd(), after),
                None => clear_liveness(listener.fd()),
            };
            inherited = after;
        }
        monoio::time::sleep(share_interval(after)).await;
        core.tunnels.visit_share(clock::now(), after);
    }
}

/// Closes idle upstream connections that ended or are idle too long.
async fn keep_pool(core: Rc<Core>) {
    loop {
        monoio::time::sleep(SWEEP_INTERVAL).await;
        core.pool.sweep(&core.policy(), clock::now());
    }
}

/// Ends tunnels whose credential has ended.
async fn keep_expiries(core: Rc<Core>) {
    loop {
        monoio::time::sleep(EXPIRY_INTERVAL).await;
        core.expiries.end_due(SystemTime::from(clock::wall()));
    }
}

/// Closes the tunnels one after the other over `time`, then everything that is left.
async fn drain(core: &Rc<Core>, time: Duration) -> u64 {
    let begun = clock::now();
    let time = time.min(DRAIN_MAX);
    let closed_before = closed_by_shutdown(core);
    core.draining.give();
    let close_all = async {
        let tunnels = core.tunnels.snapshot();
        let count = u32::try_from(tunnels.len()).unwrap_or(u32::MAX).max(1);
        for (place, tunnel) in (0u32..).zip(tunnels).take_while(|_| !time.is_zero()) {
            // The middle of its share: N tunnels leave N equal gaps, however many cores drain side by side.
            sleep_until(begun + time.mul_f64((f64::from(place) + 0.5) / f64::from(count))).await;
            if let Some(tunnel) = tunnel.upgrade() {
                tunnel.order(CloseReason::Drained);
            }
        }
        sleep_until(begun + time).await;
        core.tunnels.order_all(CloseReason::Shutdown);
        sleep_until(begun + time.max(REQUEST_GRACE)).await;
        // Tunnels that opened in the meantime, too; then everybody has a moment to end and to say so.
        core.tunnels.order_all(CloseReason::Shutdown);
        monoio::time::sleep(LAST_WORDS).await;
    };
    let all_closed = async {
        if core.open.get() > 0 {
            core.all_closed.wait().await;
        }
    };
    select(pin!(all_closed), pin!(close_all)).await;
    closed_by_shutdown(core) - closed_before
}

fn closed_by_shutdown(core: &Core) -> u64 {
    let count = |reason: CloseReason| {
        core.metrics.closed.get(reason as usize).map_or(0, crate::metrics::Counter::get)
    };
    count(CloseReason::Drained) + count(CloseReason::Shutdown)
}

/// Returns at once when the time has come: a sleep of the runtime takes a millisecond at least.
async fn sleep_until(at: Instant) {
    let left = at.saturating_duration_since(clock::now());
    if !left.is_zero() {
        monoio::time::sleep(left).await;
    }
}

/// Something that happens once and that several tasks may wait for.
#[derive(Default)]
struct Notice {
    given: Cell<bool>,
    waiting: RefCell<Slab<Waker>>,
}

impl Notice {
    fn give(&self) {
        self.given.set(true);
        let waiting = self.waiting.take();
        waiting.into_iter().for_each(|(_, waker)| waker.wake());
    }

    fn wait(&self) -> Waiting<'_> {
        Waiting { notice: self, place: None }
    }
}

/// Waits for a [`Notice`]; leaves no trace when it is dropped before.
struct Waiting<'n> {
    notice: &'n Notice,
    place: Option<usize>,
}

impl Future for Waiting<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let notice = self.notice;
        if notice.given.get() {
            return Poll::Ready(());
        }
        let mut waiting = notice.waiting.borrow_mut();
        match self.place.and_then(|place| waiting.get_mut(place)) {
            Some(known) => known.clone_from(context.waker()),
            None => self.place = Some(waiting.insert(context.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.notice.waiting.borrow_mut().try_remove(place);
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
