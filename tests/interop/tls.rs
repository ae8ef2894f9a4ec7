//! TLS with clients that share no code with the proxy: openssl, curl, Python `websockets`, Node `ws`. Chromium's part is in
//! `browser`.

use std::io::{Read, Write};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use super::browser::installed;
use super::conversation;
use super::foreign::{Library, Place, application, available, tls_client};
use super::harness::certificate::{Pair, external};
use super::harness::crowd::willing;
use super::harness::setup::Scratch;
use super::harness::{Driver, Proxy, Setup, Upstream};

/// Each way, in the conversation.
const STREAM_BYTES: usize = 8 << 20;

/// A program that `tests/run.sh` installs; where it must be there its absence is a failure.
fn program(name: &str) -> Option<Command> {
    let found = installed(name);
    let required = std::env::var_os("VIBEWARDEN_TEST_FOREIGN").is_some_and(|it| it == "required");
    assert!(found.is_some() || !required, "{name} is not installed");
    if found.is_none() {
        println!("skipped: {name} is not installed");
    }
    found.map(Command::new)
}

/// A proxy whose certificate is in the folder, with the authority that clients have to trust.
fn start(driver: Driver, url: &str, pair: &Pair) -> (Proxy, Scratch) {
    let scratch = Scratch::new();
    pair.write_into(scratch.path());
    (external(Setup::new(driver, url), scratch.path()).start(), scratch)
}

