//! Sections 1 and 2 at the command line: exit codes, what stands on which stream, and that nothing starts with a mistake.

use std::path::Path;

use crate::harness::process::Process;
use crate::harness::setup::{Scratch, libc_errno};
use crate::harness::{Driver, OUTDATED, Setup, Upstream};

/// What a command leaves.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

#[track_caller]
fn run(setup: &Setup, arguments: &[&str]) -> Ran {
    let mut process: Process = setup.spawn(arguments);
    let code = process.wait_exit();
    Ran { code, out: process.out.text(), err: process.err.text() }
}

/// Runs `check` and `serve` on a file; both have to refuse it in the same words.
#[track_caller]
fn refused(yaml: &str) -> String {
    let directory = Scratch::new();
    let path = directory.path().join("v.yaml");
    std::fs::write(&path, yaml).expect("write");
    let path = path.display().to_string();
    let check = run(&Setup::empty(), &["check", "--config", &path]);
    assert_eq!(check.code, Some(1), "check of\n{yaml}\n{}", check.err);
    assert_eq!(check.out, "", "check of\n{yaml}");
    let serve = run(&Setup::empty(), &["serve", "-c", &path]);
    assert_eq!(serve.code, Some(1), "serve of\n{yaml}\n{}", serve.err);
    assert_eq!(serve.out, "", "serve of\n{yaml}");
    let block = block_of(&check.err, &path);
    assert_eq!(block_of(&serve.err, &path), block);
    block.replace(&path, "v.yaml")
}

/// From the line that names the file on.
#[track_caller]
fn block_of(err: &str, path: &str) -> String {
    let start = format!("vibewarden: invalid config in {path}: ");
    let at = err.find(&start).unwrap_or_else(|| panic!("no block in {err:?}"));
    err[at..].to_owned()
}

#[test]
fn help_and_version_are_no_error() {
    for (arguments, part) in [
        (&["--help"][..], "serve"),
        (&["--version"], env!("CARGO_PKG_VERSION")),
        (&["serve", "--help"], "--config"),
        (&["check", "--help"], "--config"),
    ] {
        let ran = run(&Setup::empty(), arguments);
        assert_eq!(ran.code, Some(0), "{arguments:?}: {}", ran.err);
        assert!(ran.out.contains(part), "{arguments:?}: {}", ran.out);
    }
}

#[test]
fn a_wrong_command_line_is_2() {
    for arguments in [
        &["sevre"][..],
        &["serve", "--confg", "x"],
        &["serve", "--config"],
        &["check", "a", "b"],
        &["--nothing"],
    ] {
        let ran = run(&Setup::empty(), arguments);
        assert_eq!(ran.code, Some(2), "{arguments:?}");
        assert_eq!(ran.out, "", "{arguments:?}");
        assert!(!ran.err.is_empty(), "{arguments:?}");
    }
}

