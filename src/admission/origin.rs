//! Which web pages may open a WebSocket here (contract section 10.6, RFC 6455 section 10.2, RFC 6454). A browser sends
//! cookies along with upgrades that any page asks for, and says in `Origin` which page it was.

use std::fmt;

use crate::refusal::Refusal;
use crate::wire::request::RequestHead;
use crate::wire::target::{is_authority, split_port};

/// `websocket.allowed_origins`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AllowedOrigins(Box<[AllowedOrigin]>);

/// One entry of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedOrigin {
    /// `*`
    Any,
    /// `null`: sandboxed frames, local files, some redirects.
    Null,
    /// `scheme://host[:port]`, in lower case, the scheme's default port left out.
    Page(Box<str>),
}

/// An origin taken apart.
struct Page<'t> {
    scheme: &'t str,
    host: &'t str,
    /// As written, else the scheme's default, if it has one.
    port: Option<u16>,
}

impl<'t> Page<'t> {
    fn parse(text: &'t str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
        if !is_scheme || !is_authority(authority) {
            return None;
        }
        let (host, port) = split_port(authority);
        Some(Self { scheme, host, port: port.or_else(|| default_port(scheme)) })
    }

    /// Whether this is a page of the site that `host`, a checked `Host`, names. The scheme does not count: it may have
    /// been taken off before the proxy. A `Host` without a port is that of either default.
    fn is_of(&self, host: &str) -> bool {
        let (own, port) = split_port(host);
        own.eq_ignore_ascii_case(self.host)
            && match port {
                Some(port) => self.port == Some(port),
                None => matches!(self.port, Some(80 | 443)),
            }
    }
}

impl fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.scheme.to_ascii_lowercase();
        write!(f, "{scheme}://{}", self.host.to_ascii_lowercase())?;
        match self.port {
            Some(port) if default_port(&scheme) != Some(port) => write!(f, ":{port}"),
            _ => Ok(()),
        }
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    const DEFAULTS: [(&str, u16); 4] = [("http", 80), ("https", 443), ("ws", 80), ("wss", 443)];
    let known = DEFAULTS.iter().find(|(known, _)| scheme.eq_ignore_ascii_case(known));
    known.map(|(_, port)| *port)
}

impl AllowedOrigin {
    /// `None`: neither `*` nor `null` nor an origin without anything after it.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "*" => Self::Any,
            "null" => Self::Null,
            page => Self::Page(Page::parse(page)?.to_string().into()),
        })
    }
}

impl fmt::Display for AllowedOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "*",
            Self::Null => "null",
            Self::Page(page) => page,
        })
    }
}

impl AllowedOrigins {
    /// The list; an empty one allows only pages of the same host.
    pub fn new(entries: impl IntoIterator<Item = AllowedOrigin>) -> Self {
        Self(entries.into_iter().collect())
    }

    /// The check of an upgrade. Without a cookie credential (`in_cookie`) and without a list there is nothing that a
    /// foreign page could make use of, and every origin passes.
    ///
    /// # Errors
    /// [`Refusal::OriginNotAllowed`].
    pub fn check(&self, head: &RequestHead<'_>, in_cookie: bool) -> Result<(), Refusal> {
        if (self.0.is_empty() && !in_cookie) || self.admits(head) {
            Ok(())
        } else {
            Err(Refusal::OriginNotAllowed)
        }
    }

