//! From what was given to what is in force: defaults, and the rules that look at more than one key.

use serde_yaml::Value;

use super::auth;
use super::layers::{Given, Layers};
use super::mistakes::{Mistake, Problem};
use super::schema::SCHEMA;
use super::setting::Setting;
use super::settings::Settings;
use super::tls;
use super::unsupported;
use super::url::upstream_target;
use super::{TRUST_PROXY_HEADERS, UpstreamTarget};
use crate::certificate::Certificate;

/// Port with TLS, and without it.
const PORTS: [u32; 2] = [8443, 8080];

/// What a configuration without mistakes comes to.
pub(super) struct Resolved {
    pub(super) settings: Settings,
    /// That of an external provider of TLS.
    pub(super) certificate: Option<Certificate>,
    pub(super) warnings: Vec<String>,
}

/// Everything in force, or every mistake.
pub(super) fn resolve(mut layers: Layers) -> Result<Resolved, Vec<Mistake>> {
    let mut warnings = Vec::new();
    auth_mode(&mut layers, &mut warnings);
    let mut settings = Settings::default();
    for key in SCHEMA {
        let given = layers.given.get(key.name).map(|given| given.setting.clone());
        if let Some(setting) = given.or_else(|| key.default()) {
            settings.values.insert(key.name, setting);
        }
    }
    settings.values.remove("auth.enabled");
    port(&mut settings);
    telemetry(&layers, &mut settings);
    upstream(&mut layers, &mut settings);
    probe(&mut layers, &settings);
    auth::rules(&mut layers, &settings, &mut warnings);
    rate_limit(&mut layers, &settings);
    let certificate = tls::certificate(&mut layers, &settings);
    let allowed = settings.list("allow_unsupported");
    unsupported::missing_protections(&layers.ignored, allowed, &mut layers.mistakes);
    warn(&layers, &mut warnings);
    warn_of_private_peers(&settings, &mut warnings);
    settings.ignored = layers.ignored;
    settings.ignored.retain(|_, value| !value.is_null());
    if layers.mistakes.is_empty() {
        Ok(Resolved { settings, certificate, warnings })
    } else {
        Err(layers.mistakes)
    }
}

/// The spellings of `auth.mode`: `plugins.user-management.enabled` means kratos where no mode is given; `auth.enabled`
/// says nothing that the mode does not say.
pub(super) fn auth_mode(layers: &mut Layers, warnings: &mut Vec<String>) {
    let explicit = text_of(layers, "auth.mode");
    match (layers.user_management, explicit.as_deref()) {
        (Some(true), None) => {
            let place = "plugins.user-management.enabled".to_owned();
            layers
                .given
                .insert("auth.mode", Given { setting: Setting::Text("kratos".to_owned()), place });
        }
        (Some(enabled), Some(mode)) if mode != if enabled { "kratos" } else { "none" } => {
            warnings.push(format!(
                "auth.mode is \"{mode}\" as written; plugins.user-management.enabled: {enabled} has no effect on it"
            ));
        }
        _ => {}
    }
    let Some(Setting::Bool(enabled)) = layers.given.get("auth.enabled").map(|given| &given.setting)
    else {
        return;
    };
    let mode = text_of(layers, "auth.mode").unwrap_or_else(|| "none".to_owned());
    if *enabled == (mode == "none") {
        let problem = Problem::Disagree {
            keys: ["auth.enabled".into(), "auth.mode".into()],
            values: [enabled.to_string(), mode],
        };
        let place = layers.given["auth.enabled"].place.clone();
        layers.mistakes.push(Mistake::new(place, problem));
    } else {
        warnings.push(
            "auth.enabled is another spelling of auth.mode; auth.mode alone is enough".to_owned(),
        );
    }
}

fn text_of(layers: &Layers, key: &str) -> Option<String> {
    match layers.given.get(key).map(|given| &given.setting) {
        Some(Setting::Text(text)) => Some(text.clone()),
        _ => None,
    }
}

fn port(settings: &mut Settings) {
    let default = if settings.bool("tls.enabled") { PORTS[0] } else { PORTS[1] };
    settings.values.entry("server.port").or_insert(Setting::Int(default));
}

/// Where `telemetry` is absent, `metrics` speaks for it.
fn telemetry(layers: &Layers, settings: &mut Settings) {
    let given = layers.given.keys().any(|key| key.starts_with("telemetry."));
    let ignored =
        layers.ignored.keys().any(|path| path.first().is_some_and(|first| first == "telemetry"));
    if given || ignored {
        return;
    }
    for (key, from) in [
        ("telemetry.enabled", "metrics.enabled"),
        ("telemetry.path_patterns", "metrics.path_patterns"),
    ] {
        if let Some(setting) = settings.values.get(from).cloned() {
            settings.values.insert(key, setting);
        }
    }
}

