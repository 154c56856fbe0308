"""Associations: triples of subject, predicate and object, with the time from which and until which each held.

Ending one keeps its row, so the past can be asked (``as_of``); deleting removes it truly. Every question begins at an
index: of the subject, the object, or the predicate. Subjects and objects are texts of the caller's (``server:…``,
``repository:…``, a digest); nothing says that they exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, and_, delete, func, insert, or_, select, update

from pelagos.model.errors import InvalidInput, NotFound
from pelagos.model.scope import Scope
from pelagos.store.container_schema import associations

__all__ = [
    "Association",
    "add_association",
    "association_exists",
    "association_history",
    "delete_association",
    "end_association",
    "find_associations",
    "find_query",
    "find_subjects",
    "star_query",
]


class Association(msgspec.Struct, frozen=True):
    """Times are seconds since the epoch; ``ended_at`` None: it holds."""

    id: str
    project_id: str
    subject: str
    predicate: str
    object: str
    created_by: str
    created_at: float
    ended_by: str | None = None
    ended_at: float | None = None


_TABLE = associations.c
_SELECT = select(*(_TABLE[field] for field in Association.__struct_fields__))


def add_association(
    connection: Connection, scope: Scope, subject: str, predicate: str, object: str, *, id: str, at: float
) -> Association:
    """State that it holds from now on; ``id`` is made by the caller. If it does already, the one that is there is
    returned. Raises :class:`InvalidInput` for an empty or too long part."""
    for name, text, most in (("subject", subject, 255), ("predicate", predicate, 128), ("object", object, 255)):
        if not 0 < len(text) <= most:
            raise InvalidInput(f"the {name} has {len(text)} characters", advice=f"Give 1 to {most}.")
    for found in find_associations(connection, scope, subject=subject, predicate=predicate, object=object, limit=1):
        return found
    made = Association(id, scope.project_id, subject, predicate, object, scope.user_id, at)
    connection.execute(insert(associations).values(**msgspec.structs.asdict(made)))
    return made


def end_association(connection: Connection, scope: Scope, association_id: str, *, at: float) -> Association:
    """State that it holds no more; its history stays. Idempotent. Raises :class:`NotFound`."""
    found = _get(connection, scope, association_id)
    if found.ended_at is not None:
        return found
    connection.execute(
        update(associations).where(_TABLE.id == association_id).values(ended_at=at, ended_by=scope.user_id)
    )
    return msgspec.structs.replace(found, ended_at=at, ended_by=scope.user_id)


def delete_association(connection: Connection, scope: Scope, association_id: str) -> None:
    """Remove it and its history, as if it had never been. Raises :class:`NotFound`."""
    _get(connection, scope, association_id)
    connection.execute(delete(associations).where(_TABLE.id == association_id))


def find_associations(
    connection: Connection,
    scope: Scope,
    *,
    subject: str | None = None,
    predicate: str | None = None,
    object: str | None = None,
    as_of: float | None = None,
    after: str = "",
    limit: int = 100,
) -> list[Association]:
    """A page, by id, of those that hold (``as_of``: that held then) with all of the given parts; ``after``: the last id
    of the page before. Raises :class:`InvalidInput` if no part is given."""
    query = find_query(scope, subject=subject, predicate=predicate, object=object, as_of=as_of)
    query = query.where(_TABLE.id > after).order_by(_TABLE.id).limit(limit)
    return [Association(*row) for row in connection.execute(query)]


def find_query(
    scope: Scope,
    *,
    subject: str | None = None,
    predicate: str | None = None,
    object: str | None = None,
    as_of: float | None = None,
) -> Select[Any]:
    """The query behind :func:`find_associations`."""
    return _SELECT.where(*_parts(scope, subject, predicate, object), _holds(as_of))


def association_exists(
    connection: Connection, scope: Scope, subject: str, predicate: str, object: str, *, as_of: float | None = None
) -> bool:
    """Whether it holds, or held then."""
    return bool(
        find_associations(
            connection, scope, subject=subject, predicate=predicate, object=object, as_of=as_of, limit=1
        )
    )  # fmt: skip


def association_history(
    connection: Connection,
    scope: Scope,
    *,
    subject: str | None = None,
    predicate: str | None = None,
    object: str | None = None,
    limit: int = 100,
) -> list[Association]:
    """All that hold or held, newest first."""
    query = _SELECT.where(*_parts(scope, subject, predicate, object))
    query = query.order_by(_TABLE.created_at.desc(), _TABLE.id.desc()).limit(limit)
    return [Association(*row) for row in connection.execute(query)]


def find_subjects(
    connection: Connection,
    scope: Scope,
    pairs: Sequence[tuple[str, str]],
    *,
    as_of: float | None = None,
    after: str = "",
    limit: int = 100,
) -> list[str]:
    """A star query: a page, by name, of the subjects that have every one of the (predicate, object) pairs."""
    query = star_query(scope, pairs, as_of=as_of).where(_TABLE.subject > after)
    return list(connection.execute(query.order_by(_TABLE.subject).limit(limit)).scalars())


def star_query(scope: Scope, pairs: Sequence[tuple[str, str]], *, as_of: float | None = None) -> Select[str]:
    """The query behind :func:`find_subjects`. Raises :class:`InvalidInput` without pairs."""
    wanted = list(dict.fromkeys(pairs))
    if not wanted:
        raise InvalidInput("a star query without pairs", advice="Give at least one predicate and object.")
    matches = [and_(_TABLE.predicate == predicate, _TABLE.object == thing) for predicate, thing in wanted]
    return (
        select(_TABLE.subject)
        .where(_TABLE.project_id == scope.project_id, or_(*matches), _holds(as_of))
        .group_by(_TABLE.subject)
        .having(func.count(func.distinct(_TABLE.predicate + "\x1f" + _TABLE.object)) == len(wanted))
    )


def _parts(
    scope: Scope, subject: str | None, predicate: str | None, object: str | None
) -> list[ColumnElement[bool]]:  # fmt: skip
    given = [
        column == value
        for column, value in ((_TABLE.subject, subject), (_TABLE.predicate, predicate), (_TABLE.object, object))
        if value is not None
    ]
    if not given:
        raise InvalidInput("which associations?", advice="Give a subject, a predicate or an object.")
    return [_TABLE.project_id == scope.project_id, *given]


def _holds(as_of: float | None) -> ColumnElement[bool]:
    if as_of is None:
        return _TABLE.ended_at.is_(None)
    return and_(_TABLE.created_at <= as_of, or_(_TABLE.ended_at.is_(None), _TABLE.ended_at > as_of))


def _get(connection: Connection, scope: Scope, association_id: str) -> Association:
    row = connection.execute(
        _SELECT.where(_TABLE.id == association_id, _TABLE.project_id == scope.project_id)
    ).one_or_none()
    if row is None:
        raise NotFound(f"there is no association {association_id}")
    return Association(*row)
