"""Merging one branch into another: the bases, the merge of the roots, and the commit that has both parents."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection

from pelagos.model.scope import Scope
from pelagos.repository.commits import ANY_HEAD, AnyHead, commit, read_commit, resolve
from pelagos.repository.encoding import Link
from pelagos.repository.errors import MergeConflicts
from pelagos.repository.graph import CommitGraph
from pelagos.repository.merge import (
    MergeConflict,
    Merged,
    Resolution,
    Resolver,
    as_resolver,
    merge_values,
    virtual_base,
)
from pelagos.repository.objects import get
from pelagos.repository.repositories import Repository, head_moved, require_ref, set_ref
from pelagos.repository.types import TYPES, TypeRegistry
from pelagos.repository.values import MISSING, Missing

__all__ = ["MergeKind", "MergeOutcome", "merge_branch", "preview_merge"]


class MergeKind(enum.StrEnum):
    UP_TO_DATE = "up-to-date"
    """The branch had it all."""
    FAST_FORWARD = "fast-forward"
    """The branch had nothing of its own, and is now where the other is."""
    MERGED = "merged"
    """There is a new commit with both as parents."""


class MergeOutcome(msgspec.Struct, frozen=True):
    kind: MergeKind
    digest: str
    """The branch's head now."""
    resolved: tuple[MergeConflict, ...] = ()


def merge_branch(
    connection: Connection,
    repository: Repository,
    branch: str,
    revision: str,
    *,
    author: Scope,
    at: float,
    message: str = "",
    expected_head: str | AnyHead = ANY_HEAD,
    resolve_with: Resolver | Mapping[str, Resolution | str] | None = None,
    types: TypeRegistry = TYPES,
) -> MergeOutcome:
    """Merge ``revision`` into ``branch``. ``resolve_with`` decides conflicts, by a function or by their paths.

    Raises :class:`MergeConflicts` if any stays open, and :class:`HeadMoved`; then nothing is written."""
    name = f"branch/{branch}"
    ours = require_ref(connection, repository, name).digest
    if not isinstance(expected_head, AnyHead) and ours != expected_head:
        raise head_moved(repository, name, expected_head, ours)
    theirs = resolve(connection, repository, revision).digest
    graph = CommitGraph(connection, repository)
    bases = graph.merge_bases(ours, theirs)
    if bases == [theirs]:
        return MergeOutcome(MergeKind.UP_TO_DATE, ours)
    if bases == [ours]:
        set_ref(connection, repository, name, theirs, expected=ours, by=author, at=at)
        return MergeOutcome(MergeKind.FAST_FORWARD, theirs)
    merged = _merge(connection, graph, ours, theirs, resolve_with, types)
    if merged.conflicts:
        raise _conflicts(branch, revision, merged)
    made = commit(
        connection,
        repository,
        branch,
        merged.value,
        author=author,
        at=at,
        message=message or f"Merge {revision} into {branch}",
        expected_head=ours,
        merged=(theirs,),
        types=types,
    )
    return MergeOutcome(MergeKind.MERGED, made.digest, merged.resolved)


def preview_merge(
    connection: Connection,
    repository: Repository,
    ours: str,
    theirs: str,
    *,
    resolve_with: Resolver | Mapping[str, Resolution | str] | None = None,
    types: TypeRegistry = TYPES,
) -> Merged:
    """What a merge of two revisions would give, conflicts as typed values; writes nothing. ``value`` is a link."""
    graph = CommitGraph(connection, repository)
    one, two = (resolve(connection, repository, revision, graph=graph).digest for revision in (ours, theirs))
    return _merge(connection, graph, one, two, resolve_with, types)


def _merge(
    connection: Connection,
    graph: CommitGraph,
    ours: str,
    theirs: str,
    resolve_with: Resolver | Mapping[str, Resolution | str] | None,
    types: TypeRegistry,
) -> Merged:
    def load(link: Link[Any]) -> Any:
        return get(connection, link, types=types)

    resolver = as_resolver(resolve_with) if isinstance(resolve_with, Mapping) else resolve_with
    base = _base(connection, graph, ours, theirs, types)
    sides = [read_commit(connection, digest).root for digest in (ours, theirs)]
    return merge_values(base, *sides, load=load, link=types.link, resolver=resolver)


def _base(connection: Connection, graph: CommitGraph, ours: str, theirs: str, types: TypeRegistry) -> Any:
    """The common base: a root, or the merge of several (a criss-cross), or MISSING."""

    def load(link: Link[Any]) -> Any:
        return get(connection, link, types=types)

    bases = graph.merge_bases(ours, theirs)
    if not bases:
        return MISSING
    value: Any = read_commit(connection, bases[0]).root
    for one, two in itertools.pairwise(bases):
        below = _base(connection, graph, one, two, types)
        value = virtual_base(below, value, read_commit(connection, two).root, load=load, link=types.link)
    return value


def _conflicts(branch: str, revision: str, merged: Merged) -> MergeConflicts:
    paths = [conflict.path for conflict in merged.conflicts]
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    said = ", ".join(path or "the whole" for path in paths[:3])
    return MergeConflicts(
        f"merging {revision} into {branch}: both changed {said}{more}",
        details={"conflicts": [_as_plain(conflict) for conflict in merged.conflicts]},
    )


def _as_plain(conflict: MergeConflict) -> Any:
    """For a message: links as digests, what is missing left out."""
    fields = {name: getattr(conflict, name) for name in conflict.__struct_fields__}
    there = {name: value for name, value in fields.items() if not isinstance(value, Missing)}
    kind = type(conflict).__struct_config__.tag
    return {"kind": kind, **msgspec.to_builtins(there, enc_hook=_said)}


def _said(value: object) -> Any:
    return value.digest if isinstance(value, Link) else repr(value)
