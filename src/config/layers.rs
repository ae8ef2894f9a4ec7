//! What was given where: the flat sections of the file, its `plugins:` form, and the environment, laid over each other.

use std::collections::BTreeMap;

use serde_yaml::{Mapping, Value};

use super::mistakes::{Mistake, Problem};
use super::schema::{self, Key, SCHEMA, Shown, nearest};
use super::setting::{Kind, Setting, wrong_type};
use super::unsupported::{self, Ignored, OPEN_SECTION};

/// Name of a plugin → the flat section that it is another spelling of (contract section 3.7). User management comes last:
/// where it and `auth` say the same, `auth` is heard.
#[rustfmt::skip]
const PLUGINS: &[(&str, &str)] = &[
    ("tls", "tls"), ("auth", "auth"), ("metrics", "metrics"), ("cors", "cors"), ("waf", "waf"),
    ("maintenance", "maintenance"), ("secrets", "secrets"), ("egress", "egress"), ("webhooks", "webhooks"),
    ("rate-limiting", "rate_limit"), ("security-headers", "security_headers"), ("body-size", "body_size"),
    ("ip-filter", "ip_filter"), ("input-validation", "input_validation"), ("response-headers", "response_headers"),
    (USER_MANAGEMENT, "auth"),
];

/// The plugin that switches Kratos on; its form is `enabled` and the keys of `auth`.
const USER_MANAGEMENT: &str = "user-management";

/// A value that passed its check.
pub(super) struct Given {
    pub(super) setting: Setting,
    /// The key as it was written, for mistakes that are found later.
    pub(super) place: String,
}

/// The outcome of all layers, highest precedence kept.
#[derive(Default)]
pub(super) struct Layers {
    pub(super) given: BTreeMap<&'static str, Given>,
    pub(super) ignored: Ignored,
    /// Keys of the `plugins:` form that another form overruled.
    pub(super) overruled: Vec<String>,
    /// `plugins.user-management.enabled`.
    pub(super) user_management: Option<bool>,
    pub(super) unknown_variables: Vec<String>,
    pub(super) mistakes: Vec<Mistake>,
}

/// What a dotted name stands for.
enum Meaning {
    Key(&'static Key),
    Section,
    Ignored,
    Unknown,
}

fn meaning(dotted: &str) -> Meaning {
    if let Some(key) = schema::find(dotted) {
        return Meaning::Key(key);
    }
    if unsupported::names().any(|name| name == dotted) {
        return Meaning::Ignored;
    }
    let is_parent =
        |name: &str| name.strip_prefix(dotted).is_some_and(|rest| rest.starts_with('.'));
    if SCHEMA.iter().any(|key| is_parent(key.name)) {
        return Meaning::Section;
    }
    if dotted.strip_prefix(OPEN_SECTION).is_some_and(|rest| rest.starts_with('.')) {
        return Meaning::Ignored;
    }
    Meaning::Unknown
}

/// A spot in the file: what it means and how it is written. They differ inside `plugins:`.
#[derive(Clone, Copy)]
struct Spot<'s> {
    dotted: &'s str,
    place: &'s str,
}

impl Layers {
    /// Lays the whole file down: flat keys, then the plugins form beneath them.
    pub(super) fn add_file(&mut self, file: &Value) {
        let Value::Mapping(entries) = file else {
            self.mistakes.push(Mistake::new("", wrong_type("a mapping", file)));
            return;
        };
        self.add_entries(entries, Spot { dotted: "", place: "" });
        match entries.get("plugins") {
            None | Some(Value::Null) => {}
            Some(Value::Mapping(plugins)) => self.add_plugins(plugins),
            Some(other) => {
                self.mistakes.push(Mistake::new("plugins", wrong_type("a mapping", other)));
            }
        }
    }

    fn add_entries(&mut self, entries: &Mapping, parent: Spot<'_>) {
        for (key, value) in entries {
            let name = key.as_str().unwrap_or_default();
            if parent.dotted.is_empty() && name == "plugins" {
                continue;
            }
            self.add_entry(name, value, parent);
        }
    }

    fn add_entry(&mut self, name: &str, value: &Value, parent: Spot<'_>) {
        let dotted = join(parent.dotted, name);
        let place = join(parent.place, name);
        // a dot inside a name is not a separator
        let meaning = if name.contains('.') { Meaning::Unknown } else { meaning(&dotted) };
        match (meaning, value) {
            (Meaning::Unknown, _) => {
                let suggestion = suggestion(name, parent);
                self.mistakes.push(Mistake::new(place, Problem::UnknownKey { suggestion }));
            }
            (_, Value::Null) => {} // `key:` with nothing after it is not set
            (Meaning::Key(key), _) => self.give_beneath(key, value, place),
            (Meaning::Ignored, _) => {
                self.ignore(dotted.splitn(3, '.').map(str::to_owned).collect(), place, value);
            }
            (Meaning::Section, Value::Mapping(entries)) => {
                self.add_entries(entries, Spot { dotted: &dotted, place: &place });
            }
            (Meaning::Section, other) => {
                self.mistakes.push(Mistake::new(place, wrong_type("a mapping", other)));
            }
        }
    }

