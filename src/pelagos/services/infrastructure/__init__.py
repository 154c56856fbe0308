"""Infrastructures: described in YAML, built, kept alive, scaled, taken down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pelagos.services.infrastructure.service import InfrastructureService
    from pelagos.services.infrastructure.settings import MaintainerSettings

__all__ = ["InfrastructureService", "MaintainerSettings"]


def __getattr__(name: str) -> Any:
    # The compiler and the templates import from this package; they must not load the service with it.
    if name == "InfrastructureService":
        from pelagos.services.infrastructure.service import InfrastructureService

        return InfrastructureService
    if name == "MaintainerSettings":
        from pelagos.services.infrastructure.settings import MaintainerSettings

        return MaintainerSettings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
