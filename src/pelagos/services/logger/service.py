"""The logger: lines of other programs in this one's log, and log levels at run time.

Records come one way, in batches, and are written through this process's own logging with the origin in fields, so that
they are formatted, redacted and rotated like all others. Critical and error lines are told as live events too.

Levels are each container's own: its agent sets them. The service asks the agents of all containers that live and says
who did so, since a level that one container of five did not take is worth knowing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pelagos.container.messages import AGENT, LogLevelRequest, NodeInfo, agent_of
from pelagos.model.errors import NotFound, PelagosError
from pelagos.process import ServiceProcess, get_logger, operation
from pelagos.services.events import EventPublisher, LogLine, make_event
from pelagos.services.logger.messages import Levels, LevelSet, LogBatch, LogLevel, LogRecord, SetLevel

__all__ = ["LoggerService"]

T = TypeVar("T")

_MOST = 1000
_LONGEST = 16_384
_ASK = 3.0
"""Seconds that one agent gets."""
_TOLD = {LogLevel.CRITICAL: "log_critical", LogLevel.ERROR: "log_error"}


class LoggerService(ServiceProcess):
    """See :mod:`pelagos.services.logger.messages` for what it is told and asked."""

    name = "logger"
    version = "1.0"

    def __init__(self) -> None:
        super().__init__()
        self._publisher = EventPublisher(self)
        self.written = 0

    @operation
    async def log(self, batch: LogBatch) -> None:
        """Write lines. To be sent one way: nobody need wait for it."""
        for record in batch.records[:_MOST]:
            self._write(record)
        if len(batch.records) > _MOST:
            get_logger(__name__).warning("records dropped", dropped=len(batch.records) - _MOST)

    @operation
    async def set_level(self, request: SetLevel) -> LevelSet:
        """Set a package's level in one container or in all. Raises NotFound (container), Unavailable (no agent)."""
        wanted = LogLevelRequest(request.room, "" if request.level is None else request.level.value)

        async def ask(container: str) -> list[str]:
            return await self.call(agent_of(container), "set_log_level", wanted, result=list[str], timeout=_ASK)

        answers, failed = await self._ask_all(request.container, ask)
        return LevelSet(tuple(sorted(one for answer in answers.values() for one in answer)), failed)

    @operation
    async def levels(self) -> Levels:
        """The levels that were set at run time, in all containers that live. Raises Unavailable (no agent)."""

        async def ask(container: str) -> dict[str, str]:
            return await self.call(agent_of(container), "log_levels", None, result=dict[str, str], timeout=_ASK)

        answers, failed = await self._ask_all("", ask)
        return Levels(answers, failed)

    async def _ask_all(self, only: str, ask: Callable[[str], Awaitable[T]]) -> tuple[dict[str, T], dict[str, str]]:
        """What the agents answer, and why others did not."""
        nodes: list[NodeInfo] = await self.call(f"service:{AGENT}", "nodes", None, result=list[NodeInfo])
        living = sorted(node.id for node in nodes if node.state in ("alive", "suspect"))
        if only and only not in living:
            raise NotFound(f"no container {only} lives", advice="See `pelagos nodes` for those that do.")
        answers: dict[str, T] = {}
        failed: dict[str, str] = {}

        async def one(container: str) -> None:
            try:
                answers[container] = await ask(container)
            except PelagosError as error:
                failed[container] = str(error)

        async with asyncio.TaskGroup() as group:
            for container in [only] if only else living:
                group.create_task(one(container))
        return {name: answers[name] for name in sorted(answers)}, failed

    def _write(self, record: LogRecord) -> None:
        fields: dict[str, Any] = {
            f"origin_{name}" if name in ("event", "exc_info", "logger", "level", "stack_info") else str(name): value
            for name, value in record.fields.items()
        }
        fields["origin"] = record.origin or self.context.process
        fields["logged_at"] = record.at or self.world.now()
        # One line is one line, whatever is in it.
        message = record.message[:_LONGEST].replace("\r", "\\r").replace("\n", "\\n")
        logger = get_logger(f"origin.{record.logger}" if record.logger else "origin")
        match record.level:
            case LogLevel.DEBUG:
                logger.debug(message, **fields)
            case LogLevel.INFO:
                logger.info(message, **fields)
            case LogLevel.WARNING:
                logger.warning(message, **fields)
            case LogLevel.ERROR:
                logger.error(message, **fields)
            case LogLevel.CRITICAL:
                logger.error(message, critical=True, **fields)
        self.written += 1
        told = _TOLD.get(record.level)
        if told is not None and record.origin:
            self._tell(told, record, message)

    def _tell(self, told: str, record: LogRecord, message: str) -> None:
        try:
            event = make_event(
                self.context.scope,
                told,
                record.origin,
                LogLine(message, record.logger, record.fields),
                at=record.at or self.world.now(),
            )
        except PelagosError as error:
            get_logger(__name__).warning("a line was not told as an event", origin=record.origin, error=str(error))
        else:
            self._publisher.announce(event)
