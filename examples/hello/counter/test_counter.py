import pytest
from counter import CounterService

from pelagos.model.errors import InternalError, Unavailable
from pelagos.process import ChildSpec, Restart, Supervisor, client

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


async def test_it_comes_back_and_begins_anew(container, harness):
    harness.expect_failure("counter", AssertionError)  # any other death fails the test, and so does none
    await container.spawn(lambda: CounterService(start=10))
    counter = client(CounterService, container.edge)
    assert [await counter.add(1), await counter.add(1)] == [11, 12]
    with pytest.raises(InternalError, match="adding nothing"):
        await counter.add(0)
    await harness.failed("counter")
    await harness.served("counter")
    assert await counter.add(1) == 11


async def test_who_fails_too_often_is_given_up(container, harness):
    harness.expect_failure("counter", AssertionError, times=3)
    harness.expect_failure("two chances", Unavailable)
    supervisor = Supervisor([ChildSpec("counter", CounterService)], label="two chances", max_restarts=2)
    await container.spawn(supervisor, restart=Restart.TEMPORARY)
    counter = client(CounterService, container.edge)
    for times in (1, 2, 3):
        await harness.served("counter")
        with pytest.raises(InternalError):
            await counter.add(0)
        await harness.failed("counter", times=times)
    cause = await harness.failed("two chances")
    assert "two chances gave up: 2 restarts in 5 s; last of counter: adding nothing" in str(cause)
