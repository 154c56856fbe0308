"""What changed between two values: a list of typed changes, each with its path. Pure; links are followed by a loader.

Equal digests end the comparison, so a diff reads what changed and no more. Items of a sequence that declare an identity
are compared with the item of the same identity; others by the longest common subsequence, where the paths of removed
items count in the old sequence and those of added items in the new.
"""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import Any

import msgspec
from sqlalchemy import Connection

from pelagos.repository.commits import read_commit, resolve
from pelagos.repository.encoding import Link, Opaque, fingerprint
from pelagos.repository.objects import get
from pelagos.repository.repositories import Repository
from pelagos.repository.types import TYPES, TypeRegistry
from pelagos.repository.values import (
    MISSING,
    Load,
    at_field,
    at_identity,
    at_index,
    at_key,
    by_identity,
    fields_of,
    identity_field,
    is_sequence,
    same,
)

__all__ = ["Added", "Change", "Changed", "Removed", "Reordered", "compare", "diff"]


class Added(msgspec.Struct, frozen=True, tag="added"):
    path: str
    new: Any


class Removed(msgspec.Struct, frozen=True, tag="removed"):
    path: str
    old: Any


class Changed(msgspec.Struct, frozen=True, tag="changed"):
    path: str
    old: Any
    new: Any


class Reordered(msgspec.Struct, frozen=True, tag="reordered"):
    """The items that both have stand in another order; ``old`` and ``new`` are their identities."""

    path: str
    old: tuple[Any, ...]
    new: tuple[Any, ...]


Change = Added | Removed | Changed | Reordered


def diff(
    connection: Connection, repository: Repository, old: str, new: str, *, types: TypeRegistry = TYPES
) -> list[Change]:
    """What changed from revision ``old`` to revision ``new`` of a repository, in the order of the fields.

    Raises as :func:`pelagos.repository.commits.resolve`."""
    roots = [read_commit(connection, resolve(connection, repository, revision).digest).root for revision in (old, new)]
    return compare(roots[0], roots[1], lambda link: get(connection, link, types=types))


def compare(old: Any, new: Any, load: Load, path: str = "") -> list[Change]:
    """What changed from ``old`` to ``new``; empty if and only if they are the same."""
    changes: list[Change] = []
    _compare(old, new, load, path, changes)
    return changes


def _compare(old: Any, new: Any, load: Load, path: str, changes: list[Change]) -> None:
    if same(old, new):
        return
    if old is MISSING:
        changes.append(Added(path, new))
        return
    if new is MISSING:
        changes.append(Removed(path, old))
        return
    if isinstance(old, Link) and isinstance(new, Link):
        before = len(changes)
        _compare(_target(old, load), _target(new, load), load, path, changes)
        if len(changes) == before:
            # Another digest, and yet nothing to see: another version of the type, upgraded to the same value.
            changes.append(Changed(path, old, new))
        return
    if isinstance(old, msgspec.Struct) and type(old) is type(new) and not isinstance(old, Opaque):
        theirs = fields_of(new)
        for name, value in fields_of(old).items():
            _compare(value, theirs[name], load, at_field(path, name), changes)
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}, key=lambda key: (str(key), repr(key))):
            _compare(old.get(key, MISSING), new.get(key, MISSING), load, at_key(path, key), changes)
        return
    if is_sequence(old) and is_sequence(new):
        _compare_sequences(old, new, load, path, changes)
        return
    changes.append(Changed(path, old, new))


def _target(link: Link[Any], load: Load) -> Any:
    return load(link) if link.target is None else link.target


def _compare_sequences(old: Any, new: Any, load: Load, path: str, changes: list[Change]) -> None:
    ours, theirs = by_identity(old), by_identity(new)
    if ours is None or theirs is None:
        _compare_positions(old, new, load, path, changes)
        return
    for identity, item in {**ours, **theirs}.items():
        place = at_identity(path, identity_field(item) or "", identity)
        _compare(ours.get(identity, MISSING), theirs.get(identity, MISSING), load, place, changes)
    kept = tuple(identity for identity in ours if identity in theirs)
    placed = tuple(identity for identity in theirs if identity in ours)
    if kept != placed:
        changes.append(Reordered(path, kept, placed))


def _compare_positions(old: Any, new: Any, load: Load, path: str, changes: list[Change]) -> None:
    matcher = SequenceMatcher(None, [fingerprint(i) for i in old], [fingerprint(i) for i in new], autojunk=False)
    for sort, a, a_end, b, b_end in matcher.get_opcodes():
        if sort == "equal":
            continue
        pairs = min(a_end - a, b_end - b)
        for step in range(pairs):
            _compare(old[a + step], new[b + step], load, at_index(path, b + step), changes)
        for index in range(a + pairs, a_end):
            changes.append(Removed(at_index(path, index), old[index]))
        for index in range(b + pairs, b_end):
            changes.append(Added(at_index(path, index), new[index]))
