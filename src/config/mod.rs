//! The configuration: what was written in file and environment becomes what is meant, typed and valid by construction.
//! No socket, no clock and no thread lives here; reading the files that the configuration names is its only I/O.
//! Called by `cli` (serve, check), and by `control::reload` for every new version of the file.

mod auth;
mod checks;
mod environment;
mod expand;
mod layers;
mod limits;
mod mistakes;
mod print;
mod resolve;
mod schema;
mod sections;
mod setting;
mod settings;
mod tls;
mod unsupported;
mod url;
mod values;
mod yaml;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use layers::Layers;
use mistakes::{Mistake, Problem};
use print::Secrets;
use resolve::Resolved;
use settings::Settings;

use crate::admission::origin::{AllowedOrigin, AllowedOrigins};
use crate::certificate::Certificate;

pub use auth::{
    ApiKey, ApiKeys, Auth, Jwt, KeyHash, KeySet, Kratos, Mode, OnUnavailable, Role, RolePaths,
    ScopeRule,
};
pub use limits::{
    Allowance, IpFilter, IpFilterMode, RateLimit, RateLimitStore, RedisLocation, RedisStore,
    Secret, TunnelQuota,
};
pub use mistakes::Mistakes;
pub use sections::{BodySize, BodySizeOverride, Hsts, Probe, SecurityHeaders};
pub use tls::Tls;

/// Where the file is looked for when no path is given, in this order.
const DEFAULT_PATHS: [&str; 2] = ["./vibewarden.yaml", "/etc/vibewarden/vibewarden.yaml"];

/// The keys that make private and loopback peers trusted where `server.trusted_proxies` is empty (contract section 9.1).
const TRUST_PROXY_HEADERS: [&str; 2] =
    ["rate_limit.trust_proxy_headers", "ip_filter.trust_proxy_headers"];

/// Largest configuration file; YAML aliases multiply, and `serde_yaml` bounds them by the size of the text.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where to look. The environment is handed in, never read here, so a test needs no process environment.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Source {
    /// `--config`; the file must exist. `None` = the default places, or no file.
    pub path: Option<PathBuf>,
    /// All variables of the process; those with `VIBEWARDEN_` are settings, the others are for `${NAME}`.
    pub env: BTreeMap<String, String>,
}

/// Any variable may be a secret.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A configuration without mistakes.
#[derive(Clone, PartialEq)]
pub struct Loaded {
    /// What is in force.
    pub config: Config,
    /// For the operator log: one line each, each kind once.
    pub warnings: Vec<String>,
    /// The text of the file.
    pub text: String,
}

/// The text of the file may hold secrets.
impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded")
            .field("config", &self.config)
            .field("warnings", &self.warnings)
            .finish_non_exhaustive()
    }
}

/// The effective configuration. Every value is typed and within its range (contract section 3).
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// File it was read from; `None` when only defaults and environment were used.
    pub path: Option<PathBuf>,
    /// `server`
    pub server: Server,
    /// `tls`; `None` = clients come without it.
    pub tls: Option<Tls>,
    /// `upstream`
    pub upstream: Upstream,
    /// `resilience.timeout`: connect begins → head of the final answer; `None` = off.
    pub upstream_head_timeout: Option<Duration>,
    /// `auth` and `kratos`
    pub auth: Auth,
    /// `websocket.allowed_origins`
    pub allowed_origins: AllowedOrigins,
    /// `websocket.close_on_expiry`
    pub close_on_expiry: bool,
    /// `rate_limit`
    pub rate_limit: RateLimit,
    /// `websocket.max_per_ip`, `websocket.max_per_user`
    pub tunnel_quota: TunnelQuota,
    /// `ip_filter`
    pub ip_filter: IpFilter,
    /// `log`
    pub log: Log,
    /// `body_size`
    pub body_size: BodySize,
    /// `security_headers`
    pub security_headers: SecurityHeaders,
    /// `telemetry` (or `metrics`)
    pub telemetry: Telemetry,
    /// `health.expose_version`
    pub expose_version: bool,
    /// `watch`
    pub watch: Watch,
    /// What the fields above were made from; only loading makes it, so both always say the same.
    settings: Settings,
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
    /// From accept to the end of the request head, then between two pieces of its content; `None` = off.
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
    /// Private and loopback peers are believed too, where `trusted_proxies` is empty: `rate_limit.trust_proxy_headers` or
    /// `ip_filter.trust_proxy_headers`.
    pub trust_proxy_headers: bool,
    /// Every connection begins with a PROXY header from a trusted peer.
    pub proxy_protocol: bool,
    /// Which driver to try.
    pub driver: DriverChoice,
    /// Worker threads; 0 = one per usable core.
    pub workers: u16,
    /// Keep each worker on one core.
    pub pin_cores: bool,
}

