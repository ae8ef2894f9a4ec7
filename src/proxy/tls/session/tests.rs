//! Single properties of a session; `super::super::oracle` plays whole scripts.

use std::collections::VecDeque;
use std::sync::Arc;

use rustix::io::Errno;
use rustls::client::ClientConnection;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use rustls::crypto::{CipherSuiteCommon, CryptoProvider};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::ServerConfig;
use rustls::{SupportedCipherSuite, Tls12CipherSuite, Tls13CipherSuite};

use super::super::oracle::client::{self, Clients, Greeting, Input, Trick};
use super::{
    Buffers, Carrier, Handshake, RECORD_BYTES_MAX, RECORD_CONTENT_MAX, SEND_BYTES, Session,
};
use crate::certificate::{Certificate, Offer};
use crate::metrics::ControlMetrics;

const TLS13: Greeting = Greeting { is_tls12: false, resumes: true, has_alpn: true };
const TLS12: Greeting = Greeting { is_tls12: true, ..TLS13 };

#[derive(Default)]
struct Wire {
    arrived: VecDeque<u8>,
    /// What follows on that.
    then: Option<Errno>,
    has_ended: bool,
    room: usize,
    sent: Vec<u8>,
}

impl Carrier for Wire {
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        if self.arrived.is_empty() && !self.has_ended {
            return Err(self.then.unwrap_or(Errno::AGAIN));
        }
        assert!(!buffer.is_empty(), "nothing is asked for");
        Ok(std::io::Read::read(&mut self.arrived, buffer).unwrap())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        let taken = bytes.len().min(self.room);
        self.room -= taken;
        self.sent.extend_from_slice(&bytes[..taken]);
        if taken == 0 { Err(Errno::AGAIN) } else { Ok(taken) }
    }
}

struct Pair {
    client: ClientConnection,
    session: Session,
    wire: Wire,
    /// What the client received.
    content: Vec<u8>,
    input: Input,
}

fn offered() -> Arc<ServerConfig> {
    let certificate = Certificate::self_signed("localhost").unwrap();
    let offer = Offer::new(&certificate, Arc::new(ControlMetrics::default())).unwrap();
    offer.current().reader().load()
}

fn session(received: &[u8]) -> Session {
    Session::new(offered(), Buffers::new(), received).unwrap()
}

impl Pair {
    /// Before the handshake.
    fn new(greeting: Greeting, config: Arc<ServerConfig>) -> Self {
        Self {
            client: Clients::new().unwrap().greet(greeting).unwrap(),
            session: Session::new(config, Buffers::new(), &[]).unwrap(),
            wire: Wire { room: usize::MAX, ..Wire::default() },
            content: Vec::new(),
            input: Input::Open,
        }
    }

    fn connected(greeting: Greeting) -> Self {
        Self::connected_to(greeting, offered())
    }

    fn connected_to(greeting: Greeting, config: Arc<ServerConfig>) -> Self {
        let mut pair = Self::new(greeting, config);
        pair.client_sends();
        assert_eq!(pair.session.handshake(&mut pair.wire), Ok(Handshake::WantsBytes));
        pair.client_takes();
        if greeting.is_tls12 {
            assert_eq!(pair.session.handshake(&mut pair.wire), Ok(Handshake::Done));
            pair.client_takes();
        } else {
            pair.client_sends();
            pair.wire.room = 0;
            assert_eq!(pair.session.handshake(&mut pair.wire), Ok(Handshake::Done));
            pair.wire.room = usize::MAX;
        }
        assert!(!pair.client.is_handshaking());
        pair
    }

    fn client_acts(&mut self, trick: Trick, act: impl FnOnce(&mut ClientConnection)) -> Vec<u8> {
        client::act(&mut self.client, trick, act)
    }

    fn client_sends(&mut self) {
        let bytes = self.client_acts(Trick::Nothing, |_| {});
        self.wire.arrived.extend(bytes);
    }

    fn client_writes(&mut self, content: &[u8]) {
        let bytes = self.client_acts(Trick::Nothing, |client| {
            assert_eq!(client::write(client, content), content.len());
        });
        self.wire.arrived.extend(bytes);
    }

    fn client_ends(&mut self) {
        let bytes = self.client_acts(Trick::Nothing, |client| client.send_close_notify());
        self.wire.arrived.extend(bytes);
    }

    fn client_takes(&mut self) {
        let sent = std::mem::take(&mut self.wire.sent).into();
        self.input = client::take(&mut self.client, sent, &mut self.content);
        self.client_sends();
    }

