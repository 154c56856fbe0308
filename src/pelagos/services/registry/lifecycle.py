"""The life of a resource as a table: eight states, and which may follow which.

The ancestor had the states and let anything follow anything (reference section 9.8). Here a resource is made (NEW),
perhaps worked out (DEVELOPED), put in place (COMMISSIONED), used (ACTIVE) and set aside (INACTIVE), taken out of place
(DECOMMISSIONED) and done with (RETIRED). UPDATE is the time between versions: it is entered from, and left to, any
state in which there is something to change. What is taken out of place may be put in place again; what is retired stays
so, and is what retention may remove. NEW may become ACTIVE at once, since most software is in place when it is there.

The table is data: a test walks it, and nothing else decides.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

from pelagos.model.errors import Conflict

__all__ = ["FOLLOWING", "IllegalResourceTransition", "ResourceState", "check_transition"]


class ResourceState(enum.StrEnum):
    NEW = "new"
    ACTIVE = "active"
    INACTIVE = "inactive"
    COMMISSIONED = "commissioned"
    DECOMMISSIONED = "decommissioned"
    RETIRED = "retired"
    DEVELOPED = "developed"
    UPDATE = "update"


_S = ResourceState

FOLLOWING: Mapping[ResourceState, frozenset[ResourceState]] = MappingProxyType(
    {
        _S.NEW: frozenset({_S.DEVELOPED, _S.COMMISSIONED, _S.ACTIVE, _S.RETIRED}),
        _S.DEVELOPED: frozenset({_S.COMMISSIONED, _S.UPDATE, _S.RETIRED}),
        _S.COMMISSIONED: frozenset({_S.ACTIVE, _S.INACTIVE, _S.UPDATE, _S.DECOMMISSIONED}),
        _S.ACTIVE: frozenset({_S.INACTIVE, _S.UPDATE, _S.DECOMMISSIONED}),
        _S.INACTIVE: frozenset({_S.ACTIVE, _S.UPDATE, _S.DECOMMISSIONED}),
        _S.UPDATE: frozenset({_S.DEVELOPED, _S.COMMISSIONED, _S.ACTIVE, _S.INACTIVE}),
        _S.DECOMMISSIONED: frozenset({_S.COMMISSIONED, _S.RETIRED}),
        _S.RETIRED: frozenset(),
    }
)
"""State -> what may follow it."""


class IllegalResourceTransition(Conflict):
    """The state may not follow the one the resource is in; nothing has changed."""

    code = "illegal_resource_transition"


def check_transition(name: str, before: ResourceState, after: ResourceState) -> None:
    """Raises IllegalResourceTransition, whose details name what is possible."""
    possible = FOLLOWING[before]
    if after not in possible:
        names = sorted(state.value for state in possible)
        raise IllegalResourceTransition(
            f"resource {name} is {before.value}; it cannot become {after.value}",
            advice=f"It can become {', '.join(names)}." if names else "Nothing follows that state.",
            details={"state": before.value, "wanted": after.value, "possible": names},
        )
