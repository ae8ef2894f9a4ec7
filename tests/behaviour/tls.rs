//! Sections 3.3, 5.1, 12: the TLS handshake of clients, as strangers to the code try it: versions, ALPN, records cut anywhere,
//! garbage, plain HTTP on the port, and what the upstream and the client are told about TLS.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ProtocolVersion};

use crate::harness::crowd::{self, KEYS};
use crate::harness::json::Json;
use crate::harness::payload::{Random, Stream, seed};
use crate::harness::stepwise::Stepwise;
use crate::harness::tls::{ONLY_12, ONLY_13, Trusting, client};
use crate::harness::{
    ANSWER_101, ANSWER_LAST, Driver, End, HANDSHAKE, OUTDATED, PATIENCE, Peer, Proxy, Setup,
    Upstream, behind, eventually, wire,
};

on_drivers!(
    every:
        versions_1_2_and_1_3_are_spoken_and_no_older_one;
    both:
        http_1_1_is_the_only_protocol,
        a_client_hello_may_be_cut_anywhere,
        a_client_hello_may_come_in_many_records,
        records_may_be_cut_anywhere,
        every_byte_may_be_a_record,
        garbage_before_and_in_the_handshake_is_closed_and_counted,
        garbage_in_a_tunnel_ends_that_tunnel_alone,
        a_handshake_that_stops_is_closed_in_time,
        a_crowd_of_handshakes_that_stop_holds_nobody_up,
        who_only_connects_is_no_failure,
        plain_http_is_told_to_use_tls,
        tls_where_none_is_spoken_is_refused,
        new_keys_do_not_disturb_a_tunnel,
        new_keys_without_end_cost_no_memory,
        a_connection_over_the_limit_is_no_tls_failure,
        clients_and_upstream_are_told_of_tls,
        a_proxy_header_comes_before_tls,
        refusals_arrive_whole,
);

/// [`Setup::new`] with TLS.
fn secure(driver: Driver, url: impl AsRef<str>) -> Setup {
    Setup::new(driver, url).set("tls.enabled", "true")
}

fn behind_tls(driver: Driver) -> (Proxy, Upstream) {
    let upstream = Upstream::start();
    (secure(driver, upstream.url()).start(), upstream)
}

const READY: &[u8] = b"GET /_vibewarden/ready HTTP/1.1\r\nHost: t.test\r\n\r\n";

/// A client whose hello is small, so that cutting it everywhere takes few connections.
fn small_client() -> Arc<ClientConfig> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.dangerous().set_certificate_verifier(Arc::new(Trusting::new()));
    Arc::new(config)
}

fn tls_failed(proxy: &Proxy) -> f64 {
    proxy.scrape().value("vibewarden_connections_total", &[("result", "tls_failed")])
}

#[track_caller]
fn wait_tls_failed(proxy: &Proxy, count: f64) {
    proxy.wait_metric("vibewarden_connections_total", &[("result", "tls_failed")], count);
}

/// The `ClientHello` of a client that knows no `supported_versions`, as they were before TLS 1.3.
fn old_client_hello(version: [u8; 2]) -> Vec<u8> {
    let suites: [u16; 6] = [0xc02b, 0xc02f, 0xc013, 0xc014, 0x002f, 0x0035];
    let mut extensions = Vec::new();
    // supported_groups, ec_point_formats, signature_algorithms
    extensions.extend([0x00, 0x0a, 0x00, 0x06, 0x00, 0x04, 0x00, 0x17, 0x00, 0x1d]);
    extensions.extend([0x00, 0x0b, 0x00, 0x02, 0x01, 0x00]);
    extensions.extend([0x00, 0x0d, 0x00, 0x06, 0x00, 0x04, 0x04, 0x03, 0x04, 0x01]);
    let mut body = version.to_vec();
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 12]);
    body.extend(suites.iter().flat_map(|suite| suite.to_be_bytes()));
    body.extend([1, 0]);
    body.extend(u16::try_from(extensions.len()).expect("short").to_be_bytes());
    body.extend(extensions);
    let length = u16::try_from(body.len()).expect("short").to_be_bytes();
    let message = [&[1, 0, length[0], length[1]][..], &body].concat();
    record(22, &message)
}

/// A record of TLS 1.0 form, as the first ones are.
fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("short").to_be_bytes();
    [&[kind, 3, 1, length[0], length[1]][..], content].concat()
}

