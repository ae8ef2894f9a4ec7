//! Headless Chromium as a client, driven through chromedriver: on the demo page, on a page of an application with its assets, and in
//! a conversation with an application.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use vibewarden::demo;

use super::conversation::bytes_show_the_compression;
use super::foreign::{Library, Place, application, available};
use super::harness::setup::Scratch;
use super::harness::{Driver, Proxy, Setup, eventually, vacant_address};
use super::reports::PATIENCE;

const STREAM_BYTES: usize = 16 * 1024 * 1024;

/// A browser with one window; closed when dropped.
pub(crate) struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    profile: Scratch,
}

/// Where a program stands in `PATH`.
pub(crate) fn installed(program: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join(program)).find(|path| path.is_file())
}

impl Browser {
    /// None where no Chromium is installed, except where it must be (`.ci/run` says so).
    pub(crate) fn start() -> Option<Self> {
        let (chromium, driver) = (installed("chromium"), installed("chromedriver"));
        let (Some(chromium), Some(driver)) = (chromium, driver) else {
            let required = std::env::var_os("VIBEWARDEN_TEST_BROWSER");
            assert!(required.is_none_or(|it| it != "required"), "no chromium with chromedriver");
            println!("skipped: no chromium with chromedriver is installed");
            return None;
        };
        let mut driver = Command::new(driver)
            // Any port is one that it finds free on ::1; it ends where the same of 127.0.0.1 is not.
            .arg(format!("--port={}", vacant_address().port()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("chromedriver");
        let port = port_of(&mut driver);
        let mut browser = Self {
            driver,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            session: String::new(),
            profile: Scratch::new(),
        };
        let profile = browser.profile.path().join("profile");
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "timeouts": {"script": PATIENCE.as_millis(), "pageLoad": PATIENCE.as_millis()},
            "goog:chromeOptions": {
                "binary": chromium,
                "args": [
                    "--ignore-certificate-errors",
                    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                    "--disable-background-networking", "--disable-component-update", "--disable-sync",
                    format!("--user-data-dir={}", profile.display()),
                ],
            },
        }}});
        let session = browser.command("POST", "/session", &capabilities);
        let id = session["sessionId"].as_str().expect("a session");
        browser.session = format!("/session/{id}");
        Some(browser)
    }

    /// Sends one command; returns its value.
    #[track_caller]
    fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.address,
            body.len()
        );
        let mut stream = TcpStream::connect(self.address).expect("chromedriver listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
        stream.write_all(request.as_bytes()).expect("a command");
        let mut answer = answer_of(stream);
        let value = answer["value"].take();
        assert!(value["error"].is_null(), "{method} {path}: {value:#}");
        value
    }

    #[track_caller]
    pub(crate) fn open(&self, url: &str) {
        let path = format!("{}/url", self.session);
        self.command("POST", &path, &json!({"url": url}));
    }

    /// Runs the body of an asynchronous function in the page.
    #[track_caller]
    pub(crate) fn run(&self, script: &str, arguments: &Value) -> Value {
        let path = format!("{}/execute/sync", self.session);
        let script = format!("return (async function () {{ {script}\n}})(...arguments);");
        self.command("POST", &path, &json!({"script": script, "args": arguments}))
    }

    /// The host of the page, on whichever port, has this cookie from now on and no other; no script can read it.
    #[track_caller]
    pub(crate) fn keep_cookie(&self, cookie: Option<(&str, &str)>) {
        let path = format!("{}/cookie", self.session);
        self.command("DELETE", &path, &json!({}));
        if let Some((name, value)) = cookie {
            let cookie = json!({"name": name, "value": value, "path": "/", "httpOnly": true});
            self.command("POST", &path, &json!({"cookie": cookie}));
        }
    }

    #[track_caller]
    fn click(&self, id: &str) {
        self.run("document.getElementById(arguments[0]).click();", &json!([id]));
    }

    /// Waits until the text of an element of the page contains `part`.
    #[track_caller]
    fn wait_text(&self, selector: &str, part: &str) {
        let script =
            "return [...document.querySelectorAll(arguments[0])].map((it) => it.textContent);";
        eventually(&format!("{selector} with {part:?}"), || {
            let texts = self.run(script, &json!([selector]));
            let mut texts = texts.as_array().expect("texts").iter();
            texts.any(|text| text.as_str().is_some_and(|text| text.contains(part))).then_some(())
        });
    }
}

/// Body of an answer; chromedriver does not close the connection behind it.
#[track_caller]
fn answer_of(stream: TcpStream) -> Value {
    let mut stream = BufReader::new(stream);
    let mut bytes = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).expect("a head");
        match line.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                bytes = value.trim().parse().expect("a length");
            }
            Some(_) => {}
            None if line.starts_with("HTTP/") => {}
            None => break,
        }
    }
    let mut body = vec![0; bytes];
    stream.read_exact(&mut body).expect("a body");
    serde_json::from_slice(&body).expect("JSON")
}

/// The port on which chromedriver listens; its output is read to the end so that it never waits for a reader.
#[track_caller]
fn port_of(driver: &mut Child) -> u16 {
    let mut lines = BufReader::new(driver.stdout.take().expect("stdout")).lines();
    let port = lines.by_ref().map_while(Result::ok).find_map(|line| {
        let (_, port) = line.split_once("started successfully on port ")?;
        port.trim_end_matches('.').parse().ok()
    });
    std::thread::spawn(move || lines.for_each(drop));
    port.expect("chromedriver says its port")
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The group is ours: chromedriver and the browser that it started.
        let group = Pid::from_child(&self.driver);
        let _already_gone = kill_process_group(group, Signal::KILL);
        let _reaped = self.driver.wait();
    }
}

