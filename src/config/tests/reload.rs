//! What a reload can change.

use super::super::schema::SCHEMA;
use super::super::setting::Setting;
use super::*;

/// Column "Reload" of contract section 3, the keys marked `no`.
const RESTART: [&str; 23] = [
    "server.host",
    "server.port",
    "server.max_connections",
    "server.proxy_protocol",
    "server.driver",
    "server.workers",
    "server.pin_cores",
    "tls.enabled",
    "tls.provider",
    "tls.domain",
    "rate_limit.max_keys",
    "rate_limit.store",
    "rate_limit.redis.url",
    "rate_limit.redis.address",
    "rate_limit.redis.password",
    "rate_limit.redis.db",
    "rate_limit.redis.pool_size",
    "rate_limit.redis.key_prefix",
    "rate_limit.redis.fallback",
    "rate_limit.redis.health_check_interval",
    "log.format",
    "watch.enabled",
    "watch.debounce",
];

/// Some other value of the same kind.
fn other(setting: &Setting) -> Setting {
    match setting {
        Setting::Bool(value) => Setting::Bool(!value),
        Setting::Int(value) => Setting::Int(value + 1),
        Setting::Float(value) => Setting::Float(value + 1.0),
        Setting::Duration(value) => Setting::Duration(*value + Duration::from_secs(1)),
        Setting::Size(value) => Setting::Size(value + 1),
        Setting::Text(value) => Setting::Text(format!("{value}1")),
        Setting::List(_) => Setting::List(vec!["/other".to_owned()]),
        Setting::Tree(_) => Setting::Tree("other".into()),
    }
}

#[test]
fn each_key_is_reloaded_or_kept_as_the_contract_says() {
    let old = Config::default().settings;
    for key in SCHEMA {
        let Some(setting) = old.values.get(key.name) else {
            continue;
        };
        let mut new = old.clone();
        new.values.insert(key.name, other(setting));
        let kept = old.keep_startup_values(new.clone());
        if RESTART.contains(&key.name) {
            assert_eq!(old.restart_required(&new), [key.name]);
            assert!(kept == old, "{} is kept", key.name);
        } else {
            assert_eq!(old.restart_required(&new), <[&str; 0]>::default(), "{}", key.name);
            assert!(kept == new, "{} is taken", key.name);
        }
    }
    assert_eq!(SCHEMA.iter().filter(|key| !key.live).count(), RESTART.len());
}

#[test]
fn a_reload_takes_what_it_can() {
    let path = Path::new("a.yaml");
    let old = config(
        "server: {port: 81, workers: 2}\nlog: {format: text, level: info}\nupstream: {port: 1}",
    );
    let text = "server: {port: 82, read_timeout: 1s}\nlog: {level: warn}\nupstream: {url: 'unix:/a'}\nname: x";
    let new = load_text(text, Some(path), &BTreeMap::new()).unwrap().config;
    assert_eq!(old.restart_required(&new), ["server.port", "server.workers", "log.format"]);
    let merged = old.keep_startup_values(new.clone());
    assert_eq!(
        (merged.server.port, merged.server.workers, merged.log.format),
        (81, 2, LogFormat::Text)
    );
    assert_eq!(merged.log.level, LogLevel::Warn);
    assert_eq!(merged.server.read_timeout, Some(Duration::from_secs(1)));
    assert_eq!(merged.upstream.target, UpstreamTarget::Unix("/a".into()));
    assert_eq!(merged.path.as_deref(), Some(path));
    assert_eq!(old.restart_required(&merged), <[&str; 0]>::default());
    // other spellings of the same value are no change
    let spelled = config("server: {host: localhost, port: '8443'}\nwatch: {debounce: 0.5s}");
    assert_eq!(Config::default().restart_required(&spelled), <[&str; 0]>::default());
}
