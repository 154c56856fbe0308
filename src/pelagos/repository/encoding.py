"""Canonical bytes, digests and links: how a value becomes an object that is found by what it is.

The problem: two containers must find the same digest for the same value, for ever, and must be able to follow the links
of objects whose types they do not know. The way chosen: msgpack with every map sorted by key, the shortest integers and
64 bit floats, which msgspec writes; and links as an extension type of their own, so they are found in the bytes without
the type. Rejected: a list of links beside the value that its writer fills in. It could lie, and garbage collection
would believe it.

Rules of the canonical form: map keys are text; there is no NaN (it is not equal to itself, so no change could be told)
and no negative zero (it becomes 0.0); a number in a float field is a float, since values are read through their type
before they are written. The digest is SHA-256 over a frame in which every part has its length before it, so no two
different triples of type, version and value have the same bytes.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from pelagos.model.errors import InvalidInput

__all__ = [
    "MAX_OBJECT",
    "Link",
    "Opaque",
    "StoredObject",
    "canonical",
    "check_canonical",
    "digest_of",
    "fingerprint",
    "is_digest",
    "plain",
    "verify",
]

T = TypeVar("T", covariant=True)

MAX_OBJECT = 768 * 1024
"""Bytes of one object's value, so that each fits into a message with room to spare."""

_LINK = 1
"""The msgpack extension type of a link; its data are the 32 bytes of the digest."""
_UNDECIDED = 2
"""Of what a merge has not decided; never stored."""
_FRAME = b"pelagos.object.1\x00"
_HEX = frozenset("0123456789abcdef")


class Link(Generic[T]):
    """A reference to another object by its digest; equal if the digests are. Made by :meth:`TypeRegistry.link`.

    One that was made from a value carries it until it is stored: putting the value that holds the link puts both. One
    that was read has the digest alone.
    """

    __slots__ = ("attached", "digest", "packed", "target")

    def __init__(
        self,
        digest: str,
        target: T | None = None,
        packed: StoredObject | None = None,
        attached: tuple[Link[Any], ...] = (),
    ) -> None:
        if not is_digest(digest):
            raise InvalidInput(f"{digest!r} is not a digest", advice="A digest has 64 hexadecimal digits.")
        self.digest = digest
        self.target = target
        self.packed = packed
        self.attached = attached

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Link) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Link({self.digest[:12]})"


class StoredObject(msgspec.Struct, frozen=True):
    """An object as bytes, whatever its type; what is stored and what travels."""

    digest: str
    type: str
    version: int
    links: tuple[str, ...]
    """Digests it refers to, each once, in the order of the value."""
    value: bytes


class Opaque(msgspec.Struct, frozen=True):
    """An object of a type this program does not know: kept, carried and given back as it came."""

    type: str
    version: int
    value: bytes


class Undecided:
    """The base of a merge where two older merges differ: equal to nothing but itself. See `merge`."""

    __slots__ = ("serial",)

    def __init__(self, serial: int) -> None:
        self.serial = serial

    def __repr__(self) -> str:
        return "<undecided>"


def is_digest(text: str) -> bool:
    return len(text) == 64 and _HEX.issuperset(text)


def digest_of(type_id: str, version: int, value: bytes) -> str:
    """SHA-256 over type, version and canonical bytes, hexadecimal."""
    name = type_id.encode()
    head = _FRAME + struct.pack(">IQQ", len(name), version, len(value))
    return hashlib.sha256(b"".join((head, name, value))).hexdigest()


def canonical(value: object, met: Callable[[Link[Any]], None] | None = None) -> bytes:
    """The canonical bytes of a value; ``met`` is told of each link. Raises :class:`InvalidInput` where there is no
    canonical form."""

    def hook(item: object) -> msgspec.msgpack.Ext:
        if isinstance(item, Link):
            if met is not None:
                met(item)
            return msgspec.msgpack.Ext(_LINK, bytes.fromhex(item.digest))
        raise NotImplementedError(f"{type(item).__name__} cannot be stored")

    try:
        raw = msgspec.msgpack.Encoder(enc_hook=hook, order="sorted").encode(value)
    except (TypeError, NotImplementedError, OverflowError, RecursionError, msgspec.ValidationError) as problem:
        raise InvalidInput(
            f"{type(value).__name__} cannot be stored: {problem}",
            advice="Stored values are Structs of text, numbers, bytes, sequences, maps with text as keys, and links.",
        ) from problem
    if b"\xcb" in raw:
        tidy, changed = _tidy(msgspec.msgpack.decode(raw, ext_hook=_to_link))
        if changed:
            return _sorted.encode(tidy)
    return raw


