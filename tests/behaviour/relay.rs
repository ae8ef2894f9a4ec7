//! Group (d): what happens after the 101. Bytes, ends and resets go through; nothing is added, kept or lost.

use std::time::Duration;

use crate::harness::payload::{Random, Stream, seed};
use crate::harness::peer::is_consumed_within;
use crate::harness::setup::{Scratch, short_read_timeout};
use crate::harness::{
    ANSWER_101, Driver, End, HANDSHAKE, Peer, Proxy, SMUGGLED, Setup, Upstream, behind,
};

on_drivers!(
    every:
        random_bytes_both_ways_arrive_unchanged,
        ten_thousand_small_messages,
        half_close_leaves_the_other_direction_open,
        a_reset_is_passed_on,
        data_that_looks_like_http_is_data;
    both:
        an_upstream_that_writes_and_closes_at_once,
        both_ends_close_at_the_same_instant,
        a_stopped_reader_stops_the_writer,
        a_stopped_reader_does_not_hold_up_others,
        bulk_ends_in_every_way_without_loss,
        invalid_frames_pass_at_once,
        a_half_closed_side_may_stay_silent,
        bulk_one_way_and_single_bytes_the_other,
        a_byte_does_not_wait_for_the_one_before,
        a_way_that_small_pieces_fill_loses_nothing,
        a_reset_of_a_side_that_nobody_reads_is_noticed,
        bytes_may_wait_although_both_sides_have_ended,
);

over_tls!(
    random_bytes_both_ways_arrive_unchanged,
    ten_thousand_small_messages,
    half_close_leaves_the_other_direction_open,
    a_reset_is_passed_on,
    data_that_looks_like_http_is_data,
    an_upstream_that_writes_and_closes_at_once,
    both_ends_close_at_the_same_instant,
    a_stopped_reader_stops_the_writer,
    a_stopped_reader_does_not_hold_up_others,
    bulk_ends_in_every_way_without_loss,
    invalid_frames_pass_at_once,
    a_half_closed_side_may_stay_silent,
    bulk_one_way_and_single_bytes_the_other,
    a_byte_does_not_wait_for_the_one_before,
    a_reset_of_a_side_that_nobody_reads_is_noticed,
    bytes_may_wait_although_both_sides_have_ended,
);

/// Writes a seeded stream in random pieces, then ends the direction.
fn write_stream(mut peer: Peer, seed: u64, bytes: usize) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut stream = Stream::new(seed);
        let mut sizes = Random::new(!seed);
        let mut left = bytes;
        while left > 0 {
            let count = sizes.between(1, 65_536).min(left);
            peer.send(&stream.take(count));
            left -= count;
        }
        peer.fin();
    })
}

/// Reads until the end and compares with the seeded stream.
fn check_stream(mut peer: Peer, seed: u64, bytes: usize) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut stream = Stream::new(seed);
        let mut sizes = Random::new(seed ^ 0xff);
        let mut chunk = vec![0; 65_536];
        let mut expected = vec![0; 65_536];
        let mut offset = 0;
        loop {
            let room = sizes.between(1, 65_536);
            let count = peer.read_chunk(&mut chunk[..room]);
            if count == 0 {
                break;
            }
            stream.fill(&mut expected[..count]);
            assert!(chunk[..count] == expected[..count], "near byte {offset} (seed {seed})");
            offset += count;
        }
        assert_eq!(offset, bytes, "seed {seed}");
    })
}

/// D10, D24, seed 3: 64 MiB each way at once.
fn random_bytes_both_ways_arrive_unchanged(driver: Driver) {
    const BYTES: usize = 64 << 20;
    let (mut proxy, upstream) = behind(driver);
    let (client, far) = proxy.unrecorded_tunnel(&upstream);
    let seed = seed();
    let threads = [
        write_stream(client.twin(), seed, BYTES),
        write_stream(far.twin(), seed + 1, BYTES),
        check_stream(far, seed, BYTES),
        check_stream(client, seed + 1, BYTES),
    ];
    for thread in threads {
        thread.join().expect("a stream");
    }
    let stopped = proxy.stop();
    let closed = stopped.only("websocket.closed");
    assert_eq!(closed.count("payload.bytes_to_upstream"), BYTES as u64);
    assert_eq!(closed.count("payload.bytes_to_client"), BYTES as u64);
}

