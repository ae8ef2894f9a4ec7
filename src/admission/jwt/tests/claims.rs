//! What the claims must say (E36, E38, E45) and what becomes of them.

use serde_json::{Value, json};

use super::sample::*;
use super::*;

const CLAIMS: Option<Denial> = Some(Denial::InvalidToken(Invalid::Claims));
const TYPE: Option<Denial> = Some(Denial::InvalidToken(Invalid::ClaimType));
const USER: Option<Denial> = Some(Denial::InvalidToken(Invalid::UserId));

/// One key for all cases of a test.
struct Case {
    signer: Signer,
    keys: KeySet,
}

impl Case {
    fn new() -> Self {
        let signer = ed25519();
        let keys = set_of(&signer);
        Self { signer, keys }
    }

    fn denial(&self, claims: &Value) -> Option<Denial> {
        denial(&self.signer.token("EdDSA", claims), &self.keys)
    }

    fn denial_of_text(&self, claims: &str) -> Option<Denial> {
        let header = br#"{"alg":"EdDSA","kid":"k"}"#;
        denial(&self.signer.token_of("EdDSA", header, claims.as_bytes()), &self.keys)
    }

    fn verified(&self, claims: &Value, headers: ClaimHeaders) -> Result<Verified, Denial> {
        let rules = Rules { headers, ..rules() };
        verify(self.signer.token("EdDSA", claims).as_bytes(), &self.keys, &rules, now())
    }
}

#[test]
fn a_token_ends_at_exp_and_thirty_seconds() {
    let case = Case::new();
    let expired = Some(Denial::TokenExpired);
    let at = |exp: Value| case.denial(&claims_with(json!({"exp": exp})));
    assert_eq!(at(json!(NOW_SECONDS + 1)), None);
    assert_eq!(at(json!(NOW_SECONDS - 29)), None);
    assert_eq!(at(json!(NOW_SECONDS - 30)), expired);
    assert_eq!(at(json!(0)), expired);
    assert_eq!(at(json!(-1)), expired);
    assert_eq!(at(json!(-1e300)), expired);
    assert_eq!(at(json!(1e300)), None);
    assert_eq!(at(json!(1_749_999_970.5)), None);
    assert_eq!(at(json!(1_749_999_969.5)), expired);
    assert_eq!(
        case.denial(&claims_with(json!({"exp": null}))),
        Some(Denial::InvalidToken(Invalid::NoExpiry))
    );
}

