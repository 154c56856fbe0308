"""What the attribute store is asked and answers."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["Attribute", "AttributeRef", "GetAttributes", "ListAttributes", "PutAttribute", "PutAttributes", "Version"]


class PutAttribute(msgspec.Struct, frozen=True, kw_only=True):
    """Write a value (what msgpack can say, at most 64 KiB) under a name of at most 255 characters.

    ``expected``: write only if the version is this one; 0 means that there is none yet. None writes in any case."""

    name: str
    value: Any
    expected: int | None = None


class PutAttributes(msgspec.Struct, frozen=True):
    """All or none; at most 1,000."""

    items: tuple[PutAttribute, ...]


class AttributeRef(msgspec.Struct, frozen=True, kw_only=True):
    """``expected`` is heeded by removal alone."""

    name: str
    expected: int | None = None


class GetAttributes(msgspec.Struct, frozen=True):
    """At most 1,000 names."""

    names: tuple[str, ...]


class ListAttributes(msgspec.Struct, frozen=True, kw_only=True):
    """By name, a page at a time: give the last name as ``after``. Names with ``prefix``, from ``first`` on, and before
    ``until``; names are compared character by character, by code point."""

    prefix: str = ""
    first: str = ""
    until: str | None = None
    after: str | None = None
    limit: int = 1000


class Version(msgspec.Struct, frozen=True):
    name: str
    version: int


class Attribute(msgspec.Struct, frozen=True, kw_only=True):
    """Times in wall-clock seconds; ``user_id`` is who wrote it last."""

    name: str
    value: Any
    version: int
    updated_at: float
    user_id: str
