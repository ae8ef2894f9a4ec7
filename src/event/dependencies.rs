//! Lines about what the proxy depends on: its configuration, the probe of the upstream, and the providers of identities.

use super::{Event, Value, kind};

impl Event<'_> {
    pub(super) fn probe_line(&self, at: jiff::Timestamp) -> Vec<u8> {
        let Self::UpstreamHealthChanged {
            consecutive,
            last_error,
            new_status,
            previous_status,
            upstream_url,
        } = *self
        else {
            return Vec::new();
        };
        let (severity, summary) = match new_status {
            "failing" => ("high", "The upstream fails its health probe: "),
            _ => ("info", "The upstream passes its health probe: "),
        };
        kind("upstream.health_changed", severity, "network", summary).of_system(
            at,
            upstream_url,
            &[
                ("consecutive", Value::Number(consecutive.into())),
                ("last_error", Value::MaybeText(last_error)),
                ("new_status", Value::Text(new_status)),
                ("previous_status", Value::Text(previous_status)),
                ("upstream_url", Value::Text(upstream_url)),
            ],
        )
    }

    pub(super) fn provider_line(&self, at: jiff::Timestamp) -> Vec<u8> {
        match *self {
            Self::AuthProviderUnavailable { affected_path, error, provider_url } => kind(
                "auth.provider_unavailable",
                "high",
                "auth",
                "The authentication provider is unreachable: ",
            )
            .of_system(
                at,
                provider_url,
                &[
                    ("affected_path", Value::Text(affected_path)),
                    ("error", Value::Text(error)),
                    ("provider_url", Value::Text(provider_url)),
                ],
            ),
            Self::AuthProviderRecovered { provider_url } => kind(
                "auth.provider_recovered",
                "info",
                "auth",
                "The authentication provider answers again: ",
            )
            .of_system(
                at,
                provider_url,
                &[("provider_url", Value::Text(provider_url))],
            ),
            Self::AuthJwksRefresh { jwks_url, key_count } => {
                kind("auth.jwks_refresh", "info", "auth", "The keys for tokens were fetched from ")
                    .of_system(
                        at,
                        jwks_url,
                        &[
                            ("jwks_url", Value::Text(jwks_url)),
                            ("key_count", Value::Number(key_count as u64)),
                        ],
                    )
            }
            Self::AuthJwksError { detail, jwks_url } => kind(
                "auth.jwks_error",
                "medium",
                "auth",
                "The keys for tokens could not be fetched from ",
            )
            .of_system(
                at,
                jwks_url,
                &[("detail", Value::Text(detail)), ("jwks_url", Value::Text(jwks_url))],
            ),
            _ => Vec::new(),
        }
    }

    pub(super) fn config_line(&self, at: jiff::Timestamp) -> Vec<u8> {
        match self {
            Self::ConfigReloaded { config_path, duration_ms, restart_required, trigger_source } => {
                kind("config.reloaded", "info", "audit", "The configuration was reloaded from ")
                    .of_config(
                        at,
                        config_path,
                        &[
                            ("config_path", Value::Text(config_path)),
                            ("duration_ms", Value::Number(*duration_ms)),
                            ("restart_required", Value::Texts(restart_required)),
                            ("trigger_source", Value::Text(trigger_source)),
                        ],
                    )
            }
            Self::ConfigReloadFailed { config_path, reason, trigger_source, validation_errors } => {
                kind(
                    "config.reload_failed",
                    "medium",
                    "audit",
                    "The new configuration was not taken: ",
                )
                .of_config(
                    at,
                    config_path,
                    &[
                        ("config_path", Value::Text(config_path)),
                        ("reason", Value::Text(reason)),
                        ("trigger_source", Value::Text(trigger_source)),
                        ("validation_errors", Value::Lines(validation_errors)),
                    ],
                )
            }
            _ => Vec::new(),
        }
    }
}
