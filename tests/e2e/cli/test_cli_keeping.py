"""protect, drift, import, orphans, heal, suspend and scale as processes, on a simulated cloud that is a file."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from e2e.cli.test_cli_on_a_simulated_cloud import FILES, INFRASTRUCTURE, NODES, Desk, daemon, desk
from pelagos.clouds.simulated import SimulatedCloud, SimulatedOptions
from pelagos.model.world import SystemWorld

__all__ = ["daemon", "desk"]

pytestmark = pytest.mark.e2e


def cloud_of(desk: Desk) -> SimulatedCloud:
    """The reality that the commands see, for doing to it what no command does."""
    folder = desk.directory / "home" / "clouds" / "sim"
    return SimulatedCloud(SystemWorld(), name="sim", options=SimulatedOptions(state="file"), folder=folder)


def document(process: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(process.stdout)


def ids(desk: Desk, node: str) -> list[str]:
    return list(desk.status()["nodes"][node]["instances"])


def _keeping(desk: Desk) -> None:
    assert desk("up", *FILES).returncode == 0
    cloud = cloud_of(desk)
    names = {server.name.split("-")[3]: server.provider_id for server in cloud.servers()}

    # What is protected stays, and it is said how that is lifted.
    (store,) = ids(desk, "store")
    assert document(desk("protect", "shop", f"store/{store[:8]}", "-o", "json"))["changed"] == [store]
    assert desk("protect", "shop", "stroe").returncode == 66
    assert desk.status()["nodes"]["store"]["instances"][store]["protected"] is True
    assert "protected" in desk("status", "shop").stdout
    down = desk("down", "shop", "--yes")
    assert down.returncode == 1
    assert "pelagos protect shop store off" in down.stderr
    assert {server.provider_id for server in cloud.servers()} == {names["store"]}
    assert desk("up", *FILES).returncode == 0
    assert ids(desk, "store") == [store]

    # Drift: found, ignored by rule, and nothing changed by it.
    assert desk("drift", "shop").returncode == 0
    cloud.resize(names["store"], "huge")
    found = desk("drift", "shop", "-o", "json")
    assert found.returncode == 4
    (finding,) = document(found)["findings"]
    assert (finding["kind"], finding["node"], finding["expected"], finding["found"]) == (
        "changed",
        "store",
        "small",
        "huge",
    )
    assert "flavor: small became huge" in desk("drift", "shop").stdout
    assert desk("drift", "shop", "--ignore", "kind=changed,field=flavor").returncode == 0
    (desk.directory / "rules.yaml").write_text("- {node: store, kind: changed}\n")
    assert desk("drift", "shop", "--ignore-file", "rules.yaml").returncode == 0
    assert desk("drift", "shop", "--ignore", "colour=red").returncode == 64
    assert desk("drift").returncode == 64

    # Imports, once and again; orphans.
    foreign = cloud.add_foreign("old-web")
    assert desk("import", "shop", "web", "sim", "nobody").returncode == 66
    for _ in range(2):
        taken = desk("import", "shop", "web", "sim", "old-web", "-o", "json")
        assert taken.returncode == 0, taken.stderr
        assert document(taken)["status"]["nodes"]["web"]["scaling"]["actual"] == 3
    orphan = cloud.add_foreign("left-behind", "token-of-a-lost-store")
    listed = document(desk("orphans", "list", "-o", "json"))
    assert [one["provider_id"] for one in listed["items"]] == [orphan]
    assert desk("drift", "--all").returncode == 4
    assert desk("orphans", "delete", "sim", foreign, "--yes").returncode == 66
    assert desk("orphans", "delete", "sim", orphan).returncode == 64  # nobody is there to ask
    gone = desk("orphans", "delete", "sim", orphan, "--yes", "-o", "json")
    assert (gone.returncode, document(gone)["deleted"]) == (0, [orphan]), gone.stderr
    assert orphan not in {server.provider_id for server in cloud.servers()}
    kept = cloud.add_foreign("left-behind", "token-of-another-lost-store")
    assert desk("orphans", "adopt", "shop", "web", "sim", kept, "--unprotected").returncode == 0
    assert desk("orphans", "list", "sim").stdout == ""

    # Scale by instance, by order; protected ones are refused.
    status = desk.status()["nodes"]["web"]["instances"]
    (safe,) = [key for key, one in status.items() if one.get("protected")]
    assert desk("scale", "shop", "web", "--instance", safe, "--yes").returncode == 1
    free = next(key for key in status if key != safe)
    assert desk("scale", "shop", "web", "--instance", free, "--yes").returncode == 0
    assert free not in ids(desk, "web")
    assert desk("scale", "shop", "web", "--instance", store, "--yes").returncode == 66
    oldest = min((key for key in ids(desk, "web") if key != safe), key=lambda key: status[key]["created_at"])
    assert desk("scale", "shop", "web", "-1", "--first", "oldest", "--yes").returncode == 0
    assert oldest not in ids(desk, "web")
    assert desk("heal", "shop", "web").returncode == 0

    # Suspended, nobody changes it; resumed, all may.
    assert desk("suspend", "shop", "--reason", "the cloud is moved").returncode == 0
    assert desk.status()["state"] == "suspended"
    refused = desk("scale", "shop", "web", "+1")
    assert refused.returncode == 1
    assert "suspended: the cloud is moved" in refused.stderr
    assert desk("resume", "shop").returncode == 0
    assert desk("maintain", "shop", "--once").returncode == 0
    for node in ("web", "store"):
        assert desk("protect", "shop", node, "off").returncode == 0
    assert desk("down", "shop", "--yes").returncode == 0
    assert cloud.servers() == []


def test_keeping(desk: Desk, daemon: subprocess.Popen[str]) -> None:
    (desk.directory / "nodes.yaml").write_text(NODES.replace("type: simulated", "type: simulated\n      flavor: small"))
    _keeping(desk)
    assert daemon.poll() is None


def test_a_breaker_is_shown_and_closed_by_command(desk: Desk) -> None:
    text = INFRASTRUCTURE.replace("type: shop_node}", "type: shop_node, policy: {heal: {attempts: 1}}}", 1)
    (desk.directory / "shop.yaml").write_text(text)
    assert desk("up", *FILES).returncode == 0
    cloud = cloud_of(desk)
    (store,) = [server.provider_id for server in cloud.servers() if server.name.split("-")[3] == "store"]
    cloud.kill(store)
    assert desk("maintain", "shop", "--once").returncode == 3
    assert "breaker" in desk.status()["nodes"]["store"]
    assert "breaker open" in desk("status", "shop").stdout
    assert "pelagos heal shop store" in desk("explain", "shop").stdout
    healed = desk("heal", "shop", "store")
    assert healed.returncode == 0, healed.stderr
    assert "breaker" not in desk.status()["nodes"]["store"]
    assert desk("down", "shop", "--yes").returncode == 0
