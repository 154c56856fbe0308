"""What travels. Digests are their 32 bytes; an object comes without links, the receiver takes them from its value."""

from __future__ import annotations

import msgspec

from pelagos.repository.encoding import StoredObject, verify
from pelagos.repository.graph import CommitInfo

__all__ = [
    "CHUNK_BYTES",
    "Carried",
    "Fetch",
    "GetHistory",
    "GetObject",
    "Lacking",
    "Negotiate",
    "Node",
    "Objects",
    "ReadObject",
    "Receive",
    "RefsAnswer",
    "RemoteRef",
    "Update",
    "Which",
    "carry",
    "received",
]

CHUNK_BYTES = 896 * 1024
"""Of values in one message; a message has at most about 1 MiB."""


class Which(msgspec.Struct, frozen=True):
    """A repository of the caller's project."""

    kind: str
    name: str


class RemoteRef(msgspec.Struct, frozen=True):
    name: str
    digest: str


class RefsAnswer(msgspec.Struct, frozen=True):
    refs: tuple[RemoteRef, ...]


class Negotiate(msgspec.Struct, frozen=True):
    """``have``: commits with all below them; ``want``: what is looked for."""

    which: Which
    want: tuple[bytes, ...]
    have: tuple[bytes, ...]


class Node(msgspec.Struct, frozen=True):
    """An object, and of its links those that the asking side may lack."""

    digest: bytes
    links: tuple[bytes, ...]


class Fetch(msgspec.Struct, frozen=True):
    which: Which
    digests: tuple[bytes, ...]


class Carried(msgspec.Struct, frozen=True):
    digest: bytes
    type: str
    version: int
    value: bytes


class Objects(msgspec.Struct, frozen=True):
    """As many of those asked for, from the first on, as fit into a message; at least one."""

    objects: tuple[Carried, ...]


class GetObject(msgspec.Struct, frozen=True):
    """What a revision holds, for whoever has no store. ``as_of``: held at that time, in seconds since the epoch."""

    which: Which
    revision: str = "main"
    as_of: float | None = None


class ReadObject(msgspec.Struct, frozen=True):
    """``root`` is what was committed; :func:`received` verifies it, and its links are fetched by digest."""

    commit: CommitInfo
    root: Carried


class GetHistory(msgspec.Struct, frozen=True):
    """``before``: the digest of the last commit of the page before."""

    which: Which
    revision: str = "main"
    before: str | None = None
    limit: int = 100


class Lacking(msgspec.Struct, frozen=True):
    which: Which
    digests: tuple[bytes, ...]


class Receive(msgspec.Struct, frozen=True):
    which: Which
    objects: tuple[Carried, ...]


class Update(msgspec.Struct, frozen=True):
    """Compare and set of a branch, after its objects were received."""

    which: Which
    branch: str
    expected: str | None
    new: str


def carry(packed: StoredObject) -> Carried:
    return Carried(bytes.fromhex(packed.digest), packed.type, packed.version, packed.value)


def received(item: Carried) -> StoredObject:
    """Verified: digest, canonical form, size. Raises :class:`InvalidInput`."""
    return verify(StoredObject(item.digest.hex(), item.type, item.version, (), item.value))
