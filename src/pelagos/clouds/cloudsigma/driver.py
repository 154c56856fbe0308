"""The ``cloudsigma`` driver: servers with a boot drive of their own, cloned from a library drive.

Libcloud's own create clones, waits for minutes and then makes the server, all in one call, so a lost answer leaves
drives that nobody knows. Here the drive is a part in the port's sense: one step with a token of its own, in its name,
and ready when it is cloned. The server carries its token in ``meta``, which goes with its create. A server is made
stopped; it is started by the same call, and if that fails the call is uncertain: what was made is found, and deleted as
one that never booted. A running server cannot be deleted, so it is stopped first, with its power cut.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from pelagos.clouds.cloudsigma.options import CloudSigmaAccount, CloudSigmaResource
from pelagos.clouds.errors import CloudBusy, CloudRejected, ServerNotFound
from pelagos.clouds.libcloud.calls import LibraryCalls
from pelagos.clouds.libcloud.failures import scrubber, translate
from pelagos.clouds.libcloud.late import LateServers
from pelagos.clouds.libcloud.nodes import TOKEN_KEY, named, split
from pelagos.clouds.libcloud.wire import Ledger, watch
from pelagos.clouds.port import DriverContext
from pelagos.clouds.values import (
    Capabilities,
    CloudImage,
    CloudPart,
    CloudServer,
    CommandResult,
    PartKind,
    PartSpec,
    ServerSpec,
    TokenLookup,
)
from pelagos.model.errors import PelagosError, Unsupported
from pelagos.model.states import ServerState

__all__ = ["CloudSigmaDriver"]

T = TypeVar("T")
DRIVE = "drive"
_NAME_LIMIT = 80
_USER_DATA = "cloudinit-user-data"
_USER_DATA_LIMIT = 32_768
"""Bytes of a field of ``meta``, encoded; CloudSigma documents 32 KiB for all of it."""
_PAUSE = 0.5
_STATES = {
    "running": ServerState.ACTIVE,
    "stopping": ServerState.ACTIVE,
    "starting": ServerState.BUILD,
    "stopped": ServerState.STOPPED,
    "paused": ServerState.STOPPED,
    "unavailable": ServerState.UNKNOWN,
    "deleted": ServerState.DELETED,
}


class CloudSigmaDriver:
    """Opened for one account at one location."""

    def __init__(self, context: DriverContext, account: CloudSigmaAccount) -> None:
        self._account = account
        self._name = context.account
        self._world = context.world
        scrub = scrubber([account.password, account.email])

        def judge(error: Exception, ledger: Ledger, effect: bool, what: str) -> PelagosError:
            return translate(error, ledger, effect, what, scrub)

        self._calls: LibraryCalls[_Api] = LibraryCalls(
            context.world,
            context.account,
            lambda: _Api(account),
            judge,
            threads=account.threads,
            stuck_limit=account.stuck_limit,
        )
        self._late = LateServers(context.world, account.settle)
        self._capabilities = Capabilities(
            token_lookup=TokenLookup.TAG,
            settle=account.settle,
            create_timeout=account.create_timeout,
            call_timeout=account.call_timeout,
            build_timeout=account.build_timeout,
            poll_interval=account.poll_interval,
            parallel_calls=account.threads,
            power=True,
            user_data_limit=_USER_DATA_LIMIT * 3 // 4,
        )

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    # -- reads -----------------------------------------------------------------------------------------------------

    async def list_servers(self, *, timeout: float) -> Sequence[CloudServer]:
        found = await self._read("list servers", timeout, _Api.servers)
        return self._late.merge([one for one in found if one.token])

    async def list_foreign_servers(self, *, timeout: float) -> Sequence[CloudServer]:
        found = await self._read("list servers", timeout, _Api.servers)
        return [one for one in found if not one.token]

    async def get_server(self, provider_id: str, *, timeout: float) -> CloudServer:
        return await self._read("get server", timeout, lambda api: _server(api.server(provider_id)))

    async def find_by_token(self, token: str, *, timeout: float) -> CloudServer | None:
        found = await self._read("list servers", timeout, _Api.servers)
        carrying = [one for one in found if one.token == token]
        return min(carrying, key=lambda one: one.provider_id, default=None) or self._late.get(token)

    async def console(self, provider_id: str, *, max_bytes: int, timeout: float) -> str:
        raise Unsupported(f"the account {self._name} cannot console", advice="CloudSigma keeps none; use its VNC.")

    async def list_images(self, *, timeout: float) -> Sequence[CloudImage]:
        def images(api: _Api) -> list[CloudImage]:
            found = api.get("/libdrives/")["objects"]
            return [CloudImage(id=one["uuid"], name=one["name"], size_bytes=one.get("size")) for one in found]

        return await self._read("list library drives", timeout, images)

    async def list_flavors(self, *, timeout: float) -> Sequence[Any]:
        """None: a server has the ``cpu`` and ``mem`` that its description says."""
        return []

    # -- writes ----------------------------------------------------------------------------------------------------

    async def create_server(self, spec: ServerSpec, *, token: str, timeout: float) -> CloudServer:
        resource = _resource(spec)
        drive = spec.parts.get(DRIVE)
        if not drive:
            raise CloudRejected(f"the drive of {spec.name} was not made before it")
        definition = _definition(spec, resource, token, drive)

        def create(api: _Api) -> CloudServer:
            made = api.post("/servers/", definition)["objects"][0]
            api.act("servers", made["uuid"], "start")
            return CloudServer(provider_id=made["uuid"], name=spec.name, state=ServerState.BUILD, token=token)

        return await self._write("create server", timeout, create, late=self._late.arrived)

    async def delete_server(self, provider_id: str, *, timeout: float) -> None:
        deadline = self._world.monotonic() + timeout
        try:
            await self._halt(provider_id, deadline)
            await self._write("delete server", self._left(deadline), lambda api: api.delete(f"/servers/{provider_id}/"))
        except ServerNotFound:
            pass  # it is gone
        self._late.forget(provider_id)

    async def start_server(self, provider_id: str, *, timeout: float) -> None:
        await self._write("start server", timeout, lambda api: api.switch(provider_id, "start", ServerState.ACTIVE))

    async def stop_server(self, provider_id: str, *, timeout: float) -> None:
        await self._write("stop server", timeout, lambda api: api.switch(provider_id, "stop", ServerState.STOPPED))

    async def reboot_server(self, provider_id: str, *, timeout: float) -> None:
        deadline = self._world.monotonic() + timeout
        await self._halt(provider_id, deadline)
        await self.start_server(provider_id, timeout=self._left(deadline))

    async def execute(self, provider_id: str, argv: Sequence[str], *, timeout: float) -> CommandResult:
        raise Unsupported(f"the account {self._name} cannot execute", advice="CloudSigma has no such call; use SSH.")

    # -- parts -----------------------------------------------------------------------------------------------------

    def parts(self, spec: ServerSpec) -> Sequence[PartSpec]:
        """What cannot be read has none: the create call says what is wrong with it."""
        try:
            resource = _resource(spec)
        except CloudRejected:
            return ()
        options = {"libdrive_id": resource.libdrive_id}
        return [PartSpec(key=DRIVE, kind=PartKind.VOLUME, name=spec.name, options=options, keep=resource.keep_drive)]

    async def create_part(self, part: PartSpec, *, token: str, timeout: float) -> CloudPart:
        source = str(part.options["libdrive_id"])

        def clone(api: _Api) -> CloudPart:
            body = {"name": named(part.name, token, _NAME_LIMIT)}
            return _drive(api.act("libdrives", source, "clone", body)["objects"][0])

        return await self._write("create drive", timeout, clone)

    async def list_parts(self, *, timeout: float) -> Sequence[CloudPart]:
        def drives(api: _Api) -> list[CloudPart]:
            return [_drive(one) for one in api.get("/drives/detail/")["objects"]]

        return [one for one in await self._read("list drives", timeout, drives) if one.token]

    async def delete_part(self, part: CloudPart, *, timeout: float) -> None:
        try:
            await self._write("delete drive", timeout, lambda api: api.delete_drive(part.provider_id))
        except ServerNotFound:
            pass  # it is gone

    async def finish_server(self, provider_id: str, spec: ServerSpec, *, timeout: float) -> CloudServer:
        """Nothing is left to do: the drive was there from the beginning."""
        return await self.get_server(provider_id, timeout=timeout)

    # -- the rest --------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        self._calls.close()

    def snapshot(self) -> dict[str, Any]:
        """Counters and facts for people; no password."""
        return {"endpoint": self._account.endpoint, "late_servers": len(self._late), **self._calls.snapshot()}

    async def _halt(self, provider_id: str, deadline: float) -> None:
        """Stop it, and wait until it is. Raises CloudBusy if that takes longer."""
        while True:
            left = self._left(deadline)
            server = await self.get_server(provider_id, timeout=left)
            if server.state is ServerState.STOPPED:
                return
            if server.state in (ServerState.ACTIVE, ServerState.UNKNOWN) and not server.reason:
                await self.stop_server(provider_id, timeout=left)
            await asyncio.sleep(_PAUSE)

    def _left(self, deadline: float) -> float:
        left = deadline - self._world.monotonic()
        if left <= 0:
            raise CloudBusy("the server did not stop in time", advice="It is tried again.")
        return left

    async def _read(self, what: str, timeout: float, function: Callable[[_Api], T]) -> T:
        return await self._calls.read(function, timeout=timeout, what=what)

    async def _write(
        self, what: str, timeout: float, function: Callable[[_Api], T], *, late: Callable[[T], None] | None = None
    ) -> T:
        return await self._calls.write(function, timeout=timeout, what=what, late=late)


class _Api:
    """One thread's connection, and the requests over it."""

    def __init__(self, account: CloudSigmaAccount) -> None:
        from libcloud.compute.drivers.cloudsigma import CloudSigma_2_0_NodeDriver

        url = urlsplit(account.endpoint)
        driver = CloudSigma_2_0_NodeDriver(account.email, account.password, host=url.hostname, port=url.port)
        connection: Any = watch(driver).connection
        connection.host = url.hostname
        connection.secure = 1 if url.scheme == "https" else 0
        connection.port = url.port or (443 if connection.secure else 80)
        connection.api_prefix = url.path.rstrip("/") or "/api/2.0"
        self._connection = connection

    def get(self, path: str) -> Any:
        return self._connection.request(path).object

    def post(self, path: str, body: Any, **params: str) -> Any:
        return self._connection.request(path, method="POST", data=body, params=params).object

    def delete(self, path: str) -> None:
        self._connection.request(path, method="DELETE")

    def act(self, kind: str, id_: str, verb: str, body: Any = None) -> Any:
        """An action on a server or drive."""
        return self.post(f"/{kind}/{id_}/action/", body, do=verb)

    def servers(self) -> list[CloudServer]:
        found = [_server(one) for one in self.get("/servers/detail/")["objects"]]
        return [one for one in found if one.state is not ServerState.DELETED]

    def server(self, provider_id: str) -> Any:
        """Raises ServerNotFound, by the judge of the call, where there is none."""
        return self.get(f"/servers/{provider_id}/")

    def switch(self, provider_id: str, verb: str, wanted: ServerState) -> None:
        """Start or stop it, unless it is so already."""
        status = self.server(provider_id)["status"]
        if status in ("starting", "stopping"):
            raise CloudBusy(f"the server {provider_id} is {status}")
        if _STATES.get(status) is not wanted:
            self.act("servers", provider_id, verb)

    def delete_drive(self, drive: str) -> None:
        if self.get(f"/drives/{drive}/")["status"] == "mounted":
            raise CloudBusy(f"the drive {drive} is in use")
        self.delete(f"/drives/{drive}/")


