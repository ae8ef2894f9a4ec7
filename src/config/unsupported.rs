//! Sections and keys of the wider product that this engine does not have (contract section 4): ignored with one warning,
//! unless they ask for a protection that would be missing.

use std::collections::BTreeMap;

use serde_yaml::{Mapping, Value};

use super::mistakes::{Mistake, Problem};

/// When a section asks for a protection (error N).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asks {
    Never,
    /// When `enabled` is true.
    Enabled,
    /// When `mode` is `block` or `content_type_validation.enabled` is true.
    Waf,
    /// When `enabled` is true or there is any entry.
    Webhooks,
    /// When `set`, `add` or `remove` is not empty.
    ResponseHeaders,
}

#[rustfmt::skip]
const UNSUPPORTED: &[(&str, Asks)] = &[
    ("app", Asks::Never), ("name", Asks::Never), ("deploy", Asks::Never), ("profile", Asks::Never),
    ("overrides", Asks::Never), ("database", Asks::Never), ("observability", Asks::Never), ("audit", Asks::Never),
    ("admin", Asks::Never), ("compression", Asks::Never), ("error_pages", Asks::Never),
    ("waf", Asks::Waf),
    ("input_validation", Asks::Enabled), ("cors", Asks::Enabled), ("egress", Asks::Enabled),
    ("secrets", Asks::Enabled), ("maintenance", Asks::Enabled), ("resilience.circuit_breaker", Asks::Enabled),
    ("webhooks", Asks::Webhooks), ("response_headers", Asks::ResponseHeaders),
    ("resilience.retry", Asks::Never),
    ("server.mem_limit", Asks::Never), ("server.cpu_limit", Asks::Never), ("server.pids_limit", Asks::Never),
    ("tls.storage_path", Asks::Never), ("tls.email", Asks::Never), ("tls.acme_ca", Asks::Never),
    ("tls.skip_rate_limit_check", Asks::Never), ("tls.cert_monitoring", Asks::Never),
    ("auth.identity_schema", Asks::Never), ("auth.social_providers", Asks::Never),
    ("auth.seed_demo_users", Asks::Never), ("auth.api_key.cache_ttl", Asks::Never),
    ("kratos.admin_url", Asks::Never), ("kratos.dsn", Asks::Never), ("kratos.smtp", Asks::Never),
    ("kratos.external", Asks::Never),
    ("telemetry.otlp", Asks::Never), ("telemetry.logs", Asks::Never), ("telemetry.traces", Asks::Never),
];

/// The section of which every key that the schema does not know is ignored.
pub(super) const OPEN_SECTION: &str = "auth.ui";

/// Path from the top of the file to the ignored section or key → its value. Segments, because keys may contain dots.
pub(super) type Ignored = BTreeMap<Vec<String>, Value>;

/// Every name of section 4, dotted.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    UNSUPPORTED.iter().map(|(name, _)| *name)
}

/// The dotted key below one of these sections that an environment variable means, as path and rest:
/// `VIBEWARDEN_WAF_CONTENT_TYPE_VALIDATION_ENABLED` is `waf` and `content_type_validation.enabled`.
pub(super) fn of_variable(name: &str) -> Option<(Vec<String>, Vec<String>)> {
    let written = name.strip_prefix("VIBEWARDEN_")?;
    let sections = names().chain([OPEN_SECTION]);
    let in_section = |section: &'static str| {
        let rest = written.strip_prefix(section.to_ascii_uppercase().replace('.', "_").as_str())?;
        Some((
            section,
            if rest.is_empty() {
                rest
            } else {
                rest.strip_prefix('_').filter(|rest| !rest.is_empty())?
            },
        ))
    };
    let (section, rest) =
        sections.filter_map(in_section).max_by_key(|(section, _)| section.len())?;
    let mut path: Vec<String> = section.split('.').map(str::to_owned).collect();
    let rest = rest.to_ascii_lowercase();
    if section == OPEN_SECTION {
        path.push(rest);
        return (path.len() == 3 && !path[2].is_empty()).then_some((path, Vec::new()));
    }
    let below = match rest.as_str() {
        "" => Vec::new(),
        // the only known key below these sections that lies two levels down
        "content_type_validation_enabled" => {
            vec!["content_type_validation".to_owned(), "enabled".to_owned()]
        }
        _ => vec![rest],
    };
    Some((path, below))
}

