//! Header names: what a name means to a proxy, decided once per line, and the fields that may stand only once.

/// What a header name means to a proxy (RFC 9110 section 7.6.1, RFC 6455 section 11.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// `Host`
    Host,
    /// `Content-Length`
    ContentLength,
    /// `Transfer-Encoding`
    TransferEncoding,
    /// `Connection`
    Connection,
    /// `Upgrade`
    Upgrade,
    /// `TE`
    Te,
    /// Another field that is good for one hop only: `Keep-Alive`, `Proxy-Connection`, `Proxy-Authenticate`,
    /// `Proxy-Authorization`, `HTTP2-Settings`.
    HopByHop,
    /// `Expect`
    Expect,
    /// `Via`
    Via,
    /// `X-Request-ID`
    RequestId,
    /// `X-Real-IP`
    RealIp,
    /// `X-Forwarded-For`
    ForwardedFor,
    /// `X-Forwarded-Proto`
    ForwardedProto,
    /// `X-Forwarded-Host`
    ForwardedHost,
    /// `Forwarded` and every other `X-Forwarded-*`.
    Forwarded,
    /// `X-User-*`: only the proxy may say who the user is.
    Identity,
    /// A name that an application which reads `_` or `.` as `-` would take for an identity, forwarding, request id or
    /// framing field.
    LookAlike,
    /// `Sec-WebSocket-Key`
    WebSocketKey,
    /// `Sec-WebSocket-Version`
    WebSocketVersion,
    /// `Sec-WebSocket-Accept`
    WebSocketAccept,
    /// Another `Sec-WebSocket-*`.
    WebSocket,
    /// `Authorization`, `Cookie`, `Set-Cookie`: end to end, but never a trailer.
    Credential,
    /// Any other field; end to end.
    Other,
}

const FORWARDED_PREFIX: &[u8] = b"x-forwarded-";
const IDENTITY_PREFIX: &[u8] = b"x-user-";

impl Field {
    /// The meaning of `name`, in any case of letters.
    pub fn of(name: &[u8]) -> Self {
        let Some(first) = name.first() else {
            return Self::Other;
        };
        match (first.to_ascii_lowercase(), name.len()) {
            (b'x', _) => Self::of_extension(name),
            (b's', 10) if is(name, b"set-cookie") => Self::Credential,
            (b's', _) => Self::of_web_socket(name),
            (b'h', 4) if is(name, b"host") => Self::Host,
            (b'h', 14) if is(name, b"http2-settings") => Self::HopByHop,
            (b'c', 6) if is(name, b"cookie") => Self::Credential,
            (b'c', 10) if is(name, b"connection") => Self::Connection,
            (b'c', 14) => exact_or_look_alike(name, b"content-length", Self::ContentLength),
            (b't', 2) if is(name, b"te") => Self::Te,
            (b't', 17) => exact_or_look_alike(name, b"transfer-encoding", Self::TransferEncoding),
            (b'u', 7) if is(name, b"upgrade") => Self::Upgrade,
            (b'a', 13) if is(name, b"authorization") => Self::Credential,
            (b'e', 6) if is(name, b"expect") => Self::Expect,
            (b'f', 9) if is(name, b"forwarded") => Self::Forwarded,
            (b'k', 10) if is(name, b"keep-alive") => Self::HopByHop,
            (b'v', 3) if is(name, b"via") => Self::Via,
            (b'p', 16) if is(name, b"proxy-connection") => Self::HopByHop,
            (b'p', 18) if is(name, b"proxy-authenticate") => Self::HopByHop,
            (b'p', 19) if is(name, b"proxy-authorization") => Self::HopByHop,
            _ => Self::Other,
        }
    }

    fn of_extension(name: &[u8]) -> Self {
        match name.len() {
            9 if is(name, b"x-real-ip") => Self::RealIp,
            12 if is(name, b"x-request-id") => Self::RequestId,
            15 if is(name, b"x-forwarded-for") => Self::ForwardedFor,
            16 if is(name, b"x-forwarded-host") => Self::ForwardedHost,
            17 if is(name, b"x-forwarded-proto") => Self::ForwardedProto,
            _ if has_prefix(name, FORWARDED_PREFIX) => Self::Forwarded,
            _ if has_prefix(name, IDENTITY_PREFIX) => Self::Identity,
            _ if is_extension_look_alike(name) => Self::LookAlike,
            _ => Self::Other,
        }
    }

    fn of_web_socket(name: &[u8]) -> Self {
        match name.len() {
            17 if is(name, b"sec-websocket-key") => Self::WebSocketKey,
            20 if is(name, b"sec-websocket-accept") => Self::WebSocketAccept,
            21 if is(name, b"sec-websocket-version") => Self::WebSocketVersion,
            _ if has_prefix(name, b"sec-websocket-") => Self::WebSocket,
            _ => Self::Other,
        }
    }

    /// Whether an option of `Connection` can name this field and so make it hop-by-hop. Framing, `Host` and the
    /// WebSocket fields cannot be taken away, and the hop-by-hop ones need no naming.
    fn can_be_nominated(self) -> bool {
        !matches!(
            self,
            Self::Host
                | Self::ContentLength
                | Self::TransferEncoding
                | Self::Connection
                | Self::Upgrade
                | Self::Te
                | Self::HopByHop
                | Self::WebSocketKey
                | Self::WebSocketVersion
                | Self::WebSocketAccept
                | Self::WebSocket
        )
    }
}

fn is(name: &[u8], lower_case: &[u8]) -> bool {
    name.eq_ignore_ascii_case(lower_case)
}

