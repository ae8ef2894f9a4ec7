//! Whole messages as the two ends see them: a head, a body in the framing that the head states, trailers; all read strictly.

use super::http::Head;
use super::payload::{find, show};
use super::peer::{End, Peer};
use super::upstream::Conn;

/// How the end of a body was known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// The message has no body by its status, its method or its head.
    Bodyless,
    /// `Content-Length`
    Length,
    /// `Transfer-Encoding: chunked`
    Chunked,
    /// An answer that lasts until the connection ends.
    UntilEnd,
}

/// A complete request or answer.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) head: Head,
    pub(crate) framing: Framing,
    pub(crate) body: Vec<u8>,
    /// Names as spelled and values, in order.
    pub(crate) trailers: Vec<(String, String)>,
}

impl Message {
    /// Method of a request.
    pub(crate) fn method(&self) -> &str {
        self.head.line.split(' ').next().unwrap_or_default()
    }

    /// Target of a request.
    pub(crate) fn target(&self) -> &str {
        self.head.line.split(' ').nth(1).unwrap_or_default()
    }

    pub(crate) fn status(&self) -> u16 {
        self.head.status()
    }

    /// True when the head says that the connection ends after this message.
    pub(crate) fn says_close(&self) -> bool {
        self.head
            .all("connection")
            .iter()
            .flat_map(|line| line.split(','))
            .any(|option| option.trim().eq_ignore_ascii_case("close"))
    }
}

/// Where a message is read from. An error says what stood there instead.
pub(crate) trait Source {
    /// Bytes up to and with `end`.
    fn take_through(&mut self, end: &[u8]) -> Result<Vec<u8>, String>;
    fn take_count(&mut self, count: usize) -> Result<Vec<u8>, String>;
    /// Everything until the connection ends in an orderly way.
    fn take_all(&mut self) -> Result<Vec<u8>, String>;

    /// The next request.
    fn request(&mut self) -> Result<Message, String> {
        let head = Head::parse(&self.take_through(b"\r\n\r\n")?);
        self.body(head, Framing::Bodyless)
    }

    /// The next answer, interim answers included; `to_head`: to a HEAD request.
    fn answer(&mut self, to_head: bool) -> Result<Message, String> {
        let head = Head::parse(&self.take_through(b"\r\n\r\n")?);
        let status = head.status();
        if to_head || status < 200 || [204, 304].contains(&status) {
            let framing = Framing::Bodyless;
            return Ok(Message { head, framing, body: Vec::new(), trailers: Vec::new() });
        }
        self.body(head, Framing::UntilEnd)
    }

    fn body(&mut self, head: Head, without_framing: Framing) -> Result<Message, String> {
        let mut trailers = Vec::new();
        let (framing, body) = match (head.one("content-length"), head.one("transfer-encoding")) {
            (None, None) if without_framing == Framing::UntilEnd => {
                (Framing::UntilEnd, self.take_all()?)
            }
            (None, None) => (without_framing, Vec::new()),
            (Some(length), None) => {
                let plain = length.bytes().all(|byte| byte.is_ascii_digit());
                let count = length.parse().ok().filter(|_| plain);
                let count = count.ok_or_else(|| format!("Content-Length: {length}"))?;
                (Framing::Length, self.take_count(count)?)
            }
            (None, Some(coding)) if coding.eq_ignore_ascii_case("chunked") => {
                let body = self.chunks()?;
                trailers = self.trailers()?;
                (Framing::Chunked, body)
            }
            both => return Err(format!("framing {both:?}")),
        };
        Ok(Message { head, framing, body, trailers })
    }