/// Error N for every section that asks for a protection and is not named in `allowed`.
pub(super) fn missing_protections(
    ignored: &Ignored,
    allowed: &[String],
    mistakes: &mut Vec<Mistake>,
) {
    for (name, asks) in UNSUPPORTED {
        let path: Vec<String> = name.split('.').map(str::to_owned).collect();
        let asked = ignored.get(&path).is_some_and(|value| asks.in_value(value));
        if asked && !allowed.iter().any(|allowed| allowed == name) {
            mistakes.push(Mistake::new(*name, Problem::ProtectionMissing { section: name }));
        }
    }
}

impl Asks {
    fn in_value(self, value: &Value) -> bool {
        // `cors: true` is not a form of the wider product; it is taken for `enabled: true` rather than overlooked
        let enabled = is_true(value.get("enabled").unwrap_or(if is_scalar(value) {
            value
        } else {
            &Value::Null
        }));
        match self {
            Self::Never => false,
            Self::Enabled => enabled,
            Self::Waf => {
                let block = value
                    .get("mode")
                    .and_then(Value::as_str)
                    .is_some_and(|mode| mode.trim().eq_ignore_ascii_case("block"));
                let types = value.get("content_type_validation").is_some_and(|types| {
                    is_true(types.get("enabled").unwrap_or(if is_scalar(types) {
                        types
                    } else {
                        &Value::Null
                    }))
                });
                block || types
            }
            Self::Webhooks => enabled || has_entry(value),
            Self::ResponseHeaders => ["set", "add", "remove"]
                .iter()
                .filter_map(|key| value.get(key))
                .any(|value| !is_empty(value)),
        }
    }
}

fn is_scalar(value: &Value) -> bool {
    !matches!(value, Value::Mapping(_) | Value::Sequence(_) | Value::Tagged(_))
}

/// Children of these sections are not typed, so everything that is not clearly "no" is a yes.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !matches!(
            text.trim().to_ascii_lowercase().as_str(),
            "" | "false" | "no" | "off" | "n" | "f" | "0"
        ),
        _ => true,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Sequence(items) => items.is_empty(),
        Value::Mapping(entries) => entries.is_empty(),
        _ => false,
    }
}

/// Whether a list of webhooks, here or one level down, has an entry.
fn has_entry(value: &Value) -> bool {
    match value {
        Value::Sequence(items) => !items.is_empty(),
        Value::Mapping(entries) => {
            entries.values().any(|entry| !is_scalar(entry) && !is_empty(entry))
        }
        _ => false,
    }
}

/// Puts `value` where `path` leads below `root`, over what is there.
pub(super) fn put(root: &mut Value, path: &[String], value: Value) {
    let Some((first, rest)) = path.split_first() else {
        *root = value;
        return;
    };
    if !root.is_mapping() {
        *root = Value::Mapping(Mapping::new());
    }
    if let Value::Mapping(entries) = root {
        put(entries.entry(Value::from(first.as_str())).or_insert(Value::Null), rest, value);
    }
}

/// Adds to `winner` what only `loser` has; true when something stood in both.
pub(super) fn merge(winner: &mut Value, loser: Value) -> bool {
    match (winner, loser) {
        (_, Value::Null) => false,
        (winner @ Value::Null, loser) => {
            *winner = loser;
            false
        }
        (Value::Mapping(winner), Value::Mapping(loser)) => {
            let mut both = false;
            for (key, value) in loser {
                both |= merge(winner.entry(key).or_insert(Value::Null), value);
            }
            both
        }
        _ => true,
    }
}
