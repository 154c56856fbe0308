"""Streams and their subscriptions as rows: functions on a connection. What is another project's is not found.

Undeclaring removes the row and all bindings to it (the ancestor answered OK and did nothing: reference section 10.2).
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, insert, select, update

from pelagos.model.errors import InvalidInput, NotFound
from pelagos.model.scope import Scope
from pelagos.services.events import PublishedEvent, SubscriptionChanged, append_event
from pelagos.services.streams.messages import (
    Bind,
    DeclareStream,
    FindStreams,
    Stream,
    StreamSubscription,
    SubscribeStream,
    SubscriptionName,
)
from pelagos.store.container_schema import stream_subscriptions, streams

__all__ = [
    "address_of",
    "bind",
    "bindings",
    "check_key_patterns",
    "check_stream_name",
    "declare_stream",
    "find_streams",
    "is_subscribed",
    "subscribe_stream",
    "unbind",
    "undeclare_stream",
    "unsubscribe_stream",
]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_patterns = msgspec.json.Decoder(tuple[str, ...]).decode


def check_stream_name(name: str) -> str:
    """Raises InvalidInput for what is no single word."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r} cannot name a stream or a subscription",
            advice="Take up to 64 letters, digits, - and _; parts belong into the key.",
        )
    return name


def check_key_patterns(patterns: Iterable[str]) -> tuple[str, ...]:
    """Raises InvalidInput for none, too many, or one with an empty word."""
    checked = tuple(dict.fromkeys(patterns))
    for pattern in checked:
        if "" in pattern.split(".") or any(c.isspace() for c in pattern) or len(pattern.encode()) > 150:
            raise InvalidInput(f"{pattern!r} is not a pattern of keys", advice="Part words by dots; # is any number.")
    if not 1 <= len(checked) <= 100:
        raise InvalidInput("a subscription has 1 to 100 patterns", advice="# stands for every key.")
    return checked


def address_of(scope: Scope, stream: str, subscription: str) -> str:
    """The address of a durable subscription's queue: made of names alone, so workers need no look-up."""
    return f"service:stream.{scope.project_id}.{stream}.{subscription}"


def declare_stream(connection: Connection, scope: Scope, id: str, request: DeclareStream, now: float) -> Stream:
    """Raises InvalidInput."""
    check_stream_name(request.name)
    row = _find(connection, scope, request.name, lock=True)
    if row is None:
        values: dict[str, Any] = {
            "id": id,
            "project_id": scope.project_id,
            "user_id": scope.user_id,
            "name": request.name,
        }
        values |= {"description": request.description, "created_at": now}
        connection.execute(insert(streams).values(**values))
    elif request.description and request.description != row.description:
        changed = update(streams).where(streams.c.id == row.id)
        connection.execute(changed.values(description=request.description))
    return _streams(connection, scope, [_known(connection, scope, request.name)])[0]


def undeclare_stream(connection: Connection, scope: Scope, name: str, now: float) -> list[PublishedEvent]:
    """Remove it and all its subscriptions; returns the events to announce. Raises NotFound."""
    row = _known(connection, scope, name)
    [stream] = _streams(connection, scope, [row])
    told = [_forget(connection, scope, one, now) for one in stream.subscriptions]
    connection.execute(delete(streams).where(streams.c.id == row.id))
    return told


def find_streams(connection: Connection, scope: Scope, request: FindStreams) -> list[Stream]:
    """A page of the project's streams whose names fit, with their subscriptions."""
    query = select(*streams.c).where(streams.c.project_id == scope.project_id).order_by(streams.c.name)
    # Names are few and short: matched here, they match alike on every engine.
    fits = re.compile(fnmatch.translate(request.name.replace("[", "[[]"))).match
    rows = [row for row in connection.execute(query) if fits(row.name)]
    rows = sorted((row for row in rows if row.name > request.after), key=lambda row: str(row.name))
    return _streams(connection, scope, rows[: max(1, min(request.limit, 1000))])


def is_subscribed(connection: Connection, scope: Scope, request: SubscribeStream) -> bool:
    """Whether the subscription is there. Raises what :func:`subscribe_stream` would."""
    check_stream_name(request.name)
    check_key_patterns(request.patterns)
    _known(connection, scope, request.stream)
    return _subscription(connection, scope, request.stream, request.name) is not None


