//! The kinds of values that keys take, and reading a written value as one of them.

use std::fmt;
use std::time::Duration;

use serde_yaml::{Mapping, Value};

use super::mistakes::{Mistake, Problem};
use super::schema::nearest;
use super::values::{format_duration, format_size, parse_duration, parse_size};

/// Checks one text and returns the form that is kept, which passes the same check unchanged.
pub(super) type Check = fn(&str) -> Result<String, Problem>;

/// What a key accepts.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Bool,
    Int {
        min: u32,
        /// `u32::MAX`: no upper end is named in messages about values that are too small.
        max: u32,
    },
    /// Finite, at least 0.
    Float,
    Duration {
        min: Duration,
        /// `Duration::MAX` = none.
        max: Duration,
        /// 0 is accepted although `min` is more: it switches off.
        zero: bool,
        /// Empty text is 0.
        empty: bool,
    },
    Size {
        min: u64,
        /// `u64::MAX` = none.
        max: u64,
        /// Empty text is 0.
        empty: bool,
    },
    OneOf(&'static [&'static str]),
    Text(Check),
    /// List of texts; comma text is accepted.
    List(Check),
    /// List of objects.
    Objects(&'static [Field]),
    /// Fixed names, each with a list of texts.
    ListsByName(&'static [&'static str], Check),
    /// Free names, each with a text.
    TextByName(Check),
}

/// One key of the objects in a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// The entry is useless without it.
    pub(super) required: bool,
    /// No two entries may have the same.
    pub(super) unique: bool,
    /// Never shown.
    pub(super) secret: bool,
}

/// A value that passed its check, in one form for each meaning.
#[derive(Clone, PartialEq)]
pub(super) enum Setting {
    Bool(bool),
    Int(u32),
    Float(f64),
    Duration(Duration),
    Size(u64),
    Text(String),
    List(Vec<String>),
    /// Objects and maps, their children in checked form.
    Tree(Value),
}

/// Any text may be a secret.
impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) | Self::List(_) | Self::Tree(_) => f.write_str("***"),
            plain => plain.to_value().fmt(f),
        }
    }
}

impl Setting {
    /// As it can be written into a file (before `${` is escaped).
    pub(super) fn to_value(&self) -> Value {
        match self {
            Self::Bool(value) => Value::from(*value),
            Self::Int(value) => Value::from(*value),
            Self::Float(value) => Value::from(*value),
            Self::Duration(value) => Value::from(format_duration(*value)),
            Self::Size(0) => Value::from(0),
            Self::Size(value) => Value::from(format_size(*value)),
            Self::Text(value) => Value::from(value.as_str()),
            Self::List(values) => values.iter().map(|value| Value::from(value.as_str())).collect(),
            Self::Tree(value) => value.clone(),
        }
    }
}

impl Kind {
    /// Whether an environment variable can give the whole value.
    pub(super) fn has_variable(&self) -> bool {
        !matches!(self, Self::Objects(_) | Self::ListsByName(..) | Self::TextByName(_))
    }

    /// Reads a value that stands at `place`. `None` when there are mistakes; all of them have been told.
    pub(super) fn read(
        &self,
        value: &Value,
        place: &str,
        mistakes: &mut Vec<Mistake>,
    ) -> Option<Setting> {
        let count = mistakes.len();
        let setting = match self {
            Self::List(check) => Some(Setting::List(read_list(*check, value, place, mistakes))),
            Self::Objects(fields) => {
                Some(Setting::Tree(read_objects(fields, value, place, mistakes)))
            }
            Self::ListsByName(names, check) => {
                Some(Setting::Tree(read_lists_by_name(names, *check, value, place, mistakes)))
            }
            Self::TextByName(check) => {
                Some(Setting::Tree(read_text_by_name(*check, value, place, mistakes)))
            }
            _ => match self.read_scalar(value) {
                Ok(setting) => Some(setting),
                Err(problem) => {
                    mistakes.push(Mistake::new(place, problem));
                    None
                }
            },
        };
        setting.filter(|_| mistakes.len() == count)
    }

    fn read_scalar(&self, value: &Value) -> Result<Setting, Problem> {
        match *self {
            Self::Bool => read_bool(value).map(Setting::Bool),
            Self::Int { min, max } => read_int(value, min, max).map(Setting::Int),
            Self::Float => read_float(value).map(Setting::Float),
            Self::Duration { min, max, zero, empty } => {
                read_duration(value, min, max, zero, empty).map(Setting::Duration)
            }
            Self::Size { min, max, empty } => read_size(value, min, max, empty).map(Setting::Size),
            Self::OneOf(accepted) => {
                let got = read_text(value)?;
                if accepted.contains(&got.as_str()) {
                    Ok(Setting::Text(got))
                } else {
                    Err(Problem::NotAccepted { got, accepted: accepted.to_vec() })
                }
            }
            Self::Text(check) => read_text(value).and_then(|text| check(&text)).map(Setting::Text),
            Self::List(_) | Self::Objects(_) | Self::ListsByName(..) | Self::TextByName(_) => {
                Err(wrong_type("a scalar", value))
            }
        }
    }
}

