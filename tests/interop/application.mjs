// The application behind the proxy, with `http` and the library `ws` of Node. Usage: application.mjs [UNIX_SOCKET]
//
// The path of the request says what a session does; every session is reported on stdout. Ends when its stdin ends.

import { createServer } from "node:http";

import { WebSocketServer, exchange, say, sayOpened } from "./both.mjs";
import { web } from "./web.mjs";

function echo(socket) {
  socket.on("message", (payload, isBinary) => socket.send(payload, { binary: isBinary }));
}

const rooms = {
  "/echo": echo,
  "/compressible": echo,

  "/close": (socket, query) => {
    const code = query.get("code");
    const status = code === "none" ? [] : [Number(code), query.get("reason") ?? ""];
    socket.once("message", () => socket.close(...status));
  },

  // Sends a ping, and says to every message whether it has been answered.
  "/ping": (socket) => {
    let answer = "open";
    socket.on("pong", (payload) => {
      if (payload.toString() === "from the application") answer = "answered";
    });
    socket.on("message", () => socket.send(answer));
    socket.ping("from the application");
  },

  // Echoes, but answers a ping only after the message "now".
  "/silent": (socket) => {
    const pings = [];
    socket.on("ping", (payload) => pings.push(payload));
    socket.on("message", (payload) => {
      if (payload.toString() === "now") for (const ping of pings.splice(0)) socket.pong(ping);
      else socket.send(payload.toString());
    });
  },

  "/both": async (socket, query) => {
    if (await exchange(socket, Number(query.get("bytes")), 2)) socket.send("equal");
  },
};

function accept(socket, request) {
  const path = request.url;
  const { pathname, searchParams } = new URL(path, "http://application");
  sayOpened(path, request.rawHeaders, request.answered);
  socket.on("close", (code, reason) => say("closed", { path, code, reason: reason.toString() }));
  socket.on("error", () => {}); // the close that follows is reported
  rooms[pathname](socket, searchParams);
}

const http = createServer(web);
const options = {
  noServer: true,
  perMessageDeflate: { threshold: 0 },
  maxPayload: 0,
  handleProtocols: (offered) => (offered.has("chat.v2") ? "chat.v2" : false),
};
const usual = new WebSocketServer(options);
const silent = new WebSocketServer({ ...options, autoPong: false });
for (const server of [usual, silent]) {
  server.on("headers", (lines, request) => {
    lines.push("X-Application: node");
    // As `rawHeaders`: name, value, name, value.
    request.answered = lines.slice(1).flatMap((line) => [line.slice(0, line.indexOf(": ")), line.slice(line.indexOf(": ") + 2)]);
  });
}
http.on("upgrade", (request, stream, head) => {
  const server = request.url.startsWith("/silent") ? silent : usual;
  server.handleUpgrade(request, stream, head, accept);
});
http.on("connection", () => say("connection"));
const where = process.argv[2] ? [process.argv[2]] : [0, "127.0.0.1"];
http.listen(...where, () => say("listening", { port: http.address().port ?? null }));
process.stdin.resume().on("end", () => process.exit(0));
