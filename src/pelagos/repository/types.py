"""The registry of stored types: ids and versions for frozen Structs, and ways from older versions to the newest.

    @stored("demo.site", version=2, upgrades={1: add_region})
    class Site(msgspec.Struct, frozen=True):
        name: str
        region: str
        parts: tuple[Link[Part], ...] = ()

An id and a version name one shape for ever: whoever changes the shape raises the version and gives a function from the
older plain value (a dict, with :class:`Link` where there were links) to the next version's. Objects of an unknown type
are :class:`Opaque`: kept and carried, never lost. An object of a known type in a version that is newer than this
program is an error with advice: reading it as if it were older would drop fields in silence. Stored Structs write all
their fields: none has ``omit_defaults``.

A registry is a plain object; `TYPES` is the one that :func:`stored` fills. It also keeps a bounded cache of what it
decoded, of types in which nothing can be changed.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_origin

import msgspec
from msgspec import inspect

from pelagos.model.errors import InternalError, InvalidInput, Unsupported
from pelagos.repository.encoding import MAX_OBJECT, Link, Opaque, StoredObject, canonical, digest_of, plain
from pelagos.repository.errors import CorruptObject

__all__ = ["TYPES", "StoredType", "TypeRegistry", "Upgrade", "link", "stored"]

C = TypeVar("C", bound=type[msgspec.Struct])
T = TypeVar("T")
Upgrade = Callable[[dict[str, Any]], dict[str, Any]]


class StoredType(msgspec.Struct, frozen=True):
    """One registered type."""

    id: str
    version: int
    cls: type[msgspec.Struct]
    upgrades: Mapping[int, Upgrade]
    """From a version to the next."""


class TypeRegistry:
    """See the module's text. ``cached_bytes`` bounds the cache by the size of the encoded values."""

    def __init__(self, *, cached_bytes: int = 16 * 2**20) -> None:
        self._by_id: dict[str, StoredType] = {}
        self._by_class: dict[type, StoredType] = {}
        self._decoders: dict[type, Any] = {}
        self._cacheable: dict[type, bool] = {}
        self._cache: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self._cached = 0
        self._cached_bytes = cached_bytes
        self._lock = threading.Lock()  # transactions run on the store's threads

    # -- types -------------------------------------------------------------------------------------------------

    def stored(self, type_id: str, *, version: int = 1, upgrades: Mapping[int, Upgrade] | None = None) -> Any:
        """A decorator that registers a frozen Struct. Raises :class:`InternalError` if that cannot be."""

        def register(cls: C) -> C:
            self.register(cls, type_id, version=version, upgrades=upgrades)
            return cls

        return register

    def register(
        self,
        cls: type[msgspec.Struct],
        type_id: str,
        *,
        version: int = 1,
        upgrades: Mapping[int, Upgrade] | None = None,
    ) -> None:
        """As :meth:`stored`."""
        if not cls.__struct_config__.frozen:
            raise InternalError(f"{cls.__qualname__} is not frozen", advice="Stored types are frozen Structs.")
        if not 0 < len(type_id) <= 200 or not 1 <= version < 2**31:
            raise InternalError(f"{type_id!r} version {version} does not name a stored type")
        known = self._by_id.get(type_id)
        if known is not None and known.cls is not cls:
            raise InternalError(f"type {type_id!r} belongs to {known.cls.__qualname__}")
        if cls in self._by_class and self._by_class[cls].id != type_id:
            raise InternalError(f"{cls.__qualname__} is stored as {self._by_class[cls].id!r} already")
        ways = dict(upgrades or {})
        if strange := [v for v in ways if not 1 <= v < version]:
            raise InternalError(f"{type_id!r}: no upgrade starts at version {strange[0]}")
        entry = StoredType(type_id, version, cls, ways)
        self._by_id[type_id] = self._by_class[cls] = entry

    def type_of(self, value: object) -> StoredType:
        """The registered type of a value. Raises :class:`InvalidInput`."""
        try:
            return self._by_class[type(value)]
        except KeyError:
            raise InvalidInput(
                f"{type(value).__name__} is not a stored type", advice="Register it with @stored(id, version=...)."
            ) from None

    # -- values to objects -------------------------------------------------------------------------------------

    def link(self, value: T) -> Link[T]:
        """A link to a value that need not be stored yet; it is put together with whatever holds the link."""
        packed, attached = self._pack_one(value)
        return Link(packed.digest, value, packed, attached)

    def pack(self, root: object) -> list[StoredObject]:
        """The value (or link) and all values attached to it by links, as distinct objects, children first.

        Raises :class:`InvalidInput` if something in it cannot be stored or is too large."""
        top: Link[Any] = root if isinstance(root, Link) else self.link(root)
        done: dict[str, StoredObject] = {}
        stack: list[tuple[Link[Any], bool]] = [(top, False)]
        while stack:
            item, expanded = stack.pop()
            if item.packed is None or item.digest in done:
                continue
            if expanded:
                done[item.digest] = item.packed
            else:
                stack.append((item, True))
                stack.extend((child, False) for child in reversed(item.attached))
        return list(done.values())

    def _pack_one(self, value: object) -> tuple[StoredObject, tuple[Link[Any], ...]]:
        links: dict[str, Link[Any]] = {}

        def met(link: Link[Any]) -> None:
            known = links.get(link.digest)
            if known is None or known.packed is None:
                links[link.digest] = link

        if isinstance(value, Opaque):
            raw, type_id, version = value.value, value.type, value.version
            _collect(plain(raw), met)
        else:
            entry = self.type_of(value)
            type_id, version = entry.id, entry.version
            raw = canonical(value, met)
            # Through the type: what could not be read back is refused, and 1 in a float field becomes 1.0.
            try:
                raw = canonical(self._decoder(entry).decode(raw))
            except msgspec.DecodeError as problem:
                raise InvalidInput(
                    f"{type(value).__name__} does not fit its own type: {problem}",
                    advice="Make the Struct with values of the annotated types.",
                ) from problem
        if len(raw) > MAX_OBJECT:
            raise InvalidInput(
                f"a {type_id} of {len(raw)} bytes is too large; {MAX_OBJECT} is the most",
                advice="Split it by links; bulk data belongs into the block store.",
            )
        packed = StoredObject(digest_of(type_id, version, raw), type_id, version, tuple(links), raw)
        return packed, tuple(link for link in links.values() if link.packed is not None)

    # -- objects to values -------------------------------------------------------------------------------------

    def decode(self, stored: StoredObject) -> Any:
        """The value: of the newest version of its type, or :class:`Opaque`.

        Raises :class:`Unsupported` if its version is newer than this program's, :class:`CorruptObject` if its bytes do
        not fit its type."""
        with self._lock:
            found = self._cache.get(stored.digest)
            if found is not None:
                self._cache.move_to_end(stored.digest)
                return found[0]
        entry = self._by_id.get(stored.type)
        if entry is None:
            return Opaque(stored.type, stored.version, stored.value)
        if stored.version > entry.version:
            raise Unsupported(
                f"object {stored.digest[:12]} is a {stored.type} of version {stored.version}; "
                f"this program knows version {entry.version}",
                advice="Upgrade Pelagos here to the version of whoever wrote it.",
                details={"digest": stored.digest, "type": stored.type, "version": stored.version},
            )
        try:
            if stored.version == entry.version:
                value = self._decoder(entry).decode(stored.value)
            else:
                value = _upgrade(entry, stored)
        except msgspec.ValidationError as problem:
            raise CorruptObject(
                f"object {stored.digest} does not fit its type {stored.type} version {stored.version}: {problem}",
                advice="The type was changed without a new version, or its upgrade is wrong.",
            ) from problem
        self._remember(stored, entry, value)
        return value

    def _decoder(self, entry: StoredType) -> Any:
        # At first use: a type may link to itself, and has no name yet while it is registered.
        decoder = self._decoders.get(entry.cls)
        if decoder is None:
            _check_whole(entry)
            decoder = msgspec.msgpack.Decoder(entry.cls, ext_hook=_ext_hook, dec_hook=_dec_hook)
            self._decoders[entry.cls] = decoder
        return decoder

    def cached(self, digest: str) -> Any:
        """The value of a digest if it is in the cache, else None."""
        with self._lock:
            found = self._cache.get(digest)
            if found is None:
                return None
            self._cache.move_to_end(digest)
            return found[0]

    def _remember(self, stored: StoredObject, entry: StoredType, value: Any) -> None:
        safe = self._cacheable.get(entry.cls)
        if safe is None:
            safe = self._cacheable[entry.cls] = _immutable(entry.cls)
        if not safe or len(stored.value) > self._cached_bytes:
            return
        with self._lock:
            if stored.digest in self._cache:
                return
            self._cache[stored.digest] = (value, len(stored.value))
            self._cached += len(stored.value)
            while self._cached > self._cached_bytes:
                self._cached -= self._cache.popitem(last=False)[1][1]


