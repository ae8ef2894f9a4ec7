//! Section 8.1 and 8.2: buckets are exact over all workers, and a refusal costs nothing and says when to come back.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::application::Application;
use crate::harness::crowd::{KEYS, ask, ask_at_once, get, passes, upgrade, willing};
use crate::harness::{Driver, Proxy, SMUGGLED, Setup, eventually};

on_drivers!(
    every:
        exactly_the_burst_passes_at_once;
    both:
        upgrades_and_requests_share_a_bucket,
        refused_requests_cost_nothing,
        idle_time_does_not_accumulate,
        rate_and_burst_of_zero,
        frames_are_not_counted,
        a_refused_head_and_own_endpoints_take_no_token,
        exempt_paths_take_no_token,
        each_address_has_a_bucket,
        one_bucket_per_ipv6_network,
        spellings_of_an_address_share_a_bucket,
        each_user_has_a_bucket_over_all_addresses,
        failed_logins_take_a_token_of_the_address,
        a_reload_keeps_the_buckets,
        a_refusal_is_told,
        a_full_table_leaves_nobody_unlimited,
);

/// Buckets of addresses only; those of users never empty.
fn limited(driver: Driver, application: &Application, rate: &str, burst: usize) -> Setup {
    Setup::new(driver, application.url())
        .set("watch.enabled", "false")
        .set("rate_limit.enabled", "true")
        .set("rate_limit.per_ip.requests_per_second", rate)
        .set("rate_limit.per_ip.burst", &burst.to_string())
}

/// With tokens for addresses in plenty and these for users.
fn limited_users(driver: Driver, application: &Application, rate: &str, burst: usize) -> Setup {
    limited(driver, application, "1000", 100_000)
        .set("rate_limit.per_user.requests_per_second", rate)
        .set("rate_limit.per_user.burst", &burst.to_string())
        .set("auth.mode", "api-key")
        .set("auth.api_key.keys", KEYS)
        .set("server.trusted_proxies", "[127.0.0.1]")
}

fn from(address: &str) -> String {
    format!("X-Forwarded-For: {address}\r\n")
}

#[track_caller]
fn hits(proxy: &Proxy, limit_type: &str, count: f64) {
    proxy.wait_metric("vibewarden_rate_limit_hits_total", &[("limit_type", limit_type)], count);
}

/// F1, over two workers: as many as the burst, no more and no fewer.
fn exactly_the_burst_passes_at_once(driver: Driver) {
    for (burst, over) in [(1, 9), (20, 5), (60, 60)] {
        let application = willing();
        // The next token is 1000 s away.
        let proxy = limited(driver, &application, "0.001", burst).start();
        let answers = ask_at_once(&proxy, &vec![upgrade(""); burst + over]);
        assert_eq!(passes(&answers), burst, "of {}", burst + over);
        for refused in answers.iter().filter(|answer| !answer.passed()) {
            let seconds = refused.assert_no_token();
            assert!((900..=1000).contains(&seconds), "{seconds}");
        }
        assert_eq!(application.requests().len(), burst, "NOUP");
        assert_eq!(application.connections(), burst, "NOUP");
        let over = f64::from(u32::try_from(over).expect("small"));
        hits(&proxy, "ip", over);
        let scrape = proxy.scrape();
        let reason = [("reason", "rate_limit_exceeded")];
        let refused = scrape.value("vibewarden_refusals_total", &reason);
        assert!((refused - over).abs() < 0.5, "{refused}");
        let keys = scrape.value("vibewarden_rate_limit_keys", &[("scope", "ip")]);
        assert!((keys - 1.0).abs() < 0.5, "{keys}");
        let refused = [("result", "refused")];
        proxy.wait_metric("vibewarden_websocket_upgrades_total", &refused, over);
    }
}

fn upgrades_and_requests_share_a_bucket(driver: Driver) {
    let application = willing();
    let proxy = limited(driver, &application, "0", 30).start();
    let mixed: Vec<_> =
        (0..50).map(|at| if at % 2 == 0 { upgrade("") } else { get("/", "") }).collect();
    let answers = ask_at_once(&proxy, &mixed);
    assert_eq!(passes(&answers), 30);
    assert_eq!(application.requests().len(), 30, "NOUP");
    // Requests of one connection count each.
    let proxy = limited(driver, &application, "0", 3).start();
    let mut client = proxy.connect();
    for turn in 0..4 {
        client.send(&get("/kept", ""));
        let (head, _) = client.read_kept_answer();
        assert_eq!(head.status(), if turn < 3 { 200 } else { 429 }, "{turn}");
    }
}

