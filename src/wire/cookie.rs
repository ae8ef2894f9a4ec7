//! The `Cookie` field: `name=value` pairs between `;` (RFC 6265 section 5.4).

use super::field::trim_white_space;
use super::request::RequestHead;

/// The values of all cookies with `name` in all `Cookie` lines, in order. Names are compared exactly, without the white
/// space around them; a comma is part of a value; empty pairs and pairs without `=` are no cookies.
pub fn values<'s, 'b>(
    head: &'s RequestHead<'b>,
    name: &'s str,
) -> impl Iterator<Item = &'b [u8]> + 's {
    head.header("cookie")
        .flat_map(|line| line.split(|&byte| byte == b';'))
        .filter_map(move |pair| value_if_named(pair, name.as_bytes()))
}

fn value_if_named<'b>(pair: &'b [u8], name: &[u8]) -> Option<&'b [u8]> {
    let (written, value) = pair.split_at_checked(memchr::memchr(b'=', pair)?)?;
    (trim_white_space(written) == name)
        .then(|| trim_white_space(value.get(1..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::super::request::RequestHead;

    fn values(lines: &[&str]) -> Vec<String> {
        let mut head = "GET / HTTP/1.1\r\nHost: t\r\n".to_owned();
        for line in lines {
            head.extend(["Cookie:", line, "\r\n"]);
        }
        head.push_str("\r\n");
        let head = RequestHead::parse(head.as_bytes()).expect("a clean head");
        super::values(&head, "sid")
            .map(|value| String::from_utf8_lossy(value).into_owned())
            .collect()
    }

    #[test]
    fn pairs_are_taken_apart_as_written() {
        for (lines, expected) in [
            (vec!["sid=a"], vec!["a"]),
            (vec!["x=1; sid=a; y=2"], vec!["a"]),
            (vec!["x=1;sid=a"], vec!["a"]),
            (vec!["sid=a; sid=b"], vec!["a", "b"]),
            (vec!["sid=a", "sid=b"], vec!["a", "b"]),
            (vec!["=sid=good"], vec![]),
            (vec!["sid =good"], vec!["good"]),
            (vec![" sid=good"], vec!["good"]),
            (vec!["sid\t=\tgood"], vec!["good"]),
            (vec!["sid=good,sid=bad"], vec!["good,sid=bad"]),
            (vec![";;;sid=good;;"], vec!["good"]),
            (vec!["SID=bad; xsid=bad; sidx=bad"], vec![]),
            (vec!["sid"], vec![]),
            (vec!["sid="], vec![""]),
            (vec!["sid=a=b"], vec!["a=b"]),
            (vec!["sid=\"a\""], vec!["\"a\""]),
            (vec![""], vec![]),
            (vec![], vec![]),
        ] {
            assert_eq!(values(&lines), expected, "{lines:?}");
        }
    }
}
