"""Clients of the HTTP API. See README.md. Names are imported at first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pelagos.clients.client import Client, connect
    from pelagos.clients.inprocess import InProcessTransport

_HOME = {"Client": "client", "InProcessTransport": "inprocess", "connect": "client"}

__all__ = ["Client", "InProcessTransport", "connect"]


def __getattr__(name: str) -> Any:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value
