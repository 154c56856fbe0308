"""One connection to a server: requests with time-outs, retries where they are safe, errors of the family.

A request is sent again only if a repeat cannot do harm: reads, and commands that carry a request id by which the server
finds the first one's effect. It is sent again after what the family calls transient, after a refused connection, and
after a lost answer; never longer than ``patience`` in all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, TypeVar

import httpx2
import msgspec

from pelagos.model.errors import DeadlineExceeded, InternalError, PelagosError, Retry, Unavailable, from_payload
from pelagos.model.world import SystemWorld, World
from pelagos.wire.problem import PROBLEM_TYPE, Problem

__all__ = ["DEADLINE_HEADER", "Connection"]

T = TypeVar("T")

DEADLINE_HEADER = "Pelagos-Timeout"

_encode = msgspec.json.Encoder().encode
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0


class Connection:
    """What the resource classes share. ``timeout`` is for one answer, ``patience`` for all tries of a request."""

    def __init__(
        self, http: httpx2.AsyncClient, *, timeout: float = 60.0, patience: float = 15.0, world: World | None = None
    ) -> None:
        self.http = http
        self._timeout = timeout
        self._patience = patience
        self._world: World = world or SystemWorld()
        self._retries = 0

    async def get(self, path: str, kind: type[T], *, params: Mapping[str, str] | None = None) -> T:
        """Read something."""
        return await self.request("GET", path, kind, params=params, repeatable=True)

    async def request(
        self,
        method: str,
        path: str,
        kind: type[T],
        *,
        body: msgspec.Struct | None = None,
        params: Mapping[str, str] | None = None,
        repeatable: bool = False,
    ) -> T:
        """Send a request and decode the answer.

        Raises the same error of the family that the server raised; Unavailable if nobody answers there,
        DeadlineExceeded if no answer came in time."""
        content = None if body is None else _encode(body)
        headers = {"Accept": "application/json", DEADLINE_HEADER: f"{self._timeout:g}"}
        if content is not None:
            headers["Content-Type"] = "application/json"
        began = self._world.monotonic()
        pause = _FIRST_PAUSE
        while True:
            try:
                return await self._once(method, path, kind, content, headers, params)
            except (Unavailable, DeadlineExceeded, PelagosError) as error:
                wait = self._pause(error, pause, repeatable)
                if wait is None or self._world.monotonic() + wait - began > self._patience:
                    raise
            self._retries += 1
            await asyncio.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def pause_after(self, tries: int) -> float:
        """How long to wait before the next try, after so many that failed; with jitter."""
        pause = min(_FIRST_PAUSE * 2.0 ** min(tries, 16), _LONGEST_PAUSE)
        return pause * (0.5 + self._world.rng("clients.retry").random())

    def snapshot(self) -> dict[str, Any]:
        return {"base_url": str(self.http.base_url), "retries": self._retries}

    def _pause(self, error: PelagosError, pause: float, repeatable: bool) -> float | None:
        if error.retry is Retry.AFTER and error.retry_after is not None and repeatable:
            return error.retry_after
        again = error.retry is Retry.TRANSIENT and error.status in (502, 503, 504)
        if not repeatable or not (again or error.details.get("answer_lost")):
            return None
        return pause * (0.5 + self._world.rng("clients.retry").random())

    async def _once(
        self,
        method: str,
        path: str,
        kind: type[T],
        content: bytes | None,
        headers: Mapping[str, str],
        params: Mapping[str, str] | None,
    ) -> T:
        timeout = httpx2.Timeout(10.0, read=self._timeout + 5.0)
        try:
            response = await self.http.request(
                method, path, content=content, headers=dict(headers), params=params, timeout=timeout
            )
        except httpx2.HTTPError as error:
            raise lost(error, self.http) from error
        if response.status_code >= 300:
            raise problem(response)
        if response.status_code == 204:
            return msgspec.convert(None, kind)
        try:
            return msgspec.json.decode(response.content, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InternalError(
                f"the server's answer to {method} {path} is not understood: {error}",
                advice="Is this a Pelagos server, of this version? Compare with GET /health.",
            ) from error


def problem(response: httpx2.Response) -> PelagosError:
    """The error that an answer tells; the body must have been read."""
    if response.headers.get("content-type", "").split(";")[0].strip() == PROBLEM_TYPE:
        try:
            return from_payload(msgspec.json.decode(response.content, type=Problem).payload())
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass  # told below, with what can be told
    what = f"HTTP {response.status_code} from {response.request.url}"
    if response.status_code in (502, 503, 504):
        return Unavailable(f"{what}: something before the server answers in its place")
    return InternalError(
        f"{what}, without a problem that is understood",
        advice="Is this the address of a Pelagos server? See PELAGOS_URL.",
        details={"status": response.status_code},
    )


def lost(error: httpx2.HTTPError, http: httpx2.AsyncClient) -> PelagosError:
    """What a failure below HTTP means to the caller."""
    where = str(http.base_url).rstrip("/")
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout):
        return Unavailable(
            f"nobody answers at {where}: {error}",
            advice="Is `pelagos serve` running there? Without PELAGOS_URL the command needs no server.",
        )
    if isinstance(error, httpx2.UnsupportedProtocol | httpx2.LocalProtocolError):
        return InternalError(f"the request could not be sent to {where}: {error}")
    return DeadlineExceeded(
        f"the answer from {where} was lost: {error or type(error).__name__}",
        advice="It may have been done; look before sending it again.",
        details={"answer_lost": True},
    )
