//! Checks of single texts: names, patterns, header values. Each returns the form that is kept.

use std::net::IpAddr;

use super::Cidr;
use super::mistakes::Problem;
use super::unsupported;
use super::url::is_host_name;
use crate::admission::jwt::Algorithm;
use crate::admission::paths::{Pattern, PatternError};
use crate::wire::field::Field;

/// Certificate providers of the wider product that need ACME.
const ACME_PROVIDERS: [&str; 5] =
    ["letsencrypt", "acme", "letsencrypt-staging", "zerossl", "buypass"];

/// Header names that carry framing, routing or the connection; none of them can carry an identity or a key.
const RESERVED_HEADERS: [&str; 12] = [
    "connection",
    "content-length",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

fn not_valid(text: &str, why: &str) -> Problem {
    Problem::NotValid { got: text.to_owned(), why: why.to_owned() }
}

/// The text itself when `valid`, else P with `why`.
fn valid_or(text: &str, valid: bool, why: &str) -> Result<String, Problem> {
    if valid { Ok(text.to_owned()) } else { Err(not_valid(text, why)) }
}

/// Free text on one line.
pub(super) fn line(text: &str) -> Result<String, Problem> {
    valid_or(text, !text.chars().any(char::is_control), "it contains a control character")
}

/// Free text on one line that is not empty.
pub(super) fn filled_line(text: &str) -> Result<String, Problem> {
    if text.is_empty() { Err(not_valid(text, "it is empty")) } else { line(text) }
}

/// `server.host`: an IP address, or `localhost` for 127.0.0.1.
pub(super) fn listen_host(text: &str) -> Result<String, Problem> {
    if text.eq_ignore_ascii_case("localhost") {
        return Ok("127.0.0.1".to_owned());
    }
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(address.to_string()),
        Err(_) => Err(Problem::NotAddress { got: text.to_owned() }),
    }
}

/// An IP address or a CIDR block, host bits cleared.
pub(super) fn cidr(text: &str) -> Result<String, Problem> {
    match Cidr::parse(text) {
        Some(block) => Ok(block.to_string()),
        None => Err(Problem::NotAddress { got: text.to_owned() }),
    }
}

/// `upstream.host`: a name or an IP address, IPv6 without brackets.
pub(super) fn upstream_host(text: &str) -> Result<String, Problem> {
    let valid = is_host_name(text) || text.parse::<IpAddr>().is_ok();
    valid_or(text, valid, "it is neither a name nor an IP address (IPv6 without brackets)")
}

/// A path for the probe; empty is not set.
pub(super) fn probe_path(text: &str) -> Result<String, Problem> {
    let valid = text.is_empty()
        || text.starts_with('/')
            && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    valid_or(text, valid, "it must begin with / and contain visible ASCII characters only")
}

/// A prefix of `body_size.overrides`, kept without a slash at its end. What no path can match (contract section 10.2) is a mistake: a limit that is never
/// in force protects nothing.
pub(super) fn path_prefix(text: &str) -> Result<String, Problem> {
    let valid =
        text.starts_with('/') && !text.chars().any(|c| c.is_control() || matches!(c, '?' | '#'));
    let dots = |segment| matches!(segment, "." | "..");
    let escape = |rest: &str| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    let never = text.contains("//")
        || text.contains([';', '\\'])
        || text.split('/').any(dots)
        || text.split('%').skip(1).any(escape);
    if valid && never {
        let why = "no path matches it: write it decoded, without empty segments, dot segments, semicolon and backslash";
        return Err(not_valid(text, why));
    }
    let without_slash = text.strip_suffix('/').filter(|prefix| !prefix.is_empty());
    valid_or(
        without_slash.unwrap_or(text),
        valid,
        "it must begin with / and contain no query, fragment or control character",
    )
}

/// A path pattern (contract section 10.2): a glob over the whole path, or a prefix that ends in `/*`.
pub(super) fn pattern(text: &str) -> Result<String, Problem> {
    kept_pattern(text, Pattern::parse(text))
}

/// A path pattern where only globs are meant (contract section 10.2, rule 2).
pub(super) fn glob(text: &str) -> Result<String, Problem> {
    kept_pattern(text, Pattern::glob(text))
}

fn kept_pattern(text: &str, read: Result<Pattern, PatternError>) -> Result<String, Problem> {
    match read {
        Ok(pattern) => Ok(pattern.to_string()),
        Err(error) => Err(not_valid(text, error.message())),
    }
}

/// A label form of `path_patterns`: `/users/:id`.
pub(super) fn path_form(text: &str) -> Result<String, Problem> {
    let segment = |segment: &str| {
        segment != ":"
            && segment
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'"' | b'\\'))
    };
    let valid = text.strip_prefix('/').is_some_and(|segments| segments.split('/').all(segment));
    valid_or(
        text,
        valid,
        "it must have the form /users/:id, in visible ASCII characters without a query",
    )
}

/// A token of RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// A cookie name (RFC 6265 section 4.1.1).
pub(super) fn cookie_name(text: &str) -> Result<String, Problem> {
    valid_or(text, is_token(text), "it is not a cookie name")
}

