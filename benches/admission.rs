//! What the checks of one upgrade cost when nobody has to be asked: paths, origin, the API key and its scopes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use vibewarden::admission::api_key::{ApiKeys, hash_of};
use vibewarden::admission::origin::{AllowedOrigin, AllowedOrigins};
use vibewarden::admission::paths::{MatchingPath, any_matches};
use vibewarden::config::{Config, Mode, load_text};
use vibewarden::wire::request::RequestHead;

const REQUEST: &[u8] = b"GET /rooms/general?since=1718000000 HTTP/1.1\r\n\
    Host: app.example.com\r\n\
    Connection: Upgrade\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n\
    Upgrade: websocket\r\n\
    Origin: https://app.example.com\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Cookie: theme=dark\r\n\
    X-API-Key: 7pPq2dY0m4b9nQm8v6yT5sR3uW1xZ0aC2eG4iK6oM8q\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

const KEY: &[u8] = b"7pPq2dY0m4b9nQm8v6yT5sR3uW1xZ0aC2eG4iK6oM8q";

/// A thousand keys, ten scope rules, ten public paths.
fn config() -> Config {
    let mut text = "auth:\n  mode: api-key\n  public_paths: [/a/*, /b/*, /c/*, /d, /e, /f, /g/*, '/*.css', '/*.js', '/i/*']\n  \
                    api_key:\n    keys:\n"
        .to_owned();
    for number in 0..1_000 {
        let other = format!("key {number}");
        let key = if number == 500 { KEY } else { other.as_bytes() };
        let hash = hash_of(key).to_hex();
        let _ =
            writeln!(text, "      - {{name: k{number}, hash: '{hash}', scopes: [read, write]}}");
    }
    text.push_str("    scope_rules:\n");
    for number in 0..9 {
        let _ = writeln!(text, "      - {{path: '/area{number}/*', required_scopes: [root]}}");
    }
    text.push_str("      - {path: '/rooms/*', methods: [GET], required_scopes: [read, write]}\n");
    load_text(&text, None, &BTreeMap::new()).expect("a valid configuration").config
}

fn checks(c: &mut Criterion) {
    let config = config();
    let Mode::ApiKey(api_keys) = &config.auth.mode else { unreachable!("mode api-key") };
    let keys = ApiKeys::new(api_keys);
    let head = RequestHead::parse(REQUEST).expect("a clean head");
    let known = keys.identify(&head, true).expect("a known key");
    let path = MatchingPath::of(head.path());

    c.bench_function("api key: find, hash, look up", |b| {
        b.iter(|| keys.identify(black_box(&head), true).is_ok());
    });
    c.bench_function("api key: ten scope rules", |b| {
        b.iter(|| keys.authorize(black_box(known), head.method, black_box(&path)).is_ok());
    });
    c.bench_function("paths: decode, ten public patterns", |b| {
        b.iter(|| {
            any_matches(&config.auth.public_paths, &MatchingPath::of(black_box(head.path())))
        });
    });
    let listed = AllowedOrigins::new(AllowedOrigin::parse("https://other.example.com"));
    c.bench_function("origin: same host", |b| {
        b.iter(|| listed.check(black_box(&head), true).is_ok());
    });
}

criterion_group!(benches, checks);
criterion_main!(benches);