def _check_whole(entry: StoredType) -> None:
    """Raises :class:`InternalError` if a Struct in the type leaves out its defaults: msgspec judges by identity whether
    a field holds its default, so equal values could have different bytes, and digests."""
    seen: set[type] = set()
    rest: list[object] = [inspect.type_info(entry.cls)]
    while rest:
        match rest.pop():
            case inspect.StructType(cls=struct, fields=fields):
                if struct.__struct_config__.omit_defaults:
                    raise InternalError(
                        f"{struct.__qualname__}, stored in {entry.id!r}, leaves out fields that hold their defaults",
                        advice="Stored Structs are made without omit_defaults.",
                    )
                if struct not in seen:
                    seen.add(struct)
                    rest += [field.type for field in fields]
            case inspect.Type() as kind:
                rest += msgspec.structs.astuple(kind)
            case tuple() as items:
                rest += items


def _upgrade(entry: StoredType, stored: StoredObject) -> Any:
    value = plain(stored.value)
    for version in range(stored.version, entry.version):
        step = entry.upgrades.get(version)
        if step is None:
            raise Unsupported(
                f"object {stored.digest[:12]} is a {stored.type} of version {stored.version}, "
                f"and nothing upgrades version {version}",
                advice=f"Register the type with an upgrade from version {version}.",
            )
        value = step(value)
    return msgspec.convert(value, entry.cls, dec_hook=_dec_hook)


