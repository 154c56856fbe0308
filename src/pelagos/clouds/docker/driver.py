"""The ``docker`` cloud: a server is a container.

The token is a label of the container and in its name, and an engine admits one container of a name: so a create that is
sent again with the same token finds the first one's container, starts it if that was not done, and returns it.

A create is two requests, one that makes the container and one that starts it. Both are one call in one thread, which
goes on if nobody waits for it any more, but sends nothing after its deadline. If a container was made and certainly
cannot start, it is removed again, so that the error which says why is one that left nothing.

Labels cannot be changed, so a container that Pelagos did not make can be looked at and not be adopted.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import docker.errors
import msgspec

from pelagos.clouds.docker.containers import GROUP, SCOPE, TOKEN, Health, Order, describe, order_of
from pelagos.clouds.docker.engine import Client, Engine
from pelagos.clouds.docker.errors import (
    image_is_missing,
    name_is_taken,
    network_is_missing,
    said_by,
    translate,
)
from pelagos.clouds.docker.execution import OUTPUT_LIMIT, ended, run_inside
from pelagos.clouds.docker.images import Images, image_source
from pelagos.clouds.docker.limits import docker_limits, limits_of, podman_limits
from pelagos.clouds.docker.networks import Networks
from pelagos.clouds.docker.options import DockerAccount
from pelagos.clouds.errors import CloudBusy, CloudUncertain, CloudUnreachable, ServerNotFound
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
from pelagos.model.errors import Unsupported
from pelagos.model.states import ServerState

__all__ = ["DockerDriver"]

CONSOLE_LINES = 10_000
"""Most lines of a log that are asked for, however long the end may be."""
PATIENCE = 30.0
"""Longest that one create waits for its image, in seconds."""
PAUSE = 0.05
LIBPOD = "v4.0.0/libpod"
"""The first version of podman's own API that all podmans of today still speak."""


class _ImageMissing(Exception):
    """The engine does not have the image; nothing was made."""


