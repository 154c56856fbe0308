"""The simulation is worth what it finds: with a defect put into the program, some seed must fail, and say why."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

import pelagos.operations.assembling as assembling
import pelagos.operations.claims as claims
import pelagos.operations.observation as observation
import pelagos.operations.settling as settling
import pelagos.services.infrastructure.changes as changes
import pelagos.services.infrastructure.reconfiguring as reconfiguring
import pelagos.services.infrastructure.service as service
from pelagos.services.infrastructure.decisions import Destroy
from pelagos.services.infrastructure.reality import Reality
from pelagos.simulation.seeds import run_seed


def first_failure(scenario: str, seeds: range) -> str:
    for seed in seeds:
        failure = run_seed(seed, scenario).failure
        if failure:
            return failure
    return ""


def test_writing_without_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (changes, claims, settling, observation):
        monkeypatch.setattr(module, "check_fence", lambda connection, fence: None)
    assert "without its" in first_failure("frozen", range(1, 40))


def test_forgetting_what_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    decide = claims._decide_create

    def careless(due: Any, *rest: Any) -> Any:
        import msgspec

        return decide(msgspec.structs.replace(due, token=None, sent_at=None), *rest)

    monkeypatch.setattr(claims, "_decide_create", careless)
    assert first_failure("crash-in-faults", range(1, 8))


def test_taking_down_in_the_wrong_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_once(self: Reality, dirty: dict[str, None], run_id: str | None) -> Any:
        for name in dirty:
            for instance in self.nodes[name].instances.values():
                if not instance.leaving and self._mine(instance, run_id):
                    yield Destroy(instance.row.id, "taken down")

    monkeypatch.setattr(Reality, "_clear", at_once)
    assert "depends on" in first_failure("build", range(1, 8))


def test_leaving_parts_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (assembling, claims):
        monkeypatch.setattr(module, "made_parts", lambda kind, records: [])
    assert first_failure("parts-healed", range(1, 4))


def test_making_a_part_anew_whose_reply_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    decide = claims._decide_create

    def careless(due: Any, step: Any, *rest: Any) -> Any:
        import msgspec

        return decide(msgspec.structs.replace(due, token=None, sent_at=None) if step.part else due, step, *rest)

    monkeypatch.setattr(claims, "_decide_create", careless)
    assert first_failure("parts-in-faults", range(1, 8))


def test_carrying_out_a_plan_on_another_cloud(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (service, reconfiguring):
        monkeypatch.setattr(module, "accounts_changed", lambda saved, pool: [])
    monkeypatch.setattr(service, "nodes_changed", lambda saved, now: [])
    assert "the plan" in first_failure("plans", range(1, 40))


def test_granting_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    # By its name: the room exports a function that is called like it.
    holdings = importlib.import_module("pelagos.quotas.holdings")
    monkeypatch.setattr(holdings, "_take_if_it_fits", holdings._take)
    assert "the limit is" in first_failure("quotas", range(1, 8))
