//! Warnings about something that may happen many times a second.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// At most one warning of a kind and a core in this time.
const INTERVAL: Duration = Duration::from_secs(30);

/// When something was last warned of.
#[derive(Debug, Default)]
pub(crate) struct Seldom(Cell<Option<Instant>>);

impl Seldom {
    /// Whether it is time to warn again; if so, the next time is counted from now.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        let is_due =
            self.0.get().is_none_or(|last| now.saturating_duration_since(last) >= INTERVAL);
        if is_due {
            self.0.set(Some(now));
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_each_interval() {
        let (seldom, begin) = (Seldom::default(), Instant::now());
        let due = |seconds| seldom.is_due(begin + Duration::from_secs(seconds));
        assert_eq!(
            [0, 1, 29, 30, 31, 59, 60].map(due),
            [true, false, false, true, false, false, true]
        );
    }
}
