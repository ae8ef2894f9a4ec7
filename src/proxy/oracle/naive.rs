//! Where heads, chunks and answers end, read as simply as can be and without the code under test.

use crate::wire::oracle::plain::Plain;

/// What stands at the beginning of some bytes.
#[derive(Debug)]
pub(super) enum Head {
    /// Not all of it is there. It may be refused already.
    Unfinished,
    /// A carriage return or a line feed that ends no line, or an empty line too many.
    Broken,
    /// So many bytes, the final empty line included.
    Whole(usize),
}

/// The next line: where it ends, and where the one after it begins.
enum Line {
    Unfinished,
    Broken,
    Whole { end: usize, next: usize },
}

fn line(bytes: &[u8], at: usize) -> Line {
    let rest = bytes.get(at..).unwrap_or_default();
    let Some(place) = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return Line::Unfinished;
    };
    match (rest.get(place), rest.get(place + 1)) {
        (Some(b'\r'), Some(b'\n')) => Line::Whole { end: at + place, next: at + place + 2 },
        (Some(b'\r'), None) => Line::Unfinished,
        _ => Line::Broken,
    }
}

/// The head at the beginning, with one empty line before it if there is one.
pub(super) fn head(bytes: &[u8]) -> Head {
    let (mut at, mut lines) = (0, 0);
    loop {
        match line(bytes, at) {
            Line::Unfinished => return Head::Unfinished,
            Line::Broken => return Head::Broken,
            Line::Whole { end, next } if end == at && at > 0 => {
                return if lines == 0 { Head::Broken } else { Head::Whole(next) };
            }
            Line::Whole { end, next } => {
                lines += usize::from(end > at);
                at = next;
            }
        }
    }
}

/// Chunked content, as far as it is there.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    pub(super) content: Vec<u8>,
    /// Names in lower case.
    pub(super) trailers: Vec<(String, Vec<u8>)>,
    /// A chunk line had an extension or a size that is not written plainly.
    pub(super) is_plain: bool,
    pub(super) end: ChunkedEnd,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChunkedEnd {
    /// More is to come. What is there is in order.
    #[default]
    Unfinished,
    /// More is to come, and the line under way may be wrong already.
    Ragged,
    Broken,
    /// Where it ends.
    At(usize),
}

/// Longest chunk line and its end.
const CHUNK_LINE_BYTES_MAX: usize = 4 * 1024;

pub(super) fn chunked(bytes: &[u8]) -> Chunked {
    let mut read = Chunked { is_plain: true, ..Chunked::default() };
    read.end = chunks(bytes, &mut read);
    read
}

fn chunks(bytes: &[u8], read: &mut Chunked) -> ChunkedEnd {
    let mut at = 0;
    loop {
        let (end, next) = match line(bytes, at) {
            Line::Unfinished => return unfinished(bytes, at),
            Line::Broken => return ChunkedEnd::Broken,
            Line::Whole { end, next } => (end, next),
        };
        let text = bytes.get(at..end).unwrap_or_default();
        let Some(size) = chunk_size(text).filter(|_| next - at <= CHUNK_LINE_BYTES_MAX) else {
            return ChunkedEnd::Broken;
        };
        read.is_plain &= format!("{size:x}").as_bytes() == text;
        at = next;
        if size == 0 {
            return trailers(bytes, at, read);
        }
        let rest = bytes.get(at..).unwrap_or_default();
        let there = usize::try_from(size).unwrap_or(usize::MAX).min(rest.len());
        let (data, rest) = rest.split_at_checked(there).unwrap_or_default();
        read.content.extend_from_slice(data);
        at += there;
        match rest {
            [b'\r', b'\n', ..] => at += 2,
            [] | [b'\r'] => return ChunkedEnd::Unfinished,
            _ => return ChunkedEnd::Broken,
        }
    }
}

fn unfinished(bytes: &[u8], at: usize) -> ChunkedEnd {
    if at == bytes.len() { ChunkedEnd::Unfinished } else { ChunkedEnd::Ragged }
}

/// The size of a chunk: 1 to 16 hex digits, and an extension that has a name and no control characters.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let text: String = line.iter().copied().map(char::from).collect();
    let digits = text.find(|char: char| !char.is_ascii_hexdigit()).unwrap_or(text.len());
    let (digits, extension) = text.split_at_checked(digits)?;
    let extension = extension.trim_start_matches([' ', '\t']);
    if !extension.is_empty() {
        let name = extension.strip_prefix(';')?.trim_start_matches([' ', '\t']);
        let named = name.starts_with(is_token);
        let printable = name.chars().all(|char| char == '\t' || (char >= ' ' && char != '\x7f'));
        (named && printable).then_some(())?;
    } else if digits.len() != line.len() {
        return None;
    }
    (1..=16).contains(&digits.len()).then(|| u64::from_str_radix(digits, 16).ok())?
}

/// Whether a character may stand in a token.
pub(super) fn is_token(char: char) -> bool {
    char.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(char)
}

