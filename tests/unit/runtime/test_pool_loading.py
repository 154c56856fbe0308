"""The clouds of the configuration: every way to name them, and mistakes with their places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pelagos.clouds import AccountConfig, Plugins, Pool
from pelagos.model import SystemWorld
from pelagos.model.errors import DescriptionError, NotFound
from pelagos.runtime import Settings, load_settings
from pelagos.runtime.pool_loading import check_options, open_pool
from pelagos.runtime.reloading import PoolReloader

pytestmark = pytest.mark.anyio


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def load(path: Path, **environ: str) -> Settings:
    return load_settings(path, environ={"HOME": str(path.parent), **environ})


def places(caught: pytest.ExceptionInfo[DescriptionError]) -> list[str]:
    return [str(one).partition("c.yaml:")[2] or str(one) for one in caught.value.diagnostics]


def test_a_mapping_from_names_is_a_list_of_accounts(tmp_path: Path) -> None:
    text = "pool:\n  east: {driver: simulated}\n  lab:\n    driver: simulated\n    options: {seed: 3}\n"
    file = write(tmp_path / "c.yaml", text)
    east, lab = AccountConfig(name="east", driver="simulated"), AccountConfig(name="lab", driver="simulated")
    assert load(file).pool == (east, AccountConfig(name="lab", driver="simulated", options={"seed": 3}))
    write(tmp_path / "c.local.yaml", "pool:\n  lab: {options: {seed: 4}, default: true}\n  new: {driver: local}\n")
    merged = load(file).pool
    assert merged[1] == AccountConfig(name="lab", driver="simulated", options={"seed": 4}, default=True)
    assert merged[2].name == "new"
    assert load(write(tmp_path / "d.yaml", ""), PELAGOS_POOL="{east: {driver: simulated}}").pool == (east,)
    assert load(tmp_path / "d.yaml", PELAGOS_POOL="[{name: lab, driver: simulated}]").pool == (lab,)


def test_mistakes_between_accounts_have_places(tmp_path: Path) -> None:
    file = write(
        tmp_path / "c.yaml",
        "pool:\n"
        "- {name: one, driver: local, default: true}\n"
        "- {name: two, driver: local, default: true}\n"
        "- {name: a b, driver: simulated}\n"
        "- {name: one, driver: simulated, parallel_calls: 0}\n",
    )
    with pytest.raises(DescriptionError) as caught:
        load(file)
    assert places(caught) == [
        "3:30: 'one' and 'two' are both the default of driver 'local'",
        "4:4: the account name 'a b' contains ' '; only letters, digits and hyphens are allowed",
        "5:4: two accounts are called 'one'",
        "5:34: parallel_calls of 'one' must be 1 or more",
    ]


def test_a_mistake_beside_a_secret_shows_no_line(tmp_path: Path) -> None:
    text = "pool:\n- {name: one, driver: x, credentials: {secret_key: hunter2}, defualt: true}\n"
    file = write(tmp_path / "c.yaml", text)
    with pytest.raises(DescriptionError) as caught:
        load(file)
    assert "hunter2" not in repr(caught.value.diagnostics)
    assert caught.value.diagnostics[0].position is not None


def test_options_are_checked_against_the_drivers_with_places(tmp_path: Path) -> None:
    file = write(
        tmp_path / "c.yaml",
        "pool:\n"
        "  east:\n"
        "    driver: simulated\n"
        "    options:\n"
        "      boot_secs: 3\n"
        "      seed: {env: NOT_SET}\n"
        "  west: {driver: simulatd}\n",
    )
    settings = load(file)
    with pytest.raises(DescriptionError) as caught:
        check_options(settings, Plugins(), SystemWorld(threads=1))
    first, second = places(caught)
    assert first.startswith("5:7: the account 'east': boot_secs is not known; did you mean 'boot_seconds'?")
    assert second.startswith("7:10: there is no cloud driver of type 'simulatd'")


def test_paths_are_taken_from_the_file_that_names_them(tmp_path: Path) -> None:
    write(tmp_path / "farm.yaml", "dublin: {ENGINE: ec2_eu_west, PASSWORD: {file: secret}}\n")
    write(tmp_path / "auth.yaml", "resource: []\n")
    file = write(
        tmp_path / "c.yaml",
        "cloud_farm: farm.yaml\nauth_file: auth.yaml\n"
        "pool:\n  lab: {driver: simulated, credentials: {seed: {file: seed}}, options: {a: [{file: /x}]}}\n",
    )
    settings = load(file)
    lab, dublin = settings.pool
    assert lab.credentials == {"seed": {"file": str(tmp_path / "seed")}}
    assert lab.options == {"a": [{"file": "/x"}]}
    assert (dublin.name, dublin.driver) == ("dublin", "ec2")
    assert dublin.credentials == {"secret_key": {"file": str(tmp_path / "secret")}}
    assert settings.auth_file == str(tmp_path / "auth.yaml")
    with pytest.raises(DescriptionError) as caught:
        load(write(tmp_path / "c.yaml", "cloud_farm: nowhere.yaml\n"))
    assert places(caught)[0].startswith("1:1: cloud_farm:")


def test_the_ancestors_look_up_of_its_authentication_file(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", "")
    assert load(file).auth_file == ""
    (tmp_path / ".occopus").mkdir()
    usual = write(tmp_path / ".occopus" / "auth_data.yaml", "resource: []\n")
    assert load(file).auth_file == str(usual)
    assert load(file, OCCOPUS_AUTH_DATA_PATH="/etc/auth.yaml").auth_file == "/etc/auth.yaml"
    assert load(file, OCCOPUS_AUTH_DATA_PATH="/x", PELAGOS_AUTH_FILE="/etc/own.yaml").auth_file == "/etc/own.yaml"


class Program:
    """A pool that is reloaded from a file."""

    def __init__(self, file: Path) -> None:
        self.world = SystemWorld(threads=1)
        self.plugins = Plugins()
        self.pool: Pool = open_pool(load(file), self.plugins, self.world)
        self.reloader = PoolReloader(lambda: load(file), lambda: self.pool, self.plugins, self.world)


async def test_a_reload_tells_what_changed_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", "pool: {east: {driver: simulated}, west: {driver: simulated}}\n")
    program = Program(file)
    east: Any = await program.pool.driver("east")

    write(file, "pool:\n  east: {driver: simulated, options: {sed: 1}}\n")
    with pytest.raises(DescriptionError) as caught:
        await program.reloader.reload()
    assert places(caught)[0].startswith("2:39: the account 'east': sed is not known")
    write(file, "pool: [\n")
    with pytest.raises(DescriptionError):
        await program.reloader.reload()
    assert [account.name for account in program.pool.accounts()] == ["east", "west", "local"]
    assert await program.pool.driver("east") is east

    write(file, "pool: {east: {driver: simulated}, north: {driver: simulated}}\n")
    change = await program.reloader.reload()
    assert (change.added, change.removed, change.kept) == (("north",), ("west",), ("east", "local"))
    assert await program.pool.driver("east") is east
    change = await program.reloader.reload("east")
    assert change.renewed == ("east",)
    assert await program.pool.driver("east") is not east
    with pytest.raises(NotFound):
        await program.reloader.reload("west")
    await program.pool.close()
    program.world.close()
