"""A load balancer: hands each request to the next web server that answers.

Usage: lb.py PORT NAME WEB_PORT ADDRESS... The web servers are all addresses that NAME has in /etc/hosts, read anew for
each request, so that servers that come and go are noticed; the ADDRESSes where the instance has no such file.
"""

import http.client
import itertools
import os
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, NAME, WEB_PORT = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
HOST = os.environ.get("PELAGOS_ADDRESS") or socket.gethostname()
KNOWN = sys.argv[4:]
TURN = itertools.count()
PASSED = ("content-type", "location")


def backends() -> list[str]:
    with open("/etc/hosts", encoding="utf-8") as hosts:
        rows = [line.split("#")[0].split() for line in hosts]
    return [row[0] for row in rows if NAME in row[1:]] or KNOWN


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _relay(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        found = backends()
        start = next(TURN)
        for index in range(len(found)):
            address = found[(start + index) % len(found)]
            connection = http.client.HTTPConnection(address, WEB_PORT, timeout=5)
            try:
                connection.request(
                    self.command, self.path, body, {"Content-Type": self.headers.get("Content-Type", "")}
                )
                answer = connection.getresponse()
                content = answer.read()
            except OSError:
                continue
            finally:
                connection.close()
            self.send_response(answer.status)
            for name in PASSED:
                if answer.getheader(name):
                    self.send_header(name, answer.getheader(name, ""))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)
            return
        message = b"no web server answers"
        self.send_response(503)
        self.send_header("Content-Length", str(len(message)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(message)

    do_GET = do_HEAD = do_POST = _relay


class Server(ThreadingHTTPServer):
    request_queue_size = 128


Server((HOST, PORT), Handler).serve_forever()
