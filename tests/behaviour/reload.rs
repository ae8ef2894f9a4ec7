//! Section 14: a new configuration takes over whole or not at all, and open tunnels never notice.

use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;

use crate::harness::event::Event;
use crate::harness::json::Json;
use crate::harness::peer::is_kept_alive;
use crate::harness::setup::Scratch;
use crate::harness::{
    ANSWER_101, Driver, End, HANDSHAKE, Proxy, Setup, Upstream, eventually, wire,
};

on_drivers!(
    every:
        a_hangup_brings_the_new_upstream;
    both:
        a_changed_file_is_noticed_however_it_is_changed,
        a_folder_that_is_replaced_is_watched_again,
        a_bad_configuration_changes_nothing,
        keys_that_need_a_restart_keep_their_value,
        tunnels_and_handshakes_never_notice,
        reloadable_keys_take_effect,
        requests_under_way_finish_as_they_began,
        liveness_reaches_open_tunnels_and_new_connections,
);

fn unwatched(driver: Driver, upstream: &Upstream) -> Setup {
    Setup::new(driver, upstream.url()).set("watch.enabled", "false")
}

/// Replaces the configuration, sends SIGHUP and waits for the outcome.
#[track_caller]
fn reload(proxy: &Proxy, setup: &Setup) -> Event {
    let from = proxy.event_count();
    proxy.replace_config(setup);
    proxy.signal(Signal::HUP);
    reload_event(proxy, from)
}

#[track_caller]
fn reload_event(proxy: &Proxy, from: usize) -> Event {
    proxy.wait_event_after(from, "the outcome of a reload", |event| {
        event.is("config.reloaded") || event.is("config.reload_failed")
    })
}

#[track_caller]
fn assert_reloaded(event: &Event, proxy: &Proxy, source: &str, restart_required: &[&str]) {
    assert!(event.is("config.reloaded"), "{}", event.line);
    assert_eq!(event.text("payload.trigger_source"), source, "{}", event.line);
    let path = proxy.config_path().display().to_string();
    assert_eq!(event.text("payload.config_path"), path);
    assert!(event.json.number("payload.duration_ms").is_some());
    let listed: Vec<&str> = event
        .json
        .list("payload.restart_required")
        .expect("a list")
        .iter()
        .map(|item| match item {
            Json::Text(text) => text.as_str(),
            other => panic!("{other:?} in restart_required"),
        })
        .collect();
    assert_eq!(listed, restart_required);
    assert_eq!(event.text("actor.type"), "system", "{}", event.line);
    assert_eq!(event.text("resource.type"), "config", "{}", event.line);
}

fn a_hangup_brings_the_new_upstream(driver: Driver) {
    let (one, two) = (Upstream::start(), Upstream::start());
    let mut proxy = unwatched(driver, &one).start();
    let (mut client, mut conn) = proxy.tunnel(&one);
    client.ping(&mut conn, b"before");
    let event = reload(&proxy, &unwatched(driver, &two));
    assert_reloaded(&event, &proxy, "signal", &[]);
    let (mut later, mut later_conn) = proxy.tunnel(&two);
    later.ping(&mut later_conn, b"the new one");
    client.ping(&mut conn, b"the old one");
    one.assert_untouched();
    let ok = [("result", "ok")];
    proxy.wait_metric("vibewarden_config_reloads_total", &ok, 1.0);
    drop((client, conn, later, later_conn));
    drop(proxy.stop());
}

