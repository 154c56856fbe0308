"""How a value is taken apart: into named parts that diff and merge compare one by one.

A Struct has its fields, a dict its keys, a sequence of Structs that declare an identity (``__identity__ = "name"``) the
identities of its items; a link has what it leads to. Everything else is whole. Paths say where:
``nodes[name="web"].scaling``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeGuard

import msgspec

from pelagos.repository.encoding import Link, Undecided, fingerprint

__all__ = ["MISSING", "Load", "Missing", "at_field", "at_index", "at_key", "by_identity", "fields_of", "same"]

Load = Callable[[Link[Any]], Any]
"""Gives the value that a link leads to."""


class Missing(msgspec.Struct, frozen=True):
    """The type of :data:`MISSING`."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING = Missing()
"""There is nothing at that place."""


def same(a: Any, b: Any) -> bool:
    """Whether two values are the same in value and kind: 1 is not 1.0 and not True."""
    if a is b:
        return True
    if isinstance(a, Missing | Undecided) or isinstance(b, Missing | Undecided):
        return False
    if type(a) is not type(b) and (isinstance(a, msgspec.Struct) or isinstance(b, msgspec.Struct)):
        return False
    # By bytes, since a tuple and a list, or a text and an enumeration's member, are stored alike.
    return fingerprint(a) == fingerprint(b)


def fields_of(value: msgspec.Struct) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__struct_fields__}


def is_sequence(value: Any) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    return isinstance(value, list | tuple)


def by_identity(items: Any) -> dict[Any, Any] | None:
    """The items of a sequence by their identities, in order; None if it has no identities that tell its items apart."""
    if not is_sequence(items):
        return None
    found: dict[Any, Any] = {}
    for item in items:
        name = identity_field(item)
        if name is None:
            return None
        identity = getattr(item, name)
        if not isinstance(identity, str | int) or isinstance(identity, bool) or identity in found:
            return None
        found[identity] = item
    return found


def identity_field(item: Any) -> str | None:
    return getattr(type(item), "__identity__", None) if isinstance(item, msgspec.Struct) else None


def at_field(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def at_key(path: str, key: Any) -> str:
    return f"{path}[{json.dumps(key)}]"


def at_identity(path: str, field: str, identity: Any) -> str:
    return f"{path}[{field}={json.dumps(identity)}]"


def at_index(path: str, index: int) -> str:
    return f"{path}[#{index}]"
