//! Section 8.3: never more open tunnels than the quota, and a place is free again however a handshake or tunnel ends.

use rustix::process::Signal;
use serde_json::json;

use crate::auth_jwt::{Stage, bearer};
use crate::harness::crowd::{KEYS, ask, ask_at_once, get, upgrade, willing};
use crate::harness::token::{claims, now};
use crate::harness::{
    ANSWER_101, ANSWER_LAST, Conn, Driver, Peer, Proxy, Setup, Upstream, eventually,
};

on_drivers!(
    every:
        a_place_comes_free_however_it_was_taken;
    both:
        exactly_the_quota_is_open_at_once,
        handshakes_under_way_hold_a_place,
        each_user_has_a_quota_over_all_addresses,
        plain_requests_need_no_place,
        a_failed_handshake_gives_its_place_back_before_the_client_knows,
        a_client_that_leaves_early_gives_its_place_back,
        a_refusal_by_a_later_step_gives_the_place_back,
        an_expired_tunnel_gives_its_places_back,
        a_reload_keeps_the_counts,
        a_full_quota_is_told,
);

over_tls!(a_place_comes_free_however_it_was_taken,);

fn with_quota(driver: Driver, url: impl AsRef<str>, places: usize) -> Setup {
    Setup::new(driver, url)
        .set("watch.enabled", "false")
        .set("websocket.max_per_ip", &places.to_string())
}

/// F15 over two workers, and again after all of them have ended.
fn exactly_the_quota_is_open_at_once(driver: Driver) {
    let application = willing();
    let proxy = with_quota(driver, application.url(), 15).start();
    for round in 1..4 {
        let answers = ask_at_once(&proxy, &vec![upgrade(""); 40]);
        let (open, refused): (Vec<_>, Vec<_>) =
            answers.into_iter().partition(|answer| answer.head.status() == 101);
        assert_eq!(open.len(), 15, "round {round}");
        for answer in &refused {
            answer.assert_no_place();
        }
        assert_eq!(application.requests().len(), 15 * round, "NOUP");
        proxy.wait_metric("vibewarden_websocket_active", &[], 15.0);
        drop(open);
        proxy.wait_metric("vibewarden_websocket_active", &[], 0.0);
    }
    let ip = [("limit_type", "ip_connections")];
    proxy.wait_metric("vibewarden_rate_limit_hits_total", &ip, 75.0);
    let reason = [("reason", "connection_limit_exceeded")];
    proxy.wait_metric("vibewarden_refusals_total", &reason, 75.0);
}

/// Waits until the only place can be taken; both ends of the tunnel.
#[track_caller]
fn take_place(proxy: &Proxy, upstream: &Upstream) -> (Peer, Conn) {
    let (mut client, mut conn) = start_handshake(proxy, upstream);
    conn.send(ANSWER_101);
    client.open();
    (client, conn)
}

/// Waits until a handshake gets through to the upstream.
#[track_caller]
fn start_handshake(proxy: &Proxy, upstream: &Upstream) -> (Peer, Conn) {
    start_handshake_of(&upgrade(""), proxy, upstream)
}

/// The same with this request.
#[track_caller]
fn start_handshake_of(request: &[u8], proxy: &Proxy, upstream: &Upstream) -> (Peer, Conn) {
    eventually("the free place", || {
        let mut client = proxy.sent(request);
        let mut conn = eventually("an answer or a handshake", || {
            if let Some(conn) = upstream.try_accept() {
                return Some(Some(conn));
            }
            client.pending().ends_with(b"}\n").then_some(None)
        })?;
        conn.read_head();
        Some((client, conn))
    })
}

