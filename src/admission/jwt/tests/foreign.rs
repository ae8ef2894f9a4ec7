//! Tokens and key sets made by other implementations; see tests/interop/tokens.

use serde_json::Value;

use super::sample::{now, rules};
use super::*;

#[test]
fn tokens_of_other_implementations_are_accepted_and_their_damaged_ones_are_not() {
    let mut seen = Vec::new();
    for line in include_str!("foreign.jsonl").lines() {
        let made: Value = serde_json::from_str(line).expect("a line of JSON");
        let (maker, alg) = (made["maker"].as_str().unwrap(), made["alg"].as_str().unwrap());
        let keys = KeySet::parse(made["jwks"].to_string().as_bytes()).expect("a set");
        assert_eq!((keys.len(), keys.skipped()), (1, &[][..]), "{maker} {alg}");
        let token = made["token"].as_str().unwrap();
        let verified = verify(token.as_bytes(), &keys, &rules(), now())
            .unwrap_or_else(|denial| panic!("{maker} {alg}: {denial:?}"));
        let headers: Vec<_> =
            verified.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(
            headers,
            [
                ("X-User-Id", "zoë@example.test"),
                ("X-User-Email", "zoe@example.test"),
                ("X-User-Verified", "true")
            ]
        );
        let mut only = rules();
        only.algorithms.retain(|allowed| allowed.name() != alg);
        let refused = verify(token.as_bytes(), &keys, &only, now());
        assert_eq!(refused, Err(Denial::AlgorithmNotAllowed), "{maker} {alg}");
        let mut damaged = token.as_bytes().to_vec();
        let place = damaged.len() - 20;
        damaged[place] = if damaged[place] == b'A' { b'B' } else { b'A' };
        assert_eq!(verify(&damaged, &keys, &rules(), now()), Err(Denial::InvalidSignature));
        seen.push((maker.to_owned(), alg.to_owned()));
    }
    assert_eq!(seen.len(), 3 * Algorithm::ALL.len());
}