    fn add_plugins(&mut self, plugins: &Mapping) {
        for name in plugins.keys().filter_map(Value::as_str) {
            if !PLUGINS.iter().any(|(plugin, _)| *plugin == name) {
                let place = format!("plugins.{name}");
                self.mistakes.push(Mistake::new(
                    place,
                    Problem::UnknownKey { suggestion: plugin_meant(name) },
                ));
            }
        }
        for (plugin, section) in PLUGINS {
            let place = format!("plugins.{plugin}");
            match plugins.get(plugin) {
                None | Some(Value::Null) => {}
                Some(value) if matches!(meaning(section), Meaning::Ignored) => {
                    self.ignore(vec![(*section).to_owned()], place, value);
                }
                Some(Value::Mapping(entries)) if *plugin == USER_MANAGEMENT => {
                    self.add_user_management(entries);
                }
                Some(Value::Mapping(entries)) => {
                    self.add_entries(entries, Spot { dotted: section, place: &place });
                }
                Some(other) => {
                    self.mistakes.push(Mistake::new(place, wrong_type("a mapping", other)));
                }
            }
        }
    }

    fn add_user_management(&mut self, entries: &Mapping) {
        let plugin = format!("plugins.{USER_MANAGEMENT}");
        for (key, value) in entries {
            let name = key.as_str().unwrap_or_default();
            let place = join(&plugin, name);
            if name == "enabled" {
                if value.is_null() {
                    continue;
                }
                let read = Kind::Bool.read(value, &place, &mut self.mistakes);
                self.user_management = read.map(|setting| setting == Setting::Bool(true));
            } else if name.contains('.') || matches!(meaning(&join("auth", name)), Meaning::Unknown)
            {
                let path = ["plugins", USER_MANAGEMENT, name].map(str::to_owned).to_vec();
                self.ignore(path, place, value);
            } else {
                self.add_entry(name, value, Spot { dotted: "auth", place: &plugin });
            }
        }
    }

    /// Takes a value unless a higher layer has one; it is checked in any case.
    fn give_beneath(&mut self, key: &'static Key, value: &Value, place: String) {
        let Some(setting) = self.read(key, value, &place) else {
            return;
        };
        if self.given.contains_key(key.name) {
            self.overruled.push(place);
        } else {
            self.given.insert(key.name, Given { setting, place });
        }
    }

    /// Takes a value from the environment, over all others.
    pub(super) fn give_over(&mut self, key: &'static Key, value: &Value) {
        if let Some(setting) = self.read(key, value, key.name) {
            self.given.insert(key.name, Given { setting, place: key.name.to_owned() });
        }
    }

    fn read(&mut self, key: &Key, value: &Value, place: &str) -> Option<Setting> {
        let before = self.mistakes.len();
        let setting = key.kind.read(value, place, &mut self.mistakes);
        if key.shown == Shown::Nothing {
            for mistake in self.mistakes.iter_mut().skip(before) {
                mistake.problem = mistake.problem.clone().masked();
            }
        }
        setting
    }

    fn ignore(&mut self, path: Vec<String>, place: String, value: &Value) {
        let there = self.ignored.entry(path).or_insert(Value::Null);
        if unsupported::merge(there, value.clone()) {
            self.overruled.push(place);
        }
    }
}

fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}.{name}") }
}

/// The sibling that was probably meant, as it would be written there.
fn suggestion(name: &str, parent: Spot<'_>) -> Option<String> {
    let known = SCHEMA.iter().map(|key| key.name).chain(unsupported::names());
    let children = known.filter_map(|known| {
        let below = if parent.dotted.is_empty() {
            known
        } else {
            known.strip_prefix(parent.dotted)?.strip_prefix('.')?
        };
        below.split('.').next()
    });
    let top_level_only = parent.dotted.is_empty().then_some("plugins");
    nearest(name, children.chain(top_level_only)).map(|near| join(parent.place, near))
}

/// The plugin that was probably meant: `rate_limit` and `rate-limit` are `rate-limiting`.
fn plugin_meant(name: &str) -> Option<String> {
    let spellings = PLUGINS.iter().flat_map(|(plugin, section)| [*plugin, *section]);
    let exact = PLUGINS.iter().find(|(_, section)| *section == name).map(|(plugin, _)| *plugin);
    let near = exact.or_else(|| {
        let near = nearest(name, spellings)?;
        PLUGINS
            .iter()
            .find(|(plugin, section)| *plugin == near || *section == near)
            .map(|(plugin, _)| *plugin)
    });
    near.map(|plugin| format!("plugins.{plugin}"))
}
