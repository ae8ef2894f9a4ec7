// Plain HTTP of the Node application: a store below /files/, and a page with assets that opens a WebSocket. Used by application.mjs.

import { createHash } from "node:crypto";
import { gzipSync } from "node:zlib";

import { say } from "./both.mjs";

const stored = new Map();

const PAGE = `<!doctype html>
<html><head><title>assets</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/assets/style.css">
<script src="/assets/script.js" defer></script>
</head><body><p id="status">loading</p><img id="image" src="/assets/image.png" alt=""><ul id="messages"></ul></body></html>
`;

const STYLE = `#status { color: rgb(1, 2, 3); }\n/* ${"padding ".repeat(20_000)} */\n`;

// Says what has arrived only when all of it has: the style is applied, the image has its size, the WebSocket echoes.
const SCRIPT = `
addEventListener("load", async () => {
  const status = document.getElementById("status");
  const color = getComputedStyle(status).color;
  const image = document.getElementById("image");
  const answer = await fetch("/files/from-the-page", { method: "PUT", body: "x".repeat(200000) });
  const back = await (await fetch("/files/from-the-page")).text();
  const socket = new WebSocket(location.origin.replace("http", "ws") + "/echo?page");
  const list = document.getElementById("messages");
  socket.onmessage = ({ data }) => {
    const item = document.createElement("li");
    item.textContent = data;
    list.append(item);
    status.textContent = [color, image.naturalWidth, answer.status, back.length].join(" ");
  };
  socket.onopen = () => socket.send("through the same door");
});
`;

// One black dot.
const IMAGE = Buffer.from(
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==",
  "base64",
);

// A page that does nothing by itself.
const BLANK = `<!doctype html>\n<html><head><title>blank</title><link rel="icon" href="data:,"></head><body>blank</body></html>\n`;

const ASSETS = {
  "/blank": ["text/html; charset=utf-8", BLANK],
  "/page": ["text/html; charset=utf-8", PAGE],
  "/assets/style.css": ["text/css", STYLE],
  "/assets/script.js": ["text/javascript", SCRIPT],
  "/assets/image.png": ["image/png", IMAGE],
};

function asset(request, response, [kind, content]) {
  const tag = `"${createHash("sha1").update(content).digest("hex")}"`;
  response.setHeader("Content-Type", kind);
  response.setHeader("ETag", tag);
  response.setHeader("Vary", "Accept-Encoding");
  if (request.headers["if-none-match"] === tag) {
    response.writeHead(304).end();
    return;
  }
  const packed = kind.startsWith("text/") && /\bgzip\b/.test(request.headers["accept-encoding"] ?? "");
  if (packed) response.setHeader("Content-Encoding", "gzip");
  // In pieces without a length: Node sends it in chunks.
  const bytes = packed ? gzipSync(content) : Buffer.from(content);
  response.write(bytes.subarray(0, 10));
  response.end(bytes.subarray(10));
}

function file(request, response, path) {
  if (request.method === "PUT") {
    const pieces = [];
    request.on("data", (piece) => pieces.push(piece));
    request.on("end", () => {
      stored.set(path, Buffer.concat(pieces));
      response.writeHead(201, { "Content-Length": 0 }).end();
    });
  } else if (!stored.has(path)) {
    response.writeHead(404, { "Content-Length": 0 }).end();
  } else if (request.method === "DELETE") {
    stored.delete(path);
    response.writeHead(204).end();
  } else {
    const content = stored.get(path);
    response.writeHead(200, { "Content-Length": content.length });
    response.end(request.method === "HEAD" ? undefined : content);
  }
}

export function web(request, response) {
  const path = new URL(request.url, "http://application").pathname;
  say("request", { path, method: request.method, host: request.headers.host, via: request.headers.via ?? null });
  if (path.startsWith("/files/")) file(request, response, path);
  else if (ASSETS[path]) asset(request, response, ASSETS[path]);
  else response.writeHead(404, { "Content-Length": 0 }).end();
}
