//! What each refusal is for the client, the log and the counters.

use super::*;

const REASONS: [DenialReason; 15] = [
    DenialReason::NoCredentials,
    DenialReason::MultipleCredentials,
    DenialReason::InvalidToken,
    DenialReason::InvalidSignature,
    DenialReason::UnknownKey,
    DenialReason::AlgorithmNotAllowed,
    DenialReason::TokenExpired,
    DenialReason::TokenNotYetValid,
    DenialReason::InvalidIssuer,
    DenialReason::InvalidAudience,
    DenialReason::InvalidSession,
    DenialReason::InvalidKey,
    DenialReason::InsufficientScopes,
    DenialReason::InsufficientRole,
    DenialReason::ProviderUnavailable,
];

fn every_denial() -> impl Iterator<Item = Denial> {
    [AuthMode::Kratos, AuthMode::Jwt, AuthMode::ApiKey]
        .into_iter()
        .flat_map(|mode| REASONS.into_iter().map(move |reason| Denial { mode, reason }))
}

#[test]
fn denials_are_answered_as_the_contract_says() {
    use AuthMode::{ApiKey, Jwt, Kratos};
    use DenialReason as R;
    let (plain, invalid) =
        ("WWW-Authenticate: Bearer\r\n", "WWW-Authenticate: Bearer error=\"invalid_token\"\r\n");
    let unavailable = "authentication service is temporarily unavailable";
    for (mode, reason, status, code, message, lines) in [
        (ApiKey, R::NoCredentials, 401, "unauthorized", "API key required", ""),
        (ApiKey, R::InvalidKey, 401, "unauthorized", "invalid or inactive API key", ""),
        (ApiKey, R::MultipleCredentials, 401, "unauthorized", "invalid or inactive API key", ""),
        (ApiKey, R::InsufficientScopes, 403, "forbidden", "insufficient scopes", ""),
        (Kratos, R::NoCredentials, 401, "unauthorized", "missing or invalid session", ""),
        (Kratos, R::InvalidSession, 401, "unauthorized", "missing or invalid session", ""),
        (Kratos, R::MultipleCredentials, 401, "unauthorized", "missing or invalid session", ""),
        (Kratos, R::InsufficientRole, 403, "forbidden", "insufficient role for this path", ""),
        (Kratos, R::ProviderUnavailable, 503, "auth_provider_unavailable", unavailable, ""),
        (Jwt, R::NoCredentials, 401, "unauthorized", "missing token", plain),
        (Jwt, R::InvalidSignature, 401, "invalid_token", "token is not valid", invalid),
        (Jwt, R::MultipleCredentials, 401, "invalid_token", "token is not valid", invalid),
        (Jwt, R::TokenExpired, 401, "invalid_token", "token has expired", invalid),
        (Jwt, R::ProviderUnavailable, 503, "auth_provider_unavailable", unavailable, ""),
    ] {
        let answer = Refusal::Denied(Denial { mode, reason }).answer();
        assert_eq!(
            (answer.status, answer.code, answer.message, answer.header_lines),
            (status, code, message, lines),
            "{mode:?} {reason:?}"
        );
        assert_eq!(answer.event, RefusalEvent::AuthDenied { mode, reason });
    }
    for reason in REASONS {
        let words = format!("{reason:?}").chars().fold(String::new(), |mut words, letter| {
            if letter.is_uppercase() && !words.is_empty() {
                words.push('_');
            }
            words.push(letter.to_ascii_lowercase());
            words
        });
        assert_eq!(reason.word(), words);
        assert!(!reason.detail().is_empty());
    }
}

#[test]
fn a_redirect_has_a_place_and_no_content() {
    let mut out = Vec::new();
    let answer = Refusal::LoginRedirect(DenialReason::NoCredentials).answer();
    answer.write_redirect(&mut out, "req_A", "/login?a=b", false, b"X: y\r\n");
    assert_eq!(
        String::from_utf8_lossy(&out),
        "HTTP/1.1 302 Found\r\nLocation: /login?a=b\r\nContent-Length: 0\r\nX-Request-ID: req_A\r\n\
         Cache-Control: no-store\r\nX: y\r\n\r\n"
    );
}

