//! Upgrades that must be refused: the status and the whole answer, then the end of the connection, which the proxy has to begin.

use std::os::fd::OwnedFd;

use rustix::net::RecvFlags;

use super::end::{HEAD_BYTES_MAX, Next, Role, receive};
use super::{Load, Purpose, head};
use crate::failure::Failure;

/// Status of every refusal (RFC 6585 section 4).
const REFUSED: &str = "HTTP/1.1 429 ";

impl Load {
    /// Client: what comes until the proxy closes.
    pub(super) fn await_refusal(
        &mut self,
        socket: &OwnedFd,
        mut answer: Vec<u8>,
    ) -> Result<Next, Failure> {
        match receive(socket, &mut self.scratch, RecvFlags::empty())? {
            None => {}
            Some(0) if is_refusal(&answer) => {
                self.counts.refused += 1;
                if self.orders.reopen {
                    self.open(Purpose::Refusal)?;
                }
                return Ok(Next::Close);
            }
            Some(bytes) => {
                answer.extend_from_slice(&self.scratch[..bytes]);
                let due = &REFUSED.as_bytes()[..answer.len().min(REFUSED.len())];
                if bytes == 0 || answer.len() > HEAD_BYTES_MAX || !answer.starts_with(due) {
                    return Err(no_429(&answer));
                }
            }
        }
        Ok(Next::Keep(Role::Asking(Purpose::Refusal, answer)))
    }
}

/// Whether this is one whole refusal and nothing else.
fn is_refusal(answer: &[u8]) -> bool {
    let Some(end) = head::end(answer) else {
        return false;
    };
    let (head, content) = answer.split_at(end);
    std::str::from_utf8(head).is_ok_and(|text| {
        text.starts_with(REFUSED)
            && head::field(text, "content-length").and_then(|it| it.parse().ok())
                == Some(content.len())
    })
}

fn no_429(answer: &[u8]) -> Failure {
    Failure::Refusal {
        answer: String::from_utf8_lossy(&answer[..answer.len().min(200)]).into_owned(),
    }
}
