//! What is in force for new requests: the configuration, the addresses of the upstream, and the checks in their order
//! (contract section 5.1).

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use super::address::client_address;
use super::paths::MatchingPath;
use super::security_headers;
use crate::config::{Config, SecurityHeaders, UpstreamTarget};
use crate::refusal::Refusal;
use crate::wire::answer::{AnswerHeaders, Via};
use crate::wire::request::RequestHead;

/// One immutable snapshot. A request keeps the one it started with; a tunnel keeps none.
#[derive(Debug)]
pub struct Policy {
    /// The effective configuration.
    pub config: Config,
    /// The upstream as operators wrote it, for events.
    pub upstream_url: Arc<str>,
    /// `host[:port]` for a request without `Host`.
    pub upstream_authority: Box<str>,
    /// Where it is now.
    pub addresses: Addresses,
    /// What the proxy sets on every answer.
    pub answer_headers: AnswerHeaders,
    patterns: Vec<Arc<str>>,
    other: Arc<str>,
    none: Arc<str>,
}

/// Where the upstream can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addresses {
    /// In the order in which they are tried; empty while the name is unresolved.
    Tcp(Vec<SocketAddr>),
    /// A Unix stream socket.
    Unix(PathBuf),
}

/// Who a request is from, as far as the upstream and the limits are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Mode `none`: nobody was asked.
    Anonymous,
}

impl Identity {
    /// The identity headers that are set for the upstream.
    pub fn headers(&self) -> &[(&str, &str)] {
        match self {
            Self::Anonymous => &[],
        }
    }
}

/// What the checks found out about an admitted request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// Who it is from.
    pub identity: Identity,
}

/// Where a request comes from (contract section 9.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The other end of the TCP connection.
    pub peer: IpAddr,
    /// The one address that filter, buckets, quotas, headers and events use.
    pub client: IpAddr,
    /// Whether the peer's forwarding headers are believed.
    pub peer_trusted: bool,
}

impl Policy {
    /// Makes the snapshot.
    pub fn new(config: Config, addresses: Addresses) -> Self {
        let (upstream_url, upstream_authority) = match &config.upstream.target {
            UpstreamTarget::Tcp { host, port } => {
                let authority = if host.contains(':') {
                    format!("[{host}]:{port}")
                } else {
                    format!("{host}:{port}")
                };
                (format!("http://{authority}"), authority)
            }
            UpstreamTarget::Unix(path) => {
                (format!("unix:{}", path.display()), "localhost".to_owned())
            }
        };
        let answer_headers = answer_headers(&config.security_headers, TLS);
        let patterns =
            config.telemetry.path_patterns.iter().map(|pattern| pattern.as_str().into()).collect();
        Self {
            config,
            upstream_url: upstream_url.into(),
            upstream_authority: upstream_authority.into(),
            addresses,
            answer_headers,
            patterns,
            other: "other".into(),
            none: "".into(),
        }
    }

    /// Where the request comes from.
    pub fn origin(&self, head: &RequestHead<'_>, peer: IpAddr) -> Origin {
        let peer = peer.to_canonical();
        let (client, peer_trusted) = client_address(
            peer,
            head.header("x-forwarded-for"),
            &self.config.server.trusted_proxies,
        );
        Origin { peer, client, peer_trusted }
    }

    /// The checks, in the order of the contract; the first refusal ends it. In the open case there is nothing to refuse:
    /// address filter, per-address limits, origin, authentication and per-user limits take their places here.
    pub fn admit(&self, _head: &RequestHead<'_>, _origin: &Origin) -> Result<Admitted, Refusal> {
        Ok(Admitted { identity: Identity::Anonymous })
    }

    /// How many bytes of content a request to `path` may have (`body_size`); `None` = any number. The longest override
    /// that the path is at or below decides; an ambiguous path is below none.
    pub fn content_bytes_max(&self, path: &MatchingPath<'_>) -> Option<u64> {
        let body_size = &self.config.body_size;
        let matching = body_size.overrides.iter().filter(|entry| path.is_at_or_below(&entry.path));
        matching.max_by_key(|entry| entry.path.len()).map_or(body_size.max, |entry| entry.max)
    }

    /// The label `path_pattern`: the first of `telemetry.path_patterns` that matches, else `other`.
    pub fn path_pattern(&self, path: &str) -> &Arc<str> {
        self.patterns.iter().find(|pattern| matches_pattern(pattern, path)).unwrap_or(&self.other)
    }

    /// The label of metrics that have no `path_pattern`.
    pub fn no_pattern(&self) -> &Arc<str> {
        &self.none
    }
}

/// Clients come without TLS in this version.
const TLS: bool = false;

