//! Variables: which exist, what they win over, and what happens to the others.

use super::super::environment::lay_over;
use super::super::schema::{Key, SCHEMA, variable_of};
use super::super::setting::Setting;
use super::*;

#[test]
fn variables_are_named_after_their_keys() {
    assert_eq!(variable_of("rate_limit.per_ip.burst"), "VIBEWARDEN_RATE_LIMIT_PER_IP_BURST");
    let mut names: Vec<String> = SCHEMA.iter().map(|key| variable_of(key.name)).collect();
    names.sort();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count, "two keys share a variable");
}

/// Text that the key accepts and that is not its default.
fn sample(key: &Key) -> (String, Setting) {
    let candidates = [
        "true",
        "false",
        "7",
        "77",
        "7777",
        "45s",
        "3GB",
        "epoll",
        "external",
        "jwt",
        "allow_public",
        "custom",
        "redis",
        "allowlist",
        "warn",
        "text",
        "SAMEORIGIN",
        "2KB",
        "PS256, EdDSA",
        "query:t, header",
        "waf, cors",
        "10.0.0.1",
        "10.0.0.0/8",
        "http://other.example",
        "redis://h:1/2",
        "h:1",
        "/a, /b/*",
        "/a/:id",
        "https://a.example, null",
        "other",
    ];
    for text in candidates {
        if let Some(setting) =
            key.parse(text).filter(|setting| Some(setting) != key.default().as_ref())
        {
            return (text.to_owned(), setting);
        }
    }
    panic!("no sample fits {}", key.name);
}

#[test]
fn every_key_can_be_given_by_variable_and_by_file_to_the_same_effect() {
    for key in SCHEMA
        .iter()
        .filter(|key| key.kind.has_variable() && key.name != "auth.api_key.openbao_path")
    {
        let (text, expected) = sample(key);
        let mut by_file = Layers::default();
        by_file.add_file(&yaml::parse(&nested(key.name, &format!("'{text}'"))).unwrap());
        let mut by_variable = Layers::default();
        lay_over(&mut by_variable, &env(&[(&variable_of(key.name), &text)]));
        for layers in [by_file, by_variable] {
            assert_eq!(layers.mistakes, [], "{}", key.name);
            assert_eq!(layers.given.len(), 1, "{}", key.name);
            assert_eq!(layers.given[key.name].setting, expected, "{}", key.name);
        }
    }
}

#[test]
fn lists_of_objects_and_maps_have_no_variable() {
    for name in [
        "AUTH_API_KEY_KEYS",
        "AUTH_ROLE_PATHS",
        "BODY_SIZE_OVERRIDES",
        "AUTH_JWT_CLAIMS_TO_HEADERS",
    ] {
        let variable = format!("VIBEWARDEN_{name}");
        let warnings = loaded_with("", &[(&variable, "x")]).warnings;
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains(&variable), "{warnings:?}");
    }
}

#[test]
fn precedence_is_environment_flat_plugins_default() {
    let plugins = "plugins: {metrics: {enabled: false, path_patterns: [/p]}}\n";
    let flat = "metrics: {path_patterns: [/f]}\n";
    let variable = [("VIBEWARDEN_METRICS_PATH_PATTERNS", "/e")];
    let patterns = |text: &str, env: &[(&str, &str)]| {
        loaded_with(text, env).config.telemetry.path_patterns.join(" ")
    };
    assert_eq!(patterns("", &[]), "");
    assert_eq!(patterns(plugins, &[]), "/p");
    assert_eq!(patterns(&format!("{plugins}{flat}"), &[]), "/f");
    assert_eq!(patterns(&format!("{plugins}{flat}"), &variable), "/e");
    // what only the lower form says still counts
    assert!(!config(&format!("{plugins}{flat}")).telemetry.enabled);
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let text = "server: {port: 81}";
    let loaded = loaded_with(text, &[("VIBEWARDEN_SERVER_PORT", ""), ("VIBEWARDEN_NONSENSE", "")]);
    assert_eq!(loaded.config.server.port, 81);
    assert_eq!(loaded.warnings, Vec::<String>::new());
}

