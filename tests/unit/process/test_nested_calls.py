"""Services that call each other with every slot taken do not lock; circles end with an error."""

from __future__ import annotations

import asyncio

import pytest

from pelagos.container import Container
from pelagos.model.errors import Refused
from pelagos.process import ServiceProcess, client, operation

pytestmark = pytest.mark.anyio


class Left(ServiceProcess):
    name = "left"
    max_concurrent = 2

    async def on_init(self) -> None:
        self.right = client(Right, self)

    @operation
    async def bounce(self, times: int) -> int:
        await asyncio.sleep(0.01)  # until everybody holds a slot
        return 0 if times == 0 else 1 + await self.right.bounce(times - 1)


class Right(ServiceProcess):
    name = "right"
    max_concurrent = 2

    async def on_init(self) -> None:
        self.left = client(Left, self)

    @operation
    async def bounce(self, times: int) -> int:
        await asyncio.sleep(0.01)
        return 0 if times == 0 else 1 + await self.left.bounce(times - 1)


@pytest.mark.parametrize("times", [1, 2, 7])
async def test_two_services_with_every_slot_taken(container: Container, times: int) -> None:
    await container.spawn(Left)
    await container.spawn(Right)
    begin = container.world.monotonic()
    async with asyncio.TaskGroup() as group:
        calls = [
            group.create_task(client(cls, container.edge).bounce(times)) for cls in (Left, Right) for _ in range(20)
        ]
    assert {call.result() for call in calls} == {times}
    assert container.world.monotonic() - begin < 10


async def test_slots_are_bounded_at_every_depth(container: Container) -> None:
    left, right = Left(), Right()
    await container.spawn(left)
    await container.spawn(right)
    async with asyncio.TaskGroup() as group:
        for _ in range(30):
            group.create_task(client(Left, container.edge).bounce(3))
        for _ in range(100):
            await asyncio.sleep(0.005)
            for process in (left, right):
                assert all(running <= 2 for running in process.snapshot().serving.running)


async def test_a_circle_ends_at_the_depth_limit(container: Container) -> None:
    await container.spawn(Left)
    await container.spawn(Right)
    with pytest.raises(Refused, match="nested 17 deep"):
        await client(Left, container.edge).bounce(100)