fn versions_1_2_and_1_3_are_spoken_and_no_older_one(driver: Driver) {
    let (mut proxy, upstream) = behind_tls(driver);
    for (versions, spoken) in
        [(ONLY_12, ProtocolVersion::TLSv1_2), (ONLY_13, ProtocolVersion::TLSv1_3)]
    {
        let mut client = proxy.connect_bare().secure(Arc::new(client(versions)));
        assert_eq!(client.tls(|tls| tls.protocol_version()), Some(spoken));
        client.send(READY);
        assert_eq!(client.read_head().status(), 200);
    }
    // With the oldest version that may be spoken the same hello is answered.
    let mut modern = proxy.connect_bare();
    modern.send(&old_client_hello([3, 3]));
    assert_eq!(modern.read_exact(1), [22], "a ServerHello");
    modern.reset();
    wait_tls_failed(&proxy, 1.0);
    for minor in [0, 1, 2] {
        let mut old = proxy.connect_bare();
        old.send(&old_client_hello([3, minor]));
        let (seen, _) = old.read_to_end();
        // A fatal alert, protocol_version.
        assert_eq!(seen.get(..1), Some(&[21][..]), "3.{minor}: {seen:?}");
        assert_eq!(seen.get(5..), Some(&[2, 70][..]), "3.{minor}: {seen:?}");
    }
    wait_tls_failed(&proxy, 4.0);
    let stopped = proxy.stop();
    upstream.assert_untouched();
    assert_eq!(stopped.events.len(), 2, "{:#?}", stopped.events);
}

fn http_1_1_is_the_only_protocol(driver: Driver) {
    let (mut proxy, _upstream) = behind_tls(driver);
    for versions in [ONLY_12, ONLY_13] {
        for (offered, taken) in [
            (&["h2", "http/1.1"][..], Some("http/1.1")),
            (&["http/1.1"], Some("http/1.1")),
            (&[], None),
        ] {
            let mut config = client(versions);
            config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
            let mut client = proxy.connect_bare().secure(Arc::new(config));
            let seen = client.tls(|tls| tls.alpn_protocol().map(<[u8]>::to_vec));
            assert_eq!(seen.as_deref(), taken.map(str::as_bytes), "{offered:?}");
            client.send(READY);
            assert_eq!(client.read_head().status(), 200);
        }
        let mut config = client(versions);
        config.alpn_protocols = vec![b"h2".to_vec()];
        let refused = proxy.connect_bare().try_secure(Arc::new(config)).err().expect("a refusal");
        assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    }
    wait_tls_failed(&proxy, 2.0);
    assert_eq!(proxy.stop().events.len(), 2);
}

/// Runs `check` for every number below `count`, on two threads.
fn for_each(count: usize, check: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        for first in 0..2 {
            let check = &check;
            scope.spawn(move || (first..count).step_by(2).for_each(check));
        }
    });
}

fn a_client_hello_may_be_cut_anywhere(driver: Driver) {
    let (mut proxy, upstream) = behind_tls(driver);
    let config = small_client();
    let length = Stepwise::connect(&proxy, &config).outgoing().len();
    for_each(length, |cut| {
        let mut client = Stepwise::connect(&proxy, &config);
        let hello = client.outgoing();
        assert_eq!(hello.len(), length);
        proxy.send_split(&mut client.peer, &hello, &[cut]);
        // The cut goes through the last flight too, with the request right behind it.
        let flight = client.last_flight();
        let request = client.encrypted(READY);
        let bytes = [flight, request].concat();
        let cut = cut % bytes.len();
        proxy.send_split(&mut client.peer, &bytes, &[cut]);
        let head = client.read_through(b"\r\n\r\n");
        assert!(head.starts_with(b"HTTP/1.1 200 "), "cut at {cut}");
    });
    // Every byte by itself.
    let mut client = Stepwise::connect(&proxy, &config);
    let hello = client.outgoing();
    proxy.send_split(&mut client.peer, &hello, &(1..hello.len()).collect::<Vec<_>>());
    let bytes = [client.last_flight(), client.encrypted(READY)].concat();
    proxy.send_split(&mut client.peer, &bytes, &(1..bytes.len()).collect::<Vec<_>>());
    assert!(client.read_through(b"\r\n\r\n").starts_with(b"HTTP/1.1 200 "));
    wait_tls_failed(&proxy, 0.0);
    upstream.assert_untouched();
    assert_eq!(proxy.stop().events.len(), 2);
}