/// One of every kind; the match makes the compiler ask for a new one here.
fn every_refusal() -> Vec<Refusal> {
    let mut all = vec![
        Refusal::BadRequest("text"),
        Refusal::BadUpgrade("text"),
        Refusal::LoginRedirect(DenialReason::NoCredentials),
        Refusal::OriginNotAllowed,
        Refusal::NotFound,
        Refusal::MethodNotAllowed,
        Refusal::IpFiltered,
        Refusal::RateLimited { limit: Limit::Ip, retry_after_seconds: 3 },
        Refusal::ConnectionLimited(Limit::User),
        Refusal::RequestTimeout,
        Refusal::ExpectationFailed,
        Refusal::UnsupportedWebSocketVersion,
        Refusal::HeadersTooLarge,
        Refusal::InternalError,
        Refusal::PayloadTooLarge,
        Refusal::UpstreamUnavailable(Unavailable::Refused),
        Refusal::UpstreamInvalidResponse("text"),
        Refusal::UpstreamTimeout { timeout_ms: 1 },
    ];
    all.extend(every_denial().map(Refusal::Denied));
    for refusal in &all {
        match refusal {
            Refusal::BadRequest(_)
            | Refusal::BadUpgrade(_)
            | Refusal::Denied(_)
            | Refusal::LoginRedirect(_)
            | Refusal::OriginNotAllowed
            | Refusal::NotFound
            | Refusal::MethodNotAllowed
            | Refusal::IpFiltered
            | Refusal::RateLimited { .. }
            | Refusal::ConnectionLimited(_)
            | Refusal::RequestTimeout
            | Refusal::ExpectationFailed
            | Refusal::UnsupportedWebSocketVersion
            | Refusal::HeadersTooLarge
            | Refusal::InternalError
            | Refusal::PayloadTooLarge
            | Refusal::UpstreamUnavailable(_)
            | Refusal::UpstreamInvalidResponse(_)
            | Refusal::UpstreamTimeout { .. } => {}
        }
    }
    all
}

#[test]
fn the_readme_has_a_row_for_every_refusal() {
    let readme = include_str!("../../README.md");
    for refusal in every_refusal() {
        let answer = refusal.answer();
        let row = format!("| {} | `{}` |", answer.status, answer.code);
        let mut rows = readme.lines().filter(|line| line.starts_with(&row));
        let event = match answer.event {
            RefusalEvent::None => "–",
            RefusalEvent::Blocked(_) => "request.blocked",
            RefusalEvent::AuthDenied { .. } => "auth.denied",
            RefusalEvent::RateLimitBlocked(_) => "rate_limit.blocked",
            RefusalEvent::IpFilterBlocked => "ip_filter.blocked",
            RefusalEvent::UpstreamUnavailable => "upstream.unavailable",
            RefusalEvent::UpstreamTimeout => "upstream.timeout",
        };
        assert!(rows.any(|line| line.contains(event)), "README.md lacks {row} … {event}");
    }
}

#[test]
fn the_body_leaves_empty_members_out_and_head_has_none() {
    let mut out = Vec::new();
    Refusal::RequestTimeout.answer().write(&mut out, "req_A", false, true, b"");
    let text = String::from_utf8_lossy(&out).into_owned();
    let body = "{\"error\":\"request_timeout\",\"status\":408,\"request_id\":\"req_A\"}\n";
    assert!(text.ends_with(&format!("Connection: close\r\n\r\n{body}")), "{text}");
    assert!(text.contains(&format!("Content-Length: {}\r\n", body.len())), "{text}");
    assert!(!text.contains("Retry-After"), "{text}");
    out.clear();
    Refusal::RequestTimeout.answer().write(&mut out, "req_A", true, false, b"X: y\r\n");
    assert!(out.ends_with(b"\r\nX-Request-ID: req_A\r\nX: y\r\n\r\n"));
}

#[test]
fn retry_after_is_the_same_number_in_header_and_body() {
    let mut out = Vec::new();
    let refusal = Refusal::RateLimited { limit: Limit::User, retry_after_seconds: 86_400 };
    refusal.answer().write(&mut out, "req_A", false, true, b"");
    assert_eq!(
        String::from_utf8_lossy(&out),
        "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nContent-Length: 94\r\n\
         X-Request-ID: req_A\r\nRetry-After: 86400\r\nConnection: close\r\n\r\n\
         {\"error\":\"rate_limit_exceeded\",\"status\":429,\"request_id\":\"req_A\",\"retry_after_seconds\":86400}\n"
    );
    out.clear();
    Refusal::ConnectionLimited(Limit::Ip).answer().write(&mut out, "req_A", false, true, b"");
    let text = String::from_utf8_lossy(&out);
    assert!(!text.contains("Retry-After") && !text.contains("retry_after"), "{text}");
    assert_eq!(
        Refusal::ConnectionLimited(Limit::Ip).answer().event,
        RefusalEvent::RateLimitBlocked("ip_connections")
    );
}
