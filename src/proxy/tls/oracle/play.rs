//! One connection of the oracle: what a script does to it, and the model of what has to come of that.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use rustix::io::Errno;
use rustls::client::ClientConnection;

use self::wire::Wire;
use super::super::session::{Handshake, Session};
use super::client::{self, Input, Trick};
use super::{Action, Opening, Setup, Stage};

mod last;
mod wire;

/// What a session may encrypt of one send.
const SEND_BYTES: usize = 64 * 1024;

/// What a client writes in all.
const CLIENT_BYTES_MAX: usize = 256 * 1024;

/// A part of the client's ciphertext.
#[derive(Debug, Clone, Copy)]
struct Flight {
    /// Places in all its ciphertext.
    start: usize,
    end: usize,
    /// How much content there is before it and up to its end.
    content_before: usize,
    content_bytes: usize,
    /// A single record of content.
    is_content: bool,
}

#[expect(clippy::struct_excessive_bools, reason = "independent facts of one connection")]
pub(super) struct Play {
    setup: Setup,
    client: ClientConnection,
    session: Session,
    wire: Wire,
    /// On the way from the client.
    flying: VecDeque<u8>,
    flights: Vec<Flight>,
    /// Ciphertext of the client, and how much of it has arrived.
    ciphertext_bytes: usize,
    carried_bytes: usize,
    is_done: bool,
    /// Content.
    client_sent: usize,
    proxy_received: usize,
    proxy_sent: usize,
    client_received: usize,
    /// Content that was offered and has to be offered again.
    pending: usize,
    /// Where `close_notify` of the client ends in its ciphertext.
    client_end: Option<usize>,
    proxy_has_seen_end: bool,
    client_input: Input,
    proxy_ends: bool,
    /// Before the connection was given up.
    has_ended_in_time: bool,
    is_abandoned: bool,
    /// What follows on this much content of the client was tampered with.
    tampered: Option<usize>,
    /// An error has to come of it.
    must_fail: bool,
    failure: Option<Errno>,
    is_plain_http: bool,
}

/// The content at a place of a direction.
fn content(at: usize, salt: usize) -> u8 {
    let mixed = (at + salt).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 24;
    u8::try_from(mixed & 0xFF).unwrap_or(0)
}

const FROM_CLIENT: usize = 1;
const FROM_PROXY: usize = 1 << 40;

fn contents(start: usize, bytes: usize, salt: usize) -> Vec<u8> {
    (start..start + bytes).map(|at| content(at, salt)).collect()
}

/// A complaint unless it `holds`.
fn check(holds: bool, otherwise: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.to_owned()) }
}

impl Play {
    pub(super) fn run(stage: &Stage, setup: Setup, actions: &[Action]) -> Result<(), String> {
        let mut client = stage.clients.greet(setup.greeting)?;
        let mut first = match setup.opening {
            Opening::Hello => client::act(&mut client, Trick::Nothing, |_| {}),
            Opening::PlainHttp => b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n".to_vec(),
            Opening::Garbage => (0..=255).rev().collect(),
        };
        let ciphertext_bytes = first.len();
        let later = first.split_off(setup.received_bytes.min(ciphertext_bytes));
        let (config, buffers) = (Arc::clone(&stage.config), Rc::clone(&stage.buffers));
        let session = Session::new(config, buffers, &first).map_err(|error| error.to_string())?;
        let mut play = Self {
            setup,
            client,
            session,
            wire: Wire::default(),
            flying: later.into(),
            flights: vec![Flight {
                start: 0,
                end: ciphertext_bytes,
                content_before: 0,
                content_bytes: 0,
                is_content: false,
            }],
            ciphertext_bytes,
            carried_bytes: first.len(),
            is_done: false,
            client_sent: 0,
            proxy_received: 0,
            proxy_sent: 0,
            client_received: 0,
            pending: 0,
            client_end: None,
            proxy_has_seen_end: false,
            client_input: Input::Open,
            proxy_ends: false,
            has_ended_in_time: false,
            is_abandoned: false,
            tampered: (setup.opening == Opening::Garbage).then_some(0),
            must_fail: setup.opening == Opening::Garbage,
            failure: None,
            is_plain_http: false,
        };
        for (number, action) in actions.iter().enumerate() {
            play.act(*action).map_err(|told| format!("action {number}, {action:?}: {told}"))?;
        }
        play.finish().map_err(|told| format!("at last: {told}"))
    }

