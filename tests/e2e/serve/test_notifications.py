"""A real daemon whose sinks are a real web server and a real program."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pelagos.services.notifications import verify_webhook

pytestmark = pytest.mark.e2e

PELAGOS = Path(sys.executable).with_name("pelagos")
DESCRIPTION = "infra_name: shop\nuser_id: me\nnodes:\n- {name: web, type: web}\n"
DEFINITIONS = """
'node_def:web':
- resource: {type: simulated}
  contextualisation: {type: basic}
  health_check: {ping: false}
"""


class Hooks(http.server.HTTPServer):
    """A receiver that refuses so many deliveries first."""

    def __init__(self, failures: int) -> None:
        super().__init__(("127.0.0.1", 0), _Hook)
        self.failures = failures
        self.got: list[tuple[str, str, bytes]] = []
        self.thread = threading.Thread(target=self.serve_forever, daemon=True)
        self.thread.start()


class _Hook(http.server.BaseHTTPRequestHandler):
    server: Hooks

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.headers["X-Pelagos-Delivery"], self.headers["X-Pelagos-Signature"], body))
        refused = self.server.failures > 0
        self.server.failures -= 1
        self.send_response(503 if refused else 204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def hooks() -> Iterator[Hooks]:
    server = Hooks(failures=2)
    yield server
    server.shutdown()
    server.server_close()


def until(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_sinks_are_told_of_a_build_and_a_failing_one_holds_up_nothing(hooks: Hooks) -> None:
    with tempfile.TemporaryDirectory(prefix="pelagos-e2e-") as name:  # short: a socket lies in it
        place = Path(name)
        secret = place / "secret"
        secret.write_text("s3cr3t\n")
        secret.chmod(0o600)
        out = place / "told"
        program = place / "page"
        program.write_text('#!/bin/sh\ncat >> "$1"\n')
        program.chmod(0o755)
        config = {
            "simulated": True,
            "sinks": [
                {
                    "name": "ops",
                    "type": "webhook",
                    "url": f"http://127.0.0.1:{hooks.server_port}/",
                    "secret": {"file": str(secret)},
                    "events": ["run_succeeded"],
                },
                {"name": "page", "type": "command", "argv": [str(program), str(out)], "events": ["instance_ready"]},
                {"name": "dead", "type": "command", "argv": [str(place / "none")], "events": ["#"]},
            ],
        }
        (place / "pelagos.yaml").write_text(json.dumps(config))
        (place / "i.yaml").write_text(DESCRIPTION)
        (place / "n.yaml").write_text(DEFINITIONS)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PELAGOS_")}
        environment |= {"PELAGOS_HOME": str(place / "home"), "PELAGOS_CONFIG": str(place / "pelagos.yaml")}

        def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
            done = subprocess.run(
                [PELAGOS, *arguments], cwd=place, env=environment, capture_output=True, text=True, timeout=120
            )
            assert done.returncode == code, (arguments, done.stdout, done.stderr)
            return done

        with (place / "log").open("w") as log:
            daemon = subprocess.Popen([PELAGOS, "serve"], cwd=place, env=environment, stdout=log, stderr=log)
        try:
            until((place / "home" / "pelagos.sock").exists)
            run("up", "i.yaml", "n.yaml")
            until(lambda: len(hooks.got) == 3 and out.exists())
            deliveries = {delivery for delivery, _, _ in hooks.got}
            assert len(deliveries) == 1
            _, signature, body = hooks.got[-1]
            verify_webhook("s3cr3t", body, signature, time.time())
            told = json.loads(body)
            assert (told["type"], told["infrastructure"], told["delivery"]) == ("run_succeeded", "shop", *deliveries)
            (ready,) = map(json.loads, out.read_text().splitlines())
            assert ready["type"] == "instance_ready"

            known = {sink["name"]: sink for sink in json.loads(run("sinks", "list", "-o", "json").stdout)}
            assert known["page"]["delivered"] == 1 and known["dead"]["lag"] > 0
            assert "none" in known["dead"]["last_error"]
            assert "s3cr3t" not in json.dumps(known)
            assert "TOLD SINCE START" in run("sinks", "list").stdout
            assert run("sinks", "test", "ops").stdout.startswith("ops was told in ")
            assert json.loads(hooks.got[-1][2])["type"] == "test"
            assert "could not be told" in run("sinks", "test", "dead", code=1).stderr
            assert "There are: dead, ops, page" in run("sinks", "test", "oops", code=66).stderr
            run("down", "shop", "--yes")
        finally:
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(60) == 0
        assert "s3cr3t" not in (place / "log").read_text()