    fn receive(&mut self) -> Result<Vec<u8>, Errno> {
        let mut buffer = vec![0; 128 * 1024];
        let received = self.session.receive(&mut self.wire, &mut buffer)?;
        Ok(buffer[..received].to_vec())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        self.session.send(&mut self.wire, bytes)
    }
}

#[test]
fn a_send_is_told_when_all_of_it_has_gone() {
    for greeting in [TLS12, TLS13] {
        let mut pair = Pair::connected(greeting);
        let content = vec![7; 40_000];
        pair.wire.room = 30_000;
        assert_eq!(pair.send(&content[..39_000]), Err(Errno::AGAIN));
        pair.wire.room = 9_000;
        assert_eq!(pair.send(&content), Err(Errno::AGAIN));
        pair.wire.room = usize::MAX;
        assert_eq!(pair.send(&content), Ok(39_000));
        assert_eq!(pair.send(&content[39_000..]), Ok(1_000));
        pair.client_takes();
        assert_eq!(pair.content, content);
        assert_eq!(pair.session.held_bytes(), 0);
    }
}

#[test]
fn a_ticket_goes_with_the_first_answer() {
    let mut pair = Pair::connected(TLS13);
    assert!(pair.wire.sent.is_empty());
    assert_eq!(pair.client.tls13_tickets_received(), 0);
    assert_eq!(pair.send(b"a"), Ok(1));
    pair.client_takes();
    assert_eq!((pair.client.tls13_tickets_received(), pair.content.as_slice()), (1, &b"a"[..]));
}

#[test]
fn the_end_of_input_is_close_notify_and_what_follows_is_ignored() {
    for greeting in [TLS12, TLS13] {
        let mut pair = Pair::connected(greeting);
        pair.client_writes(b"last");
        pair.client_ends();
        pair.wire.arrived.extend(vec![0; 40_000]);
        assert_eq!(pair.receive(), Ok(b"last".to_vec()));
        assert!(pair.session.is_ready());
        assert_eq!(pair.receive(), Ok(Vec::new()));
        assert_eq!(pair.receive(), Ok(Vec::new()));
        assert_eq!(pair.send(b"answer"), Ok(6));
        assert_eq!(pair.session.end(&mut pair.wire), Ok(()));
        pair.client_takes();
        assert_eq!((pair.content.as_slice(), &pair.input), (&b"answer"[..], &Input::Ended));
        assert_eq!(pair.session.held_bytes(), 0);
    }
}

#[test]
fn an_end_without_close_notify_is_a_reset_after_the_content() {
    let mut pair = Pair::connected(TLS13);
    pair.client_writes(b"last");
    pair.wire.has_ended = true;
    assert_eq!(pair.receive(), Ok(b"last".to_vec()));
    assert_eq!(pair.receive(), Err(Errno::CONNRESET));
    assert_eq!(pair.receive(), Err(Errno::CONNRESET));
}

#[test]
fn a_failure_of_the_carrier_comes_after_the_content() {
    let mut pair = Pair::connected(TLS13);
    for _ in 0..9 {
        pair.client_writes(&[7; RECORD_CONTENT_MAX]);
    }
    // As much as is received at once, so that the session asks for more.
    pair.wire.arrived.truncate(SEND_BYTES + RECORD_BYTES_MAX);
    pair.wire.then = Some(Errno::TIMEDOUT);
    assert_eq!(pair.receive(), Ok(vec![7; 5 * RECORD_CONTENT_MAX]));
    assert!(pair.session.is_ready());
    assert_eq!(pair.receive(), Err(Errno::TIMEDOUT));
}

#[test]
fn a_request_and_an_end_may_come_with_the_handshake() {
    for greeting in [TLS12, TLS13] {
        let mut pair = Pair::new(greeting, offered());
        pair.client_sends();
        assert_eq!(pair.session.handshake(&mut pair.wire), Ok(Handshake::WantsBytes));
        pair.client_takes();
        if greeting.is_tls12 {
            assert_eq!(pair.session.handshake(&mut pair.wire), Ok(Handshake::Done));
            pair.client_takes();
        }
        pair.client_writes(b"request");
        pair.client_ends();
        assert_eq!(pair.session.handshake(&mut pair.wire), Ok(Handshake::Done));
        assert_eq!(pair.receive(), Ok(b"request".to_vec()));
        assert_eq!(pair.receive(), Ok(Vec::new()));
        assert_eq!(pair.send(b"answer"), Ok(6));
        pair.client_takes();
        assert_eq!(pair.content, b"answer");
    }
}

