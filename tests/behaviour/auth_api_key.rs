//! Contract 3.4, 5.1, 10.1, 10.3, 10.6, 11.2 and 13 in mode `api-key`: where a key may stand, what is refused and how, scopes,
//! and what the upstream, the events and the log get to see. Everything once as a plain request and once as an upgrade.

use crate::harness::http::{Head, assert_error_body};
use crate::harness::payload::show;
use crate::harness::{
    ANSWER_101, ANSWER_LAST, Driver, Message, Proxy, SMUGGLED, Setup, Upstream, forwarded, wire,
};

on_drivers!(
    every:
        a_key_that_is_not_right_is_refused;
    both:
        a_right_key_goes_on_to_the_upstream,
        the_header_has_the_configured_name,
        a_key_in_the_query_stays_behind,
        a_query_that_is_no_right_key_is_refused,
        the_query_is_no_source_unless_told,
        the_first_matching_scope_rule_decides,
        ambiguous_paths_are_refused_where_scopes_depend_on_them,
        the_name_of_the_key_is_the_actor,
        a_refusal_keeps_the_connection_of_a_plain_request,
        a_refused_upgrade_discards_what_follows,
        a_refusal_has_the_id_of_the_client_and_no_body_for_head,
        decisions_are_counted,
);

/// The key named `reader`, with the scope `read`.
pub(crate) const READ_KEY: &str = "Canary-Read-4b1d9e";
/// The key named `writer`, with the scopes `read` and `write`.
const WRITE_KEY: &str = "Canary-Write-77aa01";
/// The key named `bare`, without scopes.
const BARE_KEY: &str = "Canary-Bare-0c0c0c";
/// SHA-256 of the three, the second in upper case.
const KEYS: &str = "[{name: reader, hash: \"167c773aab2055c10fd0d56b57d261cdfbbf112d1f07f88932968127fdcf62e2\", scopes: [read]}, \
    {name: writer, hash: \"38F3903F4529A7C00D7CEE7DB9E4CD0316B3B7AF7505260F3F71D05516798222\", scopes: [read, write]}, \
    {name: bare, hash: \"f50bf24c1a92ed6855c08688bfaca3521dd30a45b271a6bbc242b0be707db69b\", scopes: []}]";

const NO_KEY: &str = "API key required";
const WRONG_KEY: &str = "invalid or inactive API key";

/// A proxy that wants one of the three keys.
pub(crate) fn keyed(driver: Driver, upstream: &Upstream) -> Setup {
    Setup::new(driver, upstream.url())
        .set("auth.mode", "api-key")
        .set("auth.api_key.keys", KEYS)
        .set("log.level", "debug")
}

/// `GET` of a target with these header lines, on a connection that ends with the answer.
pub(crate) fn plain(target: &str, lines: &str) -> Vec<u8> {
    wire(format!("GET {target} HTTP/1.1\r\n{{H}}{lines}Connection: close\r\n\r\n"))
}

/// The same as an upgrade.
pub(crate) fn upgrade(target: &str, lines: &str) -> Vec<u8> {
    wire(format!("GET {target} HTTP/1.1\r\n{{H}}{{U}}{{K}}{lines}\r\n"))
}

/// A line with the key.
pub(crate) fn with(key: &str) -> String {
    format!("X-API-Key: {key}\r\n")
}

/// Sends an upgrade that opens; returns what the upstream saw.
#[track_caller]
pub(crate) fn opened(proxy: &Proxy, upstream: &Upstream, request: &[u8]) -> Head {
    let mut client = proxy.sent(request);
    let mut conn = upstream.accept();
    let head = conn.read_head();
    conn.send(ANSWER_101);
    client.open();
    client.ping(&mut conn, b"through");
    head
}

/// Both forms reach the upstream; returns what it saw of each.
#[track_caller]
pub(crate) fn passes(proxy: &Proxy, upstream: &Upstream, target: &str, lines: &str) -> [Head; 2] {
    println!("passes: {target} {lines:?}");
    let Message { head, .. } = forwarded(proxy, upstream, &plain(target, lines));
    [head, opened(proxy, upstream, &upgrade(target, lines))]
}

