"""What a run has done so far, node by node: a fold of its events, for every kind of progress display.

Pure: no clock, no terminal. A display asks it for rows; the end of a command asks it for the addresses that answer and
for what was made and destroyed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pelagos.cli.wording import sentence
from pelagos.wire.infrastructures import EventView, PlanView, StatusView

__all__ = ["InstanceTrail", "NodeTrail", "Trail"]

_STATES = {
    "instance.pending": "pending",
    "instance.building": "building",
    "instance.checking": "checking",
    "instance.ready": "ready",
    "instance.temp_failed": "temp_failed",
    "instance.failed": "failed",
    "instance.shutdown": "shutdown",
    "instance.restarting": "pending",
    "instance.adopting": "pending",
    "instance.delayed": "pending",
    "instance.uncertain": "uncertain",
    "instance.destroying": "destroying",
    "instance.refused": "destroying",
    "instance.destroyed": "destroyed",
}


@dataclass
class InstanceTrail:
    state: str
    note: str = ""
    urls: tuple[str, ...] = ()


@dataclass
class NodeTrail:
    """``target`` instances are wanted; ``kept`` of those were there before and the run has no need to touch them."""

    name: str
    target: int = 0
    kept: int = 0
    waiting_on: tuple[str, ...] = ()
    instances: dict[str, InstanceTrail] = field(default_factory=dict)
    ready_position: int = 0
    """Of the event by which its first instance became ready."""

    @property
    def alive(self) -> dict[str, InstanceTrail]:
        return {key: one for key, one in self.instances.items() if one.state != "destroyed"}

    @property
    def ready(self) -> int:
        seen_ready = sum(one.state == "ready" for one in self.instances.values())
        return min(max(self.target, seen_ready), seen_ready + self.kept)

    @property
    def state(self) -> str:
        """The one word for the node: the least advanced thing that happens in it."""
        states = [one.state for one in self.alive.values()]
        for candidate in ("failed", "destroying", "uncertain", "temp_failed", "pending", "building", "checking"):
            if candidate in states:
                return candidate
        if self.target == 0:
            return "destroyed" if self.instances else "pending"
        if self.ready >= self.target:
            return "ready"
        return "waiting" if self.waiting_on else "pending"

    @property
    def note(self) -> str:
        """What the instance that matters most did last."""
        if self.state == "waiting":
            return f"waits for {', '.join(self.waiting_on)}"
        told = [one.note for one in self.alive.values() if one.state == self.state and one.state != "ready"]
        return told[-1] if told else ""

    @property
    def done(self) -> bool:
        return self.state in ("ready", "destroyed")


class Trail:
    """Fed with events in the order of their positions; a repeated position is ignored."""

    def __init__(self, plan: PlanView | None = None) -> None:
        self.nodes: dict[str, NodeTrail] = {}
        self.position = 0
        self.note = ""
        self.needed: set[str] = set()
        self.adopted = 0
        self.destroyed = 0
        self.failed: list[str] = []
        self.begun = False
        """Something but its acceptance was told of the run: it began, ended, or said what it waits for."""
        self.rolled_back = False
        self._estimate = plan.estimated_seconds if plan is not None else None
        self._counted: set[str] = set()
        """Instances that were made, or are being made."""
        self._never_made: set[str] = set()
        """Instances that their clouds have refused: nothing of them was there, and nothing is destroyed."""
        self._uncounted: set[str] = set()
        """Instances that were there before and are not among a node's ``kept``."""
        for action in plan.actions if plan is not None else ():
            node = self.node(action.node)
            self._uncounted.update(action.instances if action.action in ("destroy", "replace") else ())
            if action.action in ("create", "replace"):
                node.target += action.count
            elif action.action in ("keep", "update"):
                node.target += action.count
                node.kept += action.count

    @property
    def created(self) -> int:
        """Instances that were made; those that a cloud refused are not among them."""
        return len(self._counted)

    @property
    def estimate(self) -> float | None:
        """Seconds the plan thought it would take."""
        return self._estimate

    def node(self, name: str) -> NodeTrail:
        return self.nodes.setdefault(name, NodeTrail(name))

    def adopt(self, status: StatusView) -> None:
        """Take nodes and targets from a status, where there was no plan."""
        for name, node in status.nodes.items():
            trail = self.node(name)
            trail.target = node.scaling.target
            trail.kept = sum(one.state == "ready" for one in node.instances.values())
            self._uncounted.update(key for key, one in node.instances.items() if one.state != "ready")

    def feed(self, event: EventView) -> bool:
        """Take an event in; False if it was known already."""
        if event.position <= self.position:
            return False
        self.position = event.position
        if event.kind.startswith("run."):
            self.note = sentence(event) if event.kind in ("run.waiting", "run.rolling_back") else ""
            self.begun = self.begun or event.kind not in ("run.accepted", "run.cancel_requested")
            self.rolled_back = self.rolled_back or event.kind == "run.rolling_back"
        if event.node is None:
            return True
        node = self.node(event.node)
        if event.kind == "node.waiting":
            node.waiting_on = tuple(str(name) for name in event.data.get("on", ()))
            self.needed.update(node.waiting_on)
        elif event.instance_id is not None and event.kind in _STATES:
            self._instance(node, event)
        return True

    def _instance(self, node: NodeTrail, event: EventView) -> None:
        known = node.instances.get(event.instance_id or "")
        state = _STATES[event.kind]
        if known is None:
            known = node.instances[event.instance_id or ""] = InstanceTrail(state)
            if event.kind in ("instance.pending", "instance.building"):
                self._counted.add(event.instance_id or "")
            elif event.kind == "instance.adopting":
                self.adopted += 1
            elif node.kept and event.instance_id not in self._uncounted:
                node.kept -= 1
        node.waiting_on = ()
        known.state = state
        known.note = sentence(event)
        if event.kind == "instance.ready":
            node.ready_position = node.ready_position or event.position
            known.urls = tuple(str(url) for url in event.data.get("urls", ()))
        elif event.kind == "instance.destroyed":
            self.destroyed += event.instance_id not in self._never_made
        elif event.kind == "instance.failed":
            if event.data.get("made") is False and event.instance_id and event.instance_id in self._counted:
                self._never_made.add(event.instance_id)
                self._counted.discard(event.instance_id)
            self.failed.append(f"{node.name}/{(event.instance_id or '')[:8]}: {known.note}")

    def urls(self) -> list[str]:
        """Addresses that answer, of the outermost nodes: those on which no other waited; where no waiting was told,
        the node whose first instance was ready last, since what depends on others comes after them."""
        found = [
            (name, url)
            for name, node in self.nodes.items()
            for one in node.instances.values()
            if one.state == "ready"
            for url in one.urls
        ]
        outer = [(name, url) for name, url in found if name not in self.needed] or found
        if not self.needed and outer:
            last = max((name for name, _ in outer), key=lambda name: self.nodes[name].ready_position)
            outer = [(name, url) for name, url in outer if name == last]
        return list(dict.fromkeys(url for _, url in outer))
