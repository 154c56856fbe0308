"""Changes under way: what a run makes anew, whom it supersedes, and how a failed one goes back.

What is made anew is decided once, when the description it is wanted by has been written and the clouds have been looked
at, and stored with the run: whoever carries it on after a crash makes the same instances anew, and a saved plan can be
held against it. Without a run nothing is made anew for its description, so a maintainer that only heals never goes on
with a change that somebody has stopped; what its policy makes anew since it was told what is no longer true
(:mod:`~pelagos.services.infrastructure.stale`) is.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from pelagos.model.errors import ErrorPayload, LeaseLost, PelagosError
from pelagos.model.states import RunState
from pelagos.services.infrastructure import records
from pelagos.services.infrastructure.in_place import Keys
from pelagos.services.infrastructure.nodes import KEPT_SO, Instance
from pelagos.services.infrastructure.outlook import TOLD_ANEW, Mark, Outlook, Update, look_ahead
from pelagos.services.infrastructure.places import accounts_changed, otherwise
from pelagos.services.infrastructure.plan import make_plan
from pelagos.services.infrastructure.plan_diff import foresee, plans_differ, sources_needed, stale_plan
from pelagos.services.infrastructure.records import RunRow, encode
from pelagos.services.infrastructure.rolling import Bounds
from pelagos.services.infrastructure.targeting import Narrowed, instances_meant
from pelagos.services.infrastructure.values import ExactPlan, PlannedUpdate

if TYPE_CHECKING:
    from pelagos.services.infrastructure.maintainer import Maintainer

__all__ = ["Reconfiguring", "composed", "superseded_by"]

_KEYS_SHOWN = 5


class Reconfiguring:
    """What a maintainer's run makes anew."""

    def __init__(self, maintainer: Maintainer) -> None:
        self._maintainer = maintainer
        self.remark = False
        """The description was taken back: see anew which instances are as described, before the run ends."""

    @property
    def undecided(self) -> bool:
        """The present run has not yet found what it makes anew, or who is as described when it is taken back."""
        run = self._maintainer.running.current
        if run is not None and self._maintainer.running.restored:
            return self.remark
        if run is None or run.parameters.anew is not None or run.cancel_requested:
            return False
        return run.parameters.going_back or (run.kind == "up" and run.state is RunState.RUNNING)

    async def look(self) -> None:
        """Find what is made anew, or only which instances are not as described."""
        run = self._maintainer.running.current
        if run is None or not self.undecided:
            return
        if self._maintainer.running.restored:
            await self._outlook(run, await self._updatable(run) or {})
            self.remark = False
        else:
            updatable = await self._updatable(run)
            if updatable is None:
                return
            outlook = await self._outlook(run, updatable)
            anew = {key: _told(mark) for key, mark in outlook.replace.items()}
            updates = {key: PlannedUpdate(one.implementation, one.keys) for key, one in outlook.update.items()}
            parameters = msgspec.structs.replace(run.parameters, anew=anew, updates=updates)
            self._maintainer.running.current = msgspec.structs.replace(run, parameters=parameters)
            self._maintainer.changes.run(run.id, parameters=parameters)
            self._tell(outlook)
            self.restore()

    async def _updatable(self, run: RunRow) -> Keys | None:
        """What can be changed in place of what is not as described. None: a cloud does not say, and the run fails: to
        make anew what may be changed in place would do harm."""
        maintainer = self._maintainer
        fingerprints = {name: node.compiled.fingerprint for name, node in maintainer.reality.nodes.items()}
        observed = [i.observed() for i in maintainer.reality.instances.values() if not i.leaving]
        others = [i for i in observed if i.fingerprint != fingerprints[i.node]]
        try:
            return await maintainer.updating.keys(instance.account for instance in others)
        except LeaseLost:
            raise
        except PelagosError as error:
            if run.parameters.going_back or maintainer.running.restored:
                return {}
            maintainer.running.give_up(maintainer.reality.nodes[others[0].node], error.payload())
            return None

    def restore(self) -> None:
        """After a load: what the present run makes anew, and its bounds."""
        run = self._maintainer.running.current
        parameters = run.parameters if run is not None else None
        anew: dict[str, str] = {}
        updates: dict[str, bool] = {}
        goes_on = run is not None and not self._maintainer.running.holds
        if run is not None and goes_on and (run.state is RunState.RUNNING or run.parameters.going_back):
            anew = run.parameters.anew or {}
            updates = self._maintainer.updating.restore(run.parameters.updates)
        if run is None or run.kind not in ("up", "down"):
            anew = {**self._maintainer.stale.renewals(), **anew}
        bounds = None
        if run is not None and parameters is not None and parameters.exact is not None and not parameters.going_back:
            exact = parameters.exact
            bounds = Bounds(creates=exact.creates, destroys=exact.destroys, updates=exact.updates)
        self._maintainer.reality.make_anew(anew, bounds, updates)
        self._maintainer.updating.check()

    async def _outlook(self, run: RunRow, updatable: Keys) -> Outlook:
        """Look, and write into the instances' records what was found."""
        maintainer = self._maintainer
        reality = maintainer.reality
        living = [instance for instance in reality.instances.values() if not instance.leaving]
        observed = [instance.observed() for instance in living]
        restored = maintainer.running.restored
        back = restored or run.parameters.going_back
        moved = run.parameters.moved
        if restored:  # from its names to those before it
            moved = {new: old for old, new in moved.items()}
        digests = {i.source for i in observed} if moved else sources_needed(reality.compiled, observed)
        sources = await maintainer.store.read(
            partial(records.sources_of, infrastructure_id=maintainer.id, digests=digests)
        )
        wanted: frozenset[str] = frozenset()
        if not back:
            for text in run.parameters.wanted_anew:
                try:
                    wanted |= instances_meant((text,), observed, maintainer.row.name)
                except PelagosError:
                    continue  # it went since the run was accepted
            made_meanwhile = {i.row.id for i in living if i.row.run_id == run.id}
            wanted -= made_meanwhile
        outlook = look_ahead(
            reality.compiled,
            {name: node.target for name, node in reality.nodes.items()},
            observed,
            made_from=sources,
            wanted=wanted,
            moved=moved,
            held=() if back else run.parameters.held,
            infrastructure_id=maintainer.id,
            updatable=updatable,
        )
        untrue = maintainer.stale.untrue(living) if restored else {}
        for instance in living:
            self._note(instance, outlook, untrue.get(instance.row.id, frozenset()))
        return outlook

    def _note(self, instance: Instance, outlook: Outlook, untrue: Collection[str]) -> None:
        """``untrue``: what it was told and is no longer so, which is told by those who look at it while no run does."""
        row = instance.row
        mark = outlook.replace.get(row.id) or outlook.drifted.get(row.id)
        if mark is not None and mark.reason == TOLD_ANEW and untrue:
            changes = tuple(change for change in mark.changes if change.path not in untrue)
            mark = msgspec.structs.replace(mark, changes=changes) if changes else None
        if row.id in outlook.update:
            mark = outlook.update[row.id].mark
        outdated = _told(mark) if mark is not None else ""
        if mark is not None and row.id in outlook.drifted:
            outdated += KEPT_SO
        followed = outlook.followed.get(row.id)
        if followed is not None:
            row.implementation, row.source = followed.implementation, followed.source
            row.inputs = encode(followed.asked) if followed.asked else b""
            node = self._maintainer.reality.nodes[row.node]
            self._maintainer.creating.keep_source(node, row.implementation)
        if followed is not None or outdated != row.outdated:
            self._maintainer.reality.note_outdated(instance, outdated)
            self._maintainer.changes.instance(row)

    def _tell(self, outlook: Outlook) -> None:
        """What is made anew of each node, and changed in place, as an event."""
        maintainer = self._maintainer
        by_node: dict[str, list[Mark]] = {}
        for key, mark in outlook.replace.items():
            by_node.setdefault(maintainer.reality.instances[key].row.node, []).append(mark)
        for node, marks in by_node.items():
            self._event("node.replacing", node, count=len(marks), reason=_told(marks[0]))
        in_place: dict[str, list[Update]] = {}
        for key, update in outlook.update.items():
            in_place.setdefault(maintainer.reality.instances[key].row.node, []).append(update)
        for node, updates in in_place.items():
            first = updates[0]
            self._event("node.updating", node, count=len(updates), reason=_told(first.mark), keys=first.touched)

    def _event(self, kind: str, node: str, **data: Any) -> None:
        maintainer, run = self._maintainer, self._maintainer.running.current
        run_id = run.id if run is not None else None
        now = maintainer.world.now()
        maintainer.changes.event(maintainer.row.scope, kind, at=now, node=node, run_id=run_id, data=data)

    async def misfit(self, run: RunRow, narrowed: Narrowed) -> ErrorPayload | None:
        """Why a saved plan cannot be carried out now; None if it can, or if the run carries out none."""
        exact = run.parameters.exact
        if exact is None:
            return None
        maintainer = self._maintainer
        if exact.generation != maintainer.row.generation:
            return stale_plan(["another change has begun since"])
        elsewhere = [*accounts_changed(exact.accounts, maintainer.accounts), *self._moved(exact, narrowed)]
        if elsewhere:
            return stale_plan(elsewhere)
        reality = maintainer.reality
        desired = narrowed.compiled
        observed = [instance.observed() for instance in reality.instances.values()]
        digests = sources_needed(desired, observed)
        sources = await maintainer.store.read(
            partial(records.sources_of, infrastructure_id=maintainer.id, digests=digests)
        )
        try:
            updatable = await maintainer.updating.keys(instance.account for instance in observed)
            foreseen = foresee(
                desired,
                maintainer.row.compiled,
                {name: node.record.target for name, node in reality.nodes.items()},
                observed,
                made_from=sources,
                wanted=run.parameters.wanted_anew,
                held=narrowed.held,
                infrastructure_id=maintainer.id,
                updatable=updatable,
            )
        except LeaseLost:
            raise
        except PelagosError as error:
            return stale_plan([error.message])
        now = make_plan(
            name=desired.name,
            infrastructure_id=maintainer.id,
            state=None,
            desired=desired,
            targets=foreseen.targets,
            observed=foreseen.observed,
            previous=maintainer.row.compiled,
            outlook=foreseen.outlook,
        )
        differing = plans_differ(exact.actions, now.actions)
        return stale_plan(differing) if differing else None

    def _moved(self, exact: ExactPlan, narrowed: Narrowed) -> list[str]:
        """Nodes whose implementations mean other accounts than a saved plan says, as sentences."""
        candidates, told = self._maintainer.candidates, []
        for node in narrowed.compiled.nodes:
            for index in node.implementations:
                implementation = narrowed.compiled.definitions[node.defined_by][index]
                account = candidates.account_of(implementation)
                said = exact.account_of(node.name, index)
                if said is not None and said != account:
                    told.append(otherwise(node.name, said, account))
        return told


def superseded_by(newer: RunRow) -> ErrorPayload:
    """Why a run ended before it was through."""
    return ErrorPayload(
        code="superseded",
        message=f"run {newer.id} ({newer.kind}), which came later, took its place",
        advice="What it had done so far is part of what the newer one goes on from.",
        status=409,
        details={"by": newer.id},
    )


def composed(first: dict[str, str], then: dict[str, str]) -> dict[str, str]:
    """Two renamings, one after the other, as one."""
    result = {old: then.get(new, new) for old, new in first.items()}
    for old, new in then.items():
        if old not in first.values():
            result[old] = new
    return {old: new for old, new in result.items() if old != new}


def _told(mark: Mark) -> str:
    """The keys that differ, else the reason."""
    keys = list(dict.fromkeys(change.path for change in mark.changes))
    if not keys:
        return mark.reason
    more = f" and {len(keys) - _KEYS_SHOWN} more" if len(keys) > _KEYS_SHOWN else ""
    return ", ".join(keys[:_KEYS_SHOWN]) + more
