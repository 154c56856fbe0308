"""The classes of the processes that a container can start, imported here, so that ``client(HelloService)`` has them.

They come from the same files as the container's: the directories of its app files are added to the end of ``sys.path``,
where they can hide nothing. A module that cannot be imported here (it needs what is installed elsewhere) is told, and
its services are called by name.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pelagos.container.control.port import ContainerInfo

__all__ = ["import_classes"]


def import_classes(info: ContainerInfo, tell: Callable[[str], None]) -> dict[str, type]:
    """By startable name."""
    for file in info.files:
        directory = str(Path(file).parent)
        if directory not in sys.path:
            sys.path.append(directory)
    found: dict[str, type] = {}
    for name, place in info.classes.items():
        module, _, attribute = place.partition(":")
        try:
            value: object = importlib.import_module(module)
            for part in attribute.split("."):
                value = getattr(value, part)
        except Exception as error:  # noqa: BLE001 - somebody else's module may do anything when it is imported
            tell(f"{place} cannot be imported here: {type(error).__name__}: {error}")
            continue
        if isinstance(value, type):
            found[name] = value
    return found
