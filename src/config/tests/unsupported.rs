//! Sections of the wider product.

use super::super::unsupported::names;
use super::*;

const ALWAYS_A_WARNING: [&str; 32] = [
    "app",
    "name",
    "deploy",
    "profile",
    "overrides",
    "database",
    "observability",
    "audit",
    "admin",
    "compression",
    "error_pages",
    "resilience.retry",
    "server.mem_limit",
    "server.cpu_limit",
    "server.pids_limit",
    "tls.storage_path",
    "tls.email",
    "tls.acme_ca",
    "tls.skip_rate_limit_check",
    "auth.identity_schema",
    "auth.social_providers",
    "auth.seed_demo_users",
    "auth.ui.logo",
    "auth.api_key.cache_ttl",
    "tls.cert_monitoring",
    "kratos.admin_url",
    "kratos.dsn",
    "kratos.smtp",
    "kratos.external",
    "telemetry.otlp",
    "telemetry.logs",
    "telemetry.traces",
];

#[test]
fn most_are_ignored_with_one_warning() {
    for key in ALWAYS_A_WARNING {
        for value in ["x", "{enabled: true, mode: block, children: {are: [not, checked]}}"] {
            let loaded = loaded(&nested(key, value));
            assert_eq!(loaded.warnings, [format!("ignored, this engine has no use for: {key}")]);
            assert_eq!(loaded.config.server, Config::default().server);
        }
    }
    let several =
        loaded("name: a\nserver: {mem_limit: 1GB}\napp: {}\nwaf: {mode: detect}\ncompression:\n");
    assert_eq!(
        several.warnings,
        ["ignored, this engine has no use for: app, name, server.mem_limit, waf"]
    );
}

/// YAML that asks for a protection, and YAML of the same section that does not.
const PROTECTIONS: [(&str, &[&str], &[&str]); 9] = [
    (
        "waf",
        &["{mode: block}", "{mode: Block}", "{content_type_validation: {enabled: true}}"],
        &["{mode: detect, enabled: true}", "{content_type_validation: {enabled: false}}", "{}"],
    ),
    (
        "input_validation",
        &["{enabled: true}", "{enabled: 'true'}", "true"],
        &["{enabled: false}", "{max: 5}", "false"],
    ),
    (
        "cors",
        &["{enabled: true}", "{enabled: yes}", "{enabled: 1}"],
        &["{enabled: false}", "{enabled: no}"],
    ),
    ("egress", &["{enabled: true}"], &["{enabled: false}", "{enabled: }"]),
    ("secrets", &["{enabled: true}"], &["{enabled: 'off'}"]),
    ("maintenance", &["{enabled: true}"], &["{enabled: ''}"]),
    ("resilience.circuit_breaker", &["{enabled: true}"], &["{enabled: 0}", "{threshold: 5}"]),
    (
        "webhooks",
        &["{enabled: true}", "[{url: 'http://a'}]", "{endpoints: [{url: 'http://a'}]}"],
        &["[]", "{endpoints: []}", "{timeout: 5s}"],
    ),
    (
        "response_headers",
        &["{set: {A: b}}", "{add: {A: b}}", "{remove: [Server]}", "{remove: Server}"],
        &["{set: {}, add: {}, remove: []}", "{enabled: true}"],
    ),
];

#[test]
fn n_a_protection_that_would_be_missing_stops_the_start() {
    for (section, asking, quiet) in PROTECTIONS {
        let problem = format!(
            "{section}: asks for a protection this engine does not provide; remove it or list \"{section}\" in allow_unsupported"
        );
        let warning = format!("ignored, this engine has no use for: {section}");
        for value in asking {
            let text = nested(section, value);
            assert_eq!(lines(&text), [problem.as_str()], "{text}");
            let allowed = format!("{text}allow_unsupported: [{section}]\n");
            assert_eq!(loaded(&allowed).warnings, [warning.as_str()], "{text}");
            let other = if section == "waf" { "cors" } else { "waf" };
            assert_eq!(lines(&format!("{text}allow_unsupported: [{other}]\n")).len(), 1);
        }
        for value in quiet {
            assert_eq!(
                loaded(&nested(section, value)).warnings,
                [warning.as_str()],
                "{section}: {value}"
            );
        }
    }
}

#[test]
fn n_holds_for_the_plugins_form_and_the_environment() {
    let text = "plugins: {cors: {enabled: true}, input-validation: {enabled: true}}";
    assert_eq!(lines(text).len(), 2);
    let allowed = [("VIBEWARDEN_ALLOW_UNSUPPORTED", "cors,input_validation")];
    assert_eq!(
        loaded_with(text, &allowed).warnings,
        ["ignored, this engine has no use for: cors, input_validation"]
    );
}

#[test]
fn every_name_can_be_allowed() {
    let all = names().collect::<Vec<_>>().join(", ");
    loaded(&format!("allow_unsupported: [{all}]"));
    assert_eq!(names().count(), ALWAYS_A_WARNING.len() - 1 + PROTECTIONS.len());
}
