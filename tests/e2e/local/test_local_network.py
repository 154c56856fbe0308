"""Addresses, names, listeners; limits and images."""

# ruff: noqa: ASYNC240
# (a test may block its own loop for a moment)

from __future__ import annotations

import asyncio
import io
import os
import socket
import subprocess
import tarfile
from pathlib import Path

import pytest

from e2e.local.local_cloud import LocalCloud
from pelagos.clouds import CloudRejected, CloudServer
from pelagos.clouds.local.guest.netlink import Netlink
from pelagos.model.errors import PelagosError

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]
SERVE = """#!/bin/sh
python3 -c "
import socket
listener = socket.create_server(('$PELAGOS_ADDRESS', {port}))
print('listening', flush=True)
while True:
    connection = listener.accept()[0]
    connection.send(b'{word}')
    connection.close()
" &
"""


async def fetch(address: str, port: int) -> bytes:
    reader, writer = await asyncio.open_connection(address, port)
    try:
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


async def listening(cloud: LocalCloud, server: CloudServer, port: int) -> bool:
    return await cloud.driver.verify_listener(server.provider_id, server.addresses[0], port, timeout=10)


async def test_same_port_on_two_instances(cloud: LocalCloud) -> None:
    servers = [await cloud.make(word, SERVE.format(port=28080, word=word)) for word in ("one", "two")]
    for server, word in zip(servers, (b"one", b"two"), strict=True):
        await cloud.console_says(server, "listening")
        assert await fetch(server.addresses[0], 28080) == word
        assert await listening(cloud, server, 28080)
        assert not await listening(cloud, server, 28081)


async def test_a_foreign_listener_is_not_taken_for_the_instance(cloud: LocalCloud) -> None:
    server = await cloud.make()
    with socket.create_server(("0.0.0.0", 28082)):
        assert not await listening(cloud, server, 28082)
    await cloud.driver.stop_server(server.provider_id, timeout=20)
    assert not await listening(cloud, server, 28080)


async def test_members_of_a_group_know_one_another_by_name(isolated: LocalCloud) -> None:
    first = await isolated.make("one", group="g", metadata={"aliases": "web, front"})
    second = await isolated.make("two", group="g")
    stranger = await isolated.make("three", group="other")
    for server in (first, second):
        hosts = await isolated.sh(server, "cat /etc/hosts")
        assert f"{first.addresses[0]} one web front\n" in hosts
        assert f"{second.addresses[0]} two\n" in hosts
        assert "three" not in hosts
    assert "one" not in await isolated.sh(stranger, "cat /etc/hosts")
    await isolated.driver.delete_server(second.provider_id, timeout=20)
    assert "two" not in await isolated.sh(first, "cat /etc/hosts")


async def test_instances_reach_one_another_by_name(isolated: LocalCloud) -> None:
    one = await isolated.make("one", SERVE.format(port=28083, word="one"), group="g")
    two = await isolated.make("two", group="g")
    await isolated.console_says(one, "listening")
    ask = "import socket; print(socket.create_connection(('one', 28083), 5).recv(9).decode())"
    assert (await isolated.driver.execute(two.provider_id, ["python3", "-c", ask], timeout=20)).output == "one\n"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="bridges need root")
async def test_two_homes_get_different_subnets_even_if_they_hash_alike(tmp_path: Path) -> None:
    one, two = (LocalCloud(tmp_path / name, {}) for name in ("a", "b"))
    try:
        if (await one.driver._life()).network != "bridge":
            pytest.skip("this machine allows no bridge")
        first = await one.make()
        book = (await two.driver._life()).book
        book._digest = (await one.driver._life()).book._digest  # the same first choice
        second = await two.make()
        assert first.addresses[0].rsplit(".", 2)[0] != second.addresses[0].rsplit(".", 2)[0] or (
            int(first.addresses[0].split(".")[2]) // 4 != int(second.addresses[0].split(".")[2]) // 4
        )
        await one.clear()
        with Netlink() as link:
            assert link.index((await one.driver._life()).book.bridge) == 0
            assert link.index(book.bridge) != 0
    finally:
        for cloud in (one, two):
            await cloud.clear()
            cloud.world.close()


