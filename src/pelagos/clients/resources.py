"""The services, one small class each. ``ref`` is always a name or an id; what can be neither raises InvalidInput."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from types import NoneType
from typing import Literal
from urllib.parse import quote

import msgspec

from pelagos.clients.connection import Connection
from pelagos.clients.streams import follow
from pelagos.model.errors import InvalidInput
from pelagos.model.world import World
from pelagos.wire.clouds import (
    CloudCheck,
    CloudCheckRequest,
    CloudChecks,
    CloudList,
    CloudServers,
    CloudServerView,
    CloudView,
    FlavorList,
    FlavorView,
    ImageList,
    ImageView,
    PoolChangeView,
    PoolReload,
)
from pelagos.wire.drift import DriftRequest, DriftView, OrphanList, OrphanRemoval, OrphanServer
from pelagos.wire.infrastructures import (
    DefinitionsRequest,
    DefinitionView,
    DiffView,
    EventView,
    ExplainView,
    GraphView,
    InfrastructureSummary,
    LogView,
    Protected,
    ProtectRequest,
    RevisionFiles,
    RevisionView,
    RunRequest,
    RunView,
    ServerView,
    StatusView,
    SuspendRequest,
)
from pelagos.wire.pages import (
    DefinitionList,
    EventPage,
    InfrastructureList,
    LogList,
    RevisionList,
    RunCancel,
    RunList,
    ServerList,
)

__all__ = ["Clouds", "Definitions", "Infrastructures", "Orphans", "Runs", "Servers", "check_reference", "events"]


def _part(text: str) -> str:
    """A path's part; a dot alone would be taken for a step."""
    quoted = quote(text, safe="")
    return quoted if quoted.strip(".") else quoted.replace(".", "%2E")


class Infrastructures:
    """What there is, and why it is so. Changes are runs, see :class:`Runs`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def list(self, name: str | None = None, *, deleted: bool = False) -> tuple[InfrastructureSummary, ...]:
        """Those of the project, or of one name. With ``deleted``, also those that are gone."""
        params = {} if name is None else {"name": name}
        if deleted:
            params["deleted"] = "true"
        return (await self._connection.get("/infrastructures", InfrastructureList, params=params)).items

    async def status(self, ref: str, *, live: bool = False) -> StatusView:
        """With ``live``, the clouds are asked first."""
        return await self._connection.get(_one(ref, "status"), StatusView, params={"live": "true"} if live else None)

    async def explain(self, ref: str, node: str | None = None) -> ExplainView:
        """Why it, or one node, is not ready."""
        return await self._connection.get(_one(ref, "explain"), ExplainView, params=_node(node))

    async def graph(self, ref: str) -> GraphView:
        """Its nodes, what they depend on, and how many instances are ready."""
        return await self._connection.get(_one(ref, "graph"), GraphView)

    async def logs(self, ref: str, node: str | None = None) -> tuple[LogView, ...]:
        """The instances' console output."""
        return (await self._connection.get(_one(ref, "logs"), LogList, params=_node(node))).items

    async def runs(self, ref: str) -> tuple[RunView, ...]:
        """Its runs, as the server orders them."""
        return (await self._connection.get(_one(ref, "runs"), RunList)).items

    async def history(self, ref: str, *, limit: int = 1000) -> tuple[RevisionView, ...]:
        """The versions of its description, newest first."""
        found = await self._connection.get(_one(ref, "history"), RevisionList, params={"limit": str(limit)})
        return found.items

    async def revision(self, ref: str, revision: str) -> RevisionFiles:
        """One version's texts: its number, the first digits of its id, ``HEAD~2`` or ``@2026-01-31``."""
        return await self._connection.get(_one(ref, f"revisions/{_part(revision)}"), RevisionFiles)

    async def diff(self, ref: str, old: str = "HEAD~1", new: str = "HEAD") -> DiffView:
        """What changed from one version to another."""
        return await self._connection.get(_one(ref, "diff"), DiffView, params={"old": old, "new": new})

    async def attach(self, ref: str) -> InfrastructureSummary:
        """The daemon keeps it alive from now on."""
        return await self._maintained(ref, "attach")

    async def detach(self, ref: str) -> InfrastructureSummary:
        """The daemon leaves it alone from now on; no error if it does already."""
        return await self._connection.request(
            "POST", _one(ref, "detach"), InfrastructureSummary, params={"repeatable": "true"}, repeatable=True
        )

    async def suspend(self, ref: str, reason: str = "") -> InfrastructureSummary:
        """Nothing of it is created, healed or scaled until it is resumed."""
        body = SuspendRequest(reason=reason)
        path = _one(ref, "suspend")
        return await self._connection.request("POST", path, InfrastructureSummary, body=body, repeatable=True)

    async def resume(self, ref: str) -> InfrastructureSummary:
        """Its suspension ends: it is kept alive again, unless it was detached before."""
        return await self._maintained(ref, "resume")

    async def protect(self, ref: str, request: ProtectRequest) -> Protected:
        """Protect instances of a node, or lift that."""
        return await self._connection.request("POST", _one(ref, "protect"), Protected, body=request, repeatable=True)

    async def drift(self, request: DriftRequest) -> DriftView:
        """Where clouds differ from the records; nothing is changed."""
        if request.infrastructure:
            check_reference(request.infrastructure)
        return await self._connection.request("POST", "/drift", DriftView, body=request, repeatable=True)

    async def _maintained(self, ref: str, verb: Literal["attach", "resume"]) -> InfrastructureSummary:
        return await self._connection.request("POST", _one(ref, verb), InfrastructureSummary, repeatable=True)


