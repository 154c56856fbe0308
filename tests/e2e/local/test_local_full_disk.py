"""A full disk: a create says so and leaves nothing, a stop and a delete work."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from e2e.local.local_cloud import LocalCloud
from pelagos.clouds import CloudCapacity
from pelagos.model.states import ServerState

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.e2e,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="a small file system of its own needs root"),
]


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[LocalCloud]:
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:  # noqa: ASYNC221
        pytest.skip("this root may not mount a file system")
    cloud = LocalCloud(place / "home", {})
    try:
        yield cloud
    finally:
        await cloud.clear()
        cloud.world.close()
        subprocess.run(["umount", "-l", str(place)], check=True)  # noqa: ASYNC221


def fill(home: Path) -> None:
    with (home / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return


async def test_create_stop_and_delete(small: LocalCloud) -> None:
    one, two = await small.make("one"), await small.make("two")
    fill(small.home)
    with pytest.raises(CloudCapacity) as caught:
        await small.make("three")
    assert "Free disk space" in caught.value.advice
    assert {server.token for server in await small.driver.list_servers(timeout=5)} == {"token-one", "token-two"}
    assert [path.name for path in small.instances.iterdir() if path.name.startswith(".")] == []
    await small.driver.stop_server(one.provider_id, timeout=20)
    assert (await small.get(one)).state is ServerState.STOPPED
    for server in (one, two):
        await small.driver.delete_server(server.provider_id, timeout=20)
    assert list(await small.driver.list_servers(timeout=5)) == []
    assert list(small.instances.iterdir()) == []
