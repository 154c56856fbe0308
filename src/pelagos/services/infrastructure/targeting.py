"""A change of some nodes only: from two descriptions, the one in which the others stay as they are. Pure.

What is asked for must be sound on the way as at the end. So a node that is changed brings along what it depends on; a
node that is left as it is keeps what it depends on, even where that is no longer described; and a node that would wait
for one that is neither there nor made is not made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import NamedTuple

import msgspec

from pelagos.model.errors import Ambiguous, InvalidInput, NotFound
from pelagos.services.infrastructure.graph import topological_order
from pelagos.services.infrastructure.observed import ObservedInstance
from pelagos.services.infrastructure.values import CompiledInfrastructure, CompiledNode, Implementation

__all__ = ["Narrowed", "instances_meant", "left_out", "moves_made", "narrowed"]


class Narrowed(NamedTuple):
    """``held``: the nodes that are left as they are, and whose instances are not made anew for others' sake."""

    compiled: CompiledInfrastructure
    held: frozenset[str] = frozenset()


def moves_made(desired: CompiledInfrastructure, previous: CompiledInfrastructure | None) -> dict[str, str]:
    """Those of the description's moves that are still to be made: former name -> new name."""
    if previous is None or not desired.moved:
        return {}
    before = {node.name for node in previous.nodes if not node.retired}
    now = {node.name for node in desired.nodes}
    return {
        old: new for old, new in desired.moved.items() if old in before and new not in before and new in now
    }  # fmt: skip


def instances_meant(wanted: Sequence[str], observed: Sequence[ObservedInstance], name: str) -> frozenset[str]:
    """Ids of the instances that ``NODE`` and ``NODE/INSTANCE`` mean. Raises NotFound, Ambiguous."""
    found: set[str] = set()
    for text in wanted:
        node, _, beginning = text.partition("/")
        of_node = [i.id for i in observed if i.node == node]
        meant = [instance for instance in of_node if instance.startswith(beginning)]
        if not meant:
            what = f"node {node!r} has no instance {beginning!r}" if of_node else f"there is no instance of {node!r}"
            raise NotFound(f"{what} in {name!r}", advice=f"`pelagos status {name}` shows nodes and instances.")
        if beginning and len(meant) > 1:
            raise Ambiguous(
                f"{len(meant)} instances of node {node!r} begin with {beginning!r}", details={"ids": sorted(meant)}
            )
        found.update(meant)
    return frozenset(found)


def narrowed(
    new: CompiledInfrastructure,
    old: CompiledInfrastructure | None,
    only: Collection[str] = (),
    without: Collection[str] = (),
    anew: Collection[str] = (),
) -> Narrowed:
    """``new`` where it may be changed, ``old`` elsewhere; ``anew``: ``NODE`` and ``NODE/INSTANCE`` to be made anew.

    Raises NotFound for names that are in neither, and InvalidInput for one that is wanted and excluded, for what is to
    be made anew and left as it is, and where what is left would be unsound."""
    if not only and not without:
        return Narrowed(new)
    both = sorted({*only} & {*without})
    if both:
        raise InvalidInput(
            f"{', '.join(repr(name) for name in both)} cannot be both wanted (--target) and left out (--exclude)",
            advice="Give one of them for each node.",
        )
    found = _Narrowing(new, old, only, without).result()
    _refuse_anew(anew, found, without)
    return found


def _refuse_anew(anew: Collection[str], found: Narrowed, without: Collection[str]) -> None:
    """Raises InvalidInput for what is to be made anew and belongs to a node that is left as it is."""
    for text in anew:
        node = text.partition("/")[0]
        if node in found.held and node in without:
            raise InvalidInput(
                f"{text!r} cannot be both made anew (--replace) and left out (--exclude)",
                advice="Give one of them for each node.",
            )
        if node in found.held:
            raise InvalidInput(
                f"{text!r} cannot be made anew (--replace): the change leaves {node!r} as it is",
                advice=f"Name {node!r} with --target too, or change all nodes.",
            )


def left_out(new: CompiledInfrastructure, old: CompiledInfrastructure | None, found: Narrowed) -> tuple[str, ...]:
    """The nodes that ``found`` leaves as they are, or does not make, in the order of the descriptions.

    One that is to be renamed, and is not, has its former name."""
    here = {node.name for node in found.compiled.nodes}
    unmade = {now for before, now in moves_made(new, old).items() if before in found.held}
    names = [node.name for node in new.nodes] + [node.name for node in (old.nodes if old is not None else ())]
    return tuple(
        name for name in dict.fromkeys(names) if name in found.held or (name not in here and name not in unmade)
    )


