"""What an instance sees of this machine, and what it must not."""

# ruff: noqa: ASYNC240
# (a test may block its own loop for a moment)

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

from e2e.local.local_cloud import LocalCloud

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]
SECRET = "the-store's-key-material"


async def test_it_sees_the_software_and_writes_only_to_its_own_layer(isolated: LocalCloud) -> None:
    server = await isolated.make()
    mark = f"pelagos-mark-{os.getpid()}"
    await isolated.sh(server, f"ls /usr/bin/env /etc/passwd && echo here > /etc/{mark} && echo here > /opt/{mark}")
    assert (await isolated.sh(server, f"cat /etc/{mark} /opt/{mark}")).split() == ["here", "here"]
    assert not Path(f"/etc/{mark}").exists()
    assert not Path(f"/opt/{mark}").exists()
    other = await isolated.make("two")
    assert await isolated.code(other, f"test -e /etc/{mark}") == 1


async def test_masked_directories_are_empty_and_writable(isolated: LocalCloud) -> None:
    server = await isolated.make()
    seen = await isolated.sh(server, "ls -A /root /home /tmp /mnt /var/tmp; ls -A /run | grep -v lock || true")
    names = [line for line in seen.split() if not line.endswith(":")]
    assert names == []
    for path in ("/root", "/home", "/tmp", "/run", "/mnt", "/var/tmp"):
        assert await isolated.sh(server, f"echo x > {path}/mine && cat {path}/mine") == "x\n"


async def test_a_secret_of_the_home_is_not_found_inside(isolated: LocalCloud) -> None:
    """By its path, by the root of any process, by any open descriptor, by any environment."""
    secret = isolated.home / "secrets.key"
    secret.parent.mkdir(parents=True, exist_ok=True)
    secret.write_text(SECRET)
    secret.chmod(0o644)
    server = await isolated.make()
    path = str(secret)
    assert await isolated.code(server, f"cat {path}") != 0
    assert await isolated.code(server, f"cat /proc/[0-9]*/root{path}") != 0
    assert await isolated.code(server, f"cat /proc/[0-9]*/cwd{path} /proc/[0-9]*/cwd/../../../../{secret.name}") != 0
    for up in range(8):
        tried = f"for f in /proc/[0-9]*/fd/*; do cat $f{'/..' * up}/{secret.name} && exit 0; done 2>/dev/null; exit 1"
        assert await isolated.code(server, tried) != 0
    assert SECRET not in await isolated.sh(server, "cat /proc/[0-9]*/environ 2>/dev/null; true")
    assert await isolated.code(server, f"find / -xdev -name {secret.name} 2>/dev/null | grep -q .") == 1


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a home in these places")
@pytest.mark.parametrize("parent", ["/var/lib", "/opt", "/usr/local/share", "/"])
async def test_the_home_is_masked_wherever_it_lies(parent: str) -> None:
    with tempfile.TemporaryDirectory(prefix="pelagos-home-", dir=parent) as place:
        home = Path(place) / "state"
        home.mkdir()
        (home / "secrets.key").write_text(SECRET)
        cloud = LocalCloud(home, {})
        try:
            server = await cloud.make()
            assert await cloud.sh(server, f"ls -A {home}") == ""
            assert await cloud.code(server, f"grep -rq {SECRET!r} {place}") == 1
        finally:
            await cloud.clear()
            cloud.world.close()


async def test_configured_directories_are_masked_too(tmp_path: Path) -> None:
    cloud = LocalCloud(tmp_path / "home", {"mask": ["/usr/share/doc"]})
    try:
        if await cloud.level() == "processes":
            pytest.skip("no namespaces here")
        server = await cloud.make(mask=["/usr/share/man"])
        assert await cloud.sh(server, "ls -A /usr/share/doc /usr/share/man | grep -v -e : -e '^$' || true") == ""
        assert await cloud.sh(server, "ls /usr/share") != ""
    finally:
        await cloud.clear()
        cloud.world.close()