/// RFC 8446 section 5.1: a handshake message may be spread over records.
fn a_client_hello_may_come_in_many_records(driver: Driver) {
    let (proxy, _upstream) = behind_tls(driver);
    for config in [small_client(), Arc::new(client(ONLY_12)), Arc::new(client(ONLY_13))] {
        for size in [1, 2, 5, 100] {
            let mut client = Stepwise::connect(&proxy, &config);
            let hello = client.outgoing();
            let records: Vec<u8> =
                hello[5..].chunks(size).flat_map(|part| record(22, part)).collect();
            client.peer.send(&records);
            client.receive().expect("a ServerHello");
            client.shake();
            let request = client.encrypted(READY);
            client.peer.send(&request);
            assert!(client.read_through(b"\r\n\r\n").starts_with(b"HTTP/1.1 200 "), "{size}");
        }
    }
}

/// An upgrade, early bytes and frames, cut at every byte of the ciphertext.
fn records_may_be_cut_anywhere(driver: Driver) {
    let serving = Upstream::start().echo();
    let mut proxy = secure(driver, serving.url()).start();
    let config = small_client();
    let ciphertext = |client: &mut Stepwise| {
        let parts = [HANDSHAKE, b"early", b"\x81\x05hello", b"\x88\x02\x03\xe8"];
        let records: Vec<Vec<u8>> = parts.iter().map(|part| client.encrypted(part)).collect();
        records.concat()
    };
    let mut probe = Stepwise::connect(&proxy, &config);
    probe.shake();
    let length = ciphertext(&mut probe).len();
    drop(probe);
    let check = |points: &[usize]| {
        let mut client = Stepwise::connect(&proxy, &config);
        client.shake();
        let bytes = ciphertext(&mut client);
        proxy.send_split(&mut client.peer, &bytes, points);
        let head = client.read_through(b"\r\n\r\n");
        assert!(head.starts_with(b"HTTP/1.1 101 "), "cut at {points:?}");
        let rest = client.read_through(b"\x88\x02\x03\xe8");
        assert_eq!(rest, b"early\x81\x05hello\x88\x02\x03\xe8", "cut at {points:?}");
        client.connection.send_close_notify();
        let end = client.outgoing();
        client.peer.send(&end);
    };
    for_each(length, |cut| check(&[cut]));
    check(&(1..length).collect::<Vec<_>>());
    proxy.wait_metric("vibewarden_websocket_active", &[], 0.0);
    let stopped = proxy.stop();
    for closed in stopped.of_kind("websocket.closed") {
        assert_eq!(closed.text("payload.reason"), "client_closed", "{}", closed.line);
        assert_eq!(closed.count("payload.bytes_to_upstream"), 16, "{}", closed.line);
        assert_eq!(closed.count("payload.bytes_to_client"), 16, "{}", closed.line);
    }
    assert_eq!(stopped.of_kind("websocket.closed").len(), length + 1);
}

/// Thousands of records in one segment, one byte in each.
fn every_byte_may_be_a_record(driver: Driver) {
    let (proxy, upstream) = behind_tls(driver);
    for config in [Arc::new(client(ONLY_12)), Arc::new(client(ONLY_13))] {
        let mut client = Stepwise::connect(&proxy, &config);
        client.shake();
        let bytes = Stream::new(seed()).take(3000);
        let all = [HANDSHAKE, &bytes].concat();
        let records: Vec<u8> = all.iter().flat_map(|byte| client.encrypted(&[*byte])).collect();
        client.peer.send(&records);
        let mut far = upstream.accept_unrecorded();
        far.read_head();
        far.send(ANSWER_101);
        client.read_through(b"\r\n\r\n");
        far.expect(&bytes);
    }
}

/// What no TLS client begins with.
fn not_tls() -> Vec<Vec<u8>> {
    let mut random = Random::new(seed());
    let mut noise = |first: u8| -> Vec<u8> {
        let rest = (0..300).map(|_| u8::try_from(random.between(0, 255)).expect("a byte"));
        std::iter::once(first).chain(rest).collect()
    };
    let hello = old_client_hello([3, 3]);
    let mut wrong_length = hello.clone();
    wrong_length[7] = 0xff;
    let mut cut_short = hello.clone();
    cut_short[8] -= 40;
    vec![
        vec![0; 400],
        vec![0xff; 400],
        noise(0),
        noise(b'{'),
        noise(22),
        noise(0x80),
        // The ClientHello of SSL 2.0.
        [&[0x80, 0x1c, 1, 3, 3, 0, 3, 0, 0, 0, 16, 0, 0, 0x2f][..], &[9; 16]].concat(),
        // Records that are too long: one byte over the limit, and as long as can be said.
        [&[22, 3, 1, 0x48, 0x01][..], &vec![1; 0x4801]].concat(),
        [&[22, 3, 1, 0xff, 0xff][..], &vec![1; 0xffff]].concat(),
        // An empty handshake record, data, an alert, a change of ciphers, an unknown kind.
        record(22, b""),
        record(23, b"GET / HTTP/1.1\r\n\r\n"),
        record(21, &[2, 40]),
        record(20, &[1]),
        record(99, b"what"),
        // Messages: a ServerHello, one whose length says more than may be, one that is cut within.
        record(22, &[2, 0, 0, 4, 3, 3, 0, 0]),
        [wrong_length, vec![0; 20_000]].concat(),
        record(22, &cut_short[5..]),
        // One hello after the other.
        [&hello[..], &hello[..]].concat(),
        [&hello[..], &record(23, b"data without keys")].concat(),
        [&hello[..], &record(21, &[1, 0])].concat(),
    ]
}

