"""How often a program of ours looks for cycles that nobody holds any more.

What Pelagos makes is freed by reference counts; cycles are few. With the interpreter's own thresholds, thought for
small programs, a full collection follows whenever the living have grown by a quarter, and each walks over all of them:
while ten thousand nodes are taken in, a fifth of the time, and the more nodes there are, the more of it for each. So
the young are looked at every twenty thousand objects and the old every two million, which bounds what cycles hold.
A program's affair, not a library's: only what starts an interpreter for us calls this.
"""

from __future__ import annotations

import gc

__all__ = ["collect_seldom"]

_YOUNG = 20_000
_OLDER = 10


def collect_seldom() -> None:
    """Set the thresholds, for this interpreter; a collector that was turned off stays so."""
    gc.set_threshold(_YOUNG, _OLDER, _OLDER)
