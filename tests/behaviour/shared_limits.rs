//! Section 8.4 with a real Redis and two proxies: one budget while it answers, and what is promised while it does not.

use std::fmt::Debug;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;

use crate::harness::application::Application;
use crate::harness::crowd::{Answered, KEYS, ask, ask_at_once, get, passes, upgrade, willing};
use crate::harness::redis::{Redis, is_installed};
use crate::harness::setup::Scratch;
use crate::harness::vacant_address;
use crate::harness::{Driver, Proxy, Setup, eventually};

on_drivers!(
    every:
        one_budget_for_both_exact_to_the_token;
    both:
        users_share_a_budget_after_their_address,
        a_killed_server_leaves_local_buckets,
        a_killed_server_without_fallback_lets_nobody_pass,
        nobody_waits_for_a_server_that_hangs,
        nobody_waits_for_a_server_that_hangs_without_fallback,
        a_server_that_is_not_there_does_not_stop_the_start,
        a_password_is_given_and_a_wrong_one_told,
        a_server_behind_tls_is_believed_by_its_certificate,
        a_cluster_is_refused,
);

/// No token comes back, and a server that has come back is seen within a second.
fn shared(driver: Driver, application: &Application, burst: usize) -> Setup {
    Setup::new(driver, application.url())
        .set("watch.enabled", "false")
        .set("rate_limit.enabled", "true")
        .set("rate_limit.per_ip.requests_per_second", "0")
        .set("rate_limit.per_ip.burst", &burst.to_string())
        .set("server.drain_timeout", "0s")
        .set("rate_limit.store", "redis")
        .set("rate_limit.redis.health_check_interval", "1s")
}

fn at(setup: Setup, redis: &Redis) -> Setup {
    setup.set("rate_limit.redis.address", &format!("\"{}\"", redis.address()))
}

fn start_two(setup: &Setup) -> [Proxy; 2] {
    [setup.start(), setup.start()]
}

const LOST: &str = "rate_limit.store_fallback";
const BACK: &str = "rate_limit.store_recovered";

/// Plays a round and compares what it saw; each proxy loses Redis and finds it again so many times in it. A call fails after
/// 100 ms, and a machine that is busy with other things makes it take that long: the proxy says so, and the round is repeated.
#[track_caller]
fn plays<T: Debug + PartialEq>(
    expected: &T,
    losses: usize,
    round: impl Fn() -> Option<(T, [Proxy; 2])>,
) {
    for _ in 0..50 {
        let Some((seen, mut proxies)) = round() else {
            println!("disturbed before anything was done to Redis");
            continue;
        };
        let told = proxies.each_mut().map(transitions);
        if told.iter().all(|told| told.len() <= 2 * losses) {
            assert_eq!(seen, *expected);
            let each = [LOST, BACK].repeat(losses);
            assert_eq!(told, [each.clone(), each]);
            return;
        }
        println!("disturbed: {told:?}");
    }
    panic!("Redis is lost again and again without a reason");
}

/// The transitions of a proxy that is stopped now, in order.
#[track_caller]
fn transitions(proxy: &mut Proxy) -> Vec<String> {
    let events = proxy.stop().events;
    let told = events.iter().filter(|event| event.is(LOST) || event.is(BACK));
    told.map(|event| {
        let store = if event.is(LOST) { "memory" } else { "redis" };
        assert_eq!(event.text("payload.store"), store, "{}", event.line);
        event.kind().to_owned()
    })
    .collect()
}

/// What a part of a round saw that Redis had to decide, if it is what it must be. Something else has one excuse: a proxy that
/// says it lost Redis, more often than the so many transitions that the round has brought about.
#[track_caller]
fn undisturbed<T: Debug + PartialEq>(
    proxies: &[Proxy; 2],
    transitions: usize,
    seen: T,
    expected: &T,
) -> Option<T> {
    if seen == *expected {
        return Some(seen);
    }
    eventually(&format!("an excuse for {seen:?} where {expected:?} is right"), || {
        proxies.iter().find(|proxy| {
            let events = proxy.events();
            events.iter().filter(|event| event.is(LOST) || event.is(BACK)).count() > transitions
        })
    });
    None
}

