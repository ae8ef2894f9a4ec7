//! Group (a), section 2.2: chunked request bodies, of which the upstream sees a clean copy or a broken end.

use crate::harness::message::{Framing, Message, Recorded, Source, chunked};
use crate::harness::payload::{Random, Stream, seed, show};
use crate::harness::{
    ANSWER_KEPT, ANSWER_LAST, Conn, Driver, End, Proxy, Setup, Upstream, behind, eventually,
    forwarded, wire,
};

on_drivers!(
    every:
        broken_chunks_are_refused;
    both:
        unusual_but_valid_chunks_arrive_clean,
        chunks_without_data_are_bounded,
        a_size_of_sixteen_digits_is_no_allocation,
        a_body_that_ends_early_never_ends_cleanly,
        trailers_are_never_headers,
        trailers_are_bounded,
        chunks_may_arrive_byte_by_byte,
        any_chunks_give_the_same_body,
);

over_tls!(
    a_body_that_ends_early_never_ends_cleanly,
    chunks_may_arrive_byte_by_byte,
    any_chunks_give_the_same_body,
);

const START: &str = "POST /e HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n";

/// What the upstream got of a request that was refused half-way: nothing, or a part that is not a whole request.
#[track_caller]
fn assert_cut(upstream: &Upstream, what: &str) {
    let Some(conn) = upstream.try_accept() else {
        return;
    };
    conn.wait_end();
    let seen = conn.pending();
    assert!(!show(&seen).contains("/smuggled"), "{what}: {}", show(&seen));
    let whole = Recorded(&seen).request();
    assert!(seen.is_empty() || whole.is_err(), "{what}: a whole request: {}", show(&seen));
}

/// A45, A47, A49, A51, A54, A57.
fn broken_chunks_are_refused(driver: Driver) {
    let (mut proxy, upstream) = behind(driver);
    let bodies: [&[u8]; 48] = [
        b"5\nhello\r\n0\r\n\r\n",
        b"5\rhello\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello\r0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello\r\n0\r\n\n",
        b"5\r\nhello\r\n0\n\r\n",
        b"5\r\nhello\r\n0\r\nX: y\n\r\n",
        b"5\r\nhello\r\n0\r\n\rX: y\r\n\r\n",
        b"0\r\n\n",
        b"0\n\r\n",
        b"0\n\n",
        b"0\r\nX: y\n\r\n",
        b"0\r\nX: y\r\n folded\r\n\r\n",
        b"0\r\nX : y\r\n\r\n",
        b"0\r\n: y\r\n\r\n",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\nX: a\x00b\r\n\r\n",
        b"5;\nx\r\nhello\r\n0\r\n\r\n",
        b"2;\nxx\r\n28\r\n{SM}\r\n0\r\n\r\n",
        b"5;a=b\nhello\r\n0\r\n\r\n",
        b"5;a=\rb\r\nhello\r\n0\r\n\r\n",
        b"5;\x00ext\r\nhello\r\n0\r\n\r\n",
        b"5;a=\x1b\r\nhello\r\n0\r\n\r\n",
        b"5;a=\"b\nc\"\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"5_0\r\nhello\r\n0\r\n\r\n",
        b"0_2e\r\nhello\r\n0\r\n\r\n",
        b"1x\r\nh\r\n0\r\n\r\n",
        b"Z\r\nhello\r\n0\r\n\r\n",
        b"\r\n5\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"\t5\r\nhello\r\n0\r\n\r\n",
        b"5,5\r\nhello\r\n0\r\n\r\n",
        b"5.0\r\nhello\r\n0\r\n\r\n",
        b"5\x00\r\nhello\r\n0\r\n\r\n",
        b";a=b\r\nhello\r\n0\r\n\r\n",
        b"00000000000000005\r\nhello\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        b"10000000000000005\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhelloXX\r\n0\r\n\r\n",
        b"5\r\nhello\r\n5\r\nhell\r\n0\r\n\r\n",
        b"3\r\nhello\r\n0\r\n\r\n",
        b"\xef\xbb\xbf5\r\nhello\r\n0\r\n\r\n",
        b"\xd9\xa5\r\nhello\r\n0\r\n\r\n",
    ];
    for body in bodies {
        let request = wire([START.as_bytes(), body, b"{SM}"].concat());
        let answer = proxy.answer_to(&request);
        assert_eq!(answer.head.status(), 400, "for {}", show(body));
        answer.assert_refusal(400, "bad_request");
        assert_cut(&upstream, &show(body));
    }
    let stopped = proxy.stop();
    let blocked = stopped.of_kind("request.blocked");
    assert_eq!(blocked.len(), bodies.len());
    for event in blocked {
        assert_eq!(event.text("payload.reason"), "bad_request", "{}", event.line);
        assert_eq!(event.text("payload.path"), "/e", "{}", event.line);
        assert_eq!(event.text("payload.method"), "POST", "{}", event.line);
    }
}

