"""The main job on a real OpenStack: built, healed after servers went behind our back, taken down, nothing left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.openstack_testbed import RealCloud, real_cloud

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

INFRASTRUCTURE = """\
infra_name: shop
user_id: test
nodes:
  - &STORE {name: store, type: store_node}
  - &WEB {name: web, type: web_node, scaling: {min: 2, max: 4}}
dependencies:
  - connection: [*WEB, *STORE]
"""
NODES = """\
'node_def:store_node':
  - resource:
      type: nova
      name: ancestor
      project_id: PROJECT
      image_id: IMAGE
      flavor_name: m1.tiny
      network_id: NETWORK
      security_groups: [web]
    contextualisation: {type: cloudinit, context_template: "#cloud-config\\nruncmd: [hostname]\\n"}
    health_check: {ping: false}
'node_def:web_node':
  - resource: {type: openstack, name: lab, image: tiny, flavor: m1.tiny, networks: [private], config_drive: true}
    health_check: {ping: false}
"""
Pelagos = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def cloud() -> Iterator[RealCloud]:
    found = real_cloud()
    found.empty()
    yield found
    found.empty()


@pytest.fixture
def pelagos(tmp_path: Path, cloud: RealCloud) -> Pelagos:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PELAGOS_")}
    environ |= {"PELAGOS_HOME": str(tmp_path / "home"), "PELAGOS_CONFIG": str(tmp_path / "pelagos.yaml")}
    pool = [
        {"name": "lab", "driver": "openstack", "options": cloud.account},
        {"name": "ancestor", "driver": "nova", "options": {**cloud.account, "cloud": "pelagos-app"}},
    ]
    (tmp_path / "pelagos.yaml").write_text(json.dumps({"pool": pool}))
    (tmp_path / "shop.yaml").write_text(INFRASTRUCTURE)
    ids = {"PROJECT": cloud.project, "IMAGE": cloud.image, "NETWORK": cloud.network}
    nodes = NODES
    for word, value in ids.items():
        nodes = nodes.replace(word, value)
    (tmp_path / "nodes.yaml").write_text(nodes)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pelagos", *arguments],
            cwd=tmp_path,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    return run


def instances(pelagos: Pelagos) -> dict[str, list[dict[str, Any]]]:
    status = json.loads(pelagos("status", "shop", "-o", "json").stdout)
    assert status["state"] == "ready", status
    return {name: node["instances"] for name, node in status["nodes"].items()}


def test_built_healed_and_taken_down(pelagos: Pelagos, cloud: RealCloud) -> None:
    built = pelagos("up", "shop.yaml", "nodes.yaml")
    assert built.returncode == 0, built.stderr
    assert {name: len(found) for name, found in instances(pelagos).items()} == {"store": 1, "web": 2}
    made = cloud.servers()
    assert len(made) == 3 and {server.status for server in made} == {"ACTIVE"}
    tokens = {server.metadata["pelagos_token"] for server in made}
    assert len(tokens) == 3
    (store,) = (server for server in made if "store" in server.name)
    assert {group["name"] for group in store.security_groups} == {"web"}

    again = pelagos("up", "shop.yaml", "nodes.yaml")
    assert again.returncode == 0
    assert {server.id for server in cloud.servers()} == {server.id for server in made}

    # One of each account goes behind our back.
    lost = {store.id, next(server.id for server in made if "web" in server.name)}
    cloud.delete(lost)
    for _ in range(5):
        assert pelagos("maintain", "shop", "--once").returncode == 0
        healed = cloud.servers()
        if len(healed) == 3:
            break
    assert len(healed) == 3 and not lost & {server.id for server in healed}
    assert {server.id for server in made} - lost <= {server.id for server in healed}
    assert {name: len(found) for name, found in instances(pelagos).items()} == {"store": 1, "web": 2}

    down = pelagos("down", "shop", "--yes")
    assert down.returncode == 0, down.stderr
    assert cloud.left() == {"servers": [], "volumes": [], "addresses": [], "ports": []}
