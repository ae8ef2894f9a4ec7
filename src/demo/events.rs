//! Event lines on their way to stdout: while the self-check runs it takes them, so that each line stands under the step it belongs to; afterwards they pass.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Where the narration finds the event lines that the proxy writes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EventLines {
    shared: Arc<Shared>,
}

/// A writer for event lines (one JSON object per line) that hands them to an [`EventLines`] until that lets them pass.
#[derive(Debug)]
pub struct EventTee<W> {
    shared: Arc<Shared>,
    out: W,
    unfinished: Vec<u8>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct State {
    held: VecDeque<String>,
    passing: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventLines {
    /// Holds every line from the start.
    #[expect(clippy::new_without_default, reason = "a default that swallows lines would surprise")]
    pub fn new() -> Self {
        Self { shared: Arc::new(Shared::default()) }
    }

    /// The writer to give to the proxy's event log; `out` receives the lines once they pass.
    pub fn tee<W: Write>(&self, out: W) -> EventTee<W> {
        EventTee { shared: Arc::clone(&self.shared), out, unfinished: Vec::new() }
    }

    /// Takes all lines up to and including the first one of `event_type`; `None` when it has not come within `wait`.
    pub fn take_through(&self, event_type: &str, wait: Duration) -> Option<Vec<String>> {
        let found = |state: &State| state.held.iter().position(|line| has_type(line, event_type));
        let guard = self.shared.lock();
        let (mut guard, _) = self
            .shared
            .arrived
            .wait_timeout_while(guard, wait, |state| found(state).is_none())
            .unwrap_or_else(PoisonError::into_inner);
        let position = found(&guard)?;
        Some(guard.held.drain(..=position).collect())
    }

    /// Writes what is still held to `out`; from now on the lines go where the [`EventTee`] was told.
    ///
    /// # Errors
    /// What `out` reports; the lines pass from now on all the same.
    pub fn pass(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut state = self.shared.lock();
        state.passing = true;
        for line in state.held.drain(..) {
            writeln!(out, "{line}")?;
        }
        out.flush()
    }
}

/// Whether the line is an event of this type.
fn has_type(line: &str, event_type: &str) -> bool {
    serde_json::from_str::<serde_json::Value>(line)
        .is_ok_and(|event| event["event_type"] == event_type)
}

impl<W: Write> EventTee<W> {
    fn line_finished(&mut self, end: usize) -> io::Result<()> {
        let line: Vec<u8> = self.unfinished.drain(..=end).collect();
        let mut state = self.shared.lock();
        if state.passing {
            return self.out.write_all(&line);
        }
        state.held.push_back(String::from_utf8_lossy(&line).trim_end().to_owned());
        drop(state);
        self.shared.arrived.notify_all();
        Ok(())
    }
}

impl<W: Write> Write for EventTee<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.unfinished.extend_from_slice(bytes);
        while let Some(end) = memchr::memchr(b'\n', &self.unfinished) {
            self.line_finished(end)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
