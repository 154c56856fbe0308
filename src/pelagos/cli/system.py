"""What the commands and the shell ask of a system of containers: one method a question, over a control socket.

The agents know; this knows only which agent to ask. Lists of the whole system are gathered by the agent of the
container at the other end; what concerns one container goes to that one's.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from pelagos.container.messages import (
    AllProcesses,
    AllServices,
    ExchangeInfo,
    ExchangeQuery,
    LogLevelRequest,
    NodeInfo,
    ProcessInfo,
    ProcessQuery,
    RemoveQueue,
    ServiceInfo,
    SpawnRequest,
    SpawnResult,
    TerminateRequest,
    agent_of,
)
from pelagos.model.errors import DeadlineExceeded, NotFound, Unavailable

if TYPE_CHECKING:
    from pelagos.container.control.port import Control
    from pelagos.exchange import DeadLetter

__all__ = ["System"]

_LIST = 1.5
"""Seconds that one container may take to tell what it has; a person waits."""
_ADVICE = 1.0
"""Seconds that looking for advice may take."""


class System:
    """Raises :class:`Unavailable` when the container at the other end goes away."""

    def __init__(self, control: Control) -> None:
        self.control = control

    @property
    def name(self) -> str:
        return self.control.info.system

    @property
    def here(self) -> str:
        """The id of the container at the other end."""
        return self.control.info.id

    async def _ask(
        self, op: str, content: object = None, *, of: str = "", result: Any = Any, timeout: float | None = None
    ) -> Any:
        try:
            return await self.control.call(agent_of(of or self.here), op, content, result=result, timeout=timeout)
        except Unavailable:
            if of and of != self.here:
                await self._known(of)  # raises what says more, if it is no container at all
            raise

    # -- who is there --------------------------------------------------------------------------------------------

    async def nodes(self) -> list[NodeInfo]:
        found: list[NodeInfo] = await self._ask("nodes", result=list[NodeInfo])
        return sorted(found, key=lambda node: (node.started_at, node.id))

    async def alive(self) -> list[str]:
        """The ids of the containers that can be asked, ours first."""
        found = [node.id for node in await self.nodes() if node.state in ("alive", "suspect")]
        return sorted(found or [self.here], key=lambda node: node != self.here)

    async def processes(self, *, on: str = "", service: str = "") -> AllProcesses:
        """``on``: of that container alone."""
        query = ProcessQuery(service)
        if on:
            found: list[ProcessInfo] = await self._ask(
                "processes", query, of=on, result=list[ProcessInfo], timeout=_LIST
            )
            return AllProcesses(tuple(found))
        answer: AllProcesses = await self._ask("all_processes", query, result=AllProcesses)
        return answer

    async def services(self) -> list[ServiceInfo]:
        return list((await self.all_services()).services)

    async def all_services(self) -> AllServices:
        """By name, and which containers did not answer."""
        answer: AllServices = await self._ask("all_services", result=AllServices)
        return answer

    async def exchange_names(self, part: str = "", *, on: str = "", processes: bool = False) -> ExchangeInfo:
        """What a container receives at: that at the other end, or ``on``."""
        query = ExchangeQuery(part=part, processes=processes)
        found: ExchangeInfo = await self._ask("exchange_names", query, of=on, result=ExchangeInfo)
        return found

    # -- change --------------------------------------------------------------------------------------------------

    async def spawn(
        self, name: str, *, on: str = "any", count: int = 1, arguments: dict[str, Any] | None = None
    ) -> SpawnResult:
        """``on``: a container's id, ``any``, or empty for the one at the other end. Raises :class:`NotFound` for what
        nobody can start."""
        request = SpawnRequest(name, on, count, arguments or {})
        answer: SpawnResult = await self._ask("spawn", request, result=SpawnResult)
        return answer

    async def kill(self, process: str, *, shutdown: float | None = None) -> None:
        """End a process for good. Raises :class:`NotFound` if there is none of that id."""
        request = TerminateRequest(process.removeprefix("process:"), shutdown)
        await self._ask("terminate", request)

    async def remove_queue(self, address: str, *, drop: bool = False) -> int:
        """Of a durable service that nobody serves; how many messages waited. Raises :class:`Conflict`."""
        found: int = await self._ask("remove_queue", RemoveQueue(address, drop), result=int)
        return found

    # -- log levels ----------------------------------------------------------------------------------------------

    async def log_levels(self, *, on: str = "") -> dict[str, str]:
        """Level by package, as they are now; an empty package is that of all others."""
        found: dict[str, str] = await self._ask("log_levels", of=on, result=dict[str, str])
        return found

    async def set_log_level(self, room: str, level: str, *, on: str = "") -> list[str]:
        """On one container, or on all; the ids of those that did. Raises :class:`InvalidInput` for a package that does
        not exist."""
        request = LogLevelRequest(room, level, everywhere=not on)
        answer: list[str] = await self._ask("set_log_level", request, of=on, result=list[str])
        return answer

    # -- dead letters --------------------------------------------------------------------------------------------

    async def dead_letters(self, limit: int) -> list[DeadLetter]:
        from pelagos.exchange import DeadLetter

        found: list[DeadLetter] = await self._ask("dead_letters", limit, result=list[DeadLetter])
        return found

    async def dead_letter(self, letter: str) -> DeadLetter:
        from pelagos.exchange import DeadLetter

        found: DeadLetter = await self._ask("dead_letter", letter, result=DeadLetter)
        return found

    async def retry_dead_letter(self, letter: str) -> None:
        await self._ask("retry_dead_letter", letter)

    async def drop_dead_letter(self, letter: str) -> None:
        await self._ask("drop_dead_letter", letter)

    # -- names ---------------------------------------------------------------------------------------------------

    async def _known(self, container: str) -> None:
        """Raises :class:`NotFound` or :class:`Unavailable` for a container that cannot be asked."""
        nodes = {node.id: node for node in await self.nodes()}
        found = nodes.get(container)
        if found is None:
            near = difflib.get_close_matches(container, nodes, n=2, cutoff=0.4)
            advice = f"Did you mean {' or '.join(near)}?" if near else "See pelagos nodes."
            raise NotFound(f"system {self.name} has no container {container}", advice=advice)
        if found.state not in ("alive", "suspect"):
            raise Unavailable(
                f"container {container} is {found.state}; it was heard of {found.heard:.0f} s ago",
                advice="See pelagos nodes.",
            )

    async def call(self, address: str, op: str, content: object, *, result: Any = Any, timeout: float | None) -> Any:
        """A person's call: if nobody serves the address, the advice names what there is."""
        async with self._advised(address):
            return await self.control.call(address, op, content, result=result, timeout=timeout)

    async def send(self, address: str, op: str, content: object) -> None:
        """A person's one-way message, advised likewise. A fan-out or topic needs nobody who listens."""
        async with self._advised(address):
            await self.control.send(address, op, content)

    @asynccontextmanager
    async def _advised(self, address: str) -> AsyncIterator[None]:
        try:
            yield
        except Unavailable as error:
            # That nobody serves an address is said at once; any other error comes late, and has advice of its own.
            if error.details.get("address"):
                advice = await self._service_advice(address)
                if advice:
                    error.advice = advice
            raise

    async def _service_advice(self, address: str) -> str:
        """What to do when nobody serves an address: names that are close, or who can be started; empty if it is
        served, or no service. Of what the containers have announced: nobody is asked."""
        kind, _, name = address.partition(":")
        if kind != "service":
            return ""
        try:
            async with asyncio.timeout(_ADVICE):
                nodes = [node for node in await self.nodes() if node.state in ("alive", "suspect")]
        except (Unavailable, DeadlineExceeded, TimeoutError):
            return ""
        services = sorted({known for node in nodes for known in node.services})
        startable = {known for node in nodes for known in node.startable}
        if name in services:
            return ""
        if name in startable:
            return f"Start it: pelagos spawn {name}"
        near = difflib.get_close_matches(name, sorted({*services, *startable}), n=2)
        return f"Did you mean {' or '.join(near)}?" if near else "See pelagos services for what there is."
