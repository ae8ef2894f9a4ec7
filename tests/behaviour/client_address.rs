//! Sections 9.1 and 9.3: who the client is, and what the upstream is told about it.

use crate::harness::application::Application;
use crate::harness::crowd::{ask, get, upgrade, willing};
use crate::harness::http::Head;
use crate::harness::{Driver, Proxy, Setup};

on_drivers!(
    every:
        an_untrusted_peer_speaks_for_itself;
    both:
        the_walk_ends_at_the_first_untrusted_address,
        forwarded_names_nobody,
        a_trusted_peer_is_believed,
        private_peers_are_trusted_on_request,
        an_explicit_list_wins_over_private_peers,
);

/// The head at the upstream of a request with these lines, which passes.
#[track_caller]
fn seen(proxy: &Proxy, application: &Application, request: &[u8]) -> Head {
    let answer = ask(proxy, request);
    assert!(answer.passed(), "{:?}", answer.head);
    application.requests().pop().expect("a request").1.head
}

const CLAIMS: &str = "X-Forwarded-Proto: https\r\nX-Forwarded-Host: claimed.test\r\n\
    Forwarded: for=192.0.2.9;proto=https\r\nX-Forwarded-Port: 444\r\nX-Forwarded-Prefix: /p\r\n\
    X-Forwarded-Server: s\r\nX-Real-IP: 192.0.2.9\r\n";

/// E54
fn an_untrusted_peer_speaks_for_itself(driver: Driver) {
    let application = willing();
    let proxy = Setup::new(driver, application.url()).start();
    let long = format!("X-Forwarded-For: {}1.2.3.4\r\n", "1.2.3.4, ".repeat(440));
    let hundred = "X-Forwarded-For: 1.2.3.4\r\n".repeat(100);
    let claims = format!("X-Forwarded-For: 1.2.3.4\r\n{CLAIMS}");
    for lines in [
        "",
        "X-Forwarded-For: 1.2.3.4\r\n",
        "x-forwarded-for: 1.2.3.4\r\nX-FORWARDED-FOR: 5.6.7.8\r\n",
        "X-Forwarded-For: \r\n",
        "X-Forwarded-For: nonsense, , ;;\r\n",
        "X-Forwarded-For: [2001:db8::1]:443\r\n",
        &hundred,
        &long,
        &claims,
    ] {
        for request in [get("/", lines), upgrade(lines)] {
            let head = seen(&proxy, &application, &request);
            assert_eq!(head.all("x-forwarded-for"), ["127.0.0.1"], "{lines}");
            assert_eq!(head.all("x-real-ip"), ["127.0.0.1"], "{lines}");
            assert_eq!(head.all("x-forwarded-proto"), ["http"], "never ws: {lines}");
            assert_eq!(head.all("x-forwarded-host"), ["t.test"], "{lines}");
            for gone in
                ["forwarded", "x-forwarded-port", "x-forwarded-prefix", "x-forwarded-server"]
            {
                assert!(head.all(gone).is_empty(), "{gone}: {lines}");
            }
        }
    }
    let all = proxy.events();
    let ips = all.iter().filter(|event| event.is("request.proxied"));
    assert!(ips.clone().all(|event| event.text("payload.client_ip") == "127.0.0.1"));
}

/// What stands in `X-Forwarded-For`, and who the client is then (E55, F9).
const WALKS: &[(&[&str], &str)] = &[
    (&[], "127.0.0.1"),
    (&["203.0.113.5"], "203.0.113.5"),
    (&["198.51.100.1, 203.0.113.5"], "203.0.113.5"),
    (&["198.51.100.1", "203.0.113.5"], "203.0.113.5"),
    (&["203.0.113.5, 10.0.0.1, 10.9.9.9"], "203.0.113.5"),
    (&["203.0.113.5, 10.0.0.1", "10.9.9.9"], "203.0.113.5"),
    (&["10.0.0.3, 10.0.0.2, 10.0.0.1"], "10.0.0.3"),
    (&["203.0.113.5, junk, 10.0.0.1"], "10.0.0.1"),
    (&["203.0.113.5, junk"], "127.0.0.1"),
    (&["junk"], "127.0.0.1"),
    (&["unknown, 203.0.113.5"], "203.0.113.5"),
    (&["203.0.113.5, 10.0.0.256"], "127.0.0.1"),
    (&["203.0.113.5:8080"], "203.0.113.5"),
    (&["[2001:db8::5]:8080"], "2001:db8::5"),
    (&["[2001:DB8:0::5]"], "2001:db8::5"),
    (&["2001:0db8:0:0:0:0:0:5"], "2001:db8::5"),
    (&["203.0.113.5, fd00::1"], "203.0.113.5"),
    (&["203.0.113.5, ::ffff:10.0.0.1"], "203.0.113.5"),
    (&["::ffff:203.0.113.5"], "203.0.113.5"),
    (&["203.0.113.5 ,\t10.0.0.1"], "203.0.113.5"),
    // Neither IPv4, nor in a list for being written like it.
    (&["203.0.113.5, ::10.0.0.1"], "::a00:1"),
    (&["203.0.113.5, 64:ff9b::10.0.0.1"], "64:ff9b::a00:1"),
    // A zone goes with IPv6 alone.
    (&["203.0.113.5, fe80::1%eth0"], "fe80::1"),
    (&["203.0.113.5, fd00::1%eth0"], "203.0.113.5"),
    (&["203.0.113.5, [fe80::1%25eth0]:8080"], "fe80::1"),
    (&["203.0.113.5, fe80::1%"], "127.0.0.1"),
    (&["203.0.113.5, 10.0.0.1%eth0"], "127.0.0.1"),
];

