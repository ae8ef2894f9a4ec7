//! The rules, each a pure function from a file to its complaints, and for each a proof on a snippet that it can fail.

use super::scan::{Source, is_word};

/// Lines of a file in src/, tests not counted.
const FILE_LINES_MAX: usize = 600;
/// Lines of a function in src/, tests not counted.
const FUNCTION_LINES_MAX: usize = 70;

/// The only files that read a clock. Everywhere else the time is an argument.
const CLOCK_FILES: [&str; 1] = ["src/clock.rs"];

/// The only test files that may pause, because waiting for an observable is their purpose.
const PAUSE_FILES: [&str; 1] = ["tests/harness/wait.rs"];

/// Words that say nothing about what a thing is.
const EMPTY_WORDS: [&str; 10] = [
    "manager", "handler", "service", "util", "utils", "helper", "helpers", "common", "data", "info",
];

/// Crates with a place of their own, and that place.
const CRATES: [(&str, &[&str]); 6] = [
    ("monoio", &["src/proxy/", "src/sys.rs"]),
    ("io_uring", &["src/proxy/"]),
    ("tokio", &["src/control/", "src/demo/"]),
    ("notify", &["src/control/"]),
    ("reqwest", &["src/control/"]),
    ("redis", &["src/control/"]),
];

/// Modules that a file below the prefix must not name: imports point one way, wire ← admission ← proxy and control.
const ARROWS: [(&str, &[&str]); 16] = [
    ("src/wire/", &["admission", "proxy", "control", "server", "cli", "demo"]),
    ("src/admission/", &["proxy", "control", "server", "cli", "demo"]),
    ("src/proxy/", &["control", "server", "cli", "demo"]),
    ("src/control/", &["proxy", "server", "cli", "demo"]),
    ("src/demo/", &["wire", "admission", "proxy", "control", "server", "cli"]),
    ("src/config/", &["proxy", "control", "server", "cli", "demo"]),
    ("src/refusal", &["proxy", "control", "server", "cli", "demo"]),
    ("src/event", &["proxy", "control", "server", "cli", "demo"]),
    ("src/metrics", &["proxy", "control", "server", "cli", "demo"]),
    ("src/published", &["proxy", "control", "server", "cli", "demo"]),
    ("src/shared_store", &["proxy", "control", "server", "cli", "demo"]),
    ("src/certificate", &["wire", "admission", "proxy", "control", "server", "cli", "demo"]),
    ("src/process", &["wire", "admission", "proxy", "control", "server", "cli", "demo"]),
    ("src/providers", &["proxy", "control", "server", "cli", "demo"]),
    ("src/question", &["wire", "admission", "proxy", "control", "server", "cli", "demo"]),
    ("src/sys", &["wire", "admission", "proxy", "control", "server", "cli", "demo"]),
];

/// Every rule for Rust files.
pub(crate) const RULES: [fn(&Source) -> Vec<String>; 13] = [
    crates_in_their_place,
    arrows,
    clocks,
    pure_folders,
    unsafe_in_sys_only,
    file_length,
    function_length,
    names,
    module_headers,
    peer_input_lints,
    ignored_tests,
    pauses_in_tests,
    leftovers,
];

fn complaint(source: &Source, line: usize, text: &str) -> String {
    format!("{}:{}: {text}", source.path, line + 1)
}

fn in_src(source: &Source) -> bool {
    source.path.starts_with("src/")
}

/// Whether the word at `at` starts a path, as in `word::x`, `use word;` or `use word as x;`.
fn names_crate(source: &Source, at: usize) -> bool {
    let before = |back: usize| at.checked_sub(back).map_or("", |place| source.text(place));
    let is_inner = before(1) == ":" && before(2) == ":" && (before(3) == ">" || is_word(before(3)));
    let path_follows = source.matches(at + 1, &[":", ":"]);
    let imported = before(1) == "use" && [";", "as"].contains(&source.text(at + 1));
    !is_inner && (path_follows || imported)
}