/// Runs `openssl s_client` with these arguments and this input, until the connection ends.
#[track_caller]
fn s_client(proxy: &Proxy, authority: &Scratch, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = program("openssl")
        .expect("openssl")
        .arg("s_client")
        .args(["-connect", &proxy.address().to_string(), "-servername", "localhost"])
        .arg("-CAfile")
        .arg(authority.path().join("authority.pem"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl");
    let mut stdin = child.stdin.take().expect("stdin");
    let _may_be_gone = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().expect("openssl ends")
}

fn text(output: &Output) -> String {
    let bytes = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What was agreed on, or nothing where the handshake failed.
#[track_caller]
fn agreed(proxy: &Proxy, authority: &Scratch, arguments: &[&str]) -> Option<String> {
    let output = s_client(proxy, authority, &[&["-brief"], arguments].concat(), b"");
    let text = text(&output);
    let line = text.lines().find_map(|line| line.strip_prefix("Ciphersuite: "));
    if let Some(suite) = line {
        assert!(text.contains("Verification: OK"), "{arguments:?}: {text}");
        return Some(suite.to_owned());
    }
    assert!(!output.status.success(), "{arguments:?}: {text}");
    None
}

/// Every suite of every version that openssl knows, also those it would not offer by itself.
#[track_caller]
fn only_strong_suites(driver: Driver) {
    let Some(mut openssl) = program("openssl") else { return };
    let listed = openssl.args(["ciphers", "ALL:COMPLEMENTOFALL:@SECLEVEL=0"]).output();
    let listed = String::from_utf8(listed.expect("openssl").stdout).expect("text");
    let suites: Vec<&str> = listed.trim().split(':').collect();
    assert!(suites.len() > 60, "{listed}");
    let upstream = willing();
    for (pair, kind) in [(Pair::ecdsa(), "ECDSA"), (Pair::rsa(), "RSA")] {
        let (proxy, folder) = start(driver, &upstream.url(), &pair);
        for version in ["-tls1", "-tls1_1"] {
            let seen = agreed(&proxy, &folder, &[version, "-cipher", "ALL:@SECLEVEL=0"]);
            assert_eq!(seen, None, "{version}");
        }
        let mut taken: Vec<String> = suites
            .iter()
            .filter(|suite| !suite.starts_with("TLS_"))
            .filter_map(|suite| {
                let list = format!("{suite}:@SECLEVEL=0");
                agreed(&proxy, &folder, &["-tls1_2", "-cipher", &list])
            })
            .collect();
        taken.sort();
        let mut strong = [
            format!("ECDHE-{kind}-AES128-GCM-SHA256"),
            format!("ECDHE-{kind}-AES256-GCM-SHA384"),
            format!("ECDHE-{kind}-CHACHA20-POLY1305"),
        ];
        strong.sort();
        assert_eq!(taken, strong);
        for suite in [
            ("TLS_AES_128_GCM_SHA256", true),
            ("TLS_AES_256_GCM_SHA384", true),
            ("TLS_CHACHA20_POLY1305_SHA256", true),
            ("TLS_AES_128_CCM_SHA256", false),
            ("TLS_AES_128_CCM_8_SHA256", false),
        ] {
            let seen = agreed(&proxy, &folder, &["-tls1_3", "-ciphersuites", suite.0]);
            assert_eq!(seen.is_some(), suite.1, "{}", suite.0);
        }
    }
}

/// RFC 5746, RFC 9325 section 3.5: TLS 1.2 can be asked to shake hands again; nobody should do it.
#[track_caller]
fn no_renegotiation(driver: Driver) {
    if program("openssl").is_none() {
        return;
    }
    let upstream = willing();
    let (mut proxy, folder) = start(driver, &upstream.url(), &Pair::ecdsa());
    // At the beginning of a line `R` is the command for it.
    for _ in 0..3 {
        let output = s_client(&proxy, &folder, &["-tls1_2"], b"R\nR\nR\n");
        let text = text(&output);
        assert!(text.contains("RENEGOTIATING"), "{text}");
        assert!(!text.contains("verify return:1\nRENEGOTIATING\ndepth"), "{text}");
        assert_eq!(text.matches("BEGIN CERTIFICATE").count(), 1, "{text}");
    }
    // In the middle of a request, too; then the proxy serves on.
    let get = b"GET /_vibewarden/ready HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
    let answered = s_client(&proxy, &folder, &["-tls1_2", "-quiet", "-ign_eof"], get);
    assert!(text(&answered).contains("\"ready\":true"), "{}", text(&answered));
    assert_eq!(proxy.stop().of_kind("proxy.started").len(), 1);
}

/// HTTP/1.1 over TLS as curl speaks it: the name and the chain are verified.
#[track_caller]
fn curl(driver: Driver) {
    let upstream = willing();
    let (proxy, folder) = start(driver, &upstream.url(), &Pair::ecdsa());
    for version in ["--tls-max 1.2", "--tlsv1.3"] {
        let Some(mut curl) = program("curl") else { return };
        let output = curl
            .args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "60", "--verbose"])
            .args(version.split(' '))
            .arg("--cacert")
            .arg(folder.path().join("authority.pem"))
            .args(["--write-out", "%{http_version} %{response_code} %{ssl_verify_result}\n"])
            .args([
                format!("https://localhost:{}/one", proxy.address().port()),
                format!("https://localhost:{}/two", proxy.address().port()),
            ])
            .output()
            .expect("curl");
        let out = String::from_utf8_lossy(&output.stdout);
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{complaints}");
        assert_eq!(out, "ok1.1 200 0\nok1.1 200 0\n", "{complaints}");
        // curl offers h2 as well.
        assert!(complaints.contains("http/1.1"), "{complaints}");
        assert!(complaints.contains("Re-using existing connection"), "{complaints}");
    }
    // Another name than that of the certificate, and an unknown authority.
    for arguments in [["--resolve", "other.test:443:127.0.0.1"], ["--cacert", "/dev/null"]] {
        let Some(mut curl) = program("curl") else { return };
        let port = proxy.address().port();
        let status = curl
            .args(["--silent", "--noproxy", "*", "--max-time", "60"])
            .args(arguments)
            .arg(format!("https://localhost:{port}/"))
            .stdout(Stdio::null())
            .status()
            .expect("curl");
        assert!(!status.success(), "{arguments:?}");
    }
}

#[track_caller]
fn converse(from: Library, to: Library, driver: Driver) {
    if !available() {
        return;
    }
    let application = application(to, Place::Tcp);
    let (proxy, folder) = start(driver, &application.url, &Pair::ecdsa());
    let authority = folder.path().join("authority.pem");
    let reports = tls_client(from, proxy.address(), &authority, "conversation", STREAM_BYTES);
    conversation::check((from, &reports), (to, &application.reports), &proxy);
}

#[track_caller]
fn stream_both_ways(from: Library, to: Library, driver: Driver, bytes: usize) {
    if !available() {
        return;
    }
    let application = application(to, Place::Tcp);
    let (proxy, folder) = start(driver, &application.url, &Pair::ecdsa());
    let authority = folder.path().join("authority.pem");
    let reports = tls_client(from, proxy.address(), &authority, "bulk", bytes);
    conversation::streams_equal(&reports, &application.reports);
    for end in [&reports, &application.reports] {
        assert_eq!(end.of("received")[0]["bytes"], bytes);
    }
}

/// A stranger's TLS stack over a raw tunnel: `openssl s_client` sends what it reads and prints what comes.
#[track_caller]
fn openssl_tunnel(driver: Driver) {
    if program("openssl").is_none() {
        return;
    }
    let upstream = Upstream::start();
    let (proxy, folder) = start(driver, &upstream.url(), &Pair::rsa());
    for version in ["-tls1_2", "-tls1_3"] {
        let mut child = program("openssl")
            .expect("openssl")
            .args(["s_client", "-quiet", "-connect", &proxy.address().to_string(), version])
            .arg("-CAfile")
            .arg(folder.path().join("authority.pem"))
            .args(["-verify_return_error", "-servername", "localhost"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl");
        let mut stdin = child.stdin.take().expect("stdin");
        stdin.write_all(super::harness::HANDSHAKE).expect("a request");
        let mut far = upstream.accept_unrecorded();
        far.read_head();
        far.send(super::harness::ANSWER_101);
        let payload = Arc::new(super::harness::payload::Stream::new(3).take(4 << 20));
        let mut reader = far.twin();
        let sent = Arc::clone(&payload);
        let sending = std::thread::spawn(move || {
            stdin.write_all(&sent).expect("s_client takes it");
            stdin
        });
        assert!(reader.read_exact(payload.len()) == *payload, "to the upstream, {version}");
        far.send(&payload);
        far.fin();
        let mut seen = Vec::new();
        child.stdout.take().expect("stdout").read_to_end(&mut seen).expect("output");
        assert!(seen.ends_with(&payload), "to the client, {version}: {}", seen.len());
        drop(sending.join().expect("sender"));
        child.wait().expect("openssl ends");
    }
}

#[test]
fn only_strong_suites_are_spoken_on_io_uring() {
    only_strong_suites(Driver::IoUring);
}

#[test]
fn nobody_renegotiates_on_io_uring() {
    no_renegotiation(Driver::IoUring);
}

#[test]
fn nobody_renegotiates_on_epoll() {
    no_renegotiation(Driver::Epoll);
}

#[test]
fn curl_on_io_uring() {
    curl(Driver::IoUring);
}

#[test]
fn curl_on_epoll() {
    curl(Driver::Epoll);
}

#[test]
fn openssl_through_a_tunnel_on_io_uring() {
    openssl_tunnel(Driver::IoUring);
}

#[test]
fn openssl_through_a_tunnel_on_epoll() {
    openssl_tunnel(Driver::Epoll);
}

#[test]
fn python_to_node_on_io_uring() {
    converse(Library::Python, Library::Node, Driver::IoUring);
}

#[test]
fn node_to_python_on_epoll() {
    converse(Library::Node, Library::Python, Driver::Epoll);
}

#[test]
fn bulk_from_python_to_node_on_epoll() {
    stream_both_ways(Library::Python, Library::Node, Driver::Epoll, 256 << 20);
}

#[test]
fn a_gibibyte_each_way_between_node_and_python_on_io_uring() {
    stream_both_ways(Library::Node, Library::Python, Driver::IoUring, 1 << 30);
}
