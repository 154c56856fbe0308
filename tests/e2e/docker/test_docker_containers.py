"""The docker driver on a real engine: what a container then is, where its image came from, and what is left of it."""

from __future__ import annotations

import asyncio
import functools
import http.server
import json
import re
import threading
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pelagos.clouds import (
    Catalogue,
    CloudBusy,
    CloudDriver,
    CloudError,
    CloudRejected,
    CloudServer,
    CloudUncertain,
    CloudUnreachable,
    DriverContext,
    ForeignReader,
    ServerAdopter,
    ServerSpec,
)
from pelagos.clouds.docker import DRIVER
from pelagos.model.errors import Retry
from pelagos.model.states import ServerState
from pelagos.model.world import SystemWorld
from pelagos.testing import FaultProxy, ProxyFault, fault_proxy
from pelagos.testing.http_requests import request_where
from support.engines import LIMITS, REGISTRY, TARBALL, engine_url, leavings, resource, sdk

pytestmark = [pytest.mark.docker, pytest.mark.e2e, pytest.mark.anyio]

SLEEP = ("sh", "-c", "trap 'exit 0' TERM; echo up; sleep 600 & wait")
FETCH = request_where(method="POST", path=r"/images/create$")
START = request_where(method="POST", path=r"/start$")


class Bed:
    """An account of a scope of its own on the engine, and the engine past the driver."""

    def __init__(self, engine: str, home: Path) -> None:
        self.engine = engine
        self.scope = f"test-{uuid.uuid4().hex[:12]}"
        self.world = SystemWorld(threads=12)
        self._home = home

    async def open(self, **options: Any) -> CloudDriver:
        chosen = {"endpoint": self.engine, "scope": self.scope, "settle": 1.0, "stop_grace": 1.0, **options}
        return await DRIVER.open(DriverContext(account="docker", world=self.world, home=self._home, options=chosen))

    async def ask(self, question: Callable[[Any], Any]) -> Any:
        """What the engine itself says."""

        def blocking() -> Any:
            with sdk(self.engine) as client:
                return question(client)

        return await self.world.run_blocking(blocking)


@pytest.fixture(scope="module")
def engine() -> str:
    return engine_url()


@pytest.fixture
async def bed(engine: str, tmp_path: Path) -> AsyncIterator[Bed]:
    bed = Bed(engine, tmp_path)
    try:
        yield bed
        driver = await bed.open()
        for server in await driver.list_servers(timeout=30):
            await driver.delete_server(server.provider_id, timeout=30)
        await driver.close()
        assert await bed.ask(lambda client: leavings(client, bed.scope)) == []
    finally:
        bed.world.close()


@pytest.fixture
async def driver(bed: Bed) -> AsyncIterator[CloudDriver]:
    driver = await bed.open()
    yield driver
    await driver.close()


@asynccontextmanager
async def through_a_proxy(bed: Bed, folder: Path, **options: Any) -> AsyncIterator[tuple[CloudDriver, FaultProxy]]:
    async with fault_proxy(bed.engine, listen=folder / "engine.sock") as proxy:
        driver = await bed.open(endpoint=proxy.url, **options)
        yield driver, proxy
        await driver.close()


def spec(name: str = "one", **keys: Any) -> ServerSpec:
    fields = {key: keys.pop(key) for key in ("group", "hostname", "env", "command", "metadata") if key in keys}
    return ServerSpec(**{"name": name, "command": SLEEP, **fields}, options=resource(**keys))


async def create(driver: CloudDriver, spec: ServerSpec, token: str = "token-one") -> CloudServer:
    made = await driver.create_server(spec, token=token, timeout=driver.capabilities.create_timeout)
    assert made.token == token
    return made


async def until(condition: Callable[[], Awaitable[Any]], within: float = 30.0) -> Any:
    end = time.monotonic() + within
    while not (found := await condition()):
        assert time.monotonic() < end, "not within the time"
        await asyncio.sleep(0.1)
    return found


async def inside(driver: CloudDriver, server: CloudServer, *argv: str) -> str:
    result = await driver.execute(server.provider_id, argv, timeout=30)
    assert result.exit_code == 0, result
    return result.output


# -- what a container is ----------------------------------------------------------------------------------------------