/// An address block, `address/prefix_length`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    /// `upstream.health`; `None` = no probe.
    pub health: Option<Probe>,
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

/// Loads and validates everything: file, environment, defaults.
///
/// # Errors
/// All mistakes of one pass; with an unreadable or malformed file only that.
pub fn load(source: &Source) -> Result<Loaded, Mistakes> {
    let (text, path) = find_file(source)?;
    if text.trim().is_empty() && path.is_some() {
        // an editor that empties the file before it writes must not reset a running proxy to the defaults
        let problem = Problem::Malformed("the file is empty".to_owned());
        return Err(Mistakes::new(path, vec![Mistake::new("", problem)]));
    }
    load_text(&text, path.as_deref(), &source.env)
}

/// Loads and validates the text of a file that came from `path`; empty text gives defaults and environment.
///
/// # Errors
/// As [`load`].
pub fn load_text(
    text: &str,
    path: Option<&Path>,
    env: &BTreeMap<String, String>,
) -> Result<Loaded, Mistakes> {
    let path = path.map(Path::to_owned);
    let mut file =
        yaml::parse(text).map_err(|mistake| Mistakes::new(path.clone(), vec![mistake]))?;
    let mut layers = Layers::default();
    expand::tree(&mut file, "", env, &mut layers.mistakes);
    let unexpanded: Vec<String> =
        layers.mistakes.iter().map(|mistake| mistake.place.clone()).collect();
    layers.add_file(&file);
    environment::lay_over(&mut layers, env);
    match resolve::resolve(layers) {
        Ok(Resolved { settings, certificate, warnings }) => Ok(Loaded {
            config: Config::from_settings(path, settings, certificate),
            warnings,
            text: text.to_owned(),
        }),
        Err(mut mistakes) => {
            // a value that could not be expanded is wrong once; what it looks like unexpanded is nobody's mistake
            let mut index = 0;
            mistakes.retain(|mistake| {
                index += 1;
                index <= unexpanded.len() || !unexpanded.contains(&mistake.place)
            });
            Err(Mistakes::new(path, mistakes))
        }
    }
}

/// The text of the file that counts, and its path; no text and no path when there is none.
fn find_file(source: &Source) -> Result<(String, Option<PathBuf>), Mistakes> {
    match &source.path {
        Some(path) => first_file(&[path.as_path()], true),
        None => first_file(&DEFAULT_PATHS.map(Path::new), false),
    }
}

/// The first of `candidates` that exists. One that exists and cannot be read is not passed over.
fn first_file(
    candidates: &[&Path],
    must_exist: bool,
) -> Result<(String, Option<PathBuf>), Mistakes> {
    for path in candidates {
        match read_file(path) {
            Ok(text) => return Ok((text, Some((*path).to_owned()))),
            Err(FileError::Io(error)) if error.kind() == ErrorKind::NotFound && !must_exist => {}
            Err(error) => {
                let mistake = error.into_mistake(path);
                return Err(Mistakes::new(Some((*path).to_owned()), vec![mistake]));
            }
        }
    }
    Ok((String::new(), None))
}