#[test]
fn a_breach_comes_after_the_content_and_stays() {
    for greeting in [TLS12, TLS13] {
        let mut pair = Pair::connected(greeting);
        pair.client_writes(b"whole");
        let before = pair.wire.arrived.len();
        pair.client_writes(b"broken");
        pair.wire.arrived[before + 10] ^= 1;
        pair.client_writes(b"whole again");
        assert_eq!(pair.receive(), Ok(b"whole".to_vec()));
        assert!(pair.session.is_ready());
        assert_eq!(pair.receive(), Err(Errno::PROTO));
        assert_eq!(pair.receive(), Err(Errno::PROTO));
        pair.client_takes();
        assert!(matches!(pair.input, Input::Failed(rustls::Error::AlertReceived(_))));
        assert_eq!(pair.send(b"after the alert"), Err(Errno::PROTO));
        assert_eq!(pair.session.end(&mut pair.wire), Ok(()));
        assert!(pair.wire.sent.is_empty());
    }
}

/// rustls keeps places in the bytes of a message that has not come whole.
#[test]
fn a_message_that_is_cut_does_no_harm() {
    let mut pair = Pair::connected(TLS13);
    let bytes = pair.client_acts(Trick::Cut(2), |client| client.refresh_traffic_keys().unwrap());
    pair.wire.arrived.extend(&bytes[..bytes.len() - 10]);
    assert_eq!(pair.receive(), Err(Errno::AGAIN));
    assert_eq!(pair.send(b"while"), Ok(5));
    pair.wire.arrived.extend(&bytes[bytes.len() - 10..]);
    pair.client_writes(b"with other keys");
    assert_eq!(pair.receive(), Ok(b"with other keys".to_vec()));
    assert_eq!(pair.send(b" and after"), Ok(10));
    pair.client_takes();
    assert_eq!((pair.content.as_slice(), &pair.input), (&b"while and after"[..], &Input::Open));
    assert_eq!(pair.session.held_bytes(), 0);
}

/// The same, when something else follows or nothing does; then the session is still used until it is dropped.
#[test]
fn a_message_that_stays_cut_does_no_harm() {
    for then in [None, Some(Errno::TIMEDOUT), Some(Errno::PROTO)] {
        let mut pair = Pair::connected(TLS13);
        let cut = pair.client_acts(Trick::AsHandshake, |client| {
            client::write(client, &[24, 0, 0, 1]);
        });
        pair.wire.arrived.extend(cut);
        match then {
            Some(Errno::PROTO) => pair.client_writes(b"in between"),
            Some(failure) => pair.wire.then = Some(failure),
            None => pair.wire.has_ended = true,
        }
        let told = loop {
            match pair.receive() {
                Err(Errno::AGAIN) => {}
                other => break other,
            }
        };
        assert_eq!(told, Err(then.unwrap_or(Errno::CONNRESET)));
        for _ in 0..2 {
            let _ = pair.send(b"whatever");
            let _ = pair.session.end(&mut pair.wire);
            assert_eq!(pair.receive(), told);
        }
    }
}

#[test]
fn keys_change_while_ciphertext_waits() {
    let mut pair = Pair::connected(TLS13);
    let content = vec![7; 30_000];
    pair.wire.room = 20_000;
    assert_eq!(pair.send(&content), Err(Errno::AGAIN));
    for _ in 0..20 {
        let bytes =
            pair.client_acts(Trick::Nothing, |client| client.refresh_traffic_keys().unwrap());
        pair.wire.arrived.extend(bytes);
        pair.client_writes(b"x");
        assert_eq!(pair.receive(), Ok(b"x".to_vec()));
    }
    pair.wire.room = usize::MAX;
    assert_eq!(pair.send(&content), Ok(30_000));
    assert_eq!(pair.send(&content), Ok(30_000));
    pair.client_takes();
    assert_eq!((pair.content.len(), &pair.input), (60_000, &Input::Open));
    assert_eq!(pair.session.held_bytes(), 0);
}

#[test]
fn an_idle_session_holds_nothing() {
    for greeting in [TLS12, TLS13] {
        let mut pair = Pair::connected(greeting);
        assert_eq!(pair.send(b"a"), Ok(1));
        assert_eq!(pair.session.held_bytes(), 0);
        pair.client_writes(&[7; 1000]);
        let last = pair.wire.arrived.pop_back().unwrap();
        assert_eq!(pair.receive(), Err(Errno::AGAIN));
        assert!((1000..1100).contains(&pair.session.held_bytes()));
        pair.wire.arrived.push_back(last);
        assert_eq!(pair.session.receive(&mut pair.wire, &mut [0; 999]), Ok(999));
        assert!(pair.session.is_ready());
        assert_eq!(pair.receive(), Ok(vec![7]));
        assert!(!pair.session.is_ready());
        assert_eq!(pair.session.held_bytes(), 0);
    }
}

