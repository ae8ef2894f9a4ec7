//! The running proxy, seen from outside.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::Signal;
use rustls::{ClientConfig, SupportedProtocolVersion};

use super::event::Event;
use super::http::{Answer, Head};
use super::json::Json;
use super::peer::{Peer, wait_until_consumed};
use super::process::Process;
use super::scrape::Scrape;
use super::setup::{Scratch, Setup};
use super::tls;
use super::upstream::{Conn, Upstream};
use super::wait::eventually;
use super::{ANSWER_101, HANDSHAKE};

/// A proxy that listens. Killed when dropped; tells everything it knows when the test fails.
pub(crate) struct Proxy {
    pub(crate) process: Process,
    listen: SocketAddr,
    config_path: PathBuf,
    directory: Scratch,
    /// What its clients are, where they come over TLS.
    tls: Option<Arc<ClientConfig>>,
}

/// What a stopped proxy leaves.
pub(crate) struct Stopped {
    pub(crate) code: Option<i32>,
    pub(crate) events: Vec<Event>,
    pub(crate) log: String,
}

impl Stopped {
    pub(crate) fn of_kind(&self, kind: &str) -> Vec<&Event> {
        self.events.iter().filter(|event| event.is(kind)).collect()
    }

    /// The only event of a kind.
    #[track_caller]
    pub(crate) fn only(&self, kind: &str) -> &Event {
        let all = self.of_kind(kind);
        assert_eq!(all.len(), 1, "{kind}: {all:#?}");
        all[0]
    }
}

impl Proxy {
    /// Waits for `proxy.started`.
    #[track_caller]
    pub(crate) fn started(
        mut process: Process,
        directory: Scratch,
        config_path: &Path,
        clients: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let started = process.out.wait(0, |line| {
            let event = Event::parse(line);
            event.is("proxy.started").then_some(event)
        });
        let Some(started) = started else {
            let exit = process.has_exited();
            let (out, err) = (process.out.text(), process.err.text());
            panic!("the proxy did not start; exit: {exit:?}\nstdout:\n{out}\nstderr:\n{err}");
        };
        let listen = started.text("payload.listen");
        Self {
            listen: listen.parse().unwrap_or_else(|_| panic!("listen is {listen:?}")),
            process,
            config_path: config_path.to_owned(),
            directory,
            tls: (started.json.at("payload.tls_enabled") == Some(&Json::Bool(true)))
                .then(|| Arc::new(tls::client(clients))),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listen
    }

    pub(crate) fn config_path(&self) -> &Path {
        &self.config_path
    }

    /// Every client that it gets from now on is this one.
    pub(crate) fn with_clients(mut self, client: ClientConfig) -> Self {
        self.tls = Some(Arc::new(client));
        self
    }

    /// A connection as its clients make it: with TLS where the proxy speaks it.
    #[track_caller]
    pub(crate) fn connect(&self) -> Peer {
        self.connect_with_receive_buffer(None)
    }

    #[track_caller]
    pub(crate) fn connect_with_receive_buffer(&self, bytes: Option<usize>) -> Peer {
        let peer = Peer::connect_with_receive_buffer(self.listen, bytes);
        match &self.tls {
            None => peer,
            Some(client) => peer.secure(Arc::clone(client)),
        }
    }

    /// A connection without TLS, whatever the proxy speaks.
    #[track_caller]
    pub(crate) fn connect_bare(&self) -> Peer {
        Peer::connect(self.listen)
    }

    /// Sends bytes on a connection of their own.
    #[track_caller]
    pub(crate) fn sent(&self, bytes: &[u8]) -> Peer {
        let mut client = self.connect();
        client.send(bytes);
        client
    }

    /// Sends a request on a connection of its own and reads until the connection ends.
    #[track_caller]
    pub(crate) fn answer_to(&self, request: &[u8]) -> Answer {
        self.sent(request).read_answer()
    }

    /// Opens a tunnel; both ends stand right behind the heads.
    #[track_caller]
    pub(crate) fn tunnel(&self, upstream: &Upstream) -> (Peer, Conn) {
        let mut client = self.sent(HANDSHAKE);
        let mut conn = upstream.accept();
        conn.read_head();
        conn.send(ANSWER_101);
        client.open();
        (client, conn)
    }

    /// Opens a tunnel whose upstream end is read by the test alone.
    #[track_caller]
    pub(crate) fn unrecorded_tunnel(&self, upstream: &Upstream) -> (Peer, Peer) {
        let mut client = self.sent(HANDSHAKE);
        let mut far = upstream.accept_unrecorded();
        far.read_head();
        far.send(ANSWER_101);
        client.open();
        (client, far)
    }

    /// `GET` on one of the proxy's own endpoints.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> (Head, String) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: t.test\r\nConnection: close\r\n\r\n");
        let answer = self.answer_to(request.as_bytes());
        let body = String::from_utf8(answer.body).expect("text");
        (answer.head, body)
    }

