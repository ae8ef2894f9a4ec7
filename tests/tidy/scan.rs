//! A small scanner of Rust text: it tells code from comments and literals, and tests from what is shipped. It knows no grammar beyond that.

/// One Rust file, as the rules look at it.
pub(crate) struct Source {
    /// Path from the root of the repository, with `/`.
    pub(crate) path: String,
    /// The text as it stands.
    pub(crate) raw: String,
    /// The text of the comments alone, line by line.
    pub(crate) comments: Vec<String>,
    /// What is neither comment nor literal.
    pub(crate) tokens: Vec<Token>,
    /// For each line, whether it is compiled for tests only.
    pub(crate) test_lines: Vec<bool>,
}

/// An identifier or number, or one character of punctuation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    /// Its text.
    pub(crate) text: String,
    /// Its line, from 0.
    pub(crate) line: usize,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    /// Its name.
    pub(crate) name: String,
    /// The line of its `fn`, from 0.
    pub(crate) line: usize,
    /// Lines from `fn` to the closing brace.
    pub(crate) lines: usize,
}

impl Source {
    /// Scans `raw`, the text of the file at `path`.
    pub(crate) fn new(path: &str, raw: &str) -> Self {
        let (code, comments) = separate(raw);
        let tokens = tokens(&code);
        let lines = raw.lines().count();
        let test_lines = test_lines(path, &tokens, lines);
        Self {
            path: path.to_owned(),
            raw: raw.to_owned(),
            comments: comments.lines().map(str::to_owned).collect(),
            tokens,
            test_lines,
        }
    }

    /// Whether the line (from 0) is compiled for tests only.
    pub(crate) fn is_test(&self, line: usize) -> bool {
        self.test_lines.get(line).copied().unwrap_or(false)
    }

    /// Whether the tokens from `at` on are `texts`.
    pub(crate) fn matches(&self, at: usize, texts: &[&str]) -> bool {
        texts.iter().enumerate().all(|(offset, text)| self.text(at + offset) == *text)
    }

    /// The token at `at`, empty beyond the end.
    pub(crate) fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| &token.text)
    }

    /// All functions with a body.
    pub(crate) fn functions(&self) -> Vec<Function> {
        let named = |at: usize| self.text(at) == "fn" && is_word(self.text(at + 1));
        let starts = (0..self.tokens.len()).filter(|&at| named(at));
        starts
            .filter_map(|at| {
                let end = closing_brace(&self.tokens, body_start(&self.tokens, at)?)?;
                let line = self.tokens[at].line;
                Some(Function {
                    name: self.text(at + 1).to_owned(),
                    line,
                    lines: self.tokens[end].line - line + 1,
                })
            })
            .collect()
    }
}

/// Whether the token is an identifier or a number.
pub(crate) fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first == '_' || first.is_alphanumeric())
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Code,
    LineComment,
    BlockComment { depth: usize },
    Literal { quote: char, hashes: usize, raw: bool },
}

/// Splits the text into code and comments of the same shape: what belongs to the other, and the inside of literals, becomes blank.
fn separate(raw: &str) -> (String, String) {
    let text: Vec<char> = raw.chars().collect();
    let (mut code, mut comments) = (String::new(), String::new());
    let mut place = Place::Code;
    let mut at = 0;
    while at < text.len() {
        let (next_place, length) = step(&text, at, place);
        for &char in &text[at..(at + length).min(text.len())] {
            let blank = if char == '\n' { '\n' } else { ' ' };
            let within_comment =
                |place| matches!(place, Place::LineComment | Place::BlockComment { .. });
            let is_comment = within_comment(place) || within_comment(next_place);
            let is_code = place == Place::Code && next_place == Place::Code;
            code.push(if is_code { char } else { blank });
            comments.push(if is_comment { char } else { blank });
        }
        place = next_place;
        at += length;
    }
    (code, comments)
}

/// Where the text goes on after the piece at `at`, and how long that piece is.
fn step(text: &[char], at: usize, place: Place) -> (Place, usize) {
    let char = text[at];
    let next = text.get(at + 1).copied();
    match place {
        Place::Code => code_step(text, at),
        Place::LineComment if char == '\n' => (Place::Code, 1),
        Place::LineComment => (Place::LineComment, 1),
        Place::BlockComment { depth } => match (char, next) {
            ('/', Some('*')) => (Place::BlockComment { depth: depth + 1 }, 2),
            ('*', Some('/')) if depth == 1 => (Place::Code, 2),
            ('*', Some('/')) => (Place::BlockComment { depth: depth - 1 }, 2),
            _ => (place, 1),
        },
        Place::Literal { raw: false, .. } if char == '\\' => (place, 2),
        Place::Literal { quote, hashes, .. } => {
            let closed =
                char == quote && (1..=hashes).all(|ahead| text.get(at + ahead) == Some(&'#'));
            if closed { (Place::Code, 1 + hashes) } else { (place, 1) }
        }
    }
}

fn code_step(text: &[char], at: usize) -> (Place, usize) {
    let next = text.get(at + 1).copied();
    match text[at] {
        '/' if next == Some('/') => (Place::LineComment, 2),
        '/' if next == Some('*') => (Place::BlockComment { depth: 1 }, 2),
        '"' => (Place::Literal { quote: '"', hashes: 0, raw: false }, 1),
        'r' if !follows_word(text, at) => raw_string(text, at).unwrap_or((Place::Code, 1)),
        // A lifetime has no second quote right after its first character.
        '\'' if next == Some('\\') || text.get(at + 2) == Some(&'\'') => {
            (Place::Literal { quote: '\'', hashes: 0, raw: false }, 1)
        }
        _ => (Place::Code, 1),
    }
}

