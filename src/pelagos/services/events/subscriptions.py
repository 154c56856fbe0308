"""Durable subscriptions as rows: a name, patterns, and the position of the last event that its reader has done.

Functions on a connection. Whoever reads is in :mod:`pelagos.services.events.durable`; here is what must hold whoever
that is: a position is moved only by the holder of the subscription's lease, and only from where that holder knew it, so
that a replay asked for meanwhile is never overwritten.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, func, insert, select, update

from pelagos.model.errors import Conflict, InvalidInput, NotFound
from pelagos.model.scope import Fence, Scope
from pelagos.services.events.catalogue import CATALOGUE, Catalogue, SubscriptionChanged
from pelagos.services.events.messages import PublishedEvent, SubscriptionInfo
from pelagos.services.events.publishing import append_event
from pelagos.services.events.topics import check_patterns, kinds_of, matches_any, origin_words
from pelagos.store import Event, check_fence, last_position, position_at, read_events
from pelagos.store.container_schema import event_subscriptions
from pelagos.store.schema import events, leases

__all__ = [
    "Moved",
    "Page",
    "StoredSubscription",
    "advance",
    "as_published",
    "declare",
    "get_subscription",
    "history",
    "lease_name",
    "list_subscriptions",
    "read_page",
    "remove",
    "seek",
]

_COUNTED = 10_000
_patterns = msgspec.json.Decoder(tuple[str, ...]).decode
_COLUMNS = tuple(event_subscriptions.c)


class Moved(Conflict):
    """The subscription was moved by somebody else, to replay: read its position anew."""

    code = "subscription_moved"


class StoredSubscription(msgspec.Struct, frozen=True):
    id: str
    project_id: str
    user_id: str
    name: str
    patterns: tuple[str, ...]
    position: int
    created_at: float
    updated_at: float


class Page(msgspec.Struct, frozen=True):
    """Events that fit, oldest first. All up to position ``upto`` has been looked at; ``more``: more is there."""

    subscription: StoredSubscription
    events: list[PublishedEvent]
    upto: int
    more: bool


def lease_name(subscription_id: str) -> str:
    """The lease of whoever reads it."""
    return f"events.{subscription_id}"


def declare(
    connection: Connection,
    scope: Scope,
    *,
    id: str,
    name: str,
    patterns: Sequence[str],
    now: float,
    position: int | None = None,
    at: float | None = None,
) -> tuple[StoredSubscription, PublishedEvent | None]:
    """The subscription of that name, and the event to announce if it is new; see :class:`Declare` for the arguments.

    Raises InvalidInput (patterns, name, position)."""
    wanted = check_patterns(patterns)
    if not name or len(name) > 200:
        raise InvalidInput("a subscription has a name of 1 to 200 characters")
    known = _find(connection, scope, name, lock=True)
    told = msgspec.json.encode(wanted).decode()
    if known is not None:
        if known.patterns == wanted:
            return known, None
        changed = update(event_subscriptions).where(event_subscriptions.c.id == known.id)
        connection.execute(changed.values(patterns=told, updated_at=now))
        return msgspec.structs.replace(known, patterns=wanted, updated_at=now), None
    start = _start(connection, position, at)
    made = StoredSubscription(
        id,
        scope.project_id,
        scope.user_id,
        name,
        wanted,
        last_position(connection) if start is None else start,
        now,
        now,
    )
    connection.execute(insert(event_subscriptions).values(**{**msgspec.structs.asdict(made), "patterns": told}))
    changed_event = SubscriptionChanged(name, wanted)
    return made, append_event(connection, scope, "subscription_added", id, changed_event, at=now)


def remove(connection: Connection, scope: Scope, name: str, now: float) -> PublishedEvent:
    """Forget a subscription; its reader ends. Returns the event to announce. Raises NotFound."""
    known = get_subscription(connection, scope, name)
    connection.execute(delete(event_subscriptions).where(event_subscriptions.c.id == known.id))
    payload = SubscriptionChanged(known.name, known.patterns)
    return append_event(connection, scope, "subscription_removed", known.id, payload, at=now)


def seek(
    connection: Connection, scope: Scope, name: str, *, now: float, position: int | None = None, at: float | None = None
) -> StoredSubscription:
    """Set the position; the reader goes on from there. Raises NotFound, InvalidInput."""
    known = _find(connection, scope, name, lock=True)
    if known is None:
        raise _unknown(name)
    start = _start(connection, position, at)
    if start is None:
        raise InvalidInput("say a position or a time to go on from")
    change = update(event_subscriptions).where(event_subscriptions.c.id == known.id)
    connection.execute(change.values(position=start, updated_at=now))
    return msgspec.structs.replace(known, position=start, updated_at=now)


def advance(
    connection: Connection,
    subscription_id: str,
    *,
    known: int,
    position: int,
    now: float,
    fence: Fence | None = None,
) -> bool:
    """All up to ``position`` is done; to be called in the transaction of its effect, to have the effect exactly once.

    ``known`` is the position that the reader started from. Being there already is no error; then it returns False, and
    the effect was had before. Raises LeaseLost, NotFound (it was removed), Moved."""
    if fence is not None:
        check_fence(connection, fence)
    where = event_subscriptions.c.id == subscription_id
    stands = connection.execute(
        select(event_subscriptions.c.position).where(where).with_for_update()
    ).scalar_one_or_none()
    if stands is None:
        raise NotFound("the subscription was removed")
    if stands == position:
        return False
    if stands != known:
        raise Moved(f"the subscription stands at {stands} and not at {known}")
    connection.execute(update(event_subscriptions).where(where).values(position=position, updated_at=now))
    return True


def read_page(
    connection: Connection,
    subscription_id: str,
    *,
    after: int | None,
    known: int,
    limit: int = 200,
    catalogue: Catalogue = CATALOGUE,
) -> Page:
    """What a subscription's reader has to do next: the events after ``after``, or after the stored position if that is
    not ``known`` any more. Raises NotFound if the subscription was removed."""
    row = connection.execute(select(*_COLUMNS).where(event_subscriptions.c.id == subscription_id)).first()
    if row is None:
        raise NotFound("the subscription was removed")
    stored = _stored(row)
    start = stored.position if after is None or stored.position != known else after
    found, upto = history(
        connection,
        Scope(stored.project_id, stored.user_id),
        stored.patterns,
        after=start,
        limit=limit,
        catalogue=catalogue,
    )
    return Page(stored, found, upto, upto < last_position(connection))


def history(
    connection: Connection,
    scope: Scope,
    patterns: Sequence[str] = ("#",),
    *,
    after: int = 0,
    limit: int = 200,
    catalogue: Catalogue = CATALOGUE,
) -> tuple[list[PublishedEvent], int]:
    """Events of the project that fit, of the first ``limit`` rows that could; and the position up to which all was
    looked at, which is where to go on."""
    # First the end, then the rows: what is committed between is for the next time.
    end = last_position(connection)
    rows = read_events(
        connection,
        after=after,
        limit=limit,
        project_id=scope.project_id,
        kinds=kinds_of(patterns, catalogue),
        upto=end,
    )
    upto = rows[-1].position if len(rows) == limit else max(end, after)
    told = (as_published(row, catalogue) for row in rows)
    return [event for event in told if matches_any(patterns, f"{event.type}.{origin_words(event.origin)}")], upto


def as_published(row: Event, catalogue: Catalogue = CATALOGUE) -> PublishedEvent:
    """A row as subscribers get it. The origin of an infrastructure's event is the id of what it tells of."""
    origin = row.origin
    if origin is None:
        own: Any = getattr(row, f"{row.kind.partition('.')[0]}_id", None)
        ids = (own, row.instance_id, row.server_id, row.run_id, row.operation_id, row.infrastructure_id, row.node)
        origin = next((found for found in ids if found), "-")
    data = row.data
    if row.origin is None:
        names = ("infrastructure_id", "node", "instance_id", "server_id", "operation_id", "run_id")
        data = {**{name: value for name in names if (value := getattr(row, name)) is not None}, **data}
    return PublishedEvent(catalogue.of_kind(row.kind), origin, row.at, row.project_id, row.user_id, row.position, data)


