"""Several programs that maintain whatever nobody maintains: who takes what, and what becomes of what one leaves."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import update

from pelagos.model.states import RunState
from pelagos.services.infrastructure.standby import Orphans, orphans
from pelagos.store.schema import events as event_rows
from pelagos.store.schema import infrastructures
from support.infrastructure_world import describe

pytestmark = pytest.mark.anyio


async def until(site, condition, what):
    async def holds():
        return condition()

    await site.until(holds, what)


def hosted(program):
    return set(program.service.snapshot_maintainers())


async def test_a_resident_does_the_run_that_another_one_accepted_and_nobody_is_told_to_wait(site):
    first, second = await site.program(serves=True), await site.program(serves=True)
    run = await first.build(describe("shop", {"web": {"scaling": (1, 3)}}))
    assert hosted(first) == {run.infrastructure_id} and hosted(second) == set()
    done = await second.run("scale", scale={"web": "3"})
    assert done.state is RunState.SUCCEEDED and site.alive() == ["web"] * 3
    assert hosted(first) == {run.infrastructure_id} and hosted(second) == set()
    assert await site.rows(event_rows, kind="run.waiting") == []
    site.assert_nothing_doubled()


async def test_a_command_meets_a_resident_that_does_its_run(site):
    daemon, command = await site.program(serves=True), await site.program()
    await daemon.build(describe("shop", {"web": {"scaling": (1, 3)}}))
    assert (await command.run("scale", scale={"web": "2"})).state is RunState.SUCCEEDED
    assert await site.rows(event_rows, kind="run.waiting") == []


async def test_an_infrastructure_is_given_back_at_the_end_and_taken_at_once_after_a_death(site):
    programs = {number: await site.program(serves=True) for number in (1, 2, 3)}
    run = await programs[1].build(describe("shop", {"web": {}}))
    await programs.pop(1).stop()
    await until(site, lambda: any(hosted(p) for p in programs.values()), "it is taken over from one that stopped")
    [number] = [n for n, program in programs.items() if hosted(program)]
    programs.pop(number).kill()
    [last] = programs.values()
    await until(site, lambda: hosted(last) == {run.infrastructure_id}, "and from one that was killed on this host")
    assert (await last.run("down")).state is RunState.SUCCEEDED and site.alive() == []


async def test_what_one_leaves_is_shared_by_the_others(site):
    first = await site.program(serves=True)
    names = [f"shop{number}" for number in range(12)]
    await asyncio.gather(*(first.build(describe(name, {"web": {"check": "{ping: false}"}})) for name in names))
    second, third = [await site.program(serves=True) for _ in range(2)]
    assert len(hosted(first)) == 12
    for program, name in ((second, "left"), (third, "right")):
        await program.build(describe(name, {"web": {"check": "{ping: false}"}}))
    await first.stop()
    await until(site, lambda: len(hosted(second)) + len(hosted(third)) == 14, "all are taken over")
    assert not hosted(second) & hosted(third)
    assert min(len(hosted(second)), len(hosted(third))) >= 4, "none gets nearly all of them"


async def test_orphans_are_what_lives_is_to_be_maintained_and_is_held_by_nobody(site):
    daemon, command = await site.program(serves=True), await site.program()
    await command.build(describe("kept", {"web": {}}))
    await until(site, lambda: len(hosted(daemon)) == 1, "a resident takes what a command built")
    nobody = lambda row: False  # noqa: E731
    found = await site.read(lambda c: orphans(c, "me", nobody))
    assert found.ids == () and (found.others, found.mine) == ((1,), 0)
    of_the_daemon = await site.read(lambda c: orphans(c, daemon.keeper.holder_id, nobody))
    assert (of_the_daemon.others, of_the_daemon.mine) == ((), 1)
    [row] = await site.rows(infrastructures)
    dead = await site.read(lambda c: orphans(c, "me", lambda lease: lease.holder == daemon.keeper.holder_id))
    assert dead.ids == (row.id,) and not dead.others
    daemon.kill()
    await site.run(lambda c: c.execute(update(infrastructures).values(maintained=False)) and None)
    found = await site.read(lambda c: orphans(c, "me", lambda lease: True))
    assert found.ids == (), "a detached one without a run is nobody's to take"


@pytest.mark.parametrize(
    ("free", "others", "mine", "share"),
    [
        (100, (), 3, 100),  # alone
        (12, (1,), 1, 6),  # even
        (12, (13,), 1, 12),  # it has little
        (12, (1,), 30, 3),  # it has much: still some, lest nobody takes them
        (1, (1, 1), 9, 1),
        (0, (5,), 1, 0),
    ],
)
def test_what_is_taken_at_one_look(free, others, mine, share):
    assert Orphans(tuple(str(number) for number in range(free)), others, mine).share == share
