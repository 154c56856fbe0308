"""Exit code 0 if an HTTP endpoint answers: ``http://host:port/path``, or a Docker engine at ``unix:///path``."""

import contextlib
import socket
import sys
from urllib.parse import urlsplit


def answers(url: str) -> bool:
    """Whether it sends the beginning of an HTTP reply within two seconds."""
    parts = urlsplit(url)
    unix = parts.scheme == "unix"
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX if unix else socket.AF_INET) as sock:
        sock.settimeout(2.0)
        sock.connect(parts.path if unix else (parts.hostname, parts.port))
        path = "/_ping" if unix else parts.path
        sock.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        return sock.recv(12).startswith(b"HTTP/")
    return False


sys.exit(not answers(sys.argv[1]))
