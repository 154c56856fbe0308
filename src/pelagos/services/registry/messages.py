"""What the registry is asked and answers."""

from __future__ import annotations

from typing import Any

import msgspec

from pelagos.services.registry.lifecycle import ResourceState

__all__ = [
    "AttributeFilter",
    "FindResources",
    "NamePattern",
    "Ownership",
    "Register",
    "Resource",
    "ResourcePage",
    "ResourceRef",
    "SetState",
    "UpdateResource",
]


class Register(msgspec.Struct, frozen=True, kw_only=True):
    """Make a resource, in state NEW, owned by who asks. ``attributes``: what JSON can say, at most 200."""

    type: str
    name: str
    description: str = ""
    attributes: dict[str, Any] = {}


class ResourceRef(msgspec.Struct, frozen=True):
    id: str


class Ownership(msgspec.Struct, frozen=True):
    """Are all of these resources the user's? ``type`` empty: of any type."""

    project_id: str
    user_id: str
    ids: tuple[str, ...]
    type: str = ""


class UpdateResource(msgspec.Struct, frozen=True, kw_only=True):
    """Changes what is given. ``version`` must be the resource's: who decided on an older state decides anew.

    ``attributes`` are set one by one; those in ``remove`` go."""

    id: str
    version: int
    name: str | None = None
    description: str | None = None
    attributes: dict[str, Any] = {}
    remove: tuple[str, ...] = ()


class SetState(msgspec.Struct, frozen=True, kw_only=True):
    """``version`` as for an update; None: whatever it is."""

    id: str
    state: ResourceState
    version: int | None = None


class AttributeFilter(msgspec.Struct, frozen=True, kw_only=True):
    """All that is given must hold. ``equals`` any JSON value; ``prefix`` of text; ``least`` and ``most`` (inclusive)
    are both numbers or both texts. With none of them the attribute is merely there."""

    name: str
    equals: Any | msgspec.UnsetType = msgspec.UNSET
    prefix: str | None = None
    least: float | str | None = None
    most: float | str | None = None


class FindResources(msgspec.Struct, frozen=True, kw_only=True):
    """A page of what fits everything given, by id: give the answer's ``next`` as ``after``.

    ``name`` may hold ``*`` for any text and ``?`` for one character."""

    type: str | None = None
    states: tuple[ResourceState, ...] = ()
    name: str | None = None
    owner: str | None = None
    attributes: tuple[AttributeFilter, ...] = ()
    after: str = ""
    limit: int = 200


class NamePattern(msgspec.Struct, frozen=True):
    """``*`` is any text, ``?`` one character."""

    name: str = "*"


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """Times in wall-clock seconds."""

    id: str
    type: str
    name: str
    description: str
    state: ResourceState
    owner: str
    version: int
    created_at: float
    updated_at: float
    attributes: dict[str, Any] = {}


class ResourcePage(msgspec.Struct, frozen=True):
    resources: tuple[Resource, ...]
    next: str | None = None
    """Where to go on; None: that was all."""