fn a_changed_file_is_noticed_however_it_is_changed(driver: Driver) {
    let first = Upstream::start();
    let watched =
        |upstream: &Upstream| Setup::new(driver, upstream.url()).set("watch.debounce", "50ms");
    let proxy = watched(&first).start();
    // Written in place.
    let second = Upstream::start();
    let from = proxy.event_count();
    std::fs::write(proxy.config_path(), watched(&second).yaml()).expect("write");
    let event = reload_event(&proxy, from);
    assert_reloaded(&event, &proxy, "file_watcher", &[]);
    drop(proxy.tunnel(&second));
    // Renamed over, twice: the watch has to follow the name, not the file.
    for _ in 0..2 {
        let next = Upstream::start();
        let from = proxy.event_count();
        proxy.replace_config(&watched(&next));
        let event = reload_event(&proxy, from);
        assert_reloaded(&event, &proxy, "file_watcher", &[]);
        drop(proxy.tunnel(&next));
    }
    // The way in which Kubernetes updates a mounted configuration: file → ..data/file, ..data → a directory, swapped.
    let scratch = Scratch::new();
    let root = scratch.path().to_owned();
    let version = |number: u32, upstream: &Upstream| {
        let directory = root.join(format!("..v{number}"));
        std::fs::create_dir(&directory).expect("a directory");
        std::fs::write(directory.join("vibewarden.yaml"), watched(upstream).yaml()).expect("write");
        symlink(format!("..v{number}"), root.join("..next")).expect("symlink");
        std::fs::rename(root.join("..next"), root.join("..data")).expect("rename");
    };
    version(1, &first);
    let path = root.join("vibewarden.yaml");
    symlink("..data/vibewarden.yaml", &path).expect("symlink");
    let proxy = watched(&first).start_from(scratch, &path);
    for number in 2..5 {
        let next = Upstream::start();
        let from = proxy.event_count();
        version(number, &next);
        let event = reload_event(&proxy, from);
        assert_reloaded(&event, &proxy, "file_watcher", &[]);
        drop(proxy.tunnel(&next));
    }
}

/// The folder of the file, and one above it, renamed away or removed while another one takes the name.
fn a_folder_that_is_replaced_is_watched_again(driver: Driver) {
    let watched =
        |upstream: &Upstream| Setup::new(driver, upstream.url()).set("watch.debounce", "50ms");
    let scratch = Scratch::new();
    let root = scratch.path().to_owned();
    let (outer, inner) = (root.join("outer"), root.join("outer/inner"));
    let path = inner.join("vibewarden.yaml");
    let make = |upstream: &Upstream| {
        std::fs::create_dir_all(&inner).expect("a folder");
        std::fs::write(&path, watched(upstream).yaml()).expect("write");
    };
    let first = Upstream::start();
    make(&first);
    let proxy = watched(&first).start_from(scratch, &path);
    let replacements: [&dyn Fn(&Upstream); 5] = [
        &|upstream| {
            std::fs::rename(&inner, root.join("away")).expect("rename");
            make(upstream);
        },
        &|upstream| std::fs::write(&path, watched(upstream).yaml()).expect("write"),
        &|upstream| {
            std::fs::remove_dir_all(&inner).expect("remove");
            make(upstream);
        },
        &|upstream| {
            std::fs::rename(&outer, root.join("far-away")).expect("rename");
            make(upstream);
        },
        &|upstream| std::fs::write(&path, watched(upstream).yaml()).expect("write"),
    ];
    for replace in replacements {
        let next = Upstream::start();
        let from = proxy.event_count();
        replace(&next);
        // A look in the middle of it finds no file, which is told and changes nothing.
        let event = proxy.wait_event_after(from, "a reload", |event| event.is("config.reloaded"));
        assert_reloaded(&event, &proxy, "file_watcher", &[]);
        drop(proxy.tunnel(&next));
    }
}

