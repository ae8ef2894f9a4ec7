"""A store below /files/, as an application of the standard library's `http.server`. Usage: store.py

Reports where it listens on stdout. Ends when its stdin ends.
"""

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from both import say

STORED = {}


class Store(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body are two writes.
    disable_nagle_algorithm = True

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            assert self.rfile.readline() == b"\r\n"
        while self.rfile.readline() != b"\r\n":
            pass
        return b"".join(pieces)

    def answer(self, status, content=b"", length=True):
        self.send_response(status)
        if length:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_PUT(self):
        STORED[self.path] = self.body()
        self.answer(201)

    def do_GET(self):
        if self.path in STORED:
            self.answer(200, STORED[self.path])
        else:
            self.answer(404)

    do_HEAD = do_GET

    def do_DELETE(self):
        STORED.pop(self.path, None)
        self.answer(204, length=False)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
threading.Thread(target=server.serve_forever, daemon=True).start()
say("listening", port=server.server_address[1])
sys.stdin.read()
