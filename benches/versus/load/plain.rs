//! Plain HTTP/1.1 (RFC 9112) on both ends of connections that stay open. The client asks, takes the whole answer, checks it and asks again;
//! the application answers with as much of the pattern as the path asks for, from where it asks, so that of the answers under way no two
//! are the same and one that goes to the wrong client shows.

use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, sockopt};

use super::Load;
use super::end::{HEAD_BYTES_MAX, Next, Role, receive, send_all};
use super::head;
use super::pattern::Pattern;
use crate::failure::{Doing as _, Failure};

/// Where requests for plain answers go; the wanted length follows, then [`FROM`] and the offset in the pattern.
const PATH: &str = "/bytes/";
const FROM: &str = "?from=";
/// Of a long answer this much is read with its head and this much at its end, and compared, also while the middle is only counted.
const EDGE_BYTES: usize = 4 * 1024;
/// Of a long answer this much goes out with its head.
const FIRST_BYTES: u64 = 16 * 1024;
/// Answers of this many clients differ from each other, and from those that each client got shortly before.
const CLIENTS_MAX: u64 = 256;

/// What a failure calls the client's end.
const KIND: &str = "a connection of plain requests";

/// The client's end of a connection, and its request under way.
pub(super) struct Client {
    slot: u64,
    /// Length of each answer's content.
    answer_bytes: u64,
    /// Requests sent.
    number: u64,
    /// What has come of the answer's head.
    head: Vec<u8>,
    /// What has come of its content, once the head is complete.
    body_bytes: Option<u64>,
    /// The answer is not complete yet.
    waiting: bool,
    sent_at: Instant,
}

impl Client {
    fn new(slot: usize, answer_bytes: u64) -> Self {
        Self {
            slot: slot as u64,
            answer_bytes,
            number: 0,
            head: Vec::new(),
            body_bytes: None,
            waiting: false,
            sent_at: Instant::now(),
        }
    }

    /// Offset in the pattern from which the content must come.
    fn from(&self) -> u64 {
        self.number * CLIENTS_MAX + self.slot % CLIENTS_MAX
    }

    /// Sends the next request.
    fn begin(&mut self, socket: &OwnedFd) -> Result<(), Failure> {
        self.number += 1;
        self.head.clear();
        self.body_bytes = None;
        self.waiting = true;
        self.sent_at = Instant::now();
        send_all(socket, request(self.answer_bytes, self.from()).as_bytes(), "send of a request")
    }

    /// How much to read next and how; `RecvFlags::TRUNC` lets the kernel drop what lies between the compared edges.
    fn next_read(&self, verify: bool, room: usize) -> (usize, RecvFlags) {
        if verify {
            return (room, RecvFlags::empty());
        }
        let Some(taken) = self.body_bytes else {
            return (EDGE_BYTES, RecvFlags::empty());
        };
        let left = usize::try_from(self.answer_bytes - taken).unwrap_or(usize::MAX);
        match left.saturating_sub(EDGE_BYTES) {
            0 => (room, RecvFlags::empty()),
            middle => (middle.min(room), RecvFlags::TRUNC),
        }
    }

    /// Takes bytes that were read and compares what is content; how many these were.
    fn take(&mut self, received: &[u8], pattern: &Pattern) -> Result<u64, Failure> {
        if !self.waiting {
            return Err(Failure::Corrupt { kind: KIND, at: self.answer_bytes });
        }
        let Some(taken) = self.body_bytes else {
            return self.take_head(received, pattern);
        };
        self.compare(taken, received, pattern)
    }

    fn take_head(&mut self, received: &[u8], pattern: &Pattern) -> Result<u64, Failure> {
        self.head.extend_from_slice(received);
        let Some(end) = head::end(&self.head) else {
            return if self.head.len() > HEAD_BYTES_MAX { Err(no_200(&self.head)) } else { Ok(0) };
        };
        if !answered(&self.head[..end], self.answer_bytes) {
            return Err(no_200(&self.head));
        }
        let head = std::mem::take(&mut self.head);
        let compared = self.compare(0, &head[end..], pattern);
        self.head = head;
        compared
    }

