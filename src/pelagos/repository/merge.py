"""Three-way merge of values, field by field. Pure; links are followed by a loader and made again by a linker.

Each place is decided by what both sides did to it since their common base: the same, or one side nothing, is no
conflict; anything else goes one level deeper (fields, keys, identities, what links lead to) and is a typed conflict
where nothing is deeper. A conflict is decided by whoever merges, place by place; there is no rule by date and none by
side. (The ancestor let the newer date win and logged that something was lost: reference section 9.4.)

A sequence whose items declare no identity is whole: if both sides changed it, that is one conflict. Rejected: merging
such lists by position like lines of a text. Nothing says that the third item of both sides is the same thing, and a
wrong guess is a loss that nobody sees.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from pelagos.model.errors import InvalidInput
from pelagos.repository.encoding import Link, Opaque, Undecided, fingerprint
from pelagos.repository.values import (
    MISSING,
    Load,
    at_field,
    at_identity,
    at_key,
    by_identity,
    fields_of,
    identity_field,
    is_sequence,
    same,
)

__all__ = [
    "BothAdded",
    "BothChanged",
    "ChangedAndRemoved",
    "Choice",
    "MergeConflict",
    "Merged",
    "Resolution",
    "Resolver",
    "Use",
    "as_resolver",
    "merge_values",
    "virtual_base",
]


class BothChanged(msgspec.Struct, frozen=True, tag="both-changed"):
    """Both sides changed it, differently. A path that ends in ``[order]`` is the order of identities."""

    path: str
    base: Any
    ours: Any
    theirs: Any


class ChangedAndRemoved(msgspec.Struct, frozen=True, tag="changed-and-removed"):
    """One side changed it, the other removed it, and has :data:`MISSING`."""

    path: str
    base: Any
    ours: Any
    theirs: Any


class BothAdded(msgspec.Struct, frozen=True, tag="both-added"):
    """Both sides added it, differently."""

    path: str
    ours: Any
    theirs: Any


MergeConflict = BothChanged | ChangedAndRemoved | BothAdded


class Choice(enum.StrEnum):
    """Which side counts. What is not on that side is not in the result."""

    OURS = "ours"
    THEIRS = "theirs"
    BASE = "base"


class Use(msgspec.Struct, frozen=True):
    """Neither side, but this value."""

    value: Any


Resolution = Choice | Use
Resolver = Callable[[MergeConflict], Resolution | None]
"""Decides a conflict; None leaves it open."""


class Merged(msgspec.Struct, frozen=True):
    """``value`` is complete only if ``conflicts`` is empty: at the open ones it has our side."""

    value: Any
    conflicts: tuple[MergeConflict, ...]
    resolved: tuple[MergeConflict, ...] = ()


def merge_values(
    base: Any,
    ours: Any,
    theirs: Any,
    *,
    load: Load,
    link: Callable[[Any], Link[Any]],
    resolver: Resolver | None = None,
) -> Merged:
    """Merge what ``ours`` and ``theirs`` each did to ``base`` (MISSING: they have no common base).

    ``load`` gives what a link leads to, ``link`` makes one. Every change of either side is in the result or in a
    conflict."""
    merging = _Merging(load, link, resolver)
    value = merging.at("", base, ours, theirs)
    return Merged(value, tuple(merging.conflicts), tuple(merging.resolved))


def virtual_base(base: Any, one: Any, two: Any, *, load: Load, link: Callable[[Any], Link[Any]]) -> Any:
    """The common base of a criss-cross: two older merges, merged. Where they conflict it is undecided, which is equal
    to nothing, so that whoever merges on it is asked again unless both sides agree by now."""
    return _Merging(load, link, None, undecided=True).at("", base, one, two)


def as_resolver(choices: Mapping[str, Resolution | str]) -> Resolver:
    """A resolver from a mapping of paths; ``ours``, ``theirs`` and ``base`` may be given as text. The path ``*`` stands
    for all that is not named. Raises :class:`InvalidInput` for another text."""
    decided: dict[str, Resolution] = {}
    for path, choice in choices.items():
        if isinstance(choice, Use | Choice):
            decided[path] = choice
            continue
        try:
            decided[path] = Choice(choice)
        except ValueError:
            raise InvalidInput(
                f"{choice!r} decides nothing for {path}", advice="Say ours, theirs or base, or give a value."
            ) from None
    return lambda conflict: decided.get(conflict.path, decided.get("*"))


class _Merging:
    def __init__(
        self, load: Load, link: Callable[[Any], Link[Any]], resolver: Resolver | None, *, undecided: bool = False
    ) -> None:
        self._load = load
        self._link = link
        self._resolver = resolver
        self._undecided = undecided
        self.conflicts: list[MergeConflict] = []
        self.resolved: list[MergeConflict] = []

    def at(self, path: str, base: Any, ours: Any, theirs: Any) -> Any:
        """The result at one place; MISSING if there is to be nothing."""
        if same(ours, theirs) or same(theirs, base):
            return ours
        if same(ours, base):
            return theirs
        sides = (base, ours, theirs)
        if all(isinstance(side, Link) for side in sides):
            return self._links(path, base, ours, theirs)
        if isinstance(base, msgspec.Struct) and type(base) is type(ours) is type(theirs) and _open(base):
            one, two, three = fields_of(base), fields_of(ours), fields_of(theirs)
            return msgspec.structs.replace(
                ours, **{name: self.at(at_field(path, name), one[name], two[name], three[name]) for name in one}
            )
        if all(isinstance(side, dict) for side in sides):
            keys = list(dict.fromkeys([*base, *ours, *theirs]))
            places = ((key, at_key(path, key)) for key in keys)
            return _without_missing(
                (key, self.at(place, *(side.get(key, MISSING) for side in sides))) for key, place in places
            )
        if all(is_sequence(side) for side in sides):
            identities = [by_identity(side) for side in sides]
            if all(found is not None for found in identities):
                return self._sequence(path, identities, ours)
        if base is MISSING:
            return self._decide(BothAdded(path, ours, theirs))
        if ours is MISSING or theirs is MISSING:
            return self._decide(ChangedAndRemoved(path, base, ours, theirs))
        return self._decide(BothChanged(path, base, ours, theirs))

    def _decide(self, conflict: MergeConflict) -> Any:
        if self._undecided:
            self.conflicts.append(conflict)
            return Undecided(next(_serials))
        resolution = self._resolver(conflict) if self._resolver is not None else None
        if resolution is None:
            self.conflicts.append(conflict)
            return conflict.ours
        self.resolved.append(conflict)
        match resolution:
            case Use(value=value):
                return value
            case Choice.OURS:
                return conflict.ours
            case Choice.THEIRS:
                return conflict.theirs
            case Choice.BASE:
                base = MISSING if isinstance(conflict, BothAdded) else conflict.base
                if not _decided(base):
                    raise InvalidInput(
                        f"{conflict.path}: there is no one base, older merges differ here",
                        advice="Choose ours or theirs, or give a value.",
                    )
                return base

    def _links(self, path: str, base: Link[Any], ours: Link[Any], theirs: Link[Any]) -> Any:
        before = len(self.conflicts)
        merged = self.at(
            path, *(self._load(side) if side.target is None else side.target for side in (base, ours, theirs))
        )
        if self._undecided and len(self.conflicts) > before:
            # What is undecided has no bytes and so no digest; a made-up one is equal to no other.
            return Link(f"{next(_serials):064x}", merged)
        return merged if merged is MISSING else self._link(merged)

    def _sequence(self, path: str, identities: list[Any], ours: Any) -> Any:
        base, mine, other = identities
        items: dict[Any, Any] = {}
        for identity, item in {**base, **mine, **other}.items():
            place = at_identity(path, identity_field(item) or "", identity)
            items[identity] = self.at(place, *(side.get(identity, MISSING) for side in identities))
        items = {identity: item for identity, item in items.items() if item is not MISSING}
        common = [identity for identity in base if identity in mine and identity in other and identity in items]
        order = self.at_order(path, common, _only(mine, common), _only(other, common))
        placed = _place(order, _runs(mine, order, items), _runs(other, order, items), items)
        return type(ours)(items[identity] for identity in placed)

    def at_order(self, path: str, base: list[Any], ours: list[Any], theirs: list[Any]) -> list[Any]:
        """The order of the items that all three have."""
        if ours == theirs or theirs == base:
            return ours
        if ours == base:
            return theirs
        decided = self._decide(BothChanged(f"{path}[order]", tuple(base), tuple(ours), tuple(theirs)))
        chosen = base if isinstance(decided, Undecided) else list(decided)
        if sorted(map(repr, chosen)) != sorted(map(repr, base)):
            raise InvalidInput(f"{path}[order]: the order given does not name the same items", advice="Name each once.")
        return chosen


def _decided(value: Any) -> bool:
    match value:
        case Undecided():
            return False
        case Link():
            return value.target is None or value.packed is not None
        case msgspec.Struct():
            return all(_decided(item) for item in fields_of(value).values())
        case dict():
            return all(_decided(item) for item in value.values())
        case list() | tuple():
            return all(_decided(item) for item in value)
    return True


def _open(value: msgspec.Struct) -> bool:
    """Whether its fields may be merged one by one."""
    return not isinstance(value, Opaque)


def _without_missing(pairs: Iterator[tuple[Any, Any]]) -> dict[Any, Any]:
    return {key: value for key, value in pairs if value is not MISSING}


def _only(identities: dict[Any, Any], wanted: list[Any]) -> list[Any]:
    allowed = set(wanted)
    return [identity for identity in identities if identity in allowed]


def _runs(side: dict[Any, Any], order: list[Any], items: dict[Any, Any]) -> dict[Any, list[Any]]:
    """What a side has besides the common items, by the common item before it (None: at the beginning)."""
    common = set(order)
    runs: dict[Any, list[Any]] = {}
    before = None
    for identity in side:
        if identity in common:
            before = identity
        elif identity in items:
            runs.setdefault(before, []).append(identity)
    return runs


def _place(
    order: list[Any], ours: dict[Any, list[Any]], theirs: dict[Any, list[Any]], items: dict[Any, Any]
) -> list[Any]:
    """The common items in order, each followed by what the sides have after it. Two runs in one gap stand in the order
    of their bytes, so that the result does not depend on whose side is whose."""
    placed: dict[Any, None] = {}
    for before in [None, *order]:
        if before is not None:
            placed[before] = None
        runs = [run for run in (ours.get(before), theirs.get(before)) if run]
        for run in sorted(runs, key=fingerprint):
            placed.update(dict.fromkeys(identity for identity in run if identity not in placed))
    return list(placed)


_serials = itertools.count(1)
