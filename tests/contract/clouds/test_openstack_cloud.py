"""What the OpenStack driver does beside the port's suite, on the emulation: logging in, parts, adoption, refusals."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pelagos.clouds import (
    Catalogue,
    CloudAuthFailed,
    CloudBusy,
    CloudCapacity,
    CloudPart,
    CloudRejected,
    CloudUnreachable,
    DriverContext,
    ForeignReader,
    PartsDriver,
    ServerAdopter,
    ServerGone,
    ServerNotFound,
    ServerSpec,
)
from pelagos.clouds.openstack import DRIVER, NOVA, OpenStackPlugin
from pelagos.clouds.openstack.driver import OpenStackDriver
from pelagos.model.errors import InvalidInput, Unsupported
from pelagos.model.states import ServerState
from pelagos.model.world import SystemWorld
from support.openstack_emulation import Emulation, Refusal

pytestmark = pytest.mark.anyio

T = 20.0
RESOURCE: dict[str, Any] = {"image": "debian", "flavor": "m1.tiny"}
Open = Callable[..., Any]


@pytest.fixture
async def cloud() -> AsyncIterator[Emulation]:
    made = Emulation()
    yield made
    made.close()


@pytest.fixture
async def open_driver(cloud: Emulation, tmp_path: Path) -> AsyncIterator[Open]:
    """Opens drivers on the emulation; ``options`` go over the account's, None takes one away."""
    worlds: list[SystemWorld] = []
    drivers: list[OpenStackDriver] = []

    async def opened(plugin: OpenStackPlugin = DRIVER, **options: Any) -> OpenStackDriver:
        world = SystemWorld(threads=4, environ={})
        worlds.append(world)
        merged = {key: value for key, value in {**cloud.account, **options}.items() if value is not None}
        driver = await plugin.open(DriverContext(account="os", world=world, home=tmp_path, options=merged))
        assert isinstance(driver, OpenStackDriver)
        drivers.append(driver)
        return driver

    yield opened
    for driver in drivers:
        await driver.close()
    for world in worlds:
        world.close()


def spec(name: str = "one", **resource: Any) -> ServerSpec:
    return ServerSpec(name=name, options={**RESOURCE, **resource})


async def reach(driver: OpenStackDriver, provider_id: str, state: ServerState = ServerState.ACTIVE) -> None:
    for _ in range(2_000):
        if (await driver.get_server(provider_id, timeout=T)).state is state:
            return
    raise AssertionError(f"{provider_id} is never {state}")


async def vanish(driver: OpenStackDriver, provider_id: str) -> None:
    await driver.delete_server(provider_id, timeout=T)
    with pytest.raises(ServerNotFound):
        for _ in range(2_000):
            await driver.get_server(provider_id, timeout=T)


def posts(cloud: Emulation, path: str) -> list[Any]:
    return [body for method, asked, body in cloud.asked if method == "POST" and asked.endswith(path)]


# -- logging in ------------------------------------------------------------------------------------------------------


async def test_a_wrong_password_is_told_without_it(open_driver: Open) -> None:
    driver = await open_driver(password="horse battery")
    with pytest.raises(CloudAuthFailed) as caught:
        await driver.list_servers(timeout=T)
    assert "battery" not in caught.value.message
    assert "battery" not in json.dumps(driver.snapshot())


async def test_nobody_answers(open_driver: Open) -> None:
    driver = await open_driver(endpoint="http://127.0.0.1:1/v3")
    with pytest.raises(CloudUnreachable):
        await driver.list_servers(timeout=T)
    with pytest.raises(CloudUnreachable):
        await driver.create_server(spec(), token="t", timeout=T)


async def test_an_application_credential(cloud: Emulation, open_driver: Open) -> None:
    key, secret = cloud.credential
    bare = {"username": None, "password": None, "project_name": None}
    driver = await open_driver(application_credential_id=key, application_credential_secret=secret, **bare)
    made = await driver.create_server(spec(), token="t", timeout=T)
    ancestor = await open_driver(NOVA, type="application_credential", id=key, secret=secret, **bare)
    assert [server.provider_id for server in await ancestor.list_servers(timeout=T)] == [made.provider_id]


async def test_a_token_that_expired_is_renewed_also_in_the_middle_of_a_create(
    cloud: Emulation, open_driver: Open
) -> None:
    driver = await open_driver()
    await driver.list_servers(timeout=T)
    cloud.tokens.clear()
    cloud.refusals.append(("POST", "/compute/v2.1/servers", Refusal(401, "expired")))
    await driver.create_server(spec(), token="t", timeout=T)
    assert [server.token for server in await driver.list_servers(timeout=T)] == ["t"]


