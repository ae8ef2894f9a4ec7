//! The tasks that ask providers of identities, and the part of the configuration that is theirs.

use tokio::sync::watch;

use super::ControlParts;
use super::jwks::{self, JwksParts, JwksSettings};
use super::kratos::{self, KratosParts, KratosSettings};
use crate::admission::jwt::Keys;
use crate::config::{Config, Mode};
use crate::providers::ProviderQuestions;
use crate::published::Published;

/// Tells the running tasks what is in force.
pub(super) struct Identities {
    keys: Published<Keys>,
    jwks: watch::Sender<Option<JwksSettings>>,
    kratos: watch::Sender<Option<KratosSettings>>,
}

/// Starts the tasks on the runtime of the calling task.
pub(super) fn start(parts: &ControlParts, questions: ProviderQuestions) -> Identities {
    let current = parts.policy.current();
    let (jwks, jwks_settings) = watch::channel(jwks_of(&current.config));
    let (kratos, kratos_settings) = watch::channel(kratos_of(&current.config));
    tokio::spawn(jwks::run(JwksParts {
        settings: jwks_settings,
        questions: questions.newer_keys,
        keys: parts.keys.clone(),
        events: parts.events.clone(),
    }));
    tokio::spawn(kratos::run(KratosParts {
        settings: kratos_settings,
        questions: questions.sessions,
        events: parts.events.clone(),
        metrics: parts.metrics.clone(),
    }));
    Identities { keys: parts.keys.clone(), jwks, kratos }
}

impl Identities {
    /// What a new configuration means for the providers. Called before the cores see it.
    pub(super) fn follow(&self, config: &Config) {
        let next = jwks_of(config);
        let source = |settings: &Option<JwksSettings>| {
            settings.as_ref().map(|settings| settings.source.clone())
        };
        if source(&next) != source(&self.jwks.borrow()) {
            // Not one request under the new rules is judged by the old keys.
            let generation = self.keys.current().generation + 1;
            self.keys.publish(Keys { set: None, generation, quiet_until: None });
        }
        self.jwks.send_replace(next);
        self.kratos.send_replace(kratos_of(config));
    }
}

fn jwks_of(config: &Config) -> Option<JwksSettings> {
    let Mode::Jwt(jwt) = &config.auth.mode else { return None };
    Some(JwksSettings { source: jwt.key_set.clone(), cache_ttl: jwt.cache_ttl })
}

fn kratos_of(config: &Config) -> Option<KratosSettings> {
    let Mode::Kratos(kratos) = &config.auth.mode else { return None };
    Some(KratosSettings {
        public_url: kratos.public_url.clone(),
        cookie_name: kratos.session_cookie_name.clone(),
        cache_ttl: kratos.cache_ttl.unwrap_or_default(),
        rules: config.auth.clone(),
    })
}