fn answer_headers(headers: &SecurityHeaders, tls: bool) -> AnswerHeaders {
    let set = security_headers::of(headers, tls);
    let via = if headers.suppress_via_header { Via::Suppressed } else { Via::Appended };
    AnswerHeaders::new(set.iter().map(|(name, value)| (*name, value.as_str())), via)
}

/// `/users/:id`: a segment that begins with a colon stands for any one non-empty segment.
fn matches_pattern(pattern: &str, path: &str) -> bool {
    let (mut wanted, mut found) = (pattern.split('/'), path.split('/'));
    loop {
        match (wanted.next(), found.next()) {
            (None, None) => return true,
            (Some(wanted), Some(found))
                if wanted == found || (wanted.starts_with(':') && !found.is_empty()) => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::load_text;

    fn policy(text: &str) -> Policy {
        let loaded = load_text(text, None, &BTreeMap::new());
        let config = loaded.unwrap_or_else(|mistakes| panic!("{mistakes}")).config;
        Policy::new(config, Addresses::Tcp(Vec::new()))
    }

    #[test]
    fn the_longest_override_on_a_segment_boundary_decides_how_much_content_there_may_be() {
        let policy = policy(
            "body_size: {max: 100, overrides: [{path: /up, max: 1}, {path: /up/load/raw, max: 0}, {path: /up/load/, max: 3}, \
             {path: '/a b', max: 4}]}",
        );
        for (path, max) in [
            ("/", Some(100)),
            ("/other", Some(100)),
            ("/UP", Some(100)),
            ("/up", Some(1)),
            ("/up/", Some(1)),
            ("/up/x", Some(1)),
            ("/upper", Some(100)),
            ("/up/loader", Some(1)),
            ("/up/load", Some(3)),
            ("/up/load/x", Some(3)),
            ("/up/load/raw", None),
            ("/up/load/raw/x", None),
            ("/%75p/lo%61d", Some(3)),
            ("/a%20b/c", Some(4)),
            // ambiguous
            ("/up//load/raw", Some(100)),
            ("/up/load/raw;x", Some(100)),
            ("/up%2fload/raw", Some(100)),
            ("/up/load/raw/%5c", Some(100)),
            ("/up/load/r%2561w", Some(100)),
            ("*", Some(100)),
        ] {
            assert_eq!(policy.content_bytes_max(&MatchingPath::of(path)), max, "{path}");
        }
    }

    #[test]
    fn an_override_may_be_the_root_and_no_limit_the_rule() {
        let root =
            policy("body_size: {max: 5, overrides: [{path: /, max: 6}, {path: /a, max: 7}]}");
        assert_eq!(root.content_bytes_max(&MatchingPath::of("/")), Some(6));
        assert_eq!(root.content_bytes_max(&MatchingPath::of("/b")), Some(6));
        assert_eq!(root.content_bytes_max(&MatchingPath::of("/a/")), Some(7));
        let unlimited = policy("body_size: {max: '', overrides: [{path: /a, max: 7}]}");
        assert_eq!(unlimited.content_bytes_max(&MatchingPath::of("/b")), None);
        assert_eq!(unlimited.content_bytes_max(&MatchingPath::of("/a")), Some(7));
        assert_eq!(policy("").content_bytes_max(&MatchingPath::of("/a")), Some(1 << 20));
    }

    #[test]
    fn answers_have_the_security_headers_and_a_via_as_configured() {
        let lines = |text: &str| String::from_utf8(policy(text).answer_headers.lines().to_vec());
        let by_default = "X-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\n";
        assert!(lines("").is_ok_and(|lines| lines.starts_with(by_default)));
        assert_eq!(lines("security_headers: {enabled: false}"), Ok(String::new()));
        let off = "security_headers: {enabled: false, suppress_via_header: false}";
        assert_eq!(policy(off).answer_headers, AnswerHeaders::new([], Via::Appended));
        let via = policy("security_headers: {suppress_via_header: false}").answer_headers;
        assert_ne!(via, policy("").answer_headers);
        assert_eq!(via.lines(), policy("").answer_headers.lines());
    }

    #[test]
    fn a_colon_segment_stands_for_one_segment() {
        for (pattern, path, expected) in [
            ("/users/:id", "/users/7", true),
            ("/users/:id", "/users/", false),
            ("/users/:id", "/users/7/x", false),
            ("/users/:id/ws", "/users/7/ws", true),
            ("/ws", "/ws", true),
            ("/ws", "/ws/", false),
        ] {
            assert_eq!(matches_pattern(pattern, path), expected, "{pattern} {path}");
        }
    }
}
