//! Paths as rules see them, and the patterns that rules are written in (contract section 10.2).

use std::borrow::Cow;
use std::fmt;

use crate::refusal::Refusal;
use crate::wire::target;

/// The path that rules look at: percent-decoded once, without the query. Bytes, because an escape can give any byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MatchingPath<'b> {
    decoded: Cow<'b, [u8]>,
    is_ambiguous: bool,
}

impl<'b> MatchingPath<'b> {
    /// Of the path of a checked head: visible ASCII, no invalid escape, no dot segment.
    pub fn of(path: &'b str) -> Self {
        let decoded = if path.contains('%') {
            Cow::Owned(target::decoded(path).collect())
        } else {
            Cow::Borrowed(path.as_bytes())
        };
        let is_ambiguous = has_encoded_separator(path) || has_second_reading(&decoded);
        Self { decoded, is_ambiguous }
    }

    /// Whether the next reader could take it for another path: an empty segment, a `;`, an encoded slash or backslash,
    /// a second layer of percent encoding, or ASCII in more bytes than it needs (overlong UTF-8, RFC 3629 section 10).
    /// Such a path matches nothing here. Rules that withhold something have to refuse it instead.
    pub fn is_ambiguous(&self) -> bool {
        self.is_ambiguous
    }

    /// For rules that withhold something: what they say nothing about must not pass them by.
    ///
    /// # Errors
    /// [`Refusal::BadRequest`] for an ambiguous path.
    pub fn require_clear(&self) -> Result<(), Refusal> {
        if self.is_ambiguous { Err(Refusal::BadRequest(AMBIGUOUS)) } else { Ok(()) }
    }

    /// Whether the path is `prefix` or lies below it, on a segment boundary; a slash at the end of `prefix` says the same
    /// as none. Never for an ambiguous path.
    pub fn is_at_or_below(&self, prefix: &str) -> bool {
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        !self.is_ambiguous
            && self
                .decoded
                .strip_prefix(prefix.as_bytes())
                .is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
    }

    /// Whether the path is exactly `path`. Never for an ambiguous path.
    pub fn is(&self, path: &str) -> bool {
        !self.is_ambiguous && *self.decoded == *path.as_bytes()
    }
}

const AMBIGUOUS: &str = "the path has an empty segment, a semicolon, an encoded separator or a second layer of encoding";

/// `%2f` or `%5c`. Only the first layer is looked at; a second one is ambiguous anyway.
fn has_encoded_separator(path: &str) -> bool {
    path.as_bytes().windows(3).any(|escape| {
        matches!(escape, [b'%', b'2', b'f' | b'F']) || matches!(escape, [b'%', b'5', b'c' | b'C'])
    })
}

fn has_second_reading(decoded: &[u8]) -> bool {
    let mut rest = decoded;
    while let Some((&byte, after)) = rest.split_first() {
        let found = match byte {
            b'/' => after.first() == Some(&b'/'),
            b';' | 0xC0 | 0xC1 => true,
            0xE0 => matches!(after.first(), Some(0x80..=0x9F)),
            0xF0 => matches!(after.first(), Some(0x80..=0x8F)),
            b'%' => matches!(
                after,
                [high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit()
            ),
            _ => false,
        };
        if found {
            return true;
        }
        rest = after;
    }
    false
}

/// What `public_paths`, `exempt_paths`, `scope_rules` and `role_paths` name paths with. Case counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
    form: Form,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    /// Everything at or below what stands before the final `/*`.
    Prefix,
    /// The steps lead over the whole path, or, with `or_equal`, the path is the text itself.
    Glob { steps: Box<[Step]>, or_equal: bool },
}

/// One step of a glob. None of them but a literal ever takes a slash.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Literal(Box<[u8]>),
    /// `?`
    One,
    /// `*`
    Run,
    /// `[…]`, `[^…]`: ranges with both ends.
    Class {
        negated: bool,
        ranges: Box<[(char, char)]>,
    },
}

/// Why a text is not a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatternError {
    /// Paths begin with `/`, so it could never match.
    NoSlash,
    /// A control character never stands in a path.
    ControlCharacter,
    /// A `\` with nothing after it.
    LoneBackslash,
    /// A `[` without its `]`.
    UnclosedClass,
    /// `[]` or `[^]`
    EmptyClass,
    /// No class takes a `/`.
    SlashInClass,
    /// `[z-a]`
    BackwardRange,
    /// A prefix is plain text; with a wildcard in it a rule would look stricter or wider than it is.
    WildcardInPrefix,
}

impl PatternError {
    /// The `<why>` of a configuration mistake.
    pub fn message(self) -> &'static str {
        match self {
            Self::NoSlash => "a pattern must begin with /",
            Self::ControlCharacter => "it contains a control character",
            Self::LoneBackslash => "it ends in a lone backslash",
            Self::UnclosedClass => "it has a [ without its ]",
            Self::EmptyClass => "it has an empty character class",
            Self::SlashInClass => "a character class cannot contain /",
            Self::BackwardRange => "it has a range that runs backwards",
            Self::WildcardInPrefix => {
                "it ends in /* and so names a prefix, which cannot contain other wildcards"
            }
        }
    }
}

