"""Builds: against the critical path with realistic latencies, and with none at all, where only our own work is left."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

from benchmarks import idle
from benchmarks.report import Row
from benchmarks.scene import ENTRY, description, layered, open_scene, run_to_end
from pelagos.clouds.simulated import SimulatedOptions
from pelagos.clouds.simulated.options import Delay
from pelagos.services.infrastructure.description import compile_description
from pelagos.wire.infrastructures import RunRequest

REALISTIC = SimulatedOptions(
    seed=7,
    create_latency=Delay(lognormal=(0.5, 0.3)),
    boot_seconds=Delay(uniform=(4.0, 8.0)),
    list_latency=Delay(uniform=(0.1, 0.3)),
    get_latency=Delay(uniform=(0.1, 0.3)),
    parallel_calls=256,  # more than a level starts at once never wait for one another: the graph alone bounds
)
INSTANT = SimulatedOptions(seed=7, parallel_calls=256)


def _compile_seconds(sources: dict[str, str]) -> float:
    begin = time.perf_counter()
    compile_description(sources, (ENTRY,))
    return time.perf_counter() - begin


CLOUDS = ("east", "west", "north", "south")
_TIMES_FASTER = 20.0


async def _against_the_graph(nodes: int) -> list[Row]:
    edges = layered(nodes)
    sources = description("graph", edges, CLOUDS)
    async with open_scene(REALISTIC, names=CLOUDS) as scene:
        _, took = await run_to_end(scene, RunRequest(kind="up", sources=sources, entries=(ENTRY,)))
        floor = scene.watch.floor(scene.clouds, edges)
    compiling = _compile_seconds(sources)
    return [
        Row(
            name=f"build of {nodes:,} nodes in 6 levels over 4 clouds",
            measured=took,
            floor=floor,
            floor_name="critical path",
            aim=1.05,
            aim_text="<= 1.05 x",
            judged=took / floor,
            note=f"of which YAML to plan {compiling:.2f} s",
        )
    ]


async def _against_one_at_a_time(nodes: int) -> list[Row]:
    edges = layered(nodes)
    sources = description("crowd", edges)
    async with open_scene(REALISTIC) as scene:
        _, took = await run_to_end(scene, RunRequest(kind="up", sources=sources, entries=(ENTRY,)))
        one_at_a_time = sum(scene.watch.spans(scene.clouds).values())
    return [
        Row(
            name=f"build of {nodes:,} nodes, latencies",
            measured=took,
            floor=one_at_a_time,
            floor_name="one at a time",
            aim=1.0 / _TIMES_FASTER,
            aim_text=f"{_TIMES_FASTER:g} x faster",
            judged=took / one_at_a_time,
            note=f"{one_at_a_time / took:.0f} times as fast",
        )
    ]


async def _instant(nodes: int, *, then_idle: bool = False) -> tuple[float, float, list[Row]]:
    """(seconds from the request to run.succeeded, seconds of compiling alone) with a cloud that answers at once, and
    the rows of idle passes over what was built."""
    sources = description("instant", layered(nodes))
    async with open_scene(INSTANT) as scene:
        run, took = await run_to_end(scene, RunRequest(kind="up", sources=sources, entries=(ENTRY,)))
        passes = await idle.measure(scene, run.infrastructure_id, nodes) if then_idle else []
    return took, _compile_seconds(sources), passes


def against_the_graph(nodes: int = 1000) -> list[Row]:
    return asyncio.run(_against_the_graph(nodes))


def against_one_at_a_time(nodes: int = 300) -> list[Row]:
    """Against the same servers made one after the other: the sum of the very latencies drawn."""
    return asyncio.run(_against_one_at_a_time(nodes))


def without_latency(sizes: tuple[int, ...] = (30, 100, 300, 1_000, 10_000)) -> list[Row]:
    """One row a size, the best of several builds: the smaller, the more, since what is between two small ones is soon
    less than chance; that of 300 has the aim. Over the largest, idle passes follow; and at the end, how the cost of one
    node more grows with the number there are."""
    asyncio.run(_instant(30))  # imports, and the first use of everything
    rows: list[Row] = []
    times: list[tuple[int, float]] = []
    for nodes in sizes:
        repeats = 9 if nodes <= 100 else 5 if nodes <= 1_000 else 2
        built = [asyncio.run(_instant(nodes, then_idle=nodes == max(sizes))) for _ in range(repeats)]
        took, compiling, passes = min(built, key=lambda one: one[0])
        times.append((nodes, took))
        aimed = nodes == 300
        rows.append(
            Row(
                name=f"build of {nodes:,} nodes, zero latency, full sync",
                measured=took,
                aim=1.0 if aimed else None,
                aim_text="<= 1.0 s" if aimed else "",
                note=f"{took / nodes * 1e3:.2f} ms a node, of which YAML {compiling / nodes * 1e3:.2f} ms",
            )
        )
        rows += passes
    return [*rows, _flatness(times)]


def _flatness(times: list[tuple[int, float]]) -> Row:
    """What one node more costs from one size to the next: the dearest beside the cheapest. What a build costs whatever
    its size (six levels' commits) is not a node's."""
    slopes = [(later - earlier) / (more - fewer) for (fewer, earlier), (more, later) in pairwise(times) if more > fewer]
    return Row(
        name="cost of a node more, the dearest",
        measured=max(slopes),
        floor=min(slopes),
        floor_name="the cheapest",
        aim=1.2,
        aim_text="<= 1.2 x",
        judged=max(slopes) / min(slopes),
        note=", ".join(f"{slope * 1e3:.2f} ms" for slope in slopes) + f" up to {times[-1][0]:,} nodes",
    )