/// Waits until the last transition of each proxy is of this kind.
#[track_caller]
fn wait_for(proxies: &[Proxy; 2], kind: &str) {
    for proxy in proxies {
        eventually(kind, || {
            let events = proxy.events();
            let last = events.iter().rev().find(|event| event.is(LOST) || event.is(BACK));
            last.is_some_and(|event| event.is(kind)).then_some(())
        });
    }
}

/// Sends these to both proxies at once, a few at a time so that a decision takes a small part of its 100 ms; how many passed.
#[track_caller]
fn passes_of_both(proxies: &[Proxy; 2], requests: &[Vec<u8>]) -> usize {
    let mut passed = 0;
    for few in requests.chunks(4) {
        passed += std::thread::scope(|scope| {
            let asking = proxies
                .each_ref()
                .map(|proxy| scope.spawn(move || passes(&ask_at_once(proxy, few))));
            asking.into_iter().map(|asking| asking.join().expect("answers")).sum::<usize>()
        });
    }
    passed
}

/// F21
fn one_budget_for_both_exact_to_the_token(driver: Driver) {
    if !is_installed("redis-server") {
        return;
    }
    let mixed: Vec<_> =
        (0..48).map(|at| if at % 2 == 0 { upgrade("") } else { get("/", "") }).collect();
    let key = "vibewarden:ratelimit:1:127.0.0.1";
    // The key and its fields are those of the wider product; no token will come.
    let expected = (50, 50, 86_400, [":1", ":2", ":1"].map(str::to_owned).to_vec());
    plays(&expected, 0, || {
        let redis = Redis::start(&[]).expect("it was there");
        let application = willing();
        let proxies = start_two(&at(shared(driver, &application, 50), &redis));
        let passed = passes_of_both(&proxies, &mixed);
        let wait = ask(&proxies[0], &upgrade("")).assert_no_token();
        let asked = ["DBSIZE", &format!("HLEN {key}"), &format!("HEXISTS {key} last_us")];
        let told = redis.say(&asked).expect("answers");
        Some(((passed, application.requests().len(), wait, told), proxies))
    });
    // Buckets outlive the proxies, and another prefix is another budget.
    let redis = Redis::start(&[]).expect("it was there");
    let application = willing();
    let setup = at(shared(driver, &application, 50), &redis);
    for (prefix, passed) in [("some", 50), ("some", 0), ("other", 50)] {
        let setup = setup.clone().set("rate_limit.redis.key_prefix", prefix);
        plays(&passed, 0, || {
            let proxies = start_two(&setup);
            if passed > 0 {
                redis.say(&[&format!("DEL {prefix}:ratelimit:1:127.0.0.1")]).expect("an answer");
            }
            Some((passes_of_both(&proxies, &mixed), proxies))
        });
    }
}

/// 8.4: the user's token is taken only after the address's.
fn users_share_a_budget_after_their_address(driver: Driver) {
    if !is_installed("redis-server") {
        return;
    }
    let of = |key: &str, address: &str, count: usize| {
        vec![upgrade(&format!("X-API-Key: {key}\r\nX-Forwarded-For: {address}\r\n")); count]
    };
    plays(&[18, 2, 0, 20], 0, || {
        let redis = Redis::start(&[]).expect("it was there");
        let application = willing();
        let proxies = start_two(
            &at(shared(driver, &application, 30), &redis)
                .set("rate_limit.per_user.requests_per_second", "0")
                .set("rate_limit.per_user.burst", "20")
                .set("auth.mode", "api-key")
                .set("auth.api_key.keys", KEYS)
                .set("server.trusted_proxies", "[127.0.0.1]"),
        );
        let passed = [
            // Eighteen from one address, then thirty from another: of these only two find a token of the user left.
            of("alice-key", "192.0.2.1", 9),
            of("alice-key", "192.0.2.2", 20),
            // The second address is empty now, and who is refused for it takes none of the user's.
            of("bob-key", "192.0.2.2", 4),
            of("bob-key", "192.0.2.3", 12),
        ];
        Some((passed.map(|requests| passes_of_both(&proxies, &requests)), proxies))
    });
}

