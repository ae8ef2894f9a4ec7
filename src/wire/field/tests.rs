//! What names mean, and lists.

use super::*;

#[test]
fn names_mean_what_they_mean_in_any_case() {
    let cases: &[(&str, Field)] = &[
        ("Host", Field::Host),
        ("Content-Length", Field::ContentLength),
        ("Transfer-Encoding", Field::TransferEncoding),
        ("Connection", Field::Connection),
        ("Upgrade", Field::Upgrade),
        ("TE", Field::Te),
        ("Keep-Alive", Field::HopByHop),
        ("Proxy-Connection", Field::HopByHop),
        ("Proxy-Authenticate", Field::HopByHop),
        ("Proxy-Authorization", Field::HopByHop),
        ("HTTP2-Settings", Field::HopByHop),
        ("Expect", Field::Expect),
        ("Via", Field::Via),
        ("X-Request-ID", Field::RequestId),
        ("X-Real-IP", Field::RealIp),
        ("X-Forwarded-For", Field::ForwardedFor),
        ("X-Forwarded-Proto", Field::ForwardedProto),
        ("X-Forwarded-Host", Field::ForwardedHost),
        ("X-Forwarded-Port", Field::Forwarded),
        ("X-Forwarded-For-X", Field::Forwarded),
        ("Forwarded", Field::Forwarded),
        ("X-User-Id", Field::Identity),
        ("X-User-", Field::Identity),
        ("X-User-Foo_Bar", Field::Identity),
        ("Sec-WebSocket-Key", Field::WebSocketKey),
        ("Sec-WebSocket-Version", Field::WebSocketVersion),
        ("Sec-WebSocket-Accept", Field::WebSocketAccept),
        ("Sec-WebSocket-Protocol", Field::WebSocket),
        ("Authorization", Field::Credential),
        ("Cookie", Field::Credential),
        ("Set-Cookie", Field::Credential),
        ("Origin", Field::Other),
        ("X-User", Field::Other),
        ("X-Users-Id", Field::Other),
        ("X-Forwarded", Field::Other),
        ("Trailer", Field::Other),
        ("", Field::Other),
    ];
    for (name, field) in cases {
        for spelling in [name.to_string(), name.to_ascii_lowercase(), name.to_ascii_uppercase()] {
            assert_eq!(Field::of(spelling.as_bytes()), *field, "{spelling}");
        }
    }
}

#[test]
fn look_alikes_of_every_protected_name() {
    for name in [
        "Content_Length",
        "content.length",
        "Transfer_Encoding",
        "Transfer.Encoding",
        "X_User_Id",
        "X.User.Id",
        "X-User_Id",
        "X_User-Id",
        "X_Forwarded_For",
        "X-Forwarded_For",
        "X.Forwarded-Host",
        "X_Forwarded_Anything",
        "X_Real_IP",
        "X-Real.IP",
        "X_Request_ID",
        "x-request_id",
    ] {
        assert_eq!(Field::of(name.as_bytes()), Field::LookAlike, "{name}");
    }
    for name in ["Content_Type", "X_Custom", "X.Real", "T_E", "Content+Length", "XUser-Id"] {
        assert_eq!(Field::of(name.as_bytes()), Field::Other, "{name}");
    }
}

#[test]
fn the_options_of_all_connection_lines_are_one_list() {
    let mut fields = Fields::default();
    for value in [
        &b"keep-alive , X-One"[..],
        b",,UPGRADE,\tx-two\t",
        b"close",
        b"Host, Content-Length, Sec-WebSocket-Key, TE, Upgrade, Connection",
    ] {
        fields.add(Field::Connection, value);
    }
    let options = &fields.connection;
    assert!(options.upgrade && options.close && !options.overflowed);
    assert!(options.nominates("x-one") && options.nominates("X-Two"));
    for name in
        ["Host", "Content-Length", "Sec-WebSocket-Key", "TE", "keep-alive", "", "x-tw", "x-twoo"]
    {
        assert!(!options.nominates(name), "{name}");
    }
}

#[test]
fn the_number_of_nominated_names_is_bounded() {
    let names = "a,".repeat(NOMINATED_MAX);
    let mut options = ConnectionOptions::default();
    options.add(names.as_bytes());
    assert!(!options.overflowed);
    options.add(b"a");
    assert!(options.overflowed);
    assert_eq!(options.nominated.len(), NOMINATED_MAX);
}

#[test]
fn an_option_is_a_whole_element() {
    for value in
        [&b"upgrade-insecure"[..], b"up grade", b"xupgrade", b"upgrade;q=1", b"\"upgrade\""]
    {
        let mut options = ConnectionOptions::default();
        options.add(value);
        assert!(!options.upgrade, "{}", value.escape_ascii());
    }
}

#[test]
fn white_space_is_space_and_tab() {
    for (value, trimmed) in [
        (&b" \t a b\t "[..], &b"a b"[..]),
        (b"", b""),
        (b" \t", b""),
        (b"\x0ba\x0b", b"\x0ba\x0b"),
        (b"\xa0a", b"\xa0a"),
    ] {
        assert_eq!(trim_white_space(value), trimmed);
    }
}