fn a_place_comes_free_however_it_was_taken(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = with_quota(driver, upstream.url(), 1).set("resilience.timeout", "1s").start();
    for round in 0..22 {
        let (mut client, mut conn) = if round % 11 < 5 {
            take_place(&proxy, &upstream)
        } else {
            start_handshake(&proxy, &upstream)
        };
        ask(&proxy, &upgrade("")).assert_no_place();
        match round % 11 {
            // A tunnel ends: orderly from each side, by a reset from each side.
            0 => {
                client.fin();
                conn.expect_end();
                ask(&proxy, &upgrade("")).assert_no_place();
                conn.fin();
                client.expect_end();
            }
            1 => {
                conn.fin();
                client.expect_end();
                client.fin();
            }
            2 | 10 => client.reset(),
            3 => conn.reset(),
            4 => drop((client, conn)),
            // A handshake fails: declined, invalid, ended, reset, timed out, left.
            5 => {
                conn.send(ANSWER_LAST);
                assert_eq!(client.read_head().status(), 200);
            }
            6 => {
                conn.send(b"HTTP/1.1 101 Switching Protocols\r\n\r\n");
                assert_eq!(client.read_head().status(), 502);
            }
            7 => {
                conn.fin();
                assert_eq!(client.read_head().status(), 502);
            }
            8 => {
                conn.reset();
                assert_eq!(client.read_head().status(), 502);
            }
            _ => assert_eq!(client.read_head().status(), 504),
        }
    }
    // The upstream is gone altogether.
    drop(upstream);
    for _ in 0..5 {
        eventually("a free place", || {
            (ask(&proxy, &upgrade("")).head.status() == 502).then_some(())
        });
    }
    assert_free_at_once(&proxy);
}

/// A refused connect gives the place back at once: 502 and never 429, one after the other.
#[track_caller]
fn assert_free_at_once(proxy: &Proxy) {
    let answers: Vec<u16> = (0..5).map(|_| ask(proxy, &upgrade("")).head.status()).collect();
    assert_eq!(answers, [502; 5]);
}

/// Whoever has read the head of the answer may come again at once: no wait, no second try.
fn a_failed_handshake_gives_its_place_back_before_the_client_knows(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = with_quota(driver, upstream.url(), 1).set("resilience.timeout", "1s").start();
    let invalid = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";
    // The body of the last one is still on its way.
    let paused = b"HTTP/1.1 404 Not Found\r\nContent-Length: 1000\r\n\r\na part";
    let mut held = Vec::new();
    for (answer, status) in [
        (ANSWER_LAST, 200),
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", 401),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", 200),
        (invalid, 502),
        (b"nonsense\r\n\r\n", 502),
        (b"", 504),
        (paused, 404),
    ] {
        let mut client = proxy.sent(&upgrade(""));
        let mut conn = upstream.accept();
        conn.read_head();
        ask(&proxy, &upgrade("")).assert_no_place();
        conn.send(answer);
        assert_eq!(client.read_head().status(), status);
        held.push((client, conn));
    }
    let (mut client, mut conn) = (proxy.sent(&upgrade("")), upstream.accept());
    conn.read_head();
    conn.send(ANSWER_101);
    client.open();
    client.ping(&mut conn, b"the only one");
}

/// In an orderly way, by a reset, and after more frames than are held.
fn a_client_that_leaves_early_gives_its_place_back(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = with_quota(driver, upstream.url(), 1).set("resilience.timeout", "60s").start();
    // An end that waits behind more than the proxy's socket takes cannot be seen by anybody; a reset can.
    for (frames, is_last) in [(0, false), (10, false), (100_000, false), (1_000_000, true)] {
        for is_orderly in [true, false].into_iter().skip(usize::from(is_last)) {
            let (mut client, mut conn) = start_handshake(&proxy, &upstream);
            ask(&proxy, &upgrade("")).assert_no_place();
            let quiet = std::time::Duration::from_millis(100);
            client.send_until_blocked(quiet, frames, |_| vec![0xAA; frames]);
            if is_orderly {
                drop(client);
            } else {
                client.reset();
            }
            conn.expect_end();
            drop(take_place(&proxy, &upstream));
        }
    }
    let abandoned = [("result", "abandoned")];
    proxy.wait_metric("vibewarden_websocket_upgrades_total", &abandoned, 7.0);
}

