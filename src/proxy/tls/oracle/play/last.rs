//! What has to come of a connection when everything is carried at last.

use rustix::io::Errno;

use super::super::client::Input;
use super::{Opening, Play, check};

/// Rounds after which nothing moves any more.
const ROUNDS_MAX: usize = 12;

impl Play {
    pub(super) fn finish(mut self) -> Result<(), String> {
        for _ in 0..ROUNDS_MAX {
            self.wire.room = usize::MAX;
            self.carry(usize::MAX);
            self.drain()?;
            self.client_takes(usize::MAX)?;
        }
        if self.setup.opening == Opening::PlainHttp {
            return check(self.is_plain_http || self.wire.has_ended, "plain HTTP was not told");
        }
        if self.tampered.is_some() || self.is_abandoned || self.wire.has_ended {
            return self.finish_broken();
        }
        check(self.is_done, "no handshake")?;
        if self.client_end.is_none() {
            self.client_writes_last()?;
        }
        check(self.proxy_received == self.client_sent, "content of the client is missing")?;
        if self.proxy_ends {
            self.proxy_ends()?;
            self.client_takes(usize::MAX)?;
            check(self.client_input == Input::Ended, "the client saw no end")?;
        } else {
            // With what still waits, such as a ticket.
            self.proxy_sends(1)?;
            check(self.pending == 0, "the rest was not sent")?;
            self.client_takes(usize::MAX)?;
            check(self.client_received == self.proxy_sent, "content of the proxy is missing")?;
        }
        let held = self.session.held_bytes();
        check(held == 0, &format!("it keeps {held} bytes for nothing"))?;
        check(self.session.is_ready() == self.proxy_has_seen_end, "it is ready for nothing")?;
        self.probe()?;
        if self.setup.ends {
            self.finish_orderly()?;
        }
        Ok(())
    }

    /// One more byte, so that there is something after whatever was last.
    fn client_writes_last(&mut self) -> Result<(), String> {
        let before = self.client_sent;
        self.client_writes(1, super::Trick::Nothing);
        self.carry(usize::MAX);
        self.drain()?;
        let is_full = before >= super::CLIENT_BYTES_MAX;
        check(is_full || self.client_sent > before, "the client cannot write")
    }

    /// Receives until nothing more comes of it.
    fn drain(&mut self) -> Result<(), String> {
        loop {
            let before = (self.wire.received_bytes, self.proxy_received, self.is_done);
            self.proxy_acts(self.setup.buffer_bytes)?;
            if (self.wire.received_bytes, self.proxy_received, self.is_done) == before {
                return Ok(());
            }
        }
    }

    fn finish_orderly(&mut self) -> Result<(), String> {
        self.proxy_ends()?;
        self.client_takes(usize::MAX)?;
        check(self.client_input == Input::Ended, "the client saw no end")?;
        self.client_ends();
        self.carry(usize::MAX);
        self.drain()?;
        check(self.proxy_has_seen_end, "the proxy saw no end")?;
        check(self.session.held_bytes() == 0, "it keeps bytes after the end")
    }

    /// An error is told and told again, and nothing that is called afterwards does harm.
    fn finish_broken(&mut self) -> Result<(), String> {
        if self.must_fail && !self.wire.has_ended && !self.would_assert() {
            check(self.failure == Some(Errno::PROTO), "a breach was not seen")?;
        }
        self.carry(usize::MAX);
        let is_untouched = self.tampered.is_none();
        if self.wire.has_ended && is_untouched {
            self.drain()?;
            let is_told = self.proxy_has_seen_end || self.failure == Some(Errno::CONNRESET);
            check(is_told, "the end below TLS is not told")?;
        }
        self.probe()?;
        self.proxy_sends(100)?;
        for _ in 0..2 {
            self.proxy_acts(100)?;
            self.proxy_ends()?;
        }
        self.client_takes(usize::MAX)
    }
}
