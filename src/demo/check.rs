//! The self-check: a WebSocket client library drives sessions through the proxy, and every step is told in plain words with its event lines.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{self, Runtime};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::{DemoError, Echo, EventLines, PAGE};

/// Bound on each step; everything happens on this machine, so a healthy step takes milliseconds.
const STEP_WAIT: Duration = Duration::from_secs(10);
/// The bucket of the demo is empty long before.
const ATTEMPTS_MAX: usize = 50;
const SUBPROTOCOL: &str = "demo.vibewarden";
const GREETING: &str = "hello through the proxy";
const BINARY_BYTES: u32 = 100_000;
const PING: &[u8] = b"are you there?";
const CLOSE_REASON: &str = "the demo is over";

/// Drives real WebSocket sessions through the proxy at `proxy`, which has `echo` as its upstream and knows the API key `key`,
/// and tells on `out` what happened, each step with the event lines that the proxy wrote for it.
///
/// # Errors
/// The first step that did not go as described.
pub fn self_check(
    echo: &Echo,
    proxy: SocketAddr,
    key: &str,
    events: &EventLines,
    out: &mut dyn Write,
) -> Result<(), DemoError> {
    let runtime =
        runtime::Builder::new_current_thread().enable_all().build().map_err(DemoError::Runtime)?;
    let mut check = Check { echo, key, proxy, events, out, runtime };
    check.started()?;
    check.allowed()?;
    check.page()?;
    check.denied("3. An upgrade without a key.", None)?;
    check.denied("4. An upgrade with a key that nobody knows.", Some("not-the-key"))?;
    check.rate_limited()?;
    check.say("Every step went as described.\n")
}

struct Check<'a> {
    echo: &'a Echo,
    key: &'a str,
    proxy: SocketAddr,
    events: &'a EventLines,
    out: &'a mut dyn Write,
    runtime: Runtime,
}

impl Check<'_> {
    fn started(&mut self) -> Result<(), DemoError> {
        let (proxy, echo) = (self.proxy, self.echo.addr);
        self.say(&format!(
            "The proxy listens on {proxy}. Behind it, on {echo}, an application sends every message back."
        ))?;
        self.tell_events("proxy.started")
    }

    fn allowed(&mut self) -> Result<(), DemoError> {
        self.say("1. A WebSocket session with the right API key.")?;
        let mut socket =
            self.runtime.block_on(within("the upgrade", open(self.proxy, self.key)))?;
        self.say(&format!("   Upgraded: the application behind the proxy agreed to the subprotocol \"{SUBPROTOCOL}\"."))?;
        self.tell_events("request.proxied")?;
        self.runtime.block_on(within(
            "the echo of the text",
            echo(&mut socket, Message::text(GREETING), "text"),
        ))?;
        self.say(&format!("   Sent the text \"{GREETING}\": it came back unchanged."))?;
        let binary: Vec<u8> =
            (0..BINARY_BYTES).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
        self.runtime.block_on(within(
            "the echo of the bytes",
            echo(&mut socket, Message::binary(binary), "binary message"),
        ))?;
        self.say(&format!(
            "   Sent {BINARY_BYTES} bytes as one binary message: every byte came back."
        ))?;
        self.runtime.block_on(within("the pong", ping(&mut socket)))?;
        self.say("   Sent a ping: the application's pong came back with the same payload.")?;
        self.runtime.block_on(within("the close", close(&mut socket)))?;
        drop(socket);
        self.say(&format!(
            "   Closed with code 1000 and the reason \"{CLOSE_REASON}\": both came back."
        ))?;
        self.tell_events("websocket.closed")
    }

    fn page(&mut self) -> Result<(), DemoError> {
        self.say("2. A plain request: the page of the application, through the same door.")?;
        let answer = self.runtime.block_on(within("the page", page(self.proxy)))?;
        if !answer.starts_with(b"HTTP/1.1 200 ") || !answer.ends_with(PAGE.as_bytes()) {
            return Err(DemoError::Page);
        }
        self.say(&format!("   Status 200 and all {} bytes of the page.", PAGE.len()))?;
        self.tell_events("request.proxied")
    }

    fn denied(&mut self, title: &str, key: Option<&str>) -> Result<(), DemoError> {
        self.say(title)?;
        let known = self.echo.accepted();
        let seen = self.runtime.block_on(within("the refusal", status_of(self.proxy, key)))?;
        if seen != 401 {
            return Err(DemoError::Status { expected: 401, seen });
        }
        if self.echo.accepted() != known {
            return Err(DemoError::Reached);
        }
        self.say("   Denied with status 401; the application never heard of it.")?;
        self.tell_events("auth.denied")
    }

    fn rate_limited(&mut self) -> Result<(), DemoError> {
        self.say("5. More upgrades with the right key, one after the other, until the bucket of this address is empty.")?;
        for opened in 0..ATTEMPTS_MAX {
            let known = self.echo.accepted();
            let attempt = status_of(self.proxy, Some(self.key));
            match self.runtime.block_on(within("an answer", attempt))? {
                101 => {}
                429 if self.echo.accepted() == known => {
                    self.say(&format!(
                        "   {opened} were opened, the next one was refused with status 429; the application never heard of it."
                    ))?;
                    return self.tell_events("rate_limit.blocked");
                }
                429 => return Err(DemoError::Reached),
                seen => return Err(DemoError::Status { expected: 101, seen }),
            }
        }
        Err(DemoError::Status { expected: 429, seen: 101 })
    }

    /// Writes the event lines up to the one that this step must have caused.
    fn tell_events(&mut self, event_type: &'static str) -> Result<(), DemoError> {
        let lines = self
            .events
            .take_through(event_type, STEP_WAIT)
            .ok_or(DemoError::EventMissing { event_type })?;
        for line in lines {
            self.say(&line)?;
        }
        Ok(())
    }

    fn say(&mut self, line: &str) -> Result<(), DemoError> {
        writeln!(self.out, "{line}").and_then(|()| self.out.flush()).map_err(DemoError::Output)
    }
}

