"""The ``local`` cloud: servers as namespaces of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pelagos.clouds.local.options import LocalAccount, LocalResource
from pelagos.clouds.local.plugin import DRIVER

if TYPE_CHECKING:
    from pelagos.clouds.local.driver import LocalDriver
    from pelagos.clouds.local.facts import Fact, LocalFacts, probe

__all__ = ["DRIVER", "Fact", "LocalAccount", "LocalDriver", "LocalFacts", "LocalResource", "probe"]


def __getattr__(name: str) -> Any:
    """Load what is rarely needed when it is asked for."""
    if name in ("Fact", "LocalFacts", "probe"):
        from pelagos.clouds.local import facts

        return getattr(facts, name)
    if name == "LocalDriver":
        from pelagos.clouds.local.driver import LocalDriver

        return LocalDriver
    raise AttributeError(name)
