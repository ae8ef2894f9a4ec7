//! What has to become of a client's bytes, worked out from sections 5 to 7 of the contract without the code under test.

use super::naive::{self, ChunkedEnd, Head};
use super::reply::Reply;
use super::request::{Framing, HEAD_BYTES_MAX, Request, Upgrade};
use crate::wire::oracle::plain::Plain;

/// With more options in `Connection` a request may be refused or not.
const CONNECTION_OPTIONS_MAX: usize = 64;

/// Everything that is expected of one connection.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) calls: Vec<Call>,
    pub(super) answers: Vec<Expected>,
    /// Where the client waits before it goes on, in order.
    pub(super) holds: Vec<Hold>,
    /// Where a client may wait: at the ends of requests, and where it is told to go on.
    pub(super) ends: Vec<Hold>,
    /// One refusal more may come: what stands last is unfinished and perhaps wrong already.
    pub(super) may_be_refused: bool,
    /// What the client waits for before it ends its side.
    pub(super) last: Hold,
    /// The contract does not say what becomes of it.
    pub(super) is_open: bool,
}

/// The client sends nothing from `at` on before it has this many whole answers, and interim answers to the next.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hold {
    pub(super) at: usize,
    pub(super) answers: usize,
    pub(super) interim: usize,
}

/// A request that goes upstream.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) host: Option<String>,
    pub(super) content: Content,
    pub(super) trailers: Vec<(String, Vec<u8>)>,
    pub(super) is_kept: bool,
    pub(super) reply: Reply,
    /// What goes upstream after a 101.
    pub(super) tunnel: Option<Vec<u8>>,
}

/// How much of a request goes upstream.
#[derive(Debug, Clone)]
pub(super) enum Content {
    Whole(Vec<u8>),
    /// This, and not its end.
    Part(Vec<u8>),
    /// At most this, and perhaps not even the head.
    AtMost(Vec<u8>),
}

/// Who says what the client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    Call(usize),
    /// The proxy, about the call of this number if it is about one.
    Refusal(Option<usize>),
    OwnEndpoint,
}

/// An answer to the client.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    pub(super) from: From,
    /// Any of them.
    pub(super) statuses: Vec<u16>,
    pub(super) interim: Vec<u16>,
    pub(super) to_head: bool,
    pub(super) closes: bool,
    pub(super) is_whole: bool,
}

/// The content that follows a head.
enum Following {
    Whole { content: Vec<u8>, trailers: Vec<(String, Vec<u8>)>, bytes: usize },
    Part(Vec<u8>),
    Ragged(Vec<u8>),
    Broken(Vec<u8>),
}

/// The plan for a client that sends `bytes` and then ends its side.
pub(super) fn plan(bytes: &[u8]) -> Plan {
    let mut planner = Planner { bytes, at: 0, is_pooled: false, plan: Plan::default() };
    while planner.at < bytes.len() && planner.request() {
        let (at, answers) = (planner.at, planner.plan.answers.len());
        planner.plan.ends.push(Hold { at, answers, interim: 0 });
    }
    let mut plan = planner.plan;
    plan.last.at = bytes.len();
    plan.last.answers = plan.answers.len();
    plan
}

struct Planner<'b> {
    bytes: &'b [u8],
    at: usize,
    is_pooled: bool,
    plan: Plan,
}