/// One way to be refused. Where the contract leaves a choice there are several reasons.
pub(crate) struct Refused<'a> {
    pub(crate) status: u16,
    pub(crate) code: &'a str,
    /// Empty where any text of the table is right.
    pub(crate) message: &'a str,
    /// `auth.denied` reasons; of `request.blocked` when `blocked_by` is set.
    pub(crate) reasons: &'a [&'a str],
    pub(crate) blocked_by: Option<&'a str>,
}

pub(crate) const MISSING: Refused<'_> = denied(NO_KEY, &["no_credentials"]);
pub(crate) const WRONG: Refused<'_> = denied(WRONG_KEY, &["invalid_key"]);
const SEVERAL: Refused<'_> = denied("", &["multiple_credentials"]);
/// An empty value is a missing key or a wrong one.
const EMPTY: Refused<'_> = denied("", &["no_credentials", "invalid_key"]);
const SCOPES: Refused<'_> = Refused {
    status: 403,
    code: "forbidden",
    message: "insufficient scopes",
    reasons: &["insufficient_scopes"],
    blocked_by: None,
};
pub(crate) const BAD: Refused<'_> = Refused {
    status: 400,
    code: "bad_request",
    message: "",
    reasons: &["bad_request"],
    blocked_by: Some("http"),
};

const fn denied<'a>(message: &'a str, reasons: &'a [&'a str]) -> Refused<'a> {
    Refused { status: 401, code: "unauthorized", message, reasons, blocked_by: None }
}

/// Sends each request on a connection of its own and stops the proxy: every answer is the one of section 13, the upstream was
/// never touched, each request has exactly one event, and no key is in any line.
#[track_caller]
pub(crate) fn refuses(setup: &Setup, upstream: &Upstream, cases: &[(Vec<u8>, &Refused)]) {
    let mut proxy = setup.start();
    let mut ids = Vec::new();
    for (request, refused) in cases {
        println!("refuses: {}", show(request));
        let answer = proxy.answer_to(request);
        assert_eq!(answer.head.status(), refused.status, "{answer:?}");
        ids.push(answer.assert_refusal(refused.status, refused.code));
        let said = format!("\"message\":\"{}", refused.message);
        let body = String::from_utf8_lossy(&answer.body);
        assert!(body.contains(&said), "{said} in {body}");
        assert_eq!(answer.head.all("www-authenticate"), [""; 0], "{answer:?}");
    }
    let stopped = proxy.stop();
    upstream.assert_untouched();
    for (id, (request, refused)) in ids.iter().zip(cases) {
        let of_id = |event: &&_| crate::harness::event::Event::request_id(event) == id;
        let events: Vec<_> = stopped.events.iter().filter(of_id).collect();
        assert_eq!(events.len(), 1, "{events:?} for {}", show(request));
        let event = events[0];
        let kind = if refused.blocked_by.is_some() { "request.blocked" } else { "auth.denied" };
        assert!(event.is(kind), "{} for {}", event.line, show(request));
        assert!(refused.reasons.contains(&event.text("payload.reason")), "{}", event.line);
        assert_eq!(event.count("payload.status_code"), u64::from(refused.status));
        if let Some(step) = refused.blocked_by {
            assert_eq!(event.text("payload.blocked_by"), step, "{}", event.line);
        } else {
            assert_eq!(event.text("payload.mode"), "api-key", "{}", event.line);
        }
    }
    let ends = stopped.events.iter().filter(|event| event.ends_a_request());
    assert_eq!(ends.count(), cases.len());
    assert_no_canary(&stopped);
}

/// No line and no log entry has a key in it, in any case, whole or cut by one.
#[track_caller]
fn assert_no_canary(stopped: &crate::harness::proxy::Stopped) {
    let lines = stopped.events.iter().map(|event| event.line.as_str());
    for text in lines.chain([stopped.log.as_str()]) {
        assert!(!text.to_ascii_lowercase().contains("canary"), "a key in {text}");
    }
}