async def test_env_command_limits_user_and_volumes_are_those_that_were_said(driver: CloudDriver, bed: Bed) -> None:
    volume = f"named-{bed.scope}"
    made = await create(
        driver,
        spec(
            env={"GREETING": "hello = 'world'"},
            command=("sh", "-c", "echo $GREETING; exec sleep 600"),
            hostname="web-1",
            memory_mb=64,
            cpus=0.5,
            pids=40,
            ulimits={**LIMITS, "nofile": "100:200"},
            volumes=["/scratch", f"{volume}:/data"],
        ),
    )

    async def greeted() -> bool:
        return "hello = 'world'" in await driver.console(made.provider_id, max_bytes=1000, timeout=30)

    await until(greeted)
    assert (await inside(driver, made, "hostname")).strip() == "web-1"
    files = await inside(driver, made, "grep", "open files", "/proc/1/limits")
    assert files.split()[3:5] == ["100", "200"]
    await inside(driver, made, "touch", "/scratch/a", "/data/b")
    said = await bed.ask(lambda client: client.inspect_container(made.provider_id))
    host = said["HostConfig"]
    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (64 << 20, 500_000_000, 40)
    anonymous = [mount["Name"] for mount in said["Mounts"] if mount["Destination"] == "/scratch"]
    await driver.delete_server(made.provider_id, timeout=30)
    volumes = {one["Name"] for one in (await bed.ask(lambda client: client.volumes()))["Volumes"]}
    assert anonymous and not volumes & set(anonymous), "an anonymous volume goes with its container"
    assert volume in volumes, "a named one stays"
    await bed.ask(lambda client: client.remove_volume(volume))


async def test_nodes_of_a_group_know_one_another_and_its_network_goes_with_the_last(
    driver: CloudDriver, bed: Bed
) -> None:
    names = {"one": "store", "two": "web"}
    made = {
        node: await create(
            driver, spec(name, group="infra", hostname=f"{node}-1", metadata={"aliases": node}), f"token-{name}"
        )
        for name, node in names.items()
    }
    assert made["store"].addresses != made["web"].addresses
    for name in ("store", "store-1"):
        assert made["store"].addresses[0] in await inside(driver, made["web"], "nslookup", name)
    assert len(await bed.ask(lambda client: leavings(client, bed.scope))) == 3
    await driver.delete_server(made["web"].provider_id, timeout=30)
    assert len(await bed.ask(lambda client: leavings(client, bed.scope))) == 2, "a container, and still its network"
    await bed.ask(lambda client: client.remove_container(made["store"].provider_id, force=True))
    await driver.delete_server(made["store"].provider_id, timeout=30)
    assert await bed.ask(lambda client: leavings(client, bed.scope)) == [], "also where somebody else removed the last"


async def test_a_group_is_filled_and_emptied_at_once(driver: CloudDriver, bed: Bed) -> None:
    for _ in range(2):
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(create(driver, spec(f"n{number}", group="infra"), f"token-{number}"))
                for number in range(4)
            ]
        async with asyncio.TaskGroup() as group:
            for task in tasks:
                group.create_task(driver.delete_server(task.result().provider_id, timeout=60))
        assert await bed.ask(lambda client: leavings(client, bed.scope)) == []


async def test_published_ports_answer_at_the_address_of_the_account(bed: Bed) -> None:
    driver = await bed.open(address="127.0.0.1")
    made = await create(driver, spec(ports=["127.0.0.1::80"], command=("httpd", "-f", "-p", "80", "-h", "/etc")))
    assert made.addresses == ("127.0.0.1", *made.private_addresses) and made.private_addresses
    (port,) = await bed.ask(lambda client: client.port(made.provider_id, "80/tcp"))

    def page() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port['HostPort']}/passwd", timeout=5) as reply:
            return str(reply.read().decode())

    async def answered() -> str:
        try:
            return await bed.world.run_blocking(page)
        except OSError:
            return ""

    assert "root:" in await until(answered)
    taken = spec("two", ports=[f"127.0.0.1:{port['HostPort']}:80"])
    with pytest.raises(CloudError) as caught:
        await driver.create_server(taken, token="token-two", timeout=60)
    assert "in use" in str(caught.value) or "allocated" in str(caught.value)
    assert caught.value.retry is not Retry.UNCERTAIN
    assert await driver.find_by_token("token-two", timeout=30) is None, "what cannot start is taken back"
    await driver.close()


