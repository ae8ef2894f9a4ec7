//! What mode kratos decides from the head alone: which requests are for Kratos itself, and who is sent to its login page
//! (contract sections 10.1 and 10.4).

use super::paths::MatchingPath;
use crate::refusal::{AuthMode, Denial, DenialReason, Refusal};
use crate::wire::field::list;
use crate::wire::request::RequestHead;

/// The self-service flows of Ory Kratos, with everything below.
const FLOWS: [&str; 7] = [
    "/self-service/login",
    "/self-service/registration",
    "/self-service/logout",
    "/self-service/settings",
    "/self-service/recovery",
    "/self-service/verification",
    "/.ory/kratos/public",
];

/// Whether the request goes to `kratos.public_url`, without authentication. Never for an ambiguous path.
pub fn is_flow(path: &MatchingPath<'_>) -> bool {
    path.is("/sessions/whoami") || FLOWS.iter().any(|flow| path.is_at_or_below(flow))
}

/// What a request without a valid session is told: a page that a person asked for goes on to the login page, all else
/// gets 401.
pub fn unauthenticated(head: &RequestHead<'_>, is_upgrade: bool, reason: DenialReason) -> Refusal {
    let is_page = matches!(head.method, "GET" | "HEAD") && !is_upgrade && accepts_html(head);
    if is_page {
        Refusal::LoginRedirect(reason)
    } else {
        Refusal::Denied(Denial { mode: AuthMode::Kratos, reason })
    }
}

/// Whether `Accept` names `text/html` itself (RFC 9110 section 12.5.1). Programs send `*/*`, and have no use for a page.
fn accepts_html(head: &RequestHead<'_>) -> bool {
    head.header("accept").flat_map(list).any(|range| {
        let media_type = range.split(|&byte| byte == b';').next().unwrap_or_default();
        media_type.trim_ascii().eq_ignore_ascii_case(b"text/html")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_end_at_a_segment() {
        for (path, expected) in [
            ("/self-service/login", true),
            ("/self-service/login/browser", true),
            ("/self-service/registration/api", true),
            ("/self-service/logout/browser", true),
            ("/self-service/settings", true),
            ("/self-service/recovery/x/y", true),
            ("/self-service/verification/", true),
            ("/self-service/%6Cogin/browser", true),
            ("/.ory/kratos/public", true),
            ("/.ory/kratos/public/sessions", true),
            ("/sessions/whoami", true),
            ("/sessions/whoami/", false),
            ("/sessions", false),
            ("/self-service", false),
            ("/self-service/errors", false),
            ("/self-service/loginx", false),
            ("/Self-Service/login", false),
            ("/self-service/login//browser", false),
            ("/self-service/login/;x", false),
            ("/self-service/login%2fbrowser", false),
            ("/.ory/kratos/publicity", false),
            ("/x/self-service/login", false),
        ] {
            assert_eq!(is_flow(&MatchingPath::of(path)), expected, "{path}");
        }
    }

    #[test]
    fn only_a_person_is_sent_to_the_login_page() {
        for (method, accept, is_upgrade, expected) in [
            ("GET", "Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", false, 302),
            ("HEAD", "Accept: application/json, Text/HTML;q=0.1", false, 302),
            ("GET", "Accept: application/json\r\naccept: text/html", false, 302),
            ("GET", "Accept: text/html", true, 401),
            ("POST", "Accept: text/html", false, 401),
            ("get", "Accept: text/html", false, 401),
            ("GET", "Accept: */*", false, 401),
            ("GET", "Accept: text/*", false, 401),
            ("GET", "Accept: text/htmlx", false, 401),
            ("GET", "X: text/html", false, 401),
        ] {
            let head = format!("{method} / HTTP/1.1\r\nHost: t\r\n{accept}\r\n\r\n");
            let head = RequestHead::parse(head.as_bytes()).expect("a clean head");
            let answer = unauthenticated(&head, is_upgrade, DenialReason::NoCredentials).answer();
            assert_eq!(answer.status, expected, "{method} {accept}");
        }
    }
}
