"""RPC inside one container against a bare asyncio queue round trip with the same codec.

The floor: one server task reads a request queue, decodes, handles, encodes, and puts the answer on the client's own
reply queue; no deadline, no identity, no routing, no error handling. The service runs the very same handler, behind the
default stack of interceptors for messages that stay in the interpreter.
"""

from __future__ import annotations

import asyncio
import gc
import time

import msgspec

from benchmarks.report import Row
from pelagos.container import Container, ContainerConfig
from pelagos.exchange import MemoryTransport
from pelagos.exchange.interceptors import InterceptedTransport, ServiceNames, Surroundings, build_stack
from pelagos.model import SystemWorld
from pelagos.process import ServiceProcess, client, operation

REQUESTS = 5_120
ROUNDS = 25
AIM = 2.5


class CreateServers(msgspec.Struct, frozen=True):
    name: str
    flavor: str
    image: str
    count: int
    labels: dict[str, str]
    networks: list[str]


class Created(msgspec.Struct, frozen=True):
    operation_id: str
    server_ids: list[str]
    state: str


REQUEST = CreateServers(
    "web-1", "m1.small", "debian-12", 2, {"infra": "guestbook", "node": "web"}, ["default", "front"]
)


async def handle(request: CreateServers) -> Created:
    return Created("4f7c6f3e-9a53-4f0f-8a50-1df1b3a4a0aa", ["a" * 36] * request.count, "pending")


class Compute(ServiceProcess):
    name = "compute"

    @operation
    async def create_servers(self, request: CreateServers) -> Created:
        return await handle(request)


async def _floor(in_flight: int) -> float:
    encode = msgspec.msgpack.Encoder().encode
    decode_request = msgspec.msgpack.Decoder(CreateServers).decode
    decode_reply = msgspec.msgpack.Decoder(Created).decode
    requests: asyncio.Queue[tuple[bytes, asyncio.Queue[bytes]]] = asyncio.Queue()

    async def server() -> None:
        while True:
            content, replies = await requests.get()
            replies.put_nowait(encode(await handle(decode_request(content))))

    async def caller() -> None:
        replies: asyncio.Queue[bytes] = asyncio.Queue()
        for _ in range(REQUESTS // in_flight):
            requests.put_nowait((encode(REQUEST), replies))
            decode_reply(await replies.get())

    async with asyncio.TaskGroup() as servers:
        task = servers.create_task(server())
        took = await _time([caller for _ in range(in_flight)])
        task.cancel()
    return took


async def _rpc(in_flight: int) -> float:
    world = SystemWorld()
    config = ContainerConfig(id="bench", system="bench")
    services = ServiceNames(system="bench", container="bench")
    stack = build_stack(None, Surroundings(world, "bench", "bench", services, local=True))
    transport = InterceptedTransport(MemoryTransport(world), stack.interceptors, world)
    async with Container(world, config, transport) as container:
        services.bind(await container.spawn(Compute), Compute.name)
        compute = client(Compute, container.edge)

        async def caller() -> None:
            for _ in range(REQUESTS // in_flight):
                await compute.create_servers(REQUEST)

        await compute.create_servers(REQUEST)
        return await _time([caller for _ in range(in_flight)])


async def _time(callers: list) -> float:  # type: ignore[type-arg]
    gc.collect()
    # The processor's time: nothing here ever waits, and what else runs on the machine is not to be counted.
    begin = time.process_time()
    async with asyncio.TaskGroup() as group:
        for caller in callers:
            group.create_task(caller())
    return (time.process_time() - begin) / REQUESTS


def measure(quick: bool = False) -> list[Row]:
    """A row for one in flight and one for many; each the best of some rounds taken in turn with its floor."""
    rows = []
    for in_flight in (1, 256):
        measured, floor = [], []
        for _ in range(8 if quick else ROUNDS):
            floor.append(asyncio.run(_floor(in_flight)))
            measured.append(asyncio.run(_rpc(in_flight)))
        best, least = min(measured), min(floor)
        rows.append(
            Row(
                name=f"RPC in one container, {in_flight} in flight",
                measured=best,
                floor=least,
                floor_name="bare asyncio queues",
                aim=AIM,
                aim_text=f"<= {AIM} x",
                judged=best / least,
                note="with interceptors",
            )
        )
    return rows


if __name__ == "__main__":
    from benchmarks.report import as_line, heading

    print(heading())
    for row in measure():
        print(as_line(row))