/// Asks both proxies again and again until `done`; how many passed. Every answer is one that the contract knows.
#[track_caller]
fn hammer_until(proxies: &[Proxy; 2], done: impl FnOnce()) -> usize {
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = proxies.each_ref().map(|proxy| {
            let is_done = &is_done;
            scope.spawn(move || {
                let (mut passed, mut asked) = (0, 0);
                while !is_done.load(Ordering::Relaxed) || asked < 20 {
                    passed += passes(&[ask(proxy, &upgrade(""))]);
                    asked += 1;
                }
                passed
            })
        });
        done();
        is_done.store(true, Ordering::Relaxed);
        asking.into_iter().map(|asking| asking.join().expect("answers")).sum()
    })
}

/// F22 with `fallback: true`, under load all the time.
fn a_killed_server_leaves_local_buckets(driver: Driver) {
    if !is_installed("redis-server") {
        return;
    }
    // Shared 5; 5 of each proxy, once, because a local bucket is kept; shared 5 for each server that has forgotten everything.
    plays(&[5, 10, 5, 0, 5], 2, || {
        let mut redis = Redis::start(&[]).expect("it was there");
        let application = willing();
        let proxies = start_two(&at(shared(driver, &application, 5), &redis));
        let mut passed = [0; 5];
        passed[0] = undisturbed(&proxies, 0, hammer_until(&proxies, || {}), &5)?;
        for round in 0..2 {
            passed[1 + 2 * round] = hammer_until(&proxies, || {
                redis.kill();
                wait_for(&proxies, LOST);
            });
            let again = hammer_until(&proxies, || {
                redis.start_again();
                wait_for(&proxies, BACK);
            });
            passed[2 + 2 * round] = undisturbed(&proxies, 2 + 2 * round, again, &5)?;
        }
        Some((passed, proxies))
    });
}

/// F22 with `fallback: false`.
fn a_killed_server_without_fallback_lets_nobody_pass(driver: Driver) {
    if !is_installed("redis-server") {
        return;
    }
    plays(&([5, 0, 5], vec![1; 4]), 1, || {
        let mut redis = Redis::start(&[]).expect("it was there");
        let application = willing();
        let setup = at(shared(driver, &application, 5), &redis)
            .set("rate_limit.redis.fallback", "false")
            .set("rate_limit.exempt_paths", "[\"/free/*\"]");
        let proxies = start_two(&setup);
        let mut passed = [0; 3];
        let mut waits = Vec::new();
        passed[0] = undisturbed(&proxies, 0, hammer_until(&proxies, || {}), &5)?;
        passed[1] = hammer_until(&proxies, || {
            redis.kill();
            wait_for(&proxies, LOST);
        });
        for proxy in &proxies {
            for request in [get("/", ""), upgrade("")] {
                waits.push(ask(proxy, &request).assert_no_token());
            }
            // What needs no token needs no server.
            assert!(ask(proxy, &get("/free/a", "")).passed());
            assert_eq!(proxy.get("/_vibewarden/ready").0.status(), 200);
        }
        passed[2] = hammer_until(&proxies, || {
            redis.start_again();
            wait_for(&proxies, BACK);
        });
        Some(((passed, waits), proxies))
    });
}

/// The answers to many handshakes and requests, all of them given while the server is stopped.
#[track_caller]
fn answers_while_stopped(redis: &Redis, proxies: &[Proxy; 2]) -> Vec<Answered> {
    redis.signal(Signal::STOP);
    let requests = [vec![upgrade(""); 30], vec![get("/", ""); 10]].concat();
    let mut answers = Vec::new();
    for _ in 0..2 {
        answers.extend(proxies.iter().flat_map(|proxy| ask_at_once(proxy, &requests)));
    }
    wait_for(proxies, LOST);
    redis.signal(Signal::CONT);
    wait_for(proxies, BACK);
    answers
}

