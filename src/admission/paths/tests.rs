use std::fmt::Write as _;

use super::*;

fn path(text: &str) -> MatchingPath<'_> {
    MatchingPath::of(text)
}

fn matches(pattern: &str, text: &str) -> bool {
    Pattern::parse(pattern).expect(pattern).matches(&path(text))
}

fn glob_matches(pattern: &str, text: &str) -> bool {
    Pattern::glob(pattern).expect(pattern).matches(&path(text))
}

#[test]
fn the_three_rules() {
    for (pattern, text, expected) in [
        ("/auth/*", "/auth", true),
        ("/auth/*", "/auth/", true),
        ("/auth/*", "/auth/a/b", true),
        ("/auth/*", "/auth-evil", false),
        ("/auth/*", "/Auth/a", false),
        ("/auth/*", "/aut", false),
        ("/*", "/", true),
        ("/*", "/a/b", true),
        ("/*", "*", false),
        ("/a", "/a", true),
        ("/a", "/a/", false),
        ("/a", "/a/b", false),
        ("/", "/", true),
        ("/", "/a", false),
        ("/*.css", "/a.css", true),
        ("/*.css", "/.css", true),
        ("/*.css", "/a/b.css", false),
        ("/*.css", "/a.css.js", false),
        ("/a*/b*c", "/ax/bxc", true),
        ("/a*/b*c", "/ax/y/bxc", false),
        ("/a*a*a", "/aaaa", true),
        ("/a*ab", "/aaab", true),
        ("/a?c", "/abc", true),
        ("/a?c", "/ac", false),
        ("/a?c", "/a/c", false),
        ("/a?c", "/a%C3%A9c", true),
        ("/a??c", "/a%C3%A9c", false),
        ("/a?c", "/a%FFc", true),
        ("/[a-c]", "/b", true),
        ("/[a-c]", "/d", false),
        ("/[a-c]", "/-", false),
        ("/[ac-]", "/-", true),
        ("/[-a]", "/-", true),
        ("/[^a-c]", "/d", true),
        ("/[^a-c]", "/b", false),
        ("/x[^a]y", "/x/y", false),
        ("/[!-~]", "/a", true),
        ("/x[!-~]y", "/x/y", false),
        ("/[^a]", "/%FF", true),
        ("/[a-z]", "/%FF", false),
        ("/[\\]\\^]", "/]", true),
        ("/[\\]\\^]", "/^", true),
        ("/[a^]", "/^", true),
        ("/\\*", "/*", true),
        ("/\\*", "/a", false),
        ("/a[b]", "/a[b]", true),
        ("/a[b]", "/ab", true),
        ("/é", "/%C3%A9", true),
        ("/*[^é]b", "/%C3%A9b", false),
    ] {
        assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
    }
}

#[test]
fn rule_two_alone_has_no_prefixes_and_no_equal_text() {
    for (pattern, text, expected) in [
        ("/a/*", "/a", false),
        ("/a/*", "/a/", true),
        ("/a/*", "/a/b", true),
        ("/a/*", "/a/b/c", false),
        ("/*/b/*", "/a/b/c", true),
        ("/a[b]", "/a[b]", false),
        ("/a", "/a", true),
    ] {
        assert_eq!(glob_matches(pattern, text), expected, "{pattern} {text}");
    }
}

#[test]
fn ambiguous_paths_match_nothing() {
    for text in [
        "//",
        "//public",
        "/public//x",
        "/public/x//",
        "/public/x;y",
        "/public/;",
        "/public/%3b",
        "/public%2fx",
        "/public%2Fx",
        "/public/%5cx",
        "/public/%5C",
        "/public/%252e",
        "/public/%25%32%65",
        "/public/%c0%af",
        "/public/%c1%9c",
        "/public/%e0%80%af",
        "/public/%f0%80%80%af",
    ] {
        let path = path(text);
        assert!(path.is_ambiguous(), "{text}");
        assert!(!path.is_at_or_below("/"), "{text}");
        for pattern in ["/*", "/public/*", "/public", text] {
            let pattern = Pattern::parse(pattern).expect(pattern);
            assert!(!pattern.matches(&path), "{pattern} {text}");
        }
        assert!(!path.is(text), "{text}");
    }
    let plain =
        ["/", "*", "/a/", "/a%25", "/100%25x", "/a%C3%A9", "/%E0%A0%80", "/a:b", "/a,b", "/%FF"];
    for text in plain {
        assert!(!path(text).is_ambiguous(), "{text}");
    }
}

/// The tricks of the sixth group of cases that are not refused with the head. Given `public: /public/*`.
#[test]
fn tricks_do_not_make_a_path_public() {
    for (text, expected) in [
        ("/public", true),
        ("/public/", true),
        ("/publi%63/x", true),
        ("/%70ublic/x", true),
        ("/publicX", false),
        ("/public.", false),
        ("/private", false),
        ("//private", false),
        ("///private", false),
        ("//public/x", false),
        ("/public%5c..%5cprivate", false),
        ("/private%20", false),
        ("/private.", false),
        ("/private/", false),
        ("/private%3f/public", false),
        ("/public%3f/private", false),
        ("/public%2f..%2fprivate", false),
        ("/public%252f..%252fprivate", false),
        ("/public/%252e%252e/private", false),
        ("/public;/private", false),
        ("/public/;/private", false),
        ("/PUBLIC/x", false),
    ] {
        assert_eq!(matches("/public/*", text), expected, "{text}");
    }
    assert!(matches("/public", "/publi%63"));
    assert!(!matches("/public", "/public/"));
}