async def test_a_container_may_join_networks_that_are_there(driver: CloudDriver, bed: Bed) -> None:
    name = f"lan-{bed.scope}"
    await bed.ask(lambda client: client.create_network(name, driver="bridge"))
    try:
        made = await create(driver, spec(group="infra", networks=[name]))
        assert len(made.addresses) == 2
        with pytest.raises(CloudRejected):
            await create(driver, spec("two", group="infra", networks=["no-such-network"]), "token-two")
        assert await driver.find_by_token("token-two", timeout=30) is None
        await driver.delete_server(made.provider_id, timeout=30)
    finally:
        await bed.ask(lambda client: client.remove_network(name))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"command": ("no-such-program",)}, "no-such-program"),
        ({"user": "nobody-knows"}, "nobody-knows"),
    ],
)
async def test_what_cannot_start_is_told_for_good_and_nothing_is_left(
    driver: CloudDriver, bed: Bed, keys: dict[str, Any], words: str
) -> None:
    with pytest.raises(CloudRejected, match=words):
        await create(driver, spec(group="infra", **keys))
    assert await bed.ask(lambda client: leavings(client, bed.scope)) == [], "also no network"


async def test_the_engines_health_check_is_the_state_of_the_server(driver: CloudDriver, bed: Bed) -> None:
    health = {"command": ["test", "-e", "/up"], "interval": 3600.0, "retries": 1}
    made = await create(driver, spec(health=health))
    assert made.state is ServerState.BUILD

    async def checked() -> CloudServer:
        """Podman's timers are systemd's, which a test machine may lack: ask for one check."""
        await _podman(f"/containers/{made.provider_id}/healthcheck", bed)
        return await driver.get_server(made.provider_id, timeout=30)

    sick = await checked()
    assert (sick.state, bool(sick.reason)) == (ServerState.ERROR, True)
    assert [server.state for server in await driver.list_servers(timeout=30)] == [ServerState.ERROR]
    await inside(driver, made, "touch", "/up")
    assert (await checked()).state is ServerState.ACTIVE


async def _podman(path: str, bed: Bed) -> None:
    """A question of podman's own API; skips the test on another engine."""

    def ask(client: Any) -> int:
        reply = client.get(f"{client.base_url}/v4.0.0/libpod{path}", timeout=30)
        return int(reply.status_code)

    if await bed.ask(ask) == 404:
        pytest.skip("this engine is not podman's, whose health checks can be asked for")


async def test_power_of_a_paused_container(driver: CloudDriver, bed: Bed) -> None:
    made = await create(driver, spec())
    await bed.ask(lambda client: client.pause(made.provider_id))
    paused = await driver.get_server(made.provider_id, timeout=30)
    assert (paused.state, paused.reason) == (ServerState.STOPPED, "it is paused")
    await driver.start_server(made.provider_id, timeout=30)
    assert (await driver.get_server(made.provider_id, timeout=30)).state is ServerState.ACTIVE
    await bed.ask(lambda client: client.pause(made.provider_id))
    await driver.stop_server(made.provider_id, timeout=30)
    assert (await driver.get_server(made.provider_id, timeout=30)).state is ServerState.STOPPED


async def test_commands_inside(driver: CloudDriver) -> None:
    made = await create(driver, spec())
    both = await driver.execute(made.provider_id, ["sh", "-c", "echo out; echo err >&2; exit 7"], timeout=30)
    assert (both.exit_code, sorted(both.output.split())) == (7, ["err", "out"])
    much = await driver.execute(
        made.provider_id, ["sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x || true"], timeout=60
    )
    assert len(much.output) <= 1 << 18
    missing = await driver.execute(made.provider_id, ["no-such-program"], timeout=30)
    assert missing.exit_code != 0
    with pytest.raises(CloudUncertain):
        await driver.execute(made.provider_id, ["sleep", "60"], timeout=1.5)
    await driver.stop_server(made.provider_id, timeout=30)
    with pytest.raises(CloudBusy):
        await driver.execute(made.provider_id, ["true"], timeout=30)


async def test_others_containers_and_the_images(driver: CloudDriver, bed: Bed) -> None:
    assert isinstance(driver, Catalogue) and isinstance(driver, ForeignReader)
    assert not isinstance(driver, ServerAdopter), "labels cannot be changed"
    mine = await create(driver, spec())
    image = f"{resource()['image']}:{resource()['tag']}"
    foreign = await bed.ask(lambda client: client.create_container(image, command=["sleep", "9"])["Id"])
    try:
        shown = {server.provider_id: server for server in await driver.list_foreign_servers(timeout=30)}
        assert foreign in shown and mine.provider_id not in shown
        assert shown[foreign].token == "" and (await driver.get_server(foreign, timeout=30)).token == ""
        assert [server.provider_id for server in await driver.list_servers(timeout=30)] == [mine.provider_id]
    finally:
        await bed.ask(lambda client: client.remove_container(foreign, force=True))
    images = {one.id: one for one in await driver.list_images(timeout=30)}
    assert (images[image].size_bytes or 0) > 100_000
    assert list(await driver.list_flavors(timeout=30)) == []


