"""A container that remembers how its processes ended, and can say what is still in progress in it.

Both are asked of the container itself, not of the log or of a mock: a process that died is seen although its supervisor
has a new one in its place by the time that anybody looks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from pelagos.container import Container, ContainerConfig
from pelagos.model.world import World
from pelagos.process import Process
from pelagos.process.conversations import BUILT_IN, Protocol

__all__ = ["CheckedContainer"]


class CheckedContainer(Container):
    """A container that remembers how its processes ended. Made by :class:`pelagos.testing.Harness`."""

    def __init__(
        self, world: World, config: ContainerConfig, *, on_failure: Callable[[], None], **options: Any
    ) -> None:
        super().__init__(world, config, **options)
        self.failures: list[tuple[str, str, BaseException]] = []
        """Of processes that did not end in good order: id, label, cause. One that was cancelled has not ended within
        the time it was given."""
        self.protocols: tuple[Protocol, ...] = ()
        """Those of all its processes, beside the built-in ones."""
        self._on_failure = on_failure

    def process_started(self, process: Process) -> None:
        super().process_started(process)
        self.protocols += process.protocols

    def process_ended(self, process: Process) -> None:
        super().process_ended(process)
        if process.cause is not None:
            self.failures.append((process.id, process.label, process.cause))
            self._on_failure()

    def busy(self, may_stay_open: Collection[str] = ()) -> list[str]:
        """What is in progress now: requests, with the operations' names, and conversations. Subscriptions of services
        to each other are none of it: they last as long as those do."""
        found: list[str] = []
        for process in self.processes:
            snapshot = process.snapshot()
            named = f"{process.label} ({process.id})"
            for one in snapshot.operations:
                if one.in_progress and f"{process.label}.{one.op}" not in may_stay_open:
                    found.append(f"{named} serves {one.op}{_times(one.in_progress)}")
            if snapshot.serving.waiting:
                found.append(f"{named} has {snapshot.serving.waiting} requests that wait")
            if process is self.edge and snapshot.calls:
                found.append(f"the test waits for {snapshot.calls} answer{'s' if snapshot.calls > 1 else ''}")
            found += [f"{named} takes part in {one}" for one in snapshot.conversations if self._ends(process, one)]
        return found

    def _ends(self, process: Process, conversation: str) -> bool:
        """Whether a conversation (id, protocol, role, state) is one that should have ended."""
        leased = {protocol.name for protocol in (*BUILT_IN, *self.protocols) if protocol.lease is not None}
        return process is self.edge or conversation.split()[1] not in leased


def _times(count: int) -> str:
    return f" ({count} times)" if count > 1 else ""