    fn act(&mut self, action: Action) -> Result<(), String> {
        match action {
            Action::ClientWrites(bytes) => self.client_writes(bytes, Trick::Nothing),
            Action::ClientWritesAfterEmptyRecords(records) => {
                // rustls takes 32 of them in a row.
                if !self.client.is_handshaking() && records > 32 && !self.setup.greeting.is_tls12 {
                    self.tamper(self.client_sent, false);
                }
                self.client_writes(10, Trick::EmptyBefore(records));
            }
            Action::ClientRenewsKeys => self.client_renews_keys(Trick::Nothing),
            Action::ClientRenewsKeysCut(at) => self.client_renews_keys(Trick::Cut(at)),
            Action::ClientBeginsMessage => self.client_begins_message(),
            Action::ClientEnds => self.client_ends(),
            Action::ClientTakes(bytes) => return self.client_takes(bytes),
            Action::Carry(bytes) => self.carry(bytes),
            Action::Room(bytes) => self.wire.room += bytes,
            Action::Receive(bytes) => return self.proxy_acts(bytes),
            Action::Send(bytes) => return self.proxy_sends(bytes),
            Action::End => return self.proxy_ends(),
            Action::Abandon => {
                if self.is_done {
                    self.session.abandon();
                    self.is_abandoned = true;
                }
            }
            Action::Eof => self.wire.has_ended = true,
            Action::Garbage(0) => {}
            Action::Garbage(bytes) => {
                self.tamper(self.client_sent, false);
                self.fly(contents(0, bytes, bytes));
            }
            Action::Flip(at) => self.flip(at),
            Action::Probe => return self.probe(),
        }
        Ok(())
    }

    fn tamper(&mut self, content_bytes: usize, must_fail: bool) {
        let before = self.tampered.unwrap_or(usize::MAX);
        self.tampered = Some(before.min(content_bytes));
        self.must_fail |= must_fail;
    }

    /// Puts ciphertext of the client on its way.
    fn fly(&mut self, bytes: Vec<u8>) {
        let start = self.ciphertext_bytes;
        self.ciphertext_bytes += bytes.len();
        let is_record = match bytes.get(3..5) {
            Some([high, low]) => 5 + usize::from(u16::from_be_bytes([*high, *low])) == bytes.len(),
            _ => false,
        };
        self.flying.extend(bytes);
        let content_before = self.flights.last().map_or(0, |flight| flight.content_bytes);
        let is_content = is_record && self.client_sent > content_before;
        let (end, content_bytes) = (self.ciphertext_bytes, self.client_sent);
        self.flights.push(Flight { start, end, content_before, content_bytes, is_content });
    }

    /// Whether the client has a say any more.
    fn client_can_write(&self) -> bool {
        let is_alive = !matches!(self.client_input, Input::Failed(_));
        let is_open = is_alive && self.client_end.is_none();
        is_open && !self.client.is_handshaking() && self.setup.opening == Opening::Hello
    }

    fn client_writes(&mut self, mut bytes: usize, mut trick: Trick) {
        bytes = bytes.min(CLIENT_BYTES_MAX.saturating_sub(self.client_sent));
        while bytes > 0 && self.client_can_write() {
            // A record each, so that what is in it is known.
            let piece = contents(self.client_sent, bytes.min(16 * 1024), FROM_CLIENT);
            let mut written = 0;
            let out = client::act(&mut self.client, trick, |client| {
                written = client::write(client, &piece);
            });
            self.client_sent += written;
            self.fly(out);
            trick = Trick::Nothing;
            bytes = if written == 0 { 0 } else { bytes - written };
        }
    }

    fn client_renews_keys(&mut self, trick: Trick) {
        if self.client_can_write() && !self.setup.greeting.is_tls12 {
            let out = client::act(&mut self.client, trick, |client| {
                // Only TLS 1.3 has it.
                let _ = client.refresh_traffic_keys();
            });
            // rustls takes 32 of them without content between, and perhaps no empty record of the handshake.
            let renewals = self.flights.iter().rev();
            let mut renewals =
                renewals.take_while(|flight| flight.content_bytes == self.client_sent);
            if trick == Trick::Cut(0) || renewals.nth(25).is_some() {
                self.tamper(usize::MAX, false);
            }
            self.fly(out);
        }
    }

    fn client_begins_message(&mut self) {
        if self.client_can_write() && !self.setup.greeting.is_tls12 {
            self.tamper(self.client_sent, false);
            let out = client::act(&mut self.client, Trick::AsHandshake, |client| {
                client::write(client, &[24, 0, 0, 1]);
            });
            self.fly(out);
        }
    }

    fn client_ends(&mut self) {
        if self.client_can_write() {
            let out = client::act(&mut self.client, Trick::Nothing, |client| {
                client.send_close_notify();
            });
            self.fly(out);
            self.client_end = Some(self.ciphertext_bytes);
        }
    }