#[test]
fn check_prints_the_effective_configuration() {
    let directory = Scratch::new();
    let path = directory.path().join("v.yaml");
    std::fs::write(&path, "upstream:\n  url: http://127.0.0.1:3456/\nserver:\n  read_timeout: 1.5s\n  port: \"9090\"\n").expect("write");
    let path = path.display().to_string();
    let ran = run(&Setup::empty(), &["check", "--config", &path]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    for part in ["upstream:", "3456", "9090", "max_connections:", "dead_peer_after:"] {
        assert!(ran.out.contains(part), "no {part} in\n{}", ran.out);
    }
    // What it prints is a configuration itself, and means the same.
    let again = directory.path().join("again.yaml");
    std::fs::write(&again, &ran.out).expect("write");
    let second = run(&Setup::empty(), &["check", "--config", &again.display().to_string()]);
    assert_eq!(second.code, Some(0), "{}", second.err);
    assert_eq!(second.out, ran.out);
}

/// The block of section 2, to the letter.
#[test]
fn all_mistakes_are_told_at_once() {
    let block = refused("upstream:\n  prot: 80\nauth:\n  mode: jtw\n");
    assert_eq!(
        block,
        "vibewarden: invalid config in v.yaml: 2 mistakes\n  \
         upstream.prot: unknown key; did you mean \"upstream.port\"?\n  \
         auth.mode: \"jtw\" is not accepted; accepted values: \"none\", \"kratos\", \"jwt\", \"api-key\"\n"
    );
    let block = refused(
        "server:\n  port: 70000\n  read_timeout: soon\n  max_header_bytes: 12XB\n  host: nowhere.test\n  driver: fast\n  workers: many\n\
         upstream:\n  url: https://app.test/path\nresilience:\n  timeout: -1s\ntop_level: 1\n",
    );
    for line in [
        "  server.port: must be between 0 and 65535, got 70000",
        "  server.read_timeout: \"soon\" is not a duration (examples: 300ms, 30s, 2h45m)",
        "  server.max_header_bytes: \"12XB\" is not a size (supported units: B, KB, MB, GB, TB)",
        "  server.host: \"nowhere.test\" is not a valid IP address or CIDR",
        "  server.driver: \"fast\" is not accepted; accepted values: \"auto\", \"io_uring\", \"epoll\"",
        "  server.workers: expected a whole number, got \"many\"",
        "  upstream.url: \"https://app.test/path\" is not a usable URL: ",
        "  resilience.timeout: ",
        "  top_level: unknown key",
    ] {
        let found = block.lines().any(|seen| seen.starts_with(line));
        assert!(found, "no {line:?} in\n{block}");
    }
    assert!(block.starts_with("vibewarden: invalid config in v.yaml: 9 mistakes\n"), "{block}");
    let single = refused("upstrem: {}\n");
    assert!(single.starts_with("vibewarden: invalid config in v.yaml: 1 mistake"), "{single}");
}

#[test]
fn a_file_that_is_no_yaml_is_told_with_its_place() {
    for (yaml, line) in [
        ("server:\n  port: 1\n  port: 2\n", "3"),
        ("server: [1\nupstream: {}\n", "2"),
        ("server:\n\tport: 1\n", "2"),
    ] {
        let directory = Scratch::new();
        let path = directory.path().join("v.yaml");
        std::fs::write(&path, yaml).expect("write");
        let ran = run(&Setup::empty(), &["check", "--config", &path.display().to_string()]);
        assert_eq!(ran.code, Some(1));
        assert!(ran.err.contains("line"), "{}", ran.err);
        assert!(ran.err.contains(line), "line {line} of {yaml:?}: {}", ran.err);
        assert_eq!(ran.out, "");
    }
}

#[test]
fn a_named_file_must_exist_and_be_readable() {
    let directory = Scratch::new();
    let missing = directory.path().join("missing.yaml").display().to_string();
    for command in ["check", "serve"] {
        let ran = run(&Setup::empty(), &[command, "--config", &missing]);
        assert_eq!(ran.code, Some(1), "{}", ran.err);
        assert!(ran.err.contains(&missing), "{}", ran.err);
    }
    let ran = run(&Setup::empty(), &["check", "--config", &directory.path().display().to_string()]);
    assert_eq!(ran.code, Some(1), "a directory is no file: {}", ran.err);
}

/// What is asked for and cannot be given is refused, never ignored.
#[test]
fn a_protection_that_cannot_be_given_stops_the_start() {
    for (yaml, key) in [
        ("tls:\n  provider: external\n", "tls.cert_path: required when tls.provider is external"),
        ("tls:\n  provider: letsencrypt\n", "use \"external\" or \"self-signed\""),
        ("auth:\n  mode: jwt\n", "auth.jwt.jwks_url: required when auth.mode is jwt"),
        ("auth:\n  mode: api-key\n", "auth.api_key.keys: required when auth.mode is api-key"),
        (
            "auth:\n  role_paths: {admin: [/a]}\n",
            "auth.mode: required when auth.role_paths is given",
        ),
        ("waf:\n  mode: block\n", "waf"),
        ("cors:\n  enabled: true\n", "cors"),
        ("input_validation:\n  enabled: true\n", "input_validation"),
    ] {
        let block = refused(yaml);
        assert!(block.contains(key), "no {key} in {block}");
    }
}

#[test]
fn the_environment_wins_and_is_checked_too() {
    let upstream = Upstream::start();
    let mut proxy = Setup::new(Driver::Epoll, upstream.url())
        .set("server.workers", "1")
        .environment("VIBEWARDEN_SERVER_WORKERS", "3")
        .environment("VIBEWARDEN_HEALTH_EXPOSE_VERSION", "false")
        .environment("VIBEWARDEN_SERVER_READ_TIMEOUT", "")
        .environment("VIBEWARDEN_SERVER_WROKERS", "9")
        .start();
    let (_, body) = proxy.get("/_vibewarden/health");
    assert!(!body.contains("version"), "{body}");
    let stopped = proxy.stop();
    assert_eq!(stopped.events[0].count("payload.workers"), 3);
    assert!(stopped.log.contains("VIBEWARDEN_SERVER_WROKERS"), "{}", stopped.log);
    let wrong = Setup::empty().environment("VIBEWARDEN_SERVER_PORT", "x");
    let directory = Scratch::new();
    let ran = run(&wrong.working_directory(directory.path()), &["check"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("  server.port: expected a whole number, got \"x\""), "{}", ran.err);
}

#[test]
fn variables_in_the_file_are_expanded() {
    let upstream = Upstream::start();
    let mut proxy = Setup::new(Driver::Epoll, "http://127.0.0.1:${APP_PORT}")
        .environment("APP_PORT", &upstream.port().to_string())
        .start();
    drop(proxy.tunnel(&upstream));
    drop(proxy.stop());
    let block =
        refused("upstream:\n  host: ${NOT_SET_ANYWHERE}\nserver:\n  host: \"secret://a/b\"\n");
    assert!(
        block.contains("  upstream.host: environment variable NOT_SET_ANYWHERE is not set"),
        "{block}"
    );
    assert!(block.contains("  server.host: secret:// references are not supported"), "{block}");
}

/// `serve` is what runs with no sub-command; `./vibewarden.yaml` is found.
#[test]
fn serve_is_the_default_and_finds_the_file_in_the_working_directory() {
    let upstream = Upstream::start();
    let directory = Scratch::new();
    let path = directory.path().join("vibewarden.yaml");
    let setup = Setup::new(Driver::Epoll, upstream.url()).working_directory(directory.path());
    std::fs::write(&path, setup.yaml()).expect("write");
    let process = setup.spawn(&[]);
    let proxy =
        crate::harness::Proxy::started(process, directory, Path::new(&path), rustls::ALL_VERSIONS);
    let (mut client, mut conn) = proxy.tunnel(&upstream);
    client.ping(&mut conn, b"found");
}

/// H13.
#[test]
fn a_start_that_fails_is_1_and_says_why() {
    let upstream = Upstream::start();
    let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = holder.local_addr().expect("address").port().to_string();
    let busy = Setup::new(Driver::Epoll, upstream.url()).set("server.port", &port);
    let foreign = Setup::new(Driver::Epoll, upstream.url()).set("server.host", "192.0.2.77");
    let ringless = Setup::new(Driver::IoUring, upstream.url()).forbid_io_uring(libc_errno::EPERM);
    for (setup, part) in [(busy, port.as_str()), (foreign, "192.0.2.77"), (ringless, "EPERM")] {
        let directory = Scratch::new();
        let path = directory.path().join("v.yaml");
        std::fs::write(&path, setup.yaml()).expect("write");
        let ran = run(&setup, &["serve", "--config", &path.display().to_string()]);
        assert_eq!(ran.code, Some(1), "{}", ran.err);
        assert!(ran.err.contains(part), "no {part} in {}", ran.err);
        assert!(!ran.out.contains("proxy.started"), "{}", ran.out);
    }
}

/// An upstream that is down is no fault of the start, and neither is a name that nobody knows.
#[test]
fn a_missing_upstream_does_not_stop_the_start() {
    let mut proxy = Setup::new(Driver::Epoll, "http://no-such-name.invalid:80").start();
    let answer = proxy.answer_to(crate::harness::HANDSHAKE);
    answer.assert_refusal(502, "upstream_unavailable");
    let unresolved = [("reason", "unresolved")];
    proxy.wait_metric("vibewarden_upstream_connect_failures_total", &unresolved, 1.0);
    assert_eq!(proxy.answer_to(OUTDATED).head.status(), 426);
    drop(proxy.stop());
}

/// Seed 21 as far as this version goes: the file in the repository loads.
#[test]
fn the_shipped_file_is_valid() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/vibewarden.yaml");
    let ran = run(&Setup::empty(), &["check", "--config", path]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.out.contains("3000"), "{}", ran.out);
}

#[test]
fn sections_of_the_wider_product_are_one_warning() {
    let upstream = Upstream::start();
    let mut proxy = Setup::new(Driver::Epoll, upstream.url())
        .set("app", "{name: x}")
        .set("observability", "{enabled: true}")
        .set("waf", "{mode: detect}")
        .start();
    let stopped = proxy.stop();
    let lines: Vec<&str> =
        stopped.log.lines().filter(|line| line.contains("observability")).collect();
    assert_eq!(lines.len(), 1, "{}", stopped.log);
    assert!(lines[0].contains("app") && lines[0].contains("waf"), "{}", lines[0]);
}