/// 5.1 step 1, D21: closed, with an alert at most; nothing reaches the upstream, nothing is an event.
fn garbage_before_and_in_the_handshake_is_closed_and_counted(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = secure(driver, upstream.url()).set("server.read_timeout", "3s").start();
    let cases = not_tls();
    for (number, bytes) in cases.iter().enumerate() {
        let mut client = proxy.connect_bare();
        let _may_be_gone = client.try_send(bytes);
        client.fin();
        let (seen, _) = client.read_to_end();
        let readable = seen.windows(5).any(|part| part == b"HTTP/");
        assert!(!readable, "case {number} was answered: {}", seen.escape_ascii());
    }
    wait_tls_failed(&proxy, f64::from(u32::try_from(cases.len()).expect("few")));
    // In the second flight, in clear and encrypted.
    let config = Arc::new(client(ONLY_13));
    for wrong in [record(22, &[0xff; 40]), record(23, &[0; 40]), record(20, &[2]), vec![0; 50]] {
        let mut client = Stepwise::connect(&proxy, &config);
        let flight = client.last_flight();
        client.peer.send(&wrong);
        let _may_be_gone = client.peer.try_send(&flight);
        assert!(!client.peer.read_to_end().0.starts_with(b"HTTP"));
    }
    wait_tls_failed(&proxy, f64::from(u32::try_from(cases.len() + 4).expect("few")));
    proxy.wait_metric("vibewarden_active_connections", &[], 1.0);
    let mut client = proxy.sent(READY);
    assert_eq!(client.read_head().status(), 200, "and on it goes");
    drop(client);
    let lines = proxy.process.err.all().len();
    let stopped = proxy.stop();
    upstream.assert_untouched();
    assert_eq!(stopped.events.len(), 2, "{:#?}", stopped.events);
    assert!(lines < 10, "a flood of log lines: {}", stopped.log);
}

/// 7.4: a TLS error is `connection_error`. Nothing that was not authentic goes on.
fn garbage_in_a_tunnel_ends_that_tunnel_alone(driver: Driver) {
    let (proxy, upstream) = behind_tls(driver);
    let (mut bystander, mut bystander_far) = proxy.unrecorded_tunnel(&upstream);
    for (versions, first_bytes) in [(ONLY_12, 3), (ONLY_13, 3)] {
        let forged = [
            vec![23, 3, first_bytes, 0, 40].into_iter().chain([0x5a; 40]).collect::<Vec<u8>>(),
            [&[23, 3, 3, 0x48, 0x01][..], &vec![1; 0x4801]].concat(),
            vec![0; 60],
            b"GET /smuggled HTTP/1.1\r\nHost: t.test\r\n\r\n".to_vec(),
        ];
        for bytes in forged {
            let from = proxy.event_count();
            let mut client = Stepwise::connect(&proxy, &Arc::new(client(versions)));
            client.shake();
            let good = [client.encrypted(HANDSHAKE), client.encrypted(b"good")].concat();
            client.peer.send(&good);
            let mut conn = upstream.accept();
            conn.read_head();
            conn.send(ANSWER_101);
            client.read_through(b"\r\n\r\n");
            conn.expect(b"good");
            let _may_be_gone = client.peer.try_send(&bytes);
            let closed =
                proxy.wait_event_after(from, "the end", |event| event.is("websocket.closed"));
            assert_eq!(closed.text("payload.reason"), "connection_error", "{}", closed.line);
            assert_eq!(closed.count("payload.bytes_to_upstream"), 4, "{}", closed.line);
            client.peer.read_to_end();
            assert_eq!(conn.expect_end(), End::Reset, "no clean end of what was cut");
        }
    }
    bystander.ping(&mut bystander_far, b"not touched");
}

