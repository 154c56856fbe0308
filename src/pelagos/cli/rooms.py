"""Names of packages whose logs can be turned up: the rooms of Pelagos and what the apps' processes come from.

A mistyped name would be set without complaint by any logging library, and nothing would ever be logged by it.
"""

from __future__ import annotations

import difflib
import pkgutil
from typing import TYPE_CHECKING

import pelagos
from pelagos.cli.texts import join
from pelagos.model.errors import NotFound

if TYPE_CHECKING:
    from pelagos.cli.system import System

__all__ = ["checked_room", "rooms"]


def rooms() -> list[str]:
    """``pelagos.api`` and so on, by name; none is imported."""
    return sorted(f"pelagos.{module.name}" for module in pkgutil.iter_modules(pelagos.__path__))


async def checked_room(system: System, name: str) -> str:
    """The full name of a package; ``exchange`` is short for ``pelagos.exchange``. Modules of a known package are taken
    as they are. Raises NotFound with names that are close."""
    known = [*rooms(), "pelagos"]
    for node in await system.nodes():
        known.extend(place.partition(":")[0] for place in node.startable.values())
    for process in (await system.processes()).processes:
        known.append(process.kind.partition(":")[0])
    known = sorted({part for module in known for part in _parents(module)})
    for candidate in (name, f"pelagos.{name}"):
        if any(candidate == one or (candidate.startswith(f"{one}.") and one != "pelagos") for one in known):
            return candidate
    short = [one.removeprefix("pelagos.") for one in known]
    near = difflib.get_close_matches(name, [*known, *short], n=3)
    raise NotFound(
        f"there is no package {name!r} whose logs could be set",
        advice=f"Did you mean {join(near, 'or')}?" if near else f"There are: {', '.join(short)}.",
    )


def _parents(module: str) -> list[str]:
    words = module.split(".")
    return [".".join(words[: count + 1]) for count in range(len(words))]
