//! Sections `auth` and `kratos`: who has to prove what, and how (contract sections 3.4 and 10).

use std::fmt;
use std::time::Duration;

use serde_yaml::Value;

use super::UpstreamTarget;
use super::layers::Layers;
use super::mistakes::{Mistake, Problem};
use super::settings::Settings;
use super::url::{is_http_base_url, plain_http_base};
use crate::admission::credential::{Source, Sources};
use crate::admission::jwt::Algorithm;
use crate::admission::paths::Pattern;

/// Section `auth`, with `kratos`.
#[derive(Debug, Clone, PartialEq)]
pub struct Auth {
    /// `auth.mode`, with what belongs to it.
    pub mode: Mode,
    /// Paths on which nothing is required; in mode kratos with those of its own pages.
    pub public_paths: Vec<Pattern>,
    /// Header names that `claims_to_headers` gives. Clients cannot send them, whatever the mode.
    pub identity_headers: Vec<String>,
    /// Name of the header that carries API keys. Look-alikes of it are removed, whatever the mode.
    pub api_key_header: String,
}

impl Auth {
    /// Where requests for Kratos itself go, and what stands before their paths; in mode kratos only.
    pub fn kratos_flows(&self) -> Option<(&UpstreamTarget, &str)> {
        match &self.mode {
            Mode::Kratos(Kratos { flows: Some((target, prefix)), .. }) => Some((target, prefix)),
            _ => None,
        }
    }
}

/// How requests are authenticated.
#[derive(Debug, Clone, PartialEq)]
pub enum Mode {
    /// Nobody is asked.
    None,
    /// By a session, which Kratos knows.
    Kratos(Kratos),
    /// By a signed token.
    Jwt(Jwt),
    /// By an API key.
    ApiKey(ApiKeys),
}

/// What mode kratos needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Kratos {
    /// Base of its public API, without a slash at the end.
    pub public_url: String,
    /// Where requests for Kratos itself go, and what stands before their paths; `None` when it speaks TLS only.
    pub flows: Option<(UpstreamTarget, String)>,
    /// How long a positive answer counts; `None` = every request asks.
    pub cache_ttl: Option<Duration>,
    /// Name of the cookie that holds the session.
    pub session_cookie_name: String,
    /// Where pages without a session are sent; goes into `Location` as it is.
    pub login_url: String,
    /// What an unreachable Kratos means.
    pub on_unavailable: OnUnavailable,
    /// Which role may see which paths.
    pub role_paths: Vec<RolePaths>,
}

/// `auth.on_kratos_unavailable`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnUnavailable {
    /// 503 for all that needs Kratos.
    Refuse,
    /// Public paths pass without identity.
    AllowPublic,
}

/// The paths that need one of the roles that name them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolePaths {
    /// The role.
    pub role: Role,
    /// Its paths.
    pub paths: Vec<Pattern>,
}

/// The trait `role` of an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the values of the trait")]
pub enum Role {
    User,
    Admin,
    Moderator,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::User, Self::Admin, Self::Moderator];

    /// As the trait and `X-User-Role` have it.
    pub fn word(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Admin => "admin",
            Self::Moderator => "moderator",
        }
    }
}

/// What mode jwt needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Jwt {
    /// Where the keys come from.
    pub key_set: KeySet,
    /// The only accepted `iss`.
    pub issuer: String,
    /// What `aud` must contain.
    pub audience: String,
    /// Claim and the header that it goes into, no header twice.
    pub claims_to_headers: Vec<(String, String)>,
    /// Accepted algorithms, at least one.
    pub algorithms: Vec<Algorithm>,
    /// Age at which the keys are fetched again.
    pub cache_ttl: Duration,
    /// Where a token may stand, at least one place.
    pub sources: Sources,
}

/// Where the keys of tokens come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySet {
    /// The URL of a JWKS (RFC 7517 section 5).
    Jwks(String),
    /// The issuer, without a slash at the end, whose `OpenID` configuration names the JWKS (`OpenID` Connect Discovery 1.0
    /// section 4).
    Issuer(String),
}

