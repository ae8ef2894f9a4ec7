//! URLs as the configuration may contain them: a strict split, and what each key makes of the parts.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use super::UpstreamTarget;
use super::mistakes::Problem;
use crate::admission::origin::AllowedOrigin;

/// Longest path of a Unix socket: `sun_path` has 108 bytes and ends with a zero (unix(7)).
const UNIX_PATH_BYTES_MAX: usize = 107;

/// The parts of `scheme://userinfo@host:port/path?query#fragment` (RFC 3986), borrowed from the text.
struct Url<'t> {
    scheme: &'t str,
    userinfo: Option<&'t str>,
    /// IPv6 addresses without brackets.
    host: &'t str,
    port: Option<u16>,
    /// Empty or begins with `/`.
    path: &'t str,
    query: Option<&'t str>,
    fragment: Option<&'t str>,
}

impl<'t> Url<'t> {
    fn parse(text: &'t str) -> Result<Self, &'static str> {
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("it contains a space, a control character or a letter outside ASCII");
        }
        let (scheme, rest) =
            text.split_once("://").ok_or("it does not begin with a scheme such as http://")?;
        let (rest, fragment) = split_optional(rest, '#');
        let (rest, query) = split_optional(rest, '?');
        let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        let (userinfo, host_port) =
            authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        let (host, port) = split_host_port(host_port)?;
        Ok(Self { scheme, userinfo, host, port, path, query, fragment })
    }

    fn is(&self, scheme: &str) -> bool {
        self.scheme.eq_ignore_ascii_case(scheme)
    }
}

fn split_optional(text: &str, separator: char) -> (&str, Option<&str>) {
    text.split_once(separator).map_or((text, None), |(before, after)| (before, Some(after)))
}

fn split_host_port(text: &str) -> Result<(&str, Option<u16>), &'static str> {
    let (host, port) = if let Some(bracketed) = text.strip_prefix('[') {
        let (host, after) = bracketed.split_once(']').ok_or("its host has no closing bracket")?;
        host.parse::<Ipv6Addr>().map_err(|_| "there is no IPv6 address between its brackets")?;
        match after.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if after.is_empty() => (host, None),
            None => return Err("something other than a port follows its brackets"),
        }
    } else {
        let (host, port) = split_optional(text, ':');
        if host.is_empty() {
            return Err("it has no host");
        }
        if !is_host_name(host) {
            return Err("its host is not a name or an IP address");
        }
        (host, port)
    };
    Ok((host, port.map(parse_port).transpose()?))
}

fn parse_port(text: &str) -> Result<u16, &'static str> {
    let plain = (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let port = if plain { text.parse().unwrap_or(0) } else { 0 };
    if port == 0 { Err("its port is not a number between 1 and 65535") } else { Ok(port) }
}

/// A name as resolvers take it, or an IPv4 address. Underscores occur in container networks.
pub(super) fn is_host_name(text: &str) -> bool {
    let in_charset = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let labels = text.strip_suffix('.').unwrap_or(text).split('.');
    text.len() <= 254
        && labels
            .clone()
            .all(|label| (1..=63).contains(&label.len()) && label.bytes().all(in_charset))
        && (labels.clone().any(|label| !label.bytes().all(|byte| byte.is_ascii_digit()))
            || text.parse::<Ipv4Addr>().is_ok())
}

/// Where a checked `http://` base URL leads, and its path; `None` for another scheme.
pub(super) fn plain_http_base(text: &str) -> Option<(UpstreamTarget, String)> {
    let url = Url::parse(text).ok().filter(|url| url.is("http"))?;
    let target = UpstreamTarget::Tcp { host: url.host.to_owned(), port: url.port.unwrap_or(80) };
    Some((target, url.path.trim_end_matches('/').to_owned()))
}

/// `upstream.url`: `http://host[:port]`, `ws://` as a synonym, `unix:/path.sock`; a lone trailing `/` is ignored.
pub(super) fn upstream_target(text: &str) -> Result<UpstreamTarget, &'static str> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_target(path);
    }
    let url = Url::parse(text)?;
    if url.is("https") || url.is("wss") {
        return Err("TLS to the upstream is not supported; use http:// or ws://");
    }
    if !url.is("http") && !url.is("ws") {
        return Err("only http://, ws:// and unix: are supported");
    }
    if url.userinfo.is_some() {
        return Err("userinfo is not supported");
    }
    if url.fragment.is_some() {
        return Err("a fragment is not supported");
    }
    if url.query.is_some() {
        return Err("a query is not supported");
    }
    if !matches!(url.path, "" | "/") {
        return Err("a path is not supported");
    }
    Ok(UpstreamTarget::Tcp { host: url.host.to_owned(), port: url.port.unwrap_or(80) })
}

