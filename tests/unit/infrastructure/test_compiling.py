"""What a request brings is compiled once, though plan and run both bring it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pelagos.clouds.plugins import Plugins
from pelagos.clouds.pool import AccountConfig, Pool
from pelagos.clouds.simulated import SimulatedPlugin
from pelagos.model import SystemWorld
from pelagos.model.errors import DescriptionError
from pelagos.services.infrastructure.compiling import Compiler
from pelagos.services.infrastructure.values import StoredDefinition

pytestmark = pytest.mark.anyio

DEFINITION = "'node_def:web':\n  - resource: {type: simulated}\n"
INFRA = "infra_name: shop\nuser_id: me\nnodes:\n  - name: web\n    type: web\n"


class CountingWorld(SystemWorld):
    def __init__(self) -> None:
        super().__init__(threads=1)
        self.compiled = 0

    async def run_blocking(self, function, *args, **kwargs):
        self.compiled += 1
        return await super().run_blocking(function, *args, **kwargs)


@pytest.fixture
def world():
    world = CountingWorld()
    yield world
    world.close()


@pytest.fixture
def compiler(world):
    plugins = Plugins({"simulated": SimulatedPlugin()}, source=lambda *, group: ())
    pool = Pool([AccountConfig(name="east", driver="simulated")], plugins, world, Path("/nowhere"))
    return Compiler(pool, world)


async def test_the_same_bundle_is_compiled_once(compiler, world):
    sources = {"a.yaml": INFRA, "b.yaml": DEFINITION}
    first = await compiler.description(sources, ["a.yaml", "b.yaml"], {})
    assert [node.name for node in first.compiled.nodes] == ["web"]
    assert await compiler.description(dict(sources), ("a.yaml", "b.yaml"), {}) is first
    assert world.compiled == 1


async def test_whatever_differs_is_compiled_anew(compiler, world):
    stored = {"web": StoredDefinition(file="d.yaml", sources={"d.yaml": DEFINITION})}
    await compiler.description({"a.yaml": INFRA}, ["a.yaml"], stored)
    other = {"web": StoredDefinition(file="d.yaml", sources={"d.yaml": DEFINITION.replace("}", ", flavor: big}")})}
    changed = await compiler.description({"a.yaml": INFRA}, ["a.yaml"], other)
    assert changed.compiled.definitions["web"][0].resource["flavor"] == "big"
    renamed = await compiler.description({"a.yaml": INFRA.replace("shop", "mall")}, ["a.yaml"], other)
    assert renamed.compiled.name == "mall"
    assert world.compiled == 3


async def test_a_mistake_is_told_each_time(compiler, world):
    for _ in range(2):
        with pytest.raises(DescriptionError, match="web"):
            await compiler.description({"a.yaml": INFRA}, ["a.yaml"], {})
    assert world.compiled == 2
