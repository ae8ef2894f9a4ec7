//! Written forms of values.

use std::net::IpAddr;
use std::time::Duration;

use super::super::values::{format_duration, format_size, parse_duration, parse_size};
use super::*;

#[test]
fn durations() {
    let nanos = Duration::from_nanos;
    for (text, expected) in [
        ("0", nanos(0)),
        ("0s", nanos(0)),
        ("300ms", nanos(300_000_000)),
        ("1.5s", nanos(1_500_000_000)),
        ("2h45m", nanos(9_900_000_000_000)),
        ("1h1m1s1ms1us1ns", nanos(3_661_001_001_001)),
        ("7ns", nanos(7)),
        ("7us", nanos(7_000)),
        ("7µs", nanos(7_000)),
        ("7μs", nanos(7_000)),
        (".5s", nanos(500_000_000)),
        ("1.s", nanos(1_000_000_000)),
        ("0.0000000000000000000009h", nanos(0)),
        ("1m30s1m", nanos(150_000_000_000)),
        ("9223372036854775807ns", nanos(9_223_372_036_854_775_807)),
    ] {
        assert_eq!(parse_duration(text), Some(expected), "{text}");
        assert_eq!(parse_duration(&format_duration(expected)), Some(expected), "{text}");
    }
    for text in [
        "",
        "1",
        "-1s",
        "+1s",
        "s",
        ".s",
        "1 s",
        " 1s",
        "1s ",
        "1d",
        "1S",
        "1.2.3s",
        "1e3s",
        "0.0",
        "1s1",
        "1,5s",
        "9223372036854775808ns",
        "99999999999999999999h",
        "300000000h",
        "١s",
    ] {
        assert_eq!(parse_duration(text), None, "{text}");
    }
}

#[test]
fn sizes() {
    for (text, expected) in [
        ("0", 0),
        ("17", 17),
        ("17B", 17),
        ("16KB", 16_384),
        ("1MB", 1 << 20),
        ("3GB", 3 << 30),
        ("2TB", 2 << 40),
        ("16777215TB", 16_777_215 << 40),
    ] {
        assert_eq!(parse_size(text), Some(expected), "{text}");
        assert_eq!(parse_size(&format_size(expected)), Some(expected), "{text}");
    }
    for text in [
        "",
        "B",
        "-1",
        "+1",
        "1kb",
        "1Kb",
        "1K",
        "1KiB",
        "1.5MB",
        "1 MB",
        "16777216TB",
        "18446744073709551616",
    ] {
        assert_eq!(parse_size(text), None, "{text}");
    }
    assert_eq!(format_size(16_384), "16KB");
    assert_eq!(format_size(1000), "1000B");
}