#[test]
fn garbage_is_answered_with_an_alert() {
    let mut wire = Wire { room: usize::MAX, ..Wire::default() };
    wire.arrived.extend([0xFF; 100]);
    let mut session = session(&[]);
    assert!(!session.has_begun());
    assert_eq!(session.handshake(&mut wire), Err(Errno::PROTO));
    assert!(session.has_begun());
    // alert, TLS 1.2, two bytes, fatal
    assert_eq!(wire.sent[..6], [21, 3, 3, 0, 2, 2]);
}

#[test]
fn plain_http_is_recognised_and_not_answered() {
    let long = [b"GET /".as_slice(), &vec![b'a'; 20_000]].concat();
    for request in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"P", &long] {
        for (received, has_ended) in [(false, false), (true, false), (true, true)] {
            let (now, later) = if received { (request, &[][..]) } else { (&[][..], request) };
            let mut session = session(now);
            let mut wire = Wire { room: usize::MAX, has_ended, ..Wire::default() };
            wire.arrived.extend(later);
            assert_eq!(session.handshake(&mut wire), Ok(Handshake::PlainHttp));
            assert!(wire.sent.is_empty() && session.has_begun());
        }
    }
}

/// Keys that are good for a few records only, as all are for some number of them.
fn short_lived_keys() -> Arc<ServerConfig> {
    let limited = |common: &CipherSuiteCommon| CipherSuiteCommon {
        suite: common.suite,
        hash_provider: common.hash_provider,
        confidentiality_limit: 20,
    };
    let tls13 = cipher_suite::TLS13_AES_128_GCM_SHA256.tls13().unwrap();
    let tls13 = Tls13CipherSuite { common: limited(&tls13.common), ..*tls13 };
    let SupportedCipherSuite::Tls12(tls12) = cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
    else {
        unreachable!("it is a suite of TLS 1.2")
    };
    let tls12 = Tls12CipherSuite { common: limited(&tls12.common), ..*tls12 };
    let cipher_suites = vec![
        SupportedCipherSuite::Tls13(Box::leak(Box::new(tls13))),
        SupportedCipherSuite::Tls12(Box::leak(Box::new(tls12))),
    ];
    let provider = CryptoProvider { cipher_suites, ..default_provider() };
    let offered = offered();
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(&offered.cert_resolver));
    Arc::new(config)
}

#[test]
fn keys_are_renewed_before_they_are_worn_out() {
    let mut pair = Pair::connected_to(TLS13, short_lived_keys());
    for round in 0..100 {
        let content = vec![7; if round % 2 == 0 { 1 } else { SEND_BYTES }];
        pair.wire.room = if round % 3 == 0 { 10 } else { usize::MAX };
        if pair.send(&content) == Err(Errno::AGAIN) {
            pair.wire.room = usize::MAX;
            assert_eq!(pair.send(&content), Ok(content.len()));
        }
        pair.client_takes();
        assert_eq!(pair.input, Input::Open);
        pair.client_writes(b"a");
        assert_eq!(pair.receive(), Ok(b"a".to_vec()));
    }
    assert_eq!(pair.content.len(), 50 * (1 + SEND_BYTES));
    assert_eq!(pair.session.held_bytes(), 0);
}

/// TLS 1.2 has no other keys.
#[test]
fn worn_out_keys_end_tls12() {
    let mut pair = Pair::connected_to(TLS12, short_lived_keys());
    let mut sent = 0;
    let failure = loop {
        match pair.send(b"a") {
            Ok(bytes) => sent += bytes,
            Err(error) => break error,
        }
    };
    assert_eq!((failure, pair.send(b"a")), (Errno::PROTO, Err(Errno::PROTO)));
    pair.client_takes();
    assert!(sent > 10 && pair.content.len() == sent);
}

/// As long as clients accept.
#[test]
fn a_long_chain_goes_out_in_pieces() {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let leaf: CertificateDer<'static> = params.self_signed(&key).unwrap().der().clone();
    let chain = vec![leaf.clone(); 60_000 / leaf.len()];
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    for greeting in [TLS12, TLS13] {
        let mut pair = Pair::new(greeting, Arc::new(config.clone()));
        pair.wire.room = 0;
        pair.client_sends();
        while pair.session.handshake(&mut pair.wire) == Ok(Handshake::WantsRoom) {
            pair.wire.room = 10_000;
        }
        assert!(pair.wire.sent.len() > 50_000);
        pair.client_takes();
        pair.wire.room = usize::MAX;
        assert_eq!(pair.session.handshake(&mut pair.wire), Ok(Handshake::Done));
        pair.client_takes();
        assert!(!pair.client.is_handshaking());
    }
}