fn crates_in_their_place(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    for (at, token) in source.tokens.iter().enumerate() {
        let Some((name, places)) = CRATES.iter().find(|(name, _)| *name == token.text) else {
            continue;
        };
        let is_allowed = places.iter().any(|place| source.path.starts_with(place));
        if in_src(source) && !is_allowed && names_crate(source, at) {
            complaints.push(complaint(
                source,
                token.line,
                &format!("{name} belongs to {} alone", places.join(" and ")),
            ));
        }
    }
    complaints
}

/// First segments of `crate::…` at `at`: one for a path, several for `crate::{…}`.
fn crate_segments(source: &Source, at: usize) -> Vec<&str> {
    if !source.matches(at, &["crate", ":", ":"]) {
        return Vec::new();
    }
    if source.text(at + 3) != "{" {
        return vec![source.text(at + 3)];
    }
    let mut segments = Vec::new();
    let (mut depth, mut place) = (0_usize, at + 3);
    loop {
        match source.text(place) {
            "{" => depth += 1,
            "}" if depth == 1 => return segments,
            "}" => depth -= 1,
            "" => return segments,
            word if depth == 1 && ["{", ","].contains(&source.text(place - 1)) => {
                segments.push(word);
            }
            _ => {}
        }
        place += 1;
    }
}

fn arrows(source: &Source) -> Vec<String> {
    let Some((prefix, forbidden)) =
        ARROWS.iter().find(|(prefix, _)| source.path.starts_with(prefix))
    else {
        return Vec::new();
    };
    let mut complaints = Vec::new();
    for (at, token) in source.tokens.iter().enumerate() {
        for segment in crate_segments(source, at) {
            if forbidden.contains(&segment) && !source.is_test(token.line) {
                complaints.push(complaint(
                    source,
                    token.line,
                    &format!("{prefix} must not import {segment}"),
                ));
            }
        }
    }
    complaints
}