async def test_without_a_project_the_users_only_one_is_used(cloud: Emulation, open_driver: Open) -> None:
    driver = await open_driver(project_name=None)
    await driver.create_server(spec(), token="t", timeout=T)
    assert len(cloud.servers) == 1
    cloud.projects["p-other"] = "other"
    with pytest.raises(CloudAuthFailed) as caught:
        await (await open_driver(project_name=None)).list_servers(timeout=T)
    assert "p-demo" in caught.value.advice and "p-other" in caught.value.advice


async def test_a_cloud_of_clouds_yaml(cloud: Emulation, open_driver: Open, tmp_path: Path) -> None:
    account = cloud.account
    auth = {
        "auth_url": f"{account['endpoint']}/v3",
        "username": "ann",
        "password": account["password"],
        "project_name": "demo",
        "user_domain_name": "Default",
        "project_domain_name": "Default",
    }
    file = tmp_path / "clouds.yaml"
    file.write_text(json.dumps({"clouds": {"lab": {"auth": auth, "region_name": "RegionOne"}}}))
    bare = dict.fromkeys(("endpoint", "username", "password", "project_name", "region"))
    driver = await open_driver(cloud="lab", clouds_file=str(file), **bare)
    # An identity service that wants a token before it gives one: the SDK alone would wait for itself for ever.
    cloud.refusals += [("GET", "/identity/v3", Refusal(401, "who?")) for _ in range(2)]
    with pytest.raises((CloudAuthFailed, Unsupported)):
        await driver.list_servers(timeout=T)
    cloud.refusals.clear()
    assert list(await driver.list_servers(timeout=T)) == []
    with pytest.raises(InvalidInput):
        await open_driver(cloud="laboratory", clouds_file=str(file), **bare)
    with pytest.raises(InvalidInput):
        await open_driver(cloud="lab", clouds_file=str(tmp_path / "none.yaml"), **bare)


# -- what is refused before anything is sent, and by the cloud -------------------------------------------------------


@pytest.mark.parametrize(
    ("resource", "told"),
    [
        ({"flavor": "m1.tny"}, "m1.tiny"),
        ({"image": "windows"}, "windows"),
        ({"networks": ["nowhere"]}, "nowhere"),
        ({"image": "twice"}, "2 images"),
        ({"no_such_key": 1}, "no_such_key"),
    ],
)
async def test_a_resource_that_cannot_be_is_rejected_with_what_there_is(
    cloud: Emulation, open_driver: Open, resource: dict[str, Any], told: str
) -> None:
    cloud.images |= {"i-1": {"name": "twice"}, "i-2": {"name": "twice"}}
    driver = await open_driver()
    with pytest.raises(CloudRejected) as caught:
        await driver.create_server(spec(**resource), token="t", timeout=T)
    assert told in caught.value.message + caught.value.advice
    assert posts(cloud, "/servers") == []


async def test_user_data_over_the_limit_asks_nothing_of_the_cloud(cloud: Emulation, open_driver: Open) -> None:
    driver = await open_driver()
    limit = driver.capabilities.user_data_limit
    assert limit is not None
    large = msgspec.structs.replace(spec(), user_data="x" * (limit + 1))
    with pytest.raises(CloudRejected):
        await driver.create_server(large, token="t", timeout=T)
    assert cloud.asked == []
    await driver.create_server(msgspec.structs.replace(large, user_data="x" * limit), token="t", timeout=T)


async def test_another_project_or_region_than_the_accounts(cloud: Emulation, open_driver: Open) -> None:
    driver = await open_driver(NOVA)
    image = cloud.id_of(cloud.images, "debian")
    mine = {"project_id": "p-demo", "image_id": image, "flavor_name": "1", "region_name": "RegionOne"}
    for wrong in ({"project_id": "p-other"}, {"region_name": "RegionTwo"}):
        with pytest.raises(CloudRejected):
            await driver.create_server(ServerSpec(name="one", options={**mine, **wrong}), token="t", timeout=T)
    assert posts(cloud, "/servers") == []
    await driver.create_server(ServerSpec(name="one", options=mine), token="t", timeout=T)
    assert len(cloud.servers) == 1


async def test_quotas_are_capacity(cloud: Emulation, open_driver: Open) -> None:
    cloud.max_servers = cloud.max_volumes = cloud.max_addresses = 0
    driver = await open_driver()
    with pytest.raises(CloudCapacity):
        await driver.create_server(spec(), token="t", timeout=T)
    for part in driver.parts(spec(volume_size=1, floating_ip=True)):
        with pytest.raises(CloudCapacity):
            await driver.create_part(part, token="t", timeout=T)