/// What mode api-key needs.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiKeys {
    /// Where a key may stand.
    pub sources: Sources,
    /// The keys, at least one; no name and no hash twice.
    pub keys: Vec<ApiKey>,
    /// In the order in which they are tried.
    pub scope_rules: Vec<ScopeRule>,
}

/// An entry of `auth.api_key.keys`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// What logs, limits and quotas call it.
    pub name: String,
    /// SHA-256 of the key.
    pub hash: KeyHash,
    /// What it may do.
    pub scopes: Vec<String>,
}

/// The SHA-256 of a key. Not printed: the hash of a weak key gives the key away.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash(pub [u8; 32]);

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// An entry of `auth.api_key.scope_rules`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeRule {
    /// Which paths; a glob, never a prefix.
    pub path: Pattern,
    /// Which methods; empty = all.
    pub methods: Vec<String>,
    /// What the key needs there, all of them.
    pub required_scopes: Vec<String>,
}

/// Kratos' own pages, which a person without a session has to reach.
const KRATOS_PUBLIC_PATHS: [&str; 6] =
    ["/auth/*", "/login", "/registration", "/recovery", "/verification", "/error"];

impl Mode {
    /// The value of `auth.mode`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Kratos(_) => "kratos",
            Self::Jwt(_) => "jwt",
            Self::ApiKey(_) => "api-key",
        }
    }
}

impl Auth {
    pub(super) fn from_settings(settings: &Settings) -> Self {
        let mode = match settings.text("auth.mode") {
            "kratos" => Mode::Kratos(Kratos::from_settings(settings)),
            "jwt" => Mode::Jwt(Jwt::from_settings(settings)),
            "api-key" => Mode::ApiKey(ApiKeys::from_settings(settings)),
            _ => Mode::None,
        };
        let own_pages =
            if matches!(mode, Mode::Kratos(_)) { &KRATOS_PUBLIC_PATHS[..] } else { &[] };
        let public = settings.list("auth.public_paths").iter().map(String::as_str);
        Self {
            public_paths: public
                .chain(own_pages.iter().copied())
                .filter_map(|text| Pattern::parse(text).ok())
                .collect(),
            identity_headers: claims_to_headers(settings).map(|(_, header)| header).collect(),
            api_key_header: settings.text("auth.api_key.header").to_owned(),
            mode,
        }
    }
}

impl Kratos {
    fn from_settings(settings: &Settings) -> Self {
        let own_login = settings.text("auth.ui.login_url");
        let login_url = if settings.text("auth.ui.mode") == "custom" && !own_login.is_empty() {
            own_login
        } else {
            settings.text("auth.login_url")
        };
        let role_paths = Role::ALL.into_iter().filter_map(|role| {
            let listed = settings.tree("auth.role_paths").get(role.word())?;
            let paths = texts(listed).filter_map(|text| Pattern::parse(text).ok()).collect();
            Some(RolePaths { role, paths })
        });
        Self {
            public_url: without_slash(settings.text("kratos.public_url")).to_owned(),
            flows: plain_http_base(settings.text("kratos.public_url")),
            cache_ttl: settings.timeout("kratos.cache_ttl"),
            session_cookie_name: settings.text("auth.session_cookie_name").to_owned(),
            login_url: login_url.to_owned(),
            on_unavailable: match settings.text("auth.on_kratos_unavailable") {
                "allow_public" => OnUnavailable::AllowPublic,
                _ => OnUnavailable::Refuse,
            },
            role_paths: role_paths.filter(|entry| !entry.paths.is_empty()).collect(),
        }
    }

    /// Where a session may stand.
    pub fn sources(&self) -> Sources {
        Sources::new([Source::Cookie(self.session_cookie_name.as_str().into())])
    }
}

impl Jwt {
    fn from_settings(settings: &Settings) -> Self {
        let allowed = settings.list("auth.jwt.allowed_algorithms");
        let is_allowed =
            |algorithm: &Algorithm| allowed.iter().any(|allowed| allowed == algorithm.name());
        Self {
            key_set: KeySet::from_settings(settings),
            issuer: settings.text("auth.jwt.issuer").to_owned(),
            audience: settings.text("auth.jwt.audience").to_owned(),
            claims_to_headers: claims_to_headers(settings).collect(),
            algorithms: Algorithm::ALL.into_iter().filter(is_allowed).collect(),
            cache_ttl: settings.duration("auth.jwt.cache_ttl"),
            sources: Sources::new(
                settings.list("auth.jwt.sources").iter().map(|text| source(text)),
            ),
        }
    }
}

