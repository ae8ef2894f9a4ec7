//! Sections 3.3 and 14: which certificate clients see, how it is replaced, and that sessions go on at every core.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::Signal;
use rustls::client::Resumption;
use rustls::{ClientConfig, HandshakeKind};

use crate::harness::certificate::{Pair, external};
use crate::harness::setup::Scratch;
use crate::harness::tls::{ONLY_12, ONLY_13, client};
use crate::harness::{Driver, HANDSHAKE, Proxy, Setup, Upstream, eventually};

on_drivers!(
    every: ;
    both:
        keys_of_every_kind_are_served,
        sessions_go_on_at_every_core_and_after_a_renewal,
        a_hundred_renewals_under_load_harm_no_tunnel,
        a_broken_pair_changes_nothing,
        a_hangup_renews_without_a_watch,
);

const READY: &[u8] = b"GET /_vibewarden/ready HTTP/1.1\r\nHost: t.test\r\n\r\n";

/// The leaf that a new client sees, and the length of its chain.
#[track_caller]
fn seen(proxy: &Proxy) -> (Vec<u8>, usize) {
    let client = proxy.connect();
    client.tls(|tls| {
        let chain = tls.peer_certificates().expect("a chain");
        (chain[0].to_vec(), chain.len())
    })
}

#[track_caller]
fn wait_seen(proxy: &Proxy, pair: &Pair, what: &str) {
    eventually(what, || (seen(proxy).0 == pair.leaf).then_some(()));
}

fn keys_of_every_kind_are_served(driver: Driver) {
    let upstream = Upstream::start();
    let pairs = [
        ("ECDSA P-256", Pair::ecdsa(), 2),
        ("ECDSA P-384", Pair::new(&rcgen::PKCS_ECDSA_P384_SHA384), 2),
        ("Ed25519", Pair::new(&rcgen::PKCS_ED25519), 2),
        ("RSA 2048", Pair::rsa(), 1),
    ];
    for (name, pair, length) in pairs {
        let scratch = Scratch::new();
        pair.write_into(scratch.path());
        let mut proxy = external(Setup::new(driver, upstream.url()), scratch.path()).start();
        for versions in [ONLY_12, ONLY_13] {
            let mut client = proxy.connect_bare().secure(Arc::new(client(versions)));
            client.send(READY);
            assert_eq!(client.read_head().status(), 200, "{name}");
        }
        assert_eq!(seen(&proxy), (pair.leaf, length), "{name}");
        let stopped = proxy.stop();
        assert_eq!(stopped.only("proxy.started").text("payload.tls_provider"), "external");
    }
}

/// One request with a client that remembers its sessions.
#[track_caller]
fn ask(proxy: &Proxy, config: &Arc<ClientConfig>) -> Option<HandshakeKind> {
    let mut client = proxy.connect_bare().secure(Arc::clone(config));
    let early = client.tls(|tls| tls.early_data().is_some());
    assert!(!early, "0-RTT was offered");
    client.send(READY);
    assert_eq!(client.read_kept_answer().0.status(), 200);
    client.tls(|tls| tls.handshake_kind())
}

fn sessions_go_on_at_every_core_and_after_a_renewal(driver: Driver) {
    let upstream = Upstream::start();
    let scratch = Scratch::new();
    Pair::ecdsa().write_into(scratch.path());
    let setup = Setup::new(driver, upstream.url()).set("watch.debounce", "20ms");
    let proxy = external(setup, scratch.path()).start();
    let configs = [ONLY_12, ONLY_13].map(|versions| {
        let mut config = client(versions);
        config.resumption = Resumption::in_memory_sessions(64);
        config.enable_early_data = true;
        Arc::new(config)
    });
    for config in &configs {
        assert_eq!(ask(&proxy, config), Some(HandshakeKind::Full));
        // So many connections from so many ports are taken by both workers.
        for round in 0..40 {
            assert_eq!(ask(&proxy, config), Some(HandshakeKind::Resumed), "round {round}");
        }
    }
    let next = Pair::ecdsa();
    next.write_into(scratch.path());
    wait_seen(&proxy, &next, "the new certificate");
    for config in &configs {
        for round in 0..20 {
            assert_eq!(ask(&proxy, config), Some(HandshakeKind::Resumed), "round {round}");
        }
    }
    // Another process has other keys: full handshakes, and nothing breaks.
    let other = external(Setup::new(driver, upstream.url()), scratch.path()).start();
    for config in &configs {
        assert_eq!(ask(&other, config), Some(HandshakeKind::Full));
        assert_eq!(ask(&other, config), Some(HandshakeKind::Resumed));
    }
}

/// Puts a pair in place in one of the ways in which certificates are renewed.
fn replace(root: &Path, pair: &Pair, number: usize) {
    match number % 3 {
        // Each file written anew and renamed over the old one, as certbot and lego do.
        0 => {
            for (name, text) in [("chain.pem", &pair.chain), ("key.pem", &pair.key)] {
                let next = root.join("next");
                std::fs::write(&next, text).expect("write");
                std::fs::rename(next, root.join(name)).expect("rename");
            }
        }
        1 => pair.write_into(root),
        // file → ..data/file, ..data → a folder of its own, swapped: as Kubernetes does it.
        _ => {
            let version = root.join(format!("..v{number}"));
            std::fs::create_dir(&version).expect("a folder");
            pair.write_into(&version);
            symlink(format!("..v{number}"), root.join("..next")).expect("symlink");
            std::fs::rename(root.join("..next"), root.join("..data")).expect("rename");
            for name in ["chain.pem", "key.pem"] {
                symlink(format!("..data/{name}"), root.join("..link")).expect("symlink");
                std::fs::rename(root.join("..link"), root.join(name)).expect("rename");
            }
        }
    }
}

