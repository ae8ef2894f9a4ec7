//! Every way a request is refused, in one table: status, error code, message, event (contract sections 11.2 and 13).
//! No socket lives here. `wire` and `admission` errors become a [`Refusal`]; only `proxy::connection` and
//! `proxy::own_endpoint` answer one.

mod write;

use crate::config::Config;
use crate::event::{Event, RequestFacts};
use crate::wire::request::RequestError;
use crate::wire::response::ResponseError;
use crate::wire::upgrade::UpgradeError;

/// Why a request got no answer from the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The head breaks a rule of HTTP/1.1 (RFC 9112) as the contract reads it; the text says which.
    BadRequest(&'static str),
    /// The upgrade breaks a rule of RFC 6455 section 4.2.1; the text says which.
    BadUpgrade(&'static str),
    /// `Sec-WebSocket-Version` is not 13.
    UnsupportedWebSocketVersion,
    /// Authentication or authorisation said no.
    Denied(Denial),
    /// The same for a page that a person asked for: on to the login page.
    LoginRedirect(DenialReason),
    /// A page of another site asks for a WebSocket.
    OriginNotAllowed,
    /// An own endpoint that does not exist.
    NotFound,
    /// `CONNECT`, `TRACE`, or another method than GET and HEAD on an own endpoint.
    MethodNotAllowed,
    /// `ip_filter` does not let this client address in.
    IpFiltered,
    /// The bucket of the client or of the user has no token.
    RateLimited {
        /// Whose bucket.
        limit: Limit,
        /// As in `Retry-After`.
        retry_after_seconds: u64,
    },
    /// The client or the user has as many tunnels as it may.
    ConnectionLimited(Limit),
    /// The head did not arrive within `server.read_timeout`.
    RequestTimeout,
    /// `Expect` asks for something else than `100-continue`.
    ExpectationFailed,
    /// The head is larger than `server.max_header_bytes` or has more than 256 lines.
    HeadersTooLarge,
    /// A defect of the proxy; only this connection is affected.
    InternalError,
    /// The content of the request is larger than `body_size` allows.
    PayloadTooLarge,
    /// The upstream could not be reached, or closed before its head.
    UpstreamUnavailable(Unavailable),
    /// The upstream's answer breaks HTTP/1.1 or RFC 6455; the text says how.
    UpstreamInvalidResponse(&'static str),
    /// The upstream did not answer in time.
    UpstreamTimeout {
        /// The time it had, in milliseconds.
        timeout_ms: u64,
    },
}

/// Why the upstream could not be used; the values of the label `reason` of `vibewarden_upstream_connect_failures_total`
/// and the word in `upstream.unavailable`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// `ECONNREFUSED`, or nobody listens on the Unix socket.
    Refused,
    /// No answer to the connection within the connect deadline.
    Timeout,
    /// No route.
    Unreachable,
    /// No free local port towards this address.
    NoPorts,
    /// The name has no address.
    Unresolved,
    /// Any other error of `connect(2)`.
    Other,
    /// Connected, then closed or reset before a complete response head.
    Closed,
}

impl Unavailable {
    /// The word for events and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::NoPorts => "no_ports",
            Self::Unresolved => "unresolved",
            Self::Other => "other",
            Self::Closed => "closed_before_response",
        }
    }
}

/// Who said no, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denial {
    /// The mode in force.
    pub mode: AuthMode,
    /// Why.
    pub reason: DenialReason,
}

/// A mode of authentication that can deny something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMode {
    /// Sessions, checked by Kratos.
    Kratos,
    /// Signed tokens.
    Jwt,
    /// API keys.
    ApiKey,
}

impl AuthMode {
    /// The value of `auth.mode`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Kratos => "kratos",
            Self::Jwt => "jwt",
            Self::ApiKey => "api-key",
        }
    }
}