    fn client_takes(&mut self, bytes: usize) -> Result<(), String> {
        let bytes = bytes.min(self.wire.sent.len());
        let taken: VecDeque<u8> = self.wire.sent.drain(..bytes).collect();
        let is_open = self.client_input == Input::Open && !self.client_would_assert();
        if !is_open || self.setup.opening != Opening::Hello {
            return Ok(());
        }
        let mut out = Vec::new();
        let mut input = Input::Open;
        let answer = client::act(&mut self.client, Trick::Nothing, |client| {
            input = client::take(client, taken, &mut out);
        });
        self.fly(answer);
        let expected = contents(self.client_received, out.len(), FROM_PROXY);
        check(out == expected, "the client received what was not sent")?;
        self.client_received += out.len();
        let most = self.proxy_sent + self.pending;
        check(self.client_received <= most, "the client received more than was sent")?;
        match &input {
            Input::Open => {}
            Input::Ended => {
                check(self.has_ended_in_time, "the client saw an end")?;
                check(self.client_received == most, "content is missing before the end")?;
            }
            Input::Failed(error) => {
                let may_fail = self.tampered.is_some() || self.is_abandoned;
                check(may_fail, &format!("the client complained: {error}"))?;
            }
        }
        self.client_input = input;
        Ok(())
    }

    fn carry(&mut self, bytes: usize) {
        if !self.wire.has_ended {
            let bytes = bytes.min(self.flying.len());
            self.wire.arrived.extend(self.flying.drain(..bytes));
            self.carried_bytes += bytes;
        }
    }

    /// Turns a bit of what is on its way, once.
    fn flip(&mut self, at: usize) {
        let bytes = self.flying.len();
        let Some(index) = (at * 37).checked_rem(bytes) else { return };
        let place = self.ciphertext_bytes - bytes + index;
        let flights = self.flights.iter().rev();
        let Some(flight) = flights.copied().find(|flight| flight.start <= place) else { return };
        if self.tampered.is_some() {
            return;
        }
        if let Some(byte) = self.flying.get_mut(index) {
            *byte ^= 1 << (at & 7);
        }
        // Content is authentic; what stands before a record, or in the handshake, need not be.
        if flight.is_content && place >= flight.start + 5 {
            self.tamper(flight.content_before, true);
        } else {
            self.tamper(usize::MAX, false);
        }
    }

    /// rustls asserts that it sends no alert after `close_notify`, and then it does.
    fn would_assert(&self) -> bool {
        cfg!(debug_assertions) && self.proxy_ends && self.tampered.is_some()
    }

    /// Likewise at the client, which cannot read on after a hole.
    fn client_would_assert(&self) -> bool {
        cfg!(debug_assertions) && self.client_end.is_some() && self.is_abandoned
    }

    /// The handshake goes on, or content is received.
    fn proxy_acts(&mut self, buffer_bytes: usize) -> Result<(), String> {
        if self.is_plain_http || (!self.is_done && self.failure.is_some()) {
            return Ok(());
        }
        if self.would_assert() {
            return Ok(());
        }
        if self.is_done {
            return self.proxy_receives(buffer_bytes);
        }
        self.wire.calls = 0;
        match self.session.handshake(&mut self.wire) {
            Ok(Handshake::Done) => {
                self.is_done = true;
                check(self.setup.opening == Opening::Hello, "a handshake without a hello")
            }
            Ok(Handshake::WantsBytes) => {
                check(self.wire.arrived.is_empty(), "it waits for bytes that are there")?;
                check(!self.wire.has_ended, "it waits for bytes after their end")
            }
            Ok(Handshake::WantsRoom) => {
                check(self.wire.room == 0, "it waits for room that is there")
            }
            Ok(Handshake::PlainHttp) => {
                self.is_plain_http = true;
                check(self.setup.opening == Opening::PlainHttp, "this is no plain HTTP")
            }
            Err(Errno::CONNRESET) => {
                self.failure = Some(Errno::CONNRESET);
                check(self.wire.has_ended, "a reset that was none")
            }
            Err(error) => {
                self.failure = Some(error);
                let is_breach = error == Errno::PROTO && self.tampered.is_some();
                check(is_breach, &format!("the handshake failed: {error}"))
            }
        }
    }