#[track_caller]
fn demo_page(driver: Driver) {
    let Some(browser) = Browser::start() else {
        return;
    };
    let echo = demo::start_echo().expect("the echo application");
    let proxy = Setup::new(driver, format!("http://{}", echo.addr)).start();
    browser.open(&format!("http://{}/", proxy.address()));
    browser.wait_text("#address", &format!("ws://{}/ws", proxy.address()));
    browser.wait_text("#status[data-state=open]", "open");
    browser.wait_text("#messages .received", "hello from the browser");
    browser.run("document.getElementById('text').value = 'typed';", &json!([]));
    browser.click("send");
    browser.wait_text("#messages .received", "typed");
    browser.click("binary");
    browser.wait_text("#messages .received", "65536 bytes, equal to what was sent");
    browser.wait_text("#count", "3 sent, 3 received");
    browser.click("disconnect");
    browser.wait_text(
        "#status[data-state=closed]",
        "closed with code 1000, \"closed by the visitor\"",
    );
    proxy.wait_event("the end of the session", |event| event.is("websocket.closed"));
    browser.click("connect");
    browser.wait_text("#count", "4 sent, 4 received");
}

#[track_caller]
fn conversation(driver: Driver, library: Library) {
    if !available() {
        return;
    }
    let Some(browser) = Browser::start() else {
        return;
    };
    // Any page of 127.0.0.1 will do: hashing needs a trustworthy origin.
    let page = demo::start_echo().expect("a page");
    browser.open(&format!("http://{}/none", page.addr));
    let application = application(library, Place::Tcp);
    let proxy: Proxy = Setup::new(driver, &application.url).start();
    let scheme = if driver.tls().is_some() { "wss" } else { "ws" };
    let url = format!("{scheme}://{}", proxy.address());
    let report = browser.run(include_str!("in_browser.js"), &json!([url, STREAM_BYTES]));

    for session in report["opened"].as_array().expect("sessions") {
        let path = &session["path"];
        let seen = application
            .reports
            .wait(|report| report["event"] == "opened" && report["path"] == *path)
            .unwrap_or_else(|| panic!("the application saw no {path}"));
        assert_eq!(session["protocol"], "chat.v2", "{path}");
        let agreed = &seen["response"]["sec-websocket-extensions"];
        assert_eq!(json!([session["extensions"]]), *agreed, "{path}");
    }
    for close in report["closed"].as_array().expect("closes") {
        let path = close["path"].as_str().expect("a path");
        let (code, reason) = application.reports.closed(path);
        assert_eq!(json!([code, reason]), json!([close["code"], close["reason"]]), "{path}");
    }
    bytes_show_the_compression(&proxy, true);
}

/// The page, its assets, a PUT and a WebSocket, all through the same door.
#[track_caller]
fn page_with_assets(driver: Driver) {
    if !available() {
        return;
    }
    let Some(browser) = Browser::start() else {
        return;
    };
    let application = application(Library::Node, Place::Tcp);
    // As it is delivered: with the security headers, which must not stand in the way of a page's own assets.
    let proxy = Setup::new(driver, &application.url)
        .set("security_headers.enabled", "true")
        .set("body_size.max", "1MB")
        .start();
    let scheme = if driver.tls().is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}/page", proxy.address());
    browser.open(&url);
    browser.wait_text("#messages li", "through the same door");
    browser.wait_text("#status", "rgb(1, 2, 3) 1 201 200000");
    // Once more: the assets are asked for again by their tags.
    browser.open(&url);
    browser.wait_text("#status", "rgb(1, 2, 3) 1 201 200000");
    let seen = application.reports.of("request");
    for path in ["/page", "/assets/style.css", "/assets/script.js", "/assets/image.png"] {
        let request = seen.iter().find(|request| request["path"] == path);
        let request = request.unwrap_or_else(|| panic!("the application saw no {path}"));
        assert_eq!(request["host"], proxy.address().to_string(), "{path}");
        assert_eq!(request["via"], "1.1 vibewarden", "{path}");
    }
    let upgrade = proxy.wait_event("the WebSocket of the page", |event| {
        event.is("request.proxied") && event.text("resource.path") == "/echo"
    });
    assert_eq!(upgrade.count("payload.status_code"), 101);
    let assets = proxy.events();
    let asset = assets.iter().find(|event| event.text("resource.path") == "/assets/style.css");
    assert!(asset.is_some_and(|event| event.is("request.proxied")), "{assets:#?}");
}

#[test]
fn a_page_with_assets_on_io_uring() {
    page_with_assets(Driver::IoUring);
}

#[test]
fn a_page_with_assets_on_epoll() {
    page_with_assets(Driver::Epoll);
}

#[test]
fn the_demo_page_on_io_uring() {
    demo_page(Driver::IoUring);
}

#[test]
fn the_demo_page_on_epoll() {
    demo_page(Driver::Epoll);
}

#[test]
fn a_conversation_with_python_on_io_uring() {
    conversation(Driver::IoUring, Library::Python);
}

#[test]
fn a_conversation_with_node_on_epoll() {
    conversation(Driver::Epoll, Library::Node);
}

#[test]
fn a_conversation_with_node_over_tls() {
    conversation(Driver::IoUringTls13, Library::Node);
}

#[test]
fn a_page_with_assets_over_tls() {
    page_with_assets(Driver::EpollTls12);
}
