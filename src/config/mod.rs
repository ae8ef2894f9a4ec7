//! The configuration: what was written in file and environment becomes what is meant, typed and valid by construction.
//! No socket, no clock and no thread lives here; reading the files that the configuration names is its only I/O.
//! Called by `cli` (serve, check), and by `control::reload` for every new version of the file.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

/// The effective configuration. Every value is typed and within its range (contract section 3).
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// File it was read from; `None` when only defaults and environment were used.
    pub path: Option<PathBuf>,
    /// `server`
    pub server: Server,
    /// `upstream`
    pub upstream: Upstream,
    /// `resilience.timeout`: connect begins → head of the final answer; `None` = off.
    pub upstream_head_timeout: Option<Duration>,
    /// `log`
    pub log: Log,
    /// `telemetry` (or `metrics`)
    pub telemetry: Telemetry,
    /// `health.expose_version`
    pub expose_version: bool,
    /// `watch`
    pub watch: Watch,
}

/// Section `server`.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Address to listen on; `localhost` is 127.0.0.1.
    pub host: IpAddr,
    /// Port to listen on; 0 = any free port.
    pub port: u16,
    /// Cap on open client connections; 0 = derived from the descriptor limit at start.
    pub max_connections: u32,
    /// Largest request head in bytes.
    pub max_header_bytes: usize,
    /// From accept to the end of the request head; `None` = off.
    pub read_timeout: Option<Duration>,
    /// Restarts with each byte the peer takes; `None` = off.
    pub write_timeout: Option<Duration>,
    /// Between two requests; `None` = off.
    pub idle_timeout: Option<Duration>,
    /// Keep-alive and `TCP_USER_TIMEOUT`; `None` = off.
    pub dead_peer_after: Option<Duration>,
    /// Tunnels are closed evenly over this time at shutdown; zero = at once.
    pub drain_timeout: Duration,
    /// Peers whose forwarding headers are believed.
    pub trusted_proxies: Vec<Cidr>,
    /// Which driver to try.
    pub driver: DriverChoice,
    /// Worker threads; 0 = one per usable core.
    pub workers: u16,
    /// Keep each worker on one core.
    pub pin_cores: bool,
}

/// An address block, `address/prefix_length`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    /// Network address (host bits are zero).
    pub network: IpAddr,
    /// Length of the prefix in bits.
    pub prefix: u8,
}

/// `server.driver`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverChoice {
    /// `io_uring` if it works, else epoll.
    Auto,
    /// `io_uring` or no start.
    IoUring,
    /// epoll.
    Epoll,
}

/// Section `upstream`.
#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    /// Where the application listens.
    pub target: UpstreamTarget,
}

/// Address of the application as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamTarget {
    /// TCP: a name or an IP address (IPv6 without brackets), and a port.
    Tcp {
        /// Name or IP address.
        host: String,
        /// Port.
        port: u16,
    },
    /// Unix stream socket.
    Unix(PathBuf),
}

/// Section `log`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Level of the operator log.
    pub level: LogLevel,
    /// Format of the operator log.
    pub format: LogFormat,
    /// Write `request.proxied`, `websocket.closed`.
    pub access_log: bool,
}

/// `log.level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the values of the key")]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

/// `log.format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the values of the key")]
pub enum LogFormat {
    Json,
    Text,
}

/// Section `telemetry`, or `metrics` where `telemetry` is absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telemetry {
    /// Serve `/_vibewarden/metrics`.
    pub enabled: bool,
    /// `/users/:id` forms for the label `path_pattern`, in order of trial.
    pub path_patterns: Vec<String>,
}

/// Section `watch`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    /// Reload when the file changes.
    pub enabled: bool,
    /// Quiet time before the reload.
    pub debounce: Duration,
}
