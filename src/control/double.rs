//! A provider for the tests: an HTTP server that answers as it is told and remembers what it was asked.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::event::{self, EventSender, EventWriter};

/// Nothing here takes longer, however busy the machine is.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// The limit of a call that is never answered.
pub(super) const SHORT: Duration = Duration::from_millis(300);

/// What is answered to one request.
#[derive(Clone)]
pub(super) enum Reply {
    /// A status, header lines that end in CRLF, and a body with its length.
    Full(u16, &'static str, String),
    /// Nothing; the connection stays open.
    Hang,
    /// The connection closes.
    Close,
    /// A head and then a body without an end, in chunks.
    Endless,
    /// Bytes as they stand, then the connection closes.
    Raw(&'static str),
    /// The other one, after a permit.
    After(Arc<Semaphore>, Box<Self>),
}

impl Reply {
    pub(super) fn ok(body: &(impl ToString + ?Sized)) -> Self {
        Self::Full(200, "Content-Type: application/json\r\n", body.to_string())
    }

    pub(super) fn status(status: u16) -> Self {
        Self::Full(status, "", "{}".into())
    }
}

/// The running server.
pub(super) struct Double {
    pub(super) url: String,
    reply: Arc<Mutex<Reply>>,
    seen: watch::Receiver<Seen>,
}

/// What the server was asked so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub(super) connections: usize,
    /// Heads of requests.
    pub(super) requests: Vec<String>,
}

impl Double {
    pub(super) async fn start(reply: Reply) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (note, seen) = watch::channel(Seen::default());
        let (note, reply) = (Arc::new(note), Arc::new(Mutex::new(reply)));
        let replies = Arc::clone(&reply);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                note.send_modify(|seen| seen.connections += 1);
                tokio::spawn(serve(stream, Arc::clone(&replies), Arc::clone(&note)));
            }
        });
        Self { url, reply, seen }
    }

    /// What is answered from now on.
    pub(super) fn set(&self, reply: Reply) {
        *self.reply.lock().expect("no panic") = reply;
    }

    pub(super) fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Waits until so many requests were seen.
    pub(super) async fn requests(&self, count: usize) -> Vec<String> {
        let mut seen = self.seen.clone();
        let enough = seen.wait_for(|seen| seen.requests.len() >= count);
        within(enough).await.expect("the server runs").requests.clone()
    }
}

async fn serve(mut stream: TcpStream, reply: Arc<Mutex<Reply>>, note: Arc<watch::Sender<Seen>>) {
    let mut bytes = Vec::new();
    loop {
        while !bytes.ends_with(b"\r\n\r\n") {
            match stream.read_buf(&mut bytes).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        let head = String::from_utf8_lossy(&std::mem::take(&mut bytes)).into_owned();
        note.send_modify(|seen| seen.requests.push(head));
        let mut reply = reply.lock().expect("no panic").clone();
        while let Reply::After(permit, then) = reply {
            permit.acquire().await.expect("open").forget();
            reply = *then;
        }
        let text = match reply {
            Reply::Full(status, lines, body) => format!(
                "HTTP/1.1 {status} Any\r\n{lines}Content-Length: {}\r\n\r\n{body}",
                body.len()
            ),
            Reply::Raw(text) => text.into(),
            Reply::Endless => {
                let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
                let mut written = stream.write_all(head.as_bytes()).await;
                while written.is_ok() {
                    written = stream.write_all(chunk.as_bytes()).await;
                }
                return;
            }
            Reply::Hang => return std::future::pending().await,
            Reply::Close | Reply::After(..) => return,
        };
        if stream.write_all(text.as_bytes()).await.is_err() || text.contains("\r\n\r\n~") {
            return;
        }
    }
}

/// Fails instead of waiting for ever.
pub(super) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

/// An event log to look into.
pub(super) struct Log {
    pub(super) events: EventSender,
    writer: EventWriter,
    lines: Arc<Mutex<Vec<u8>>>,
}

struct Shared(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    pub(super) fn new() -> Self {
        let lines = Arc::default();
        let (events, writer) =
            event::start(Shared(Arc::clone(&lines)), Arc::default()).expect("a thread");
        Self { events, writer, lines }
    }

    /// The type and payload of every event so far.
    pub(super) fn end(self) -> Vec<(String, serde_json::Value)> {
        drop(self.events);
        self.writer.finish(PATIENCE);
        let lines = self.lines.lock().expect("no panic");
        let lines = String::from_utf8_lossy(&lines);
        let events = lines.lines().map(|line| {
            let event: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
            let kind = event["event_type"].as_str().expect("a type").to_owned();
            (kind, event["payload"].clone())
        });
        events.collect()
    }
}