    fn admits(&self, head: &RequestHead<'_>) -> bool {
        if self.0.contains(&AllowedOrigin::Any) {
            return true;
        }
        let mut lines = head.header("origin");
        let Some(origin) = lines.next() else {
            return true; // not a browser; a cookie that it has was given to it
        };
        if lines.next().is_some() {
            return false;
        }
        let Ok(origin) = str::from_utf8(origin) else {
            return false;
        };
        if origin == "null" {
            return self.0.contains(&AllowedOrigin::Null);
        }
        Page::parse(origin).is_some_and(|page| {
            page.is_of(head.host) || {
                let written = page.to_string();
                self.0.iter().any(
                    |allowed| matches!(allowed, AllowedOrigin::Page(page) if **page == *written),
                )
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(allowed: &[&str], host: &str, origins: &[&str], in_cookie: bool) -> bool {
        let allowed = allowed.iter().map(|text| AllowedOrigin::parse(text).expect(text));
        let mut head = format!("GET /ws HTTP/1.1\r\nHost: {host}\r\n");
        for origin in origins {
            head.push_str("Origin: ");
            head.push_str(origin);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        let head = RequestHead::parse(head.as_bytes()).expect("a clean head");
        AllowedOrigins::new(allowed).check(&head, in_cookie).is_ok()
    }

    #[test]
    fn the_same_host_and_the_list() {
        for (host, origin, expected) in [
            ("app.test", "https://app.test", true),
            ("app.test", "http://app.test", true),
            ("app.test", "HTTPS://APP.TEST", true),
            ("APP.test", "https://app.TEST", true),
            ("app.test", "https://app.test:443", true),
            ("app.test", "https://app.test:80", true),
            ("app.test", "https://app.test:8443", false),
            ("app.test:8443", "https://app.test:8443", true),
            ("app.test:8443", "https://app.test", false),
            ("app.test:443", "https://app.test", true),
            ("app.test:443", "http://app.test", false),
            ("app.test:80", "http://app.test", true),
            ("app.test", "custom://app.test", false),
            ("[::1]:8080", "http://[::1]:8080", true),
            ("[::1]", "http://[::1]", true),
            ("app.test", "https://listed.test", true),
            ("app.test", "https://LISTED.test:443", true),
            ("app.test", "http://listed.test", false),
            ("app.test", "https://listed.test:8443", false),
            ("app.test", "http://ported.test:8080", true),
            ("app.test", "http://ported.test", false),
            ("app.test", "app-shell://host", true),
            ("app.test", "https://evil.test", false),
            ("app.test", "https://app.test.evil.test", false),
            ("app.test", "https://evilapp.test", false),
            ("app.test", "https://sub.app.test", false),
            ("app.test", "https://app.test@evil.test", false),
            ("app.test", "https://evil.test@app.test", false),
            ("app.test", "https://app.test/", false),
            ("app.test", "https://app.test https://evil.test", false),
            ("app.test", "null", false),
            ("app.test", "NULL", false),
            ("app.test", "", false),
            ("app.test", "app.test", false),
            ("app.test", "://app.test", false),
            ("app.test", "http://a:b", false),
            ("app.test", "http://a:99999", false),
            ("app.test", "*", false),
        ] {
            let listed = ["https://listed.test", "http://Ported.test:8080", "app-shell://host"];
            assert_eq!(admits(&listed, host, &[origin], true), expected, "{host} {origin}");
        }
    }

    #[test]
    fn when_it_is_checked_at_all() {
        let evil = ["https://evil.test"];
        assert!(admits(&[], "app.test", &evil, false), "no cookie, no list");
        assert!(!admits(&[], "app.test", &evil, true));
        assert!(!admits(&["https://a.test"], "app.test", &evil, false));
        assert!(admits(&["*"], "app.test", &evil, true));
        assert!(admits(&["null"], "app.test", &["null"], true));
        for in_cookie in [false, true] {
            assert!(admits(&["https://a.test"], "app.test", &[], in_cookie), "absent");
            let twice = ["https://app.test", "https://app.test"];
            assert!(!admits(&["https://a.test"], "app.test", &twice, in_cookie));
        }
    }

    #[test]
    fn entries_of_the_list() {
        for text in ["", "a.test", "https://", "https://a.test/", "https://u@a.test", "1a://b"] {
            assert_eq!(AllowedOrigin::parse(text), None, "{text}");
        }
        for (text, kept) in [
            ("*", "*"),
            ("null", "null"),
            ("HTTPS://A.test:443", "https://a.test"),
            ("x+y://b:1", "x+y://b:1"),
        ] {
            let entry = AllowedOrigin::parse(text).expect(text);
            assert_eq!(entry.to_string(), kept);
            assert_eq!(AllowedOrigin::parse(kept), Some(entry));
        }
    }
}