impl KeySet {
    fn from_settings(settings: &Settings) -> Self {
        let jwks = settings.text("auth.jwt.jwks_url");
        if !jwks.is_empty() {
            return Self::Jwks(jwks.to_owned());
        }
        let issuer = match settings.text("auth.jwt.issuer_url") {
            "" => settings.text("auth.jwt.issuer"),
            url => url,
        };
        Self::Issuer(without_slash(issuer).to_owned())
    }
}

impl ApiKeys {
    fn from_settings(settings: &Settings) -> Self {
        let header = Source::Header(settings.text("auth.api_key.header").into());
        let query = Some(settings.text("auth.api_key.query"))
            .filter(|name| !name.is_empty())
            .map(|name| Source::Query(name.into()));
        let key = |entry: &Value| {
            Some(ApiKey {
                name: text_of(entry, "name").to_owned(),
                hash: KeyHash::parse(text_of(entry, "hash"))?,
                scopes: texts_of(entry, "scopes"),
            })
        };
        let rule = |entry: &Value| {
            Some(ScopeRule {
                path: Pattern::glob(text_of(entry, "path")).ok()?,
                methods: texts_of(entry, "methods"),
                required_scopes: texts_of(entry, "required_scopes"),
            })
        };
        Self {
            sources: Sources::new([header].into_iter().chain(query)),
            keys: entries(settings.tree("auth.api_key.keys")).filter_map(key).collect(),
            scope_rules: entries(settings.tree("auth.api_key.scope_rules"))
                .filter_map(rule)
                .collect(),
        }
    }
}

impl KeyHash {
    /// 64 hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut hash = [0; 32];
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        for (index, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
        }
        Some(Self(hash))
    }

    /// The 64 digits, in lower case.
    pub fn to_hex(self) -> String {
        self.0.map(|byte| format!("{byte:02x}")).concat()
    }
}

fn without_slash(url: &str) -> &str {
    url.strip_suffix('/').unwrap_or(url)
}

fn entries(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_sequence().into_iter().flatten()
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    entries(list).filter_map(Value::as_str)
}

fn text_of<'v>(entry: &'v Value, name: &str) -> &'v str {
    entry.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn texts_of(entry: &Value, name: &str) -> Vec<String> {
    entry.get(name).into_iter().flat_map(texts).map(str::to_owned).collect()
}

fn claims_to_headers(settings: &Settings) -> impl Iterator<Item = (String, String)> {
    let map = settings.tree("auth.jwt.claims_to_headers").as_mapping();
    map.into_iter().flatten().filter_map(|(claim, header)| {
        Some((claim.as_str()?.to_owned(), header.as_str()?.to_owned()))
    })
}

/// A checked entry of `auth.jwt.sources`.
fn source(text: &str) -> Source {
    match text.split_once(':') {
        Some(("cookie", name)) => Source::Cookie(name.into()),
        Some(("query", name)) => Source::Query(name.into()),
        Some(("subprotocol", prefix)) => Source::Subprotocol(prefix.into()),
        _ => Source::Bearer,
    }
}

