use std::net::Ipv4Addr;
use std::sync::{Barrier, Mutex};

use super::*;
use crate::metrics::EventLogMetrics;
use crate::process::DriverReport;

/// Takes the event lines.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A server whose cores have nothing to serve; what happens to them is said through `notify`.
fn server(cores: usize) -> (Server, Lines) {
    let loaded =
        crate::config::load_text("tls: {enabled: false}", None, &std::collections::BTreeMap::new());
    let nowhere = || crate::admission::policy::Addresses::Tcp(Vec::new());
    let policy = Published::new(Policy::new(loaded.unwrap().config, nowhere(), nowhere()));
    let lines = Lines::default();
    let (events, writer) =
        event::start(lines.clone(), Arc::new(EventLogMetrics::default())).unwrap();
    let driver = DriverReport { name: "", mode: "", reason: String::new() };
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let process = Arc::new(Process::new(clock::now(), listen, cores, driver, 16));
    let (notify, notices) = mpsc::sync_channel(NOTICES);
    let core = |_| RunningCore { commands: flume::bounded(4).0, thread: std::thread::spawn(|| {}) };
    let cores = (0..cores).map(core).collect();
    (Server { process, policy, events, writer, cores, notices, notify }, lines)
}

fn ended_badly() -> Notice {
    Notice::CoreEnded(Err(io::Error::other("as a core might")))
}

/// What the process exits with after these notices, and the reason in its last event.
fn run(cores: usize, notices: impl IntoIterator<Item = Notice>) -> (u8, Option<String>) {
    let (server, lines) = server(cores);
    notices.into_iter().for_each(|notice| server.notify.send(notice).unwrap());
    let code = server.run();
    let lines = lines.0.lock().unwrap();
    let stopped = lines.split(|byte| *byte == b'\n').find_map(|line| {
        let event: serde_json::Value = serde_json::from_slice(line).ok()?;
        Some(event["payload"]["reason"].as_str()?.to_owned())
    });
    (code, stopped)
}

#[test]
fn without_a_core_the_process_ends_with_1() {
    for cores in [1, 2, 5] {
        let (code, reason) = run(cores, (0..cores).map(|_| ended_badly()));
        assert_eq!((code, reason.as_deref()), (1, Some("no core is left")), "{cores} cores");
    }
    // A core that ends by itself is wrong even when it says nothing bad.
    assert_eq!(run(1, [Notice::CoreEnded(Ok(0))]).0, 1);
}

#[test]
fn a_core_that_is_left_serves_on_until_a_signal() {
    let drained = || Notice::CoreEnded(Ok(3));
    let (code, reason) = run(2, [ended_badly(), Notice::Signal(libc::SIGTERM), drained()]);
    assert_eq!((code, reason.as_deref()), (0, Some("SIGTERM")));
    // All that were left ended in the drain.
    let (code, reason) = run(2, [Notice::Signal(libc::SIGINT), ended_badly(), drained()]);
    assert_eq!((code, reason.as_deref()), (0, Some("SIGINT")));
}

#[test]
fn a_second_signal_cuts_the_drain_short() {
    let (code, reason) = run(1, [Notice::Signal(libc::SIGTERM), Notice::Signal(libc::SIGINT)]);
    assert_eq!((code, reason), (130, None));
}

/// Also when several ask at the same time, only one of them gets it.
#[test]
fn a_port_is_shared_with_no_stranger() {
    let mut granted = 0;
    for _ in 0..300 {
        let (listeners, address) = bind((Ipv4Addr::LOCALHOST, 0).into(), 2, None).unwrap();
        drop(listeners);
        let barrier = Barrier::new(4);
        let ask = || {
            barrier.wait();
            bind(address, 2, None)
        };
        let bound: Vec<_> = std::thread::scope(|scope| {
            let asking = [(); 4].map(|()| scope.spawn(ask));
            asking.into_iter().map(|asking| asking.join().unwrap()).collect()
        });
        // Somebody else on this machine may have taken it meanwhile.
        let together = bound.iter().filter(|bound| bound.is_ok()).count();
        assert!(together <= 1, "{together} have the same port");
        granted += together;
    }
    assert!(granted > 0);
}
