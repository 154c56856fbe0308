import asyncio

import pytest
from workers import Done, Job, Squarer

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


async def test_two_on_one_queue_share_four_jobs(container):
    pids = [await container.spawn(lambda: Squarer(queue="sums")) for _ in range(2)]
    calls = [container.edge.call("service:sums", "work", Job(number), result=Done) for number in range(4)]
    done = await asyncio.gather(*calls)
    assert [one.number for one in done] == [0, 1, 4, 9]
    assert {one.worker for one in done} == set(pids)
    assert sum(container.process(pid).worked for pid in pids) == 4


async def test_two_on_one_fanout_each_get_all(container, recorder):
    pids = [await container.spawn(lambda: Squarer(fanout="sums")) for _ in range(2)]
    for number in range(2):
        container.edge.publish("fanout:sums", Job(number), op="work")
    await asyncio.sleep(1)  # of virtual time: nobody answers an announcement
    assert [container.process(pid).worked for pid in pids] == [2, 2]
    assert len(recorder.published("fanout:sums")) == 2
