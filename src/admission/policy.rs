//! What is in force for new requests: the configuration, what is made of it once for all of them, and the addresses of the
//! upstream and of Kratos. The checks in their order are `proxy::judge`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use super::address::{client_address, trusted_peers};
use super::authentication::Authentication;
use super::limit::Rate;
use super::paths::{MatchingPath, Pattern};
use super::security_headers;
use crate::config::{Allowance, Cidr, Config, SecurityHeaders, UpstreamTarget};
use crate::wire::answer::{AnswerHeaders, Via};
use crate::wire::request::RequestHead;

/// One immutable snapshot. A request keeps the one it started with; a tunnel keeps none.
#[derive(Debug)]
pub struct Policy {
    /// The effective configuration.
    pub config: Config,
    /// The application.
    pub upstream: Destination,
    /// Kratos, for the flows of its own (contract section 10.4); none in another mode.
    pub kratos: Option<KratosFlows>,
    /// What the proxy sets on every answer.
    pub answer_headers: AnswerHeaders,
    /// `rate_limit.per_ip`
    pub ip_rate: Rate,
    /// `rate_limit.per_user`
    pub user_rate: Rate,
    /// `rate_limit.exempt_paths`
    pub exempt_paths: Vec<Pattern>,
    /// Who has to prove what.
    pub authentication: Authentication,
    patterns: Vec<Arc<str>>,
    other: Arc<str>,
    none: Arc<str>,
}

/// Where requests go.
#[derive(Debug)]
pub struct Destination {
    /// As operators wrote it, for events.
    pub url: Arc<str>,
    /// `host[:port]` for a request without `Host`.
    pub authority: Box<str>,
    /// Where it is now.
    pub addresses: Addresses,
}

/// Where the requests go that are for Kratos itself.
#[derive(Debug)]
pub struct KratosFlows {
    /// Its public API.
    pub destination: Destination,
    /// What stands before every path there.
    pub prefix: Box<str>,
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// The application.
    Upstream,
    /// Kratos.
    Kratos,
}

impl Destination {
    /// `addresses` are those of `target`.
    pub fn new(target: &UpstreamTarget, addresses: Addresses) -> Self {
        let (url, authority) = match target {
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
        Self { url: url.into(), authority: authority.into(), addresses }
    }
}

/// Where a destination can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addresses {
    /// In the order in which they are tried; empty while the name is unresolved.
    Tcp(Vec<SocketAddr>),
    /// A Unix stream socket.
    Unix(PathBuf),
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
    /// Makes the snapshot. `kratos` are the addresses of `kratos.public_url`, where requests may have to go there.
    pub fn new(config: Config, upstream: Addresses, kratos: Addresses) -> Self {
        let flows = config.auth.kratos_flows();
        let kratos = flows.map(|(target, prefix)| KratosFlows {
            destination: Destination::new(target, kratos),
            prefix: prefix.into(),
        });
        let answer_headers = answer_headers(&config.security_headers, config.tls.is_some());
        let patterns =
            config.telemetry.path_patterns.iter().map(|pattern| pattern.as_str().into()).collect();
        Self {
            ip_rate: rate(config.rate_limit.per_ip),
            user_rate: rate(config.rate_limit.per_user),
            exempt_paths: config
                .rate_limit
                .exempt_paths
                .iter()
                .filter_map(|text| Pattern::glob(text).ok())
                .collect(),
            authentication: Authentication::new(&config),
            upstream: Destination::new(&config.upstream.target, upstream),
            kratos,
            config,
            answer_headers,
            patterns,
            other: "other".into(),
            none: "".into(),
        }
    }

    /// The destination of a request; of one for Kratos only while the mode is kratos.
    pub fn destination(&self, to: To) -> &Destination {
        match (to, &self.kratos) {
            (To::Kratos, Some(kratos)) => &kratos.destination,
            _ => &self.upstream,
        }
    }

    /// Whether requests may go to a place at this moment: the connections to it are kept.
    pub fn all_addresses(&self) -> impl Iterator<Item = &Addresses> {
        let kratos = self.kratos.as_ref().map(|kratos| &kratos.destination.addresses);
        [&self.upstream.addresses].into_iter().chain(kratos)
    }

    /// Where the request comes from.
    pub fn origin(&self, head: &RequestHead<'_>, peer: IpAddr) -> Origin {
        let peer = peer.to_canonical();
        let (client, peer_trusted) =
            client_address(peer, head.header("x-forwarded-for"), self.trusted_peers());
        Origin { peer, client, peer_trusted }
    }

    /// Whether this peer may name the client.
    pub fn is_trusted(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted_peers().iter().any(|block| block.contains(peer))
    }

    fn trusted_peers(&self) -> &[Cidr] {
        let server = &self.config.server;
        trusted_peers(&server.trusted_proxies, server.trust_proxy_headers)
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

fn rate(allowance: Allowance) -> Rate {
    Rate::new(allowance.requests_per_second, allowance.burst)
}

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
        Policy::new(config, Addresses::Tcp(Vec::new()), Addresses::Tcp(Vec::new()))
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
        let plain = lines("tls: {enabled: false}");
        assert!(plain.is_ok_and(|lines| lines.starts_with(by_default)));
        let hsts = "Strict-Transport-Security: max-age=31536000; includeSubDomains\r\n";
        assert!(lines("").is_ok_and(|lines| lines.contains(hsts) && lines.contains(by_default)));
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