class DockerDriver(Catalogue, ForeignReader):
    """One account: an engine, and of its containers those of the account's scope."""

    def __init__(self, context: DriverContext) -> None:
        self._account = msgspec.convert(dict(context.options), DockerAccount)
        self._world = context.world
        self._engine = Engine(self._account, context.world)
        self._images = Images(self._engine, self._account)
        self._networks = Networks(self._account.scope)
        self._swept = False
        """Whether networks were looked for that an earlier process left without a container."""
        self._capabilities = Capabilities(
            token_lookup=TokenLookup.IDEMPOTENT,
            settle=self._account.settle,
            create_timeout=self._account.create_timeout,
            call_timeout=self._account.call_timeout,
            build_timeout=max(600.0, self._account.create_timeout),
            poll_interval=0.5,
            parallel_calls=Engine.THREADS,
            power=True,
            console=True,
            execute=True,
            updates=frozenset(self._account.updates),
            user_data_limit=0,
        )

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    # -- reading ------------------------------------------------------------------------------------------------------

    async def list_servers(self, *, timeout: float) -> Sequence[CloudServer]:
        labels = [TOKEN, f"{SCOPE}={self._account.scope}"]
        found = await self._engine.read("list", lambda client: self._list(client, {"label": labels}), timeout)
        return [server for server in found if server.token]  # podman takes an empty scope for any

    async def get_server(self, provider_id: str, *, timeout: float) -> CloudServer:
        return await self._engine.read("get", lambda client: self._look(client, provider_id), timeout)

    async def find_by_token(self, token: str, *, timeout: float) -> CloudServer | None:
        labels = [f"{TOKEN}={token}", f"{SCOPE}={self._account.scope}"]
        found = await self._engine.read("find", lambda client: self._list(client, {"label": labels}), timeout)
        carrying = (server for server in found if server.token == token)
        return min(carrying, key=lambda server: server.created_at or 0.0, default=None)

    async def list_foreign_servers(self, *, timeout: float) -> Sequence[CloudServer]:
        everything = await self._engine.read("list foreign", lambda client: self._list(client, {}), timeout)
        return [server for server in everything if not server.token]

    async def console(self, provider_id: str, *, max_bytes: int, timeout: float) -> str:
        def read(client: Client) -> bytes:
            if max_bytes <= 0:
                client.inspect_container(provider_id)
                return b""
            return bytes(client.logs(provider_id, tail=min(max_bytes, CONSOLE_LINES)))

        log = await self._engine.read("console", read, timeout)
        return log[max(0, len(log) - max_bytes) :].decode("utf-8", "ignore")

    async def list_images(self, *, timeout: float) -> Sequence[CloudImage]:
        """The images that the engine has, a name each; those of registries are too many to tell."""
        found = await self._engine.read("images", lambda client: client.images(), timeout)
        return [
            CloudImage(id=name, name=name, size_bytes=image.get("Size"), created_at=image.get("Created"))
            for image in found
            for name in image.get("RepoTags") or ()
            if name != "<none>:<none>"
        ]

    async def list_flavors(self, *, timeout: float) -> Sequence[CloudFlavor]:
        """None: a container's size is what its ``cpus`` and ``memory_mb`` say."""
        return ()

    # -- writing ------------------------------------------------------------------------------------------------------

    async def create_server(self, spec: ServerSpec, *, token: str, timeout: float) -> CloudServer:
        order = order_of(spec, token, self._account)
        source = image_source(order.resource, self._account)
        began = self._world.monotonic()

        def left() -> float:
            return timeout - (self._world.monotonic() - began)

        if source.tarball and not await self._images.imported(source, timeout=left()):
            await self._images.fetch(source, within=min(PATIENCE, left() / 2))
        try:
            return await self._create(order, source.reference, left())
        except _ImageMissing:
            await self._images.fetch(source, within=min(PATIENCE, left() / 2))
        try:
            return await self._create(order, source.reference, left())
        except _ImageMissing as error:
            raise CloudBusy(f"the image {source.reference} is gone again") from error

    async def _create(self, order: Order, image: str, timeout: float) -> CloudServer:
        def make(client: Client) -> CloudServer:
            with self._networks.joined(client, order.group):
                made = self._make(client, order, image)
                self._start(client, made, order)
                return self._made(client, made, order)

        return await self._engine.write(f"create {order.name}", make, timeout, makes=True)

    async def delete_server(self, provider_id: str, *, timeout: float) -> None:
        def delete(client: Client) -> None:
            group = None
            with contextlib.suppress(docker.errors.NotFound):
                labels = client.inspect_container(provider_id)["Config"].get("Labels") or {}
                group = labels.get(GROUP) or "" if labels.get(SCOPE, "") == self._account.scope else ""
                _remove(client, provider_id)
            if group is None or not self._swept:
                self._networks.sweep(client)
                self._swept = True
            elif group:
                self._networks.release(client, group)

        await self._engine.write("delete", delete, timeout)

    async def start_server(self, provider_id: str, *, timeout: float) -> None:
        def start(client: Client) -> None:
            if _state_of(client, provider_id) == "paused":
                client.unpause(provider_id)
            else:
                client.start(provider_id)

        await self._engine.write("start", start, timeout, makes=True)

    async def stop_server(self, provider_id: str, *, timeout: float) -> None:
        def stop(client: Client) -> None:
            if _state_of(client, provider_id) == "paused":
                client.unpause(provider_id)
            client.stop(provider_id, timeout=self._grace(timeout))

        await self._engine.write("stop", stop, timeout)

    async def reboot_server(self, provider_id: str, *, timeout: float) -> None:
        def reboot(client: Client) -> None:
            if _state_of(client, provider_id) == "paused":
                client.unpause(provider_id)
            client.restart(provider_id, timeout=self._grace(timeout))

        await self._engine.write("reboot", reboot, timeout)

    async def update_server(self, provider_id: str, values: Mapping[str, Any], *, timeout: float) -> None:
        """Change limits; see :mod:`pelagos.clouds.docker.limits`."""
        limits = limits_of(values, self._account)

        def change(client: Client) -> None:
            # By its whole id: an engine takes the beginning of one, too.
            path = f"/containers/{self._look(client, provider_id).provider_id}/update"
            if self._engine.podman:
                address = f"{client.base_url}/{LIBPOD}{path}"
                body: Mapping[str, Any] = podman_limits(limits)
            else:
                address, body = client.address_of(path), docker_limits(limits)
            with client.post(address, json=body) as reply:
                client.check(reply)

        await self._engine.write("update", change, timeout)

    async def execute(self, provider_id: str, argv: Sequence[str], *, timeout: float) -> CommandResult:
        if not argv:
            raise Unsupported("a command needs at least one word")
        began = self._world.monotonic()
        execution, output = await self._engine.write(
            f"execute {argv[0]}", lambda client: run_inside(client, provider_id, argv), timeout
        )
        while True:
            left = timeout - (self._world.monotonic() - began)
            code = await self._engine.read("execute", lambda client: ended(client, execution), max(left, PAUSE))
            if code is not None:
                return CommandResult(code, output[:OUTPUT_LIMIT].decode("utf-8", "replace"))
            if left <= PAUSE:
                raise CloudUncertain(f"{argv[0]} closed its output and did not end within {timeout:g} s")
            await asyncio.sleep(PAUSE)

    # -- the rest -----------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Let go of the connections. Containers live on; an image that is on its way arrives."""
        self._engine.close()

    def snapshot(self) -> dict[str, Any]:
        return {
            "endpoint": self._account.endpoint,
            "scope": self._account.scope,
            "api_version": self._engine.version,
            "calls": dict(self._engine.calls),
            "images_on_their_way": self._images.snapshot(),
        }

    # -- in the engine's threads --------------------------------------------------------------------------------------

    def _make(self, client: Client, order: Order, image: str) -> str:
        """Make the container, or find the one of an earlier call with the token; its id. Raises _ImageMissing."""
        config = order.config(client.api_version, image)
        try:
            made = client.create_container_from_config(config, order.name)  # type: ignore[no-untyped-call]
        except docker.errors.APIError as error:
            if image_is_missing(error):
                raise _ImageMissing from error
            if not name_is_taken(error):
                raise
            there = client.inspect_container(order.name)
            if (there["Config"].get("Labels") or {}).get(TOKEN) != order.token:
                raise CloudBusy(
                    f"the engine has a container {order.name} that is not this one",
                    advice="Remove or rename it.",
                ) from error
            if there["State"]["Status"] not in ("created", "configured", "initialized"):
                return str(there["Id"])
            made = there
        container = str(made["Id"])
        try:
            for network in order.more_networks:
                _connect(client, container, network, order)
        except docker.errors.APIError as error:
            self._take_back(client, container, order, error)
        return container

    def _start(self, client: Client, container: str, order: Order) -> None:
        try:
            if _state_of(client, container) in ("created", "configured", "initialized"):
                client.start(container)
        except docker.errors.APIError as error:
            self._take_back(client, container, order, error)

    def _take_back(self, client: Client, container: str, order: Order, error: docker.errors.APIError) -> None:
        """The engine said that the container cannot start: remove it, and raise what says so.

        It stays where the answer is not the engine's, or says that somebody else has it in hand (an earlier call that
        nobody waits for): the same create, sent again, goes on with it. If it cannot be removed, what the removal
        raises is the error: then nobody knows."""
        what = f"start {order.name}"
        words = f"{what}: {said_by(error)}"
        told = translate(error, what, reads=False, makes=True)
        missing = network_is_missing(error) and not order.more_networks
        if error.status_code in (401, 429, 502, 503, 504) or (isinstance(told, CloudBusy) and not missing):
            raise CloudUncertain(f"{words}; it was made") from error
        _remove(client, container)
        if missing:
            raise CloudBusy(words, advice="The network of the group was removed meanwhile.") from error
        if isinstance(told, CloudUncertain):  # the answer is there, and what it said of is gone
            raise CloudUnreachable(words, advice="See what the engine's log says.") from error
        if isinstance(told, ServerNotFound):
            raise CloudBusy(words, advice="Somebody removed the container meanwhile.") from error
        raise told from error

    def _made(self, client: Client, container: str, order: Order) -> CloudServer:
        """The new container as it is now; if that cannot be read any more, as it must be."""
        with contextlib.suppress(docker.errors.DockerException, OSError, ValueError, ServerNotFound):
            return self._look(client, container)
        return CloudServer(provider_id=container, name=order.name, state=ServerState.BUILD, token=order.token)

    def _look(self, client: Client, provider_id: str) -> CloudServer:
        for server in self._list(client, {"id": [provider_id]}):
            if server.provider_id == provider_id:
                return server
        raise ServerNotFound(f"the engine has no container {provider_id}")

    def _list(self, client: Client, filters: dict[str, list[str]]) -> list[CloudServer]:
        found = client.containers(all=True, filters=filters)
        health = self._health(client, filters) if found else {}
        return [describe(one, self._account, health.get(one["Id"], "")) for one in found]

    def _health(self, client: Client, filters: dict[str, list[str]]) -> dict[str, Health]:
        """Container -> what its health check says if that is not good, where the listing itself does not say it.

        Podman's does not; but it can be asked for the containers in a state of health."""
        if not self._engine.podman:
            return {}
        ill: dict[str, Health] = {}
        states: tuple[Health, ...] = ("starting", "unhealthy")
        if client.containers(filters={**filters, "health": list(states)}):
            for state in states:
                for one in client.containers(filters={**filters, "health": [state]}):
                    ill[one["Id"]] = state
        return ill

    def _grace(self, timeout: float) -> int:
        """Whole seconds before SIGKILL: so that its answer comes before the deadline."""
        return int(max(0.0, min(self._account.stop_grace, timeout - 5.0)))


def _connect(client: Client, container: str, network: str, order: Order) -> None:
    try:
        client.connect_container_to_network(container, network, aliases=list(order.aliases))
    except docker.errors.APIError as error:
        if "already" not in said_by(error).lower():  # by an earlier call with the token
            raise


def _remove(client: Client, container: str) -> None:
    """With its anonymous volumes; what is gone or going already is as wanted."""
    try:
        client.remove_container(container, v=True, force=True)
    except docker.errors.NotFound:
        return
    except docker.errors.APIError as error:
        if error.status_code != 409 or "already in progress" not in said_by(error):
            raise


def _state_of(client: Client, container: str) -> str:
    return str(client.inspect_container(container)["State"]["Status"])
