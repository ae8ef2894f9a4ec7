//! Sections `rate_limit`, `ip_filter` and the quotas of `websocket`, as they are meant (contract section 3.5).

use std::fmt;
use std::time::Duration;

use super::Cidr;
use super::settings::Settings;

/// Section `rate_limit`.
#[derive(Debug, Clone, PartialEq)]
pub struct RateLimit {
    /// False = nobody is limited.
    pub enabled: bool,
    /// Per client address.
    pub per_ip: Allowance,
    /// Bits of an IPv6 address that make a key.
    pub ipv6_prefix: u8,
    /// Per user.
    pub per_user: Allowance,
    /// Globs of paths that take no token.
    pub exempt_paths: Vec<String>,
    /// Most keys of each table.
    pub max_keys: u32,
    /// Where the buckets are.
    pub store: RateLimitStore,
}

/// What one key may do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Allowance {
    /// Finite, not negative, fractions allowed; 0 = the burst is all there is.
    pub requests_per_second: f64,
    /// Tokens of a full bucket.
    pub burst: u32,
}

/// `rate_limit.store`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RateLimitStore {
    /// In this process.
    Memory,
    /// Shared with other processes.
    Redis(RedisStore),
}

/// `rate_limit.redis`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisStore {
    /// `redis://` or `rediss://` URL, or `host:port`.
    pub location: RedisLocation,
    /// Empty = what the URL says.
    pub password: Secret,
    /// 0 = what the URL says.
    pub db: u32,
    /// Connections; 0 = one.
    pub pool_size: u32,
    /// First part of every key.
    pub key_prefix: String,
    /// Whether local buckets decide while Redis does not answer; else everything is refused.
    pub fallback: bool,
    /// Between two looks whether Redis answers.
    pub health_check_interval: Duration,
}

/// Where Redis is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisLocation {
    /// `redis://` or `rediss://`; its userinfo is a secret.
    Url(Secret),
    /// `host:port`
    Address(String),
}

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Makes the text a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for those who need it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Section `ip_filter`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpFilter {
    /// False = every address may come in.
    pub enabled: bool,
    /// What the list means.
    pub mode: IpFilterMode,
    /// The list.
    pub addresses: Vec<Cidr>,
}

/// `ip_filter.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpFilterMode {
    /// Who is in the list is refused.
    Blocklist,
    /// Who is not in the list is refused.
    Allowlist,
}

impl IpFilterMode {
    /// The word in configuration and event.
    pub fn word(self) -> &'static str {
        match self {
            Self::Blocklist => "blocklist",
            Self::Allowlist => "allowlist",
        }
    }
}

/// `websocket.max_per_ip` and `websocket.max_per_user`; `None` = off, and nothing is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelQuota {
    /// Open tunnels and handshakes under way per client address.
    pub per_ip: Option<u32>,
    /// The same per user.
    pub per_user: Option<u32>,
}

impl RateLimit {
    pub(super) fn from_settings(settings: &Settings) -> Self {
        Self {
            enabled: settings.bool("rate_limit.enabled"),
            per_ip: Allowance {
                requests_per_second: settings.float("rate_limit.per_ip.requests_per_second"),
                burst: settings.int("rate_limit.per_ip.burst"),
            },
            ipv6_prefix: settings.int("rate_limit.per_ip.ipv6_prefix"),
            per_user: Allowance {
                requests_per_second: settings.float("rate_limit.per_user.requests_per_second"),
                burst: settings.int("rate_limit.per_user.burst"),
            },
            exempt_paths: settings.list("rate_limit.exempt_paths").to_vec(),
            max_keys: settings.int("rate_limit.max_keys"),
            store: match settings.text("rate_limit.store") {
                "redis" => RateLimitStore::Redis(RedisStore::from_settings(settings)),
                _ => RateLimitStore::Memory,
            },
        }
    }
}

impl RedisStore {
    fn from_settings(settings: &Settings) -> Self {
        let url = settings.text("rate_limit.redis.url");
        Self {
            location: if url.is_empty() {
                RedisLocation::Address(settings.text("rate_limit.redis.address").to_owned())
            } else {
                RedisLocation::Url(Secret::new(url))
            },
            password: Secret::new(settings.text("rate_limit.redis.password")),
            db: settings.int("rate_limit.redis.db"),
            pool_size: settings.int("rate_limit.redis.pool_size"),
            key_prefix: settings.text("rate_limit.redis.key_prefix").to_owned(),
            fallback: settings.bool("rate_limit.redis.fallback"),
            health_check_interval: settings.duration("rate_limit.redis.health_check_interval"),
        }
    }
}

impl IpFilter {
    pub(super) fn from_settings(settings: &Settings) -> Self {
        Self {
            enabled: settings.bool("ip_filter.enabled"),
            mode: match settings.text("ip_filter.mode") {
                "allowlist" => IpFilterMode::Allowlist,
                _ => IpFilterMode::Blocklist,
            },
            addresses: Cidr::list(settings.list("ip_filter.addresses")),
        }
    }
}

impl TunnelQuota {
    pub(super) fn from_settings(settings: &Settings) -> Self {
        let limit = |key: &str| Some(settings.int(key)).filter(|limit| *limit > 0);
        Self { per_ip: limit("websocket.max_per_ip"), per_user: limit("websocket.max_per_user") }
    }
}