/// G4, 5.2: the time of the request head counts from accept, TLS included.
fn a_handshake_that_stops_is_closed_in_time(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = secure(driver, upstream.url()).set("server.read_timeout", "2s").start();
    let config = small_client();
    let hello = Stepwise::connect(&proxy, &config).outgoing();
    let mut clients: Vec<Peer> = (0..50)
        .map(|number| {
            let mut peer = proxy.connect_bare();
            peer.send(&hello[..=number % (hello.len() - 1)]);
            peer
        })
        .collect();
    // After the ServerHello, and in the middle of the last flight.
    let mut stopped = Stepwise::connect(&proxy, &config);
    let flight = stopped.last_flight();
    let mut nearly = Stepwise::connect(&proxy, &config);
    let nearly_all = nearly.last_flight();
    nearly.peer.send(&nearly_all[..nearly_all.len() - 1]);
    clients.extend([stopped.peer, nearly.peer]);
    assert!(!flight.is_empty());
    // Others are served meanwhile.
    assert_eq!(proxy.sent(READY).read_head().status(), 200);
    for client in &mut clients {
        client.read_to_end();
    }
    wait_tls_failed(&proxy, 52.0);
    proxy.wait_metric("vibewarden_active_connections", &[], 1.0);
    upstream.assert_untouched();
    assert_eq!(proxy.stop().events.len(), 2);
}

/// G4: ten thousand of them at once, or as many as the descriptors allow.
fn a_crowd_of_handshakes_that_stop_holds_nobody_up(driver: Driver) {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("RLIMIT_NOFILE");
    let upstream = Upstream::start();
    let mut proxy = secure(driver, upstream.url()).set("server.read_timeout", "10s").start();
    let hello = Stepwise::connect(&proxy, &small_client()).outgoing();
    let places = proxy.scrape().value("vibewarden_connections_max", &[]);
    let count: u16 =
        (1..=10_000).rev().find(|&count| f64::from(count) + 100.0 <= places).expect("room");
    let (mut client, mut conn) = proxy.tunnel(&upstream);
    let accepted = || {
        let accepted = [("result", "accepted")];
        proxy.scrape().value("vibewarden_connections_total", &accepted)
    };
    let mut expected = accepted() + f64::from(count);
    let before = proxy.process.resident_bytes();
    let crowd: Vec<TcpStream> = (0..count)
        .map(|number| {
            let mut stream = TcpStream::connect(proxy.address()).expect("connects");
            stream.write_all(&hello[..=usize::from(number) % (hello.len() - 1)]).expect("sends");
            stream
        })
        .collect();
    eventually("all of them are accepted", || {
        // Each question comes on a connection of its own.
        expected += 1.0;
        (accepted() > expected - 0.5).then_some(())
    });
    client.ping(&mut conn, b"not touched");
    assert_eq!(proxy.sent(READY).read_head().status(), 200);
    let each = proxy.process.resident_bytes().saturating_sub(before) / usize::from(count);
    assert!(each < 16 << 10, "{each} bytes for each");
    for mut stream in crowd {
        stream.set_read_timeout(Some(2 * PATIENCE)).expect("SO_RCVTIMEO");
        assert_eq!(stream.read(&mut [0; 64]).expect("an end"), 0);
    }
    wait_tls_failed(&proxy, f64::from(count));
    proxy.wait_metric("vibewarden_active_connections", &[], 2.0);
    client.ping(&mut conn, b"not touched");
    drop((client, conn));
    assert_eq!(proxy.stop().of_kind("websocket.closed").len(), 1);
}

fn who_only_connects_is_no_failure(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = secure(driver, upstream.url()).set("server.read_timeout", "2s").start();
    for _ in 0..20 {
        drop(proxy.connect_bare());
        proxy.connect_bare().reset();
    }
    // Closed when its time is over, without a word.
    assert_eq!(proxy.connect_bare().expect_end(), End::Eof);
    // Nor is one that shook hands and then left, or fell silent.
    drop(proxy.connect());
    assert_eq!(proxy.connect().expect_end(), End::Eof);
    proxy.wait_metric("vibewarden_active_connections", &[], 1.0);
    assert!(tls_failed(&proxy) < 0.5, "{}", proxy.scrape().text);
}

