//! One TLS connection on the client's side (RFC 8446, RFC 5246), without I/O: rustls turns ciphertext into plaintext and back, and
//! nothing here owns a socket. The bytes pass through two buffers of the core, so a session that is idle holds none: only a
//! record that was cut, plaintext that nobody has taken, or ciphertext that the client does not take is kept with it.
//!
//! The calls mean what those of a plain socket mean, so nobody above has to know: `receive` and `send` never block and say
//! `EAGAIN`, the end of input is `close_notify`, and a connection that ends without it was reset.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use rustix::io::Errno;
use rustls::ProtocolVersion;
use rustls::server::{ServerConfig, ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus,
    WriteTraffic,
};

/// The largest record on the wire: header, content, and what encryption may add (RFC 5246 section 6.2.3).
const RECORD_BYTES_MAX: usize = 5 + 16 * 1024 + 2048;

/// The most content of a record.
pub(crate) const RECORD_CONTENT_MAX: usize = 16 * 1024;

/// What is encrypted and sent at once.
const SEND_BYTES: usize = 64 * 1024;

/// Room for the records of one send, with what waited before it.
const OUTGOING_BYTES: usize = SEND_BYTES + 8 * 1024;

/// Most ciphertext that waits for a client which does not read: a send, or the flight of a handshake with a long chain.
const UNSENT_BYTES_MAX: usize = SEND_BYTES + 64 * 1024;

/// What the flight of a full handshake takes with a short chain.
const FLIGHT_BYTES: usize = 2 * 1024;

/// A socket, as the session uses it. Both calls never block.
pub(crate) trait Carrier {
    /// Receives ciphertext; 0 is the end, `EAGAIN` means nothing yet.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Errno>;
    /// Sends ciphertext as far as it is taken; `EAGAIN` means that there is no room.
    fn send(&mut self, bytes: &[u8]) -> Result<usize, Errno>;
}

/// The buffers of one core, used between two waits and by one session at a time.
pub(crate) struct Buffers {
    incoming: RefCell<Box<[u8]>>,
    outgoing: RefCell<Box<[u8]>>,
}

impl Buffers {
    pub(crate) fn new() -> Rc<Self> {
        let boxed = |bytes| RefCell::new(vec![0; bytes].into_boxed_slice());
        let incoming = boxed(SEND_BYTES + RECORD_BYTES_MAX);
        Rc::new(Self { incoming, outgoing: boxed(OUTGOING_BYTES) })
    }
}

/// How far the TLS handshake is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handshake {
    /// Requests can be read.
    Done,
    /// The client has to send.
    WantsBytes,
    /// The client has to take.
    WantsRoom,
    /// The client speaks HTTP without TLS.
    PlainHttp,
}

/// One TLS connection, without its socket.
pub(crate) struct Session {
    connection: UnbufferedServerConnection,
    buffers: Rc<Buffers>,
    /// Ciphertext that rustls has seen and not consumed: the beginning of a record, or of a message.
    incomplete: Vec<u8>,
    /// Plaintext that nobody has taken yet.
    plaintext: Vec<u8>,
    /// Ciphertext that the socket has not taken.
    unsent: Vec<u8>,
    /// How much of the caller's plaintext is in `unsent`; it is told as sent when all of it has gone.
    unsent_content_bytes: usize,
    /// `close_notify` has come.
    has_ended: bool,
    /// Why nothing more will come; rustls is not asked again.
    failure: Option<Errno>,
    /// `close_notify` is sent or on its way.
    is_ending: bool,
    beginning: Beginning,
}

/// What a client began with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beginning {
    Nothing,
    /// Bytes that may be TLS.
    Bytes,
    /// A letter, as every HTTP method has it and no TLS record.
    PlainHttp,
}

/// Where plaintext goes: to the caller as far as it has room, and into the session beyond that.
struct Sink<'s> {
    out: &'s mut [u8],
    filled: usize,
    beyond: &'s mut Vec<u8>,
}

impl Sink<'_> {
    fn take(&mut self, payload: &[u8]) {
        let free = self.out.get_mut(self.filled..).unwrap_or_default();
        let fits = if self.beyond.is_empty() { payload.len().min(free.len()) } else { 0 };
        let (now, later) = payload.split_at_checked(fits).unwrap_or((payload, &[]));
        if let Some(place) = free.get_mut(..fits) {
            place.copy_from_slice(now);
        }
        self.filled += fits;
        self.beyond.extend_from_slice(later);
    }
}

type Writing<'c> = WriteTraffic<'c, ServerConnectionData>;