/// D11 without its clock: each message has to arrive alone, before the next one is written.
fn ten_thousand_small_messages(driver: Driver) {
    let (mut proxy, upstream) = behind(driver);
    let (mut client, mut far) = proxy.unrecorded_tunnel(&upstream);
    let mut sizes = Random::new(seed());
    let mut stream = Stream::new(seed());
    let mut total = 0;
    for _ in 0..10_000 {
        let message = stream.take(sizes.between(1, 200));
        client.ping(&mut far, &message);
        total += message.len() as u64;
    }
    drop((client, far));
    let stopped = proxy.stop();
    let closed = stopped.only("websocket.closed");
    assert_eq!(closed.count("payload.bytes_to_upstream"), total);
    assert_eq!(closed.count("payload.bytes_to_client"), total);
    // Seed 25: frames produce no events.
    assert_eq!(stopped.events.len(), 4, "{:#?}", stopped.events);
}

/// D1, both ways round.
fn half_close_leaves_the_other_direction_open(driver: Driver) {
    const BYTES: usize = 1 << 20;
    let (mut proxy, upstream) = behind(driver);
    let (mut client, mut far) = proxy.unrecorded_tunnel(&upstream);
    for (near_is_client, reason) in [(true, "client_closed"), (false, "upstream_closed")] {
        let (near, other) =
            if near_is_client { (&mut client, &mut far) } else { (&mut far, &mut client) };
        let writer = write_stream(near.twin(), seed(), BYTES);
        let (bytes, end) = other.read_to_end();
        writer.join().expect("writer");
        assert_eq!(end, End::Eof, "{reason}");
        assert!(bytes == Stream::new(seed()).take(BYTES), "{reason}");
        // The end of input was seen; the other direction still carries as much as one likes.
        for part in 0..16 {
            let bytes = Stream::new(part).take(BYTES / 16);
            let mut sender = other.twin();
            let sending = std::thread::spawn(move || sender.send(&bytes));
            near.expect(&Stream::new(part).take(BYTES / 16));
            sending.join().expect("sender");
        }
        other.fin();
        assert_eq!(near.expect_end(), End::Eof);
        proxy.wait_event(reason, |event| event.text("payload.reason") == reason);
        (client, far) = proxy.unrecorded_tunnel(&upstream);
    }
    drop((client, far));
    drop(proxy.stop());
}

/// D4, and the same from the upstream; 7.3: a reset on one side resets the other.
fn a_reset_is_passed_on(driver: Driver) {
    let (mut proxy, upstream) = behind(driver);
    // Idle.
    let (mut client, mut conn) = proxy.tunnel(&upstream);
    client.ping(&mut conn, b"x");
    client.reset();
    assert_eq!(conn.expect_end(), End::Reset, "to the upstream");
    let (mut client, mut conn) = proxy.tunnel(&upstream);
    client.ping(&mut conn, b"x");
    conn.reset();
    assert_eq!(client.expect_end(), End::Reset, "to the client");
    // In the middle of a transfer from the other side.
    for from_client in [true, false] {
        let (client, far) = proxy.unrecorded_tunnel(&upstream);
        let (resets, mut sends) = if from_client { (client, far) } else { (far, client) };
        let mut resets = resets;
        let mut sender = sends.twin();
        let sending = std::thread::spawn(move || {
            let chunk = vec![b'x'; 65_536];
            while sender.try_send(&chunk).is_ok() {}
        });
        resets.read_exact(1 << 20);
        resets.reset();
        sending.join().expect("the sender was told");
        sends.has_ended();
    }
    // After a half-close.
    let (mut client, mut conn) = proxy.tunnel(&upstream);
    client.fin();
    assert_eq!(conn.expect_end(), End::Eof);
    conn.reset();
    assert_eq!(client.expect_end(), End::Reset);
    for reason in ["client_reset", "upstream_reset"] {
        let labels = [("reason", reason)];
        let at_least = |scrape: &crate::harness::scrape::Scrape| {
            scrape.value("vibewarden_websocket_closed_total", &labels) >= 2.0
        };
        crate::harness::eventually(reason, || at_least(&proxy.scrape()).then_some(()));
    }
    proxy.wait_metric("vibewarden_websocket_active", &[], 0.0);
    drop(proxy.stop());
}

/// D3.
fn an_upstream_that_writes_and_closes_at_once(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    for round in 0..20 {
        for (near_is_client, bytes) in [(true, 200_000), (false, 200_000)] {
            let (client, far) = proxy.unrecorded_tunnel(&upstream);
            let (mut writer, mut reader) =
                if near_is_client { (client, far) } else { (far, client) };
            let sending = std::thread::spawn(move || {
                writer.send(&Stream::new(round).take(bytes));
            });
            let (seen, end) = reader.read_to_end();
            sending.join().expect("writer");
            assert_eq!(end, End::Eof, "round {round}");
            assert!(seen == Stream::new(round).take(bytes), "{} bytes, round {round}", seen.len());
        }
    }
}

