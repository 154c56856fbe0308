"""Containers, services, exchanges and their names as resources, kept current from what agents announce.

What is announced is compared with what is there, in one transaction, and only differences are written. Ids are made of
type and name, so several registries write the same rows and agree. A container or service that is gone is INACTIVE, and
ACTIVE again when it comes back; what was gone for the retention time is removed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from pelagos.container.messages import NodeInfo
from pelagos.services.events import PublishedEvent
from pelagos.services.registry.lifecycle import ResourceState
from pelagos.services.registry.messages import Register, SetState, UpdateResource
from pelagos.services.registry.queries import SYSTEM, get_resource
from pelagos.services.registry.resources import register, set_state, update_resource
from pelagos.store.container_schema import resources

__all__ = ["Seen", "expected_resources", "is_current", "resource_id", "write_inventory"]

_ALIVE = ("alive", "suspect")


class Seen(msgspec.Struct, frozen=True):
    """A resource as the announcements have it."""

    type: str
    name: str
    active: bool
    attributes: dict[str, Any] = {}

    @property
    def id(self) -> str:
        return resource_id(self.type, self.name)


def resource_id(type_: str, name: str) -> str:
    """The id of what the registry keeps itself: the same whoever writes it."""
    return hashlib.sha256(f"{type_}:{name}".encode()).hexdigest()[:32]


def expected_resources(nodes: Iterable[NodeInfo]) -> list[Seen]:
    """What the containers that were announced amount to."""
    seen: list[Seen] = []
    places: dict[str, list[str]] = {}
    systems: dict[str, bool] = {}
    for node in sorted(nodes, key=lambda node: node.id):
        alive = node.state in _ALIVE
        systems[node.system] = systems.get(node.system, False) or alive
        about = {
            "host": node.host,
            "pid": node.pid,
            "version": node.version,
            "system": node.system,
            "services": sorted(set(node.services)),
            "apps": sorted(app.name for app in node.apps),
            "state": node.state,
        }
        seen.append(Seen("container", node.id, alive, about))
        for service in sorted(set(node.services)):
            places.setdefault(service, []).extend([node.id] if alive else [])
    for service, containers in sorted(places.items()):
        address = f"service:{service}"
        seen.append(Seen("service", service, bool(containers), {"containers": containers, "address": address}))
        seen.append(Seen("exchange_name", address, bool(containers), {"kind": "service"}))
    seen.extend(Seen("exchange", system, alive) for system, alive in sorted(systems.items()))
    return seen


def is_current(connection: Connection, seen: list[Seen], *, complete: bool = False) -> bool:
    """Whether the store has it so already. ``complete``: what is not in ``seen`` is not there."""
    return not _differences(connection, seen, complete)


def write_inventory(
    connection: Connection, seen: list[Seen], now: float, *, complete: bool = False
) -> list[PublishedEvent]:
    """Write what differs; returns the events to announce."""
    told: list[PublishedEvent] = []
    for one, there in _differences(connection, seen, complete):
        if there is None:
            request = Register(type=one.type, name=one.name, attributes=one.attributes)
            changed = register(connection, SYSTEM, one.id, request, now, own=True)
            told.append(changed.event)
        else:
            known = get_resource(connection, SYSTEM, one.id, lock=True)
            if known.attributes != one.attributes:
                gone = tuple(sorted(set(known.attributes) - set(one.attributes)))
                change = UpdateResource(id=one.id, version=known.version, attributes=one.attributes, remove=gone)
                told.append(update_resource(connection, SYSTEM, change, now).event)
        for state in _path(there, one.active):
            told.append(set_state(connection, SYSTEM, SetState(id=one.id, state=state), now).event)
    return told


def _path(there: ResourceState | None, active: bool) -> list[ResourceState]:
    """The states to go through, so that it is as active as it was seen."""
    state = ResourceState
    match there:
        case None | state.NEW:
            return [state.ACTIVE] if active else [state.ACTIVE, state.INACTIVE]
        case state.ACTIVE:
            return [] if active else [state.INACTIVE]
        case state.INACTIVE:
            return [state.ACTIVE] if active else []
        case _:
            return []


def _differences(connection: Connection, seen: list[Seen], complete: bool) -> list[tuple[Seen, ResourceState | None]]:
    by_id = {one.id: one for one in seen}
    query = select(resources.c.id, resources.c.type, resources.c.name, resources.c.state)
    query = query.where(resources.c.project_id == SYSTEM.project_id)
    states = {}
    found: list[tuple[Seen, ResourceState | None]] = []
    for row in connection.execute(query):
        states[row.id] = ResourceState(row.state)
        if complete and row.id not in by_id and row.state == ResourceState.ACTIVE:
            there = get_resource(connection, SYSTEM, row.id)
            found.append((Seen(row.type, row.name, False, there.attributes), there.state))
    for one in seen:
        state = states.get(one.id)
        if (
            state is None
            or _path(state, one.active)
            or get_resource(connection, SYSTEM, one.id).attributes != one.attributes
        ):
            found.append((one, state))
    return found
