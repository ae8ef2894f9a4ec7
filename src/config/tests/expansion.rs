//! `${NAME}` in values of the file.

use super::*;

const VARIABLES: [(&str, &str); 6] = [
    ("PORT", "8081"),
    ("HOST", "app.internal"),
    ("EMPTY", ""),
    ("NESTED", "${HOST}"),
    ("_a1", "x"),
    ("VAULT", "secret://db"),
];

fn domain(written: &str) -> String {
    let config = loaded_with(&nested("tls.domain", &format!("'{written}'")), &VARIABLES).config;
    config.settings.text("tls.domain").to_owned()
}

#[test]
fn expansion_comes_before_typing() {
    let loaded = loaded_with(
        "server:\n  port: ${PORT}\nupstream: {url: 'http://${HOST}:${PORT}'}\n",
        &VARIABLES,
    );
    assert_eq!(loaded.config.server.port, 8081);
    let target = UpstreamTarget::Tcp { host: "app.internal".to_owned(), port: 8081 };
    assert_eq!(loaded.config.upstream.target, target);
    let list = "server: {trusted_proxies: ['${IP}', 10.0.0.1]}";
    assert_eq!(loaded_with(list, &[("IP", "::1")]).config.server.trusted_proxies.len(), 2);
}

#[test]
fn the_forms_of_a_value() {
    for (written, expected) in [
        ("${HOST}", "app.internal"),
        ("a-${HOST}-${_a1}-b", "a-app.internal-x-b"),
        ("${EMPTY}", ""),
        ("${NESTED}", "${HOST}"),
        ("$${HOST}", "${HOST}"),
        ("$$${HOST}", "$${HOST}"),
        ("$", "$"),
        ("a$b$$c", "a$b$$c"),
        ("{HOST} $HOST", "{HOST} $HOST"),
        ("ä${_a1}ö", "äxö"),
    ] {
        assert_eq!(domain(written), expected, "{written}");
    }
}

#[test]
fn unset_variables_and_other_forms_are_mistakes() {
    let unset = "tls.domain: environment variable MISSING is not set";
    let line =
        |written: &str| lines_with(&nested("tls.domain", &format!("'{written}'")), &VARIABLES);
    assert_eq!(line("${MISSING}"), [unset]);
    assert_eq!(line("${MISSING}${HOST}${MISSING}"), [unset]);
    assert_eq!(lines("server: {port: '${MISSING}'}").len(), 1, "not a wrong number as well");
    for form in ["${A:-b}", "${}", "${1A}", "${A B}", "${", "${HOST", "${HÖST}"] {
        let lines = line(form);
        assert_eq!(lines.len(), 1, "{form}: {lines:?}");
        assert!(lines[0].starts_with("tls.domain: \"${"), "{lines:?}");
        assert!(lines[0].contains("\" is not valid here: "), "{lines:?}");
    }
    // a default value may be a password
    assert!(!line("${A:-hunter2}")[0].contains("hunter2"));
}

#[test]
fn the_place_of_a_mistake_is_the_key_as_written() {
    let text = "auth: {api_key: {keys: [{name: a, hash: '${X}'}]}}\nplugins: {rate-limiting: {redis: {password: '${Y}'}}}\n";
    assert_eq!(
        lines(text),
        [
            "auth.api_key.keys[0].hash: environment variable X is not set",
            "plugins.rate-limiting.redis.password: environment variable Y is not set",
        ]
    );
}

#[test]
fn secret_references_are_refused_everywhere() {
    for written in ["secret://a/b", "x secret://a", "SECRET://a", "${VAULT}"] {
        assert_eq!(
            lines_with(&nested("database.url", &format!("'{written}'")), &VARIABLES),
            ["database.url: secret:// references are not supported"]
        );
    }
}
