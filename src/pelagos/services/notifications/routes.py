"""Routes: which infrastructures a sink is told of besides those that its configuration names, as rows.

Functions on a connection. A route goes with its infrastructure's row.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, select

from pelagos.store.container_schema import sink_routes
from pelagos.store.schema import infrastructures

__all__ = ["name_of", "routed_to", "set_routes"]


def name_of(connection: Connection, infrastructure_id: str) -> str:
    """The infrastructure's name, also after its end; empty if there is none of that id."""
    query = select(infrastructures.c.name).where(infrastructures.c.id == infrastructure_id)
    return connection.execute(query).scalar_one_or_none() or ""


def routed_to(connection: Connection, infrastructure_id: str) -> tuple[str, ...]:
    """Names of the sinks that are told of it by a route, sorted."""
    query = select(sink_routes.c.sink).where(sink_routes.c.infrastructure_id == infrastructure_id)
    return tuple(sorted(connection.execute(query).scalars()))


def set_routes(connection: Connection, infrastructure_id: str, sinks: Sequence[str]) -> tuple[str, ...]:
    """From now on these sinks are told of it, and no other by a route. Returns them, sorted."""
    connection.execute(delete(sink_routes).where(sink_routes.c.infrastructure_id == infrastructure_id))
    wanted = sorted(set(sinks))
    if wanted:
        rows = [{"infrastructure_id": infrastructure_id, "sink": sink} for sink in wanted]
        connection.execute(insert(sink_routes), rows)
    return tuple(wanted)
