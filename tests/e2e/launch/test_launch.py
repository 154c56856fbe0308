"""`pelagos launch` with a program, an infrastructure and a container; killed, repeated, taken down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pelagos.launch import programs

pytestmark = pytest.mark.e2e

PELAGOS = Path(sys.executable).with_name("pelagos")
SERVER = """
import http.server, json, pathlib, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if pathlib.Path("healthy").exists() else 503)
        self.end_headers()
        self.wfile.write(b"{}")
    def log_message(self, *a): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
pathlib.Path("port.new").write_text(str(server.server_port))
pathlib.Path("port.new").rename("port")
print("serving", flush=True)
server.serve_forever()
"""
PING = """
import json, pathlib, sys, urllib.request
port = pathlib.Path("port").read_text()
urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()
print(json.dumps({"port": int(port)}))
"""
HELLO = """
from pelagos.process import ServiceProcess, operation

class HelloService(ServiceProcess):
    name = "hello"
    def __init__(self, greeting: str = "Hello") -> None:
        super().__init__()
        self.greeting = greeting
    @operation
    async def hello(self, name: str) -> str:
        return f"{self.greeting}, {name}"
"""
PLAN = """launch: site
levels:
  - name: base
    parts:
      - name: web
        program:
          boot: [{python}, -c, "print('{{\\"made\\": 1}}')"]
          run: [{python}, server.py]
          stop: [/bin/sh, -c, "echo stopped > stopped"]
        ready: {{command: [{python}, ping.py], interval: 0.1}}
        outputs: {{url: "http://127.0.0.1:{{{{ web.port }}}}/"}}
  - parts:
      - name: shop
        infrastructure: {{files: [i.yaml, n.yaml], variables: {{url: "{{{{ web.url }}}}"}}}}
        ready: {{url: "{{{{ web.url }}}}"}}
      - name: workers
        container: {{files: [hello.yaml], system: launched, arguments: {{hello.greeting: "{{{{ web.url }}}}"}}}}
"""
DESCRIPTION = "infra_name: shop\nuser_id: me\nvariables: {url: none, other: 1}\nnodes:\n- {name: web, type: web}\n"
DEFINITIONS = """
'node_def:web':
- resource: {type: simulated}
  contextualisation: {type: cloudinit, context_template: "#cloud-config\\n# {{ variables.url }}\\n"}
  health_check: {ping: false}