class _Narrowing:
    def __init__(
        self,
        new: CompiledInfrastructure,
        old: CompiledInfrastructure | None,
        only: Collection[str],
        without: Collection[str],
    ) -> None:
        self._new = new
        self._old = old
        self._only = only
        self._without = without
        self._moves = moves_made(new, old)
        self._after = {node.name: node for node in new.nodes}
        self._before = {node.name: node for node in old.nodes if not node.retired} if old is not None else {}
        for name in (*only, *without):
            if name not in self._after and name not in self._before:
                raise NotFound(
                    f"there is no node {name!r}",
                    advice=f"There are: {', '.join(dict.fromkeys([*self._after, *self._before]))}.",
                )

    def result(self) -> Narrowed:
        changed = self._changed()
        there = {self._moves.get(name, name): name for name in self._before}
        kept = {old: self._before[old] for new, old in there.items() if new not in changed and old not in changed}
        self._hold(kept, changed)
        held = frozenset(kept)
        nodes: list[CompiledNode] = []
        definitions = dict(self._new.definitions)
        for name, node in self._after.items():
            old = there.get(name)
            if old is not None and old in kept:
                nodes.append(self._as_it_is(kept.pop(old), definitions, changed))
            elif name in changed:
                nodes.append(node)
        nodes += [self._as_it_is(node, definitions, changed) for node in kept.values()]
        names = {node.name for node in nodes}
        edges = {node.name: [name for name in node.depends_on if name in names] for node in nodes}
        if len(topological_order(edges)) < len(nodes):
            raise InvalidInput(
                "with the other nodes as they are, the dependencies would run in a circle",
                advice="Change these nodes together, without --target and --exclude.",
            )
        used = {node.defined_by for node in nodes}
        compiled = msgspec.structs.replace(
            self._new,
            nodes=tuple(nodes),
            definitions={key: value for key, value in definitions.items() if key in used},
            moved={old: new for old, new in self._new.moved.items() if new in changed or old not in self._before},
        )
        return Narrowed(compiled, held)

    def _changed(self) -> set[str]:
        """The nodes that are made, changed or taken away, by their new names."""
        if self._only:
            changed: set[str] = set()
            waiting = [self._moves.get(name, name) for name in self._only]
            while waiting:
                name = waiting.pop()
                if name not in changed and name not in self._without:
                    changed.add(name)
                    node = self._after.get(name)
                    waiting += node.depends_on if node is not None else ()
        else:
            there_then = {self._moves.get(name, name) for name in self._before}
            changed = {*self._after, *there_then} - {self._moves.get(name, name) for name in self._without}
        there = self._before.keys()  # a node that would be renamed, and is not changed, keeps its former name
        while True:
            stuck = {
                name
                for name in changed
                if name in self._after
                and any(dependee not in changed and dependee not in there for dependee in self._after[name].depends_on)
            }
            if not stuck:
                return changed
            asked = stuck.intersection(self._only)
            if asked:
                name = sorted(asked)[0]
                lacking = [d for d in self._after[name].depends_on if d not in changed and d not in there]
                raise InvalidInput(
                    f"{name!r} depends on {', '.join(lacking)}, which is not there and is excluded",
                    advice="Do not exclude what it depends on.",
                )
            changed -= stuck

    def _hold(self, kept: dict[str, CompiledNode], changed: set[str]) -> None:
        """What is no longer described stays as long as something that is left as it is depends on it."""
        waiting = list(kept.values())
        while waiting:
            node = waiting.pop()
            for name in node.depends_on:
                known = self._moves.get(name, name)
                if name in kept or known in self._after or name not in self._before:
                    continue
                if name in self._only:
                    raise InvalidInput(
                        f"{name!r} cannot be taken away while {node.name!r}, which depends on it, is left as it is",
                        advice=f"Name {node.name!r} too.",
                    )
                kept[name] = self._before[name]
                waiting.append(kept[name])

    def _as_it_is(
        self, node: CompiledNode, definitions: dict[str, tuple[Implementation, ...]], changed: set[str]
    ) -> CompiledNode:  # fmt: skip
        """The node of the old description, with its own definition beside those of the new one."""
        assert self._old is not None
        own = self._old.definitions.get(node.defined_by, ())
        key = node.type
        if definitions.get(key, own) != own:
            digest = hashlib.sha256(msgspec.msgpack.encode(own, order="deterministic")).hexdigest()
            key = f"{node.type}@{digest[:16]}"
        definitions[key] = own
        renamed = {old: new for old, new in self._moves.items() if new in changed}
        return msgspec.structs.replace(
            node,
            definition="" if key == node.type else key,
            depends_on=tuple(renamed.get(name, name) for name in node.depends_on),
        )
