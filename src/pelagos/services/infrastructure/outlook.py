"""What a description means for the instances there are: which are made anew, and why, key by key. Pure.

Plan and maintainer both ask :func:`look_ahead`, so that the plan cannot promise what the maintainer does not do. An
instance is made anew if its source differs from the description's (:mod:`~pelagos.services.infrastructure.made_from`)
in what its cloud cannot change in place (:mod:`~pelagos.services.infrastructure.in_place`), if what other nodes told it
at its creation will no longer be true once they have changed, or if somebody asks for it. That a node has more
instances than then, or fewer, makes nobody else anew.

How an instance is, is another question: one that is not well and stays, or is restarted, is made anew like any other.
Protected instances never are, and are changed in place like others; adopted ones, of which nobody knows what they were
made from, only if they are asked for.

What will be true is found by going through the graph from dependees to dependents with the instances that will be there
then; those that are still to be made stand in it with addresses that nobody has. So a change of one node reaches those
that were told its address, and theirs, and no others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec

from pelagos.services.infrastructure.asked_again import AskedAgain, info_of, infos_of, stays, to_come
from pelagos.services.infrastructure.asking import Asked, InstanceInfo
from pelagos.services.infrastructure.graph import topological_order
from pelagos.services.infrastructure.in_place import Difference, Keys, difference
from pelagos.services.infrastructure.made_from import Source, Sources, digest_of, renamed
from pelagos.services.infrastructure.observed import ObservedInstance, choose_surplus
from pelagos.services.infrastructure.values import CompiledInfrastructure, CompiledNode
from pelagos.wire.infrastructures import DescriptionChange

__all__ = [
    "ASKED",
    "CHANGED_IN_PLACE",
    "DESCRIBED_ANEW",
    "TOLD_ANEW",
    "Followed",
    "Mark",
    "Outlook",
    "Update",
    "look_ahead",
]

DESCRIBED_ANEW = "described anew"
CHANGED_IN_PLACE = "changed in place"
TOLD_ANEW = "what it was told of others changes"
ASKED = "asked for"


KEPT = "kept by its policy"
HELD = "left out of this change"
PROTECTED = "protected"
ADOPTED = "it was not made, but adopted"


class Mark(msgspec.Struct, frozen=True):
    """Why an instance is not as described. ``changes`` are the keys that differ; ``kept`` says why it stays so."""

    reason: str
    changes: tuple[DescriptionChange, ...] = ()
    kept: str = ""


class Update(msgspec.Struct, frozen=True):
    """An instance whose ``keys`` are set in place, to what the node's implementation of that index says; ``touched``
    are those of them whose values differ."""

    mark: Mark
    implementation: int
    keys: tuple[str, ...]
    touched: tuple[str, ...]


class _Described(msgspec.Struct, frozen=True):
    """How an instance stands to the description: ``changes`` are the keys that force it to be made anew, None: none."""

    changes: tuple[DescriptionChange, ...] | None = None
    followed: Followed | None = None
    update: Update | None = None


_AS_DESCRIBED = _Described()


class Followed(msgspec.Struct, frozen=True):
    """An instance that is as described, under another index, or after nodes were renamed: what its record says now."""

    implementation: int
    source: str
    asked: tuple[Asked, ...]


class Outlook(msgspec.Struct, frozen=True):
    """Instances by id. Those in none of them are as described."""

    replace: dict[str, Mark] = {}
    update: dict[str, Update] = {}
    drifted: dict[str, Mark] = {}
    """Not as described, and kept so."""
    followed: dict[str, Followed] = {}


class _Looking:
    def __init__(
        self,
        desired: CompiledInfrastructure,
        targets: Mapping[str, int],
        observed: Sequence[ObservedInstance],
        made_from: Mapping[str, Source],
        wanted: Collection[str],
        moved: Mapping[str, str],
        held: Collection[str],
        infrastructure_id: str,
        updatable: Keys,
    ) -> None:
        self._updatable = updatable
        self._desired = desired
        self._targets = targets
        self._made_from = made_from
        self._wanted = wanted
        self._moved = moved
        self._held = held
        self._book = Sources(desired)
        self._by_node: dict[str, list[ObservedInstance]] = {}
        self._nodes = {node.name: node for node in desired.nodes if not node.retired}
        for instance in observed:
            if stays(instance, self._nodes.get(instance.node)):
                self._by_node.setdefault(instance.node, []).append(instance)
        self._infos: dict[str, Sequence[InstanceInfo]] = {}
        if any(instance.asked for instance in observed):
            for name, found in self._by_node.items():
                found.sort(key=lambda instance: (instance.ordinal, instance.id))
                self._infos[name] = infos_of(found, self._nodes.get(name))
        self._again = AskedAgain(self._infos, self._nodes, desired.definitions, infrastructure_id)
        self.outlook = Outlook(replace={}, update={}, drifted={}, followed={})

    def look(self) -> Outlook:
        nodes = self._nodes
        edges = {name: [d for d in node.depends_on if d in nodes] for name, node in nodes.items()}
        for name in topological_order(edges):
            node = nodes[name]
            kept = self._by_node.get(name, [])
            for instance in kept:
                self._judge(node, instance)
            if self._infos:
                self._foresee(node, kept)
        return self.outlook

    def _judge(self, node: CompiledNode, instance: ObservedInstance) -> None:
        outlook = self.outlook
        described = self._described(node, instance)
        changes, followed, update = described.changes, described.followed, described.update
        asked = followed.asked if followed is not None else instance.asked
        told = self._again.others(asked)
        reasons = [DESCRIBED_ANEW] if changes is not None else []
        reasons += [TOLD_ANEW] if told else []
        mark = Mark("; ".join(reasons), (*(changes or ()), *told))
        kept = self._kept(node, instance)
        if kept == KEPT and changes is None and node.policy.heal.outdated == "replace":
            kept = ""  # its policy keeps what is described anew, and renews what was told wrong
        if instance.id in self._wanted and not instance.protected:
            outlook.replace[instance.id] = Mark(ASKED, mark.changes)
        elif update is not None and not reasons:
            held = HELD if node.name in self._held else self._kept_by_policy(node, instance)
            if held:
                outlook.drifted[instance.id] = msgspec.structs.replace(update.mark, reason=DESCRIBED_ANEW, kept=held)
            else:
                outlook.update[instance.id] = update
        elif reasons and kept:
            outlook.drifted[instance.id] = msgspec.structs.replace(mark, kept=kept)
        elif reasons:
            outlook.replace[instance.id] = mark
        if followed is not None and changes is None and update is None:
            outlook.followed[instance.id] = followed

    def _kept(self, node: CompiledNode, instance: ObservedInstance) -> str:
        """Why it stays, though it is not as described; empty if it does not."""
        if instance.protected:
            return PROTECTED
        if node.name in self._held:
            return HELD
        if instance.adopted:
            return ADOPTED
        return self._kept_by_policy(node, instance)

    @staticmethod
    def _kept_by_policy(node: CompiledNode, instance: ObservedInstance) -> str:
        """What never became ready is not kept: it would be waited for, and the change never be made."""
        return KEPT if node.policy.change == "keep" and instance.was_ready else ""

    def _described(self, node: CompiledNode, instance: ObservedInstance) -> _Described:
        """In what the description differs from what it was made from; and what the record of one of which it does not
        is to say, None if what it says is right."""
        choices = node.implementations
        if instance.fingerprint == node.fingerprint and instance.implementation in choices and not self._moved:
            return _AS_DESCRIBED
        if not instance.source:  # adopted, or made before sources were kept
            return _Described(None if instance.fingerprint == node.fingerprint or not node.fingerprint else ())
        asked = instance.asked
        digest, source = instance.source, self._made_from.get(instance.source)
        if self._moved and source is not None:
            asked = tuple(msgspec.structs.replace(a, node=self._moved.get(a.node, a.node)) for a in asked)
            source = renamed(source, self._moved)
            digest = digest_of(source)
        likely = sorted(choices, key=lambda index: index != instance.implementation)
        for index in likely if not instance.updating else ():
            if self._book.digest(node, index) == digest:
                now = Followed(index, digest, asked)
                before = Followed(instance.implementation, instance.source, instance.asked)
                return _Described(None, now if now != before else None)
        if source is None or not likely:
            return _Described(())
        found = {index: self._differs(node, index, instance, source) for index in likely}
        # One that can be reached in place first, then the nearest.
        best = min(
            found, key=lambda index: (len(found[index].forces), not found[index].keys, len(found[index].changes))
        )
        nearest = found[best]
        if nearest.forces or not nearest.keys:
            return _Described(nearest.forces or nearest.changes)
        return _Described(update=Update(Mark(CHANGED_IN_PLACE, nearest.changes), best, nearest.keys, nearest.touched))

    def _differs(self, node: CompiledNode, index: int, instance: ObservedInstance, source: Source) -> Difference:
        """From what the node's implementation of that index says."""
        # What stands in for another cloud has other keys than are described.
        stands_in = bool(self._desired.definitions[node.defined_by][index].built_on)
        updatable = () if stands_in else self._updatable.get(instance.account, ())
        wanted = self._book.value(node, index)
        found = difference(source, wanted, updatable)
        other = self._made_from.get(instance.updating)
        if not found.changes and other is not None:
            # It may be as described by now, or not any more: the change before did not come to its end.
            left = difference(renamed(other, self._moved), wanted, updatable)
            return found._replace(changes=left.changes, touched=left.touched)
        return found

    def _foresee(self, node: CompiledNode, kept: list[ObservedInstance]) -> None:
        """The node's instances as they will be: those that stay, and those that take the others' places."""
        target = self._targets.get(node.name, node.min)
        doomed = self.outlook.replace
        gone = set(choose_surplus(kept, max(0, len(kept) - target), node.policy.scale_down, doomed))
        gone.update(instance.id for instance in kept if instance.id in doomed)
        if not gone and len(kept) >= target and node.name in self._infos:
            return
        taken = {instance.ordinal for instance in kept}
        infos = {i.ordinal: info_of(i, node) for i in kept if i.id not in gone}
        leaving = sorted((i.ordinal for i in kept if i.id in gone), reverse=True)
        first_down = node.policy.max_unavailable > 0
        for _ in range(max(0, target - len(infos))):
            if first_down and leaving:
                taken.discard(leaving.pop())
            ordinal = next(number for number in range(1, len(taken) + 2) if number not in taken)
            taken.add(ordinal)
            if not first_down and leaving and len(taken) > target:
                taken.discard(leaving.pop())
            infos[ordinal] = to_come(node, ordinal)
        self._infos[node.name] = [infos[ordinal] for ordinal in sorted(infos)]


def look_ahead(
    desired: CompiledInfrastructure,
    targets: Mapping[str, int],
    observed: Sequence[ObservedInstance],
    *,
    made_from: Mapping[str, Source] | None = None,
    wanted: Collection[str] = (),
    moved: Mapping[str, str] | None = None,
    held: Collection[str] = (),
    infrastructure_id: str = "",
    updatable: Keys | None = None,
) -> Outlook:
    """What becomes of ``observed``, whose nodes have their new names.

    ``made_from``: digest -> source, for the digests that instances have. ``wanted``: ids of instances that are to be
    made anew in any case. ``moved``: former name of a node -> its name now, for moves that this change makes.
    ``held``: nodes whose instances stay as they are, if they are not ``wanted``. ``updatable``: what clouds change in
    place; of those that are not in it, nothing."""
    return _Looking(
        desired, targets, observed, made_from or {}, wanted, moved or {}, held, infrastructure_id, updatable or {}
    ).look()