fn trailers(bytes: &[u8], mut at: usize, read: &mut Chunked) -> ChunkedEnd {
    loop {
        let (end, next) = match line(bytes, at) {
            Line::Unfinished => return unfinished(bytes, at),
            Line::Broken => return ChunkedEnd::Broken,
            Line::Whole { end, next } => (end, next),
        };
        if end == at {
            return ChunkedEnd::At(next);
        }
        // One line of a head: the reader of heads knows what is wrong with it.
        let line = [b"GET / HTTP/1.1\r\n", bytes.get(at..next).unwrap_or_default(), b"\r\n"];
        let Some(plain) = Plain::read(&line.concat()).ok() else { return ChunkedEnd::Broken };
        read.trailers.extend(plain.lines);
        if read.trailers.len() > 256 {
            return ChunkedEnd::Broken;
        }
        at = next;
    }
}

/// How the content after a head ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

/// The framing of a clean message: at most one of the two fields, with a plain value.
pub(super) fn framing(plain: &Plain) -> Option<Framing> {
    match (plain.values("content-length").as_slice(), plain.values("transfer-encoding").as_slice())
    {
        ([], []) => Some(Framing::None),
        ([length], []) => {
            let length: u64 = str::from_utf8(length).ok()?.parse().ok()?;
            (plain.values("content-length") == [length.to_string().as_bytes()])
                .then_some(Framing::Length(length))
        }
        ([], [b"chunked"]) => Some(Framing::Chunked),
        _ => None,
    }
}

/// An answer as a client reads it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) interim: Vec<u16>,
    pub(super) status: u16,
    pub(super) head: Plain,
    pub(super) content: Vec<u8>,
    pub(super) trailers: Vec<(String, Vec<u8>)>,
    pub(super) is_whole: bool,
}

/// All answers on a connection so far.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// The final ones.
    pub(super) finals: Vec<Answer>,
    /// Interim answers to the next request.
    pub(super) interim: Vec<u16>,
    /// What followed a 101.
    pub(super) tunnel: Option<Vec<u8>>,
    /// Why the bytes are no answers.
    pub(super) fault: Option<String>,
}

/// Reads answers; `to_head` says whether the answer of this number is one to HEAD.
pub(super) fn answers(bytes: &[u8], ended: bool, to_head: impl Fn(usize) -> bool) -> Answers {
    let mut read = Answers::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        let Head::Whole(head_bytes) = head(rest) else {
            if ended {
                read.fault = Some(format!("half a head: {}", rest.escape_ascii()));
            }
            break;
        };
        let (head, after) = rest.split_at_checked(head_bytes).unwrap_or_default();
        let Some(head) = Plain::read(head).ok().filter(|_| head.starts_with(b"HTTP/1.1 ")) else {
            read.fault = Some(format!("no clean head: {}", head.escape_ascii()));
            break;
        };
        let status = head.first.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or(0);
        if status == 101 {
            let interim = std::mem::take(&mut read.interim);
            let (content, trailers) = (Vec::new(), Vec::new());
            read.finals.push(Answer { interim, status, head, content, trailers, is_whole: true });
            read.tunnel = Some(after.to_vec());
            break;
        }
        if status < 200 {
            read.interim.push(status);
            rest = after;
            continue;
        }
        let interim = std::mem::take(&mut read.interim);
        let bodiless = to_head(read.finals.len()) || matches!(status, 204 | 304);
        let mut answer = Answer {
            interim,
            status,
            head,
            content: Vec::new(),
            trailers: Vec::new(),
            is_whole: false,
        };
        let framing = if bodiless { Some(Framing::None) } else { answer_framing(&answer.head) };
        let Some(framing) = framing else {
            read.fault = Some(format!("no clear framing: {:?}", answer.head));
            break;
        };
        let content_bytes = answer.take_content(framing, after, ended);
        rest = after.get(content_bytes..).unwrap_or_default();
        let goes_on = answer.is_whole;
        read.finals.push(answer);
        if !goes_on {
            break;
        }
    }
    read
}

fn answer_framing(head: &Plain) -> Option<Framing> {
    framing(head)
        .map(|framing| if framing == Framing::None { Framing::UntilClose } else { framing })
}

impl Answer {
    /// Takes the content, or what is there of it; returns its bytes on the wire.
    fn take_content(&mut self, framing: Framing, bytes: &[u8], ended: bool) -> usize {
        let taken = match framing {
            Framing::None => 0,
            Framing::Length(length) => {
                usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len())
            }
            Framing::Chunked => {
                let read = chunked(bytes);
                self.content = read.content;
                self.trailers = read.trailers;
                let ChunkedEnd::At(end) = read.end else { return bytes.len() };
                self.is_whole = read.is_plain;
                return end;
            }
            Framing::UntilClose => bytes.len(),
        };
        self.content = bytes.get(..taken).unwrap_or_default().to_vec();
        self.is_whole = match framing {
            Framing::Length(length) => taken as u64 == length,
            Framing::UntilClose => ended,
            _ => true,
        };
        taken
    }
}
