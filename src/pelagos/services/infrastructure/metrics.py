"""Metrics: one number of an instance or of a node, asked for over HTTP or by a command inside the instance.

A number that cannot be had is :class:`MetricUnavailable`, never a zero: what is not known must not take instances away.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from pelagos.clouds.values import CommandResult
from pelagos.model.errors import PelagosError
from pelagos.services.infrastructure.policies import MetricSource

__all__ = ["MetricReader", "MetricUnavailable", "NetworkMetrics", "json_number", "prometheus_number"]

_MOST_BYTES = 4 * 1024 * 1024
_CPU = ("cat", "/proc/stat")
_PART = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
_SAMPLE = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+\S+)?\s*\Z")
_LABEL = re.compile(r'\s*([A-Za-z_][A-Za-z0-9_]*)\s*=\s*"((?:\\.|[^"\\])*)"\s*(?:,|\Z)')
_ESCAPES = {r"\\": "\\", r"\"": '"', r"\n": "\n"}

Execute = Callable[[str, tuple[str, ...], float], Awaitable[CommandResult]]


class MetricUnavailable(Exception):
    """There is no number now; the text says why."""


class MetricReader(Protocol):
    """Who measures; the simulation has its own."""

    async def read(self, source: MetricSource, server_id: str) -> float:
        """The number now; a counter's as it stands, ``cpu`` as (busy, all) jiffies by :meth:`read_pair`. ``source`` is
        rendered; ``server_id`` is the instance's, empty for a node's. Raises MetricUnavailable."""
        ...

    async def read_pair(self, source: MetricSource, server_id: str) -> tuple[float, float]:
        """Two counters whose growths' ratio is the number: of ``cpu`` busy and all time. Raises MetricUnavailable."""
        ...


class NetworkMetrics:
    """Over the real network. ``execute`` goes to the compute service."""

    def __init__(self, execute: Execute) -> None:
        self._execute = execute
        self._client: Any = None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def read(self, source: MetricSource, server_id: str) -> float:
        match source.type:
            case "http":
                return json_number(await self._get(source.url, {}, source.timeout), source.path)
            case "prometheus" if source.query:
                url = f"{source.url.rstrip('/')}/api/v1/query"
                return _query_result(await self._get(url, {"query": source.query}, source.timeout))
            case "prometheus":
                body = await self._get(source.url, {}, source.timeout)
                return prometheus_number(body.decode(errors="replace"), source.name, source.labels)
            case "command":
                text = await self._run(source.command, server_id, source.timeout)
                return _finite(text.strip().splitlines()[-1] if text.strip() else "")
            case _:
                raise MetricUnavailable(f"a metric of type {source.type} is no single number")

    async def read_pair(self, source: MetricSource, server_id: str) -> tuple[float, float]:
        text = await self._run(_CPU, server_id, source.timeout)
        fields = next((line.split()[1:] for line in text.splitlines() if line.startswith("cpu ")), [])
        if len(fields) < 4:
            raise MetricUnavailable("/proc/stat has no line of all processors")
        times = [_finite(field) for field in fields[:8]]
        idle = times[3] + (times[4] if len(times) > 4 else 0.0)
        return sum(times) - idle, sum(times)

    async def _get(self, url: str, params: dict[str, str], timeout: float) -> bytes:
        import httpx2  # a third of a second's import that most programs do without

        if self._client is None:
            self._client = httpx2.AsyncClient(follow_redirects=True, trust_env=False, verify=True)
        try:
            async with self._client.stream("GET", url, params=params or None, timeout=timeout) as response:
                if response.status_code != 200:
                    raise MetricUnavailable(f"HTTP {response.status_code}")
                body = bytearray()
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > _MOST_BYTES:
                        raise MetricUnavailable(f"the answer is longer than {_MOST_BYTES} bytes")
                return bytes(body)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise MetricUnavailable(str(error) or type(error).__name__) from error

    async def _run(self, argv: tuple[str, ...], server_id: str, timeout: float) -> str:
        try:
            result = await self._execute(server_id, argv, timeout)
        except PelagosError as error:
            raise MetricUnavailable(error.message) from error
        if result.exit_code != 0:
            raise MetricUnavailable(f"exit code {result.exit_code}")
        return result.output


def json_number(body: bytes, path: str) -> float:
    """The number at ``path`` of a JSON document: ``queue.length``, ``items[0].load``. Raises MetricUnavailable."""
    try:
        value: Any = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise MetricUnavailable(f"no JSON document: {error}") from error
    for key, index in _PART.findall(path):
        try:
            value = value[int(index)] if index else value[key]
        except (KeyError, IndexError, TypeError):
            raise MetricUnavailable(f"the document has nothing at {path!r}") from None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise MetricUnavailable(f"what is at {path!r} is no number")
    return _finite(str(value))


def prometheus_number(page: str, name: str, labels: dict[str, str]) -> float:
    """The sum of the samples of that name which have these labels, on a page of Prometheus's text format.

    Source: Prometheus documentation, "Exposition formats". Raises MetricUnavailable if none fits."""
    total, found = 0.0, False
    for line in page.splitlines():
        match = _SAMPLE.match(line.strip())
        if match is None or match[1] != name:
            continue
        has = {
            key: re.sub(r'\\[\\"n]', lambda m: _ESCAPES[m[0]], value) for key, value in _LABEL.findall(match[2] or "")
        }
        if all(has.get(key) == value for key, value in labels.items()):
            total, found = total + _finite(match[3]), True
    if not found:
        raise MetricUnavailable(f"the page has no sample {name!r}" + (f" with {labels}" if labels else ""))
    return total


def _query_result(body: bytes) -> float:
    """The sum of an instant query's results. Source: Prometheus documentation, "HTTP API"."""
    try:
        document = msgspec.json.decode(body)
        data = document["data"]
        if data["resultType"] == "scalar":
            return _finite(str(data["result"][1]))
        values = [str(one["value"][1]) for one in data["result"]]
    except (msgspec.DecodeError, KeyError, IndexError, TypeError) as error:
        raise MetricUnavailable(f"no answer of a Prometheus server: {error}") from error
    if not values:
        raise MetricUnavailable("the query has no result")
    return math.fsum(_finite(value) for value in values)


def _finite(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise MetricUnavailable(f"{text[:40]!r} is no number") from None
    if not math.isfinite(value):
        raise MetricUnavailable(f"{text[:40]!r} is no finite number")
    return value
