// Tokens made by jose (on Node's cryptography), as in make.py beside this file.
import { SignJWT, exportJWK, generateKeyPair } from "jose";

const claims = { sub: "zoë@example.test", email: "zoe@example.test", email_verified: true };

for (const alg of ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]) {
  const { publicKey, privateKey } = await generateKeyPair(alg, { extractable: true });
  const kid = `jose-${alg}`;
  const token = await new SignJWT(claims)
    .setProtectedHeader({ alg, kid, typ: "JWT" })
    .setIssuer("https://issuer.test")
    .setAudience("vibewarden")
    .setIssuedAt(1_700_000_000)
    .setExpirationTime(4_000_000_000)
    .sign(privateKey);
  const jwk = { ...(await exportJWK(publicKey)), kid, alg, use: "sig", key_ops: ["verify"] };
  console.log(JSON.stringify({ maker: "jose", alg, jwks: { keys: [jwk] }, token }));
}
