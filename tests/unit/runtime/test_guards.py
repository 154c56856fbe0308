"""What watches over a program that hangs. The hangs here are real, and short."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from pelagos.model import SystemWorld
from pelagos.runtime import Settings
from pelagos.runtime.guards import FORCED_END, ForcedEnd, Guards, LoopWatch, dump_tasks
from pelagos.runtime.settings import GuardSettings

pytestmark = pytest.mark.anyio


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    with capture_logs() as captured:
        yield captured


@pytest.fixture
def world() -> Iterator[SystemWorld]:
    made = SystemWorld()
    yield made
    made.close()


def hang_here(seconds: float) -> None:
    time.sleep(seconds)


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - a thread's doing
            await asyncio.sleep(0.01)


async def test_a_loop_that_hangs_is_told_with_the_place(lines: list[Any], world: SystemWorld) -> None:
    with LoopWatch(world.monotonic, 0.2) as watch:
        while not watch.stalls:  # on a busy machine the first may find the thread itself late
            hang_here(0.5)
            await asyncio.sleep(0.3)
        await until(lambda: len(lines) >= 2)
    hung, turns = lines[:2]
    assert (hung["event"], hung["log_level"]) == ("the event loop hangs", "critical")
    assert "hang_here" in hung["where"]
    assert hung["seconds"] >= 0.2
    assert turns["event"] == "the event loop turns again"


async def test_nothing_is_left_of_a_watch(world: SystemWorld) -> None:
    with LoopWatch(world.monotonic) as watch:
        thread = watch._thread
        assert thread is not None
        assert thread.is_alive()
    thread.join(5)
    assert not thread.is_alive()


async def test_tasks_at_the_same_place_are_told_once(lines: list[Any]) -> None:
    gate = asyncio.Event()

    async def inner() -> None:
        await gate.wait()

    async def outer() -> None:
        await inner()

    async with asyncio.TaskGroup() as group:
        for number in range(100):
            group.create_task(outer(), name=f"t{number:03}")
        await asyncio.sleep(0)
        dump_tasks()
        gate.set()
    assert lines[0]["tasks"] >= 100
    [found] = [line for line in lines if line.get("count") == 100]
    assert found["names"] == ["t000", "t001", "t002", "t003", "t004", "…"]
    places = [line.rsplit(" ", 1)[1] for line in found["where"].splitlines()]
    assert [place.rsplit(".", 1)[1] for place in places] == ["outer", "inner", "wait"]


async def test_sigquit_shows_the_tasks_and_ends_nothing(lines: list[Any], world: SystemWorld) -> None:
    with Guards(GuardSettings(stall=0, start=0), world):
        os.kill(os.getpid(), signal.SIGQUIT)
        await until(lambda: any(line["event"] == "told to show the tasks" for line in lines))
    assert signal.getsignal(signal.SIGQUIT) is signal.SIG_DFL


async def test_a_start_or_stop_without_end_is_ended(lines: list[Any], world: SystemWorld) -> None:
    left: list[int] = []
    settings = GuardSettings(stall=0, start=0.05, stop=0.05)
    with Guards(settings, world, leave=left.append):
        await until(lambda: left)
    assert left == [FORCED_END]
    with Guards(GuardSettings(stall=0, start=600, stop=0.05), world, leave=left.append) as guard:
        guard.started()
        assert guard._limit._timer is None
        guard.stopping(0.05)
        await until(lambda: len(left) == 2)
    assert [line["event"] for line in lines if line["log_level"] == "critical"] == [
        "the start takes too long: leaving by force",
        "the stop takes too long: leaving by force",
    ]


async def test_what_ends_in_time_is_not_ended() -> None:
    left: list[int] = []
    limit = ForcedEnd(left.append)
    limit.arm(0.2, "start")
    first = limit._timer
    limit.arm(600, "stop")
    limit.disarm()
    limit.disarm()
    assert first is not None
    first.join(5)
    assert not first.is_alive()
    assert left == []


async def test_they_can_be_turned_off(world: SystemWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "Thread", None)
    monkeypatch.setattr(threading, "Timer", None)
    with Guards(GuardSettings(stall=0, start=0, stop=0), world) as guard:
        guard.started()
        guard.stopping(1)


HANGS = """
import asyncio, sys, time
from pathlib import Path
from pelagos.process import ServiceProcess
from pelagos.runtime import Settings
from pelagos.runtime.hosting import host
from pelagos.runtime.settings import GuardSettings

class Blocks(ServiceProcess):
    name = "blocks"
    async def on_activate(self):
        if sys.argv[2] == "start":
            time.sleep(60)
    async def on_deactivate(self):
        time.sleep(60)

settings = Settings(home=Path(sys.argv[1]), guards=GuardSettings(stall=0.3, start=3 if sys.argv[2] == "start" else 60,
                    stop=0.1))
settings = type(settings)(**{**{f: getattr(settings, f) for f in settings.__struct_fields__},
                             "http": type(settings.http)(drain=0.1)})
asyncio.run(host(settings, processes=["blocks=__main__:Blocks"], container_id="c"))
"""


@pytest.mark.parametrize("when", ["start", "stop"])
def test_a_program_that_hangs_ends_with_its_code_and_says_where(tmp_path: Path, when: str) -> None:
    script = tmp_path / "hangs.py"
    script.write_text(HANGS)
    child = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "home"), when],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        if when == "stop":
            assert "is ready" in child.stdout.readline()
            child.send_signal(signal.SIGTERM)
        _, errors = child.communicate(timeout=50)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == FORCED_END
    assert f"the {when} takes too long" in errors
    assert "the event loop hangs" in errors
    assert "time.sleep(60)" in errors


def test_defaults_guard_and_leave_room() -> None:
    assert Settings().guards == GuardSettings(stall=1.0, start=600.0, stop=60.0)
