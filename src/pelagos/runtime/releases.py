"""The apps that come with Pelagos, as plans: what a command runs embedded, and what the simulation runs.

The files in ``src/pelagos/apps`` are the one source; they are read once a program. The way not chosen, the same apps
written once more in Python to save reading three small files, gives two answers to what Pelagos consists of.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from pelagos.container.apps import find_apps, resolve

if TYPE_CHECKING:
    from pelagos.container.apps import StartPlan

__all__ = ["builtin_plan"]


@functools.cache
def builtin_plan(*names: str) -> StartPlan:
    """The plan of apps or a release that come with Pelagos, whatever lies in the working directory."""
    return resolve(find_apps(names, here=False))