fn both_forms<'a>(cases: &[(&str, String, &'a Refused<'a>)]) -> Vec<(Vec<u8>, &'a Refused<'a>)> {
    let forms = |(target, lines, refused): &(&str, String, &'a Refused<'a>)| {
        [(plain(target, lines), *refused), (upgrade(target, lines), *refused)]
    };
    cases.iter().flat_map(forms).collect()
}

/// E1, E2, E7, E11, E13, B38.
fn a_key_that_is_not_right_is_refused(driver: Driver) {
    let upstream = Upstream::start();
    let last = READ_KEY.len() - 1;
    let changed = format!("X{}", &READ_KEY[1..]);
    let line = |value: &str| with(value);
    let two = |first: &str, second: &str| with(first) + &with(second);
    let cases = [
        (String::new(), &MISSING),
        (line(""), &EMPTY),
        (line(" \t "), &EMPTY),
        (line("Canary-None"), &WRONG),
        (line(&changed), &WRONG),
        (line(&READ_KEY[..last]), &WRONG),
        (line(&READ_KEY[1..]), &WRONG),
        (line(&format!("{READ_KEY}x")), &WRONG),
        (line(&format!("x{READ_KEY}")), &WRONG),
        (line(&READ_KEY.to_lowercase()), &WRONG),
        (line(&READ_KEY.to_uppercase()), &WRONG),
        (line(&format!("{READ_KEY}, Canary-None")), &WRONG),
        (line(&format!("{READ_KEY}, {READ_KEY}")), &WRONG),
        (line(&format!("{READ_KEY},")), &WRONG),
        (line(&format!("\"{READ_KEY}\"")), &WRONG),
        (line(&format!("Bearer {READ_KEY}")), &WRONG),
        (line(&READ_KEY.replace('-', "%2d")), &WRONG),
        // What the configuration holds of a key is no key.
        (line("167c773aab2055c10fd0d56b57d261cdfbbf112d1f07f88932968127fdcf62e2"), &WRONG),
        (line("reader"), &WRONG),
        (two(READ_KEY, "Canary-None"), &SEVERAL),
        (two("Canary-None", READ_KEY), &SEVERAL),
        (two(READ_KEY, WRITE_KEY), &SEVERAL),
        (two(READ_KEY, READ_KEY) + &line(WRITE_KEY), &SEVERAL),
        (two(READ_KEY, "").replacen("X-API", "x-api", 1), &SEVERAL),
        (two("Canary-None", "Canary-None"), &WRONG),
        (format!("X_API_Key: {READ_KEY}\r\n"), &MISSING),
        (format!("X.API.Key: {READ_KEY}\r\nX-API_Key: {READ_KEY}\r\n"), &MISSING),
        (format!("X-API-Keys: {READ_KEY}\r\nXX-API-Key: {READ_KEY}\r\n"), &MISSING),
        (format!("Authorization: Bearer {READ_KEY}\r\n"), &MISSING),
        (format!("Proxy-Authorization: {READ_KEY}\r\n"), &MISSING),
        (format!("Cookie: X-API-Key={READ_KEY}; api_key={READ_KEY}\r\n"), &MISSING),
    ]
    .map(|(lines, refused)| ("/ws?x=Canary", lines, refused));
    let mut cases = both_forms(&cases);
    // Any method and a body make no difference; a key in a trailer does not exist.
    cases.push((wire("FOO /private HTTP/1.1\r\n{H}Connection: close\r\n\r\n"), &MISSING));
    let trailer = format!(
        "POST / HTTP/1.1\r\n{{H}}Trailer: X-API-Key\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n{}\r\n",
        with(READ_KEY)
    );
    cases.push((wire(trailer), &MISSING));
    refuses(&keyed(driver, &upstream), &upstream, &cases);
}

