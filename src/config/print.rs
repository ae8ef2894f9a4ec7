//! The effective configuration as YAML that loads again; secrets are hidden unless a test asks for them.

use serde_yaml::{Mapping, Value};

use super::expand::escape;
use super::schema::{SCHEMA, Shown};
use super::setting::{Kind, Setting};
use super::settings::Settings;
use super::unsupported::put;
use super::url::without_userinfo;

const HIDDEN: &str = "***";

/// Parts of the names of ignored keys that may hold secrets; their meaning is not known here.
const SECRET_WORDS: [&str; 3] = ["token", "secret", "password"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Secrets {
    Hide,
    Show,
}

/// Writes all keys in the order of the schema, then what was ignored.
pub(super) fn to_yaml(settings: &Settings, max_connections: u32, secrets: Secrets) -> String {
    let mut root = Value::Mapping(Mapping::new());
    for key in SCHEMA {
        let Some(setting) = settings.values.get(key.name) else {
            continue;
        };
        let mut value = setting.to_value();
        if key.name == "server.max_connections" {
            value = Value::from(max_connections);
        }
        if secrets == Secrets::Hide {
            hide_own(&mut value, setting, &key.kind, key.shown);
        }
        let path: Vec<String> = key.name.split('.').map(str::to_owned).collect();
        put(&mut root, &path, value);
    }
    for (path, value) in &settings.ignored {
        let mut value = value.clone();
        if secrets == Secrets::Hide {
            let secret = path.iter().any(|segment| names_secret(segment));
            if secret {
                value = Value::from(HIDDEN);
            } else {
                hide_ignored(&mut value);
            }
        }
        put(&mut root, path, value);
    }
    escape_all(&mut root);
    serde_yaml::to_string(&root).unwrap_or_else(|error| format!("# cannot be shown: {error}\n"))
}

fn hide_own(value: &mut Value, setting: &Setting, kind: &Kind, shown: Shown) {
    match (setting, shown) {
        (Setting::Text(text), Shown::Nothing) if !text.is_empty() => *value = Value::from(HIDDEN),
        (Setting::Text(text), Shown::WithoutUserinfo) => {
            *value = Value::from(without_userinfo(text));
        }
        _ => {}
    }
    if let (Kind::Objects(fields), Value::Sequence(objects)) = (kind, value) {
        for object in objects {
            for field in fields.iter().filter(|field| field.secret) {
                if let Some(secret) = object.get_mut(field.name) {
                    *secret = Value::from(HIDDEN);
                }
            }
        }
    }
}

fn names_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_WORDS.iter().any(|word| name.contains(word))
}

fn hide_ignored(value: &mut Value) {
    match value {
        Value::Mapping(entries) => {
            for (key, entry) in entries.iter_mut() {
                if key.as_str().is_some_and(names_secret) {
                    *entry = Value::from(HIDDEN);
                } else {
                    hide_ignored(entry);
                }
            }
        }
        Value::Sequence(items) => items.iter_mut().for_each(hide_ignored),
        // URLs carry passwords too: `dsn: postgres://user:password@host`
        Value::String(text) if text.contains("://") => *text = without_userinfo(text),
        _ => {}
    }
}

fn escape_all(value: &mut Value) {
    match value {
        Value::String(text) => *text = escape(text),
        Value::Sequence(items) => items.iter_mut().for_each(escape_all),
        Value::Mapping(entries) => entries.values_mut().for_each(escape_all),
        _ => {}
    }
}