    /// Compares content at `taken` with the pattern; there must be no more of it than was announced.
    fn compare(&mut self, taken: u64, content: &[u8], pattern: &Pattern) -> Result<u64, Failure> {
        let bytes = content.len() as u64;
        if taken + bytes > self.answer_bytes {
            return Err(Failure::Corrupt { kind: KIND, at: self.answer_bytes });
        }
        pattern.check(KIND, self.from() + taken, content)?;
        self.advance(bytes);
        Ok(bytes)
    }

    /// Counts content, compared or dropped.
    fn advance(&mut self, bytes: u64) {
        let taken = self.body_bytes.unwrap_or(0) + bytes;
        self.body_bytes = Some(taken);
        self.waiting = taken < self.answer_bytes;
    }
}

/// The application's end of a connection, and its answer as far as it has not been sent.
pub(super) struct Answer {
    /// Head and the beginning of the content.
    first: Vec<u8>,
    first_sent_bytes: usize,
    /// Where in the pattern the rest of the content begins and ends.
    offset: u64,
    end: u64,
    /// The connection stays open.
    keeps: bool,
    /// Waits for room in the socket buffer.
    blocked: bool,
}

impl Answer {
    fn new(wanted: &Wanted, pattern: &Pattern) -> Self {
        let early = wanted.bytes.min(FIRST_BYTES);
        let mut first = answer_head(wanted).into_bytes();
        first.extend(pattern.piece(wanted.from).iter().take(usize::try_from(early).unwrap_or(0)));
        Self {
            first,
            first_sent_bytes: 0,
            offset: wanted.from + early,
            end: wanted.from + wanted.bytes,
            keeps: wanted.keeps,
            blocked: false,
        }
    }

    /// What is to be sent next; empty when all is sent.
    fn piece<'a>(&'a self, pattern: &'a Pattern) -> &'a [u8] {
        match &self.first[self.first_sent_bytes..] {
            [] => {
                let left = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX);
                let piece = pattern.piece(self.offset);
                &piece[..left.min(piece.len())]
            }
            first => first,
        }
    }

    fn advance(&mut self, sent: usize) {
        if self.first_sent_bytes < self.first.len() {
            self.first_sent_bytes += sent;
        } else {
            self.offset += sent as u64;
        }
    }
}

/// What a request asks for.
struct Wanted {
    bytes: u64,
    from: u64,
    keeps: bool,
}

impl Load {
    /// Client: connected, so the first request goes out.
    pub(super) fn begin_plain(
        &mut self,
        slot: usize,
        socket: &OwnedFd,
        answer_bytes: u64,
    ) -> Result<Next, Failure> {
        sockopt::socket_error(socket).doing("SO_ERROR")?.doing("connect to the proxy")?;
        self.watch(slot, socket, EventFlags::IN)?;
        let mut client = Client::new(slot, answer_bytes);
        client.begin(socket)?;
        self.counts.requests += 1;
        Ok(Next::Keep(Role::Client(client)))
    }

    /// Client: bytes of the answer; when it is complete, the next request.
    pub(super) fn take_answer(
        &mut self,
        socket: &OwnedFd,
        mut client: Client,
    ) -> Result<Next, Failure> {
        loop {
            let (room, flags) = client.next_read(self.orders.verify, self.scratch.len());
            let bytes = match receive(socket, &mut self.scratch[..room], flags)? {
                None => break,
                Some(0) => return Err(Failure::Ended { kind: KIND }),
                Some(bytes) => bytes,
            };
            if flags.contains(RecvFlags::TRUNC) {
                client.advance(bytes as u64);
            } else {
                self.counts.verified_bytes += client.take(&self.scratch[..bytes], &self.pattern)?;
            }
            if client.waiting {
                continue;
            }
            self.counts.answers += 1;
            if client.number == 1 {
                self.counts.opened += 1;
            }
            if self.orders.time_each {
                self.times.push(client.sent_at.elapsed());
            }
            if self.orders.ping {
                client.begin(socket)?;
                self.counts.requests += 1;
            }
            break;
        }
        Ok(Next::Keep(Role::Client(client)))
    }

