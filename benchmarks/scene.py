"""The stage of the benchmarks: a whole Pelagos in a temporary home, and descriptions of any size for it to build.

Nothing is shortened: a run goes from the client through the HTTP edge (in process), the exchange, the maintainer,
operations and the journal in a SQLite file with ``synchronous=FULL`` to the simulated cloud, and is followed by its
events, as ``pelagos up`` does.
"""

from __future__ import annotations

import contextlib
import gc
import random
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pelagos.clients import Client, InProcessTransport, connect
from pelagos.clouds import AccountConfig, Plugins
from pelagos.clouds.port import CloudDriver, DriverContext
from pelagos.clouds.simulated import SimulatedCloud, SimulatedOptions, SimulatedPlugin
from pelagos.clouds.simulated.driver import SimulatedDriver
from pelagos.clouds.values import CloudServer, ServerSpec
from pelagos.model import SystemWorld
from pelagos.model.states import ServerState
from pelagos.runtime import Runtime, Settings
from pelagos.runtime.settings import HttpSettings
from pelagos.services.infrastructure.graph import critical_path
from pelagos.wire.infrastructures import RunRequest, RunView

__all__ = ["Scene", "Stopwatch", "description", "layered", "open_scene", "quiet", "run_to_end"]

Edges = dict[str, list[str]]
ENTRY = "bench.yaml"
SEED = 1
PATIENCE = 600.0
"""Seconds for one answer: a slow one is to be measured, not given up."""


def layered(nodes: int, levels: int = 6, fan: int = 3) -> Edges:
    """Node -> what it depends on: levels of equal size, each node on up to ``fan`` of the level before, by a seed."""
    rng = random.Random(SEED)
    width = -(-nodes // levels)
    names = [f"node-{index:05d}" for index in range(nodes)]
    edges: Edges = {}
    for index, name in enumerate(names):
        level = index // width
        above = names[(level - 1) * width : level * width] if level else []
        edges[name] = sorted(rng.sample(above, min(fan, len(above))))
    return edges


ONE = ("simulated",)
"""The account of a scene that needs but one."""


def description(name: str, edges: Mapping[str, Sequence[str]], clouds: Sequence[str] = ONE) -> dict[str, str]:
    """The bundle: one YAML file with nodes, dependencies and the definitions of their types, one a cloud, which the
    nodes take in turn; no health checks."""
    lines = [f"infra_name: {name}", "user_id: bench", "nodes:"]
    for index, node in enumerate(edges):
        lines += [f"  - name: {node}", f"    type: {_type(clouds, index)}"]
    lines.append("dependencies:")
    lines += [f"  - connection: [{node}, {other}]" for node, others in edges.items() for other in others]
    for index, cloud in enumerate(clouds):
        lines += [
            f"'node_def:{_type(clouds, index)}':",
            "  - resource:",
            "      type: simulated",
            f"      name: {cloud}",
            "    contextualisation:",
            "      type: cloudinit",
            "      context_template: |",
            "        #!/bin/sh",
            "        echo {{infra_name}}",
            "    health_check:",
            "      ping: false",
        ]
    return {ENTRY: "\n".join(lines) + "\n"}


def _type(clouds: Sequence[str], index: int) -> str:
    return f"bench-{index % len(clouds)}"


@dataclass
class Stopwatch:
    """When each server was asked for and when it was ACTIVE, in the cloud's own time: the very latencies drawn."""

    asked: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Token -> node, time of the call."""

    def spans(self, clouds: Sequence[SimulatedCloud]) -> dict[str, float]:
        """Node -> seconds from the call to ACTIVE."""
        active = {h.token: h.at for cloud in clouds for h in cloud.history() if h.state is ServerState.ACTIVE}
        return {node: active[token] - at for token, (node, at) in self.asked.items() if token in active}

    def floor(self, clouds: Sequence[SimulatedCloud], edges: Mapping[str, Sequence[str]]) -> float:
        """The critical path of the graph: nothing that creates a node after what it depends on can be faster."""
        return critical_path(edges, self.spans(clouds))[0]


class _TimedDriver(SimulatedDriver):
    def __init__(self, cloud: SimulatedCloud, watch: Stopwatch) -> None:
        super().__init__(cloud)
        self._watch = watch

    async def create_server(self, spec: ServerSpec, *, token: str, timeout: float) -> CloudServer:
        self._watch.asked[token] = (spec.metadata["node"], self.cloud.datacenter.now())
        return await super().create_server(spec, token=token, timeout=timeout)


class _TimedPlugin(SimulatedPlugin):
    def __init__(self, clouds: Mapping[str, SimulatedCloud], watch: Stopwatch) -> None:
        super().__init__(clouds)
        self._watch = watch

    async def open(self, context: DriverContext) -> CloudDriver:
        return _TimedDriver(self.cloud(context), self._watch)


@dataclass
class Scene:
    runtime: Runtime
    clouds: tuple[SimulatedCloud, ...]
    watch: Stopwatch
    home: Path

    def client(self) -> Client:
        """A client that waits long for its answers; to be used in an ``async with``."""
        return connect(InProcessTransport(self.runtime.app), timeout=PATIENCE, world=self.runtime.world)


def quiet() -> None:
    """Only errors are logged: what is measured is not a terminal."""
    import logging

    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))


@asynccontextmanager
async def open_scene(
    options: SimulatedOptions, *, home: Path | None = None, names: Sequence[str] = ONE
) -> AsyncIterator[Scene]:
    """A started runtime with accounts of these names, each on a simulated cloud, in a home on disk: its own, or the one
    given."""
    quiet()
    world = SystemWorld()
    clouds = {name: SimulatedCloud(world, name=name, options=options) for name in names}
    watch = Stopwatch()
    # Not in memory: a journal in full sync is part of what is measured.
    with tempfile.TemporaryDirectory(prefix="pelagos-bench-", dir="/var/tmp") as place:
        home = home or Path(place) / "home"
        pool = tuple(AccountConfig(name=name, driver="simulated") for name in names)
        settings = Settings(home=home, pool=pool, http=HttpSettings(command_timeout=PATIENCE))
        plugins = Plugins({"simulated": _TimedPlugin(clouds, watch)})
        try:
            async with Runtime(settings, world=world, plugins=plugins) as runtime:
                yield Scene(runtime, tuple(clouds.values()), watch, home)
        finally:
            world.close()


async def run_to_end(scene: Scene, request: RunRequest) -> tuple[RunView, float]:
    """Start a run and follow its events to the end: the run, and the seconds from the request to that."""
    async with scene.client() as client:
        gc.collect()
        begin = time.perf_counter()
        run = await client.runs.start(request)
        async with contextlib.aclosing(client.runs.follow(run.id, after=run.position)) as stream:
            async for _ in stream:
                pass
        took = time.perf_counter() - begin
        run = await client.runs.get(run.id)
    if run.state.value != "succeeded":
        raise RuntimeError(f"the run {run.state.value}: {run.error}")
    return run, took
