"""The compute service over the exchange: scopes, ids, refresh, reads inside servers, and its life with the engine."""

from functools import partial

import pytest

from pelagos.clouds import CommandResult, ServerSpec
from pelagos.container import Container, ContainerConfig
from pelagos.model import DEFAULT_SCOPE, OperationState, Scope, ServerState
from pelagos.model.errors import Conflict, NotFound
from pelagos.process import Context, client, use_context
from pelagos.services.compute import (
    ComputeService,
    get_operation,
    get_server,
    list_servers,
    operations_of_infrastructure,
    operations_of_server,
    servers_by_id,
    servers_of,
)
from pelagos.services.compute.messages import (
    ConsoleRequest,
    CreateServers,
    DeleteServers,
    ExecuteRequest,
    ListenerCheck,
    PowerServers,
    RefreshAccounts,
    ServerCreate,
    ServerRef,
)
from pelagos.simulation import SimulatedWorld
from support.operations_world import ACCOUNT, Universe, until

pytestmark = pytest.mark.anyio

OTHER = Scope("other", "somebody")


@pytest.fixture
async def universe():
    async with Universe(SimulatedWorld()) as made:
        yield made


@pytest.fixture
async def one(universe):
    """An incarnation whose engine is run by the service."""
    made = await universe.incarnate(start=False)
    async with made.keeper.running():
        yield made


@pytest.fixture
async def compute(universe, one):
    async with Container(universe.world, ContainerConfig(id="c", system="test")) as container:
        await container.spawn(partial(ComputeService, one.store, one.engine))
        yield client(ComputeService, container.edge)


def order(universe, count=1, name="web", **options):
    return CreateServers(
        items=tuple(
            ServerCreate(
                request_id=f"{name}-{number}",
                server_id=universe.world.new_id(),
                account=ACCOUNT,
                spec=ServerSpec(name=f"{name}-{number}"),
                **options,
            )
            for number in range(count)
        )
    )


async def test_servers_live_and_die_by_commands(universe, one, compute):
    request = order(universe, 3, infrastructure_id="infra")
    accepted = await compute.create_servers(request)
    assert [op.server_id for op in accepted.operations] == [item.server_id for item in request.items]
    done = await one.engine.wait([op.id for op in accepted.operations], 60)
    assert {r.state for r in done.values()} == {OperationState.SUCCEEDED}
    again = await compute.create_servers(request)
    assert [op.id for op in again.operations] == [op.id for op in accepted.operations]
    assert {op.state for op in again.operations} == {OperationState.SUCCEEDED}
    found = await one.store.read(lambda c: servers_of(c, "infra"))
    assert sorted(row.name for row in found) == [item.spec.name for item in request.items]
    assert {row.state for row in found} == {ServerState.ACTIVE} and all(row.addresses for row in found)
    refs = tuple(ServerRef(request_id=f"d-{row.id}"[:64], server_id=row.id) for row in found)
    accepted = await compute.power_servers(PowerServers(verb="stop", items=refs[:1]))
    await one.engine.wait([op.id for op in accepted.operations], 60)
    deletes = tuple(ServerRef(request_id=f"x-{ref.server_id}", server_id=ref.server_id) for ref in refs)
    accepted = await compute.delete_servers(DeleteServers(items=deletes))
    await one.engine.wait([op.id for op in accepted.operations], 60)
    assert universe.cloud.servers() == []
    assert await one.store.read(lambda c: servers_of(c, "infra")) == []
    kinds = [r.kind for r in await one.store.read(lambda c: operations_of_server(c, DEFAULT_SCOPE, refs[0].server_id))]
    assert kinds == ["server.create", "server.stop", "server.delete"]
    assert len(await one.store.read(lambda c: operations_of_infrastructure(c, DEFAULT_SCOPE, "infra"))) == 7