fn nobody_waits_for_a_server_that_hangs(driver: Driver) {
    if !is_installed("redis-server") {
        return;
    }
    // One budget, then the local one of each; the server remembers its own.
    plays(&[30, 2 * 30, 0], 1, || {
        let redis = Redis::start(&[]).expect("it was there");
        let application = willing();
        let proxies = start_two(&at(shared(driver, &application, 30), &redis));
        let before = passes_of_both(&proxies, &vec![get("/", ""); 24]);
        let before = undisturbed(&proxies, 0, before, &30)?;
        let meanwhile = passes(&answers_while_stopped(&redis, &proxies));
        let after = passes_of_both(&proxies, &vec![upgrade(""); 8]);
        Some(([before, meanwhile, after], proxies))
    });
}

fn nobody_waits_for_a_server_that_hangs_without_fallback(driver: Driver) {
    if !is_installed("redis-server") {
        return;
    }
    plays(&(8, vec![1; 160], true, 9), 1, || {
        let redis = Redis::start(&[]).expect("it was there");
        let application = willing();
        let setup = at(shared(driver, &application, 1000), &redis);
        let proxies = start_two(&setup.set("rate_limit.redis.fallback", "false"));
        let before = passes_of_both(&proxies, &vec![get("/", ""); 4]);
        let before = undisturbed(&proxies, 0, before, &8)?;
        let answers = answers_while_stopped(&redis, &proxies);
        let waits = answers.iter().map(Answered::assert_no_token).collect();
        let passes_again = ask(&proxies[0], &upgrade("")).passed();
        Some(((before, waits, passes_again, application.requests().len()), proxies))
    });
}

fn a_server_that_is_not_there_does_not_stop_the_start(driver: Driver) {
    if !is_installed("redis-server") {
        return;
    }
    plays(&(3, 1, 3), 1, || {
        let mut redis = Redis::start(&[]).expect("it was there");
        redis.kill();
        let application = willing();
        let setup = at(shared(driver, &application, 3), &redis);
        let without = setup.clone().set("rate_limit.redis.fallback", "false");
        let proxies = [setup.start(), without.start()];
        let local = passes(&ask_at_once(&proxies[0], &vec![upgrade(""); 8]));
        let wait = ask(&proxies[1], &upgrade("")).assert_no_token();
        wait_for(&proxies, LOST);
        redis.start_again();
        wait_for(&proxies, BACK);
        Some(((local, wait, passes_of_both(&proxies, &vec![upgrade(""); 8])), proxies))
    });
}

/// Waits until a request was decided by the server: the last of these commands says that the bucket is there.
#[track_caller]
fn assert_decides(redis: &Redis, setup: &Setup, commands: &[&str]) {
    let proxy = setup.start();
    eventually("a decision of the server", || {
        ask(&proxy, &upgrade(""));
        let told = redis.say(commands).expect("answers");
        (told.last().expect("an answer") == ":1").then_some(())
    });
}

/// Local buckets decide, one event says why, and no line has a secret.
#[track_caller]
fn assert_falls_back(setup: &Setup, reason: &str, secrets: &[&str]) {
    let mut proxy = setup.start();
    let event = proxy.wait_event(LOST, |event| event.is(LOST));
    assert!(event.text("payload.reason").contains(reason), "{}", event.line);
    assert_eq!(passes(&ask_at_once(&proxy, &vec![upgrade(""); 12])), 7, "local buckets");
    proxy.wait_log(0, reason);
    let stopped = proxy.stop();
    assert_eq!(stopped.of_kind(LOST).len(), 1);
    for secret in secrets {
        assert!(!stopped.log.contains(secret), "{secret}");
        assert!(stopped.events.iter().all(|event| !event.line.contains(secret)), "{secret}");
    }
}