/// F3 and F4: hammering does not put off the next token, and never brings more than the rate.
fn refused_requests_cost_nothing(driver: Driver) {
    let application = willing();
    let (rate, burst) = (4.0, 3);
    let started = Instant::now();
    let proxy = limited(driver, &application, "4", burst).start();
    let mut passed = passes(&ask_at_once(&proxy, &vec![get("/", ""); 12]));
    assert!(passed >= burst, "{passed}");
    for _ in 0..4 {
        eventually("the next token", || {
            let answer = ask(&proxy, &get("/", ""));
            if !answer.passed() {
                assert_eq!(answer.assert_no_token(), 1, "a quarter of a second, rounded up");
            }
            answer.passed().then_some(())
        });
        passed += 1;
        let most = 3.0 + rate * started.elapsed().as_secs_f64() + 1.0;
        let count = f64::from(u32::try_from(passed).expect("few"));
        assert!(count <= most, "{count} passed, {most} may have");
    }
    assert_eq!(application.requests().len(), passed);
}

/// F3: after a long time there is one burst, not more.
fn idle_time_does_not_accumulate(driver: Driver) {
    let application = willing();
    let proxy = limited(driver, &application, "20", 4).start();
    passes(&ask_at_once(&proxy, &vec![get("/", ""); 10]));
    let idle = Instant::now();
    eventually("time for thirty tokens", || {
        (idle.elapsed() > Duration::from_millis(1500)).then_some(())
    });
    let begun = Instant::now();
    let passed = passes(&ask_at_once(&proxy, &vec![get("/", ""); 40]));
    let most = 4.0 + 20.0 * begun.elapsed().as_secs_f64() + 1.0;
    let count = f64::from(u32::try_from(passed).expect("few"));
    assert!((4.0..=most).contains(&count), "{count} of at most {most}");
}

fn rate_and_burst_of_zero(driver: Driver) {
    let application = willing();
    let proxy = limited(driver, &application, "0", 2).start();
    let answers = ask_at_once(&proxy, &vec![get("/", ""); 6]);
    assert_eq!(passes(&answers), 2);
    let refused = answers.iter().find(|answer| !answer.passed()).expect("a refusal");
    assert_eq!(refused.assert_no_token(), 86_400, "no token will come");
    let proxy = limited(driver, &application, "1000", 0).start();
    let answers = ask_at_once(&proxy, &vec![get("/", ""); 6]);
    assert_eq!(passes(&answers), 0);
    assert_eq!(answers[0].assert_no_token(), 86_400, "no token will come");
    assert_eq!(application.requests().len(), 2, "NOUP");
}

/// F6
fn frames_are_not_counted(driver: Driver) {
    let application = willing();
    let proxy = limited(driver, &application, "0", 2).start();
    let mut tunnel = ask(&proxy, &upgrade(""));
    assert_eq!(tunnel.head.status(), 101);
    for number in 0..1000_u32 {
        // An unmasked frame of four bytes: the proxy passes bytes.
        let frame = [&[0x82, 4][..], &number.to_be_bytes()].concat();
        tunnel.client.send(&frame);
        tunnel.client.expect(&frame);
    }
    assert!(ask(&proxy, &get("/", "")).passed(), "the second token is still there");
    ask(&proxy, &get("/", "")).assert_no_token();
    tunnel.client.send(b"on");
    tunnel.client.expect(b"on");
}

/// 5.1: steps 2 and 3 take no token.
fn a_refused_head_and_own_endpoints_take_no_token(driver: Driver) {
    let application = willing();
    let proxy = limited(driver, &application, "0", 1).start();
    for _ in 0..5 {
        assert_eq!(proxy.get("/_vibewarden/health").0.status(), 200);
        assert_eq!(proxy.get("/_vibewarden/none").0.status(), 404);
        proxy.answer_to(b"GET / HTTP/1.1\r\n\r\n").assert_refusal(400, "bad_request");
    }
    assert!(ask(&proxy, SMUGGLED).passed());
    ask(&proxy, SMUGGLED).assert_no_token();
    assert_eq!(proxy.get("/_vibewarden/health").0.status(), 200);
}

fn exempt_paths_take_no_token(driver: Driver) {
    let application = willing();
    let proxy = limited(driver, &application, "0", 1)
        .set("rate_limit.exempt_paths", "[\"/free/*\", \"/open\"]")
        .start();
    for _ in 0..4 {
        assert!(ask(&proxy, &get("/free/a", "")).passed());
        assert!(ask(&proxy, &get("/open?x=1", "")).passed());
    }
    assert!(ask(&proxy, &get("/other", "")).passed());
    ask(&proxy, &get("/openly", "")).assert_no_token();
    ask(&proxy, &get("/other", "")).assert_no_token();
    assert!(ask(&proxy, &get("/free/b", "")).passed());
}

