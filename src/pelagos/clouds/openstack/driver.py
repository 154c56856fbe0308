"""The OpenStack driver: the port's verbs over nova, neutron, cinder and glance.

Each verb is one function of the SDK's blocking calls, run in a thread of the account under one deadline. What must be
looked up or refused comes before the one request that has an effect; so an error before that request certainly had
none. Nova takes no idempotency token: the token is in the server's metadata, written by the create request itself, and
listings find it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import openstack.utils

from pelagos.clouds.errors import CloudBusy, CloudRejected, CloudUncertain, CloudUnreachable, ServerGone
from pelagos.clouds.openstack.catalogue import Lookup, flavors, images
from pelagos.clouds.openstack.connection import Client, check_scope, connect
from pelagos.clouds.openstack.errors import FOREIGN, gone_is_fine, translate
from pelagos.clouds.openstack.exchange import Exchange, WatchedSession
from pelagos.clouds.openstack.options import NovaResource, OpenStackAccount, OpenStackResource, Wanted
from pelagos.clouds.openstack.parts import associate, create_part, delete_part, list_parts, parts_of
from pelagos.clouds.openstack.servers import TOKEN, USER_DATA_LIMIT, attributes, check, describe
from pelagos.clouds.openstack.threads import Threads
from pelagos.clouds.port import Catalogue, DriverContext, ForeignReader, PartsDriver, ServerAdopter
from pelagos.clouds.values import (
    Capabilities,
    CloudFlavor,
    CloudImage,
    CloudPart,
    CloudServer,
    CommandResult,
    PartSpec,
    ServerSpec,
    TokenLookup,
)
from pelagos.model.errors import Unsupported
from pelagos.model.states import ServerState

if TYPE_CHECKING:
    from openstack.compute.v2._proxy import Proxy as Compute
    from openstack.compute.v2.server import Server

__all__ = ["OpenStackDriver"]

T = TypeVar("T")

_HOSTNAMES = "2.90"
"""Since this microversion nova takes a host name beside the name."""
_VOLUME_TYPES = "2.67"
"""Since this one it makes volumes of a given type."""
_NEWS = 10.0
"""Seconds in which nova should show an address that neutron has associated."""
_PAUSE = 0.5
_WAKING = {
    "PAUSED": "unpause_server",
    "SUSPENDED": "resume_server",
    "SHELVED": "unshelve_server",
    "SHELVED_OFFLOADED": "unshelve_server",
    "RESCUE": "unrescue_server",
}
"""What starts a server that is stopped in one of nova's many ways."""