/// D6.
fn both_ends_close_at_the_same_instant(driver: Driver) {
    let (mut proxy, upstream) = behind(driver);
    for _ in 0..20 {
        end_both(&proxy, &upstream);
    }
    let descriptors = proxy.process.descriptors();
    for _ in 0..1000 {
        end_both(&proxy, &upstream);
    }
    proxy.wait_metric("vibewarden_websocket_active", &[], 0.0);
    crate::harness::eventually("descriptors as before", || {
        (proxy.process.descriptors() <= descriptors).then_some(())
    });
    let stopped = proxy.stop();
    let closed = stopped.of_kind("websocket.closed");
    assert_eq!(closed.len(), 1020);
    for event in closed {
        let reason = event.text("payload.reason");
        let fine = ["client_closed", "upstream_closed"].contains(&reason);
        assert!(fine, "{}", event.line);
    }
}

fn end_both(proxy: &Proxy, upstream: &Upstream) {
    let (mut client, mut far) = proxy.unrecorded_tunnel(upstream);
    client.send(b"bye");
    far.send(b"bye");
    client.fin();
    far.fin();
    assert_eq!(client.read_to_end(), (b"bye".to_vec(), End::Eof));
    assert_eq!(far.read_to_end(), (b"bye".to_vec(), End::Eof));
}

/// D7: U's writes block, memory stays, and afterwards everything arrives.
fn a_stopped_reader_stops_the_writer(driver: Driver) {
    const BYTES_MAX: usize = 256 << 20;
    let (proxy, upstream) = behind(driver);
    for towards_client in [true, false] {
        let (client, far) = proxy.unrecorded_tunnel(&upstream);
        let (mut reader, mut writer) = if towards_client { (client, far) } else { (far, client) };
        // Warm: whatever is allocated once per core or pipe is allocated.
        writer.send(&vec![1; 1 << 20]);
        reader.read_exact(1 << 20);
        let before = proxy.process.resident_bytes();
        let mut stream = Stream::new(seed());
        let quiet = Duration::from_millis(500);
        let sent = writer.send_until_blocked(quiet, BYTES_MAX, |count| stream.take(count));
        assert!(sent.blocked, "{} bytes were taken for nobody", sent.taken);
        let grown = proxy.process.resident_bytes().saturating_sub(before);
        assert!(grown < 4 << 20, "{grown} bytes of memory for a stopped reader");
        let total = sent.taken + sent.rest.len();
        let sending = std::thread::spawn(move || {
            writer.send(&sent.rest);
            writer.fin();
            writer
        });
        check_stream(reader.twin(), seed(), total).join().expect("reader");
        drop(sending.join().expect("writer"));
    }
}

/// D9 in small: stopped readers with pending data; everyone else is served.
fn a_stopped_reader_does_not_hold_up_others(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let mut stopped = Vec::new();
    for _ in 0..24 {
        let (client, mut far) = proxy.unrecorded_tunnel(&upstream);
        let quiet = Duration::from_millis(20);
        far.send_until_blocked(quiet, 32 << 20, |count| vec![b's'; count]);
        stopped.push((client, far));
    }
    let (mut client, mut far) = proxy.unrecorded_tunnel(&upstream);
    for _ in 0..100 {
        client.ping(&mut far, b"still quick");
    }
    let grown = proxy.process.resident_bytes();
    assert!(grown < 128 << 20, "{grown} bytes resident");
    // The same tunnels stay usable in the other direction.
    for (client, far) in &mut stopped {
        client.send(b"back");
        far.expect(b"back");
    }
}

/// D24: the end comes while the way is full.
fn bulk_ends_in_every_way_without_loss(driver: Driver) {
    const BYTES: usize = 8 << 20;
    let (mut proxy, upstream) = behind(driver);
    for towards_client in [true, false] {
        for late_reader in [true, false] {
            let (client, far) = proxy.unrecorded_tunnel(&upstream);
            let (reader, writer) = if towards_client { (client, far) } else { (far, client) };
            // The writer ends right behind its last byte; the reader may only begin when the way is full.
            let sending = write_stream(writer.twin(), seed(), BYTES);
            if late_reader {
                let mut probe = writer.twin();
                drop(probe.pending());
                proxy.get("/_vibewarden/health");
            }
            check_stream(reader.twin(), seed(), BYTES).join().expect("reader");
            sending.join().expect("writer");
        }
    }
    let stopped = proxy.stop();
    for closed in stopped.of_kind("websocket.closed") {
        let sum =
            closed.count("payload.bytes_to_client") + closed.count("payload.bytes_to_upstream");
        assert_eq!(sum, BYTES as u64, "{}", closed.line);
    }
}

