"""The versions of an infrastructure's description."""

from __future__ import annotations

from typing import Annotated

import msgspec

from pelagos.api.binding import Call, Endpoint
from pelagos.wire.infrastructures import DiffView, RevisionFiles
from pelagos.wire.pages import RevisionList

__all__ = ["ENDPOINTS"]

ONE = "/infrastructures/{infrastructure}"
TAG = "infrastructures"


class HistoryQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1000


class DiffQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Revisions, each as a number, the first digits of an id, ``HEAD~2`` or ``@2026-01-31``."""

    old: str = "HEAD~1"
    new: str = "HEAD"


async def history(call: Call) -> RevisionList:
    reference, limit = call.path("infrastructure"), call.query.limit
    found = await call.read(
        lambda connection: call.edge.queries.history(connection, call.scope, reference, limit=limit)
    )
    return RevisionList(items=tuple(found))


async def revision(call: Call) -> RevisionFiles:
    reference, text = call.path("infrastructure"), call.path("revision")
    return await call.read(lambda connection: call.edge.queries.revision(connection, call.scope, reference, text))


async def diff(call: Call) -> DiffView:
    reference, old, new = call.path("infrastructure"), call.query.old, call.query.new
    return await call.read(lambda connection: call.edge.queries.diff(connection, call.scope, reference, old, new))


ENDPOINTS = (
    Endpoint(
        method="GET",
        path=f"{ONE}/history",
        handler=history,
        summary="The versions of its description, newest first",
        tag=TAG,
        answer=RevisionList,
        query=HistoryQuery,
    ),
    Endpoint(
        method="GET",
        path=f"{ONE}/revisions/{{revision}}",
        handler=revision,
        summary="The texts of one version, without secrets",
        tag=TAG,
        answer=RevisionFiles,
    ),
    Endpoint(
        method="GET",
        path=f"{ONE}/diff",
        handler=diff,
        summary="What changed from one version to another",
        tag=TAG,
        answer=DiffView,
        query=DiffQuery,
    ),
)
