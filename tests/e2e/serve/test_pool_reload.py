"""A daemon whose pool changes while it serves: by command, by SIGHUP, and not by a broken file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pelagos.clients.sync import connect
from pelagos.wire.clouds import CloudView

PELAGOS = Path(sys.executable).parent / "pelagos"

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not PELAGOS.is_file(), reason=f"there is no command {PELAGOS}"),
    pytest.mark.timeout(180),
]

BOTH = (
    "pool:\n  east: {driver: simulated, options: {state: file}}\n  west: {driver: simulated, options: {state: file}}\n"
)
SECRET = "pool:\n  east: {driver: simulated, options: {state: file}, credentials: {seed: {file: seed}}}\n"
BROKEN = "pool:\n  east: {driver: simulated, options: {state: fil}}\n  west: {driver: nothing}\n"
SHOP = "infra_name: shop\nuser_id: me\nnodes:\n- {name: web, type: web}\n"
WEB = "'node_def:web':\n- resource: {type: simulated, name: west}\n  health_check: {ping: false}\n"


class Site:
    """A daemon, its configuration and commands that find it."""

    def __init__(self, directory: Path, home: Path) -> None:
        self.directory = directory
        self.home = home
        self.config = directory / "pelagos.yaml"
        self.client: Any = None
        self.environ = {key: value for key, value in os.environ.items() if not key.startswith("PELAGOS_")}
        self.environ |= {"HOME": str(directory), "PELAGOS_HOME": str(home), "PELAGOS_CONFIG": str(self.config)}

    def pelagos(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [PELAGOS, *arguments], env=self.environ, cwd=self.directory, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def clouds(self) -> dict[str, CloudView]:
        return {one.name: one for one in self.client.clouds.list()}

    def until(self, cloud: str, state: str) -> CloudView:
        """Look until a cloud is in a state."""
        for _ in range(600):
            found = self.clouds()[cloud]
            if found.state == state:
                return found
            threading.Event().wait(0.05)
        raise AssertionError(found)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="pool-") as home:  # short: a socket's path bears a hundred bytes
        yield Site(tmp_path, Path(home))


@pytest.fixture
def daemon(site: Site) -> Iterator[subprocess.Popen[str]]:
    site.config.write_text(BOTH)
    pipe = subprocess.PIPE
    command = [PELAGOS, "serve"]
    process = subprocess.Popen(command, env=site.environ, cwd=site.directory, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    assert address.startswith("unix://")
    with connect(address) as site.client:
        yield process
    process.terminate()
    _, told = process.communicate(timeout=60)
    assert process.returncode == 0, told


def test_a_pool_changes_under_a_daemon(site: Site, daemon: subprocess.Popen[str]) -> None:
    (site.directory / "shop.yaml").write_text(SHOP)
    (site.directory / "web.yaml").write_text(WEB)
    site.pelagos("up", "shop.yaml", "web.yaml")
    before = site.clouds()["west"]
    assert (before.servers, before.state, before.opened) == (1, "ok", True)

    site.config.write_text(BROKEN)
    refused = site.pelagos("cloud", "reload", code=65)
    assert f"{site.config}:2:39" in refused.stderr, "the wrong option"
    assert f"{site.config}:3:10" in refused.stderr, "the unknown driver"
    assert site.clouds()["west"].opened, "the old pool stays"

    site.config.write_text(BOTH + "  north: {driver: simulated}\n")
    assert site.client.clouds.reload().added == ("north",)
    assert site.clouds()["west"].answered_at is not None, "what did not change was not opened anew"

    seed = site.directory / "seed"
    seed.write_text("4\n")
    seed.chmod(0o600)
    site.config.write_text(SECRET)
    changed = site.client.clouds.reload()
    assert (changed.changed, changed.removed) == (("east",), ("west", "north"))
    assert site.until("west", "removed").servers == 1
    assert "no cloud account 'west'" in site.pelagos("status", "shop").stdout
    assert [one.ok for one in site.client.clouds.check("east")] == [True]

    seed.write_text("5\n")
    assert site.client.clouds.reload().renewed == ("east",), "its secret was rotated"
    seed.chmod(0o644)
    assert site.client.clouds.reload("east").renewed == ("east",)
    assert f"east: chmod 600 {seed}" in site.pelagos("cloud", "check", "east", code=1).stderr

    site.config.write_text(BOTH)
    daemon.send_signal(signal.SIGHUP)
    site.until("west", "unknown")
    site.pelagos("down", "shop", "--yes")
    assert site.client.clouds.servers("west") == ()
