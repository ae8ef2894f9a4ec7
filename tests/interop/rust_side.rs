//! The same application and the same client with tokio-tungstenite, each on a thread of this test.

use std::collections::BTreeMap;
use std::io::{PipeWriter, Write};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use sha1::{Digest, Sha1};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async, client_async};

use super::foreign::Place;
use super::reports::Reports;

/// No wait in these programs is longer than this.
const PATIENCE: Duration = Duration::from_mins(1);
const BLOCK_BYTES: usize = 256 * 1024;
const SMALL_MESSAGES: u32 = 10_000;
const REQUEST_FIELDS: [&str; 7] = [
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-protocol",
    "sec-websocket-extensions",
    "authorization",
    "cookie",
    "origin",
];
const RESPONSE_FIELDS: [&str; 4] =
    ["sec-websocket-accept", "sec-websocket-protocol", "sec-websocket-extensions", "x-application"];

/// Where a program reports to.
#[derive(Clone)]
struct Teller(Arc<Mutex<PipeWriter>>);

impl Teller {
    fn new() -> (Self, Reports) {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        (Self(Arc::new(Mutex::new(writer))), Reports::follow(reader))
    }

    fn say(&self, report: &Value) {
        writeln!(self.0.lock().expect("a pipe"), "{report}").expect("the test reads");
    }
}

/// The fields that must arrive as they were sent; repeated lines stay apart.
fn picked(fields: &HeaderMap, names: &[&str]) -> Value {
    let mut picked: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for name in names {
        for value in fields.get_all(*name) {
            let text = value.to_str().expect("a value in ASCII");
            picked.entry(name).or_default().push(text);
        }
    }
    json!(picked)
}

fn sha1_text(digest: Sha1) -> String {
    format!("{:x}", digest.finalize())
}

type Socket<S> = WebSocketStream<S>;

async fn send_stream<S: AsyncRead + AsyncWrite + Unpin>(
    sink: &mut SplitSink<Socket<S>, Message>,
    bytes: usize,
    seed: u64,
) {
    let mut block = vec![0; BLOCK_BYTES];
    fastrand::Rng::with_seed(seed).fill(&mut block);
    let mut digest = Sha1::new();
    for number in 0..bytes / BLOCK_BYTES {
        block[..8].copy_from_slice(&number.to_be_bytes());
        digest.update(&block);
        sink.send(Message::binary(block.clone())).await.expect("send");
    }
    sink.send(Message::text(sha1_text(digest))).await.expect("send");
}

async fn receive_stream<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut SplitStream<Socket<S>>,
) -> (usize, bool) {
    let (mut digest, mut bytes) = (Sha1::new(), 0);
    while let Some(message) = stream.next().await {
        match message.expect("receive") {
            Message::Binary(block) => {
                digest.update(&block);
                bytes += block.len();
            }
            Message::Text(hash) => return (bytes, hash.as_str() == sha1_text(digest)),
            _ => {}
        }
    }
    (bytes, false)
}

/// Sends random bytes and their hash, and compares what comes back with the hash that comes with it.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    socket: Socket<S>,
    bytes: usize,
    seed: u64,
    teller: &Teller,
) -> (Socket<S>, bool) {
    let (mut sink, mut stream) = socket.split();
    let ((), (count, equal)) =
        tokio::join!(send_stream(&mut sink, bytes, seed), receive_stream(&mut stream));
    teller.say(&json!({"event": "received", "bytes": count, "equal": equal}));
    let socket = sink.reunite(stream).expect("halves of one socket");
    (socket, equal && count == bytes)
}

/// A running application; stopped when dropped.
pub(crate) struct Running {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        // A fault of the application shows in what the client sees.
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Starts the application; it reports `listening` when it does.
pub(crate) fn application(place: Place<'_>) -> (Running, Reports) {
    let (teller, reports) = Teller::new();
    let (stop, stopped) = oneshot::channel();
    let path = match place {
        Place::Tcp => None,
        Place::Unix(path) => Some(path.to_owned()),
    };
    let thread = std::thread::spawn(move || {
        runtime().block_on(async move {
            let accepting = async {
                if let Some(path) = path {
                    let listener = UnixListener::bind(path).expect("bind");
                    accept_unix(listener, teller).await;
                } else {
                    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
                    accept_tcp(listener, teller).await;
                }
            };
            tokio::select! { () = accepting => {}, _ = stopped => {} }
        });
    });
    let running = Running { stop: Some(stop), thread: Some(thread) };
    (running, reports)
}

async fn accept_tcp(listener: TcpListener, teller: Teller) {
    let port = listener.local_addr().expect("an address").port();
    teller.say(&json!({"event": "listening", "port": port}));
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).expect("no delay");
        tokio::spawn(session(stream, teller.clone()));
    }
}

async fn accept_unix(listener: UnixListener, teller: Teller) {
    teller.say(&json!({"event": "listening", "port": null}));
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(session(stream, teller.clone()));
    }
}

