//! Everything that makes a sample worthless. A sample either counts in full or is reported as failed, never silently short.

use std::fmt;
use std::io;

/// Why a sample was given up.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A system call failed.
    Io {
        /// What was being done.
        doing: &'static str,
        /// The error itself.
        error: io::Error,
    },
    /// The client side got something else than the 101 it asked for.
    Handshake {
        /// Start of what came instead.
        answer: String,
    },
    /// The client side got something else than the refusal that was due.
    Refusal {
        /// Start of what came instead.
        answer: String,
    },
    /// The client side got something else than the plain answer it asked for.
    Answer {
        /// What came instead, its start.
        start: String,
    },
    /// A TLS handshake was not what it had to be: full, or resumed.
    Tls {
        /// What it had to be.
        due: String,
        /// What it was, and the protocol that was agreed on.
        got: String,
    },
    /// Bytes arrived that were not sent, or in another order.
    Corrupt {
        /// On which kind of connection.
        kind: &'static str,
        /// Position in the stream or number of the message.
        at: u64,
    },
    /// A connection ended that nobody had closed.
    Ended {
        /// Which kind of connection.
        kind: &'static str,
    },
    /// Something did not happen in time.
    Late {
        /// What was awaited.
        waiting_for: &'static str,
    },
    /// The counts of the two ends differ.
    Miscount {
        /// What was counted.
        counted: &'static str,
        /// At the end that began it.
        begun: u64,
        /// At the end that finished it.
        finished: u64,
    },
    /// The proxy ended before or while it was measured.
    ProxyExited {
        /// The last lines it wrote to stderr.
        stderr: String,
    },
    /// A row or a peer that does not exist.
    Unknown {
        /// As it was written.
        name: String,
    },
    /// The figures from /proc contradict each other.
    Accounting {
        /// CPU by the scheduler's clock, in nanoseconds.
        scheduled_ns: u64,
        /// CPU by ticks, in nanoseconds.
        ticked_ns: u64,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { doing, error } => write!(out, "{doing}: {error}"),
            Self::Handshake { answer } => write!(out, "no valid 101: {answer:?}"),
            Self::Refusal { answer } => write!(out, "not refused as it should: {answer:?}"),
            Self::Answer { start } => write!(out, "not the 200 asked for: {start:?}"),
            Self::Tls { due, got } => write!(out, "a TLS handshake was {got}, due was {due}"),
            Self::Corrupt { kind, at } => write!(out, "wrong bytes on {kind} at {at}"),
            Self::Ended { kind } => write!(out, "{kind} ended by itself"),
            Self::Late { waiting_for } => write!(out, "waited too long for {waiting_for}"),
            Self::Miscount { counted, begun, finished } => {
                write!(out, "{counted}: {begun} begun, {finished} finished")
            }
            Self::ProxyExited { stderr } => write!(out, "the proxy ended: {stderr}"),
            Self::Unknown { name } => write!(out, "there is no row or peer {name:?}"),
            Self::Accounting { scheduled_ns, ticked_ns } => {
                write!(
                    out,
                    "threads ended while measured: {scheduled_ns} ns scheduled, {ticked_ns} ns ticked"
                )
            }
        }
    }
}

/// Names what was being done when a system call failed.
pub(crate) trait Doing<T> {
    /// The value, or a [`Failure::Io`] that says `doing`.
    fn doing(self, doing: &'static str) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, doing: &'static str) -> Result<T, Failure> {
        self.map_err(|error| Failure::Io { doing, error: error.into() })
    }
}
