"""The ``cloudbroker`` driver: instances of a CloudBroker platform, by its REST API with XML documents.

An instance carries its token in its name, which goes with the create. The platform has one verb that ends an instance,
``stop``: what was stopped cannot be started again, so that is how a server is deleted, and the driver has no power
verbs. What was stopped stays in listings as ``halted``; here it is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote
from xml.etree.ElementTree import Element

import httpx2

from pelagos.clouds.cloudbroker import documents
from pelagos.clouds.cloudbroker.options import CloudBrokerAccount
from pelagos.clouds.errors import CloudBusy, CloudRejected, CloudUncertain, CloudUnreachable, ServerNotFound
from pelagos.clouds.http_calls import HttpCalls
from pelagos.clouds.libcloud.failures import http_failure, scrubber
from pelagos.clouds.port import Catalogue, DriverContext, ForeignReader
from pelagos.clouds.values import (
    Capabilities,
    CloudFlavor,
    CloudImage,
    CloudServer,
    CommandResult,
    ServerSpec,
    TokenLookup,
)
from pelagos.model.errors import PelagosError, Unsupported
from pelagos.model.states import ServerState

__all__ = ["CloudBrokerDriver"]

_CALLS = 8
_XML = "application/xml"


class CloudBrokerDriver(Catalogue, ForeignReader):
    """Opened for one account of a platform."""

    def __init__(self, context: DriverContext, account: CloudBrokerAccount) -> None:
        self._name = context.account
        self._world = context.world
        self._scrub = scrubber([account.password, account.email])
        http = httpx2.AsyncClient(
            base_url=account.endpoint.rstrip("/"),
            auth=httpx2.BasicAuth(account.email, account.password),
            headers={"Accept": _XML},
            follow_redirects=False,
            limits=httpx2.Limits(max_connections=2 * _CALLS),
        )
        self._calls = HttpCalls(http, context.account, self._said)
        self._capabilities = Capabilities(
            token_lookup=TokenLookup.NAME,
            settle=account.settle,
            create_timeout=account.create_timeout,
            call_timeout=account.call_timeout,
            build_timeout=account.build_timeout,
            poll_interval=account.poll_interval,
            parallel_calls=_CALLS,
        )

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    # -- reads -----------------------------------------------------------------------------------------------------

    async def list_servers(self, *, timeout: float) -> Sequence[CloudServer]:
        return [one for one in await self._servers(timeout) if one.token]

    async def list_foreign_servers(self, *, timeout: float) -> Sequence[CloudServer]:
        return [one for one in await self._servers(timeout) if not one.token]

    async def get_server(self, provider_id: str, *, timeout: float) -> CloudServer:
        server = documents.server(await self._read("get server", _path(provider_id), timeout))
        if server.state is ServerState.DELETED:
            raise ServerNotFound(f"CloudBroker has stopped the instance {provider_id} for good")
        return server

    async def find_by_token(self, token: str, *, timeout: float) -> CloudServer | None:
        carrying = [one for one in await self._servers(timeout) if one.token == token]
        return min(carrying, key=lambda one: (one.created_at or 0.0, one.provider_id), default=None)

    async def console(self, provider_id: str, *, max_bytes: int, timeout: float) -> str:
        raise Unsupported(f"the account {self._name} cannot console", advice="CloudBroker keeps none; use SSH.")

    async def list_images(self, *, timeout: float) -> Sequence[CloudImage]:
        """CloudBroker's deployments: what ``deployment_id`` may be."""
        return documents.images(await self._read("list deployments", "/deployments.xml", timeout))

    async def list_flavors(self, *, timeout: float) -> Sequence[CloudFlavor]:
        """What ``instance_type_id`` may be. Prices are asked for one by one there, so none are told."""
        return documents.flavors(await self._read("list instance types", "/instance_types.xml", timeout))

    # -- writes ----------------------------------------------------------------------------------------------------

    async def create_server(self, spec: ServerSpec, *, token: str, timeout: float) -> CloudServer:
        what = "create server"
        answer = await self._calls.send(
            "POST",
            "/instances.xml",
            what=what,
            timeout=timeout,
            effect=True,
            not_found=CloudRejected,
            judge=lambda given: self._judge(given, what, effect=True, not_found=CloudRejected),
            content=documents.instance(spec, token),
            headers={"Content-Type": _XML},
        )
        root = documents.parse(answer.content)
        made = documents.server(root) if root is not None and root.tag == "instance" else None
        if made is None or not made.provider_id:
            raise CloudUncertain(f"{what}: the answer is not understood; the instance may be there")
        state = made.state if made.state is ServerState.ACTIVE else ServerState.BUILD
        return CloudServer(provider_id=made.provider_id, name=spec.name, state=state, token=token)

    async def delete_server(self, provider_id: str, *, timeout: float) -> None:
        what = "delete server"
        began = self._world.monotonic()
        try:
            await self._calls.send(
                "PUT",
                _path(provider_id, "/stop"),
                what=what,
                timeout=timeout,
                effect=True,
                judge=lambda given: self._judge(given, what, effect=True, not_found=ServerNotFound),
            )
        except ServerNotFound:
            return
        except (CloudBusy, CloudRejected):
            # An instance that is stopped, or about to be, cannot be stopped: only the platform knows which it is.
            if not await self._is_ending(provider_id, timeout - (self._world.monotonic() - began)):
                raise

    async def start_server(self, provider_id: str, *, timeout: float) -> None:
        raise self._no_power()

    async def stop_server(self, provider_id: str, *, timeout: float) -> None:
        raise self._no_power()

    async def reboot_server(self, provider_id: str, *, timeout: float) -> None:
        raise self._no_power()

    async def execute(self, provider_id: str, argv: Sequence[str], *, timeout: float) -> CommandResult:
        raise Unsupported(f"the account {self._name} cannot execute", advice="CloudBroker has no such call; use SSH.")

    # -- the rest --------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        await self._calls.close()

    def snapshot(self) -> dict[str, Any]:
        """Counters and facts for people; no password."""
        return self._calls.snapshot()

    async def _servers(self, timeout: float) -> list[CloudServer]:
        return documents.servers(await self._read("list servers", "/instances.xml", timeout))

    async def _is_ending(self, provider_id: str, timeout: float) -> bool:
        try:
            server = await self.get_server(provider_id, timeout=max(timeout, 0.001))
        except ServerNotFound:
            return True
        return server.state is ServerState.DELETING

    async def _read(self, what: str, path: str, timeout: float) -> Element:
        answer = await self._calls.send(
            "GET",
            path,
            what=what,
            timeout=timeout,
            judge=lambda given: self._judge(given, what, effect=False, not_found=ServerNotFound),
        )
        root = documents.parse(answer.content)
        if root is None:
            raise CloudUnreachable(
                f"{what}: what answers is no CloudBroker platform",
                advice="Check `endpoint` in the options of the account.",
            )
        return root

    def _judge(
        self, answer: httpx2.Response, what: str, *, effect: bool, not_found: type[PelagosError]
    ) -> PelagosError | None:
        """What a document of errors means, of whatever status; None for all other answers."""
        refused = documents.refusal(documents.parse(answer.content)) if b"<errors" in answer.content else None
        if refused is None:
            return None
        said = self._scrub(refused.text)
        if refused.kind is not None:
            return refused.kind(f"{what}: {said}")
        if answer.is_success:
            return CloudRejected(f"{what}: {said}")
        return http_failure(answer.status_code, said, answer.headers, effect=effect, what=what, not_found=not_found)

    def _said(self, answer: httpx2.Response) -> str:
        """Nothing of an answer that is no document of errors is told: it is a page of somebody before the platform."""
        return answer.reason_phrase

    def _no_power(self) -> Unsupported:
        return Unsupported(
            f"the account {self._name} cannot start, stop or reboot servers",
            advice="An instance that CloudBroker stops is gone. Delete the server, and let it be made again.",
        )


def _path(provider_id: str, verb: str = "") -> str:
    return f"/instances/{quote(provider_id, safe='')}{verb}.xml"