fn unix_target(path: &str) -> Result<UpstreamTarget, &'static str> {
    let path = path.strip_prefix("//").unwrap_or(path);
    if !path.starts_with('/') || path.ends_with('/') {
        return Err("a Unix socket needs its absolute path, as in unix:/run/app.sock");
    }
    if path.chars().any(char::is_control) {
        return Err("the path of the Unix socket contains a control character");
    }
    if path.len() > UNIX_PATH_BYTES_MAX {
        return Err("the path of a Unix socket has at most 107 bytes");
    }
    Ok(UpstreamTarget::Unix(PathBuf::from(path)))
}

/// Check for `upstream.url`; empty is not set.
pub(super) fn upstream_url(text: &str) -> Result<String, Problem> {
    if text.is_empty() {
        return Ok(String::new());
    }
    upstream_target(text).map_err(|why| not_url(text, why))?;
    let lone_slash = text.ends_with('/') && !text.starts_with("unix:");
    Ok(text[..text.len() - usize::from(lone_slash)].to_owned())
}

/// Check for a URL that is fetched over HTTP; a path is allowed, empty is not set.
pub(super) fn http_url(text: &str) -> Result<String, Problem> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let why = match Url::parse(text) {
        Err(why) => why,
        Ok(url) if !url.is("http") && !url.is("https") => "only http:// and https:// are supported",
        Ok(url) if url.userinfo.is_some() => "userinfo is not supported",
        Ok(url) if url.fragment.is_some() => "a fragment is not supported",
        Ok(_) => return Ok(text.to_owned()),
    };
    Err(not_url(text, why))
}

/// Check for `kratos.public_url` and `auth.jwt.issuer_url`: as [`http_url`], and paths are appended to it, so there is no query.
pub(super) fn http_base_url(text: &str) -> Result<String, Problem> {
    if text.contains('?') {
        return Err(not_url(text, "a query is not supported"));
    }
    http_url(text)
}

/// Whether paths can be appended to `text`.
pub(super) fn is_http_base_url(text: &str) -> bool {
    !text.is_empty() && http_base_url(text).is_ok()
}

/// Check for `auth.ui.login_url`: as [`login_url`]; empty is not set.
pub(super) fn own_login_url(text: &str) -> Result<String, Problem> {
    if text.is_empty() { Ok(String::new()) } else { login_url(text) }
}

/// Check for URLs that go into `Location`: a path, or an http(s) URL. `//host` would be another site.
pub(super) fn login_url(text: &str) -> Result<String, Problem> {
    if text.is_empty() {
        return Err(not_url(text, "it is empty"));
    }
    if !text.starts_with('/') {
        return http_url(text);
    }
    if text.starts_with("//") || text.starts_with("/\\") {
        return Err(not_url(text, "it begins with two slashes, which names another host"));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(not_url(
            text,
            "it contains a space, a control character or a letter outside ASCII",
        ));
    }
    Ok(text.to_owned())
}

/// Check for `rate_limit.redis.url`; empty is not set.
pub(super) fn redis_url(text: &str) -> Result<String, Problem> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let why = match Url::parse(text) {
        Err(why) => why,
        Ok(url) if !url.is("redis") && !url.is("rediss") => {
            "only redis:// and rediss:// are supported"
        }
        Ok(url) if url.fragment.is_some() => "a fragment is not supported",
        Ok(url) if url.query.is_some() => "a query is not supported",
        Ok(url) if !is_redis_path(url.path) => "its path is not the number of a database",
        Ok(_) => return Ok(text.to_owned()),
    };
    Err(not_url(text, why))
}

fn is_redis_path(path: &str) -> bool {
    let number = path.strip_prefix('/').unwrap_or(path);
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    number.is_empty() || (digits && i32::from_str(number).is_ok())
}

/// Check for `rate_limit.redis.address`: `host:port`; empty is not set.
pub(super) fn host_port(text: &str) -> Result<String, Problem> {
    if text.is_empty() {
        return Ok(String::new());
    }
    match split_host_port(text) {
        Err(why) => Err(not_url(text, why)),
        Ok((_, None)) => Err(not_url(text, "it has no port")),
        Ok(_) => Ok(text.to_owned()),
    }
}

/// Check for an entry of `websocket.allowed_origins`: `scheme://host[:port]`, `null` or `*`.
pub(super) fn origin(text: &str) -> Result<String, Problem> {
    match AllowedOrigin::parse(text) {
        Some(origin) => Ok(origin.to_string()),
        None => Err(Problem::NotValid {
            got: text.to_owned(),
            why: "an origin is scheme://host[:port] with nothing after it, null or *".to_owned(),
        }),
    }
}

fn not_url(text: &str, why: &'static str) -> Problem {
    Problem::NotUrl { got: without_userinfo(text), why }
}

/// The URL with `***` in place of what stands before `@`, which may be a password.
pub(super) fn without_userinfo(text: &str) -> String {
    let authority_start = text.find("://").map_or(0, |at| at + 3);
    match text.rfind('@') {
        Some(at) if at >= authority_start => {
            format!("{}***{}", &text[..authority_start], &text[at..])
        }
        _ => text.to_owned(),
    }
}
