//! The programs of this folder, started with the library they are written for.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::reports::Reports;
use super::rust_side;

/// Who speaks WebSocket at one end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Library {
    /// `websockets` for Python
    Python,
    /// `ws` for Node
    Node,
    /// tokio-tungstenite, on a thread of this test
    Rust,
}

impl Library {
    /// Whether it can compress messages (RFC 7692).
    pub(crate) fn compresses(self) -> bool {
        self != Self::Rust
    }
}

/// Where an application listens.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place<'a> {
    /// A free port of 127.0.0.1
    Tcp,
    /// A Unix socket
    Unix(&'a Path),
}

/// A running application; stopped when dropped.
pub(crate) struct Application {
    /// As the proxy's configuration names it.
    pub(crate) url: String,
    /// What it tells about its sessions.
    pub(crate) reports: Reports,
    _running: Running,
}

enum Running {
    Child { _child: Foreign },
    Thread { _thread: rust_side::Running },
}

/// Where `tests/run.sh` puts the libraries.
fn installed() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent();
    target.expect("the target folder").join("interop")
}

/// Whether the libraries are there. Where they must be (`tests/run.sh` says so) their absence is a failure.
pub(crate) fn available() -> bool {
    let is_there = installed().join("stamp").exists();
    let required = std::env::var_os("VIBEWARDEN_TEST_FOREIGN").is_some_and(|it| it == "required");
    assert!(is_there || !required, "{} is empty", installed().display());
    if !is_there {
        println!("skipped: `bash tests/run.sh` installs the libraries of Python and Node");
    }
    is_there
}

/// A child that reports on its stdout and ends when its stdin does; killed when dropped.
pub(crate) struct Foreign {
    child: Child,
    complaints: File,
}

impl Foreign {
    pub(crate) fn start(library: Library, program: &str, arguments: &[&str]) -> (Self, Reports) {
        Self::start_trusting(None, library, program, arguments)
    }

    /// Starts a program that trusts this authority, a PEM file.
    fn start_trusting(
        authority: Option<&Path>,
        library: Library,
        program: &str,
        arguments: &[&str],
    ) -> (Self, Reports) {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop");
        let (interpreter, ending) = match library {
            Library::Python => (installed().join("python/bin/python"), "py"),
            Library::Node => (PathBuf::from("node"), "mjs"),
            Library::Rust => unreachable!("it runs in this process"),
        };
        let complaints = unnamed_file();
        let mut command = Command::new(interpreter);
        if let Some(authority) = authority {
            command.env("SSL_CERT_FILE", authority).env("NODE_EXTRA_CA_CERTS", authority);
        }
        let mut child = command
            .arg(scripts.join(format!("{program}.{ending}")))
            .args(arguments)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("VIBEWARDEN_TEST_NODE_ROOT", installed().join("package.json"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(complaints.try_clone().expect("a file"))
            .spawn()
            .expect("the interpreter");
        let reports = Reports::follow(child.stdout.take().expect("stdout"));
        (Self { child, complaints }, reports)
    }

    /// What it wrote on stderr.
    fn complaints(&mut self) -> String {
        let mut text = String::new();
        self.complaints.seek(SeekFrom::Start(0)).expect("a file");
        self.complaints.read_to_string(&mut text).expect("text");
        text
    }
}

/// A file without a name: no reader is needed while it is written.
fn unnamed_file() -> File {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(folder).expect("the folder for tests");
    let fd = rustix::fs::open(
        folder,
        rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
    );
    File::from(fd.expect("a file"))
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- stderr of a program\n{}", self.complaints());
        }
    }
}

/// Starts an application and waits until it listens.
#[track_caller]
pub(crate) fn application(library: Library, place: Place<'_>) -> Application {
    let path = match place {
        Place::Tcp => None,
        Place::Unix(path) => Some(path.to_str().expect("a path in UTF-8")),
    };
    let (running, reports) = if library == Library::Rust {
        let (thread, reports) = rust_side::application(place);
        (Running::Thread { _thread: thread }, reports)
    } else {
        let (child, reports) = Foreign::start(library, "application", path.as_slice());
        (Running::Child { _child: child }, reports)
    };
    let listening =
        reports.wait(|report| report["event"] == "listening").expect("the application must listen");
    let url = match path {
        Some(path) => format!("unix:{path}"),
        None => format!("http://127.0.0.1:{}", listening["port"]),
    };
    Application { url, reports, _running: running }
}

/// Runs a client to its end and returns its reports; the last one is `done`.
#[track_caller]
pub(crate) fn client(library: Library, proxy: SocketAddr, script: &str, bytes: usize) -> Reports {
    let url = format!("ws://{proxy}");
    if library == Library::Rust {
        return rust_side::client(&url, script, bytes);
    }
    let (_child, reports) = Foreign::start(library, "client", &[&url, script, &bytes.to_string()]);
    let done = reports.wait(|report| report["event"] == "done");
    assert!(done.is_some(), "{library:?} {script} did not finish");
    reports
}

/// [`client`] over TLS, for a program that trusts this authority alone.
#[track_caller]
pub(crate) fn tls_client(
    library: Library,
    proxy: SocketAddr,
    authority: &Path,
    script: &str,
    bytes: usize,
) -> Reports {
    let url = format!("wss://localhost:{}", proxy.port());
    let arguments = [&url, script, &bytes.to_string()];
    let (_child, reports) = Foreign::start_trusting(Some(authority), library, "client", &arguments);
    let done = reports.wait(|report| report["event"] == "done");
    assert!(done.is_some(), "{library:?} {script} over TLS did not finish");
    reports
}
