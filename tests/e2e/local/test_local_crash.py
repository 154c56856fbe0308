"""kill -9 of the command that creates or deletes, at random moments: nothing is doubled, nothing is lost or left."""

# ruff: noqa: ASYNC220
# (a test may block its own loop for a moment)

from __future__ import annotations

import functools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from e2e.local.local_cloud import LEVELS, LocalCloud
from pelagos.model.states import ServerState

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]
ROUNDS = 8
COMMAND = """
import asyncio, sys
from pathlib import Path
from pelagos.clouds import DriverContext, ServerSpec
from pelagos.clouds.local import DRIVER
from pelagos.model.world import SystemWorld

async def main(verb, home, isolation):
    context = DriverContext(account="local", world=SystemWorld(), home=Path(home), options={"isolation": isolation})
    driver = await DRIVER.open(context)
    print("go", flush=True)
    spec = ServerSpec(name="one", hostname="one", group="g", user_data="#!/bin/sh\\necho contextualised\\n")
    if verb == "create":
        await driver.create_server(spec, token="t", timeout=60)
    else:
        for server in await driver.list_servers(timeout=10):
            await driver.delete_server(server.provider_id, timeout=60)

asyncio.run(main(*sys.argv[1:]))
"""


def run_and_kill(verb: str, home: Path, isolation: str, after: float) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, verb, str(home), isolation],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"go\n"
    time.sleep(after)  # not a synchronisation: the moment of death is what is varied
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("level", sorted(set(LEVELS) - {"loopback"}))
async def test_a_killed_create_is_found_and_finished(level: str, tmp_path: Path) -> None:
    isolation = LEVELS[level].get("isolation", "auto")
    moments = random.Random(20 + len(level))
    for number in range(ROUNDS):
        cloud = LocalCloud(tmp_path / "home", LEVELS[level])
        try:
            await cloud.driver.facts()  # the probe is done once, by whoever comes first
            run_and_kill("create", cloud.home, isolation, moments.uniform(0, 0.12))
            found = await cloud.driver.find_by_token("t", timeout=10)
            assert found is None or found.state in (ServerState.BUILD, ServerState.ACTIVE, ServerState.ERROR)
            server = await cloud.make("one", "#!/bin/sh\necho contextualised\n", token="t", group="g")
            assert found is None or server.provider_id == found.provider_id
            active = await cloud.until(
                functools.partial(cloud.get, server), lambda seen: seen.state is ServerState.ACTIVE
            )
            assert [seen.provider_id for seen in await cloud.driver.list_servers(timeout=10)] == [active.provider_id]
            said = await cloud.console_says(server, "user data finished")
            assert said.count("\ncontextualised\n") == 1, (number, said)
            names = [path.name for path in cloud.instances.iterdir()]
            assert names == [server.provider_id]
        finally:
            await cloud.clear()
            assert cloud.processes() == []
            cloud.world.close()


@pytest.mark.parametrize("level", sorted(set(LEVELS) - {"loopback"}))
async def test_a_killed_delete_is_repeated(level: str, tmp_path: Path) -> None:
    isolation = LEVELS[level].get("isolation", "auto")
    moments = random.Random(40 + len(level))
    for _ in range(ROUNDS):
        cloud = LocalCloud(tmp_path / "home", LEVELS[level])
        try:
            server = await cloud.make("one", "#!/bin/sh\nsleep 1002 &\n")
            run_and_kill("delete", cloud.home, isolation, moments.uniform(0, 0.04))
            for seen in await cloud.driver.list_servers(timeout=10):
                assert seen.provider_id == server.provider_id
            await cloud.driver.delete_server(server.provider_id, timeout=30)
            assert list(await cloud.driver.list_servers(timeout=10)) == []
            assert list((cloud.instances.parent / "trash").iterdir()) == []
            assert [name for name in os.listdir("/sys/class/net") if (await cloud.key()) in name] == []
        finally:
            await cloud.clear()
            cloud.world.close()


async def test_a_killed_launcher_leaves_a_server_that_can_be_finished(tmp_path: Path) -> None:
    cloud = LocalCloud(tmp_path / "home", {})
    moments = random.Random(60)
    try:
        await cloud.driver.facts()
        for _ in range(ROUNDS):
            home = str(cloud.home)
            killer = subprocess.Popen([sys.executable, "-c", KILLER, home, str(moments.uniform(0, 0.03))])
            try:
                await cloud.make("one", token="t")
            except Exception as error:
                assert "launcher" in str(error), error
            killer.wait()
            server = await cloud.make("one", token="t")
            await cloud.until(functools.partial(cloud.get, server), lambda seen: seen.state is ServerState.ACTIVE)
            assert len(await cloud.driver.list_servers(timeout=10)) == 1
            await cloud.clear()
            assert cloud.processes() == []
    finally:
        await cloud.clear()
        cloud.world.close()


KILLER = """
import os, signal, sys, time
end = time.monotonic() + 1.0
home = sys.argv[1].encode()
while time.monotonic() < end:
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                words = open(f"/proc/{name}/cmdline", "rb").read()
                parent = open(f"/proc/{name}/stat").read().rpartition(")")[2].split()[1]
                if b"guest.launch" in words and int(parent) == os.getppid():
                    time.sleep(float(sys.argv[2]))
                    os.kill(int(name), signal.SIGKILL)
                    sys.exit()
            except OSError:
                continue
"""