/// D17 on the level of bytes, seed 4: nobody looks at frames.
fn invalid_frames_pass_at_once(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let (mut client, mut conn) = proxy.tunnel(&upstream);
    let pieces: [&[u8]; 8] = [
        b"\xff",
        b"\x81",
        b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xf1\x05hello",
        b"\x88\x02\x00\x00",
        b"\x89\x00",
        b"\x81\x04\xff\xfe\xfd\xfc",
        b"\x00\x00\x00",
    ];
    for piece in pieces {
        client.ping(&mut conn, piece);
    }
    let every_byte: Vec<u8> = (0..=255).collect();
    client.ping(&mut conn, &every_byte);
    assert!(client.pending().is_empty(), "no pong, no close of the proxy's own");
}

/// D18, seed 6.
fn data_that_looks_like_http_is_data(driver: Driver) {
    let (mut proxy, upstream) = behind(driver);
    let (mut client, mut conn) = proxy.tunnel(&upstream);
    client.send(SMUGGLED);
    client.send(HANDSHAKE);
    conn.expect(SMUGGLED);
    conn.expect(HANDSHAKE);
    let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    conn.send(answer);
    client.expect(answer);
    client.send(b"GET /_vibewarden/health HTTP/1.1\r\nHost: t.test\r\n\r\n");
    conn.expect(b"GET /_vibewarden/health HTTP/1.1\r\nHost: t.test\r\n\r\n");
    client.ping(&mut conn, b"still open");
    drop((client, conn));
    let stopped = proxy.stop();
    upstream.assert_untouched();
    let ended: Vec<_> = stopped.events.iter().filter(|e| e.ends_a_request()).collect();
    assert_eq!(ended.len(), 1, "{ended:#?}");
}

/// D16.
fn a_half_closed_side_may_stay_silent(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = Setup::new(driver, upstream.url())
        .set("server.read_timeout", short_read_timeout(driver))
        .set("server.write_timeout", "200ms")
        .set("server.idle_timeout", "200ms")
        .set("resilience.timeout", "200ms")
        .start();
    let (mut client, mut conn) = proxy.tunnel(&upstream);
    client.fin();
    assert_eq!(conn.expect_end(), End::Eof);
    // The other timers run out a few times; the tunnel has none.
    for _ in 0..5 {
        assert_eq!(proxy.connect().expect_end(), End::Eof);
    }
    conn.send(b"late, but welcome");
    client.expect(b"late, but welcome");
    conn.fin();
    assert_eq!(client.expect_end(), End::Eof);
}

/// Bulk takes the splice path; the small direction beside it must not wait for it.
fn bulk_one_way_and_single_bytes_the_other(driver: Driver) {
    const BYTES: usize = 32 << 20;
    let (proxy, upstream) = behind(driver);
    for bulk_to_client in [true, false] {
        let (client, far) = proxy.unrecorded_tunnel(&upstream);
        let (reader, writer) = if bulk_to_client { (client, far) } else { (far, client) };
        let sending = write_stream(writer.twin(), seed(), BYTES);
        let checking = check_stream(reader.twin(), seed(), BYTES);
        let (mut small_out, mut small_in) = (reader.twin(), writer.twin());
        for byte in 0..=255_u8 {
            small_out.send(&[byte]);
            small_in.expect(&[byte]);
        }
        sending.join().expect("writer");
        checking.join().expect("reader");
    }
}

/// D11: `TCP_NODELAY` on both legs. Where the two ends talk in turns an acknowledgement waits some 40 ms for the answer;
/// without the option the second byte would wait for it, and so many rounds would outlast the patience of a test.
fn a_byte_does_not_wait_for_the_one_before(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let (mut client, mut far) = proxy.unrecorded_tunnel(&upstream);
    for towards_upstream in [true, false] {
        let begun = std::time::Instant::now();
        let (from, to) =
            if towards_upstream { (&mut client, &mut far) } else { (&mut far, &mut client) };
        for _ in 0..500 {
            from.send(b"1");
            to.expect(b"1");
            from.send(b"2");
            to.expect(b"2");
            to.send(b"3");
            from.expect(b"3");
        }
        let took = begun.elapsed();
        assert!(took < crate::harness::PATIENCE, "bytes are held back: {took:?}");
    }
}

