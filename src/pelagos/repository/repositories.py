"""Repositories: a project's named histories, and their refs (branches, tags, what was seen elsewhere).

A ref is a row that names a commit. Branches move by compare-and-set, tags never; ``remote/<name>/<branch>`` remembers
where another container's branch was. A repository of another project is not found.
"""

from __future__ import annotations

import re

import msgspec
from sqlalchemy import Connection, delete, insert, select, update

from pelagos.model.errors import Conflict, Gone, InvalidInput, NotFound
from pelagos.model.scope import Scope
from pelagos.repository.errors import HeadMoved
from pelagos.store.container_schema import refs, repositories

__all__ = [
    "Ref",
    "Repository",
    "branches",
    "create_repository",
    "delete_repository",
    "find_repository",
    "get_repository",
    "list_refs",
    "list_repositories",
    "read_ref",
    "remove_branch",
    "require_ref",
    "set_ref",
    "tag",
    "tags",
]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")


class Repository(msgspec.Struct, frozen=True):
    """A row of `repositories`. Times are seconds since the epoch."""

    id: str
    project_id: str
    user_id: str
    kind: str
    name: str
    created_at: float
    updated_at: float
    deleted_at: float | None = None


class Ref(msgspec.Struct, frozen=True):
    """``name`` is full: ``branch/main``, ``tag/v1``, ``remote/site/main``; ``digest`` that of a commit."""

    name: str
    digest: str
    user_id: str
    updated_at: float

    @property
    def short(self) -> str:
        return self.name.partition("/")[2]


def create_repository(
    connection: Connection, scope: Scope, kind: str, name: str, *, id: str, at: float
) -> Repository:  # fmt: skip
    """A new, empty one; ``id`` is made by the caller. Raises :class:`Conflict` if kind and name are taken by a live
    repository of the project."""
    if not 0 < len(kind) <= 64 or not 0 < len(name) <= 200:
        raise InvalidInput(
            f"{kind!r} {name!r} cannot name a repository", advice="Give 1 to 64 and 1 to 200 characters."
        )
    if find_repository(connection, scope, kind, name) is not None:
        raise Conflict(f"the project has a repository {name!r} of kind {kind!r} already")
    made = Repository(id, scope.project_id, scope.user_id, kind, name, at, at)
    connection.execute(insert(repositories).values(**msgspec.structs.asdict(made)))
    return made


def get_repository(connection: Connection, scope: Scope, repository_id: str) -> Repository:
    """The live repository of an id. Raises :class:`NotFound`, and :class:`Gone` for one that was deleted."""
    row = connection.execute(
        _SELECT.where(repositories.c.id == repository_id, repositories.c.project_id == scope.project_id)
    ).one_or_none()
    if row is None:
        raise NotFound(f"there is no repository {repository_id}")
    found = Repository(*row)
    if found.deleted_at is not None:
        raise Gone(f"repository {found.name!r} was deleted")
    return found


def find_repository(connection: Connection, scope: Scope, kind: str, name: str) -> Repository | None:
    """The live repository of that kind and name, or None."""
    row = connection.execute(
        _SELECT.where(
            repositories.c.project_id == scope.project_id,
            repositories.c.kind == kind,
            repositories.c.name == name,
            repositories.c.deleted_at.is_(None),
        )
    ).first()
    return None if row is None else Repository(*row)


def list_repositories(
    connection: Connection, scope: Scope, kind: str | None = None, *, after: str = "", limit: int = 100
) -> list[Repository]:
    """A page of the project's live repositories by id, those after ``after``."""
    query = _SELECT.where(
        repositories.c.project_id == scope.project_id, repositories.c.deleted_at.is_(None), repositories.c.id > after
    )
    if kind is not None:
        query = query.where(repositories.c.kind == kind)
    return [Repository(*row) for row in connection.execute(query.order_by(repositories.c.id).limit(limit))]


def delete_repository(connection: Connection, repository: Repository, at: float) -> None:
    """Make it a tombstone: its objects may be collected at once, its rows go with retention. Idempotent."""
    connection.execute(
        update(repositories)
        .where(repositories.c.id == repository.id, repositories.c.deleted_at.is_(None))
        .values(deleted_at=at, updated_at=at)
    )


# -- refs ------------------------------------------------------------------------------------------------------


def read_ref(connection: Connection, repository: Repository, name: str) -> Ref | None:
    """The ref of a full name, or None."""
    row = connection.execute(
        select(refs.c.name, refs.c.digest, refs.c.user_id, refs.c.updated_at).where(
            refs.c.repository_id == repository.id, refs.c.name == name
        )
    ).one_or_none()
    return None if row is None else Ref(*row)