fn clocks(source: &Source) -> Vec<String> {
    if !in_src(source) || CLOCK_FILES.contains(&source.path.as_str()) {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    for (at, token) in
        source.tokens.iter().enumerate().filter(|(_, token)| !source.is_test(token.line))
    {
        let reads = ["Instant", "SystemTime", "Timestamp", "Zoned"].contains(&token.text.as_str())
            && source.matches(at + 1, &[":", ":", "now"]);
        let measures = token.text == "." && source.text(at + 1) == "elapsed";
        if reads || measures {
            complaints.push(complaint(
                source,
                token.line,
                &format!("the clock is read in {} only", CLOCK_FILES.join(" and ")),
            ));
        }
    }
    complaints
}

fn pure_folders(source: &Source) -> Vec<String> {
    if !source.path.starts_with("src/wire/") && !source.path.starts_with("src/admission/") {
        return Vec::new();
    }
    let impure = [
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "UnixStream",
        "UnixListener",
        "spawn",
        "async",
        "await",
    ];
    let found = source
        .tokens
        .iter()
        .filter(|token| impure.contains(&token.text.as_str()) && !source.is_test(token.line));
    found
        .map(|token| {
            complaint(
                source,
                token.line,
                &format!("no socket and no task here, but `{}`", token.text),
            )
        })
        .collect()
}

fn unsafe_in_sys_only(source: &Source) -> Vec<String> {
    let found =
        source.tokens.iter().filter(|token| token.text == "unsafe" && source.path != "src/sys.rs");
    found.map(|token| complaint(source, token.line, "unsafe stands in src/sys.rs only")).collect()
}

fn file_length(source: &Source) -> Vec<String> {
    let lines = source.test_lines.iter().filter(|is_test| !**is_test).count();
    if in_src(source) && lines > FILE_LINES_MAX {
        return vec![complaint(source, 0, &format!("{lines} lines, at most {FILE_LINES_MAX}"))];
    }
    Vec::new()
}

fn function_length(source: &Source) -> Vec<String> {
    let shipped = source
        .functions()
        .into_iter()
        .filter(|function| in_src(source) && !source.is_test(function.line));
    let long = shipped.filter(|function| function.lines > FUNCTION_LINES_MAX);
    long.map(|f| {
        complaint(
            source,
            f.line,
            &format!("fn {} has {} lines, at most {FUNCTION_LINES_MAX}", f.name, f.lines),
        )
    })
    .collect()
}

/// The words of a name in snake case, kebab case or camel case, in lower case.
fn words(name: &str) -> Vec<String> {
    let chars: Vec<char> = name.chars().collect();
    let is_upper = |at: usize| chars.get(at).is_some_and(|char| char.is_uppercase());
    let is_lower = |at: usize| chars.get(at).is_some_and(|char| char.is_lowercase());
    let mut words = vec![String::new()];
    for (at, char) in chars.iter().enumerate() {
        // `TlsInfo` splits before the I, `HTTPHandler` before the second H.
        let splits = at > 0 && is_upper(at) && (!is_upper(at - 1) || is_lower(at + 1));
        if splits || !char.is_alphanumeric() {
            words.push(String::new());
        }
        if let (Some(word), true) = (words.last_mut(), char.is_alphanumeric()) {
            word.extend(char.to_lowercase());
        }
    }
    words
}

fn is_empty_name(name: &str) -> bool {
    words(name).iter().any(|word| EMPTY_WORDS.contains(&word.as_str()))
}

fn names(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    let file = source.path.trim_end_matches(".rs").split('/').find(|part| is_empty_name(part));
    if let Some(part) = file {
        complaints.push(complaint(source, 0, &format!("`{part}` does not say what it holds")));
    }
    for (at, token) in source.tokens.iter().enumerate() {
        let defines =
            ["struct", "enum", "trait", "type", "union", "mod"].contains(&token.text.as_str());
        let name = source.text(at + 1);
        if defines && is_empty_name(name) {
            complaints.push(complaint(
                source,
                token.line,
                &format!("`{name}` does not say what it is"),
            ));
        }
    }
    complaints
}

/// Sentences: a full stop, then a blank or the end.
fn sentences(text: &str) -> usize {
    text.split_whitespace()
        .filter(|word| word.trim_end_matches(['`', ')', '*']).ends_with('.'))
        .count()
}

fn module_headers(source: &Source) -> Vec<String> {
    if !in_src(source) || !source.path.ends_with("/mod.rs") {
        return Vec::new();
    }
    let header: String = source.raw.lines().map_while(|line| line.strip_prefix("//!")).collect();
    if sentences(&header) < 3 {
        return vec![complaint(
            source,
            0,
            "a mod.rs opens with what lives here, what may never live here, and who calls it",
        )];
    }
    Vec::new()
}

fn peer_input_lints(source: &Source) -> Vec<String> {
    if !["src/wire/mod.rs", "src/admission/mod.rs", "src/proxy/mod.rs"]
        .contains(&source.path.as_str())
    {
        return Vec::new();
    }
    let denied: Vec<&str> = source.tokens.iter().map(|token| token.text.as_str()).collect();
    let wanted = ["unwrap_used", "expect_used", "indexing_slicing", "panic"];
    let missing = wanted.iter().filter(|lint| !denied.contains(lint));
    missing.map(|lint| complaint(source, 0, &format!("must deny clippy::{lint}"))).collect()
}

fn ignored_tests(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    for (at, token) in source.tokens.iter().enumerate() {
        if !source.matches(at, &["#", "[", "ignore"]) {
            continue;
        }
        let line = source.raw.lines().nth(token.line).unwrap_or_default();
        if !line.contains("ignore = \"") || !has_date(line) {
            complaints.push(complaint(
                source,
                token.line,
                "an ignored test needs a reason with a date, 2026-12-31",
            ));
        }
    }
    complaints
}

/// Whether the text has a date as in RFC 3339.
fn has_date(text: &str) -> bool {
    let shape = |window: &[u8]| {
        window.iter().enumerate().all(|(at, byte)| {
            if at == 4 || at == 7 { *byte == b'-' } else { byte.is_ascii_digit() }
        })
    };
    text.as_bytes().windows(10).any(shape)
}

fn pauses_in_tests(source: &Source) -> Vec<String> {
    if PAUSE_FILES.contains(&source.path.as_str()) {
        return Vec::new();
    }
    let pauses = ["sleep", "sleep_ms", "sleep_until", "park_timeout"];
    let mut complaints = Vec::new();
    for (at, token) in source.tokens.iter().enumerate() {
        if pauses.contains(&token.text.as_str())
            && source.text(at + 1) == "("
            && source.is_test(token.line)
        {
            complaints.push(complaint(
                source,
                token.line,
                "a test waits for something it can see, with a deadline",
            ));
        }
    }
    complaints
}

fn leftovers(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    for (at, token) in source.tokens.iter().enumerate() {
        if ["todo", "unimplemented", "dbg"].contains(&token.text.as_str())
            && source.text(at + 1) == "!"
        {
            complaints.push(complaint(
                source,
                token.line,
                &format!("`{}!` is unfinished work", token.text),
            ));
        }
        let unbounded = token.text.starts_with("unbounded")
            || source.matches(at, &["mpsc", ":", ":", "channel", "(", ")"]);
        if unbounded && in_src(source) && !source.is_test(token.line) {
            complaints.push(complaint(source, token.line, "every queue has a bound"));
        }
    }
    for (line, comment) in source.comments.iter().enumerate() {
        let marks = [["TO", "DO"].concat(), ["FIX", "ME"].concat()];
        if comment
            .split(|char: char| !char.is_alphanumeric())
            .any(|word| marks.iter().any(|mark| mark == word))
        {
            complaints.push(complaint(
                source,
                line,
                "unfinished work belongs into the list of issues",
            ));
        }
    }
    complaints
}

/// Complaint about a script that pauses: the words of the languages that the tests use.
pub(crate) fn script_pauses(path: &str, text: &str) -> Vec<String> {
    let pauses = ["time.sleep(", "asyncio.sleep(", "setTimeout(", "timers/promises"];
    let lines = text.lines().enumerate();
    let found = lines.filter(|(_, line)| pauses.iter().any(|pause| line.contains(pause)));
    found
        .map(|(line, _)| {
            format!("{path}:{}: a test waits for something it can see, with a deadline", line + 1)
        })
        .collect()
}

/// The commands that the README must give, word for word, if it lacks them.
pub(crate) fn missing_commands(readme: &str) -> Vec<&'static str> {
    ["cargo run --release -- demo", "bash tests/run.sh"]
        .into_iter()
        .filter(|command| !readme.contains(command))
        .collect()
}

