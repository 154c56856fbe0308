"""Whose request it is: the project that owns what is made, and the user who asks."""

from __future__ import annotations

import msgspec

__all__ = ["DEFAULT_SCOPE", "Fence", "Scope"]


class Scope(msgspec.Struct, frozen=True):
    """Every query and command runs in a scope; things of other projects are not found."""

    project_id: str
    user_id: str


DEFAULT_SCOPE = Scope(project_id="default", user_id="default")
"""The one project and user there are until identities come."""


class Fence(msgspec.Struct, frozen=True):
    """A lease's name and the epoch its writer holds; a transaction checks it before it writes."""

    lease: str
    epoch: int
