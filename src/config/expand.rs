//! `${NAME}` in the text values of the file, replaced before anything looks at their types.

use std::collections::BTreeMap;

use serde_yaml::Value;

use super::mistakes::{Mistake, Problem};

/// The scheme of references into the secret store of the wider product.
const SECRET_SCHEME: &str = "secret://";

/// Expands every text value below `value`, which stands at `place`. A value with a mistake stays as it is.
pub(super) fn tree(
    value: &mut Value,
    place: &str,
    env: &BTreeMap<String, String>,
    mistakes: &mut Vec<Mistake>,
) {
    match value {
        Value::String(written) => match text(written, env) {
            Ok(expanded) => *written = expanded,
            Err(problems) => {
                mistakes.extend(problems.into_iter().map(|problem| Mistake::new(place, problem)));
                *value = Value::Null;
            }
        },
        Value::Sequence(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                tree(item, &format!("{place}[{index}]"), env, mistakes);
            }
        }
        Value::Mapping(entries) => {
            for (key, entry) in entries.iter_mut() {
                let key = key.as_str().unwrap_or_default();
                let below =
                    if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") };
                tree(entry, &below, env, mistakes);
            }
        }
        _ => {}
    }
}

/// `${NAME}` becomes the variable's value, `$${` a literal `${`; other forms are mistakes. Values are not expanded again.
fn text(written: &str, env: &BTreeMap<String, String>) -> Result<String, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut expanded = String::with_capacity(written.len());
    let mut rest = written;
    while let Some(dollar) = rest.find('$') {
        expanded.push_str(&rest[..dollar]);
        rest = &rest[dollar..];
        if let Some(after) = rest.strip_prefix("$${") {
            expanded.push_str("${");
            rest = after;
        } else if let Some(after) = rest.strip_prefix("${") {
            rest = match reference(after, env) {
                Ok((value, after)) => {
                    expanded.push_str(value);
                    after
                }
                Err((problem, after)) => {
                    problems.push(problem);
                    after
                }
            };
        } else {
            expanded.push('$');
            rest = &rest[1..];
        }
    }
    expanded.push_str(rest);
    if refers_to_secret(&expanded) {
        problems.push(Problem::SecretReference);
    }
    problems.dedup();
    if problems.is_empty() { Ok(expanded) } else { Err(problems) }
}

/// What stands after `${`: the variable's value, or the problem; each with the text after the closing brace.
fn reference<'t>(
    after_open: &'t str,
    env: &'t BTreeMap<String, String>,
) -> Result<(&'t str, &'t str), (Problem, &'t str)> {
    let Some((name, after)) = after_open.split_once('}') else {
        let why = "it has no closing brace; write $${ for a literal ${".to_owned();
        return Err((Problem::NotValid { got: "${".to_owned(), why }, ""));
    };
    if !is_variable_name(name) {
        // what follows the name may be a password: `${A:-secret}`
        let shown =
            name.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default();
        let why = "only ${NAME} is understood; write $${ for a literal ${".to_owned();
        return Err((Problem::NotValid { got: format!("${{{shown}…}}"), why }, after));
    }
    match env.get(name) {
        Some(value) => Ok((value, after)),
        None => Err((Problem::VariableNotSet { name: name.to_owned() }, after)),
    }
}

fn is_variable_name(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Whether a value is or contains a `secret://` reference.
pub(super) fn refers_to_secret(text: &str) -> bool {
    text.to_ascii_lowercase().contains(SECRET_SCHEME)
}

/// The opposite of expansion: text that expands to `literal`.
pub(super) fn escape(literal: &str) -> String {
    literal.replace("${", "$${")
}