async def test_a_name_that_means_another_image_now_is_looked_up_again(cloud: Emulation, open_driver: Open) -> None:
    driver = await open_driver()
    await driver.create_server(spec("one"), token="t-1", timeout=T)
    cloud.images = {"0f3e1c9a-6a3d-4c8e-9d7b-0f6a1f3f2b11": {"name": "debian"}}
    with pytest.raises(CloudRejected):
        await driver.create_server(spec("two"), token="t-2", timeout=T)
    await driver.create_server(spec("two"), token="t-2", timeout=T)
    assert {server.token for server in await driver.list_servers(timeout=T)} == {"t-1", "t-2"}


async def test_discovery_that_fails_is_an_outage_and_passes(cloud: Emulation, open_driver: Open) -> None:
    driver = await open_driver()
    for _ in range(4):
        cloud.refusals.append(("GET", "/compute.*|/?", Refusal(503, "starting")))
    with pytest.raises(CloudUnreachable):
        await driver.create_server(spec(), token="t", timeout=T)
    cloud.refusals.clear()
    await driver.create_server(spec(), token="t", timeout=T)
    assert [body["server"]["networks"] for body in posts(cloud, "/servers")] == ["auto"]


async def test_a_cloud_without_volumes(cloud: Emulation, open_driver: Open) -> None:
    cloud.missing = {"volumev3"}
    driver = await open_driver()
    assert list(await driver.list_parts(timeout=T)) == []
    (part,) = driver.parts(spec(volume_size=1))
    with pytest.raises(Unsupported):
        await driver.create_part(part, token="t", timeout=T)


# -- catalogue, servers of others ------------------------------------------------------------------------------------


async def test_the_catalogue(cloud: Emulation, open_driver: Open) -> None:
    driver = await open_driver()
    assert isinstance(driver, Catalogue)
    (image,) = await driver.list_images(timeout=T)
    assert (image.id, image.name, image.size_bytes) == (cloud.id_of(cloud.images, "debian"), "debian", 5_000_000)
    (flavor,) = await driver.list_flavors(timeout=T)
    assert (flavor.id, flavor.name, flavor.vcpus, flavor.ram_mb, flavor.disk_gb) == ("1", "m1.tiny", 1, 512, 1)
    made = await driver.create_server(spec(image=image.id, flavor=flavor.id), token="t", timeout=T)
    await reach(driver, made.provider_id)


async def test_a_server_of_somebody_else_is_adopted(cloud: Emulation, open_driver: Open) -> None:
    driver = await open_driver()
    assert isinstance(driver, ForeignReader) and isinstance(driver, ServerAdopter)
    theirs = cloud.boot("theirs", {"owner": "bob"})
    assert [s.provider_id for s in await driver.list_foreign_servers(timeout=T)] == [theirs]
    for _ in range(2):
        adopted = await driver.adopt_server(theirs, token="t", timeout=T)
        assert (adopted.provider_id, adopted.token) == (theirs, "t")
    assert list(await driver.list_foreign_servers(timeout=T)) == []
    found = await driver.find_by_token("t", timeout=T)
    assert found is not None and found.provider_id == theirs
    assert cloud.servers[theirs]["metadata"] == {"owner": "bob", "pelagos_token": "t"}
    with pytest.raises(CloudRejected):
        await driver.adopt_server(theirs, token="other", timeout=T)
    with pytest.raises(ServerNotFound):
        await driver.adopt_server("no-such-server", token="t", timeout=T)


async def test_the_oldest_of_several_with_one_token(cloud: Emulation, open_driver: Open) -> None:
    driver = await open_driver()
    first, second = cloud.boot("a", {"pelagos_token": "t"}), cloud.boot("b", {"pelagos_token": "t"})
    cloud.servers[first]["created"] = "2026-01-02T00:00:00Z"
    cloud.servers[second]["created"] = "2026-01-01T00:00:00Z"
    found = await driver.find_by_token("t", timeout=T)
    assert found is not None and found.provider_id == second


@pytest.mark.parametrize("status", ["PAUSED", "SUSPENDED"])
async def test_start_wakes_what_was_stopped_in_another_way(cloud: Emulation, open_driver: Open, status: str) -> None:
    driver = await open_driver()
    made = await driver.create_server(spec(), token="t", timeout=T)
    await reach(driver, made.provider_id)
    cloud.servers[made.provider_id]["status"] = status
    await reach(driver, made.provider_id, ServerState.STOPPED)
    await driver.start_server(made.provider_id, timeout=T)
    await reach(driver, made.provider_id)


async def test_a_soft_deleted_server_is_gone(cloud: Emulation, open_driver: Open) -> None:
    driver = await open_driver()
    made = await driver.create_server(spec(), token="t", timeout=T)
    await reach(driver, made.provider_id)
    cloud.servers[made.provider_id]["status"] = "SOFT_DELETED"
    assert list(await driver.list_servers(timeout=T)) == []
    with pytest.raises(ServerGone):
        await driver.get_server(made.provider_id, timeout=T)


