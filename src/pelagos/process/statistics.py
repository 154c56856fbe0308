"""What a process counts, and its snapshot.

A meter is a few numbers beside each operation that has been called; what is in progress is not counted up and down but
looked up when somebody asks, from the requests that run. So a request pays for one look at the clock and four
additions.
"""

from __future__ import annotations

import msgspec

from pelagos.model.errors import PelagosError, Refused
from pelagos.process.lifecycle import State

__all__ = ["Meter", "OperationStatistics", "ProcessDescription", "ProcessSnapshot", "ServingSnapshot"]


class OperationStatistics(msgspec.Struct, frozen=True):
    """One operation of one process since its start. Times are in seconds, from a handler's begin to its end."""

    op: str
    count: int
    """Ended, in whatever way."""
    failed: int
    """With an error that is no refusal."""
    refused: int
    in_progress: int
    total_seconds: float
    max_seconds: float
    last_error: str = ""
    """Code and text."""


class Meter:
    """The numbers of one operation as they grow."""

    __slots__ = ("count", "failed", "last_error", "longest", "refused", "total")

    def __init__(self) -> None:
        self.count = 0
        self.failed = 0
        self.refused = 0
        self.total = 0.0
        self.longest = 0.0
        self.last_error = ""

    def fail(self, error: PelagosError) -> None:
        if isinstance(error, Refused):
            self.refused += 1
        else:
            self.failed += 1
        self.last_error = f"{error.code}: {error.message}"

    def statistics(self, op: str, in_progress: int) -> OperationStatistics:
        return OperationStatistics(
            op, self.count, self.failed, self.refused, in_progress, self.total, self.longest, self.last_error
        )


class ServingSnapshot(msgspec.Struct, frozen=True):
    running: tuple[int, ...] = ()
    """Taken slots of the process, by depth; trailing zeros left out."""
    waiting: int = 0
    workers: int = 0
    done: int = 0
    """Requests answered with a result, events and one-way messages handled."""
    failed: int = 0
    """Requests answered with an error or a refusal, events and one-way messages whose handler raised."""
    unanswerable: int = 0
    """Failures that nobody was told of, since the message had no address to reply to."""
    repeated: int = 0
    """Requests that had come before, and were answered with the reply to the first."""
    requeued: int = 0
    """Durable messages given back to be tried again."""
    rejected: int = 0
    """Durable messages that became dead letters."""


class ProcessSnapshot(msgspec.Struct, frozen=True):
    id: str
    name: str
    kind: str
    """The class."""
    state: State
    cause: str | None
    serving: ServingSnapshot
    calls: int
    """Calls that wait for their reply."""
    late_replies: int
    """Replies to calls of this process that had ended without them."""
    tasks: tuple[str, ...]
    unknown_replies: int = 0
    """Replies to calls that this process never made."""
    supervisor: str = ""
    """The id of the process that keeps it alive; empty for the root."""
    operations: tuple[OperationStatistics, ...] = ()
    conversations: tuple[str, ...] = ()
    """The first hundred that are open: id, protocol, role, state."""


class ProcessDescription(msgspec.Struct, frozen=True):
    """What a process says of itself to whoever asks: the answer of ``describe``."""

    id: str
    name: str
    version: str
    kind: str
    """The class."""
    operations: tuple[str, ...]