    /// Application: whether this is a plain request; if so its answer begins.
    pub(super) fn answer_plain(
        &mut self,
        slot: usize,
        socket: &OwnedFd,
        head: &[u8],
        used_before: bool,
    ) -> Result<Option<Next>, Failure> {
        let Some(wanted) = wanted(head) else {
            return Ok(None);
        };
        self.counts.served += 1;
        self.counts.upstreams_used += u64::from(!used_before);
        let answer = Answer::new(&wanted, &self.pattern);
        self.send_answer(slot, socket, answer).map(Some)
    }

    /// Application: as much of the answer as the socket takes; when that is all, the connection waits for the next request.
    pub(super) fn send_answer(
        &mut self,
        slot: usize,
        socket: &OwnedFd,
        mut answer: Answer,
    ) -> Result<Next, Failure> {
        loop {
            let piece = answer.piece(&self.pattern);
            if piece.is_empty() {
                break;
            }
            match rustix::net::send(socket, piece, SendFlags::NOSIGNAL) {
                Ok(sent) => answer.advance(sent),
                Err(Errno::AGAIN) => {
                    if !answer.blocked {
                        self.watch(slot, socket, EventFlags::OUT)?;
                        answer.blocked = true;
                    }
                    return Ok(Next::Keep(Role::Answering(answer)));
                }
                Err(error) => return Err(error).doing("send of an answer"),
            }
        }
        if !answer.keeps {
            return Ok(Next::Close);
        }
        if answer.blocked {
            self.watch(slot, socket, EventFlags::IN)?;
        }
        Ok(Next::Keep(Role::Asked { head: Vec::new(), used_before: true }))
    }
}

/// A request as a browser sends it, about 460 bytes.
fn request(answer_bytes: u64, from: u64) -> String {
    format!(
        "GET {PATH}{answer_bytes}{FROM}{from} HTTP/1.1\r\n\
         Host: www.example.com\r\n\
         Connection: keep-alive\r\n\
         User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36\r\n\
         Accept: */*\r\n\
         Sec-Fetch-Site: same-origin\r\n\
         Sec-Fetch-Mode: cors\r\n\
         Sec-Fetch-Dest: empty\r\n\
         Referer: https://www.example.com/\r\n\
         Accept-Encoding: gzip, deflate, br, zstd\r\n\
         Accept-Language: en-GB,en;q=0.9\r\n\
         Cookie: theme=dark; session=4f1c2a9be07d4c55a1e86d1f0b7c93d2\r\n\r\n"
    )
}

/// The application's side: what this head asks for, if it is a plain request.
fn wanted(head: &[u8]) -> Option<Wanted> {
    let text = std::str::from_utf8(head).ok()?;
    let mut words = text.lines().next()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let (bytes, from) = target.strip_prefix(PATH)?.split_once(FROM)?;
    let closes =
        head::field(text, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    (method == "GET").then_some(Wanted {
        bytes: bytes.parse().ok()?,
        from: from.parse().ok()?,
        keeps: version == "HTTP/1.1" && !closes,
    })
}

fn answer_head(wanted: &Wanted) -> String {
    format!(
        "HTTP/1.1 200 OK\r\n\
         Date: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
         Content-Type: application/octet-stream\r\n\
         Content-Length: {bytes}\r\n\
         Cache-Control: no-store\r\n\
         ETag: \"{from}\"\r\n\
         {connection}\r\n",
        bytes = wanted.bytes,
        from = wanted.from,
        connection = if wanted.keeps { "" } else { "Connection: close\r\n" },
    )
}

/// The client's side: whether this head begins the answer it asked for, on a connection that stays open. One pass, for the load must stay
/// cheaper than the proxy.
fn answered(head: &[u8], answer_bytes: u64) -> bool {
    let mut lines = std::str::from_utf8(head).unwrap_or_default().lines();
    if !lines.next().is_some_and(|line| line.starts_with("HTTP/1.1 200 ")) {
        return false;
    }
    let mut lengths = 0;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            if value.parse() != Ok(answer_bytes) {
                return false;
            }
            lengths += 1;
        } else if name.eq_ignore_ascii_case("transfer-encoding")
            || name.eq_ignore_ascii_case("connection") && !value.eq_ignore_ascii_case("keep-alive")
        {
            return false;
        }
    }
    lengths == 1
}

fn no_200(head: &[u8]) -> Failure {
    Failure::Answer { start: String::from_utf8_lossy(&head[..head.len().min(200)]).into_owned() }
}
