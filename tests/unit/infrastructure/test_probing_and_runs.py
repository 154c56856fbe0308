"""When whom to probe; what a scaling says; nodes that a newer description no longer has."""

from __future__ import annotations

import asyncio

import pytest

from pelagos.services.infrastructure.desiring import scaled_target, with_retired
from pelagos.services.infrastructure.health import HealthVerdict
from pelagos.services.infrastructure.probing import Probing
from pelagos.services.infrastructure.values import CompiledInfrastructure, CompiledNode
from pelagos.simulation import VirtualLoop

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return ("asyncio", {"loop_factory": VirtualLoop})


class Prober:
    """Probes that end when told to."""

    def __init__(self):
        self.doors = {}

    def __call__(self, instance_id):
        if instance_id == "gone":
            return None
        door = self.doors[instance_id] = asyncio.Event()

        async def look():
            await door.wait()
            return HealthVerdict(healthy=True, reason=instance_id)

        return look


async def test_probes_start_when_due_and_never_more_than_there_are_slots():
    woken = []
    probing, prober = Probing(slots=2, wake=lambda: woken.append(1)), Prober()
    for name, at in (("gone", 1.0), ("a", 1.0), ("b", 2.0), ("c", 2.0), ("d", 9.0)):
        probing.at(name, at)
    async with asyncio.TaskGroup() as group:
        probing.launch(group, 0.5, prober)
        assert prober.doors == {} and probing.next_due() == 1.0
        probing.launch(group, 2.0, prober)
        assert list(prober.doors) == ["a", "b"] and probing.next_due() is None, "only an end makes room"
        assert "c" in probing and "a" in probing and "gone" not in probing and "x" not in probing
        await asyncio.sleep(0.01)
        prober.doors["b"].set()
        await asyncio.sleep(0.01)
        assert woken == [1] and [name for name, _ in probing.take()] == ["b"] and probing.take() == []
        probing.launch(group, 2.0, prober)
        assert list(prober.doors) == ["a", "b", "c"] and probing.next_due() == 9.0
        probing.forget("a")
        await asyncio.sleep(0.01)
        assert probing.snapshot() == {"planned": 1, "running": 1} and not probing.pending
        probing.cancel()
    assert not probing.pending, "a probe that was cancelled says nothing"


async def test_a_probe_that_is_cancelled_before_it_began_leaves_no_coroutine():
    probing, prober = Probing(slots=2, wake=lambda: None), Prober()
    probing.at("a", 0.0)
    async with asyncio.TaskGroup() as group:
        probing.launch(group, 0.0, prober)
        probing.cancel()
    assert not probing.pending


def test_pauses_grow_to_a_bound_and_begin_small_again():
    probing = Probing(slots=1, wake=lambda: None)
    pauses = []
    for _ in range(6):
        probing.after_failure("a", 100.0, first=1.0, most=3.0)
        pauses.append(probing.next_due() - 100.0)
    assert pauses == [1.0, 1.5, 2.25, 3.0, 3.0, 3.0]
    probing.at("a", 90.0)
    assert probing.next_due() == 90.0
    probing.at("a", 95.0)
    assert probing.next_due() == 90.0, "the earlier one holds"
    probing.settled("a")
    assert probing.next_due() is None and "a" not in probing
    probing.after_failure("a", 100.0, first=1.0, most=3.0)
    assert probing.next_due() == 101.0


@pytest.mark.parametrize(
    ("text", "current", "target"), [("3", 1, 3), ("+1", 1, 2), ("-1", 2, 1), (" +2", 1, 3), ("0", 4, 0)]
)
def test_scaled_target(text, current, target):
    assert scaled_target(text, current) == target


@pytest.mark.parametrize("text", ["", "x", "1.5", "++1", "one"])
def test_what_is_no_number(text):
    with pytest.raises(ValueError):
        scaled_target(text, 1)


def test_nodes_no_longer_described_are_kept_while_their_instances_live():
    def infrastructure(*names):
        nodes = tuple(CompiledNode(name=n, type="t", min=1, max=2, implementations=(0,)) for n in names)
        return CompiledInfrastructure(name="shop", nodes=nodes)

    old, new = infrastructure("a", "b", "c"), infrastructure("c", "d")
    assert with_retired(new, old, set()) is new
    merged = with_retired(new, old, {"a", "c"})
    assert [(node.name, node.retired, node.max) for node in merged.nodes] == [
        ("c", False, 2),
        ("d", False, 2),
        ("a", True, 0),
    ]
    again = with_retired(new, merged, {"a"})
    assert [node.name for node in again.nodes] == ["c", "d", "a"], "also through a second change"
    assert with_retired(old, merged, {"a"}) is old, "described again, it is no longer retired"
