//! The two clocks of the program, read here and nowhere else, so that everything below `proxy/` and `control/` takes `now`
//! as an argument. No arithmetic and no formatting lives here. Called by `proxy`, `control`,
//! `server` and `certificate`.

use std::time::Instant;

/// Monotonic time, for deadlines and durations (`clock_gettime(2)`, `CLOCK_MONOTONIC`).
pub fn now() -> Instant {
    Instant::now()
}

/// Wall-clock time, for the timestamps of events and the ends of credentials and certificates.
pub fn wall() -> jiff::Timestamp {
    jiff::Timestamp::now()
}
