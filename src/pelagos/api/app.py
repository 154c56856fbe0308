"""The application: all endpoints behind one router, shown through its faces."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from starlette.types import ASGIApp

from pelagos.api import clouds, events, infrastructures, system
from pelagos.api.binding import Call, Endpoint, Reply, build_router
from pelagos.api.edge import Edge
from pelagos.api.faces import face
from pelagos.api.guard import LOOPBACK_NAMES, guard
from pelagos.api.openapi import openapi_document

__all__ = ["Application"]


class Application:
    """``trusted`` is for this process and the 0600 socket; ``guarded`` makes the face for TCP."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self._document: bytes | None = None
        self.endpoints: tuple[Endpoint, ...] = (
            *system.ENDPOINTS,
            *infrastructures.ENDPOINTS,
            *clouds.ENDPOINTS,
            *events.ENDPOINTS,
            Endpoint(
                method="GET",
                path="/openapi.json",
                handler=self._openapi,
                summary="This document",
                tag="system",
                answer=dict[str, Any],
            ),
        )
        self._router = build_router(edge, self.endpoints)
        self.trusted: ASGIApp = face(edge, self._router)

    def guarded(self, *, hosts: Iterable[str] = LOOPBACK_NAMES, origins: Iterable[str] = ()) -> ASGIApp:
        """The face that wants a known Host, no foreign Origin, and a token."""
        return face(self.edge, self._router, guard(self.edge, hosts=hosts, origins=origins))

    async def _openapi(self, call: Call) -> Reply:
        if self._document is None:
            document = openapi_document(self.endpoints, version=self.edge.version)
            self._document = msgspec.json.encode(document)
        return Reply(self._document)
