"""A client of the proxy, with `requests` or `httpx`, of a store below /files/. Usage: web_client.py LIBRARY URL

The last report is `done`. A difference from what is expected ends the program with a traceback.
"""

import random
import sys

from both import PATIENCE_S, say

LIBRARY, URL = sys.argv[1:]
SIZES = [0, 1, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 3_000_000]
SMALL_REQUESTS = 300

if LIBRARY == "requests":
    import requests

    class Session(requests.Session):
        def request(self, method, url, **options):
            return super().request(method, url, timeout=PATIENCE_S, **options)

        def put(self, url, content):
            return self.request("PUT", url, data=content)

    def open_session():
        session = Session()
        session.trust_env = False
        return session

    def downloaded(session, url):
        with session.get(url, stream=True) as answer:
            return b"".join(answer.iter_content(10_000))

else:
    import httpx

    def open_session():
        return httpx.Client(timeout=PATIENCE_S, trust_env=False)

    def downloaded(session, url):
        with session.stream("GET", url) as answer:
            return b"".join(answer.iter_bytes(10_000))


def pieces(content):
    for at in range(0, len(content), 40_000):
        yield content[at : at + 40_000]


def expect(answer, *statuses):
    assert answer.status_code in statuses, (answer.request.method, answer.url, answer.status_code)
    return answer


source = random.Random(7)
with open_session() as session:
    for size in SIZES:
        url = f"{URL}/files/{LIBRARY}-{size}"
        content = source.randbytes(size)
        expect(session.get(url), 404)
        expect(session.put(url, content=content), 200, 201, 204)
        assert expect(session.get(url), 200).content == content, size
        assert downloaded(session, url) == content, size
        assert expect(session.head(url), 200).headers["content-length"] == str(size)
        content = content[::-1] + b"!"
        # A generator has no length: it is sent in chunks.
        expect(session.put(url, content=pieces(content)), 200, 201, 204)
        assert expect(session.get(url), 200).content == content, size
        expect(session.delete(url), 200, 204)
        expect(session.get(url), 404)
    url = f"{URL}/files/{LIBRARY}-small"
    expect(session.put(url, content=b"small"), 200, 201, 204)
    for number in range(SMALL_REQUESTS):
        assert expect(session.get(url), 200).content == b"small", number
say("done")
