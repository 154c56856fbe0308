"""Azure Resource Manager over Azure's own pipeline: one request, its deadline, and what its answer means.

The pipeline, its sign-in and its transport are those of ``azure-core``, ``azure-mgmt-core`` and ``azure-identity``. The
generated clients over them are not used: they follow an asynchronous operation to its end by themselves, send again
what failed, and change their shape with each release, while the documents of a dated version of the API stay as they
are. Here an operation's first answer is the answer; how it goes on is read from the resource.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import aiohttp
from azure.core import AsyncPipelineClient
from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import AzureError, ClientAuthenticationError
from azure.core.pipeline.policies import UserAgentPolicy
from azure.core.pipeline.transport import AioHttpTransport
from azure.core.rest import AsyncHttpResponse, HttpRequest
from azure.mgmt.core.policies import AsyncARMChallengeAuthenticationPolicy

from pelagos.clouds.azure.options import AzureAccount
from pelagos.clouds.endpoints import is_loopback
from pelagos.clouds.errors import (
    CloudAuthFailed,
    CloudBusy,
    CloudCapacity,
    CloudError,
    CloudRejected,
    CloudUncertain,
    CloudUnreachable,
    ServerNotFound,
)
from pelagos.clouds.libcloud.failures import http_failure, scrubber
from pelagos.clouds.port import DriverContext
from pelagos.model.errors import PelagosError, Unavailable

__all__ = ["Arm", "Exists"]

_CONNECT = 10.0
_NO_ROOM = {
    "allocationfailed",
    "containergroupquotareached",
    "overconstrainedallocationrequest",
    "overconstrainedzonalallocationrequest",
    "quotaexceeded",
    "skunotavailable",
    "serviceunavailable",
    "zonalallocationfailed",
}
_BUSY = {"anotheroperationinprogress", "conflict", "inusesubnetcannotbedeleted", "retryableerror"}
_GROUPS = "2021-04-01"


class Exists(Exception):
    """A create that was to make something new found it there (412)."""


class Arm:
    """The requests of one account, in its subscription."""

    def __init__(self, context: DriverContext, account: AzureAccount, credential: AsyncTokenCredential) -> None:
        self._account = account
        self._world = context.world
        self._name = context.account
        self._credential = credential
        self._scrub = scrubber([account.client_secret])
        self._scope = f"{account.endpoint.rstrip('/')}/.default"
        self._client: AsyncPipelineClient[HttpRequest, AsyncHttpResponse] | None = None
        self._closed = False
        self._groups: set[str] = set()
        self._counts: Counter[str] = Counter()

    async def get(self, what: str, path: str, version: str, timeout: float, **params: str) -> dict[str, Any]:
        """A resource. Raises ServerNotFound where there is none; CloudUnreachable."""
        return await self.send("GET", path, version, what=what, timeout=timeout, params=params)

    async def collect(self, what: str, path: str, version: str, timeout: float, **params: str) -> list[dict[str, Any]]:
        """All pages of a listing, within one deadline. Raises CloudUnreachable."""
        end = self._world.monotonic() + timeout
        page = await self.get(what, path, version, timeout, **params)
        found: list[dict[str, Any]] = list(page.get("value") or ())
        while page.get("nextLink"):
            page = await self.send("GET", page["nextLink"], "", what=what, timeout=end - self._world.monotonic())
            found += page.get("value") or ()
        return found

    async def send(
        self,
        method: str,
        path: str,
        version: str,
        *,
        what: str,
        timeout: float,
        effect: bool = False,
        not_found: type[PelagosError] = ServerNotFound,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """The document of an answer; empty where it has none. ``path`` is below the subscription, or a whole URL.

        Raises Exists for 412, which only a request with ``If-None-Match`` gets; CloudUnreachable if nothing was sent
        or nothing was to change; CloudUncertain; and what the answer means."""
        if self._closed:
            raise Unavailable(f"the driver of the account {self._name} is closed")
        self._counts[what] += 1
        if timeout <= 0:
            raise CloudUnreachable(f"{what}: there was no time left to send it")
        end = self._world.monotonic() + timeout
        await self._sign_in(what, timeout)
        left = max(end - self._world.monotonic(), 0.001)
        request = HttpRequest(
            method,
            path if "://" in path else self._url(path),
            params={**({"api-version": version} if version else {}), **(params or {})},
            headers=dict(headers or {}),
            json=body,
        )
        unknown: type[CloudError] = CloudUncertain if effect else CloudUnreachable
        try:
            async with asyncio.timeout(left):
                answer = await self._pipeline().send_request(
                    request,
                    connection_timeout=min(_CONNECT, left),
                    read_timeout=left,
                    enforce_https=not is_loopback(self._account.endpoint),
                )
        except TimeoutError as error:
            raise unknown(f"{what}: no answer within {timeout:g} s") from error
        except ClientAuthenticationError as error:
            raise CloudAuthFailed(f"{what}: {self._scrub(error.message)}") from error
        except (AzureError, aiohttp.ClientError) as error:
            if any(isinstance(one, aiohttp.ClientConnectorError) for one in _causes(error)):
                raise CloudUnreachable(f"{what}: {self._account.endpoint} cannot be reached") from error
            raise unknown(f"{what}: the connection ended before the whole answer") from error
        return self._document(answer, what, effect, not_found)

    async def ensure_group(self, group: str, location: str, timeout: float) -> None:
        """Make a resource group where there is none. One that is there is not touched, so it keeps its tags."""
        if group.lower() in self._groups:
            return
        what = "create resource group"
        path = f"/resourcegroups/{group}"
        end = self._world.monotonic() + timeout
        try:
            await self.get(what, path, _GROUPS, timeout)
        except ServerNotFound:
            left = end - self._world.monotonic()
            body = {"location": location}
            await self.send(
                "PUT", path, _GROUPS, what=what, timeout=left, effect=True, not_found=CloudRejected, body=body
            )
        self._groups.add(group.lower())

    def forget_group(self, group: str) -> None:
        """Somebody may have deleted it: look again the next time."""
        self._groups.discard(group.lower())

    def id_of(self, group: str, kind: str, name: str) -> str:
        """The whole id of a resource; ``kind`` is ``Microsoft.Network/virtualNetworks`` and the like."""
        return f"/subscriptions/{self._account.subscription_id}/resourceGroups/{group}/providers/{kind}/{name}"

    async def close(self) -> None:
        """Let go of the connections. Idempotent."""
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            await client.close()
        await self._credential.close()

    def snapshot(self) -> dict[str, Any]:
        """Counters for people; no secrets."""
        return {
            "endpoint": self._account.endpoint,
            "subscription_id": self._account.subscription_id,
            "requests": dict(self._counts),
        }

    def _pipeline(self) -> AsyncPipelineClient[HttpRequest, AsyncHttpResponse]:
        if self._client is None:
            self._client = AsyncPipelineClient(
                self._account.endpoint,
                policies=[
                    UserAgentPolicy("pelagos"),
                    AsyncARMChallengeAuthenticationPolicy(self._credential, self._scope),
                ],
                transport=AioHttpTransport(session=_session()),
            )
        return self._client

    def _url(self, path: str) -> str:
        return f"{self._account.endpoint.rstrip('/')}/subscriptions/{self._account.subscription_id}{path}"

    async def _sign_in(self, what: str, timeout: float) -> None:
        """See that there is a token, so that what fails here is known to have sent nothing."""
        try:
            async with asyncio.timeout(timeout):
                await self._credential.get_token(self._scope)
        except ClientAuthenticationError as error:
            raise CloudAuthFailed(f"{what}: {self._scrub(error.message)}") from error
        except (TimeoutError, AzureError, aiohttp.ClientError) as error:
            raise CloudUnreachable(f"{what}: {self._account.authority} does not answer") from error

    def _document(
        self, answer: AsyncHttpResponse, what: str, effect: bool, not_found: type[PelagosError]
    ) -> dict[str, Any]:
        try:
            found = answer.json() if answer.content else {}
        except ValueError:
            found = None
        if answer.status_code < 300:
            if isinstance(found, dict):
                return found
            otherwise = CloudUncertain if effect else CloudUnreachable
            raise otherwise(f"{what}: what answers at {self._account.endpoint} is no Azure Resource Manager")
        if answer.status_code == 412:
            raise Exists
        error = found.get("error") if isinstance(found, dict) else None
        code, message = (
            (str(error.get(key) or "") for key in ("code", "message")) if isinstance(error, dict) else ("", "")
        )
        raise self._refusal(answer, code, message, what, effect, not_found)

    def _refusal(
        self, answer: AsyncHttpResponse, code: str, message: str, what: str, effect: bool, not_found: type[PelagosError]
    ) -> PelagosError:
        status = answer.status_code
        said = self._scrub(": ".join(filter(None, (code, message))) or str(answer.reason))
        word = code.lower()
        if 400 <= status < 500 and status != 429:
            if word in _NO_ROOM or (word == "operationnotallowed" and "quota" in message.lower()):
                return CloudCapacity(f"{what}: {said}")
            if word in _BUSY or "inuse" in word:
                return CloudBusy(f"{what}: {said}")
            if word == "propertychangenotallowed":
                return CloudRejected(f"{what}: {said}")
            if word == "resourcegroupnotfound" and not_found is CloudRejected:
                # It was there a moment ago, or was made just now and is not known everywhere.
                return CloudBusy(f"{what}: {said}")
        return http_failure(status, said, answer.headers, effect=effect, what=what, not_found=not_found)


def _session() -> aiohttp.ClientSession:
    """A session as the pipeline makes its own, but one that sends nothing a second time.

    aiohttp repeats a PUT or DELETE whose connection was reset, and has no public switch for that. To container groups
    a second PUT is another start. The conformance suite sees it if this stops working."""
    session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, trust_env=True)
    session._retry_connection = False
    return session


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        inner = getattr(error, "inner_exception", None)
        error = inner if isinstance(inner, BaseException) else error.__cause__
