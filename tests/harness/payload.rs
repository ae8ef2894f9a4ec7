//! The bytes that tests send: the macros of the case list, and seeded random streams.

/// `{HS}`: a complete, valid upgrade request.
pub(crate) const HANDSHAKE: &[u8] =
    b"GET /ws HTTP/1.1\r\nHost: t.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// `{101}`: the only right answer to [`HANDSHAKE`].
pub(crate) const ANSWER_101: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// `{SM}`: a request that must never be seen as one.
pub(crate) const SMUGGLED: &[u8] = b"GET /smuggled HTTP/1.1\r\nHost: t.test\r\n\r\n";

/// An upgrade that is refused with 426.
pub(crate) const OUTDATED: &[u8] =
    b"GET /ws HTTP/1.1\r\nHost: t.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 12\r\n\r\n";

/// Targets that look odd and go on byte for byte.
pub(crate) const TARGETS: [&str; 17] = [
    "/",
    "//",
    "//a///b",
    "/a%2fb",
    "/a%5cb",
    "/a;b/c",
    "/...",
    "/a..b",
    "/%2561",
    "/%41%7e",
    "/a?x=/../%2e%2e/%00",
    "/a?",
    "/a??b=c?d&&",
    "/?%",
    "/%20",
    "/a'b\"c<d>e{f}g|h^i`j",
    "/a:b@c!d$e&f*g+h,i=j",
];

/// Replaces the macros `{H}`, `{U}`, `{K}`, `{HS}`, `{101}` and `{SM}`; everything else stays as it is.
pub(crate) fn wire(template: impl AsRef<[u8]>) -> Vec<u8> {
    let macros: [(&[u8], &[u8]); 6] = [
        (b"{HS}", HANDSHAKE),
        (b"{101}", ANSWER_101),
        (b"{SM}", SMUGGLED),
        (b"{H}", b"Host: t.test\r\n"),
        (b"{U}", b"Upgrade: websocket\r\nConnection: Upgrade\r\n"),
        (b"{K}", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"),
    ];
    let mut rest = template.as_ref();
    let mut out = Vec::with_capacity(rest.len() + 256);
    while let Some((&first, after)) = rest.split_first() {
        if let Some((name, value)) = macros.iter().find(|(name, _)| rest.starts_with(name)) {
            out.extend_from_slice(value);
            rest = &rest[name.len()..];
        } else {
            out.push(first);
            rest = after;
        }
    }
    out
}

/// Bytes as text for messages.
pub(crate) fn show(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(2000)];
    let more = if cut.len() < bytes.len() {
        format!("… ({} bytes)", bytes.len())
    } else {
        String::new()
    };
    format!("{}{more}", cut.escape_ascii())
}

/// Where `part` begins in `whole`.
pub(crate) fn find(whole: &[u8], part: &[u8]) -> Option<usize> {
    whole.windows(part.len()).position(|window| window == part)
}

/// The seed of a test: fixed, so that a run can be repeated; `BEHAVIOUR_SEED` sets another.
pub(crate) fn seed() -> u64 {
    std::env::var("BEHAVIOUR_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0x5eed_2026)
}

/// xorshift64*: the same seed gives the same stream.
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number in `low..=high`.
    pub(crate) fn between(&mut self, low: usize, high: usize) -> usize {
        let span = u64::try_from(high - low + 1).expect("small");
        low + usize::try_from(self.next() % span).expect("small")
    }
}

/// An endless stream of bytes that both ends can make without storing it.
pub(crate) struct Stream {
    random: Random,
    left: [u8; 8],
    used: usize,
}

impl Stream {
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), left: [0; 8], used: 8 }
    }

    pub(crate) fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            if self.used == 8 {
                self.left = self.random.next().to_le_bytes();
                self.used = 0;
            }
            *byte = self.left[self.used];
            self.used += 1;
        }
    }

    pub(crate) fn take(&mut self, count: usize) -> Vec<u8> {
        let mut out = vec![0; count];
        self.fill(&mut out);
        out
    }
}
