"""Node definitions that descriptions of the project may use."""

from __future__ import annotations

from sqlalchemy import Connection

from pelagos.api.binding import Call, Endpoint, Reply
from pelagos.api.infrastructures.bodies import YAML, Bundle, read_bundle_body
from pelagos.model.errors import NotFound
from pelagos.services.infrastructure.messages import ImportDefinitions
from pelagos.wire.infrastructures import DefinitionView
from pelagos.wire.pages import DefinitionList

__all__ = ["ENDPOINTS"]


async def list_definitions(call: Call) -> DefinitionList:
    return DefinitionList(items=tuple(await _definitions(call)))


async def import_definitions(call: Call) -> DefinitionList:
    bundle = await read_bundle_body(call)
    request = ImportDefinitions(sources=bundle.sources, entries=bundle.entries, map_clouds=bundle.map_clouds)
    return await call.edge.commands.import_definitions(request)


async def get(call: Call) -> DefinitionView:
    wanted = call.path("type")
    for view in await _definitions(call):
        if view.type == wanted:
            return view
    raise NotFound(f"there is no node definition of type {wanted!r}", advice="GET /definitions lists what there is.")


async def delete(call: Call) -> Reply:
    await call.edge.delete_definition(call.path("type"))
    return Reply(status=204)


async def _definitions(call: Call) -> list[DefinitionView]:
    def read(connection: Connection) -> list[DefinitionView]:
        return call.edge.queries.definitions(connection, call.scope)

    return await call.read(read)


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/definitions",
        handler=list_definitions,
        summary="Stored node definitions",
        tag="definitions",
        answer=DefinitionList,
    ),
    Endpoint(
        method="POST",
        path="/definitions",
        handler=import_definitions,
        summary="Import node definitions: all of the bundle's, or none if one has a mistake",
        tag="definitions",
        answer=DefinitionList,
        body=Bundle,
        other_body=YAML,
    ),
    Endpoint(
        method="GET",
        path="/definitions/{type:path}",
        handler=get,
        summary="A node definition",
        tag="definitions",
        answer=DefinitionView,
    ),
    Endpoint(
        method="DELETE",
        path="/definitions/{type:path}",
        handler=delete,
        summary="Forget a node definition; infrastructures built from it keep their copy",
        tag="definitions",
        status=204,
    ),
)
