"""The command ``python -m pelagos.simulation``: many seeds, each a universe; failures come with how to repeat them."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from types import FrameType
from typing import NoReturn

from pelagos.simulation.loop import SimulationError
from pelagos.simulation.scenarios import SCENARIOS
from pelagos.simulation.seeds import SeedResult, run_seed

__all__ = ["HASH_SEED", "main"]

HASH_SEED = "0"
"""With which every run, also a repetition, orders sets of texts."""
_REAL_SECONDS = 120
"""What a seed may take on a real clock before that counts as a failure."""
_LIFE = 200
"""Seeds that a worker runs."""


def main(arguments: list[str]) -> int:
    """Exit code 1 if a seed failed, 64 for wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m pelagos.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds (default 200)")
    parser.add_argument("--first", type=int, default=1, help="the first of them (default 1)")
    parser.add_argument("--seed", type=int, help="this seed alone, with its story")
    parser.add_argument("--edge", type=int, help="with --seed: die at this edge only")
    parser.add_argument("--scenario", choices=sorted(SCENARIOS), help="all seeds tell this one (default: in turn)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="worker processes")
    parser.add_argument("--log", action="store_true", help="with --seed: the program's log lines too")
    parser.add_argument("--transitions", action="store_true", help="print every change of state that was seen")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        return _one(options)
    return _many(options)


def _say(text: str, *, error: bool = False) -> None:
    stream = sys.stderr if error else sys.stdout
    stream.write(text + "\n")
    stream.flush()


def _one(options: argparse.Namespace) -> int:
    result = run_seed(options.seed, options.scenario, edge=options.edge, log=options.log)
    _say("\n".join(result.story))
    _say(f"seed {result.seed}, {result.scenario}: {result.failure or 'ok'}")
    _say(f"trace {result.trace}, {result.virtual_seconds:.1f} virtual seconds, {result.commits} commits")
    if options.transitions:
        _say("\n".join(f"{count:8d}  {key}" for key, count in result.transitions.items()))
    return 1 if result.failure else 0


def _many(options: argparse.Namespace) -> int:
    seeds = range(options.first, options.first + options.seeds)
    failures: list[SeedResult] = []
    transitions: dict[str, int] = {}
    done = 0
    for result in _results(seeds, options.scenario, options.jobs):
        done += 1
        for key, count in result.transitions.items():
            transitions[key] = transitions.get(key, 0) + count
        if result.failure:
            failures.append(result)
            _say(f"seed {result.seed} ({result.scenario}): {result.failure.splitlines()[0]}")
            _say(f"  repeat it with: {_repeat(result)}")
        if done % 50 == 0:
            _say(f"{done} of {len(seeds)}", error=True)
    if options.transitions:
        _say("\n".join(f"{count:8d}  {key}" for key, count in sorted(transitions.items())))
    _say(f"seeds run: {done}, failures: {len(failures)}  (commit {_commit()}, PYTHONHASHSEED={HASH_SEED})")
    return 1 if failures else 0


def _results(seeds: range, scenario: str | None, jobs: int) -> Iterator[SeedResult]:
    if jobs <= 1:
        yield from (_worker(seed, scenario) for seed in seeds)
        return
    # Spawned, not forked: each worker is a program of its own, as a repetition will be. New ones after a while, since
    # universes leave memory behind; by new pools, since `max_tasks_per_child` may hang when a worker is replaced
    # (CPython issue 115634).
    for first in range(0, len(seeds), jobs * _LIFE):
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            waiting = [pool.submit(_worker, seed, scenario) for seed in seeds[first : first + jobs * _LIFE]]
            for future in as_completed(waiting):
                yield future.result()


def _worker(seed: int, scenario: str | None) -> SeedResult:
    def too_long(number: int, frame: FrameType | None) -> NoReturn:
        raise SimulationError(f"it took more than {_REAL_SECONDS} real seconds")

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(_REAL_SECONDS)
    try:
        return run_seed(seed, scenario)
    finally:
        signal.alarm(0)


def _repeat(result: SeedResult) -> str:
    return f"PYTHONHASHSEED={HASH_SEED} python -m pelagos.simulation --seed {result.seed} --scenario {result.scenario}"


def _commit() -> str:
    """The checked-out commit, if this is a checkout."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
            cwd=os.path.dirname(__file__),  # noqa: PTH120
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()