async def test_it_has_its_own_processes_and_host_name(isolated: LocalCloud) -> None:
    server = await isolated.make("alpha")
    assert (await isolated.sh(server, "hostname 2>/dev/null || cat /proc/sys/kernel/hostname")).strip() == "alpha"
    assert (await isolated.sh(server, "cat /etc/hostname")).strip() == "alpha"
    pids = (await isolated.sh(server, "ls /proc | grep -c '^[0-9]*$'")).strip()
    assert int(pids) < 8
    assert os.uname().nodename != "alpha"


async def test_it_cannot_reach_for_the_machine(isolated: LocalCloud) -> None:
    server = await isolated.make()
    for attempt in (
        "echo 1 > /proc/sys/kernel/panic_on_oops",
        "echo x > /proc/sys/kernel/core_pattern",
        "mount -t tmpfs none /mnt",
        "umount /proc",
        "mknod /dev/disk b 254 0 && head -c 1 /dev/disk",
        "mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk",
        "echo > /sys/power/state",
        "sethostname=1; hostname other",
    ):
        assert await isolated.code(server, attempt) != 0, attempt


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mount tables of this user's own namespace need root to compare")
async def test_nothing_is_mounted_outside_of_it(isolated: LocalCloud) -> None:
    before = Path("/proc/self/mounts").read_text()
    await isolated.make()
    assert Path("/proc/self/mounts").read_text() == before


async def test_no_descriptor_or_variable_of_the_caller_is_inherited(isolated: LocalCloud) -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    os.environ["PELAGOS_TEST_SECRET"] = SECRET
    try:
        server = await isolated.make(user_data="#!/bin/sh\nenv\nls -l /proc/self/fd\n")
        said = await isolated.console_says(server, "user data finished")
        assert "PELAGOS_TEST_SECRET" not in said
        os.close(write)
        os.set_blocking(read, False)
        assert os.read(read, 1) == b""  # end of file: nobody else has the other end
    finally:
        del os.environ["PELAGOS_TEST_SECRET"]
        os.close(read)


async def test_python3_is_found_inside(cloud: LocalCloud) -> None:
    server = await cloud.make()
    assert await cloud.sh(server, "python3 -c 'print(6 * 7)'") == "42\n"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="the interpreter of the unprivileged run lies in no masked directory")
async def test_an_interpreter_in_a_masked_directory_is_shown(
    isolated: LocalCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = os.path.realpath(sys.base_prefix)
    if Path(prefix).parts[1] not in ("root", "home"):
        pytest.skip(f"the interpreter in {prefix} is seen anyway")
    monkeypatch.setattr("pelagos.clouds.local.launcher.hidden_python", lambda: prefix)
    server = await isolated.make()
    text = "import sys, json, ctypes; print(sys.base_prefix)"
    said = await isolated.driver.execute(server.provider_id, ["/usr/local/bin/python3", "-c", text], timeout=20)
    assert said.output.strip() == prefix
    assert await isolated.code(server, f"touch {prefix}/bin/new") != 0
    assert (await isolated.sh(server, "ls -A /root")).split() == [prefix.split("/")[2]]
    await isolated.driver.reboot_server(server.provider_id, timeout=20)
    assert await isolated.sh(server, "/usr/local/bin/python3 -c 'print(1)'") == "1\n"


async def test_a_command_gets_its_exit_code_and_time(isolated: LocalCloud) -> None:
    server = await isolated.make()
    assert await isolated.code(server, "exit 7") == 7
    assert await isolated.code(server, "kill -9 $$") == 137
    missing = await isolated.driver.execute(server.provider_id, ["no-such-command"], timeout=10)
    assert missing.exit_code == 127
    assert "no such command" in missing.output
    long = await isolated.driver.execute(server.provider_id, ["sh", "-c", "yes | head -c 3000000"], timeout=20)
    assert len(long.output) == 1 << 18