def subscribe_stream(
    connection: Connection, scope: Scope, id: str, request: SubscribeStream, now: float
) -> tuple[StreamSubscription, PublishedEvent | None]:
    """The subscription, and the event to announce if it is new. Raises NotFound (stream), InvalidInput."""
    check_stream_name(request.name)
    wanted = check_key_patterns(request.patterns)
    stream = _known(connection, scope, request.stream)
    known = _subscription(connection, scope, request.stream, request.name)
    told = None
    if known is None:
        values: dict[str, Any] = {"id": id, "stream_id": stream.id, "name": request.name, "user_id": scope.user_id}
        values |= {"created_at": now, "patterns": _encoded(wanted)}
        connection.execute(insert(stream_subscriptions).values(**values))
        payload = SubscriptionChanged(f"{request.stream}/{request.name}", wanted)
        told = append_event(connection, scope, "subscription_added", id, payload, at=now)
    elif known.patterns != wanted:
        _write_patterns(connection, known, wanted)
    return _must(connection, scope, SubscriptionName(request.stream, request.name)), told


def unsubscribe_stream(connection: Connection, scope: Scope, request: SubscriptionName, now: float) -> PublishedEvent:
    """Returns the event to announce. Raises NotFound."""
    return _forget(connection, scope, _must(connection, scope, request), now)


def bind(connection: Connection, scope: Scope, request: Bind) -> StreamSubscription:
    """Raises NotFound, InvalidInput."""
    known = _must(connection, scope, SubscriptionName(request.stream, request.name))
    _write_patterns(connection, known, check_key_patterns((*known.patterns, *request.patterns)))
    return _must(connection, scope, SubscriptionName(request.stream, request.name))


def unbind(connection: Connection, scope: Scope, request: Bind) -> StreamSubscription:
    """With its last pattern gone a subscription gets nothing, until one is bound. Raises NotFound."""
    known = _must(connection, scope, SubscriptionName(request.stream, request.name))
    _write_patterns(connection, known, tuple(one for one in known.patterns if one not in request.patterns))
    return _must(connection, scope, SubscriptionName(request.stream, request.name))


def bindings(connection: Connection, scope: Scope, stream: str) -> tuple[StreamSubscription, ...]:
    """The durable subscriptions of a stream; none if nobody ever declared it."""
    row = _find(connection, scope, stream)
    return () if row is None else _streams(connection, scope, [row])[0].subscriptions


def _find(connection: Connection, scope: Scope, name: str, *, lock: bool = False) -> Any:
    query = select(*streams.c).where(streams.c.project_id == scope.project_id, streams.c.name == name)
    return connection.execute(query.with_for_update() if lock else query).first()


def _known(connection: Connection, scope: Scope, name: str) -> Any:
    row = _find(connection, scope, name)
    if row is None:
        raise NotFound(f"no stream {name}", advice="Declare it first, or see `find` for those there are.")
    return row


def _subscription(connection: Connection, scope: Scope, stream: str, name: str) -> StreamSubscription | None:
    return next((one for one in bindings(connection, scope, stream) if one.name == name), None)


def _must(connection: Connection, scope: Scope, wanted: SubscriptionName) -> StreamSubscription:
    found = _subscription(connection, scope, wanted.stream, wanted.name)
    if found is None:
        raise NotFound(f"stream {wanted.stream} has no subscription {wanted.name}")
    return found


def _streams(connection: Connection, scope: Scope, rows: list[Any]) -> list[Stream]:
    names = {row.id: row.name for row in rows}
    of: dict[str, list[StreamSubscription]] = {id: [] for id in names}
    query = select(*stream_subscriptions.c).where(stream_subscriptions.c.stream_id.in_(list(names)))
    for row in connection.execute(query.order_by(stream_subscriptions.c.name)):
        stream = names[row.stream_id]
        of[row.stream_id].append(
            StreamSubscription(
                id=row.id,
                stream=stream,
                name=row.name,
                patterns=_patterns(row.patterns),
                address=address_of(scope, stream, row.name),
                created_at=row.created_at,
            )
        )
    return [
        Stream(
            id=row.id,
            name=row.name,
            description=row.description,
            owner=row.user_id,
            created_at=row.created_at,
            subscriptions=tuple(of[row.id]),
        )
        for row in rows
    ]


def _write_patterns(connection: Connection, known: StreamSubscription, patterns: tuple[str, ...]) -> None:
    changed = update(stream_subscriptions).where(stream_subscriptions.c.id == known.id)
    connection.execute(changed.values(patterns=_encoded(patterns)))


def _encoded(patterns: tuple[str, ...]) -> str:
    return msgspec.json.encode(patterns).decode()


def _forget(connection: Connection, scope: Scope, known: StreamSubscription, now: float) -> PublishedEvent:
    connection.execute(delete(stream_subscriptions).where(stream_subscriptions.c.id == known.id))
    payload = SubscriptionChanged(f"{known.stream}/{known.name}", known.patterns)
    return append_event(connection, scope, "subscription_removed", known.id, payload, at=now)