fn a_hundred_renewals_under_load_harm_no_tunnel(driver: Driver) {
    const RENEWALS: usize = 100;
    let serving = Upstream::start().echo();
    let scratch = Scratch::new();
    Pair::ecdsa().write_into(scratch.path());
    let setup = Setup::new(driver, serving.url()).set("watch.debounce", "20ms");
    let mut proxy = external(setup, scratch.path()).start();
    let done = AtomicBool::new(false);
    let echoed = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for number in 0..4_u8 {
            let mut client = proxy.sent(HANDSHAKE);
            client.open();
            let (done, echoed) = (&done, &echoed);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    client.send(&[number; 5000]);
                    client.expect(&[number; 5000]);
                    echoed.fetch_add(1, Ordering::Relaxed);
                }
                client.fin();
                client.expect_end();
            });
        }
        for number in 0..RENEWALS {
            let pair = Pair::ecdsa();
            let before = echoed.load(Ordering::Relaxed);
            replace(scratch.path(), &pair, number);
            wait_seen(&proxy, &pair, &format!("certificate {number}"));
            eventually("an echo meanwhile", || {
                (echoed.load(Ordering::Relaxed) > before).then_some(())
            });
        }
        done.store(true, Ordering::Relaxed);
    });
    proxy.wait_metric("vibewarden_websocket_active", &[], 0.0);
    let stopped = proxy.stop();
    let closed = stopped.of_kind("websocket.closed");
    assert_eq!(closed.len(), 4);
    for event in closed {
        assert_eq!(event.text("payload.reason"), "client_closed", "{}", event.line);
    }
    assert!(stopped.of_kind("config.reloaded").len() >= RENEWALS);
}

fn a_broken_pair_changes_nothing(driver: Driver) {
    let upstream = Upstream::start();
    let scratch = Scratch::new();
    let (chain, key) = (scratch.path().join("chain.pem"), scratch.path().join("key.pem"));
    let first = Pair::ecdsa();
    first.write_into(scratch.path());
    let setup = Setup::new(driver, upstream.url()).set("watch.debounce", "100ms");
    let proxy = external(setup, scratch.path()).start();
    let (mut tunnel, mut conn) = proxy.tunnel(&upstream);
    let other = Pair::ecdsa();
    let write = |path: &Path, text: &str| std::fs::write(path, text).expect("write");
    let breaks: [(&str, &dyn Fn()); 6] = [
        ("tls.key_path", &|| write(&key, &other.key)),
        ("tls.cert_path", &|| write(&chain, "not a certificate\n")),
        ("tls.cert_path", &|| {
            write(&chain, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        }),
        ("tls.key_path", &|| write(&key, "")),
        ("tls.key_path", &|| std::fs::remove_file(&key).expect("remove")),
        ("tls.cert_path", &|| std::fs::remove_file(&chain).expect("remove")),
    ];
    let mut current = first;
    for (named, break_it) in breaks {
        let from = proxy.event_count();
        break_it();
        // The reload before may be told as late as here.
        let failed =
            proxy.wait_event_after(from, "a refusal", |event| event.is("config.reload_failed"));
        assert!(failed.line.contains(named), "{named} is not named: {}", failed.line);
        let listed = failed.json.list("payload.validation_errors").expect("a list");
        assert_eq!(listed.len(), 1, "{}", failed.line);
        assert_eq!(failed.text("payload.trigger_source"), "file_watcher");
        assert!(seen(&proxy).0 == current.leaf, "the old one is served on");
        tunnel.ping(&mut conn, b"not touched");
        // Then a good one.
        let next = Pair::ecdsa();
        next.write_into(scratch.path());
        wait_seen(&proxy, &next, "the next good certificate");
        current = next;
    }
    // No key or its text is told to anybody.
    let lines = proxy.process.out.text() + &proxy.process.err.text();
    for pair in [&current, &other] {
        let body = pair.key.lines().nth(1).expect("a line of the key");
        assert!(!lines.contains(body), "a key in the output");
    }
    tunnel.ping(&mut conn, b"to the end");
}

fn a_hangup_renews_without_a_watch(driver: Driver) {
    let upstream = Upstream::start();
    let scratch = Scratch::new();
    let first = Pair::ecdsa();
    first.write_into(scratch.path());
    let setup = Setup::new(driver, upstream.url()).set("watch.enabled", "false");
    let proxy = external(setup.clone(), scratch.path()).start();
    let reload = || {
        let from = proxy.event_count();
        proxy.signal(Signal::HUP);
        proxy.wait_event_after(from, "the outcome", |event| {
            event.is("config.reloaded") || event.is("config.reload_failed")
        })
    };
    let next = Pair::rsa();
    next.write_into(scratch.path());
    assert!(seen(&proxy).0 == first.leaf, "nobody has asked for another");
    assert!(reload().is("config.reloaded"));
    assert!(seen(&proxy).0 == next.leaf);
    // Other paths are a change like any other; another provider needs a restart.
    let elsewhere = Scratch::new();
    let moved = Pair::ecdsa();
    moved.write_into(elsewhere.path());
    proxy.replace_config(&external(setup.clone(), elsewhere.path()));
    let event = reload();
    assert!(event.is("config.reloaded"), "{}", event.line);
    assert_eq!(event.json.list("payload.restart_required").map(<[_]>::len), Some(0));
    assert!(seen(&proxy).0 == moved.leaf);
    proxy.replace_config(&setup.set("tls.enabled", "true"));
    let event = reload();
    assert!(event.is("config.reloaded"), "{}", event.line);
    assert!(event.line.contains("\"tls.provider\""), "{}", event.line);
    assert!(seen(&proxy).0 == moved.leaf, "the old one until the restart");
}
