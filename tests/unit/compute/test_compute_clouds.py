"""The clouds of the pool, as the compute service shows them."""

from functools import partial

import pytest

from pelagos.clouds import AccountConfig, CloudServer, ServerSpec
from pelagos.container import Container, ContainerConfig
from pelagos.model.errors import NotFound, Unsupported
from pelagos.model.states import ServerState
from pelagos.process import client
from pelagos.services.compute import ComputeService
from pelagos.services.compute.messages import (
    CloudRef,
    CloudServersRequest,
    CreateServers,
    DeleteServers,
    ServerCreate,
    ServerRef,
)
from pelagos.simulation import SimulatedWorld
from pelagos.wire.clouds import CloudCheckRequest, PoolChangeView, PoolReload
from support.operations_world import ACCOUNT, Universe, until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def universe():
    async with Universe(SimulatedWorld(), options={"images": ("default",), "create_latency": 0.5}) as made:
        yield made


@pytest.fixture
async def one(universe):
    made = await universe.incarnate(start=False)
    async with made.keeper.running():
        yield made


@pytest.fixture
def asked():
    """What was to be opened anew at each reload."""
    return []


@pytest.fixture
async def compute(universe, one, asked):
    async def reload(cloud):
        asked.append(cloud)
        return PoolChangeView(kept=(ACCOUNT,))

    async with Container(universe.world, ContainerConfig(id="c", system="test")) as container:
        await container.spawn(partial(ComputeService, one.store, one.engine, reload))
        yield client(ComputeService, container.edge)


async def server(compute, one):
    item = ServerCreate(request_id="r", server_id="s", account=ACCOUNT, spec=ServerSpec(name="web"))
    accepted = await compute.create_servers(CreateServers(items=(item,)))
    await one.engine.wait([accepted.operations[0].id], 60)


async def test_how_each_cloud_is_and_what_is_on_it(compute, one, universe):
    first, local = (await compute.list_clouds()).items
    assert (first.name, first.driver, first.state, first.opened, first.servers) == (
        ACCOUNT,
        "simulated",
        "unknown",
        False,
        0,
    )
    assert local.name == "local"
    await server(compute, one)
    shown = await compute.get_cloud(CloudRef(cloud=ACCOUNT))
    assert (shown.state, shown.opened, shown.servers, shown.operations) == ("ok", True, 1, {})
    assert shown.latency == pytest.approx(0.5, abs=0.5)
    assert shown.details["capabilities"]["token_lookup"] == "tag"
    assert shown.details["driver"]["servers"] == {"active": 1}
    with pytest.raises(NotFound, match="nowhere"):
        await compute.get_cloud(CloudRef(cloud="nowhere"))


async def test_a_check_asks_all_and_hides_no_failure(compute, universe):
    universe.cloud.inject("list", "auth_failed")
    first, local = (await compute.check_clouds(CloudCheckRequest())).items
    assert (first.cloud, first.ok, first.error.code) == (ACCOUNT, False, "cloud_auth_failed")
    assert not local.ok, "this pool has no driver of that type"
    assert next(one.state for one in (await compute.list_clouds()).items if one.name == ACCOUNT) == "refused"
    [again] = (await compute.check_clouds(CloudCheckRequest(cloud=ACCOUNT))).items
    assert (again.ok, again.error) == (True, None)
    with pytest.raises(NotFound):
        await compute.check_clouds(CloudCheckRequest(cloud="nowhere"))


async def test_servers_of_ours_have_their_records_and_others_none(compute, one, universe):
    await server(compute, one)
    foreign = universe.cloud.add_foreign("somebody-else")
    [ours] = (await compute.list_cloud_servers(CloudServersRequest(cloud=ACCOUNT))).items
    assert (ours.ours, ours.server_id, ours.name) == (True, "s", "web")
    found = (await compute.list_cloud_servers(CloudServersRequest(cloud=ACCOUNT, foreign=True))).items
    assert [(one.provider_id, one.ours, one.server_id) for one in found] == [
        (ours.provider_id, True, "s"),
        (foreign, False, None),
    ]
    assert [image.id for image in (await compute.list_images(CloudRef(cloud=ACCOUNT))).items] == ["default"]
    assert (await compute.list_flavors(CloudRef(cloud=ACCOUNT))).items[0].id == "small"


async def test_an_address_that_is_both_public_and_private_is_shown_once(compute, one, monkeypatch):
    found = CloudServer(
        provider_id="c-1",
        name="web",
        state=ServerState.ACTIVE,
        addresses=("192.0.2.7", "10.89.1.2"),
        private_addresses=("10.89.1.2",),
    )

    async def listing(name, *, foreign):
        return [found]

    monkeypatch.setattr(one.engine, "listing", listing)
    [shown] = (await compute.list_cloud_servers(CloudServersRequest(cloud=ACCOUNT))).items
    assert shown.addresses == ("192.0.2.7", "10.89.1.2")


async def test_a_cloud_that_went_is_shown_while_it_has_servers_or_work(compute, one):
    await server(compute, one)
    one.pool.reload([])
    await until(lambda: ACCOUNT not in one.engine.workers())
    await compute.delete_servers(DeleteServers(items=(ServerRef(request_id="d", server_id="s"),)))
    gone = next(view for view in (await compute.list_clouds()).items if view.name == ACCOUNT)
    assert (gone.state, gone.servers, gone.operations) == ("removed", 1, {"pending": 1})
    one.pool.reload([AccountConfig(name=ACCOUNT, driver="simulated")])
    back = await compute.get_cloud(CloudRef(cloud=ACCOUNT))
    assert back.state in ("unknown", "ok")


async def test_reload_is_the_programs(compute, one, asked):
    assert (await compute.reload_pool(PoolReload(cloud=ACCOUNT))).kept == (ACCOUNT,)
    assert asked == [ACCOUNT]
    with pytest.raises(Unsupported, match="when it starts"):
        await ComputeService(one.store, one.engine).reload_pool(PoolReload())