#[track_caller]
fn whole(proxy: &Proxy, upstream: &Upstream, body: &[u8]) -> Message {
    let request = wire([START.as_bytes(), body].concat());
    let seen = forwarded(proxy, upstream, &request);
    assert_eq!(seen.framing, Framing::Chunked, "{seen:?}");
    seen
}

/// A52, and what 6.1 accepts: extensions are dropped, sizes may have zeros and any case.
fn unusual_but_valid_chunks_arrive_clean(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let long_extension = format!("5;a={}\r\nhello\r\n0\r\n\r\n", "x".repeat(4000));
    let valid: [&[u8]; 10] = [
        b"5\r\nhello\r\n0\r\n\r\n",
        b"05\r\nhello\r\n000\r\n\r\n",
        b"0000000000000005\r\nhello\r\n0000000000000000\r\n\r\n",
        b"5;a\r\nhello\r\n0\r\n\r\n",
        b"5;a=b;c=d\r\nhello\r\n0;e=f\r\n\r\n",
        b"5;a=\"b; \\\"c\"\r\nhello\r\n0\r\n\r\n",
        b"1\r\nh\r\n1;x=y\r\ne\r\n3\r\nllo\r\n0\r\n\r\n",
        b"5;a=b\r\nhello\r\n0;x\r\nX-Trailer: t\r\n\r\n",
        b"2\r\nhe\r\n3\r\nllo\r\n0\r\nx-a: 1\r\nx-a: 2\r\n\r\n",
        long_extension.as_bytes(),
    ];
    for body in valid {
        // The strict reader of the upstream accepts no extension.
        let seen = whole(&proxy, &upstream, body);
        assert_eq!(seen.body, b"hello", "{}", show(body));
    }
    for digits in ["a", "A", "0a", "0A"] {
        let body = format!("{digits}\r\n0123456789\r\n0\r\n\r\n");
        assert_eq!(whole(&proxy, &upstream, body.as_bytes()).body, b"0123456789");
    }
    assert!(whole(&proxy, &upstream, b"0\r\n\r\n").body.is_empty());
    // A semicolon without a name: refused, or dropped with the body as it is.
    let mut client = proxy.sent(&wire([START.as_bytes(), b"5;\r\nhello\r\n0\r\n\r\n"].concat()));
    let answered_by_itself = eventually("a refusal or a request", || {
        (!client.pending().is_empty()).then_some(true).or_else(|| {
            let mut conn = upstream.try_accept()?;
            let head = conn.read_head();
            if let Ok(seen) = conn.body(head, Framing::Bodyless) {
                assert_eq!(seen.body, b"hello");
                conn.send(ANSWER_LAST);
            }
            Some(false)
        })
    });
    let answer = client.read_response();
    let expected = if answered_by_itself { 400 } else { 200 };
    assert_eq!(answer.status(), expected, "{answer:?}");
}

