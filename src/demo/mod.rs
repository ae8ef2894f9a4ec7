//! The parts of `vibewarden demo` that are not the proxy: an echo WebSocket upstream, a page for the browser, and a check that tells in plain words what it did.
//! The proxy itself never lives here, and nothing here is used while serving real traffic; the WebSocket protocol comes from a library that nobody of this project wrote.
//! Called by `cli::demo`, which starts [`start_echo`], then the proxy in front of it, then [`self_check`].

mod check;
mod echo;
mod events;

use std::fmt;
use std::io;

use tokio_tungstenite::tungstenite;

pub use check::self_check;
pub use echo::{Echo, start_echo};
pub use events::{EventLines, EventTee};

/// The page for a browser. Its script opens a WebSocket through the door that the page came through.
pub const PAGE: &str = include_str!("page.html");

/// Why the demo did not go as described.
#[derive(Debug)]
pub enum DemoError {
    /// The narration could not be written.
    Output(io::Error),
    /// The runtime of the driving client could not be started.
    Runtime(io::Error),
    /// A step did not finish within its deadline.
    Deadline {
        /// What was waited for.
        waiting_for: &'static str,
    },
    /// No TCP connection to the proxy.
    Connect(io::Error),
    /// The WebSocket library reported a fault.
    WebSocket(Box<tungstenite::Error>),
    /// The upgrade was answered with another status than the one described.
    Status {
        /// The status this step must see.
        expected: u16,
        /// The status it saw.
        seen: u16,
    },
    /// A refused upgrade was seen by the application all the same.
    Reached,
    /// The subprotocol was not negotiated end to end.
    Subprotocol,
    /// A message did not come back as it was sent.
    Echo {
        /// What was sent.
        sent: &'static str,
    },
    /// The page did not come through the proxy.
    Page,
    /// The connection did not close with the code and reason that were sent.
    Close,
    /// An event line that belongs to the step did not appear.
    EventMissing {
        /// `event_type` of the missing line.
        event_type: &'static str,
    },
}

impl fmt::Display for DemoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Output(error) => write!(f, "cannot write the narration: {error}"),
            Self::Runtime(error) => write!(f, "cannot start the demo client: {error}"),
            Self::Deadline { waiting_for } => {
                write!(f, "nothing happened while waiting for {waiting_for}")
            }
            Self::Connect(error) => write!(f, "cannot connect to the proxy: {error}"),
            Self::WebSocket(error) => write!(f, "the WebSocket failed: {error}"),
            Self::Status { expected, seen } => write!(f, "expected status {expected}, got {seen}"),
            Self::Reached => f.write_str("a refused upgrade reached the application"),
            Self::Subprotocol => f.write_str("the subprotocol was not negotiated"),
            Self::Echo { sent } => write!(f, "the {sent} did not come back as it was sent"),
            Self::Page => f.write_str("the page did not come through the proxy"),
            Self::Close => {
                f.write_str("the connection did not close with the code and reason that were sent")
            }
            Self::EventMissing { event_type } => {
                write!(f, "the event line \"{event_type}\" did not appear")
            }
        }
    }
}

impl std::error::Error for DemoError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Output(error) | Self::Runtime(error) | Self::Connect(error) => Some(error),
            Self::WebSocket(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
