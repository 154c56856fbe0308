"""The plan of ten thousand nodes beside a bare walk of the same graph."""

from __future__ import annotations

import asyncio
import statistics
import time

from benchmarks.builds import INSTANT
from benchmarks.report import Row
from benchmarks.scene import ENTRY, Edges, description, layered, open_scene
from pelagos.model.states import InfrastructureState, InstanceState, ServerState
from pelagos.services.infrastructure.description import compile_description
from pelagos.services.infrastructure.observed import ObservedInstance
from pelagos.services.infrastructure.plan import make_plan
from pelagos.wire.infrastructures import PlanRequest

ROUNDS = 5


def walk(edges: Edges) -> int:
    """The floor: visit each node after what it depends on."""
    missing = {node: len(others) for node, others in edges.items()}
    dependents: dict[str, list[str]] = {node: [] for node in edges}
    for node, others in edges.items():
        for other in others:
            dependents[other].append(node)
    order = [node for node, count in missing.items() if not count]
    for node in order:
        for dependent in dependents[node]:
            missing[dependent] -= 1
            if not missing[dependent]:
                order.append(dependent)
    return len(order)


def _median(function: object, *arguments: object) -> float:
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        function(*arguments)  # type: ignore[operator]
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def measure(nodes: int = 10_000) -> list[Row]:
    edges = layered(nodes)
    sources = description("plan", edges)
    floor = _median(walk, edges)
    begin = time.perf_counter()
    compiled = compile_description(sources, (ENTRY,)).compiled
    compiling = time.perf_counter() - begin
    targets = {node.name: 1 for node in compiled.nodes}
    observed = [
        ObservedInstance(
            id=f"i-{node.name}", node=node.name, state=InstanceState.READY, created_at=1.0, server=ServerState.ACTIVE
        )
        for node in compiled.nodes[::2]
    ]

    def pure() -> None:
        make_plan(
            name="plan",
            infrastructure_id="x",
            state=InfrastructureState.READY,
            desired=compiled,
            targets=targets,
            observed=observed,
            seconds={},
        )

    async def requested() -> float:
        async with open_scene(INSTANT) as scene, scene.client() as client:
            begin = time.perf_counter()
            await client.plan(PlanRequest(sources=sources, entries=(ENTRY,)))
            return time.perf_counter() - begin

    whole = min(asyncio.run(requested()) for _ in range(3))
    aim = {"aim": 1.5, "aim_text": "<= 1.5 s"}
    name = f"plan of {nodes:,} nodes"
    return [
        Row(name=f"{name}, compiled to plan", measured=_median(pure), floor=floor, floor_name="graph walk", **aim),  # type: ignore[arg-type]
        Row(
            name=f"{name}, request to answer",
            measured=whole,
            floor=floor,
            floor_name="graph walk",
            note=f"of which YAML {compiling:.2f} s",
            **aim,  # type: ignore[arg-type]
        ),
    ]
