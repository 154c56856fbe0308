"""What a stop says that takes long, in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from pelagos.container import Container
from pelagos.process import ServiceProcess, client, operation
from pelagos.runtime.stopping import tell_what_stopping_waits_for
from pelagos.simulation import SimulatedWorld, VirtualLoop

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return ("asyncio", {"loop_factory": VirtualLoop})


class Sleeper(ServiceProcess):
    name = "sleeper"

    @operation
    async def sleep(self) -> None:
        await asyncio.sleep(60.0)


async def _told(container: Container, seconds: float) -> list[tuple[str, int]]:
    with capture_logs() as logs:
        end = tell_what_stopping_waits_for(container, "amqp://broker:5672/%2F")
        await asyncio.sleep(seconds)
        end()
        await asyncio.sleep(60.0)
    return [(entry["event"], entry["seconds"]) for entry in logs if "stopping" in entry["event"]]


async def test_a_short_stop_says_nothing() -> None:
    async with Container(SimulatedWorld()) as container:
        assert await _told(container, 0.9) == []


async def test_a_long_one_names_the_broker_again_and_again_until_it_ends() -> None:
    async with Container(SimulatedWorld()) as container:
        line = "stopping: waiting for the broker amqp://broker:5672/%2F"
        assert await _told(container, 8.0) == [(line, 1), (line, 6)]


async def test_requests_that_run_come_first() -> None:
    async with Container(SimulatedWorld()) as container, asyncio.TaskGroup() as group:
        await container.spawn(Sleeper())
        group.create_task(client(Sleeper, container.edge, timeout=90.0).sleep())
        await asyncio.sleep(0.1)
        assert await _told(container, 2.0) == [("stopping: waiting for requests that run", 1)]
