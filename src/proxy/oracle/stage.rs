//! Where the oracle plays: a runtime of this thread, a core on it, and an upstream behind a Unix socket. It is built once
//! per thread, because building it takes longer than everything else.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::super::core::{self, Core, CoreParts};
use super::super::driver::{CoreRuntime, Mode};
use super::super::limited::SharedLimits;
use super::super::stream::Socket;
use super::client::{self, Pieces};
use super::plan::Plan;
use super::upstream::{self, Record, Shared};
use crate::admission::policy::{Addresses, Policy};
use crate::clock;
use crate::config;
use crate::event;
use crate::metrics::Metrics;
use crate::process::{DriverReport, Phase, Process};
use crate::providers;
use crate::published::Published;

/// What is off here would answer by the clock or by what was asked before.
const CONFIG: &str = "
tls: {enabled: false}
auth: {mode: none}
rate_limit: {enabled: false}
body_size: {max: 0}
security_headers: {enabled: false}
";

/// One connection is over long before.
const PATIENCE: Duration = Duration::from_secs(20);

/// Everything that outlives one connection.
pub(super) struct Stage {
    core: Rc<Core>,
    record: Shared,
    listener: Rc<Socket>,
    events: Receiver<Vec<u8>>,
    runtime: CoreRuntime,
    _path: SocketPath,
}

/// What one connection left behind.
#[derive(Debug)]
pub(super) struct Outcome {
    /// By the client.
    pub(super) received: Vec<u8>,
    pub(super) record: Record,
    pub(super) events: Vec<serde_json::Value>,
}

/// A file that goes when the thread ends.
struct SocketPath(PathBuf);

impl Drop for SocketPath {
    fn drop(&mut self) {
        // It may be gone.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Stage {
    pub(super) fn build() -> io::Result<Self> {
        let name =
            format!("vibewarden-oracle-{}-{:?}", std::process::id(), std::thread::current().id());
        let path = SocketPath(std::env::temp_dir().join(name));
        // Left behind by a process that was killed.
        let _ = std::fs::remove_file(&path.0);
        let listener = UnixListener::bind(&path.0)?;
        listener.set_nonblocking(true)?;
        let mut runtime = CoreRuntime::build(Mode::Epoll)?;
        let record = Shared::default();
        let metrics = Arc::new(Metrics::new(1));
        let (sender, events) = event::queue(Arc::clone(&metrics.event_log));
        let parts = CoreParts {
            number: 0,
            mode: Mode::Epoll,
            process: Arc::new(process()),
            metrics,
            events: sender,
            providers: providers::connect().0,
            limits: SharedLimits::alone(1024, clock::now()),
            tls: None,
        };
        let loaded = config::load_text(CONFIG, None, &BTreeMap::new());
        let config = loaded.map_err(|mistakes| io::Error::other(mistakes.to_string()))?.config;
        let policy = Published::new(Policy::new(
            config,
            Addresses::Unix(path.0.clone()),
            Addresses::Tcp(Vec::new()),
        ));
        let (core, listener) = runtime.block_on(async {
            let core = Rc::new(Core::new(parts, policy.reader())?);
            let listener = Rc::new(Socket::adopt(listener.into(), &core.readiness));
            monoio::spawn(upstream::serve(
                Rc::clone(&listener),
                Rc::clone(&core.readiness),
                Rc::clone(&record),
            ));
            io::Result::Ok((core, listener))
        })?;
        Ok(Self { core, record, listener, events, runtime, _path: path })
    }

    /// The whole life of one connection; `None` when it does not end.
    pub(super) fn play(&mut self, bytes: &[u8], plan: &Plan, pieces: &Pieces) -> Option<Outcome> {
        let record = Record { calls: plan.calls.clone(), ..Record::default() };
        self.record.replace(record);
        let (core, listener, record) = (&self.core, &self.listener, &self.record);
        let life = async {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let (near, far) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            let near = Socket::adopt(near, &core.readiness);
            core::admit_connection(core, far, SocketAddr::from((Ipv4Addr::LOCALHOST, 4000)));
            let received = client::talk(core, &near, bytes, plan, pieces).await;
            drop(near);
            loop {
                upstream::accept_all(listener, &core.readiness, record);
                // What is kept beyond its client is good for another request.
                let is_settled = {
                    let record = record.borrow();
                    record.open == record.idle
                };
                if core.connections_open() == 0 && is_settled {
                    core.pool.clear();
                    upstream::accept_all(listener, &core.readiness, record);
                    if record.borrow().open == 0 {
                        return io::Result::Ok(received);
                    }
                }
                core.let_others_run().await;
            }
        };
        let lived = self.runtime.block_on(async { monoio::time::timeout(PATIENCE, life).await });
        let received = lived.ok()?.ok()?;
        let events = self.events.try_iter();
        let events = events.filter_map(|line| serde_json::from_slice(&line).ok()).collect();
        Some(Outcome { received, record: self.record.take(), events })
    }
}

fn process() -> Process {
    let driver = DriverReport { name: "epoll", mode: "", reason: "for the oracle".to_owned() };
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let process = Process::new(clock::now(), listen, 1, driver, 16);
    process.enter(Phase::Ready);
    process
}