async def test_two_homes_never_share_a_loopback_address(tmp_path: Path) -> None:
    one, two = (LocalCloud(tmp_path / name, {"network": "loopback"}) for name in ("a", "b"))
    try:
        (await two.driver._life()).book._digest = (await one.driver._life()).book._digest
        first, second, third = await one.make(), await two.make(), await two.make("other")
        assert len({first.addresses[0], second.addresses[0], third.addresses[0]}) == 3
        assert (await two.get(second)).addresses == second.addresses
    finally:
        for cloud in (one, two):
            await cloud.clear()
            cloud.world.close()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="bridges need root")
async def test_a_subnet_in_use_is_refused(tmp_path: Path) -> None:
    with Netlink() as link:
        taken = next(f"{address}/{prefix}" for address, prefix in link.addresses() if prefix not in (8, 32))
    cloud = LocalCloud(tmp_path / "home", {"subnet": str(_network(taken))})
    try:
        if (await cloud.driver._life()).network != "bridge":
            pytest.skip("this machine allows no bridge")
        with pytest.raises(CloudRejected, match="overlaps"):
            await cloud.make()
        assert list(await cloud.driver.list_servers(timeout=5)) == []
    finally:
        cloud.world.close()


def _network(text: str) -> object:
    import ipaddress

    return ipaddress.IPv4Network(text, strict=False)


async def test_limits(cloud: LocalCloud) -> None:
    server = await cloud.make(memory_mb=48, cpus=0.5)
    said = await cloud.console(server)
    facts = await cloud.driver.facts()
    if facts.limits.value == "none":
        assert "cpus and memory_mb have no effect" in await cloud.console_says(server, "no effect")
        return
    assert "no effect" not in said
    eat = "data = bytearray(400 << 20); print(len(data))"
    result = await cloud.driver.execute(server.provider_id, ["python3", "-c", eat], timeout=30)
    assert result.exit_code == 137, result.output


async def test_an_image_out_of_a_tarball(isolated: LocalCloud, tmp_path: Path) -> None:
    tarball = tmp_path / "image.tar.gz"
    with tarfile.open(tarball, "w:gz") as archive:
        for path in needed_by("/bin/sh", "/bin/cat", "/bin/ls"):
            archive.add(os.path.realpath(path), arcname=path.lstrip("/"))
        for name in ("etc", "tmp"):
            member = tarfile.TarInfo(f"./{name}")
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(member)
        member = tarfile.TarInfo("./etc/issue")
        member.size = 7
        archive.addfile(member, io.BytesIO(b"tarball"))
    one = await isolated.make("one", "#!/bin/sh\necho inside\n", image=str(tarball))
    two = await isolated.make("two", image=str(tarball))
    await isolated.console_says(one, "\ninside\n")
    assert await isolated.sh(one, "cat /etc/issue") == "tarball"
    assert await isolated.sh(one, "ls /usr/share 2>/dev/null; echo mine > /etc/issue") == ""
    assert await isolated.sh(two, "cat /etc/issue") == "tarball"
    images = isolated.instances.parent / "images"
    await isolated.driver.delete_server(one.provider_id, timeout=20)
    assert len(list(images.iterdir())) == 1
    await isolated.driver.delete_server(two.provider_id, timeout=20)
    assert list(images.iterdir()) == []


def needed_by(*programs: str) -> list[str]:
    found = set(programs)
    for program in programs:
        said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        found |= {word for word in said.split() if word.startswith("/")}
    return sorted(found)


@pytest.mark.parametrize("member", ["../outside", "/etc/../../outside"])
async def test_an_image_cannot_write_outside(isolated: LocalCloud, tmp_path: Path, member: str) -> None:
    tarball = tmp_path / "image.tar"
    with tarfile.open(tarball, "w") as archive:
        archive.addfile(tarfile.TarInfo(member), io.BytesIO(b""))
    with pytest.raises(PelagosError, match="outside of its root"):
        await isolated.make(image=str(tarball))
    assert list((isolated.instances.parent / "images").iterdir()) == []
