// An OpenID provider as it is delivered: `oidc-provider`, with signing keys that a test rotates. Usage: provider.mjs
//
// Two issuers on one port each, with the same keys and the same client; the test may want tokens of the wrong one. Reports on stdout where they
// listen and every request for a key set, with the keys that the answer has. A third port is for the test: POST /rotate, POST /verify.
// Times are nanoseconds of CLOCK_MONOTONIC. Ends when its stdin ends.

import { createHash, createPublicKey, generateKeyPair, verify } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";

import { say } from "./both.mjs";

/** The newest key signs; the ones before it stay in the set for tokens that are under way. */
const KEYS_MAX = 5;
const KEYS_EVER = 11;

// What the library remarks must not stand among the reports.
console.info = console.error;
const installed = createRequire(process.env.VIBEWARDEN_TEST_NODE_ROOT).resolve("oidc-provider");
const { default: Provider } = await import(pathToFileURL(installed));

async function freshKey() {
  const { privateKey } = await promisify(generateKeyPair)("rsa", { modulusLength: 2048 });
  const jwk = privateKey.export({ format: "jwk" });
  const kid = createHash("sha256").update(jwk.n).digest("base64url").slice(0, 16);
  return { ...jwk, kid, alg: "RS256", use: "sig" };
}

const configuration = (keys) => ({
  jwks: { keys },
  clients: [
    { client_id: "device", client_secret: "device-secret", grant_types: ["client_credentials"], redirect_uris: [], response_types: [] },
  ],
  ttl: { ClientCredentials: 600 },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_context, audience) => ({
        audience,
        scope: "",
        accessTokenTTL: 600,
        accessTokenFormat: "jwt",
        jwt: { sign: { alg: "RS256" } },
      }),
    },
  },
});

async function listening(answer) {
  const server = createServer(answer).listen(0, "127.0.0.1");
  await once(server, "listening");
  return `http://127.0.0.1:${server.address().port}`;
}

const clock = () => Number(process.hrtime.bigint());

const stock = await Promise.all(Array.from({ length: KEYS_EVER }, freshKey));
let rotations = 0;
const inForce = () => stock.slice(Math.max(0, rotations + 1 - KEYS_MAX), rotations + 1).reverse();
const kids = () => inForce().map((key) => key.kid);

const issuers = [{}, {}];
const configure = () => {
  for (const issuer of issuers) issuer.callback = new Provider(issuer.url, configuration(inForce())).callback();
};
for (const issuer of issuers) {
  issuer.url = await listening((request, response) => {
    if (request.url === "/jwks") say("fetched", { issuer: issuer.url, at: clock(), kids: kids() });
    issuer.callback(request, response);
  });
}
configure();

/** Whether Node's own cryptography finds the signature good, by the key that the token names. */
function isGenuine(token) {
  const [header, claims, signature] = token.split(".");
  const { kid } = JSON.parse(Buffer.from(header, "base64url"));
  const { n, e, kty } = stock.find((key) => key.kid === kid);
  const key = createPublicKey({ key: { n, e, kty }, format: "jwk" });
  return verify("sha256", Buffer.from(`${header}.${claims}`), key, Buffer.from(signature, "base64url"));
}

const commands = {
  "/rotate": () => {
    rotations += 1;
    configure();
    return { at: clock(), kids: kids() };
  },
  "/verify": (body) => ({ genuine: body.split("\n").map(isGenuine) }),
};
const control = await listening(async (request, response) => {
  let body = "";
  for await (const piece of request) body += piece;
  const answer = JSON.stringify(commands[request.url](body));
  response.writeHead(200, { "Content-Length": Buffer.byteLength(answer) }).end(answer);
});

say("listening", { issuer: issuers[0].url, other: issuers[1].url, control, kids: kids() });
process.stdin.resume().on("end", () => process.exit());