/// E13, 10.6, 6.3.
fn a_right_key_goes_on_to_the_upstream(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = keyed(driver, &upstream).start();
    for key in [READ_KEY, WRITE_KEY, BARE_KEY] {
        let lines = [
            with(key),
            format!("x-api-key:{key} \t\r\n"),
            format!("X-API-KEY: \t {key}\r\n"),
            with(key) + &format!("x-api-key: {key}\t\r\n"),
            with(key) + "X_API_Key: Canary-None\r\n",
        ];
        for lines in lines {
            for head in passes(&proxy, &upstream, "/a%20b?x=1", &lines) {
                assert_eq!(head.line, "GET /a%20b?x=1 HTTP/1.1");
                let keys = head.all("x-api-key");
                assert_eq!(keys, vec![key; lines.to_lowercase().matches("x-api-key").count()]);
                assert_eq!(head.all("x_api_key"), [""; 0], "{head:?}");
                let identity = |name: &&str| name.to_lowercase().starts_with("x-user-");
                assert!(!head.names().iter().any(identity), "{head:?}");
            }
        }
    }
    assert_no_canary(&proxy.stop());
}

/// E10: what a client names in `Connection` was read before.
fn the_header_has_the_configured_name(driver: Driver) {
    let upstream = Upstream::start();
    let setup = keyed(driver, &upstream).set("auth.api_key.header", "X-Team-Token");
    let proxy = setup.start();
    for name in ["X-Team-Token", "x-team-TOKEN"] {
        let lines = format!("{name}: {READ_KEY}\r\nX_Team_Token: Canary-None\r\n");
        for head in passes(&proxy, &upstream, "/", &lines) {
            assert_eq!(head.one(name), Some(READ_KEY));
            assert_eq!(head.all("x_team_token"), [""; 0], "{head:?}");
        }
    }
    let named = format!("X-Team-Token: {READ_KEY}\r\nConnection: X-Team-Token\r\n");
    passes(&proxy, &upstream, "/", &named);
    drop(proxy);
    let cases = [
        ("/", with(READ_KEY), &MISSING),
        ("/", with(READ_KEY) + "X-Team-Token: Canary-None\r\n", &WRONG),
        ("/", format!("X_Team_Token: {READ_KEY}\r\n"), &MISSING),
        ("/", "Connection: X-Team-Token\r\n".to_owned(), &MISSING),
    ];
    refuses(&setup, &upstream, &both_forms(&cases));
}

/// 10.3, 10.6: every occurrence is removed, and nothing else of the target changes.
fn a_key_in_the_query_stays_behind(driver: Driver) {
    let upstream = Upstream::start();
    let setup =
        keyed(driver, &upstream).set("auth.api_key.query", "k").set("auth.public_paths", "[/open]");
    let mut proxy = setup.start();
    let key = format!("k={READ_KEY}");
    for (sent, seen) in [
        ("/p?a=1&{k}&b=%2f%zz+&c", "/p?a=1&b=%2f%zz+&c"),
        ("/p?{k}&x", "/p?x"),
        ("/p?a&{k}", "/p?a"),
        ("/p?{k}&a=%20&{k}&b&{k}", "/p?a=%20&b"),
        ("/p?kk=1&{k}&K=2&xk=3&k2", "/p?kk=1&K=2&xk=3&k2"),
        ("/p?x=?{k}&{k}", "/p?x=?{k}"),
        ("/open?{k}&x=1", "/open?x=1"),
        ("http://t.test/p?{k}&x=/../;//", "/p?x=/../;//"),
    ] {
        let seen = seen.replace("{k}", &key);
        for head in passes(&proxy, &upstream, &sent.replace("{k}", &key), "") {
            assert_eq!(head.line, format!("GET {seen} HTTP/1.1"), "for {sent}");
            assert_eq!(head.all("x-api-key"), [""; 0]);
        }
    }
    for head in passes(&proxy, &upstream, &format!("/p?{key}"), "") {
        assert!(["GET /p HTTP/1.1", "GET /p? HTTP/1.1"].contains(&head.line.as_str()), "{head:?}");
    }
    // The header goes on being a source, alone and together with the same key.
    for head in passes(&proxy, &upstream, "/p?x", &with(READ_KEY)) {
        assert_eq!(
            (head.line.as_str(), head.one("x-api-key")),
            ("GET /p?x HTTP/1.1", Some(READ_KEY))
        );
    }
    for head in passes(&proxy, &upstream, &format!("/p?{key}&x"), &with(READ_KEY)) {
        assert_eq!(head.line, "GET /p?x HTTP/1.1");
    }
    assert_no_canary(&proxy.stop());
}

