//! What a later version brings. Until then such a section is off, and asking for it is a mistake: never silence.
//! The change that implements a section deletes its rows here, and the defaults of the schema are in force.

/// Key, and the value that means "off": its default for now, and the only one it accepts.
#[rustfmt::skip]
pub(super) const NOT_YET: &[(&str, &str)] = &[
    ("tls.enabled", "false"),
    ("auth.mode", "none"),
    ("auth.role_paths", "{}"),
    ("auth.api_key.scope_rules", "[]"),
    ("websocket.allowed_origins", "[]"),
    ("websocket.close_on_expiry", "false"),
    ("body_size.max", "0"),
    ("body_size.overrides", "[]"),
    ("security_headers.enabled", "false"),
    ("security_headers.suppress_via_header", "true"),
    ("upstream.health.enabled", "false"),
];

/// The value that means "off" for a key that is not implemented yet.
pub(super) fn off(key: &str) -> Option<&'static str> {
    NOT_YET.iter().find(|(name, _)| *name == key).map(|(_, off)| *off)
}
