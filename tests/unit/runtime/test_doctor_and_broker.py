"""The doctor's line about the broker: whether it answers, and never with what password."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pelagos.model import SystemWorld
from pelagos.runtime import Runtime, Settings
from pelagos.wire.doctor import Fact
from support.brokers import skip_without_broker

pytestmark = pytest.mark.anyio


async def line(home: Path, **settings: str) -> Fact:
    world = SystemWorld(environ={"MOST_SECRET": "hunter2hunter2"})
    try:
        async with Runtime(Settings(home=home, **settings), world=world) as runtime:  # type: ignore[arg-type]
            view = await runtime.doctor()
            assert "hunter2" not in repr(view)
            return next(fact for fact in view.facts if fact.name == "broker")
    finally:
        world.close()


async def test_none(tmp_path: Path) -> None:
    found = await line(tmp_path / "h")
    assert found.state == "ok" and "in memory" in found.fact


async def test_nobody_answers_a_variable_is_missing_and_no_url(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    found = await line(tmp_path / "h", broker=f"amqp://me:${{MOST_SECRET}}@127.0.0.1:{port}/")
    assert found.state == "missing" and f"127.0.0.1:{port}" in found.fact and found.advice
    found = await line(tmp_path / "h", broker="amqp://me:${NO_SUCH}@127.0.0.1/")
    assert found.state == "missing" and "NO_SUCH" in found.fact
    found = await line(tmp_path / "h", broker="http://127.0.0.1/")
    assert found.state == "missing" and found.advice


@pytest.mark.amqp
async def test_it_answers(tmp_path: Path) -> None:
    url = skip_without_broker()
    found = await line(tmp_path / "h", broker=url, system="mine")
    parts = urlsplit(url)
    assert found.state == "ok" and f"{parts.hostname}:{parts.port or 5672}" in found.fact and "mine" in found.fact
    assert f"{parts.username}:" not in found.fact
