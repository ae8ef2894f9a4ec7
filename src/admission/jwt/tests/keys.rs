//! Key sets: which keys are used, and for what (E25, E35, E48).

use serde_json::{Value, json};

use super::sample::*;
use super::*;

fn skipped(key: Value) -> Option<SkipReason> {
    let set = set(&[key]);
    assert_eq!(set.len() + set.skipped().len(), 1);
    set.skipped().first().map(|skipped| skipped.reason)
}

#[test]
fn keys_of_every_kind_are_used() {
    for (signer, algorithms) in [
        (rsa(), &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"][..]),
        (p256(), &["ES256"]),
        (p384(), &["ES384"]),
        (ed25519(), &["EdDSA"]),
    ] {
        let any = set_of(&signer);
        for algorithm in algorithms {
            let token = signer.token(algorithm, &claims());
            assert_eq!(denial(&token, &any), None, "{algorithm}");
            let members =
                json!({"kid": "k", "alg": algorithm, "use": "sig", "key_ops": ["sign", "verify"]});
            assert_eq!(denial(&token, &set(&[signer.jwk_with(members)])), None, "{algorithm}");
        }
    }
}

#[test]
fn a_key_is_used_for_its_own_algorithm_only() {
    let signer = rsa();
    let keys = set(&[signer.jwk_with(json!({"kid": "k", "alg": "PS256"}))]);
    for algorithm in ["RS256", "RS512", "PS384"] {
        let token = signer.token(algorithm, &claims());
        assert_eq!(denial(&token, &keys), Some(Denial::AlgorithmNotAllowed), "{algorithm}");
    }
    assert_eq!(denial(&signer.token("PS256", &claims()), &keys), None);
    let elliptic = p256();
    let keys = set(&[elliptic.jwk_with(json!({"kid": "k"}))]);
    for algorithm in ["RS256", "ES384", "EdDSA"] {
        let header = json!({"alg": algorithm, "kid": "k"}).to_string();
        let token = elliptic.token_of("ES256", header.as_bytes(), claims().to_string().as_bytes());
        assert_eq!(denial(&token, &keys), Some(Denial::AlgorithmNotAllowed), "{algorithm}");
    }
}

#[test]
fn keys_for_something_else_are_skipped() {
    let key = |members| p256().jwk_with(members);
    assert_eq!(skipped(key(json!({}))), None);
    for (jwk, reason) in [
        (key(json!({"use": "enc"})), SkipReason::Use),
        (key(json!({"use": ""})), SkipReason::Use),
        (key(json!({"key_ops": ["sign"]})), SkipReason::Operations),
        (key(json!({"key_ops": []})), SkipReason::Operations),
        (key(json!({"alg": "ES384"})), SkipReason::Algorithm),
        (key(json!({"alg": "ECDH-ES"})), SkipReason::Algorithm),
        (key(json!({"alg": "none"})), SkipReason::Algorithm),
        (key(json!({"alg": "HS256"})), SkipReason::Algorithm),
        (rsa().jwk_with(json!({"alg": "RSA-OAEP"})), SkipReason::Algorithm),
        (json!({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}), SkipReason::Symmetric),
        (json!({"kty": "AKP", "pub": "AA"}), SkipReason::KeyType),
        (json!({"kty": "rsa", "n": "AQAB", "e": "AQAB"}), SkipReason::KeyType),
        (key(json!({"crv": "P-521"})), SkipReason::Curve),
        (key(json!({"crv": "secp256k1"})), SkipReason::Curve),
        (key(json!({"crv": "Ed25519"})), SkipReason::Curve),
        (ed25519().jwk_with(json!({"crv": "X25519"})), SkipReason::Curve),
        (ed25519().jwk_with(json!({"crv": "Ed448"})), SkipReason::Curve),
    ] {
        assert_eq!(skipped(jwk.clone()), Some(reason), "{jwk}");
    }
}

#[test]
fn malformed_keys_are_skipped() {
    let key = |members| p256().jwk_with(members);
    let short = URL_SAFE_NO_PAD.encode([1; 31]);
    for jwk in [
        json!(null),
        json!("key"),
        json!([]),
        json!({}),
        key(json!({"kid": 7})),
        key(json!({"kid": null})),
        key(json!({"use": 1})),
        key(json!({"alg": ["ES256"]})),
        key(json!({"key_ops": "verify"})),
        key(json!({"key_ops": ["verify", 1]})),
        key(json!({"x": short})),
        key(json!({"x": "not base64!"})),
        key(json!({"x": "AAAA="})),
        // Not on the curve.
        key(json!({"x": URL_SAFE_NO_PAD.encode([1; 32])})),
        p384().jwk_with(json!({"crv": "P-256"})),
        ed25519().jwk_with(json!({"x": short})),
        rsa().jwk_with(json!({"e": "AQ"})),
        rsa().jwk_with(json!({"e": "AQAA"})),
        rsa().jwk_with(json!({"e": ""})),
        rsa().jwk_with(json!({"n": ""})),
        json!({"kty": "RSA"}),
        json!({"kty": "EC"}),
    ] {
        let reason = skipped(jwk.clone());
        let expected =
            if jwk == json!({"kty": "EC"}) { SkipReason::Curve } else { SkipReason::Malformed };
        assert_eq!(reason, Some(expected), "{jwk}");
    }
    let repeated = br#"{"keys":[{"kty":"oct","kty":"RSA"}]}"#;
    let set = KeySet::parse(repeated).expect("a set");
    assert_eq!(set.skipped().first().map(|key| key.reason), Some(SkipReason::Malformed));
}

#[test]
fn an_rsa_modulus_has_a_size() {
    let number = |bytes: usize, first: u8| {
        let mut number = vec![0xff; bytes];
        number[0] = first;
        URL_SAFE_NO_PAD.encode(number)
    };
    let key = |n: String| json!({"kty": "RSA", "e": "AQAB", "n": n});
    assert_eq!(skipped(key(number(128, 0xff))), Some(SkipReason::SmallModulus));
    assert_eq!(skipped(key(number(256, 0x7f))), Some(SkipReason::SmallModulus));
    assert_eq!(skipped(key(number(256, 0x80))), None);
    assert_eq!(skipped(key(number(1024, 0xff))), None);
    assert_eq!(skipped(key(number(1025, 0x01))), Some(SkipReason::LargeModulus));
    // A sign byte in front changes nothing.
    assert_eq!(skipped(key(number(257, 0))), None);
    assert_eq!(skipped(key(number(200, 0))), Some(SkipReason::SmallModulus));
}

#[test]
fn one_broken_key_among_good_ones_harms_nobody() {
    let signer = p256();
    let keys = set(&[
        json!({"kty": "RSA", "kid": "broken"}),
        json!({"kty": "oct", "kid": "shared", "k": "c2VjcmV0"}),
        signer.jwk_with(json!({"kid": "k"})),
        p256().jwk_with(json!({"kid": "k"})),
        ed25519().jwk_with(json!({"kid": "k"})),
    ]);
    assert_eq!(denial(&signer.token("ES256", &claims()), &keys), None);
    let reasons: Vec<_> =
        keys.skipped().iter().map(|key| (key.kid.as_deref(), key.reason)).collect();
    assert_eq!(
        reasons,
        [
            (Some("broken"), SkipReason::Malformed),
            (Some("shared"), SkipReason::Symmetric),
            (Some("k"), SkipReason::RepeatedKid)
        ]
    );
    assert_eq!(keys.len(), 2, "the same kid for another kind of key is another key");
    assert!(reasons.iter().all(|(_, reason)| !reason.message().is_empty()));
}

#[test]
fn a_text_that_is_no_set_is_refused_and_a_set_has_a_bound() {
    for text in
        ["", "<html>", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":null}"#, r#"{"keys":[],"keys":[]}"#]
    {
        assert_eq!(KeySet::parse(text.as_bytes()).err(), Some(NotAKeySet), "{text}");
    }
    assert!(set(&[]).is_empty());
    let many: Vec<Value> = (0..200).map(|_| ed25519().jwk()).collect();
    let set = set(&many);
    assert_eq!((set.len(), set.skipped().len()), (128, 72));
    assert!(set.skipped().iter().all(|key| key.reason == SkipReason::TooMany));
}

#[test]
fn a_kid_chooses_the_key() {
    let (first, second) = (p256(), p256());
    let keys = set(&[first.jwk_with(json!({"kid": "a"})), second.jwk_with(json!({"kid": "b"}))]);
    let token = |signer: &Signer, kid: &str| {
        let header = format!(r#"{{"alg":"ES256"{kid}}}"#);
        signer.token_of("ES256", header.as_bytes(), claims().to_string().as_bytes())
    };
    assert_eq!(denial(&token(&first, r#","kid":"a""#), &keys), None);
    assert_eq!(denial(&token(&second, r#","kid":"b""#), &keys), None);
    assert_eq!(denial(&token(&second, r#","kid":"a""#), &keys), Some(Denial::InvalidSignature));
    assert_eq!(denial(&token(&first, r#","kid":"c""#), &keys), Some(Denial::UnknownKey));
    assert_eq!(denial(&token(&first, ""), &keys), Some(Denial::AmbiguousKey));
    assert!(Denial::UnknownKey.asks_for_keys() && !Denial::AmbiguousKey.asks_for_keys());
    for kid in ["1", "null", "[\"a\"]"] {
        let denied = denial(&token(&first, &format!(r#","kid":{kid}"#)), &keys);
        assert_eq!(denied, Some(Denial::InvalidToken(Invalid::Header)), "{kid}");
    }
    let only = set(&[first.jwk(), json!({"kty": "oct", "k": "AA"})]);
    assert_eq!(denial(&token(&first, ""), &only), None, "exactly one usable key");
    assert_eq!(denial(&token(&first, r#","kid":"a""#), &only), Some(Denial::UnknownKey));
    assert_eq!(
        denial(&rsa().token_of("RS256", br#"{"alg":"RS256"}"#, b"{}"), &only),
        Some(Denial::AlgorithmNotAllowed)
    );
    assert_eq!(denial(&token(&first, ""), &set(&[])), Some(Denial::AmbiguousKey));
}