#[test]
fn lists_are_comma_separated() {
    let variables = [("VIBEWARDEN_SERVER_TRUSTED_PROXIES", "10.0.0.0/8, ::1,192.168.1.1")];
    let blocks = loaded_with("", &variables).config.server.trusted_proxies;
    let blocks: Vec<String> = blocks.iter().map(ToString::to_string).collect();
    assert_eq!(blocks, ["10.0.0.0/8", "::1", "192.168.1.1"]);
}

#[test]
fn a_wrong_variable_is_a_mistake_of_its_key() {
    assert_eq!(
        lines_with("", &[("VIBEWARDEN_SERVER_PORT", "many"), ("VIBEWARDEN_LOG_LEVEL", "loud")]),
        [
            "log.level: \"loud\" is not accepted; accepted values: \"debug\", \"info\", \"warn\", \"error\"",
            "server.port: expected a whole number, got \"many\"",
        ]
    );
    // the file is checked where the environment overrules it, too
    assert_eq!(
        lines_with("server: {port: x}", &[("VIBEWARDEN_SERVER_PORT", "1")]),
        ["server.port: expected a whole number, got \"x\""]
    );
}

#[test]
fn unknown_variables_are_one_warning_with_suggestions() {
    let variables = [
        ("VIBEWARDEN_UPSTREAM_PROT", "1"),
        ("VIBEWARDEN_XYZZY", "1"),
        ("VIBEWARDENX", "1"),
        ("OTHER", "1"),
        ("VIBEWARDEN_SERVER_PORT", "81"),
    ];
    assert_eq!(
        loaded_with("", &variables).warnings,
        [
            "unknown environment variables: VIBEWARDEN_UPSTREAM_PROT (did you mean VIBEWARDEN_UPSTREAM_PORT?), \
          VIBEWARDEN_XYZZY"
        ]
    );
}

#[test]
fn variables_of_sections_that_are_not_there_count_as_written_in_the_file() {
    let ignored = |variable: &str| loaded_with("", &[(variable, "x")]).warnings.join("\n");
    assert!(ignored("VIBEWARDEN_COMPRESSION_LEVEL").ends_with(": compression"));
    assert!(ignored("VIBEWARDEN_NAME").ends_with(": name"));
    assert!(ignored("VIBEWARDEN_SERVER_MEM_LIMIT").ends_with(": server.mem_limit"));
    assert!(ignored("VIBEWARDEN_AUTH_UI_LOGO").ends_with(": auth.ui.logo"));
    assert!(ignored("VIBEWARDEN_TELEMETRY_OTLP_ENDPOINT").ends_with(": telemetry.otlp"));
    assert!(
        ignored("VIBEWARDEN_WAFFLE")
            .starts_with("unknown environment variables: VIBEWARDEN_WAFFLE")
    );
    assert!(
        ignored("VIBEWARDEN_AUTH_UI")
            .starts_with("unknown environment variables: VIBEWARDEN_AUTH_UI")
    );

    for (variable, value, section) in [
        ("VIBEWARDEN_WAF_MODE", "block", "waf"),
        ("VIBEWARDEN_WAF_CONTENT_TYPE_VALIDATION_ENABLED", "true", "waf"),
        ("VIBEWARDEN_CORS_ENABLED", "true", "cors"),
        ("VIBEWARDEN_RESILIENCE_CIRCUIT_BREAKER_ENABLED", "true", "resilience.circuit_breaker"),
        ("VIBEWARDEN_RESPONSE_HEADERS_REMOVE", "Server", "response_headers"),
    ] {
        let lines = lines_with("", &[(variable, value)]);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with(&format!("{section}: asks for a protection")), "{lines:?}");
    }
    // and it wins over the file
    loaded_with("cors: {enabled: true}", &[("VIBEWARDEN_CORS_ENABLED", "false")]);
}

#[test]
fn secret_references_in_variables_are_refused() {
    let expected = "secret:// references are not supported";
    assert_eq!(
        lines_with("", &[("VIBEWARDEN_TLS_DOMAIN", "secret://a/b")]),
        [format!("tls.domain: {expected}")]
    );
    assert_eq!(lines_with("", &[("VIBEWARDEN_DATABASE_URL", "secret://a/b")]).len(), 1);
}