def get_subscription(connection: Connection, scope: Scope, name: str) -> StoredSubscription:
    """Raises NotFound."""
    known = _find(connection, scope, name)
    if known is None:
        raise _unknown(name)
    return known


def list_subscriptions(
    connection: Connection, scope: Scope, catalogue: Catalogue = CATALOGUE
) -> list[SubscriptionInfo]:
    """The project's durable subscriptions by name, with their readers and how far these are behind."""
    rows = connection.execute(
        select(*_COLUMNS)
        .where(event_subscriptions.c.project_id == scope.project_id)
        .order_by(event_subscriptions.c.name)
    )
    found = [_stored(row) for row in rows]
    held = select(leases.c.name, leases.c.host, leases.c.purpose).where(
        leases.c.name.in_([lease_name(one.id) for one in found]), leases.c.holder.is_not(None)
    )
    readers = {row[0]: f"{row[1]}: {row[2]}" for row in connection.execute(held)}
    return [
        SubscriptionInfo(
            id=one.id,
            name=one.name,
            patterns=one.patterns,
            position=one.position,
            lag=_lag(connection, one, catalogue),
            created_at=one.created_at,
            updated_at=one.updated_at,
            reader=readers.get(lease_name(one.id), ""),
        )
        for one in found
    ]


def _lag(connection: Connection, subscription: StoredSubscription, catalogue: Catalogue) -> int:
    """Events of its types that are still to come, counted up to 10,000."""
    waiting = select(events.c.position).where(
        events.c.project_id == subscription.project_id, events.c.position > subscription.position
    )
    kinds = kinds_of(subscription.patterns, catalogue)
    if kinds is not None:
        waiting = waiting.where(events.c.kind.in_(kinds))
    return int(connection.execute(select(func.count()).select_from(waiting.limit(_COUNTED).subquery())).scalar_one())


def _start(connection: Connection, position: int | None, at: float | None) -> int | None:
    if position is not None and at is not None:
        raise InvalidInput("say a position or a time, not both")
    if position is not None and position < 0:
        raise InvalidInput("positions begin at 0")
    return position_at(connection, at) if at is not None else position


def _find(connection: Connection, scope: Scope, name: str, *, lock: bool = False) -> StoredSubscription | None:
    query: Any = select(*_COLUMNS).where(
        event_subscriptions.c.project_id == scope.project_id, event_subscriptions.c.name == name
    )
    row = connection.execute(query.with_for_update() if lock else query).first()
    return None if row is None else _stored(row)


def _stored(row: Any) -> StoredSubscription:
    return StoredSubscription(
        row.id,
        row.project_id,
        row.user_id,
        row.name,
        _patterns(row.patterns),
        row.position,
        row.created_at,
        row.updated_at,
    )


def _unknown(name: str) -> NotFound:
    return NotFound(f"no subscription {name}", advice="See `subscriptions` of the events service for those there are.")