/// Why a file cannot be used.
enum FileError {
    Io(io::Error),
    TooLarge,
    /// Place of the first byte that is not UTF-8.
    NotUtf8 {
        line: usize,
        column: usize,
    },
}

fn read_file(path: &Path) -> Result<String, FileError> {
    let file = File::open(path).map_err(FileError::Io)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(FileError::Io)?;
    if u64::try_from(bytes.len()).is_ok_and(|read| read > FILE_BYTES_MAX) {
        return Err(FileError::TooLarge);
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = String::from_utf8_lossy(&error.as_bytes()[..valid]).into_owned();
        let last_line = before.rsplit('\n').next().unwrap_or_default();
        FileError::NotUtf8 {
            line: before.matches('\n').count() + 1,
            column: last_line.chars().count() + 1,
        }
    })
}

/// What the system says about a file, without its number.
fn reason(error: &io::Error) -> String {
    error.to_string().split(" (os error").next().unwrap_or_default().to_owned()
}

impl FileError {
    fn into_mistake(self, path: &Path) -> Mistake {
        let path = path.display().to_string();
        match self {
            Self::Io(error) => {
                let why = reason(&error);
                Mistake::new("", Problem::CannotRead { path, why })
            }
            Self::TooLarge => Mistake::new(
                "",
                Problem::CannotRead { path, why: "it is larger than 1 MiB".to_owned() },
            ),
            Self::NotUtf8 { line, column } => Mistake::new(
                format!("line {line}, column {column}"),
                Problem::Malformed("not UTF-8 text".to_owned()),
            ),
        }
    }
}

impl Default for Config {
    /// No file and no environment.
    fn default() -> Self {
        match load_text("", None, &BTreeMap::new()) {
            Ok(loaded) => loaded.config,
            Err(mistakes) => unreachable!("defaults are valid: {mistakes}"),
        }
    }
}

impl Config {
    /// The effective configuration as YAML for `check`, secrets as `***`. `effective_max_connections` is what
    /// `server.max_connections` comes to on this machine.
    pub fn to_yaml(&self, effective_max_connections: u32) -> String {
        print::to_yaml(&self.settings, effective_max_connections, Secrets::Hide)
    }

    /// The files of a certificate that is not made by the process: chain and key.
    pub fn certificate_files(&self) -> Option<[PathBuf; 2]> {
        match self.tls {
            Some(Tls::External(_)) => {
                Some(["tls.cert_path", "tls.key_path"].map(|key| self.settings.text(key).into()))
            }
            _ => None,
        }
    }

    /// Dotted keys that differ in `new` although a reload cannot change them.
    pub fn restart_required(&self, new: &Self) -> Vec<&'static str> {
        self.settings.restart_required(&new.settings)
    }

    /// `new` as a reload can bring it into force: keys that need a restart stay as they are in `self`.
    #[must_use]
    pub fn keep_startup_values(&self, new: Self) -> Self {
        let settings = self.settings.keep_startup_values(new.settings);
        let tls = self.tls.as_ref().map(|tls| tls.reloaded(new.tls));
        Self { tls, ..Self::from_settings(new.path, settings, None) }
    }

    fn from_settings(
        path: Option<PathBuf>,
        settings: Settings,
        certificate: Option<Certificate>,
    ) -> Self {
        Self {
            path,
            tls: Tls::from_settings(&settings, certificate),
            server: Server::from_settings(&settings),
            upstream: Upstream {
                target: UpstreamTarget::from_settings(&settings),
                health: Probe::from_settings(&settings),
            },
            upstream_head_timeout: settings.timeout("resilience.timeout"),
            body_size: BodySize::from_settings(&settings),
            security_headers: SecurityHeaders::from_settings(&settings),
            auth: Auth::from_settings(&settings),
            allowed_origins: AllowedOrigins::new(
                settings
                    .list("websocket.allowed_origins")
                    .iter()
                    .filter_map(|text| AllowedOrigin::parse(text)),
            ),
            close_on_expiry: settings.bool("websocket.close_on_expiry"),
            rate_limit: RateLimit::from_settings(&settings),
            tunnel_quota: TunnelQuota::from_settings(&settings),
            ip_filter: IpFilter::from_settings(&settings),
            log: Log::from_settings(&settings),
            telemetry: Telemetry {
                enabled: settings.bool("telemetry.enabled")
                    && settings.bool("telemetry.prometheus.enabled"),
                path_patterns: settings.list("telemetry.path_patterns").to_vec(),
            },
            expose_version: settings.bool("health.expose_version"),
            watch: Watch {
                enabled: settings.bool("watch.enabled"),
                debounce: settings.duration("watch.debounce"),
            },
            settings,
        }
    }
}