/// The way fills up with small pieces, each of them read by the proxy before the next one comes, so that nothing looks
/// like bulk; then the reader wakes up.
fn a_way_that_small_pieces_fill_loses_nothing(driver: Driver) {
    const PIECES_MAX: usize = 4000;
    let upstream = Upstream::start().with_receive_buffer(4096);
    let proxy = Setup::new(driver, upstream.url()).start();
    for towards_client in [true, false] {
        let mut client = proxy.connect_with_receive_buffer(Some(4096));
        client.send(HANDSHAKE);
        let mut far = upstream.accept_unrecorded();
        far.read_head();
        far.send(ANSWER_101);
        client.open();
        let (reader, mut writer) = if towards_client { (client, far) } else { (far, client) };
        let mut stream = Stream::new(seed());
        let mut sizes = Random::new(seed());
        let mut sent = 0;
        let patience = Duration::from_millis(300);
        let filled = (0..PIECES_MAX).any(|_| {
            let piece = stream.take(sizes.between(8_192, 32_768));
            writer.send(&piece);
            sent += piece.len();
            !is_consumed_within(patience, writer.remote(), writer.local())
        });
        assert!(filled, "{sent} bytes were taken for nobody");
        writer.send(&stream.take(10));
        writer.fin();
        check_stream(reader, seed(), sent + 10).join().expect("reader");
    }
}

/// 7.3: nobody reads from a side that has ended its direction, nor from one whose bytes wait; its reset ends the tunnel all
/// the same, with liveness on and off.
fn a_reset_of_a_side_that_nobody_reads_is_noticed(driver: Driver) {
    let quiet = Duration::from_millis(200);
    let bulk = |count| vec![b'w'; count];
    let start = |dead_peer_after| {
        let upstream = Upstream::start();
        let setup =
            Setup::new(driver, upstream.url()).set("server.dead_peer_after", dead_peer_after);
        (setup.start(), upstream)
    };
    let closed = |proxy: &Proxy, reason: &str, count: f64| {
        proxy.wait_metric("vibewarden_websocket_closed_total", &[("reason", reason)], count);
    };
    let ((watched, upstream), (unwatched, unwatched_upstream)) = (start("5s"), start("0"));
    // One that was told the end of input before can see the reset only by sending, which it does not.
    let (mut client, mut told) = unwatched.unrecorded_tunnel(&unwatched_upstream);
    client.fin();
    told.expect_end();
    client.reset();
    let (mut client, mut far) = watched.unrecorded_tunnel(&upstream);
    client.fin();
    far.expect_end();
    client.reset();
    closed(&watched, "client_reset", 1.0);
    let (mut client, mut far) = watched.unrecorded_tunnel(&upstream);
    far.fin();
    client.expect_end();
    far.reset();
    closed(&watched, "upstream_reset", 1.0);
    let (mut client, mut far) = watched.unrecorded_tunnel(&upstream);
    assert!(client.send_until_blocked(quiet, 64 << 20, bulk).blocked);
    client.reset();
    closed(&watched, "client_reset", 2.0);
    assert_eq!(far.count_to_end().1, End::Reset);
    let (mut client, mut far) = watched.unrecorded_tunnel(&upstream);
    assert!(far.send_until_blocked(quiet, 64 << 20, bulk).blocked);
    far.reset();
    closed(&watched, "upstream_reset", 2.0);
    assert_eq!(client.count_to_end().1, End::Reset);
    closed(&unwatched, "client_reset", 1.0);
}

/// What looks hung up on the side that is not read has only ended in order. The upstream is a Unix socket, where not much
/// fits in between.
fn bytes_may_wait_although_both_sides_have_ended(driver: Driver) {
    let scratch = Scratch::new();
    let upstream = Upstream::unix(&scratch.path().join("up.sock"));
    let mut proxy = Setup::new(driver, upstream.url())
        .set("server.dead_peer_after", "5s")
        .set("server.read_timeout", "1s")
        .start();
    let (mut client, mut far) = proxy.unrecorded_tunnel(&upstream);
    // No more than the proxy has room for, so that the end gets through to it.
    let mut sent = 0;
    while is_consumed_within(Duration::from_millis(300), client.remote(), client.local()) {
        client.send(&[b'w'; 16 * 1024]);
        sent += 16 * 1024;
    }
    far.fin();
    client.expect_end();
    client.fin();
    // Several visits of liveness, shown by a connection that takes a second to be closed.
    assert_eq!(proxy.connect().expect_end(), End::Eof);
    assert_eq!(far.count_to_end(), (sent, End::Eof));
    let stopped = proxy.stop();
    assert_eq!(stopped.only("websocket.closed").text("payload.reason"), "upstream_closed");
}
