//! Tests of the configuration, one module per subject.

mod auth;
mod environment;
mod expansion;
mod files;
mod limits;
mod mistakes;
mod plugins;
mod printing;
mod reload;
mod schema;
mod sections;
mod tls;
mod types;
mod unsupported;

use super::*;

/// An environment from pairs.
fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Loads what has to be right.
fn loaded_with(text: &str, variables: &[(&str, &str)]) -> Loaded {
    load_text(text, None, &env(variables)).unwrap_or_else(|mistakes| panic!("{mistakes}\n{text}"))
}

fn loaded(text: &str) -> Loaded {
    loaded_with(text, &[])
}

fn config(text: &str) -> Config {
    loaded(text).config
}

/// The lines of a configuration that has to be wrong.
fn lines_with(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
    match load_text(text, None, &env(variables)) {
        Ok(_) => panic!("loads without a mistake:\n{text}"),
        Err(mistakes) => mistakes.lines(),
    }
}

fn lines(text: &str) -> Vec<String> {
    lines_with(text, &[])
}

/// `a.b` and `1` as nested YAML.
fn nested(dotted: &str, value: &str) -> String {
    let line = |(depth, segment): (usize, &str)| format!("{}{segment}:", "  ".repeat(depth));
    let lines: Vec<String> = dotted.split('.').enumerate().map(line).collect();
    format!("{} {value}\n", lines.join("\n"))
}
