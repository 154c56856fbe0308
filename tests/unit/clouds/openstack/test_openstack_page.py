"""The examples of the page on OpenStack are right: accounts and resources as they stand there pass the checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pelagos.clouds.keys import check_keys
from pelagos.clouds.openstack import DRIVER, NOVA

PAGE = Path(__file__).parents[4] / "docs/reference/openstack.md"
PLUGINS = {"openstack": DRIVER, "nova": NOVA}


def examples() -> list[dict[str, Any]]:
    blocks = PAGE.read_text().split("```yaml\n")[1:]
    return [YAML(typ="safe", pure=True).load(block.partition("```")[0]) for block in blocks]


def test_accounts() -> None:
    (pool,) = (example["pool"] for example in examples() if "pool" in example)
    assert {account["driver"] for account in pool} == set(PLUGINS)
    for account in pool:
        assert check_keys(PLUGINS[account["driver"]].account_options, account["options"])[1] == []


def test_resources() -> None:
    nodes = [example["node_def:web"] for example in examples() if "node_def:web" in example]
    resources = [implementation["resource"] for (implementation,) in nodes]
    assert {resource["type"] for resource in resources} == set(PLUGINS)
    for resource in resources:
        keys = {key: value for key, value in resource.items() if key not in ("type", "name", "endpoint")}
        assert check_keys(PLUGINS[resource["type"]].resource, keys)[1] == []
