"""Commits: a root object, its parents, who, when and why; branches that move by compare-and-set; and reading any of it.

Everything is a function on a connection, to be used inside whatever transaction the caller has: a service commits a new
description together with the rows that tell of it, or neither. Nothing here asks a clock or makes an id.

A commit is an object like any other, so its digest covers its content and its whole history. Its row in `commits` is an
index: it says of which repository it is one, and carries the generation by which history is walked.

A revision is text: a branch, a tag, a commit (at least four hexadecimal digits), ``remote/<name>/<branch>``, each with
``~n`` (n first parents back) or ``@{time}`` (the newest on its line that is not younger: seconds since the epoch, or
ISO 8601) behind it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, text

from pelagos.model.errors import Ambiguous, Conflict, InvalidInput, NotFound
from pelagos.model.scope import Scope
from pelagos.repository.encoding import Link, StoredObject
from pelagos.repository.graph import CommitGraph, CommitInfo
from pelagos.repository.objects import get, put, read_stored
from pelagos.repository.repositories import Repository, check_ref_name, head_moved, read_ref, require_ref, set_ref
from pelagos.repository.types import TYPES, TypeRegistry

__all__ = [
    "ANY_HEAD",
    "COMMIT_TYPE",
    "AnyHead",
    "Checkout",
    "Commit",
    "Committed",
    "checkout",
    "commit",
    "head",
    "history",
    "index_commit",
    "read_commit",
    "resolve",
    "set_branch",
]

COMMIT_TYPE = "pelagos.repository.commit"


class Commit(msgspec.Struct, frozen=True):
    """What is stored. ``parents``: the first is the branch's head before, the others were merged into it."""

    root: Link[Any]
    parents: tuple[Link[Any], ...]
    author: Scope
    at: float
    """Seconds since the epoch, by the writer's clock."""
    message: str = ""


_CORE = TypeRegistry(cached_bytes=2**20)
_CORE.register(Commit, COMMIT_TYPE)
TYPES.register(Commit, COMMIT_TYPE)


class AnyHead(msgspec.Struct, frozen=True):
    """The type of :data:`ANY_HEAD`."""


ANY_HEAD: Final = AnyHead()
"""For ``expected_head``: whatever the branch names in this transaction, or nothing."""


class Committed(msgspec.Struct, frozen=True):
    """``digest``: the branch's head now. ``created``: False if the content was the head's already."""

    digest: str
    root: str
    created: bool


class Checkout(msgspec.Struct, frozen=True):
    """A state to look at: the commit, and its root as a value. To change it, make a new value and commit that."""

    info: CommitInfo
    root_digest: str
    root: Any


def head(connection: Connection, repository: Repository, branch: str = "main") -> str | None:
    """The commit a branch names, or None if there is no such branch."""
    ref = read_ref(connection, repository, f"branch/{branch}")
    return None if ref is None else ref.digest


def commit(
    connection: Connection,
    repository: Repository,
    branch: str,
    root: object,
    *,
    author: Scope,
    at: float,
    message: str = "",
    expected_head: str | AnyHead | None = ANY_HEAD,
    merged: Sequence[str] = (),
    allow_empty: bool = False,
    types: TypeRegistry = TYPES,
) -> Committed:
    """Store ``root`` (a value or a link) with what is attached to it, and make it the branch's new head.

    ``expected_head``: the commit the branch must name now, None if the branch must be new. ``merged``: heads whose
    changes are in ``root`` too. ``at``: seconds since the epoch. If the content is the head's and nothing was merged,
    no commit is made unless ``allow_empty``.

    Raises :class:`HeadMoved` (a :class:`Conflict`) with both heads if the branch is elsewhere, before anything was
    written; :class:`Conflict` for a deleted repository; :class:`InvalidInput` for what cannot be
    stored; :class:`MissingObjects` for a link into nothing.
    """
    if repository.deleted_at is not None:
        raise Conflict(f"repository {repository.name!r} was deleted", advice="Make a new one.")
    name = f"branch/{branch}"
    check_ref_name(name)
    now = head(connection, repository, branch)
    if not isinstance(expected_head, AnyHead) and now != expected_head:
        raise head_moved(repository, name, expected_head, now)
    top: Link[Any] = root if isinstance(root, Link) else types.link(root)
    parents = tuple(dict.fromkeys([*([now] if now else []), *merged]))
    if now is not None and parents == (now,) and not allow_empty:
        before = read_commit(connection, now)
        if before.root.digest == top.digest:
            return Committed(now, top.digest, created=False)
    graph = CommitGraph(connection, repository)
    for parent in parents:
        graph.require(parent)
    made = Commit(top, tuple(Link(parent) for parent in parents), author, at, message)
    put(connection, top, at, types=types)
    digest = put(connection, _CORE.link(msgspec.structs.replace(made, root=Link(top.digest))), at, types=_CORE)
    index_commit(connection, repository, digest, made, graph)
    set_ref(connection, repository, name, digest, expected=now, by=author, at=at)
    return Committed(digest, top.digest, created=True)


def index_commit(
    connection: Connection, repository: Repository, digest: str, made: Commit, graph: CommitGraph
) -> CommitInfo:
    """Make a stored commit one of the repository's. Its parents must be so already. Idempotent."""
    parents = tuple(parent.digest for parent in made.parents)
    generation = 1 + max((graph.require(parent).generation for parent in parents), default=0)
    connection.execute(
        _INSERT,
        {
            "repository_id": repository.id,
            "digest": digest,
            "generation": generation,
            "at": made.at,
            "user_id": made.author.user_id,
            "message": made.message,
            "parents_blob": msgspec.msgpack.encode(parents),
        },
    )
    return CommitInfo(digest, generation, made.at, made.author.user_id, made.message, parents)