async def test_two_scopes_share_an_engine_and_do_not_see_each_other(driver: CloudDriver, bed: Bed) -> None:
    other = await bed.open(scope=f"{bed.scope}-b")
    nobodys = await bed.open(scope="")
    mine = await create(driver, spec(group="infra"))
    theirs = await create(other, spec(group="infra"))
    assert mine.provider_id != theirs.provider_id and mine.name != theirs.name
    assert [server.provider_id for server in await driver.list_servers(timeout=30)] == [mine.provider_id]
    assert (await other.find_by_token("token-one", timeout=30) or mine).provider_id == theirs.provider_id
    shown = {server.provider_id for server in await nobodys.list_servers(timeout=30)}
    assert not shown & {mine.provider_id, theirs.provider_id}
    assert await nobodys.find_by_token("token-one", timeout=30) is None
    await other.delete_server(theirs.provider_id, timeout=30)
    assert await bed.ask(lambda client: leavings(client, f"{bed.scope}-b")) == []
    assert (await driver.get_server(mine.provider_id, timeout=30)).state is ServerState.ACTIVE
    await other.close()
    await nobodys.close()


async def test_a_network_that_an_earlier_process_left_is_swept(driver: CloudDriver, bed: Bed) -> None:
    labels = {"pelagos.scope": bed.scope, "pelagos.group": "old"}
    await bed.ask(lambda client: client.create_network(f"pelagos-{bed.scope}-old", driver="bridge", labels=labels))
    made = await create(driver, spec(group="infra"))
    await driver.delete_server(made.provider_id, timeout=30)
    assert await bed.ask(lambda client: leavings(client, bed.scope)) == []


# -- images -----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def fresh(bed: Bed) -> AsyncIterator[dict[str, str]]:
    """An image of the registry under a tag that the engine has never seen."""
    tag = f"t-{uuid.uuid4().hex[:12]}"
    url = f"http://{REGISTRY}/v2/pelagos/busybox/manifests/"
    kinds = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"

    def publish() -> None:
        with urllib.request.urlopen(urllib.request.Request(url + "1", headers={"Accept": kinds}), timeout=30) as reply:
            manifest, kind = reply.read(), reply.headers["Content-Type"]
        put = urllib.request.Request(url + tag, data=manifest, method="PUT", headers={"Content-Type": kind})
        urllib.request.urlopen(put, timeout=30).close()

    try:
        await bed.world.run_blocking(publish)
    except OSError as error:
        pytest.skip(f"no Docker engine answers whose registry is the test bed's: {error}")
    yield {"origin": f"{REGISTRY}/pelagos", "image": "busybox", "tag": tag}
    await bed.ask(lambda client: _forget(client, f"{REGISTRY}/pelagos/busybox:{tag}"))


def _forget(client: Any, image: str) -> None:
    import docker

    try:
        client.remove_image(image, force=True)
    except docker.errors.NotFound:
        pass


async def test_an_image_is_pulled_once_for_all_who_wait(bed: Bed, fresh: dict[str, str], tmp_path: Path) -> None:
    async with through_a_proxy(bed, tmp_path) as (driver, proxy):
        pulled = asyncio.Event()
        proxy.fail(ProxyFault.SLOW, FETCH, until=pulled)
        creates = request_where(method="POST", path=r"/containers/create$")
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(create(driver, spec(f"n{number}", **fresh), f"token-{number}")) for number in range(4)
            ]
            await proxy.arrival(creates, many=4)
            await proxy.arrival(FETCH)
            pulled.set()
        assert len({task.result().provider_id for task in tasks}) == 4
        assert len(proxy.seen(FETCH)) == 1
        await create(driver, spec("later", **fresh), "token-later")
        assert len(proxy.seen(FETCH)) == 1