/// 5.1: steps 8 to 10 come after the place of the address, and the place of the user is the last.
fn a_refusal_by_a_later_step_gives_the_place_back(driver: Driver) {
    let application = willing();
    let proxy = with_quota(driver, application.url(), 2)
        .set("websocket.max_per_user", "1")
        .set("websocket.allowed_origins", "[\"https://good.test\"]")
        .set("rate_limit.enabled", "true")
        .set("rate_limit.per_user.requests_per_second", "0")
        .set("rate_limit.per_user.burst", "9")
        .set("auth.mode", "api-key")
        .set("auth.api_key.keys", KEYS)
        .start();
    let by = |key: &str| upgrade(&format!("X-API-Key: {key}\r\n"));
    let foreign = upgrade("X-API-Key: alice-key\r\nOrigin: https://evil.test\r\n");
    let alice = ask(&proxy, &by("alice-key"));
    assert!(alice.passed());
    for _ in 0..3 {
        assert_eq!(ask(&proxy, &foreign).head.status(), 403);
        assert_eq!(ask(&proxy, &by("guess")).head.status(), 401);
        ask(&proxy, &by("alice-key")).assert_no_place();
    }
    // The second place of the address was taken nine times and is still there.
    let bob = ask(&proxy, &by("bob-key"));
    assert!(bob.passed());
    drop((alice, bob));
    proxy.wait_metric("vibewarden_websocket_active", &[], 0.0);
    // Without tokens the user's bucket refuses before his quota; what the address's gave comes back.
    let mut last = 0;
    eventually("no token of the user is left", || {
        let answer = ask(&proxy, &by("alice-key"));
        last = answer.head.status();
        (last == 429 && answer.head.one("retry-after").is_some()).then_some(())
    });
    for _ in 0..3 {
        ask(&proxy, &by("alice-key")).assert_no_token();
    }
    eventually("a place", || ask(&proxy, &by("bob-key")).passed().then_some(()));
}

/// 10.7 and 8.3 together.
fn an_expired_tunnel_gives_its_places_back(driver: Driver) {
    let stage = Stage::new(driver, |setup| {
        setup
            .set("websocket.close_on_expiry", "true")
            .set("websocket.max_per_ip", "1")
            .set("websocket.max_per_user", "1")
    });
    let proxy = &stage.guarded.proxy;
    // It has to be open before its end: one that opens inside the leeway ends with that.
    let soon = stage.rsa.token(&claims(json!({"exp": now() + 4})));
    let open = |token: &str| {
        let request = upgrade(&bearer(token));
        let (mut client, mut conn) = start_handshake_of(&request, proxy, &stage.guarded.upstream);
        conn.send(ANSWER_101);
        client.open();
        (client, conn)
    };
    let (mut client, mut conn) = open(&soon);
    ask(proxy, &upgrade(&bearer(&stage.good()))).assert_no_place();
    client.expect_end();
    conn.expect_end();
    let (mut client, mut conn) = open(&stage.good());
    client.ping(&mut conn, b"the only one");
    ask(proxy, &upgrade(&bearer(&stage.good()))).assert_no_place();
}

fn handshakes_under_way_hold_a_place(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = with_quota(driver, upstream.url(), 2).set("resilience.timeout", "60s").start();
    let (mut first, mut conn) = start_handshake(&proxy, &upstream);
    let second = start_handshake(&proxy, &upstream);
    ask(&proxy, &upgrade("")).assert_no_place();
    conn.send(ANSWER_101);
    first.open();
    ask(&proxy, &upgrade("")).assert_no_place();
    drop(second);
    drop(take_place(&proxy, &upstream));
    first.ping(&mut conn, b"untouched");
}

