//! Heads, paths and chunks, read as simply as can be and without the code under test.

/// A head, read as simply as can be.
#[derive(Debug, Clone)]
pub(crate) struct Plain {
    pub(crate) first: String,
    /// Names in lower case, values without outer white space.
    pub(crate) lines: Vec<(String, Vec<u8>)>,
}

/// What [`Plain::read`] found.
pub(crate) struct Read(Option<Plain>);

impl Read {
    /// The head, if it is clean.
    pub(crate) fn ok(self) -> Option<Plain> {
        self.0
    }

    pub(crate) fn expect_clean(self, head: &[u8]) -> Plain {
        let clean = self.0.is_some();
        assert!(clean, "not clean: {}", head.escape_ascii());
        self.0.unwrap_or(Plain { first: String::new(), lines: Vec::new() })
    }
}

impl Plain {
    /// `None` unless the head is clean: CRLF only, no control characters, token names.
    pub(crate) fn read(head: &[u8]) -> Read {
        Read(Self::read_clean(head))
    }

    fn read_clean(head: &[u8]) -> Option<Self> {
        // One char per byte, so that text operations can be used.
        let text: String = head.iter().copied().map(char::from).collect();
        let text = text.strip_prefix("\r\n").unwrap_or(&text);
        let mut lines = text.strip_suffix("\r\n\r\n")?.split("\r\n");
        let first = lines.next()?.to_owned();
        let control =
            |text: &str| text.chars().any(|char| (char < ' ' && char != '\t') || char == '\x7f');
        if control(&first) || first.is_empty() {
            return None;
        }
        let mut plain = Self { first, lines: Vec::new() };
        for line in lines {
            let (name, value) = line.split_once(':')?;
            let token =
                |char: char| char.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(char);
            if control(line) || name.is_empty() || !name.chars().all(token) {
                return None;
            }
            let value = value.trim_matches([' ', '\t']);
            plain.lines.push((
                name.to_ascii_lowercase(),
                value.chars().filter_map(|char| u8::try_from(char).ok()).collect(),
            ));
        }
        Some(plain)
    }

    pub(crate) fn values(&self, name: &str) -> Vec<&[u8]> {
        self.lines
            .iter()
            .filter(|(line, _)| line == name)
            .map(|(_, value)| value.as_slice())
            .collect()
    }

    pub(crate) fn target(&self) -> &str {
        self.first.split(' ').nth(1).unwrap_or_default()
    }

    /// The options of `Connection`, in lower case.
    pub(crate) fn options(&self) -> impl Iterator<Item = String> {
        self.values("connection")
            .into_iter()
            .flat_map(|value| value.split(|byte| *byte == b','))
            .map(|option| {
                String::from_utf8_lossy(option).trim_matches([' ', '\t']).to_ascii_lowercase()
            })
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// What `Connection` may take away of `line`.
    pub(super) fn nominates(&self, line: &str) -> bool {
        let fixed = matches!(line, "host" | "content-length" | "transfer-encoding" | "te")
            || line.starts_with("sec-websocket-");
        !fixed && self.options().any(|option| option == line)
    }
}

/// Percent-decodes once; every `%` of an accepted path begins a valid escape.
pub(crate) fn naive_decode(path: &str) -> Vec<u8> {
    let mut parts = path.split('%');
    let mut decoded = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).unwrap_or_default();
        let byte = u8::from_str_radix(digits, 16);
        assert!(byte.is_ok() && !digits.contains('+'), "{path}");
        decoded.extend(byte);
        decoded.extend_from_slice(rest.as_bytes());
    }
    decoded
}

/// Complete chunked content, read as simply as can be.
pub(super) fn naive_dechunk(data: &[u8]) -> Option<(Vec<u8>, usize)> {
    let line = |at: usize| -> Option<(&[u8], usize)> {
        let rest = data.get(at..)?;
        let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
        let line = rest.get(..end)?;
        (!line.contains(&b'\n') && !line.contains(&b'\r')).then_some((line, at + end + 2))
    };
    let mut content = Vec::new();
    let mut at = 0;
    loop {
        let (size, after) = line(at)?;
        let digits: String =
            size.iter().map(|byte| char::from(*byte)).take_while(char::is_ascii_hexdigit).collect();
        let size = usize::try_from(u64::from_str_radix(&digits, 16).ok()?).ok()?;
        at = after;
        if size == 0 {
            break;
        }
        content.extend_from_slice(data.get(at..at.checked_add(size)?)?);
        at += size;
        (data.get(at..at + 2)? == b"\r\n").then_some(())?;
        at += 2;
    }
    loop {
        let (trailer, after) = line(at)?;
        at = after;
        if trailer.is_empty() {
            return Some((content, at));
        }
    }
}