    fn proxy_receives(&mut self, buffer_bytes: usize) -> Result<(), String> {
        self.wire.calls = 0;
        let was_ready = self.session.is_ready();
        let (before, arrived) = (self.wire.received_bytes, self.wire.arrived.len());
        let mut buffer = vec![0; buffer_bytes];
        let received = self.session.receive(&mut self.wire, &mut buffer);
        if let Some(failure) = self.failure {
            return check(received == Err(failure), &format!("after {failure}: {received:?}"));
        }
        if self.proxy_has_seen_end {
            return check(received == Ok(0), &format!("after the end: {received:?}"));
        }
        match received {
            Ok(0) => {
                self.proxy_has_seen_end = true;
                let is_whole = self.proxy_received == self.client_sent;
                check(self.client_end.is_some() && is_whole, "an end that was none")
            }
            Ok(bytes) => {
                let expected = contents(self.proxy_received, bytes, FROM_CLIENT);
                check(buffer.get(..bytes) == Some(&expected), "received what was not sent")?;
                self.proxy_received += bytes;
                let most = self.tampered.unwrap_or(usize::MAX).min(self.client_sent);
                check(self.proxy_received <= most, "received more than is authentic")
            }
            Err(Errno::AGAIN) => {
                check(!was_ready, "it was ready for nothing")?;
                check(
                    self.wire.is_stuck || !self.wire.has_ended || arrived > 0,
                    "the end is not told",
                )?;
                let has_moved = self.wire.received_bytes > before;
                check(
                    self.wire.is_stuck || has_moved || arrived == 0,
                    "it does not take what is there",
                )
            }
            Err(Errno::CONNRESET) => {
                self.failure = Some(Errno::CONNRESET);
                check(
                    self.wire.has_ended && self.wire.arrived.is_empty(),
                    "a reset that was none",
                )?;
                if self.tampered.is_some() {
                    return Ok(());
                }
                let is_end_there = self.client_end.is_some_and(|end| end <= self.carried_bytes);
                check(!is_end_there, "the end was orderly")?;
                let whole = self.flights.iter().filter(|flight| flight.end <= self.carried_bytes);
                let whole = whole.map(|flight| flight.content_bytes).max().unwrap_or(0);
                check(self.proxy_received >= whole, "a reset before the content")
            }
            Err(error) => {
                self.failure = Some(error);
                let is_breach = error == Errno::PROTO && self.tampered.is_some();
                check(is_breach, &format!("receive failed: {error}"))
            }
        }
    }

    /// What `is_ready` says is what `receive` gives while the carrier gives nothing.
    fn probe(&mut self) -> Result<(), String> {
        if !self.is_done || self.would_assert() {
            return Ok(());
        }
        let is_ready = self.session.is_ready();
        let received = self.proxy_received;
        let failure = self.failure;
        if failure.is_some() {
            return check(is_ready || failure == Some(Errno::CONNRESET), "a breach is not told");
        }
        self.wire.is_stuck = true;
        let told = self.proxy_receives(1000);
        self.wire.is_stuck = false;
        told?;
        let has_given =
            self.proxy_received > received || self.proxy_has_seen_end || self.failure.is_some();
        check(is_ready == has_given, "it is ready, or is it not?")
    }

    fn proxy_sends(&mut self, bytes: usize) -> Result<(), String> {
        if !self.is_done || self.proxy_ends || self.is_abandoned {
            return Ok(());
        }
        self.wire.calls = 0;
        let offered = bytes.max(self.pending);
        let sent =
            self.session.send(&mut self.wire, &contents(self.proxy_sent, offered, FROM_PROXY));
        match sent {
            _ if self.failure == Some(Errno::PROTO) => {
                check(sent == Err(Errno::PROTO), "content after a breach")
            }
            Ok(sent) => {
                check((1..=offered).contains(&sent), "a strange amount was sent")?;
                self.proxy_sent += sent;
                self.pending = 0;
                Ok(())
            }
            Err(Errno::AGAIN) => {
                if self.pending == 0 {
                    self.pending = offered.min(SEND_BYTES);
                }
                check(self.wire.room == 0, "there was room")
            }
            Err(error) => {
                let is_breach = error == Errno::PROTO && self.tampered.is_some();
                check(is_breach, &format!("send failed: {error}"))
            }
        }
    }

    fn proxy_ends(&mut self) -> Result<(), String> {
        if !self.is_done {
            return Ok(());
        }
        self.wire.calls = 0;
        self.proxy_ends = true;
        self.has_ended_in_time |= !self.is_abandoned;
        let before = self.wire.sent.len();
        let ended = self.session.end(&mut self.wire);
        match ended {
            Ok(()) => {
                // An alert may still wait.
                let may_speak = !self.is_abandoned || self.failure.is_some();
                check(may_speak || self.wire.sent.len() == before, "a lost connection says more")
            }
            Err(Errno::AGAIN) => check(self.wire.room == 0, "there was room for the end"),
            Err(error) => check(self.failure.is_some(), &format!("the end failed: {error}")),
        }
    }
}
