"""One seed: which story it is, told from nothing, and what came of it."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Iterator, MutableMapping
from typing import Any

import msgspec
import structlog

from pelagos.model.errors import PelagosError
from pelagos.simulation.loop import SimulationError, VirtualLoop, run_virtual
from pelagos.simulation.scenarios import SCENARIOS, Scenario
from pelagos.simulation.story import Story
from pelagos.simulation.universe import Universe
from pelagos.simulation.world import SimulatedWorld

__all__ = ["SeedResult", "run_seed", "scenario_of"]

_EDGES_A_SEED = 4


class SeedResult(msgspec.Struct, frozen=True):
    """``trace``: a hash of all events, state changes and all that happened in the clouds: equal for equal runs."""

    seed: int
    scenario: str
    failure: str
    """Empty: all is well."""
    story: tuple[str, ...]
    trace: str
    virtual_seconds: float
    commits: int
    transitions: dict[str, int]
    """``table: from -> to`` -> how often."""


def scenario_of(seed: int) -> str:
    """Seeds go through the scenarios in turn."""
    names = list(SCENARIOS)
    return names[seed % len(names)]


def run_seed(seed: int, scenario: str | None = None, *, edge: int | None = None, log: bool = False) -> SeedResult:
    """Tell the story of a seed. ``edge``: of those that count edges, only with the death at this one."""
    told = SCENARIOS[scenario or scenario_of(seed)]
    merged: list[_Telling] = []
    for dies_at in _deaths(seed, told, edge, merged):
        telling = _tell(seed, told, dies_at, log)
        merged.append(telling)
        if telling.failure:
            break
    digest = hashlib.sha256("".join(t.trace for t in merged).encode()).hexdigest()
    transitions: dict[str, int] = {}
    for telling in merged:
        for key, count in telling.transitions.items():
            transitions[key] = transitions.get(key, 0) + count
    return SeedResult(
        seed=seed,
        scenario=told.name,
        failure=merged[-1].failure,
        story=tuple(merged[-1].story),
        trace=digest,
        virtual_seconds=sum(t.seconds for t in merged),
        commits=sum(t.commits for t in merged),
        transitions=transitions,
    )


class _Telling(msgspec.Struct):
    failure: str = ""
    story: list[str] = []
    trace: str = ""
    seconds: float = 0.0
    commits: int = 0
    edges: int = 0
    transitions: dict[str, int] = {}


def _deaths(seed: int, scenario: Scenario, edge: int | None, told: list[_Telling]) -> Iterator[int | None]:
    """The edges at which to die, after a first telling without a death that counts them."""
    if edge is not None:
        yield edge
        return
    yield None
    if scenario.edges:
        count = told[0].edges
        rng = SimulatedWorld(seed).rng("edges")
        yield from sorted(rng.sample(range(count), min(count, _EDGES_A_SEED)))


def _tell(seed: int, scenario: Scenario, dies_at: int | None, log: bool) -> _Telling:
    telling = _Telling()
    if dies_at is not None:
        telling.story.append(f"the first process dies at edge {dies_at}")

    async def main(loop: VirtualLoop) -> None:
        story = Story(
            seed, loop, faults=scenario.faults, most=scenario.most, parts=scenario.parts, updates=scenario.updates
        )
        story.dies_at = dies_at
        universe = story.universe
        _listen(universe, log)
        try:
            try:
                await scenario.tell(story)
                await story.finish()
            except (SimulationError, PelagosError) as error:
                telling.failure = f"{type(error).__name__}: {error}"
            except Exception as error:  # noqa: BLE001 - the edge of a seed: a defect of the scenario is a failure too
                telling.failure = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
            if not telling.failure and universe.invariants.problems:
                telling.failure = universe.invariants.problems[0]
        finally:
            _sum_up(universe, telling)

    try:
        run_virtual(main)
    except SimulationError as error:
        telling.failure = f"{type(error).__name__}: {error}"
    finally:
        structlog.reset_defaults()
    return telling


def _sum_up(universe: Universe, telling: _Telling) -> None:
    invariants = universe.invariants
    digest = hashlib.sha256()
    for change in invariants.story:
        digest.update(repr(change).encode())
    for row in universe.query("SELECT * FROM events ORDER BY position"):
        digest.update(repr(row).encode())
    for name, cloud in universe.clouds.items():
        for happening in cloud.history():
            digest.update(f"{name}{happening!r}".encode())
    telling.trace = digest.hexdigest()
    telling.story += universe.notes
    telling.seconds = universe.loop.time()
    telling.commits = invariants.commits
    telling.edges = universe.incarnations[0].edges.seen if universe.incarnations else 0
    telling.transitions = {
        f"{table}{f' {detail}' if detail else ''}: {old} -> {new}": count
        for (table, detail, old, new), count in sorted(invariants.transitions.items(), key=repr)
    }
    universe.close()


def _listen(universe: Universe, log: bool) -> None:
    """What is logged as an error is a failure; the rest is shown if wanted."""

    def processor(logger: object, method: str, event: MutableMapping[str, Any]) -> str:
        error = event.get("exc_info")
        if method in ("error", "exception", "critical"):
            said = "".join(traceback.format_exception(error)) if isinstance(error, BaseException) else ""
            universe.invariants.broken(f"logged as an error: {event} {said}")
        if log:
            universe.note(f"log {method}: {event}")
        raise structlog.DropEvent

    structlog.configure(processors=[processor], cache_logger_on_first_use=False)
