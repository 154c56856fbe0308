"""A key-value store with lists: POST /lists/NAME appends a line, GET /lists/NAME reads them all as JSON.

Usage: store.py PORT. It listens on the instance's own address alone.
"""

import json
import os
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LISTS: dict[str, list[str]] = {}
LOCK = threading.Lock()
MAX_LINE = 4096
HOST = os.environ.get("PELAGOS_ADDRESS") or socket.gethostname()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        with LOCK:
            self._answer(200, LISTS.get(self.path, []))

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        if length > MAX_LINE:
            self._answer(413, {"error": "too long"})
            return
        line = self.rfile.read(length).decode(errors="replace")
        with LOCK:
            LISTS.setdefault(self.path, []).append(line)
        self._answer(201, {"stored": True})


class Server(ThreadingHTTPServer):
    request_queue_size = 128


Server((HOST, int(sys.argv[1])), Handler).serve_forever()
