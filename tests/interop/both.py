"""What the Python application and the Python client have in common: reports to the test on stdout, and the random stream."""

import asyncio
import hashlib
import json
import random

# No wait in these programs is longer than this.
PATIENCE_S = 60
BLOCK_BYTES = 256 * 1024
REQUEST_FIELDS = [
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Version",
    "Sec-WebSocket-Protocol",
    "Sec-WebSocket-Extensions",
    "Authorization",
    "Cookie",
    "Origin",
    "X-User-Id",
]
RESPONSE_FIELDS = ["Sec-WebSocket-Accept", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "X-Application"]


def say(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)


def picked(headers, names):
    """The fields that must arrive as they were sent; repeated lines stay apart."""
    return {name.lower(): headers.get_all(name) for name in names if headers.get_all(name)}


def say_opened(socket, path):
    request = picked(socket.request.headers, REQUEST_FIELDS)
    response = picked(socket.response.headers, RESPONSE_FIELDS)
    say("opened", path=path, request=request, response=response)


async def exchange(socket, size, seed):
    """Sends `size` random bytes and their hash, and compares what comes back with the hash that comes with it."""
    async def send():
        block = bytearray(random.Random(seed).randbytes(BLOCK_BYTES))
        digest = hashlib.sha1()
        for number in range(size // BLOCK_BYTES):
            block[:8] = number.to_bytes(8, "big")
            digest.update(block)
            await socket.send(bytes(block))
        await socket.send(digest.hexdigest())

    async def receive():
        digest, count = hashlib.sha1(), 0
        async for message in socket:
            if isinstance(message, str):
                return count, digest.hexdigest() == message
            digest.update(message)
            count += len(message)
        return count, False

    _, (count, equal) = await asyncio.gather(send(), receive())
    say("received", bytes=count, equal=equal)
    return equal and count == size
