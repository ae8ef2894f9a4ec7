// Body of an asynchronous function that WebDriver runs in a page: a client of the proxy, with the WebSocket of the browser.
// arguments: URL of the proxy, bytes of the stream. Returns what the sessions negotiated and how they were closed.

const [url, streamBytes] = arguments;
const BLOCK_BYTES = 64 * 1024;
const SMALL_MESSAGES = 10000;
const report = { opened: [], closed: [] };

function expect(condition, what) {
  if (!condition) throw new Error(what);
}

/** Opens a session; `next` reads its messages one by one, `closed` resolves with code and reason. */
function session(path) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url + path, ["chat.v1", "chat.v2"]);
    socket.binaryType = "arraybuffer";
    const arrived = [];
    const waiting = [];
    socket.onmessage = ({ data }) => (waiting.length ? waiting.shift()(data) : arrived.push(data));
    const next = () => (arrived.length ? Promise.resolve(arrived.shift()) : new Promise((go) => waiting.push(go)));
    const closed = new Promise((go) => (socket.onclose = ({ code, reason }) => go([code, reason])));
    closed.then(() => reject(new Error(`${path} did not open`)));
    socket.onopen = () => {
      report.opened.push({ path, protocol: socket.protocol, extensions: socket.extensions });
      resolve({ socket, next, closed });
    };
  });
}

function equal(buffer, bytes) {
  const back = new Uint8Array(buffer);
  return back.length === bytes.length && back.every((byte, at) => byte === bytes[at]);
}

function randomBytes(size) {
  const bytes = new Uint8Array(size);
  for (let at = 0; at < size; at += BLOCK_BYTES) crypto.getRandomValues(bytes.subarray(at, at + BLOCK_BYTES));
  return bytes;
}

async function sha1(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-1", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function echo() {
  const { socket, next, closed } = await session("/echo?n=1");
  for (const text of ["", "hello", "ünïcödé ✓", "x".repeat(70000)]) {
    socket.send(text);
    expect((await next()) === text, "a text changed");
  }
  for (const size of [0, 1, 125, 126, 65535, 65536]) {
    const bytes = randomBytes(size);
    socket.send(bytes);
    expect(equal(await next(), bytes), `${size} bytes changed`);
  }
  socket.close(1000, "done");
  await closed;
}

async function compressible() {
  const { socket, next, closed } = await session("/compressible");
  socket.send(new Uint8Array(1048576));
  expect((await next()).byteLength === 1048576, "zeros changed");
  socket.close(1000);
  await closed;
}

async function small() {
  const { socket, next, closed } = await session("/echo?n=small");
  for (let number = 0; number < SMALL_MESSAGES; number += 1) socket.send(`${number}`);
  for (let number = 0; number < SMALL_MESSAGES; number += 1) expect((await next()) === `${number}`, "out of order");
  socket.close(1000);
  await closed;
}

async function closes() {
  for (const [code, reason] of [[1000, ""], [3000, "registered"], [4999, "ünïcödé"]]) {
    const path = `/echo?code=${code}&reason=${encodeURIComponent(reason)}`;
    const own = await session(path);
    own.socket.close(code, reason);
    const answer = await own.closed;
    expect(answer[0] === code && answer[1] === reason, `sent ${code} ${reason}, answered ${answer}`);
    report.closed.push({ path, code, reason });
  }
  for (const [code, reason] of [[1000, ""], [1001, "going away"], [1008, "ünïcödé"], [1011, "fault"], [4999, "x".repeat(123)]]) {
    const told = await session(`/close?code=${code}&reason=${encodeURIComponent(reason)}`);
    told.socket.send("now");
    const seen = await told.closed;
    expect(seen[0] === code && seen[1] === reason, `expected ${code} ${reason}, got ${seen}`);
  }
}

async function ping() {
  const { socket, next, closed } = await session("/ping");
  let answer;
  for (let question = 0; question < 2; question += 1) {
    socket.send("?");
    answer = await next();
  }
  expect(answer === "answered", answer);
  socket.close(1000);
  await closed;
}

async function both() {
  const { socket, next, closed } = await session(`/both?bytes=${streamBytes}`);
  const sent = randomBytes(streamBytes);
  for (let at = 0; at < streamBytes; at += BLOCK_BYTES) socket.send(sent.subarray(at, at + BLOCK_BYTES));
  socket.send(await sha1(sent));
  const received = new Uint8Array(streamBytes);
  let filled = 0;
  for (;;) {
    const message = await next();
    if (typeof message === "string") {
      expect(filled === streamBytes && message === (await sha1(received)), "the streams differ");
      break;
    }
    received.set(new Uint8Array(message), filled);
    filled += message.byteLength;
  }
  expect((await next()) === "equal", "the application saw another stream");
  socket.close(1000);
  await closed;
}

for (const step of [echo, compressible, small, closes, ping, both]) await step();
return report;