fn has_prefix(name: &[u8], lower_case: &[u8]) -> bool {
    name.get(..lower_case.len()).is_some_and(|start| start.eq_ignore_ascii_case(lower_case))
}

/// For a name as long as `lower_case`: the field itself, a look-alike of it, or neither.
fn exact_or_look_alike(name: &[u8], lower_case: &[u8], field: Field) -> Field {
    if is(name, lower_case) {
        field
    } else if folded_eq(name, lower_case) {
        Field::LookAlike
    } else {
        Field::Other
    }
}

/// Called for names that are none of the names below themselves.
fn is_extension_look_alike(name: &[u8]) -> bool {
    name.iter().any(|byte| matches!(byte, b'_' | b'.'))
        && (folded_eq(name, b"x-real-ip")
            || folded_eq(name, b"x-request-id")
            || folded_prefix(name, FORWARDED_PREFIX)
            || folded_prefix(name, IDENTITY_PREFIX))
}

fn folded_prefix(name: &[u8], prefix: &[u8]) -> bool {
    name.get(..prefix.len()).is_some_and(|start| folded_eq(start, prefix))
}

/// Whether two names are equal to an application that ignores case and reads `_` and `.` as `-` (CGI and its heirs).
pub(super) fn folded_eq(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).all(|(&a, &b)| folded(a) == folded(b))
}

fn folded(byte: u8) -> u8 {
    match byte {
        b'_' | b'.' => b'-',
        _ => byte.to_ascii_lowercase(),
    }
}

/// A field that may stand in one line only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Single<'b> {
    #[default]
    Absent,
    One(&'b [u8]),
    Repeated,
}

impl<'b> Single<'b> {
    fn add(&mut self, value: &'b [u8]) {
        *self = match self {
            Self::Absent => Self::One(value),
            Self::One(_) | Self::Repeated => Self::Repeated,
        };
    }

    /// The value, if there is exactly one line.
    pub(super) fn one(self) -> Option<&'b [u8]> {
        match self {
            Self::One(value) => Some(value),
            Self::Absent | Self::Repeated => None,
        }
    }
}

/// The fields of a head that decide something, collected in one pass over its lines.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields<'b> {
    pub(super) host: Single<'b>,
    pub(super) content_length: Single<'b>,
    pub(super) transfer_encoding: Single<'b>,
    pub(super) expect: Single<'b>,
    pub(super) upgrade: Single<'b>,
    pub(super) web_socket_key: Single<'b>,
    pub(super) web_socket_version: Single<'b>,
    pub(super) web_socket_accept: Single<'b>,
    pub(super) request_id: Single<'b>,
    pub(super) forwarded_proto: Single<'b>,
    pub(super) forwarded_host: Single<'b>,
    pub(super) connection: ConnectionOptions<'b>,
}

impl<'b> Fields<'b> {
    pub(super) fn add(&mut self, field: Field, value: &'b [u8]) {
        match field {
            Field::Host => self.host.add(value),
            Field::ContentLength => self.content_length.add(value),
            Field::TransferEncoding => self.transfer_encoding.add(value),
            Field::Expect => self.expect.add(value),
            Field::Upgrade => self.upgrade.add(value),
            Field::WebSocketKey => self.web_socket_key.add(value),
            Field::WebSocketVersion => self.web_socket_version.add(value),
            Field::WebSocketAccept => self.web_socket_accept.add(value),
            Field::RequestId => self.request_id.add(value),
            Field::ForwardedProto => self.forwarded_proto.add(value),
            Field::ForwardedHost => self.forwarded_host.add(value),
            Field::Connection => self.connection.add(value),
            _ => {}
        }
    }

    /// Whether there is exactly one `Upgrade` line and it says exactly `websocket`.
    pub(super) fn upgrades_to_web_socket(&self) -> bool {
        self.connection.upgrade
            && self
                .upgrade
                .one()
                .is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
    }
}

/// The options of all `Connection` lines of a head (RFC 9110 section 7.6.1).
#[derive(Debug, Clone, Default)]
pub(super) struct ConnectionOptions<'b> {
    pub(super) close: bool,
    pub(super) upgrade: bool,
    /// More names than [`NOMINATED_MAX`].
    pub(super) overflowed: bool,
    /// Field names that the sender declared good for this hop only. Almost always empty, and then without allocation.
    nominated: Vec<&'b [u8]>,
}

/// Most field names that the `Connection` lines of one head may declare hop-by-hop. Bounds the work of one head.
const NOMINATED_MAX: usize = 64;

impl<'b> ConnectionOptions<'b> {
    fn add(&mut self, value: &'b [u8]) {
        for option in list(value) {
            if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if Field::of(option).can_be_nominated() && !option.is_empty() {
                if self.nominated.len() >= NOMINATED_MAX {
                    self.overflowed = true;
                    return;
                }
                self.nominated.push(option);
            }
        }
    }

    /// Whether the sender declared `name` hop-by-hop.
    pub(super) fn nominates(&self, name: &str) -> bool {
        self.nominated.iter().any(|nominated| nominated.eq_ignore_ascii_case(name.as_bytes()))
    }
}

/// The elements of a comma-separated list without the white space around them (RFC 9110 section 5.6.1).
pub fn list(value: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim_white_space)
}

/// Without spaces and tabs at both ends (OWS, RFC 9110 section 5.6.3).
pub fn trim_white_space(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Whether `byte` may stand in a token (RFC 9110 section 5.6.2).
pub(super) fn is_token_byte(byte: u8) -> bool {
    matches!(
        byte,
        b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'0'..=b'9' | b'A'..=b'Z' | b'^'..=b'z' | b'|' | b'~'
    )
}

#[cfg(test)]
mod tests;