#[test]
fn an_exp_of_another_type_is_not_an_absent_one() {
    let case = Case::new();
    for exp in [r#""1900000000""#, "null", "[1900000000]", "{}", "true", r#""""#] {
        let text = claims_text("exp", &format!(r#""exp":{exp}"#));
        assert_eq!(case.denial_of_text(&text), TYPE, "{exp}");
    }
    for member in [
        r#""exp":1e400"#,
        r#""exp":1900000000,"exp":1900000000"#,
        r#""exp":01"#,
        r#""exp":0x10"#,
        r#""exp":1,"\u0065xp":1900000000"#,
        r#""exp":+1"#,
        r#""exp":Infinity"#,
    ] {
        assert_eq!(case.denial_of_text(&claims_text("exp", member)), CLAIMS, "{member}");
    }
    assert_eq!(case.denial_of_text(&claims_text("exp", r#""exp":19e8"#)), None);
    assert_eq!(case.denial_of_text(&claims_text("exp", r#""exp":1900000000.25"#)), None);
}

#[test]
fn not_before_and_issued_at_may_be_thirty_seconds_ahead() {
    let case = Case::new();
    for claim in ["nbf", "iat"] {
        let at = |value: Value| case.denial(&claims_with(json!({claim: value})));
        assert_eq!(at(json!(NOW_SECONDS + 30)), None, "{claim}");
        assert_eq!(at(json!(NOW_SECONDS + 31)), Some(Denial::TokenNotYetValid), "{claim}");
        assert_eq!(at(json!(1e300)), Some(Denial::TokenNotYetValid), "{claim}");
        assert_eq!(at(json!(-5)), None, "{claim}");
        assert_eq!(at(json!("0")), TYPE, "{claim}");
        assert_eq!(case.denial_of_text(&claims_text(claim, &format!(r#""{claim}":null"#))), TYPE);
    }
    assert_eq!(case.denial(&claims_with(json!({"iat": null}))), None);
}

#[test]
fn the_issuer_is_compared_exactly() {
    let case = Case::new();
    let other = Some(Denial::InvalidIssuer);
    for issuer in [
        "https://issuer.test/",
        "https://ISSUER.test",
        "https://issuer.tes",
        "",
        " https://issuer.test",
    ] {
        assert_eq!(case.denial(&claims_with(json!({"iss": issuer}))), other, "{issuer}");
    }
    assert_eq!(case.denial(&claims_with(json!({"iss": null}))), other);
    assert_eq!(case.denial(&claims_with(json!({"iss": ["https://issuer.test"]}))), TYPE);
    assert_eq!(case.denial_of_text(&claims_text("iss", r#""iss":null"#)), TYPE);
}

#[test]
fn the_audience_is_a_member_exactly() {
    let case = Case::new();
    let of = |audience: Value| case.denial(&claims_with(json!({"aud": audience})));
    assert_eq!(of(json!("vibewarden")), None);
    assert_eq!(of(json!(["a", "vibewarden"])), None);
    for other in [
        json!("vibe"),
        json!("vibewarden/"),
        json!("Vibewarden"),
        json!(""),
        json!([]),
        json!(["a"]),
        json!(["vibewarden2", "xvibewarden"]),
        json!("a vibewarden"),
        json!("a,vibewarden"),
        Value::Null,
    ] {
        assert_eq!(of(other.clone()), Some(Denial::InvalidAudience), "{other}");
    }
    for wrong in [
        json!(["a", ["vibewarden"]]),
        json!([["vibewarden"]]),
        json!(["vibewarden", 1]),
        json!({"vibewarden": 1}),
        json!(1),
        json!(true),
        json!(["vibewarden", null]),
    ] {
        assert_eq!(of(wrong.clone()), TYPE, "{wrong}");
    }
    assert_eq!(case.denial_of_text(&claims_text("aud", r#""aud":null"#)), TYPE);
}

#[test]
fn claims_are_one_object_without_repeats() {
    let case = Case::new();
    for text in ["", "null", "[]", "\"x\"", "{", "eyJhbGciOiJub25lIn0.e30."] {
        assert_eq!(case.denial_of_text(text), CLAIMS, "{text}");
    }
    for member in [
        r#""sub":"alice","sub":"alice""#,
        r#""sub":"alice","s\u0075b":"root""#,
        r#""x":{"a":1,"a":1}"#,
        "\"x\":\"\\ud800\"",
        r#""x":1e999"#,
    ] {
        assert_eq!(case.denial_of_text(&claims_text("sub", member)), CLAIMS, "{member}");
    }
    assert_eq!(case.denial_of_text(&format!("{} x", claims())), CLAIMS);
    assert_eq!(case.denial(&claims_with(json!({"jti": 7}))), TYPE);
}

#[test]
fn a_user_id_never_splits_a_header() {
    let case = Case::new();
    let of = |sub: Value| case.denial(&claims_with(json!({"sub": sub})));
    for sub in [
        "a\r\nX-Role: admin",
        "a\0b",
        "\u{7f}",
        "a\u{85}",
        "\t",
        "",
        " alice",
        "alice ",
        &"x".repeat(1025),
        &"x".repeat(10_240),
    ] {
        assert_eq!(of(json!(sub)), USER, "{sub:.40?}");
    }
    for sub in ["zoë", "用户", "a b", "auth0|123", &"x".repeat(1024)] {
        assert_eq!(of(json!(sub)), None, "{sub:.40?}");
    }
    for sub in [json!(7), json!(true), json!(["alice"]), json!({})] {
        assert_eq!(of(sub.clone()), TYPE, "{sub}");
    }
    let verified =
        case.verified(&claims_with(json!({"sub": null})), ClaimHeaders::default()).unwrap();
    assert_eq!(verified.user_id, None);
    assert!(verified.headers.iter().all(|(name, _)| &**name != "X-User-Id"));
}

#[test]
fn claims_become_headers_by_their_type() {
    let case = Case::new();
    let headers = ClaimHeaders::new([
        ("sub", "X-User-Id"),
        ("name", "X-User-Name"),
        ("roles", "X-Roles"),
        ("level", "X-Level"),
        ("ratio", "X-Ratio"),
        ("admin", "X-Admin"),
        ("mixed", "X-Mixed"),
        ("none", "X-None"),
        ("map", "X-Map"),
        ("deep", "X-Deep"),
        ("bad", "X-Bad"),
        ("long", "X-Long"),
        ("absent", "X-Absent"),
    ]);
    let text = claims_text(
        "x",
        &format!(
            r#""name":"Zoë \"Z\"","roles":["a","b,c"],"level":1.50e2,"ratio":-0.0,"admin":false,"mixed":["a",1,true],
            "none":null,"map":{{"a":1}},"deep":["a",["b"]],"bad":"a\nb","long":"{}""#,
            "x".repeat(1025)
        ),
    );
    let token = case.signer.token_of("EdDSA", br#"{"alg":"EdDSA","kid":"k"}"#, text.as_bytes());
    let rules = Rules { headers, ..rules() };
    let verified = verify(token.as_bytes(), &case.keys, &rules, now()).unwrap();
    let found: Vec<_> = verified.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(
        found,
        [
            ("X-User-Id", "alice"),
            ("X-User-Name", "Zoë \"Z\""),
            ("X-Roles", "a,b,c"),
            ("X-Level", "1.50e2"),
            ("X-Ratio", "-0.0"),
            ("X-Admin", "false"),
            ("X-Mixed", "a,1,true"),
        ]
    );
}

#[test]
fn the_user_is_what_goes_into_the_header_and_else_the_subject() {
    let case = Case::new();
    let claims = claims_with(json!({"uid": "u-7", "n": 42, "o": {"a": 1}, "bad": "a\rb"}));
    let user = |headers| case.verified(&claims, headers).map(|verified| verified.user_id);
    assert_eq!(user(ClaimHeaders::new([("uid", "x-user-id")])), Ok(Some("u-7".into())));
    assert_eq!(user(ClaimHeaders::new([("n", "X-User-Id")])), Ok(Some("42".into())));
    assert_eq!(user(ClaimHeaders::new([("absent", "X-User-Id")])), Ok(Some("alice".into())));
    assert_eq!(user(ClaimHeaders::new([("email", "X-User-Email")])), Ok(Some("alice".into())));
    for claim in ["o", "bad"] {
        assert_eq!(user(ClaimHeaders::new([(claim, "X-User-Id")])).err(), USER, "{claim}");
    }
    let two = ClaimHeaders::new([("absent", "X-A"), ("uid", "X-A"), ("email", "x-a")]);
    let verified = case.verified(&claims, two).unwrap();
    assert_eq!(verified.headers, [("X-A".into(), "u-7".into())], "one header has one value");
}

#[test]
fn a_token_taken_inside_the_leeway_counts_until_it_ends() {
    let case = Case::new();
    let ends = |exp: u64| {
        let verified =
            case.verified(&claims_with(json!({"exp": exp})), ClaimHeaders::default()).unwrap();
        let seconds =
            |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        (seconds(verified.expires_at), seconds(verified.ends_at))
    };
    assert_eq!(ends(NOW_SECONDS + 5), (NOW_SECONDS + 5, NOW_SECONDS + 5));
    assert_eq!(ends(NOW_SECONDS - 5), (NOW_SECONDS - 5, NOW_SECONDS + 25));
    assert_eq!(ends(u64::MAX).0, 253_402_300_799);
}
