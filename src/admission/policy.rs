//! What is in force for new requests: the configuration, the addresses of the upstream, and the checks in their order
//! (contract section 5.1).

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use super::address::client_address;
use crate::config::{Config, UpstreamTarget};
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
        let patterns =
            config.telemetry.path_patterns.iter().map(|pattern| pattern.as_str().into()).collect();
        Self {
            config,
            upstream_url: upstream_url.into(),
            upstream_authority: upstream_authority.into(),
            addresses,
            answer_headers: AnswerHeaders::new([], Via::Suppressed),
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

    /// Most bytes of content that a request may have (`body_size`); `None` is no limit.
    pub fn content_bytes_max(&self, _head: &RequestHead<'_>) -> Option<u64> {
        None
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
    use super::matches_pattern;

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
