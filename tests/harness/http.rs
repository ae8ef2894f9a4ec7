//! Heads as the two ends see them, read strictly: what the proxy writes has to be clean.

use super::json::Json;
use super::payload::show;
use super::peer::End;

/// A request or response head.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    /// The request line or status line.
    pub(crate) line: String,
    /// Names as spelled and values without outer white space, in order.
    pub(crate) headers: Vec<(String, String)>,
}

impl Head {
    /// Reads a head with its final empty line; panics on anything that a strict recipient would refuse.
    #[track_caller]
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let text = std::str::from_utf8(bytes)
            .unwrap_or_else(|_| panic!("head is not text: {}", show(bytes)));
        let mut lines = text
            .strip_suffix("\r\n\r\n")
            .unwrap_or_else(|| panic!("head without its end: {}", show(bytes)))
            .split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let headers = lines
            .map(|line| {
                let (name, value) =
                    line.split_once(':').unwrap_or_else(|| panic!("no colon in {line:?}"));
                assert!(
                    !name.is_empty() && name.bytes().all(is_token_byte),
                    "header name {name:?}"
                );
                let clean = value.bytes().all(|b| b == b'\t' || (b >= b' ' && b != 0x7f));
                assert!(clean, "control character in {line:?}");
                (name.to_owned(), value.trim_matches([' ', '\t']).to_owned())
            })
            .collect();
        Self { line, headers }
    }

    /// The status of a response head.
    #[track_caller]
    pub(crate) fn status(&self) -> u16 {
        let rest = self
            .line
            .strip_prefix("HTTP/1.1 ")
            .unwrap_or_else(|| panic!("status line {:?}", self.line));
        let digits = rest.get(..3).unwrap_or_default();
        digits.parse().unwrap_or_else(|_| panic!("status line {:?}", self.line))
    }

    /// Every value of a name, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// The value of a name that may stand at most once.
    #[track_caller]
    pub(crate) fn one(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} stands {} times: {self:?}", all.len());
        all.first().copied()
    }

    /// Names as spelled, in order.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.headers.iter().map(|(name, _)| name.as_str()).collect()
    }
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A whole answer, and how the connection ended after it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: Head,
    /// Everything between the head and the end of the connection.
    pub(crate) body: Vec<u8>,
    pub(crate) end: End,
}

/// What the message of an error answer is.
enum Said {
    /// The key is left out.
    Nothing,
    /// A fixed text that depends on what was wrong.
    Something,
    /// Exactly this.
    Exactly(&'static str),
    /// One of these.
    OneOf(&'static [&'static str]),
}

/// The table of section 13 as far as these tests go.
const REFUSALS: [(u16, &str, Said); 19] = [
    (400, "bad_request", Said::Something),
    (
        401,
        "unauthorized",
        Said::OneOf(&[
            "API key required",
            "invalid or inactive API key",
            "missing or invalid session",
            "missing token",
        ]),
    ),
    (401, "invalid_token", Said::OneOf(&["token is not valid", "token has expired"])),
    (
        403,
        "forbidden",
        Said::OneOf(&[
            "your IP address is not permitted to access this resource",
            "insufficient scopes",
            "insufficient role for this path",
        ]),
    ),
    (403, "origin_not_allowed", Said::Exactly("this origin may not open a WebSocket here")),
    (404, "not_found", Said::Nothing),
    (405, "method_not_allowed", Said::Nothing),
    (408, "request_timeout", Said::Nothing),
    (413, "payload_too_large", Said::Nothing),
    (417, "expectation_failed", Said::Nothing),
    (426, "unsupported_websocket_version", Said::Nothing),
    (429, "connection_limit_exceeded", Said::Nothing),
    (429, "rate_limit_exceeded", Said::Nothing),
    (431, "headers_too_large", Said::Nothing),
    (500, "internal_error", Said::Nothing),
    (502, "upstream_unavailable", Said::Exactly("the upstream application could not be reached")),
    (
        502,
        "upstream_invalid_response",
        Said::Exactly("the upstream application sent an invalid response"),
    ),
    (
        503,
        "auth_provider_unavailable",
        Said::Exactly("authentication service is temporarily unavailable"),
    ),
    (504, "upstream_timeout", Said::Exactly("the upstream application did not respond in time")),
];

impl Answer {
    /// Checks an error answer of the common form down to the last byte, and returns its request id.
    #[track_caller]
    pub(crate) fn assert_refusal(&self, status: u16, code: &str) -> String {
        assert_eq!(self.head.status(), status, "{self:?}");
        assert_eq!(self.end, End::Eof, "{self:?}");
        assert_eq!(self.head.one("connection"), Some("close"), "{self:?}");
        assert_error_body(&self.head, &self.body, status, code)
    }

    /// [`Self::assert_refusal`] for an answer to HEAD, which has no body.
    #[track_caller]
    pub(crate) fn assert_refusal_without_body(&self, status: u16) -> String {
        assert_eq!(self.head.status(), status, "{self:?}");
        assert!(self.body.is_empty(), "a body after HEAD: {self:?}");
        assert_eq!(self.head.one("connection"), Some("close"), "{self:?}");
        assert_error_head(&self.head)
    }
}

/// Checks an error answer of the common form, whatever becomes of the connection; returns its request id.
#[track_caller]
pub(crate) fn assert_error_body(head: &Head, body: &[u8], status: u16, code: &str) -> String {
    assert_eq!(head.status(), status, "{head:?}");
    let id = assert_error_head(head);
    let length = body.len().to_string();
    let stated = head.one("content-length");
    assert_eq!(stated, Some(length.as_str()), "{head:?}");
    let text = std::str::from_utf8(body).expect("the body is text");
    let json = Json::parse(text.trim_end()).unwrap_or_else(|error| panic!("{error}: {text}"));
    let said = json.text("message");
    let row = REFUSALS.iter().find(|row| (row.0, row.1) == (status, code));
    match row.expect("a row of the table").2 {
        Said::Nothing => assert_eq!(said, None, "{text}"),
        Said::Something => assert!(said.is_some_and(|said| !said.is_empty()), "{text}"),
        Said::Exactly(message) => assert_eq!(said, Some(message), "{text}"),
        Said::OneOf(messages) => {
            assert!(said.is_some_and(|said| messages.contains(&said)), "{text}");
        }
    }
    let message = said.map_or(String::new(), |said| format!("\"message\":\"{said}\","));
    let retry = head.one("retry-after");
    assert_eq!(retry.is_some(), code == "rate_limit_exceeded", "Retry-After: {head:?}");
    let retry = retry.map_or(String::new(), |seconds| {
        assert!(seconds.parse::<u32>().is_ok_and(|seconds| seconds > 0), "{head:?}");
        format!(",\"retry_after_seconds\":{seconds}")
    });
    let start = format!("{{\"error\":\"{code}\",\"status\":{status},");
    assert_eq!(text, format!("{start}{message}\"request_id\":\"{id}\"{retry}}}\n"));
    id
}

#[track_caller]
fn assert_error_head(head: &Head) -> String {
    assert_eq!(head.one("content-type"), Some("application/json"), "{head:?}");
    assert_eq!(head.one("transfer-encoding"), None, "{head:?}");
    let id = head.one("x-request-id").unwrap_or_default();
    assert!(!id.is_empty(), "no X-Request-ID: {head:?}");
    id.to_owned()
}

/// True for an id that the proxy made: `req_` and 12 characters of `A–Z2–7`.
pub(crate) fn is_made_request_id(id: &str) -> bool {
    id.strip_prefix("req_").is_some_and(|rest| {
        rest.len() == 12 && rest.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'2'..=b'7'))
    })
}
