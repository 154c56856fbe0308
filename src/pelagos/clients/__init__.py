"""Clients of the HTTP API. See README.md. Names are imported at first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pelagos._lazy import lazy

if TYPE_CHECKING:
    from pelagos.clients.client import Client, connect
    from pelagos.clients.inprocess import InProcessTransport

_HOME = {"Client": "client", "InProcessTransport": "inprocess", "connect": "client"}

__all__ = ["Client", "InProcessTransport", "connect"]

__getattr__ = lazy(__name__, _HOME)
