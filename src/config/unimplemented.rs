//! What a later version brings. Until then such a section is off, and asking for it is a mistake: never silence.
//! The change that implements a section deletes its rows here, and the defaults of the schema are in force.

/// Key, and the value that means "off": its default for now, and the only one it accepts.
#[rustfmt::skip]
pub(super) const NOT_YET: &[(&str, &str)] = &[
    ("tls.enabled", "false"),
];

/// The value that means "off" for a key that is not implemented yet.
pub(super) fn off(key: &str) -> Option<&'static str> {
    NOT_YET.iter().find(|(name, _)| *name == key).map(|(_, off)| *off)
}
