# Tokens made by PyJWT and joserfc (with `cryptography` below), one JSON object a line: maker, alg, jwks, token.
# python3 make.py > foreign.jsonl && node make.mjs >> foreign.jsonl ; needs pyjwt[crypto] and joserfc.
# Keys are thrown away; what is kept is public. src/admission/jwt/tests/foreign.rs reads the lines.
import json

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from joserfc import jwk as joserfc_jwk
from joserfc import jwt as joserfc_jwt
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

CLAIMS = {
    "iss": "https://issuer.test",
    "aud": ["other", "vibewarden"],
    "sub": "zoë@example.test",
    "iat": 1_700_000_000,
    "exp": 4_000_000_000,
    "email": "zoe@example.test",
    "email_verified": True,
}

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
KEYS = {
    "RS256": RSA, "RS384": RSA, "RS512": RSA, "PS256": RSA, "PS384": RSA, "PS512": RSA,
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def line(maker, alg, public, token):
    public = {**public, "kid": f"{maker}-{alg}"}
    print(json.dumps({"maker": maker, "alg": alg, "jwks": {"keys": [public]}, "token": token}))


for alg, key in KEYS.items():
    form = {"R": RSAAlgorithm, "P": RSAAlgorithm, "E": ECAlgorithm}[alg[0]] if alg != "EdDSA" else OKPAlgorithm
    public = json.loads(form.to_jwk(key.public_key()))
    line("pyjwt", alg, public, jwt.encode(CLAIMS, key, alg, headers={"kid": f"pyjwt-{alg}"}))

for alg in KEYS:
    if alg == "EdDSA":
        key = joserfc_jwk.OKPKey.generate_key("Ed25519")
    elif alg[0] == "E":
        key = joserfc_jwk.ECKey.generate_key("P-256" if alg == "ES256" else "P-384")
    else:
        key = joserfc_jwk.RSAKey.generate_key(2048)
    token = joserfc_jwt.encode({"alg": alg, "kid": f"joserfc-{alg}"}, CLAIMS, key, algorithms=[alg])
    line("joserfc", alg, {**key.as_dict(private=False), "use": "sig", "alg": alg}, token)
