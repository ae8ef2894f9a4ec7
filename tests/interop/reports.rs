//! Reports of a program: one JSON object per line, `{"event": …}`, kept in the order in which they came.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::Value;

/// Longer than any wait inside the programs, so that they can say what they waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// What a program has reported so far. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Reports {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    reports: Vec<Value>,
    ended: bool,
}

impl Reports {
    /// Reads `source` to its end, on a thread of its own.
    pub(crate) fn follow(source: impl Read + Send + 'static) -> Self {
        let reports = Self { shared: Arc::default() };
        let shared = Arc::clone(&reports.shared);
        std::thread::spawn(move || {
            for line in BufReader::new(source).lines().map_while(Result::ok) {
                let report = serde_json::from_str(&line)
                    .unwrap_or_else(|error| panic!("{error} in report {line:?}"));
                shared.state.lock().expect("reports").reports.push(report);
                shared.changed.notify_all();
            }
            shared.state.lock().expect("reports").ended = true;
            shared.changed.notify_all();
        });
        reports
    }

    /// All reports so far.
    pub(crate) fn all(&self) -> Vec<Value> {
        self.shared.state.lock().expect("reports").reports.clone()
    }

    /// All reports of a kind so far.
    pub(crate) fn of(&self, event: &str) -> Vec<Value> {
        let mut all = self.all();
        all.retain(|report| report["event"] == event);
        all
    }

    /// Waits for a report; none when the program ended without it or the deadline passed.
    pub(crate) fn wait(&self, accept: impl Fn(&Value) -> bool) -> Option<Value> {
        let found = |state: &State| state.reports.iter().find(|report| accept(report)).cloned();
        let state: MutexGuard<'_, State> = self.shared.state.lock().expect("reports");
        let (state, _) = self
            .shared
            .changed
            .wait_timeout_while(state, PATIENCE, |state| !state.ended && found(state).is_none())
            .expect("reports");
        found(&state)
    }

    /// Waits for the report of the end of the session with this path.
    #[track_caller]
    pub(crate) fn closed(&self, path: &str) -> (u64, String) {
        let report = self
            .wait(|report| report["event"] == "closed" && report["path"] == path)
            .unwrap_or_else(|| panic!("the application did not report the end of {path}"));
        let code = report["code"].as_u64().expect("a close code");
        (code, report["reason"].as_str().expect("text").to_owned())
    }
}
