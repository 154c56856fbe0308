"""What a process sees of the container it runs in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from pelagos.exchange import Names, Transport
from pelagos.model.world import World

if TYPE_CHECKING:
    from pelagos.process.process import Process

__all__ = ["Host"]


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

    def process_started(self, process: Process) -> None:
        """The process has its id and begins to initialize."""
        ...

    def process_ended(self, process: Process) -> None:
        """The process is gone; its id is free of meaning."""
        ...
