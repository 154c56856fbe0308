"""One request to a provider's HTTP API: its deadline, and the error of the family for whatever becomes of it.

For drivers that speak HTTP themselves. Each request has the deadline of its call; nothing is sent a second time, no
redirect is followed. What decides about an error is how far the request got: one whose connection was never made had
no effect, one that left and has no whole answer may have had it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import httpx2

from pelagos.clouds.errors import CloudError, CloudUncertain, CloudUnreachable, ServerNotFound
from pelagos.clouds.libcloud.failures import http_failure
from pelagos.model.errors import PelagosError, Unavailable

__all__ = ["HttpCalls"]

_CONNECT = 10.0
_NEVER_SENT = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.UnsupportedProtocol,
    httpx2.LocalProtocolError,
)


class HttpCalls:
    """The requests of one account. ``said`` gives the text for people out of a refusal, without secrets."""

    def __init__(self, http: httpx2.AsyncClient, account: str, said: Callable[[httpx2.Response], str]) -> None:
        self._http = http
        self._account = account
        self._said = said
        self._counts: Counter[str] = Counter()

    async def send(
        self,
        method: str,
        path: str,
        *,
        what: str,
        timeout: float,
        effect: bool = False,
        not_found: type[PelagosError] = ServerNotFound,
        judge: Callable[[httpx2.Response], PelagosError | None] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        """The whole answer, whose status is of success. ``effect``: whether the request may change something.

        ``judge`` may say of an answer, of any status, what it means; where it gives None, its status decides. Raises
        what they say; CloudUnreachable if nothing was sent, or nothing was to change; else CloudUncertain."""
        if self._http.is_closed:
            raise Unavailable(f"the driver of the account {self._account} is closed")
        self._counts[what] += 1
        unknown: type[CloudError] = CloudUncertain if effect else CloudUnreachable
        # The client's own time-outs come before the deadline: they say whether the request was on its way.
        left = max(timeout * 0.95, 0.001)
        try:
            async with asyncio.timeout(timeout):
                answer = await self._http.request(
                    method,
                    path,
                    content=content,
                    headers=dict(headers or {}),
                    params=dict(params or {}),
                    timeout=httpx2.Timeout(left, connect=min(_CONNECT, left)),
                )
        except _NEVER_SENT as error:
            raise CloudUnreachable(
                f"{what}: nobody answers at {self._http.base_url}: {error or type(error).__name__}",
                advice="Check `endpoint` in the options of the account, and that the service runs.",
            ) from error
        except (TimeoutError, httpx2.TimeoutException) as error:
            raise unknown(f"{what}: no answer within {timeout:g} s") from error
        except httpx2.HTTPError as error:
            raise unknown(f"{what}: the connection ended before the whole answer") from error
        judged = judge(answer) if judge is not None else None
        if judged is not None:
            raise judged
        if not answer.is_success:
            raise http_failure(
                answer.status_code, self._said(answer), answer.headers, effect=effect, what=what, not_found=not_found
            )
        return answer

    async def close(self) -> None:
        """Let go of the connections. Idempotent."""
        await self._http.aclose()

    def snapshot(self) -> dict[str, Any]:
        """Counters for people."""
        return {"endpoint": str(self._http.base_url), "requests": dict(self._counts)}
