"""Node definitions kept in a project: imported all or none, used by descriptions that bring none of their own.

They live in the project's one repository of kind ``node-definitions``, whose history tells who changed what; the table
says which there are now, and where.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, insert, select

from pelagos.model.errors import NotFound
from pelagos.model.scope import Scope
from pelagos.repository import (
    Link,
    Repository,
    checkout,
    commit,
    create_repository,
    find_repository,
    get_many,
    head,
    link,
    stored,
)
from pelagos.services.infrastructure.revisions import BRANCH, Definition, definition_of, definitions_in
from pelagos.services.infrastructure.values import Implementation, StoredDefinition
from pelagos.store.schema import node_definitions
from pelagos.wire.infrastructures import DefinitionView
from pelagos.wire.times import rfc3339

__all__ = ["KIND", "definition_views", "delete_definition", "store_definitions", "stored_definitions"]

KIND = "node-definitions"


@stored("pelagos.node-definitions")
class Definitions(msgspec.Struct, frozen=True):
    """All of a project's, by type."""

    definitions: dict[str, Link[Definition]]


def stored_definitions(connection: Connection, scope: Scope) -> dict[str, StoredDefinition]:
    """Type -> the definition, for the compiler."""
    table = node_definitions
    rows = connection.execute(select(table.c.type, table.c.digest).where(table.c.project_id == scope.project_id)).all()
    found = get_many(connection, [row.digest for row in rows])
    return definitions_in(connection, {row.type: found[row.digest] for row in rows})


def store_definitions(
    connection: Connection,
    scope: Scope,
    *,
    definitions: Mapping[str, tuple[Implementation, ...]],
    sources: dict[str, str],
    entries: Sequence[str],
    repository_id: str,
    now: float,
) -> None:
    """Replace the project's definitions of these types. ``repository_id``: a new id, for a project's first ones."""
    made: dict[str, Link[Definition]] = {}
    for type_, implementations in definitions.items():
        position = implementations[0].position if implementations else None
        file = position.file if position is not None else entries[0]
        made[type_] = link(definition_of(type_, StoredDefinition(file=file, sources=sources)))
    repository = find_repository(connection, scope, KIND, KIND)
    if repository is None:
        repository = create_repository(connection, scope, KIND, KIND, id=repository_id, at=now)
    _commit(connection, scope, repository, lambda known: {**known, **made}, f"import {', '.join(sorted(made))}", now)
    table = node_definitions
    connection.execute(delete(table).where(table.c.project_id == scope.project_id, table.c.type.in_(list(made))))
    connection.execute(
        insert(table),
        [
            {
                "project_id": scope.project_id,
                "user_id": scope.user_id,
                "type": type_,
                "digest": found.digest,
                "updated_at": now,
            }
            for type_, found in made.items()
        ],
    )


def delete_definition(connection: Connection, scope: Scope, type_: str, *, now: float) -> None:
    """Raises NotFound. Infrastructures that were built from it keep their own copy, and so does the history."""
    table = node_definitions
    gone = connection.execute(delete(table).where(table.c.project_id == scope.project_id, table.c.type == type_))
    repository = find_repository(connection, scope, KIND, KIND)
    if gone.rowcount == 0 or repository is None:
        raise NotFound(
            f"there is no node definition {type_!r}", advice="`pelagos definitions list` shows those there are."
        )
    _commit(
        connection,
        scope,
        repository,
        lambda known: {name: found for name, found in known.items() if name != type_},
        f"delete {type_}",
        now,
    )


def _commit(
    connection: Connection,
    scope: Scope,
    repository: Repository,
    change: Callable[[dict[str, Link[Definition]]], dict[str, Link[Definition]]],
    message: str,
    at: float,
) -> None:
    known: dict[str, Link[Definition]] = {}
    if head(connection, repository, BRANCH) is not None:
        root = checkout(connection, repository, BRANCH).root
        assert isinstance(root, Definitions)
        known = root.definitions
    commit(connection, repository, BRANCH, Definitions(change(known)), author=scope, at=at, message=message)


def definition_views(connection: Connection, rows: Sequence[Any]) -> list[DefinitionView]:
    """From rows of the table; each bundle is compiled once."""
    from pelagos.services.infrastructure.description import compile_definitions

    found: dict[str, Definition] = get_many(connection, [row.digest for row in rows])
    texts = definitions_in(connection, {row.type: found[row.digest] for row in rows})
    compiled: dict[bytes, dict[str, tuple[Implementation, ...]]] = {}
    views: list[DefinitionView] = []
    for row in rows:
        definition = texts[row.type]
        key = msgspec.msgpack.encode(definition)
        if key not in compiled:
            compiled[key] = compile_definitions(definition.sources, [definition.file]).definitions
        implementations = compiled[key].get(row.type, ())
        views.append(
            DefinitionView(
                type=row.type,
                file=definition.file,
                implementations=len(implementations),
                clouds=tuple(implementation.resource_type for implementation in implementations),
                updated_at=rfc3339(row.updated_at),
            )
        )
    return views
