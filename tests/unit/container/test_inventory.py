"""The rules of silence and of announcements that come late, without waiting."""

from __future__ import annotations

import pytest

from pelagos.container.inventory import AgentSettings, Change, Inventory
from pelagos.container.messages import Announcement, NodeInfo
from pelagos.model.errors import InvalidInput


def said(name: str, event: str = "heartbeat", boot: str = "1", started: float = 0.0) -> Announcement:
    return Announcement(NodeInfo(name, "s", "h", 1, "v", "alive", started, 0.0, 1), boot, event)


def test_alive_suspect_dead_forgotten_at_exactly_the_configured_silence() -> None:
    inventory = Inventory(AgentSettings(heartbeat=2, suspect_beats=3, dead_after=10, forget_after=100))
    assert inventory.hear(said("a"), 5.0) == Change("a", "alive", "")
    assert inventory.sweep(10.999) == [] and inventory.next_sweep(10.5) == 0.5
    assert inventory.sweep(11.0) == [Change("a", "suspect", "alive")]
    assert inventory.sweep(14.999) == []
    assert inventory.sweep(15.0) == [Change("a", "dead", "suspect")]
    assert [(n.state, n.heard) for n in inventory.nodes(20.0)] == [("dead", 15.0)]
    assert inventory.sweep(104.9) == [] and len(inventory.nodes(104.9)) == 1
    assert inventory.sweep(105.0) == [] and inventory.nodes(105.0) == []


def test_a_long_gap_between_sweeps_skips_suspicion() -> None:
    inventory = Inventory(AgentSettings())
    inventory.hear(said("a"), 0.0)
    assert inventory.sweep(50.0) == [Change("a", "dead", "alive")]
    assert inventory.hear(said("a"), 51.0) == Change("a", "alive", "dead")


def test_a_good_bye_stands_until_another_life_under_the_id() -> None:
    inventory = Inventory(AgentSettings())
    inventory.hear(said("a"), 0.0)
    assert inventory.hear(said("a", "stop"), 1.0) == Change("a", "left", "alive")
    assert inventory.hear(said("a"), 1.1) is None  # sent before the good-bye
    assert inventory.sweep(50.0) == [] and inventory.get("a") is not None
    assert inventory.hear(said("a", "start", boot="2", started=60.0), 60.0) == Change("a", "alive", "left")
    assert inventory.hear(said("a", "stop", boot="1", started=0.0), 61.0) is None  # of the life before
    assert [n.state for n in inventory.nodes(61.0)] == ["alive"]


def test_a_restart_that_nobody_noticed_is_told() -> None:
    inventory = Inventory(AgentSettings())
    inventory.hear(said("a"), 0.0)
    assert inventory.hear(said("a", "start", boot="2", started=1.0), 1.0) == Change("a", "alive", "alive")


def test_a_stranger_who_leaves_was_never_there() -> None:
    inventory = Inventory(AgentSettings())
    assert inventory.hear(said("a", "stop"), 0.0) is None and inventory.nodes(0.0) == []


def test_times_that_contradict_each_other() -> None:
    with pytest.raises(InvalidInput, match="would be dead after 3 s and suspect after 6 s"):
        AgentSettings(dead_after=3.0)
    with pytest.raises(InvalidInput, match="greater than 0"):
        AgentSettings(heartbeat=0)
