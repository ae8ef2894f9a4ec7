//! The `plugins:` form.

use super::*;

#[test]
fn the_seed_example_is_read_as_written() {
    let text = r#"upstream:
  url: "http://localhost:3000"

plugins:
  rate-limiting:
    enabled: true
  user-management:
    enabled: true
"#;
    let mut layers = Layers::default();
    layers.add_file(&yaml::parse(text).unwrap());
    assert_eq!(layers.mistakes, []);
    assert_eq!(layers.user_management, Some(true));
    assert_eq!(layers.given["rate_limit.enabled"].place, "plugins.rate-limiting.enabled");
    let config = loaded(text).config;
    assert!(matches!(config.auth.mode, Mode::Kratos(_)), "{:?}", config.auth.mode);
    assert!(config.rate_limit.enabled);
}

#[test]
fn each_plugin_is_its_flat_section() {
    for (plugin, key, value) in [
        ("tls", "tls.domain", "a.example"),
        ("auth", "auth.session_cookie_name", "sid"),
        ("user-management", "auth.session_cookie_name", "sid"),
        ("metrics", "metrics.enabled", "false"),
        ("rate-limiting", "rate_limit.per_ip.burst", "7"),
        ("security-headers", "security_headers.csp.img_src", "[a]"),
        ("body-size", "body_size.overrides", "[]"),
        ("ip-filter", "ip_filter.mode", "allowlist"),
    ] {
        let (_, below) = key.split_once('.').unwrap();
        let by_plugin = loaded(&nested(&format!("plugins.{plugin}.{below}"), value));
        assert_eq!(by_plugin.config, loaded(&nested(key, value)).config, "{plugin}");
        assert_eq!(by_plugin.warnings, Vec::<String>::new());
    }
    for (plugin, section) in [
        ("cors", "cors"),
        ("waf", "waf"),
        ("maintenance", "maintenance"),
        ("secrets", "secrets"),
        ("egress", "egress"),
        ("webhooks", "webhooks"),
        ("input-validation", "input_validation"),
        ("response-headers", "response_headers"),
    ] {
        let by_plugin = loaded(&nested(&format!("plugins.{plugin}.x"), "1"));
        let flat = loaded(&nested(&format!("{section}.x"), "1"));
        assert_eq!(
            (by_plugin.config, by_plugin.warnings),
            (flat.config, flat.warnings),
            "{plugin}"
        );
    }
}

#[test]
fn the_flat_form_wins_with_one_warning() {
    let text = "tls: {domain: flat}\nlog: {level: warn}\nwaf: {mode: detect}\n\
                plugins: {tls: {domain: plugin, cert_path: /c}, waf: {mode: block}}\n";
    let loaded = loaded(text);
    assert_eq!(loaded.config.settings.text("tls.domain"), "flat");
    assert_eq!(loaded.config.settings.text("tls.cert_path"), "/c");
    assert_eq!(
        loaded.warnings,
        [
            "given twice; the flat key, or else plugins.auth, is used instead of: plugins.tls.domain, plugins.waf",
            "ignored, this engine has no use for: waf",
        ]
    );
}

#[test]
fn a_plugin_key_that_loses_is_checked_all_the_same() {
    assert_eq!(
        lines("metrics: {enabled: true}\nplugins: {metrics: {enabled: maybe}}"),
        ["plugins.metrics.enabled: expected true or false, got \"maybe\""]
    );
}

/// What `auth.mode` comes to, and the warnings. This looks at the layers: a mode alone is not all that it needs.
fn mode(text: &str, variables: &[(&str, &str)]) -> (String, Vec<String>) {
    let mut layers = Layers::default();
    layers.add_file(&yaml::parse(text).unwrap());
    super::super::environment::lay_over(&mut layers, &env(variables));
    let mut warnings = Vec::new();
    resolve::auth_mode(&mut layers, &mut warnings);
    let mode = match layers.given.get("auth.mode").map(|given| &given.setting) {
        Some(setting::Setting::Text(mode)) => mode.clone(),
        _ => "none".to_owned(),
    };
    (mode, warnings)
}

#[test]
fn user_management_means_kratos_where_no_mode_is_given() {
    let on = "plugins: {user-management: {enabled: true}}\n";
    let both = |auth: &str| format!("{on}{auth}");
    assert_eq!(mode(on, &[]), ("kratos".to_owned(), vec![]));
    assert_eq!(
        mode("plugins: {user-management: {enabled: false}}", &[]),
        ("none".to_owned(), vec![])
    );
    assert_eq!(mode(&both("auth: {mode: kratos}"), &[]), ("kratos".to_owned(), vec![]));
    assert_eq!(mode(&both("auth: {public_paths: [/a]}"), &[]), ("kratos".to_owned(), vec![]));
    let warned = |outcome: (String, Vec<String>), expected: &str| {
        assert_eq!(outcome.0, expected);
        assert_eq!(outcome.1.len(), 1, "{:?}", outcome.1);
    };
    warned(mode(&both("auth: {mode: none}"), &[]), "none");
    warned(mode(&both("auth: {mode: jwt}"), &[]), "jwt");
    warned(mode(on, &[("VIBEWARDEN_AUTH_MODE", "api-key")]), "api-key");
    warned(mode("plugins: {auth: {mode: none}, user-management: {enabled: true}}", &[]), "none");
    warned(mode("plugins: {user-management: {enabled: true, mode: jwt}}", &[]), "jwt");
    warned(mode("plugins: {user-management: {enabled: false, mode: jwt}}", &[]), "jwt");
}

#[test]
fn user_management_children_that_are_not_auth_are_named_and_ignored() {
    let loaded = loaded(
        "plugins: {user-management: {enabled: false, admin_token: x, 'a.b': 1, login_url: /in}}",
    );
    assert_eq!(
        loaded.warnings,
        [
            "ignored, this engine has no use for: plugins.user-management.a.b, plugins.user-management.admin_token"
        ]
    );
    assert_eq!(loaded.config.settings.text("auth.login_url"), "/in");
    assert_eq!(
        lines("plugins: {user-management: {enabled: 7, api_key: {hedaer: x}}}"),
        [
            "plugins.user-management.enabled: expected true or false, got \"7\"",
            "plugins.user-management.api_key.hedaer: unknown key; did you mean \"plugins.user-management.api_key.header\"?",
        ]
    );
}

#[test]
fn plugins_auth_is_heard_before_user_management() {
    let loaded =
        loaded("plugins: {user-management: {login_url: /second}, auth: {login_url: /first}}");
    assert_eq!(loaded.config.settings.text("auth.login_url"), "/first");
    assert_eq!(loaded.warnings.len(), 1);
}
