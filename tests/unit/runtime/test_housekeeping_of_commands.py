"""Homes without a daemon are tidied by their commands: at most for a moment, and never at a command's expense."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from pelagos.model.errors import NotFound
from pelagos.model.scope import DEFAULT_SCOPE
from pelagos.model.world import SystemWorld
from pelagos.runtime import Runtime, Settings
from pelagos.runtime import housekeeping as module
from pelagos.runtime.housekeeping import DAY, STAMP_NAME, tidy_up
from pelagos.store import append, open_store

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", simulated=True)


@pytest.fixture
def world() -> Iterator[SystemWorld]:
    world = SystemWorld()
    yield world
    world.close()


async def command(settings: Settings, world: SystemWorld, *, old: int = 0) -> None:
    """A command of this home, which leaves records of long ago."""
    async with Runtime(settings, world=world) as runtime:
        for _ in range(old):
            await runtime.store.run(lambda c: append(c, DEFAULT_SCOPE, "old", at=1.0) and None)


def kinds(settings: Settings) -> list[str]:
    with sqlite3.connect(settings.home / "pelagos.db") as connection:
        found = [kind for (kind,) in connection.execute("SELECT kind FROM events")]
    connection.close()
    return found


def age(settings: Settings, days: float, world: SystemWorld) -> None:
    then = world.now() - days * DAY
    os.utime(settings.home / STAMP_NAME, (then, then))


async def test_the_first_command_of_a_day_prunes_and_the_others_do_not(settings: Settings, world: SystemWorld) -> None:
    await command(settings, world, old=2)
    assert kinds(settings) == []
    assert (settings.home / STAMP_NAME).stat().st_mode & 0o777 == 0o600
    await command(settings, world, old=2)
    assert kinds(settings) == ["old", "old"]
    age(settings, 0.9, world)
    await command(settings, world)
    assert kinds(settings) == ["old", "old"]
    age(settings, 1.1, world)
    await command(settings, world)
    assert kinds(settings) == []
    assert world.now() - (settings.home / STAMP_NAME).stat().st_mtime < DAY / 2


async def test_a_clock_that_was_wrong_does_not_put_it_off(settings: Settings, world: SystemWorld) -> None:
    await command(settings, world)
    age(settings, -400, world)
    await command(settings, world, old=1)
    assert kinds(settings) == []


async def test_a_command_that_fails_is_not_held_up(settings: Settings, world: SystemWorld) -> None:
    with pytest.raises(NotFound):
        async with Runtime(settings, world=world) as runtime:
            await runtime.client().infrastructures.status("nothing")
    assert not (settings.home / STAMP_NAME).exists()


async def test_what_a_moment_does_not_do_the_next_command_does(
    settings: Settings, world: SystemWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SMALL", 3)
    await command(settings, world)
    await command(settings, world, old=7)
    age(settings, 2, world)
    with monkeypatch.context() as short:
        short.setattr(module, "_MOMENT", 0.0)
        await command(settings, world)
        assert len(kinds(settings)) == 4
        await command(settings, world)
        assert len(kinds(settings)) == 1
    await command(settings, world)
    assert kinds(settings) == []
    assert (settings.home / STAMP_NAME).exists()


async def test_another_writer_is_neither_waited_for_nor_an_error(settings: Settings, world: SystemWorld) -> None:
    await command(settings, world, old=0)
    store = open_store(settings.store_target, world)
    await store.start()
    await store.run(lambda c: append(c, DEFAULT_SCOPE, "old", at=1.0) and None)
    await store.stop()
    age(settings, 2, world)
    writer = sqlite3.connect(settings.home / "pelagos.db", isolation_level=None)
    try:
        writer.execute("BEGIN IMMEDIATE")
        began = world.monotonic()
        assert await tidy_up(settings, world) == 0
        assert world.monotonic() - began < 5.0  # the store of a command would wait for 30 s
        writer.execute("ROLLBACK")
    finally:
        writer.close()
    assert kinds(settings) == ["old"]
    assert await tidy_up(settings, world) == 0  # tomorrow, not with every command


@pytest.mark.parametrize("broken", ["stamp", "store", "home"])
async def test_nothing_that_is_wrong_with_the_home_is_an_error(
    settings: Settings, world: SystemWorld, broken: str
) -> None:
    await command(settings, world)
    (settings.home / STAMP_NAME).unlink()
    match broken:
        case "stamp":
            (settings.home / STAMP_NAME).symlink_to("/dev/full")
        case "store":
            (settings.home / "pelagos.db").write_bytes(b"no data base" * 100)
        case _:
            settings.home.rename(settings.home.with_name("moved"))
    assert await tidy_up(settings, world) == 0