fn each_address_has_a_bucket(driver: Driver) {
    let application = willing();
    let proxy =
        limited(driver, &application, "0", 2).set("server.trusted_proxies", "[127.0.0.1]").start();
    let requests: Vec<_> =
        (0..10).flat_map(|host| vec![get("/", &from(&format!("203.0.113.{host}"))); 4]).collect();
    let answers = ask_at_once(&proxy, &requests);
    for each in answers.chunks(4) {
        assert_eq!(passes(each), 2);
    }
    // An address that is written before the last one is only a claim (F9).
    ask(&proxy, &get("/", &from("198.51.100.1, 203.0.113.3"))).assert_no_token();
    proxy.wait_metric("vibewarden_rate_limit_keys", &[("scope", "ip")], 10.0);
}

/// F10
fn one_bucket_per_ipv6_network(driver: Driver) {
    let application = willing();
    let setup = limited(driver, &application, "0", 7).set("server.trusted_proxies", "[127.0.0.1]");
    let proxy = setup.start();
    let requests: Vec<_> =
        (0..40).map(|host| get("/", &from(&format!("2001:db8:1:2:{host:x}::{host:x}")))).collect();
    assert_eq!(passes(&ask_at_once(&proxy, &requests)), 7);
    assert!(ask(&proxy, &get("/", &from("2001:db8:1:3::1"))).passed(), "another network");
    let blocked = proxy.wait_event("a refusal", |event| event.is("rate_limit.blocked"));
    assert_eq!(blocked.text("payload.identifier"), "2001:db8:1:2::/64");
    let proxy = setup.set("rate_limit.per_ip.ipv6_prefix", "128").start();
    assert_eq!(passes(&ask_at_once(&proxy, &requests)), 40, "each address for itself");
}

/// F12
fn spellings_of_an_address_share_a_bucket(driver: Driver) {
    let application = willing();
    let proxy =
        limited(driver, &application, "0", 1).set("server.trusted_proxies", "[127.0.0.1]").start();
    for same in [
        &[
            "192.0.2.1",
            "::ffff:192.0.2.1",
            "::FFFF:C000:201",
            "192.0.2.1:4711",
            "[::ffff:c000:0201]:1",
        ][..],
        &[
            "2001:db8::1",
            "2001:DB8:0:0:0:0:0:1",
            "2001:0db8::0001",
            "[2001:db8::1]:443",
            "[2001:db8::2]",
        ],
        // The zone says something on the machine that wrote it alone.
        &["fe80::1", "fe80::1%eth0", "FE80::0001%1", "[fe80::1%25eth0]:443"],
        // 8.1 makes IPv4 of mapped addresses and of no others: translated and compatible ones are IPv6, by their network.
        &["64:ff9b::192.0.2.1", "64:ff9b::c000:201", "64:FF9B:0:0::198.51.100.2"],
        &["::192.0.2.1", "::c000:201", "0:0:0:0:0:0:192.0.2.1"],
        &["192.0.2.77", "::ffff:192.0.2.77", "0:0:0:0:0:ffff:c000:24d"],
    ] {
        assert!(ask(&proxy, &get("/", &from(same[0]))).passed(), "{same:?}");
        for other in same {
            ask(&proxy, &get("/", &from(other))).assert_no_token();
        }
    }
}

fn each_user_has_a_bucket_over_all_addresses(driver: Driver) {
    let application = willing();
    let proxy = limited_users(driver, &application, "0", 9).start();
    let of = |key: &str| -> Vec<Vec<u8>> {
        let line = |host| format!("X-API-Key: {key}\r\n{}", from(&format!("203.0.113.{host}")));
        (0..20).map(|host| upgrade(&line(host))).collect()
    };
    let requests = [of("alice-key"), of("bob-key")].concat();
    let answers = ask_at_once(&proxy, &requests);
    for each in answers.chunks(20) {
        assert_eq!(passes(each), 9);
    }
    hits(&proxy, "user", 22.0);
    proxy.wait_metric("vibewarden_rate_limit_keys", &[("scope", "user")], 2.0);
    let blocked = proxy.wait_event("a refusal", |event| event.is("rate_limit.blocked"));
    assert_eq!(blocked.text("payload.limit_type"), "user");
    let user = blocked.text("payload.identifier");
    assert!(["alice", "bob"].contains(&user), "{user}");
    assert!(!blocked.line.contains("-key\""), "no key in a line: {}", blocked.line);
    assert_eq!(application.requests().len(), 18, "NOUP");
}

