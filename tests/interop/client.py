"""A client of the proxy, with the Python library `websockets`. Usage: client.py URL SCRIPT BYTES, SCRIPT one of conversation, bulk.

Every session is reported on stdout, the last report is `done`. A difference from what is expected ends the program with a traceback.
"""

import asyncio
import random
import sys
from urllib.parse import quote

from both import PATIENCE_S, exchange, say, say_opened
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

URL = sys.argv[1]
CLOSES = [
    (1000, ""),
    (1001, "going away"),
    (1008, "against the rules: ünïcödé"),
    (1011, "fault"),
    (1012, "restart"),
    (3000, "registered"),
    (4999, "x" * 123),
]
SMALL_MESSAGES = 10_000


def session(path, **options):
    return connect(
        URL + path,
        proxy=None,
        max_size=None,
        ping_interval=None,
        additional_headers={"Authorization": "Bearer a.b-c", "Cookie": "one=1; two=2"},
        origin="http://other.test",
        subprotocols=["chat.v1", "chat.v2"],
        **options,
    )


def messages():
    yield from ["", "hello", "ünïcödé ✓", "x" * 70_000]
    source = random.Random(1)
    for size in [0, 1, 125, 126, 65_535, 65_536, 1_048_576]:
        yield source.randbytes(size)


async def echo():
    async with session("/echo?n=1") as socket:
        say_opened(socket, "/echo?n=1")
        assert socket.subprotocol == "chat.v2", socket.subprotocol
        for message in messages():
            await socket.send(message)
            assert await socket.recv() == message, "a message changed"
        pong = await socket.ping(b"from the client")
        await pong
        await socket.close(1000, "done")


async def compressible():
    async with session("/compressible") as socket:
        say_opened(socket, "/compressible")
        await socket.send(bytes(1_048_576))
        assert await socket.recv() == bytes(1_048_576)


async def small():
    async with session("/echo?n=small") as socket:

        async def send():
            for number in range(SMALL_MESSAGES):
                await socket.send(f"{number}")

        async def receive():
            for number in range(SMALL_MESSAGES):
                assert await socket.recv() == f"{number}", "out of order"

        await asyncio.gather(send(), receive())


async def closes():
    for code, reason in CLOSES:
        path = f"/echo?code={code}&reason={quote(reason)}"
        async with session(path) as socket:
            await socket.close(code, reason)
        say("closed", path=path, code=code, reason=reason)
        path = f"/close?code={code}&reason={quote(reason)}"
        async with session(path) as socket:
            await socket.send("now")
            try:
                await socket.recv()
                raise AssertionError("not closed")
            except ConnectionClosed:
                pass
            assert (socket.close_code, socket.close_reason) == (code, reason), (socket.close_code, socket.close_reason)


async def ping():
    async with session("/ping") as socket:
        # The first answer comes after the ping, so the pong is on its way before the second question.
        for _ in range(2):
            await socket.send("?")
            answer = await socket.recv()
        assert answer == "answered", answer


async def both(size):
    async with session(f"/both?bytes={size}", compression=None) as socket:
        assert await exchange(socket, size, seed=1), "the streams differ"
        assert await socket.recv() == "equal"


async def abrupt():
    async with session("/echo?n=abrupt") as socket:
        await socket.send("x")
        await socket.recv()
        socket.transport.abort()


async def conversation(size):
    await echo()
    await compressible()
    await small()
    await closes()
    await ping()
    await both(size)
    await abrupt()


async def main():
    async with asyncio.timeout(PATIENCE_S):
        await {"conversation": conversation, "bulk": both}[sys.argv[2]](int(sys.argv[3]))
    say("done")


asyncio.run(main())
