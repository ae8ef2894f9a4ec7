//! A TLS client whose ciphertext passes through the hands of the test.

use std::io::Read;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::payload::{find, show};
use super::peer::Peer;
use super::proxy::Proxy;

/// A TLS connection that sends nothing by itself.
pub(crate) struct Stepwise {
    pub(crate) peer: Peer,
    pub(crate) connection: ClientConnection,
    plaintext: Vec<u8>,
}

impl Stepwise {
    /// Connects; nothing is sent.
    #[track_caller]
    pub(crate) fn connect(proxy: &Proxy, config: &Arc<ClientConfig>) -> Self {
        let name = ServerName::try_from("localhost").expect("a name");
        let connection = ClientConnection::new(Arc::clone(config), name).expect("a client");
        Self { peer: proxy.connect_bare(), connection, plaintext: Vec::new() }
    }

    /// The ciphertext that the client would send now.
    pub(crate) fn outgoing(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut bytes).expect("memory takes everything");
        }
        bytes
    }

    /// Plaintext as ciphertext.
    pub(crate) fn encrypted(&mut self, plaintext: &[u8]) -> Vec<u8> {
        std::io::Write::write_all(&mut self.connection.writer(), plaintext).expect("little");
        self.outgoing()
    }

    /// Reads once. An error is what rustls says of it; `Ok(false)` is the end of input.
    #[track_caller]
    pub(crate) fn receive(&mut self) -> Result<bool, rustls::Error> {
        let mut chunk = [0; 4096];
        let count = self.peer.read_chunk(&mut chunk);
        let mut rest = &chunk[..count];
        while !rest.is_empty() {
            self.connection.read_tls(&mut rest).expect("room");
            let state = self.connection.process_new_packets()?;
            let mut plaintext = vec![0; state.plaintext_bytes_to_read()];
            self.connection.reader().read_exact(&mut plaintext).expect("counted");
            self.plaintext.extend(plaintext);
        }
        Ok(count > 0)
    }

    /// Goes on with the handshake until it is done, and returns the last flight unsent.
    #[track_caller]
    pub(crate) fn last_flight(&mut self) -> Vec<u8> {
        loop {
            let bytes = self.outgoing();
            if !self.connection.is_handshaking() {
                return bytes;
            }
            self.peer.send(&bytes);
            let more = self.receive().unwrap_or_else(|error| panic!("TLS handshake: {error}"));
            assert!(more, "an end in the TLS handshake");
        }
    }

    /// Finishes the handshake.
    #[track_caller]
    pub(crate) fn shake(&mut self) {
        let flight = self.last_flight();
        self.peer.send(&flight);
        while self.connection.is_handshaking() || self.connection.wants_write() {
            let bytes = self.outgoing();
            self.peer.send(&bytes);
            if self.connection.is_handshaking() {
                self.receive().unwrap_or_else(|error| panic!("TLS handshake: {error}"));
            }
        }
    }

    /// Reads plaintext up to and with `end`.
    #[track_caller]
    pub(crate) fn read_through(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = find(&self.plaintext, end) {
                let rest = self.plaintext.split_off(at + end.len());
                return std::mem::replace(&mut self.plaintext, rest);
            }
            let more = self.receive().unwrap_or_else(|error| panic!("{error}"));
            assert!(more, "end of input; had: {}", show(&self.plaintext));
        }
    }
}
