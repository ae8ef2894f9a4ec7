// A client of the proxy, with the Node library `ws`. Usage: client.mjs URL SCRIPT BYTES, SCRIPT one of conversation, bulk, by_hand.
//
// Every session is reported on stdout, the last report is `done`. A difference from what is expected ends the program with a stack trace.

import { WebSocket, arrival, exchange, expect, inbox, randomBytes, say, sayOpened } from "./both.mjs";

const [, , URL_OF_PROXY, SCRIPT, BYTES] = process.argv;
const CLOSES = [
  [1000, ""],
  [1001, "going away"],
  [1008, "against the rules: ünïcödé"],
  [1011, "fault"],
  [1012, "restart"],
  [3000, "registered"],
  [4999, "x".repeat(123)],
];
const SMALL_MESSAGES = 10_000;

/** For each socket the fields of its request as they went out, name, value, name, value; the library does not keep them. */
const sentFields = new WeakMap();

function finishRequest(request, socket) {
  sentFields.set(socket, Object.entries(request.getHeaders()).flat());
  request.end();
}

/** Opens a session. `next` reads its messages one by one, unless `streams` says that they are too many to be kept. */
async function session(path, { streams = false, ...options } = {}) {
  const socket = new WebSocket(URL_OF_PROXY + path, ["chat.v1", "chat.v2"], {
    headers: { Authorization: "Bearer a.b-c", Cookie: "one=1; two=2" },
    origin: "http://other.test",
    maxPayload: 0,
    finishRequest,
    ...options,
  });
  const next = streams ? null : inbox(socket);
  const closed = arrival(socket, "close");
  const pings = [];
  socket.on("ping", (payload) => pings.push(payload));
  let response;
  socket.once("upgrade", (answer) => (response = answer));
  await arrival(socket, "open");
  return { socket, next, closed, pings, response, sent: sentFields.get(socket) };
}

async function finish({ socket, closed }, ...status) {
  socket.close(...status);
  const [code, reason] = await closed;
  return [code, reason.toString()];
}

async function echo() {
  const opened = await session("/echo?n=1");
  sayOpened("/echo?n=1", opened.sent, opened.response.rawHeaders);
  expect(opened.socket.protocol === "chat.v2", `subprotocol ${opened.socket.protocol}`);
  for (const text of ["", "hello", "ünïcödé ✓", "x".repeat(70_000)]) {
    opened.socket.send(text);
    expect((await opened.next()).text === text, "a text changed");
  }
  for (const size of [0, 1, 125, 126, 65_535, 65_536, 1_048_576]) {
    const bytes = randomBytes(size, 1);
    opened.socket.send(bytes);
    expect((await opened.next()).bytes?.equals(bytes), "bytes changed");
  }
  const pong = arrival(opened.socket, "pong");
  opened.socket.ping("from the client");
  expect((await pong)[0].toString() === "from the client", "another pong");
  await finish(opened, 1000, "done");
}

async function compressible() {
  const opened = await session("/compressible", { perMessageDeflate: { threshold: 0 } });
  sayOpened("/compressible", opened.sent, opened.response.rawHeaders);
  opened.socket.send(Buffer.alloc(1_048_576));
  expect((await opened.next()).bytes.equals(Buffer.alloc(1_048_576)), "zeros changed");
  await finish(opened, 1000, "");
}

async function small() {
  const opened = await session("/echo?n=small");
  for (let number = 0; number < SMALL_MESSAGES; number += 1) opened.socket.send(`${number}`);
  for (let number = 0; number < SMALL_MESSAGES; number += 1) {
    expect((await opened.next()).text === `${number}`, "out of order");
  }
  await finish(opened, 1000, "");
}

async function closes() {
  for (const [code, reason] of CLOSES) {
    const path = `/echo?code=${code}&reason=${encodeURIComponent(reason)}`;
    const seen = await finish(await session(path), code, reason);
    expect(seen[0] === code && seen[1] === reason, `sent ${code} ${reason}, answered ${seen}`);
    say("closed", { path, code, reason });

    const told = await session(`/close?code=${code}&reason=${encodeURIComponent(reason)}`);
    told.socket.send("now");
    const [toldCode, toldReason] = await told.closed;
    expect(toldCode === code && toldReason.toString() === reason, `expected ${code} ${reason}, got ${toldCode} ${toldReason}`);
  }
  // A close frame without a status is 1005 to the one who receives it.
  await finish(await session("/echo?code=none"));
  say("closed", { path: "/echo?code=none", code: 1005, reason: "" });
}

async function ping() {
  const opened = await session("/ping");
  let answer;
  // The first answer comes after the ping, so the pong is on its way before the second question.
  for (let question = 0; question < 2; question += 1) {
    opened.socket.send("?");
    answer = (await opened.next()).text;
  }
  expect(answer === "answered", answer);
  await finish(opened, 1000, "");
}

async function both(size) {
  const opened = await session(`/both?bytes=${size}`, { perMessageDeflate: false, streams: true });
  const verdict = new Promise((resolve) => {
    opened.socket.on("message", (payload, isBinary) => isBinary || payload.toString() !== "equal" || resolve());
  });
  expect(await exchange(opened.socket, size, 1), "the streams differ");
  await Promise.race([verdict, opened.closed.then(() => expect(false, "the application saw another stream"))]);
  await finish(opened, 1000, "");
}

async function abrupt() {
  const opened = await session("/echo?n=abrupt");
  opened.socket.send("x");
  await opened.next();
  opened.socket.terminate();
  await opened.closed;
}

/** Neither side of the proxy answers a ping before it is told to; nobody else may do it for them. */
async function byHand() {
  const client = await session("/silent");
  let pongs = 0;
  client.socket.on("pong", () => (pongs += 1));
  client.socket.ping("from the client");
  client.socket.send("after the ping");
  expect((await client.next()).text === "after the ping", "echo");
  expect(pongs === 0, "somebody else answered the client's ping");
  const pong = arrival(client.socket, "pong");
  client.socket.send("now");
  expect((await pong)[0].toString() === "from the client", "another pong");
  await finish(client, 1000, "");

  const application = await session("/ping", { autoPong: false });
  for (let question = 0; question < 2; question += 1) {
    application.socket.send("?");
    expect((await application.next()).text === "open", "somebody else answered the application's ping");
  }
  application.socket.pong(application.pings[0]);
  application.socket.send("?");
  expect((await application.next()).text === "answered", "the pong did not arrive");
  await finish(application, 1000, "");
}

async function conversation(size) {
  await echo();
  await compressible();
  await small();
  await closes();
  await ping();
  await both(size);
  await abrupt();
}

await { conversation, bulk: both, by_hand: byHand }[SCRIPT](Number(BYTES));
say("done");
process.exit(0);
