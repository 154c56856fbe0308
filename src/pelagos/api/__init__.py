"""The HTTP edge. See README.md. Names are imported at first use: a command that talks to a daemon needs none of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pelagos._lazy import lazy

if TYPE_CHECKING:
    from pelagos.api.app import Application
    from pelagos.api.edge import Commands, Edge, Limits, Queries, ServerQueries
    from pelagos.api.guard import LOOPBACK_NAMES
    from pelagos.api.tokens import new_token, token_row, write_token

_HOME = {
    "Application": "app",
    "Commands": "edge",
    "Edge": "edge",
    "LOOPBACK_NAMES": "guard",
    "Limits": "edge",
    "Queries": "edge",
    "ServerQueries": "edge",
    "new_token": "tokens",
    "token_row": "tokens",
    "write_token": "tokens",
}

__all__ = [
    "LOOPBACK_NAMES",
    "Application",
    "Commands",
    "Edge",
    "Limits",
    "Queries",
    "ServerQueries",
    "new_token",
    "token_row",
    "write_token",
]

__getattr__ = lazy(__name__, _HOME)
