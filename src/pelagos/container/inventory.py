"""Who is there: what a container concludes from what the others say and from their silence.

Pure: times come in as arguments, changes go out as values, so each rule is tested without waiting. A container is alive
while it is heard of; silent for some heartbeats it is suspect, which stops nothing and warns; silent for longer it is
dead: nobody asks it any more. It is forgotten after a while, so that names of short-lived containers do not pile up.
Silence never proves death (a partition looks the same), so nothing is decided by it that a lease must decide.

(The ancestor knew a container only when somebody asked it to identify itself: reference section 7.)
"""

from __future__ import annotations

import msgspec

from pelagos.container.messages import Announcement, NodeInfo, NodeState
from pelagos.model.errors import InvalidInput

__all__ = ["AgentSettings", "Change", "Inventory"]


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How containers watch one another. Times in seconds."""

    heartbeat: float = 2.0
    """Pause between two announcements; each is shortened or lengthened by up to a tenth, so that many do not fall
    together."""
    suspect_beats: float = 3.0
    """A container is suspect after so many heartbeats of silence."""
    dead_after: float = 10.0
    """A container is dead after so long a silence."""
    forget_after: float = 600.0
    """A container that is dead or has left is forgotten after so long."""
    ask_timeout: float = 1.5
    """How long an agent waits for another one's answer, for lists of the whole system: a person waits for them."""

    def __post_init__(self) -> None:
        if min(self.heartbeat, self.suspect_beats, self.dead_after, self.forget_after, self.ask_timeout) <= 0:
            raise InvalidInput("heartbeat values must be greater than 0")
        if self.dead_after < self.suspect_after:
            raise InvalidInput(
                f"a container would be dead after {self.dead_after:g} s and suspect after {self.suspect_after:g} s",
                advice="Raise agent.dead_after, or lower agent.heartbeat or agent.suspect_beats.",
            )

    @property
    def suspect_after(self) -> float:
        return self.heartbeat * self.suspect_beats


class Change(msgspec.Struct, frozen=True):
    """A container's state as it is now and as it was; ``before`` is empty for one that was not known."""

    container: str
    state: NodeState
    before: NodeState


class _Entry:
    __slots__ = ("boot", "heard", "node", "state")

    def __init__(self, node: NodeInfo, boot: str, heard: float) -> None:
        self.node = node
        self.boot = boot
        self.heard = heard
        self.state: NodeState = "alive"


_MOST_NODES = 10_000
"""Remembered at most: what announces itself is not always friendly."""


class Inventory:
    """The other containers, by what they announced. ``now`` is monotonic seconds, always rising."""

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self._entries: dict[str, _Entry] = {}
        self.refused = 0
        """Announcements of containers beyond the most that are remembered."""

    def hear(self, announcement: Announcement, now: float) -> Change | None:
        """Take an announcement; returns the change it makes, if any."""
        node, leaves = announcement.node, announcement.event == "stop"
        entry = self._entries.get(node.id)
        if entry is None:
            if leaves:
                return None
            if len(self._entries) >= _MOST_NODES:
                self.refused += 1
                return None
            self._entries[node.id] = _Entry(node, announcement.boot, now)
            return Change(node.id, "alive", "")
        before = entry.state
        if announcement.boot != entry.boot and node.started_at < entry.node.started_at:
            return None  # a late word of the one that lived under this id before
        if before == "left" and announcement.boot == entry.boot:
            return None  # sent before its good-bye and overtaken by it
        reborn = announcement.boot != entry.boot
        entry.node, entry.boot, entry.heard = node, announcement.boot, now
        entry.state = "left" if leaves else "alive"
        if entry.state == before and not reborn:
            return None
        return Change(node.id, entry.state, before)

    def sweep(self, now: float) -> list[Change]:
        """Judge silence; returns what changed since the last time, in the order of first hearing."""
        changes = []
        settings = self._settings
        for name, entry in list(self._entries.items()):
            silent = now - entry.heard
            before = entry.state
            if before in ("dead", "left"):
                if silent >= settings.forget_after:
                    del self._entries[name]
                continue
            if silent >= settings.dead_after:
                entry.state = "dead"
            elif silent >= settings.suspect_after:
                entry.state = "suspect"
            if entry.state != before:
                changes.append(Change(name, entry.state, before))
        return changes

    def next_sweep(self, now: float) -> float:
        """Seconds until silence alone may change something; never more than a heartbeat."""
        settings, soonest = self._settings, self._settings.heartbeat
        for entry in self._entries.values():
            if entry.state == "alive":
                soonest = min(soonest, entry.heard + settings.suspect_after - now)
            elif entry.state == "suspect":
                soonest = min(soonest, entry.heard + settings.dead_after - now)
        return max(soonest, 0.0)

    def nodes(self, now: float) -> list[NodeInfo]:
        """All that are remembered, by id, each with its state and how long ago it was heard of."""
        return [
            msgspec.structs.replace(entry.node, state=entry.state, heard=now - entry.heard)
            for _, entry in sorted(self._entries.items())
        ]

    def get(self, container: str) -> NodeInfo | None:
        entry = self._entries.get(container)
        return None if entry is None else msgspec.structs.replace(entry.node, state=entry.state)
