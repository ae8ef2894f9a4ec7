//! The upstream of the demo: every WebSocket message comes back as it was sent, and a plain `GET /` is answered with the page.

use std::io::{self, Cursor};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::sync::oneshot;
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite;
use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;

use super::PAGE;

/// Largest request head that the echo upstream reads; the proxy in front of it has its own, configured bound.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// A client that has not sent its head by then is dropped.
const HEAD_WAIT: Duration = Duration::from_secs(10);
/// After a failed accept (out of descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A running echo upstream. Dropping it closes its listener and all its connections, and waits for its thread.
#[derive(Debug)]
pub struct Echo {
    /// Where it listens, on 127.0.0.1.
    pub addr: SocketAddr,
    accepted: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Acquire)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // Both fail only when the thread is gone already, and then there is nothing left to stop.
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Starts the echo upstream on a free port of 127.0.0.1, on a thread of its own.
///
/// # Errors
/// No listener, no runtime or no thread could be had.
pub fn start_echo() -> io::Result<Echo> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let addr = listener.local_addr()?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _context = runtime.enter();
        TcpListener::from_std(listener)?
    };
    let (stop, stopped) = oneshot::channel();
    let accepted = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&accepted);
    let thread = thread::Builder::new().name("demo-echo".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                () = accept(listener, &count) => {}
                _ = stopped => {}
            }
        });
    })?;
    Ok(Echo { addr, accepted, stop: Some(stop), thread: Some(thread) })
}

async fn accept(listener: TcpListener, accepted: &AtomicU64) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                accepted.fetch_add(1, Ordering::Release);
                // A connection that fails concerns its client alone, who sees it closed.
                tokio::spawn(async move { drop(converse(stream).await) });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn converse(mut stream: TcpStream) -> Result<(), tungstenite::Error> {
    stream.set_nodelay(true)?;
    let Ok(read) = tokio::time::timeout(HEAD_WAIT, read_head(&mut stream)).await else {
        return Ok(());
    };
    let head = read?;
    if is_upgrade(&head) {
        let (reader, writer) = stream.into_split();
        let replayed = Cursor::new(head).chain(reader);
        echo(tokio::io::join(replayed, writer)).await
    } else {
        stream.write_all(&plain_answer(&head)).await?;
        stream.shutdown().await?;
        Ok(())
    }
}

/// Reads up to the end of the head, at times a little further; at the end of input or of the bound, what there is.
async fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(4096);
    while !head.windows(4).any(|window| window == b"\r\n\r\n") && head.len() < HEAD_BYTES_MAX {
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    Ok(head)
}

/// Whether the library should answer this head: it names the `Upgrade` field. The library checks the rest.
fn is_upgrade(head: &[u8]) -> bool {
    head.split(|&byte| byte == b'\n')
        .any(|line| line.len() >= 8 && line[..8].eq_ignore_ascii_case(b"upgrade:"))
}

/// Answer to a request that is not an upgrade, head and body.
pub(super) fn plain_answer(head: &[u8]) -> Vec<u8> {
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|&byte| byte == b' ');
    let method = words.next().unwrap_or_default();
    let path =
        words.next().unwrap_or_default().split(|&byte| byte == b'?').next().unwrap_or_default();
    let (status, content_type, body) = match (method, path) {
        (b"GET" | b"HEAD", b"/") => ("200 OK", "text/html; charset=utf-8", PAGE),
        _ => ("404 Not Found", "text/plain; charset=utf-8", "the demo has one page: /\n"),
    };
    let mut answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    if method != b"HEAD" {
        answer.extend_from_slice(body.as_bytes());
    }
    answer
}

async fn echo(stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), tungstenite::Error> {
    let mut socket = accept_hdr_async(stream, first_subprotocol).await?;
    while let Some(message) = socket.next().await {
        let message = message?;
        // Pings and closes are answered by the library itself.
        if message.is_text() || message.is_binary() {
            socket.send(message).await?;
        }
    }
    Ok(())
}

/// Accepts the first subprotocol that the client offers, if it offers one.
#[expect(
    clippy::result_large_err,
    clippy::unnecessary_wraps,
    reason = "the library fixes the type of the callback"
)]
fn first_subprotocol(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let offered =
        request.headers().get(SEC_WEBSOCKET_PROTOCOL).and_then(|offer| offer.to_str().ok());
    let first =
        offered.and_then(|offer| offer.split(',').next()).and_then(|name| name.trim().parse().ok());
    if let Some(name) = first {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, name);
    }
    Ok(response)
}
