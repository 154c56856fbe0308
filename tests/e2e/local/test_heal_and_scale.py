"""On this machine, with a daemon: a node follows a number that an HTTP server tells, and a stopped one is started."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from e2e.local.product import Product, product, until, until_line

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="what is left of instances is only seen by root"),
]

DESCRIPTION = """\
infra_name: guestbook
user_id: test
nodes:
  - name: worker
    type: worker_node
    scaling: {{min: 1, max: 4}}
    policy:
      heal: {{shutdown: restart}}
      autoscale:
        metric: {{type: http, url: '{url}', path: queue.length, of: node}}
        target: 10
        interval: 0.5
        cooldown: {{up: 1, down: 2}}
'node_def:worker_node':
  - resource: {{type: local}}
    health_check: {{ping: false, command: 'true'}}
"""


class Queue(ThreadingHTTPServer):
    """Tells how long a queue is, as the test says."""

    length = 5


class Handler(BaseHTTPRequestHandler):
    server: Queue

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"queue": {"length": self.server.length}}).encode())

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""


@contextmanager
def queue() -> Iterator[Queue]:
    server = Queue(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def made() -> Iterator[Product]:
    with product() as one:
        yield one


def test_it_follows_a_number_and_restarts_what_stopped(made: Product) -> None:
    with queue() as told:
        file = Path(made.files) / "worker.yaml"
        file.write_text(DESCRIPTION.format(url=f"http://127.0.0.1:{told.server_port}/"))
        until_line(made.start("serve"), "ready")
        made("up", str(file))
        assert made.ready() == {"worker": 1}
        told.length = 28
        until(lambda: made.ready() == {"worker": 3}, "three workers for a queue of 28", within=60.0)
        ids = sorted(made.instances())
        made.kill_inside(ids[0])
        until(lambda: "restarted" in made("events", "guestbook").stdout, "what stopped is started", within=60.0)
        until(lambda: made.ready() == {"worker": 3}, "all three are ready again", within=60.0)
        assert sorted(made.instances()) == ids
        told.length = 4
        until(lambda: made.ready() == {"worker": 1}, "one worker for a queue of 4", within=60.0)
        made.assert_exactly(worker=1)
        scaled = [
            (event["data"]["from"], event["data"]["to"])
            for event in map(json.loads, made("events", "guestbook", "-o", "json").stdout.splitlines())
            if event["kind"] == "node.autoscaled"
        ]
        assert scaled == [(1, 3), (3, 1)]
        made("down", "guestbook", "--yes")