/// 10.1, 10.3.
fn a_query_that_is_no_right_key_is_refused(driver: Driver) {
    let upstream = Upstream::start();
    let setup = keyed(driver, &upstream).set("auth.api_key.query", "k");
    let target = |query: &str| query.replace("{k}", READ_KEY);
    let cases = [
        ("/p?k=", String::new(), &EMPTY),
        ("/p?k", String::new(), &EMPTY),
        ("/p?K={k}", String::new(), &MISSING),
        ("/p?kk={k}&x=k={k}", String::new(), &MISSING),
        ("/p?a;k={k}", String::new(), &MISSING),
        ("/p?k=Canary-None", String::new(), &WRONG),
        ("/p?k={k}x", String::new(), &WRONG),
        ("/p?k={k}&k=Canary-None", String::new(), &SEVERAL),
        ("/p?k=Canary-None&x&k={k}", String::new(), &SEVERAL),
        ("/p?k=Canary-None", with(READ_KEY), &SEVERAL),
        ("/p?k={k}", with(WRITE_KEY), &SEVERAL),
    ];
    let targets = cases.each_ref().map(|case| target(case.0));
    let mut at = targets.iter();
    let cases =
        cases.map(|(_, lines, refused)| (at.next().map_or("", String::as_str), lines, refused));
    refuses(&setup, &upstream, &both_forms(&cases));
}

/// E11: elsewhere it is a part of the target like any other.
fn the_query_is_no_source_unless_told(driver: Driver) {
    let upstream = Upstream::start();
    let setup = keyed(driver, &upstream);
    let target =
        format!("/p?api_key={READ_KEY}&X-API-Key={READ_KEY}&k={READ_KEY}&token={READ_KEY}");
    let cases = [(target.as_str(), String::new(), &MISSING)];
    refuses(&setup, &upstream, &both_forms(&cases));
    let mut proxy = setup.start();
    for head in passes(&proxy, &upstream, "/p?k=Canary&api_key=Canary", &with(WRITE_KEY)) {
        assert_eq!(head.line, "GET /p?k=Canary&api_key=Canary HTTP/1.1");
    }
    assert_no_canary(&proxy.stop());
}

const RULES: &str = "[{path: \"/docs/*\", methods: [POST, PUT], required_scopes: [write]}, \
    {path: \"/docs/*\", methods: [], required_scopes: [read]}, {path: \"/docs/*\", methods: [], required_scopes: [never]}, \
    {path: \"/both\", methods: [], required_scopes: [read, write]}, {path: \"/a?c/[x-z]\", methods: [GET], required_scopes: [write]}, \
    {path: \"/free\", methods: [], required_scopes: []}, {path: \"/free\", methods: [], required_scopes: [never]}]";

