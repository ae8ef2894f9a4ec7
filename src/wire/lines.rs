//! Header lines on their way from one head to another.

use super::head::Header;

pub(super) fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

pub(super) fn put_line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    put(out, &[name.as_bytes(), b": ", value, b"\r\n"]);
}

/// Copies lines from one head to another. Neighbouring lines that are already in the form we write go in one piece.
pub(super) struct Lines<'o, 'b> {
    out: &'o mut Vec<u8>,
    head: &'b [u8],
    /// Start and end of the lines that are kept but not yet copied.
    run: (usize, usize),
}

impl<'o, 'b> Lines<'o, 'b> {
    pub(super) fn new(out: &'o mut Vec<u8>, head: &'b [u8]) -> Self {
        Self { out, head, run: (0, 0) }
    }

    /// Keeps a line; white space around its value becomes one space before it.
    pub(super) fn keep(&mut self, header: &Header<'_>) {
        let Some((start, end)) = self.plain(header) else {
            self.flush();
            put_line(self.out, header.name, header.value);
            return;
        };
        if self.run.1 != start {
            self.flush();
            self.run.0 = start;
        }
        self.run.1 = end;
    }

    /// Keeps a line with another value.
    pub(super) fn keep_as(&mut self, header: &Header<'_>, value: &[u8]) {
        if header.value == value {
            self.keep(header);
        } else {
            self.flush();
            put_line(self.out, header.name, value);
        }
    }

    pub(super) fn finish(mut self) {
        self.flush();
    }

    fn flush(&mut self) {
        self.out.extend_from_slice(self.head.get(self.run.0..self.run.1).unwrap_or_default());
        self.run = (0, 0);
    }

    /// Where the line stands in the head, if it stands there as `name: value CRLF`.
    fn plain(&self, header: &Header<'_>) -> Option<(usize, usize)> {
        let start = header.name.as_ptr().addr().checked_sub(self.head.as_ptr().addr())?;
        let value_start = start + header.name.len() + 2;
        let value_end = value_start + header.value.len();
        let is_plain = std::ptr::eq(self.head.get(value_start..value_end)?, header.value)
            && self.head.get(value_start - 1) == Some(&b' ')
            && self.head.get(value_end..value_end + 2) == Some(b"\r\n");
        is_plain.then_some((start, value_end + 2))
    }
}
