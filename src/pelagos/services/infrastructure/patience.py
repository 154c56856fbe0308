"""Creations that their clouds have not made for too long: given up, so that another implementation may be tried.

An operation is tried again for as long as it is known that nothing was done: its cloud is away, limits its rate, cannot
be opened. That is right for a delete, and for a create it may mean to wait for ever, while another cloud could make the
instance or somebody waits to hear that none does. So after ``create_patience`` seconds, or ``fallback_patience`` where
the node has another implementation that nobody has refused, the creation is withdrawn: the instance has failed with the
cloud's last answer, its implementation is refused, and its server's record is deleted like any other, which cancels
what was not sent and takes back what was.

Only what the journal knows to have had no effect is withdrawn. A call that is out is waited for, and what is uncertain
is looked for as always: its end is known sooner or later. An account that still makes servers, slowly, is waited for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pelagos.model.errors import ErrorPayload
from pelagos.model.states import InstanceState
from pelagos.services.compute.facts import server_facts
from pelagos.services.infrastructure.decisions import Mode
from pelagos.services.infrastructure.nodes import Instance, Node

if TYPE_CHECKING:
    from pelagos.services.infrastructure.maintainer import Maintainer

__all__ = ["Patience"]

_CALL_OUT = 1.0
"""Seconds after which an instance whose call was out is looked at again."""


class Patience:
    """See the module's text."""

    def __init__(self, maintainer: Maintainer) -> None:
        self._maintainer = maintainer
        self._since: dict[str, float] = {}
        """Instances that their clouds have not made -> since when that is known."""
        self._made_at: dict[str, float] = {}
        """Account -> when a server of ours was made there last."""
        self._made: set[str] = set()
        self._not_before: dict[str, float] = {}
        """Instances whose call was out -> when they are looked at again."""
        self._look_at: float | None = None

    def delayed(self, instance: Instance) -> None:
        """Its cloud has not made it, and is asked again."""
        now = self._maintainer.world.now()
        if instance.row.adoption is None and instance.row.id not in self._since:
            self._since[instance.row.id] = now
            self._look_at = now if self._look_at is None else min(self._look_at, now)

    def made(self, instance: Instance) -> None:
        """Its cloud has made it."""
        if instance.row.id not in self._made:
            self._made.add(instance.row.id)
            self._made_at[instance.row.account] = self._maintainer.world.now()
            self._since.pop(instance.row.id, None)

    @property
    def next_look(self) -> float | None:
        """When something is to be given up, if nothing changes."""
        return self._look_at

    async def look(self, now: float) -> None:
        """Give up what was waited for long enough. Raises what reading the store does."""
        maintainer = self._maintainer
        if self._look_at is None or now < self._look_at or maintainer.mode is not Mode.BUILD:
            return
        waiting = self._waiting()
        due = [instance for instance, until in waiting if until <= now]
        if due:
            ids = [instance.row.server_id for instance in due]
            known = {fact.id: fact for fact in await maintainer.store.read(lambda c: server_facts(c, ids))}
            for instance in due:
                fact = known.get(instance.row.server_id)
                if fact is not None and fact.create_trouble is not None and not fact.made:
                    self._withdraw(instance, fact.create_trouble, now)
                    continue
                self._not_before[instance.row.id] = now + _CALL_OUT
                if fact is not None:
                    maintainer.taking_in.take_in(fact)
            waiting = self._waiting()
        self._look_at = min((until for _, until in waiting), default=None)

    def _waiting(self) -> list[tuple[Instance, float]]:
        """What is waited for, and until when; what is so no more is forgotten."""
        instances = self._maintainer.reality.instances
        self._made &= instances.keys()
        found: list[tuple[Instance, float]] = []
        seconds: dict[tuple[str, int], float] = {}
        for key in list(self._since):
            instance = instances.get(key)
            if instance is None or instance.row.state not in (InstanceState.PENDING, InstanceState.UNCERTAIN):
                del self._since[key]
                self._not_before.pop(key, None)
                continue
            made_from = (instance.row.node, instance.row.implementation)
            if made_from not in seconds:
                seconds[made_from] = self._seconds(*made_from)
            since = max(self._since[key], self._made_at.get(instance.row.account, 0.0))
            found.append((instance, max(since + seconds[made_from], self._not_before.get(key, 0.0))))
        return found

    def _seconds(self, name: str, index: int) -> float:
        maintainer = self._maintainer
        node = maintainer.reality.nodes[name]
        whole = self._whole(node)
        others = [one for one in maintainer.candidates.of(node) if one.index != index and one.refused is None]
        return min(whole, maintainer.settings.fallback_patience) if others else whole

    def _whole(self, node: Node) -> float:
        own = node.compiled.policy.create_patience
        return self._maintainer.settings.create_patience if own is None else own

    def _withdraw(self, instance: Instance, error: ErrorPayload, now: float) -> None:
        maintainer, row = self._maintainer, instance.row
        node = maintainer.reality.nodes[row.node]
        waited = now - self._since.pop(row.id)
        reason = f"its cloud {row.account} has not made it within {waited:.0f} s: {error.message}"
        # Remembered until all the others have had their time, or a node would go round in circles.
        memory = maintainer.settings.refusal_memory + self._whole(node) * len(node.compiled.implementations)
        maintainer.fail(
            instance,
            reason,
            msgspec.structs.replace(error, message=reason),
            made=False,
            memory=memory,
            pause=2 * maintainer.settings.retry_patience,
        )
