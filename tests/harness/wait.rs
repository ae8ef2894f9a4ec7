//! Waiting for something that can be observed, with a deadline.

use std::time::{Duration, Instant};

/// Nothing in a test waits longer than this for one thing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// Looks again and again until there is an answer; panics when there is none within [`PATIENCE`].
#[track_caller]
pub(crate) fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, look)
}

/// [`eventually`] with a deadline of its own.
#[track_caller]
pub(crate) fn eventually_within<T>(
    patience: Duration,
    what: &str,
    mut look: impl FnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "not seen within {patience:?}: {what}");
        // Not a wait for the proxy: it only keeps the poll from taking a core away from it.
        std::thread::park_timeout(Duration::from_millis(2));
    }
}