/// 10.6, E16: in order, by glob and exact method; no match allows.
fn the_first_matching_scope_rule_decides(driver: Driver) {
    let upstream = Upstream::start();
    let setup = keyed(driver, &upstream).set("auth.api_key.scope_rules", RULES);
    let mut cases = both_forms(&[
        ("/docs/a", with(BARE_KEY), &SCOPES),
        ("/docs/a?x=/free", with(BARE_KEY), &SCOPES),
        ("/%64ocs/%61", with(BARE_KEY), &SCOPES),
        ("http://t.test/docs/a", with(BARE_KEY), &SCOPES),
        ("/both", with(READ_KEY), &SCOPES),
        ("/both", with(BARE_KEY), &SCOPES),
        ("/abc/x", with(READ_KEY), &SCOPES),
        ("/a%62c/%7a", with(READ_KEY), &SCOPES),
        ("/docs/a", String::new(), &MISSING),
        ("/docs/a", with("Canary-None"), &WRONG),
    ]);
    let request = |method: &str, target: &str, key: &str| {
        let lines = with(key);
        wire(format!(
            "{method} {target} HTTP/1.1\r\n{{H}}{lines}Content-Length: 0\r\nConnection: close\r\n\r\n"
        ))
    };
    for (method, key) in
        [("POST", READ_KEY), ("PUT", READ_KEY), ("post", BARE_KEY), ("FOO", BARE_KEY)]
    {
        cases.push((request(method, "/docs/a", key), &SCOPES));
    }
    refuses(&setup, &upstream, &cases);
    let proxy = setup.start();
    for (target, key) in [
        ("/docs/a", READ_KEY),
        ("/docs/a", WRITE_KEY),
        ("/both", WRITE_KEY),
        ("/abc/z", WRITE_KEY),
        ("/abc/w", BARE_KEY),
        ("/a/c/x", BARE_KEY),
        ("/free", BARE_KEY),
        // A glob, not a prefix.
        ("/docs", BARE_KEY),
        ("/docs/a/b", BARE_KEY),
        ("/Docs/a", BARE_KEY),
        ("/both/", BARE_KEY),
        ("/elsewhere?x=/docs/a", BARE_KEY),
    ] {
        for head in passes(&proxy, &upstream, target, &with(key)) {
            assert_eq!(head.line, format!("GET {target} HTTP/1.1"));
        }
    }
    for (method, target, key) in [
        ("POST", "/docs/a", WRITE_KEY),
        ("post", "/docs/a", READ_KEY),
        ("DELETE", "/docs/a", READ_KEY),
        ("POST", "/abc/x", BARE_KEY),
        ("get", "/abc/x", BARE_KEY),
    ] {
        let seen = forwarded(&proxy, &upstream, &request(method, target, key));
        assert_eq!(seen.head.line, format!("{method} {target} HTTP/1.1"));
    }
}

/// 10.2: without rules the same paths are paths like any other.
fn ambiguous_paths_are_refused_where_scopes_depend_on_them(driver: Driver) {
    let upstream = Upstream::start();
    let ambiguous = [
        "//docs/a",
        "/docs//a",
        "/docs/a//",
        "/docs;x/a",
        "/docs/a;",
        "/docs%2fa",
        "/docs%2Fa",
        "/docs%5ca",
        "/docs%5Ca",
        "/docs/%2561",
        "/%2564ocs/a",
        "/docs/%252e%252e/free",
        "/elsewhere/a;b=c",
        "/docs/a%3b",
    ];
    let open = keyed(driver, &upstream).start();
    for target in ambiguous {
        for head in passes(&open, &upstream, target, &with(BARE_KEY)) {
            assert_eq!(head.line, format!("GET {target} HTTP/1.1"));
        }
    }
    drop(open);
    let setup = keyed(driver, &upstream).set("auth.api_key.scope_rules", RULES);
    let cases = ambiguous[..13].iter().map(|target| (*target, with(WRITE_KEY), &BAD));
    refuses(&setup, &upstream, &both_forms(&cases.collect::<Vec<_>>()));
    let proxy = setup.start();
    passes(&proxy, &upstream, "/docs/a?x=//;%2f%5c%2561", &with(READ_KEY));
}

/// 11.1, 11.2, 10.6.
fn the_name_of_the_key_is_the_actor(driver: Driver) {
    let upstream = Upstream::start();
    let setup = keyed(driver, &upstream).set("auth.public_paths", "[/open]");
    let mut proxy = setup.start();
    passes(&proxy, &upstream, "/ws?Canary", &with(READ_KEY));
    passes(&proxy, &upstream, "/open", "");
    let mut stopped = proxy.stop();
    let kinds = ["request.proxied", "websocket.closed"];
    stopped.events.retain(|event| kinds.contains(&event.kind()));
    assert_eq!(stopped.events.len(), 6);
    for event in &stopped.events {
        let line = &event.line;
        let is_open = event.text("resource.path") == "/open";
        let (kind, id) = if is_open { ("ip", "") } else { ("api_key", "reader") };
        assert_eq!((event.text("actor.type"), event.text("actor.id")), (kind, id), "{line}");
        assert_eq!(event.text("actor.ip"), "127.0.0.1", "{line}");
        if event.is("request.proxied") {
            assert_eq!(event.text("payload.user_id"), id, "{line}");
        }
    }
}

