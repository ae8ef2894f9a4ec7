//! A child process: its output line by line, its signals, its exit, and what `/proc` says of it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use super::wait::{PATIENCE, eventually};

/// The built program.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_vibewarden");

/// Lines of one output stream, as they come.
#[derive(Default)]
pub(crate) struct Lines {
    state: Mutex<LinesState>,
    changed: Condvar,
}

#[derive(Default)]
struct LinesState {
    lines: Vec<String>,
    closed: bool,
    reading: Reading,
}

/// What the reader of a stream does with the next line.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Reading {
    #[default]
    On,
    /// Keeps the stream open and reads nothing more.
    Stalled,
    /// Closes the stream.
    HungUp,
}

impl Lines {
    fn follow(stream: impl Read + Send + 'static) -> Arc<Self> {
        let lines = Arc::new(Self::default());
        std::thread::spawn({
            let lines = Arc::clone(&lines);
            move || {
                let mut stream = BufReader::new(stream);
                let mut line = Vec::new();
                while stream.read_until(b'\n', &mut line).unwrap_or(0) > 0 {
                    let text = String::from_utf8_lossy(&line).into_owned();
                    line.clear();
                    let mut state = lines.state.lock().expect("lines");
                    state.lines.push(text);
                    lines.changed.notify_all();
                    while state.reading == Reading::Stalled {
                        state = lines.changed.wait(state).expect("lines");
                    }
                    if state.reading == Reading::HungUp {
                        break;
                    }
                }
                lines.state.lock().expect("lines").closed = true;
                lines.changed.notify_all();
            }
        });
        lines
    }

    /// After the next line nothing more is read, until [`Self::hang_up`].
    pub(crate) fn stall(&self) {
        self.state.lock().expect("lines").reading = Reading::Stalled;
    }

    /// Closes the reading end after the next line.
    pub(crate) fn hang_up(&self) {
        self.state.lock().expect("lines").reading = Reading::HungUp;
        self.changed.notify_all();
    }

    /// Every line so far, each with its line ending.
    pub(crate) fn all(&self) -> Vec<String> {
        self.state.lock().expect("lines").lines.clone()
    }

    pub(crate) fn text(&self) -> String {
        self.all().concat()
    }

    /// The first line that `look` accepts, from line `from` on; `None` when the stream closed or the deadline passed.
    pub(crate) fn wait<T>(
        &self,
        from: usize,
        mut look: impl FnMut(&str) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + PATIENCE;
        let mut at = from;
        let mut state = self.state.lock().expect("lines");
        loop {
            while at < state.lines.len() {
                if let Some(found) = look(&state.lines[at]) {
                    return Some(found);
                }
                at += 1;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.closed || left.is_zero() {
                return None;
            }
            state = self.changed.wait_timeout(state, left).expect("lines").0;
        }
    }

    /// Waits until the stream is closed, so that every line is there.
    pub(crate) fn wait_closed(&self) {
        let none = self.wait(0, |_| None::<()>);
        assert!(none.is_none());
    }
}

/// A running child; killed when dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) out: Arc<Lines>,
    pub(crate) err: Arc<Lines>,
}

impl Process {
    /// Starts `command` with both outputs captured and nothing on its input.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self {
            out: Lines::follow(child.stdout.take().expect("stdout")),
            err: Lines::follow(child.stderr.take().expect("stderr")),
            child,
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.id()).expect("a process id");
        let pid = Pid::from_raw(id).expect("a process id");
        kill_process(pid, signal).expect("kill");
    }

    pub(crate) fn has_exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("wait")
    }

    /// Waits for the exit and for the last line of both streams; returns the exit code.
    #[track_caller]
    pub(crate) fn wait_exit(&mut self) -> Option<i32> {
        let status = eventually("exit of the child", || self.has_exited());
        self.out.wait_closed();
        self.err.wait_closed();
        status.code()
    }

    fn proc_file(&self, name: &str) -> String {
        let path = format!("/proc/{}/{name}", self.id());
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Open descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        let path = format!("/proc/{}/fd", self.id());
        fs::read_dir(path).expect("fd directory").count()
    }

    /// Resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> usize {
        let statm = self.proc_file("statm");
        let pages = statm.split(' ').nth(1).and_then(|text| text.parse().ok());
        4096 * pages.unwrap_or(0_usize)
    }

    /// CPU time used so far, user and system, in milliseconds.
    pub(crate) fn cpu_ms(&self) -> u64 {
        let stat = self.proc_file("stat");
        let after_name = stat.rsplit_once(") ").expect("a stat line").1;
        let fields: Vec<&str> = after_name.split(' ').collect();
        let ticks = |at: usize| fields[at].parse::<u64>().expect("ticks");
        10 * (ticks(11) + ticks(12))
    }

    /// The `Cpus_allowed_list` of every thread.
    pub(crate) fn allowed_cores(&self) -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.id())).expect("tasks");
        tasks
            .filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok())
            .filter_map(|status| {
                let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
                line.map(|list| list.trim().to_owned())
            })
            .collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}
