"""What travels. Digests are their 32 bytes; an object comes without links, the receiver takes them from its value."""

from __future__ import annotations

import msgspec

from pelagos.repository.encoding import StoredObject, verify

__all__ = [
    "CHUNK_BYTES",
    "Carried",
    "Fetch",
    "Lacking",
    "Negotiate",
    "Node",
    "Objects",
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
