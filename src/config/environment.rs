//! `VIBEWARDEN_` variables: each scalar and each list of texts has one, and it wins over the file.

use std::collections::BTreeMap;

use serde_yaml::Value;

use super::expand::refers_to_secret;
use super::layers::Layers;
use super::mistakes::{Mistake, Problem};
use super::schema::{Key, SCHEMA, nearest, variable_of};
use super::unsupported;

const PREFIX: &str = "VIBEWARDEN_";

/// Lays the environment over the file. An empty variable counts as not set.
pub(super) fn lay_over(layers: &mut Layers, env: &BTreeMap<String, String>) {
    let keys: BTreeMap<String, &'static Key> = SCHEMA
        .iter()
        .filter(|key| key.kind.has_variable())
        .map(|key| (variable_of(key.name), key))
        .collect();
    for (name, text) in
        env.iter().filter(|(name, text)| name.starts_with(PREFIX) && !text.is_empty())
    {
        let value = Value::from(text.as_str());
        if let Some(key) = keys.get(name) {
            if refers_to_secret(text) {
                layers.mistakes.push(Mistake::new(key.name, Problem::SecretReference));
            } else {
                layers.give_over(key, &value);
            }
        } else if let Some((path, below)) = unsupported::of_variable(name) {
            if refers_to_secret(text) {
                layers.mistakes.push(Mistake::new(name, Problem::SecretReference));
            } else {
                let section = layers.ignored.entry(path).or_insert(Value::Null);
                unsupported::put(section, &below, value);
            }
        } else {
            layers.unknown_variables.push(unknown(name, &keys));
        }
    }
}

/// An unknown variable as the warning names it.
fn unknown(name: &str, keys: &BTreeMap<String, &'static Key>) -> String {
    let written = name.strip_prefix(PREFIX).unwrap_or(name);
    match nearest(written, keys.keys().filter_map(|known| known.strip_prefix(PREFIX))) {
        Some(near) => format!("{name} (did you mean {PREFIX}{near}?)"),
        None => name.to_owned(),
    }
}
