//! `upstream.health`, `body_size` and `security_headers` as the program sees them.

use super::*;

const MB: u64 = 1 << 20;

#[test]
fn the_probe_is_there_when_it_is_enabled() {
    assert_eq!(Config::default().upstream.health, None);
    let by_default = Probe {
        path: "/health".to_owned(),
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(2),
        unhealthy_threshold: 3,
        healthy_threshold: 2,
    };
    let enabled = [("VIBEWARDEN_UPSTREAM_HEALTH_ENABLED", "true")];
    assert_eq!(loaded_with("", &enabled).config.upstream.health, Some(by_default.clone()));
    let text = "upstream: {health: {enabled: yes-it-is, path: '/up?deep=1', interval: 100ms, timeout: 1.5s, \
                unhealthy_threshold: 1, healthy_threshold: 9}}";
    assert_eq!(lines(text).len(), 1);
    let written = Probe {
        path: "/up?deep=1".to_owned(),
        interval: Duration::from_millis(100),
        timeout: Duration::from_millis(1_500),
        unhealthy_threshold: 1,
        healthy_threshold: 9,
    };
    let health = config(&text.replace("yes-it-is", "true")).upstream.health;
    assert_eq!(health, Some(written));
    assert_eq!(config(&text.replace("yes-it-is", "false")).upstream.health, None);
}

#[test]
fn a_probe_needs_a_path() {
    assert_eq!(
        lines("upstream: {health: {enabled: true, path: ''}}"),
        ["upstream.health.path: required when upstream.health.enabled is true"]
    );
    loaded("upstream: {health: {enabled: false, path: ''}}");
}

#[test]
fn a_body_may_have_one_megabyte_unless_something_else_is_written() {
    let by_default = BodySize { max: Some(MB), overrides: Vec::new() };
    assert_eq!(Config::default().body_size, by_default);
    for (written, max) in
        [("0", None), ("''", None), ("1", Some(1)), ("2KB", Some(2048)), ("'10MB'", Some(10 * MB))]
    {
        assert_eq!(config(&format!("body_size: {{max: {written}}}")).body_size.max, max);
    }
    let text = "body_size: {overrides: [{path: /upload, max: 2GB}, {path: /a b/, max: ''}, {path: /, max: 7}]}";
    let limits = [("/upload", Some(2048 * MB)), ("/a b", None), ("/", Some(7))];
    let overrides = limits.map(|(path, max)| BodySizeOverride { path: path.to_owned(), max });
    assert_eq!(config(text).body_size, BodySize { max: Some(MB), overrides: overrides.to_vec() });
    assert_eq!(
        lines("body_size: {overrides: [{path: /a}]}"),
        ["body_size.overrides[0].max: required when body_size.overrides[0] is given"]
    );
    assert_eq!(
        lines("body_size: {max: 1XB}"),
        ["body_size.max: \"1XB\" is not a size (supported units: B, KB, MB, GB, TB)"]
    );
}

#[test]
fn security_headers_are_on_by_default() {
    let headers = Config::default().security_headers;
    assert!(headers.enabled && headers.suppress_via_header && headers.content_type_nosniff);
    let hsts = Hsts { max_age: 31_536_000, include_subdomains: true, preload: false };
    assert_eq!(headers.hsts, hsts);
    assert_eq!(headers.frame_option, "DENY");
    assert_eq!(headers.content_security_policy, "");
    assert_eq!(headers.referrer_policy, "strict-origin-when-cross-origin");
    assert_eq!(headers.permissions_policy, "");
    assert_eq!(headers.cross_origin_opener_policy, "same-origin");
    assert_eq!(headers.cross_origin_resource_policy, "same-origin");
    assert_eq!(headers.permitted_cross_domain_policies, "none");
    let by_env = [
        ("VIBEWARDEN_SECURITY_HEADERS_ENABLED", "false"),
        ("VIBEWARDEN_SECURITY_HEADERS_CSP_IMG_SRC", "a.test, 'self'"),
    ];
    let headers =
        loaded_with("security_headers: {frame_option: ''}", &by_env).config.security_headers;
    assert!(!headers.enabled);
    assert_eq!(headers.frame_option, "");
    assert_eq!(headers.content_security_policy, "img-src a.test 'self'");
}

#[test]
fn the_lists_of_csp_have_their_order_and_the_raw_policy_wins() {
    let names = "default_src script_src style_src img_src connect_src font_src frame_src media_src object_src \
                 manifest_src worker_src child_src form_action frame_ancestors base_uri";
    // written backwards, so that the order is not that of the file
    let lists: Vec<String> =
        names.split(' ').rev().map(|name| format!("{name}: [{name}.test, x]")).collect();
    let lists = lists.join(", ");
    let expected: Vec<String> =
        names.split(' ').map(|name| format!("{} {name}.test x", name.replace('_', "-"))).collect();
    let from_lists = config(&format!("security_headers: {{csp: {{{lists}}}}}"));
    assert_eq!(from_lists.security_headers.content_security_policy, expected.join("; "));
    let raw = "content_security_policy: \"default-src 'none'; sandbox\"";
    let both = config(&format!("security_headers: {{{raw}, csp: {{{lists}}}}}"));
    assert_eq!(both.security_headers.content_security_policy, "default-src 'none'; sandbox");
}

#[test]
fn the_sections_are_printed_so_that_they_load_again() {
    for text in [
        "body_size: {max: '', overrides: [{path: /a, max: 1536}, {path: /b, max: 2MB}, {path: /c, max: 0}]}",
        "upstream: {health: {enabled: true, path: '/a?b', interval: 1.5s, timeout: 100ms}}",
        "security_headers: {frame_option: '', hsts_preload: true, csp: {img_src: [\"'self'\", 'https:'], base_uri: [x]}}",
        "plugins: {security-headers: {enabled: false}, body-size: {max: 3KB}}",
    ] {
        let first = config(text);
        assert_ne!(first, Config::default(), "{text}");
        let again = config(&first.to_yaml(0));
        assert_eq!(again, first, "{text}");
    }
}
