"""Secrets by reference: read when an account is opened, and nowhere to be seen afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keyring
import msgspec
import pytest
from keyring.backend import KeyringBackend

from pelagos.clouds import AccountConfig, Capabilities, CloudAuthFailed, DriverContext, Plugins, Pool, TokenLookup
from pelagos.clouds.references import resolve
from pelagos.model import SystemWorld
from pelagos.model.errors import InvalidInput, NotFound, PelagosError
from pelagos.model.redaction import HIDDEN, redact_text, without_secrets

pytestmark = pytest.mark.anyio

SECRET = "gK3-hunter2-9f2b"


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    access_key: str
    secret_key: str
    endpoint: str = ""
    region: str = ""
    retries: int = 3


class Resource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    flavor: str = ""


class Driver:
    capabilities = Capabilities(token_lookup=TokenLookup.TAG, settle=1.0)

    def __init__(self, context: DriverContext) -> None:
        self.options = dict(context.options)
        self.closed = False

    async def close(self) -> None:
        self.closed = True

    def snapshot(self) -> dict[str, Any]:
        return {}


class Plugin:
    name = "lab"
    resource = Resource
    account_options = Options

    def __init__(self) -> None:
        self.opened: list[dict[str, Any]] = []
        self.refuses = False

    async def open(self, context: DriverContext) -> Any:
        if self.refuses:
            raise CloudAuthFailed(f"{context.options['secret_key']} is not the password", advice="ask for another")
        driver = Driver(context)
        self.opened.append(driver.options)
        return driver


@pytest.fixture
def plugin() -> Plugin:
    return Plugin()


@pytest.fixture
def environ() -> dict[str, str]:
    return {"LAB_KEY": "AK-12345678"}


@pytest.fixture
def world(environ: dict[str, str]) -> Iterator[SystemWorld]:
    world = SystemWorld(threads=1, environ=environ)
    yield world
    world.close()


def pool_of(plugin: Plugin, world: SystemWorld, **account: Any) -> Pool:
    config = AccountConfig(name="lab", driver="lab", **account)
    return Pool([config], Plugins({"lab": plugin}, source=lambda *, group: ()), world, Path("/nowhere"))


def private(path: Path, text: str = SECRET + "\n") -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


async def test_each_kind_is_read_when_the_account_is_opened(plugin: Plugin, world: SystemWorld, tmp_path: Path) -> None:
    class Ring(KeyringBackend):
        priority = 1

        def get_password(self, service: str, username: str) -> str | None:
            return {("lab", "region"): "north-of-here"}.get((service, username))

        def set_password(self, service: str, username: str, password: str) -> None:
            raise NotImplementedError

    before = keyring.get_keyring()
    keyring.set_keyring(Ring())
    try:
        pool = pool_of(
            plugin,
            world,
            endpoint="https://lab.example",
            credentials={"access_key": {"env": "LAB_KEY"}, "secret_key": {"file": str(private(tmp_path / "secret"))}},
            options={"region": {"keyring": "lab/region"}},
        )
        assert pool.account("lab").problems() == []
        await pool.driver("lab")
    finally:
        keyring.set_keyring(before)
    assert plugin.opened == [
        {
            "access_key": "AK-12345678",
            "secret_key": SECRET,
            "endpoint": "https://lab.example",
            "region": "north-of-here",
        }
    ]


async def test_a_file_that_others_may_read_is_refused(world: SystemWorld, tmp_path: Path) -> None:
    path = private(tmp_path / "secret")
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        with pytest.raises(InvalidInput, match=f"{mode:04o}") as caught:
            await resolve({"key": {"file": str(path)}}, world, "the account 'lab'")
        assert caught.value.advice == f"chmod 600 {path}"
        assert "option 'key' of the account 'lab'" in caught.value.message


async def test_what_is_not_there_says_where_it_was_looked_for(world: SystemWorld, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="environment variable NOBODY"):
        await resolve({"key": {"env": "NOBODY"}}, world, "the account 'lab'")
    with pytest.raises(NotFound, match="which does not exist"):
        await resolve({"key": {"file": str(tmp_path / "none")}}, world, "the account 'lab'")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(InvalidInput, match="no regular file"):
        await resolve({"key": {"file": str(tmp_path / "pipe")}}, world, "the account 'lab'")


async def test_only_a_mapping_with_that_one_key_is_a_reference(world: SystemWorld) -> None:
    plain = {"a": {"env": {"PATH": "/bin"}}, "b": {"file": "x", "mode": 1}, "c": ["env"], "d": 3}
    assert await resolve(plain, world, "the account 'lab'") == plain
    nested = await resolve({"a": [{"b": {"env": "LAB_KEY"}}]}, world, "the account 'lab'")
    assert nested == {"a": [{"b": "AK-12345678"}]}


async def test_a_secret_is_in_no_message_of_ours_or_the_drivers(
    plugin: Plugin, world: SystemWorld, tmp_path: Path
) -> None:
    path = private(tmp_path / "secret")
    credentials = {"access_key": {"env": "LAB_KEY"}, "secret_key": {"file": str(path)}}
    plugin.refuses = True
    pool = pool_of(plugin, world, credentials=credentials)
    with pytest.raises(CloudAuthFailed) as caught:
        await pool.driver("lab")
    assert caught.value.message == f"{HIDDEN} is not the password"
    assert SECRET not in repr(pool.account("lab").config)
    assert SECRET not in str(pool.snapshot())
    assert redact_text(f"the log says {SECRET}") == f"the log says {HIDDEN}"
    assert PelagosError(f"as {SECRET}", advice=SECRET).payload().message == f"as {HIDDEN}"

    literal = pool_of(plugin, world, credentials={"access_key": "AK", "secret_key": ["lit-9-eral", 1]})
    [(key, problem)] = literal.account("lab").problems()
    assert key == "secret_key"
    assert "lit-9-eral" not in problem
    assert "lit-9-eral" not in repr(literal.account("lab").config)


async def test_a_wrong_secret_value_is_told_without_it(
    plugin: Plugin, world: SystemWorld, environ: dict[str, str]
) -> None:
    environ["RETRIES"] = "many-times"
    pool = pool_of(
        plugin, world, credentials={"access_key": "AK", "secret_key": "SK"}, options={"retries": {"env": "RETRIES"}}
    )
    with pytest.raises(InvalidInput, match="retries must be a whole number") as caught:
        await pool.driver("lab")
    assert "many-times" not in caught.value.message
    assert without_secrets("it was many-times") == f"it was {HIDDEN}"


async def test_a_rotated_secret_is_taken_up_when_the_account_is_opened_anew(
    plugin: Plugin, world: SystemWorld, tmp_path: Path
) -> None:
    path = private(tmp_path / "secret", "first-secret")
    pool = pool_of(plugin, world, credentials={"access_key": "AK", "secret_key": {"file": str(path)}})
    first = await pool.driver("lab")
    assert await pool.renew_outdated() == ()
    private(path, "second-secret")
    assert await pool.driver("lab") is first, "an open driver keeps what it has"
    assert await pool.renew_outdated() == ("lab",)
    [retired] = pool.retired()
    await pool.driver("lab")
    assert [options["secret_key"] for options in plugin.opened] == ["first-secret", "second-secret"]
    await pool.retire(retired)
    assert first.closed  # type: ignore[attr-defined]
    assert pool.retired() == []


def test_mistakes_in_references_are_seen_without_reading_them(plugin: Plugin, world: SystemWorld) -> None:
    pool = pool_of(
        plugin,
        world,
        credentials={"access_key": {"keyring": "no-user"}, "secret_key": {"env": ""}},
        options={"access_key": "twice", "region": {"file": "later"}},
    )
    problems = dict(pool.account("lab").problems())
    assert problems["secret_key"] == "refers to no env"
    assert "twice" in problems["access_key"] or "service/user" in problems["access_key"]
    assert "region" not in problems
