"""Seeds of every scenario, and seeds that once failed."""

from __future__ import annotations

import pytest

from pelagos.simulation.scenarios import SCENARIOS
from pelagos.simulation.seeds import run_seed

ONCE_FAILED = [
    # What went wrong, before it was mended.
    (1316, "parts-in-chaos"),  # a create whose part the cloud refused to delete kept what it had reserved of a quota
    (1028, "supersede"),  # an instance was to be told of one that went in the same moment
    (798, "protect-in-faults"),  # one that failed and stayed was stopped later
    (1019, "kept-in-faults"),  # the oldest went as one too many, though the other one was not ready yet
    (214, "parts-in-chaos"),  # an address no listing showed yet was taken for gone, and its delete was forgotten
    (808, "broker"),  # a wish that the last description overtook was not waited for
    (311, "fails"),  # a policy kept instances of a description that failed, which never became ready
    (68, "broker"),  # what a newer description overtook was taken for a change by itself
    (4, "scale"),  # a wait of the pacer too short to move the clock
    (31, "heal"),  # the same with the idle release of an account
    (319, "faults"),  # a refused repeat of an idempotent create closed the attempt whose first call had made a server
    (15, "rename"),  # a change cancelled while it removed what was there before took what it had made away too
    (27, "rename"),
]


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("seed", [1])
def test_a_story_ends_well(scenario: str, seed: int) -> None:
    result = run_seed(seed, scenario)
    assert not result.failure, "\n".join([*result.story, result.failure])
    assert result.commits > 10


@pytest.mark.parametrize(("seed", "scenario"), ONCE_FAILED)
def test_a_seed_that_once_failed(seed: int, scenario: str) -> None:
    result = run_seed(seed, scenario)
    assert not result.failure, "\n".join([*result.story, result.failure])


@pytest.mark.parametrize("edge", range(0, 130, 17))
def test_a_death_at_any_edge_loses_nothing(edge: int) -> None:
    result = run_seed(5, "crash", edge=edge)
    assert not result.failure, "\n".join([*result.story, result.failure])