/// Functions and types that the map in `src/lib.rs` names as stages of a connection, by their path.
pub(crate) fn stages(map: &str) -> Vec<&str> {
    let numbered = map.lines().filter_map(|line| line.strip_prefix("//! ")?.split_once(". `"));
    numbered
        .filter(|(number, _)| number.bytes().all(|byte| byte.is_ascii_digit()))
        .flat_map(|(_, line)| line.split('`').step_by(2))
        .filter(|name| name.contains("::"))
        .collect()
}

/// Whether `source` defines the last segment of a path.
pub(crate) fn defines(source: &Source, name: &str) -> bool {
    let places = source.tokens.iter().enumerate().filter(|(_, token)| token.text == name);
    places.into_iter().any(|(at, token)| {
        let keyword = at.checked_sub(1).map_or("", |before| source.text(before));
        ["fn", "struct", "enum"].contains(&keyword) && !source.is_test(token.line)
    })
}

#[cfg(test)]
fn all(path: &str, text: &str) -> Vec<String> {
    let source = Source::new(path, text);
    RULES.iter().flat_map(|rule| rule(&source)).collect()
}

/// Checks that the snippet is complained about at that path, and that nothing is wrong with it at the other.
#[cfg(test)]
fn only_at(bad_path: &str, good_path: &str, text: &str) {
    assert_ne!(all(bad_path, text), Vec::<String>::new(), "{bad_path} must be refused:\n{text}");
    assert_eq!(all(good_path, text), Vec::<String>::new(), "{good_path} must be accepted:\n{text}");
}

