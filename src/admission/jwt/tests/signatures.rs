//! The form of a token, its header and its signature (E23, E24, E28, E29, E30, E40, E48), and the cache.

use aws_lc_rs::hmac;
use serde_json::json;

use super::sample::*;
use super::*;

const INVALID_HEADER: Option<Denial> = Some(Denial::InvalidToken(Invalid::Header));
const ENCODING: Option<Denial> = Some(Denial::InvalidToken(Invalid::Encoding));
const PARTS: Option<Denial> = Some(Denial::InvalidToken(Invalid::Parts));

fn encode(text: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

#[test]
fn no_spelling_of_none_is_an_algorithm() {
    let keys = set_of(&rsa());
    let claims = encode(claims().to_string());
    for alg in [
        "none", "None", "nOnE", "NONE", "", "null", " RS256", "rs256", "RS256 ", "HS256", "HS512",
        "ES512", "ES256K",
    ] {
        let header = encode(json!({"alg": alg, "kid": "k"}).to_string());
        for signature in ["", "AAAA", "c2lnbmF0dXJl"] {
            let token = format!("{header}.{claims}.{signature}");
            assert_eq!(denial(&token, &keys), Some(Denial::AlgorithmNotAllowed), "{alg:?}");
        }
    }
    for header in [r#"{"kid":"k"}"#, r#"{"alg":null}"#, r#"{"alg":["RS256"]}"#, r#"{"alg":256}"#] {
        let token = format!("{}.{claims}.", encode(header));
        assert_eq!(denial(&token, &keys), INVALID_HEADER, "{header}");
    }
}

#[test]
fn a_public_key_is_no_shared_secret() {
    let signer = rsa();
    let Signer::Rsa(pair) = &signer else { panic!("RSA") };
    let jwk = signer.jwk();
    let modulus = URL_SAFE_NO_PAD.decode(jwk["n"].as_str().unwrap()).unwrap();
    let der = {
        use aws_lc_rs::encoding::AsDer as _;
        aws_lc_rs::signature::KeyPair::public_key(&**pair).as_der().unwrap().as_ref().to_vec()
    };
    let base64 = base64::engine::general_purpose::STANDARD.encode(&der);
    let lines: Vec<_> =
        base64.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", lines.join("\n"));
    let secrets = [
        pem.clone().into_bytes(),
        format!("{pem}\n").into_bytes(),
        der,
        jwk.to_string().into_bytes(),
        modulus,
    ];
    let keys = set_of(&signer);
    for secret in secrets {
        for (alg, digest) in [
            ("HS256", hmac::HMAC_SHA256),
            ("RS256", hmac::HMAC_SHA256),
            ("HS512", hmac::HMAC_SHA512),
        ] {
            let header = encode(json!({"alg": alg, "kid": "k"}).to_string());
            let message = format!("{header}.{}", encode(claims().to_string()));
            let tag = hmac::sign(&hmac::Key::new(digest, &secret), message.as_bytes());
            let expected =
                if alg == "RS256" { Denial::InvalidSignature } else { Denial::AlgorithmNotAllowed };
            assert_eq!(
                denial(&format!("{message}.{}", encode(tag)), &keys),
                Some(expected),
                "{alg}"
            );
        }
    }
}

#[test]
fn a_signature_has_exactly_one_form() {
    for (signer, algorithm) in
        [(rsa(), "RS256"), (p256(), "ES256"), (p384(), "ES384"), (ed25519(), "EdDSA")]
    {
        let keys = set_of(&signer);
        let token = signer.token(algorithm, &claims());
        assert_eq!(denial(&token, &keys), None);
        let (message, signature) = token.rsplit_once('.').unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let mut flipped = bytes.clone();
        flipped[10] ^= 1;
        let longer = [&bytes[..], &[0, 0, 0]].concat();
        let zeros = vec![0; bytes.len()];
        for wrong in [&flipped[..], &longer, &bytes[..bytes.len() - 1], &[], &zeros, &bytes[1..]] {
            let denied = denial(&format!("{message}.{}", encode(wrong)), &keys);
            assert_eq!(denied, Some(Denial::InvalidSignature), "{algorithm}");
        }
        for form in [
            format!("{signature}="),
            format!("{signature}=="),
            format!("{signature} "),
            format!(" {signature}"),
            format!("{signature}\n"),
            signature.replace(['-', '_'], "+") + "+",
        ] {
            assert_eq!(
                denial(&format!("{message}.{form}"), &keys),
                ENCODING,
                "{algorithm} {form:?}"
            );
        }
    }
}

/// 256, 64 and 48 bytes leave bits over in the last character, which many decoders ignore.
#[test]
fn spare_bits_are_not_ignored() {
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    for (signer, algorithm) in [(rsa(), "PS256"), (p256(), "ES256"), (ed25519(), "EdDSA")] {
        let keys = set_of(&signer);
        let token = signer.token(algorithm, &claims());
        let (kept, last) = token.split_at(token.len() - 1);
        let accepted: Vec<_> = alphabet
            .chars()
            .filter(|other| denial(&format!("{kept}{other}"), &keys).is_none())
            .collect();
        assert_eq!(accepted, last.chars().collect::<Vec<_>>(), "{algorithm}");
    }
    // The same for header and claims, though both are signed as text.
    let signer = p256();
    let header = encode(r#"{"alg":"ES256","kid":"k"}"#);
    let mut text = claims().to_string();
    while text.len() % 3 != 1 {
        text.insert(1, ' ');
    }
    let encoded = encode(&text);
    let spare = format!(
        "{}{}",
        &encoded[..encoded.len() - 1],
        if encoded.ends_with('Q') { 'R' } else { 'z' }
    );
    assert!(encoded.ends_with('Q'));
    for (claims, expected) in [(encoded, None), (spare, ENCODING)] {
        let message = format!("{header}.{claims}");
        let signature = encode(signer.sign("ES256", message.as_bytes()));
        assert_eq!(denial(&format!("{message}.{signature}"), &set_of(&signer)), expected);
    }
}

#[test]
fn a_token_has_three_parts_and_a_bound() {
    let signer = p256();
    let keys = set_of(&signer);
    let token = signer.token("ES256", &claims());
    let (message, signature) = token.rsplit_once('.').unwrap();
    for parts in [
        String::new(),
        "x".into(),
        message.into(),
        format!("{token}."),
        format!(".{token}"),
        format!("{token}.a"),
        format!("{message}..{signature}"),
        "....".into(),
        ".".repeat(TOKEN_BYTES_MAX),
    ] {
        assert_eq!(denial(&parts, &keys), PARTS, "{parts:.80}");
    }
    let long = ".".repeat(1024 * 1024);
    assert_eq!(denial(&long, &keys), Some(Denial::InvalidToken(Invalid::TooLong)));
    let header = format!(r#"{{"alg":"ES256","kid":"k","x":"{}"}}"#, "x".repeat(HEADER_BYTES_MAX));
    let token = signer.token_of("ES256", header.as_bytes(), claims().to_string().as_bytes());
    assert_eq!(denial(&token, &keys), Some(Denial::InvalidToken(Invalid::TooLong)));
    assert_eq!(denial("..", &keys), INVALID_HEADER);
    for not_text in [&b"\xff.\xfe.\xfd"[..], b"a.b.\0", "é.b.c".as_bytes()] {
        let denied = verify(not_text, &keys, &rules(), now()).err();
        assert_eq!(denied, ENCODING, "{not_text:?}");
    }
}

#[test]
fn keys_in_the_header_are_never_used() {
    let (ours, theirs) = (p256(), p256());
    let keys = set_of(&ours);
    for members in [
        json!({"jwk": theirs.jwk()}),
        json!({"jku": "https://attacker.test/keys"}),
        json!({"x5u": "https://attacker.test/cert"}),
        json!({"x5c": ["MIIB"]}),
        json!({"x5t": "AAAA", "x5t#S256": "AAAA"}),
    ] {
        let mut header = json!({"alg": "ES256", "kid": "k"});
        header.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        let token = |signer: &Signer| {
            signer.token_of("ES256", header.to_string().as_bytes(), claims().to_string().as_bytes())
        };
        assert_eq!(denial(&token(&theirs), &keys), Some(Denial::InvalidSignature), "{members}");
        assert_eq!(denial(&token(&ours), &keys), None, "{members}");
    }
}

#[test]
fn extensions_that_must_be_understood_are_not() {
    let signer = p256();
    let keys = set_of(&signer);
    for crit in [
        r#""crit":["exp"]"#,
        r#""crit":["x"],"x":1"#,
        r#""crit":[]"#,
        r#""b64":false,"crit":["b64"]"#,
        r#""crit":null"#,
    ] {
        let header = format!(r#"{{"alg":"ES256","kid":"k",{crit}}}"#);
        let token = signer.token_of("ES256", header.as_bytes(), claims().to_string().as_bytes());
        assert_eq!(denial(&token, &keys), Some(Denial::InvalidToken(Invalid::Critical)), "{crit}");
    }
}

#[test]
fn repeated_members_of_a_header_are_refused() {
    let signer = p256();
    let keys = set_of(&signer);
    for header in [
        r#"{"alg":"none","alg":"ES256","kid":"k"}"#,
        r#"{"alg":"ES256","alg":"ES256","kid":"k"}"#,
        r#"{"alg":"ES256","kid":"k","k\u0069d":"x"}"#,
        r#"{"alg":"ES256","kid":"k","x":{"a":1,"a":2}}"#,
        r#"["alg"]"#,
        r#"{"alg":"ES256","kid":"k"}{}"#,
        "",
    ] {
        let token = signer.token_of("ES256", header.as_bytes(), claims().to_string().as_bytes());
        assert_eq!(denial(&token, &keys), INVALID_HEADER, "{header}");
    }
}

#[test]
fn the_list_of_algorithms_decides() {
    let (rsa, elliptic) = (rsa(), p256());
    let keys = set(&[rsa.jwk_with(json!({"kid": "r"})), elliptic.jwk_with(json!({"kid": "k"}))]);
    let rules = Rules { algorithms: vec![Algorithm::Rs256], ..rules() };
    let token = elliptic.token("ES256", &claims());
    assert_eq!(verify(token.as_bytes(), &keys, &rules, now()), Err(Denial::AlgorithmNotAllowed));
    let none = Rules { algorithms: Vec::new(), ..rules };
    assert_eq!(verify(token.as_bytes(), &keys, &none, now()), Err(Denial::AlgorithmNotAllowed));
}

#[test]
fn the_cache_gives_the_same_verdict_until_exp_or_another_generation() {
    let signer = p256();
    let (keys, rules) = (set_of(&signer), rules());
    let token = signer.token("ES256", &claims());
    let mut cache = TokenCache::new(4);
    let first = Generation { keys: 1, rules: 1 };
    let mut ask = |token: &str, generation, seconds| {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_SECONDS + seconds);
        let (found, verdict) = cache.verify(token.as_bytes(), &keys, &rules, generation, at);
        (found, verdict.map(|accepted| accepted.user_id.clone()))
    };
    let alice = Ok(Some("alice".into()));
    assert_eq!(ask(&token, first, 0), (Found::Miss, alice.clone()));
    assert_eq!(ask(&token, first, 599), (Found::Hit, alice.clone()));
    assert_eq!(ask(&token, first, 600), (Found::Miss, alice.clone()), "never past exp");
    assert_eq!(ask(&token, first, 629), (Found::Miss, alice.clone()), "verified inside the leeway");
    assert_eq!(ask(&token, first, 630), (Found::Miss, Err(Denial::TokenExpired)));
    assert_eq!(ask(&token, first, 1), (Found::Hit, alice.clone()));
    for other in [Generation { keys: 2, rules: 1 }, Generation { keys: 2, rules: 2 }] {
        assert_eq!(ask(&token, other, 1), (Found::Miss, alice.clone()));
        assert_eq!(ask(&token, other, 1), (Found::Hit, alice.clone()));
    }
    let last = Generation { keys: 2, rules: 2 };
    let (kept, _) = token.split_at(token.len() - 1);
    assert_eq!(ask(kept, last, 1).0, Found::Miss);
    assert_eq!(ask(kept, last, 1).0, Found::Miss, "refused tokens are not kept");
    assert_eq!(cache.len(), 1);
}

#[test]
fn a_key_that_is_gone_takes_its_verdicts_along() {
    let signer = p256();
    let token = signer.token("ES256", &claims());
    let mut cache = TokenCache::new(4);
    let with = Generation { keys: 1, rules: 1 };
    assert!(cache.verify(token.as_bytes(), &set_of(&signer), &rules(), with, now()).1.is_ok());
    let without = Generation { keys: 2, rules: 1 };
    let verdict = cache.verify(token.as_bytes(), &set_of(&p256()), &rules(), without, now()).1;
    assert_eq!(verdict, Err(Denial::InvalidSignature));
    assert!(cache.is_empty());
}
