//! A small strict JSON reader that keeps the order of keys and refuses repeated ones.

/// A JSON value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Reads one value; the whole text must be that value.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut reader = Reader { bytes: text.as_bytes(), at: 0 };
        let value = reader.value()?;
        if reader.at == text.len() {
            Ok(value)
        } else {
            Err(format!("text after the value at byte {}", reader.at))
        }
    }

    /// The member at a dotted path.
    pub(crate) fn at(&self, path: &str) -> Option<&Json> {
        path.split('.').try_fold(self, |value, key| match value {
            Self::Object(members) => {
                members.iter().find(|(name, _)| name == key).map(|(_, value)| value)
            }
            _ => None,
        })
    }

    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        match self.at(path) {
            Some(Self::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn number(&self, path: &str) -> Option<f64> {
        match self.at(path) {
            Some(Self::Number(number)) => Some(*number),
            _ => None,
        }
    }

    pub(crate) fn list(&self, path: &str) -> Option<&[Json]> {
        match self.at(path) {
            Some(Self::List(items)) => Some(items),
            _ => None,
        }
    }

    /// Keys of the object at `path` in the order in which they stand; an empty path is the value itself.
    pub(crate) fn keys(&self, path: &str) -> Vec<&str> {
        let value = if path.is_empty() { Some(self) } else { self.at(path) };
        match value {
            Some(Self::Object(members)) => members.iter().map(|(name, _)| name.as_str()).collect(),
            _ => Vec::new(),
        }
    }
}

struct Reader<'t> {
    bytes: &'t [u8],
    at: usize,
}

impl Reader<'_> {
    fn fail<T>(&self, what: &str) -> Result<T, String> {
        Err(format!("{what} at byte {}", self.at))
    }

    fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    fn literal(&mut self, word: &str, value: Json) -> Result<Json, String> {
        if self.bytes[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(value)
        } else {
            self.fail("unknown word")
        }
    }

    fn value(&mut self) -> Result<Json, String> {
        match self.peek() {
            b'n' => self.literal("null", Json::Null),
            b't' => self.literal("true", Json::Bool(true)),
            b'f' => self.literal("false", Json::Bool(false)),
            b'"' => self.string().map(Json::Text),
            b'[' => self.list(),
            b'{' => self.object(),
            _ => self.number(),
        }
    }

    fn number(&mut self) -> Result<Json, String> {
        let start = self.at;
        while matches!(self.peek(), b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E') {
            self.at += 1;
        }
        let text = std::str::from_utf8(&self.bytes[start..self.at]).map_err(|e| e.to_string())?;
        match text.parse() {
            Ok(number) => Ok(Json::Number(number)),
            Err(_) => self.fail("no value"),
        }
    }

    fn string(&mut self) -> Result<String, String> {
        let start = self.at;
        self.at += 1;
        loop {
            match self.peek() {
                b'"' => break,
                0..=0x1f => return self.fail("control character in a string"),
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        let raw =
            std::str::from_utf8(&self.bytes[start + 1..self.at - 1]).map_err(|e| e.to_string())?;
        unescape(raw).ok_or_else(|| format!("bad escape in {raw}"))
    }

    fn list(&mut self) -> Result<Json, String> {
        let mut items = Vec::new();
        self.at += 1;
        while self.peek() != b']' {
            if !items.is_empty() {
                self.comma()?;
            }
            items.push(self.value()?);
        }
        self.at += 1;
        Ok(Json::List(items))
    }

    fn object(&mut self) -> Result<Json, String> {
        let mut members: Vec<(String, Json)> = Vec::new();
        self.at += 1;
        while self.peek() != b'}' {
            if !members.is_empty() {
                self.comma()?;
            }
            if self.peek() != b'"' {
                return self.fail("no key");
            }
            let name = self.string()?;
            if members.iter().any(|(known, _)| *known == name) {
                return self.fail("repeated key");
            }
            if self.peek() != b':' {
                return self.fail("no colon");
            }
            self.at += 1;
            let value = self.value()?;
            members.push((name, value));
        }
        self.at += 1;
        Ok(Json::Object(members))
    }

    fn comma(&mut self) -> Result<(), String> {
        if self.peek() == b',' {
            self.at += 1;
            Ok(())
        } else {
            self.fail("no comma")
        }
    }
}

fn unescape(raw: &str) -> Option<String> {
    let mut out = String::with_capacity(raw.len());
    let mut chars = raw.chars();
    while let Some(char) = chars.next() {
        if char != '\\' {
            out.push(char);
            continue;
        }
        out.push(match chars.next()? {
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'u' => {
                let hex: String = chars.by_ref().take(4).collect();
                char::from_u32(u32::from_str_radix(&hex, 16).ok()?)?
            }
            plain @ ('"' | '\\' | '/') => plain,
            _ => return None,
        });
    }
    Some(out)
}