/// Why authentication or authorisation said no (contract section 11.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the words of the event, and `detail` explains them")]
pub enum DenialReason {
    NoCredentials,
    MultipleCredentials,
    InvalidToken,
    InvalidSignature,
    UnknownKey,
    AlgorithmNotAllowed,
    TokenExpired,
    TokenNotYetValid,
    InvalidIssuer,
    InvalidAudience,
    InvalidSession,
    InvalidKey,
    InsufficientScopes,
    InsufficientRole,
    ProviderUnavailable,
}

impl DenialReason {
    /// `reason` of `auth.denied`, and `detail`: a sentence that repeats nothing of what the client sent.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::NoCredentials => ("no_credentials", "no credential where one is looked for"),
            Self::MultipleCredentials => {
                ("multiple_credentials", "two credentials with different values")
            }
            Self::InvalidToken => ("invalid_token", "the token is malformed or a claim is"),
            Self::InvalidSignature => {
                ("invalid_signature", "the signature of the token does not verify")
            }
            Self::UnknownKey => ("unknown_key", "the key set has no key for this token"),
            Self::AlgorithmNotAllowed => {
                ("algorithm_not_allowed", "the algorithm of the token is not allowed")
            }
            Self::TokenExpired => ("token_expired", "the token has expired"),
            Self::TokenNotYetValid => ("token_not_yet_valid", "the token is not valid yet"),
            Self::InvalidIssuer => ("invalid_issuer", "the token is from another issuer"),
            Self::InvalidAudience => ("invalid_audience", "the token is for another audience"),
            Self::InvalidSession => ("invalid_session", "the session is not known or not active"),
            Self::InvalidKey => ("invalid_key", "the API key is not known"),
            Self::InsufficientScopes => {
                ("insufficient_scopes", "the API key lacks a scope that this path requires")
            }
            Self::InsufficientRole => {
                ("insufficient_role", "the role of the user is not one that this path requires")
            }
            Self::ProviderUnavailable => {
                ("provider_unavailable", "the authentication provider gave no usable answer")
            }
        }
    }

    /// `reason` of `auth.denied`.
    pub fn word(self) -> &'static str {
        self.words().0
    }

    /// `detail` of `auth.denied`.
    pub fn detail(self) -> &'static str {
        self.words().1
    }
}

impl Denial {
    /// Status, error code and message (contract sections 10.1 and 13).
    fn row(self) -> (u16, &'static str, &'static str) {
        match (self.reason, self.mode) {
            (DenialReason::InsufficientScopes, _) => (403, "forbidden", "insufficient scopes"),
            (DenialReason::InsufficientRole, _) => {
                (403, "forbidden", "insufficient role for this path")
            }
            (DenialReason::ProviderUnavailable, _) => (
                503,
                "auth_provider_unavailable",
                "authentication service is temporarily unavailable",
            ),
            (_, AuthMode::Kratos) => (401, "unauthorized", "missing or invalid session"),
            (DenialReason::NoCredentials, AuthMode::ApiKey) => {
                (401, "unauthorized", "API key required")
            }
            (_, AuthMode::ApiKey) => (401, "unauthorized", "invalid or inactive API key"),
            (DenialReason::NoCredentials, AuthMode::Jwt) => (401, "unauthorized", "missing token"),
            (DenialReason::TokenExpired, AuthMode::Jwt) => {
                (401, "invalid_token", "token has expired")
            }
            (_, AuthMode::Jwt) => (401, "invalid_token", "token is not valid"),
        }
    }

    /// The challenge of RFC 6750 section 3, for tokens alone.
    fn challenge(self) -> &'static str {
        match (self.mode, self.row()) {
            (AuthMode::Jwt, (401, "invalid_token", _)) => {
                "WWW-Authenticate: Bearer error=\"invalid_token\"\r\n"
            }
            (AuthMode::Jwt, (401, ..)) => "WWW-Authenticate: Bearer\r\n",
            _ => "",
        }
    }
}

/// Whose limit it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Of the client address.
    Ip,
    /// Of the user.
    User,
}

impl Limit {
    /// `limit_type` of a bucket, and the label `scope`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::User => "user",
        }
    }

    /// `limit_type` of a count of tunnels.
    pub fn connections_word(self) -> &'static str {
        match self {
            Self::Ip => "ip_connections",
            Self::User => "user_connections",
        }
    }
}

