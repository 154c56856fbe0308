"""How long a command takes to answer, beside a Python that does nothing."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.builds import INSTANT
from benchmarks.report import Row
from benchmarks.scene import ENTRY, description, layered, open_scene, run_to_end
from pelagos.wire.infrastructures import RunRequest

__all__ = ["measure"]

ROUNDS = 15


def _once(argv: Sequence[str], environ: Mapping[str, str]) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, *argv], check=True, stdout=subprocess.DEVNULL, env=dict(environ))
    return time.perf_counter() - begin


async def _build_small(home: Path) -> None:
    async with open_scene(INSTANT, home=home) as scene:
        sources = description("small", layered(6))
        await run_to_end(scene, RunRequest(kind="up", sources=sources, entries=(ENTRY,)))


def measure() -> list[Row]:
    """`pelagos --version`, and `pelagos status` of a home without a daemon."""
    with tempfile.TemporaryDirectory(prefix="pelagos-bench-", dir="/var/tmp") as place:
        home = Path(place) / "home"
        asyncio.run(_build_small(home))
        return _measure(home)


def _measure(home: Path) -> list[Row]:
    environ = {**os.environ, "PELAGOS_HOME": str(home)}
    environ.pop("PELAGOS_URL", None)
    commands = {
        "nothing": ("-c", "pass"),
        "pelagos --version": ("-m", "pelagos", "--version"),
        "pelagos status, embedded": ("-m", "pelagos", "status", "small"),
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for round_ in range(ROUNDS + 1):
        for name, argv in commands.items():
            took = _once(argv, environ)
            if round_:  # the first one also reads the files from disk
                times[name].append(took)
    # The best of them: what else runs on the machine only ever adds.
    best = {name: min(found) for name, found in times.items()}
    floor = best["nothing"]
    return [
        Row(
            name=name,
            measured=best[name],
            floor=floor,
            floor_name="python -c pass",
            aim=aim,
            aim_text=text,
            judged=best[name] - floor,
            note=f"+{(best[name] - floor) * 1e3:.0f} ms",
        )
        for name, aim, text in (
            ("pelagos --version", 0.100, "+100 ms"),
            ("pelagos status, embedded", 0.700, "+0.7 s"),
        )
    ]