impl Planner<'_> {
    /// Plans the next request; true when another may follow it.
    fn request(&mut self) -> bool {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let head_bytes = match naive::head(rest) {
            Head::Unfinished if rest.len() >= HEAD_BYTES_MAX => {
                return self.refuse(&[400, 431], None);
            }
            Head::Unfinished => {
                self.plan.may_be_refused = true;
                return false;
            }
            Head::Broken => return self.refuse(&[400, 431], None),
            Head::Whole(head_bytes) => head_bytes,
        };
        let head = rest.get(..head_bytes).unwrap_or_default();
        let options = Plain::read(head).ok().map_or(0, |plain| plain.options().count());
        if options > CONNECTION_OPTIONS_MAX {
            self.plan.is_open = true;
            return false;
        }
        let request = match Request::read(head) {
            Ok(request) => request,
            Err(statuses) => return self.refuse(&statuses, None),
        };
        self.at += head_bytes;
        let has_content = request.framing != Framing::Length(0);
        if let Some(status) = request.own_endpoint() {
            let keeps = request.keeps && !has_content && request.upgrade == Upgrade::Nothing;
            self.answer(From::OwnEndpoint, &[status], &request, &[], !keeps);
            return keeps;
        }
        if request.upgrade == Upgrade::WebSocket {
            self.upgrade(&request);
            return false;
        }
        self.plain(&request, has_content)
    }

    fn refuse(&mut self, statuses: &[u16], of: Option<&Request>) -> bool {
        self.plan.answers.push(Expected {
            from: From::Refusal(None),
            statuses: statuses.to_vec(),
            interim: Vec::new(),
            to_head: of.is_some_and(|request| request.method == "HEAD"),
            closes: true,
            is_whole: true,
        });
        false
    }

    fn answer(
        &mut self,
        from: From,
        statuses: &[u16],
        request: &Request,
        interim: &[u16],
        closes: bool,
    ) {
        self.plan.answers.push(Expected {
            from,
            statuses: statuses.to_vec(),
            interim: interim.to_vec(),
            to_head: request.method == "HEAD",
            closes,
            is_whole: true,
        });
    }

    fn call(&mut self, request: &Request, content: Content, is_kept: bool, reply: Reply) -> usize {
        self.plan.calls.push(Call {
            method: request.method.clone(),
            target: request.target.clone(),
            host: request.host.clone(),
            content,
            trailers: Vec::new(),
            is_kept,
            reply,
            tunnel: None,
        });
        self.plan.calls.len() - 1
    }

    fn upgrade(&mut self, request: &Request) {
        let reply = Reply::to_upgrade(&request.target);
        let number = self.call(request, Content::Whole(Vec::new()), false, reply);
        if matches!(reply, Reply::Open | Reply::OpenAfterInterim) {
            let tunnel = self.bytes.get(self.at..).map(<[u8]>::to_vec);
            if let Some(call) = self.plan.calls.last_mut() {
                call.tunnel = tunnel;
            }
        }
        if reply.is_refused() {
            self.answer(From::Refusal(Some(number)), &[502], request, &[], true);
        } else {
            let closes = reply == Reply::Decline;
            self.answer(From::Call(number), &[reply.status()], request, &[], closes);
        }
    }

    fn plain(&mut self, request: &Request, has_content: bool) -> bool {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let following = following(rest, request.framing);
        let mut reply = Reply::to_plain(&request.target, &request.method, has_content);
        if reply == Reply::Early {
            return self.early(request);
        }
        if matches!(following, Following::Ragged(_) | Following::Broken(_)) {
            reply = Reply::Length;
        }
        let is_kept = std::mem::take(&mut self.is_pooled);
        let interim = relayed_interim(request, reply);
        if has_content && !interim.is_empty() {
            // A client that goes step by step waits before its content, too.
            let answers = self.plan.answers.len();
            self.plan.ends.push(Hold { at: self.at, answers, interim: interim.len() });
        }
        match following {
            Following::Ragged(content) => {
                self.call(request, Content::AtMost(content), is_kept, reply);
                self.plan.may_be_refused = true;
                false
            }
            Following::Broken(content) => {
                self.call(request, Content::AtMost(content), is_kept, reply);
                self.refuse(&[400], Some(request))
            }
            Following::Part(content) => {
                self.call(request, Content::Part(content), is_kept, reply);
                self.plan.last.interim = interim.len();
                false
            }
            Following::Whole { content, trailers, bytes } => {
                self.at += bytes;
                self.whole(request, has_content, (content, trailers), is_kept, &interim)
            }
        }
    }

    /// The answer comes before the content, which is sent to nobody.
    fn early(&mut self, request: &Request) -> bool {
        let is_kept = std::mem::take(&mut self.is_pooled);
        let number = self.call(request, Content::Part(Vec::new()), is_kept, Reply::Early);
        self.answer(From::Call(number), &[200], request, &[], true);
        let answers = self.plan.answers.len();
        self.plan.holds.push(Hold { at: self.at, answers, interim: 0 });
        false
    }

    fn whole(
        &mut self,
        request: &Request,
        has_content: bool,
        (content, trailers): (Vec<u8>, Vec<(String, Vec<u8>)>),
        is_kept: bool,
        interim: &[u16],
    ) -> bool {
        let reply = Reply::to_plain(&request.target, &request.method, has_content);
        let mut call = |is_kept| {
            let number = self.call(request, Content::Whole(content.clone()), is_kept, reply);
            if let Some(call) = self.plan.calls.last_mut() {
                call.trailers.clone_from(&trailers);
            }
            number
        };
        let mut number = call(is_kept);
        let is_dropped = reply == Reply::Drop || (reply == Reply::DropKept && is_kept);
        let is_repeatable = !has_content
            && ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"].contains(&request.method.as_str());
        let mut is_refused = reply.is_refused() || is_dropped;
        if is_kept && is_dropped && is_repeatable {
            number = call(false);
            is_refused = reply == Reply::Drop;
        }
        if is_refused {
            // Both sides are closed after a 101 that nobody asked for (section 6.2).
            let keeps = request.keeps && reply != Reply::Switching;
            self.answer(From::Refusal(Some(number)), &[502], request, interim, !keeps);
            return keeps;
        }
        let is_cut = reply == Reply::Cut;
        let keeps = request.keeps && !is_cut;
        self.is_pooled = reply.keeps();
        self.answer(From::Call(number), &[reply.status()], request, interim, !keeps);
        if let (true, Some(last)) = (is_cut, self.plan.answers.last_mut()) {
            last.is_whole = false;
        }
        keeps
    }
}