/// T, with the value as it was written.
pub(super) fn wrong_type(expected: &'static str, value: &Value) -> Problem {
    let got = match value {
        Value::Null => Problem::quoted("null"),
        Value::Bool(value) => Problem::quoted(&value.to_string()),
        Value::Number(value) => Problem::quoted(&value.to_string()),
        Value::String(value) => Problem::quoted(value),
        Value::Sequence(_) => "a list".to_owned(),
        Value::Mapping(_) | Value::Tagged(_) => "a mapping".to_owned(),
    };
    Problem::WrongType { expected, got }
}

fn read_bool(value: &Value) -> Result<bool, Problem> {
    match value {
        Value::Bool(value) => Ok(*value),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(false),
        _ => Err(wrong_type("true or false", value)),
    }
}

fn read_int(value: &Value, min: u32, max: u32) -> Result<u32, Problem> {
    let text = match value {
        Value::Number(number) if !number.is_f64() => number.to_string(),
        Value::String(text) => text.clone(),
        _ => return Err(wrong_type("a whole number", value)),
    };
    let digits = text.strip_prefix('-').unwrap_or(&text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong_type("a whole number", value));
    }
    let negative = digits.len() < text.len() && digits.bytes().any(|digit| digit != b'0');
    let number = if negative { None } else { digits.parse::<u32>().ok() };
    let below = negative || number.is_some_and(|number| number < min);
    match number {
        Some(number) if (min..=max).contains(&number) => Ok(number),
        _ if below && max == u32::MAX => Err(Problem::TooSmall { min: min.to_string(), got: text }),
        _ => Err(Problem::NotBetween { min: min.to_string(), max: max.to_string(), got: text }),
    }
}

fn read_float(value: &Value) -> Result<f64, Problem> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        // Rust also reads "inf", "nan" and "infinity", which have no digit
        Value::String(text) if text.bytes().any(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    };
    match number.filter(|number: &f64| number.is_finite()) {
        None => Err(wrong_type("a number", value)),
        Some(number) if number < 0.0 => {
            Err(Problem::TooSmall { min: "0".to_owned(), got: number.to_string() })
        }
        Some(number) => Ok(number.abs()), // -0.0 is 0
    }
}

fn read_duration(
    value: &Value,
    min: Duration,
    max: Duration,
    zero: bool,
    empty: bool,
) -> Result<Duration, Problem> {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) if text.is_empty() && empty => "0".to_owned(),
        Value::String(text) => text.clone(),
        _ => return Err(wrong_type("a duration", value)),
    };
    match parse_duration(&text) {
        None => Err(Problem::NotDuration { got: text }),
        Some(duration) if (min..=max).contains(&duration) || (zero && duration.is_zero()) => {
            Ok(duration)
        }
        Some(_) if max == Duration::MAX => {
            Err(Problem::TooSmall { min: format_duration(min), got: text })
        }
        Some(_) => Err(Problem::NotBetween {
            min: format_duration(min),
            max: format_duration(max),
            got: text,
        }),
    }
}

fn read_size(value: &Value, min: u64, max: u64, empty: bool) -> Result<u64, Problem> {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) if text.is_empty() && empty => "0".to_owned(),
        Value::String(text) => text.clone(),
        _ => return Err(wrong_type("a size", value)),
    };
    match parse_size(&text) {
        None => Err(Problem::NotSize { got: text }),
        Some(size) if (min..=max).contains(&size) => Ok(size),
        Some(_) => {
            Err(Problem::NotBetween { min: format_size(min), max: format_size(max), got: text })
        }
    }
}

/// Text; whole numbers are taken as they print, since `503` or a numeric password need no quotes.
fn read_text(value: &Value) -> Result<String, Problem> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) if !number.is_f64() => Ok(number.to_string()),
        _ => Err(wrong_type("text", value)),
    }
}

fn read_list(check: Check, value: &Value, place: &str, mistakes: &mut Vec<Mistake>) -> Vec<String> {
    let mut list = Vec::new();
    let mut take =
        |item: Result<String, Problem>, place: String| match item.and_then(|text| check(&text)) {
            Ok(text) => list.push(text),
            Err(problem) => mistakes.push(Mistake::new(place, problem)),
        };
    match value {
        Value::Sequence(items) => {
            for (index, item) in items.iter().enumerate() {
                take(read_text(item), format!("{place}[{index}]"));
            }
        }
        Value::String(text) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            for (index, item) in items.enumerate() {
                take(Ok(item.to_owned()), format!("{place}[{index}]"));
            }
        }
        Value::Number(_) => take(read_text(value), format!("{place}[0]")),
        _ => mistakes.push(Mistake::new(place, wrong_type("a list", value))),
    }
    list
}

