"""The logger: lines from elsewhere, and who took a level."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from pelagos.container.agent import AgentProcess
from pelagos.model.errors import NotFound, Unavailable
from pelagos.process import client
from pelagos.services.events import subscribe
from pelagos.services.logger import LogBatch, LoggerService, LogLevel, LogRecord, SetLevel
from support.services_world import Follower, until

pytestmark = pytest.mark.anyio


async def logger(node):
    await node.container.spawn(LoggerService)
    return client(LoggerService, node.container.edge)


async def test_lines_keep_their_origin_and_their_level(system):
    node = await system.node()
    service = await logger(node)
    follower = Follower(lambda process: subscribe(process, ("log_error", "log_critical"), process.record))
    await node.container.spawn(follower)
    records = (
        LogRecord(LogLevel.INFO, "begun", 12.0, "their.room", "c.1", {"n": 1, "event": "x", "exc_info": True}),
        LogRecord(LogLevel.ERROR, "two\nlines", 13.0, origin="c.2"),
        LogRecord(LogLevel.CRITICAL, "the end", 14.0, origin="c.3"),
    )
    with structlog.testing.capture_logs() as lines:
        await service.log(LogBatch(records))
    assert [(line["log_level"], line["event"], line["origin"], line["logged_at"]) for line in lines] == [
        ("info", "begun", "c.1", 12.0),
        ("error", "two\\nlines", "c.2", 13.0),
        ("error", "the end", "c.3", 14.0),
    ]
    assert lines[0]["n"] == 1 and lines[0]["origin_event"] == "x" and lines[0]["logger"] == "origin.their.room"
    await until(lambda: len(follower.seen) == 2)
    assert [(e.type, e.origin, e.data["message"]) for e in follower.seen] == [
        ("log_error", "c.2", "two\\nlines"),
        ("log_critical", "c.3", "the end"),
    ]


async def test_lines_come_one_way(system):
    node = await system.node()
    await logger(node)
    with structlog.testing.capture_logs() as lines:
        await node.container.edge.send("service:logger", "log", LogBatch((LogRecord(LogLevel.INFO, "told"),)))
        await until(lambda: lines)
    assert [line["event"] for line in lines] == ["told"]


async def test_a_flood_is_cut(system):
    node = await system.node()
    service = await logger(node)
    with structlog.testing.capture_logs() as lines:
        await service.log(LogBatch(tuple(LogRecord(LogLevel.INFO, str(n)) for n in range(1500))))
    assert len(lines) == 1001 and lines[-1]["dropped"] == 500


async def test_levels_are_set_everywhere_and_who_did_not_is_told(system):
    levels = {}

    async def node(number, able=True):
        made = await system.node()
        levels[number] = {}
        options = {
            "set_log_level": lambda room, level: levels[number].__setitem__(room, level),
            "log_levels": lambda: levels[number],
        }
        await made.container.spawn(lambda: AgentProcess(made.container, **(options if able else {})))
        return made

    first, _, _ = [await node(1), await node(2), await node(3, able=False)]
    service = await logger(first)
    nodes = client(AgentProcess, first.container.edge)
    await asyncio.sleep(5)
    assert len(await nodes.nodes()) == 3
    done = await service.set_level(SetLevel(room="exchange", level=LogLevel.DEBUG))
    assert done.applied == ("n1", "n2") and list(done.failed) == ["n3"]
    assert levels == {1: {"exchange": "debug"}, 2: {"exchange": "debug"}, 3: {}}
    done = await service.set_level(SetLevel(room="store", level=None, container="n2"))
    assert done.applied == ("n2",) and levels[2]["store"] == "" and "store" not in levels[1]
    told = await service.levels()
    assert told.containers["n1"] == {"exchange": "debug"}
    with pytest.raises(NotFound):
        await service.set_level(SetLevel(room="store", level=None, container="n9"))


async def test_without_an_agent_levels_cannot_be_set(system):
    node = await system.node()
    service = await logger(node)
    with pytest.raises(Unavailable):
        await service.set_level(SetLevel(room="store", level=LogLevel.DEBUG))
