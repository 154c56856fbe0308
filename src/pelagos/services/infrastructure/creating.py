"""Making instances: on which of its node's candidates each is made, and the source that is kept of it.

A node of which nothing can be made as the pool is waits for its next try, and a building run gives up because of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pelagos.model.errors import ErrorPayload, PelagosError
from pelagos.model.states import InstanceState
from pelagos.services.infrastructure.made_from import Sources
from pelagos.services.infrastructure.nodes import Node
from pelagos.services.infrastructure.records import InstanceRow

if TYPE_CHECKING:
    from pelagos.services.infrastructure.maintainer import Maintainer

__all__ = ["Creating"]


class Creating:
    """See the module's text."""

    def __init__(self, maintainer: Maintainer) -> None:
        self._maintainer = maintainer
        self._sources: Sources | None = None

    def reset(self) -> None:
        """After a load: another description may be wanted."""
        self._sources = None

    def create(self, node: Node, count: int, now: float) -> None:
        """Note ``count`` instances more, to be asked for when they are written."""
        maintainer = self._maintainer
        picked = maintainer.candidates.pick(node, count)
        if isinstance(picked, ErrorPayload):
            self._cannot(node, picked, now)
            return
        run = maintainer.running.current
        for ordinal, candidate in zip(node.free_ordinals(count), picked, strict=True):
            row = InstanceRow(
                id=maintainer.world.new_id(),
                node=node.name,
                ordinal=ordinal,
                state=InstanceState.PENDING,
                server_id=maintainer.world.next_id(),
                account=candidate.account,
                implementation=candidate.index,
                fingerprint=node.compiled.fingerprint,
                source=self.keep_source(node, candidate.index),
                run_id=run.id if run else None,
                created_at=now,
                updated_at=now,
            )
            instance = maintainer.reality.add(row)
            maintainer.changes.new(row)
            maintainer.commanding.create(instance)
            maintainer.event("instance.pending", row, cloud=candidate.account)

    @property
    def sources(self) -> Sources:
        """What instances are made from, by the description that is wanted."""
        if self._sources is None:
            self._sources = Sources(self._maintainer.reality.compiled)
        return self._sources

    def keep_source(self, node: Node, index: int) -> str:
        """The digest of what the node's instances are made from; the source itself is kept by the next transaction,
        each time: what no instance was made from for a while may have been pruned."""
        digest = self.sources.digest(node.compiled, index)
        self._maintainer.changes.source(digest, self.sources.value(node.compiled, index))
        return digest

    def implementation_on(self, node: Node, account: str) -> int:
        """The first of the node's implementations that is made on this account, else the first."""
        maintainer = self._maintainer
        for index in node.compiled.implementations:
            try:
                if maintainer.candidates.account_for(maintainer.reality.implementation(node, index)) == account:
                    return index
            except PelagosError:
                continue  # one that the pool has no account for
        return node.compiled.implementations[0]

    def _cannot(self, node: Node, error: ErrorPayload, now: float) -> None:
        """A node that cannot be created at all as the pool is."""
        maintainer, record = self._maintainer, node.record
        record.failures += 1
        record.error = error
        record.retry_at = now + min(maintainer.settings.backoff * 2**record.failures, maintainer.settings.backoff_max)
        maintainer.candidates.exhausted(node, record.retry_at)
        maintainer.changes.node(record)
        maintainer.running.give_up(node, error)