def _resource(spec: ServerSpec) -> CloudSigmaResource:
    try:
        return msgspec.convert(dict(spec.options), CloudSigmaResource, strict=False)
    except msgspec.ValidationError as error:
        raise CloudRejected(f"the resource is wrong: {error}", advice="See the keys of `type: cloudsigma`.") from error


def _definition(spec: ServerSpec, resource: CloudSigmaResource, token: str, drive: str) -> dict[str, Any]:
    """The server in CloudSigma's words."""
    given = dict(resource.description)
    meta = {**given.pop("meta", {}), TOKEN_KEY: token}
    if spec.user_data:
        encoded = base64.b64encode(spec.user_data.encode()).decode()
        if len(encoded) > _USER_DATA_LIMIT:
            raise CloudRejected(
                f"the user data has {len(encoded)} bytes once encoded, and CloudSigma takes {_USER_DATA_LIMIT}",
                advice="Shorten the context, or let it fetch the rest from somewhere.",
            )
        meta |= {"base64_fields": _USER_DATA, _USER_DATA: encoded}
    boot = {"boot_order": 1, "dev_channel": "0:0", "device": "virtio", "drive": drive}
    numbers = {key: int(given.pop(key)) for key in ("cpu", "mem")}
    return {
        "nics": [{"ip_v4_conf": {"conf": "dhcp"}, "model": "virtio"}],
        **given,
        **numbers,
        "name": spec.name,
        "meta": meta,
        "drives": [boot, *given.get("drives", [])],
    }


def _server(one: Mapping[str, Any]) -> CloudServer:
    """A server as the API shows it."""
    public: list[str] = []
    private: list[str] = []
    for nic in (one.get("runtime") or {}).get("nics") or []:
        address = (nic.get("ip_v4") or {}).get("uuid") or ""
        (public if nic.get("interface_type") == "public" else private).append(address)
    state = _STATES.get(one["status"], ServerState.UNKNOWN)
    return CloudServer(
        provider_id=one["uuid"],
        name=one["name"],
        state=state,
        token=str((one.get("meta") or {}).get(TOKEN_KEY, "")),
        addresses=tuple(filter(None, public)),
        private_addresses=tuple(filter(None, private)),
        reason=one["status"] if one["status"] in ("stopping", "unavailable") else "",
    )


def _drive(one: Mapping[str, Any]) -> CloudPart:
    token, name = split(str(one.get("name", "")))
    status = str(one.get("status", ""))
    return CloudPart(
        provider_id=one["uuid"],
        kind=PartKind.VOLUME,
        name=name,
        token=token,
        ready=status in ("unmounted", "mounted"),
        failed="CloudSigma calls the drive unavailable" if status == "unavailable" else "",
    )
