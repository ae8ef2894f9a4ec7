//! JSON objects read strictly: repeated members are mistakes at every depth (RFC 7515 section 4, RFC 8725 section 2.4), and
//! values keep their text.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The members of one object in their order, each value as it stands in the text.
pub(super) struct Members<'a>(Vec<(Name<'a>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Reads a whole text; `None` when it is not one object, or breaks a rule at any depth.
    pub(super) fn parse(text: &'a [u8]) -> Option<Self> {
        let members = Self::parse_outer(text)?;
        let is_strict = members.0.iter().all(|(_, value)| {
            // Without an array or object inside there is nothing to repeat, but a number can still be out of range.
            serde_json::from_str::<Strict>(value.get()).is_ok()
        });
        is_strict.then_some(members)
    }

    /// Reads a whole text without a look into its values, for values that are judged one by one.
    pub(super) fn parse_outer(text: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    /// The value of a member, compared exactly.
    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(found, _)| found.0 == name).map(|(_, value)| *value)
    }

    /// A member that must be a string when it is there: `Err` for any other type, `null` included.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, WrongType> {
        self.read(name)
    }

    /// A member that must be a number when it is there.
    pub(super) fn number(&self, name: &str) -> Result<Option<f64>, WrongType> {
        self.read(name)
    }

    /// A member that must be an array of strings when it is there.
    pub(super) fn texts(&self, name: &str) -> Result<Option<Vec<String>>, WrongType> {
        self.read(name)
    }

    fn read<T: Deserialize<'a>>(&self, name: &str) -> Result<Option<T>, WrongType> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => serde_json::from_str(value.get()).map(Some).map_err(|_| WrongType),
        }
    }
}

/// A member has another type than it must have. That is never the same as a member that is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WrongType;

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: Vec<(Name<'de>, &'de RawValue)> = Vec::new();
                while let Some(member) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    members.push(member);
                }
                let mut names: Vec<&str> = members.iter().map(|(name, _)| &*name.0).collect();
                names.sort_unstable();
                if names.windows(2).any(|pair| pair.first() == pair.last()) {
                    return Err(A::Error::custom("repeated member"));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// The name of a member, borrowed unless it has escapes.
#[derive(PartialEq, Eq, Hash)]
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// Any value, read to its end, without a repeated member at any depth.
struct Strict;

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Anything)
    }
}

struct Anything;

impl<'de> Visitor<'de> for Anything {
    type Value = Strict;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_unit<E: Error>(self) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Strict, A::Error> {
        while seq.next_element::<Strict>()?.is_some() {}
        Ok(Strict)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Strict, A::Error> {
        let mut names = HashSet::new();
        while let Some((name, Strict)) = map.next_entry::<Name<'de>, Strict>()? {
            if !names.insert(name) {
                return Err(A::Error::custom("repeated member"));
            }
        }
        Ok(Strict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_members_are_found_at_every_depth_and_through_escapes() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":1}"#,
            r#"{"a":{"b":1,"b":2}}"#,
            r#"{"a":[{"b":1,"\u0062":2}]}"#,
        ] {
            assert!(Members::parse(text.as_bytes()).is_none(), "{text}");
        }
        assert!(Members::parse(br#"{"a":{"b":1},"b":[{"b":1},{"b":1}]}"#).is_some());
    }

    #[test]
    fn only_one_whole_object_is_read() {
        for text in [
            "",
            "[]",
            "null",
            "1",
            "{",
            "{}{}",
            "{} x",
            "{\"a\":1e400}",
            "{\"a\":[1e999]}",
            "{'a':1}",
            "{\"a\":1,}",
            "\u{feff}{}",
            "{\"a\":\"\\ud800\"}",
            "{\"a\":01}",
            "{\"a\":NaN}",
            "{a:1}",
            "{\"a\":\"\n\"}",
        ] {
            assert!(Members::parse(text.as_bytes()).is_none(), "{text:?}");
        }
        assert!(Members::parse(b"{\"a\":\"\xff\"}").is_none());
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(5_000), "]".repeat(5_000));
        assert!(Members::parse(deep.as_bytes()).is_none());
        assert!(Members::parse(b" { } ").is_some());
    }

    #[test]
    fn a_wrong_type_is_not_absent() {
        let members =
            Members::parse(br#"{"a":null,"b":"1","c":1.5,"d":["x"],"e":["x",1]}"#).unwrap();
        assert_eq!(members.text("a"), Err(WrongType));
        assert_eq!(members.number("a"), Err(WrongType));
        assert_eq!(members.number("b"), Err(WrongType));
        assert_eq!(members.text("c"), Err(WrongType));
        assert_eq!(members.number("c"), Ok(Some(1.5)));
        assert_eq!(members.texts("d"), Ok(Some(vec!["x".to_owned()])));
        assert_eq!(members.texts("e"), Err(WrongType));
        assert_eq!(members.text("z"), Ok(None));
    }
}
