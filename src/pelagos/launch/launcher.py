"""The launcher: brings the levels of a plan up in order, takes them down in reverse, and goes on after a crash.

Each step is recorded before it is taken, so a launch can be repeated at any time: what is ready is left alone, what
died is booted again, what a crash left half-way is found by its token or name and finished. A level's parts boot at the
same time; one that fails does not stop the others of its level, and the next level does not begin. What is up stays up:
whether to mend and go on, or to take it all down, is for a person to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from pelagos.clients import Client
from pelagos.launch import infrastructures, programs
from pelagos.launch.booting import Boot
from pelagos.launch.errors import LaunchFailed
from pelagos.launch.plan import LaunchPlan, Part
from pelagos.launch.record import PartRecord, PartState, RecordFile, boot_token
from pelagos.model.errors import DeadlineExceeded, PelagosError
from pelagos.model.world import World
from pelagos.process.program import run_program

__all__ = ["Launcher", "PartStatus"]

_replace = msgspec.structs.replace


class PartStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A part as it is found now."""

    name: str
    level: int
    kind: str
    state: str
    """``ready``, ``booting``, ``failed``, ``stopping`` as recorded; ``dead`` if it was ready and is not there."""
    detail: str
    outputs: dict[str, Any]


class Launcher:
    """Works on one launch. ``client`` opens the services when the first infrastructure needs them; ``tell`` is given
    lines for people."""

    def __init__(
        self,
        record: RecordFile,
        world: World,
        client: Callable[[], Coroutine[Any, Any, Client]],
        tell: Callable[[str], None],
    ) -> None:
        self._record = record
        self._world = world
        self._open_client = client
        self._tell = tell
        self._client: Client | None = None
        self._opening = asyncio.Lock()

    # -- up --------------------------------------------------------------------------------------------------------

    async def up(self, plan: LaunchPlan, path: Path) -> list[PartStatus]:
        """Bring all levels up; ``path``: of the plan's file, absolute. Raises LaunchFailed after a level of which not
        all parts became ready."""
        for number, level in enumerate(plan.levels, 1):
            self._tell(f"Level {number} of {len(plan.levels)}" + (f", {level.name}" if level.name else ""))
            outputs = {part.name: part.outputs for part in self._record.parts if part.level < number}
            work = [self._part_up(part, number, path, outputs) for part in level.parts]
            failed = await self._all([part.name for part in level.parts], work)
            if failed:
                raise _failed(f"level {number} of {plan.launch} is not ready", failed, "Mend it and launch again")
        return await self.status()

    async def _part_up(self, part: Part, level: int, plan: Path, outputs: dict[str, dict[str, Any]]) -> None:
        known = self._record.get(part.name)
        boot = Boot(self, part, level, plan, outputs)
        if known is not None and known.state is PartState.READY and await boot.still_ready(known):
            self._tell(f"  {part.name}: is ready")
            return
        try:
            async with asyncio.timeout(part.timeout):
                await boot.run(known)
        except TimeoutError:
            boot.fail(f"not ready within {part.timeout:g} s" + (f": {boot.waiting}" if boot.waiting else ""))
            raise DeadlineExceeded(f"{part.name} is not ready within {part.timeout:g} s: {boot.waiting}") from None
        except PelagosError as error:
            boot.fail(error.message)
            raise

    # -- down ------------------------------------------------------------------------------------------------------

    async def down(self) -> None:
        """Take all that was launched down, the last level first. Raises LaunchFailed for what does not end."""
        for level in sorted({part.level for part in self._record.parts}, reverse=True):
            parts = [part for part in self._record.parts if part.level == level]
            self._tell(f"Level {level}")
            failed = await self._all([part.name for part in parts], [self._part_down(part) for part in parts])
            if failed:
                raise _failed(f"level {level} of {self._record.name} has not ended", failed, "Try again with --down")

    async def _part_down(self, part: PartRecord) -> None:
        self._tell(f"  {part.name}: terminating")
        self._record.put(_replace(part, state=PartState.STOPPING))
        if part.kind == "infrastructure":
            await infrastructures.take_down(await self.client(), part.infrastructure, self._world.new_id())
        else:
            if part.stop:
                await run_program(
                    self._world,
                    part.stop,
                    cwd=part.directory,
                    env=part.environment,
                    timeout=max(part.stop_timeout, 60.0),
                )
            pid = await self._world.run_blocking(programs.find, part.token)
            await programs.end(pid or part.pid, part.token, part.stop_timeout)
            await programs.end(0, boot_token(part.token), 0.0)
        self._record.remove(part.name)
        self._tell(f"  {part.name}: gone")

    # -- what is there -----------------------------------------------------------------------------------------------

    async def status(self) -> list[PartStatus]:
        """Every part as it is found now, in the order of the levels."""
        found = []
        for part in sorted(self._record.parts, key=lambda part: part.level):
            state, detail = part.state.value, part.error
            if part.state is PartState.READY:
                why = await self.dead(part)
                if why:
                    state, detail = "dead", why
            found.append(
                PartStatus(
                    name=part.name, level=part.level, kind=part.kind, state=state, detail=detail, outputs=part.outputs
                )
            )
        return found

    async def dead(self, part: PartRecord) -> str:
        """Why a part that was ready is not there; empty if it is."""
        if part.kind == "infrastructure":
            status = await infrastructures.status_of(await self.client(), part.infrastructure)
            if not infrastructures.is_ready(status):
                return "it is gone" if status is None else f"it is {status.state.value}"
        elif part.pid and not programs.alive(part.pid, part.token):
            return f"process {part.pid} has ended"
        return ""

    # -- what parts need -----------------------------------------------------------------------------------------------

    async def client(self) -> Client:
        async with self._opening:
            if self._client is None:
                self._client = await self._open_client()
            return self._client

    @property
    def record(self) -> RecordFile:
        return self._record

    @property
    def world(self) -> World:
        return self._world

    def tell(self, line: str) -> None:
        self._tell(line)

    async def _all(self, names: list[str], work: list[Coroutine[Any, Any, None]]) -> dict[str, str]:
        """Do it all at the same time, to the end; what failed, with the error."""
        done = await asyncio.gather(*work, return_exceptions=True)
        failed: dict[str, str] = {}
        for name, result in zip(names, done, strict=True):
            if isinstance(result, PelagosError):
                failed[name] = result.message
                self._tell(f"  {name}: {result.message}")
            elif isinstance(result, BaseException):
                raise result
        return failed


def _failed(summary: str, failed: dict[str, str], what: str) -> LaunchFailed:
    listed = "; ".join(f"{name}: {error}" for name, error in failed.items())
    return LaunchFailed(
        f"{summary}: {listed}", advice=f"{what}; what is ready stays as it is.", details={"parts": failed}
    )
