"""The repository: a commit of a thousand objects, and a pull of one changed object out of ten thousand.

The floor of the commit is a bare insert of rows of the same bytes in one transaction. The pull is held against what
changed: the new objects on the path to the change, and the commit. Its time is beside that of a pull of nothing new.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, insert

from benchmarks.report import Row
from pelagos.container import Container, ContainerConfig
from pelagos.exchange import MemoryTransport
from pelagos.model import DEFAULT_SCOPE, SystemWorld
from pelagos.repository import Link, TypeRegistry, commit, create_repository
from pelagos.repository.sync import RepositoryService, pull
from pelagos.store import open_store
from pelagos.store.container_schema import objects

__all__ = ["measure"]

TYPES = TypeRegistry()


@TYPES.stored("benchmark.part")
class Part(msgspec.Struct, frozen=True):
    name: str
    size: int
    note: str = "some text, as a description has it, of about a hundred characters: enough to be worth its row."


@TYPES.stored("benchmark.group")
class Group(msgspec.Struct, frozen=True):
    name: str
    members: tuple[Link[Any], ...]


def graph(count: int, wide: int, salt: str, changed: int = -1) -> Group:
    """About ``count`` parts in groups of ``wide``, in one group."""
    parts = [TYPES.link(Part(f"{salt}{n}", -1 if n == changed else n)) for n in range(count)]
    groups = [Group(f"g{n}", tuple(parts[n : n + wide])) for n in range(0, count, wide)]
    return Group("top", tuple(TYPES.link(group) for group in groups))


def measure(quick: bool) -> list[Row]:
    """``quick``: a tenth of the objects."""
    return asyncio.run(_measure(100 if quick else 1_000, 1_000 if quick else 10_000))


async def _measure(committed: int, pulled: int) -> list[Row]:
    world = SystemWorld(threads=2)
    with tempfile.TemporaryDirectory() as folder:
        here, there = (open_store(Path(folder) / name, world) for name in ("here.db", "there.db"))
        for store in (here, there):
            await store.start()
        try:
            return [await _commits(here, committed), *await _pulls(world, here, there, pulled)]
        finally:
            for store in (here, there):
                await store.stop()
            world.close()


async def _commits(store: Any, count: int) -> Row:
    repository = await store.run(_repository("commits", "r1"))
    times, floors = [], []
    for attempt in range(5):
        value = graph(count, 50, f"c{attempt}.")
        begin = time.perf_counter()
        await store.run(
            partial(commit, repository=repository, branch="main", root=value, author=DEFAULT_SCOPE, at=1.0, types=TYPES)
        )
        times.append(time.perf_counter() - begin)
        rows = [
            {
                "digest": f"{attempt}-{number}".rjust(64, "f"),
                "type": packed.type,
                "version": 1,
                "created_at": 1.0,
                "links_blob": msgspec.msgpack.encode(packed.links),
                "value_blob": packed.value,
            }
            for number, packed in enumerate(TYPES.pack(value))
        ]
        begin = time.perf_counter()
        await store.run(lambda connection, rows=rows: connection.execute(insert(objects), rows).rowcount)
        floors.append(time.perf_counter() - begin)
    return Row(
        name=f"commit of a graph of {count:,} objects",
        measured=min(times),
        floor=min(floors),
        floor_name="bare insert of the same bytes",
        aim=5.0,
        aim_text="<= 5 x",
        judged=min(times) / min(floors),
    )


async def _pulls(world: SystemWorld, here: Any, there: Any, count: int) -> list[Row]:
    transport = MemoryTransport(world)
    containers = [
        Container(world, ContainerConfig(id=f"c{n}"), transport, shared_transport=True) for n in range(2)
    ]  # fmt: skip
    await transport.start()
    try:
        for container in containers:
            await container.start()
        address = f"process:{await containers[1].spawn(lambda: RepositoryService(there))}"
        repository = await there.run(_repository("pulls", "r2"))
        save = partial(commit, repository=repository, branch="main", author=DEFAULT_SCOPE, types=TYPES)
        bring = partial(pull, containers[0].edge, address, "benchmark", "pulls", here)
        await there.run(partial(save, root=graph(count, 100, "p."), at=1.0))
        begin = time.perf_counter()
        first = await bring()
        whole = time.perf_counter() - begin
        begin = time.perf_counter()
        await bring()
        nothing = time.perf_counter() - begin
        await there.run(partial(save, root=graph(count, 100, "p.", changed=count // 2), at=2.0))
        begin = time.perf_counter()
        second = await bring()
        taken = time.perf_counter() - begin
    finally:
        for container in containers:
            await container.stop()
        await transport.stop()
    return [
        Row(
            name=f"pull of one changed object out of {count:,}",
            measured=taken,
            floor=nothing,
            floor_name="pull of nothing new",
            aim=4.0,
            aim_text="<= 4 objects",
            judged=float(second.objects),
            note=f"{second.objects} objects (part, group, top, commit), {second.bytes:,} bytes travelled",
        ),
        Row(
            name=f"first pull of {count:,} objects",
            measured=whole,
            note=f"{first.objects:,} objects, {first.bytes:,} bytes, {first.rounds} rounds",
        ),
    ]


def _repository(name: str, id: str) -> Any:
    def make(connection: Connection) -> Any:
        return create_repository(connection, DEFAULT_SCOPE, "benchmark", name, id=id, at=1.0)

    return make
