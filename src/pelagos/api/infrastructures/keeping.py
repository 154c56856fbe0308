"""What keeps infrastructures as they are: protection, suspension, drift, orphans."""

from __future__ import annotations

from typing import Annotated

import msgspec

from pelagos.api.binding import Call, Endpoint
from pelagos.services.infrastructure.messages import OrphansRequest, Protect, SetMaintained
from pelagos.wire.drift import DriftRequest, DriftView, OrphanList, OrphanRemoval
from pelagos.wire.infrastructures import InfrastructureSummary, Protected, ProtectRequest, SuspendRequest

__all__ = ["ENDPOINTS"]

ONE = "/infrastructures/{infrastructure}"
TAG = "infrastructures"


class OrphansQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One account; none: the whole pool."""

    cloud: Annotated[str, msgspec.Meta(max_length=64)] = ""


async def protect(call: Call) -> Protected:
    request = await call.body(ProtectRequest)
    return await call.edge.commands.protect(Protect(infrastructure=call.path("infrastructure"), request=request))


async def suspend(call: Call) -> InfrastructureSummary:
    request = await call.body(SuspendRequest)
    return await call.edge.commands.set_maintained(
        SetMaintained(infrastructure=call.path("infrastructure"), maintained=False, suspend=True, reason=request.reason)
    )


async def resume(call: Call) -> InfrastructureSummary:
    return await call.edge.commands.set_maintained(
        SetMaintained(infrastructure=call.path("infrastructure"), maintained=True, resume=True)
    )


async def drift(call: Call) -> DriftView:
    return await call.edge.commands.drift(await call.body(DriftRequest))


async def orphans(call: Call) -> OrphanList:
    cloud = call.query.cloud
    return await call.edge.commands.orphans(OrphansRequest(clouds=(cloud,) if cloud else ()))


async def remove_orphans(call: Call) -> None:
    await call.edge.commands.remove_orphans(await call.body(OrphanRemoval))


ENDPOINTS = (
    Endpoint(
        method="POST",
        path=f"{ONE}/protect",
        handler=protect,
        summary="Protect instances of a node, or lift that",
        tag=TAG,
        answer=Protected,
        body=ProtectRequest,
    ),
    Endpoint(
        method="POST",
        path=f"{ONE}/suspend",
        handler=suspend,
        summary="Nothing of it is created, healed or scaled until it is resumed",
        tag=TAG,
        answer=InfrastructureSummary,
        body=SuspendRequest,
    ),
    Endpoint(
        method="POST",
        path=f"{ONE}/resume",
        handler=resume,
        summary="Its suspension ends: it is kept alive again, unless it was detached before",
        tag=TAG,
        answer=InfrastructureSummary,
    ),
    Endpoint(
        method="POST",
        path="/drift",
        handler=drift,
        summary="Where clouds differ from the records; nothing is changed, here or there",
        tag=TAG,
        answer=DriftView,
        body=DriftRequest,
    ),
    Endpoint(
        method="GET",
        path="/orphans",
        handler=orphans,
        summary="Servers that carry a token which no record knows",
        tag="servers",
        answer=OrphanList,
        query=OrphansQuery,
    ),
    Endpoint(
        method="POST",
        path="/orphans/delete",
        handler=remove_orphans,
        summary="Delete orphans: all, or none if one is none; answers before they are gone",
        tag="servers",
        status=202,
        body=OrphanRemoval,
    ),
)
