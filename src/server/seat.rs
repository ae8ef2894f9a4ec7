//! Threads with a working runtime: made first, so that a driver that does not work is known before anything is served.

use std::io;
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread::JoinHandle;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::{Notice, StartError};
use crate::admission::policy::Policy;
use crate::config::DriverChoice;
use crate::process::DriverReport;
use crate::proxy::core::{self, Command, CoreParts};
use crate::proxy::driver::{CoreRuntime, Mode, error_name};
use crate::published::{Published, Reader};

/// A core that serves.
#[derive(Debug)]
pub(super) struct RunningCore {
    pub(super) commands: flume::Sender<Command>,
    pub(super) thread: JoinHandle<()>,
}

/// A thread whose runtime stands and that waits to be told what to serve.
pub(super) struct Seat {
    begin: mpsc::SyncSender<Begin>,
    thread: JoinHandle<()>,
}

struct Begin {
    parts: CoreParts,
    policy: Reader<Policy>,
    listener: TcpListener,
    commands: flume::Receiver<Command>,
    last_word: LastWord,
}

/// Says exactly once that a core has ended, also when it panics or never began: the shutdown waits for it.
struct LastWord {
    ended: io::Result<u64>,
    notify: mpsc::SyncSender<Notice>,
}

impl LastWord {
    fn new(notify: mpsc::SyncSender<Notice>) -> Self {
        Self { ended: Err(io::Error::other("it panicked")), notify }
    }
}

impl Drop for LastWord {
    fn drop(&mut self) {
        let ended = std::mem::replace(&mut self.ended, Ok(0));
        // Nobody waits for it when a second signal has ended the process.
        let _ = self.notify.send(Notice::CoreEnded(ended));
    }
}

impl Seat {
    pub(super) fn run(
        self,
        parts: CoreParts,
        policy: &Published<Policy>,
        listener: TcpListener,
        notify: mpsc::SyncSender<Notice>,
    ) -> RunningCore {
        let (sender, commands) = flume::bounded(4);
        let last_word = LastWord::new(notify);
        // The thread waits for nothing else. When it is gone after a panic, the last word comes back unsent and is said here.
        let _ = self.begin.send(Begin {
            parts,
            policy: policy.reader(),
            listener,
            commands,
            last_word,
        });
        RunningCore { commands: sender, thread: self.thread }
    }
}

/// Tries the drivers in their order until every core has a working runtime on its own thread.
pub(super) fn seat_cores(
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
                    DriverReport { name: mode.name(), mode: mode.label(), reason },
                    seats,
                ));
            }
            Err(error) => attempts.push(format!("{}: {}", mode.call(), error_name(&error))),
        }
    }
    Err(StartError::Driver(attempts))
}

fn seat_all(mode: Mode, workers: usize, pin: Option<&[usize]>) -> io::Result<Vec<Seat>> {
    let (report, reports) = mpsc::sync_channel(workers);
    let mut seats = Vec::with_capacity(workers);
    for number in 0..workers {
        let (begin, told) = mpsc::sync_channel::<Begin>(1);
        let report = report.clone();
        let cpu = pin.and_then(|cpus| cpus.get(number % cpus.len().max(1)).copied());
        let thread =
            std::thread::Builder::new().name(format!("vw-core-{number}")).spawn(move || {
                pin_to(cpu);
                let built = CoreRuntime::build(mode);
                let (runtime, outcome) = match built {
                    Ok(runtime) => (Some(runtime), Ok(())),
                    Err(error) => (None, Err(error)),
                };
                drop((report.send(outcome), report));
                if let (Some(mut runtime), Ok(begin)) = (runtime, told.recv()) {
                    let Begin { parts, policy, listener, commands, mut last_word } = begin;
                    last_word.ended =
                        runtime.block_on(core::run(parts, policy, listener, commands));
                }
            })?;
        seats.push(Seat { begin, thread });
    }
    drop(report);
    // A thread that dies without a report closes the channel, which counts as a failure.
    let working = reports.iter().take(workers).collect::<io::Result<Vec<()>>>()?.len();
    if working == workers { Ok(seats) } else { Err(io::ErrorKind::Other.into()) }
}

fn pin_to(cpu: Option<usize>) {
    let Some(cpu) = cpu else { return };
    let mut set = CpuSet::new();
    set.set(cpu);
    if let Err(error) = sched_setaffinity(None, &set) {
        tracing::warn!(cpu, %error, "cannot pin this core to its processor");
    }
}

/// Processors this process may run on.
pub(super) fn usable_cpus() -> Vec<usize> {
    match sched_getaffinity(None) {
        Ok(set) => (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect(),
        Err(_) => (0..std::thread::available_parallelism().map_or(1, Into::into)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_that_panics_says_so_once() {
        let (notify, notices) = mpsc::sync_channel(4);
        for panics in [true, false] {
            let last_word = LastWord::new(notify.clone());
            let core = std::thread::spawn(move || {
                let mut last_word = last_word;
                last_word.ended = Ok(if panics { panic!("as a core might") } else { 7 });
            });
            assert_eq!(core.join().is_err(), panics);
            let Ok(Notice::CoreEnded(ended)) = notices.try_recv() else { panic!("no word") };
            assert_eq!(ended.ok(), (!panics).then_some(7));
            assert!(notices.try_recv().is_err());
        }
    }
}
