"""The ``pelagos`` driver: a server is an infrastructure of one node in another Pelagos, asked for by its HTTP API.

The run that makes it has the token as its request id, so the other side makes one however often it is asked; and the
infrastructure's name holds the token, so it is found again. What keeps it alive is the other side: it heals the
server by itself, and this side then sees another address. A server that it replaces just now is UNKNOWN here and not
gone, so that not both sides make a new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import httpx2
import msgspec

from pelagos.clouds.errors import CloudError, CloudRejected, CloudUncertain, CloudUnreachable, ServerNotFound
from pelagos.clouds.http_calls import HttpCalls
from pelagos.clouds.libcloud.failures import scrubber
from pelagos.clouds.pelagos.infrastructure import request_of, server_of
from pelagos.clouds.pelagos.options import PelagosAccount
from pelagos.clouds.port import DriverContext
from pelagos.clouds.values import Capabilities, CloudServer, CommandResult, ServerSpec, TokenLookup
from pelagos.model.errors import PelagosError, Unsupported
from pelagos.model.states import InfrastructureState, ServerState
from pelagos.wire.infrastructures import RunView, ServerView, StatusView
from pelagos.wire.pages import InfrastructureList, LogList, ServerList
from pelagos.wire.problem import PROBLEM_TYPE, Problem

__all__ = ["PelagosDriver"]

T = TypeVar("T")

_CALLS = 8


class PelagosDriver:
    """Opened for one account on one daemon."""

    def __init__(self, context: DriverContext, account: PelagosAccount) -> None:
        self._name = context.account
        self._world = context.world
        self._scope = account.scope
        self._scrub = scrubber([account.token])
        base_url, transport = account.endpoint.rstrip("/"), None
        if account.endpoint.startswith("unix://"):
            base_url = "http://pelagos"
            transport = httpx2.AsyncHTTPTransport(uds=account.endpoint.removeprefix("unix://"))
        http = httpx2.AsyncClient(
            base_url=base_url,
            transport=transport,
            headers={"Authorization": f"Bearer {account.token}"} if account.token else {},
            follow_redirects=False,
            trust_env=transport is None,
            limits=httpx2.Limits(max_connections=2 * _CALLS),
        )
        self._calls = HttpCalls(http, context.account, self._said)
        self._capabilities = Capabilities(
            token_lookup=TokenLookup.IDEMPOTENT,
            settle=account.settle,
            create_timeout=account.create_timeout,
            call_timeout=account.call_timeout,
            build_timeout=account.build_timeout,
            poll_interval=account.poll_interval,
            parallel_calls=_CALLS,
            console=True,
        )

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    # -- reads -----------------------------------------------------------------------------------------------------

    async def list_servers(self, *, timeout: float) -> Sequence[CloudServer]:
        """Two requests, however many there are."""
        began = self._world.monotonic()
        listed = await self._read("list infrastructures", "/infrastructures", InfrastructureList, timeout)
        left = max(timeout - (self._world.monotonic() - began), 0.001)
        servers: dict[str, list[ServerView]] = {}
        for server in (await self._read("list servers", "/servers", ServerList, left)).items:
            servers.setdefault(server.infrastructure_id or "", []).append(server)
        found = [
            server_of(
                one.id,
                one.name,
                one.state,
                servers.get(one.id, ()),
                scope=self._scope,
                reason=one.reason,
                created_at=one.created_at,
            )
            for one in listed.items
        ]
        return [one for one in found if one.token]

    async def get_server(self, provider_id: str, *, timeout: float) -> CloudServer:
        began = self._world.monotonic()
        status = await self._read("get server", f"{_path(provider_id)}/status", StatusView, timeout)
        if status.id != provider_id:
            raise ServerNotFound(f"no infrastructure has the id {provider_id}")
        ids = [instance.server_id for node in status.nodes.values() for instance in node.instances.values()]
        servers = []
        for id_ in filter(None, ids):
            left = max(timeout - (self._world.monotonic() - began), 0.001)
            try:
                servers.append(await self._read("get server", f"/servers/{quote(id_, safe='')}", ServerView, left))
            except ServerNotFound:
                continue  # not made yet, or gone already: the infrastructure is there all the same
        return server_of(status.id, status.name, status.state, servers, scope=self._scope)

    async def find_by_token(self, token: str, *, timeout: float) -> CloudServer | None:
        carrying = [one for one in await self.list_servers(timeout=timeout) if one.token == token]
        return min(carrying, key=lambda one: (one.created_at or 0.0, one.provider_id), default=None)

    async def console(self, provider_id: str, *, max_bytes: int, timeout: float) -> str:
        logs = await self._read("console", f"{_path(provider_id)}/logs", LogList, timeout)
        text = "".join(one.text for one in logs.items).encode()
        return text[max(0, len(text) - max_bytes) :].decode("utf-8", "ignore")

    # -- writes ----------------------------------------------------------------------------------------------------

    async def create_server(self, spec: ServerSpec, *, token: str, timeout: float) -> CloudServer:
        answer = await self._calls.send(
            "POST",
            "/runs",
            what="create server",
            timeout=timeout,
            effect=True,
            not_found=CloudRejected,
            content=msgspec.json.encode(request_of(spec, token, self._scope)),
            headers={"Content-Type": "application/json"},
        )
        run = self._decoded("create server", answer, RunView, CloudUncertain)
        return CloudServer(provider_id=run.infrastructure_id, name=spec.name, state=ServerState.BUILD, token=token)

    async def delete_server(self, provider_id: str, *, timeout: float) -> None:
        """Take the infrastructure down; a run that still builds it is given up there."""
        began = self._world.monotonic()
        try:
            status = await self._read("get server", f"{_path(provider_id)}/status", StatusView, timeout)
            if status.id != provider_id or status.state is InfrastructureState.DESTROYING:
                return
            left = max(timeout - (self._world.monotonic() - began), 0.001)
            await self._calls.send("DELETE", _path(provider_id), what="delete server", timeout=left, effect=True)
        except ServerNotFound:
            return

    async def start_server(self, provider_id: str, *, timeout: float) -> None:
        raise self._no_power()

    async def stop_server(self, provider_id: str, *, timeout: float) -> None:
        raise self._no_power()

    async def reboot_server(self, provider_id: str, *, timeout: float) -> None:
        raise self._no_power()

    async def execute(self, provider_id: str, argv: Sequence[str], *, timeout: float) -> CommandResult:
        raise Unsupported(f"the account {self._name} cannot execute", advice="The API has no such call; use SSH.")

    # -- the rest --------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        await self._calls.close()

    def snapshot(self) -> dict[str, Any]:
        """Counters and facts for people; no token."""
        return self._calls.snapshot()

    async def _read(self, what: str, path: str, kind: type[T], timeout: float) -> T:
        answer = await self._calls.send("GET", path, what=what, timeout=timeout)
        return self._decoded(what, answer, kind, CloudUnreachable)

    def _decoded(self, what: str, answer: httpx2.Response, kind: type[T], otherwise: type[CloudError]) -> T:
        try:
            return msgspec.json.decode(answer.content, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise otherwise(
                f"{what}: the answer is not understood: {error}",
                advice="Check that `endpoint` is that of a Pelagos daemon, of a version like this one.",
            ) from error

    def _said(self, answer: httpx2.Response) -> str:
        """What a problem says, with the mistakes that the other side found in the description."""
        if answer.headers.get("content-type", "").partition(";")[0].strip() != PROBLEM_TYPE:
            return answer.reason_phrase
        try:
            problem = msgspec.json.decode(answer.content, type=Problem)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return answer.reason_phrase
        found = "; ".join(one.summary for one in problem.diagnostics)
        return self._scrub(found or problem.detail or problem.title)

    def _no_power(self) -> PelagosError:
        return Unsupported(
            f"the account {self._name} cannot start, stop or reboot servers",
            advice="The other Pelagos keeps its servers running by itself.",
        )


def _path(provider_id: str) -> str:
    return f"/infrastructures/{quote(provider_id, safe='')}"
