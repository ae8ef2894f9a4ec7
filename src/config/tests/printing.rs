//! What `check` prints, and the oracle over the corpus.

use super::super::schema::SCHEMA;
use super::super::setting::Setting;
use super::*;

#[test]
fn every_key_is_printed_with_its_effective_value() {
    let printed =
        config("upstream: {url: 'http://a:1'}\nserver: {max_connections: 0}").to_yaml(524_160);
    let value: serde_yaml::Value = serde_yaml::from_str(&printed).unwrap();
    for key in SCHEMA
        .iter()
        .filter(|key| !["auth.enabled", "auth.api_key.openbao_path"].contains(&key.name))
    {
        let found = key.name.split('.').try_fold(&value, |value, segment| value.get(segment));
        assert!(found.is_some(), "{} is missing in\n{printed}", key.name);
    }
    assert_eq!(value["server"]["max_connections"], 524_160);
    assert_eq!(value["server"]["port"], 8443);
    assert_eq!(value["upstream"]["host"], "a");
    assert_eq!(value["upstream"]["port"], 1);
}

#[test]
fn secrets_are_hidden() {
    let hash = "ab".repeat(32);
    let text = format!(
        "auth: {{api_key: {{keys: [{{name: visible, hash: '{hash}'}}]}}, social_providers: [{{client_secret: hunter1}}]}}\n\
         rate_limit: {{redis: {{password: hunter2, url: 'redis://u:hunter3@h:1'}}}}\n\
         admin: {{Token: hunter4, api_token_2: [hunter5], port: 9}}\n\
         database: {{password: hunter6, dsn: 'postgres://u:hunter7@h/db'}}\n\
         secrets: {{openbao: hunter8}}\n\
         plugins: {{user-management: {{admin_token: hunter9}}}}\n"
    );
    let config = config(&text);
    let printed = config.to_yaml(1);
    assert!(!printed.contains("hunter") && !printed.contains(&hash), "{printed}");
    assert!(!format!("{config:?}").contains("hunter"), "{config:?}");
    let value: serde_yaml::Value = serde_yaml::from_str(&printed).unwrap();
    assert_eq!(value["auth"]["api_key"]["keys"][0]["name"], "visible");
    assert_eq!(value["auth"]["api_key"]["keys"][0]["hash"], "***");
    assert_eq!(value["rate_limit"]["redis"]["password"], "***");
    assert_eq!(value["rate_limit"]["redis"]["url"], "redis://***@h:1");
    assert_eq!(value["admin"]["Token"], "***");
    assert_eq!(value["admin"]["port"], 9);
    assert_eq!(value["secrets"], "***");
    // what is empty is no secret
    assert!(Config::default().to_yaml(1).contains("password: ''"));
}

#[test]
fn what_is_printed_loads_again() {
    let hash = "ab".repeat(32);
    for text in [
        String::new(),
        "upstream: {url: 'unix:/run/a.sock'}".to_owned(),
        "upstream: {url: 'http://[::1]:3000/'}".to_owned(),
        "metrics: {enabled: false, path_patterns: [/a/:b]}".to_owned(),
        "tls: {domain: '$${HOST} $$${x'}\nname: '$${a}'\napp: {'k$${x}': ['$${y}']}".to_owned(),
        "server: {read_timeout: 1.000000001s, max_header_bytes: 4097, trusted_proxies: [10.1.1.1/9, '::1']}".to_owned(),
        format!("auth: {{api_key: {{keys: [{{name: 5, hash: '{hash}', scopes: 'a, b'}}]}}}}"),
        "rate_limit: {per_ip: {requests_per_second: 0.1}, redis: {password: '007'}}".to_owned(),
        "plugins: {user-management: {'a.b': {c: 1}}, waf: {x: [1, .nan, ~, 'y']}}".to_owned(),
    ] {
        loaded(&text);
        fuzz_oracle(&text);
    }
}

#[test]
fn the_oracle_holds_over_the_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/config");
    let mut files = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        fuzz_oracle(&String::from_utf8_lossy(&bytes));
        files += 1;
    }
    assert!(files >= 10, "the corpus has {files} files");
}

/// What mutation puts in.
const PIECES: [&str; 14] = [
    "\n",
    ": ",
    "- ",
    "'",
    "\"",
    "{",
    "]",
    "${HOST}",
    "$${",
    "~",
    "plugins:\n  ",
    "-1",
    "\u{85}",
    "&a *a",
];

#[test]
fn the_oracle_holds_over_mutated_corpus_files() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/config");
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let texts: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let seed = 0x5eed;
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..1000 {
        let mut bytes = texts[random.usize(..texts.len())].clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..=bytes.len());
            match random.u8(..3) {
                0 => drop(bytes.splice(at..at, PIECES[random.usize(..PIECES.len())].bytes())),
                1 => bytes.truncate(at.max(1)),
                _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = random.u8(32..127)),
            }
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let outcome = std::panic::catch_unwind(|| fuzz_oracle(&text));
        assert!(outcome.is_ok(), "seed {seed:#x} round {round}: {text:?}");
    }
}

#[test]
fn nothing_that_may_be_secret_is_printed_for_debugging() {
    let text = "rate_limit: {store: redis, redis: {password: hunter1, url: 'redis://u:hunter2@h:1'}}\nadmin: {token: hunter3}";
    let loaded = loaded_with(text, &[("OTHER", "hunter4")]);
    let source = Source { path: None, env: [("A".into(), "hunter5".into())].into() };
    let setting = Setting::Text("hunter6".into());
    let list = Setting::List(vec!["hunter7".into()]);
    assert!(loaded.text.contains("hunter1"));
    let printed = format!("{loaded:?} {source:?} {setting:?} {list:?} {:?}", Setting::Int(7));
    assert!(!printed.contains("hunter"), "{printed}");
    assert!(printed.ends_with("*** *** Number(7)"), "{printed}");
}
