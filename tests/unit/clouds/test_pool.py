"""The pool: which accounts there are, which one a resource means, and when drivers open and close."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pelagos.clouds import (
    AccountConfig,
    Capabilities,
    CloudDriver,
    CloudUnreachable,
    DriverContext,
    Plugins,
    Pool,
    TokenLookup,
)
from pelagos.model import SystemWorld
from pelagos.model.errors import Ambiguous, InvalidInput, NotFound, PelagosError, Unavailable


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    region: str
    secret: str = ""
    retries: int = 3


class Resource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    flavor: str


class Driver:
    capabilities = Capabilities(token_lookup=TokenLookup.TAG, settle=1.0, parallel_calls=4)

    def __init__(self, log: list[str], context: DriverContext) -> None:
        self.log = log
        self.context = context

    async def close(self) -> None:
        self.log.append(f"close {self.context.account}")
        if self.context.account == "sore":
            raise CloudUnreachable("it does not close")

    def snapshot(self) -> dict[str, Any]:
        return {"calls": 0}


class Plugin:
    resource = Resource
    account_options = Options

    def __init__(self, name: str) -> None:
        self.name = name
        self.log: list[str] = []
        self.down = False
        self.contexts: list[DriverContext] = []

    async def open(self, context: DriverContext) -> CloudDriver:
        self.log.append(f"open {context.account}")
        await asyncio.sleep(0)
        if self.down:
            raise CloudUnreachable("the cloud is down")
        self.contexts.append(context)
        return Driver(self.log, context)  # type: ignore[return-value]  # the pool calls no verbs


def pool_of(*accounts: AccountConfig, plugin: Plugin | None = None, **more: Any) -> Pool:
    stars = plugin or Plugin("stars")
    plugins = Plugins({"stars": stars, "local": Plugin("local"), "empty": Plugin("empty")}, source=lambda group: [])
    return Pool(accounts, plugins, SystemWorld(threads=1), Path("/nowhere"), **more)


def stars(name: str, **more: Any) -> AccountConfig:
    return AccountConfig(**{"name": name, "driver": "stars", "options": {"region": "north"}, **more})


def test_without_configuration_there_is_a_local_account() -> None:
    assert [a.name for a in pool_of().accounts()] == ["local"]
    assert [a.name for a in pool_of(simulated=True).accounts()] == ["local", "simulated"]
    assert [a.name for a in pool_of(stars("a")).accounts()] == ["a", "local"]


@pytest.mark.parametrize("configured", [AccountConfig(name="here", driver="local"), stars("local")])
def test_configured_otherwise_there_is_no_implicit_one(configured: AccountConfig) -> None:
    assert [a.config for a in pool_of(configured).accounts()] == [configured]


def test_the_account_of_a_resource() -> None:
    pool = pool_of(stars("a"), stars("b", default=True))
    assert pool.for_resource("stars", "a") == "a", "the one that is named"
    assert pool.for_resource("stars", "some label") == "b", "else the default one"
    assert pool.for_resource("stars") == "b"
    assert pool.for_resource("local", "a") == "local", "else the only one of the type, whatever the label"


def test_several_accounts_and_no_default_are_ambiguous() -> None:
    with pytest.raises(Ambiguous) as caught:
        pool_of(stars("a"), stars("b")).for_resource("stars", "label")
    assert caught.value.details["ids"] == ["a", "b"]
    assert "name:" in caught.value.advice


def test_an_account_is_known_by_what_is_no_secret() -> None:
    def identity(**more: Any) -> Any:
        return pool_of(stars("a", **more)).identity("a")

    plain = identity()
    assert (plain.driver, plain.endpoint, plain.region, plain.options) == ("stars", "", "north", "")
    # Renewing what one enters with, and how fast it is asked, makes no other account.
    for same in (
        {"credentials": {"secret": "hush"}},
        {"options": {"region": "north", "secret": "hush"}},
        {"options": {"region": "north", "secret": {"env": "HUSH"}}},
        {"options": {}, "region": "north"},
        {"parallel_calls": 2, "default": True},
    ):
        assert identity(**same) == plain, same
    assert identity(region="south", options={}).region == "south"
    assert identity(endpoint="https://me:hush@stars.example:99/v1").endpoint == "https://stars.example:99/v1"
    retried = identity(options={"region": "north", "retries": 4})
    assert retried != plain and retried != identity(options={"region": "north", "retries": 5})
    assert identity(options={"region": "north", "retries": 4, "secret": "hush"}) == retried
    with pytest.raises(NotFound):
        pool_of().identity("a")


def test_no_account_of_the_type_says_how_to_get_one() -> None:
    with pytest.raises(NotFound) as caught:
        pool_of(stars("a")).for_resource("empty")
    assert "driver: empty" in caught.value.advice and "a (stars)" in caught.value.advice


def test_an_unknown_type_says_what_there_is() -> None:
    with pytest.raises(NotFound) as caught:
        pool_of().for_resource("star")
    assert "'stars'" in caught.value.advice and "local" in caught.value.advice


def test_an_unknown_account_says_what_there_is() -> None:
    with pytest.raises(NotFound) as caught:
        pool_of(stars("a")).account("b")
    assert caught.value.details["accounts"] == ["a", "local"]


def test_all_mistakes_of_the_configuration_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        pool_of(
            stars("a.b"),
            stars("x", default=True),
            stars("x"),
            stars("y", default=True),
            stars("z", parallel_calls=0, calls_per_second=-1.0),
        )
    assert len(caught.value.details["problems"]) == 5


@pytest.mark.anyio
async def test_a_driver_opens_once_when_first_needed() -> None:
    plugin = Plugin("stars")
    pool = pool_of(stars("a", options={"region": "north", "retries": "5"}), plugin=plugin)
    assert plugin.log == []
    drivers = await asyncio.gather(*(pool.driver("a") for _ in range(5)))
    assert len(set(map(id, drivers))) == 1
    assert plugin.log == ["open a"]
    assert plugin.contexts[0].options == {"region": "north", "retries": 5}
    assert pool.snapshot()["a"] == {
        "driver": "stars",
        "default": False,
        "opened": True,
        "driver_state": {"calls": 0},
    }


@pytest.mark.anyio
async def test_a_failed_opening_is_tried_again() -> None:
    plugin = Plugin("stars")
    pool = pool_of(stars("a"), plugin=plugin)
    plugin.down = True
    with pytest.raises(CloudUnreachable):
        await pool.driver("a")
    plugin.down = False
    assert await pool.driver("a")
    assert plugin.log == ["open a", "open a"]


@pytest.mark.anyio
async def test_wrong_account_options_are_told_all_at_once_and_without_secrets() -> None:
    pool = pool_of(stars("a", options={"regoin": "north", "secret": "s3cret", "retries": "many"}))
    with pytest.raises(InvalidInput) as caught:
        await pool.driver("a")
    assert [key for key, _ in caught.value.details["problems"]] == ["regoin", "retries", "region"]
    assert "s3cret" not in str(caught.value.payload())
    assert "s3cret" not in str(pool.snapshot())


@pytest.mark.anyio
async def test_capabilities_with_what_the_configuration_puts_in_their_place() -> None:
    pool = pool_of(stars("a"), stars("b", parallel_calls=1, calls_per_second=2.5))
    declared = await pool.account("a").capabilities()
    assert (declared.parallel_calls, declared.calls_per_second) == (4, 0.0)
    changed = await pool.account("b").capabilities()
    assert (changed.parallel_calls, changed.calls_per_second, changed.settle) == (1, 2.5, 1.0)


@pytest.mark.anyio
async def test_close_closes_what_is_open_and_for_good() -> None:
    plugin = Plugin("stars")
    pool = pool_of(stars("a"), stars("sore"), stars("b"), stars("never"), plugin=plugin)
    for name in ("a", "sore", "b"):
        await pool.driver(name)
    with pytest.raises(ExceptionGroup) as caught:
        await pool.close()
    assert caught.group_contains(CloudUnreachable)
    assert plugin.log[3:] == ["close b", "close sore", "close a"]
    await pool.close()
    assert len(plugin.log) == 6
    with pytest.raises(Unavailable):
        await pool.driver("a")


def test_resource_keys_are_checked_by_the_drivers_struct() -> None:
    pool = pool_of()
    assert pool.validate_resource("stars", {"flavor": "m1"}) == ({"flavor": "m1"}, [])
    _, problems = pool.validate_resource("stars", {"flavour": "m1"})
    assert [key for key, _ in problems] == ["flavour", "flavor"]
    with pytest.raises(PelagosError):
        pool.validate_resource("moons", {})
