//! YAML text to a tree of values, with line and column for everything that is wrong with it.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_yaml::{Mapping, Value};

use super::mistakes::{Mistake, Problem};

/// Values that one file may hold once its aliases are followed; `serde_yaml` bounds their depth and how often they are
/// used, but a long list used often is still gigabytes.
const VALUES_MAX: u32 = 200_000;

/// Reads one YAML document; an empty one is an empty mapping. A key that stands twice in a mapping is an error at its
/// second place (`serde_yaml::Value` on its own would name the place of the mapping).
pub(super) fn parse(text: &str) -> Result<Value, Mistake> {
    let values_left = Cell::new(VALUES_MAX);
    match (Node { values_left: &values_left }).deserialize(serde_yaml::Deserializer::from_str(text))
    {
        Ok(Value::Null) => Ok(Value::Mapping(Mapping::new())),
        Ok(value) => Ok(value),
        Err(error) => Err(located(&error)),
    }
}

fn located(error: &serde_yaml::Error) -> Mistake {
    let text = error.to_string();
    let Some(location) = error.location() else {
        return Mistake::new("", Problem::Malformed(text));
    };
    let (line, column) = (location.line(), location.column());
    // serde_yaml ends its text with the place that is the beginning of ours
    let what = text.replacen(&format!(" at line {line} column {column}"), "", 1);
    Mistake::new(format!("line {line}, column {column}"), Problem::Malformed(what))
}

/// A value whose mappings have no key twice, taken from the budget.
#[derive(Clone, Copy)]
struct Node<'b> {
    values_left: &'b Cell<u32>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let left = self.values_left.get().checked_sub(1);
        self.values_left.set(left.ok_or_else(|| D::Error::custom("too many values"))?);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, a number, true or false, a list or a mapping without tags")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    // No key has use for such a number: it stays text, and the key says that it is out of range.
    fn visit_i128<E: Error>(self, value: i128) -> Result<Value, E> {
        Ok(Value::from(value.to_string()))
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<Value, E> {
        Ok(Value::from(value.to_string()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Value::Sequence(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut mapping = Mapping::new();
        while let Some(key) = entries.next_key_seed(NewKey(&mapping))? {
            let value = entries.next_value_seed(self)?;
            mapping.insert(key, value);
        }
        Ok(Value::Mapping(mapping))
    }
}

/// A key that the mapping does not have yet.
struct NewKey<'m>(&'m Mapping);

impl<'de> DeserializeSeed<'de> for NewKey<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// Keys are scalars. The error is raised while the key itself is being read, which is what gives it the key's place.
impl Visitor<'_> for NewKey<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key that is text")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Value, E> {
        let value = Value::from(key);
        if self.0.contains_key(&value) {
            return Err(E::custom(format_args!("the key \"{key}\" is given twice")));
        }
        Ok(value)
    }

    fn visit_bool<E: Error>(self, key: bool) -> Result<Value, E> {
        self.visit_str(&key.to_string())
    }

    fn visit_i64<E: Error>(self, key: i64) -> Result<Value, E> {
        self.visit_str(&key.to_string())
    }

    fn visit_u64<E: Error>(self, key: u64) -> Result<Value, E> {
        self.visit_str(&key.to_string())
    }

    fn visit_f64<E: Error>(self, key: f64) -> Result<Value, E> {
        self.visit_str(&key.to_string())
    }
}
