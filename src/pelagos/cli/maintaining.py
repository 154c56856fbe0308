"""``maintain`` without a daemon: passes over infrastructures, a run of kind ``maintain`` each, until stopped.

A pass that fails (a cloud that does not answer) is told and tried again after the interval; only ``--once`` ends with
it. Several infrastructures are passed over at once, so that a slow one delays nobody.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING

from pelagos.cli.exits import Exit, exit_of
from pelagos.cli.failures import show_error
from pelagos.cli.progress import LogProgress
from pelagos.cli.runs import Outcome, carry_out, exit_of_run
from pelagos.cli.texts import clean, count, duration, join
from pelagos.cli.trail import Trail
from pelagos.model.errors import Gone, NotFound, PelagosError
from pelagos.model.states import InfrastructureState, InstanceState
from pelagos.wire.infrastructures import ExplainView, RunRequest, StatusView, Strategy
from pelagos.wire.times import from_rfc3339

if TYPE_CHECKING:
    from pelagos.cli.interrupts import Interrupts
    from pelagos.cli.invocation import Invocation
    from pelagos.cli.session import Session

__all__ = ["Maintainer", "did", "waits"]

_AT_ONCE = 8
_TOLD = 5
_WORST_FIRST = (Exit.INTERRUPTED, Exit.FAILED, Exit.NOT_READY)


def did(trail: Trail) -> list[str]:
    """What a pass did, in words; empty if all was well."""
    told = []
    if trail.created:
        told.append(f"made {count(trail.created, 'instance')}")
    if trail.destroyed:
        told.append(f"destroyed {count(trail.destroyed, 'instance')}")
    unwell = sum(one.state in ("temp_failed", "failed") for node in trail.nodes.values() for one in node.alive.values())
    if unwell:
        told.append(f"found {count(unwell, 'instance')} not healthy")
    return told


def waits(view: ExplainView, now: float) -> list[str]:
    """What is not ready yet and what it waits for, in words: instances first, then nodes that back off or lack any."""
    instances, nodes = [], []
    for step in view.steps:
        kind, _, name = step.subject.partition(" ")
        when = f", next try in {duration(from_rfc3339(step.next_try) - now)}" if step.next_try else ""
        if kind == "instance" and step.state == InstanceState.TEMP_FAILED:
            instances.append(f"{name} is not healthy and is replaced if it stays so")
        elif kind == "instance":
            instances.append(f"{name} is {step.state}" + (f" ({clean(step.why)}{when})" if step.why else ""))
        elif kind == "node" and step.next_try:
            until = datetime.fromtimestamp(from_rfc3339(step.next_try)).astimezone()
            nodes.append(f"node {name} backs off until {until:%H:%M:%S}")
        elif kind == "node" and step.why:
            nodes.append(f"node {name}: {clean(step.why)}")
    told = instances + nodes
    return told if len(told) <= _TOLD else [*told[:_TOLD], f"{len(told) - _TOLD} more"]


class Maintainer:
    """Passes, their reports, and the exit code at the end. ``interrupts`` end the waiting and cancel a pass."""

    def __init__(
        self,
        invocation: Invocation,
        session: Session,
        interrupts: Interrupts,
        *,
        once: bool,
        reset: tuple[str, ...] = (),
        strategy: Strategy = "parallel",
    ) -> None:
        self._invocation = invocation
        self._session = session
        self._interrupts = interrupts
        self._once = once
        self._reset = reset
        self._strategy = strategy
        self._last: dict[str, tuple[object, ...]] = {}

    async def keep_all(self, interval: float) -> int:
        """All that are to be kept alive; those that come later are found at the next pass."""
        while True:
            known = await self._session.client.infrastructures.list()
            kept = [one.id for one in known if one.maintained and one.state is not InfrastructureState.DESTROYING]
            if not kept:
                self._invocation.note("There is no infrastructure to be kept alive.")
            code = await self._round(kept)
            if self._once:
                return code
            if await self._stopped(interval):
                return Exit.INTERRUPTED

    async def keep(self, identifiers: list[str], interval: float) -> int:
        """These, until stopped or gone."""
        while True:
            code = await self._round(identifiers)
            if self._once or code == Exit.MISSING:
                return code
            if await self._stopped(interval):
                return Exit.INTERRUPTED

    async def _stopped(self, interval: float) -> bool:
        """Wait for the next pass; True as soon as Ctrl+C came."""
        try:
            async with asyncio.timeout(interval):
                await self._interrupts.asked.wait()
        except TimeoutError:
            return False
        return True

    async def _round(self, identifiers: list[str]) -> int:
        """One pass over each; the worst of their exit codes."""
        slots = asyncio.Semaphore(_AT_ONCE)

        async def one(identifier: str) -> int:
            async with slots:
                return await self._pass(identifier)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(identifier)) for identifier in identifiers]
        codes = [task.result() for task in tasks]
        for worst in _WORST_FIRST:
            if worst in codes:
                return worst
        return max(codes, default=Exit.OK)

    async def _pass(self, identifier: str) -> int:
        if self._interrupts.asked.is_set():
            return Exit.INTERRUPTED
        try:
            before = await self._session.client.infrastructures.status(identifier)
            request = RunRequest(
                kind="maintain",
                request_id=self._invocation.world.new_id(),
                infrastructure=identifier,
                reset=self._reset,
                strategy=self._strategy,
            )
            trail = Trail()
            trail.adopt(before)
            progress = LogProgress(self._invocation, trail, prefix=before.name)
            done = await carry_out(self._invocation, self._session, request, progress, self._interrupts)
            after = await self._session.client.infrastructures.status(identifier)
            waiting: list[str] = []
            if after.state is not InfrastructureState.READY:
                explained = await self._session.client.infrastructures.explain(identifier)
                waiting = waits(explained, self._invocation.world.now())
        except PelagosError as error:
            if self._once and not isinstance(error, NotFound | Gone):
                raise
            show_error(error, self._invocation)
            return exit_of(error)
        self._report(after, done, waiting)
        code = exit_of_run(done)
        if code is Exit.OK and after.state is not InfrastructureState.READY:
            return Exit.NOT_READY
        return code

    def _report(self, status: StatusView, done: Outcome, waiting: list[str]) -> None:
        from pelagos.cli.views import status_line

        work = did(done.trail)
        if not self._invocation.plain:
            self._invocation.document(
                {
                    "id": status.id,
                    "name": status.name,
                    "state": status.state,
                    "run": done.run,
                    "did": work,
                    "waits": waiting,
                },
                many=True,
            )
            return
        seen = (status.state, done.run.state)
        told = [join(part) for part in (work, waiting) if part]
        if self._once or work or self._last.get(status.id) != seen:
            self._invocation.say(f"{status_line(status)}; {'; '.join(told) or 'nothing was to do'}")
        self._last[status.id] = seen
        if done.run.error is not None:
            from pelagos.model.errors import from_payload

            show_error(from_payload(done.run.error), self._invocation)
