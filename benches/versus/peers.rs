//! Who is compared: how each is configured, started and asked for its version. Configurations are the files under `peers/`.

use std::path::Path;

use crate::certificate::{CHAIN_AND_KEY_FILE, CHAIN_FILE, KEY_FILE};
use crate::credentials::{AUDIENCE, ISSUER, KEY, KEYS_PORT, PUBLIC_KEY_FILE, key_hash};
use crate::rows::{Check, Work};
use crate::sessions::SESSIONS_PORT;

mod checks;
mod tls;

/// Which part a peer plays in the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// This project.
    Own,
    /// What ratios are taken to.
    Rival,
    /// A rival set up for one row at the cost of others. The ratios count it, the aims name it apart.
    Specialist,
    /// The cost of relaying without HTTP; shown, never "the best peer".
    Floor,
}

/// Text put into a configuration in place of `{{name}}`.
type Settings = &'static [(&'static str, &'static str)];

/// One peer.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) part: Part,
    /// Program, looked up in PATH; empty for the programs of this crate.
    pub(crate) program: &'static str,
    /// Prints the version.
    pub(crate) version: &'static [&'static str],
    /// Prints which OpenSSL it runs with; empty for a peer with another library.
    pub(crate) openssl: &'static [&'static str],
    /// Command line; `{{...}}` as in the configuration.
    pub(crate) arguments: &'static [&'static str],
    pub(crate) environment: Settings,
    /// Name and text of the configuration file.
    pub(crate) config: Option<(&'static str, &'static str)>,
    settings: Settings,
    log_off: Settings,
    /// `None`: writes no access log.
    log_on: Option<Settings>,
    /// What the configuration says without TLS.
    tls_off: Settings,
    /// What it says with TLS; `None` for a peer without it.
    tls_on: Option<Settings>,
    /// What each check that it can do puts into the configuration.
    checks: fn(Check) -> Option<Settings>,
}

/// The ground on which a peer stands.
pub(crate) struct Place<'a> {
    /// Where its files are.
    pub(crate) dir: &'a Path,
    /// Port it listens on.
    pub(crate) port: u16,
    /// Port of the application.
    pub(crate) upstream_port: u16,
    /// What it is to do.
    pub(crate) work: Work,
}

const NGINX: Peer = Peer {
    name: "nginx",
    part: Part::Rival,
    program: "nginx",
    version: &["-v"],
    openssl: &["-V"],
    arguments: &["-p", "{{dir}}", "-c", "{{config}}"],
    environment: &[],
    config: Some(("nginx.conf", include_str!("peers/nginx.conf"))),
    settings: &[("buffers", "")],
    log_off: &[("access_log", "access_log off;")],
    log_on: Some(&[("access_log", "access_log {{dir}}/access.log;")]),
    tls_off: &[("tls_listen", ""), ("tls", "")],
    tls_on: Some(tls::NGINX),
    checks: checks::nginx,
};

const HAPROXY: Peer = Peer {
    name: "haproxy",
    part: Part::Rival,
    program: "haproxy",
    version: &["-v"],
    openssl: &["-vv"],
    arguments: &["-db", "-f", "{{config}}"],
    environment: &[],
    config: Some(("haproxy.cfg", include_str!("peers/haproxy.cfg"))),
    settings: &[("splice", "option splice-auto")],
    log_off: &[("log_target", ""), ("access_log", "")],
    log_on: Some(&[
        ("log_target", "log stdout format raw local0 info"),
        ("access_log", "log global\n    option httplog"),
    ]),
    tls_off: &[("tls_global", ""), ("tls_bind", "")],
    tls_on: Some(tls::HAPROXY),
    checks: checks::haproxy,
};

const OWN: Peer = Peer {
    name: "vibewarden",
    part: Part::Own,
    program: "",
    version: &["--version"],
    openssl: &[],
    arguments: &["serve", "--config", "{{config}}"],
    environment: &[],
    config: Some(("vibewarden.yaml", include_str!("peers/vibewarden.yaml"))),
    settings: &[("driver", "io_uring")],
    log_off: &[("access_log", "false")],
    log_on: Some(&[("access_log", "true")]),
    tls_off: &[("tls", "tls:\n  enabled: false")],
    tls_on: Some(tls::OWN),
    checks: checks::own,
};

