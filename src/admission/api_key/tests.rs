use std::collections::BTreeMap;

use super::*;

const KEYS: &str = "auth:
  mode: api-key
  api_key:
    query: key
    keys:
      - {name: reader, hash: HASH1, scopes: [read]}
      - {name: writer, hash: HASH2, scopes: [read, write]}
      - {name: nobody, hash: HASH3}
    scope_rules:
      - {path: /open}
      - {path: '/items/*', methods: [GET, HEAD], required_scopes: [read]}
      - {path: '/items/*', required_scopes: [read, write]}
      - {path: '/*', methods: [DELETE], required_scopes: [root]}
";

/// Keys `good-1` to `good-3`.
fn keys(without_rules: bool) -> ApiKeys {
    let mut text = KEYS.to_owned();
    for number in 1..=3 {
        let hash: String = hash_of(format!("good-{number}").as_bytes())
            .0
            .map(|byte| format!("{byte:02x}"))
            .concat();
        text = text.replace(&format!("HASH{number}"), &hash);
    }
    if without_rules {
        text.truncate(text.find("    scope_rules").expect("rules"));
    }
    let loaded = config::load_text(&text, None, &BTreeMap::new()).expect("a valid configuration");
    match &loaded.config.auth.mode {
        config::Mode::ApiKey(keys) => ApiKeys::new(keys),
        other => panic!("{other:?}"),
    }
}

fn head(target: &str, lines: &[&str]) -> String {
    let lines = [lines, &["", ""]].concat().join("\r\n");
    format!("GET {target} HTTP/1.1\r\nHost: t\r\n{lines}")
}

/// The name, or the reason.
fn identified(target: &str, lines: &[&str]) -> String {
    let head = head(target, lines);
    let head = RequestHead::parse(head.as_bytes()).expect("a clean head");
    match keys(false).identify(&head, true) {
        Ok(key) => key.name.to_string(),
        Err(Refusal::Denied(Denial { mode: AuthMode::ApiKey, reason })) => reason.word().to_owned(),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn sha_256_is_the_one_everybody_else_has() {
    let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(Some(hash_of(b"abc")), KeyHash::parse(expected), "FIPS 180-2, appendix B.1");
}

#[test]
fn a_key_is_known_or_it_is_not() {
    for (target, lines, expected) in [
        ("/", vec!["X-API-Key: good-1"], "reader"),
        ("/", vec!["x-api-key:  good-2 \t"], "writer"),
        ("/", vec!["X-API-Key: good-1", "X-API-Key: good-1"], "reader"),
        ("/?key=good-2", vec![], "writer"),
        ("/?key=g%6Fod-2", vec!["X-API-Key: good-2"], "writer"),
        ("/", vec![], "no_credentials"),
        ("/", vec!["X-API-Key:"], "no_credentials"),
        ("/", vec!["X_API_Key: good-1"], "no_credentials"),
        ("/", vec!["Authorization: Bearer good-1"], "no_credentials"),
        ("/", vec!["X-API-Key: good-1", "X-API-Key: good-2"], "multiple_credentials"),
        ("/?key=good-1", vec!["X-API-Key: good-2"], "multiple_credentials"),
        ("/?key=bad", vec!["X-API-Key: good-2"], "multiple_credentials"),
        ("/", vec!["X-API-Key: good-1, good-1"], "invalid_key"),
        ("/", vec!["X-API-Key: good-"], "invalid_key"),
        ("/", vec!["X-API-Key: good-11"], "invalid_key"),
        ("/", vec!["X-API-Key: Good-1"], "invalid_key"),
        ("/", vec!["X-API-Key: good-4"], "invalid_key"),
        ("/", vec!["X-API-Key: \"good-1\""], "invalid_key"),
    ] {
        assert_eq!(identified(target, &lines), expected, "{target} {lines:?}");
    }
    // the hash of a key is not the key
    let hash = hash_of(b"good-1").to_hex();
    assert_eq!(identified("/", &[&format!("X-API-Key: {hash}")]), "invalid_key");
}

#[test]
fn the_first_matching_rule_decides() {
    let keys = keys(false);
    let by_number = |number: u8| &keys.known[&hash_of(format!("good-{number}").as_bytes())];
    for (number, method, path, status) in [
        (3, "GET", "/open", 200),
        (3, "DELETE", "/open", 200), // the first rule matches before the one for DELETE
        (1, "GET", "/items/1", 200),
        (1, "HEAD", "/items/1", 200),
        (1, "POST", "/items/1", 403),
        (1, "FOO", "/items/1", 403),
        (1, "get", "/items/1", 403), // methods have a case
        (2, "POST", "/items/1", 200),
        (3, "GET", "/items/1", 403),
        (3, "GET", "/items/%31", 403),
        (3, "GET", "/items", 200), // rule 2 of patterns: no prefix
        (3, "GET", "/items/1/2", 200),
        (2, "DELETE", "/x", 403),
        (2, "FOO", "/x", 200),
        (1, "GET", "/items//1", 400),
        (2, "POST", "/items%2F1", 400),
        (1, "GET", "/x;y", 400),
    ] {
        let verdict = keys.authorize(by_number(number), method, &MatchingPath::of(path));
        let found = verdict.map_or_else(|refusal| refusal.answer().status, |()| 200);
        assert_eq!(found, status, "good-{number} {method} {path}");
    }
}

#[test]
fn without_rules_nothing_is_asked_for() {
    let keys = keys(true);
    let key = &keys.known[&hash_of(b"good-3")];
    assert_eq!(keys.authorize(key, "DELETE", &MatchingPath::of("/a//b")), Ok(()));
}

#[test]
fn where_a_key_may_stand_is_where_it_is_taken_out() {
    assert_eq!(keys(false).sources().forwarded_target("/a?key=x&b=%2f"), "/a?b=%2f");
}