"""


class Site:
    def __init__(self, place: Path) -> None:
        self.place = place
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PELAGOS_")},
            "PELAGOS_HOME": str(place / "home"),
            "PELAGOS_POOL": "[{name: cloud, driver: simulated, options: {state: file}}]",
            "HOME": str(place),
        }
        for name, text in {
            "server.py": SERVER,
            "ping.py": PING,
            "hello.py": HELLO,
            "hello.yaml": "name: hello\nprocesses: ['hello:HelloService']\n",
            "i.yaml": DESCRIPTION,
            "n.yaml": DEFINITIONS,
            "plan.yaml": PLAN.format(python=sys.executable),
        }.items():
            (place / name).write_text(text)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [PELAGOS, *arguments],
            cwd=self.place,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        child = self.start(*arguments)
        out, err = child.communicate(timeout=180)
        assert child.returncode == code, (arguments, out, err)
        return subprocess.CompletedProcess(arguments, child.returncode, out, err)

    def parts(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        found = json.loads(self.run("launch", "plan.yaml", *arguments, "-o", "json", code=code).stdout)
        return {part["name"]: part for part in found["parts"]}

    def record(self) -> dict[str, Any]:
        path = self.place / "home" / "launches" / "site.json"
        return {part["name"]: part for part in json.loads(path.read_text())["parts"]} if path.exists() else {}


def until(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


@pytest.fixture
def site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="pelagos-e2e-") as name:  # short: sockets lie in it
        found = Site(Path(name))
        try:
            yield found
        finally:
            for part in found.record().values():
                programs._kill(part["token"])


def test_levels_come_up_in_order_are_repeated_and_go_in_reverse(site: Site) -> None:
    (site.place / "healthy").touch()
    parts = site.parts()
    assert {name: part["state"] for name, part in parts.items()} == dict.fromkeys(("web", "shop", "workers"), "ready")
    url = parts["web"]["outputs"]["url"]
    assert parts["web"]["outputs"]["made"] == 1
    site.run("plan", "i.yaml", "n.yaml", code=2)  # what was built has the url in its variables, and this has not
    assert site.run("call", "hello", "hello", "--content", "you", "--system", "launched").stdout == f"{url}, you\n"
    pids = {name: part["outputs"].get("pid") for name, part in parts.items()}

    again = site.parts()
    assert {name: part["outputs"].get("pid") for name, part in again.items()} == pids

    os.kill(pids["web"], signal.SIGKILL)
    until(lambda: not programs.alive(pids["web"], site.record()["web"]["token"]))
    dead = site.parts("--status", code=3)
    assert (dead["web"]["state"], dead["shop"]["state"], dead["workers"]["state"]) == ("dead", "ready", "ready")
    mended = site.parts()
    assert mended["web"]["outputs"]["pid"] != pids["web"]
    assert mended["workers"]["outputs"]["pid"] == pids["workers"]

    tokens = {name: part["token"] for name, part in site.record().items()}
    (site.place / "plan.yaml").unlink()
    site.run("launch", "site", "--down", code=64)  # nobody is there to ask
    done = site.run("launch", "site", "--down", "--yes")
    assert done.stdout == "site is gone.\n"
    lines = done.stderr
    assert lines.index("web: gone") > max(lines.index("shop: gone"), lines.index("workers: gone"))
    assert (site.place / "stopped").read_text() == "stopped\n"
    assert site.record() == {}
    for token in tokens.values():
        assert programs._all_of(token) == []
    assert json.loads(site.run("list", "-o", "json").stdout) == []
    assert "nothing of a launch 'site'" in site.run("launch", "site", "--status", code=66).stderr


def test_a_level_that_is_not_ready_stops_the_launch_and_the_next_goes_on(site: Site) -> None:
    plan = (site.place / "plan.yaml").read_text().replace("interval: 0.1}", "interval: 0.1}\n        timeout: 3")
    (site.place / "plan.yaml").write_text(plan)
    failed = site.run("launch", "plan.yaml", code=1)
    assert "web is not ready within 3 s" in failed.stderr and "503" in failed.stderr
    assert site.parts("--status", code=3)["web"]["state"] == "failed"
    assert set(site.record()) == {"web"}
    (site.place / "healthy").touch()
    pid = site.record()["web"]["pid"]
    parts = site.parts()
    assert parts["web"]["outputs"]["pid"] == pid  # it was up, and only late
    assert parts["shop"]["state"] == "ready"
    site.run("launch", "plan.yaml", "--down", "--yes")


def test_a_launch_that_is_killed_is_finished_by_the_next_and_nothing_is_doubled(site: Site) -> None:
    first = site.start("launch", "plan.yaml")
    until(lambda: (site.place / "port").exists())
    held = site.run("launch", "plan.yaml", code=75)
    assert "somebody else works on the launch" in held.stderr
    first.kill()
    first.communicate()
    (site.place / "healthy").touch()
    token = site.record()["web"]["token"]
    running = programs.find(token)
    assert running is not None
    assert site.parts()["web"]["outputs"]["pid"] == running
    assert len([pid for pid in programs._all_of(token) if os.getsid(pid) == pid]) == 1
    site.run("launch", "plan.yaml", "--down", "--yes")
    assert programs._all_of(token) == []


def test_a_program_that_ends_at_once_says_why(site: Site) -> None:
    (site.place / "server.py").write_text("import sys\nsys.exit('no database here')\n")
    failed = site.run("launch", "plan.yaml", code=1)
    assert "web ended before it was ready: no database here" in failed.stderr
    assert "what is ready stays as it is" in failed.stderr
    site.run("launch", "plan.yaml", "--down", "--yes")
    assert site.record() == {}


def test_a_boot_that_outlives_its_launch_is_waited_for_and_never_runs_twice_at_once(site: Site) -> None:
    (site.place / "boot.sh").write_text(
        "#!/bin/sh\necho start >> boots\nwhile ! test -e go; do sleep 0.05; done\necho end >> boots\n"
    )
    (site.place / "boot.sh").chmod(0o755)
    plan = "launch: site\nlevels:\n- parts:\n  - {name: web, program: {boot: [./boot.sh]}}\n"
    (site.place / "plan.yaml").write_text(plan)
    boots = site.place / "boots"
    first = site.start("launch", "plan.yaml")
    until(boots.exists)
    first.kill()
    first.communicate()
    again = site.start("launch", "plan.yaml")
    until(lambda: "booting" in (again.stderr.readline() if again.stderr else ""))
    (site.place / "go").touch()
    again.communicate(timeout=120)
    assert again.returncode == 0
    assert boots.read_text() == "start\nend\nstart\nend\n"
    site.run("launch", "plan.yaml", "--down", "--yes")
