"""Stored types for tests of the repository: a site, its racks, their parts."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from pelagos.model.scope import Scope
from pelagos.repository import Link, TypeRegistry, create_repository

__all__ = ["NOBODY", "SCOPE", "TYPES", "Label", "Part", "Rack", "Site", "new_repository"]

SCOPE = Scope("p1", "u1")
NOBODY = Scope("p2", "u2")
TYPES = TypeRegistry()


@TYPES.stored("test.part")
class Part(msgspec.Struct, frozen=True):
    name: str
    size: float = 1.0
    note: str | None = None


@TYPES.stored("test.rack")
class Rack(msgspec.Struct, frozen=True):
    name: str
    parts: tuple[Link[Part], ...] = ()


class Label(msgspec.Struct, frozen=True):
    __identity__: ClassVar[str] = "key"

    key: str
    value: str = ""
    weight: int = 0


@TYPES.stored("test.site")
class Site(msgspec.Struct, frozen=True):
    name: str
    size: int = 0
    racks: dict[str, Link[Rack]] = {}
    labels: tuple[Label, ...] = ()
    tags: tuple[str, ...] = ()
    first: Link[Part] | None = None


def new_repository(connection, name="demo", *, id="r1", scope=SCOPE, at=1000.0):
    return create_repository(connection, scope, "site", name, id=id, at=at)
