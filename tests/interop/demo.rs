//! `vibewarden demo --once`, as a user runs it.

use std::process::{Command, Output};

use super::harness::process::BINARY;

/// The demo listens on port 8080 of the loopback. In a network namespace of its own nothing else can have that port.
fn demo_once() -> Output {
    let inner = "ip link set lo up && exec \"$0\" demo --once";
    let mut alone = Command::new("unshare");
    alone.args(["--net", "--map-root-user", "sh", "-c", inner, BINARY]);
    let probe = Command::new("unshare")
        .args(["--net", "--map-root-user", "ip", "link", "set", "lo", "up"])
        .output();
    let mut command = if probe.is_ok_and(|probe| probe.status.success()) {
        alone
    } else {
        println!("no network namespace here: port 8080 must be free");
        let mut plain = Command::new(BINARY);
        plain.args(["demo", "--once"]);
        plain
    };
    // Neither a file nor a variable is read for the demo.
    let command = command.env("VIBEWARDEN_UPSTREAM_PORT", "1");
    command.output().expect("the demo")
}

#[test]
fn the_demo_goes_as_described() {
    let output = demo_once();
    let told = String::from_utf8(output.stdout).expect("text");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}\n{complaints}");
    for part in [
        "it came back unchanged",
        "every byte came back",
        "Denied with status 401",
        "the next one was refused with status 429",
        "Every step went as described.",
    ] {
        assert!(told.contains(part), "no {part:?} in:\n{told}");
    }
    let events: Vec<String> = told
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .map(|event| event["event_type"].as_str().unwrap_or_default().to_owned())
        .collect();
    let first = [
        "proxy.started",
        "request.proxied",
        "websocket.closed",
        "request.proxied",
        "auth.denied",
        "auth.denied",
    ];
    assert_eq!(events.get(..first.len()), Some(&first.map(str::to_owned)[..]), "{events:?}");
    let limited = events.iter().filter(|event| *event == "rate_limit.blocked").count();
    assert_eq!((limited, events.last().map(String::as_str)), (1, Some("proxy.stopped")));
}