async def test_a_long_pull_is_told_as_busy_and_goes_on(bed: Bed, fresh: dict[str, str], tmp_path: Path) -> None:
    async with through_a_proxy(bed, tmp_path) as (driver, proxy):
        pulled = asyncio.Event()
        proxy.fail(ProxyFault.SLOW, FETCH, until=pulled)
        for _ in range(2):
            with pytest.raises(CloudBusy, match="on its way"):
                await driver.create_server(spec(**fresh), token="token-one", timeout=3.0)
            assert await driver.find_by_token("token-one", timeout=30) is None
        assert len(proxy.seen(FETCH)) == 1, "the second waited for the first one's pull"
        assert driver.snapshot()["images_on_their_way"] == [f"{REGISTRY}/pelagos/busybox:{fresh['tag']}"]
        pulled.set()
        await create(driver, spec(**fresh))
        assert len(proxy.seen(FETCH)) == 1

        async def none_on_its_way() -> bool:
            # The engine has the image a moment before it says so to whoever fetched it.
            return driver.snapshot()["images_on_their_way"] == []

        await until(none_on_its_way)


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ({"origin": "local", "image": "no-such-image"}, CloudRejected),
        ({"origin": f"{REGISTRY}/pelagos", "image": "no-such-image"}, CloudRejected),
        ({"origin": "127.0.0.1:1/nobody", "image": "listens"}, CloudUnreachable),
    ],
)
async def test_images_that_cannot_be_had(
    driver: CloudDriver, bed: Bed, keys: dict[str, str], error: type[CloudError]
) -> None:
    with pytest.raises(error):
        await create(driver, spec(group="infra", **keys))
    assert await bed.ask(lambda client: leavings(client, bed.scope)) == []
    assert driver.snapshot()["images_on_their_way"] == []


class _Site(http.server.SimpleHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """A web server with a tarball, and what was asked of it."""
    asked: list[str] = []
    handler = type("Site", (_Site,), {"asked": asked})
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "bb.tar").write_bytes(TARBALL.read_bytes())
    (tmp_path / "site" / "bad.tar").write_text("this is no tarball")
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(tmp_path / "site"))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


async def test_tarballs_are_imported_once(
    driver: CloudDriver, bed: Bed, site: tuple[str, list[str]], tmp_path: Path
) -> None:
    url, asked = site
    name = f"imported-{bed.scope}"
    from_url = {"origin": f"{url}/bb.tar", "image": name, "tag": "1"}
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(create(driver, spec(f"u{number}", **from_url), f"token-u{number}"))
        assert asked == ["/bb.tar"]
        with pytest.raises(CloudRejected):
            await create(driver, spec("bad", origin=f"{url}/bad.tar", image=name, tag="bad"), "token-bad")
        with pytest.raises(CloudRejected, match="may not be imported"):
            await create(driver, spec("f", origin=f"file://{tmp_path}/site/bb.tar", image=name, tag="2"), "token-f")
        trusting = await bed.open(tarballs=[str(tmp_path)])
        from_file = spec("f", origin=f"file://{tmp_path}/site/bb.tar", image=name, tag="2")
        made = await create(trusting, from_file, "token-f")
        assert "busybox" in await inside(trusting, made, "ls", "/bin")
        first = await bed.ask(lambda client: client.inspect_image(f"localhost/{name}:2")["Id"])
        await create(trusting, from_file, "token-g")
        assert await bed.ask(lambda client: client.inspect_image(f"localhost/{name}:2")["Id"]) == first
        with pytest.raises(CloudRejected, match="command"):
            silent = spec("s", command=(), origin=f"file://{tmp_path}/site/bb.tar", image=name, tag="2")
            await create(trusting, silent, "token-s")
        (tmp_path / "site" / "bb.tar").touch()
        await create(trusting, from_file, "token-h")
        assert await bed.ask(lambda client: client.inspect_image(f"localhost/{name}:2")["Id"]) != first
        with pytest.raises(CloudRejected, match="cannot be read"):
            missing = spec("m", origin=f"file://{tmp_path}/none.tar", image=name, tag="3")
            await create(trusting, missing, "token-m")
        await trusting.close()
    finally:
        for server in await driver.list_servers(timeout=30):
            await driver.delete_server(server.provider_id, timeout=30)
        for tag in ("1", "2"):
            await bed.ask(lambda client, tag=tag: _forget(client, f"localhost/{name}:{tag}"))  # type: ignore[misc]