/// H7.
fn a_bad_configuration_changes_nothing(driver: Driver) {
    let upstream = Upstream::start();
    let elsewhere = Upstream::start();
    let mut proxy = unwatched(driver, &upstream).start();
    let (mut client, mut conn) = proxy.tunnel(&upstream);
    let two_mistakes =
        unwatched(driver, &elsewhere).set("upstream.prot", "1").set("log.level", "loud");
    let event = reload(&proxy, &two_mistakes);
    assert!(event.is("config.reload_failed"), "{}", event.line);
    assert_eq!(event.text("payload.trigger_source"), "signal");
    assert_eq!(event.text("actor.type"), "system");
    let errors = event.json.list("payload.validation_errors").expect("a list");
    assert_eq!(errors.len(), 2, "{}", event.line);
    for part in ["upstream.prot", "log.level"] {
        let found =
            errors.iter().any(|item| matches!(item, Json::Text(text) if text.starts_with(part)));
        assert!(found, "{part} in {}", event.line);
    }
    for bad in [
        "server: [",
        "server:\n  port: 1\n  port: 2\n",
        "nonsense",
        "- a\n- b\n",
        "tls: {enabled: true, provider: external}\n",
    ] {
        let from = proxy.event_count();
        std::fs::write(proxy.config_path(), bad).expect("write");
        proxy.signal(Signal::HUP);
        let event = reload_event(&proxy, from);
        assert!(event.is("config.reload_failed"), "{bad:?}: {}", event.line);
        assert!(!event.json.list("payload.validation_errors").expect("a list").is_empty());
    }
    let from = proxy.event_count();
    std::fs::remove_file(proxy.config_path()).expect("remove");
    proxy.signal(Signal::HUP);
    assert!(reload_event(&proxy, from).is("config.reload_failed"));
    client.ping(&mut conn, b"undisturbed");
    drop(proxy.tunnel(&upstream));
    elsewhere.assert_untouched();
    let failed = [("result", "failed")];
    proxy.wait_metric("vibewarden_config_reloads_total", &failed, 7.0);
    // And a good one gets through afterwards.
    let event = reload(&proxy, &unwatched(driver, &elsewhere));
    assert!(event.is("config.reloaded"), "{}", event.line);
    drop(proxy.tunnel(&elsewhere));
    drop((client, conn));
    drop(proxy.stop());
}

fn keys_that_need_a_restart_keep_their_value(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = unwatched(driver, &upstream).start();
    let address = proxy.address();
    let other_driver = if driver == Driver::Epoll { "auto" } else { "epoll" };
    let changed = unwatched(driver, &upstream)
        .set("server.port", "1")
        .set("server.workers", "7")
        .set("server.driver", other_driver)
        .set("server.max_connections", "99")
        .set("watch.debounce", "3s")
        .set("health.expose_version", "false");
    let event = reload(&proxy, &changed);
    let mut listed: Vec<String> = event
        .json
        .list("payload.restart_required")
        .expect("a list")
        .iter()
        .map(|item| format!("{item:?}"))
        .collect();
    listed.sort();
    let names = [
        "server.driver",
        "server.max_connections",
        "server.port",
        "server.workers",
        "watch.debounce",
    ];
    assert_eq!(listed, names.map(|name| format!("{:?}", Json::Text(name.to_owned()))));
    let warning = proxy.wait_log(0, "server.max_connections");
    assert!(names.iter().all(|name| warning.contains(name)), "{warning}");
    assert_eq!(proxy.address(), address);
    let (_, body) = proxy.get("/_vibewarden/health");
    assert!(!body.contains("\"version\""), "the reloadable key did not take effect: {body}");
    // Compared with what runs, not with the last file: the same file again lists them again, the first file none.
    let event = reload(&proxy, &unwatched(driver, &upstream));
    assert_reloaded(&event, &proxy, "signal", &[]);
    drop(proxy.stop());
}

/// H6 in small.
fn tunnels_and_handshakes_never_notice(driver: Driver) {
    let upstream = Upstream::start().echo();
    let setup = |number: u32| {
        Setup::new(driver, upstream.url())
            .set("watch.enabled", "false")
            .set("server.read_timeout", &format!("{}s", 20 + number))
    };
    let mut proxy = setup(0).start();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let old: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = proxy.sent(HANDSHAKE);
                    client.open();
                    let mut rounds = 0_u64;
                    while !done.load(Ordering::Relaxed) {
                        client.send(&rounds.to_le_bytes());
                        client.expect(&rounds.to_le_bytes());
                        rounds += 1;
                    }
                    client.fin();
                    assert_eq!(client.expect_end(), End::Eof);
                    rounds
                })
            })
            .collect();
        let new = scope.spawn(|| {
            let mut count = 0;
            while !done.load(Ordering::Relaxed) {
                let mut client = proxy.sent(HANDSHAKE);
                client.open();
                client.send(b"new");
                client.expect(b"new");
                count += 1;
            }
            count
        });
        for number in 1..=40 {
            let event = reload(&proxy, &setup(number));
            assert!(event.is("config.reloaded"), "{}", event.line);
        }
        done.store(true, Ordering::Relaxed);
        for thread in old {
            assert!(thread.join().expect("a tunnel") > 0);
        }
        assert!(new.join().expect("handshakes") > 0);
    });
    let stopped = proxy.stop();
    for event in &stopped.events {
        let fine = !event.ends_a_request() || event.is("request.proxied");
        assert!(fine, "{}", event.line);
    }
}