/// What is refused with the head does not depend on this room: every disguise of a dot segment.
#[test]
fn dot_segments_never_get_here() {
    for text in [
        "/public/../private",
        "/public/./../private",
        "/public/..",
        "/private/../public/x",
        "/public/%2e%2e/private",
        "/public/%2E%2e/private",
        "/public/.%2e/private",
        "/public//../private",
        "/public/..//private",
        "/public\\..\\private",
        "/public%5c..%5cprivate",
        "/public%2f..%2fprivate",
        "\\private",
        "/private%00/public/",
        "/private%0a",
        "/private%09",
        "/private/.",
        "/public%3f/../private",
        "/public/..;/private",
        "/private#/public/",
        "/public/%",
        "/public/%1",
        "/public/%zz/../private",
    ] {
        let head = format!("GET {text} HTTP/1.1\r\nHost: t\r\n\r\n");
        assert!(crate::wire::request::RequestHead::parse(head.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn nothing_is_copied_when_nothing_is_encoded() {
    assert!(matches!(path("/a/b").decoded, Cow::Borrowed(_)));
    assert!(matches!(path("/a/%62").decoded, Cow::Owned(_)));
}

#[test]
fn prefixes_end_at_a_segment() {
    for (prefix, text, expected) in [
        ("/a", "/a", true),
        ("/a", "/a/", true),
        ("/a", "/a/b", true),
        ("/a", "/ab", false),
        ("/a/", "/a", true),
        ("/a/", "/a/b", true),
        ("/a/", "/ab", false),
        ("/", "/x", true),
        ("/", "*", false),
        ("/a/b", "/a", false),
    ] {
        assert_eq!(path(text).is_at_or_below(prefix), expected, "{prefix} {text}");
    }
}

#[test]
fn mistakes_are_found_when_the_configuration_is_read() {
    for (pattern, expected) in [
        ("", PatternError::NoSlash),
        ("a", PatternError::NoSlash),
        ("*", PatternError::NoSlash),
        ("/a\u{7}", PatternError::ControlCharacter),
        ("/a\\", PatternError::LoneBackslash),
        ("/[a", PatternError::UnclosedClass),
        ("/[a\\", PatternError::UnclosedClass),
        ("/[]", PatternError::EmptyClass),
        ("/[^]", PatternError::EmptyClass),
        ("/[a/]", PatternError::SlashInClass),
        ("/[\\/]", PatternError::SlashInClass),
        ("/[z-a]", PatternError::BackwardRange),
    ] {
        assert_eq!(Pattern::parse(pattern), Err(expected), "{pattern}");
        assert_eq!(Pattern::glob(pattern), Err(expected), "{pattern}");
    }
    for pattern in ["/a/*/b/*", "/a?/*", "/[a]/*", "/a\\b/*"] {
        assert_eq!(Pattern::parse(pattern), Err(PatternError::WildcardInPrefix), "{pattern}");
        assert!(Pattern::glob(pattern).is_ok(), "{pattern}");
    }
}

/// The rules again, as slow and plain as can be.
fn naive(pattern: &[char], text: &[char]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        (['*', rest @ ..], _) => {
            naive(rest, text)
                || matches!(text, [first, after @ ..] if *first != '/' && naive(pattern, after))
        }
        (['?', rest @ ..], [first, after @ ..]) => *first != '/' && naive(rest, after),
        (['[', 'a', ']', rest @ ..], ['a', after @ ..]) => naive(rest, after),
        (['[', '^', 'a', ']', rest @ ..], [first, after @ ..]) => {
            !matches!(first, 'a' | '/') && naive(rest, after)
        }
        (['[', ..], _) => false,
        ([wanted, rest @ ..], [first, after @ ..]) => wanted == first && naive(rest, after),
        _ => false,
    }
}

#[test]
fn random_globs_agree_with_the_plain_rules() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut matched = 0;
    for _ in 0..100_000 {
        let mut pattern = "/".to_owned();
        for _ in 0..random.usize(..7) {
            pattern.push_str(["*", "*", "?", "[a]", "[^a]", "a", "b", "é", "/"][random.usize(..9)]);
        }
        let mut text = "/".to_owned();
        for _ in 0..random.usize(..7) {
            let next = ["a", "b", "é", "/"][random.usize(..4)];
            if !(next == "/" && text.ends_with('/')) {
                text.push_str(next);
            }
        }
        let encoded = text.replace('é', "%C3%A9");
        let expected =
            naive(&pattern.chars().collect::<Vec<_>>(), &text.chars().collect::<Vec<_>>());
        matched += usize::from(expected);
        assert_eq!(glob_matches(&pattern, &encoded), expected, "seed {seed}: {pattern} {text}");
    }
    assert!(matched > 1000, "seed {seed}: only {matched} matches, the test says little");
}

/// However a path is escaped, as long as one layer undoes it, rules see the same path.
#[test]
fn escaping_once_changes_no_verdict() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..20_000 {
        let mut plain = String::new();
        let mut escaped = String::new();
        for _ in 0..random.usize(1..5) {
            plain.push('/');
            escaped.push('/');
            for _ in 0..random.usize(1..4) {
                let character = char::from(random.u8(b'a'..=b'e'));
                plain.push(character);
                if random.bool() {
                    let _ = write!(escaped, "%{:02x}", u32::from(character));
                } else {
                    escaped.push(character);
                }
            }
        }
        for pattern in ["/a/*", "/a*", "/?b", "/[a-c]/*"] {
            let verdicts = [&plain, &escaped].map(|text| glob_matches(pattern, text));
            assert_eq!(verdicts[0], verdicts[1], "seed {seed}: {pattern} {plain} {escaped}");
        }
    }
}
