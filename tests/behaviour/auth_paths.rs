//! Contract 10.2, E58 to E73: no spelling of a path gets past authentication; what passes reaches the upstream byte for byte.

use crate::auth_api_key::{BAD, MISSING, READ_KEY, keyed, passes, plain, refuses, upgrade, with};
use crate::harness::{Driver, Setup, Upstream};

on_drivers!(
    every: ;
    both:
        paths_that_climb_or_cannot_be_read_are_refused,
        paths_that_are_not_public_need_a_key,
        every_spelling_of_a_public_path_is_public,
        globs_and_exact_paths_are_whole_paths,
        with_a_key_every_path_goes_on_as_sent,
);

/// E58, E59, E62, E63, E66, E72: whatever they would be decoded to.
const REFUSED: [&str; 46] = [
    "/public/../private",
    "/public/./../private",
    "/public/..",
    "/public/.",
    "/private/../public/x",
    "/public/x/../../private",
    "/../public/x",
    "/public/%2e%2e/private",
    "/public/%2E%2e/private",
    "/public/.%2e/private",
    "/public/%2e./private",
    "/public/%2e",
    "/%2e%2e/public",
    "/public//../private",
    "/public/..//private",
    "/public\\..\\private",
    "\\private",
    "/public\\x",
    "/public%5c..%5cprivate",
    "/public%5C%2e%2e%5Cprivate",
    "/public%2f..%2fprivate",
    "/public%2f%2e%2e%2Fprivate",
    "/public/..%2fprivate",
    "/public/..%5cprivate",
    "/public/..;/private",
    "/public/..;x=1/private",
    "/public/%2e%2e;/private",
    "/public/.;/private",
    "/private%00/public/",
    "/public/%00/../private",
    "/public%00",
    "/private%0a",
    "/private%0d%0a",
    "/private%09",
    "/private%7f",
    "/private%1f/public",
    "/private/.",
    "/public%3f/../private",
    "/private#/public/",
    "/public/%",
    "/public/%1",
    "/public/%zz/../private",
    "/public/%zz",
    "/public/%u002e",
    "/public/%2",
    "/public/a%g0",
];

/// E62, E63, E66, E67: not below `/public`, or not without doubt.
const PRIVATE: [&str; 35] = [
    "/private",
    "//private",
    "///private",
    "//public/x",
    "/public//x",
    "/public//",
    "/public/x//y",
    "//",
    "/",
    "/private%20",
    "/private.",
    "/private/",
    "/private/public/x",
    "/private%3f/public",
    "/private%23/public/",
    "/publicX",
    "/public-x",
    "/publi",
    "/public.",
    "/public%20/x",
    "/public%3f",
    "/Public/x",
    "/PUBLIC",
    "/public%2fx",
    "/public%2Fx",
    "/public%5cx",
    "/public/x%5C",
    "/public;/x",
    "/public/x;y",
    "/public;",
    "/public/%252e%252e/private",
    "/%2570ublic/x",
    "/private?/public/",
    "/private?/../public/x",
    "/private?x=%2fpublic%2f",
];

/// E67, 10.2 rule 1.
const PUBLIC: [&str; 20] = [
    "/public",
    "/public/",
    "/public/a",
    "/public/a/b/c",
    "/public/a/",
    "/publi%63/x",
    "/%70ublic/x",
    "/%70%75%62%6c%69%63",
    "/public?",
    "/public?x=/../..",
    "/public/a?x=%00%2e%2e;//%2f%5c%25",
    "/public/%3fx",
    "/public/%23",
    "/public/a.b",
    "/public/...",
    "/public/..a",
    "/public/%20",
    "/public/%C3%A9",
    "/public/*",
    "/public/~a!$&'()+,=:@",
];

fn half_public(driver: Driver, upstream: &Upstream) -> Setup {
    keyed(driver, upstream).set("auth.public_paths", "[\"/public/*\"]")
}

fn paths_that_climb_or_cannot_be_read_are_refused(driver: Driver) {
    let upstream = Upstream::start();
    let forms = |target: &&str| {
        [plain(target, ""), upgrade(target, ""), plain(target, &with(READ_KEY))]
            .map(|request| (request, &BAD))
    };
    let cases: Vec<_> = REFUSED.iter().flat_map(forms).collect();
    refuses(&half_public(driver, &upstream), &upstream, &cases);
}

fn paths_that_are_not_public_need_a_key(driver: Driver) {
    let upstream = Upstream::start();
    let forms =
        |target: &&str| [plain(target, ""), upgrade(target, "")].map(|request| (request, &MISSING));
    let mut cases: Vec<_> = PRIVATE.iter().flat_map(forms).collect();
    cases.extend(forms(&"http://t.test/private"));
    cases.extend(forms(&"http://t.test//public/x"));
    refuses(&half_public(driver, &upstream), &upstream, &cases);
}

fn every_spelling_of_a_public_path_is_public(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = half_public(driver, &upstream).start();
    for target in PUBLIC {
        for head in passes(&proxy, &upstream, target, "") {
            assert_eq!(head.line, format!("GET {target} HTTP/1.1"));
        }
    }
    for head in passes(&proxy, &upstream, "http://t.test/public/x?y", "") {
        assert_eq!(head.line, "GET /public/x?y HTTP/1.1");
    }
    // Nothing is required there, so a wrong key is no obstacle either.
    passes(&proxy, &upstream, "/public/x", &with("wrong"));
}

/// 10.2, rules 2 and 3.
fn globs_and_exact_paths_are_whole_paths(driver: Driver) {
    let upstream = Upstream::start();
    let patterns = "['/exact', '/file-*.txt', '/v[0-9]/?/[^a]', '/star\\*']";
    let setup = keyed(driver, &upstream).set("auth.public_paths", patterns);
    let outside = [
        "/exact/",
        "/exactX",
        "/exact/x",
        "/Exact",
        "/file-a.txtx",
        "/file-a/b.txt",
        "/x/file-a.txt",
        "/file-.tx",
        "/v1/ab/b",
        "/v1/a/a",
        "/vx/a/b",
        "/v1///b",
        "/v1/a/",
        "/stark",
        "/star",
        "/file-a%2fb.txt",
    ];
    let forms =
        |target: &&str| [plain(target, ""), upgrade(target, "")].map(|request| (request, &MISSING));
    let cases: Vec<_> = outside.iter().flat_map(forms).collect();
    refuses(&setup, &upstream, &cases);
    let proxy = setup.start();
    for target in [
        "/exact",
        "/exac%74",
        "/file-a.txt",
        "/file-.txt",
        "/file-a%2etxt",
        "/v7/x/b",
        "/star*",
        "/star%2a",
    ] {
        for head in passes(&proxy, &upstream, target, "") {
            assert_eq!(head.line, format!("GET {target} HTTP/1.1"));
        }
    }
}

/// E73.
fn with_a_key_every_path_goes_on_as_sent(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = half_public(driver, &upstream).start();
    for target in PRIVATE {
        for head in passes(&proxy, &upstream, target, &with(READ_KEY)) {
            assert_eq!(head.line, format!("GET {target} HTTP/1.1"));
        }
    }
}