class OpenStackDriver(Catalogue, ForeignReader, ServerAdopter, PartsDriver):
    """One account of an OpenStack cloud. Made by :meth:`open`."""

    def __init__(
        self,
        context: DriverContext,
        account: OpenStackAccount,
        resource: type[OpenStackResource] | type[NovaResource],
        client: Client,
        session: WatchedSession,
    ) -> None:
        self._world = context.world
        self._account = account
        self._resource = resource
        self._client = client
        self._lookup = Lookup(client, context.world.monotonic)
        self._session = session
        self._threads = Threads(context.world, account.threads)
        self._requests = 0
        self._calls: dict[str, int] = {}
        self._capabilities = Capabilities(
            token_lookup=TokenLookup.TAG,
            settle=account.settle,
            create_timeout=account.create_timeout,
            call_timeout=account.call_timeout,
            build_timeout=max(account.build_timeout, account.create_timeout),
            poll_interval=min(account.poll_interval, account.build_timeout),
            parallel_calls=account.threads,
            power=True,
            console=True,
            user_data_limit=USER_DATA_LIMIT,
        )

    @classmethod
    async def open(
        cls, context: DriverContext, resource: type[OpenStackResource] | type[NovaResource]
    ) -> OpenStackDriver:
        """A driver for the account of ``context``, whose servers are described by ``resource``.

        Raises InvalidInput if the account's file or cloud is not there."""
        account = msgspec.convert(dict(context.options), OpenStackAccount)
        session = WatchedSession(account.threads)

        def connected() -> Client:
            return Client(lambda project: connect(account, session, context.world.environ, project), session)

        client = await context.world.run_blocking(connected)
        return cls(context, account, resource, client, session)

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    # -- reading ---------------------------------------------------------------------------------------------------

    async def list_servers(self, *, timeout: float) -> Sequence[CloudServer]:
        return await self._read("list the servers", lambda: self._list(ours=True), timeout)

    async def list_foreign_servers(self, *, timeout: float) -> Sequence[CloudServer]:
        return await self._read("list the servers", lambda: self._list(ours=False), timeout)

    async def find_by_token(self, token: str, *, timeout: float) -> CloudServer | None:
        def find() -> CloudServer | None:
            found = [server for server in self._list(ours=True) if server.token == token]
            return min(found, key=_age, default=None)

        return await self._read("list the servers", find, timeout)

    async def get_server(self, provider_id: str, *, timeout: float) -> CloudServer:
        def get() -> CloudServer:
            return describe(self._get(self._client.compute(), provider_id))

        return await self._read(f"get server {provider_id}", get, timeout, about_server=True)

    async def console(self, provider_id: str, *, max_bytes: int, timeout: float) -> str:
        def tail() -> str:
            answer = self._client.compute().get_server_console_output(provider_id)
            encoded = str((answer or {}).get("output") or "").encode()
            return encoded[max(0, len(encoded) - max_bytes) :].decode(errors="ignore")

        return await self._read(f"get the console of {provider_id}", tail, timeout, about_server=True)

    async def list_images(self, *, timeout: float) -> Sequence[CloudImage]:
        return await self._read("list the images", lambda: images(self._client), timeout)

    async def list_flavors(self, *, timeout: float) -> Sequence[CloudFlavor]:
        return await self._read("list the flavors", lambda: flavors(self._client), timeout)

    async def list_parts(self, *, timeout: float) -> Sequence[CloudPart]:
        return await self._read("list volumes, ports and addresses", lambda: list_parts(self._client), timeout)

    # -- writing ---------------------------------------------------------------------------------------------------

    async def create_server(self, spec: ServerSpec, *, token: str, timeout: float) -> CloudServer:
        wanted = self._wanted(spec)
        check(spec, wanted)

        def create() -> CloudServer:
            check_scope(self._client, wanted.project_id, wanted.region_name)
            compute = self._client.compute()
            asked = self._attributes(compute, spec, wanted, token)
            with self._lookup.trusted():
                made = compute.create_server(**asked)
            return CloudServer(
                provider_id=_id_of(made.id),
                name=str(asked["name"]),
                state=ServerState.BUILD,
                token=token,
                flavor=wanted.flavor,
                image=wanted.image,
            )

        return await self._write(f"create server {spec.name}", create, timeout)

    async def delete_server(self, provider_id: str, *, timeout: float) -> None:
        def delete() -> None:
            with gone_is_fine():
                self._client.compute().delete_server(provider_id, ignore_missing=False)

        await self._write(f"delete server {provider_id}", delete, timeout, about_server=True)

    async def start_server(self, provider_id: str, *, timeout: float) -> None:
        def start() -> None:
            compute = self._client.compute()
            server = self._get(compute, provider_id)
            if self._settled(server) is not ServerState.ACTIVE:
                getattr(compute, _WAKING.get(str(server.status), "start_server"))(provider_id)

        await self._write(f"start server {provider_id}", start, timeout, about_server=True)

    async def stop_server(self, provider_id: str, *, timeout: float) -> None:
        def stop() -> None:
            compute = self._client.compute()
            if self._settled(self._get(compute, provider_id)) is not ServerState.STOPPED:
                compute.stop_server(provider_id)

        await self._write(f"stop server {provider_id}", stop, timeout, about_server=True)

    async def reboot_server(self, provider_id: str, *, timeout: float) -> None:
        """A soft reboot where the server runs; nova makes it a hard one if the system does not answer."""

        def reboot() -> None:
            compute = self._client.compute()
            running = self._settled(self._get(compute, provider_id)) is ServerState.ACTIVE
            compute.reboot_server(provider_id, "SOFT" if running else "HARD")

        await self._write(f"reboot server {provider_id}", reboot, timeout, about_server=True)

    async def execute(self, provider_id: str, argv: Sequence[str], *, timeout: float) -> CommandResult:
        raise Unsupported(
            "OpenStack runs no commands in servers", advice="Use a health check by ports or URLs, or user data."
        )

    async def adopt_server(self, provider_id: str, *, token: str, timeout: float) -> CloudServer:
        def adopt() -> CloudServer:
            compute = self._client.compute()
            server = describe(self._get(compute, provider_id))
            if server.token and server.token != token:
                raise CloudRejected(f"{server.name} ({provider_id}) carries another token already")
            if not server.token:
                compute.set_server_metadata(provider_id, **{TOKEN: token})
            return msgspec.structs.replace(server, token=token)

        return await self._write(f"adopt server {provider_id}", adopt, timeout, about_server=True)

    # -- parts -----------------------------------------------------------------------------------------------------

    def parts(self, spec: ServerSpec) -> Sequence[PartSpec]:
        try:
            return parts_of(spec, self._wanted(spec))
        except CloudRejected:
            return []  # the create call says so

    async def create_part(self, part: PartSpec, *, token: str, timeout: float) -> CloudPart:
        def create() -> CloudPart:
            with self._lookup.trusted():
                made = create_part(self._client, self._lookup, part, token)
            _id_of(made.provider_id)
            return made

        made = await self._write(f"create {part.kind.value} {part.name}", create, timeout)
        return msgspec.structs.replace(made, token=token)

    async def delete_part(self, part: CloudPart, *, timeout: float) -> None:
        what = f"delete {part.kind.value} {part.provider_id}"
        await self._write(what, lambda: delete_part(self._client, part), timeout)

    async def finish_server(self, provider_id: str, spec: ServerSpec, *, timeout: float) -> CloudServer:
        wanted = self._wanted(spec)
        deadline = self._world.monotonic() + timeout

        def finish() -> str:
            return associate(self._client, self._lookup, provider_id, spec, wanted)

        await self.get_server(provider_id, timeout=timeout)
        address = await self._write(f"finish server {provider_id}", finish, deadline - self._world.monotonic())
        patience = self._world.monotonic() + _NEWS
        while True:
            left = deadline - self._world.monotonic()
            server = await self.get_server(provider_id, timeout=left)
            now = self._world.monotonic()
            # Nova hears of the association from neutron, a moment later.
            if not address or address in server.addresses or now + _PAUSE >= min(patience, deadline):
                break
            await asyncio.sleep(_PAUSE)
        if not address:
            return server
        return msgspec.structs.replace(server, addresses=tuple(dict.fromkeys([address, *server.addresses])))

    # -- the rest --------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Let the connections go; calls that nobody waits for any more end by themselves."""
        self._client.close()

    def snapshot(self) -> dict[str, Any]:
        """Calls by what they were, requests that they took, and threads taken now."""
        return {"calls": dict(self._calls), "requests": self._requests, "threads": self._threads.taken}

    def _wanted(self, spec: ServerSpec) -> Wanted:
        try:
            return msgspec.convert(spec.options, self._resource, strict=False).wanted()
        except msgspec.ValidationError as error:
            raise CloudRejected(f"the options of {spec.name} are wrong: {error}") from error

    def _attributes(self, compute: Compute, spec: ServerSpec, wanted: Wanted, token: str) -> dict[str, Any]:
        """What nova is asked for; all that must be looked up for it is."""
        flavor = self._lookup.flavor(wanted.flavor)
        booted = not wanted.volume_size  # else the volume has been made of the image
        image = self._lookup.image(wanted.image) if booted else ""
        size = 0
        if wanted.volume_size == 0:
            size = flavor.disk or self._image_gb(image)
            if wanted.volume_type and not openstack.utils.supports_microversion(compute, _VOLUME_TYPES):
                raise Unsupported(
                    "this cloud's nova is too old to make a boot volume of a given type",
                    advice="Take `volume_type` away, or give `volume_size` a size: then the volume is made beforehand.",
                )
        return attributes(
            spec,
            wanted,
            token,
            flavor_id=str(flavor.id),
            image_id=image,
            network_ids=[
                "" if network.needs_port else self._lookup.network(network.network) for network in wanted.networks
            ],
            volume_gb=size,
            hostname=openstack.utils.supports_microversion(compute, _HOSTNAMES),
        )

    def _image_gb(self, image_id: str) -> int:
        """GiB of a volume that the image fits on."""
        image = self._client.image().get_image(image_id)
        return max(1, image.min_disk or 0, math.ceil((image.size or 0) / (1 << 30)))

    def _list(self, *, ours: bool) -> list[CloudServer]:
        found = (describe(server) for server in self._client.compute().servers(details=True))
        return [s for s in found if bool(s.token) is ours and s.state is not ServerState.DELETED]

    def _get(self, compute: Compute, provider_id: str) -> Server:
        server = compute.get_server(provider_id)
        if describe(server).state is ServerState.DELETED:
            raise ServerGone(f"{provider_id} is deleted")
        return server

    def _settled(self, server: Server) -> ServerState:
        """Its state, if nova is not about to change it: then another verb would be refused, or be lost."""
        task = str(server.task_state or "")
        if task.startswith(
            ("power", "reboot", "resum", "suspend", "paus", "unpaus", "shelv", "unshelv", "rescu", "unrescu")
        ):
            raise CloudBusy(f"{server.name} is {task}")
        return describe(server).state

    async def _read(self, what: str, work: Callable[[], T], timeout: float, *, about_server: bool = False) -> T:
        return await self._call(what, work, timeout, effect=False, about_server=about_server)

    async def _write(self, what: str, work: Callable[[], T], timeout: float, *, about_server: bool = False) -> T:
        return await self._call(what, work, timeout, effect=True, about_server=about_server)

    async def _call(self, what: str, work: Callable[[], T], timeout: float, *, effect: bool, about_server: bool) -> T:
        """Run ``work`` in a thread, under the deadline, with its errors as the family's."""
        now = self._world.monotonic
        exchange = Exchange(now, now() + timeout, self._account.socket_timeout, effect=effect)

        def run() -> T:
            with self._client.during(exchange):
                try:
                    return work()
                except FOREIGN as error:
                    raise translate(error, exchange, what, about_server=about_server) from error
                finally:
                    self._requests += exchange.requests

        kind = what.split(" ", 1)[0]
        self._calls[kind] = self._calls.get(kind, 0) + 1
        try:
            async with asyncio.timeout(timeout):
                return await self._threads.run(run)
        except TimeoutError as error:
            message = f"cannot {what}: no answer within {timeout:g} s"
            # A thread that has begun may be sending at this moment; one that has not, will find the time over.
            raise (CloudUncertain if effect and exchange.begun else CloudUnreachable)(message) from error


def _id_of(answered: str | None) -> str:
    """The id of what was made. The SDK passes over an answer that is none, such as a proxy's page."""
    if not answered:
        raise CloudUncertain("the cloud answered a create, and not with what it made")
    return answered


def _age(server: CloudServer) -> tuple[float, str]:
    return (server.created_at or math.inf, server.provider_id)