/// A132: an answer that a browser or curl can show.
fn plain_http_is_told_to_use_tls(driver: Driver) {
    let (mut proxy, upstream) = behind_tls(driver);
    let requests = [
        wire("GET / HTTP/1.1\r\n{H}\r\n"),
        HANDSHAKE.to_vec(),
        wire("OPTIONS * HTTP/1.0\r\n\r\n"),
        b"G".to_vec(),
    ];
    let check = |answer: &crate::harness::Answer| {
        assert_eq!(answer.head.status(), 400, "{answer:?}");
        assert_eq!(answer.head.one("connection"), Some("close"));
        let length = answer.head.one("content-length").expect("a length");
        assert_eq!(length, answer.body.len().to_string(), "{answer:?}");
        assert_eq!(answer.end, End::Eof, "{answer:?}");
    };
    for request in requests {
        let mut client = proxy.connect_bare();
        client.send(&request);
        check(&client.read_answer());
    }
    // A body that is still arriving does not cost the answer.
    let mut client = proxy.connect_bare();
    client.send(&wire("POST / HTTP/1.1\r\n{H}Content-Length: 2000000\r\n\r\n"));
    let mut body = client.twin();
    let sending = std::thread::spawn(move || {
        for _ in 0..200 {
            if body.try_send(&[b'x'; 10_000]).is_err() {
                return;
            }
        }
        body.fin();
    });
    check(&client.read_answer());
    sending.join().expect("the body");
    let stopped = proxy.stop();
    upstream.assert_untouched();
    assert!(stopped.log.lines().count() < 12, "a flood: {}", stopped.log);
    assert!(stopped.of_kind("request.proxied").is_empty());
}

/// A132, the other way round.
fn tls_where_none_is_spoken_is_refused(driver: Driver) {
    let (mut proxy, upstream) = behind(driver);
    let hello = old_client_hello([3, 3]);
    for bytes in [hello.clone(), [&hello[..], b"\r\n\r\n"].concat()] {
        let mut client = proxy.connect();
        client.send(&bytes);
        client.fin();
        let (seen, _) = client.read_to_end();
        assert!(seen.is_empty() || seen.starts_with(b"HTTP/1.1 400 "), "{}", seen.escape_ascii());
    }
    let config = Arc::new(client(ONLY_13));
    assert!(proxy.connect_bare().try_secure(config).is_err());
    wait_tls_failed(&proxy, 0.0);
    let stopped = proxy.stop();
    upstream.assert_untouched();
    assert!(stopped.events.len() <= 5, "{:#?}", stopped.events);
}

/// RFC 8446 section 4.6.3: each asks for a change of our keys too.
fn new_keys_do_not_disturb_a_tunnel(driver: Driver) {
    const BYTES: usize = 4 << 20;
    let upstream = Upstream::start();
    let proxy = secure(driver, upstream.url()).start().with_clients(client(ONLY_13));
    let (mut client, mut far) = proxy.unrecorded_tunnel(&upstream);
    for round in 0..50_u8 {
        client.refresh_keys();
        if round % 3 == 0 {
            far.send(&[round]);
            client.expect(&[round]);
        }
        client.ping(&mut far, &[round; 100]);
    }
    // Many at once, with nothing between them.
    for _ in 0..30 {
        client.refresh_keys();
    }
    client.ping(&mut far, b"after them all");
    // In the middle of bulk both ways.
    let mut writers = (client.twin(), far.twin());
    let up = std::thread::spawn(move || {
        let mut stream = Stream::new(1);
        for _ in 0..64 {
            writers.0.refresh_keys();
            writers.0.send(&stream.take(BYTES / 64));
        }
        writers.0.fin();
    });
    let down = std::thread::spawn(move || {
        writers.1.send(&Stream::new(2).take(BYTES));
        writers.1.fin();
    });
    let reader = std::thread::spawn(move || far.read_to_end());
    let (seen, end) = client.read_to_end();
    assert!(seen == Stream::new(2).take(BYTES), "to the client");
    assert_eq!(end, End::Eof);
    let (seen, end) = reader.join().expect("reader");
    assert!(seen == Stream::new(1).take(BYTES), "to the upstream");
    assert_eq!(end, End::Eof);
    up.join().expect("client");
    down.join().expect("upstream");
    let reason = [("reason", "connection_error")];
    proxy.wait_metric("vibewarden_websocket_active", &[], 0.0);
    proxy.wait_metric("vibewarden_websocket_closed_total", &reason, 0.0);
}

