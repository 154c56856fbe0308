"""What a request brings is compiled once, though plan and run both bring it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pelagos.clouds import AuthFile
from pelagos.clouds.plugins import Plugins
from pelagos.clouds.pool import AccountConfig, Pool
from pelagos.clouds.simulated import SimulatedPlugin
from pelagos.model import SystemWorld
from pelagos.model.diagnostics import Severity
from pelagos.model.errors import DescriptionError, NotFound
from pelagos.services.infrastructure.compiling import Compiler
from pelagos.services.infrastructure.description import compile_description, resources
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


class Ec2Account(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    access_key: str
    secret_key: str
    endpoint: str = ""


class Ec2Resource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    image_id: str
    count: int = 1


class Far:
    """A driver of a cloud that nobody configured."""

    name = "far"
    account_options = Ec2Account
    resource = Ec2Resource


FAR = """\
'node_def:web':
  - resource:
      type: far
      endpoint: https://far.example
      image_id: x
      count: many
"""


def far_pool(world, auth=None):
    plugins = Plugins({"simulated": SimulatedPlugin(), "far": Far()}, source=lambda *, group: ())
    return Pool([AccountConfig(name="east", driver="simulated")], plugins, world, Path("/nowhere"), auth=auth)


async def test_a_cloud_that_is_described_needs_credentials(world, tmp_path):
    sources = {"a.yaml": INFRA, "b.yaml": FAR.replace("many", "2")}
    with pytest.raises(DescriptionError, match="no cloud of the pool is of type 'far'"):
        await Compiler(far_pool(world), world).description(sources, ["a.yaml", "b.yaml"], {})
    file = tmp_path / "auth.yaml"
    file.write_text(
        "resource: [{type: far, endpoint: 'https://near.example', auth_data: {accesskey: a, secretkey: b}}]\n"
    )
    with pytest.raises(DescriptionError) as caught:
        await Compiler(far_pool(world, AuthFile(file)), world).description(sources, ["a.yaml", "b.yaml"], {})
    [mistake] = caught.value.diagnostics
    assert str(mistake).startswith("b.yaml:4:7: the pool has no account of type 'far' at https://far.example")
    assert "authentication file" in mistake.advice
    file.write_text(file.read_text().replace("near", "far"))
    found = await Compiler(far_pool(world, AuthFile(file)), world).description(sources, ["a.yaml", "b.yaml"], {})
    assert found.warnings == ()


async def test_values_are_mistakes_but_on_a_stand_in(world, tmp_path):
    file = tmp_path / "auth.yaml"
    file.write_text("resource: [{type: far, auth_data: {accesskey: a, secretkey: b}}]\n")
    compiler = Compiler(far_pool(world, AuthFile(file)), world)
    sources = {"a.yaml": INFRA, "b.yaml": FAR}
    with pytest.raises(DescriptionError) as caught:
        await compiler.description(sources, ["a.yaml", "b.yaml"], {})
    assert [str(one) for one in caught.value.diagnostics] == [
        "b.yaml:6:7: 'count' must be a whole number, not text ('many')"
    ]
    found = await compiler.description(sources, ["a.yaml", "b.yaml"], {}, "simulated")
    assert found.compiled.definitions["web"][0].built_on == "east"
    assert [(str(one.position), one.severity) for one in found.warnings] == [("b.yaml:6:7", Severity.WARNING)]
    with pytest.raises(DescriptionError) as caught:
        await compiler.definitions({"b.yaml": FAR.replace("image_id", "image")}, ["b.yaml"], "east")
    errors = [one for one in caught.value.diagnostics if one.severity is Severity.ERROR]
    assert sorted(str(one.position) for one in errors) == ["b.yaml:3:7", "b.yaml:5:7"]
    with pytest.raises(NotFound):
        await compiler.description(sources, ["a.yaml", "b.yaml"], {}, "nowhere")


async def test_the_pools_changes_are_seen(world):
    pool = far_pool(world)
    compiler = Compiler(pool, world)
    sources = {"a.yaml": INFRA, "b.yaml": DEFINITION}
    assert await compiler.description(sources, ["a.yaml", "b.yaml"], {})
    pool.reload([])
    with pytest.raises(DescriptionError, match="no cloud of the pool"):
        await compiler.description(sources, ["a.yaml", "b.yaml"], {})


def test_a_missing_library_names_its_extra(monkeypatch):
    monkeypatch.setattr(resources, "find_spec", lambda package: None)
    assert resources.missing_extra("nova") == "openstack"
    assert resources.missing_extra("local") == ""
    definition = (
        "'node_def:web':\n  - resource: {type: nova, endpoint: e, project_id: p, image_id: i, flavor_name: f}\n"
    )
    with pytest.raises(DescriptionError) as caught:
        compile_description({"a": INFRA, "b": definition}, ["a", "b"], known_types=["local"])
    assert caught.value.diagnostics[0].advice.startswith("pip install 'pelagos[openstack]'")
    both = definition + "  - resource: {type: local}\n"
    result = compile_description({"a": INFRA, "b": both}, ["a", "b"], known_types=["local"])
    assert [one.advice for one in result.warnings] == ["pip install 'pelagos[openstack]'"]
