//! The rows of the comparison: what is done, and which figures come of it.

use crate::load::Close;

/// What a proxy checks before it passes an upgrade on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// Nothing.
    None,
    /// An API key, known by its SHA-256.
    Key,
    /// A signed token.
    Token {
        /// Each handshake has another, else all have the same.
        new: bool,
    },
    /// A session cookie that Kratos is asked about, each handshake another.
    Session,
    /// An API key and rates, which nobody exceeds.
    Limited,
    /// A rate, which everybody exceeds.
    Storm,
}

/// One kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Connect, 101, close, again.
    Handshake {
        /// How the client closes.
        close: Close,
        /// With an access log line each.
        access_log: bool,
        /// What the proxy asks for before.
        check: Check,
    },
    /// Upgrades that the limiter refuses.
    Storm,
    /// Small messages out and back.
    Echo,
    /// One direction as fast as it goes.
    Bulk {
        /// Upstream to client, else client to upstream.
        to_client: bool,
        /// Tunnels at the same time.
        tunnels: u32,
    },
    /// Many tunnels that were used once.
    Idle,
    /// Plain requests on connections that stay open.
    Requests {
        /// Length of each answer's content.
        answer_bytes: u64,
    },
    /// Few small messages, alone and beside a bulk tunnel.
    Latency,
    /// The same over TLS from the client to the proxy.
    Tls {
        /// Every counted handshake resumes a session, else none does.
        resumed: bool,
        /// What is done.
        work: &'static Work,
    },
}

/// A row: its name on the command line, its heading, its work.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) heading: &'static str,
    pub(crate) work: Work,
}

/// A figure of a row.
pub(crate) struct Figure {
    pub(crate) key: &'static str,
    pub(crate) heading: &'static str,
    /// Shown as ratio to the best peer; less is better in all of these.
    pub(crate) compared: bool,
    pub(crate) decimals: usize,
}

const fn figure(
    key: &'static str,
    heading: &'static str,
    compared: bool,
    decimals: usize,
) -> Figure {
    Figure { key, heading, compared, decimals }
}

const fn bulk(name: &'static str, heading: &'static str, to_client: bool, tunnels: u32) -> Row {
    Row { name, heading, work: Work::Bulk { to_client, tunnels } }
}

const fn checked(name: &'static str, heading: &'static str, check: Check) -> Row {
    let access_log = matches!(check, Check::Limited);
    Row { name, heading, work: Work::Handshake { close: Close::Reset, access_log, check } }
}

const fn over_tls(name: &'static str, heading: &'static str, work: &'static Work) -> Row {
    Row { name, heading, work: Work::Tls { resumed: false, work } }
}

/// What the rows of TLS handshakes do: the same as `handshake`.
const UPGRADE: Work =
    Work::Handshake { close: Close::Reset, access_log: false, check: Check::None };

/// All rows in the order of the report.
pub(crate) const ROWS: [Row; 26] = [
    Row {
        name: "handshake",
        heading: "Handshakes: accept, connect, 101, reset by the client; 64 at a time",
        work: Work::Handshake { close: Close::Reset, access_log: false, check: Check::None },
    },
    Row {
        name: "handshake-fin",
        heading: "Handshakes, closed by the client with FIN",
        work: Work::Handshake { close: Close::Fin, access_log: false, check: Check::None },
    },
    Row {
        name: "handshake-log",
        heading: "Handshakes, reset by the client, with an access log to a file",
        work: Work::Handshake { close: Close::Reset, access_log: true, check: Check::None },
    },
    checked("handshake-key", "Handshakes with an API key, reset by the client", Check::Key),
    checked(
        "handshake-jwt",
        "Handshakes with a token (RS256), always the same",
        Check::Token { new: false },
    ),
    checked(
        "handshake-jwt-new",
        "Handshakes with a token (RS256), each with another",
        Check::Token { new: true },
    ),
    checked(
        "handshake-kratos",
        "Handshakes with a session cookie that Kratos is asked about, each with another",
        Check::Session,
    ),
    checked(
        "handshake-limited",
        "Handshakes with an API key, rate limits and an access log to a file",
        Check::Limited,
    ),
    Row {
        name: "storm",
        heading: "Upgrades refused by the rate limit: accept, 429, closed by the proxy; 64 at a time",
        work: Work::Storm,
    },
    Row { name: "echo", heading: "Echo: 64 tunnels, 64 B out and back", work: Work::Echo },
    bulk("bulk-down-1", "Bulk upstream → client, 1 tunnel", true, 1),
    bulk("bulk-down-8", "Bulk upstream → client, 8 tunnels", true, 8),
    bulk("bulk-down-32", "Bulk upstream → client, 32 tunnels", true, 32),
    bulk("bulk-up-1", "Bulk client → upstream, 1 tunnel", false, 1),
    bulk("bulk-up-8", "Bulk client → upstream, 8 tunnels", false, 8),
    bulk("bulk-up-32", "Bulk client → upstream, 32 tunnels", false, 32),
    Row {
        name: "http-1k",
        heading: "Plain HTTP: 64 clients that keep their connections, GET, answers of 1 kB",
        work: Work::Requests { answer_bytes: 1_000 },
    },
    Row {
        name: "http-1m",
        heading: "Plain HTTP: 64 clients that keep their connections, GET, answers of 1 MB",
        work: Work::Requests { answer_bytes: 1_000_000 },
    },
    Row {
        name: "idle",
        heading: "Memory of idle tunnels, each used for one echo",
        work: Work::Idle,
    },
    Row {
        name: "latency",
        heading: "Small messages (8 tunnels, 64 B) alone and beside one bulk tunnel",
        work: Work::Latency,
    },
    over_tls(
        "tls-handshake",
        "TLS 1.3: full handshake, 101, reset by the client; 64 at a time",
        &UPGRADE,
    ),
    Row {
        name: "tls-resumed",
        heading: "TLS 1.3: handshake that resumes a session by its ticket, 101, reset by the client; 64 at a time",
        work: Work::Tls { resumed: true, work: &UPGRADE },
    },
    over_tls("tls-echo", "Echo over TLS: 64 tunnels, 64 B out and back", &Work::Echo),
    over_tls(
        "tls-bulk-down-1",
        "Bulk over TLS upstream → client, 1 tunnel",
        &Work::Bulk { to_client: true, tunnels: 1 },
    ),
    over_tls(
        "tls-bulk-up-1",
        "Bulk over TLS client → upstream, 1 tunnel",
        &Work::Bulk { to_client: false, tunnels: 1 },
    ),
    over_tls("tls-idle", "Memory of idle tunnels over TLS, each used for one echo", &Work::Idle),
];