class Runs:
    """Requests to change an infrastructure."""

    def __init__(self, connection: Connection, world: World) -> None:
        self._connection = connection
        self._world = world

    async def start(self, request: RunRequest) -> RunView:
        """Start a run. It gets a request id if it has none, so that a lost answer makes no second run."""
        if request.infrastructure or request.kind != "up":
            check_reference(request.infrastructure)
        if not request.request_id:
            request = msgspec.structs.replace(request, request_id=self._world.new_id())
        return await self._connection.request("POST", "/runs", RunView, body=request, repeatable=True)

    async def get(self, id: str) -> RunView:
        return await self._connection.get(f"/runs/{_part(id)}", RunView)

    async def cancel(self, id: str, *, keep: bool = False) -> RunView:
        """Stop it and roll back what it made, or keep that. Answers before that is done: follow the run."""
        path = f"/runs/{_part(id)}/cancel"
        return await self._connection.request("POST", path, RunView, body=RunCancel(keep=keep), repeatable=True)

    async def follow(self, id: str, *, after: int = 0) -> AsyncGenerator[EventView, None]:
        """Its events after a position as they happen; ends after the last one, when the run is final."""
        async with aclosing(follow(self._connection, f"/runs/{_part(id)}/events", after=after)) as stream:
            async for event in stream:
                yield event


class Definitions:
    """Node definitions that descriptions of the project may use."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def list(self) -> tuple[DefinitionView, ...]:
        return (await self._connection.get("/definitions", DefinitionList)).items

    async def import_(self, request: DefinitionsRequest) -> DefinitionList:
        """All of the bundle's, or none if one has a mistake."""
        return await self._connection.request("POST", "/definitions", DefinitionList, body=request, repeatable=True)

    async def get(self, type: str) -> DefinitionView:
        return await self._connection.get(f"/definitions/{_part(type)}", DefinitionView)

    async def delete(self, type: str) -> None:
        await self._connection.request("DELETE", f"/definitions/{_part(type)}", NoneType)


