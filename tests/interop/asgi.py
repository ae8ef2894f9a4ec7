"""A store below /files/, as an ASGI application under uvicorn. Usage: asgi.py

Reports where it listens on stdout. Ends when its stdin ends.
"""

import asyncio
import sys

import uvicorn
from both import say

STORED = {}


async def body_of(receive):
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def store(scope, receive, send):
    assert scope["type"] == "http"
    path, status, content = scope["path"], 200, b""
    match scope["method"]:
        case "PUT":
            STORED[path] = await body_of(receive)
            status = 201
        case "DELETE":
            STORED.pop(path, None)
            status = 204
        case _ if path in STORED:
            content = STORED[path]
        case _:
            status = 404
    # A GET has no length here: uvicorn sends it in chunks.
    lengths = [] if status == 204 or scope["method"] == "GET" else [(b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": status, "headers": lengths})
    for at in range(0, len(content), 50_000):
        await send({"type": "http.response.body", "body": content[at : at + 50_000], "more_body": True})
    await send({"type": "http.response.body"})


class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        say("listening", port=self.servers[0].sockets[0].getsockname()[1])


async def main():
    config = uvicorn.Config(store, host="127.0.0.1", port=0, lifespan="off", log_level="warning", http="h11")
    server = Server(config)
    serving = asyncio.create_task(server.serve())
    await asyncio.to_thread(sys.stdin.read)
    server.should_exit = True
    await serving


asyncio.run(main())
