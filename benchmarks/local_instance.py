"""From the request to an init that runs, on the `local` cloud, beside a bare `unshare` of the same namespaces.

python benchmarks/local_instance.py
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from pelagos.clouds import DriverContext, ServerSpec
from pelagos.clouds.local import DRIVER
from pelagos.model.states import ServerState
from pelagos.model.world import SystemWorld

ROUNDS = 15
AIM = 0.080
"""Seconds."""


def bare() -> float:
    """Seconds of `unshare` alone: new namespaces, one program in them, no root of its own, no network set up."""
    flags = ["--fork", "--pid", "--mount", "--uts", "--ipc"]
    flags += ["--net"] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    begin = time.perf_counter()
    subprocess.run(["unshare", *flags, "true"], check=True)
    return time.perf_counter() - begin


async def instances(home: Path) -> list[float]:
    """Seconds of each create call; it returns when init has said that it runs."""
    world = SystemWorld()
    driver = await DRIVER.open(DriverContext(account="local", world=world, home=home))
    found = []
    try:
        for number in range(ROUNDS + 1):
            spec = ServerSpec(name=f"bench-{number}", group="bench", user_data="#!/bin/sh\ntrue\n")
            begin = time.perf_counter()
            server = await driver.create_server(spec, token=f"bench-{number}", timeout=60)
            found.append(time.perf_counter() - begin)
            if server.state is not ServerState.ACTIVE:
                raise RuntimeError(f"{server.name} is {server.state}: {server.reason}")
    finally:
        for server in await driver.list_servers(timeout=30):
            await driver.delete_server(server.provider_id, timeout=30)
        await driver.close()
        world.close()
    return found[1:]  # the first one also finds out what the machine allows


def measure() -> list[tuple[str, float, float]]:
    """(name, measured seconds, floor seconds) of each measurement; medians."""
    floor = statistics.median(bare() for _ in range(ROUNDS))
    with tempfile.TemporaryDirectory(prefix="pelagos-bench-", dir="/var/tmp") as place:
        measured = statistics.median(asyncio.run(instances(Path(place) / "home")))
    return [("local instance, request to init running", measured, floor)]


if __name__ == "__main__":
    for name, seconds, least in measure():
        print(f"{name}: {seconds * 1e3:.1f} ms; bare unshare {least * 1e3:.1f} ms; aim {AIM * 1e3:.0f} ms")
