"""A Docker engine for tests: the one that answers, and what a test may have of it."""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = ["IMAGE", "REGISTRY_IMAGE", "TARBALL", "engine_url", "leavings", "limits_in_force", "resource", "sdk"]

BED = Path(os.environ.get("PELAGOS_TESTBED_DOCKER", "/var/tmp/pelagos-testbed-docker"))
"""Where `make testbed-docker` puts its engine."""
REGISTRY = f"127.0.0.1:{os.environ.get('PELAGOS_TESTBED_REGISTRY_PORT', '5055')}"
IMAGE = {"origin": "local", "image": "localhost/pelagos-busybox", "tag": "1"}
REGISTRY_IMAGE = {"origin": f"{REGISTRY}/pelagos", "image": "busybox", "tag": "1"}
TARBALL = BED / "busybox.tar"
LIMITS = {"nofile": 512, "nproc": 16384}
"""Said with each container: without CAP_SYS_RESOURCE the test bed's podman cannot set its own. ``nproc`` counts all
that the user runs on the machine, not in the container alone; a busy test run has hundreds."""


def engine_url() -> str:
    """The engine's socket; skips the test where none answers."""
    url, problem = _found()
    if problem:
        pytest.skip(problem)
    return url


@functools.cache
def _found() -> tuple[str, str]:
    """The engine's socket, and why it is of no use."""
    url = os.environ.get("PELAGOS_TEST_DOCKER", f"unix://{BED}/docker.sock")
    try:
        import docker
    except ImportError:
        return url, "the docker SDK is not installed"
    try:
        if url.startswith("unix://"):  # where nobody listens the SDK leaves its socket open
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.connect(url.removeprefix("unix://"))
        with sdk(url) as client:
            client.inspect_image(f"{IMAGE['image']}:{IMAGE['tag']}")
    except docker.errors.ImageNotFound:
        return url, f"no Docker engine answers at {url} that has the test bed's images; see `make testbed-docker`"
    except OSError as error:  # requests' errors are, and so are the SDK's of answers
        return url, f"no Docker engine answers at {url}: {error}"
    return url, ""


def resource(**keys: Any) -> dict[str, Any]:
    """Options of a container on the test bed."""
    return {**IMAGE, "ulimits": LIMITS, **keys}


@contextmanager
def sdk(url: str) -> Iterator[Any]:
    """The SDK's own client: what the engine itself says, past the driver."""
    import docker

    # The SDK's way to ask for the version costs podman a second.
    with docker.APIClient(url, version="1.24", timeout=60) as probe:
        version = probe.get(f"{probe.base_url}/_ping", timeout=60).headers["Api-Version"]
    with docker.APIClient(url, version=version, timeout=60) as client:
        yield client


def limits_in_force(client: Any, container: str) -> dict[str, float | int | None]:
    """What the kernel holds a container to, by the keys of a resource; only where the engine is on this machine."""
    process = client.inspect_container(container)["State"]["Pid"]
    groups: dict[str, Path] = {}
    for line in Path(f"/proc/{process}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            groups[name] = Path("/sys/fs/cgroup", name, path.lstrip("/"))

    def read(name: str, old: str, new: str) -> str:
        if name in groups:
            return (groups[name] / old).read_text().strip()
        return (groups[""] / new).read_text().strip()

    if "cpu" in groups:
        quota, period = read("cpu", "cpu.cfs_quota_us", ""), read("cpu", "cpu.cfs_period_us", "")
    else:
        quota, period = read("cpu", "", "cpu.max").split()
    return {
        "memory_mb": int(read("memory", "memory.limit_in_bytes", "memory.max")) >> 20,
        "cpus": int(quota) / int(period),
        "pids": int(read("pids", "pids.max", "pids.max")),
    }


def leavings(client: Any, scope: str) -> list[str]:
    """What the engine has of this scope: containers, networks."""
    label = {"label": [f"pelagos.scope={scope}"]}
    containers = [str(one["Names"]) for one in client.containers(all=True, filters=label)]
    return containers + [str(one["Name"]) for one in client.networks(filters=label)]