/// The rules that look at more than one key.
pub(super) fn rules(layers: &mut Layers, settings: &Settings, warnings: &mut Vec<String>) {
    let mode = settings.text("auth.mode");
    match mode {
        "kratos" => require(layers, settings, &["kratos.public_url"], "kratos"),
        "jwt" => jwt_rules(layers, settings),
        "api-key" if entries(settings.tree("auth.api_key.keys")).next().is_none() => {
            missing(layers, "auth.api_key.keys", "api-key");
        }
        _ => {}
    }
    let has_role_paths = settings.tree("auth.role_paths").as_mapping();
    if mode != "kratos" && has_role_paths.is_some_and(|roles| !roles.is_empty()) {
        // a role that is asked for and never looked at would open what it is meant to close
        let problem = Problem::RequiredWhen {
            key: "auth.role_paths".to_owned(),
            value: "given, and has to be \"kratos\"",
        };
        tell(layers, "auth.mode", problem);
    }
    same_hash(layers, settings);
    same_header(layers, settings);
    if mode != "api-key" && entries(settings.tree("auth.api_key.scope_rules")).next().is_some() {
        warnings.push(format!("auth.api_key.scope_rules has no effect with auth.mode {mode}"));
    }
    let is_custom = settings.text("auth.ui.mode") == "custom";
    if is_custom && settings.text("auth.ui.login_url").is_empty() {
        warnings.push(
            "auth.ui.mode is custom without auth.ui.login_url; auth.login_url is used".to_owned(),
        );
    }
}

/// Tells that `key` is missing.
fn missing(layers: &mut Layers, key: &'static str, mode: &'static str) {
    tell(layers, key, Problem::RequiredWhen { key: "auth.mode".to_owned(), value: mode });
}

/// Tells what is wrong with `key`, unless it has been told of something else already.
fn tell(layers: &mut Layers, key: &'static str, problem: Problem) {
    let own_name = key.split_once('.').map_or(key, |(_, own_name)| own_name);
    let is_of_key = |place: &str| {
        place
            .split_once(own_name)
            .is_some_and(|(_, rest)| rest.is_empty() || rest.starts_with(['[', '.']))
    };
    if !layers.mistakes.iter().any(|mistake| is_of_key(&mistake.place)) {
        layers.mistakes.push(Mistake::new(key, problem));
    }
}

fn require(layers: &mut Layers, settings: &Settings, keys: &[&'static str], mode: &'static str) {
    for key in keys {
        if settings.text(key).is_empty() {
            missing(layers, key, mode);
        }
    }
}

fn jwt_rules(layers: &mut Layers, settings: &Settings) {
    let [jwks, issuer_url, issuer] =
        ["auth.jwt.jwks_url", "auth.jwt.issuer_url", "auth.jwt.issuer"]
            .map(|key| settings.text(key));
    if jwks.is_empty() && issuer_url.is_empty() && !is_http_base_url(issuer) {
        missing(layers, "auth.jwt.jwks_url", "jwt");
    }
    require(layers, settings, &["auth.jwt.issuer", "auth.jwt.audience"], "jwt");
    for key in ["auth.jwt.allowed_algorithms", "auth.jwt.sources"] {
        if settings.list(key).is_empty() {
            missing(layers, key, "jwt");
        }
    }
}

/// One key under two names: which one would a request be counted for?
fn same_hash(layers: &mut Layers, settings: &Settings) {
    let keys: Vec<&Value> = entries(settings.tree("auth.api_key.keys")).collect();
    for (index, key) in keys.iter().enumerate() {
        let same = |earlier: &&Value| text_of(earlier, "hash") == text_of(key, "hash");
        let Some(first) = keys.iter().take(index).position(same) else {
            continue;
        };
        let problem = Problem::Disagree {
            keys: [first, index].map(|at| format!("auth.api_key.keys[{at}].name").into()),
            values: [first, index].map(|at| text_of(keys[at], "name").to_owned()),
        };
        layers.mistakes.push(Mistake::new(format!("auth.api_key.keys[{index}].hash"), problem));
    }
}

/// Two claims in one header: which one would the application believe?
fn same_header(layers: &mut Layers, settings: &Settings) {
    let map: Vec<(String, String)> = claims_to_headers(settings).collect();
    for (index, (claim, header)) in map.iter().enumerate() {
        let same = |(_, earlier): &&(String, String)| earlier.eq_ignore_ascii_case(header);
        if let Some((first, _)) = map.iter().take(index).find(same) {
            let why = format!("auth.jwt.claims_to_headers.{first} already goes into this header");
            let problem = Problem::NotValid { got: header.clone(), why };
            layers
                .mistakes
                .push(Mistake::new(format!("auth.jwt.claims_to_headers.{claim}"), problem));
        }
    }
}
