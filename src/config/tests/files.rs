//! Which file is read, and what is wrong with a file as a whole.

use super::*;

/// A directory of its own for one test, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("vibewarden-config-{}-{test}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn load_path(path: &Path) -> Result<Loaded, Mistakes> {
    load(&Source { path: Some(path.to_owned()), env: BTreeMap::new() })
}

#[test]
fn the_shipped_file_loads_without_a_word() {
    // tests run in the root of the package, where the file is the first default place
    let loaded = load(&Source::default()).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(loaded.warnings, Vec::<String>::new());
    assert_eq!(loaded.config.path.as_deref(), Some(Path::new("./vibewarden.yaml")));
    let target = UpstreamTarget::Tcp { host: "localhost".to_owned(), port: 3000 };
    assert_eq!(loaded.config.upstream.target, target);
    assert_eq!(loaded.config.server.port, 8080);
}

#[test]
fn the_default_places_are_tried_in_order() {
    assert_eq!(DEFAULT_PATHS, ["./vibewarden.yaml", "/etc/vibewarden/vibewarden.yaml"]);
    let directory = Directory::new("order");
    let first = directory.0.join("first.yaml");
    let second = directory.file("second.yaml", "server: {port: 2}");
    let found = |must_exist| first_file(&[&first, &second], must_exist);
    assert_eq!(found(false).unwrap(), ("server: {port: 2}".to_owned(), Some(second.clone())));
    directory.file("first.yaml", "server: {port: 1}");
    assert_eq!(found(false).unwrap().1, Some(first.clone()));
    std::fs::remove_file(&first).unwrap();
    std::fs::remove_file(&second).unwrap();
    assert_eq!(found(false).unwrap(), (String::new(), None));
    assert!(found(true).is_err());
}

#[test]
fn a_default_place_that_cannot_be_read_is_not_passed_over() {
    let directory = Directory::new("unreadable");
    let other = directory.file("other.yaml", "server: {port: 2}");
    let mistakes = first_file(&[&directory.0, &other], false).unwrap_err();
    assert_eq!(mistakes.lines().len(), 1);
    assert!(mistakes.lines()[0].starts_with("cannot read \""), "{mistakes}");
}

#[test]
fn the_named_file_must_exist() {
    let directory = Directory::new("missing");
    let path = directory.0.join("none.yaml");
    let shown = path.display();
    assert_eq!(
        load_path(&path).unwrap_err().to_string(),
        format!(
            "vibewarden: invalid config in {shown}: 1 mistake\n  cannot read \"{shown}\": No such file or directory"
        )
    );
}

#[test]
fn a_file_has_to_be_bounded_utf8_and_not_empty() {
    let directory = Directory::new("whole");
    let line =
        |name: &str, content: &[u8]| load_path(&directory.file(name, content)).unwrap_err().lines();
    assert_eq!(line("empty.yaml", b""), ["the file is empty"]);
    assert_eq!(line("blank.yaml", b" \n\n"), ["the file is empty"]);
    assert_eq!(line("latin.yaml", b"a: 1\nb: \xe4\n"), ["line 2, column 4: not UTF-8 text"]);
    let mut large = vec![b'#'; 1 << 20];
    assert!(load_path(&directory.file("limit.yaml", &large)).is_ok());
    large.push(b'#');
    assert!(line("large.yaml", &large)[0].ends_with("it is larger than 1 MiB"));
}

#[test]
fn comments_alone_are_defaults() {
    let directory = Directory::new("comments");
    let config = load_path(&directory.file("a.yaml", "# nothing yet\n")).unwrap().config;
    assert_eq!(config.server, Config::default().server);
}

#[test]
fn malformed_yaml_has_line_and_column() {
    for (text, expected) in [
        (
            "a: [1\nb: 2",
            "line 2, column 2: did not find expected ',' or ']', while parsing a flow sequence",
        ),
        ("log:\n  level: info\n level: warn\n", "line 3, column 2: did not find expected key"),
        (
            "server: {port: 1}\nlog: {}\nserver: {port: 2}\n",
            "line 3, column 1: the key \"server\" is given twice",
        ),
        (
            "server:\n  port: 1\n  host: localhost\n  port: 2\n",
            "line 4, column 3: server: the key \"port\" is given twice",
        ),
        ("log: !secret x\n", "line 1, column 6: "),
        ("server: {? [a] : 1}\n", "line 1, column 12: "),
        ("a: &x [1]\nb: *y\n", "line 2, column 4: unknown anchor"),
    ] {
        let lines = lines(text);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(
            lines[0].starts_with(expected),
            "{text:?}\n     got {:?}\nexpected {expected:?}",
            lines[0]
        );
    }
    assert_eq!(lines("a: 1\n---\nb: 1\n").len(), 1);
}

#[test]
fn the_top_is_a_mapping() {
    assert_eq!(lines("- a\n"), ["expected a mapping, got a list"]);
    assert_eq!(lines("hello\n"), ["expected a mapping, got \"hello\""]);
}

#[test]
fn aliases_do_not_multiply_without_end() {
    let mut text = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for (this, last) in ('b'..='i').zip('a'..='h') {
        let items = vec![format!("*{last}"); 9].join(",");
        text.extend([this.to_string(), format!(": &{this} [{items}]\n")]);
    }
    assert!(lines(&text)[0].contains("repetition limit"), "{:?}", lines(&text));
    let twice = format!("app: &a [{}]\nname: *a\n", "x, ".repeat(90_000));
    loaded(&twice);
    assert!(lines(&format!("{twice}admin: *a\n"))[0].contains("too many values"));
    assert!(lines(&"[".repeat(5_000))[0].contains("recursion limit"), "deep nesting is a mistake");
}