#[test]
fn a_crate_outside_its_place_is_found() {
    only_at("src/control/a.rs", "src/proxy/a.rs", "use monoio::net::TcpStream;");
    only_at("src/server.rs", "src/proxy/a.rs", "fn a() { ::monoio::spawn(b); }");
    only_at("src/proxy/a.rs", "src/demo/a.rs", "use tokio::net::TcpStream;");
    only_at("src/proxy/a.rs", "src/control/a.rs", "use notify;");
    only_at("src/proxy/a.rs", "src/control/a.rs", "use { redis::Client, std::fmt };");
    assert_eq!(
        all(
            "src/proxy/a.rs",
            "fn a(notify: bool) { crate::config::redis::b(notify); self.notify(); }"
        ),
        [""; 0]
    );
}

#[test]
fn an_arrow_the_wrong_way_is_found() {
    only_at("src/wire/a.rs", "src/admission/a.rs", "use crate::admission::address::Client;");
    only_at("src/control/a.rs", "src/proxy/a.rs", "use crate::proxy::core::Core;");
    only_at("src/proxy/a.rs", "src/control/a.rs", "use crate::{config::Config, control::reload};");
    only_at("src/event.rs", "src/server.rs", "fn a() { crate::proxy::relay::b(); }");
    assert_eq!(all("src/wire/a.rs", "use crate::{config::{proxy, Cidr}, wire};"), [""; 0]);
}

#[test]
fn a_clock_outside_the_clock_file_is_found() {
    only_at("src/proxy/relay.rs", "src/clock.rs", "fn a() { std::time::Instant::now(); }");
    only_at("src/control/a.rs", "src/clock.rs", "fn a() { jiff::Timestamp::now(); }");
    only_at("src/proxy/relay.rs", "src/clock.rs", "fn a() { start.elapsed(); }");
    only_at("src/wire/a.rs", "tests/a.rs", "fn a() { Instant::now(); }");
}

#[test]
fn a_socket_or_task_in_a_pure_folder_is_found() {
    only_at("src/wire/a.rs", "src/control/a.rs", "use std::net::TcpStream;");
    only_at("src/admission/a.rs", "src/control/a.rs", "async fn a() {}");
}

#[test]
fn unsafe_is_found_outside_sys() {
    only_at("src/proxy/a.rs", "src/sys.rs", "fn a() { unsafe { b() } }");
    assert_eq!(
        all("src/proxy/a.rs", "#![deny(unsafe_code)] // unsafe\nconst A: &str = \"unsafe\";"),
        [""; 0]
    );
}

#[test]
fn long_files_and_functions_are_found() {
    let statements = "    b();\n".repeat(FUNCTION_LINES_MAX - 2);
    assert_eq!(all("src/a.rs", &format!("fn a() {{\n{statements}}}\n")), [""; 0]);
    only_at("src/a.rs", "src/a/tests.rs", &format!("fn a() {{\n{statements}    b();\n}}\n"));
    assert_eq!(all("src/a.rs", &"const A: u8 = 1;\n".repeat(FILE_LINES_MAX)), [""; 0]);
    only_at("src/a.rs", "tests/a.rs", &"const A: u8 = 1;\n".repeat(FILE_LINES_MAX + 1));
    only_at("src/a.rs", "benches/a.rs", &"const A: u8 = 1;\n".repeat(FILE_LINES_MAX + 1));
}