def fingerprint(value: object) -> bytes:
    """Bytes that are equal if and only if the values are, in value and kind: 1 is not 1.0 and not True."""
    return _prints.encode(value)


def plain(raw: bytes) -> Any:
    """The value of canonical bytes without its type: dicts, lists, scalars and :class:`Link`."""
    return msgspec.msgpack.decode(raw, ext_hook=_to_link)


def check_canonical(raw: bytes) -> tuple[str, ...]:
    """The links in the bytes, each once, in order. Raises :class:`InvalidInput` if the bytes are not canonical."""
    links: dict[str, None] = {}

    def hook(code: int, data: memoryview) -> object:
        if code != _LINK or len(data) != 32:
            raise InvalidInput(f"an extension of type {code} and {len(data)} bytes, which no object has")
        link: Link[Any] = Link(bytes(data).hex())
        links[link.digest] = None
        return link

    try:
        value = msgspec.msgpack.decode(raw, ext_hook=hook)
        tidy, changed = _tidy(value)
        again = _sorted.encode(tidy)
    except (msgspec.DecodeError, TypeError, RecursionError, OverflowError) as problem:
        raise InvalidInput(f"not the canonical form of an object: {problem}") from problem
    if changed or again != raw:
        raise InvalidInput("not the canonical form of an object: its maps or numbers are written another way")
    # In the order of the bytes, not of decoding: maps are sorted, so both are the same.
    return tuple(links)


def verify(stored: StoredObject) -> StoredObject:
    """An object from elsewhere, with digest, canonical form and links checked; the links are taken from the value.

    Raises :class:`InvalidInput`, naming the digest."""
    if len(stored.value) > MAX_OBJECT:
        raise InvalidInput(f"object {stored.digest} has {len(stored.value)} bytes; {MAX_OBJECT} is the most")
    if not 0 < len(stored.type) <= 200 or not 0 < stored.version < 2**31:
        raise InvalidInput(f"object {stored.digest} has no valid type ({stored.type[:50]!r} {stored.version})")
    if digest_of(stored.type, stored.version, stored.value) != stored.digest:
        raise InvalidInput(f"object {stored.digest} is not what its digest says")
    try:
        links = check_canonical(stored.value)
    except InvalidInput as problem:
        raise InvalidInput(f"object {stored.digest}: {problem}") from problem
    return msgspec.structs.replace(stored, links=links)


def _to_link(code: int, data: memoryview) -> object:
    if code == _LINK:
        return Link(bytes(data).hex())
    raise InvalidInput(f"an extension of type {code}, which no object has")


def _from_link(item: object) -> msgspec.msgpack.Ext:
    if isinstance(item, Link):
        return msgspec.msgpack.Ext(_LINK, bytes.fromhex(item.digest))
    if isinstance(item, Undecided):
        return msgspec.msgpack.Ext(_UNDECIDED, item.serial.to_bytes(8, "big"))
    raise NotImplementedError(f"{type(item).__name__} cannot be stored")


_sorted = msgspec.msgpack.Encoder(enc_hook=_from_link, order="sorted")
_prints = msgspec.msgpack.Encoder(enc_hook=_from_link, order="sorted")


def _tidy(value: Any) -> tuple[Any, bool]:
    """The value without negative zeros, and whether there were any. Raises :class:`InvalidInput` for a NaN."""
    match value:
        case float():
            if math.isnan(value):
                raise InvalidInput("NaN cannot be stored", advice="Leave the field out, or use None.")
            negative = value == 0.0 and math.copysign(1.0, value) < 0
            return (0.0, True) if negative else (value, False)
        case dict():
            pairs = [(key, *_tidy(item)) for key, item in value.items()]
            changed = any(pair[2] for pair in pairs)
            return ({pair[0]: pair[1] for pair in pairs} if changed else value), changed
        case list():
            items = [_tidy(item) for item in value]
            changed = any(item[1] for item in items)
            return ([item[0] for item in items] if changed else value), changed
    return value, False