impl Work {
    /// What the proxy checks.
    pub(crate) fn check(self) -> Check {
        match self {
            Self::Handshake { check, .. } => check,
            Self::Storm => Check::Storm,
            Self::Tls { work, .. } => work.check(),
            _ => Check::None,
        }
    }

    /// Whether the proxy writes an access log.
    pub(crate) fn access_log(self) -> bool {
        match self {
            Self::Handshake { access_log, .. } => access_log,
            Self::Tls { work, .. } => work.access_log(),
            _ => false,
        }
    }

    /// Whether clients speak TLS.
    pub(crate) fn tls(self) -> bool {
        matches!(self, Self::Tls { .. })
    }

    /// The figures that a sample of this work has, most important first.
    pub(crate) fn figures(self) -> Vec<Figure> {
        let busy = figure("busy_percent", "core busy %", false, 0);
        match self {
            Self::Handshake { .. } | Self::Storm => vec![
                figure("cpu_us", "CPU µs each", true, 1),
                figure("user_us", "user µs", true, 1),
                figure("per_second", "per second", false, 0),
                busy,
            ],
            Self::Echo => vec![
                figure("cpu_us", "CPU µs per round trip", true, 2),
                figure("user_us", "user µs", true, 2),
                figure("messages_per_second", "messages/s", false, 0),
                figure("p50_us", "p50 µs", false, 0),
                figure("p99_us", "p99 µs", false, 0),
                busy,
            ],
            Self::Bulk { .. } => vec![
                figure("cpu_ms", "CPU ms per GB", true, 0),
                figure("user_ms", "user ms", false, 0),
                figure("gb_per_second", "GB/s", false, 2),
                busy,
            ],
            Self::Requests { .. } => vec![
                figure("cpu_us", "CPU µs per request", true, 1),
                figure("user_us", "user µs", true, 1),
                figure("per_cpu_second", "requests per CPU-second", false, 0),
                figure("requests_per_second", "requests/s", false, 0),
                figure("p50_us", "p50 µs", false, 0),
                figure("p99_us", "p99 µs", false, 0),
                figure("upstream_connections", "upstream connections", false, 0),
                busy,
            ],
            Self::Idle => vec![
                figure("anonymous_bytes", "anonymous B per tunnel", true, 0),
                figure("resident_bytes", "resident B per tunnel", false, 0),
                figure("start_kb", "anonymous kB at start", false, 0),
            ],
            Self::Tls { work: work @ Self::Handshake { .. }, .. } => {
                let mut figures = work.figures();
                figures.insert(2, figure("per_cpu_second", "per CPU-second", false, 0));
                figures
            }
            Self::Tls { work, .. } => work.figures(),
            Self::Latency => vec![
                figure("p99_beside_us", "p99 µs beside bulk", true, 0),
                figure("p99_alone_us", "p99 µs alone", true, 0),
                figure("p99_growth", "beside : alone", true, 2),
                figure("p50_beside_us", "p50 beside", false, 0),
                figure("p50_alone_us", "p50 alone", false, 0),
                figure("bulk_gb_per_second", "bulk GB/s", false, 2),
            ],
        }
    }
}