async fn within<T>(
    waiting_for: &'static str,
    step: impl Future<Output = Result<T, DemoError>>,
) -> Result<T, DemoError> {
    tokio::time::timeout(STEP_WAIT, step).await.unwrap_or(Err(DemoError::Deadline { waiting_for }))
}

async fn connect(proxy: SocketAddr) -> Result<TcpStream, DemoError> {
    let stream = TcpStream::connect(proxy).await.map_err(DemoError::Connect)?;
    stream.set_nodelay(true).map_err(DemoError::Connect)?;
    Ok(stream)
}

async fn page(proxy: SocketAddr) -> Result<Vec<u8>, DemoError> {
    let mut stream = connect(proxy).await?;
    let request = format!("GET / HTTP/1.1\r\nHost: {proxy}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(DemoError::Connect)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.map_err(DemoError::Connect)?;
    Ok(answer)
}

fn upgrade_request(proxy: SocketAddr, key: Option<&str>) -> Result<Request, DemoError> {
    let mut request = format!("ws://{proxy}/ws").into_client_request().map_err(web_socket)?;
    if let Some(key) = key.and_then(|key| HeaderValue::from_str(key).ok()) {
        request.headers_mut().insert("x-api-key", key);
    }
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    Ok(request)
}

async fn open(proxy: SocketAddr, key: &str) -> Result<WebSocketStream<TcpStream>, DemoError> {
    let request = upgrade_request(proxy, Some(key))?;
    let (socket, response) = client_async(request, connect(proxy).await?).await.map_err(refusal)?;
    let agreed =
        response.headers().get(SEC_WEBSOCKET_PROTOCOL).is_some_and(|name| name == SUBPROTOCOL);
    if agreed { Ok(socket) } else { Err(DemoError::Subprotocol) }
}

/// Status of the answer to an upgrade; one that is opened is closed again.
async fn status_of(proxy: SocketAddr, key: Option<&str>) -> Result<u16, DemoError> {
    match client_async(upgrade_request(proxy, key)?, connect(proxy).await?).await {
        Ok((_, response)) => Ok(response.status().as_u16()),
        Err(tungstenite::Error::Http(response)) => Ok(response.status().as_u16()),
        Err(error) => Err(web_socket(error)),
    }
}

async fn echo(
    socket: &mut WebSocketStream<TcpStream>,
    message: Message,
    sent: &'static str,
) -> Result<(), DemoError> {
    socket.send(message.clone()).await.map_err(web_socket)?;
    match next(socket).await? {
        Some(back) if back == message => Ok(()),
        _ => Err(DemoError::Echo { sent }),
    }
}

async fn ping(socket: &mut WebSocketStream<TcpStream>) -> Result<(), DemoError> {
    socket.send(Message::Ping(PING.into())).await.map_err(web_socket)?;
    match next(socket).await? {
        Some(Message::Pong(payload)) if payload == PING => Ok(()),
        _ => Err(DemoError::Echo { sent: "ping" }),
    }
}

async fn close(socket: &mut WebSocketStream<TcpStream>) -> Result<(), DemoError> {
    let frame = CloseFrame { code: CloseCode::Normal, reason: CLOSE_REASON.into() };
    socket.send(Message::Close(Some(frame.clone()))).await.map_err(web_socket)?;
    match next(socket).await? {
        Some(Message::Close(Some(back))) if back == frame => {}
        _ => return Err(DemoError::Close),
    }
    // The server ends the connection after the closing handshake (RFC 6455 section 7.1.1).
    if next(socket).await?.is_none() { Ok(()) } else { Err(DemoError::Close) }
}

async fn next(socket: &mut WebSocketStream<TcpStream>) -> Result<Option<Message>, DemoError> {
    socket.next().await.transpose().map_err(web_socket)
}

fn refusal(error: tungstenite::Error) -> DemoError {
    match error {
        tungstenite::Error::Http(response) => {
            DemoError::Status { expected: 101, seen: response.status().as_u16() }
        }
        error => web_socket(error),
    }
}

fn web_socket(error: tungstenite::Error) -> DemoError {
    DemoError::WebSocket(Box::new(error))
}
