"""Under crashes, restarts, overload and short deadlines every call ends by its deadline, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import random

import pytest

from pelagos.container import Container, ContainerConfig
from pelagos.model import DEFAULT_SCOPE
from pelagos.model.errors import DeadlineExceeded, InternalError, NotFound, PelagosError, Refused
from pelagos.process import ChildSpec, Context, ServiceProcess, State, Supervisor, client, operation, use_context
from pelagos.simulation import SimulatedWorld, VirtualLoop


class Flaky(ServiceProcess):
    name = "flaky"
    max_concurrent = 4
    service_capacity = 16

    async def on_init(self) -> None:
        self.random = self.world.rng("flaky")
        self.again = client(Flaky, self)

    @operation
    async def work(self, depth: int) -> int:
        dice = self.random
        await asyncio.sleep(dice.choice([0, 0, 0.01, 0.3]))
        match dice.randrange(30):
            case 0:
                self.start_task(self._crash())
            case 1:
                raise NotFound("no luck")
            case 2:
                raise Refused("no")
            case 3:
                raise ZeroDivisionError
            case 4:
                await asyncio.sleep(100)
        if depth and dice.random() < 0.7:
            return 1 + await self.again.work(depth - 1)
        return 0

    async def _crash(self) -> None:
        await asyncio.sleep(self.random.random() / 10)
        raise OSError("crash")


async def _scenario(seed: int) -> list[str]:
    world = SimulatedWorld()
    dice = random.Random(seed)
    outcomes: list[str] = []
    async with Container(world, ContainerConfig(id="c", system="s")) as container:
        workers = [ChildSpec(f"w{n}", Flaky, shutdown=0.2) for n in range(3)]
        await container.spawn(Supervisor(workers, max_restarts=10_000, period=1, backoff=0.001, max_backoff=0.05))
        flaky = client(Flaky, container.edge)

        async def caller(number: int) -> None:
            for _ in range(20):
                await asyncio.sleep(dice.random() / 5)
                patience = dice.choice([0.05, 0.5, 2.0])
                begin = world.monotonic()
                try:
                    with use_context(Context(DEFAULT_SCOPE, deadline=begin + patience)):
                        outcomes.append(f"{number} result {await flaky.work(3)}")
                except PelagosError as error:
                    outcomes.append(f"{number} {error.code}")
                assert world.monotonic() - begin <= patience + 0.01

        async with asyncio.TaskGroup() as group:
            for number in range(40):
                group.create_task(caller(number))
        await asyncio.sleep(200)
        assert container.edge.snapshot().calls == 0
        for process in container.processes:
            snapshot = process.snapshot()
            assert (sum(snapshot.serving.running), snapshot.serving.waiting, snapshot.calls) == (0, 0, 0)
        for queue in container.snapshot().transport.queues:
            assert (queue.waiting, queue.unsettled) == (0, 0)
    assert container.snapshot().failure is None
    return outcomes


@pytest.fixture(autouse=True)
def _quiet() -> object:
    """Thousands of expected tracebacks say nothing."""
    import structlog

    structlog.configure(processors=[_drop])
    yield None
    structlog.reset_defaults()


def _drop(*_: object) -> dict[str, object]:
    import structlog

    raise structlog.DropEvent


@pytest.mark.anyio
@pytest.mark.parametrize("seed", range(3))
async def test_every_call_ends_by_its_deadline_and_nothing_is_left(seed: int) -> None:
    outcomes = await _scenario(seed)
    assert len(outcomes) == 800
    kinds = {outcome.split()[1] for outcome in outcomes}
    assert {"result", "not_found", "refused", "internal_error", "deadline_exceeded", "unavailable"} <= kinds


def test_the_same_seed_gives_the_same_run() -> None:
    """Each in a loop of its own: at another time of the clock, sums of seconds round otherwise."""
    runs = []
    for _ in range(3):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runs.append(runner.run(_scenario(7)))
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.anyio
async def test_calls_leave_no_garbage_behind(container: Container) -> None:
    class Echo(ServiceProcess):
        name = "echo"

        @operation
        async def echo(self, text: str) -> str:
            if text == "fail":
                raise InternalError("as told")
            return text

    await container.spawn(Echo)
    echo = client(Echo, container.edge)

    async def burst() -> None:
        for _ in range(300):
            await echo.echo("x")
            try:
                await echo.echo("fail")
            except InternalError:
                pass

    await burst()
    gc.collect()
    before = len(gc.get_objects())
    await burst()
    gc.collect()
    assert len(gc.get_objects()) - before < 50


class Tidy(ServiceProcess):
    """Needs its time after its deadline."""

    name = "tidy"

    @operation
    async def work(self) -> int:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(10)
        return 1


@pytest.mark.anyio
async def test_a_process_ends_though_a_handler_still_tidies_up_after_its_deadline(container: Container) -> None:
    """The process's cancellation comes on top of the deadline's; the worker must not take both for one."""
    tidy = Tidy()
    await container.spawn(tidy, shutdown=None)
    with pytest.raises(DeadlineExceeded):
        await container.edge.call("service:tidy", "work", timeout=1.0)
    tidy.stop(0.5)
    await asyncio.sleep(30)
    assert tidy.state is State.TERMINATED
    assert tidy.snapshot().serving.workers == 0


class Rash(ServiceProcess):
    name = "rash"

    @operation
    async def give_up(self) -> int:
        return self.cancel_request(self.context.request_id or "")

    @operation
    async def wait(self) -> int:
        await asyncio.sleep(1)
        return 1


@pytest.mark.anyio
async def test_a_handler_that_cancels_its_own_request_does_not_hit_the_next_one(container: Container) -> None:
    await container.spawn(Rash)
    rash = client(Rash, container.edge)
    assert await rash.give_up() == 0
    assert await rash.wait() == 1