/// `br"` and `cr"` are raw strings too: one prefix letter does not make the `r` part of a word.
fn follows_word(text: &[char], at: usize) -> bool {
    let is_part = |char: &char| *char == '_' || char.is_alphanumeric();
    let before = |back: usize| at.checked_sub(back).and_then(|place| text.get(place));
    match before(1) {
        Some('b' | 'c') => before(2).is_some_and(is_part),
        other => other.is_some_and(is_part),
    }
}

fn raw_string(text: &[char], at: usize) -> Option<(Place, usize)> {
    let hashes = text[at + 1..].iter().take_while(|&&char| char == '#').count();
    let quoted = text.get(at + 1 + hashes) == Some(&'"');
    quoted.then_some((Place::Literal { quote: '"', hashes, raw: true }, 2 + hashes))
}

fn tokens(code: &str) -> Vec<Token> {
    let mut tokens: Vec<Token> = Vec::new();
    for (line, text) in code.lines().enumerate() {
        let mut in_word = false;
        for char in text.chars() {
            let is_part = char == '_' || char.is_alphanumeric();
            if is_part && in_word {
                if let Some(last) = tokens.last_mut() {
                    last.text.push(char);
                }
            } else if !char.is_whitespace() {
                tokens.push(Token { text: char.to_string(), line });
            }
            in_word = is_part;
        }
    }
    tokens
}

/// Marks whole test files, and every item under `#[cfg(test)]`.
fn test_lines(path: &str, tokens: &[Token], lines: usize) -> Vec<bool> {
    let is_test_file =
        path.starts_with("tests/") || path.ends_with("/tests.rs") || path.contains("/tests/");
    let mut marks = vec![is_test_file; lines];
    let attribute = ["#", "[", "cfg", "(", "test", ")", "]"];
    for at in 0..tokens.len() {
        if !attribute
            .iter()
            .enumerate()
            .all(|(offset, text)| tokens.get(at + offset).is_some_and(|t| t.text == *text))
        {
            continue;
        }
        let start = at + attribute.len();
        let end =
            body_start(tokens, start).and_then(|open| closing_brace(tokens, open)).unwrap_or(start);
        let last = tokens.get(end).map_or(lines, |token| token.line + 1);
        marks[tokens[at].line..last.min(lines)].fill(true);
    }
    marks
}

/// The `{` that opens the body of the item at `start`; none when the item ends with `;` first.
fn body_start(tokens: &[Token], start: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(start) {
        match token.text.as_str() {
            "(" | "[" => depth += 1,
            ")" | "]" => depth = depth.saturating_sub(1),
            ";" if depth == 0 => return None,
            "{" if depth == 0 => return Some(at),
            _ => {}
        }
    }
    None
}

/// The `}` that belongs to the `{` at `open`.
fn closing_brace(tokens: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" if depth == 1 => return Some(at),
            "}" => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
fn words(source: &Source) -> Vec<&str> {
    source.tokens.iter().map(|token| token.text.as_str()).filter(|text| is_word(text)).collect()
}

#[test]
fn comments_and_literals_are_not_code() {
    let source = Source::new(
        "a.rs",
        "let a = \"x // y\"; // z \"\nlet b = r#\"q\"w\"#; /* v /* u */ t */ s\nlet c: &'d str = '\\''; let e = '\"'; f",
    );
    assert_eq!(
        words(&source),
        ["let", "a", "let", "b", "s", "let", "c", "d", "str", "let", "e", "f"]
    );
    assert_eq!(source.comments[0].trim(), "// z \"");
    assert_eq!(source.comments[1].trim(), "/* v /* u */ t */");
}

#[test]
fn byte_strings_and_escapes_end_where_they_end() {
    let source = Source::new("a.rs", "(b\"a\\\"b\", br#\"c\"#, c\"d\", \"e\\\\\", for_r, 'f') g");
    // The prefix letters of literals stay; what is inside does not.
    assert_eq!(words(&source), ["b", "b", "c", "for_r", "g"]);
}

#[test]
fn test_items_are_marked_and_the_rest_is_not() {
    let source = Source::new(
        "src/a.rs",
        "fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() {}\n}\nfn c() {}\n#[cfg(test)]\nmod more;\nfn d() {}",
    );
    assert_eq!(source.test_lines, [false, true, true, true, true, false, true, true, false]);
    assert!(Source::new("src/a/tests.rs", "fn a() {}").is_test(0));
}

#[test]
fn functions_are_measured_from_fn_to_brace() {
    let source = Source::new(
        "a.rs",
        "pub fn a(b: [u8; 4]) -> [u8; 2]\nwhere\n{\n if c { d }\n}\ntrait T { fn e(); }\ntype F = fn(u8) -> u8;\nfn g() { h }",
    );
    let found: Vec<(String, usize, usize)> =
        source.functions().into_iter().map(|f| (f.name, f.line, f.lines)).collect();
    assert_eq!(found, [("a".to_owned(), 0, 5), ("g".to_owned(), 7, 1)]);
}
