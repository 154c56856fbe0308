"""What work costs the store, counted, not timed: a build grows with its nodes and no faster; a pass reads in bulk."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.pool import Pool

from support.infrastructure_world import QUICK, describe

pytestmark = pytest.mark.anyio

STEPS = 100


class Meter:
    """Counts what all SQLite connections opened from now on do."""

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.keep_log = False
        """SQLite's log is never emptied: its size tells all that was written."""
        self.steps = 0
        """Instructions of SQLite's machine: what a scan costs shows here, though it is one statement."""

    def reset(self) -> None:
        self.statements.clear()
        self.steps = 0

    def connected(self, raw: Any, _record: Any) -> None:
        assert isinstance(raw, sqlite3.Connection)
        raw.set_progress_handler(self.stepped, STEPS)
        if self.keep_log:
            raw.execute("PRAGMA wal_autocheckpoint=0")

    def stepped(self) -> int:
        self.steps += STEPS
        return 0

    def executed(self, _c: Any, _cursor: Any, statement: str, _p: Any, _context: Any, _many: bool) -> None:
        self.statements.append(statement)

    def count(self, *words: str) -> int:
        return sum(all(word in statement for word in words) for statement in self.statements)


@pytest.fixture
def engine() -> str:
    return "sqlite"


@pytest.fixture
def meter() -> Iterator[Meter]:
    meter = Meter()
    event.listen(Pool, "connect", meter.connected)
    event.listen(Engine, "before_cursor_execute", meter.executed)
    yield meter
    event.remove(Pool, "connect", meter.connected)
    event.remove(Engine, "before_cursor_execute", meter.executed)


def levels(nodes: int) -> dict[str, dict[str, Any]]:
    """Three levels; each node depends on one of the level before."""
    third = nodes // 3
    names = [f"n{index}" for index in range(nodes)]
    return {
        name: {"check": "{ping: false}", **({"after": [names[index - third]]} if index >= third else {})}
        for index, name in enumerate(names)
    }


async def build(meter: Meter, make_site: Any, name: str, nodes: int) -> tuple[int, int]:
    """(SQLite's steps, statements) of a build, the programs' start not counted."""
    site = await make_site({"east": {"parallel_calls": 512}})
    program = await site.program()
    meter.reset()
    await program.build(describe(name, levels(nodes)))
    found = meter.steps, len(meter.statements)
    await program.stop()
    return found


async def test_a_node_costs_the_store_no_more_in_a_larger_build(meter: Meter, make_site: Any) -> None:
    small_steps, small_statements = await build(meter, make_site, "small", 60)
    large_steps, large_statements = await build(meter, make_site, "large", 480)
    # Eight times the nodes: quadratic work would be sixty-four times as much.
    assert large_steps <= 8 * 1.3 * small_steps
    # Batches, not nodes, are what statements count with.
    assert large_statements <= 2.5 * small_statements


async def test_a_build_writes_as_little_into_a_full_store(meter: Meter, make_site: Any, sqlite_path: Path) -> None:
    meter.keep_log = True
    site = await make_site({"east": {"parallel_calls": 512}})
    program = await site.program()
    log = sqlite_path.with_name(sqlite_path.name + "-wal")
    wrote: list[int] = []
    for name, nodes in (("first", 240), ("many", 3_000), ("last", 240)):
        before = log.stat().st_size
        await program.build(describe(name, levels(nodes)))
        wrote.append(log.stat().st_size - before)
    first, _, last = wrote
    # Where each row's keys are random, a row changes a page of every index: 2.3 times as much, and rising.
    assert last <= 1.8 * first


async def test_following_a_run_does_not_read_its_descriptions(meter: Meter, make_site: Any) -> None:
    site = await make_site()
    program = await site.program()
    run = await program.build(describe("shop", levels(30)))
    meter.reset()
    for _ in range(20):
        await program.finish(run.id)
    assert meter.count("FROM runs") == 20
    assert meter.count("FROM runs", "parameters_blob") == 0


@pytest.mark.parametrize("nodes", [3, 150])
async def test_an_idle_pass_is_a_few_statements_for_any_number_of_nodes(
    nodes: int, meter: Meter, make_site: Any
) -> None:
    settings = msgspec.structs.replace(QUICK, interval=0.05)
    site = await make_site({"east": {"parallel_calls": 512}})
    program = await site.program(serves=True, settings=settings)
    await program.build(describe("shop", levels(nodes)))
    listed = site.east.calls["list"]
    meter.reset()

    async def passed() -> bool:
        return bool(site.east.calls["list"] >= listed + 10)

    await site.until(passed, "ten passes")
    passes = site.east.calls["list"] - listed
    assert site.east.calls["get"] == 0 and site.east.calls["find"] == 0
    writes = meter.count("INSERT INTO") + meter.count("UPDATE instances") + meter.count("UPDATE servers")
    assert writes == 0
    # Of the pass: the servers known to operations, and those of the infrastructure; the rest is leases and queues.
    assert meter.count("FROM servers") <= 2 * passes + 2
    assert len(meter.statements) <= 8 * passes