/// What other keys make necessary.
fn rate_limit(layers: &mut Layers, settings: &Settings) {
    let mut require = |place: &str, key: &str, value: &'static str| {
        // A value that is there and wrong has been told already.
        if !layers.mistakes.iter().any(|mistake| mistake.place.starts_with(place)) {
            let problem = Problem::RequiredWhen { key: key.to_owned(), value };
            layers.mistakes.push(Mistake::new(place, problem));
        }
    };
    if settings.bool("server.proxy_protocol") && settings.list("server.trusted_proxies").is_empty()
    {
        require("server.trusted_proxies", "server.proxy_protocol", "true");
    }
    let given = ["rate_limit.redis.url", "rate_limit.redis.address"];
    if settings.text("rate_limit.store") == "redis"
        && given.iter().all(|key| settings.text(key).is_empty())
    {
        require("rate_limit.redis.url", "rate_limit.store", "redis");
    }
}

/// `upstream.url` decides; host and port follow it, and what was written for them has to say the same.
fn upstream(layers: &mut Layers, settings: &mut Settings) {
    if matches!(settings.values.get("upstream.url"), Some(Setting::Text(url)) if url.is_empty()) {
        settings.values.remove("upstream.url");
    }
    let Some(Setting::Text(url)) = settings.values.get("upstream.url").cloned() else {
        return;
    };
    let Ok(target) = upstream_target(&url) else {
        return;
    };
    let followers = match &target {
        UpstreamTarget::Tcp { host, port } => {
            [Some(Setting::Text(host.clone())), Some(Setting::Int(u32::from(*port)))]
        }
        UpstreamTarget::Unix(_) => [None, None],
    };
    for (key, follower) in ["upstream.host", "upstream.port"].into_iter().zip(followers) {
        if let Some(given) = layers.given.get(key)
            && !same(&given.setting, follower.as_ref())
        {
            let written = given.setting.to_value();
            let values = [url.clone(), plain_text(&written)];
            let problem = Problem::Disagree { keys: ["upstream.url".into(), key.into()], values };
            layers
                .mistakes
                .push(Mistake::new(layers.given["upstream.url"].place.as_str(), problem));
        }
        match follower {
            Some(setting) => settings.values.insert(key, setting),
            None => settings.values.remove(key),
        };
    }
}

fn probe(layers: &mut Layers, settings: &Settings) {
    if settings.bool("upstream.health.enabled") && settings.text("upstream.health.path").is_empty()
    {
        let key = "upstream.health.enabled".to_owned();
        let problem = Problem::RequiredWhen { key, value: "true" };
        layers.mistakes.push(Mistake::new("upstream.health.path", problem));
    }
}

/// Host names have no case.
fn same(given: &Setting, follower: Option<&Setting>) -> bool {
    match (given, follower) {
        (Setting::Text(given), Some(Setting::Text(follower))) => {
            given.eq_ignore_ascii_case(follower)
        }
        (given, follower) => Some(given) == follower,
    }
}

fn plain_text(value: &Value) -> String {
    value.as_str().map_or_else(
        || value.as_u64().map(|number| number.to_string()).unwrap_or_default(),
        str::to_owned,
    )
}

/// The second form of trust is a guess about the network.
fn warn_of_private_peers(settings: &Settings, warnings: &mut Vec<String>) {
    let keys: Vec<&str> =
        TRUST_PROXY_HEADERS.into_iter().filter(|key| settings.bool(key)).collect();
    if settings.list("server.trusted_proxies").is_empty() && !keys.is_empty() {
        let keys = keys.join(", ");
        warnings.push(format!(
            "{keys}: forwarding headers of every private and loopback peer are believed; better list your proxies in server.trusted_proxies"
        ));
    }
}

/// One line per kind.
fn warn(layers: &Layers, warnings: &mut Vec<String>) {
    if !layers.overruled.is_empty() {
        let keys = layers.overruled.join(", ");
        warnings.push(format!(
            "given twice; the flat key, or else plugins.auth, is used instead of: {keys}"
        ));
    }
    let present = layers.ignored.iter().filter(|(_, value)| !value.is_null());
    let ignored: Vec<String> = present.map(|(path, _)| path.join(".")).collect();
    if !ignored.is_empty() {
        warnings.push(format!("ignored, this engine has no use for: {}", ignored.join(", ")));
    }
    if !layers.unknown_variables.is_empty() {
        warnings.push(format!(
            "unknown environment variables: {}",
            layers.unknown_variables.join(", ")
        ));
    }
}