/// 6.1: there is no unread body, so keep-alive goes on.
fn a_refusal_keeps_the_connection_of_a_plain_request(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = keyed(driver, &upstream).start();
    let mut client = proxy.connect();
    for lines in [String::new(), with("Canary-None")] {
        client.send(&wire(format!("GET /a HTTP/1.1\r\n{{H}}{lines}\r\n")));
        let (head, body) = client.read_kept_answer();
        assert_error_body(&head, &body, 401, "unauthorized");
    }
    upstream.assert_untouched();
    // The key of one request says nothing about the next one.
    for lines in [with(READ_KEY), String::new()] {
        client.send(&wire(format!("GET /b HTTP/1.1\r\n{{H}}{lines}\r\n")));
        if lines.is_empty() {
            let (head, body) = client.read_kept_answer();
            assert_error_body(&head, &body, 401, "unauthorized");
        } else {
            let mut conn = upstream.accept();
            assert_eq!(conn.read_request().head.line, "GET /b HTTP/1.1");
            conn.send(ANSWER_LAST);
            assert_eq!(client.read_response().status(), 200);
        }
    }
    upstream.assert_untouched();
}

/// B38, 7.2.
fn a_refused_upgrade_discards_what_follows(driver: Driver) {
    let upstream = Upstream::start();
    let good = plain("/second", &with(READ_KEY));
    let requests = [SMUGGLED, good.as_slice(), b"\x81\x85mask-hello"]
        .map(|more| ([upgrade("/ws", ""), more.to_vec()].concat(), &MISSING));
    refuses(&keyed(driver, &upstream), &upstream, &requests);
}

/// 13.
fn a_refusal_has_the_id_of_the_client_and_no_body_for_head(driver: Driver) {
    let upstream = Upstream::start();
    let mut proxy = keyed(driver, &upstream).start();
    let mut ids = Vec::new();
    for request in
        [plain("/", "X-Request-ID: my-id\r\n"), upgrade("/", "X-Request-ID: my-id-2\r\n")]
    {
        ids.push(proxy.answer_to(&request).assert_refusal(401, "unauthorized"));
    }
    assert_eq!(ids, ["my-id", "my-id-2"]);
    let head = wire("HEAD / HTTP/1.1\r\n{H}Connection: close\r\n\r\n");
    ids.push(proxy.answer_to(&head).assert_refusal_without_body(401));
    let stopped = proxy.stop();
    let seen: Vec<_> =
        stopped.of_kind("auth.denied").iter().map(|event| event.request_id()).collect();
    assert_eq!(seen.len(), 3);
    assert!(ids.iter().all(|id| seen.contains(&id.as_str())), "{seen:?}");
    upstream.assert_untouched();
}

/// 12.
fn decisions_are_counted(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = keyed(driver, &upstream).start();
    passes(&proxy, &upstream, "/", &with(READ_KEY));
    for request in [plain("/", ""), upgrade("/", ""), plain("/", &with("Canary-None"))] {
        proxy.answer_to(&request).assert_refusal(401, "unauthorized");
    }
    let scrape = proxy.scrape();
    for (name, label, count) in [
        ("vibewarden_auth_decisions_total", ("decision", "allowed"), "2"),
        ("vibewarden_auth_decisions_total", ("decision", "blocked"), "3"),
        ("vibewarden_refusals_total", ("reason", "unauthorized"), "3"),
        ("vibewarden_websocket_upgrades_total", ("result", "refused"), "1"),
        ("vibewarden_websocket_upgrades_total", ("result", "opened"), "1"),
    ] {
        assert_eq!(scrape.value(name, &[label]).to_string(), count, "{name} {label:?}");
    }
}