async fn session<S: AsyncRead + AsyncWrite + Unpin>(stream: S, teller: Teller) {
    let mut path = String::new();
    #[expect(clippy::result_large_err, reason = "the library fixes the type of the callback")]
    let choose = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        let fields = response.headers_mut();
        fields.insert("X-Application", HeaderValue::from_static("rust"));
        fields.insert("Sec-WebSocket-Protocol", HeaderValue::from_static("chat.v2"));
        path = request.uri().to_string();
        teller.say(&json!({
            "event": "opened",
            "path": path,
            "request": picked(request.headers(), &REQUEST_FIELDS),
            "response": picked(response.headers(), &RESPONSE_FIELDS),
        }));
        Ok(response)
    };
    let mut socket = accept_hdr_async(stream, choose).await.expect("a handshake");
    let (room, query) = path.split_once('?').unwrap_or((&path, ""));
    let value = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find_map(|(key, value)| (key == name).then_some(value))
    };
    match room {
        "/close" => {
            let frame = CloseFrame {
                code: value("code")
                    .and_then(|code| code.parse::<u16>().ok())
                    .unwrap_or(1011)
                    .into(),
                reason: decoded(value("reason").unwrap_or_default()).into(),
            };
            let _first = socket.next().await;
            socket.close(Some(frame)).await.expect("close");
        }
        "/ping" => socket.send(Message::Ping("from the application".into())).await.expect("ping"),
        "/both" => {
            let bytes = value("bytes").and_then(|bytes| bytes.parse().ok()).expect("a size");
            let equal;
            (socket, equal) = exchange(socket, bytes, 2, &teller).await;
            if equal {
                socket.send(Message::text("equal")).await.expect("send");
            }
        }
        _ => {}
    }
    let (code, reason) = answer_until_closed(&mut socket, room == "/ping").await;
    teller.say(&json!({"event": "closed", "path": path, "code": code, "reason": reason}));
}

/// Echoes, or says to every message whether the ping has been answered; returns how the session was closed.
async fn answer_until_closed<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut Socket<S>,
    asked_for_pong: bool,
) -> (u16, String) {
    let mut status = (1006, String::new());
    let mut answer = "open";
    while let Some(Ok(message)) = socket.next().await {
        match message {
            Message::Close(Some(frame)) => status = (frame.code.into(), frame.reason.to_string()),
            Message::Close(None) => status = (1005, String::new()),
            Message::Pong(payload) if payload == "from the application" => answer = "answered",
            message if !message.is_text() && !message.is_binary() => {}
            _ if asked_for_pong => socket.send(Message::text(answer)).await.expect("send"),
            message => socket.send(message).await.expect("send"),
        }
    }
    status
}

/// Resolves `%xx` (RFC 3986 section 2.1).
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|code| std::str::from_utf8(code).ok());
        let byte = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        (bytes, rest) = match (first, byte) {
            (b'%', Some(byte)) => ([bytes, vec![byte]].concat(), &after[2..]),
            _ => ([bytes, vec![first]].concat(), after),
        };
    }
    String::from_utf8(bytes).expect("a reason in UTF-8")
}

const CLOSES: [(u16, &str, &str); 6] = [
    (1000, "", ""),
    (1001, "going away", "going%20away"),
    (1008, "against the rules: ünïcödé", "against%20the%20rules%3A%20%C3%BCn%C3%AFc%C3%B6d%C3%A9"),
    (1011, "fault", "fault"),
    (3000, "registered", "registered"),
    (4999, "own", "own"),
];

/// Runs a client to its end.
#[track_caller]
pub(crate) fn client(url: &str, script: &str, bytes: usize) -> Reports {
    let (teller, reports) = Teller::new();
    let client = Client { url: url.to_owned(), teller };
    let script = async {
        match script {
            "conversation" => client.conversation(bytes).await,
            _ => client.both(bytes).await,
        }
    };
    let finished = runtime().block_on(async { tokio::time::timeout(PATIENCE, script).await });
    finished.expect("the client must finish in time");
    reports
}

struct Client {
    url: String,
    teller: Teller,
}

impl Client {
    async fn session(&self, path: &str) -> Socket<TcpStream> {
        let mut request = format!("{}{path}", self.url).into_client_request().expect("a URL");
        let fields = request.headers_mut();
        for (name, value) in [
            ("Authorization", "Bearer a.b-c"),
            ("Cookie", "one=1; two=2"),
            ("Origin", "http://other.test"),
            ("Sec-WebSocket-Protocol", "chat.v1, chat.v2"),
        ] {
            fields.insert(name, HeaderValue::from_static(value));
        }
        let sent = picked(fields, &REQUEST_FIELDS);
        let authority = self.url.strip_prefix("ws://").expect("a URL");
        let stream = TcpStream::connect(authority).await.expect("connect");
        stream.set_nodelay(true).expect("no delay");
        let (socket, response) = client_async(request, stream).await.expect("a handshake");
        let report = json!({
            "event": "opened",
            "path": path,
            "request": sent,
            "response": picked(response.headers(), &RESPONSE_FIELDS),
        });
        self.teller.say(&report);
        socket
    }

