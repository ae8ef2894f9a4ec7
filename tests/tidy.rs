//! House rules that no compiler checks: the arrows of the design, lengths, names, and what a test may do.

#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/scan.rs"]
mod scan;

use std::fs;
use std::path::{Path, PathBuf};

use scan::Source;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files of the repository with one of these endings, without what is built or fetched.
fn files(endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["src", "tests", "benches", "fuzz"].iter().map(|name| root().join(name)).collect();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for path in entries.map(|entry| entry.unwrap().path()) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir()
                && !["target", "node_modules", "corpus", "artifacts"].contains(&name.as_str())
            {
                folders.push(path);
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn name(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn rust_files_keep_the_house_rules() {
    let sources: Vec<Source> =
        files(&[".rs"]).iter().map(|path| Source::new(&name(path), &read(path))).collect();
    assert!(
        sources.iter().any(|source| source.path == "src/lib.rs"),
        "the walk must see the crate"
    );
    assert!(
        sources.iter().any(|source| source.path == "tests/tidy.rs"),
        "the walk must see the tests"
    );
    let complaints: Vec<String> = sources
        .iter()
        .flat_map(|source| rules::RULES.iter().flat_map(|rule| rule(source)))
        .collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn scripts_of_the_tests_do_not_pause() {
    let scripts = files(&[".py", ".mjs", ".js"]);
    let complaints: Vec<String> = scripts
        .iter()
        .filter(|path| name(path).starts_with("tests/"))
        .flat_map(|path| rules::script_pauses(&name(path), &read(path)))
        .collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn the_readme_gives_the_commands() {
    let missing = rules::missing_commands(&read(&root().join("README.md")));
    assert!(missing.is_empty(), "README.md must give: {missing:?}");
}

#[test]
fn the_map_of_the_crate_names_what_is_there() {
    let map = read(&root().join("src/lib.rs"));
    let stages = rules::stages(&map);
    assert!(stages.len() > 5, "{stages:?}");
    for stage in stages {
        // The file is the longest beginning of the path that is one; its last segment stands in it.
        let segments: Vec<&str> = stage.split("::").collect();
        let file = (1..segments.len())
            .rev()
            .map(|length| root().join(format!("src/{}.rs", segments[..length].join("/"))))
            .find(|path| path.is_file());
        let file = file.unwrap_or_else(|| panic!("src/lib.rs names {stage}: no such file"));
        let source = Source::new(&name(&file), &read(&file));
        for segment in
            segments.iter().rev().take_while(|&&part| !file.ends_with(format!("{part}.rs")))
        {
            assert!(rules::defines(&source, segment), "src/lib.rs names {stage}: no {segment}");
        }
    }
}
