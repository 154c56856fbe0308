"""Edges: the moments at which a process may die, or stop for a while. Each is counted, and at a chosen one it happens.

A transaction has three: when it is handed to the store, before its commit (nothing is written), and after it, before
anybody is told. A driver call has two: before it is sent, and when its reply is there and nobody has seen it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from pelagos.clouds.port import DriverContext, DriverPlugin
from pelagos.clouds.simulated import SimulatedDriver
from pelagos.clouds.values import Capabilities, CloudPart, CloudServer, CommandResult, PartSpec, ServerSpec

__all__ = ["Crash", "DyingPlugin", "Edges"]


class Crash(BaseException):
    """What a dead process's calls to its store raise; nobody of it is left to see it."""


class Edges:
    """Counts edges of one process; at a chosen one it dies by ``die``, or is stopped by ``pause``."""

    def __init__(self, die: Callable[[str], None], pause: Callable[[], None]) -> None:
        self._die = die
        self._pause = pause
        self.seen = 0
        self._chosen: int | None = None
        self._only_pause = False
        self.died_at = ""

    def arm(self, edge: int, *, pause: bool = False) -> None:
        """Die, or ``pause``, at the edge of that number, from now on, counted from 0."""
        self._chosen = self.seen + edge
        self._only_pause = pause

    def disarm(self) -> None:
        self._chosen = None

    def reached(self, what: str) -> bool:
        """Whether the process has just died here."""
        number = self.seen
        self.seen += 1
        if self._chosen is None or number != self._chosen:
            return False
        self._chosen = None
        if self._only_pause:
            self._pause()
            return False
        self.died_at = f"edge {number}: {what}"
        self._die(self.died_at)
        return True

    async def pass_(self, what: str) -> None:
        """An edge in a coroutine: the dead never return from it."""
        if self.reached(what):
            await _forever()


async def _forever() -> NoReturn:
    await asyncio.get_running_loop().create_future()
    raise AssertionError("the dead do not wake")


class DyingPlugin:
    """A driver plug-in whose drivers' calls have edges."""

    def __init__(self, plugin: DriverPlugin, edges: Edges) -> None:
        self._plugin = plugin
        self._edges = edges
        self.name = plugin.name
        self.resource = plugin.resource
        self.account_options = plugin.account_options

    async def open(self, context: DriverContext) -> _DyingDriver:
        driver = await self._plugin.open(context)
        assert isinstance(driver, SimulatedDriver)
        return _DyingDriver(driver, self._edges)


class _DyingDriver:
    def __init__(self, driver: SimulatedDriver, edges: Edges) -> None:
        self._driver = driver
        self._edges = edges

    @property
    def capabilities(self) -> Capabilities:
        return self._driver.capabilities

    async def _through(self, verb: str, call: Callable[[], Any]) -> Any:
        await self._edges.pass_(f"before {verb}")
        try:
            return await call()
        finally:
            await self._edges.pass_(f"after {verb}")

    async def list_servers(self, *, timeout: float) -> Sequence[CloudServer]:
        found: Sequence[CloudServer] = await self._through("list", lambda: self._driver.list_servers(timeout=timeout))
        return found

    async def get_server(self, provider_id: str, *, timeout: float) -> CloudServer:
        found: CloudServer = await self._through("get", lambda: self._driver.get_server(provider_id, timeout=timeout))
        return found

    async def find_by_token(self, token: str, *, timeout: float) -> CloudServer | None:
        found: CloudServer | None = await self._through(
            "find", lambda: self._driver.find_by_token(token, timeout=timeout)
        )
        return found

    async def console(self, provider_id: str, *, max_bytes: int, timeout: float) -> str:
        return await self._driver.console(provider_id, max_bytes=max_bytes, timeout=timeout)

    async def create_server(self, spec: ServerSpec, *, token: str, timeout: float) -> CloudServer:
        made: CloudServer = await self._through(
            "create", lambda: self._driver.create_server(spec, token=token, timeout=timeout)
        )
        return made

    async def delete_server(self, provider_id: str, *, timeout: float) -> None:
        await self._through("delete", lambda: self._driver.delete_server(provider_id, timeout=timeout))

    async def start_server(self, provider_id: str, *, timeout: float) -> None:
        await self._through("start", lambda: self._driver.start_server(provider_id, timeout=timeout))

    async def stop_server(self, provider_id: str, *, timeout: float) -> None:
        await self._through("stop", lambda: self._driver.stop_server(provider_id, timeout=timeout))

    async def reboot_server(self, provider_id: str, *, timeout: float) -> None:
        await self._through("reboot", lambda: self._driver.reboot_server(provider_id, timeout=timeout))

    async def update_server(self, provider_id: str, values: Mapping[str, Any], *, timeout: float) -> None:
        await self._through("update", lambda: self._driver.update_server(provider_id, values, timeout=timeout))

    async def execute(self, provider_id: str, argv: Sequence[str], *, timeout: float) -> CommandResult:
        return await self._driver.execute(provider_id, argv, timeout=timeout)

    def parts(self, spec: ServerSpec) -> Sequence[PartSpec]:
        return self._driver.parts(spec)

    async def create_part(self, part: PartSpec, *, token: str, timeout: float) -> CloudPart:
        made: CloudPart = await self._through(
            "part", lambda: self._driver.create_part(part, token=token, timeout=timeout)
        )
        return made

    async def list_parts(self, *, timeout: float) -> Sequence[CloudPart]:
        found: Sequence[CloudPart] = await self._through("parts", lambda: self._driver.list_parts(timeout=timeout))
        return found

    async def delete_part(self, part: CloudPart, *, timeout: float) -> None:
        await self._through("unpart", lambda: self._driver.delete_part(part, timeout=timeout))

    async def finish_server(self, provider_id: str, spec: ServerSpec, *, timeout: float) -> CloudServer:
        finished: CloudServer = await self._through(
            "finish", lambda: self._driver.finish_server(provider_id, spec, timeout=timeout)
        )
        return finished

    async def close(self) -> None:
        await self._driver.close()

    def snapshot(self) -> dict[str, Any]:
        return self._driver.snapshot()