/// A65: a bound on what is no data, and no memory for it.
fn chunks_without_data_are_bounded(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = Setup::new(driver, upstream.url()).set("body_size.max", "0").start();
    for extension_bytes in [4200, 65_536, 1 << 20] {
        let extension = "x".repeat(extension_bytes);
        let body = format!("5;a={extension}\r\nhello\r\n0\r\n\r\n{{SM}}");
        let mut client = proxy.connect();
        let _may_be_refused = client.try_send(&wire(format!("{START}{body}")));
        client.read_answer().assert_refusal(400, "bad_request");
        assert_cut(&upstream, &format!("an extension of {extension_bytes} bytes"));
    }
    drop(proxy);
    let application = upstream.answer(|_, peer| {
        let _may_be_gone = peer.try_send(ANSWER_LAST);
        crate::harness::After::Close
    });
    let proxy = Setup::new(driver, application.url()).set("body_size.max", "0").start();
    let before = proxy.process.resident_bytes();
    for (chunk, count) in
        [("1\r\nx\r\n".to_owned(), 200_000), (format!("1;a={}\r\nx\r\n", "y".repeat(1000)), 5_000)]
    {
        let mut client = proxy.sent(&wire(START));
        let mut sender = client.twin();
        let block = chunk.repeat(1000);
        let sending = std::thread::spawn(move || {
            let mut taken = true;
            for _ in 0..count / 1000 {
                taken = taken && sender.try_send(block.as_bytes()).is_ok();
            }
            let _may_be_refused = sender.try_send(b"0\r\n\r\n");
        });
        // Passed whole, or refused when the proxy counts what is no data.
        let status = client.read_response().status();
        assert!([200, 400, 413].contains(&status), "{status}");
        sending.join().expect("the client");
        let bodies: Vec<usize> =
            application.requests().iter().map(|(_, request)| request.body.len()).collect();
        assert_eq!(status == 200, bodies.contains(&count), "{status}, {bodies:?}");
    }
    let grown = proxy.process.resident_bytes().saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes of memory for chunks without data");
}

/// A56.
fn a_size_of_sixteen_digits_is_no_allocation(driver: Driver) {
    for limit in ["1MB", "0"] {
        let upstream = Upstream::start();
        let proxy = Setup::new(driver, upstream.url())
            .set("body_size.max", limit)
            .set("server.read_timeout", "300ms")
            .start();
        let before = proxy.process.resident_bytes();
        for size in ["ffffffffffffffff", "7fffffffffffffff", "8000000000000000", "0000000100000005"]
        {
            let answer = proxy.sent(&wire(format!("{START}{size}\r\nabc"))).read_answer();
            let status = answer.head.status();
            assert!([400, 408, 413].contains(&status), "{size}: {status}");
            assert_eq!(answer.end, End::Eof);
            assert_cut(&upstream, size);
        }
        let grown = proxy.process.resident_bytes().saturating_sub(before);
        assert!(grown < 4 << 20, "{grown} bytes of memory");
    }
}

/// A62: by an orderly end and by a reset, between chunks and inside one.
fn a_body_that_ends_early_never_ends_cleanly(driver: Driver) {
    let (mut proxy, upstream) = behind(driver);
    for part in
        ["5\r\nhello\r\n", "5\r\nhello\r\n5\r\nhe", "5\r\nhello\r\n0", "5\r\nhello\r\n0\r\n"]
    {
        for reset in [false, true] {
            let mut client = proxy.sent(&wire(format!("{START}{part}")));
            let mut conn = upstream.accept();
            conn.read_head();
            eventually("the beginning of the body", || {
                show(&conn.pending()).contains("hello").then_some(())
            });
            if reset {
                client.reset();
            } else {
                client.fin();
            }
            conn.wait_end();
            let seen = conn.pending();
            assert!(Recorded(&seen).chunks().is_err(), "{part:?}: {}", show(&seen));
        }
    }
    // The same with a length.
    for reset in [false, true] {
        let mut client =
            proxy.sent(&wire("POST /e HTTP/1.1\r\n{H}Content-Length: 10\r\n\r\nhello"));
        let mut conn = upstream.accept();
        conn.read_head();
        conn.expect(b"hello");
        if reset {
            client.reset();
        } else {
            client.fin();
        }
        conn.expect_end();
    }
    let stopped = proxy.stop();
    upstream.assert_untouched();
    assert!(stopped.of_kind("request.proxied").is_empty(), "{:#?}", stopped.events);
}