def set_branch(
    connection: Connection,
    repository: Repository,
    branch: str,
    revision: str,
    *,
    by: Scope,
    at: float,
    expected_head: str | None = None,
) -> str:
    """Make a branch at a revision, or move it there from ``expected_head`` (compare and set); returns the commit.

    Raises :class:`HeadMoved`, also if the branch is there and ``expected_head`` is None, and :class:`NotFound`."""
    target = resolve(connection, repository, revision).digest
    set_ref(connection, repository, f"branch/{branch}", target, expected=expected_head, by=by, at=at)
    return target


def read_commit(connection: Connection, digest: str) -> Commit:
    """The commit object of a digest. Raises :class:`NotFound`, also for an object that is no commit."""
    cached = _CORE.cached(digest)
    if isinstance(cached, Commit):
        return cached
    for packed in read_stored(connection, (digest,)):
        return decode_commit(packed)
    raise NotFound(f"there is no commit {digest[:12]}")


def decode_commit(packed: StoredObject) -> Commit:
    """The commit in an object. Raises :class:`NotFound` if it is none."""
    value = _CORE.decode(packed)
    if not isinstance(value, Commit):
        raise NotFound(f"object {packed.digest[:12]} is a {packed.type}, no commit")
    return value


def checkout(
    connection: Connection,
    repository: Repository,
    revision: str = "main",
    *,
    as_of: float | None = None,
    types: TypeRegistry = TYPES,
) -> Checkout:
    """The state of a revision (see the module's text); ``as_of``: as it was at that time, in seconds since the epoch.

    Raises :class:`NotFound`, :class:`Ambiguous` for a prefix of several commits, :class:`InvalidInput`."""
    info = resolve(connection, repository, revision, as_of=as_of)
    root = read_commit(connection, info.digest).root
    return Checkout(info, root.digest, get(connection, root, types=types))


def history(
    connection: Connection,
    repository: Repository,
    revision: str = "main",
    *,
    limit: int = 100,
    before: str | None = None,
) -> list[CommitInfo]:
    """The commits that led to a revision, newest first (never one before its descendant); at most ``limit``.

    ``before``: the digest of the last one of the page before. Raises as :func:`resolve`."""
    graph = CommitGraph(connection, repository)
    start = resolve(connection, repository, revision, graph=graph).digest
    page: list[CommitInfo] = []
    skipping = before is not None
    for info in graph.walk(start):
        if skipping:
            skipping = info.digest != before
            continue
        if len(page) >= limit:
            break
        page.append(info)
    if skipping:
        raise NotFound(f"commit {(before or '')[:12]} is not in the history of {revision!r}")
    return page


# -- revisions -------------------------------------------------------------------------------------------------

_REVISION = re.compile(r"(?P<name>[^~@{}^\s]+)(?:~(?P<back>\d{1,6}))?(?:@\{(?P<time>[^{}]+)\})?")


def resolve(
    connection: Connection,
    repository: Repository,
    revision: str,
    *,
    as_of: float | None = None,
    graph: CommitGraph | None = None,
) -> CommitInfo:
    """The commit of a revision. Raises :class:`NotFound`, :class:`Ambiguous`, :class:`InvalidInput`."""
    parts = _REVISION.fullmatch(revision)
    if parts is None:
        raise InvalidInput(
            f"{revision!r} is not a revision",
            advice="Write a branch, a tag or a commit, with ~2 for two before, or @{2026-01-31} for as it was then.",
        )
    graph = graph or CommitGraph(connection, repository)
    info = _named(connection, repository, parts["name"], graph)
    if parts["back"]:
        info = _back(graph, info, int(parts["back"]), repository)
    for moment in ([_moment(parts["time"])] if parts["time"] else []) + ([] if as_of is None else [as_of]):
        info = _at(graph, info, moment, revision)
    return info


def _named(connection: Connection, repository: Repository, name: str, graph: CommitGraph) -> CommitInfo:
    for full in (f"branch/{name}", f"tag/{name}", name):
        ref = read_ref(connection, repository, full)
        if ref is not None:
            return graph.require(ref.digest)
    if re.fullmatch(r"[0-9a-f]{4,64}", name):
        found = graph.by_prefix(name)
        if len(found) == 1:
            return graph.require(found[0])
        if found:
            raise Ambiguous(
                f"several commits of {repository.name} begin with {name}",
                advice="Give more digits.",
                details={"ids": found},
            )
        raise NotFound(f"{repository.name} has no branch, tag or commit {name!r}")
    require_ref(connection, repository, f"branch/{name}")
    raise AssertionError("a ref that was not found is not required")


def _back(graph: CommitGraph, info: CommitInfo, steps: int, repository: Repository) -> CommitInfo:
    for count, found in enumerate(graph.first_parents(info.digest)):
        if count == steps:
            return found
    raise NotFound(f"{repository.name}: commit {info.digest[:12]} has only {count} before it, not {steps}")


def _at(graph: CommitGraph, info: CommitInfo, moment: float, revision: str) -> CommitInfo:
    for found in graph.first_parents(info.digest):
        if found.at <= moment:
            return found
    said = datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
    raise NotFound(f"{revision!r} has nothing as old as {said}", advice="Its history begins later.")


def _moment(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(
            f"{text!r} is not a time", advice="Write 2026-01-31, 2026-01-31T12:00:00Z or seconds since the epoch."
        ) from None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


_INSERT = text(
    "INSERT INTO commits (repository_id, digest, generation, at, user_id, message, parents_blob) VALUES "
    "(:repository_id, :digest, :generation, :at, :user_id, :message, :parents_blob) ON CONFLICT DO NOTHING"
)