#[test]
fn empty_names_are_found() {
    only_at("src/utils.rs", "src/relay.rs", "");
    only_at("src/common/relay.rs", "src/relay.rs", "");
    for name in ["ConnectionManager", "HTTPHandler", "Data", "TlsInfo"] {
        assert_ne!(all("src/a.rs", &format!("struct {name};")), [""; 0], "{name}");
    }
    for name in ["Database", "Informed", "Relayed", "Datagram"] {
        assert_eq!(all("src/a.rs", &format!("struct {name};")), [""; 0], "{name}");
    }
}

#[test]
fn a_module_without_its_three_sentences_is_found() {
    let header =
        "//! What lives here. What never\n//! lives here (no I/O).\n//! Called by `cli`.\n";
    assert_eq!(all("src/a/mod.rs", header), [""; 0]);
    only_at("src/a/mod.rs", "src/a.rs", "//! What lives here. What never does.\n");
    only_at("src/a/mod.rs", "src/a.rs", &format!("use a;\n{header}"));
}

#[test]
fn a_folder_that_reads_peer_input_without_the_lints_is_found() {
    let header =
        "//! A. B. C.\n#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing";
    assert_eq!(all("src/wire/mod.rs", &format!("{header}, clippy::panic)]\n")), [""; 0]);
    only_at("src/proxy/mod.rs", "src/config/mod.rs", &format!("{header})]\n"));
}

#[test]
fn an_ignored_test_without_reason_or_date_is_found() {
    let dated = "#[test]\n#[ignore = \"needs a kernel from 2026-12-31 on\"]\nfn a() {}";
    assert_eq!(all("tests/a.rs", dated), [""; 0]);
    assert_ne!(all("tests/a.rs", "#[test]\n#[ignore]\nfn a() {}"), [""; 0]);
    assert_ne!(all("tests/a.rs", "#[test]\n#[ignore = \"slow\"]\nfn a() {}"), [""; 0]);
}

#[test]
fn a_pause_in_a_test_is_found() {
    only_at("tests/a.rs", "src/control/a.rs", "fn a() { std::thread::sleep(B); }");
    assert_ne!(all("src/a.rs", "#[cfg(test)]\nmod tests {\n fn a() { sleep(B); }\n}"), [""; 0]);
    assert_ne!(script_pauses("tests/a.py", "import time\ntime.sleep(1)\n"), [""; 0]);
    assert_ne!(
        script_pauses("tests/a.mjs", "await new Promise((go) => setTimeout(go, 10))"),
        [""; 0]
    );
    assert_eq!(script_pauses("tests/a.py", "async with asyncio.timeout(10):\n"), [""; 0]);
}

#[test]
fn leftovers_are_found() {
    let mark = ["// TO", "DO: later"].concat();
    for text in [
        "fn a() { todo!() }",
        "fn a() { dbg!(b); }",
        &mark,
        "use std::sync::mpsc;\nfn a() { mpsc::channel() }",
    ] {
        assert_ne!(all("src/a.rs", text), [""; 0], "{text}");
    }
    assert_eq!(all("src/a.rs", "fn a() { mpsc::channel(8) } // a todo list"), [""; 0]);
}

#[test]
fn a_readme_without_the_commands_is_found() {
    assert_eq!(
        missing_commands("# x\n    cargo run --release -- demo\n    bash tests/run.sh\n"),
        [""; 0]
    );
    assert_eq!(missing_commands("bash tests/run.sh"), ["cargo run --release -- demo"]);
}

#[test]
fn a_stage_that_is_not_there_is_found() {
    let map = "//! Text `a::b`.\n//! 1. `wire::head::Scanner` finds, `wire::b` too;\n//! 12. `c::D::e` ends.\n";
    assert_eq!(stages(map), ["wire::head::Scanner", "wire::b", "c::D::e"]);
    let source =
        Source::new("src/a.rs", "pub fn there() {}\n#[cfg(test)]\nfn tested() {}\nuse absent;");
    let seen = ["there", "tested", "absent"].map(|name| defines(&source, name));
    assert_eq!(seen, [true, false, false]);
}