/// A59, A63: relayed as trailers, without names that mean something in a head.
fn trailers_are_never_headers(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let dangerous = [
        "Content-Length: 99",
        "Transfer-Encoding: x",
        "Host: evil",
        "Authorization: Bearer evil",
        "Proxy-Authorization: Basic evil",
        "Cookie: sid=evil",
        "X-User-Id: evil",
        "x-user-email: evil",
        "X_User_Id: evil",
        "X-Forwarded-For: 6.6.6.6",
        "X-Forwarded-Host: evil",
        "Forwarded: for=6.6.6.6",
        "X-Real-IP: 6.6.6.6",
        "X-Request-ID: evil",
    ];
    for line in dangerous {
        let body = format!("5\r\nhello\r\n0\r\nX-First: 1\r\n{line}\r\nx-last: 2\r\n\r\n");
        let seen = whole(&proxy, &upstream, body.as_bytes());
        assert_eq!(seen.body, b"hello");
        let everything = format!("{:?} {:?}", seen.head, seen.trailers).to_ascii_lowercase();
        assert!(!everything.contains("evil") && !everything.contains("6.6.6.6"), "{everything}");
        assert_eq!(seen.head.one("content-length"), None);
        for (name, value) in &seen.trailers {
            let harmless = [("X-First", "1"), ("x-last", "2")];
            assert!(harmless.contains(&(name.as_str(), value.as_str())), "{name}: {value}");
        }
        assert_eq!(seen.head.all("x-first"), Vec::<&str>::new());
    }
    // A two-byte skip would take the trailer for a request.
    let seen = whole(&proxy, &upstream, b"0\r\nX:POST / HTTP/1.1\r\nY: t.test\r\n\r\n");
    assert!(seen.body.is_empty());
    assert_eq!(seen.head.line, "POST /e HTTP/1.1");
}

/// A66.
fn trailers_are_bounded(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let blocks = [
        "X-Line: 0123456789\r\n".repeat(10_000),
        format!("X-Long: {}\r\n", "x".repeat(1 << 20)),
        "x: y\r\n".repeat(4_000),
    ];
    for block in blocks {
        let mut client = proxy.connect();
        let request = format!("{START}5\r\nhello\r\n0\r\n{block}\r\n{{SM}}");
        let _may_be_refused = client.try_send(&wire(request));
        let answer = client.read_answer();
        let status = answer.head.status();
        assert!([400, 431].contains(&status), "{status}");
        assert_eq!(answer.end, End::Eof);
        assert_cut(&upstream, &block[..20]);
    }
}

/// A67: every piece is read by the proxy before the next one leaves.
fn chunks_may_arrive_byte_by_byte(driver: Driver) {
    let upstream = Upstream::start();
    // Each byte is waited for, which takes its time on a busy machine.
    let proxy = Setup::new(driver, upstream.url()).set("server.read_timeout", "600s").start();
    let request =
        wire(format!("{START}5;x=\"y\"\r\nhello\r\na\r\n0123456789\r\n0\r\nX-T: u\r\n\r\n"));
    let mut client = proxy.connect();
    let every_byte: Vec<usize> = (1..request.len()).collect();
    proxy.send_split(&mut client, &request, &every_byte);
    let mut conn: Conn = upstream.accept();
    let seen = conn.read_request();
    assert_eq!(seen.body, b"hello0123456789");
    conn.send(ANSWER_KEPT);
    assert_eq!(client.read_response().body, b"ok");
    // The body is over where it said: the next request is a request.
    client.send(&wire("GET /next HTTP/1.1\r\n{H}\r\n"));
    assert_eq!(conn.read_request().target(), "/next");
    conn.send(ANSWER_LAST);
    assert_eq!(client.read_response().body, b"ok");
}

/// Seeded chunks of every size, cut at seeded places.
fn any_chunks_give_the_same_body(driver: Driver) {
    let (proxy, upstream) = behind(driver);
    let mut random = Random::new(seed());
    for round in 0..20 {
        let body = Stream::new(seed() + round).take(random.between(1, 100_000));
        let sizes: Vec<usize> = (0..5).map(|_| random.between(1, 30_000)).collect();
        let request = [wire(START), chunked(&body, &sizes)].concat();
        let mut client = proxy.connect();
        let mut rest = request.as_slice();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(random.between(1, 20_000).min(rest.len()));
            client.send(piece);
            rest = after;
        }
        let mut conn = upstream.accept();
        let seen = conn.read_request();
        assert!(seen.body == body, "round {round} of seed {}", seed());
        conn.send(ANSWER_LAST);
        assert_eq!(client.read_response().body, b"ok");
    }
    // A chunk that is not whole yet goes on at once: nobody waits for its end.
    let mut client = proxy.sent(&wire(format!("{START}64\r\nfirst half, ")));
    let mut conn = upstream.accept();
    conn.read_head();
    let mut seen = Vec::new();
    eventually("the first half of a chunk", || {
        seen = conn.pending();
        show(&seen).contains("first half, ").then_some(())
    });
    client.send(&[b'x'; 100 - 12]);
    client.send(b"\r\n0\r\n\r\n");
    let taken = conn.chunks().expect("chunks");
    assert_eq!(taken.len(), 100);
    assert!(taken.starts_with(b"first half, x"));
}
