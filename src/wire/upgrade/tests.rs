//! What counts as an upgrade, what it must have, and the RFC's own example.

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
    let upgrade = Upgrade { key: "dGhlIHNhbXBsZSBub25jZQ==" };
    assert_eq!(upgrade.accept().as_bytes(), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

#[test]
fn a_complete_upgrade_is_one() {
    assert_eq!(verdict(&format!("{UPGRADE}{KEY}{VERSION}")), Ok(true));
}

#[test]
fn upgrades_in_every_spelling() {
    for lines in [
        // B2, B5
        "connection: keep-alive, Upgrade\r\nupgrade: websocket\r\n",
        "Connection: Upgrade,keep-alive\r\nUpgrade: WebSocket\r\n",
        "CONNECTION: UPGRADE\r\nUPGRADE: WEBSOCKET\r\n",
        "Connection: keep-alive\r\nConnection: upgrade\r\nUpgrade:\twebsocket \r\n",
        // B24, B29, B31
        "Upgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 0\r\n",
        "Upgrade: websocket\r\nConnection: Upgrade\r\nExpect: 100-continue\r\n",
        "Upgrade: websocket\r\nConnection: Upgrade, X-User-Id, Cookie, Sec-WebSocket-Key\r\n",
        "Upgrade: websocket\r\nConnection: Upgrade, close\r\n",
    ] {
        assert_eq!(verdict(&format!("{lines}{KEY}{VERSION}")), Ok(true), "{lines}");
    }
}

#[test]
fn what_only_looks_like_an_upgrade_is_an_ordinary_request() {
    for lines in [
        // B6, B7
        "Upgrade: websocket/13\r\nConnection: Upgrade\r\n",
        "Upgrade: xwebsocket\r\nConnection: Upgrade\r\n",
        "Upgrade: web socket\r\nConnection: Upgrade\r\n",
        "Upgrade: foo, websocket\r\nConnection: Upgrade\r\n",
        "Upgrade: websocket, foo\r\nConnection: Upgrade\r\n",
        "Upgrade: websocket\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
        "Upgrade: websocket\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n",
        "Upgrade:\r\nConnection: Upgrade\r\n",
        // B8, B12
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMA\r\n",
        "Upgrade: websocket\r\n",
        "Upgrade: websocket\r\nConnection: keep-alive\r\n",
        "Upgrade: websocket\r\nConnection: upgrades\r\n",
        "Connection: Upgrade\r\n",
    ] {
        assert_eq!(verdict(&format!("{lines}{KEY}{VERSION}")), Ok(false), "{lines}");
    }
    // B21
    let head = head("GET /ws HTTP/1.0", &format!("{UPGRADE}{KEY}{VERSION}"));
    let head = RequestHead::parse(head.as_bytes()).expect("valid");
    assert_eq!(Upgrade::of(&head), Ok(None));
}

#[test]
fn keys_are_sixteen_bytes_in_canonical_base64() {
    // B14, B16
    let four_kilobytes = "A".repeat(4096);
    for key in [
        "",
        "abc",
        "====",
        "dGhlIHNhbXBsZSBub25j",
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25jZQ=",
        "dGhlIHNhbXBsZSBub25jZWU=",
        "dGhlIHNhbXBsZSBub25jZR==",
        "dGhlIHNhbXBsZSBub25jZQ==,",
        "dGhlIHNhbXBsZSBub25jZ===",
        "dGhlIHNhbXBsZSBub25-ZQ==",
        "dGhlIHNhbXBsZSBub2 jZQ==",
        "dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ==",
        &four_kilobytes,
    ] {
        let lines = format!("{UPGRADE}Sec-WebSocket-Key: {key}\r\n{VERSION}");
        assert_eq!(verdict(&lines), Err(UpgradeError::Key), "{key}");
    }
    assert_eq!(verdict(&format!("{UPGRADE}{VERSION}")), Err(UpgradeError::Key));
    assert_eq!(verdict(&format!("{UPGRADE}{KEY}{KEY}{VERSION}")), Err(UpgradeError::Key));
}

#[test]
fn the_version_is_thirteen() {
    // B17
    for version in ["12", "99", "013", "13.0", "-13", "", "13, 13", "8, 13"] {
        let lines = format!("{UPGRADE}{KEY}Sec-WebSocket-Version: {version}\r\n");
        assert_eq!(verdict(&lines), Err(UpgradeError::Version), "{version}");
    }
    assert_eq!(verdict(&format!("{UPGRADE}{KEY}")), Err(UpgradeError::Version));
    assert_eq!(verdict(&format!("{UPGRADE}{KEY}{VERSION}{VERSION}")), Err(UpgradeError::Version));
    assert_eq!(UpgradeError::Version.status(), 426);
    assert_eq!(UpgradeError::Key.status(), 400);
}

#[test]
fn an_upgrade_is_a_get_without_content() {
    let of = |request_line, lines: &str| {
        let head = head(request_line, &format!("{UPGRADE}{KEY}{VERSION}{lines}"));
        let head = RequestHead::parse(head.as_bytes()).expect("valid");
        Upgrade::of(&head).map(|upgrade| upgrade.is_some())
    };
    // B19, B22
    assert_eq!(of("POST /ws HTTP/1.1", ""), Err(UpgradeError::Method));
    assert_eq!(of("get /ws HTTP/1.1", ""), Err(UpgradeError::Method));
    assert_eq!(of("GET /ws HTTP/1.1", "Content-Length: 5\r\n"), Err(UpgradeError::Content));
    assert_eq!(
        of("GET /ws HTTP/1.1", "Transfer-Encoding: chunked\r\n"),
        Err(UpgradeError::Content)
    );
    assert_eq!(of("GET /ws HTTP/1.1", "Content-Length: 00\r\n"), Ok(true));
}
