//! Who a request is from (contract sections 10.1 to 10.6): what the configured mode makes of a head, and of what the
//! control thread found out about a token or a session.

use std::borrow::Cow;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::SystemTime;

use super::api_key::ApiKeys;
use super::credential::{Credential, Presented, Sources};
use super::jwt::{self, Accepted, ClaimHeaders, Rules};
use super::kratos_paths;
use super::paths::{MatchingPath, any_matches};
use super::policy::To;
use super::roles;
use super::session::{Session, SessionVerdict};
use crate::config::{self, Config, Mode, OnUnavailable};
use crate::event::{ActorKind, KnownActor};
use crate::refusal::{AuthMode, Denial, DenialReason, Refusal};
use crate::wire::request::RequestHead;

/// Who a request is from, as far as the upstream and the limits are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Nobody was asked, or nothing is required.
    Anonymous,
    /// The key of this name.
    ApiKey(Arc<str>),
    /// The bearer of a verified token.
    Token(Accepted),
    /// A session.
    Session(Arc<Session>),
}

impl Identity {
    /// The identity headers that are set for the upstream, name and value.
    pub fn headers(&self) -> Vec<(&str, &str)> {
        match self {
            Self::Anonymous | Self::ApiKey(_) => Vec::new(),
            Self::Token(token) => {
                token.headers.iter().map(|(name, value)| (&**name, &**value)).collect()
            }
            Self::Session(session) => session.headers().collect(),
        }
    }

    /// Who it is in events, limits and quotas; `None` for nobody in particular.
    pub fn actor(&self) -> Option<KnownActor<'_>> {
        let (kind, id) = match self {
            Self::Anonymous => return None,
            Self::ApiKey(name) => (ActorKind::ApiKey, &**name),
            Self::Token(token) => (ActorKind::User, token.user_id.as_deref()?),
            Self::Session(session) => (ActorKind::User, &*session.user_id),
        };
        Some(KnownActor { kind, id })
    }

    /// When its credential ends; `None` for one that does not.
    pub fn ends_at(&self) -> Option<SystemTime> {
        match self {
            Self::Anonymous | Self::ApiKey(_) => None,
            Self::Token(token) => Some(token.ends_at),
            Self::Session(session) => session.expires_at,
        }
    }
}

/// What has to happen next.
pub enum Next<'b> {
    /// Nothing: this is who it is.
    Admit(Identity),
    /// The token has to be verified.
    Token(Cow<'b, [u8]>),
    /// Kratos has to be asked about this cookie.
    Session {
        /// Its value.
        cookie: Cow<'b, [u8]>,
        /// Without a session the request is refused.
        required: bool,
    },
}

/// Never the credential.
impl fmt::Debug for Next<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admit(identity) => f.debug_tuple("Admit").field(identity).finish(),
            Self::Token(_) => f.write_str("Token(***)"),
            Self::Session { required, .. } => {
                f.debug_struct("Session").field("required", required).finish_non_exhaustive()
            }
        }
    }
}

/// What the configuration asks of a request.
#[derive(Debug)]
pub struct Authentication {
    scheme: Scheme,
    sources: Sources,
    /// Names that only authentication may set, besides `X-User-*`.
    identity_names: Box<[String]>,
    /// The same, and the name of the header that carries API keys: no trailer may have them.
    reserved_names: Box<[String]>,
    /// Changes with `auth`.
    generation: u64,
}

#[derive(Debug)]
enum Scheme {
    None,
    ApiKey(ApiKeys),
    Jwt(Rules),
    Kratos(config::Kratos),
}

impl Authentication {
    /// What `config` asks for.
    pub fn new(config: &Config) -> Self {
        let (scheme, sources) = match &config.auth.mode {
            Mode::None => (Scheme::None, Sources::default()),
            Mode::ApiKey(keys) => (Scheme::ApiKey(ApiKeys::new(keys)), keys.sources.clone()),
            Mode::Jwt(jwt) => (Scheme::Jwt(rules(jwt)), jwt.sources.clone()),
            Mode::Kratos(kratos) => (Scheme::Kratos(kratos.clone()), kratos.sources()),
        };
        let is_own = |name: &&String| !name.to_ascii_lowercase().starts_with("x-user-");
        let mut hasher = DefaultHasher::new();
        format!("{:?}", config.auth).hash(&mut hasher);
        let identity_names: Box<[String]> =
            config.auth.identity_headers.iter().filter(is_own).cloned().collect();
        let api_key_header = config.auth.api_key_header.clone();
        Self {
            scheme,
            sources,
            reserved_names: identity_names.iter().cloned().chain([api_key_header]).collect(),
            identity_names,
            generation: hasher.finish(),
        }
    }

    /// Names that only authentication may set, besides `X-User-*`.
    pub fn identity_names(&self) -> Vec<&str> {
        self.identity_names.iter().map(String::as_str).collect()
    }

    /// Names that no trailer may have, besides those that only a head may have in any case.
    pub fn reserved_names(&self) -> &[String] {
        &self.reserved_names
    }

    /// Where credentials may stand, some of which are not for the upstream.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Changes whenever a verified token may be worth something else.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What a verified token has to fulfil; `None` in another mode.
    pub fn token_rules(&self) -> Option<&Rules> {
        match &self.scheme {
            Scheme::Jwt(rules) => Some(rules),
            _ => None,
        }
    }

    /// Whether requests are authenticated at all.
    pub fn is_on(&self) -> bool {
        !matches!(self.scheme, Scheme::None)
    }