impl Session {
    /// A session whose first bytes may have been received already.
    pub(crate) fn new(
        config: Arc<ServerConfig>,
        buffers: Rc<Buffers>,
        received: &[u8],
    ) -> Result<Self, rustls::Error> {
        Ok(Self {
            connection: UnbufferedServerConnection::new(config)?,
            buffers,
            incomplete: received.to_vec(),
            plaintext: Vec::new(),
            unsent: Vec::new(),
            unsent_content_bytes: 0,
            has_ended: false,
            failure: None,
            is_ending: false,
            beginning: Beginning::Nothing,
        })
    }

    /// Goes on with the TLS handshake as far as it goes now. An error ends the connection; the alert for it is sent already.
    pub(crate) fn handshake(&mut self, carrier: &mut impl Carrier) -> Result<Handshake, Errno> {
        loop {
            let is_done = !self.connection.is_handshaking();
            // The ticket of TLS 1.3 goes out with the first answer.
            if is_done && self.connection.protocol_version() == Some(ProtocolVersion::TLSv1_3) {
                return Ok(Handshake::Done);
            }
            match self.flush(carrier) {
                Ok(()) if is_done => return Ok(Handshake::Done),
                Ok(()) => {}
                Err(Errno::AGAIN) => return Ok(Handshake::WantsRoom),
                Err(error) => return Err(error),
            }
            match self.pull(carrier, &mut []) {
                // One that leaves right behind its last flight has shaken hands all the same.
                Ok(_) if self.has_ended && self.connection.is_handshaking() => {
                    return Err(Errno::CONNRESET);
                }
                Ok(_) => {}
                Err(Errno::AGAIN) => return Ok(Handshake::WantsBytes),
                Err(_) if self.beginning == Beginning::PlainHttp => {
                    return Ok(Handshake::PlainHttp);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the client has sent anything.
    pub(crate) fn has_begun(&self) -> bool {
        self.beginning != Beginning::Nothing
    }

    /// Whether the client has said `close_notify`.
    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Whether `receive` has something to say without the socket.
    pub(crate) fn is_ready(&self) -> bool {
        self.has_ended || self.failure.is_some() || !self.plaintext.is_empty()
    }

    /// What is kept with the session beyond itself.
    pub(super) fn held_bytes(&self) -> usize {
        self.incomplete.capacity() + self.plaintext.capacity() + self.unsent.capacity()
    }

    /// Receives plaintext: 0 is the end of input, `EAGAIN` nothing yet, `ECONNRESET` an end without `close_notify`, `EPROTO` a
    /// breach of the protocol. An error comes after all that came whole before it, and stays.
    pub(crate) fn receive(
        &mut self,
        carrier: &mut impl Carrier,
        out: &mut [u8],
    ) -> Result<usize, Errno> {
        if !self.plaintext.is_empty() {
            let taken = self.plaintext.len().min(out.len());
            let (now, later) = self.plaintext.split_at_checked(taken).unwrap_or_default();
            if let Some(place) = out.get_mut(..taken) {
                place.copy_from_slice(now);
            }
            self.plaintext = later.to_vec();
            return Ok(taken);
        }
        if self.has_ended {
            return Ok(0);
        }
        let unsent_before = self.unsent.len();
        let received = self.pull(carrier, out);
        if self.unsent.len() > unsent_before {
            // An answer of the protocol, to a change of keys for instance. What is not taken now goes with the next send.
            let _ = self.flush(carrier);
        }
        match received {
            Ok(0) if !self.has_ended => Err(Errno::AGAIN),
            other => other,
        }
    }

    /// Receives ciphertext and decrypts what is whole, until the socket is empty or `out` is nearly full.
    fn pull(&mut self, carrier: &mut impl Carrier, out: &mut [u8]) -> Result<usize, Errno> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let buffers = Rc::clone(&self.buffers);
        let mut incoming = buffers.incoming.borrow_mut();
        let mut held = self.incomplete.len();
        let mut beyond = std::mem::take(&mut self.plaintext);
        incoming.get_mut(..held).ok_or(Errno::PROTO)?.copy_from_slice(&self.incomplete);
        self.incomplete = Vec::new();
        let mut filled = 0;
        let outcome = loop {
            // Never more than fits into `out`, but for one record.
            let room = (out.len() - filled).max(RECORD_BYTES_MAX.saturating_sub(held));
            let room = room.min(incoming.len() - held);
            let mut is_drained = true;
            // What was received before the session began goes first.
            if self.has_begun() || held == 0 {
                match carrier.receive(incoming.get_mut(held..held + room).unwrap_or_default()) {
                    Ok(0) => break Err(Errno::CONNRESET),
                    Ok(received) => {
                        held += received;
                        is_drained = received < room;
                    }
                    Err(error) => break Err(error),
                }
            }
            let bytes = incoming.get_mut(..held).unwrap_or_default();
            if self.begins_plain(bytes) {
                break Err(Errno::PROTO);
            }
            let mut sink = Sink { out: &mut *out, filled, beyond: &mut beyond };
            let consumed = self.process(bytes, &mut sink, |_, _| {});
            filled = sink.filled;
            let consumed = match consumed {
                // What follows on `close_notify` is ignored (RFC 8446 section 6.1).
                Ok(_) if self.has_ended => held,
                Ok(consumed) => consumed.min(held),
                Err(error) => break Err(error),
            };
            incoming.copy_within(consumed..held, 0);
            held -= consumed;
            if held >= RECORD_BYTES_MAX {
                break Err(Errno::PROTO);
            }
            if self.has_ended || is_drained || out.len() - filled < RECORD_CONTENT_MAX {
                break Ok(());
            }
        };
        self.plaintext = beyond;
        if outcome == Err(Errno::PROTO) {
            self.refuse(carrier);
        } else {
            self.incomplete = incoming.get(..held).unwrap_or_default().to_vec();
            self.failure = outcome.err().filter(|error| *error != Errno::AGAIN);
            if self.failure.is_some() {
                // Whoever sent that end may not be the client, who must not take what was cut for the whole.
                self.is_ending = true;
            }
        }
        // What has come whole is told before an error.
        outcome.map(|()| filled).or_else(|error| if filled > 0 { Ok(filled) } else { Err(error) })
    }

    /// Whether the client speaks HTTP without TLS, by the first of its `bytes`.
    fn begins_plain(&mut self, bytes: &[u8]) -> bool {
        if !self.has_begun() {
            let is_http = bytes.first().is_some_and(u8::is_ascii_uppercase);
            self.beginning = if is_http { Beginning::PlainHttp } else { Beginning::Bytes };
        }
        self.beginning == Beginning::PlainHttp
    }

    /// The client has breached the protocol. rustls keeps places in bytes that are gone now, so it may not see others.
    fn refuse(&mut self, carrier: &mut impl Carrier) {
        if self.beginning == Beginning::Bytes {
            self.send_alert(carrier);
        }
        self.failure = Some(Errno::PROTO);
    }

    /// Sends plaintext: how much of it the socket has taken as a whole. After `EAGAIN` the same bytes have to be offered again,
    /// because the first of them are encrypted already.
    pub(crate) fn send(
        &mut self,
        carrier: &mut impl Carrier,
        bytes: &[u8],
    ) -> Result<usize, Errno> {
        if self.is_refused() {
            return Err(Errno::PROTO);
        }
        if self.unsent_content_bytes > 0 {
            self.flush(carrier)?;
            return Ok(std::mem::take(&mut self.unsent_content_bytes).min(bytes.len()));
        }
        let now = bytes.get(..SEND_BYTES.min(bytes.len())).unwrap_or_default();
        if now.is_empty() {
            return Ok(0);
        }
        let buffers = Rc::clone(&self.buffers);
        let mut outgoing = buffers.outgoing.borrow_mut();
        let written = self.write(&mut outgoing, |writing, room| writing.encrypt(now, room))?;
        let sent = match carrier.send(outgoing.get(..written).unwrap_or_default()) {
            Ok(sent) => sent,
            Err(Errno::AGAIN) => 0,
            Err(error) => return Err(error),
        };
        if sent >= written {
            return Ok(now.len());
        }
        self.unsent = outgoing.get(sent..written).unwrap_or_default().to_vec();
        self.unsent_content_bytes = now.len();
        Err(Errno::AGAIN)
    }

    /// Whether the client was told of a breach of the protocol; nothing follows on that.
    fn is_refused(&self) -> bool {
        self.failure == Some(Errno::PROTO)
    }

    /// Ends our direction with `close_notify`; `EAGAIN` until the socket has taken it.
    pub(crate) fn end(&mut self, carrier: &mut impl Carrier) -> Result<(), Errno> {
        if !self.is_ending && !self.is_refused() && !self.connection.is_handshaking() {
            let buffers = Rc::clone(&self.buffers);
            let mut outgoing = buffers.outgoing.borrow_mut();
            #[expect(
                clippy::redundant_closure_for_method_calls,
                reason = "its lifetime is too narrow"
            )]
            let written =
                self.write(&mut outgoing, |writing, room| writing.queue_close_notify(room))?;
            self.unsent = outgoing.get(..written).unwrap_or_default().to_vec();
            self.is_ending = true;
        }
        self.flush(carrier)
    }

    /// The connection will be reset: its end must not look like an orderly one.
    pub(crate) fn abandon(&mut self) {
        self.is_ending = true;
        self.unsent = Vec::new();
    }

    /// Fills `outgoing` with what waits and then with what `write` makes; returns how much there is.
    fn write(
        &mut self,
        outgoing: &mut [u8],
        write: impl FnOnce(&mut Writing<'_>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> Result<usize, Errno> {
        // rustls remembers places in what it has not consumed, so it has to see it again.
        let mut seen = std::mem::take(&mut self.incomplete);
        let mut beyond = std::mem::take(&mut self.plaintext);
        let mut sink = Sink { out: &mut [], filled: 0, beyond: &mut beyond };
        let mut write = Some(write);
        let mut written = Err(Errno::NOTCONN);
        let consumed = self.process(&mut seen, &mut sink, |writing, unsent| {
            let Some(write) = write.take() else { return };
            let Some((before, room)) = outgoing.split_at_mut_checked(unsent.len()) else { return };
            before.copy_from_slice(unsent);
            written =
                write(writing, room).map(|made| unsent.len() + made).map_err(|_| Errno::PROTO);
            if written.is_ok() {
                *unsent = Vec::new();
            }
        });
        self.plaintext = beyond;
        match consumed {
            Ok(consumed) if consumed < seen.len() => {
                seen.drain(..consumed);
                self.incomplete = seen;
            }
            Ok(_) => {}
            Err(error) => {
                self.failure = Some(error);
                return Err(error);
            }
        }
        written
    }

    /// Lets rustls work on `bytes` until it wants more; returns how many it is done with.
    fn process(
        &mut self,
        bytes: &mut [u8],
        sink: &mut Sink<'_>,
        mut writes: impl FnMut(&mut Writing<'_>, &mut Vec<u8>),
    ) -> Result<usize, Errno> {
        let mut consumed = 0;
        loop {
            let rest = bytes.get_mut(consumed..).unwrap_or_default();
            let UnbufferedStatus { mut discard, state } = self.connection.process_tls_records(rest);
            let mut goes_on = true;
            match state.map_err(|_| Errno::PROTO)? {
                ConnectionState::ReadTraffic(mut reading) => {
                    while let Some(record) = reading.next_record() {
                        let record = record.map_err(|_| Errno::PROTO)?;
                        discard += record.discard;
                        sink.take(record.payload);
                    }
                }
                ConnectionState::EncodeTlsData(mut encoding) => {
                    let before = self.unsent.len();
                    if let Err(EncodeError::InsufficientSize(InsufficientSizeError {
                        required_size,
                    })) = encoding.encode(&mut [])
                    {
                        // Room for a flight at once.
                        self.unsent.reserve(required_size.max(FLIGHT_BYTES.saturating_sub(before)));
                        self.unsent.resize(before + required_size, 0);
                        let place = self.unsent.get_mut(before..).unwrap_or_default();
                        encoding.encode(place).map_err(|_| Errno::PROTO)?;
                    }
                    if self.unsent.len() > UNSENT_BYTES_MAX {
                        return Err(Errno::PROTO);
                    }
                }
                ConnectionState::TransmitTlsData(transmitting) => transmitting.done(),
                ConnectionState::PeerClosed => self.has_ended = true,
                ConnectionState::WriteTraffic(mut writing) => {
                    writes(&mut writing, &mut self.unsent);
                    goes_on = false;
                }
                ConnectionState::BlockedHandshake | ConnectionState::Closed => goes_on = false,
                // Early data is not offered.
                _ => return Err(Errno::PROTO),
            }
            consumed += discard;
            if !goes_on {
                return Ok(consumed);
            }
        }
    }

    /// Sends what waits; `EAGAIN` until all of it has gone.
    fn flush(&mut self, carrier: &mut impl Carrier) -> Result<(), Errno> {
        while !self.unsent.is_empty() {
            let sent = carrier.send(&self.unsent)?;
            self.unsent.drain(..sent.min(self.unsent.len()));
        }
        self.unsent = Vec::new();
        Ok(())
    }

    /// Tells the client why, as far as it is taken at once.
    fn send_alert(&mut self, carrier: &mut impl Carrier) {
        while self.connection.wants_write()
            && let Ok(ConnectionState::EncodeTlsData(mut encoding)) =
                self.connection.process_tls_records(&mut []).state
        {
            let mut alert = [0; 256];
            if let Ok(written) = encoding.encode(&mut alert) {
                self.unsent.extend_from_slice(alert.get(..written).unwrap_or_default());
            }
        }
        let _ = self.flush(carrier);
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session")
    }
}

#[cfg(test)]
mod tests;