fn the_walk_ends_at_the_first_untrusted_address(driver: Driver) {
    let application = willing();
    let proxy = Setup::new(driver, application.url())
        .set("server.trusted_proxies", "[127.0.0.1, 10.0.0.0/8, \"fd00::/8\"]")
        .start();
    for (values, client) in WALKS {
        let lines: Vec<String> =
            values.iter().map(|value| format!("X-Forwarded-For: {value}\r\n")).collect();
        let lines = lines.concat();
        for request in [get("/", &lines), upgrade(&lines)] {
            let from = proxy.event_count();
            let head = seen(&proxy, &application, &request);
            assert_eq!(head.all("x-real-ip"), [*client], "{values:?}");
            let event =
                proxy.wait_event_after(from, "the request", |event| event.is("request.proxied"));
            assert_eq!(event.text("payload.client_ip"), *client, "{values:?}");
            let mut list = values.join(", ");
            list.push_str(if list.is_empty() { "127.0.0.1" } else { ", 127.0.0.1" });
            let told = head.all("x-forwarded-for").join(", ");
            let plain = |text: &str| text.replace([' ', '\t'], "");
            assert_eq!(plain(&told), plain(&list), "{values:?}");
        }
    }
}

/// 9.1 reads `X-Forwarded-For` alone; `Forwarded` goes on as it came.
fn forwarded_names_nobody(driver: Driver) {
    let application = willing();
    let proxy =
        Setup::new(driver, application.url()).set("server.trusted_proxies", "[127.0.0.1]").start();
    for value in
        ["for=203.0.113.9", "for=\"[2001:db8::9]:443\"", "for=\"[fe80::9%eth0]\"", "for=_x"]
    {
        let lines = format!("Forwarded: {value}\r\n");
        let head = seen(&proxy, &application, &get("/", &lines));
        assert_eq!(head.all("x-real-ip"), ["127.0.0.1"], "{value}");
        assert_eq!(head.all("forwarded"), [value]);
    }
}

fn a_trusted_peer_is_believed(driver: Driver) {
    let application = willing();
    let proxy = Setup::new(driver, application.url())
        .set("server.trusted_proxies", "[127.0.0.0/8]")
        .start();
    let claims = format!("X-Forwarded-For: 203.0.113.5\r\n{CLAIMS}");
    for request in [get("/", &claims), upgrade(&claims)] {
        let head = seen(&proxy, &application, &request);
        assert_eq!(head.all("x-forwarded-for"), ["203.0.113.5, 127.0.0.1"]);
        assert_eq!(head.all("x-real-ip"), ["203.0.113.5"]);
        for (name, value) in [
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "claimed.test"),
            ("forwarded", "for=192.0.2.9;proto=https"),
            ("x-forwarded-port", "444"),
            ("x-forwarded-prefix", "/p"),
            ("x-forwarded-server", "s"),
        ] {
            assert_eq!(head.all(name), [value], "{name}");
        }
    }
    for wrong in ["ws", "wss", "ftp", "", "https, http", "https\r\nX-Forwarded-Proto: http"] {
        let lines = format!("X-Forwarded-Proto: {wrong}\r\n");
        let head = seen(&proxy, &application, &get("/", &lines));
        assert_eq!(head.all("x-forwarded-proto"), ["http"], "{wrong:?}");
    }
    for wrong in ["", "a b", "a.test\r\nX-Forwarded-Host: b.test", "a.test/x", "a.test, b.test"] {
        let lines = format!("X-Forwarded-Host: {wrong}\r\n");
        let head = seen(&proxy, &application, &get("/", &lines));
        assert_eq!(head.all("x-forwarded-host"), ["t.test"], "{wrong:?}");
    }
}

fn private_peers_are_trusted_on_request(driver: Driver) {
    let application = willing();
    for key in ["rate_limit.trust_proxy_headers", "ip_filter.trust_proxy_headers"] {
        let mut proxy = Setup::new(driver, application.url()).set(key, "true").start();
        for (list, client) in [
            ("203.0.113.5", "203.0.113.5"),
            ("203.0.113.5, 10.1.2.3, 172.16.0.1, 172.31.255.1, 192.168.9.9", "203.0.113.5"),
            ("203.0.113.5, fd12::1, ::1, 127.9.9.9", "203.0.113.5"),
            ("203.0.113.5, 172.32.0.1", "172.32.0.1"),
            ("203.0.113.5, 169.254.0.1", "169.254.0.1"),
        ] {
            let request = get("/", &format!("X-Forwarded-For: {list}\r\n"));
            let head = seen(&proxy, &application, &request);
            assert_eq!(head.all("x-real-ip"), [client], "{list}");
        }
        let log = proxy.stop().log;
        let told = log.lines().filter(|line| line.contains("trust_proxy_headers")).count();
        assert_eq!(told, 1, "one warning: {log}");
    }
}

fn an_explicit_list_wins_over_private_peers(driver: Driver) {
    let application = willing();
    let proxy = Setup::new(driver, application.url())
        .set("server.trusted_proxies", "[192.0.2.1]")
        .set("rate_limit.trust_proxy_headers", "true")
        .start();
    let head = seen(&proxy, &application, &get("/", "X-Forwarded-For: 203.0.113.5\r\n"));
    assert_eq!(head.all("x-real-ip"), ["127.0.0.1"]);
    assert_eq!(head.all("x-forwarded-for"), ["127.0.0.1"]);
}
