//! What counts as an upgrade, what it must have, and the RFC's own example.

use super::super::forward::{Forwarding, Purpose, write_request};
use super::*;

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";
const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\n";

fn head(request_line: &str, lines: &str) -> String {
    format!("{request_line}\r\nHost: t.test\r\n{lines}\r\n")
}

/// The verdict on a GET with these lines.
fn verdict(lines: &str) -> Result<bool, UpgradeError> {
    let head = head("GET /ws HTTP/1.1", lines);
    let head =
        RequestHead::parse(head.as_bytes()).expect("a head that is fine apart from the upgrade");
    Upgrade::of(&head).map(|upgrade| upgrade.is_some())
}

#[test]
fn accept_of_the_example_in_rfc_6455_section_1_3() {
    let upgrade = Upgrade {
        key: "dGhlIHNhbXBsZSBub25jZQ==",
    };
    assert_eq!(upgrade.accept().as_bytes(), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

#[test]
fn a_complete_upgrade_is_one() {
    assert_eq!(verdict(&format!("{UPGRADE}{KEY}{VERSION}")), Ok(true));
}

#[test]
fn an_upgrade_goes_on_with_our_lines_last() {
    let head = head("GET /ws?a=1 HTTP/1.1", &format!("{UPGRADE}{KEY}{VERSION}"));
    let head = RequestHead::parse(head.as_bytes()).expect("valid");
    let forwarding = Forwarding {
        client: "192.0.2.1".parse().expect("address"),
        peer: "192.0.2.1".parse().expect("address"),
        peer_trusted: false,
        tls: false,
        request_id: "req_ABCDEFGHIJKL",
        upstream_authority: "127.0.0.1:3000",
        identity: &[],
        identity_names: &[],
        api_key_header: None,
    };
    let mut out = Vec::new();
    write_request(&mut out, &head, &forwarding, Purpose::Upgrade);
    let expected = "GET /ws?a=1 HTTP/1.1\r\n\
        Host: t.test\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Version: 13\r\n\
        X-Forwarded-For: 192.0.2.1\r\n\
        X-Forwarded-Proto: http\r\n\
        X-Forwarded-Host: t.test\r\n\
        X-Real-IP: 192.0.2.1\r\n\
        X-Request-ID: req_ABCDEFGHIJKL\r\n\
        Via: 1.1 vibewarden\r\n\
        Upgrade: websocket\r\n\
        Connection: Upgrade\r\n\r\n";
    assert_eq!(String::from_utf8_lossy(&out), expected);
}