def require_ref(connection: Connection, repository: Repository, name: str) -> Ref:
    """As :func:`read_ref`, but raises :class:`NotFound`, with the refs there are as advice."""
    found = read_ref(connection, repository, name)
    if found is None:
        sort, _, short = name.partition("/")
        there = ", ".join(ref.short for ref in list_refs(connection, repository, f"{sort}/"))
        raise NotFound(
            f"{repository.name} has no {sort} {short!r}", advice=f"It has: {there}." if there else f"It has no {sort}."
        )
    return found


def list_refs(connection: Connection, repository: Repository, prefix: str = "") -> list[Ref]:
    """By name, those that begin with ``prefix``."""
    query = select(refs.c.name, refs.c.digest, refs.c.user_id, refs.c.updated_at).where(
        refs.c.repository_id == repository.id
    )
    rows = connection.execute(query.order_by(refs.c.name))
    return [Ref(*row) for row in rows if row[0].startswith(prefix)]


def branches(connection: Connection, repository: Repository) -> list[Ref]:
    return list_refs(connection, repository, "branch/")


def tags(connection: Connection, repository: Repository) -> list[Ref]:
    return list_refs(connection, repository, "tag/")


def set_ref(
    connection: Connection,
    repository: Repository,
    name: str,
    digest: str,
    *,
    expected: str | None,
    by: Scope,
    at: float,
) -> None:
    """Compare and set. ``expected``: the commit it must name now, None if it must not be there.

    Raises :class:`HeadMoved` if that is not so. The commit must be one of this repository; the callers see to it."""
    check_ref_name(name)
    now = read_ref(connection, repository, name)
    found = None if now is None else now.digest
    if found != expected:
        raise head_moved(repository, name, expected, found)
    values = {"digest": digest, "user_id": by.user_id, "updated_at": at}
    if now is None:
        connection.execute(insert(refs).values(repository_id=repository.id, name=name, **values))
    elif found != digest:
        connection.execute(
            update(refs).where(refs.c.repository_id == repository.id, refs.c.name == name).values(**values)
        )
    connection.execute(update(repositories).where(repositories.c.id == repository.id).values(updated_at=at))


def tag(connection: Connection, repository: Repository, name: str, digest: str, *, by: Scope, at: float) -> None:
    """Name a commit for good. Raises :class:`Conflict` if the tag names another one; the same again does nothing."""
    now = read_ref(connection, repository, f"tag/{name}")
    if now is not None:
        if now.digest == digest:
            return
        raise Conflict(
            f"tag {name!r} names commit {now.digest[:12]} and cannot be moved", advice="Choose another name."
        )
    set_ref(connection, repository, f"tag/{name}", digest, expected=None, by=by, at=at)


def remove_branch(connection: Connection, repository: Repository, branch: str, *, expected_head: str) -> None:
    """Remove a branch that is where the caller thinks; what no other ref reaches will be collected.

    Raises :class:`NotFound` and :class:`HeadMoved`."""
    name = f"branch/{branch}"
    now = require_ref(connection, repository, name)
    if now.digest != expected_head:
        raise head_moved(repository, name, expected_head, now.digest)
    connection.execute(delete(refs).where(refs.c.repository_id == repository.id, refs.c.name == name))


def head_moved(repository: Repository, name: str, expected: str | None, found: str | None) -> HeadMoved:
    """The error, in words and with both heads."""
    sort, _, short = name.partition("/")
    if expected is None:
        said = f"{sort} {short!r} of {repository.name} is there already, at {(found or '')[:12]}"
    elif found is None:
        said = f"{sort} {short!r} of {repository.name} is gone; it was expected at {expected[:12]}"
    else:
        said = f"{sort} {short!r} of {repository.name} is at {found[:12]}, not at {expected[:12]}"
    return HeadMoved(said, details={"repository": repository.id, "ref": name, "expected": expected, "found": found})


def check_ref_name(name: str) -> None:
    """Raises :class:`InvalidInput` for what would not fit or could be read another way (``~``, ``@``, spaces)."""
    sort, _, short = name.partition("/")
    if sort not in ("branch", "tag", "remote") or not _NAME.fullmatch(short) or len(name) > 200:
        raise InvalidInput(
            f"{short[:50]!r} cannot name a {sort}", advice="Use letters, digits, and . _ + - / between them."
        )


_SELECT = select(
    repositories.c.id,
    repositories.c.project_id,
    repositories.c.user_id,
    repositories.c.kind,
    repositories.c.name,
    repositories.c.created_at,
    repositories.c.updated_at,
    repositories.c.deleted_at,
)
