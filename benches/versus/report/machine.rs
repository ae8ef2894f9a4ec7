//! What stands above the figures: without machine, versions, commit and command they mean nothing.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use crate::account;
use crate::peers::{Part, Peer};
use crate::sample::Extent;

/// How busy the machine was with other things.
pub(super) struct Load {
    average: String,
    stolen_ms: u64,
}

impl Load {
    /// As of now.
    pub(super) fn now(core: usize) -> Self {
        let average = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let average = average.split(' ').take(3).collect::<Vec<_>>().join(" ");
        Self { average, stolen_ms: account::stolen_ms(core).unwrap_or(0) }
    }
}

/// The version a peer names; `None` when it is not installed.
pub(super) fn version(peer: &Peer, extent: &Extent) -> Option<String> {
    if peer.part == Part::Floor {
        return Some("part of this benchmark".to_owned());
    }
    let program =
        if peer.part == Part::Own { extent.vibewarden.as_os_str() } else { peer.program.as_ref() };
    let said = |arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        Some(String::from_utf8_lossy(&text).into_owned())
    };
    let text = said(peer.version)?;
    // HAProxy adds where to read about known bugs.
    let line =
        text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("prints no version");
    let line = line.split(" - http").next().unwrap_or(line);
    // Envoy begins with its own path.
    let (path, rest) = line.split_once(' ').unwrap_or(("", line));
    let version = if path.contains('/') { rest.trim() } else { line };
    let library = if peer.openssl.is_empty() { None } else { said(peer.openssl) };
    Some(match library.as_deref().and_then(openssl) {
        Some(openssl) => format!("{version}, {openssl}"),
        None => version.to_owned(),
    })
}

/// The OpenSSL that a program runs with, which it names after the one it was built with.
fn openssl(text: &str) -> Option<&str> {
    const NAME: &str = "OpenSSL ";
    let mut named = text.rmatch_indices(NAME).map(|(at, _)| text.split_at(at).1);
    let last = named.find(|text| text[NAME.len()..].starts_with(|it: char| it.is_ascii_digit()))?;
    last.split(['\n', ')']).next()
}

/// The head of the report.
pub(super) fn describe(
    peers: &[&Peer],
    extent: &Extent,
    congestion: &str,
    rounds: u32,
    before: &Load,
) -> String {
    let after = Load::now(extent.proxy_core);
    let mut out = String::from("## versus\n\n");
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(out, "* {name}: {value}");
    };
    line(
        "command",
        &std::env::args()
            .skip(1)
            .filter(|it| it != "--bench")
            .fold("cargo bench --bench versus --".to_owned(), |all, it| all + " " + &it),
    );
    line("commit", &commit());
    line("date", &jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string());
    line("kernel", fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim());
    line("CPU", &cpu());
    line(
        "TCP",
        &format!(
            "congestion control {congestion}, loopback of a network namespace made for each sample, ports 1024–65535"
        ),
    );
    line(
        "placing",
        &format!(
            "proxy (one worker) on core {}, clients and application on core {}",
            extent.proxy_core, extent.load_core
        ),
    );
    line(
        "extent",
        &format!(
            "{rounds} rounds, {} s per sample, {} handshakes, {} idle tunnels",
            extent.seconds, extent.handshakes, extent.tunnels
        ),
    );
    line(
        "other load",
        &format!(
            "load average {} before and {} after; {} ms of the proxy's core stolen by the hypervisor",
            before.average,
            after.average,
            after.stolen_ms - before.stolen_ms
        ),
    );
    for peer in peers {
        line(peer.name, &version(peer, extent).unwrap_or_else(|| "not installed".to_owned()));
    }
    out
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(hash) = git(&["rev-parse", "--short", "HEAD"]) else {
        return "unknown".to_owned();
    };
    let clean = git(&["status", "--porcelain", "--untracked-files=no"])
        .is_some_and(|changes| changes.is_empty());
    if clean { hash } else { hash + " with changes" }
}

fn cpu() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    let cores = text.lines().filter(|line| line.starts_with("processor")).count();
    format!("{}, {cores} cores", model.unwrap_or("unknown"))
}