/// F16: step 6 comes before step 9.
fn failed_logins_take_a_token_of_the_address(driver: Driver) {
    let application = willing();
    let proxy = limited_users(driver, &application, "0", 100)
        .set("rate_limit.per_ip.requests_per_second", "0")
        .set("rate_limit.per_ip.burst", "5")
        .start();
    let guess = get("/", "X-API-Key: guess\r\n");
    let answers = ask_at_once(&proxy, &vec![guess; 12]);
    let denied = answers.iter().filter(|answer| answer.head.status() == 401).count();
    let refused = answers.iter().filter(|answer| answer.head.status() == 429).count();
    assert_eq!((denied, refused), (5, 7));
    ask(&proxy, &get("/", "X-API-Key: alice-key\r\n")).assert_no_token();
    assert!(application.requests().is_empty(), "NOUP");
    proxy.wait_metric("vibewarden_rate_limit_keys", &[("scope", "user")], 0.0);
}

/// F20
fn a_reload_keeps_the_buckets(driver: Driver) {
    let application = willing();
    let setup = limited(driver, &application, "0", 6);
    let proxy = setup.start();
    assert_eq!(passes(&ask_at_once(&proxy, &vec![get("/", ""); 9])), 6);
    for turn in 1..4 {
        // The same values, other values of another limit, then a much slower rate instead of none.
        let next = match turn {
            1 => setup.clone(),
            2 => setup.clone().set("websocket.max_per_ip", "3"),
            _ => setup.clone().set("rate_limit.per_ip.requests_per_second", "0.0001"),
        };
        let from = proxy.event_count();
        proxy.replace_config(&next);
        proxy.signal(Signal::HUP);
        proxy.wait_event_after(from, "a reload", |event| event.is("config.reloaded"));
        assert_eq!(passes(&ask_at_once(&proxy, &vec![get("/", ""); 9])), 0, "turn {turn}");
    }
}

/// 11.2, and the same request everywhere under the same id.
fn a_refusal_is_told(driver: Driver) {
    let application = willing();
    let mut proxy = limited(driver, &application, "0.5", 1).start();
    assert!(ask(&proxy, &get("/a", "")).passed());
    let refused = ask(&proxy, &upgrade(""));
    let seconds = u64::from(refused.assert_no_token());
    assert!((1..=2).contains(&seconds), "{seconds}");
    let stopped = proxy.stop();
    let event = stopped.only("rate_limit.blocked");
    assert_eq!(event.text("payload.limit_type"), "ip");
    assert_eq!(event.text("payload.identifier"), "127.0.0.1");
    assert_eq!(event.text("payload.client_ip"), "127.0.0.1");
    assert_eq!(event.text("payload.method"), "GET");
    assert_eq!(event.text("payload.path"), "/ws");
    assert_eq!(event.count("payload.burst"), 1);
    let rate = event.json.number("payload.requests_per_second").expect("a rate");
    assert!((rate - 0.5).abs() < 1e-9, "{rate}");
    assert_eq!(event.count("payload.retry_after_seconds"), seconds);
    let signals = event.json.list("risk_signals").expect("risk signals");
    assert_eq!(signals.len(), 1, "{}", event.line);
    assert_eq!(signals[0].text("signal"), Some("rate_limit_exceeded"));
    let score = signals[0].number("score").expect("a score");
    assert!((score - 0.5).abs() < 1e-9, "{score}");
    assert_eq!(Some(event.request_id()), refused.head.one("x-request-id"));
    let ends = stopped.events.iter().filter(|event| event.ends_a_request()).count();
    assert_eq!(ends, 2, "one line for each request");
}

/// F13: more addresses than the table holds share what is left; they never pass more often than that.
fn a_full_table_leaves_nobody_unlimited(driver: Driver) {
    let application = willing();
    let proxy = limited(driver, &application, "0", 1)
        .set("server.trusted_proxies", "[127.0.0.1]")
        .set("rate_limit.max_keys", "1024")
        .start();
    let mut client = proxy.connect();
    let mut passed = 0;
    for host in 0..4000_u32 {
        let address = std::net::Ipv4Addr::from(0x0a00_0000 + host);
        client.send(&get("/", &from(&address.to_string())));
        let (head, _) = client.read_kept_answer();
        passed += usize::from(head.status() == 200);
        if head.one("connection") == Some("close") {
            client = proxy.connect();
        }
    }
    let scrape = proxy.scrape();
    let ip = [("scope", "ip")];
    let keys = scrape.value("vibewarden_rate_limit_keys", &ip);
    assert!((1.0..=1024.5).contains(&keys), "{keys}");
    let overflow = scrape.value("vibewarden_rate_limit_overflow_total", &ip);
    assert!(overflow > 4000.0 - 1024.5, "{overflow}");
    // Every key once, and one overflow bucket in each shard.
    assert!((512..2048).contains(&passed), "{passed}");
}
