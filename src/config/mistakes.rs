//! What can be wrong with a configuration, and how it is told.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

/// Characters of a rejected value that a message repeats at most.
const SHOWN_CHARS_MAX: usize = 200;

/// Everything that is wrong with one version of the configuration; nothing was started with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes {
    /// The file that was read; `None` when there is only the environment.
    path: Option<PathBuf>,
    found: Vec<Mistake>,
}

impl Mistakes {
    pub(super) fn new(path: Option<PathBuf>, found: Vec<Mistake>) -> Self {
        Self { path, found }
    }

    /// One `<dotted key>: <problem>` per mistake, in the order of the file; for `config.reload_failed`.
    pub fn lines(&self) -> Vec<String> {
        self.found.iter().map(ToString::to_string).collect()
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "vibewarden: invalid config in {}: ", path.display())?,
            None => write!(f, "vibewarden: invalid config in the environment: ")?,
        }
        let plural = if self.found.len() == 1 { "" } else { "s" };
        write!(f, "{} mistake{plural}", self.found.len())?;
        for mistake in &self.found {
            write!(f, "\n  {mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// One mistake and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mistake {
    /// Dotted key as it was written, or `line 3, column 5`; empty when there is no place to name.
    pub(super) place: String,
    pub(super) problem: Problem,
}

impl Mistake {
    pub(super) fn new(place: impl Into<String>, problem: Problem) -> Self {
        Self { place: place.into(), problem }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.place.is_empty() {
            write!(f, "{}: ", Shown(&self.place))?;
        }
        self.problem.fmt(f)
    }
}

/// The problem texts of contract section 2; the letters there are in the comments here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Problem {
    /// K
    UnknownKey { suggestion: Option<String> },
    /// T; `got` is complete, quotes included (see [`Problem::quoted`])
    WrongType { expected: &'static str, got: String },
    /// R with both ends
    NotBetween { min: String, max: String, got: String },
    /// R with a lower end only
    TooSmall { min: String, got: String },
    /// E
    NotAccepted { got: String, accepted: Vec<&'static str> },
    /// D
    NotDuration { got: String },
    /// Z
    NotSize { got: String },
    /// U
    NotUrl { got: String, why: &'static str },
    /// A
    NotAddress { got: String },
    /// P
    NotValid { got: String, why: String },
    /// F
    CannotRead { path: String, why: String },
    /// Q
    RequiredWhen { key: String, value: &'static str },
    /// V
    VariableNotSet { name: String },
    /// S
    SecretReference,
    /// C
    Disagree { keys: [Cow<'static, str>; 2], values: [String; 2] },
    /// N
    ProtectionMissing { section: &'static str },
    /// ACME providers of `tls.provider`
    ProviderNotSupported { got: String },
    /// `auth.api_key.openbao_path`
    KeyStore,
    /// YAML syntax, size and encoding of the file
    Malformed(String),
}

impl Problem {
    /// A scalar as [`Problem::WrongType`] shows it.
    pub(super) fn quoted(text: &str) -> String {
        format!("\"{}\"", Shown(text))
    }

    /// The same problem without the value, for keys that hold secrets.
    pub(super) fn masked(mut self) -> Self {
        match &mut self {
            Self::WrongType { got, .. } => "\"***\"".clone_into(got),
            Self::NotBetween { got, .. }
            | Self::TooSmall { got, .. }
            | Self::NotAccepted { got, .. }
            | Self::NotDuration { got }
            | Self::NotSize { got }
            | Self::NotUrl { got, .. }
            | Self::NotAddress { got }
            | Self::NotValid { got, .. }
            | Self::ProviderNotSupported { got } => "***".clone_into(got),
            _ => {}
        }
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKey { suggestion: None } => write!(f, "unknown key"),
            Self::UnknownKey { suggestion: Some(near) } => {
                write!(f, "unknown key; did you mean \"{}\"?", Shown(near))
            }
            Self::WrongType { expected, got } => write!(f, "expected {expected}, got {got}"),
            Self::NotBetween { min, max, got } => {
                write!(f, "must be between {min} and {max}, got {}", Shown(got))
            }
            Self::TooSmall { min, got } => write!(f, "must be >= {min}, got {}", Shown(got)),
            Self::NotAccepted { got, accepted } => {
                let accepted = Quoted(accepted);
                write!(f, "\"{}\" is not accepted; accepted values: {accepted}", Shown(got))
            }
            Self::NotDuration { got } => write!(f, "\"{}\" {NOT_DURATION}", Shown(got)),
            Self::NotSize { got } => write!(f, "\"{}\" {NOT_SIZE}", Shown(got)),
            Self::NotUrl { got, why } => write!(f, "\"{}\" is not a usable URL: {why}", Shown(got)),
            Self::NotAddress { got } => write!(f, "\"{}\" {NOT_ADDRESS}", Shown(got)),
            Self::NotValid { got, why } => write!(f, "\"{}\" is not valid here: {why}", Shown(got)),
            Self::CannotRead { path, why } => write!(f, "cannot read \"{}\": {why}", Shown(path)),
            Self::RequiredWhen { key, value } => write!(f, "required when {key} is {value}"),
            Self::VariableNotSet { name } => write!(f, "environment variable {name} is not set"),
            Self::SecretReference => write!(f, "secret:// references are not supported"),
            Self::Disagree { keys: [one, other], values: [left, right] } => {
                write!(f, "{one} and {other} disagree ({}, {})", Shown(left), Shown(right))
            }
            Self::ProtectionMissing { section } => {
                write!(
                    f,
                    "{PROTECTION_MISSING}; remove it or list \"{section}\" in allow_unsupported"
                )
            }
            Self::ProviderNotSupported { got } => write!(f, "\"{}\" {NO_ACME}", Shown(got)),
            Self::KeyStore => write!(f, "key stores are not supported"),
            Self::Malformed(what) => write!(f, "{}", Shown(what)),
        }
    }
}

const NOT_DURATION: &str = "is not a duration (examples: 300ms, 30s, 2h45m)";
const NOT_SIZE: &str = "is not a size (supported units: B, KB, MB, GB, TB)";
const NOT_ADDRESS: &str = "is not a valid IP address or CIDR";
const NO_ACME: &str = "is not supported by this engine; use \"external\" or \"self-signed\"";
const PROTECTION_MISSING: &str = "asks for a protection this engine does not provide";

/// `"a", "b"`
struct Quoted<'t>(&'t [&'static str]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, value) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}\"{value}\"")?;
        }
        Ok(())
    }
}

/// Text from outside as one line can carry it: control characters escaped, very long text cut.
pub(super) struct Shown<'t>(pub(super) &'t str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (count, character) in self.0.chars().enumerate() {
            if count == SHOWN_CHARS_MAX {
                return f.write_str("…");
            }
            if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') {
                write!(f, "{}", character.escape_default())?;
            } else {
                write!(f, "{character}")?;
            }
        }
        Ok(())
    }
}
