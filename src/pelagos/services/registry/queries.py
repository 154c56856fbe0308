"""Finding resources: functions ``(connection, scope, ...) -> value``, two statements a page, whatever is asked.

Attributes are kept as JSON text. Equality and prefixes are comparisons of texts. A range of numbers is one of numbers,
so what is no number is left aside before it is read as one; a range of texts compares code points on every engine.

Containers, services and exchanges belong to no project: they are in the one called :data:`SYSTEM`, which everybody may
read and only the registry itself writes.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Float, and_, case, cast, exists, func, select

from pelagos.model.errors import InvalidInput, NotFound
from pelagos.model.scope import Scope
from pelagos.services.registry.lifecycle import ResourceState
from pelagos.services.registry.messages import AttributeFilter, FindResources, Ownership, Resource, ResourcePage
from pelagos.store.container_schema import resource_attributes, resources

__all__ = ["SYSTEM", "find_resources", "get_resource", "owns"]

SYSTEM = Scope(project_id="system", user_id="registry")
_MOST = 1_000


def get_resource(connection: Connection, scope: Scope, id: str, *, lock: bool = False) -> Resource:
    """Raises NotFound. ``lock``: nobody else may change it before the commit; then it must be the project's own."""
    projects = [scope.project_id] if lock else [scope.project_id, SYSTEM.project_id]
    query: Any = select(*resources.c).where(resources.c.id == id, resources.c.project_id.in_(projects))
    row = connection.execute(query.with_for_update() if lock else query).first()
    if row is None:
        raise NotFound(f"no resource {id}", details={"id": id})
    return _resources(connection, [row])[0]


def owns(connection: Connection, request: Ownership) -> bool:
    """Whether every id is a resource of that type, project and owner. False for none at all, and for too many."""
    wanted = set(request.ids)
    if not 0 < len(wanted) <= _MOST:
        return False
    query = select(func.count()).where(
        resources.c.id.in_(wanted),
        resources.c.project_id == request.project_id,
        resources.c.user_id == request.user_id,
    )
    if request.type:
        query = query.where(resources.c.type == request.type)
    return connection.execute(query).scalar() == len(wanted)


def find_resources(connection: Connection, scope: Scope, request: FindResources) -> ResourcePage:
    """Raises InvalidInput for a range of mixed kinds."""
    limit = max(1, min(request.limit, _MOST))
    query = select(*resources.c).where(
        resources.c.project_id.in_([scope.project_id, SYSTEM.project_id]), resources.c.id > request.after
    )
    if request.type is not None:
        query = query.where(resources.c.type == request.type)
    if request.states:
        query = query.where(resources.c.state.in_([state.value for state in request.states]))
    if request.owner is not None:
        query = query.where(resources.c.user_id == request.owner)
    if request.name is not None:
        query = query.where(_fits(connection, request.name))
    for wanted in request.attributes:
        query = query.where(_has(connection, wanted))
    rows = connection.execute(query.order_by(resources.c.id).limit(limit + 1)).all()
    found = tuple(_resources(connection, rows[:limit]))
    return ResourcePage(found, found[-1].id if len(rows) > limit else None)


def _fits(connection: Connection, pattern: str) -> ColumnElement[bool]:
    name: Any = resources.c.name
    if "*" not in pattern and "?" not in pattern:
        return resources.c.name == pattern
    if connection.dialect.name == "sqlite":
        # GLOB heeds the case of letters, as LIKE does on PostgreSQL only.
        fits: ColumnElement[bool] = name.op("GLOB")(pattern.replace("[", "[[]"))
        return fits
    escaped = re.sub(r"([%_/])", r"/\1", pattern)
    return resources.c.name.like(escaped.replace("*", "%").replace("?", "_"), escape="/")


def _has(connection: Connection, wanted: AttributeFilter) -> ColumnElement[bool]:
    value = resource_attributes.c.value
    terms = [resource_attributes.c.resource_id == resources.c.id, resource_attributes.c.name == wanted.name]
    if wanted.equals is not msgspec.UNSET:
        terms.append(value == msgspec.json.encode(wanted.equals, order="sorted").decode())
    if wanted.prefix is not None:
        start = msgspec.json.encode(wanted.prefix).decode()[:-1]
        terms.append(func.substr(value, 1, len(start)) == start)
    ends = [end for end in (wanted.least, wanted.most) if end is not None]
    if ends:
        if len({isinstance(end, str) for end in ends}) > 1:
            raise InvalidInput("a range is between two numbers or between two texts")
        first = func.substr(value, 1, 1)
        of_kind: Any
        if isinstance(ends[0], str):
            text = func.substr(value, 2, func.length(value) - 2)
            of_kind = case((first == '"', text), else_=None).collate(
                "C" if connection.dialect.name == "postgresql" else "BINARY"
            )
        else:
            of_kind = case((first.in_(list("-0123456789")), cast(value, Float)), else_=None)
        if wanted.least is not None:
            terms.append(of_kind >= wanted.least)
        if wanted.most is not None:
            terms.append(of_kind <= wanted.most)
    return exists().where(and_(*terms))


def _resources(connection: Connection, rows: Any) -> list[Resource]:
    attributes: dict[str, dict[str, Any]] = {row.id: {} for row in rows}
    if attributes:
        query = select(*resource_attributes.c).where(resource_attributes.c.resource_id.in_(list(attributes)))
        for of, name, value in connection.execute(query.order_by(resource_attributes.c.name)):
            attributes[of][name] = msgspec.json.decode(value)
    return [
        Resource(
            id=row.id,
            type=row.type,
            name=row.name,
            description=row.description,
            state=ResourceState(row.state),
            owner=row.user_id,
            version=row.version,
            created_at=row.created_at,
            updated_at=row.updated_at,
            attributes=attributes[row.id],
        )
        for row in rows
    ]
