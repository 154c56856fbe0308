"""What an idle process costs: memory of ten thousand of them, and the time to spawn one.

Measured in a child process, so that nothing that was here before counts: resident memory above that of the same
container with a single process, and the processor's time of all spawns divided by their number.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from benchmarks.report import Row
from pelagos.container import Container, ContainerConfig
from pelagos.exchange import Names, Transport
from pelagos.model import SystemWorld
from pelagos.process import Process

MANY = 10_000
MOST_MEMORY = 150 * 10**6
MOST_TIME = 200e-6
AMQP = os.environ.get("PELAGOS_TEST_AMQP", "amqp://guest:guest@127.0.0.1:5672")


class Idle(Process):
    """Does nothing, as most do most of the time."""


def _resident() -> int:
    """Bytes."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _amqp(world: SystemWorld) -> Callable[[Names], Transport]:
    from pelagos.exchange.amqp import AmqpConfig, AmqpTransport

    def make(names: Names) -> Transport:
        return AmqpTransport(world, AmqpConfig(AMQP, names.system, names.container))

    return make


def _broker_answers() -> bool:
    parts = urlsplit(AMQP)
    try:
        with socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 5672), timeout=2.0):
            return True
    except OSError:
        return False


async def _measure(transport: str, count: int) -> tuple[int, float]:
    world = SystemWorld()
    config = ContainerConfig(system="pelagos-bench")
    carrier = None if transport == "memory" else _amqp(world)
    async with Container(world, config, carrier) as container:
        await container.spawn(Idle, name="first")
        gc.collect()
        empty, begin = _resident(), time.process_time()
        for number in range(count):
            await container.spawn(Idle, name=f"idle-{number}")
        took = time.process_time() - begin
        gc.collect()
        found = _resident() - empty, took / count
    if carrier is not None:
        from benchmarks.rpc_amqp import tidy

        await tidy(config.system)
    return found


def measure(count: int = MANY) -> list[Row]:
    """Two rows a transport, with RabbitMQ where a broker answers: seconds a spawn, and memory, which the note shows."""
    rows = []
    transports = ["memory"]
    if _broker_answers():
        transports.append("RabbitMQ")
    else:
        print(f"idle processes on RabbitMQ: not measured, no server answers at {urlsplit(AMQP).hostname}")
    for transport in transports:
        child = subprocess.run(
            [sys.executable, "-m", "benchmarks.processes", transport, str(count)],
            check=True,
            capture_output=True,
            text=True,
        )
        memory, spawn = child.stdout.split()
        rows += [
            Row(
                name=f"spawn of an idle process, {count:,} of them, {transport}",
                measured=float(spawn),
                aim=MOST_TIME,
                aim_text="<= 200 us",
                note=f"{int(memory) / 10**6:.0f} MB above an empty container, {int(memory) / count / 1000:.1f} kB each",
            ),
            Row(
                name=f"memory of {count:,} idle processes, {transport}",
                measured=float(spawn) * count,
                aim=MOST_MEMORY * count / MANY,
                aim_text="<= 150 MB",
                judged=float(memory),
                note=f"{int(memory) / 10**6:.0f} MB; measured is the time to spawn them all",
            ),
        ]
    return rows


if __name__ == "__main__":
    print(*asyncio.run(_measure(sys.argv[1], int(sys.argv[2]))))
