//! Section `tls`: whether clients come over TLS, and which certificate they see.

use std::path::Path;

use super::layers::Layers;
use super::mistakes::{Mistake, Problem};
use super::settings::Settings;
use crate::certificate::{Certificate, CertificateError, CertificateFile};

/// How clients are served over TLS.
#[derive(Debug, Clone, PartialEq)]
pub enum Tls {
    /// With a certificate for this name that is made at start.
    SelfSigned(String),
    /// With this certificate, which was read from files.
    External(Certificate),
}

impl Tls {
    /// `None` = clients come without TLS. `certificate` is what [`certificate`] read.
    pub(super) fn from_settings(
        settings: &Settings,
        certificate: Option<Certificate>,
    ) -> Option<Self> {
        if !settings.bool("tls.enabled") {
            return None;
        }
        let domain = Some(settings.text("tls.domain")).filter(|domain| !domain.is_empty());
        let domain = domain.unwrap_or("localhost").to_owned();
        Some(certificate.map_or(Self::SelfSigned(domain), Self::External))
    }

    /// The value of `tls.provider`.
    pub fn provider(&self) -> &'static str {
        match self {
            Self::SelfSigned(_) => "self-signed",
            Self::External(_) => "external",
        }
    }

    /// What is in force after a reload to `next`: another certificate is taken, another provider needs a restart.
    pub(super) fn reloaded(&self, next: Option<Self>) -> Self {
        match (self, next) {
            (Self::External(_), Some(next @ Self::External(_))) => next,
            _ => self.clone(),
        }
    }
}

/// Reads the certificate of an external provider.
pub(super) fn certificate(layers: &mut Layers, settings: &Settings) -> Option<Certificate> {
    const KEYS: [&str; 2] = ["tls.cert_path", "tls.key_path"];
    if !settings.bool("tls.enabled") || settings.text("tls.provider") != "external" {
        return None;
    }
    let place = |layers: &Layers, key: &str| {
        layers.given.get(key).map_or(key.to_owned(), |given| given.place.clone())
    };
    let mut complete = true;
    for key in KEYS {
        if settings.text(key).is_empty() {
            complete = false;
            let problem =
                Problem::RequiredWhen { key: "tls.provider".to_owned(), value: "external" };
            layers.mistakes.push(Mistake::new(place(layers, key), problem));
        }
    }
    if !complete {
        return None;
    }
    let [chain, key] = KEYS.map(|key| settings.text(key));
    Certificate::read(Path::new(chain), Path::new(key))
        .map_err(|error| {
            let (key, path) = match error.file() {
                CertificateFile::Chain => (KEYS[0], chain),
                CertificateFile::Key => (KEYS[1], key),
            };
            let path = path.to_owned();
            let problem = match error {
                CertificateError::Read(_, error) => {
                    Problem::CannotRead { path, why: super::reason(&error) }
                }
                error => Problem::NotValid { got: path, why: error.to_string() },
            };
            layers.mistakes.push(Mistake::new(place(layers, key), problem));
        })
        .ok()
}
