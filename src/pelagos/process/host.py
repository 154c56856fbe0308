"""What a process sees of the container it runs in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from pelagos.exchange import Names, Transport
from pelagos.model.world import World

if TYPE_CHECKING:
    from pelagos.process.process import Process

__all__ = ["Host", "begin_of"]

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def begin_of(process_id: str, now: float) -> str:
    """What the names of all conversations of a process begin with: its id and when (``now``, world seconds) it began to
    talk.

    A container that comes back under its id has processes with the ids they had before. Were their conversations to
    have the names they had before, others would answer them from the record of those, and do nothing."""
    left, mark = int(now * 1000) % 36**7, ""
    while left:
        left, digit = divmod(left, 36)
        mark = _DIGITS[digit] + mark
    return f"{process_id}-{mark or 0}"


class Host(Protocol):
    """The container's face towards its processes."""

    @property
    def id(self) -> str: ...

    @property
    def world(self) -> World: ...

    @property
    def transport(self) -> Transport: ...

    @property
    def names(self) -> Names: ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """Configuration as plain values."""
        ...

    @property
    def call_timeout(self) -> float:
        """Seconds a call waits that names no time-out."""
        ...

    @property
    def dependency_timeout(self) -> float:
        """Seconds a process waits for the services it depends on."""
        ...

    @property
    def max_message_bytes(self) -> int:
        """The size of the content of a message at the most."""
        ...

    def new_process_id(self) -> str: ...

    def serving(self, service: str) -> str | None:
        """The mailbox of a process of this very container that serves a service now; None if none does."""
        ...

    def process_started(self, process: Process) -> None:
        """The process has its id and begins to initialize."""
        ...

    def process_ended(self, process: Process) -> None:
        """The process is gone; its id is free of meaning."""
        ...