    /// Where pages without a session are sent, in mode kratos.
    pub fn login_url(&self) -> &str {
        match &self.scheme {
            Scheme::Kratos(kratos) => &kratos.login_url,
            _ => "",
        }
    }

    /// Step 7: what is for Kratos itself goes there, and nowhere else.
    pub fn destination(&self, path: &MatchingPath<'_>) -> To {
        match self.scheme {
            Scheme::Kratos(_) if kratos_paths::is_flow(path) => To::Kratos,
            _ => To::Upstream,
        }
    }

    /// Steps 8 and 9 of section 5.1, as far as the head decides them.
    ///
    /// # Errors
    /// [`Refusal::OriginNotAllowed`], [`Refusal::Denied`], [`Refusal::LoginRedirect`], [`Refusal::BadRequest`].
    pub fn begin<'b>(
        &self,
        config: &Config,
        head: &RequestHead<'b>,
        path: &MatchingPath<'_>,
        is_upgrade: bool,
    ) -> Result<Next<'b>, Refusal> {
        let Presented { credential, in_cookie } = self.sources.presented(head, is_upgrade);
        if is_upgrade {
            config.allowed_origins.check(head, in_cookie)?;
        }
        let public = any_matches(&config.auth.public_paths, path);
        let denied = |mode, reason| Err(Refusal::Denied(Denial { mode, reason }));
        match (&self.scheme, credential) {
            (Scheme::None, _) => Ok(Next::Admit(Identity::Anonymous)),
            (Scheme::ApiKey(_) | Scheme::Jwt(_), _) if public => {
                Ok(Next::Admit(Identity::Anonymous))
            }
            (Scheme::ApiKey(keys), _) => {
                let key = keys.identify(head, is_upgrade)?;
                keys.authorize(key, head.method, path)?;
                Ok(Next::Admit(Identity::ApiKey(Arc::clone(&key.name))))
            }
            (Scheme::Jwt(_), Credential::None) => {
                denied(AuthMode::Jwt, DenialReason::NoCredentials)
            }
            (Scheme::Jwt(_), Credential::Several) => {
                denied(AuthMode::Jwt, DenialReason::MultipleCredentials)
            }
            (Scheme::Jwt(_), Credential::One(token)) => Ok(Next::Token(token)),
            (Scheme::Kratos(_), Credential::One(cookie)) => {
                Ok(Next::Session { cookie, required: !public })
            }
            (Scheme::Kratos(_), _) if public => Ok(Next::Admit(Identity::Anonymous)),
            (Scheme::Kratos(_), Credential::None) => {
                let reason = DenialReason::NoCredentials;
                Err(kratos_paths::unauthenticated(head, is_upgrade, reason))
            }
            (Scheme::Kratos(_), Credential::Several) => {
                let reason = DenialReason::MultipleCredentials;
                Err(kratos_paths::unauthenticated(head, is_upgrade, reason))
            }
        }
    }

    /// What the verdict about a session means for the request.
    ///
    /// # Errors
    /// [`Refusal::Denied`], [`Refusal::LoginRedirect`], [`Refusal::BadRequest`].
    pub fn with_session(
        &self,
        head: &RequestHead<'_>,
        path: &MatchingPath<'_>,
        is_upgrade: bool,
        required: bool,
        verdict: SessionVerdict,
    ) -> Result<Identity, Refusal> {
        let Scheme::Kratos(kratos) = &self.scheme else {
            return Err(Refusal::InternalError);
        };
        match verdict {
            SessionVerdict::Active(session) => {
                if required {
                    roles::permit(&kratos.role_paths, session.role, path)?;
                }
                Ok(Identity::Session(session))
            }
            SessionVerdict::Inactive if required => {
                let reason = DenialReason::InvalidSession;
                Err(kratos_paths::unauthenticated(head, is_upgrade, reason))
            }
            SessionVerdict::Inactive => Ok(Identity::Anonymous),
            SessionVerdict::Unreachable(_)
                if !required && kratos.on_unavailable == OnUnavailable::AllowPublic =>
            {
                Ok(Identity::Anonymous)
            }
            SessionVerdict::Unreachable(_) => Err(unavailable(AuthMode::Kratos)),
        }
    }
}

/// The provider cannot be asked, which never means access.
pub fn unavailable(mode: AuthMode) -> Refusal {
    Refusal::Denied(Denial { mode, reason: DenialReason::ProviderUnavailable })
}

impl From<jwt::Denial> for Refusal {
    fn from(denial: jwt::Denial) -> Self {
        let reason = match denial {
            jwt::Denial::InvalidToken(_) => DenialReason::InvalidToken,
            jwt::Denial::InvalidSignature => DenialReason::InvalidSignature,
            jwt::Denial::UnknownKey | jwt::Denial::AmbiguousKey => DenialReason::UnknownKey,
            jwt::Denial::AlgorithmNotAllowed => DenialReason::AlgorithmNotAllowed,
            jwt::Denial::TokenExpired => DenialReason::TokenExpired,
            jwt::Denial::TokenNotYetValid => DenialReason::TokenNotYetValid,
            jwt::Denial::InvalidIssuer => DenialReason::InvalidIssuer,
            jwt::Denial::InvalidAudience => DenialReason::InvalidAudience,
        };
        Self::Denied(Denial { mode: AuthMode::Jwt, reason })
    }
}

fn rules(jwt: &config::Jwt) -> Rules {
    let pairs = jwt.claims_to_headers.iter();
    Rules {
        issuer: jwt.issuer.clone(),
        audience: jwt.audience.clone(),
        algorithms: jwt.algorithms.clone(),
        headers: ClaimHeaders::new(pairs.map(|(claim, header)| (&**claim, &**header))),
    }
}