    async fn conversation(&self, bytes: usize) {
        self.echo().await;
        self.compressible().await;
        self.small().await;
        self.closes().await;
        self.ping().await;
        self.both(bytes).await;
        let mut socket = self.session("/echo?n=abrupt").await;
        assert_eq!(echoed(&mut socket, Message::text("x")).await, Message::text("x"));
        drop(socket);
    }

    async fn echo(&self) {
        let mut socket = self.session("/echo?n=1").await;
        let long = "x".repeat(70_000);
        for text in ["", "hello", "ünïcödé ✓", &long] {
            assert_eq!(echoed(&mut socket, Message::text(text)).await, Message::text(text));
        }
        let mut random = fastrand::Rng::with_seed(1);
        for size in [0, 1, 125, 126, 65_535, 65_536, 1_048_576] {
            let mut bytes = vec![0; size];
            random.fill(&mut bytes);
            let message = Message::binary(bytes);
            assert!(echoed(&mut socket, message.clone()).await == message, "{size} bytes changed");
        }
        let pong = echoed(&mut socket, Message::Ping("from the client".into())).await;
        assert_eq!(pong, Message::Pong("from the client".into()));
        finish(&mut socket, Some((1000, "done"))).await;
    }

    async fn compressible(&self) {
        let mut socket = self.session("/compressible").await;
        let zeros = Message::binary(vec![0; 1_048_576]);
        assert!(echoed(&mut socket, zeros.clone()).await == zeros, "zeros changed");
        finish(&mut socket, Some((1000, ""))).await;
    }

    async fn small(&self) {
        let (mut sink, mut stream) = self.session("/echo?n=small").await.split();
        let send = async {
            for number in 0..SMALL_MESSAGES {
                sink.send(Message::text(number.to_string())).await.expect("send");
            }
        };
        let receive = async {
            for number in 0..SMALL_MESSAGES {
                let message = stream.next().await.expect("an echo").expect("an echo");
                assert_eq!(message, Message::text(number.to_string()));
            }
        };
        tokio::join!(send, receive);
        finish(&mut sink.reunite(stream).expect("halves of one socket"), Some((1000, ""))).await;
    }

    async fn closes(&self) {
        for (code, reason, encoded) in CLOSES {
            let path = format!("/echo?code={code}&reason={encoded}");
            let answer = finish(&mut self.session(&path).await, Some((code, reason))).await;
            assert_eq!(answer, (code, reason.to_owned()));
            self.teller
                .say(&json!({"event": "closed", "path": path, "code": code, "reason": reason}));

            let mut socket = self.session(&format!("/close?code={code}&reason={encoded}")).await;
            let close = echoed(&mut socket, Message::text("now")).await;
            assert_eq!(status(&close), Some((code, reason.to_owned())));
        }
        // A close frame without a status is 1005 to the one who receives it.
        finish(&mut self.session("/echo?code=none").await, None).await;
        self.teller.say(
            &json!({"event": "closed", "path": "/echo?code=none", "code": 1005, "reason": ""}),
        );
    }

    async fn ping(&self) {
        let mut socket = self.session("/ping").await;
        let ping = socket.next().await.expect("a ping").expect("a ping");
        assert_eq!(ping, Message::Ping("from the application".into()));
        // The library sends the pong with the first question or behind it, in any case before the second one.
        let _first = echoed(&mut socket, Message::text("?")).await;
        let second = echoed(&mut socket, Message::text("?")).await;
        assert_eq!(second, Message::text("answered"));
        finish(&mut socket, Some((1000, ""))).await;
    }

    async fn both(&self, bytes: usize) {
        let socket = self.session(&format!("/both?bytes={bytes}")).await;
        let (mut socket, equal) = exchange(socket, bytes, 1, &self.teller).await;
        assert!(equal, "the streams differ");
        let verdict = socket.next().await.expect("a verdict").expect("a verdict");
        assert_eq!(verdict, Message::text("equal"));
        finish(&mut socket, Some((1000, ""))).await;
    }
}

/// Sends a message; returns the next one.
async fn echoed(socket: &mut Socket<TcpStream>, message: Message) -> Message {
    socket.send(message).await.expect("send");
    socket.next().await.expect("a message").expect("a message")
}

fn status(message: &Message) -> Option<(u16, String)> {
    match message {
        Message::Close(Some(frame)) => Some((frame.code.into(), frame.reason.to_string())),
        _ => None,
    }
}

/// Closes and waits for the end of the connection; returns the status of the answer.
async fn finish(socket: &mut Socket<TcpStream>, code: Option<(u16, &str)>) -> (u16, String) {
    let frame = code.map(|(code, reason)| CloseFrame { code: code.into(), reason: reason.into() });
    socket.close(frame).await.expect("close");
    let mut answer = (1006, String::new());
    loop {
        match socket.next().await {
            Some(Ok(message)) => answer = status(&message).unwrap_or((1005, String::new())),
            None | Some(Err(Error::ConnectionClosed)) => return answer,
            Some(Err(error)) => panic!("while closing: {error}"),
        }
    }
}
