"""The ancestor's commands as processes, on a simulated cloud whose reality is a file."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

DESCRIPTION = """\
infra_name: shop
user_id: test
nodes:
  - &STORE {name: store, type: shop_node}
  - &WEB {name: web, type: shop_node, scaling: {min: 1, max: 3}}
dependencies:
  - connection: [*WEB, *STORE]
"""
NODES = """\
'node_def:shop_node':
  - resource:
      type: simulated
    health_check: {ping: false}
"""
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass
class Desk:
    directory: Path
    environ: dict[str, str]

    def argv(self, name: str, *arguments: str) -> list[str]:
        program = f"import sys; from pelagos.compat.commands import {name}; sys.exit({name}())"
        return [sys.executable, "-c", program, *arguments]

    def __call__(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(name, *arguments),
            cwd=self.directory,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def pelagos(self, *arguments: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "pelagos", *arguments, "-o", "json"],
            cwd=self.directory,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return json.loads(done.stdout)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("PELAGOS_", "OCCOPUS_"))}
    environ |= {
        "HOME": str(tmp_path),
        "PELAGOS_HOME": str(tmp_path / "home"),
        "PELAGOS_CONFIG": str(tmp_path / "pelagos.yaml"),
    }
    (tmp_path / "pelagos.yaml").write_text(
        "pool:\n  - {name: sim, driver: simulated, options: {state: file, boot_seconds: 0.02}}\n"
    )
    (tmp_path / "shop.yaml").write_text(DESCRIPTION)
    (tmp_path / "nodes.yaml").write_text(NODES)
    yield Desk(tmp_path, environ)


def _tree(lines: list[str]) -> dict[str, dict[str, list[str]]]:
    """The report's layout: node, instance, addresses, each two blanks further to the right."""
    found: dict[str, dict[str, list[str]]] = {}
    node = instance = ""
    for line in lines:
        match len(line) - len(line.lstrip(" ")):
            case 0:
                node = line.removesuffix(":")
                found[node] = {}
            case 2:
                instance = line.strip().removesuffix(":")
                found[node][instance] = []
            case 4:
                found[node][instance].append(line.strip())
            case other:
                raise AssertionError(f"{other} blanks before {line!r}")
    return found


def test_a_whole_life_by_the_ancestors_commands(desk: Desk) -> None:
    imported = desk("import_", "nodes.yaml")
    assert (imported.returncode, imported.stdout) == (0, "Successfully imported nodes: shop_node\n"), imported.stderr

    built = desk("build", "--parallelize", "shop.yaml")
    assert built.returncode == 0, built.stderr
    first, *middle, infra_id = built.stdout.splitlines()
    assert first == "List of nodes/instances/addresses:"
    assert UUID.fullmatch(infra_id)
    tree = _tree(middle)
    status = desk.pelagos("status", infra_id)
    assert {name: set(found) for name, found in tree.items()} == {
        name: set(node["instances"]) for name, node in status["nodes"].items()
    }
    assert [len(found) for found in tree.values()] == [1, 1]
    assert all(addresses for found in tree.values() for addresses in found.values())

    listed = desk("maintain", "--list")
    assert listed.stdout.splitlines() == ["List of active infrastructure:", infra_id]

    assert desk("maintain", "-i", infra_id).returncode == 0
    report = desk("maintain", "-i", infra_id, "-r", "-f", "we")
    assert report.stdout.splitlines()[0] == "Report list of nodes/instances/addresses:"
    assert list(_tree(report.stdout.splitlines()[1:])) == ["web"]
    grown = desk("scale", "-i", infra_id, "-n", "web", "-c", "+1")
    assert grown.returncode == 0, grown.stderr
    web = desk.pelagos("status", infra_id)["nodes"]["web"]
    assert web["scaling"]["actual"] == 2
    doomed = next(iter(tree["web"]))
    assert desk("scale", "-i", infra_id, "-n", "web", "-f", tree["web"][doomed][0]).returncode == 0
    assert set(desk.pelagos("status", infra_id)["nodes"]["web"]["instances"]) == set(web["instances"]) - {doomed}

    destroyed = desk("destroy", "-i", infra_id)
    assert destroyed.returncode == 0, destroyed.stderr
    none = desk("maintain", "-l")
    assert (none.returncode, none.stdout) == (0, "No active infrastructure!\n")
    assert desk.pelagos("cloud", "servers", "sim") == []


def test_an_id_is_given_to_a_new_infrastructure_and_then_means_it(desk: Desk) -> None:
    assert desk("import_", "nodes.yaml").returncode == 0
    built = desk("build", "-i", "my-fixed-id", "shop.yaml")
    assert built.returncode == 0, built.stderr
    assert built.stdout.splitlines()[-1] == "my-fixed-id"
    before = desk.pelagos("status", "my-fixed-id")["nodes"]

    # A description that cannot be built does not touch what is there.
    (desk.directory / "broken.yaml").write_text(DESCRIPTION.replace("type: shop_node}", "type: shop_nude}", 1))
    broken = desk("build", "-i", "my-fixed-id", "broken.yaml")
    assert broken.returncode == 65
    assert "shop_nude" in broken.stderr
    assert desk.pelagos("status", "my-fixed-id")["nodes"] == before

    (desk.directory / "shop.yaml").write_text(DESCRIPTION.replace("min: 1", "min: 2"))
    changed = desk("build", "-i", "my-fixed-id", "shop.yaml")
    assert changed.returncode == 0, changed.stderr
    after = desk.pelagos("status", "my-fixed-id")["nodes"]
    assert len(after["web"]["instances"]) == 2
    assert set(before["web"]["instances"]) < set(after["web"]["instances"])


def test_the_service_listens_where_the_ancestors_configuration_says(desk: Desk) -> None:
    (desk.directory / "occopus.yaml").write_text(
        "plugins: !python_import [occo.infobroker]\n"
        "components:\n"
        "  rest: {host: 127.0.0.1, port: 0}\n"
        "  resourcehandler: !ResourceHandler {protocol: null}\n"
    )
    service = subprocess.Popen(
        desk.argv("rest_service", "--cfg", "occopus.yaml"),
        cwd=desk.directory,
        env=desk.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert service.stdout is not None
        addresses = [service.stdout.readline().strip() for _ in range(2)]
        address = next(one for one in addresses if one.startswith("http://127.0.0.1:"))
        token = (desk.directory / "home" / "token").read_text().strip()
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{address}/infrastructures/", timeout=30)
        assert refused.value.code == 401
        refused.value.close()
        request = urllib.request.Request(
            f"{address}/infrastructures/", headers={"Authorization": f"Bearer {token}", "Accept": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert json.loads(answer.read())["infrastructures"] == []
    finally:
        service.send_signal(signal.SIGTERM)
        service.communicate(timeout=60)
    assert service.returncode == 0