fn a_password_is_given_and_a_wrong_one_told(driver: Driver) {
    let Some(redis) = Redis::start(&["--requirepass", "right-word"]) else { return };
    redis.say(&["AUTH right-word", "ACL SETUSER warden on >second-word ~* +@all"]).expect("a user");
    let application = willing();
    let setup = shared(driver, &application, 7);
    let url = |userinfo: &str| {
        let url = format!("\"redis://{userinfo}127.0.0.1:{}\"", redis.port());
        setup.clone().set("rate_limit.redis.url", &url)
    };
    let password = "rate_limit.redis.password";
    for (number, right) in [
        at(setup.clone(), &redis).set(password, "right-word"),
        at(setup.clone(), &redis).environment("VIBEWARDEN_RATE_LIMIT_REDIS_PASSWORD", "right-word"),
        url(":right-word@"),
        url("warden:second-word@"),
        url("warden:wrong-word@").set(password, "second-word"),
    ]
    .iter()
    .enumerate()
    {
        let prefix = format!("p{number}");
        let exists = format!("EXISTS {prefix}:ratelimit:1:127.0.0.1");
        let setup = right.clone().set("rate_limit.redis.key_prefix", &prefix);
        assert_decides(&redis, &setup, &["AUTH right-word", &exists]);
    }
    let reason = "refused user or password";
    for wrong in [
        at(setup.clone(), &redis).set(password, "wrong-word"),
        url(":wrong-word@"),
        url("nobody:right-word@"),
    ] {
        assert_falls_back(&wrong, reason, &["wrong-word", "right-word"]);
    }
    // No password where one is required.
    assert_falls_back(&at(setup.clone(), &redis), reason, &["right-word"]);
}

fn openssl(directory: &Path, arguments: &[&str]) {
    let made = Command::new("openssl").args(arguments).current_dir(directory).output();
    let made = made.expect("openssl");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// An authority `ca.pem`, and what it certifies: `server.pem` for 127.0.0.1 and `other.pem` for another name.
fn certificates(directory: &Path) {
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let make = |rest: &[&str]| {
        openssl(directory, &[&["req", "-x509", "-days", "2"], &key[..], rest].concat());
    };
    make(&["-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.pem"]);
    for (name, address) in [("server", "IP:127.0.0.1"), ("other", "DNS:other.test")] {
        let (pem, key_file) = (format!("{name}.pem"), format!("{name}.key"));
        let names = format!("subjectAltName={address}");
        let usage = ["-addext", "basicConstraints=critical,CA:FALSE", "-addext", &names];
        let by = ["-subj", "/CN=a server", "-CA", "ca.pem", "-CAkey", "ca.key"];
        make(&[&by[..], &usage, &["-keyout", &key_file, "-out", &pem]].concat());
    }
}

/// A TLS port beside the plain one, with this certificate.
fn behind_tls(directory: &Path, name: &str) -> Option<(Redis, u16)> {
    let file = |end: &str| directory.join(format!("{name}.{end}")).display().to_string();
    let port = vacant_address().port();
    let options = [
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &file("pem"),
        "--tls-key-file",
        &file("key"),
        "--tls-auth-clients",
        "no",
        "--requirepass",
        "right-word",
    ];
    Some((Redis::start(&options)?, port))
}

/// The roots are those of the machine; `SSL_CERT_FILE` names others, as for OpenSSL.
fn a_server_behind_tls_is_believed_by_its_certificate(driver: Driver) {
    if !is_installed("openssl") || !is_installed("redis-server") {
        return;
    }
    let directory = Scratch::new();
    certificates(directory.path());
    let authority = directory.path().join("ca.pem").display().to_string();
    let application = willing();
    let setup = |port: u16| {
        let url = format!("\"rediss://:right-word@127.0.0.1:{port}\"");
        shared(driver, &application, 7).set("rate_limit.redis.url", &url)
    };
    let Some((redis, port)) = behind_tls(directory.path(), "server") else { return };
    let trusting = setup(port).environment("SSL_CERT_FILE", &authority);
    let exists = "EXISTS vibewarden:ratelimit:1:127.0.0.1";
    assert_decides(&redis, &trusting, &["AUTH right-word", exists]);
    let reason = "cannot connect to Redis";
    assert_falls_back(&setup(port), reason, &["right-word"]);
    let Some((_other, port)) = behind_tls(directory.path(), "other") else { return };
    let trusting = setup(port).environment("SSL_CERT_FILE", &authority);
    assert_falls_back(&trusting, reason, &["right-word"]);
}

fn a_cluster_is_refused(driver: Driver) {
    let Some(redis) = Redis::start(&["--cluster-enabled", "yes"]) else { return };
    let application = willing();
    let setup = at(shared(driver, &application, 7), &redis);
    assert_falls_back(&setup, "is a cluster, which is not supported", &[]);
}