/// Each request for new keys is owed an answer, which this client never reads.
fn new_keys_without_end_cost_no_memory(driver: Driver) {
    let (proxy, upstream) = behind_tls(driver);
    let mut client = Stepwise::connect(&proxy, &Arc::new(client(ONLY_13)));
    client.shake();
    let request = client.encrypted(HANDSHAKE);
    client.peer.send(&request);
    let mut far = upstream.accept_unrecorded();
    far.read_head();
    far.send(ANSWER_101);
    client.read_through(b"\r\n\r\n");
    let before = proxy.process.resident_bytes();
    // What is in the way of the answers.
    let quiet = std::time::Duration::from_millis(200);
    let sent = far.send_until_blocked(quiet, 64 << 20, |count| vec![b'd'; count]);
    assert!(sent.blocked);
    for _ in 0..20_000 {
        client.connection.refresh_traffic_keys().expect("TLS 1.3");
        let bytes = client.outgoing();
        if client.peer.try_send(&bytes).is_err() {
            // Ended by the proxy, which is as good.
            break;
        }
    }
    let grown = proxy.process.resident_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes of memory for requests of new keys");
    assert_eq!(proxy.sent(READY).read_head().status(), 200);
}

/// 3.1: closed at once without a byte, and counted as what it is.
fn a_connection_over_the_limit_is_no_tls_failure(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = secure(driver, upstream.url()).set("server.max_connections", "2").start();
    let one = proxy.tunnel(&upstream);
    let two = proxy.tunnel(&upstream);
    let hello = old_client_hello([3, 3]);
    for _ in 0..5 {
        let mut over = proxy.connect_bare();
        let _may_be_gone = over.try_send(&hello);
        assert!(over.read_to_end().0.is_empty(), "not even an alert");
    }
    drop(two);
    eventually("a place", || {
        let client = proxy.connect_bare().try_secure(Arc::new(client(ONLY_13))).ok();
        client.map(drop)
    });
    eventually("both counts", || {
        let config = Arc::new(client(ONLY_13));
        let mut client = proxy.connect_bare().try_secure(config).ok()?;
        client
            .try_send(b"GET /_vibewarden/metrics HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
            .ok()?;
        let answer = client.read_answer();
        let text = String::from_utf8(answer.body).expect("text");
        let scrape = crate::harness::scrape::Scrape::parse(&text);
        let value = |result| scrape.value("vibewarden_connections_total", &[("result", result)]);
        (value("over_limit") >= 5.0 && value("tls_failed") < 0.5).then_some(())
    });
    drop(one);
}

/// 3.6, 9.3, 11.2.
fn clients_and_upstream_are_told_of_tls(driver: Driver) {
    const HSTS: &str = "strict-transport-security";
    let upstream = Upstream::start();
    let with = |tls: &str| {
        secure(driver, upstream.url())
            .set("tls.enabled", tls)
            .set("security_headers.enabled", "true")
            .set("server.trusted_proxies", "[127.0.0.2]")
    };
    let ask = |proxy: &Proxy, lines: &str| {
        let mut client = proxy.sent(&crowd::get("/", lines));
        let mut conn = upstream.accept();
        let seen = conn.read_head();
        conn.send(ANSWER_LAST);
        (seen, client.read_kept_answer().0)
    };
    let mut proxy = with("true").start();
    let (seen, answer) = ask(&proxy, "X-Forwarded-Proto: http\r\n");
    assert_eq!(seen.one("x-forwarded-proto"), Some("https"), "a stranger's is replaced");
    assert_eq!(answer.one(HSTS), Some("max-age=31536000; includeSubDomains"));
    let (mut client, mut conn) = (proxy.sent(HANDSHAKE), upstream.accept());
    assert_eq!(conn.read_head().one("x-forwarded-proto"), Some("https"), "never wss");
    conn.send(ANSWER_101);
    assert_eq!(client.open().one(HSTS), Some("max-age=31536000; includeSubDomains"));
    drop((client, conn));
    let refused = proxy.answer_to(OUTDATED);
    assert_eq!(refused.head.one(HSTS), None, "a refusal before step 4");
    let own = proxy.get("/_vibewarden/health").0;
    assert_eq!(own.one(HSTS), None, "an own endpoint");
    let started = proxy.stop();
    let started = started.only("proxy.started");
    assert_eq!(started.json.at("payload.tls_enabled"), Some(&Json::Bool(true)));
    assert_eq!(started.text("payload.tls_provider"), "self-signed");
    // Trusted peers may say how their client came.
    let proxy = with("true").set("server.trusted_proxies", "[127.0.0.1]").start();
    for (said, kept) in [("http", "http"), ("https", "https"), ("wss", "https")] {
        let (seen, _) = ask(&proxy, &format!("X-Forwarded-Proto: {said}\r\n"));
        assert_eq!(seen.one("x-forwarded-proto"), Some(kept));
    }
    for (key, value, expected) in [
        ("security_headers.hsts_max_age", "0", None),
        (
            "security_headers.hsts_preload",
            "true",
            Some("max-age=31536000; includeSubDomains; preload"),
        ),
        ("security_headers.hsts_include_subdomains", "false", Some("max-age=31536000")),
    ] {
        let proxy = with("true").set(key, value).start();
        assert_eq!(ask(&proxy, "").1.one(HSTS), expected, "{key}: {value}");
    }
    let mut proxy = with("false").start();
    let (seen, answer) = ask(&proxy, "");
    assert_eq!(seen.one("x-forwarded-proto"), Some("http"));
    assert_eq!(answer.one(HSTS), None, "without TLS");
    let started = proxy.stop();
    let started = started.only("proxy.started");
    assert_eq!(started.json.at("payload.tls_enabled"), Some(&Json::Bool(false)));
}

/// 9.2 with 5.1 step 1.
fn a_proxy_header_comes_before_tls(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = secure(driver, upstream.url())
        .set("server.proxy_protocol", "true")
        .set("server.trusted_proxies", "[127.0.0.1]")
        .set("server.read_timeout", "3s")
        .start();
    let version_1 = b"PROXY TCP4 203.0.113.7 192.0.2.1 4000 443\r\n".to_vec();
    let version_2 = [
        &b"\r\n\r\n\0\r\nQUIT\n"[..],
        &[0x21, 0x11, 0, 12, 203, 0, 113, 7, 192, 0, 2, 1, 0x0f, 0xa0, 1, 0xbb],
    ]
    .concat();
    let config = small_client();
    for header in [&version_1, &version_2] {
        // In one segment with the ClientHello; each by itself; cut within either.
        for points in [
            vec![],
            vec![header.len()],
            vec![7],
            vec![header.len() + 3],
            vec![1, header.len() + 90],
        ] {
            let mut client = Stepwise::connect(&proxy, &config);
            let bytes = [&header[..], &client.outgoing()].concat();
            proxy.send_split(&mut client.peer, &bytes, &points);
            client.shake();
            let request = client.encrypted(HANDSHAKE);
            client.peer.send(&request);
            let mut conn = upstream.accept();
            let head = conn.read_head();
            assert_eq!(head.one("x-forwarded-for"), Some("203.0.113.7"), "{points:?}");
            assert_eq!(head.one("x-forwarded-proto"), Some("https"));
            conn.send(ANSWER_101);
            assert!(client.read_through(b"\r\n\r\n").starts_with(b"HTTP/1.1 101 "));
        }
    }
    // Without the header, and with the header inside.
    let no_header = Stepwise::connect(&proxy, &config).outgoing();
    let mut client = proxy.connect_bare();
    client.send(&no_header);
    assert!(client.read_to_end().0.is_empty());
    let mut client = Stepwise::connect(&proxy, &config);
    let bytes = [&version_1[..], &client.outgoing()].concat();
    client.peer.send(&bytes);
    client.shake();
    let inside = client.encrypted(&[&version_1[..], HANDSHAKE].concat());
    client.peer.send(&inside);
    assert!(client.read_through(b"\r\n\r\n").starts_with(b"HTTP/1.1 400 "));
    upstream.assert_untouched();
}

fn refusals_arrive_whole(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = secure(driver, upstream.url())
        .set("auth.mode", "api-key")
        .set("auth.api_key.keys", KEYS)
        .set("rate_limit.enabled", "true")
        .set("rate_limit.per_ip.requests_per_second", "0.001")
        .set("rate_limit.per_ip.burst", "3")
        .start();
    proxy.answer_to(HANDSHAKE).assert_refusal(401, "unauthorized");
    // The refusal arrives although the client is still sending.
    let mut client = proxy.sent(&crowd::upgrade("X-API-Key: wrong\r\n"));
    let _may_be_gone = client.try_send(&vec![b'e'; 300_000]);
    client.read_answer().assert_refusal(401, "unauthorized");
    let mut client = proxy.sent(&crowd::upgrade("X-API-Key: alice-key\r\n"));
    let mut conn = upstream.accept();
    conn.read_head();
    conn.send(ANSWER_101);
    client.open();
    client.ping(&mut conn, b"allowed");
    for _ in 0..3 {
        let refused = proxy.answer_to(&crowd::upgrade("X-API-Key: alice-key\r\n"));
        refused.assert_refusal(429, "rate_limit_exceeded");
    }
    client.ping(&mut conn, b"not disturbed");
    upstream.assert_untouched();
    eventually("events", || {
        let events = proxy.events();
        let count = |kind| events.iter().filter(|event| event.is(kind)).count();
        (count("auth.denied") == 2 && count("rate_limit.blocked") == 3).then_some(())
    });
}
