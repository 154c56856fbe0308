"""Starting, running, dying, and leaving nothing behind."""

# ruff: noqa: ASYNC240
# (a test may block its own loop for a moment)

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from e2e.local.local_cloud import LocalCloud
from pelagos.clouds import CloudBusy, CloudRejected, CloudServer, CloudUncertain, ServerSpec
from pelagos.model.states import ServerState

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]


def init_of(cloud: LocalCloud, server: CloudServer) -> int:
    return int(json.loads((cloud.instances / server.provider_id / "run.json").read_text())["pid"])


async def test_a_killed_init_is_told_and_start_brings_it_back(cloud: LocalCloud) -> None:
    server = await cloud.make(user_data="#!/bin/sh\necho contextualised\nsleep 1000 &\n")
    await cloud.console_says(server, "user data finished")
    os.kill(init_of(cloud, server), signal.SIGKILL)
    dead = await cloud.until(lambda: cloud.get(server), lambda seen: seen.state is not ServerState.ACTIVE)
    assert dead.state is ServerState.STOPPED
    assert "killed by signal 9" in dead.reason
    assert [seen.state for seen in await cloud.driver.list_servers(timeout=5)] == [ServerState.STOPPED]
    with pytest.raises(CloudBusy):
        await cloud.driver.execute(server.provider_id, ["true"], timeout=5)
    await cloud.driver.start_server(server.provider_id, timeout=20)
    assert (await cloud.get(server)).state is ServerState.ACTIVE
    assert (await cloud.get(server)).addresses == server.addresses
    said = await cloud.console(server)
    assert said.count("is running") == 2
    assert said.count("\ncontextualised\n") == 1  # user data is for the first start alone
    assert await cloud.sh(server, "echo back") == "back\n"


async def test_killed_instances_leave_nothing_when_deleted(cloud: LocalCloud) -> None:
    server = await cloud.make(user_data="#!/bin/sh\nsleep 1000 &\nnohup sh -c 'sleep 1001; true' >/dev/null 2>&1 &\n")
    await cloud.console_says(server, "user data finished")
    os.kill(init_of(cloud, server), signal.SIGKILL)
    await cloud.driver.delete_server(server.provider_id, timeout=20)
    await nothing_left(cloud, server)


async def test_delete_leaves_nothing(cloud: LocalCloud) -> None:
    servers = [await cloud.make(name, "#!/bin/sh\nsleep 1000 &\n", group="g") for name in ("one", "two")]
    for server in servers:
        await cloud.console_says(server, "user data finished")
        await cloud.driver.delete_server(server.provider_id, timeout=20)
    await nothing_left(cloud, server)


async def nothing_left(cloud: LocalCloud, *made: CloudServer) -> None:
    account = cloud.home / "clouds" / "local"
    left = sorted(str(path.relative_to(account)) for path in account.rglob("*"))
    assert left == ["facts.msgpack", "images", "instances", "lock", "trash"]

    async def processes() -> list[str]:
        return cloud.processes()

    await cloud.until(processes, lambda found: not found)
    sleepers = [
        entry.name
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _environment(entry).get("PELAGOS_INSTANCE", "").startswith(await cloud.key())
    ]
    assert sleepers == []
    book = (await cloud.driver._life()).book
    interfaces = {book.bridge, *(book.veth(server.provider_id) for server in made)} & set(os.listdir("/sys/class/net"))
    assert interfaces == set()
    assert list(Path("/sys/fs/cgroup").rglob(f"pelagos-{await cloud.key()}")) == []
    assert str(cloud.home) not in Path("/proc/self/mounts").read_text()


