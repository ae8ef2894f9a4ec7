//! What a token costs: the library's bare signature check, its check of signature and claims, our whole check, and a hit in the cache.
//! The difference of ours to the first is what reading and the rules cost; machines differ, so ratios are what to look at.

use std::hint::black_box;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RSA_PSS_SHA256, RsaEncoding, RsaKeyPair, RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use criterion::{Criterion, criterion_group, criterion_main};
use jsonwebtoken::{DecodingKey, Validation, crypto, decode};
use serde_json::{Value, json};

use vibewarden::admission::jwt::{
    Algorithm, ClaimHeaders, Found, Generation, KeySet, Rules, TokenCache, verify,
};

const NOW_SECONDS: u64 = 1_750_000_000;

/// Claims as a common provider issues them; the token has about 800 bytes.
fn claims() -> Value {
    json!({
        "iss": "https://issuer.example.test/realms/main", "aud": ["vibewarden", "account"],
        "sub": "6f2c4a0e-8b8c-4a56-9f43-2f0a5a0d5f7c", "jti": "8a6ad2a8-7f3e-4b39-b1a0-0e1df0f1a111",
        "iat": NOW_SECONDS - 60, "nbf": NOW_SECONDS - 60, "exp": NOW_SECONDS + 600,
        "email": "alice@example.test", "email_verified": true, "azp": "web", "scope": "openid email profile",
        "realm_access": {"roles": ["offline_access", "uma_authorization", "default-roles-main"]},
    })
}

type Sign = Box<dyn Fn(&[u8]) -> Vec<u8>>;

/// A key of one algorithm: its JWK, the library's form of it, and how it signs.
struct Kind {
    algorithm: Algorithm,
    library: jsonwebtoken::Algorithm,
    jwk: Value,
    key: DecodingKey,
    sign: Sign,
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn rsa(
    algorithm: Algorithm,
    library: jsonwebtoken::Algorithm,
    padding: &'static dyn RsaEncoding,
) -> Kind {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
    let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
    Kind {
        algorithm,
        library,
        jwk: json!({"kty": "RSA", "kid": "k", "n": encode(&public.n), "e": encode(&public.e)}),
        key: DecodingKey::from_rsa_raw_components(&public.n, &public.e),
        sign: Box::new(move |message| {
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(padding, &SystemRandom::new(), message, &mut signature).expect("signed");
            signature
        }),
    }
}

fn kinds() -> Vec<Kind> {
    let elliptic = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
    let point = elliptic.public_key().as_ref().to_vec();
    let edwards = Ed25519KeyPair::generate().expect("a key");
    let x = edwards.public_key().as_ref().to_vec();
    vec![
        rsa(Algorithm::Rs256, jsonwebtoken::Algorithm::RS256, &RSA_PKCS1_SHA256),
        rsa(Algorithm::Ps256, jsonwebtoken::Algorithm::PS256, &RSA_PSS_SHA256),
        Kind {
            algorithm: Algorithm::Es256,
            library: jsonwebtoken::Algorithm::ES256,
            jwk: json!({
                "kty": "EC", "crv": "P-256", "kid": "k", "x": encode(&point[1..33]), "y": encode(&point[33..]),
            }),
            key: DecodingKey::from_ec_der(&point),
            sign: Box::new(move |message| {
                elliptic.sign(&SystemRandom::new(), message).expect("signed").as_ref().to_vec()
            }),
        },
        Kind {
            algorithm: Algorithm::EdDsa,
            library: jsonwebtoken::Algorithm::EdDSA,
            jwk: json!({"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": encode(&x)}),
            key: DecodingKey::from_ed_der(&x),
            sign: Box::new(move |message| edwards.sign(message).as_ref().to_vec()),
        },
    ]
}

fn tokens(criterion: &mut Criterion) {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_SECONDS);
    let rules = Rules {
        issuer: "https://issuer.example.test/realms/main".into(),
        audience: "vibewarden".into(),
        algorithms: Algorithm::ALL.to_vec(),
        headers: ClaimHeaders::default(),
    };
    let generation = Generation { keys: 1, rules: 1 };
    for kind in kinds() {
        let name = kind.algorithm.name();
        let header = json!({"alg": name, "kid": "k", "typ": "JWT"}).to_string();
        let message = format!("{}.{}", encode(header), encode(claims().to_string()));
        let signature = encode((kind.sign)(message.as_bytes()));
        let token = format!("{message}.{signature}");
        let keys =
            KeySet::parse(json!({"keys": [kind.jwk]}).to_string().as_bytes()).expect("a set");
        let mut group = criterion.benchmark_group(name);
        let mut validation = Validation::new(kind.library);
        validation.set_audience(&["vibewarden"]);
        validation.set_issuer(&["https://issuer.example.test/realms/main"]);
        validation.validate_exp = false;
        group.bench_function("library, signature and claims", |bencher| {
            bencher.iter(|| {
                let decoded = decode::<Value>(black_box(token.as_str()), &kind.key, &validation);
                assert!(decoded.is_ok());
            });
        });
        group.bench_function("signature alone", |bencher| {
            bencher.iter(|| {
                let message = black_box(message.as_bytes());
                let verdict = crypto::verify(&signature, message, &kind.key, kind.library);
                assert!(verdict.expect("well formed"));
            });
        });
        group.bench_function("whole check", |bencher| {
            bencher.iter(|| {
                let verdict = verify(black_box(token.as_bytes()), &keys, &rules, now);
                assert!(black_box(verdict).is_ok());
            });
        });
        let mut cache = TokenCache::new(4096);
        let first = cache.verify(token.as_bytes(), &keys, &rules, generation, now);
        assert!(first.0 == Found::Miss && first.1.is_ok());
        group.bench_function("cached", |bencher| {
            bencher.iter(|| {
                let token = black_box(token.as_bytes());
                let (found, verdict) = cache.verify(token, &keys, &rules, generation, now);
                assert!(found == Found::Hit);
                black_box(verdict).expect("accepted")
            });
        });
        group.finish();
    }
}

criterion_group!(benches, tokens);
criterion_main!(benches);
