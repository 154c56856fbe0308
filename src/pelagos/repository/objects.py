"""Objects in the store: put and get in bulk, on a given connection.

One invariant carries synchronisation and garbage collection: *what a stored object links to is stored*. So children are
put before parents, a put with a link into nothing is refused, and who has an object has all that is below it.

A put also keeps what it finds: an object that is there already, or is linked to, and that nobody has put for a while
gets the new time. So the grace of garbage collection counts from the last put, and a collector that is about to
take the object meets the writer in the same row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, bindparam, select, text, update

from pelagos.model.errors import NotFound
from pelagos.repository.encoding import Link, StoredObject, digest_of
from pelagos.repository.errors import CorruptObject, MissingObjects
from pelagos.repository.types import TYPES, TypeRegistry
from pelagos.store.container_schema import objects

__all__ = [
    "CHUNK",
    "TOUCH_AFTER",
    "get",
    "get_many",
    "links_of",
    "present",
    "put",
    "put_stored",
    "read_stored",
]

CHUNK = 500
"""Rows a statement."""
TOUCH_AFTER = 600.0
"""Seconds after which a put renews the time of what it finds."""

T = TypeVar("T")

_ROW = (objects.c.digest, objects.c.type, objects.c.version, objects.c.links_blob, objects.c.value_blob)
_SELECT = select(*_ROW).where(objects.c.digest.in_(bindparam("digests", expanding=True)))
_LINKS = select(objects.c.digest, objects.c.links_blob).where(
    objects.c.digest.in_(bindparam("digests", expanding=True))
)
_TIMES = select(objects.c.digest, objects.c.created_at).where(
    objects.c.digest.in_(bindparam("digests", expanding=True))
)
_TOUCH = (
    update(objects).where(objects.c.digest.in_(bindparam("digests", expanding=True))).values(created_at=bindparam("at"))
)
# As text, which both engines read: the dialects' own form would load both, a good part of a command's start.
_INSERT = text(
    "INSERT INTO objects (digest, type, version, created_at, links_blob, value_blob) "
    "VALUES (:digest, :type, :version, :created_at, :links_blob, :value_blob) ON CONFLICT DO NOTHING"
)
_encode_links = msgspec.msgpack.Encoder().encode
_decode_links = msgspec.msgpack.Decoder(tuple[str, ...]).decode


def put(connection: Connection, value: object, at: float, *, types: TypeRegistry = TYPES) -> str:
    """Store a value (or a link) and everything attached to it by links; returns its digest. What is there already is
    not written again. ``at``: seconds since the epoch. Raises :class:`InvalidInput` and :class:`MissingObjects`."""
    top: Link[Any] = value if isinstance(value, Link) else types.link(value)
    packed = types.pack(top)
    if packed:
        put_stored(connection, packed, at)
    else:
        _keep(connection, {top.digest: None}, set(), at)
    return top.digest


def put_stored(connection: Connection, packed: Sequence[StoredObject], at: float) -> int:
    """Store objects, children before parents; returns how many were new.

    They are believed to be what their digests say; what comes from elsewhere goes through
    :func:`pelagos.repository.encoding.verify` first. Raises :class:`MissingObjects` if one links to what is neither
    there nor before it; then some may have been written, and the transaction is to be given up."""
    new = 0
    for chunk in _chunks(packed):
        here = {stored.digest: None for stored in chunk}
        found = dict(_times(connection, here))
        fresh = [stored for stored in chunk if stored.digest not in found]
        known = set(found)
        outside: dict[str, None] = {}
        for stored in fresh:
            for digest in stored.links:
                if digest not in known:
                    outside[digest] = None
            known.add(stored.digest)
        _keep(connection, outside, set(here) - known, at)
        _touch(connection, found, at)
        if fresh:
            connection.execute(
                _INSERT,
                [
                    {
                        "digest": stored.digest,
                        "type": stored.type,
                        "version": stored.version,
                        "created_at": at,
                        "links_blob": _encode_links(stored.links),
                        "value_blob": stored.value,
                    }
                    for stored in fresh
                ],
            )
        new += len(fresh)
    return new


def get(connection: Connection, reference: str | Link[T], *, types: TypeRegistry = TYPES) -> Any:
    """The value of a digest or link. Raises :class:`NotFound`, and what :meth:`TypeRegistry.decode` raises."""
    digest = reference.digest if isinstance(reference, Link) else reference
    found = get_many(connection, (digest,), types=types).get(digest)
    if found is None:
        raise NotFound(f"there is no object {digest}")
    return found


def get_many(
    connection: Connection, references: Iterable[str | Link[Any]], *, types: TypeRegistry = TYPES
) -> dict[str, Any]:
    """The values that are there, by digest, in the order asked for."""
    digests = list(dict.fromkeys(item.digest if isinstance(item, Link) else item for item in references))
    values = {digest: value for digest in digests if (value := types.cached(digest)) is not None}
    for packed in read_stored(connection, [digest for digest in digests if digest not in values]):
        values[packed.digest] = types.decode(packed)
    return {digest: values[digest] for digest in digests if digest in values}


def read_stored(connection: Connection, digests: Iterable[str]) -> Iterator[StoredObject]:
    """The objects that are there, as bytes, in no order. Raises :class:`CorruptObject`, naming the digest, for one
    that is not what its digest says."""
    for chunk in _chunks(list(digests)):
        for digest, type_id, version, links, value in connection.execute(_SELECT, {"digests": chunk}):
            if digest_of(type_id, version, value) != digest:
                raise CorruptObject(f"object {digest} in the store is not what its digest says")
            yield StoredObject(digest, type_id, version, _decode_links(links), bytes(value))


def links_of(connection: Connection, digests: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """What the given objects link to; those that are not there are left out."""
    found: dict[str, tuple[str, ...]] = {}
    for chunk in _chunks(list(digests)):
        for digest, links in connection.execute(_LINKS, {"digests": chunk}):
            found[digest] = _decode_links(links)
    return found


def present(connection: Connection, digests: Iterable[str]) -> set[str]:
    """Which of the digests are there."""
    return {digest for digest, _ in _times(connection, dict.fromkeys(digests))}


def _keep(connection: Connection, needed: dict[str, None], later: set[str], at: float) -> None:
    """See that what is linked to is there and stays. ``later``: what stands in the chunk in the wrong order."""
    if not needed:
        return
    found = dict(_times(connection, needed))
    missing = [digest for digest in needed if digest not in found]
    if missing:
        raise MissingObjects(
            f"object {missing[0]} is linked to but not there"
            + (f", and {len(missing) - 1} more" if len(missing) > 1 else ""),
            advice="Store children before their parents." if later & set(missing) else "Store or fetch them first.",
            details={"digests": missing[:100], "count": len(missing)},
        )
    _touch(connection, found, at)


def _touch(connection: Connection, found: dict[str, float], at: float) -> None:
    old = [digest for digest, created in found.items() if created < at - TOUCH_AFTER]
    for chunk in _chunks(old):
        connection.execute(_TOUCH, {"digests": chunk, "at": at})


def _times(connection: Connection, digests: dict[str, None]) -> Iterator[tuple[str, float]]:
    for chunk in _chunks(list(digests)):
        for row in connection.execute(_TIMES, {"digests": chunk}):
            yield row.digest, row.created_at


def _chunks(items: Sequence[T]) -> Iterator[list[T]]:
    for start in range(0, len(items), CHUNK):
        yield list(items[start : start + CHUNK])
