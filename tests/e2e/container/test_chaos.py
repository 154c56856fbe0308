"""Container programs while everything around them breaks: a real broker, killed; containers, killed; and bad input.

What must hold whatever happens: every call has an end within its deadline, what the exchange accepted is done and its
effect happens once, or is a dead letter with a reason; memory stays bounded; and afterwards all works as before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from support.brokers import OwnBroker, own_broker
from support.chaos_service import LoadRequest, Report
from support.chaos_site import LEDGER, LOAD, PELAGOS, WORK, Site, chaos_site, until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.amqp,
    pytest.mark.e2e,
    pytest.mark.skipif(not PELAGOS.is_file(), reason=f"there is no command {PELAGOS}"),
    pytest.mark.timeout(240),
]

ENDS = {"ok", "unavailable", "overloaded", "deadline_exceeded"}
"""How a call may end while things break."""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One loop for the module: the broker's node is started once."""
    return "asyncio"


@pytest.fixture(scope="module")
async def node() -> AsyncIterator[OwnBroker]:
    async with own_broker() as broker:
        yield broker


@pytest.fixture
async def broker(node: OwnBroker) -> OwnBroker:
    if not node.runs:
        await node.start()
    return node


@pytest.fixture
async def site(broker: OwnBroker) -> AsyncIterator[Site]:
    async with chaos_site(broker.url) as found:
        yield found


def check(report: Report, ends: set[str] = ENDS) -> None:
    """Nothing hung, nothing came back wrong, and there was something to look at."""
    assert set(report.ends) <= ends, report
    assert report.ends.get("ok", 0) > 20, report
    assert report.wrong == 0
    assert report.overdue == 0, f"a call took {report.slowest:.1f} s: {report}"


async def test_the_broker_is_killed_and_restarted_under_load(site: Site, broker: OwnBroker) -> None:
    await asyncio.gather(site.start("front", LOAD), site.start("a", WORK, LEDGER), site.start("b", WORK, LEDGER))
    load = await site.load()
    await load.begin(LoadRequest("calls", timeout=3.0, pause=0.01))
    await load.begin(LoadRequest("entries", workers=3, timeout=3.0, pause=0.02))
    for _ in range(2):
        await asyncio.sleep(1.5)
        await broker.kill()
        await asyncio.sleep(0.5)
        await broker.start()
    await site.served()
    await asyncio.sleep(1.5)
    report = await load.finish(True)
    check(report)
    assert len(report.accepted) > 20
    await site.entered_all(report.accepted)
    assert all(site.runs(name) for name in ("front", "a", "b"))
    after = await site.make(LoadRequest("calls", workers=4, most=25))
    assert after.ends == {"ok": 100} and set(after.by) == {"a", "b"}


async def test_of_three_containers_one_is_killed_and_nothing_is_lost(site: Site) -> None:
    await asyncio.gather(site.start("front", LOAD), *(site.start(name, WORK, LEDGER) for name in "abc"))
    load = await site.load()
    await load.begin(LoadRequest("calls", timeout=3.0, pause=0.01, seconds=0.02))
    await load.begin(LoadRequest("entries", workers=4, timeout=3.0, pause=0.01, seconds=0.05))
    for name in "ab":
        await asyncio.sleep(1.0)
        await site.kill(name)
        await site.start(name, WORK, LEDGER)
    await asyncio.sleep(1.0)
    await site.kill("c")
    await asyncio.sleep(1.0)
    report = await load.finish(True)
    check(report)
    assert set(report.by) == {"a", "b", "c"}
    assert report.open == [] and len(report.accepted) > 100
    await site.entered_all(report.accepted)
    assert set(site.entered()) == set(report.accepted)
    after = await site.make(LoadRequest("calls", workers=4, most=25))
    assert after.ends == {"ok": 100} and set(after.by) == {"a", "b"}


async def test_a_container_that_comes_back_under_its_id_is_answered_what_it_asks_now(site: Site) -> None:
    """Its processes have the ids they had before; those who served it before must not take it for a repeat."""
    await asyncio.gather(site.start("front", LOAD), site.start("a", WORK, LEDGER))
    accepted: list[str] = []
    for _ in range(2):
        await site.served()
        report = await site.make(LoadRequest("calls", workers=4, most=25))
        assert (report.ends, report.wrong) == ({"ok": 100}, 0)
        entries = await site.make(LoadRequest("bare", workers=2, most=10))
        assert entries.ends == {"ok": 20}
        accepted += entries.accepted
        await site.entered_all(accepted)
        await site.kill("front")
        await site.start("front", LOAD)


async def test_containers_that_stop_in_good_order_lose_no_call_and_no_work(site: Site) -> None:
    await asyncio.gather(site.start("front", LOAD), *(site.start(name, WORK, LEDGER) for name in "ab"))
    load = await site.load()
    await load.begin(LoadRequest("calls", timeout=10.0, pause=0.005, seconds=0.05))
    await load.begin(LoadRequest("entries", workers=4, timeout=10.0, pause=0.01, seconds=0.05))
    for name in "aba":
        await asyncio.sleep(0.7)
        await site.stop(name)
        await asyncio.sleep(0.3)
        await site.start(name, WORK, LEDGER)
    report = await load.finish(True)
    check(report)
    assert set(report.ends) == {"ok"}, report
    assert report.open == []
    await site.entered_all(report.accepted)


async def test_a_flood_of_a_slow_service_is_turned_away_in_time_and_fills_no_memory(site: Site) -> None:
    (site.place / "slow.yaml").write_text(
        "name: slow\nprocesses:\n  - name: work\n    class: support.chaos_service:Work\n"
        "    arguments: {concurrency: 2, capacity: 50}\n"
    )
    await asyncio.gather(site.start("front", LOAD), site.start("a", files=("slow.yaml",)))
    await site.make(LoadRequest("calls", workers=10, most=5, padding=1000))
    before = {name: site.memory(name) for name in ("front", "a")}
    load = await site.load()
    await load.begin(LoadRequest("calls", workers=1500, most=3, timeout=2.0, seconds=0.02, padding=20_000))
    most = dict(before)
    finishing = asyncio.ensure_future(load.finish(False))
    while not finishing.done():
        most = {name: max(most[name], site.memory(name)) for name in most}
        await asyncio.wait([finishing], timeout=0.2)
    report = await finishing
    check(report)
    assert sum(report.ends.values()) == 4500
    assert report.ends.get("overloaded", 0) + report.ends.get("unavailable", 0) > 1000, report.ends
    grown = {name: (most[name] - before[name]) >> 20 for name in most}
    assert grown["a"] < 60 and grown["front"] < 250, grown
    after = await site.make(LoadRequest("calls", workers=2, most=20))
    assert after.ends == {"ok": 40}
