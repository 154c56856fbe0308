"""Servers whose create answered after its deadline: known here until the cloud itself shows them.

Only the answer that nobody waited for any more is kept, and only as long as the cloud may take to show what was made;
then the listing is the truth again. Nothing is stored: another process finds the server by its token, a little later.
"""

from __future__ import annotations

from collections.abc import Sequence

from pelagos.clouds.values import CloudServer
from pelagos.model.world import World

__all__ = ["LateServers"]


class LateServers:
    """By token; ``keep``: how many seconds after its arrival an answer counts."""

    def __init__(self, world: World, keep: float) -> None:
        self._world = world
        self._keep = keep
        self._arrived: dict[str, tuple[float, CloudServer]] = {}

    def __len__(self) -> int:
        return len(self._arrived)

    def arrived(self, server: CloudServer) -> None:
        """A create's answer, too late for its caller."""
        self._arrived[server.token] = (self._world.monotonic() + self._keep, server)

    def forget(self, provider_id: str) -> None:
        """It was deleted."""
        self._arrived = {token: one for token, one in self._arrived.items() if one[1].provider_id != provider_id}

    def get(self, token: str) -> CloudServer | None:
        """The server of a token, while its answer counts."""
        self._expire()
        found = self._arrived.get(token)
        return found[1] if found is not None else None

    def merge(self, listed: Sequence[CloudServer]) -> list[CloudServer]:
        """A listing, with the servers that it does not show yet."""
        self._expire()
        for one in listed:
            self._arrived.pop(one.token, None)
        return [*listed, *(server for _, server in self._arrived.values())]

    def _expire(self) -> None:
        now = self._world.monotonic()
        self._arrived = {token: one for token, one in self._arrived.items() if one[0] > now}
