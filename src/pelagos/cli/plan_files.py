"""Files of saved plans: written for the owner alone, since they hold the description as it is; read with a check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pelagos.cli.outputs import write_output
from pelagos.model.errors import InvalidInput

if TYPE_CHECKING:
    from pelagos.wire.infrastructures import SavedPlan

__all__ = ["load_plan", "write_plan"]

_LARGEST = 256 << 20


def write_plan(plan: SavedPlan, path: Path) -> None:
    """Write it, in place of what is there, all or nothing. Raises OutputFailed."""
    from pelagos.wire.plans import written

    write_output(path, written(plan), mode=0o600)


def load_plan(path: Path) -> SavedPlan:
    """Raises InvalidInput for a file that cannot be read, or is no plan as it was written."""
    from pelagos.wire.plans import read_plan

    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > _LARGEST:
        raise InvalidInput(f"{path} is larger than any plan")
    return read_plan(content, str(path))
