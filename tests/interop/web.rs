//! Plain HTTP between clients and servers that nobody of this project wrote: curl, `requests`, httpx and wrk before
//! the proxy; Node, `http.server`, uvicorn and nginx behind it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::browser::installed;
use super::foreign::{Foreign, Library, available};
use super::harness::payload::{Stream, seed};
use super::harness::setup::Scratch;
use super::harness::{Driver, Proxy, Setup, eventually};

/// A server that stores below `/files/`: PUT, GET, HEAD, DELETE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Store {
    Node,
    /// `http.server` of Python's standard library
    HttpServer,
    Uvicorn,
    /// Over a Unix socket, with files on a disk
    Nginx,
}

/// A running store; stopped when dropped.
struct Running {
    url: String,
    _program: Program,
    _directory: Scratch,
}

enum Program {
    Foreign { _child: Foreign },
    Nginx(Child),
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Self::Nginx(child) = self {
            // The workers of nginx end when their master asks them to.
            if let Ok(id) = i32::try_from(child.id()) {
                let pid = rustix::process::Pid::from_raw(id).expect("a process id");
                let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            let _reaped = child.wait();
        }
    }
}

/// A program that `tests/run.sh` installs; where it must be there its absence is a failure.
fn program(name: &str) -> Option<PathBuf> {
    let sbin = Path::new("/usr/sbin").join(name);
    let found = installed(name).or_else(|| sbin.is_file().then_some(sbin));
    let required = std::env::var_os("VIBEWARDEN_TEST_FOREIGN").is_some_and(|it| it == "required");
    assert!(found.is_some() || !required, "{name} is not installed");
    if found.is_none() {
        println!("skipped: {name} is not installed");
    }
    found
}

impl Store {
    /// None where the program is not installed.
    fn start(self) -> Option<Running> {
        let directory = Scratch::new();
        let (library, script) = match self {
            Self::Node => (Library::Node, "application"),
            Self::HttpServer => (Library::Python, "store"),
            Self::Uvicorn => (Library::Python, "asgi"),
            Self::Nginx => return start_nginx(directory),
        };
        if !available() {
            return None;
        }
        let (child, reports) = Foreign::start(library, script, &[]);
        let listening = reports.wait(|report| report["event"] == "listening");
        let port = &listening.expect("the server must listen")["port"];
        let url = format!("http://127.0.0.1:{port}");
        Some(Running { url, _program: Program::Foreign { _child: child }, _directory: directory })
    }
}

fn start_nginx(directory: Scratch) -> Option<Running> {
    let nginx = program("nginx")?;
    let root = directory.path().to_owned();
    let path = |name: &str| root.join(name).display().to_string();
    for folder in ["html/files", "body"] {
        fs::create_dir_all(root.join(folder)).expect("a folder");
    }
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let configuration = format!(
        "{user} daemon off; worker_processes 1; pid {pid}; error_log stderr error;
events {{ worker_connections 256; }}
http {{
  access_log off; client_body_temp_path {body}; proxy_temp_path {body}; fastcgi_temp_path {body};
  uwsgi_temp_path {body}; scgi_temp_path {body};
  client_max_body_size 0; keepalive_requests 1000000; default_type text/plain; gzip on; gzip_min_length 100;
  server {{ listen unix:{socket}; root {html}; location /files/ {{ dav_methods PUT DELETE; }} }}
}}
",
        pid = path("pid"),
        body = path("body"),
        socket = path("socket"),
        html = path("html"),
    );
    fs::write(root.join("nginx.conf"), configuration).expect("a configuration");
    let child = Command::new(nginx)
        .args(["-p", &path(""), "-c", &path("nginx.conf")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("nginx");
    let running = Running {
        url: format!("unix:{}", path("socket")),
        _program: Program::Nginx(child),
        _directory: directory,
    };
    eventually("nginx to listen", || {
        std::os::unix::net::UnixStream::connect(root.join("socket")).ok()
    });
    Some(running)
}

fn before(driver: Driver, store: &Running) -> Proxy {
    Setup::new(driver, &store.url).set("body_size.max", "8MB").start()
}

/// Connections that clients have opened so far.
fn connections(proxy: &Proxy) -> f64 {
    proxy.scrape().value("vibewarden_connections_total", &[("result", "accepted")])
}

/// `requests` and httpx: a session, its bodies in both framings, and that it needs one connection.
#[track_caller]
fn python_session(library: &str, store: Store, driver: Driver) {
    if !available() {
        return;
    }
    let Some(store) = store.start() else {
        return;
    };
    let proxy = before(driver, &store);
    let url = format!("http://{}", proxy.address());
    let opened = connections(&proxy);
    let (_child, reports) = Foreign::start(Library::Python, "web_client", &[library, &url]);
    assert!(reports.wait(|report| report["event"] == "done").is_some(), "{library} did not finish");
    // One of the session, one of this scrape.
    let opened = connections(&proxy) - opened;
    assert!((1.5..2.5).contains(&opened), "{opened} connections for one session and one scrape");
}

/// Runs curl; returns what it wrote on stdout.
#[track_caller]
fn curl(arguments: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let curl = program("curl")?;
    let mut child = Command::new(curl)
        .args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "60", "--globoff"])
        .args(arguments)
        .env_remove("http_proxy")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("curl");
    let mut stdin = child.stdin.take().expect("stdin");
    let input = input.to_owned();
    let feeding = std::thread::spawn(move || stdin.write_all(&input));
    let done = child.wait_with_output().expect("curl ends");
    // A refused upload is not read to its end.
    let _maybe_not_all = feeding.join().expect("the input of curl");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "curl {arguments:?}: {} {said}", done.status);
    Some(done.stdout)
}

