"""Stacks from configuration, and the small interceptors in them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pelagos.exchange import Envelope, Performative, Receiver, Status, reply_to
from pelagos.exchange.interceptors import (
    DEFAULT_STACK,
    Deadline,
    ServiceNames,
    Stack,
    StackEntry,
    Statistics,
    StatisticsOptions,
    Surroundings,
    Trace,
    TraceOptions,
    build_stack,
)
from pelagos.exchange.interceptors.tracing import OpenTelemetryExporter
from pelagos.model import SystemWorld
from pelagos.model.errors import DeadlineExceeded, DescriptionError, InvalidInput, NotFound, PelagosError
from pelagos.simulation import SimulatedWorld
from support.interceptors import ring

SERVICE = Receiver("service:test.store")


def build(entries: list[StackEntry] | None, **around: Any) -> Stack:
    services = ServiceNames(system="test", container="c")
    return build_stack(entries, Surroundings(SystemWorld(), "c", "test", services, **{"local": True, **around}))


def test_the_default_signs_only_what_leaves_the_interpreter(tmp_path: Path) -> None:
    assert build(None).names == DEFAULT_STACK[:-1]
    assert build(None).sessions is None
    made = build(None, local=False, keys=tmp_path / "keys")
    assert made.names == DEFAULT_STACK
    assert made.sessions is not None
    assert (tmp_path / "keys" / "identity.key").exists()
    assert build(["signature"], ring=ring()).names == ("signature",)
    with pytest.raises(InvalidInput, match="no key ring"):
        build(None, local=False)


def test_options_and_objects() -> None:
    own = Trace(SimulatedWorld())
    made = build([own, {"deadline": {"skew": 5}}, {"statistics": None}])
    assert made.interceptors[0] is own
    assert made.names == ("trace", "deadline", "statistics")


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (["tarce"], "no interceptor 'tarce'"),
        ([{"deadline": {"skwe": 5}}], "options of the interceptor 'deadline'"),
        ([{"deadline": {"skew": "much"}}], "options of the interceptor 'deadline'"),
        ([{"deadline": 5}], "options of the interceptor 'deadline'"),
        ([{"deadline": {}, "trace": {}}], "one name with its options"),
        (["trace", "trace"], "twice"),
        (["signature", "trace"], "behind 'signature'"),
        (["identity", "policy"], "before 'policy'"),
        (["policy"], "nobody checks"),
    ],
)
def test_mistakes(entries: list[StackEntry], said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as raised:
        build(entries, ring=ring())
    assert raised.value.advice


def test_files_are_looked_for_beside_the_configuration(tmp_path: Path) -> None:
    stack: list[StackEntry] = [{"policy": {"file": "p.yaml"}}, "identity"]
    with pytest.raises(NotFound):
        build(stack, folder=tmp_path)
    (tmp_path / "p.yaml").write_text("rules: 5\n")
    with pytest.raises(DescriptionError):
        build(stack, folder=tmp_path)
    (tmp_path / "p.yaml").write_text("default: deny\n")
    assert build(stack, folder=tmp_path).names == ("policy", "identity")
    with pytest.raises(PelagosError):
        build([{"signature": {"keys": "nowhere"}}], folder=tmp_path)


def request(number: int = 1, **headers: Any) -> Envelope:
    return Envelope(
        SERVICE.address, "process:c.1", "put", Performative.REQUEST, f"c#{number}", reply_to="process:c.1", **headers
    )


def test_traces_are_made_where_there_is_none_and_kept_where_there_is() -> None:
    trace = Trace(SimulatedWorld())
    made = trace.outbound(request())
    assert made.trace
    assert trace.outbound(made) is made
    assert trace.inbound(made, SERVICE, False) is made


@pytest.mark.anyio
async def test_the_last_hops_are_kept() -> None:
    trace = Trace(SimulatedWorld(), TraceOptions(hops=3))
    for number in range(5):
        await asyncio.sleep(1)
        trace.outbound(request(number, trace="a" if number % 2 else "b"))
    assert [hop.conversation for hop in trace.hops()] == ["c#2", "c#3", "c#4"]
    [hop] = trace.hops("a")
    assert (hop.outbound, hop.op, hop.address, hop.at % 100) == (True, "put", SERVICE.address, 4.0)


@pytest.mark.anyio
async def test_spans_are_opened_by_requests_and_ended_by_their_answers() -> None:
    class Span:
        def __init__(self, name: str) -> None:
            self.name, self.attributes, self.ended = name, dict[str, Any](), 0

        def set_attribute(self, key: str, value: Any) -> None:
            self.attributes[key] = value

        def end(self, end_time: int = 0) -> None:
            self.ended += 1

    spans: list[Span] = []

    class Tracer:
        def start_span(self, name: str, start_time: int) -> Span:
            spans.append(Span(name))
            return spans[-1]

    trace = Trace(SimulatedWorld(), exporter=OpenTelemetryExporter(Tracer(), limit=2))
    sent = trace.outbound(request())
    trace.inbound(reply_to(sent, Performative.INFORM_RESULT, b"\xc0", sender="s"), Receiver("process:c.1"), False)
    assert [(span.name, span.ended, span.attributes["pelagos.status"]) for span in spans] == [
        ("service:test.store put", 1, "OK")
    ]
    for number in range(5):
        trace.outbound(request(number))
    assert [span.ended for span in spans] == [1, 1, 1, 1, 0, 0]


@pytest.mark.anyio
async def test_nothing_is_begun_after_its_deadline() -> None:
    world = SimulatedWorld()
    deadline = Deadline(world)
    sent = request(ts=int(world.now() * 1000), remaining_ms=5000)
    assert deadline.outbound(sent) is sent
    assert deadline.inbound(sent, SERVICE, False) is sent
    await asyncio.sleep(64)
    assert deadline.inbound(sent, SERVICE, False) is sent  # the clocks may differ by a minute
    await asyncio.sleep(2)
    with pytest.raises(DeadlineExceeded):
        deadline.inbound(sent, SERVICE, False)
    with pytest.raises(DeadlineExceeded):
        deadline.outbound(request(remaining_ms=0))
    assert deadline.outbound(unlimited := request()) is unlimited


@pytest.mark.anyio
async def test_statistics_count_and_time() -> None:
    statistics = Statistics(SimulatedWorld())
    for number in range(10):
        sent = statistics.outbound(request(number))
        statistics.inbound(sent, SERVICE, False)
        await asyncio.sleep(0.01 if number else 2)
        failed = number == 9
        reply = reply_to(sent, Performative.INFORM_RESULT, b"\xc0", sender="s")
        if failed:
            reply = msgspec.structs.replace(reply, status=Status.ERROR, performative=Performative.FAILURE)
        statistics.inbound(reply, Receiver("process:c.1"), False)
    [entry] = statistics.operations()
    assert (entry.sent, entry.received, entry.answered, entry.errors, entry.timed) == (10, 10, 10, 1, 10)
    assert entry.longest == pytest.approx(2)
    assert 0.01 <= entry.quantile(0.5) <= 0.02
    assert entry.quantile(1.0) == pytest.approx(2)
    assert statistics.snapshot()["open"] == 0


@pytest.mark.anyio
async def test_statistics_are_bounded() -> None:
    statistics = Statistics(SimulatedWorld(), StatisticsOptions(limit=10, open=20))
    for number in range(1000):
        statistics.outbound(msgspec.structs.replace(request(number), op=f"op{number}"))
    counted = statistics.operations()
    assert len(counted) == 11
    assert counted[-1].address == "other"
    assert sum(entry.sent for entry in counted) == 1000
    assert (statistics.snapshot()["open"], statistics.snapshot()["unanswered"]) == (20, 980)
    assert len(statistics._begun) <= 20