fn each_user_has_a_quota_over_all_addresses(driver: Driver) {
    let application = willing();
    let proxy = Setup::new(driver, application.url())
        .set("websocket.max_per_user", "3")
        .set("auth.mode", "api-key")
        .set("auth.api_key.keys", KEYS)
        .set("server.trusted_proxies", "[127.0.0.1]")
        .start();
    let requests: Vec<_> = ["alice-key", "bob-key"]
        .iter()
        .flat_map(|key| {
            (0..8).map(move |host| {
                upgrade(&format!("X-API-Key: {key}\r\nX-Forwarded-For: 203.0.113.{host}\r\n"))
            })
        })
        .collect();
    let answers = ask_at_once(&proxy, &requests);
    for each in answers.chunks(8) {
        let open = each.iter().filter(|answer| answer.head.status() == 101).count();
        assert_eq!(open, 3);
        for refused in each.iter().filter(|answer| !answer.passed()) {
            refused.assert_no_place();
        }
    }
    let user = [("limit_type", "user_connections")];
    proxy.wait_metric("vibewarden_rate_limit_hits_total", &user, 10.0);
    let blocked = proxy.wait_event("a refusal", |event| event.is("rate_limit.blocked"));
    assert_eq!(blocked.text("payload.limit_type"), "user_connections");
    let name = blocked.text("payload.identifier");
    assert!(["alice", "bob"].contains(&name), "{name}");
    assert_eq!(blocked.count("payload.limit"), 3);
    drop(answers);
    proxy.wait_metric("vibewarden_websocket_active", &[], 0.0);
    assert!(ask(&proxy, &requests[0]).passed());
}

fn plain_requests_need_no_place(driver: Driver) {
    let application = willing();
    let proxy = with_quota(driver, application.url(), 1).start();
    let tunnel = ask(&proxy, &upgrade(""));
    assert_eq!(tunnel.head.status(), 101);
    for answer in ask_at_once(&proxy, &vec![get("/", ""); 10]) {
        assert!(answer.passed());
    }
    ask(&proxy, &upgrade("")).assert_no_place();
}

fn a_reload_keeps_the_counts(driver: Driver) {
    let application = willing();
    let setup = with_quota(driver, application.url(), 2);
    let proxy = setup.start();
    let reload = |places: &str| {
        let from = proxy.event_count();
        proxy.replace_config(&setup.clone().set("websocket.max_per_ip", places));
        proxy.signal(Signal::HUP);
        proxy.wait_event_after(from, "a reload", |event| event.is("config.reloaded"));
    };
    let mut open = vec![ask(&proxy, &upgrade("")), ask(&proxy, &upgrade(""))];
    assert!(open.iter().all(|answer| answer.head.status() == 101));
    reload("3");
    open.push(ask(&proxy, &upgrade("")));
    assert_eq!(open[2].head.status(), 101);
    ask(&proxy, &upgrade("")).assert_no_place();
    // A lower quota ends no tunnel, and lets nobody in before enough have gone.
    reload("1");
    ask(&proxy, &upgrade("")).assert_no_place();
    for answer in &mut open {
        answer.client.send(b"still");
        answer.client.expect(b"still");
    }
    open.truncate(1);
    proxy.wait_metric("vibewarden_websocket_active", &[], 1.0);
    ask(&proxy, &upgrade("")).assert_no_place();
    open.clear();
    eventually("the only place", || (ask(&proxy, &upgrade("")).head.status() == 101).then_some(()));
}

fn a_full_quota_is_told(driver: Driver) {
    let application = willing();
    let mut proxy = with_quota(driver, application.url(), 1).start();
    let tunnel = ask(&proxy, &upgrade(""));
    assert_eq!(tunnel.head.status(), 101);
    let refused = ask(&proxy, &upgrade(""));
    refused.assert_no_place();
    drop(tunnel);
    let stopped = proxy.stop();
    let event = stopped.only("rate_limit.blocked");
    assert_eq!(event.text("payload.limit_type"), "ip_connections");
    assert_eq!(event.text("payload.identifier"), "127.0.0.1");
    assert_eq!(event.count("payload.limit"), 1);
    assert_eq!(Some(event.request_id()), refused.head.one("x-request-id"));
}
