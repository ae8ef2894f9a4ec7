use super::*;
use crate::admission::authentication::Next;

fn presented<R>(
    sources: &[Source],
    target: &str,
    lines: &[&str],
    look: impl FnOnce(Presented<'_>) -> R,
) -> R {
    let mut head = format!("GET {target} HTTP/1.1\r\nHost: t\r\n");
    for line in lines {
        head.push_str(line);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    let head = RequestHead::parse(head.as_bytes()).expect("a clean head");
    look(Sources::new(sources.to_vec()).presented(&head, true))
}

/// `None`, `Several` or the value.
fn outcome(sources: &[Source], target: &str, lines: &[&str]) -> String {
    presented(sources, target, lines, |presented| match presented.credential {
        Credential::None => "None".to_owned(),
        Credential::Several => "Several".to_owned(),
        Credential::One(value) => String::from_utf8_lossy(&value).into_owned(),
    })
}

fn key() -> Source {
    Source::Header("X-API-Key".into())
}

#[test]
fn bearer_tokens() {
    for (lines, expected) in [
        (vec![], "None"),
        (vec!["Authorization:"], "None"),
        (vec!["Authorization: Bearer"], "None"),
        (vec!["Authorization: Bearer    "], "None"),
        (vec!["Authorization: Bearer tok"], "tok"),
        (vec!["Authorization: bearer tok"], "tok"),
        (vec!["Authorization: BEARER tok"], "tok"),
        (vec!["aUTHORIZATION: BeArEr   tok  "], "tok"),
        (vec!["Authorization: Bearer\ttok"], "None"),
        (vec!["Authorization: Bearer \ttok"], "\ttok"),
        (vec!["Authorization: Bearertok"], "None"),
        (vec!["Authorization: Bearer a b"], "a b"),
        (vec!["Authorization: Basic tok"], "None"),
        (vec!["Proxy-Authorization: Bearer tok"], "None"),
        (vec!["Authorization: Bearer a", "Authorization: Bearer b"], "Several"),
        (vec!["Authorization: Bearer a", "Authorization: bearer  a"], "a"),
        (vec!["Authorization: Bearer a", "Authorization: Basic b"], "Several"),
        (vec!["Authorization:", "Authorization: Bearer a"], "Several"),
        (vec!["Authorization: Bearer a", "Connection: Authorization"], "a"),
    ] {
        assert_eq!(outcome(&[Source::Bearer], "/", &lines), expected, "{lines:?}");
    }
}

#[test]
fn key_headers() {
    for (lines, expected) in [
        (vec!["x-api-key: good \t"], "good"),
        (vec!["X-API-Key: good, bad"], "good, bad"),
        (vec!["X-API-Key: good", "X-API-Key: good"], "good"),
        (vec!["X-API-Key: good", "X-API-Key: bad"], "Several"),
        (vec!["X-API-Key: good", "X-API-Key:"], "Several"),
        (vec!["X-API-Key:"], "None"),
        (vec!["X_API_Key: good"], "None"),
        (vec!["X.API.Key: good"], "None"),
    ] {
        assert_eq!(outcome(&[key()], "/", &lines), expected, "{lines:?}");
    }
}

#[test]
fn cookies() {
    let source = [Source::Cookie("sid".into())];
    for (lines, expected) in [
        (vec!["Cookie: sid=bad; sid=good"], "Several"),
        (vec!["Cookie: sid=good; sid=bad"], "Several"),
        (vec!["Cookie: sid=good", "Cookie: sid=bad"], "Several"),
        (vec!["Cookie: sid=good; x=1", "Cookie: sid=good"], "good"),
        (vec!["Cookie: sid=; sid=good"], "Several"),
        (vec!["Cookie: sid="], "None"),
        (vec!["Cookie: sid=good,sid=bad"], "good,sid=bad"),
    ] {
        assert_eq!(outcome(&source, "/", &lines), expected, "{lines:?}");
    }
    for (line, expected) in
        [("Cookie: sid=good", true), ("Cookie: sid=", false), ("Cookie: sid=a; sid=b", true)]
    {
        presented(&source, "/", &[line], |presented| {
            assert_eq!(presented.in_cookie, expected, "{line}");
        });
    }
}

#[test]
fn query_parameters() {
    let source = [Source::Query("token".into())];
    for (target, expected) in [
        ("/?token=good", "good"),
        ("/?%74oken=good", "good"),
        ("/?token=good&token=good", "good"),
        ("/?token=good&token=bad", "Several"),
        ("/?token=good&%74oken=bad", "Several"),
        ("/?token=good&token", "Several"),
        ("/?token=", "None"),
        ("/?Token=good", "None"),
        ("/", "None"),
    ] {
        assert_eq!(outcome(&source, target, &[]), expected, "{target}");
    }
    assert_eq!(outcome(&[Source::Bearer], "/?token=good", &[]), "None", "not configured");
}

#[test]
fn subprotocols() {
    let source = [Source::Subprotocol("bearer.".into())];
    for (lines, expected) in [
        (vec!["Sec-WebSocket-Protocol: bearer.tok, chat"], "tok"),
        (vec!["Sec-WebSocket-Protocol: chat,bearer.tok"], "tok"),
        (vec!["Sec-WebSocket-Protocol: chat", "sec-websocket-protocol: bearer.tok"], "tok"),
        (vec!["Sec-WebSocket-Protocol: bearer.a, bearer.b"], "Several"),
        (vec!["Sec-WebSocket-Protocol: bearer.a, bearer.a"], "a"),
        (vec!["Sec-WebSocket-Protocol: bearer."], "None"),
        (vec!["Sec-WebSocket-Protocol: Bearer.tok"], "None"),
        (vec!["Sec-WebSocket-Protocol: chat"], "None"),
    ] {
        assert_eq!(outcome(&source, "/", &lines), expected, "{lines:?}");
    }
    let head = b"GET / HTTP/1.1\r\nHost: t\r\nSec-WebSocket-Protocol: bearer.tok\r\n\r\n";
    let head = RequestHead::parse(head).expect("a clean head");
    let plain = Sources::new(source).presented(&head, false);
    assert_eq!(plain.credential, Credential::None, "only an upgrade has subprotocols");
}

#[test]
fn sources_are_one_when_they_agree() {
    let sources = [
        Source::Bearer,
        Source::Cookie("t".into()),
        Source::Query("t".into()),
        Source::Subprotocol("t.".into()),
    ];
    let (authorization, cookie) = ("Authorization: Bearer a", "Cookie: t=a");
    assert_eq!(outcome(&sources, "/?t=a", &[authorization, cookie]), "a");
    assert_eq!(outcome(&sources, "/?t=b", &[authorization]), "Several");
    assert_eq!(outcome(&sources, "/?t=b", &[cookie]), "Several");
    assert_eq!(outcome(&sources, "/?t=", &[cookie]), "a", "an empty one is none");
    assert_eq!(outcome(&sources, "/?t=b", &["Authorization: Basic x"]), "b");
    assert_eq!(outcome(&sources, "/", &[cookie, "Sec-WebSocket-Protocol: t.b"]), "Several");
    let several = ["Authorization: Bearer a", "Authorization: Bearer b"];
    assert_eq!(outcome(&sources, "/?t=a", &several), "Several");
    let key_or_query = [key(), Source::Query("key".into())];
    assert_eq!(outcome(&key_or_query, "/?key=a", &["X-API-Key: b"]), "Several");
    assert_eq!(outcome(&key_or_query, "/?key=a", &["X-API-Key: a"]), "a");
}

#[test]
fn what_the_upstream_may_see() {
    let sources =
        Sources::new([Source::Query("t".into()), Source::Bearer, Source::Subprotocol("s.".into())]);
    assert_eq!(sources.forwarded_target("/a?b=1&t=x&c"), "/a?b=1&c");
    assert_eq!(sources.subprotocol_prefixes().collect::<Vec<_>>(), ["s."]);
    assert_eq!(Sources::default().forwarded_target("/a?t=x"), "/a?t=x");
}

#[test]
fn nothing_of_a_credential_is_printed() {
    let head = "GET /p?key=canary-1&x=canary-2 HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer canary-3\r\n\
                Cookie: sid=canary-4\r\nX-API-Key: canary-5\r\nSec-WebSocket-Protocol: bearer.canary-6\r\n\r\n";
    let head = RequestHead::parse(head.as_bytes()).expect("a clean head");
    let printed = format!("{head:?} {head:#?}");
    assert!(!printed.contains("canary"), "{printed}");
    assert!(printed.contains("/p") && printed.contains("X-API-Key: (8 bytes)"), "{printed}");
    for source in [
        Source::Bearer,
        key(),
        Source::Cookie("sid".into()),
        Source::Query("key".into()),
        Source::Subprotocol("bearer.".into()),
    ] {
        let presented = Sources::new([source]).presented(&head, true);
        assert!(
            matches!(&presented.credential, Credential::One(value) if value.starts_with(b"canary"))
        );
        let printed = format!("{presented:?} {presented:#?}");
        assert!(!printed.contains("canary") && printed.contains("One(***)"), "{printed}");
        let Credential::One(value) = presented.credential else { unreachable!() };
        let session = Next::Session { cookie: value.clone(), required: true };
        let printed = format!("{session:?} {:?}", Next::Token(value));
        assert_eq!(printed, "Session { required: true, .. } Token(***)");
    }
}