#[track_caller]
fn text(output: Vec<u8>) -> String {
    String::from_utf8(output).expect("text")
}

const STATUS: [&str; 4] = ["--output", "/dev/null", "--write-out", "%{http_code}"];

#[track_caller]
fn conversation_with_curl(store: Store, driver: Driver) {
    if program("curl").is_none() {
        return;
    }
    let Some(running) = store.start() else {
        return;
    };
    let proxy = before(driver, &running);
    let directory = Scratch::new();
    let local = directory.path().join("local");
    let local = local.to_str().expect("a path in UTF-8");
    let url = |name: &str| format!("http://{}/files/{name}", proxy.address());
    let call = |arguments: &[&str], input: &[u8]| curl(arguments, input).expect("curl");
    let status =
        |arguments: &[&str], input: &[u8]| text(call(&[&STATUS[..], arguments].concat(), input));
    // 3 MB are more than curl sends before it has asked: Expect: 100-continue.
    for size in [0, 1, 16_385, 65_537, 3_000_000] {
        let content = Stream::new(seed()).take(size);
        fs::write(local, &content).expect("a file");
        let by_length = url(&format!("length-{size}"));
        let put = status(&["--upload-file", local, &by_length], b"");
        assert!(["200", "201", "204"].contains(&put.as_str()), "{put}");
        assert!(call(&[&by_length], b"") == content, "{size} bytes by length");
        assert!(call(&["--http1.0", &by_length], b"") == content, "{size} bytes to HTTP/1.0");
        assert!(call(&["--compressed", &by_length], b"") == content, "{size} bytes, compressed");
        let in_chunks = url(&format!("chunks-{size}"));
        let put = status(&["--upload-file", "-", &in_chunks], &content);
        assert!(["200", "201", "204"].contains(&put.as_str()), "{put}");
        assert!(call(&[&in_chunks], b"") == content, "{size} bytes in chunks");
        let head = text(call(&["--head", &in_chunks], b""));
        let length = format!("content-length: {size}\r\n");
        assert!(head.to_ascii_lowercase().contains(&length), "{head}");
    }
    assert_eq!(status(&["--request", "DELETE", &url("length-1")], b""), "204");
    assert_eq!(status(&[&url("length-1")], b""), "404");
    if store == Store::Nginx {
        let part = call(&["--range", "5-9", "--include", &url("length-16385")], b"");
        assert!(part.starts_with(b"HTTP/1.1 206 "), "{}", String::from_utf8_lossy(&part));
        assert!(part.ends_with(&Stream::new(seed()).take(10)[5..]));
    }
    // Twenty transfers over one connection.
    let many: Vec<String> = (0..20).map(|_| url("length-65537")).collect();
    let mut arguments = vec!["--write-out", "%{http_code}:%{size_download}:%{num_connects} "];
    for url in &many {
        arguments.extend(["--output", "/dev/null", url]);
    }
    let transfers = text(call(&arguments, b""));
    let (new, kept): (Vec<_>, Vec<_>) =
        transfers.split_whitespace().partition(|transfer| *transfer == "200:65537:1");
    assert_eq!(new.len(), 1, "{transfers}");
    assert_eq!(kept, ["200:65537:0"; 19], "{transfers}");
}

