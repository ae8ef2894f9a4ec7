//! Sections that are more than a few plain fields: the probe of the upstream, `body_size`, `security_headers`.

use std::time::Duration;

use serde_yaml::Value;

use super::settings::Settings;
use super::values::parse_size;

/// Section `upstream.health`, when it is enabled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Target of the request, as it is sent; begins with `/`.
    pub path: String,
    /// From the beginning of one request to the beginning of the next.
    pub interval: Duration,
    /// From connecting to the head of the answer.
    pub timeout: Duration,
    /// So many failures in a row make the upstream `failing`; at least 1.
    pub unhealthy_threshold: u32,
    /// So many good answers in a row make it `ok`; at least 1.
    pub healthy_threshold: u32,
}

/// Section `body_size`. Sizes are bytes of content; `None` = no limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodySize {
    /// Where no override matches.
    pub max: Option<u64>,
    /// In the order of the file; no two have the same path.
    pub overrides: Vec<BodySizeOverride>,
}

/// An entry of `body_size.overrides`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodySizeOverride {
    /// Prefix of the percent-decoded path; counts where it ends on a segment boundary. No slash at its end but for
    /// the root.
    pub path: String,
    /// The limit there.
    pub max: Option<u64>,
}

/// Section `security_headers`. An empty text leaves the upstream's header alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecurityHeaders {
    /// Whether any of the headers is set; `suppress_via_header` counts all the same.
    pub enabled: bool,
    /// `Strict-Transport-Security`; only where clients come over TLS.
    pub hsts: Hsts,
    /// `X-Content-Type-Options: nosniff`
    pub content_type_nosniff: bool,
    /// `X-Frame-Options`: `DENY`, `SAMEORIGIN` or empty.
    pub frame_option: String,
    /// `Content-Security-Policy`: what was written, or else what the lists of `csp` come to.
    pub content_security_policy: String,
    /// `Referrer-Policy`
    pub referrer_policy: String,
    /// `Permissions-Policy`
    pub permissions_policy: String,
    /// `Cross-Origin-Opener-Policy`
    pub cross_origin_opener_policy: String,
    /// `Cross-Origin-Resource-Policy`
    pub cross_origin_resource_policy: String,
    /// `X-Permitted-Cross-Domain-Policies`
    pub permitted_cross_domain_policies: String,
    /// No `Via` in answers; otherwise our own is appended to the upstream's.
    pub suppress_via_header: bool,
}

/// The keys `security_headers.hsts_…` (RFC 6797 section 6.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hsts {
    /// `max-age` in seconds; 0 = the header is not set.
    pub max_age: u32,
    /// `includeSubDomains`
    pub include_subdomains: bool,
    /// `preload`
    pub preload: bool,
}

/// The lists of `security_headers.csp` in the order in which they are written.
const CSP_LISTS: [&str; 15] = [
    "default_src",
    "script_src",
    "style_src",
    "img_src",
    "connect_src",
    "font_src",
    "frame_src",
    "media_src",
    "object_src",
    "manifest_src",
    "worker_src",
    "child_src",
    "form_action",
    "frame_ancestors",
    "base_uri",
];

impl Probe {
    pub(super) fn from_settings(settings: &Settings) -> Option<Self> {
        settings.bool("upstream.health.enabled").then(|| Self {
            path: settings.text("upstream.health.path").to_owned(),
            interval: settings.duration("upstream.health.interval"),
            timeout: settings.duration("upstream.health.timeout"),
            unhealthy_threshold: settings.int("upstream.health.unhealthy_threshold"),
            healthy_threshold: settings.int("upstream.health.healthy_threshold"),
        })
    }
}

impl BodySize {
    pub(super) fn from_settings(settings: &Settings) -> Self {
        let limit = |bytes: u64| Some(bytes).filter(|bytes| *bytes > 0);
        let entries = settings.tree("body_size.overrides").as_sequence();
        let overrides = entries.into_iter().flatten().filter_map(|entry| {
            let path = entry.get("path")?.as_str()?.to_owned();
            Some(BodySizeOverride { path, max: limit(size_of(entry.get("max")?)?) })
        });
        Self { max: limit(settings.size("body_size.max")), overrides: overrides.collect() }
    }
}

/// A size inside of an object, which was read and printed by its kind.
fn size_of(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str().and_then(parse_size))
}

impl SecurityHeaders {
    pub(super) fn from_settings(settings: &Settings) -> Self {
        let text = |key: &str| settings.text(&format!("security_headers.{key}")).to_owned();
        Self {
            enabled: settings.bool("security_headers.enabled"),
            hsts: Hsts {
                max_age: settings.int("security_headers.hsts_max_age"),
                include_subdomains: settings.bool("security_headers.hsts_include_subdomains"),
                preload: settings.bool("security_headers.hsts_preload"),
            },
            content_type_nosniff: settings.bool("security_headers.content_type_nosniff"),
            frame_option: text("frame_option"),
            content_security_policy: content_security_policy(settings),
            referrer_policy: text("referrer_policy"),
            permissions_policy: text("permissions_policy"),
            cross_origin_opener_policy: text("cross_origin_opener_policy"),
            cross_origin_resource_policy: text("cross_origin_resource_policy"),
            permitted_cross_domain_policies: text("permitted_cross_domain_policies"),
            suppress_via_header: settings.bool("security_headers.suppress_via_header"),
        }
    }
}

fn content_security_policy(settings: &Settings) -> String {
    let whole = settings.text("security_headers.content_security_policy");
    if !whole.is_empty() {
        return whole.to_owned();
    }
    let directives = CSP_LISTS.iter().filter_map(|name| {
        let sources = settings.list(&format!("security_headers.csp.{name}"));
        (!sources.is_empty()).then(|| format!("{} {}", name.replace('_', "-"), sources.join(" ")))
    });
    directives.collect::<Vec<String>>().join("; ")
}