    #[track_caller]
    pub(crate) fn scrape(&self) -> Scrape {
        let (head, body) = self.get("/_vibewarden/metrics");
        assert_eq!(head.status(), 200);
        Scrape::parse(&body)
    }

    /// Waits until a metric has a value.
    #[track_caller]
    pub(crate) fn wait_metric(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        eventually(&format!("{name} {labels:?} = {value}"), || {
            let seen = self.scrape().value(name, labels);
            ((seen - value).abs() < 0.5).then_some(())
        });
    }

    /// Waits until the proxy has read everything that this client has sent.
    #[track_caller]
    pub(crate) fn wait_consumed(&self, client: &Peer) {
        wait_until_consumed(self.listen, client.local());
    }

    /// Sends `bytes` in pieces that end at `points`; each piece is read by the proxy before the next one leaves.
    #[track_caller]
    pub(crate) fn send_split(&self, client: &mut Peer, bytes: &[u8], points: &[usize]) {
        let mut from = 0;
        for &point in points {
            client.send(&bytes[from..point]);
            self.wait_consumed(client);
            from = point;
        }
        client.send(&bytes[from..]);
    }

    /// Every event so far.
    #[track_caller]
    pub(crate) fn events(&self) -> Vec<Event> {
        let lines = self.process.out.all();
        lines.iter().map(|line| Event::parse(line)).collect()
    }

    /// Waits for an event that `accept` accepts.
    #[track_caller]
    pub(crate) fn wait_event(&self, what: &str, accept: impl FnMut(&Event) -> bool) -> Event {
        self.wait_event_after(0, what, accept)
    }

    /// How many event lines there are.
    pub(crate) fn event_count(&self) -> usize {
        self.process.out.all().len()
    }

    /// Waits for an event among the lines from `from` on.
    #[track_caller]
    pub(crate) fn wait_event_after(
        &self,
        from: usize,
        what: &str,
        mut accept: impl FnMut(&Event) -> bool,
    ) -> Event {
        let found = self.process.out.wait(from, |line| {
            let event = Event::parse(line);
            accept(&event).then_some(event)
        });
        found.unwrap_or_else(|| panic!("no event: {what}"))
    }

    /// Waits for `websocket.closed` of a request.
    #[track_caller]
    pub(crate) fn wait_closed(&self, request_id: &str) -> Event {
        self.wait_event(&format!("websocket.closed of {request_id}"), |event| {
            event.is("websocket.closed") && event.request_id() == request_id
        })
    }

    /// Waits for a line of the operator log.
    #[track_caller]
    pub(crate) fn wait_log(&self, from: usize, part: &str) -> String {
        let found =
            self.process.err.wait(from, |line| line.contains(part).then(|| line.to_owned()));
        found.unwrap_or_else(|| panic!("no log line with {part:?}"))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Puts another configuration in the place of the file, by renaming a complete file over it.
    pub(crate) fn replace_config(&self, setup: &Setup) {
        let next = self.directory.path().join("next.yaml");
        std::fs::write(&next, setup.yaml()).expect("the next configuration");
        std::fs::rename(&next, &self.config_path).expect("rename");
    }

    /// Stops the proxy in an orderly way; open tunnels are drained first.
    #[track_caller]
    pub(crate) fn stop(&mut self) -> Stopped {
        self.signal(Signal::TERM);
        let stopped = self.wait_stopped();
        assert_eq!(stopped.code, Some(0), "exit code after SIGTERM");
        stopped
    }

    /// Waits for the exit.
    #[track_caller]
    pub(crate) fn wait_stopped(&mut self) -> Stopped {
        let code = self.process.wait_exit();
        Stopped { code, events: self.events(), log: self.process.err.text() }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Where a FIFO stands instead of a file, reading it would wait for ever.
            let config = Some(&self.config_path)
                .filter(|path| path.is_file())
                .and_then(|path| std::fs::read_to_string(path).ok())
                .unwrap_or_default();
            let exit = self.process.has_exited();
            let events = last_lines(&self.process.out.all());
            let log = last_lines(&self.process.err.all());
            eprintln!(
                "--- seed {} exit {exit:?}\n--- configuration\n{config}--- events\n{events}--- stderr\n{log}",
                super::payload::seed()
            );
        }
    }
}

fn last_lines(lines: &[String]) -> String {
    lines[lines.len().saturating_sub(60)..].concat()
}