/// The refusal reaches a client that asks first, and one that does not.
#[track_caller]
fn curl_over_the_limit(driver: Driver) {
    let Some(store) = Store::Node.start().filter(|_| program("curl").is_some()) else {
        return;
    };
    let proxy = Setup::new(driver, &store.url).set("body_size.max", "1MB").start();
    let directory = Scratch::new();
    let local = directory.path().join("local");
    fs::write(&local, vec![b'x'; 3_000_000]).expect("a file");
    let local = local.to_str().expect("a path in UTF-8");
    let url = format!("http://{}/files/large", proxy.address());
    for more in [&[][..], &["--header", "Expect:"]] {
        let arguments = [&STATUS[..], more, &["--upload-file", local, &url]].concat();
        assert_eq!(curl(&arguments, b"").map(text).as_deref(), Some("413"));
    }
    let arguments = [&STATUS[..], &[url.as_str()]].concat();
    assert_eq!(curl(&arguments, b"").map(text).as_deref(), Some("404"), "nothing was stored");
}

/// wrk: many connections for a second, and not one error.
#[track_caller]
fn load(store: Store, driver: Driver) {
    let Some(wrk) = program("wrk") else {
        return;
    };
    let Some(store) = store.start() else {
        return;
    };
    let proxy = Setup::new(driver, &store.url).set("log.access_log", "false").start();
    let url = format!("http://{}/files/small", proxy.address());
    let put = [&STATUS[..], &["--upload-file", "-", &url]].concat();
    if curl(&put, b"small content").is_none() {
        return;
    }
    let output = Command::new(wrk)
        .args(["--threads", "1", "--connections", "32", "--duration", "1s", &url])
        .output()
        .expect("wrk");
    let report = text(output.stdout);
    assert!(output.status.success(), "{report}");
    for bad in ["Socket errors", "Non-2xx"] {
        assert!(!report.contains(bad), "{report}");
    }
    let labels = [("method", "GET"), ("status_code", "200")];
    let served = proxy.scrape().value("vibewarden_requests_total", &labels);
    let told = report.lines().find_map(|line| line.trim().split_once(" requests in "));
    let told: f64 = told.and_then(|(count, _)| count.parse().ok()).expect("a count of requests");
    // Each of its connections may have been cut in one request when the second was over.
    assert!(told > 32.0 && (told..=told + 33.0).contains(&served), "{served} served, {report}");
    assert_eq!(proxy.get("/_vibewarden/health").0.status(), 200);
}

macro_rules! tests {
    ($($name:ident: $test:expr;)*) => {$(
        #[test]
        fn $name() {
            $test;
        }
    )*};
}

tests! {
    requests_to_node: python_session("requests", Store::Node, Driver::IoUring);
    requests_to_http_server: python_session("requests", Store::HttpServer, Driver::Epoll);
    requests_to_uvicorn: python_session("requests", Store::Uvicorn, Driver::IoUring);
    requests_to_nginx: python_session("requests", Store::Nginx, Driver::Epoll);
    httpx_to_node: python_session("httpx", Store::Node, Driver::Epoll);
    httpx_to_http_server: python_session("httpx", Store::HttpServer, Driver::IoUring);
    httpx_to_uvicorn: python_session("httpx", Store::Uvicorn, Driver::Epoll);
    httpx_to_nginx: python_session("httpx", Store::Nginx, Driver::IoUring);
    curl_to_node_on_io_uring: conversation_with_curl(Store::Node, Driver::IoUring);
    curl_to_node_on_epoll: conversation_with_curl(Store::Node, Driver::Epoll);
    curl_to_http_server: conversation_with_curl(Store::HttpServer, Driver::IoUring);
    curl_to_uvicorn: conversation_with_curl(Store::Uvicorn, Driver::Epoll);
    curl_to_nginx_on_io_uring: conversation_with_curl(Store::Nginx, Driver::IoUring);
    curl_to_nginx_on_epoll: conversation_with_curl(Store::Nginx, Driver::Epoll);
    curl_over_the_limit_on_io_uring: curl_over_the_limit(Driver::IoUring);
    curl_over_the_limit_on_epoll: curl_over_the_limit(Driver::Epoll);
    wrk_to_node_on_io_uring: load(Store::Node, Driver::IoUring);
    wrk_to_node_on_epoll: load(Store::Node, Driver::Epoll);
    wrk_to_nginx_on_io_uring: load(Store::Nginx, Driver::IoUring);
    wrk_to_nginx_on_epoll: load(Store::Nginx, Driver::Epoll);
}