impl Pattern {
    /// A pattern under all three rules: a prefix when it ends in `/*`, else a glob; equal text always matches.
    ///
    /// # Errors
    /// When it could never match, or not what its writer means.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let steps = steps(text)?;
        let form = match text.strip_suffix("/*") {
            Some(prefix) if prefix.contains(['*', '?', '[', '\\']) => {
                return Err(PatternError::WildcardInPrefix);
            }
            Some(_) => Form::Prefix,
            None => Form::Glob { steps, or_equal: true },
        };
        Ok(Self { text: text.into(), form })
    }

    /// A pattern under rule 2 alone: a glob, also when it ends in `/*`.
    ///
    /// # Errors
    /// When it could never match.
    pub fn glob(text: &str) -> Result<Self, PatternError> {
        Ok(Self { text: text.into(), form: Form::Glob { steps: steps(text)?, or_equal: false } })
    }

    /// Whether `path` is one that this pattern names. Never for an ambiguous path.
    pub fn matches(&self, path: &MatchingPath<'_>) -> bool {
        if path.is_ambiguous {
            return false;
        }
        match &self.form {
            Form::Prefix => path.is_at_or_below(self.text.strip_suffix('*').unwrap_or(&self.text)),
            Form::Glob { steps, or_equal } => {
                walk(steps, &path.decoded) || (*or_equal && path.is(&self.text))
            }
        }
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether any of `patterns` names `path`.
pub fn any_matches(patterns: &[Pattern], path: &MatchingPath<'_>) -> bool {
    patterns.iter().any(|pattern| pattern.matches(path))
}

fn steps(text: &str) -> Result<Box<[Step]>, PatternError> {
    if !text.starts_with('/') {
        return Err(PatternError::NoSlash);
    }
    if text.chars().any(char::is_control) {
        return Err(PatternError::ControlCharacter);
    }
    let mut steps = Vec::new();
    let mut literal = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let step = match character {
            '\\' => {
                literal.push(characters.next().ok_or(PatternError::LoneBackslash)?);
                continue;
            }
            '?' => Step::One,
            '*' => Step::Run,
            '[' => class(&mut characters)?,
            plain => {
                literal.push(plain);
                continue;
            }
        };
        if !literal.is_empty() {
            steps.push(Step::Literal(std::mem::take(&mut literal).into_bytes().into()));
        }
        // two runs in a row take what one takes
        if step != Step::Run || steps.last() != Some(&Step::Run) {
            steps.push(step);
        }
    }
    if !literal.is_empty() {
        steps.push(Step::Literal(literal.into_bytes().into()));
    }
    Ok(steps.into())
}

/// Reads on to the end of a character class; `[` itself is consumed. `^` negates in the first place, `-` makes a range
/// between two members, `\` takes the meaning from the character after it.
fn class(characters: &mut std::str::Chars<'_>) -> Result<Step, PatternError> {
    let mut members: Vec<(char, bool)> = Vec::new(); // the character, and whether it was escaped
    loop {
        let member = match characters.next().ok_or(PatternError::UnclosedClass)? {
            ']' => break,
            '\\' => (characters.next().ok_or(PatternError::UnclosedClass)?, true),
            plain => (plain, false),
        };
        if member.0 == '/' {
            return Err(PatternError::SlashInClass);
        }
        members.push(member);
    }
    let (negated, mut rest) = match members.as_slice() {
        [('^', false), listed @ ..] => (true, listed),
        listed => (false, listed),
    };
    let mut ranges = Vec::new();
    while let [(first, _), after @ ..] = rest {
        let (last, after) = match after {
            [('-', false), (last, _), after @ ..] => (last, after),
            _ => (first, after),
        };
        if first > last {
            return Err(PatternError::BackwardRange);
        }
        ranges.push((*first, *last));
        rest = after;
    }
    if ranges.is_empty() {
        return Err(PatternError::EmptyClass);
    }
    Ok(Step::Class { negated, ranges: ranges.into() })
}

/// Whether the steps lead from the start of `path` to its end. Only the last run ever has to take more: what stands
/// before it has matched as early as it can. So the work is at most steps times bytes.
fn walk(steps: &[Step], path: &[u8]) -> bool {
    let (mut next, mut rest) = (steps, path);
    let mut last_run: Option<(&[Step], &[u8])> = None; // the steps after it, and what it has not taken yet
    loop {
        match next.split_first() {
            None if rest.is_empty() => return true,
            None => {}
            Some((Step::Run, after)) => {
                next = after;
                last_run = Some((next, rest));
                continue;
            }
            Some((step, after)) => {
                if let Some(left) = step.take(rest) {
                    (next, rest) = (after, left);
                    continue;
                }
            }
        }
        let Some((after_run, untaken)) = last_run else {
            return false;
        };
        match split_character(untaken) {
            None | Some((Some('/'), _)) => return false,
            Some((_, left)) => {
                last_run = Some((after_run, left));
                (next, rest) = (after_run, left);
            }
        }
    }
}

impl Step {
    /// What is left of `path` after this step, which is no run; `None` when it does not fit.
    fn take<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        if let Self::Literal(literal) = self {
            return path.strip_prefix(&**literal);
        }
        let (character, rest) = split_character(path)?;
        let fits = match self {
            _ if character == Some('/') => false,
            Self::Class { negated, ranges } => {
                let listed = character.is_some_and(|character| {
                    ranges.iter().any(|(first, last)| (*first..=*last).contains(&character))
                });
                listed != *negated
            }
            _ => true,
        };
        fits.then_some(rest)
    }
}

/// The first character of `text` and the rest; a byte that is not UTF-8 is a character without a value.
fn split_character(text: &[u8]) -> Option<(Option<char>, &[u8])> {
    let (&first, after_first) = text.split_first()?;
    let bytes = match first {
        0xC2..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xF4 => 4,
        _ => 1,
    };
    let whole = text.split_at_checked(bytes).and_then(|(character, rest)| {
        Some((str::from_utf8(character).ok()?.chars().next()?, rest))
    });
    Some(whole.map_or((None, after_first), |(character, rest)| (Some(character), rest)))
}

#[cfg(test)]
mod tests;
