//! What a proxy is started with: configuration keys, driver, limits.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::SupportedProtocolVersion;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use super::process::{BINARY, Process};
use super::proxy::Proxy;
use super::tls;

/// How the proxy gets its driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Driver {
    /// `server.driver: io_uring`
    IoUring,
    /// `server.driver: epoll`
    Epoll,
    /// `server.driver: auto` where the kernel refuses `io_uring_setup`, as container profiles do.
    Forbidden,
    /// `server.driver: io_uring`, and every client speaks TLS 1.3.
    IoUringTls13,
    /// `server.driver: epoll`, and every client speaks TLS 1.2.
    EpollTls12,
}

impl Driver {
    /// What clients speak, where they come over TLS.
    pub(crate) fn tls(self) -> Option<&'static [&'static SupportedProtocolVersion]> {
        match self {
            Self::IoUring | Self::Epoll | Self::Forbidden => None,
            Self::IoUringTls13 => Some(tls::ONLY_13),
            Self::EpollTls12 => Some(tls::ONLY_12),
        }
    }
}

/// A `server.read_timeout` that runs out soon, but not before the TLS handshake of a debug build on a busy machine is done.
pub(crate) fn short_read_timeout(driver: Driver) -> &'static str {
    if driver.tls().is_some() { "1s" } else { "200ms" }
}

/// A proxy to be started.
#[derive(Clone)]
pub(crate) struct Setup {
    keys: BTreeMap<String, String>,
    forbidden_errno: Option<u32>,
    descriptors_max: Option<u32>,
    environment: Vec<(String, String)>,
    working_directory: Option<PathBuf>,
    /// TLS versions of the clients, where they speak TLS.
    clients: &'static [&'static SupportedProtocolVersion],
}

impl Setup {
    /// The smallest configuration: one upstream, a free port, two workers; later sections of the contract switched off.
    pub(crate) fn new(driver: Driver, upstream_url: impl AsRef<str>) -> Self {
        let name = match driver {
            Driver::IoUring | Driver::IoUringTls13 => "io_uring",
            Driver::Epoll | Driver::EpollTls12 => "epoll",
            Driver::Forbidden => "auto",
        };
        let mut setup = Self::empty()
            .set("upstream.url", &format!("\"{}\"", upstream_url.as_ref()))
            .set("server.host", "127.0.0.1")
            .set("server.port", "0")
            .set("server.workers", "2")
            .set("server.driver", name)
            .set("tls.enabled", if driver.tls().is_some() { "true" } else { "false" })
            .set("rate_limit.enabled", "false")
            .set("security_headers.enabled", "false");
        setup.clients = driver.tls().unwrap_or(rustls::ALL_VERSIONS);
        if driver == Driver::Forbidden {
            setup = setup.forbid_io_uring(libc_errno::EPERM);
        }
        setup
    }

    pub(crate) fn empty() -> Self {
        Self {
            keys: BTreeMap::new(),
            forbidden_errno: None,
            descriptors_max: None,
            environment: Vec::new(),
            working_directory: None,
            clients: rustls::ALL_VERSIONS,
        }
    }

    /// Sets a dotted key to a YAML scalar or flow value, written as it is.
    pub(crate) fn set(mut self, key: &str, value: &str) -> Self {
        self.keys.insert(key.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn unset(mut self, key: &str) -> Self {
        self.keys.remove(key);
        self
    }

    /// `io_uring_setup` fails with this error number.
    pub(crate) fn forbid_io_uring(mut self, errno: u32) -> Self {
        self.forbidden_errno = Some(errno);
        self
    }

    /// Soft and hard limit of file descriptors.
    pub(crate) fn descriptors_max(mut self, count: u32) -> Self {
        self.descriptors_max = Some(count);
        self
    }

    pub(crate) fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn working_directory(mut self, path: &Path) -> Self {
        self.working_directory = Some(path.to_owned());
        self
    }

    /// The configuration as YAML.
    pub(crate) fn yaml(&self) -> String {
        let mut out = String::new();
        let entries: Vec<_> = self.keys.iter().collect();
        write_level(&mut out, &entries, 0);
        out
    }

    /// Starts the proxy and waits until it has said that it listens.
    #[track_caller]
    pub(crate) fn start(&self) -> Proxy {
        let directory = Scratch::new();
        let path = directory.path().join("vibewarden.yaml");
        std::fs::write(&path, self.yaml()).expect("the configuration file");
        self.start_from(directory, &path)
    }

    /// Starts the proxy with a configuration file that is already there.
    #[track_caller]
    pub(crate) fn start_from(&self, directory: Scratch, path: &Path) -> Proxy {
        let process = self.spawn(&["serve", "--config", &path.display().to_string()]);
        Proxy::started(process, directory, path, self.clients)
    }

    /// Starts the program with these arguments under the limits of this set-up.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Process {
        let mut command = Command::new(BINARY);
        if let Some(count) = self.descriptors_max {
            command = Command::new("sh");
            command.args(["-c", &format!("ulimit -n {count} && exec \"$@\""), "sh"]).arg(BINARY);
        }
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("RUST_BACKTRACE", "1")
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(path) = &self.working_directory {
            command.current_dir(path);
        }
        let Some(errno) = self.forbidden_errno else {
            return Process::spawn(&mut command);
        };
        // A filter stays with the thread that set it and with the children of that thread.
        let spawned = std::thread::spawn(move || {
            let filter = io_uring_filter(errno);
            seccompiler::apply_filter(&filter).expect("seccomp");
            Process::spawn(&mut command)
        });
        spawned.join().expect("the launching thread")
    }
}

/// Error numbers of Linux that seccomp profiles answer with.
pub(crate) mod libc_errno {
    pub(crate) const EPERM: u32 = 1;
    pub(crate) const ENOSYS: u32 = 38;
}

fn io_uring_filter(errno: u32) -> BpfProgram {
    const IO_URING_SETUP: i64 = 425;
    let architecture = std::env::consts::ARCH.try_into().expect("architecture");
    let filter = SeccompFilter::new(
        BTreeMap::from([(IO_URING_SETUP, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(errno),
        architecture,
    );
    filter.and_then(BpfProgram::try_from).expect("a filter of one system call")
}

fn write_level(out: &mut String, entries: &[(&String, &String)], depth: usize) {
    let segment = |key: &str| key.split('.').nth(depth).unwrap_or_default().to_owned();
    let mut rest = entries;
    while let Some((key, value)) = rest.first() {
        let name = segment(key);
        let same = rest.partition_point(|(key, _)| segment(key) == name);
        let indent = "  ".repeat(depth);
        if key.split('.').count() == depth + 1 {
            writeln!(out, "{indent}{name}: {value}").expect("a string");
        } else {
            writeln!(out, "{indent}{name}:").expect("a string");
            write_level(out, &rest[..same], depth + 1);
        }
        rest = &rest[same..];
    }
}

/// A directory of its own, removed when dropped.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("behaviour-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        match std::fs::create_dir(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                std::fs::remove_dir_all(&path).expect("an old directory of ours");
                std::fs::create_dir(&path).expect("a directory");
            }
            Err(error) => panic!("{}: {error}", path.display()),
        }
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _left_behind = std::fs::remove_dir_all(&self.0);
    }
}
