"""What goes wrong with a launch as a whole."""

from __future__ import annotations

from pelagos.model.errors import PelagosError

__all__ = ["LaunchFailed"]


class LaunchFailed(PelagosError):
    """Some parts of a launch did not become ready, or did not end; ``details`` names them with their errors."""

    code = "launch_failed"
