"""Attributes as rows: functions on a connection.

A version counts the writes of a name since it was made; compare-and-set is by it. A name that was removed and is put
again begins anew at 1, so a removal is noticed by whoever expects more; who must tell the incarnations apart keeps that
in the value. Names are compared by code point on every engine, so that a range means the same everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, delete, func, select, text, update

from pelagos.model.errors import Conflict, InvalidInput, NotFound, Retry
from pelagos.model.scope import Scope
from pelagos.services.attributes.messages import Attribute, ListAttributes, PutAttribute, Version
from pelagos.store.container_schema import attributes

__all__ = ["get_attribute", "get_attributes", "list_attributes", "put_attributes", "remove_attribute"]

MOST_BYTES = 65_536
MOST_ITEMS = 1_000
_CHUNK = 500
_INSERT = text(  # the one clause that both engines write alike and SQLAlchemy has twice
    "INSERT INTO attributes (project_id, name, user_id, version, updated_at, value_blob) "
    "VALUES (:project_id, :name, :user_id, :version, :updated_at, :value_blob) ON CONFLICT DO NOTHING"
)


def put_attributes(connection: Connection, scope: Scope, items: Sequence[PutAttribute], now: float) -> list[Version]:
    """Write all or none. Raises InvalidInput, and Conflict with the version that stands if it is not the expected."""
    if len(items) > MOST_ITEMS:
        raise InvalidInput(f"{len(items)} attributes at once; at most {MOST_ITEMS}")
    blobs = {item.name: _blob(item) for item in items}
    if len(blobs) != len(items):
        raise InvalidInput("a name is there twice", advice="Give each name once.")
    # In one order for everybody, so that two writers of the same names wait for one another and never in a circle.
    stands = _versions(connection, scope, sorted(blobs))
    made, changed, versions = [], [], []
    for item in items:
        version = stands.get(item.name, 0)
        if item.expected is not None and item.expected != version:
            raise _unexpected(item.name, item.expected, version)
        versions.append(Version(item.name, version + 1))
        row = {"version": version + 1, "user_id": scope.user_id, "updated_at": now, "value_blob": blobs[item.name]}
        if version:
            changed.append((item.name, row))
        else:
            made.append({"project_id": scope.project_id, "name": item.name, **row})
    if made and connection.execute(_INSERT, made).rowcount < len(made):
        raced = Conflict("somebody else made an attribute of that name in this moment", advice="Try again.")
        raced.retry = Retry.TRANSIENT
        raise raced
    for name, row in changed:
        connection.execute(update(attributes).where(_key(scope, name)).values(**row))
    return versions


def remove_attribute(connection: Connection, scope: Scope, name: str, expected: int | None = None) -> bool:
    """Whether it was there. Raises Conflict if its version is not the expected."""
    stands = _versions(connection, scope, [name]).get(name, 0)
    if expected is not None and expected != stands:
        raise _unexpected(name, expected, stands)
    return connection.execute(delete(attributes).where(_key(scope, name))).rowcount == 1


def get_attribute(connection: Connection, scope: Scope, name: str) -> Attribute:
    """Raises NotFound."""
    found = get_attributes(connection, scope, [name])
    if not found:
        raise NotFound(f"no attribute {name}", details={"name": name})
    return found[0]


def get_attributes(connection: Connection, scope: Scope, names: Sequence[str]) -> list[Attribute]:
    """Those of the names that are there, in the names' order. Raises InvalidInput for too many."""
    if len(names) > MOST_ITEMS:
        raise InvalidInput(f"{len(names)} attributes at once; at most {MOST_ITEMS}")
    found = {}
    for start in range(0, len(names), _CHUNK):
        some = attributes.c.name.in_(names[start : start + _CHUNK])
        query = select(*attributes.c).where(attributes.c.project_id == scope.project_id, some)
        found.update({row.name: _attribute(row) for row in connection.execute(query)})
    return [found[name] for name in dict.fromkeys(names) if name in found]


def list_attributes(connection: Connection, scope: Scope, request: ListAttributes) -> list[Attribute]:
    """A page of the project's attributes, by name."""
    name: Any = attributes.c.name
    if connection.dialect.name == "postgresql":
        name = name.collate("C")
    query = select(*attributes.c).where(attributes.c.project_id == scope.project_id)
    if request.prefix:
        # Not LIKE, which heeds the case of letters on one engine and not on the other.
        start = func.substr(attributes.c.name, 1, len(request.prefix)) == request.prefix
        query = query.where(start, name >= request.prefix)
    if request.first:
        query = query.where(name >= request.first)
    if request.until is not None:
        query = query.where(name < request.until)
    if request.after is not None:
        query = query.where(name > request.after)
    query = query.order_by(name).limit(max(1, min(request.limit, MOST_ITEMS)))
    return [_attribute(row) for row in connection.execute(query)]


def _key(scope: Scope, name: str) -> ColumnElement[bool]:
    return (attributes.c.project_id == scope.project_id) & (attributes.c.name == name)


def _versions(connection: Connection, scope: Scope, names: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for start in range(0, len(names), _CHUNK):
        some = attributes.c.name.in_(names[start : start + _CHUNK])
        query = select(attributes.c.name, attributes.c.version)
        query = query.where(attributes.c.project_id == scope.project_id, some).order_by(attributes.c.name)
        found.update({row[0]: row[1] for row in connection.execute(query.with_for_update())})
    return found


def _blob(item: PutAttribute) -> bytes:
    if not item.name or len(item.name) > 255 or "\x00" in item.name:
        raise InvalidInput("an attribute has a name of 1 to 255 characters")
    try:
        blob = msgspec.msgpack.encode(item.value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"the value of {item.name} cannot be stored: {error}") from error
    if len(blob) > MOST_BYTES:
        raise InvalidInput(
            f"the value of {item.name} has {len(blob)} bytes; at most {MOST_BYTES} are kept",
            advice="Put large content into the object store and its name here.",
        )
    return blob


def _attribute(row: Any) -> Attribute:
    return Attribute(
        name=row.name,
        value=msgspec.msgpack.decode(row.value_blob),
        version=row.version,
        updated_at=row.updated_at,
        user_id=row.user_id,
    )


def _unexpected(name: str, expected: int, stands: int) -> Conflict:
    what = f"is at version {stands}" if stands else "is not there"
    return Conflict(
        f"attribute {name} {what}; version {expected} was expected",
        advice="Somebody else wrote it: read it again and decide anew.",
        details={"name": name, "version": stands},
    )
