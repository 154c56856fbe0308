"""The ``local`` cloud: servers are namespaces, or at worst plain processes, of this machine.

Truth is on disk and in the kernel, so any number of commands may use the same account at once, and none of them
needs to live for its instances to. The verbs here only wait: the work is in :mod:`pelagos.clouds.local.lifecycle`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pelagos.clouds.errors import CloudBusy, CloudError, CloudUncertain, CloudUnreachable, ServerNotFound
from pelagos.clouds.local.facts import LocalFacts, cached_probe
from pelagos.clouds.local.launcher import guest_command
from pelagos.clouds.local.lifecycle import Lifecycle
from pelagos.clouds.local.options import LIMITS, LocalAccount
from pelagos.clouds.local.processes import listens
from pelagos.clouds.local.record import Busy, Instance, InstanceDirectory, boot_id
from pelagos.clouds.port import DriverContext, ListenerOracle
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

__all__ = ["LocalDriver"]

T = TypeVar("T")
POLL = 0.01
OUTPUT_LIMIT = 1 << 18
KILLED_WITHOUT_A_WORD = "its init was killed by signal 9 (by somebody, or for want of memory)"
CAPABILITIES = Capabilities(
    token_lookup=TokenLookup.IDEMPOTENT,
    settle=1.0,
    create_timeout=60.0,
    call_timeout=30.0,
    build_timeout=60.0,
    poll_interval=0.2,
    parallel_calls=8,
    power=True,
    console=True,
    execute=True,
    user_data_limit=8 << 20,
    host_local=True,
)


class LocalDriver(ListenerOracle):
    """One account of the local cloud. ``limits``: this user may make control groups here."""

    def __init__(self, context: DriverContext, *, limits: bool = False) -> None:
        self._capabilities = msgspec.structs.replace(CAPABILITIES, updates=LIMITS if limits else frozenset())
        self._world = context.world
        self._account = msgspec.convert(dict(context.options), LocalAccount)
        self._home = Path(context.home)
        self._directory = InstanceDirectory(self._home, context.account)
        self._facts: LocalFacts | None = None
        self._lifecycle: Lifecycle | None = None
        self._calls = {"create": 0, "delete": 0, "execute": 0}

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    # -- reading ------------------------------------------------------------------------------------------------

    async def list_servers(self, *, timeout: float) -> Sequence[CloudServer]:
        return await self._read(self._list, timeout)

    async def get_server(self, provider_id: str, *, timeout: float) -> CloudServer:
        return await self._read(lambda: describe(self._look(provider_id)), timeout)

    async def find_by_token(self, token: str, *, timeout: float) -> CloudServer | None:
        def find() -> CloudServer | None:
            return next((server for server in self._list() if server.token == token), None)

        return await self._read(find, timeout)

    async def console(self, provider_id: str, *, max_bytes: int, timeout: float) -> str:
        def tail() -> str:
            self._look(provider_id)
            try:
                with (self._directory.of(provider_id) / "console.log").open("rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    file.seek(max(0, size - max_bytes))
                    return file.read(max_bytes).decode("utf-8", "replace")
            except FileNotFoundError:
                return ""

        return await self._read(tail, timeout)

    async def list_images(self, *, timeout: float) -> Sequence[CloudImage]:
        """``host``, and the tarballs that instances are made of now."""

        def images() -> list[CloudImage]:
            used = {record.options.get("image", "host") for record in self._directory.records()} - {"host"}
            return [CloudImage(id=name, name=name) for name in ("host", *sorted(used))]

        return await self._read(images, timeout)

    async def list_flavors(self, *, timeout: float) -> Sequence[CloudFlavor]:
        """None: ``cpus`` and ``memory_mb`` of a resource section may be anything."""
        return ()

    async def list_foreign_servers(self, *, timeout: float) -> Sequence[CloudServer]:
        return await self._read(lambda: self._list(ours=False), timeout)

    def _list(self, *, ours: bool = True) -> list[CloudServer]:
        """Instances with a token, or those without."""
        records = (record for record in self._directory.records() if bool(record.token) is ours)
        looked = (self._directory.look(record) for record in records)
        return [describe(instance) for instance in looked if instance is not None]

    def _look(self, provider_id: str) -> Instance:
        record = self._directory.record(provider_id)
        instance = None if record is None else self._directory.look(record)
        if instance is None:
            raise ServerNotFound(f"there is no local instance {provider_id}")
        return instance

    async def _read(self, function: Callable[[], T], timeout: float) -> T:
        try:
            async with asyncio.timeout(timeout):
                return await self._world.run_blocking(function)
        except TimeoutError as error:
            raise CloudUnreachable(f"the local instances' files could not be read within {timeout:.0f} s") from error
        except OSError as error:
            raise CloudError(
                f"the local instances' files cannot be read: {error}", advice="Check who owns PELAGOS_HOME."
            ) from error

    # -- writing ------------------------------------------------------------------------------------------------

    async def create_server(self, spec: ServerSpec, *, token: str, timeout: float) -> CloudServer:
        self._calls["create"] += 1

        now = self._world.now()

        def create(life: Lifecycle, left: float) -> CloudServer:
            return describe(self._look(life.create(spec, token, now=now, timeout=left)))

        return await self._write(create, timeout)

    async def delete_server(self, provider_id: str, *, timeout: float) -> None:
        self._calls["delete"] += 1
        await self._write(lambda life, left: life.delete(provider_id, timeout=left), timeout)

    async def adopt_server(self, provider_id: str, *, token: str, timeout: float) -> CloudServer:
        def adopt(life: Lifecycle, left: float) -> CloudServer:
            life.adopt(provider_id, token)
            return describe(self._look(provider_id))

        return await self._write(adopt, timeout)

    async def start_server(self, provider_id: str, *, timeout: float) -> None:
        await self._write(lambda life, left: life.start(provider_id, timeout=left), timeout)

    async def stop_server(self, provider_id: str, *, timeout: float) -> None:
        await self._write(lambda life, left: life.stop(provider_id, timeout=left), timeout)

    async def reboot_server(self, provider_id: str, *, timeout: float) -> None:
        await self.stop_server(provider_id, timeout=timeout)
        await self.start_server(provider_id, timeout=timeout)

    async def update_server(self, provider_id: str, values: Mapping[str, Any], *, timeout: float) -> None:
        others = sorted(values.keys() - self._capabilities.updates)
        if others:
            raise Unsupported(
                f"{', '.join(others)} of a local instance that is there cannot be changed",
                advice="`pelagos doctor` says under local.limits whether limits can be set on this machine.",
            )
        await self._write(lambda life, left: life.update(provider_id, values), timeout)

    async def _write(self, verb: Callable[[Lifecycle, float], T], timeout: float) -> T:
        """Do it, waiting while somebody else is at the same instance."""
        deadline = self._world.monotonic() + timeout
        life = await self._life()
        try:
            async with asyncio.timeout(timeout):
                while True:
                    left = max(0.1, deadline - self._world.monotonic() - POLL)
                    with contextlib.suppress(Busy):
                        return await self._world.run_blocking(verb, life, left)
                    await asyncio.sleep(POLL)
        except TimeoutError as error:
            raise CloudUncertain(f"the local cloud did not finish within {timeout:.0f} s") from error
        except OSError as error:
            raise CloudError(
                f"the local cloud failed: {error}", advice="See what `pelagos doctor` says of this machine."
            ) from error

    # -- inside -------------------------------------------------------------------------------------------------

    async def execute(self, provider_id: str, argv: Sequence[str], *, timeout: float) -> CommandResult:
        self._calls["execute"] += 1
        if not argv:
            raise Unsupported("a command needs at least one word")
        life = await self._life()
        order = await self._read(lambda: self._order(life, provider_id, argv), timeout)
        process = await self._world.spawn(
            guest_command("enter", order),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            env={"LC_ALL": "C.UTF-8"},
            cwd="/",
        )
        output = bytearray()
        try:
            async with asyncio.timeout(timeout):
                assert process.stdout is not None
                while chunk := await process.stdout.read(1 << 16):
                    output += chunk[: max(0, OUTPUT_LIMIT - len(output))]
                code = await process.wait()
        except TimeoutError as error:
            raise CloudUncertain(f"{argv[0]} did not end within {timeout:g} s inside {provider_id}") from error
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
                await asyncio.shield(process.wait())
        return CommandResult(code, output.decode("utf-8", "replace"))

    def _order(self, life: Lifecycle, provider_id: str, argv: Sequence[str]) -> str:
        instance = self._look(provider_id)
        pid = life.init_of(instance)
        if not instance.running or not pid:
            raise CloudBusy(
                f"{provider_id} is not running: {describe(instance).reason or 'it is being built'}",
                advice="Start it first.",
            )
        record = instance.record
        private = os.fspath(self._directory.of(provider_id) / "files")
        order = {
            "pid": pid,
            "start": instance.start,
            "level": record.level,
            "argv": list(argv),
            "environment": life.environment(record),
            "working_directory": private,
            "cgroups": life.groups.joins(provider_id),
        }
        return json.dumps(order)

    async def verify_listener(self, provider_id: str, address: str, port: int, *, timeout: float) -> bool:
        """Whether the TCP listener at address and port belongs to this instance.

        In loopback mode the machine's port space is shared: another program that listens on 0.0.0.0 would answer
        for the instance. A health check of a port or a URL asks this too. False if the instance does not run."""
        life = await self._life()

        def verify() -> bool:
            instance = self._look(provider_id)
            pid = life.init_of(instance)
            record = instance.record
            return bool(pid) and listens(pid, record.level, record.network, address, port)

        return await self._read(verify, timeout)

    # -- the rest -----------------------------------------------------------------------------------------------

    async def facts(self) -> LocalFacts:
        """What this machine allows, as ``pelagos doctor`` shows it."""
        if self._facts is None:
            try:
                self._facts = await self._world.run_blocking(
                    cached_probe, self._home, self._directory.path / "facts.msgpack"
                )
            except OSError as error:
                raise Unsupported(
                    f"the local cloud cannot use {self._home}: {error}",
                    advice="Let PELAGOS_HOME be a directory on a disk with room, that this user may write.",
                ) from error
        return self._facts

    async def _life(self) -> Lifecycle:
        if self._lifecycle is None:
            facts = await self.facts()
            self._lifecycle = await self._world.run_blocking(
                Lifecycle, self._directory, self._home, self._account, facts
            )
        return self._lifecycle

    async def close(self) -> None:
        """Nothing is held: instances live on their own."""

    def snapshot(self) -> dict[str, Any]:
        """Counters and what was found of this machine."""
        facts = None if self._facts is None else msgspec.to_builtins(self._facts)
        return {"calls": dict(self._calls), "directory": os.fspath(self._directory.path), "facts": facts}


def describe(instance: Instance) -> CloudServer:
    """An instance in the port's terms."""
    state, reason = _state(instance)
    record = instance.record
    return CloudServer(
        provider_id=record.provider_id,
        name=record.name,
        state=state,
        token=record.token,
        addresses=(record.address,),
        private_addresses=(record.address,),
        reason=reason,
        created_at=record.created_at,
        image=str(record.options.get("image", "host")),
    )


def _state(instance: Instance) -> tuple[ServerState, str]:
    life = instance.last_life
    if instance.running:
        return ServerState.ACTIVE, ""
    if instance.alive or instance.making:
        return ServerState.BUILD, ""
    if not instance.boot and not life:
        return (
            ServerState.ERROR,
            "its creation was interrupted before it was started: create it again with the same token, or delete it",
        )
    if instance.record.wanted == "stopped":
        return ServerState.STOPPED, "stopped on request"
    if instance.boot != boot_id():
        return ServerState.STOPPED, "this machine was restarted"
    if "exit" in life:
        return ServerState.STOPPED, str(life["exit"].get("reason", "it ended"))
    if "running" not in life:
        return ServerState.ERROR, "it could not be started: its console log says why"
    return ServerState.STOPPED, KILLED_WITHOUT_A_WORD