/// A header name for a key. Headers that the proxy removes, replaces or reads itself would not carry it.
pub(super) fn key_header(text: &str) -> Result<String, Problem> {
    let fits = matches!(Field::of(text.as_bytes()), Field::Other | Field::Credential);
    header_name(text, fits)
}

/// A header name for an identity. What the client says of itself in it is removed, so it cannot be one that the
/// application needs from the client.
pub(super) fn identity_header(text: &str) -> Result<String, Problem> {
    let fits = match Field::of(text.as_bytes()) {
        Field::Other | Field::Identity => true,
        Field::Forwarded => !text.eq_ignore_ascii_case("forwarded"),
        _ => false,
    };
    header_name(text, fits)
}

fn header_name(text: &str, fits: bool) -> Result<String, Problem> {
    if RESERVED_HEADERS.iter().any(|reserved| text.eq_ignore_ascii_case(reserved)) {
        return Err(not_valid(text, "framing, Host and hop-by-hop headers cannot be used"));
    }
    if !is_token(text) {
        return Err(not_valid(text, "it is not a header name"));
    }
    valid_or(text, fits, "this header has another meaning to the proxy")
}

/// A method of a scope rule.
pub(super) fn method(text: &str) -> Result<String, Problem> {
    valid_or(text, is_token(text) && text.len() <= 32, "it is not a method")
}

fn is_parameter(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"&=#+%".contains(&byte))
}

/// The name of a query parameter; empty is off.
pub(super) fn parameter(text: &str) -> Result<String, Problem> {
    valid_or(text, text.is_empty() || is_parameter(text), "it is not the name of a query parameter")
}

/// A SHA-256 in hex digits, kept in lower case.
pub(super) fn sha256(text: &str) -> Result<String, Problem> {
    let valid = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    valid_or(&text.to_ascii_lowercase(), valid, "a key hash is 64 hex digits")
}

/// A place where a JWT may stand (contract section 10.3).
pub(super) fn jwt_source(text: &str) -> Result<String, Problem> {
    let (kind, name) = text.split_once(':').map_or((text, None), |(kind, name)| (kind, Some(name)));
    match (kind, name) {
        ("header", None) => Ok(text.to_owned()),
        ("cookie", Some(name)) => valid_or(text, is_token(name), "it names no cookie"),
        ("query", Some(name)) => valid_or(text, is_parameter(name), "it names no query parameter"),
        ("subprotocol", Some(prefix)) => {
            valid_or(text, is_token(prefix), "its prefix is not a token")
        }
        ("cookie" | "query" | "subprotocol", None) => {
            Err(not_valid(text, "a name must follow after a colon"))
        }
        _ => Err(Problem::NotAccepted {
            got: text.to_owned(),
            accepted: vec!["header", "cookie:<name>", "query:<param>", "subprotocol:<prefix>"],
        }),
    }
}

/// A signature algorithm of `auth.jwt.allowed_algorithms`; never `none`, never HMAC.
pub(super) fn algorithm(text: &str) -> Result<String, Problem> {
    if Algorithm::from_name(text).is_some() {
        return Ok(text.to_owned());
    }
    let accepted = Algorithm::ALL.map(Algorithm::name).to_vec();
    Err(Problem::NotAccepted { got: text.to_owned(), accepted })
}

/// `tls.provider`.
pub(super) fn tls_provider(text: &str) -> Result<String, Problem> {
    match text {
        "self-signed" | "external" => Ok(text.to_owned()),
        _ if ACME_PROVIDERS.contains(&text) => {
            Err(Problem::ProviderNotSupported { got: text.to_owned() })
        }
        _ => Err(Problem::NotAccepted {
            got: text.to_owned(),
            accepted: vec!["self-signed", "external"],
        }),
    }
}

/// `auth.api_key.openbao_path`: only its absence is right.
pub(super) fn key_store(text: &str) -> Result<String, Problem> {
    if text.is_empty() { Ok(String::new()) } else { Err(Problem::KeyStore) }
}

/// An entry of `allow_unsupported`.
pub(super) fn unsupported_name(text: &str) -> Result<String, Problem> {
    if unsupported::names().any(|name| name == text) {
        return Ok(text.to_owned());
    }
    Err(Problem::NotAccepted { got: text.to_owned(), accepted: unsupported::names().collect() })
}

/// A header value that the proxy sets (RFC 9110 section 5.5); empty is off.
pub(super) fn header_value(text: &str) -> Result<String, Problem> {
    let valid = text.bytes().all(|byte| byte == b' ' || byte == b'\t' || byte.is_ascii_graphic());
    valid_or(text, valid && text.trim() == text, "it is not a header value")
}

/// One source of a `csp` list.
pub(super) fn csp_source(text: &str) -> Result<String, Problem> {
    let allowed = |byte: u8| byte == b' ' || (byte.is_ascii_graphic() && !b";,".contains(&byte));
    let valid = !text.trim().is_empty() && text.bytes().all(allowed);
    valid_or(text, valid, "it is not a source of a content security policy")
}