#[test]
fn address_blocks() {
    for (text, expected) in [
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3"),
        ("10.1.2.3/32", "10.1.2.3"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("fc00::1/7", "fc00::/7"),
        ("::1", "::1"),
        ("::/0", "::/0"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
    ] {
        assert_eq!(
            Cidr::parse(text).map(|block| block.to_string()).as_deref(),
            Some(expected),
            "{text}"
        );
    }
    for text in [
        "",
        "10.0.0.0/33",
        "::/129",
        "10.0.0.0/",
        "10.0.0.0/+8",
        "10.0.0/8",
        "010.0.0.1",
        "[::1]",
        "fe80::1%eth0",
        "10.0.0.0/8/8",
        "localhost",
        "10.0.0.0/256",
    ] {
        assert_eq!(Cidr::parse(text), None, "{text}");
    }
}

#[test]
fn addresses_in_blocks() {
    for (block, ip, inside) in [
        ("10.0.0.0/8", "10.255.255.255", true),
        ("10.0.0.0/8", "11.0.0.0", false),
        ("10.0.0.0/8", "::ffff:10.0.0.1", true),
        ("10.0.0.1", "10.0.0.1", true),
        ("10.0.0.1", "10.0.0.2", false),
        ("0.0.0.0/0", "203.0.113.9", true),
        ("0.0.0.0/0", "2001:db8::1", false),
        ("::/0", "2001:db8::1", true),
        ("::/0", "203.0.113.9", false),
        ("2001:db8::/33", "2001:db8:7fff::", true),
        ("2001:db8::/33", "2001:db8:8000::", false),
        ("127.0.0.0/8", "127.1.2.3", true),
    ] {
        let ip: IpAddr = ip.parse().unwrap();
        assert_eq!(Cidr::parse(block).unwrap().contains(ip), inside, "{ip} in {block}");
    }
}

#[test]
fn quoted_scalars_and_comma_text_are_accepted() {
    let quoted = config(
        "server: {port: '81', pin_cores: 'False', workers: \"3\", trusted_proxies: '10.0.0.1, ::1'}",
    );
    let plain = config(
        "server: {port: 81, pin_cores: false, workers: 3, trusted_proxies: [10.0.0.1, '::1']}",
    );
    assert_eq!(quoted, plain);
    // a number where text is meant needs no quotes
    config("auth: {on_kratos_unavailable: 503}");
    assert_eq!(config("server: {max_header_bytes: 4096}").server.max_header_bytes, 4096);
    assert_eq!(config("server: {read_timeout: 0}").server.read_timeout, None);
    assert_eq!(config("resilience: {timeout: ''}").upstream_head_timeout, None);
    assert_eq!(config("body_size: {max: ''}"), config("body_size: {max: 0}"));
}

#[test]
fn a_key_without_a_value_is_not_set() {
    assert_eq!(
        config("server:\nupstream:\n  port:\nlog: {level: ~}\nplugins:\n"),
        Config::default()
    );
}

#[test]
fn upstream_targets() {
    let tcp = |host: &str, port| UpstreamTarget::Tcp { host: host.to_owned(), port };
    for (url, expected) in [
        ("http://localhost", tcp("localhost", 80)),
        ("HTTP://localhost:3000", tcp("localhost", 3000)),
        ("http://localhost:3000/", tcp("localhost", 3000)),
        ("ws://10.0.0.1:65535", tcp("10.0.0.1", 65535)),
        ("http://[::1]:9", tcp("::1", 9)),
        ("http://my_app.internal.", tcp("my_app.internal.", 80)),
        ("unix:/run/app.sock", UpstreamTarget::Unix("/run/app.sock".into())),
        ("unix:///run/app.sock", UpstreamTarget::Unix("/run/app.sock".into())),
    ] {
        assert_eq!(
            config(&format!("upstream: {{url: '{url}'}}")).upstream.target,
            expected,
            "{url}"
        );
    }
    let by_parts = config("upstream: {host: '::1', port: 99}").upstream.target;
    assert_eq!(by_parts, tcp("::1", 99));
    for text in [
        "upstream: {url: 'http://App:3000', host: app, port: 3000}",
        "upstream: {url: 'http://app', port: 80}",
        "upstream: {url: '', host: app}",
    ] {
        loaded(text);
    }
}

#[test]
fn off_and_on() {
    let server = config("server: {read_timeout: 0, write_timeout: 0s, idle_timeout: 0, dead_peer_after: 0, drain_timeout: 0}").server;
    assert_eq!(
        (server.read_timeout, server.write_timeout, server.idle_timeout),
        (None, None, None)
    );
    assert_eq!((server.dead_peer_after, server.drain_timeout), (None, Duration::ZERO));
    assert!(!config("telemetry: {prometheus: {enabled: false}}").telemetry.enabled);
    assert!(!config("telemetry: {enabled: false}").telemetry.enabled);
    assert!(!config("metrics: {enabled: false}").telemetry.enabled);
    // `telemetry` is there, so `metrics` is not asked
    let both =
        config("metrics: {enabled: false, path_patterns: [/m]}\ntelemetry: {path_patterns: [/t]}")
            .telemetry;
    assert_eq!((both.enabled, both.path_patterns), (true, vec!["/t".to_owned()]));
    assert!(
        config("metrics: {enabled: false}\ntelemetry: {otlp: {enabled: true}}").telemetry.enabled
    );
}