class Clouds:
    """The clouds of the pool. What a cloud itself says is asked for once: while it is away, to ask again is in vain."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def list(self) -> tuple[CloudView, ...]:
        """All of them, and how they are. Asks none of them."""
        return (await self._connection.get("/clouds", CloudList)).items

    async def get(self, cloud: str) -> CloudView:
        """One, with what its driver can do."""
        return await self._connection.get(_cloud(cloud), CloudView)

    async def check(self, cloud: str = "") -> tuple[CloudCheck, ...]:
        """Ask one, or all of them, for an answer now."""
        body = CloudCheckRequest(cloud=cloud)
        answer = await self._connection.request("POST", "/pool/check", CloudChecks, body=body, repeatable=True)
        return answer.items

    async def images(self, cloud: str) -> tuple[ImageView, ...]:
        """Its images, by name."""
        return (await self._connection.request("GET", _cloud(cloud, "/images"), ImageList)).items

    async def flavors(self, cloud: str) -> tuple[FlavorView, ...]:
        """Its sizes of servers, the smallest first."""
        return (await self._connection.request("GET", _cloud(cloud, "/flavors"), FlavorList)).items

    async def servers(self, cloud: str, *, all: bool = False) -> tuple[CloudServerView, ...]:
        """The servers it shows now; with ``all`` also those that Pelagos did not make."""
        params = {"all": "true"} if all else None
        return (await self._connection.request("GET", _cloud(cloud, "/servers"), CloudServers, params=params)).items

    async def reload(self, cloud: str = "") -> PoolChangeView:
        """Have the daemon read the configuration of the pool anew; ``cloud`` is opened anew in any case."""
        body = PoolReload(cloud=cloud)
        return await self._connection.request("POST", "/pool/reload", PoolChangeView, body=body, repeatable=True)


class Servers:
    """Servers of all clouds."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def list(self) -> tuple[ServerView, ...]:
        return (await self._connection.get("/servers", ServerList)).items

    async def get(self, id: str) -> ServerView:
        return await self._connection.get(f"/servers/{_part(id)}", ServerView)


class Orphans:
    """Servers of all clouds that carry a token which no record knows."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def list(self, cloud: str = "") -> OrphanList:
        """Those of one account, or of the whole pool; and which clouds could not be looked at."""
        return await self._connection.get("/orphans", OrphanList, params={"cloud": cloud} if cloud else None)

    async def delete(self, servers: Sequence[OrphanServer]) -> None:
        """Have them deleted: all, or none if one is no orphan. Answers before they are gone."""
        body = OrphanRemoval(servers=tuple(servers))
        await self._connection.request("POST", "/orphans/delete", NoneType, body=body)


async def events(
    connection: Connection, infrastructure: str | None, *, after: int, follow_on: bool
) -> AsyncGenerator[EventView, None]:
    """Events after a position: those there are, or with ``follow_on`` also those to come, without end."""
    path = "/events" if infrastructure is None else _one(infrastructure, "events")
    if follow_on:
        async with aclosing(follow(connection, path, after=after)) as stream:
            async for event in stream:
                yield event
        return
    while True:
        page = await connection.get(path, EventPage, params={"after": str(after)})
        for event in page.items:
            yield event
        if page.next <= after:
            return
        after = page.next


def check_reference(ref: str) -> None:
    """Raises InvalidInput, before any request, for what can be no infrastructure's name or id."""
    if not ref or "/" in ref:
        raise InvalidInput(
            f"{ref!r} is not an infrastructure's name or id",
            advice="An infrastructure's name or id is not empty and has no '/'; `pelagos list` shows those there are.",
        )


def _cloud(name: str, what: str = "") -> str:
    if not name or "/" in name:
        raise InvalidInput(f"{name!r} is not a cloud's name", advice="`pelagos cloud list` shows those there are.")
    return f"/clouds/{_part(name)}{what}"


def _one(ref: str, what: str) -> str:
    check_reference(ref)
    return f"/infrastructures/{_part(ref)}/{what}"


def _node(node: str | None) -> dict[str, str] | None:
    return None if node is None else {"node": node}