    /// Chunks without extensions, up to and with the line of the last one.
    fn chunks(&mut self) -> Result<Vec<u8>, String> {
        let mut body = Vec::new();
        loop {
            let line = self.take_through(b"\r\n")?;
            let digits = std::str::from_utf8(&line[..line.len() - 2]).unwrap_or_default();
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            let size = usize::from_str_radix(digits, 16).ok().filter(|_| plain);
            let size = size.ok_or_else(|| format!("chunk line {}", show(&line)))?;
            if size == 0 {
                return Ok(body);
            }
            let mut chunk = self.take_count(size + 2)?;
            if !chunk.ends_with(b"\r\n") {
                return Err(format!("no line end after a chunk: {}", show(&chunk)));
            }
            chunk.truncate(size);
            body.append(&mut chunk);
        }
    }

    fn trailers(&mut self) -> Result<Vec<(String, String)>, String> {
        let mut block = b"trailers\r\n".to_vec();
        loop {
            let line = self.take_through(b"\r\n")?;
            block.extend_from_slice(&line);
            if line == b"\r\n" {
                return Ok(Head::parse(&block).headers);
            }
        }
    }
}

impl Source for Peer {
    fn take_through(&mut self, end: &[u8]) -> Result<Vec<u8>, String> {
        self.try_take(|held, from| {
            let from = from.saturating_sub(end.len());
            find(&held[from..], end).map(|at| from + at + end.len())
        })
    }

    fn take_count(&mut self, count: usize) -> Result<Vec<u8>, String> {
        self.try_take(|held, _| (held.len() >= count).then_some(count))
    }

    fn take_all(&mut self) -> Result<Vec<u8>, String> {
        match self.read_to_end() {
            (bytes, End::Eof) => Ok(bytes),
            (bytes, end) => Err(format!("{end:?} after {} bytes", bytes.len())),
        }
    }
}

impl Source for Conn {
    #[track_caller]
    fn take_through(&mut self, end: &[u8]) -> Result<Vec<u8>, String> {
        Ok(self.read_through(end))
    }

    #[track_caller]
    fn take_count(&mut self, count: usize) -> Result<Vec<u8>, String> {
        Ok(self.read_exact(count))
    }

    #[track_caller]
    fn take_all(&mut self) -> Result<Vec<u8>, String> {
        match self.wait_end() {
            End::Eof => Ok(self.read_exact(self.pending().len())),
            end => Err(format!("{end:?}")),
        }
    }
}

impl Peer {
    /// The next answer to a request other than HEAD.
    #[track_caller]
    pub(crate) fn read_response(&mut self) -> Message {
        self.answer(false).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The next answer to a HEAD request.
    #[track_caller]
    pub(crate) fn read_response_to_head(&mut self) -> Message {
        self.answer(true).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The next request, at an upstream that the test reads alone.
    #[track_caller]
    pub(crate) fn read_request(&mut self) -> Message {
        self.request().unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Conn {
    /// The next request that arrived.
    #[track_caller]
    pub(crate) fn read_request(&mut self) -> Message {
        self.request().unwrap_or_else(|error| panic!("{error}"))
    }
}

/// Reads the messages of a byte string; used where a stream was recorded to its end.
pub(crate) struct Recorded<'a>(pub(crate) &'a [u8]);

impl Source for Recorded<'_> {
    fn take_through(&mut self, end: &[u8]) -> Result<Vec<u8>, String> {
        let at = find(self.0, end).ok_or_else(|| format!("ends after {}", show(self.0)))?;
        self.take_count(at + end.len())
    }

    fn take_count(&mut self, count: usize) -> Result<Vec<u8>, String> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("ends too early")?;
        self.0 = rest;
        Ok(taken.to_vec())
    }

    fn take_all(&mut self) -> Result<Vec<u8>, String> {
        Ok(std::mem::take(&mut self.0).to_vec())
    }
}

/// A body as chunks of these sizes, over and over, with the last chunk.
pub(crate) fn chunked(body: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + body.len() / 8 + 64);
    let mut rest = body;
    for &size in sizes.iter().cycle() {
        let (chunk, after) = rest.split_at(size.min(rest.len()));
        if chunk.is_empty() {
            break;
        }
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
        rest = after;
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}
