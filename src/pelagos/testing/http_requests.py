"""HTTP requests as the fault proxy sees them: read from a stream, shown as values, and matched.

Only what HTTP/1.1 clients of cloud APIs do is understood: bodies by ``Content-Length`` or in chunks, ``Expect:
100-continue``, and upgrades, which the proxy passes on as they are. The replies are not parsed but for their heads.
"""

from __future__ import annotations

import asyncio
import functools
import json
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

__all__ = ["Head", "Match", "ProxiedRequest", "read_head", "read_request", "request_where"]

LINE_LIMIT = 1 << 20


class Head(msgspec.Struct):
    """A start line and header lines; names keep their spelling."""

    start: str
    lines: list[tuple[str, str]]

    def get(self, name: str, default: str = "") -> str:
        """The first header of that name, in any case."""
        return next((value for key, value in self.lines if key.lower() == name.lower()), default)

    def put(self, name: str, value: str | None) -> None:
        """Replace all headers of that name by one, or by none."""
        self.lines = [(key, old) for key, old in self.lines if key.lower() != name.lower()]
        if value is not None:
            self.lines.append((name, value))

    def encode(self) -> bytes:
        """As it goes over the wire, with the empty line."""
        return "\r\n".join([self.start, *(f"{key}: {value}" for key, value in self.lines), "", ""]).encode("latin-1")

    @property
    def status(self) -> int:
        """Of a reply's start line; 0 if it has none."""
        parts = self.start.split(" ", 2)
        return int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 0


class ProxiedRequest(msgspec.Struct, dict=True):
    """A request that reached the proxy. ``status`` and ``fault`` are filled in as its life goes on."""

    number: int
    """From 1, in the order of arrival."""
    method: str
    path: str
    """Decoded, without the query."""
    query: dict[str, str]
    """The last value of each name."""
    headers: dict[str, str]
    """By lower-case name."""
    body: bytes
    fault: str = ""
    """What was done to it; empty: nothing."""
    status: int = 0
    """Of the provider's reply, whether or not the client got it; 0: it was not asked, or gave none."""

    @functools.cached_property
    def form(self) -> dict[str, str]:
        """The parameters of a call: the query and, over it, a form-encoded body. EC2 has ``Action`` here."""
        fields = dict(self.query)
        if self.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            fields.update(parse_qsl(self.body.decode("utf-8", "replace"), keep_blank_values=True))
        return fields

    @functools.cached_property
    def json(self) -> Any:
        """The body as JSON; None if it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @property
    def action(self) -> str:
        """``Action`` of the query protocol that EC2 and its kin speak; empty without one."""
        return self.form.get("Action", "")

    def __str__(self) -> str:
        what = f"{self.method} {self.path}" + (f" {self.action}" if self.action else "")
        return f"{what} -> {self.status or self.fault or 'nothing'}"


Match = Callable[[ProxiedRequest], bool]
"""Whether a request is meant."""


def request_where(
    *,
    method: str | None = None,
    path: str | None = None,
    action: str | None = None,
    form: Mapping[str, str] | None = None,
    body: str | bytes | None = None,
    that: Match | None = None,
) -> Match:
    """A predicate of requests: all that is given must hold.

    ``path`` is a regular expression that must match somewhere in the path, ``action`` the EC2 action, ``form``
    parameters with these values, ``body`` a part of the body, ``that`` any condition more."""
    pattern = None if path is None else re.compile(path)
    part = body.encode() if isinstance(body, str) else body

    def holds(request: ProxiedRequest) -> bool:
        return (
            (method is None or request.method == method.upper())
            and (pattern is None or pattern.search(request.path) is not None)
            and (action is None or request.action == action)
            and all(request.form.get(name) == value for name, value in (form or {}).items())
            and (part is None or part in request.body)
            and (that is None or that(request))
        )

    return holds


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """The next head; None at the end of the stream. Raises ValueError for what is no HTTP."""
    start = await _line(reader)
    while start == "":
        start = await _line(reader)
    if start is None:
        return None
    lines = []
    while line := await _line(reader):
        name, colon, value = line.partition(":")
        if not colon:
            raise ValueError(f"no header: {line!r}")
        lines.append((name.strip(), value.strip()))
    return Head(start, lines)


async def read_request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
) -> tuple[Head, ProxiedRequest] | None:
    """The next request with its whole body; None when the client has none more. Raises ValueError for no HTTP."""
    head = await read_head(reader)
    if head is None:
        return None
    parts = head.start.split(" ")
    if len(parts) != 3:
        raise ValueError(f"no request: {head.start!r}")
    if head.get("expect").lower() == "100-continue":
        head.put("Expect", None)
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
    body = await _body(reader, head)
    url = urlsplit(parts[1])
    request = ProxiedRequest(
        number=number,
        method=parts[0].upper(),
        path=unquote(url.path),
        query=dict(parse_qsl(url.query, keep_blank_values=True)),
        headers={name.lower(): value for name, value in head.lines},
        body=body,
    )
    return head, request


async def _line(reader: asyncio.StreamReader) -> str | None:
    data = await reader.readline()
    return data.decode("latin-1").rstrip("\r\n") if data else None


async def _body(reader: asyncio.StreamReader, head: Head) -> bytes:
    """The body, decoded from chunks; the head then says its length."""
    if "chunked" not in head.get("transfer-encoding").lower():
        length = head.get("content-length")
        return await reader.readexactly(int(length)) if length else b""
    chunks = []
    while True:
        size = int((await _line(reader) or "").partition(";")[0], 16)
        if not size:
            break
        chunks.append(await reader.readexactly(size))
        await _line(reader)
    while await _line(reader):
        continue  # trailers
    body = b"".join(chunks)
    head.put("Transfer-Encoding", None)
    head.put("Content-Length", str(len(body)))
    return body