# -- parts -----------------------------------------------------------------------------------------------------------

WHOLE: dict[str, Any] = {
    "networks": ["private", {"network": "private", "security_groups": ["web"], "fixed_ip": "10.7.1.1"}],
    "volume_size": 3,
    "floating_ip": True,
}


async def make_parts(driver: OpenStackDriver, wanted: ServerSpec) -> tuple[ServerSpec, dict[str, CloudPart]]:
    made = {}
    for part in driver.parts(wanted):
        made[part.key] = await driver.create_part(part, token=f"token-{part.key}", timeout=T)
    return msgspec.structs.replace(wanted, parts={key: part.provider_id for key, part in made.items()}), made


async def test_a_server_of_several_steps(cloud: Emulation, open_driver: Open) -> None:
    driver = await open_driver()
    assert isinstance(driver, PartsDriver)
    wanted, made = await make_parts(driver, spec(**WHOLE))
    assert list(made) == ["boot-volume", "port-1", "address"]
    listed = {part.token: part for part in await driver.list_parts(timeout=T)}
    assert {token: part.provider_id for token, part in listed.items()} == {
        f"token-{key}": part.provider_id for key, part in made.items()
    }
    assert all(part.ready and not part.failed for part in listed.values())
    assert (made["port-1"].address, made["address"].address[:10]) == ("10.7.1.1", "203.0.113.")

    server = await driver.create_server(wanted, token="t", timeout=T)
    await reach(driver, server.provider_id)
    for _ in range(2):
        finished = await driver.finish_server(server.provider_id, wanted, timeout=T)
        assert finished.addresses[0] == made["address"].address and "10.7.1.1" in finished.private_addresses
    assert cloud.volumes[made["boot-volume"].provider_id]["status"] == "in-use"
    assert cloud.volumes[made["boot-volume"].provider_id]["imageRef"] == cloud.id_of(cloud.images, "debian")
    assert cloud.ports[made["port-1"].provider_id]["security_groups"] == [cloud.id_of(cloud.groups, "web")]

    for part in made.values():
        with pytest.raises(CloudBusy):
            await driver.delete_part(part, timeout=T)
    await vanish(driver, server.provider_id)
    for part in reversed(made.values()):
        await driver.delete_part(part, timeout=T)
        await driver.delete_part(part, timeout=T)
    assert cloud.volumes == cloud.ports == cloud.addresses == {}


async def test_parts_of_others_are_not_listed(cloud: Emulation, open_driver: Open) -> None:
    cloud.boot("theirs")
    cloud.volumes["v"] = {"id": "v", "status": "available", "name": "theirs", "metadata": {}}
    driver = await open_driver()
    assert list(await driver.list_parts(timeout=T)) == []


async def test_a_volume_that_failed_says_so(cloud: Emulation, open_driver: Open) -> None:
    driver = await open_driver()
    _, made = await make_parts(driver, spec(volume_size=3))
    cloud.volumes[made["boot-volume"].provider_id]["status"] = "error"
    (part,) = await driver.list_parts(timeout=T)
    assert not part.ready and "error" in part.failed


async def test_a_volume_that_the_cloud_makes(cloud: Emulation, open_driver: Open) -> None:
    cloud.flavors["2"] = {"name": "diskless", "vcpus": 1, "ram": 512, "disk": 0}
    cloud.images[cloud.id_of(cloud.images, "debian")]["size"] = 5 << 30
    driver = await open_driver()
    assert list(driver.parts(spec(volume_size=0))) == []
    await driver.create_server(spec("one", volume_size=0), token="t-1", timeout=T)
    await driver.create_server(spec("two", volume_size=0, flavor="diskless"), token="t-2", timeout=T)
    mappings = [body["server"]["block_device_mapping_v2"][0] for body in posts(cloud, "/servers")]
    assert [(m["source_type"], m["volume_size"], m["delete_on_termination"]) for m in mappings] == [
        ("image", 1, True),
        ("image", 5, True),
    ]


async def test_a_server_whose_parts_were_not_made_is_rejected(cloud: Emulation, open_driver: Open) -> None:
    driver = await open_driver()
    with pytest.raises(CloudRejected):
        await driver.create_server(spec(volume_size=3), token="t", timeout=T)
    assert posts(cloud, "/servers") == []


async def test_finishing_a_server_that_is_gone(open_driver: Open) -> None:
    driver = await open_driver()
    with pytest.raises(ServerNotFound):
        await driver.finish_server("no-such-server", spec(floating_ip=True), timeout=T)
