"""Container programs while everything around them breaks: a real broker, killed; containers, killed; and bad input.

What must hold whatever happens: every call has an end within its deadline, what the exchange accepted is done and its
effect happens once, or is a dead letter with a reason; memory stays bounded; and afterwards all works as before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import msgspec
import pytest

from pelagos.exchange import decode, encode
from pelagos.model.errors import InvalidInput, Unavailable, Unsupported
from support.brokers import OwnBroker, own_broker
from support.chaos_intruder import LARGE, forgeries, garbage, intruder
from support.chaos_proxy import proxy
from support.chaos_service import Entry, LoadRequest, Report
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
    await site.served_by("a", "b")
    after = await site.make(LoadRequest("calls", workers=4, most=25))
    assert after.ends == {"ok": 100}


async def test_of_three_containers_one_is_killed_and_nothing_is_lost(site: Site) -> None:
    await asyncio.gather(site.start("front", LOAD), *(site.start(name, WORK, LEDGER) for name in "abc"))
    load = await site.load()
    await load.begin(LoadRequest("calls", timeout=3.0, pause=0.01, seconds=0.02))
    await load.begin(LoadRequest("entries", workers=4, timeout=3.0, pause=0.01, seconds=0.05))
    await asyncio.sleep(1.0)
    await site.kill("a")
    await site.start("a", WORK, LEDGER)
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
    assert after.ends == {"ok": 100} and set(after.by) <= {"a", "b"}


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
    await load.begin(LoadRequest("entries", workers=4, timeout=10.0, pause=0.1, seconds=0.05))
    for name in "ab":
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
    await load.begin(LoadRequest("calls", workers=1500, most=3, timeout=6.0, seconds=0.02, padding=20_000))
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


async def test_bytes_of_a_stranger_are_refused_and_hold_up_nobody(site: Site) -> None:
    """Garbage, forgeries, replays, what was changed on its way, expired and oversized: with every kind of queue."""
    await asyncio.gather(site.start("front", LOAD), site.start("a", WORK, LEDGER))
    async with intruder(site.url, site.system) as stranger:
        keys = [f"service.{site.system}.{name}" for name in ("work", "ledger")]
        await stranger.listen(*keys, "process.front")
        report = await site.make(LoadRequest("calls", workers=4, most=10))
        entries = await site.make(LoadRequest("bare", workers=1, most=3))
        assert (report.ends, entries.ends) == ({"ok": 40}, {"ok": 3})
        await site.entered_all(entries.accepted)
        counts = await (await site.work("front")).counts()

        heard = [(body, decode(body)) for body in stranger.heard]
        assert {message.receiver.partition(":")[0] for _, message in heard} == {"service", "process"}
        for body, message in heard:
            kind, _, name = message.receiver.partition(":")
            key = f"service.{name}" if kind == "service" else "process.front"
            if "ledger" not in name:  # handed in twice is done once; that is tested with the ledger
                await stranger.send(body, key)
            for changed in (
                msgspec.structs.replace(message, content=b"\x81\xa6number\x07"),
                msgspec.structs.replace(message, op="ping"),
                msgspec.structs.replace(message, ts=message.ts + 1000),
                msgspec.structs.replace(message, signature=b"", signer=""),
            ):
                await stranger.send(encode(changed), key)
        for key, exchange, address in stranger.places("work", durable=("ledger",), containers=("front", "a")):
            bodies = [*garbage(address), *map(encode, forgeries(address, "process:front.2"))]
            await asyncio.gather(*(stranger.send(body, key, exchange) for body in bodies))
        for key in (*keys, "process.a"):
            await stranger.send(b"x" * LARGE, key)
        for envelope in forgeries(f"service:{site.system}.work", "process:front.2")[:5]:
            await stranger.send(encode(envelope), keys[0], expiration=0.001)

    await site.served()
    assert await (await site.work("front")).counts() == counts
    assert set(site.entered()) == set(entries.accepted)
    after = await site.make(LoadRequest("calls", workers=4, most=25))
    assert (after.ends, after.wrong) == ({"ok": 100}, 0)
    more = await site.make(LoadRequest("entries", workers=1, most=5))
    await site.entered_all(more.accepted)
    assert site.runs("a") and site.runs("front")
    assert "Traceback" not in site.log("a") + site.log("front"), site.log("a")[-3000:]
    letters = await until(lambda: site.run("dead-letters", "list"))
    assert all(letter["reason"] for letter in letters)


async def test_containers_that_check_nothing_live_through_bad_messages_too(site: Site) -> None:
    """Without signatures the same gets to the processes."""
    plain = {"PELAGOS_INTERCEPTORS": "[trace, deadline, statistics]"}
    await asyncio.gather(site.start("front", LOAD, **plain), site.start("a", WORK, LEDGER, **plain))
    await site.served()
    async with intruder(site.url, site.system) as stranger:
        for key, exchange, address in stranger.places("work", durable=("ledger",), containers=("front", "a")):
            bodies = [*garbage(address), *map(encode, forgeries(address, "process:front.2"))]
            await asyncio.gather(*(stranger.send(body, key, exchange) for body in bodies))
    await site.served()
    after = await site.make(LoadRequest("calls", workers=4, most=25))
    assert (after.ends, after.wrong) == ({"ok": 100}, 0)
    more = await site.make(LoadRequest("entries", workers=1, most=5))
    await site.entered_all(more.accepted)
    assert site.runs("a") and site.runs("front")
    assert "Traceback" not in site.log("a") + site.log("front"), site.log("a")[-3000:]
    letters = await until(lambda: site.run("dead-letters", "list"))
    assert all(letter["reason"] for letter in letters)


async def test_what_nobody_can_do_is_told_at_once(site: Site) -> None:
    await asyncio.gather(site.start("front", LOAD), site.start("a", WORK, LEDGER))
    await site.served()
    front = await site.control("front")
    for address, op, content, error in (
        ("service:work", "no such operation", None, Unsupported),
        ("service:work", "do", {"number": "seven"}, InvalidInput),
        ("service:work", "do", None, InvalidInput),
        ("service:nobody", "do", None, Unavailable),
        ("process:a.999", "do", None, Unavailable),
        ("process:nowhere.1", "do", None, Unavailable),
        ("nonsense", "do", None, InvalidInput),
        ("service:" + "x" * 300, "do", None, InvalidInput),
        ("service:work", "do", {"number": 1, "padding": b"x" * LARGE}, InvalidInput),
    ):
        async with asyncio.timeout(10):
            with pytest.raises(error):
                await front.call(address, op, content, timeout=30.0)
    after = await site.make(LoadRequest("calls", workers=2, most=20))
    assert after.ends == {"ok": 40}


async def test_work_that_cannot_be_done_becomes_a_dead_letter_with_its_reason(site: Site) -> None:
    """Refused for good, failed again and again, unknown, or the end of every container that begins it."""
    await asyncio.gather(site.start("front", LOAD), site.start("a", WORK, LEDGER))
    load = await site.load()
    await load.hand_in(Entry("no good", fate="refuse"))
    await load.hand_in(Entry("no ink", fate="fail"))
    await load.hand_in(Entry("fine"))
    await (await site.control("front")).send("service:ledger", "no such operation", None)
    await site.entered_all(["fine"])

    async def letters() -> dict[str, Any]:
        return {f"{one['reason']} ({one['id']})": one for one in await site.run("dead-letters", "list")}

    async def three() -> bool:
        return len(await letters()) == 3

    await until(three)
    await load.hand_in(Entry("deadly", fate="kill"))
    for _ in range(3):
        async with asyncio.timeout(30):
            await site.processes["a"].wait()
        await site.kill("a")
        await site.launch("a", WORK, LEDGER)

    async def four() -> bool:
        return len(await letters()) == 4

    await until(four)
    found = await letters()
    assert site.runs("a")
    reasons = sorted(found)
    assert any("cannot be entered" in reason for reason in reasons), reasons
    assert any("no such operation" in reason for reason in reasons), reasons
    assert sum("3 times" in reason for reason in reasons) == 2, reasons
    [refused] = [letter for reason, letter in found.items() if "cannot be entered" in reason]
    shown = await site.run("dead-letters", "show", refused["id"])
    assert shown["content"]["name"] == "no good"
    (site.place / "open").write_text("")
    await site.run("dead-letters", "retry", refused["id"])
    await site.entered_all(["fine", "no good"])
    await site.run("dead-letters", "drop", "--all", "--yes")
    assert await site.run("dead-letters", "list") == []
    assert set(site.entered()) == {"fine", "no good"}


async def test_a_broker_that_takes_nothing_for_a_while(site: Site, broker: OwnBroker) -> None:
    """Short of memory it stops reading from who publishes: calls end in time, and the container ends when told."""
    await asyncio.gather(site.start("front", LOAD), *(site.start(name, WORK, LEDGER) for name in "ab"))
    load = await site.load()
    await load.begin(LoadRequest("calls", timeout=2.0, pause=0.02))
    await load.begin(LoadRequest("entries", workers=3, timeout=2.0, pause=0.02))
    await asyncio.sleep(1.0)
    before = site.memory("front")
    await broker.control("set_vm_memory_high_watermark", "absolute", "1")
    try:
        await asyncio.sleep(3.0)
        await site.stop("b", seconds=40)
        grown = site.memory("front") - before
    finally:
        await broker.control("set_vm_memory_high_watermark", "0.6")
    await site.served()
    await asyncio.sleep(1.0)
    report = await load.finish(True)
    check(report)
    assert {"deadline_exceeded", "unavailable"} & set(report.ends), report.ends
    assert grown < 60 << 20, grown
    await site.entered_all(report.accepted)
    after = await site.make(LoadRequest("calls", workers=4, most=25))
    assert after.ends == {"ok": 100}


async def test_a_bad_network(site: Site, broker: OwnBroker) -> None:
    async with proxy(broker.port) as network:
        url = broker.url.replace(str(broker.port), str(network.port))
        quick = {"PELAGOS_BROKER_OPTIONS__HEARTBEAT": "1"}
        await asyncio.gather(
            site.start("front", LOAD, url=url, **quick), *(site.start(name, WORK, LEDGER) for name in "ab")
        )
        load = await site.load()
        await load.begin(LoadRequest("calls", timeout=2.0, pause=0.01))
        await load.begin(LoadRequest("entries", workers=3, timeout=2.0, pause=0.02))
        network.delay = 0.05
        await asyncio.sleep(1.5)
        network.delay = 0.0
        for harm in (network.cut, network.half_close):
            harm()
            await site.served()
        taken = network.taken
        network.open.clear()  # only heartbeats tell that nothing passes any more

        async def again() -> bool:
            return network.taken > taken

        await until(again)
        network.open.set()
        await site.served()
        await asyncio.sleep(1.0)
        report = await load.finish(True)
        check(report)
        assert network.taken >= 4
        await site.entered_all(report.accepted)
        after = await site.make(LoadRequest("calls", workers=4, most=25))
        assert after.ends == {"ok": 100}


async def test_two_systems_on_one_broker_do_not_see_each_other(site: Site) -> None:
    async with chaos_site(site.url) as other:
        await asyncio.gather(site.start("front", LOAD), other.start("front", LOAD), site.start("a", WORK, LEDGER))
        with pytest.raises(Unavailable):
            await (await other.work("front")).ping()
        await other.start("a", WORK, LEDGER)
        reports = await asyncio.gather(
            *(one.make(LoadRequest(kind, workers=3, most=10)) for one in (site, other) for kind in ("calls", "bare"))
        )
        for one in (site, other):
            assert (await (await one.work("front")).counts())[0] == 30
            await until(partial(one.knows, "front", "a"))
        names = [report.accepted for report in reports if report.accepted]
        for one, accepted in zip((site, other), names, strict=True):
            await one.entered_all(accepted)
            assert set(one.entered()) == set(accepted)


async def test_credentials_that_are_wrong_are_told_and_not_shown(site: Site, broker: OwnBroker) -> None:
    bad = broker.url.replace("guest:guest", "guest:hunter2")
    process = await site.launch("front", LOAD, url=bad)
    async with asyncio.timeout(30):
        assert await process.wait() not in (0, None)
    said = site.log("front")
    assert "does not accept the user and password" in said
    assert "hunter2" not in said and "Traceback" not in said


async def test_who_called_the_only_server_when_it_was_killed_hears_so_in_time(site: Site) -> None:
    await asyncio.gather(site.start("front", LOAD), site.start("a", WORK))
    await site.served()
    load = await site.load()
    await load.begin(LoadRequest("calls", workers=20, most=1, timeout=3.0, seconds=30.0))

    async def begun() -> bool:
        return (await (await site.work("front")).counts())[0] == 20

    await until(begun)
    await site.kill("a")
    report = await load.finish(False)
    assert sum(report.ends.values()) == 20 and set(report.ends) <= {"deadline_exceeded", "unavailable"}, report
    assert report.overdue == 0
    async with asyncio.timeout(10):
        with pytest.raises(Unavailable):
            await (await site.work("front", 60.0)).ping()
    await site.start("a", WORK)
    await site.served()
    after = await site.make(LoadRequest("calls", workers=4, most=10))
    assert after.ends == {"ok": 40}


async def test_credentials_that_change_while_containers_run(site: Site, broker: OwnBroker) -> None:
    """Calls fail in time, the log says why, and all goes on by itself once they are right again."""
    await broker.control("add_user", "ours", "first")
    await broker.control("set_permissions", "ours", ".*", ".*", ".*")
    url = broker.url.replace("guest:guest", "ours:first")
    await asyncio.gather(site.start("front", LOAD, url=url), site.start("a", WORK, LEDGER, url=url))
    load = await site.load()
    await load.begin(LoadRequest("calls", workers=4, timeout=2.0, pause=0.05))
    await load.begin(LoadRequest("entries", workers=1, timeout=2.0, pause=0.1))
    await broker.control("change_password", "ours", "second")
    await broker.control("close_all_user_connections", "ours", "changed")

    async def told() -> bool:
        return "does not accept the user and password" in site.log("front")

    await until(told)
    await broker.control("change_password", "ours", "first")
    await site.served()
    await asyncio.sleep(1.0)
    report = await load.finish(True)
    check(report)
    assert "unavailable" in report.ends
    await site.entered_all(report.accepted)
    assert "ours:first" not in site.log("front") + site.log("a")