impl Server {
    fn from_settings(settings: &Settings) -> Self {
        Self {
            host: settings.text("server.host").parse().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            port: settings.int("server.port"),
            max_connections: settings.int("server.max_connections"),
            max_header_bytes: settings.size("server.max_header_bytes"),
            read_timeout: settings.timeout("server.read_timeout"),
            write_timeout: settings.timeout("server.write_timeout"),
            idle_timeout: settings.timeout("server.idle_timeout"),
            dead_peer_after: settings.timeout("server.dead_peer_after"),
            drain_timeout: settings.duration("server.drain_timeout"),
            trusted_proxies: Cidr::list(settings.list("server.trusted_proxies")),
            trust_proxy_headers: TRUST_PROXY_HEADERS.iter().any(|key| settings.bool(key)),
            proxy_protocol: settings.bool("server.proxy_protocol"),
            driver: match settings.text("server.driver") {
                "io_uring" => DriverChoice::IoUring,
                "epoll" => DriverChoice::Epoll,
                _ => DriverChoice::Auto,
            },
            workers: settings.int("server.workers"),
            pin_cores: settings.bool("server.pin_cores"),
        }
    }
}

impl UpstreamTarget {
    fn from_settings(settings: &Settings) -> Self {
        if settings.values.contains_key("upstream.url")
            && let Ok(target) = url::upstream_target(settings.text("upstream.url"))
        {
            return target;
        }
        Self::Tcp {
            host: settings.text("upstream.host").to_owned(),
            port: settings.int("upstream.port"),
        }
    }
}

impl Log {
    fn from_settings(settings: &Settings) -> Self {
        Self {
            level: match settings.text("log.level") {
                "debug" => LogLevel::Debug,
                "warn" => LogLevel::Warn,
                "error" => LogLevel::Error,
                _ => LogLevel::Info,
            },
            format: if settings.text("log.format") == "text" {
                LogFormat::Text
            } else {
                LogFormat::Json
            },
            access_log: settings.bool("log.access_log"),
        }
    }
}

/// What must hold for every text, for the fuzzer and for `cargo test` over the corpus: loading never panics, and what
/// loads prints as a configuration that loads again to the same.
///
/// # Panics
/// When that does not hold.
pub fn fuzz_oracle(text: &str) {
    let env: BTreeMap<String, String> =
        [("HOST", "localhost"), ("PORT", "3000"), ("EMPTY", ""), ("ODD", "a: ${HOST} $${ 'b' # c")]
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
    let loaded = match load_text(text, None, &env) {
        Ok(loaded) => loaded,
        Err(mistakes) => {
            assert!(!mistakes.lines().is_empty(), "a refusal says why");
            assert!(
                mistakes.lines().iter().all(|line| !line.contains('\n')),
                "a mistake is one line"
            );
            return;
        }
    };
    let config = loaded.config;
    let printed = print::to_yaml(&config.settings, config.server.max_connections, Secrets::Show);
    match load_text(&printed, None, &env) {
        Ok(again) => {
            assert!(again.config == config, "printed and loaded again, it differs:\n{printed}");
        }
        Err(mistakes) => panic!("printed, it does not load again: {mistakes}\n{printed}"),
    }
}