def _environment(process: Path) -> dict[str, str]:
    try:
        words = (process / "environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(word.partition("=")[::2] for word in words)


async def test_stop_asks_first_and_keeps_the_disk(cloud: LocalCloud) -> None:
    script = "#!/bin/sh\n(trap 'echo asked to stop; exit 0' TERM; while :; do sleep 0.05; done) &\necho up\n"
    server = await cloud.make(user_data=script)
    await cloud.console_says(server, "user data finished")
    path = "kept" if cloud.driver._account.isolation == "processes" else "/srv/kept"
    await cloud.sh(server, f"echo data > {path}")
    await cloud.driver.stop_server(server.provider_id, timeout=20)
    stopped = await cloud.get(server)
    assert (stopped.state, stopped.reason) == (ServerState.STOPPED, "stopped on request")
    said = await cloud.console(server)
    assert "asked to stop" in said
    assert said.rstrip().endswith("stopped")
    assert cloud.processes() == []
    await cloud.driver.start_server(server.provider_id, timeout=20)
    assert await cloud.sh(server, f"cat {path}") == "data\n"


async def test_what_ignores_sigterm_is_killed_after_the_grace_time(cloud: LocalCloud) -> None:
    server = await cloud.make(user_data="#!/bin/sh\n(trap '' TERM; while :; do sleep 0.1; done) &\n")
    await cloud.console_says(server, "user data finished")
    await cloud.driver.stop_server(server.provider_id, timeout=20)
    assert (await cloud.get(server)).state is ServerState.STOPPED
    assert cloud.processes() == []


async def test_after_a_restart_of_the_machine_it_is_stopped(cloud: LocalCloud) -> None:
    server = await cloud.make(user_data="#!/bin/sh\necho once\n")
    await cloud.console_says(server, "user data finished")
    os.kill(init_of(cloud, server), signal.SIGKILL)
    await cloud.until(lambda: cloud.get(server), lambda seen: seen.state is not ServerState.ACTIVE)
    run = cloud.instances / server.provider_id / "run.json"
    facts = json.loads(run.read_text())
    run.write_text(json.dumps({**facts, "boot": "an-earlier-boot"}))
    book = (await cloud.driver._life()).book
    if (await cloud.driver._life()).network == "bridge":
        from pelagos.clouds.local.guest.netlink import Netlink

        with Netlink() as link:
            link.delete(book.bridge)
    seen = await cloud.get(server)
    assert (seen.state, seen.reason) == (ServerState.STOPPED, "this machine was restarted")
    await cloud.driver.start_server(server.provider_id, timeout=20)
    assert (await cloud.get(server)).state is ServerState.ACTIVE


async def test_init_reaps_orphans(isolated: LocalCloud) -> None:
    server = await isolated.make()
    await isolated.sh(server, "for n in 1 2 3 4 5; do (sleep 0.01 &) ; done")

    async def zombies() -> str:
        return await isolated.sh(server, "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l")

    assert (await isolated.until(zombies, lambda count: count.strip() == "0")).strip() == "0"


async def test_the_console_is_capped(tmp_path: Path) -> None:
    cloud = LocalCloud(tmp_path / "home", {"console_mb": 0.05})
    try:
        server = await cloud.make(user_data="#!/bin/sh\nseq 1 40000\n")
        said = await cloud.console_says(server, "user data finished")
        assert "[earlier output was dropped]" in said
        assert "\n40000\n" in said
        assert (cloud.instances / server.provider_id / "console.log").stat().st_size <= 0.05 * (1 << 20)
    finally:
        await cloud.clear()
        cloud.world.close()


async def test_a_command_that_takes_too_long_is_ended(isolated: LocalCloud) -> None:
    server = await isolated.make()
    with pytest.raises(CloudUncertain):
        await isolated.driver.execute(server.provider_id, ["sh", "-c", "sleep 1003; true"], timeout=0.3)

    async def left() -> str:
        return await isolated.sh(server, "grep -c 100[3] /proc/[0-9]*/cmdline | grep -c ':1$' || true")

    assert (await isolated.until(left, lambda count: count.strip() == "0")).strip() == "0"


async def test_two_calls_with_one_token_make_one(cloud: LocalCloud) -> None:
    other = LocalCloud(cloud.home, {})
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each.make()) for each in (cloud, other, cloud, other)]
        assert len({task.result().provider_id for task in tasks}) == 1
        assert len(await cloud.driver.list_servers(timeout=5)) == 1
    finally:
        other.world.close()


async def test_delete_and_start_at_once_leave_one_outcome(cloud: LocalCloud) -> None:
    server = await cloud.make()
    await cloud.driver.stop_server(server.provider_id, timeout=20)
    results = await asyncio.gather(
        cloud.driver.start_server(server.provider_id, timeout=20),
        cloud.driver.delete_server(server.provider_id, timeout=20),
        cloud.driver.delete_server(server.provider_id, timeout=20),
        return_exceptions=True,
    )
    assert results[1:] == [None, None]
    assert list(await cloud.driver.list_servers(timeout=5)) == []
    await nothing_left(cloud)


async def test_a_name_becomes_a_host_name_and_a_wrong_host_name_is_refused(cloud: LocalCloud) -> None:
    server = await cloud.make("infra_1/web.0 " + "x" * 80, "#!/bin/sh\necho I am $HOSTNAME.\n", token="long")
    said = await cloud.console_says(server, "user data finished")
    name = said.partition("I am ")[2].partition(".")[0]
    assert name.startswith("infra-1-web-0-xxx")
    assert len(name) == 63
    spec = ServerSpec(name="one", hostname="a b")
    with pytest.raises(CloudRejected, match="is not a host name"):
        await cloud.driver.create_server(spec, token="wrong", timeout=20)
    assert len(await cloud.driver.list_servers(timeout=5)) == 1
