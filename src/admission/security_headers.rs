//! The headers of `security_headers` (contract section 3.6), made once per configuration.

use crate::config::{Hsts, SecurityHeaders};

/// Names and values, in the order in which they are written. `tls`: clients come over TLS, without which
/// `Strict-Transport-Security` means nothing (RFC 6797 section 7.2).
pub fn of(headers: &SecurityHeaders, tls: bool) -> Vec<(&'static str, String)> {
    if !headers.enabled {
        return Vec::new();
    }
    let hsts = if tls { strict_transport_security(&headers.hsts) } else { String::new() };
    let nosniff = if headers.content_type_nosniff { "nosniff" } else { "" };
    let all = [
        ("Strict-Transport-Security", hsts),
        ("X-Content-Type-Options", nosniff.to_owned()),
        ("X-Frame-Options", headers.frame_option.clone()),
        ("Content-Security-Policy", headers.content_security_policy.clone()),
        ("Referrer-Policy", headers.referrer_policy.clone()),
        ("Permissions-Policy", headers.permissions_policy.clone()),
        ("Cross-Origin-Opener-Policy", headers.cross_origin_opener_policy.clone()),
        ("Cross-Origin-Resource-Policy", headers.cross_origin_resource_policy.clone()),
        ("X-Permitted-Cross-Domain-Policies", headers.permitted_cross_domain_policies.clone()),
    ];
    all.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}

fn strict_transport_security(hsts: &Hsts) -> String {
    if hsts.max_age == 0 {
        return String::new();
    }
    let subdomains = if hsts.include_subdomains { "; includeSubDomains" } else { "" };
    let preload = if hsts.preload { "; preload" } else { "" };
    format!("max-age={}{subdomains}{preload}", hsts.max_age)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::load_text;

    fn lines(section: &str, tls: bool) -> Vec<String> {
        let text = format!("security_headers: {{{section}}}");
        let loaded = load_text(&text, None, &BTreeMap::new());
        let config = loaded.unwrap_or_else(|mistakes| panic!("{mistakes}")).config;
        let headers = of(&config.security_headers, tls);
        headers.into_iter().map(|(name, value)| format!("{name}: {value}")).collect()
    }

    #[test]
    fn the_defaults() {
        let without_tls = [
            "X-Content-Type-Options: nosniff",
            "X-Frame-Options: DENY",
            "Referrer-Policy: strict-origin-when-cross-origin",
            "Cross-Origin-Opener-Policy: same-origin",
            "Cross-Origin-Resource-Policy: same-origin",
            "X-Permitted-Cross-Domain-Policies: none",
        ];
        assert_eq!(lines("", false), without_tls);
        let with_tls = lines("", true);
        assert_eq!(with_tls[0], "Strict-Transport-Security: max-age=31536000; includeSubDomains");
        assert_eq!(with_tls[1..], without_tls);
    }

    #[test]
    fn an_empty_value_sets_nothing() {
        let nothing = "content_type_nosniff: false, frame_option: '', referrer_policy: '', hsts_max_age: 0, \
                       cross_origin_opener_policy: '', cross_origin_resource_policy: '', \
                       permitted_cross_domain_policies: ''";
        assert_eq!(lines(nothing, true), <[&str; 0]>::default());
        let some = format!("{nothing}, permissions_policy: 'camera=()', csp: {{img_src: [a]}}");
        assert_eq!(
            lines(&some, true),
            ["Content-Security-Policy: img-src a", "Permissions-Policy: camera=()"]
        );
        assert_eq!(
            lines(&format!("enabled: false, {}", some.replace("age: 0", "age: 1")), true),
            [""; 0]
        );
    }

    #[test]
    fn strict_transport_security_says_what_is_asked_for() {
        for (section, value) in [
            ("hsts_max_age: 1, hsts_include_subdomains: false", "max-age=1"),
            ("hsts_include_subdomains: false, hsts_preload: true", "max-age=31536000; preload"),
            ("hsts_preload: true", "max-age=31536000; includeSubDomains; preload"),
        ] {
            assert_eq!(lines(section, true)[0], format!("Strict-Transport-Security: {value}"));
        }
    }
}
