//! How each peer is told to check upgrades, by the row's check. A peer without an own way of a check is left out of its row.

use super::Settings;
use crate::rows::Check;

/// For peers that are compared without checks only.
pub(super) fn none(check: Check) -> Option<Settings> {
    (check == Check::None).then_some(&[])
}

const OWN_KEYS: (&str, &str) = (
    "auth",
    "auth:\n  mode: api-key\n  api_key:\n    keys: [{ name: client, hash: \"{{key_hash}}\", scopes: [] }]",
);
const OWN_UNLIMITED: (&str, &str) = ("rate_limit", "rate_limit:\n  enabled: false");

/// vibewarden.
#[expect(clippy::unnecessary_wraps, reason = "the same type for every peer")]
pub(super) fn own(check: Check) -> Option<Settings> {
    Some(match check {
        Check::None => &[("auth", "auth:\n  mode: none"), OWN_UNLIMITED],
        Check::Key => &[OWN_KEYS, OWN_UNLIMITED],
        Check::Token { .. } => &[
            (
                "auth",
                "auth:\n  mode: jwt\n  jwt: { jwks_url: \"{{key_set}}\", issuer: \"{{issuer}}\", audience: \"{{audience}}\" }",
            ),
            OWN_UNLIMITED,
        ],
        Check::Session => &[
            ("auth", "auth:\n  mode: kratos\nkratos:\n  public_url: \"http://{{sessions}}\""),
            OWN_UNLIMITED,
        ],
        Check::Limited => &[
            OWN_KEYS,
            (
                "rate_limit",
                "rate_limit:\n  per_ip: { requests_per_second: 1000000, burst: 1000000 }\n  per_user: { requests_per_second: 1000000, burst: 1000000 }",
            ),
        ],
        Check::Storm => &[
            ("auth", "auth:\n  mode: none"),
            ("rate_limit", "rate_limit:\n  per_ip: { requests_per_second: 0.001, burst: 1 }"),
        ],
    })
}

/// `HAProxy`: the manual's ACLs, stick tables and its example of `jwt_verify`, with the claims that vibewarden checks too.
pub(super) fn haproxy(check: Check) -> Option<Settings> {
    Some(match check {
        Check::Session => return None,
        Check::None => &[("check", "")],
        Check::Key => &[(
            "check",
            "http-request deny deny_status 401 unless { req.hdr(X-API-Key),sha2(256),hex -m str {{key_hash}} }",
        )],
        Check::Token { .. } => &[(
            "check",
            "http-request set-var(txn.bearer) http_auth_bearer
    http-request set-var(txn.alg) var(txn.bearer),jwt_header_query('$.alg')
    http-request set-var(txn.exp) var(txn.bearer),jwt_payload_query('$.exp','int')
    http-request set-var(txn.now) date()
    http-request deny deny_status 401 unless { var(txn.alg) -m str RS256 }
    http-request deny deny_status 401 unless { var(txn.bearer),jwt_payload_query('$.iss') -m str {{issuer}} }
    http-request deny deny_status 401 unless { var(txn.bearer),jwt_payload_query('$.aud') -m str {{audience}} }
    http-request deny deny_status 401 unless { var(txn.exp),sub(txn.now) -m int gt 0 }
    http-request deny deny_status 401 unless { var(txn.bearer),jwt_verify(txn.alg,\"{{public_key}}\") 1 }",
        )],
        Check::Limited => &[(
            "check",
            "stick-table type ip size 100k expire 1m store http_req_rate(1s)
    http-request track-sc0 src
    http-request deny deny_status 429 if { sc_http_req_rate(0) gt 1000000 }
    http-request deny deny_status 401 unless { req.hdr(X-API-Key),sha2(256),hex -m str {{key_hash}} }",
        )],
        Check::Storm => &[(
            "check",
            "option httpclose
    stick-table type ip size 100k expire 1h store http_req_rate(1h)
    http-request track-sc0 src
    http-request deny deny_status 429 if { sc_http_req_rate(0) gt 1 }",
        )],
    })
}

/// nginx: `limit_req` and `auth_request`. It has no SHA-256 of a header and, without its commercial modules, no tokens.
pub(super) fn nginx(check: Check) -> Option<Settings> {
    match check {
        Check::None => Some(&[("check_zones", ""), ("check", "")]),
        Check::Storm => Some(&[
            ("check_zones", "limit_req_zone $binary_remote_addr zone=clients:10m rate=1r/m;"),
            ("check", "keepalive_timeout 0; limit_req zone=clients; limit_req_status 429;"),
        ]),
        Check::Session => Some(&[
            (
                "check_zones",
                "upstream kratos { server {{sessions}}; keepalive 64; keepalive_requests 1000000000; }",
            ),
            (
                "check",
                "auth_request /whoami;
        location = /whoami {
            internal;
            proxy_pass http://kratos/sessions/whoami;
            proxy_http_version 1.1;
            proxy_pass_request_body off;
            proxy_set_header Connection '';
            proxy_set_header Content-Length '';
        }",
            ),
        ]),
        Check::Limited => Some(&[
            (
                "check_zones",
                "limit_req_zone $binary_remote_addr zone=clients:10m rate=1000000r/s;\n    map $http_x_api_key $known { default 0; {{key}} 1; }",
            ),
            (
                "check",
                "limit_req zone=clients burst=1000000 nodelay; limit_req_status 429;\n        if ($known = 0) { return 401; }",
            ),
        ]),
        Check::Key | Check::Token { .. } => None,
    }
}