def _ext_hook(code: int, data: memoryview) -> object:
    if code == 1:
        return Link(bytes(data).hex())
    raise msgspec.ValidationError(f"unknown extension type {code}")


def _dec_hook(kind: Any, value: object) -> object:
    if (get_origin(kind) or kind) is Link and isinstance(value, Link):
        return value
    raise msgspec.ValidationError(f"expected {kind}, got {type(value).__name__}")


def _collect(value: Any, met: Callable[[Link[Any]], None]) -> None:
    match value:
        case Link():
            met(value)
        case dict():
            for item in value.values():
                _collect(item, met)
        case list():
            for item in value:
                _collect(item, met)


def _immutable(cls: type) -> bool:
    """Whether nothing in a value of the type can be changed, so that one may be shared."""
    seen: set[type] = set()

    def safe(kind: inspect.Type) -> bool:
        match kind:
            case inspect.StructType(cls=struct):
                if struct in seen:
                    return True
                seen.add(struct)
                return struct.__struct_config__.frozen and all(safe(field.type) for field in kind.fields)
            case inspect.UnionType(types=types):
                return all(safe(item) for item in types)
            case inspect.VarTupleType(item_type=item) | inspect.FrozenSetType(item_type=item):
                return safe(item)
            case inspect.TupleType(item_types=items):
                return all(safe(item) for item in items)
            case inspect.CustomType(cls=custom):
                return custom is Link
            case inspect.Metadata(type=inner):
                return safe(inner)
            case (
                inspect.NoneType()
                | inspect.BoolType()
                | inspect.IntType()
                | inspect.FloatType()
                | inspect.StrType()
                | inspect.BytesType()
                | inspect.EnumType()
                | inspect.LiteralType()
                | inspect.DateTimeType()
                | inspect.DateType()
                | inspect.TimeType()
                | inspect.TimeDeltaType()
                | inspect.UUIDType()
                | inspect.DecimalType()
            ):
                return True
        return False

    return safe(inspect.type_info(cls))


TYPES = TypeRegistry()
"""The types of this program."""

stored = TYPES.stored
link = TYPES.link
