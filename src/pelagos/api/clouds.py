"""The clouds of the pool: how they are, what they offer, and reading their configuration anew."""

from __future__ import annotations

import msgspec

from pelagos.api.binding import Call, Endpoint
from pelagos.services.compute.messages import CloudRef, CloudServersRequest
from pelagos.wire.clouds import (
    CloudCheckRequest,
    CloudChecks,
    CloudList,
    CloudServers,
    CloudView,
    FlavorList,
    ImageList,
    PoolChangeView,
    PoolReload,
)

__all__ = ["ENDPOINTS"]

ONE = "/clouds/{cloud}"
TAG = "clouds"


class ServersQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """With ``all``, also servers that Pelagos did not make."""

    all: bool = False


async def list_clouds(call: Call) -> CloudList:
    return await call.edge.clouds.list_clouds()


async def get(call: Call) -> CloudView:
    return await call.edge.clouds.get_cloud(CloudRef(cloud=call.path("cloud")))


async def check(call: Call) -> CloudChecks:
    return await call.edge.clouds.check_clouds(await call.body(CloudCheckRequest))


async def images(call: Call) -> ImageList:
    return await call.edge.clouds.list_images(CloudRef(cloud=call.path("cloud")))


async def flavors(call: Call) -> FlavorList:
    return await call.edge.clouds.list_flavors(CloudRef(cloud=call.path("cloud")))


async def servers(call: Call) -> CloudServers:
    request = CloudServersRequest(cloud=call.path("cloud"), foreign=call.query.all)
    return await call.edge.clouds.list_cloud_servers(request)


async def reload(call: Call) -> PoolChangeView:
    return await call.edge.clouds.reload_pool(await call.body(PoolReload))


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/clouds",
        handler=list_clouds,
        summary="The clouds of the pool, and how they are",
        tag=TAG,
        answer=CloudList,
    ),
    Endpoint(
        method="GET",
        path=ONE,
        handler=get,
        summary="A cloud, with what its driver can do",
        tag=TAG,
        answer=CloudView,
    ),
    Endpoint(
        method="GET",
        path=f"{ONE}/images",
        handler=images,
        summary="Images that a cloud has now",
        tag=TAG,
        answer=ImageList,
    ),
    Endpoint(
        method="GET",
        path=f"{ONE}/flavors",
        handler=flavors,
        summary="Sizes of servers that a cloud has now",
        tag=TAG,
        answer=FlavorList,
    ),
    Endpoint(
        method="GET",
        path=f"{ONE}/servers",
        handler=servers,
        summary="Servers that a cloud shows now",
        tag=TAG,
        answer=CloudServers,
        query=ServersQuery,
    ),
    Endpoint(
        method="POST",
        path="/pool/check",
        handler=check,
        summary="Ask a cloud, or all of them, for an answer now",
        tag=TAG,
        answer=CloudChecks,
        body=CloudCheckRequest,
    ),
    Endpoint(
        method="POST",
        path="/pool/reload",
        handler=reload,
        summary="Read the configuration of the pool anew; one with a mistake is refused, and the old one stays",
        tag=TAG,
        answer=PoolChangeView,
        body=PoolReload,
    ),
)
