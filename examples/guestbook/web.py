"""The guestbook's pages: GET / shows the entries, POST / adds one. Entries live in the store, not here.

Usage: web.py PORT STORE_ADDRESS STORE_PORT TITLE
"""

import html
import json
import os
import socket
import sys
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOST = os.environ.get("PELAGOS_ADDRESS") or socket.gethostname()
PORT, STORE, TITLE = int(sys.argv[1]), f"http://{sys.argv[2]}:{sys.argv[3]}/lists/entries", sys.argv[4]
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>
<body><h1>{title}</h1><form method="post"><input name="entry" maxlength="200" required autofocus>
<button>Sign</button></form><ul>{entries}</ul><p><small>served by {host}</small></p></body></html>
"""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.path == "/health":
            self._answer(200, b"ok")
            return
        try:
            with urllib.request.urlopen(STORE, timeout=5) as answer:
                entries = json.load(answer)
        except OSError as error:
            self._answer(503, f"the store does not answer: {error}".encode())
            return
        items = "".join(f"<li>{html.escape(entry)}</li>" for entry in reversed(entries))
        page = PAGE.format(title=html.escape(TITLE), entries=items, host=html.escape(socket.gethostname()))
        self._answer(200, page.encode())

    def do_POST(self) -> None:
        length = min(int(self.headers.get("Content-Length", "0")), 4096)
        form = urllib.parse.parse_qs(self.rfile.read(length).decode(errors="replace"))
        entry = form.get("entry", [""])[0].strip()[:200]
        if entry:
            try:
                urllib.request.urlopen(urllib.request.Request(STORE, data=entry.encode(), method="POST"), timeout=5)
            except OSError as error:
                self._answer(503, f"the store does not answer: {error}".encode())
                return
        self._answer(303, b"", Location="/")


class Server(ThreadingHTTPServer):
    request_queue_size = 128


Server((HOST, PORT), Handler).serve_forever()
