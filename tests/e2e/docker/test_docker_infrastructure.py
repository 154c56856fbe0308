"""An infrastructure of containers by the command line: built, healed after a removal behind our back, taken down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.engines import engine_url, leavings, limits_in_force, resource, sdk

pytestmark = [pytest.mark.docker, pytest.mark.e2e]

PELAGOS = [sys.executable, "-m", "pelagos"]
INFRASTRUCTURE = """\
infra_name: shop
user_id: test
variables:
  greeting: hello & "welcome"
nodes:
  - &STORE {name: store, type: store_node}
  - &WEB {name: web, type: web_node, scaling: {min: 2, max: 3}}
dependencies:
  - connection: [*WEB, *STORE]
"""
NODES = """\
'node_def:store_node':
  - resource: %(resource)s
    contextualisation:
      type: docker
      env: ['GREETING={{variables.greeting}}']
      command: [sh, -c, 'echo "$GREETING" > /srv/index.html; exec httpd -f -p 8000 -h /srv']
    health_check:
      ping: false
      urls: ['http://{{ip}}:8000/']
'node_def:web_node':
  - resource: %(resource)s
    contextualisation:
      type: docker
      context_variables: {port: 8000}
      env: ["STORE={{getip('store')}}:{{port}}", 'NAME={{name}}']
      command: >-
        sh -c 'wget -q -O /srv/index.html "http://$STORE/" && wget -q -O /srv/named http://store:8000/ &&
        exec httpd -f -p 8000 -h /srv'
    health_check:
      ping: false
      urls: ['http://{{ip}}:8000/named']
"""


class Shop:
    """A directory with the description, and commands on it."""

    def __init__(self, engine: str, directory: Path) -> None:
        self.engine = engine
        self.scope = f"test-{uuid.uuid4().hex[:12]}"
        self._directory = directory
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PELAGOS_")}
        self._environ = kept | {
            "PELAGOS_HOME": str(directory / "home"),
            "PELAGOS_CONFIG": str(directory / "pelagos.yaml"),
        }
        options = {"endpoint": engine, "scope": self.scope, "stop_grace": 1, "updates": ["memory_mb", "cpus"]}
        config = {"pool": [{"name": "docker", "driver": "docker", "options": options}], "maintain_interval": 0.5}
        (directory / "pelagos.yaml").write_text(json.dumps(config))
        (directory / "infra.yaml").write_text(INFRASTRUCTURE)
        self.describe(memory_mb=64)

    def describe(self, **keys: Any) -> None:
        """The nodes, with these keys of their resource."""
        shown = {"type": "docker", "endpoint": self.engine, **resource(**keys)}
        (self._directory / "nodes.yaml").write_text(NODES % {"resource": json.dumps(shown)})

    def __call__(self, *arguments: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*PELAGOS, *arguments],
            cwd=self._directory,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert code is None or done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def instances(self, node: str) -> dict[str, Any]:
        document = json.loads(self("status", "shop", "-o", "json").stdout)
        found: dict[str, Any] = document["nodes"][node]["instances"]
        return found

    def containers(self, node: str) -> dict[str, Any]:
        """What the engine itself says there is of a node, by id."""
        labels = [f"pelagos.scope={self.scope}", f"pelagos.node={node}"]
        with sdk(self.engine) as client:
            return {one["Id"]: one for one in client.containers(all=True, filters={"label": labels})}

    def in_force(self, node: str) -> list[dict[str, Any]]:
        """What the kernel holds the node's containers to."""
        with sdk(self.engine) as client:
            return [limits_in_force(client, container) for container in self.containers(node)]

    def leavings(self) -> list[str]:
        with sdk(self.engine) as client:
            return leavings(client, self.scope)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(engine_url(), tmp_path)
    try:
        yield shop
    finally:
        done = shop("down", "shop", "--yes", code=None)
        assert done.returncode in (0, 66), done.stderr
        assert shop.leavings() == []


def page(instance: dict[str, Any]) -> str:
    with urllib.request.urlopen(f"http://{instance['address']}:8000/", timeout=5) as reply:
        return str(reply.read().decode().strip())


def test_it_is_built_healed_and_taken_down(shop: Shop) -> None:
    plan = shop("plan", "infra.yaml", "nodes.yaml", code=2)
    assert "create" in plan.stdout and shop.leavings() == []
    shop("up", "infra.yaml", "nodes.yaml", "--yes")
    (store,) = shop.containers("store")
    webs = shop.containers("web")
    assert len(webs) == 2 and all(one["State"] == "running" for one in webs.values())
    for instance in shop.instances("web").values():
        assert page(instance) == 'hello & "welcome"', "what it fetched from the store's address"
    assert "nothing" in shop("up", "infra.yaml", "nodes.yaml", "--yes").stderr
    assert set(shop.containers("web")) == set(webs)

    with sdk(shop.engine) as client:
        victim = sorted(webs)[0]
        client.remove_container(victim, force=True, v=True)
    shop("maintain", "shop", "--once")
    healed = shop.containers("web")
    assert victim not in healed and len(healed) == 2 and set(webs) - {victim} < set(healed)
    assert set(shop.containers("store")) == {store}
    assert [page(instance) for instance in shop.instances("web").values()] == ['hello & "welcome"'] * 2

    shop("scale", "shop", "web", "3", "--yes")
    assert len(shop.containers("web")) == 3
    shop("down", "shop", "--yes")
    assert shop.leavings() == [], "no container, no network"


def test_limits_are_changed_in_place(shop: Shop) -> None:
    shop.describe(memory_mb=64, cpus=0.5)
    shop("up", "infra.yaml", "nodes.yaml", "--yes")
    before = {node: set(shop.containers(node)) for node in ("store", "web")}
    assert [(one["memory_mb"], one["cpus"]) for one in shop.in_force("web")] == [(64, 0.5)] * 2

    shop.describe(memory_mb=96, cpus=0.75)
    told = shop("plan", "infra.yaml", "nodes.yaml", code=2).stdout
    assert "3 to update" in told and "replace" not in told
    plan = json.loads(shop("plan", "infra.yaml", "nodes.yaml", "-o", "json", code=2).stdout)
    assert {action["node"]: action["keys"] for action in plan["actions"]} == {
        "store": ["cpus", "memory_mb"],
        "web": ["cpus", "memory_mb"],
    }
    shop("up", "infra.yaml", "nodes.yaml", "--yes")
    assert {node: set(shop.containers(node)) for node in before} == before
    assert [(one["memory_mb"], one["cpus"]) for one in shop.in_force("web")] == [(96, 0.75)] * 2
    assert [(one["memory_mb"], one["cpus"]) for one in shop.in_force("store")] == [(96, 0.75)]
    assert [page(instance) for instance in shop.instances("web").values()] == ['hello & "welcome"'] * 2
    assert "nothing" in shop("up", "infra.yaml", "nodes.yaml", "--yes").stderr

    shop.describe(memory_mb=96, cpus=0.75, pids=200)
    told = shop("plan", "infra.yaml", "nodes.yaml", code=2).stdout
    assert "3 to replace" in told and "resource.pids" in told and "memory_mb" not in told


def test_mistakes_are_told_with_their_place(shop: Shop, tmp_path: Path) -> None:
    nodes = tmp_path / "nodes.yaml"
    nodes.write_text(nodes.read_text().replace('"memory_mb": 64', '"memory_mb": "much"'))
    said = shop("plan", "infra.yaml", "nodes.yaml", code=None)
    assert said.returncode not in (0, 2)
    assert "nodes.yaml:2" in said.stderr and "memory_mb" in said.stderr
