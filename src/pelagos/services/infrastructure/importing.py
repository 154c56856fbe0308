"""Node definitions kept in a project: imported all or none, used by descriptions that bring none of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, delete, insert, select

from pelagos.model.errors import NotFound
from pelagos.model.scope import Scope
from pelagos.services.infrastructure.records import decode, encode
from pelagos.services.infrastructure.values import Implementation
from pelagos.store.schema import node_definitions
from pelagos.wire.infrastructures import DefinitionView
from pelagos.wire.times import rfc3339

if TYPE_CHECKING:  # the compiler brings parsers that most commands do not need
    from pelagos.services.infrastructure.description import StoredDefinition

__all__ = ["definition_views", "delete_definition", "store_definitions", "stored_definitions"]


def stored_definitions(connection: Connection, scope: Scope) -> dict[str, StoredDefinition]:
    """Type -> where it is defined, for the compiler."""
    from pelagos.services.infrastructure.description import StoredDefinition

    table = node_definitions
    rows = connection.execute(
        select(table.c.type, table.c.file, table.c.sources_blob).where(table.c.project_id == scope.project_id)
    )
    return {row[0]: StoredDefinition(file=row[1], sources=decode(row[2], type=dict[str, str])) for row in rows}


def store_definitions(
    connection: Connection,
    scope: Scope,
    *,
    definitions: Mapping[str, tuple[Implementation, ...]],
    sources: dict[str, str],
    entries: Sequence[str],
    now: float,
) -> None:
    """Replace the project's definitions of these types."""
    table = node_definitions
    blob = encode(sources)
    for type_, implementations in definitions.items():
        position = implementations[0].position if implementations else None
        file = position.file if position is not None else entries[0]
        connection.execute(delete(table).where(table.c.project_id == scope.project_id, table.c.type == type_))
        connection.execute(
            insert(table).values(
                project_id=scope.project_id,
                user_id=scope.user_id,
                type=type_,
                file=file,
                sources_blob=blob,
                updated_at=now,
            )
        )


def delete_definition(connection: Connection, scope: Scope, type_: str) -> None:
    """Raises NotFound. Infrastructures that were built from it keep their own copy."""
    table = node_definitions
    gone = connection.execute(delete(table).where(table.c.project_id == scope.project_id, table.c.type == type_))
    if gone.rowcount == 0:
        raise NotFound(
            f"there is no node definition {type_!r}", advice="`pelagos definitions list` shows those there are."
        )


def definition_views(rows: Sequence[Any]) -> list[DefinitionView]:
    """From rows of the table; each bundle is compiled once."""
    from pelagos.services.infrastructure.description import compile_definitions

    compiled: dict[bytes, dict[str, tuple[Implementation, ...]]] = {}
    views: list[DefinitionView] = []
    for row in rows:
        key = bytes(row.sources_blob) + row.file.encode()
        if key not in compiled:
            compiled[key] = compile_definitions(decode(row.sources_blob, type=dict[str, str]), [row.file])
        implementations = compiled[key].get(row.type, ())
        views.append(
            DefinitionView(
                type=row.type,
                file=row.file,
                implementations=len(implementations),
                clouds=tuple(implementation.resource_type for implementation in implementations),
                updated_at=rfc3339(row.updated_at),
            )
        )
    return views