fn read_objects(
    fields: &[Field],
    value: &Value,
    place: &str,
    mistakes: &mut Vec<Mistake>,
) -> Value {
    let Value::Sequence(items) = value else {
        mistakes.push(Mistake::new(place, wrong_type("a list", value)));
        return Value::Sequence(Vec::new());
    };
    let mut objects: Vec<Value> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let place_of_item = format!("{place}[{index}]");
        let object = read_object(fields, item, &place_of_item, mistakes);
        for field in fields.iter().filter(|field| field.unique) {
            let Some(own) = object.get(field.name) else {
                continue;
            };
            if let Some(first) =
                objects.iter().position(|earlier| earlier.get(field.name) == Some(own))
            {
                let problem = Problem::NotValid {
                    got: own.as_str().unwrap_or_default().to_owned(),
                    why: format!("{place}[{first}] already has this {}", field.name),
                };
                mistakes.push(Mistake::new(format!("{place_of_item}.{}", field.name), problem));
            }
        }
        objects.push(object);
    }
    Value::Sequence(objects)
}

fn read_object(fields: &[Field], value: &Value, place: &str, mistakes: &mut Vec<Mistake>) -> Value {
    let mut object = Mapping::new();
    let Value::Mapping(entries) = value else {
        mistakes.push(Mistake::new(place, wrong_type("a mapping", value)));
        return Value::Mapping(object);
    };
    for (key, entry) in entries {
        let name = key.as_str().unwrap_or_default();
        let place_of_entry = format!("{place}.{name}");
        let Some(field) = fields.iter().find(|field| field.name == name) else {
            let near = nearest(name, fields.iter().map(|field| field.name));
            let suggestion = near.map(|near| format!("{place}.{near}"));
            mistakes.push(Mistake::new(place_of_entry, Problem::UnknownKey { suggestion }));
            continue;
        };
        if entry.is_null() {
            continue;
        }
        let before = mistakes.len();
        if let Some(setting) = field.kind.read(entry, &place_of_entry, mistakes) {
            object.insert(Value::from(name), setting.to_value());
        } else if field.secret {
            for mistake in mistakes.iter_mut().skip(before) {
                mistake.problem = mistake.problem.clone().masked();
            }
        }
    }
    for field in fields.iter().filter(|field| field.required) {
        if entries.get(field.name).is_none_or(Value::is_null) {
            let problem = Problem::RequiredWhen { key: place.to_owned(), value: "given" };
            mistakes.push(Mistake::new(format!("{place}.{}", field.name), problem));
        }
    }
    Value::Mapping(object)
}

fn read_lists_by_name(
    names: &[&'static str],
    check: Check,
    value: &Value,
    place: &str,
    mistakes: &mut Vec<Mistake>,
) -> Value {
    read_by_name(value, place, mistakes, |name, entry, mistakes| {
        if !names.contains(&name) {
            let problem = Problem::NotAccepted { got: name.to_owned(), accepted: names.to_vec() };
            mistakes.push(Mistake::new(place, problem));
            return None;
        }
        let read = || read_list(check, entry, &format!("{place}.{name}"), mistakes);
        (!entry.is_null()).then(read).map(|list| Setting::List(list).to_value())
    })
}

fn read_text_by_name(
    check: Check,
    value: &Value,
    place: &str,
    mistakes: &mut Vec<Mistake>,
) -> Value {
    read_by_name(value, place, mistakes, |name, entry, mistakes| {
        let text = read_text(entry).and_then(|text| check(&text));
        text.map_err(|problem| mistakes.push(Mistake::new(format!("{place}.{name}"), problem)))
            .ok()
            .map(Value::from)
    })
}

/// A mapping from names that the operator chose to what `read` makes of their values.
fn read_by_name(
    value: &Value,
    place: &str,
    mistakes: &mut Vec<Mistake>,
    mut read: impl FnMut(&str, &Value, &mut Vec<Mistake>) -> Option<Value>,
) -> Value {
    let mut read_entries = Mapping::new();
    let Value::Mapping(entries) = value else {
        mistakes.push(Mistake::new(place, wrong_type("a mapping", value)));
        return Value::Mapping(read_entries);
    };
    for (key, entry) in entries {
        let name = key.as_str().unwrap_or_default();
        if let Some(value) = read(name, entry, mistakes) {
            read_entries.insert(Value::from(name), value);
        }
    }
    Value::Mapping(read_entries)
}
