//! Targets, authorities, and the many ways to write `..`.

use super::*;

fn parse<'b>(method: &str, target: &'b str) -> Result<(&'b str, Option<&'b str>), TargetError> {
    Target::parse(method, target)
        .map(|target| (target.origin_form, target.authority.map(|authority| authority.text)))
}

#[test]
fn origin_form_goes_on_byte_for_byte() {
    for target in [
        "/",
        "/ws",
        "/a/b?c=d&e=%2e%2e/../",
        "/a//b/",
        "/...",
        "/.a/..b/a../a.",
        "/%7Euser",
        "/a;b/c",
        "/public%3f/x",
        "/%252e%252e/x",
        "/%E2%82%AC",
        "/?/../x",
        "/a%3B..",
    ] {
        assert_eq!(parse("GET", target), Ok((target, None)), "{target}");
    }
}

#[test]
fn the_absolute_form_is_reduced() {
    for (method, target, expected) in [
        ("GET", "http://t.test/e", ("/e", "t.test")),
        ("GET", "HTTP://t.test:80/e?q", ("/e?q", "t.test:80")),
        ("GET", "https://t.test", ("/", "t.test")),
        ("OPTIONS", "http://t.test", ("*", "t.test")),
        ("OPTIONS", "http://t.test/", ("/", "t.test")),
        ("GET", "http://[::1]:8080/", ("/", "[::1]:8080")),
    ] {
        assert_eq!(parse(method, target), Ok((expected.0, Some(expected.1))), "{method} {target}");
    }
    assert_eq!(parse("OPTIONS", "*"), Ok(("*", None)));
}

#[test]
fn other_forms_are_refused() {
    for (method, target) in [
        // A97, A99, E63
        ("GET", "/a\x00"),
        ("GET", "/a\x1f"),
        ("GET", "/a\x7f"),
        ("GET", "/a b"),
        ("GET", "/\u{e9}"),
        ("GET", "/e#frag"),
        ("GET", "/private#/public/"),
        ("GET", "/public\\..\\private"),
        ("GET", "\\private"),
        ("GET", "/?a\\b"),
        // A101
        ("GET", "*"),
        ("OPTIONS", "*/test"),
        ("GET", "admin"),
        ("GET", "admin/a/b"),
        ("GET", "t.test:80"),
        ("GET", ""),
        // A108
        ("GET", "javascript://t.test/e"),
        ("GET", "ws://t.test/ws"),
        ("GET", "http:/t.test/e"),
        ("GET", "http:t.test/e"),
        ("GET", "http:///e"),
        ("GET", "http://u@t.test/e"),
        ("GET", "http://t.test:65536/e"),
        ("GET", "http://t.test?q"),
        ("GET", "//t.test/../e#"),
    ] {
        assert_eq!(parse(method, target), Err(TargetError::Form), "{method} {target:?}");
    }
}

#[test]
fn paths_that_can_be_read_in_two_ways_are_refused() {
    for target in [
        // E58
        "/public/../private",
        "/public/./../private",
        "/public/..",
        "/private/../public/x",
        "/.",
        "/..",
        "/./x",
        // E59
        "/public/%2e%2e/private",
        "/public/%2E%2e/private",
        "/public/.%2e/private",
        "/public/%2e/private",
        // E62
        "/public//../private",
        "/public/..//private",
        // E63
        "/public%5c..%5cprivate",
        "/public%5C..%2fprivate",
        "/public%2f..",
        // E66
        "/private%00/public/",
        "/private%0a",
        "/private%09",
        "/private%7f",
        "/private/.",
        "/public%3f/../private",
        "/public/..;/private",
        "/public/..;a=b/private",
        "/public/.;/private",
        "/public/..%3b/private",
        "/public/%2e%2e%3bx/private",
        // E72
        "/public/%",
        "/public/%1",
        "/public/%zz/../private",
        "/public/%1g",
        "/public/%%41",
        "http://t.test/a/../b",
    ] {
        assert_eq!(parse("GET", target), Err(TargetError::Path), "{target}");
    }
}

#[test]
fn authorities() {
    for text in [
        "t.test",
        "T.TEST",
        "t.test.",
        "a",
        "a_b-c~d.e",
        "1.2.3.4:65535",
        "[::1]",
        "[2001:db8::1]:0",
        "a:80",
    ] {
        assert!(is_authority(text), "{text}");
    }
    for text in [
        "",
        ":80",
        ".",
        "..",
        "a..b",
        ".a",
        "a,b",
        "a b",
        "a/b",
        "u@a",
        "a?b",
        "a#b",
        "a\\b",
        "a\0b",
        "a:",
        "a:b",
        "a:65536",
        "a:080",
        "a:00",
        "a:000080",
        "a:+1",
        "a:1:2",
        "::1",
        "[::1",
        "[::1]x",
        "[::1]:",
        "[::1]80",
        "[t.test]",
        "[fe80::1%25eth0]",
        "%41",
        "é",
    ] {
        assert!(!is_authority(text), "{text:?}");
    }
}

#[test]
fn an_authority_is_compared_without_case_and_with_the_default_port() {
    let same = |target: &str, host: &str| {
        Target::parse("GET", target).expect("valid").authority.expect("absolute").is(host)
    };
    assert!(same("http://T.test/", "t.TEST"));
    assert!(same("http://t.test:80/", "t.test"));
    assert!(same("https://t.test/", "t.test:443"));
    assert!(same("http://[::1]/", "[::1]:80"));
    assert!(!same("http://t.test/", "t.test:443"));
    assert!(!same("http://t.test/", "t.test.evil"));
    assert!(!same("http://t.test/", "t.test."));
    assert!(!same("http://[::1]/", "[::2]"));
}

#[test]
fn paths_are_decoded_once() {
    let text = |path| String::from_utf8(decoded(path).collect()).expect("UTF-8");
    assert_eq!(text("/a%2fb%252f%41"), "/a/b%2fA");
    assert_eq!(text("/a%"), "/a%");
    assert_eq!(text("/a%4"), "/a%4");
    assert_eq!(text("/%zz"), "/%zz");
}
