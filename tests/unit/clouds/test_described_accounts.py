"""Accounts that resource sections mean: by their label, their endpoint, or with the authentication file of Occopus."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pelagos.clouds import (
    AccountConfig,
    AuthFile,
    Capabilities,
    CloudAuthFailed,
    DriverContext,
    Plugins,
    Pool,
    TokenLookup,
)
from pelagos.model import SystemWorld
from pelagos.model.errors import Ambiguous, DescriptionError, InvalidInput, NotFound
from pelagos.model.names import name_problem

pytestmark = pytest.mark.anyio

IE, DE = "https://ec2.eu-west-1.example", "https://ec2.eu-central-1.example"
AUTH = f"""\
resource:
  - type: ec2
    auth_data: {{accesskey: AK-general, secretkey: SK-general}}
  - type: ec2
    endpoint: {IE}
    auth_data: {{accesskey: AK-ireland, secretkey: SK-ireland}}
  - type: ec2
    endpoint: {IE}
    name: shop
    auth_data:
      accesskey: AK-shop
      secretkey: !text_import {{url: 'file://keys/shop'}}
config_management:
  - type: chef
    auth_data: {{client_name: admin, client_key: PEM}}
"""


class Ec2Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    access_key: str
    secret_key: str
    endpoint: str = ""
    region: str = ""


class DockerOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    endpoint: str = ""


class Resource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    image_id: str = ""
    regionname: str = ""


class Driver:
    capabilities = Capabilities(token_lookup=TokenLookup.TAG, settle=1.0)

    async def close(self) -> None:
        pass

    def snapshot(self) -> dict[str, Any]:
        return {}


class Plugin:
    resource = Resource

    def __init__(self, name: str, options: type[msgspec.Struct]) -> None:
        self.name = name
        self.account_options = options
        self.opened: dict[str, dict[str, Any]] = {}

    async def open(self, context: DriverContext) -> Any:
        self.opened[context.account] = dict(context.options)
        return Driver()


@pytest.fixture
def ec2() -> Plugin:
    return Plugin("ec2", Ec2Options)


@pytest.fixture
def world() -> Iterator[SystemWorld]:
    world = SystemWorld(threads=1)
    yield world
    world.close()


@pytest.fixture
def auth(tmp_path: Path) -> AuthFile:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "shop").write_text("SK-from-a-file")
    (tmp_path / "auth_data.yaml").write_text(AUTH)
    return AuthFile(tmp_path / "auth_data.yaml")


def pool_of(world: SystemWorld, ec2: Plugin, auth: AuthFile | None, *accounts: AccountConfig) -> Pool:
    plugins = Plugins({"ec2": ec2, "docker": Plugin("docker", DockerOptions)}, source=lambda *, group: ())
    return Pool(accounts, plugins, world, Path("/nowhere"), auth=auth)


def section(endpoint: str, **keys: Any) -> dict[str, Any]:
    return {"type": "ec2", "endpoint": endpoint, "regionname": "r1", "image_id": "ami", **keys}


def meant(pool: Pool, keys: dict[str, Any]) -> str:
    return pool.for_resource("ec2", keys.get("name"), endpoint=keys.get("endpoint", ""), section=keys)


async def test_the_entry_that_says_most_wins(world: SystemWorld, ec2: Plugin, auth: AuthFile) -> None:
    pool = pool_of(world, ec2, auth)
    names = [meant(pool, section(DE)), meant(pool, section(IE + "/")), meant(pool, section(IE, name="shop"))]
    assert len(set(names)) == 3
    assert all(name_problem(name) is None and name.startswith("ec2-eu-") for name in names)
    for name in names:
        await pool.driver(name)
    assert [ec2.opened[name] for name in names] == [
        {"access_key": "AK-general", "secret_key": "SK-general", "endpoint": DE, "region": "r1"},
        {"access_key": "AK-ireland", "secret_key": "SK-ireland", "endpoint": IE + "/", "region": "r1"},
        {"access_key": "AK-shop", "secret_key": "SK-from-a-file", "endpoint": IE, "region": "r1"},
    ]


def test_one_cloud_is_one_account_whatever_is_asked_of_it(world: SystemWorld, ec2: Plugin, auth: AuthFile) -> None:
    pool = pool_of(world, ec2, auth)
    first = meant(pool, section(IE))
    assert meant(pool, section(IE, image_id="another")) == first
    assert meant(pool, section(IE + "/")) == first
    assert meant(pool, section(IE, regionname="r2")) != first
    assert len([account for account in pool.accounts() if account.described]) == 2


async def test_a_rotated_key_keeps_the_name(world: SystemWorld, ec2: Plugin, auth: AuthFile) -> None:
    pool = pool_of(world, ec2, auth)
    name = meant(pool, section(DE))
    journaled = pool.description(name)
    assert "SK" not in str(journaled)
    auth.path.write_text(AUTH.replace("-general", "-rotated"))

    later = pool_of(world, ec2, AuthFile(auth.path))
    assert later.find(name) is None
    assert later.know(name, journaled)
    assert not later.know("another", journaled), "the name is made of what it means"
    await later.driver(name)
    assert ec2.opened[name]["secret_key"] == "SK-rotated"

    auth.path.write_text("resource: []\n")
    gone = pool_of(world, ec2, AuthFile(auth.path))
    assert gone.know(name, journaled)
    with pytest.raises(CloudAuthFailed, match="no entry for"):
        await gone.driver(name)


def test_two_entries_of_which_neither_says_more_are_an_error(world: SystemWorld, ec2: Plugin, auth: AuthFile) -> None:
    auth.path.write_text(
        AUTH.replace("config_management:", "  - {type: ec2, name: shop, auth_data: {}}\nconfig_management:")
    )
    pool = pool_of(world, ec2, auth)
    meant(pool, section(IE, name="shop"))  # type, endpoint and name say more than either
    auth.path.write_text(
        f"resource:\n- {{type: ec2, endpoint: '{IE}', auth_data: {{accesskey: a}}}}\n"
        "- {type: ec2, name: shop, auth_data: {accesskey: b}}\n"
    )
    auth.forget()
    with pytest.raises(Ambiguous) as caught:
        meant(pool, section(IE, name="shop"))
    assert f"{auth.path}:2:3 and {auth.path}:3:3" in caught.value.message
    auth.path.write_text(auth.path.read_text().replace("b}", "a}"))
    auth.forget()
    assert meant(pool, section(IE, name="shop")), "the same credentials twice are no riddle"


def test_an_entry_says_more_whatever_slash_its_endpoint_ends_with(tmp_path: Path) -> None:
    path = tmp_path / "auth_data.yaml"
    path.write_text(
        "resource:\n"
        "- {type: ec2, endpoint: http://127.0.0.1:5577, auth_data: {accesskey: general}}\n"
        "- {type: ec2, endpoint: 'HTTP://127.0.0.1:5577/', regionname: eu-west-1, auth_data: {accesskey: ireland}}\n"
    )
    section = {"type": "ec2", "endpoint": "http://127.0.0.1:5577", "regionname": "eu-west-1"}
    found = [AuthFile(path).find(section | more) for more in ({}, {"regionname": "eu-central-1"})]
    assert [entry and entry.auth_data["accesskey"] for entry in found] == ["ireland", "general"]


def test_entries_that_differ_by_a_slash_alone_say_no_more_than_the_other(tmp_path: Path) -> None:
    path = tmp_path / "auth_data.yaml"
    path.write_text(
        "resource:\n"
        "- {type: ec2, endpoint: http://127.0.0.1:5577, auth_data: {accesskey: one}}\n"
        "- {type: ec2, endpoint: http://127.0.0.1:5577/, auth_data: {accesskey: other}}\n"
    )
    with pytest.raises(Ambiguous, match="neither says more"):
        AuthFile(path).find({"type": "ec2", "endpoint": "http://127.0.0.1:5577"})


def test_accounts_of_the_configuration_come_first(world: SystemWorld, ec2: Plugin, auth: AuthFile) -> None:
    configured = [
        AccountConfig(name="lab-cloud", driver="ec2", endpoint="https://lab.example"),
        AccountConfig(name="ireland", driver="ec2", endpoint=IE.upper().replace("HTTPS", "https")),
    ]
    pool = pool_of(world, ec2, auth, *configured)
    assert meant(pool, section(IE)) == "ireland", "by its endpoint"
    assert meant(pool, section(DE, name="lab_cloud")) == "lab-cloud", "by its label, whatever the endpoint"
    assert meant(pool, section(DE)).startswith("ec2-"), "not on another cloud's bill"


def test_without_credentials_there_is_no_account(world: SystemWorld, ec2: Plugin) -> None:
    pool = pool_of(world, ec2, None)
    with pytest.raises(NotFound, match="no account of type 'ec2' at https") as caught:
        meant(pool, section(DE))
    assert DE in (caught.value.advice or "")
    assert pool.for_resource("docker", endpoint="unix:///run/docker.sock").startswith("docker-unix-run-docker-sock-")
    with pytest.raises(NotFound):
        pool.for_resource("docker")
    one = pool_of(world, ec2, None, AccountConfig(name="home", driver="ec2"))
    assert meant(one, section(DE)) == "home", "an account without an endpoint takes any"


def test_the_mistakes_of_the_file_have_places_and_show_no_line(tmp_path: Path) -> None:
    path = tmp_path / "auth.yaml"
    path.write_text(
        "resource:\n- {type: ec2}\n- 3\n- {type: nova, auth_data: hunter2}\nresources: []\n"
        "config_management: {}\nmore: !!python/object:os.system {}\n"
    )
    with pytest.raises(DescriptionError) as caught:
        AuthFile(path).entries()
    found = caught.value.diagnostics
    assert [one.position.line for one in found if one.position] == [7, 2, 3, 4, 5, 6, 7]
    assert all(one.source == "" for one in found)
    path.write_text("resource:\n- auth_data: {k: !text_import {url: 'file://../../etc/hostname'}}\n")
    with pytest.raises(DescriptionError) as caught:
        AuthFile(path).entries()
    assert "leads out of the directory" in caught.value.diagnostics[0].summary
    with pytest.raises(InvalidInput, match="cannot be read"):
        AuthFile(tmp_path / "none.yaml").entries()


CORPUS = Path(__file__).parents[4] / "shared" / "corpus" / "occopus" / "home" / "auth_data.yaml"


@pytest.mark.skipif(not CORPUS.is_file(), reason=f"the ancestor's examples are not at {CORPUS.parent}")
def test_the_ancestors_own_example_is_read() -> None:
    entries = AuthFile(CORPUS).entries()
    assert {entry.filter["type"] for entry in entries} >= {"ec2", "nova", "azure_vm", "cloudsigma"}
    assert AuthFile(CORPUS).find({"type": "ec2", "endpoint": "x"}) == entries[0]


# -- what is known before an account is opened -------------------------------------------------------------------------


def keyed(world: SystemWorld, ec2: Plugin, tmp_path: Path, auth_data: str, *accounts: AccountConfig) -> Pool:
    path = tmp_path / "auth.yaml"
    path.write_text(f"resource:\n  - type: ec2\n    auth_data: {auth_data}\n")
    return pool_of(world, ec2, AuthFile(path), *accounts)


@pytest.mark.parametrize(
    ("auth_data", "what"),
    [
        ("{accesskey: AK}", "secret_key is missing"),
        ("{accesskey: AK, secretkey: [SK]}", "secret_key"),
        ("{accesskey: AK, secretkey: SK, colour: red}", "colour"),
    ],
)
async def test_an_entry_that_does_not_do_is_known_beforehand_with_its_place(
    world: SystemWorld, ec2: Plugin, tmp_path: Path, auth_data: str, what: str
) -> None:
    pool = keyed(world, ec2, tmp_path, auth_data)
    section = {"type": "ec2", "endpoint": IE}
    trouble = pool.trouble("ec2", section)
    assert isinstance(trouble, InvalidInput) and what in trouble.message
    assert f"{tmp_path / 'auth.yaml'}:2" in trouble.advice
    assert "SK" not in trouble.message
    # It is what opening it says, too.
    with pytest.raises(InvalidInput) as caught:
        await pool.driver(pool.for_resource("ec2", endpoint=IE, section=section))
    assert str(caught.value) == trouble.message and caught.value.advice == trouble.advice


async def test_a_good_entry_has_no_trouble_and_an_open_account_never(
    world: SystemWorld, ec2: Plugin, tmp_path: Path
) -> None:
    pool = keyed(world, ec2, tmp_path, "{accesskey: AK, secretkey: SK}")
    section = {"type": "ec2", "endpoint": IE}
    assert pool.trouble("ec2", section) is None
    assert len(pool.accounts()) == 1, "whoever asks puts no account into the pool"
    await pool.driver(pool.for_resource("ec2", endpoint=IE, section=section))
    (tmp_path / "auth.yaml").write_text("resource: []\n")
    assert pool.trouble("ec2", section) is None


async def test_secrets_that_are_not_there_are_known_beforehand(ec2: Plugin, tmp_path: Path) -> None:
    world = SystemWorld(threads=1, environ={"KNOWN": "SK"})
    try:
        secrets = {"env": "UNKNOWN"}, {"file": str(tmp_path / "none")}, {"env": "KNOWN"}
        pool = pool_of(
            world,
            ec2,
            None,
            *(
                AccountConfig(name=name, driver="ec2", credentials={"access_key": "AK", "secret_key": secret})
                for name, secret in zip(("env", "file", "good"), secrets, strict=True)
            ),
        )
        found = {name: pool.trouble("ec2", {"type": "ec2", "name": name}) for name in ("env", "file", "good")}
        assert isinstance(found["env"], NotFound) and "UNKNOWN, which is not set" in found["env"].message
        assert isinstance(found["file"], NotFound) and "does not exist" in found["file"].message
        assert found["good"] is None
        assert pool.trouble("ec2", {"type": "ec2", "name": "{{ variables.cloud }}"}) is None, "nobody knows which"
    finally:
        world.close()
