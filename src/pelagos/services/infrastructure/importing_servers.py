"""Import: a server that is there already becomes an instance of a node.

Which server is meant is found by a look at its cloud before the run is accepted, so that a wrong name is refused at
once. A server of somebody else's gets a token; an orphan keeps its own. From then on it is an instance like any other,
but for its beginning: it is never made, and if it cannot be adopted nothing is destroyed and the node's number is as it
was.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from pelagos.clouds.values import CloudServer
from pelagos.model.errors import Ambiguous, Conflict, InvalidInput, NotFound, from_payload
from pelagos.model.states import InstanceState, ServerState
from pelagos.operations import Survey
from pelagos.services.compute.messages import AccountSurvey, SurveyAccounts
from pelagos.services.compute.queries import living_server, tokens_on_record
from pelagos.services.infrastructure import records
from pelagos.services.infrastructure.drift import CloudSurveyor
from pelagos.services.infrastructure.records import InfrastructureRow
from pelagos.services.infrastructure.values import Adopt, AdoptedServer
from pelagos.wire.infrastructures import AdoptRequest

__all__ = ["check_adoption", "find_server"]

_SHOWN = 8


async def find_server(clouds: CloudSurveyor, request: AdoptRequest) -> CloudServer:
    """The server that the request means, as its cloud shows it now.

    Raises NotFound, Ambiguous, Conflict (it is being deleted), and the error of a cloud that cannot be looked at."""
    look = AccountSurvey(account=request.cloud, known=(request.server,))
    (survey,) = (await clouds.survey(SurveyAccounts(items=(look,), foreign=True))).items
    if survey.error is not None:
        raise from_payload(survey.error)
    everything = (*survey.servers, *(survey.foreign or ()), *survey.found)
    found = [s for s in everything if s.provider_id == request.server]
    found = found or [s for s in everything if s.name == request.server]
    if not found:
        raise NotFound(f"the cloud {request.cloud!r} has no server {request.server!r}", advice=_there_are(survey))
    if len(found) > 1:
        ids = [server.provider_id for server in found]
        raise Ambiguous(
            f"{len(ids)} servers in {request.cloud!r} are named {request.server!r}: {', '.join(ids)}",
            advice="Give the id of one of them.",
            details={"ids": ids},
        )
    if found[0].state in (ServerState.DELETING, ServerState.DELETED):
        raise Conflict(f"{request.server!r} in {request.cloud!r} is being deleted")
    return found[0]


def _there_are(survey: Survey) -> str:
    foreign: Sequence[CloudServer] = survey.foreign or ()
    if not foreign:
        return "Its own console shows its servers; give the id of one."
    shown = ", ".join(f"{server.provider_id} ({server.name})" for server in foreign[:_SHOWN])
    return f"Servers there that are not on record: {shown}{', …' if len(foreign) > _SHOWN else ''}."


def check_adoption(
    connection: Connection,
    row: InfrastructureRow,
    request: AdoptRequest,
    server: CloudServer,
    *,
    instance_id: str,
    server_id: str,
) -> Adopt | None:
    """What the run has to do; None: the server is an instance of that node already.

    Raises NotFound (node), Conflict (it belongs elsewhere), InvalidInput (the node has no room)."""
    node = next((n for n in row.compiled.nodes if n.name == request.node and not n.retired), None)
    if node is None:
        names = ", ".join(n.name for n in row.compiled.nodes if not n.retired)
        raise NotFound(f"infrastructure {row.name!r} has no node {request.node!r}", advice=f"Its nodes are: {names}.")
    living = records.living_instances(connection, row.id)
    if any(_is_here(instance, request, server) for instance in living):
        return None
    owner = living_server(connection, request.cloud, server.provider_id)
    if owner is not None:
        mine = next((i for i in living if i.server_id == owner), None)
        if mine is not None and mine.node == request.node:
            return None
        where = f"an instance of node {mine.node!r}" if mine is not None else f"server {owner}"
        raise Conflict(
            f"{server.name} in {request.cloud} is on record already, as {where}",
            advice="A server belongs to one node of one infrastructure.",
        )
    if server.token and tokens_on_record(connection, [server.token]):
        raise Conflict(f"{server.name} in {request.cloud} is on its way onto, or off, a record of this store")
    target = next(
        (n.target for name, n in records.node_rows(connection, row.id).items() if name == node.name), node.min
    )
    lost = (InstanceState.DESTROYING, InstanceState.FAILED)
    here = sum(i.node == node.name and i.state not in lost for i in living)
    grows = here >= target
    if grows and target + 1 > node.max:
        raise InvalidInput(
            f"node {node.name!r} may have {node.max} instances, and has them",
            advice="Raise `scaling: {max: …}` in the description, or scale the node down first.",
        )
    return Adopt(
        node=node.name,
        account=request.cloud,
        instance_id=instance_id,
        server_id=server_id,
        server=AdoptedServer(
            provider_id=server.provider_id,
            token=server.token,
            name=server.name,
            flavor=server.flavor,
            image=server.image,
        ),
        protected=request.protected,
        grows=grows,
    )


def _is_here(instance: records.InstanceRow, request: AdoptRequest, server: CloudServer) -> bool:
    adoption = instance.adoption
    return (
        adoption is not None
        and instance.node == request.node
        and instance.account == request.cloud
        and adoption.provider_id == server.provider_id
        and instance.state is not InstanceState.DESTROYING
    )
