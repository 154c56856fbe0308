"""The command: what it prints, and that a seed is repeated exactly by another process."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from pelagos.simulation import command


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONHASHSEED"}
    return subprocess.run(
        [sys.executable, "-m", "pelagos.simulation", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        env=environment,
        check=False,
    )


def test_a_seed_is_repeated_exactly() -> None:
    first, second, other = (run("--seed", seed, "--scenario", "chaos-in-faults") for seed in ("13", "13", "14"))
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stdout == second.stdout
    trace = re.search("trace ([0-9a-f]{64})", first.stdout)
    assert trace is not None
    assert trace.group(1) not in other.stdout


def test_many_seeds_are_counted() -> None:
    done = run("--seeds", "4", "--first", "1", "--scenario", "build", "--jobs", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^seeds run: 4, failures: 0  \(commit .+, PYTHONHASHSEED=0\)$", done.stdout, re.MULTILINE)


def test_workers_are_replaced_and_nothing_hangs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "_LIFE", 1)
    assert command.main(["--seeds", "5", "--scenario", "build", "--jobs", "2"]) == 0
    assert "seeds run: 5, failures: 0" in capsys.readouterr().out