/// Which event a refusal writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalEvent {
    /// None: own endpoints.
    None,
    /// `request.blocked` with this `blocked_by`.
    Blocked(&'static str),
    /// `auth.denied`.
    AuthDenied {
        /// `mode`
        mode: AuthMode,
        /// `reason`
        reason: DenialReason,
    },
    /// `rate_limit.blocked` with this `limit_type`.
    RateLimitBlocked(&'static str),
    /// `ip_filter.blocked`.
    IpFilterBlocked,
    /// `upstream.unavailable`.
    UpstreamUnavailable,
    /// `upstream.timeout`.
    UpstreamTimeout,
}

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Reason phrase of RFC 9110 section 15.
    pub phrase: &'static str,
    /// `error` in the body, `reason` in the event and the metric.
    pub code: &'static str,
    /// `message` in the body; empty ones are left out.
    pub message: &'static str,
    /// Header lines that belong to this answer, each ending in CRLF.
    pub header_lines: &'static str,
    /// `Retry-After` and `retry_after_seconds` in the body; 0 = neither.
    pub retry_after_seconds: u64,
    /// The event.
    pub event: RefusalEvent,
}

const FOREIGN_ORIGIN: &str = "this origin may not open a WebSocket here";
const FILTERED: &str = "your IP address is not permitted to access this resource";
const UNREACHED: &str = "the upstream application could not be reached";
const INVALID: &str = "the upstream application sent an invalid response";
const LATE: &str = "the upstream application did not respond in time";

/// Reason phrases of the statuses above (RFC 9110 section 15, RFC 6585).
fn phrase(status: u16) -> &'static str {
    match status {
        302 => "Found",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        417 => "Expectation Failed",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Internal Server Error",
    }
}

impl Refusal {
    /// The table.
    pub fn answer(self) -> Answer {
        let http = RefusalEvent::Blocked("http");
        let websocket = RefusalEvent::Blocked("websocket");
        let (status, code, message, event) = match self {
            Self::BadRequest(message) => (400, "bad_request", message, http),
            Self::BadUpgrade(message) => (400, "bad_request", message, websocket),
            Self::Denied(denial) => {
                let (status, code, message) = denial.row();
                let Denial { mode, reason } = denial;
                (status, code, message, RefusalEvent::AuthDenied { mode, reason })
            }
            Self::LoginRedirect(reason) => {
                let event = RefusalEvent::AuthDenied { mode: AuthMode::Kratos, reason };
                (302, "unauthorized", "", event)
            }
            Self::OriginNotAllowed => {
                (403, "origin_not_allowed", FOREIGN_ORIGIN, RefusalEvent::Blocked("origin"))
            }
            Self::IpFiltered => (403, "forbidden", FILTERED, RefusalEvent::IpFilterBlocked),
            Self::NotFound => (404, "not_found", "", RefusalEvent::None),
            Self::MethodNotAllowed => (405, "method_not_allowed", "", http),
            Self::RequestTimeout => (408, "request_timeout", "", http),
            Self::ExpectationFailed => (417, "expectation_failed", "", http),
            Self::UnsupportedWebSocketVersion => {
                (426, "unsupported_websocket_version", "", websocket)
            }
            Self::RateLimited { limit, .. } => {
                (429, "rate_limit_exceeded", "", RefusalEvent::RateLimitBlocked(limit.word()))
            }
            Self::ConnectionLimited(limit) => {
                let event = RefusalEvent::RateLimitBlocked(limit.connections_word());
                (429, "connection_limit_exceeded", "", event)
            }
            Self::HeadersTooLarge => (431, "headers_too_large", "", http),
            Self::InternalError => (500, "internal_error", "", http),
            Self::PayloadTooLarge => {
                (413, "payload_too_large", "", RefusalEvent::Blocked("body_size"))
            }
            Self::UpstreamUnavailable(_) => {
                (502, "upstream_unavailable", UNREACHED, RefusalEvent::UpstreamUnavailable)
            }
            Self::UpstreamInvalidResponse(_) => {
                (502, "upstream_invalid_response", INVALID, RefusalEvent::UpstreamUnavailable)
            }
            Self::UpstreamTimeout { .. } => {
                (504, "upstream_timeout", LATE, RefusalEvent::UpstreamTimeout)
            }
        };
        let header_lines = match self {
            Self::Denied(denial) => denial.challenge(),
            Self::LoginRedirect(_) => "Cache-Control: no-store\r\n",
            Self::MethodNotAllowed => "Allow: GET, HEAD\r\n",
            Self::UnsupportedWebSocketVersion => {
                "Sec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n"
            }
            _ => "",
        };
        let retry_after_seconds = match self {
            Self::RateLimited { retry_after_seconds, .. } => retry_after_seconds,
            _ => 0,
        };
        let phrase = phrase(status);
        Answer { status, phrase, code, message, header_lines, retry_after_seconds, event }
    }

