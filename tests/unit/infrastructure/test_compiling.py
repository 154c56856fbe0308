"""What a request brings is compiled once, though plan and run both bring it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pelagos.clouds import AuthFile, plugins
from pelagos.clouds.plugins import Plugins
from pelagos.clouds.pool import AccountConfig, Pool
from pelagos.clouds.simulated import SimulatedPlugin
from pelagos.model import SystemWorld
from pelagos.model.diagnostics import Severity
from pelagos.model.errors import DescriptionError, NotFound
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
    drivers = Plugins({"simulated": SimulatedPlugin()}, source=lambda *, group: ())
    pool = Pool([AccountConfig(name="east", driver="simulated")], drivers, world, Path("/nowhere"))
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
    drivers = Plugins({"simulated": SimulatedPlugin(), "far": Far()}, source=lambda *, group: ())
    return Pool([AccountConfig(name="east", driver="simulated")], drivers, world, Path("/nowhere"), auth=auth)


async def test_a_cloud_that_is_described_needs_credentials(world, tmp_path):
    sources = {"a.yaml": INFRA, "b.yaml": FAR.replace("many", "2")}
    with pytest.raises(DescriptionError, match="the pool has no account of driver 'far'"):
        await Compiler(far_pool(world), world).description(sources, ["a.yaml", "b.yaml"], {})
    file = tmp_path / "auth.yaml"
    file.write_text(
        "resource: [{type: far, endpoint: 'https://near.example', auth_data: {accesskey: a, secretkey: b}}]\n"
    )
    with pytest.raises(DescriptionError) as caught:
        await Compiler(far_pool(world, AuthFile(file)), world).description(sources, ["a.yaml", "b.yaml"], {})
    [mistake] = caught.value.diagnostics
    # Where no endpoint is given, none is meant: another implementation may be used.
    both = FAR.replace("      endpoint: https://far.example\n", "").replace("many", "2")
    sources["b.yaml"] = both + "  - resource: {type: simulated, name: east}\n"
    found = await Compiler(far_pool(world, AuthFile(file)), world).description(sources, ["a.yaml", "b.yaml"], {})
    [warning] = found.warnings
    assert str(warning).startswith("b.yaml:2:5") and "this implementation of 'web' is passed over" in str(warning)
    sources["b.yaml"] = FAR.replace("many", "2")
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
    with pytest.raises(DescriptionError, match="the pool has no account of driver 'simulated'"):
        await compiler.description(sources, ["a.yaml", "b.yaml"], {})


CORRECT = {
    "azure_aci": "{resource_group: r, location: l, cpu_cores: 1, memory: 1.5, image: nginx, os_type: Linux, "
    "network_type: Public, ports: [80]}",
    "azure_vm": "{resource_group: r, location: l, vm_size: s, publisher: p, offer: o, sku: k, version: v, username: u, "
    "ssh_key_data: ssh-rsa AAAA}",
    "cloudbroker": "{endpoint: 'https://c', description: {deployment_id: d, instance_type_id: i}}",
    "docker": "{image: nginx, ports: ['8080:80']}",
    "dummy": "{size: '2'}",
    "ec2": "{regionname: r, image_id: i, instance_type: t}",
    "eucalyptus": "{regionname: r, image_id: i, instance_type: t}",
    "libcloud": "{size: s, image: i, extra: {a: 1}}",
    "local": "{}",
    "openstack": "{flavor: f, image: i}",
    "rackspace": "{flavor: f, image: i}",
    "simulated": "{}",
}
"""Resources as their drivers take them, with as few keys as may be."""


def of_type(type_: str, keys: str) -> str:
    return f"'node_def:web':\n  - resource:\n      {{type: {type_}, {keys.removeprefix('{')}\n".replace(", }", "}")


@pytest.fixture
def laptop(world):
    """The pool of a laptop: no account but ``local``, and all drivers there are."""
    return Compiler(Pool([], Plugins(), world, Path("/nowhere")), world)


@pytest.mark.parametrize("type_", CORRECT)
async def test_the_driver_itself_checks_what_is_imported_whether_or_not_it_can_be_used(laptop, type_):
    correct = of_type(type_, CORRECT[type_])
    [implementation] = (await laptop.definitions({"d": correct}, ["d"])).definitions["web"]
    assert implementation.resource_type == type_
    with pytest.raises(DescriptionError) as caught:
        await laptop.definitions({"d": correct.replace("{type:", "{hue: x, type:")}, ["d"])
    assert [str(one).partition(";")[0] for one in caught.value.diagnostics] == ["d:3:8: 'hue' is not known"]


async def test_a_type_that_there_is_not_is_a_mistake_with_its_place(laptop):
    sources = {"a.yaml": INFRA, "b.yaml": of_type("dokcer", "{image: nginx}")}
    for compiling in (laptop.definitions(sources, ["b.yaml"]), laptop.description(sources, ["a.yaml", "b.yaml"], {})):
        with pytest.raises(DescriptionError) as caught:
            await compiling
        [mistake] = caught.value.diagnostics
        assert str(mistake).startswith("b.yaml:3:8: there is no cloud driver of type 'dokcer'")
        assert mistake.advice.startswith("Did you mean 'docker'?")


async def test_a_stand_in_is_built_whatever_the_type(compiler):
    sources = {"a.yaml": INFRA, "b.yaml": of_type("dokcer", "{image: nginx}")}
    found = await compiler.description(sources, ["a.yaml", "b.yaml"], {}, "east")
    [warning] = found.warnings
    assert (str(warning.position), warning.severity) == ("b.yaml:3:8", Severity.WARNING)
    assert found.compiled.nodes[0].implementations == (0,)


async def test_what_is_missing_is_told_apart_extra_or_account(world, monkeypatch):
    sources = {"a.yaml": INFRA, "b.yaml": of_type("openstack", CORRECT["openstack"])}

    async def told(*accounts):
        compiler = Compiler(Pool(accounts, Plugins(), world, Path("/nowhere")), world)
        with pytest.raises(DescriptionError) as caught:
            await compiler.description(sources, ["a.yaml", "b.yaml"], {})
        [mistake] = caught.value.diagnostics
        assert str(mistake.position) == "a.yaml:5:11"
        return mistake

    account = AccountConfig(name="site", driver="openstack", options={"cloud": "site"})
    missing = await told()
    assert missing.summary == "node 'web' cannot be made here: the pool has no account of driver 'openstack'"
    assert missing.advice == "add an account of driver openstack to the clouds of the configuration"

    monkeypatch.setattr(plugins, "find_spec", lambda package: None)
    missing = await told(account)
    assert "needs the Python package 'openstack', which is not installed" in missing.summary
    assert missing.advice == "pip install 'pelagos[openstack]'"
    missing = await told()
    assert missing.advice.startswith("pip install 'pelagos[openstack]', and add an account of driver openstack")

    both = {**sources, "b.yaml": sources["b.yaml"] + "  - resource: {type: local}\n"}
    pool = Pool([account], Plugins(), world, Path("/nowhere"))
    found = await Compiler(pool, world).description(both, ["a.yaml", "b.yaml"], {})
    assert [one.advice for one in found.warnings] == ["pip install 'pelagos[openstack]'"]
    assert found.compiled.nodes[0].implementations == (1,)


OPTIONS = {"access_key": "a", "secret_key": "b"}
NAMED = "'node_def:web':\n  - resource:\n      type: simulated\n      name: {0}\n"


def pool_of(world, *accounts):
    drivers = Plugins({"simulated": SimulatedPlugin()}, source=lambda *, group: ())
    return Pool([AccountConfig(driver="simulated", **one) for one in accounts], drivers, world, Path("/nowhere"))


async def test_a_name_that_no_account_has_is_told_with_what_is_taken_instead(world):
    compiler = Compiler(pool_of(world, {"name": "east"}, {"name": "west", "default": True}), world)
    sources = {"a.yaml": INFRA, "b.yaml": NAMED.format("eats")}
    result = await compiler.description(sources, ["a.yaml", "b.yaml"], {})
    imported = await compiler.definitions({"b.yaml": sources["b.yaml"]}, ["b.yaml"])
    for (warning,) in (result.warnings, imported.warnings):
        assert warning.severity is Severity.WARNING
        assert str(warning) == (
            "b.yaml:4:7: no account of type 'simulated' is called 'eats'; 'west' is taken, the default"
        )
        assert warning.advice == "did you mean 'east'? There are east and west"
    stored = {"web": StoredDefinition(file="d.yaml", sources={"d.yaml": NAMED.format("nowhere")})}
    (warning,) = (await compiler.description({"a.yaml": INFRA}, ["a.yaml"], stored)).warnings
    assert (warning.position.file, warning.advice) == ("d.yaml", "there are east and west")


async def test_the_only_account_is_taken_whatever_the_name_and_that_is_told(compiler):
    sources = {"a.yaml": INFRA, "b.yaml": NAMED.format("nowhere")}
    (warning,) = (await compiler.description(sources, ["a.yaml", "b.yaml"], {})).warnings
    assert "'east' is taken, the only one" in warning.summary and warning.advice == "there is east"


async def test_names_that_mean_an_account_and_templates_are_not_told(world):
    compiler = Compiler(pool_of(world, {"name": "lab-cloud"}, {"name": "west", "default": True}), world)
    for name in ("lab-cloud", "lab_cloud", "west", "'{{ variables.cloud }}'"):
        assert (await compiler.definitions({"b.yaml": NAMED.format(name)}, ["b.yaml"])).warnings == (), name
    alone = {"a.yaml": INFRA, "b.yaml": DEFINITION}
    assert (await compiler.description(alone, ["a.yaml", "b.yaml"], {})).warnings == ()


async def test_that_the_account_of_a_definition_is_ambiguous_is_a_mistake_where_it_is_used(world):
    compiler = Compiler(pool_of(world, {"name": "east"}, {"name": "west"}), world)
    sources = {"a.yaml": INFRA, "b.yaml": NAMED.format("nowhere")}
    assert "web" in (await compiler.definitions({"b.yaml": sources["b.yaml"]}, ["b.yaml"])).definitions
    with pytest.raises(DescriptionError, match="names none of them"):
        await compiler.description(sources, ["a.yaml", "b.yaml"], {})


async def test_a_name_beside_the_endpoint_of_one_account_is_a_label(world):
    drivers = Plugins({"far": Far()}, source=lambda *, group: ())
    accounts = [
        AccountConfig(name=name, driver="far", endpoint=f"https://{name}.example", options=OPTIONS, default=one)
        for name, one in (("east", True), ("west", False))
    ]
    compiler = Compiler(Pool(accounts, drivers, world, Path("/nowhere")), world)
    text = FAR.replace("many", "2").replace("far.example", "west.example/\n      name: wets")
    assert (await compiler.definitions({"b.yaml": text}, ["b.yaml"])).warnings == ()
    text = text.replace("      endpoint: https://west.example/\n", "")
    (warning,) = (await compiler.definitions({"b.yaml": text}, ["b.yaml"])).warnings
    assert "'east' is taken" in warning.summary and "'west'" in warning.advice


BOTH = "'node_def:web':\n  - resource: {type: simulated, name: east}\n  - resource: {type: simulated, name: west}\n"


def unset(world, *broken, opens=lambda: True):
    drivers = Plugins({"simulated": SimulatedPlugin()}, source=lambda *, group: ())
    accounts = [
        AccountConfig(
            name=name, driver="simulated", options={"boot_seconds": {"env": "NO_SUCH_ENV"}} if name in broken else {}
        )
        for name in ("east", "west")
    ]
    return Compiler(Pool(accounts, drivers, world, Path("/nowhere")), world, opens=opens)


async def test_an_account_that_cannot_be_opened_is_a_mistake_where_there_is_no_other(world):
    sources = {"a.yaml": INFRA, "b.yaml": BOTH}
    with pytest.raises(DescriptionError) as caught:
        await unset(world, "east", "west").description(sources, ["a.yaml", "b.yaml"], {})
    (mistake,) = [one for one in caught.value.diagnostics if one.severity is Severity.ERROR]
    assert "node 'web' cannot be made here" in mistake.summary and "NO_SUCH_ENV, which is not set" in mistake.summary
    assert "Set it where this program is started" in mistake.advice


async def test_where_another_process_opens_accounts_its_secrets_may_be_there(world):
    sources = {"a.yaml": INFRA, "b.yaml": BOTH}
    here: list[str] = []
    compiler = unset(world, "east", "west", opens=lambda: bool(here))
    found = await compiler.description(sources, ["a.yaml", "b.yaml"], {})
    assert found.warnings == () and found.compiled.nodes[0].implementations == (0, 1)
    here.append("by now")
    with pytest.raises(DescriptionError):
        await compiler.description(sources, ["a.yaml", "b.yaml"], {})


async def test_an_account_that_cannot_be_opened_is_a_warning_where_there_is_another(world):
    sources = {"a.yaml": INFRA, "b.yaml": BOTH}
    well = await unset(world).description(sources, ["a.yaml", "b.yaml"], {})
    found = await unset(world, "east").description(sources, ["a.yaml", "b.yaml"], {})
    (warning,) = found.warnings
    assert "NO_SUCH_ENV" in warning.summary and "passed over until that is mended" in warning.summary
    # What instances are made from is as before, or all of them would be made anew because of a variable.
    assert found.compiled.nodes == well.compiled.nodes
    assert found.compiled.nodes[0].implementations == (0, 1)
