"""The application behind the proxy, with the Python library `websockets`. Usage: application.py [UNIX_SOCKET]

The path of the request says what a session does; every session is reported on stdout. Ends when its stdin ends.
"""

import asyncio
import sys
from urllib.parse import parse_qs, urlsplit

from both import exchange, say, say_opened
from websockets.asyncio.server import ServerConnection, serve, unix_serve
from websockets.exceptions import ConnectionClosed


async def echo(socket, _query):
    async for message in socket:
        await socket.send(message)


async def close(socket, query):
    await socket.recv()
    await socket.close(int(query["code"][0]), query.get("reason", [""])[0])


async def ping(socket, _query):
    """Sends a ping, and says to every message whether it has been answered."""
    answered = await socket.ping(b"from the application")
    async for _ in socket:
        await socket.send("answered" if answered.done() else "open")


async def both(socket, query):
    if await exchange(socket, int(query["bytes"][0]), seed=2):
        await socket.send("equal")


ROOMS = {"/echo": echo, "/compressible": echo, "/close": close, "/ping": ping, "/both": both}


async def session(socket):
    path = socket.request.path
    say_opened(socket, path)
    parts = urlsplit(path)
    try:
        await ROOMS[parts.path](socket, parse_qs(parts.query))
    except ConnectionClosed:
        pass
    await socket.wait_closed()
    say("closed", path=path, code=socket.close_code, reason=socket.close_reason)


class ReportedConnection(ServerConnection):
    """Says that somebody has connected, before anything is read."""

    def connection_made(self, transport):
        say("connection")
        super().connection_made(transport)


def choose(_socket, offered):
    return "chat.v2" if "chat.v2" in offered else None


def add_field(_socket, _request, response):
    response.headers["X-Application"] = "python"


async def main():
    options = {
        "select_subprotocol": choose,
        "process_response": add_field,
        "create_connection": ReportedConnection,
        "max_size": None,
        "ping_interval": None,
    }
    if len(sys.argv) > 1:
        server = await unix_serve(session, sys.argv[1], **options)
        say("listening", port=None)
    else:
        server = await serve(session, "127.0.0.1", 0, **options)
        say("listening", port=server.sockets[0].getsockname()[1])
    await asyncio.to_thread(sys.stdin.read)
    server.close()
    await server.wait_closed()


asyncio.run(main())