/// What a client of HTTP/1.1 gets of the interim answers: 100 only if it asked.
fn relayed_interim(request: &Request, reply: Reply) -> Vec<u16> {
    let relayed = |status: &u16| request.is_http11 && (*status != 100 || request.expects);
    reply.interim().iter().copied().take(16).filter(relayed).collect()
}

fn following(rest: &[u8], framing: Framing) -> Following {
    match framing {
        Framing::Length(length) => {
            match usize::try_from(length).ok().and_then(|length| rest.get(..length)) {
                Some(content) => Following::Whole {
                    content: content.to_vec(),
                    trailers: Vec::new(),
                    bytes: content.len(),
                },
                None => Following::Part(rest.to_vec()),
            }
        }
        Framing::Chunked => {
            let read = naive::chunked(rest);
            match read.end {
                ChunkedEnd::At(bytes) => Following::Whole {
                    content: read.content,
                    trailers: read
                        .trailers
                        .into_iter()
                        .filter(|(name, _)| may_trail(name))
                        .collect(),
                    bytes,
                },
                ChunkedEnd::Unfinished => Following::Part(read.content),
                ChunkedEnd::Ragged => Following::Ragged(read.content),
                ChunkedEnd::Broken => Following::Broken(read.content),
            }
        }
    }
}

/// Whether a trailer says nothing that is decided by a head, or by the proxy (section 6.2).
fn may_trail(name: &str) -> bool {
    let folded = name.replace(['_', '.'], "-");
    let framing = ["content-length", "transfer-encoding", "x-request-id", "x-real-ip"];
    let exact = [
        "host",
        "connection",
        "upgrade",
        "te",
        "keep-alive",
        "proxy-connection",
        "expect",
        "via",
        "proxy-authenticate",
        "proxy-authorization",
        "http2-settings",
        "authorization",
        "cookie",
        "set-cookie",
        "forwarded",
    ];
    !(framing.contains(&folded.as_str())
        || exact.contains(&name)
        || folded.starts_with("x-user-")
        || folded.starts_with("x-forwarded-")
        || name.starts_with("sec-websocket-"))
}
