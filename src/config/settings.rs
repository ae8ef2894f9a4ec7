//! The settings in force by dotted key. Printing, comparing and reloading need the keys, the program needs the fields of
//! [`Config`](super::Config), which are made from these.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_yaml::Value;

use super::schema::SCHEMA;
use super::setting::Setting;
use super::unsupported::Ignored;

/// A value for every key of the schema that has one.
#[derive(Clone, PartialEq, Default)]
pub(super) struct Settings {
    pub(super) values: BTreeMap<&'static str, Setting>,
    /// Sections and keys that have no effect; `check` shows them.
    pub(super) ignored: Ignored,
}

/// Values may be secrets, and `Config` is printed with `{:?}` sooner or later.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Settings({} keys)", self.values.len())
    }
}

impl Settings {
    /// Keys whose change needs a restart and whose value is not the same in `new`.
    pub(super) fn restart_required(&self, new: &Self) -> Vec<&'static str> {
        let fixed = SCHEMA.iter().filter(|key| !key.live).map(|key| key.name);
        fixed.filter(|key| self.values.get(key) != new.values.get(key)).collect()
    }

    /// `new`, with every key that a reload cannot change as it is here.
    pub(super) fn keep_startup_values(&self, mut new: Self) -> Self {
        for key in SCHEMA.iter().filter(|key| !key.live) {
            match self.values.get(key.name) {
                Some(setting) => new.values.insert(key.name, setting.clone()),
                None => new.values.remove(key.name),
            };
        }
        new
    }

    fn get<'s, T>(&'s self, key: &str, pick: impl FnOnce(&'s Setting) -> Option<T>) -> T {
        let picked = self.values.get(key).and_then(pick);
        picked.unwrap_or_else(|| {
            unreachable!("the schema gives {key} a default of the kind asked for here")
        })
    }

    pub(super) fn bool(&self, key: &str) -> bool {
        self.get(
            key,
            |setting| {
                if let Setting::Bool(value) = setting { Some(*value) } else { None }
            },
        )
    }

    /// A whole number in the width of the field; the range in the schema makes it fit.
    pub(super) fn int<T: TryFrom<u32>>(&self, key: &str) -> T {
        self.get(key, |setting| {
            if let Setting::Int(value) = setting { T::try_from(*value).ok() } else { None }
        })
    }

    pub(super) fn float(&self, key: &str) -> f64 {
        self.get(
            key,
            |setting| {
                if let Setting::Float(value) = setting { Some(*value) } else { None }
            },
        )
    }

    pub(super) fn duration(&self, key: &str) -> Duration {
        self.get(
            key,
            |setting| {
                if let Setting::Duration(value) = setting { Some(*value) } else { None }
            },
        )
    }

    /// A duration for which 0 means off.
    pub(super) fn timeout(&self, key: &str) -> Option<Duration> {
        Some(self.duration(key)).filter(|duration| !duration.is_zero())
    }

    /// A size in bytes in the width of the field.
    pub(super) fn size<T: TryFrom<u64>>(&self, key: &str) -> T {
        self.get(key, |setting| {
            if let Setting::Size(value) = setting { T::try_from(*value).ok() } else { None }
        })
    }

    pub(super) fn text(&self, key: &str) -> &str {
        self.get(
            key,
            |setting| {
                if let Setting::Text(value) = setting { Some(value.as_str()) } else { None }
            },
        )
    }

    /// Objects or a map, their children checked.
    pub(super) fn tree(&self, key: &str) -> &Value {
        self.get(key, |setting| if let Setting::Tree(value) = setting { Some(value) } else { None })
    }

    pub(super) fn list(&self, key: &str) -> &[String] {
        self.get(key, |setting| {
            if let Setting::List(value) = setting { Some(value.as_slice()) } else { None }
        })
    }
}
