"""The real OpenStack of ``make testbed-openstack``, as tests find it, look into it, and leave it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

__all__ = ["RealCloud", "real_cloud"]

PATIENCE = 240.0


def real_cloud() -> RealCloud:
    """The running test bed; skips the test where there is none. CI has none: it takes minutes and gigabytes."""
    path = os.environ.get("PELAGOS_TEST_OPENSTACK", "")
    if not path:
        pytest.skip("PELAGOS_TEST_OPENSTACK names no clouds.yaml: start one with `make testbed-openstack`")
    if not Path(path).is_file():
        pytest.skip(f"PELAGOS_TEST_OPENSTACK: there is no {path}; `make testbed-openstack` makes one")
    return RealCloud(path)


class RealCloud:
    """The user's own view of the project, past the driver and its proxy. All calls block."""

    def __init__(self, clouds_file: str) -> None:
        from openstack.config import OpenStackConfig
        from openstack.connection import Connection

        self.clouds_file = clouds_file
        config = OpenStackConfig(config_files=[clouds_file], load_envvars=False)
        self.sdk = Connection(config=config.get_one(cloud="pelagos"))
        self.image = str(self.sdk.image.find_image("tiny", ignore_missing=False).id)
        self.network = str(self.sdk.network.find_network("private", ignore_missing=False).id)

    @property
    def account(self) -> dict[str, Any]:
        """An account's options; the times are those of a small cloud on a busy machine."""
        return {
            "cloud": "pelagos",
            "clouds_file": self.clouds_file,
            "settle": 3.0,
            "poll_interval": 0.5,
            "build_timeout": 120.0,
            "create_timeout": 60.0,
            "call_timeout": 60.0,
            "threads": 4,
        }

    @property
    def compute(self) -> tuple[str, str]:
        """Nova's address, and its path there."""
        url = str(self.sdk.compute.get_endpoint())
        scheme, _, rest = url.rstrip("/").partition("://")
        address, _, path = rest.partition("/")
        return f"{scheme}://{address}", f"/{path}"

    @property
    def project(self) -> str:
        return str(self.sdk.current_project_id)

    def servers(self) -> list[Any]:
        """All of the project's, as the SDK has them."""
        return list(self.sdk.compute.servers())

    def delete(self, ids: set[str]) -> None:
        """Delete servers, and wait until they are gone."""
        for key in ids:
            self.sdk.compute.delete_server(key)
        self.until(lambda: not ids & {server.id for server in self.servers()}, "the servers are gone")

    def boot(self, name: str) -> str:
        """A server as somebody else would make it."""
        flavor = self.sdk.compute.find_flavor("m1.tiny", ignore_missing=False)
        networks = [{"uuid": self.network}]
        made = self.sdk.compute.create_server(
            name=name, flavor_id=flavor.id, image_id=self.image, networks=networks, config_drive=False
        )
        return str(made.id)

    def left(self) -> dict[str, list[str]]:
        """What is in the project: servers, volumes, floating addresses, and ports of servers."""
        project = self.project
        ports = self.sdk.network.ports(project_id=project)
        return {
            "servers": [str(one.id) for one in self.servers()],
            "volumes": [str(one.id) for one in self.sdk.block_storage.volumes()],
            "addresses": [str(one.id) for one in self.sdk.network.ips(project_id=project)],
            "ports": [str(one.id) for one in ports if not (one.device_owner or "").startswith("network:")],
        }

    def empty(self) -> None:
        """Delete all of that, and wait until it is gone."""
        self.until(self._without_servers, "no server is left")
        for address in self.left()["addresses"]:
            self.sdk.network.delete_ip(address)
        for port in self.left()["ports"]:
            self.sdk.network.delete_port(port)
        self.until(self._without_volumes, "no volume is left")

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Look again and again until it holds."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, f"not within {PATIENCE:.0f} s: {what}; {self.left()}"
            time.sleep(0.5)

    def _without_servers(self) -> bool:
        left = self.servers()
        for server in left:
            if server.task_state != "deleting":
                self.sdk.compute.delete_server(server)
        return not left

    def _without_volumes(self) -> bool:
        left = list(self.sdk.block_storage.volumes())
        for volume in left:
            if volume.status in ("available", "error"):
                self.sdk.block_storage.delete_volume(volume)
        return not left