# -- faults on the way ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [ProxyFault.HALF_CLOSED, ProxyFault.TRUNCATED])
async def test_half_a_reply_is_no_reply(bed: Bed, tmp_path: Path, fault: ProxyFault) -> None:
    async with through_a_proxy(bed, tmp_path) as (driver, proxy):
        proxy.fail(fault, request_where(method="POST", path=r"/containers/create$"))
        with pytest.raises(CloudUncertain):
            await create(driver, spec())
        again = await create(driver, spec())
        assert (await driver.get_server(again.provider_id, timeout=30)).state is ServerState.ACTIVE
        proxy.fail(fault, request_where(method="GET", path=r"/containers/json$"))
        with pytest.raises(CloudUnreachable):
            await driver.list_servers(timeout=30)
        assert len(await driver.list_servers(timeout=30)) == 1


@pytest.mark.parametrize("fault", [ProxyFault.CONNECTION_CLOSED, ProxyFault.RESET_BEFORE, ProxyFault.UNAVAILABLE])
async def test_a_start_that_fails_is_made_good_by_the_same_create(bed: Bed, tmp_path: Path, fault: ProxyFault) -> None:
    """Between the two requests of a create: the container is there, and whether it runs nobody knows."""
    async with through_a_proxy(bed, tmp_path) as (driver, proxy):
        proxy.fail(fault, START)
        with pytest.raises(CloudUncertain):
            await create(driver, spec(group="infra"))
        found = await driver.find_by_token("token-one", timeout=30)
        assert found is not None and found.state in (ServerState.BUILD, ServerState.ACTIVE)
        again = await create(driver, spec(group="infra"))
        assert again.provider_id == found.provider_id and again.state is ServerState.ACTIVE
        assert len(await driver.list_servers(timeout=30)) == 1


async def test_who_has_a_container_in_hand_keeps_it(bed: Bed, tmp_path: Path) -> None:
    async with through_a_proxy(bed, tmp_path) as (driver, proxy):
        proxy.fail(ProxyFault.ERROR_BEFORE, START, status=409, body='{"message": "container state improper"}')
        with pytest.raises(CloudUncertain):
            await create(driver, spec())
        found = await driver.find_by_token("token-one", timeout=30)
        assert found is not None and (await create(driver, spec())).provider_id == found.provider_id


async def test_an_engine_that_cannot_start_it_now_keeps_nothing(bed: Bed, tmp_path: Path) -> None:
    async with through_a_proxy(bed, tmp_path) as (driver, proxy):
        proxy.fail(ProxyFault.ERROR_BEFORE, START, body='{"message": "what nobody foresaw"}')
        with pytest.raises(CloudUnreachable, match="nobody foresaw"):
            await create(driver, spec(group="infra"))
        assert await bed.ask(lambda client: leavings(client, bed.scope)) == []
        assert (await create(driver, spec(group="infra"))).state is ServerState.ACTIVE


async def test_nobody_listens(bed: Bed, tmp_path: Path) -> None:
    driver = await bed.open(endpoint=f"unix://{tmp_path}/none.sock")
    for call in (driver.list_servers(timeout=5), driver.delete_server("x", timeout=5), create(driver, spec())):
        with pytest.raises(CloudUnreachable):
            await call
    await driver.close()


async def test_an_engine_that_goes_away_for_a_while(bed: Bed, tmp_path: Path) -> None:
    async with through_a_proxy(bed, tmp_path) as (driver, proxy):
        await create(driver, spec())
        async with proxy.refusing():
            with pytest.raises(CloudUnreachable):
                await create(driver, spec("two"), "token-two")
            with pytest.raises(CloudUnreachable):
                await driver.list_servers(timeout=5)
        assert [server.token for server in await driver.list_servers(timeout=30)] == ["token-one"]


async def test_what_listens_is_no_engine(bed: Bed, site: tuple[str, list[str]]) -> None:
    url, _ = site
    driver = await bed.open(endpoint=url)
    with pytest.raises(CloudError) as caught:
        await driver.list_servers(timeout=5)
    assert caught.value.retry is not Retry.UNCERTAIN
    await driver.close()


async def test_no_word_of_a_registrys_password_in_what_is_shown(bed: Bed) -> None:
    login = {"username": "me", "password": "Hush-hush-1"}
    driver = await bed.open(registries={REGISTRY: login})
    with pytest.raises(CloudRejected) as caught:
        await create(driver, spec(origin=f"{REGISTRY}/pelagos", image="no-such-image"))
    assert not re.search("Hush", json.dumps(driver.snapshot()) + repr(caught.value) + caught.value.advice)
    await driver.close()
