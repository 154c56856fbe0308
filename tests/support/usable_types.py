"""A pool that has clouds of some types, as the compiler of descriptions asks about one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pelagos.services.infrastructure.values import Unusable, UsableTypes

__all__ = ["only"]


def only(*types: str) -> UsableTypes:
    """Servers of these types can be made, and of no other."""

    def unusable(type_: str, section: Mapping[str, Any]) -> Unusable | None:
        return None if type_ in types else Unusable(f"the pool has no account of driver {type_!r}", f"add a {type_}")

    return unusable
