//! The query of a target as browsers and applications read it: `name=value` pairs between `&`
//! (application/x-www-form-urlencoded, WHATWG URL Standard section 5.1).

use std::borrow::Cow;

use super::target::hex_digit;

/// The values of all parameters with `name`, decoded, in order; empty for a parameter without `=`.
pub fn values<'b>(target: &'b str, name: &str) -> impl Iterator<Item = Cow<'b, [u8]>> {
    pairs(target).filter(move |pair| is_named(pair, name)).map(|pair| decoded(value_of(pair)))
}

/// The target without the parameters that have one of `names`, however the names are encoded. The rest of the query
/// stays as it is, byte for byte; a query that is left empty goes with its `?`.
pub fn without<'b, 'n>(
    target: &'b str,
    names: &(impl Iterator<Item = &'n str> + Clone),
) -> Cow<'b, str> {
    let is_removed = |pair: &&str| names.clone().any(|name| is_named(pair, name));
    let Some((path, query)) = target.split_once('?') else {
        return Cow::Borrowed(target);
    };
    if !query.split('&').any(|pair| is_removed(&pair)) {
        return Cow::Borrowed(target);
    }
    let mut kept = String::with_capacity(target.len());
    kept.push_str(path);
    for (index, pair) in query.split('&').filter(|pair| !is_removed(pair)).enumerate() {
        kept.push(if index == 0 { '?' } else { '&' });
        kept.push_str(pair);
    }
    if kept.len() == path.len() + 1 {
        kept.pop();
    }
    Cow::Owned(kept)
}

fn pairs(target: &str) -> impl Iterator<Item = &str> {
    target.split_once('?').into_iter().flat_map(|(_, query)| query.split('&'))
}

fn is_named(pair: &str, name: &str) -> bool {
    let written = pair.split_once('=').map_or(pair, |(written, _)| written);
    written == name || (written.contains(['%', '+']) && *decoded(written) == *name.as_bytes())
}

fn value_of(pair: &str) -> &str {
    pair.split_once('=').map_or("", |(_, value)| value)
}

/// `+` is a space, an escape its byte; what is no valid escape stands for itself.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = match after {
            [high, low, after @ ..] if byte == b'%' => {
                hex_digit(*high).zip(hex_digit(*low)).map(|(high, low)| (high << 4 | low, after))
            }
            _ => None,
        };
        let (byte, after) = escaped.unwrap_or((if byte == b'+' { b' ' } else { byte }, after));
        bytes.push(byte);
        rest = after;
    }
    Cow::Owned(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(target: &str, name: &str) -> Vec<String> {
        values(target, name).map(|value| String::from_utf8_lossy(&value).into_owned()).collect()
    }

    #[test]
    fn values_are_decoded_and_names_compared_decoded() {
        for (target, expected) in [
            ("/a?t=x", vec!["x"]),
            ("/a?t=x&t=y", vec!["x", "y"]),
            ("/a?b=1&%74=x%2By+z", vec!["x+y z"]),
            ("/a?t", vec![""]),
            ("/a?t=", vec![""]),
            ("/a?t=a=b", vec!["a=b"]),
            ("/a?t=%", vec!["%"]),
            ("/a?t=%4", vec!["%4"]),
            ("/a?t=%zz%41", vec!["%zzA"]),
            ("/a?t=x?y", vec!["x?y"]),
            ("/a?T=x&tt=y&xt=z", vec![]),
            ("/a?b=1;t=x", vec![]),
            ("/t=x", vec![]),
            ("/a?", vec![]),
            ("*", vec![]),
        ] {
            assert_eq!(found(target, "t"), expected, "{target}");
        }
    }

    #[test]
    fn every_occurrence_goes_and_the_rest_stays() {
        for (target, expected) in [
            ("/a", "/a"),
            ("/a?b=1", "/a?b=1"),
            ("/a?t=x", "/a"),
            ("/a?t", "/a"),
            ("/a?t=x&t=y&%74=z", "/a"),
            ("/a?b=1&t=x", "/a?b=1"),
            ("/a?t=x&b=1", "/a?b=1"),
            ("/a?b=%7E&&t=x&c=+;t=1&", "/a?b=%7E&&c=+;t=1&"),
            ("/a?u=1&t=2&b", "/a?b"),
            ("/a?", "/a?"),
            ("/a?t=x&", "/a"),
            ("/t=x?b", "/t=x?b"),
        ] {
            assert_eq!(without(target, &["t", "u"].into_iter()), expected, "{target}");
        }
        assert!(matches!(without("/a?b=1", &std::iter::once("t")), Cow::Borrowed(_)));
        assert_eq!(without("/a?t=x", &std::iter::empty()), "/a?t=x");
    }

    /// What is removed is never found again, and what is kept is a subsequence of what was there.
    #[test]
    fn nothing_is_left_to_find() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..20_000 {
            let mut target = "/a?".to_owned();
            for _ in 0..random.usize(..10) {
                target.push_str(["t", "=", "&", "%74", "b", "+", "%", "?"][random.usize(..8)]);
            }
            let left = without(&target, &std::iter::once("t"));
            assert_eq!(values(&left, "t").count(), 0, "seed {seed}: {target} {left}");
            let others = |target: &str| found(target, "b");
            assert_eq!(others(&left), others(&target), "seed {seed}: {target} {left}");
        }
    }
}
