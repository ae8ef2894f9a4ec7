//! A refusal as bytes: its head, and its body of one line of JSON (contract section 13).

use serde::Serialize;

use super::Answer;

/// The body of an error answer: one line, keys in this order, empty ones left out.
#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'static str,
    status: u16,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'static str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    retry_after_seconds: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Answer {
    /// Writes the whole answer. `head_only` leaves the body out (HEAD); `close` says that the connection ends here;
    /// `policy_lines` are whole header lines that the configuration asks for, each with its CRLF.
    pub fn write(
        &self,
        out: &mut Vec<u8>,
        request_id: &str,
        head_only: bool,
        close: bool,
        policy_lines: &[u8],
    ) {
        let body = ErrorBody {
            error: self.code,
            status: self.status,
            message: self.message,
            request_id,
            retry_after_seconds: self.retry_after_seconds,
        };
        // A body of fixed texts and a checked identifier always serialises.
        let mut body = serde_json::to_vec(&body).unwrap_or_default();
        body.push(b'\n');
        let (mut length, mut seconds) = (itoa::Buffer::new(), itoa::Buffer::new());
        let [retry_name, retry_seconds, retry_end] = match self.retry_after_seconds {
            0 => ["", "", ""],
            wait => ["Retry-After: ", seconds.format(wait), "\r\n"],
        };
        let lines = [
            "Content-Type: application/json\r\nContent-Length: ",
            length.format(body.len()),
            "\r\nX-Request-ID: ",
            request_id,
            "\r\n",
            self.header_lines,
            retry_name,
            retry_seconds,
            retry_end,
        ];
        self.write_head(out, &lines, policy_lines, close);
        if !head_only {
            out.extend_from_slice(&body);
        }
    }

    /// Writes a redirect, which has no content: the answer of [`LoginRedirect`](super::Refusal::LoginRedirect).
    /// `location` is a checked URL; `policy_lines` are whole header lines that the configuration asks for, each with its
    /// CRLF.
    pub fn write_redirect(
        &self,
        out: &mut Vec<u8>,
        request_id: &str,
        location: &str,
        close: bool,
        policy_lines: &[u8],
    ) {
        let lines = [
            "Location: ",
            location,
            "\r\nContent-Length: 0\r\nX-Request-ID: ",
            request_id,
            "\r\n",
            self.header_lines,
        ];
        self.write_head(out, &lines, policy_lines, close);
    }

    /// `lines` together are whole header lines.
    fn write_head(&self, out: &mut Vec<u8>, lines: &[&str], policy_lines: &[u8], close: bool) {
        let mut status = itoa::Buffer::new();
        let status_line = ["HTTP/1.1 ", status.format(self.status), " ", self.phrase, "\r\n"];
        for part in status_line.iter().chain(lines) {
            out.extend_from_slice(part.as_bytes());
        }
        out.extend_from_slice(policy_lines);
        out.extend_from_slice(if close { b"Connection: close\r\n\r\n" } else { b"\r\n" });
    }
}
