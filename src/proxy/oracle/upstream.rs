//! The upstream of the oracle: reads requests as strictly as can be, keeps all that it saw, and answers as planned.

use std::cell::RefCell;
use std::rc::Rc;

use rustix::io::Errno;

use super::super::readiness::Readiness;
use super::super::stream::Socket;
use super::naive::{self, ChunkedEnd, Framing, Head};
use super::plan::Call;
use super::reply::{Reply, TUNNEL_END};
use crate::wire::oracle::plain::Plain;

/// A request as the upstream saw it.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) connection: usize,
    /// Requests before it on its connection.
    pub(super) place: usize,
    pub(super) head: Plain,
    pub(super) content: Vec<u8>,
    pub(super) trailers: Vec<(String, Vec<u8>)>,
    pub(super) is_whole: bool,
    /// What followed the 101.
    pub(super) tunnel: Option<Vec<u8>>,
}

/// What is planned, and what happened.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) calls: Vec<Call>,
    pub(super) seen: Vec<Seen>,
    /// What no upstream may ever see.
    pub(super) faults: Vec<String>,
    pub(super) connections: usize,
    pub(super) open: usize,
    /// Of them, those that wait for a request and may get one.
    pub(super) idle: usize,
}

/// The record that the upstream's connections share.
pub(super) type Shared = Rc<RefCell<Record>>;

/// Accepts for as long as the runtime lives.
pub(super) async fn serve(listener: Rc<Socket>, readiness: Rc<Readiness>, record: Shared) {
    while listener.readable().await.is_ok() {
        accept_all(&listener, &readiness, &record);
    }
}

/// Accepts whoever waits.
pub(super) fn accept_all(listener: &Socket, readiness: &Rc<Readiness>, record: &Shared) {
    while let Ok((fd, _)) = listener.try_accept() {
        let socket = Socket::adopt(fd, readiness);
        let mut shared = record.borrow_mut();
        let number = shared.connections;
        shared.connections += 1;
        shared.open += 1;
        let connection =
            Connection { socket, number, record: Rc::clone(record), bytes: Vec::new() };
        monoio::spawn(connection.serve());
    }
}

struct Connection {
    socket: Socket,
    number: usize,
    record: Shared,
    /// Received and not dealt with.
    bytes: Vec<u8>,
}

/// What comes after a request.
enum After {
    Request,
    /// The connection is good for nothing any more; not a byte may come.
    Nothing,
    /// Its content was not read: whatever comes is part of it.
    Content,
}

impl Connection {
    async fn serve(mut self) {
        let mut place = 0;
        while let Some(head_bytes) = self.head().await {
            let after = self.request(head_bytes, place).await;
            place += 1;
            match after {
                After::Request => {}
                After::Content => {
                    while self.receive().await {}
                    self.bytes.clear();
                    break;
                }
                After::Nothing => {
                    // An upstream that is done says so and waits for the proxy.
                    let _ = self.socket.try_end();
                    while self.receive().await {}
                    break;
                }
            }
        }
        if !self.bytes.is_empty() {
            self.fault(&format!("stray bytes: {}", self.bytes.escape_ascii()));
        }
        self.record.borrow_mut().open -= 1;
    }

    fn fault(&self, text: &str) {
        let text = format!("upstream connection {}: {text}", self.number);
        self.record.borrow_mut().faults.push(text);
    }

    /// False at the end.
    async fn receive(&mut self) -> bool {
        let mut piece = [0; 4096];
        loop {
            match self.socket.try_recv(&mut piece) {
                Ok(0) => return false,
                Ok(received) => {
                    self.bytes.extend_from_slice(piece.get(..received).unwrap_or_default());
                    return true;
                }
                Err(Errno::AGAIN) if self.socket.readable().await.is_ok() => {}
                Err(_) => return false,
            }
        }
    }

    async fn head(&mut self) -> Option<usize> {
        loop {
            match naive::head(&self.bytes) {
                Head::Whole(head_bytes) => return Some(head_bytes),
                Head::Broken => return None,
                Head::Unfinished => {}
            }
            let is_idle = usize::from(self.bytes.is_empty());
            self.record.borrow_mut().idle += is_idle;
            let has_more = self.receive().await;
            self.record.borrow_mut().idle -= is_idle;
            if !has_more {
                return None;
            }
        }
    }

