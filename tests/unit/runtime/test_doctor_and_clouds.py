"""The doctor's lines about clouds: what would keep an account from being opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from pelagos.clouds import AccountConfig, plugins
from pelagos.model import SystemWorld
from pelagos.runtime import Runtime, Settings
from pelagos.wire.doctor import Fact

pytestmark = pytest.mark.anyio


async def lines(home: Path, *accounts: AccountConfig) -> dict[str, Fact]:
    world = SystemWorld(environ={})
    try:
        async with Runtime(Settings(home=home, pool=accounts), world=world) as runtime:
            view = await runtime.doctor()
            return {fact.name: fact for fact in view.facts if fact.name.startswith("cloud.")}
    finally:
        world.close()


async def test_an_extra_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    account = AccountConfig(name="box", driver="docker")
    found = await lines(tmp_path / "h", account)
    assert found["cloud.box"].state == "ok"
    monkeypatch.setattr(plugins, "_is_there", lambda package: False)
    found = await lines(tmp_path / "h", account)
    assert found["cloud.box"].state == "missing"
    assert "'docker', which is not installed" in found["cloud.box"].fact
    assert found["cloud.box"].advice == "pip install 'pelagos[docker]'"
    assert found["cloud.local"].state == "ok"


async def test_a_secret_that_is_not_there(tmp_path: Path) -> None:
    credentials = {"access_key": "AK", "secret_key": {"env": "NO_SUCH_ENV"}}
    account = AccountConfig(name="ec", driver="ec2", endpoint="http://127.0.0.1:9", region="r", credentials=credentials)
    found = await lines(tmp_path / "h", account)
    assert found["cloud.ec"].state == "missing"
    assert "NO_SUCH_ENV, which is not set" in found["cloud.ec"].fact and found["cloud.ec"].advice