    /// What went wrong with the upstream, for the `error` of `upstream.unavailable`.
    pub fn upstream_error(self) -> &'static str {
        match self {
            Self::UpstreamUnavailable(reason) => reason.word(),
            Self::UpstreamInvalidResponse(why) => why,
            _ => "",
        }
    }
}

impl Refusal {
    /// The upstream did not do in time what it had `limit` for.
    pub fn upstream_timeout(limit: std::time::Duration) -> Self {
        Self::UpstreamTimeout { timeout_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX) }
    }

    /// Whether a limit of the user, not of the address, refused.
    pub fn is_of_user(self) -> bool {
        matches!(
            self,
            Self::RateLimited { limit: Limit::User, .. } | Self::ConnectionLimited(Limit::User)
        )
    }

    /// The event of a refusal by a limit. `identifier` is the key of the bucket or count: the address or its block, or the user.
    pub fn limit_event<'a>(
        self,
        request: RequestFacts<'a>,
        identifier: &'a str,
        config: &Config,
    ) -> Option<Event<'a>> {
        match self {
            Self::RateLimited { limit, retry_after_seconds } => {
                let allowance = match limit {
                    Limit::Ip => config.rate_limit.per_ip,
                    Limit::User => config.rate_limit.per_user,
                };
                Some(Event::RateLimitBlocked {
                    request,
                    burst: allowance.burst,
                    identifier,
                    limit_type: limit.word(),
                    requests_per_second: allowance.requests_per_second,
                    retry_after_seconds,
                })
            }
            Self::ConnectionLimited(limit) => {
                let quota = match limit {
                    Limit::Ip => config.tunnel_quota.per_ip,
                    Limit::User => config.tunnel_quota.per_user,
                };
                Some(Event::ConnectionLimitBlocked {
                    request,
                    identifier,
                    limit: quota.unwrap_or_default(),
                    limit_type: limit.connections_word(),
                })
            }
            _ => None,
        }
    }

    /// The timeout that struck, in milliseconds, for `upstream.timeout`.
    pub fn timeout_ms(self) -> u64 {
        match self {
            Self::UpstreamTimeout { timeout_ms } => timeout_ms,
            _ => 0,
        }
    }
}

impl From<RequestError> for Refusal {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::TooLarge | RequestError::TooManyLines => Self::HeadersTooLarge,
            RequestError::MethodNotAllowed => Self::MethodNotAllowed,
            RequestError::Expectation => Self::ExpectationFailed,
            other => Self::BadRequest(other.message()),
        }
    }
}

impl From<UpgradeError> for Refusal {
    fn from(error: UpgradeError) -> Self {
        match error {
            UpgradeError::Version => Self::UnsupportedWebSocketVersion,
            other => Self::BadUpgrade(other.message()),
        }
    }
}

impl From<ResponseError> for Refusal {
    fn from(error: ResponseError) -> Self {
        Self::UpstreamInvalidResponse(error.message())
    }
}

#[cfg(test)]
mod tests;
