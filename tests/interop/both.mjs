// What the Node application and the Node client have in common: reports to the test on stdout, and the random stream.

import { createHash } from "node:crypto";
import { on, once } from "node:events";
import { createRequire } from "node:module";

/** No wait in these programs is longer than this. */
export const PATIENCE_MS = 60_000;
const BLOCK_BYTES = 256 * 1024;
const REQUEST_FIELDS = [
  "sec-websocket-key",
  "sec-websocket-version",
  "sec-websocket-protocol",
  "sec-websocket-extensions",
  "authorization",
  "cookie",
  "origin",
  "x-user-id",
];
const RESPONSE_FIELDS = ["sec-websocket-accept", "sec-websocket-protocol", "sec-websocket-extensions", "x-application"];

/** The library stands where tests/run.sh put it, not beside these programs; the test says where. */
export const { WebSocket, WebSocketServer } = createRequire(process.env.VIBEWARDEN_TEST_NODE_ROOT)("ws");

export function say(event, fields = {}) {
  process.stdout.write(`${JSON.stringify({ event, ...fields })}\n`);
}

export function expect(condition, what) {
  if (!condition) throw new Error(what);
}

/** The fields of `rawHeaders` that must arrive as they were sent; repeated lines stay apart. */
export function picked(rawHeaders, names) {
  const fields = {};
  for (let at = 0; at < rawHeaders.length; at += 2) {
    const name = rawHeaders[at].toLowerCase();
    if (names.includes(name)) (fields[name] ??= []).push(String(rawHeaders[at + 1]));
  }
  return fields;
}

export function sayOpened(path, rawRequest, rawResponse) {
  say("opened", { path, request: picked(rawRequest, REQUEST_FIELDS), response: picked(rawResponse, RESPONSE_FIELDS) });
}

/** The messages of a socket one by one, `{ text }` or `{ bytes }`; to be called before the first one can arrive. */
export function inbox(socket) {
  const events = on(socket, "message", { close: ["close"], signal: AbortSignal.timeout(PATIENCE_MS) });
  return async () => {
    const { value, done } = await named("a message", events.next());
    expect(!done, "closed while waiting for a message");
    const [payload, isBinary] = value;
    return isBinary ? { bytes: payload } : { text: payload.toString() };
  };
}

async function named(what, wait) {
  try {
    return await wait;
  } catch (error) {
    throw new Error(`while waiting for ${what}`, { cause: error });
  }
}

export function arrival(emitter, event) {
  return named(event, once(emitter, event, { signal: AbortSignal.timeout(PATIENCE_MS) }));
}

/** Random bytes from a seed (xorshift), so that a failure can be repeated. */
export function randomBytes(size, seed) {
  const bytes = Buffer.alloc(size);
  let state = seed;
  for (let at = 0; at < size; at += 1) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    bytes[at] = state;
  }
  return bytes;
}

function sent(socket, message) {
  return new Promise((resolve, reject) => socket.send(message, (error) => (error ? reject(error) : resolve())));
}

/** Sends `size` random bytes and their hash, and compares what comes back with the hash that comes with it. */
export async function exchange(socket, size, seed) {
  const received = new Promise((resolve, reject) => {
    const digest = createHash("sha1");
    let count = 0;
    socket.on("message", function take(payload, isBinary) {
      if (isBinary) {
        digest.update(payload);
        count += payload.length;
        return;
      }
      socket.off("message", take);
      resolve({ bytes: count, equal: digest.digest("hex") === payload.toString() });
    });
    socket.on("close", () => reject(new Error("closed in the middle of the stream")));
  });
  const block = randomBytes(BLOCK_BYTES, seed);
  const digest = createHash("sha1");
  for (let number = 0; number < size / BLOCK_BYTES; number += 1) {
    const message = Buffer.from(block);
    message.writeBigUInt64BE(BigInt(number));
    digest.update(message);
    await sent(socket, message);
  }
  await sent(socket, digest.digest("hex"));
  const result = await received;
  say("received", result);
  return result.equal && result.bytes === size;
}