/// All peers in the order of a round.
pub(crate) const PEERS: [Peer; 10] = [
    OWN,
    Peer { name: "vibewarden-epoll", settings: &[("driver", "epoll")], ..OWN },
    Peer {
        name: "relay",
        part: Part::Floor,
        program: "",
        version: &[],
        openssl: &[],
        arguments: &["relay", "{{port}}", "{{upstream_port}}"],
        environment: &[],
        config: None,
        settings: &[],
        log_off: &[],
        log_on: None,
        tls_off: &[],
        tls_on: None,
        checks: checks::none,
    },
    NGINX,
    Peer {
        name: "nginx-64k",
        settings: &[(
            "buffers",
            "proxy_buffer_size 64k; proxy_buffers 8 64k; proxy_busy_buffers_size 128k;",
        )],
        ..NGINX
    },
    HAPROXY,
    Peer { name: "haproxy-nosplice", settings: &[("splice", "")], ..HAPROXY },
    Peer {
        name: "haproxy-splice",
        part: Part::Specialist,
        settings: &[("splice", "option splice-request\n    option splice-response")],
        ..HAPROXY
    },
    Peer {
        name: "caddy",
        part: Part::Rival,
        program: "caddy",
        version: &["version"],
        openssl: &[],
        arguments: &["run", "--adapter", "caddyfile", "--config", "{{config}}"],
        environment: &[
            ("GOMAXPROCS", "1"),
            ("HOME", "{{dir}}"),
            ("XDG_DATA_HOME", "{{dir}}"),
            ("XDG_CONFIG_HOME", "{{dir}}"),
        ],
        config: Some(("Caddyfile", include_str!("peers/Caddyfile"))),
        settings: &[],
        log_off: &[("access_log", "")],
        log_on: Some(&[("access_log", "log {\n\t\toutput file {{dir}}/access.log\n\t}")]),
        tls_off: &[("tls", "")],
        tls_on: Some(tls::CADDY),
        checks: checks::none,
    },
    Peer {
        name: "envoy",
        part: Part::Rival,
        program: "envoy",
        version: &["--version"],
        openssl: &[],
        arguments: &[
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--log-level",
            "error",
            "-c",
            "{{config}}",
        ],
        environment: &[],
        config: Some(("envoy.yaml", include_str!("peers/envoy.yaml"))),
        settings: &[],
        log_off: &[("access_log", "")],
        log_on: Some(&[(
            "access_log",
            "access_log: [{ name: file, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: {{dir}}/access.log } }]",
        )]),
        tls_off: &[("tls", "")],
        tls_on: Some(tls::ENVOY),
        checks: checks::none,
    },
];

impl Peer {
    /// Whether it has what the work needs: an access log, TLS, a check.
    pub(crate) fn can_do(&self, work: Work) -> bool {
        (self.log_on.is_some() || !work.access_log())
            && (self.tls_on.is_some() || !work.tls())
            && (self.checks)(work.check()).is_some()
    }

    /// Puts the place and the peer's own settings into a text.
    pub(crate) fn fill(&self, text: &str, place: &Place<'_>) -> String {
        let log = if place.work.access_log() { self.log_on.unwrap_or(&[]) } else { self.log_off };
        let tls = if place.work.tls() { self.tls_on.unwrap_or(&[]) } else { self.tls_off };
        let mut text = text.to_owned();
        let check = (self.checks)(place.work.check()).unwrap_or(&[]);
        for (name, value) in self.settings.iter().chain(log).chain(tls).chain(check) {
            text = text.replace(&format!("{{{{{name}}}}}"), value);
        }
        let dir = place.dir.display().to_string();
        let file = |name: &str| place.dir.join(name).display().to_string();
        let config = self.config.map_or_else(String::new, |(name, _)| file(name));
        let of_place = [
            ("config", config),
            ("dir", dir),
            ("host", "127.0.0.1".to_owned()),
            ("port", place.port.to_string()),
            ("listen", format!("127.0.0.1:{}", place.port)),
            ("upstream_host", "127.0.0.1".to_owned()),
            ("upstream_port", place.upstream_port.to_string()),
            ("key", KEY.to_owned()),
            ("key_hash", key_hash()),
            ("issuer", ISSUER.to_owned()),
            ("audience", AUDIENCE.to_owned()),
            ("key_set", format!("http://127.0.0.1:{KEYS_PORT}/keys")),
            ("sessions", format!("127.0.0.1:{SESSIONS_PORT}")),
            ("public_key", file(PUBLIC_KEY_FILE)),
            ("chain", file(CHAIN_FILE)),
            ("chain_key", file(KEY_FILE)),
            ("chain_and_key", file(CHAIN_AND_KEY_FILE)),
            ("upstream", format!("127.0.0.1:{}", place.upstream_port)),
        ];
        for (name, value) in of_place {
            text = text.replace(&format!("{{{{{name}}}}}"), &value);
        }
        text
    }
}