fn reloadable_keys_take_effect(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = unwatched(driver, &upstream).start();
    let changed = unwatched(driver, &upstream)
        .set("server.read_timeout", "100ms")
        .set("server.max_header_bytes", "1KB")
        .set("resilience.timeout", "100ms")
        .set("server.trusted_proxies", "[127.0.0.1]")
        .set("telemetry.enabled", "false")
        .set("log.access_log", "false");
    assert!(reload(&proxy, &changed).is("config.reloaded"));
    let mut client = proxy.sent(b"GET /half");
    client.read_answer().assert_refusal(408, "request_timeout");
    let long = wire(format!("GET /{} HTTP/1.1\r\n{{H}}{{U}}{{K}}\r\n", "l".repeat(1024)));
    proxy.answer_to(&long).assert_refusal(431, "headers_too_large");
    let mut client = proxy.sent(HANDSHAKE);
    let mut conn = upstream.accept();
    conn.read_head();
    assert_eq!(client.read_answer().head.status(), 504);
    let mut client =
        proxy.sent(&wire("GET /ws HTTP/1.1\r\n{H}{U}{K}X-Forwarded-For: 1.2.3.4\r\n\r\n"));
    let mut conn = upstream.accept();
    assert_eq!(conn.read_head().one("x-real-ip"), Some("1.2.3.4"));
    conn.send(ANSWER_101);
    client.open();
    assert_eq!(proxy.get("/_vibewarden/metrics").0.status(), 404);
    drop((client, conn));
    let stopped = proxy.stop();
    assert!(stopped.of_kind("request.proxied").is_empty());
}

fn requests_under_way_finish_as_they_began(driver: Driver) {
    let (one, two) = (Upstream::start(), Upstream::start());
    let mut proxy = unwatched(driver, &one).start();
    let mut client = proxy.sent(HANDSHAKE);
    let mut conn = one.accept();
    conn.read_head();
    let changed = unwatched(driver, &two).set("server.dead_peer_after", "0");
    assert!(reload(&proxy, &changed).is("config.reloaded"));
    conn.send(ANSWER_101);
    client.open();
    client.ping(&mut conn, b"begun before");
    two.assert_untouched();
    drop((client, conn));
    drop(proxy.stop());
}

/// `server.dead_peer_after`, seen in the timers of the kernel.
fn liveness_reaches_open_tunnels_and_new_connections(driver: Driver) {
    let upstream = Upstream::start();
    let setup = |after| unwatched(driver, &upstream).set("server.dead_peer_after", after);
    let proxy = setup("5s").start();
    let mut tunnels = Vec::new();
    for (after, kept_alive) in [("5s", true), ("0", false), ("6s", true)] {
        if !tunnels.is_empty() {
            assert!(reload(&proxy, &setup(after)).is("config.reloaded"));
        }
        tunnels.push(proxy.tunnel(&upstream));
        for (client, conn) in &tunnels {
            eventually("the client's leg follows", || {
                let seen = is_kept_alive(proxy.address(), client.local());
                (seen == Some(kept_alive)).then_some(())
            });
            eventually("the upstream's leg follows", || {
                let seen = is_kept_alive(conn.peer().remote(), conn.peer().local());
                (seen == Some(kept_alive)).then_some(())
            });
        }
        eventually("a new connection has it from the start", || {
            let client = proxy.sent(b"GET /");
            proxy.wait_consumed(&client);
            (is_kept_alive(proxy.address(), client.local()) == Some(kept_alive)).then_some(())
        });
    }
    for (client, conn) in &mut tunnels {
        client.ping(conn, b"undisturbed");
    }
}
