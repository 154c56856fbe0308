"""Changes of what runs, by commands, with a daemon that carries them out."""

from __future__ import annotations

import json
import subprocess

import pytest

from e2e.cli.test_cli_on_a_simulated_cloud import FILES, NODES, Desk, _until_line, daemon, desk

__all__ = ["daemon", "desk"]

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("daemon")]

LARGE = NODES.replace("type: simulated", "type: simulated\n      flavor: large")


def describe(desk: Desk, nodes: str) -> None:
    (desk.directory / "nodes.yaml").write_text(nodes)


def instances(desk: Desk) -> set[str]:
    return {key for node in desk.status()["nodes"].values() for key in node["instances"]}


def test_a_plan_is_saved_applied_once_and_stale_then(desk: Desk) -> None:
    assert desk("up", *FILES).returncode == 0
    before = instances(desk)
    describe(desk, LARGE)
    planned = desk("plan", *FILES, "--target", "store", "--out", "shop.plan", "-o", "json")
    assert planned.returncode == 2, planned.stderr
    (replaced,) = [a for a in json.loads(planned.stdout)["actions"] if a["action"] == "replace"]
    assert replaced["node"] == "store" and replaced["changes"][0]["path"] == "resource.flavor"
    applied = desk("apply", "shop.plan", "--yes", "-o", "json")
    assert applied.returncode == 0, applied.stderr
    assert json.loads(applied.stdout)["run"]["state"] == "succeeded"
    after = instances(desk)
    assert before - after == set(replaced["instances"]) and len(after) == len(before)
    again = desk("apply", "shop.plan", "--yes")
    assert again.returncode == 1 and "the plan is stale" in again.stderr
    assert instances(desk) == after
    graph = json.loads(desk("graph", "shop", "-o", "json").stdout)
    assert [(node["name"], node["ready"], node["depends_on"]) for node in graph["nodes"]] == [
        ("store", 1, []),
        ("web", 2, ["store"]),
    ]


def test_a_newer_up_supersedes_the_one_under_way(desk: Desk) -> None:
    assert desk("up", *FILES).returncode == 0
    describe(desk, NODES.replace("type: simulated", "type: simulated\n      boot_seconds: 300"))
    first = desk.start("up", *FILES, "--yes", stdout=subprocess.DEVNULL)
    try:
        _until_line(first, r"pending")
        describe(desk, LARGE)
        second = desk("up", *FILES, "--yes")
        assert second.returncode == 0, second.stderr
        _, said = first.communicate(timeout=60)
        assert first.returncode == 1 and "which came later, took its place" in said
    finally:
        first.kill()
        first.wait()
    assert desk("plan", *FILES).returncode == 0