async def test_two_projects_do_not_see_each_other(universe, one, compute):
    mine, theirs = order(universe), order(universe)
    with use_context(Context(DEFAULT_SCOPE)):
        a = (await compute.create_servers(mine)).operations[0]
    with use_context(Context(OTHER)):
        b = (await compute.create_servers(theirs)).operations[0]
    assert a.id != b.id, "the same request id in two projects is two requests"
    await one.engine.wait([a.id, b.id], 60)
    read = one.store.read
    for scope, own, foreign in ((DEFAULT_SCOPE, a, b), (OTHER, b, a)):
        listed = await read(lambda c, scope=scope: list_servers(c, scope))
        assert [(row.id, row.name) for row in listed] == [(own.server_id, "web-0")]
        assert (await read(lambda c, s=scope, i=own.server_id: get_server(c, s, i))).spec == ServerSpec(name="web-0")
        for query in (
            lambda c, s=scope, i=foreign.server_id: get_server(c, s, i),
            lambda c, s=scope, i=foreign.server_id: operations_of_server(c, s, i),
            lambda c, s=scope, i=foreign.id: get_operation(c, s, i),
        ):
            with pytest.raises(NotFound):
                await read(query)
        with use_context(Context(scope)):
            ref = ServerRef(request_id="crossed", server_id=foreign.server_id)
            for call in (
                partial(compute.delete_servers, DeleteServers(items=(ref,))),
                partial(compute.power_servers, PowerServers(verb="stop", items=(ref,))),
                partial(compute.console, ConsoleRequest(server_id=foreign.server_id)),
                partial(compute.execute, ExecuteRequest(server_id=foreign.server_id, argv=("true",))),
                partial(compute.check_listener, ListenerCheck(server_id=foreign.server_id, address="x", port=1)),
            ):
                with pytest.raises(NotFound):
                    await call()
    assert len(universe.cloud.servers()) == 2


async def test_pages_follow_one_another(universe, one, compute):
    accepted = await compute.create_servers(order(universe, 7))
    await one.engine.wait([op.id for op in accepted.operations], 60)
    seen, after = [], None
    while page := await one.store.read(lambda c, after=after: list_servers(c, DEFAULT_SCOPE, after=after, limit=3)):
        assert len(page) <= 3
        seen += [row.id for row in page]
        after = seen[-1]
    assert seen == sorted(op.server_id for op in accepted.operations)
    assert list(await one.store.read(lambda c: servers_by_id(c, [*seen, "unknown"]))) == seen


async def test_reads_inside_a_server(universe, one, compute):
    operation = (await compute.create_servers(order(universe))).operations[0]
    await one.engine.wait([operation.id], 60)
    assert (await compute.console(ConsoleRequest(server_id=operation.server_id))).server_id == operation.server_id
    universe.cloud.answer(("check",), CommandResult(3, "no"))
    executed = await compute.execute(ExecuteRequest(server_id=operation.server_id, argv=("check", "it")))
    assert executed.result == CommandResult(3, "no")
    check = ListenerCheck(server_id=operation.server_id, address="10.0.0.1", port=80)
    assert (await compute.check_listener(check)).owned is None
    accepted = await compute.delete_servers(
        DeleteServers(items=(ServerRef(request_id="d", server_id=operation.server_id),))
    )
    await one.engine.wait([accepted.operations[0].id], 60)
    with pytest.raises(Conflict):
        await compute.console(ConsoleRequest(server_id=operation.server_id))


async def test_a_refresh_answers_when_it_is_written_and_names_who_could_not_be_listed(universe, one, compute):
    operation = (await compute.create_servers(order(universe))).operations[0]
    await one.engine.wait([operation.id], 60)
    universe.cloud.stop(universe.cloud.servers()[0].provider_id)
    refreshed = await compute.refresh(RefreshAccounts(accounts=(ACCOUNT, "nowhere")))
    assert set(refreshed.observed_at) == {ACCOUNT} and set(refreshed.errors) == {"nowhere"}
    row = await one.store.read(lambda c: get_server(c, DEFAULT_SCOPE, operation.server_id))
    assert row.state is ServerState.STOPPED
    universe.cloud.inject("list", "unreachable")
    refreshed = await compute.refresh(RefreshAccounts(accounts=(ACCOUNT,)))
    assert refreshed.errors[ACCOUNT].code == "cloud_unreachable" and not refreshed.observed_at


async def test_the_engine_stops_and_starts_with_the_service(universe, one):
    for number in range(2):
        async with Container(universe.world, ContainerConfig(id=f"c{number}", system="test")) as container:
            await container.spawn(partial(ComputeService, one.store, one.engine))
            compute = client(ComputeService, container.edge)
            await compute.create_servers(order(universe, name=f"round{number}"))
            await until(lambda number=number: len(universe.cloud.servers()) == number + 1)
        assert not one.engine.snapshot()[ACCOUNT]["serving"]
        assert one.keeper.snapshot()["held"] == {}
