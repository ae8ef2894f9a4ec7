//! A property of TLS sessions, for every script: over a carrier that cuts and stalls, the bytes that are received on each
//! side are those that were sent on the other, in order, and an end is told as what it is. A script says what a client,
//! its carrier and the proxy do; the client is another implementation of the protocol, or at least another half of one.
//! It panics when something else happened. See `proxy::oracle`.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use rustls::ServerConfig;

use self::client::{Clients, Greeting};
use self::play::Play;
use super::session::Buffers;
use crate::certificate::{Certificate, Offer};
use crate::metrics::ControlMetrics;

pub(super) mod client;
mod play;

/// Longer scripts say nothing new.
const SCRIPT_BYTES_MAX: usize = 4 + 2 * 200;

thread_local! {
    static STAGE: RefCell<Option<Stage>> = const { RefCell::new(None) };
}

/// Everything that outlives one script; making it takes longer than everything else.
struct Stage {
    config: Arc<ServerConfig>,
    buffers: Rc<Buffers>,
    clients: Clients,
}

impl Stage {
    fn build() -> Result<Self, String> {
        let told = |error: crate::certificate::CertificateError| error.to_string();
        let certificate = Certificate::self_signed("localhost").map_err(told)?;
        let offer = Offer::new(&certificate, Arc::new(ControlMetrics::default())).map_err(told)?;
        let clients = Clients::new().map_err(|error| error.to_string())?;
        let config = offer.current().reader().load();
        Ok(Self { config, buffers: Buffers::new(), clients })
    }
}

/// How the connection begins.
#[derive(Debug, Clone, Copy)]
struct Setup {
    greeting: Greeting,
    opening: Opening,
    /// How much of the first flight was received before the session begins.
    received_bytes: usize,
    /// Both sides end at last.
    ends: bool,
    /// Of the proxy, for what is left at last.
    buffer_bytes: usize,
}

/// What the client sends first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opening {
    Hello,
    PlainHttp,
    Garbage,
}

#[derive(Debug, Clone, Copy)]
enum Action {
    ClientWrites(usize),
    ClientWritesAfterEmptyRecords(u8),
    ClientRenewsKeys,
    /// In two records.
    ClientRenewsKeysCut(usize),
    /// The beginning of a message of the handshake, without the rest.
    ClientBeginsMessage,
    ClientEnds,
    ClientTakes(usize),
    /// Moves ciphertext of the client on to the proxy.
    Carry(usize),
    /// The carrier takes so much more of the proxy.
    Room(usize),
    Receive(usize),
    Send(usize),
    End,
    Abandon,
    /// The client's direction ends below TLS.
    Eof,
    Garbage(usize),
    Flip(usize),
    /// Whether `is_ready` tells the truth, without the carrier.
    Probe,
}

/// Any bytes as a script of one TLS connection.
///
/// # Panics
///
/// When the property does not hold.
pub fn tls_stream(input: &[u8]) {
    if input.len() > SCRIPT_BYTES_MAX {
        return;
    }
    let (setup, actions) = read(input);
    let kept = STAGE.with_borrow_mut(Option::take);
    let built = kept.map_or_else(Stage::build, Ok);
    assert!(built.is_ok(), "no stage: {:?}", built.err());
    let Ok(stage) = built else { return };
    if setup.greeting.resumes {
        // The connection that gives the ticket.
        let before = Setup { opening: Opening::Hello, received_bytes: 0, ends: true, ..setup };
        let told = Play::run(&stage, before, &[]);
        assert!(told.is_ok(), "before {setup:?}: {}", told.err().unwrap_or_default());
    }
    let told = Play::run(&stage, setup, &actions);
    assert!(told.is_ok(), "{}\n{setup:?}\n{actions:?}", told.err().unwrap_or_default());
    STAGE.set(Some(stage));
}

/// The script in `input`: four bytes of a beginning, and two for each action.
fn read(input: &[u8]) -> (Setup, Vec<Action>) {
    let byte = |at: usize| input.get(at).copied().unwrap_or(0);
    let bits = byte(0);
    let greeting =
        Greeting { is_tls12: bits & 1 != 0, resumes: bits & 2 != 0, has_alpn: bits & 4 != 0 };
    let setup = Setup {
        greeting,
        opening: match byte(1) {
            255 => Opening::PlainHttp,
            254 => Opening::Garbage,
            _ => Opening::Hello,
        },
        received_bytes: amount(byte(2)),
        ends: bits & 8 != 0,
        buffer_bytes: amount(byte(3)).max(64),
    };
    let actions = input.get(4..).unwrap_or_default().chunks(2).map(|pair| {
        let (kind, of) = (pair.first().copied().unwrap_or(0), pair.get(1).copied().unwrap_or(0));
        let bytes = amount(of);
        match kind % 24 {
            0..=2 => Action::ClientWrites(bytes),
            3 => Action::ClientWritesAfterEmptyRecords(of % 40),
            4 => Action::ClientRenewsKeys,
            5 => Action::ClientRenewsKeysCut(usize::from(of % 5)),
            6 => Action::ClientBeginsMessage,
            7 => Action::ClientEnds,
            8 | 9 => Action::ClientTakes(bytes),
            10..=12 => Action::Carry(bytes),
            13 => Action::Room(bytes),
            14..=16 => Action::Receive(bytes.max(1)),
            17 | 18 => Action::Send(bytes.max(1)),
            19 => Action::End,
            20 => match of {
                0..64 => Action::Abandon,
                64..128 => Action::Eof,
                _ => Action::Room(bytes),
            },
            21 => match of {
                0..64 => Action::Garbage(bytes),
                64..128 => Action::Garbage(300 * bytes),
                _ => Action::Carry(bytes),
            },
            22 => Action::Flip(usize::from(of)),
            _ => Action::Probe,
        }
    });
    (setup, actions.collect())
}

/// Small amounts as they are, and around powers of two up to 64 KiB.
fn amount(byte: u8) -> usize {
    match byte {
        0..128 => usize::from(byte),
        _ => ((2_usize << (byte & 15)) + usize::from(byte >> 4 & 7)).saturating_sub(4),
    }
}