    async fn request(&mut self, head_bytes: usize, place: usize) -> After {
        let head: Vec<u8> = self.bytes.drain(..head_bytes).collect();
        let plain = Plain::read(&head).ok().filter(|_| !head.starts_with(b"\r\n"));
        let Some((plain, framing)) = plain.and_then(|plain| {
            let framing = naive::framing(&plain)?;
            Some((plain, framing))
        }) else {
            self.fault(&format!("no clean request: {}", head.escape_ascii()));
            return After::Nothing;
        };
        let method = plain.first.split(' ').next().unwrap_or_default().to_owned();
        let key = plain.values("sec-websocket-key").first().map(|key| key.to_vec());
        let (number, reply) = {
            let mut record = self.record.borrow_mut();
            let number = record.seen.len();
            record.seen.push(Seen {
                connection: self.number,
                place,
                head: plain,
                content: Vec::new(),
                trailers: Vec::new(),
                is_whole: false,
                tunnel: None,
            });
            (number, record.calls.get(number).map_or(Reply::Drop, |call| call.reply))
        };
        for status in reply.interim() {
            let _ = self.socket.send_all(&interim(*status), None).await;
        }
        let answer = reply.write(number, &method, &key.unwrap_or_default());
        if reply == Reply::Early {
            let _ = self.socket.send_all(&answer, None).await;
            let is_whole = self.content(framing, number).await;
            if is_whole || !self.bytes.is_empty() {
                self.fault("content after an early answer");
            }
            return After::Content;
        }
        if !self.content(framing, number).await {
            return After::Content;
        }
        if reply == Reply::Drop || (reply == Reply::DropKept && place > 0) {
            return After::Nothing;
        }
        if reply != Reply::InterimWithoutEnd {
            let _ = self.socket.send_all(&answer, None).await;
        }
        if matches!(reply, Reply::Open | Reply::OpenAfterInterim) {
            while self.receive().await {}
            let tunnel = std::mem::take(&mut self.bytes);
            self.with_seen(number, |seen| seen.tunnel = Some(tunnel));
            let _ = self.socket.send_all(TUNNEL_END, None).await;
        }
        match reply {
            Reply::UntilClose | Reply::Cut => After::Nothing,
            _ if reply.keeps() => After::Request,
            // It stays open and must not be used all the same.
            _ => {
                self.receive().await;
                After::Nothing
            }
        }
    }

    fn with_seen(&self, number: usize, change: impl FnOnce(&mut Seen)) {
        if let Some(seen) = self.record.borrow_mut().seen.get_mut(number) {
            change(seen);
        }
    }

    /// Reads the content; false when it ends too early.
    async fn content(&mut self, framing: Framing, number: usize) -> bool {
        loop {
            let (content_bytes, is_whole) = match framing {
                Framing::None | Framing::UntilClose => (0, true),
                Framing::Length(length) => {
                    let there = self.bytes.len();
                    let most = usize::try_from(length).unwrap_or(usize::MAX);
                    (there.min(most), there >= most)
                }
                Framing::Chunked => {
                    let read = naive::chunked(&self.bytes);
                    let end = read.end;
                    if end == ChunkedEnd::Broken || !read.is_plain {
                        self.fault(&format!("not plain chunks: {}", self.bytes.escape_ascii()));
                    }
                    self.with_seen(number, |seen| {
                        (seen.content, seen.trailers) = (read.content, read.trailers);
                    });
                    match end {
                        ChunkedEnd::At(end) => (end, true),
                        _ => (self.bytes.len(), false),
                    }
                }
            };
            let content = self.bytes.get(..content_bytes).unwrap_or_default().to_vec();
            if framing != Framing::Chunked {
                self.with_seen(number, |seen| seen.content = content);
            }
            if is_whole {
                self.bytes.drain(..content_bytes);
                self.with_seen(number, |seen| seen.is_whole = true);
                return true;
            }
            if !self.receive().await {
                self.bytes.clear();
                return false;
            }
        }
    }
}

fn interim(status: u16) -> Vec<u8> {
    format!("HTTP/1.1 {status} Wait\r\nLink: </a>\r\n\r\n").into_bytes()
}
