"""Changing resources: functions on a connection. Each change writes its event in the same transaction.

A version rises with each change and is the lock: two who read the same version cannot both write. What is another
project's is not found.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, insert, update

from pelagos.model.errors import Conflict, InvalidInput
from pelagos.model.scope import Scope
from pelagos.services.events import PublishedEvent, ResourceChanged, append_event
from pelagos.services.registry.lifecycle import ResourceState, check_transition
from pelagos.services.registry.messages import Register, Resource, SetState, UpdateResource
from pelagos.services.registry.queries import get_resource
from pelagos.store.container_schema import resource_attributes, resources

__all__ = ["Changed", "register", "remove", "set_state", "update_resource"]

_MOST_ATTRIBUTES = 200
_MOST_BYTES = 65_536
_RESERVED = ("container", "exchange", "exchange_name", "service")


class Changed(msgspec.Struct, frozen=True):
    """What a change left, and the event to announce."""

    resource: Resource
    event: PublishedEvent


def register(
    connection: Connection, scope: Scope, id: str, request: Register, now: float, *, own: bool = False
) -> Changed:
    """A new resource. ``own``: of the registry itself. Raises InvalidInput."""
    if request.type in _RESERVED and not own:
        raise InvalidInput(
            f"resources of type {request.type} are kept by the registry itself",
            advice="They come and go with the containers; take another type for your own.",
        )
    if not request.type or len(request.type) > 128:
        raise InvalidInput("a resource has a type of 1 to 128 characters")
    _check_name(request.name)
    row = {
        "id": id,
        "project_id": scope.project_id,
        "user_id": scope.user_id,
        "type": request.type,
        "name": request.name,
        "description": request.description,
        "state": ResourceState.NEW.value,
        "version": 1,
        "created_at": now,
        "updated_at": now,
    }
    connection.execute(insert(resources).values(**row))
    _set_attributes(connection, id, request.attributes)
    return _told(connection, scope, id, "registered", now)


def update_resource(connection: Connection, scope: Scope, request: UpdateResource, now: float) -> Changed:
    """Raises NotFound, InvalidInput, and Conflict if the version is not the resource's any more."""
    known = get_resource(connection, scope, request.id, lock=True)
    _check_version(known, request.version)
    values: dict[str, Any] = {"version": known.version + 1, "updated_at": now}
    if request.name is not None:
        _check_name(request.name)
        values["name"] = request.name
    if request.description is not None:
        values["description"] = request.description
    gone = {*request.remove, *request.attributes}
    if gone:
        connection.execute(
            delete(resource_attributes).where(
                resource_attributes.c.resource_id == known.id, resource_attributes.c.name.in_(sorted(gone))
            )
        )
    if len({*known.attributes, *request.attributes} - set(request.remove)) > _MOST_ATTRIBUTES:
        raise InvalidInput(f"a resource has at most {_MOST_ATTRIBUTES} attributes")
    _set_attributes(connection, known.id, request.attributes)
    connection.execute(update(resources).where(resources.c.id == known.id).values(**values))
    return _told(connection, scope, known.id, "updated", now)


def set_state(connection: Connection, scope: Scope, request: SetState, now: float) -> Changed:
    """Raises NotFound, Conflict (version), and IllegalResourceTransition, which names what is possible."""
    known = get_resource(connection, scope, request.id, lock=True)
    if request.version is not None:
        _check_version(known, request.version)
    check_transition(known.name, known.state, request.state)
    values = {"state": request.state.value, "version": known.version + 1, "updated_at": now}
    connection.execute(update(resources).where(resources.c.id == known.id).values(**values))
    return _told(connection, scope, known.id, "state", now, known.state)


def remove(connection: Connection, scope: Scope, id: str, now: float) -> Changed:
    """Delete a resource that is RETIRED or was never more than NEW. Raises NotFound, Conflict."""
    known = get_resource(connection, scope, id, lock=True)
    if known.state not in (ResourceState.NEW, ResourceState.RETIRED):
        raise Conflict(
            f"resource {known.name} is {known.state.value}; it cannot be removed",
            advice="Retire it first; what is retired is removed after the retention time by itself.",
        )
    told = _told(connection, scope, id, "removed", now)
    connection.execute(delete(resource_attributes).where(resource_attributes.c.resource_id == id))
    connection.execute(delete(resources).where(resources.c.id == id))
    return told


def _told(
    connection: Connection, scope: Scope, id: str, change: str, now: float, previous: ResourceState | None = None
) -> Changed:
    resource = get_resource(connection, scope, id)
    payload = ResourceChanged(
        resource.type,
        resource.name,
        resource.state.value,
        resource.version,
        change,
        "" if previous is None else previous.value,
    )
    return Changed(resource, append_event(connection, scope, "resource_lifecycle", id, payload, at=now))


def _set_attributes(connection: Connection, id: str, values: Mapping[str, Any]) -> None:
    if len(values) > _MOST_ATTRIBUTES:
        raise InvalidInput(f"a resource has at most {_MOST_ATTRIBUTES} attributes")
    rows = []
    for name, value in values.items():
        if not name or len(name) > 128:
            raise InvalidInput("an attribute has a name of 1 to 128 characters")
        rows.append({"resource_id": id, "name": name, "value": _json(name, value)})
    if rows:
        connection.execute(insert(resource_attributes), rows)


def _json(name: str, value: object) -> str:
    try:
        told = msgspec.json.encode(value, order="sorted").decode()
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"the attribute {name} is nothing that JSON can say: {error}") from error
    if len(told) > _MOST_BYTES:
        raise InvalidInput(f"the attribute {name} has more than {_MOST_BYTES} characters")
    return told


def _check_name(name: str) -> None:
    if not name or len(name) > 255:
        raise InvalidInput("a resource has a name of 1 to 255 characters")


def _check_version(known: Resource, version: int) -> None:
    if version != known.version:
        raise Conflict(
            f"resource {known.name} was changed meanwhile: it is at version {known.version}, not {version}",
            advice="Read it again and decide anew.",
            details={"version": known.version},
        )
