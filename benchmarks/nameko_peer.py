"""RPC by nameko on the same broker: what users of the best-known Python framework for this pay.

nameko runs on eventlet, which patches the standard library, so it has an interpreter of its own: the one that
``PELAGOS_BENCH_NAMEKO`` names, or that of a virtual environment which is made here when it is first needed. This file
is run by it as a script, so its head imports nothing but the standard library.

Service and client share the process, as ours do: a ``ServiceRunner`` with as many workers as our service has slots, and
the stand-alone client, which keeps many calls in flight by ``call_async``. The content is JSON, nameko's own way.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

VERSION = "2.14.1"
WORKERS = 64


def interpreter() -> tuple[str, str]:
    """The Python that has nameko, and ``""``; or ``""``, and why there is none."""
    named = os.environ.get("PELAGOS_BENCH_NAMEKO")
    if named:
        return (named, "") if Path(named).exists() else ("", f"PELAGOS_BENCH_NAMEKO: there is no {named}")
    folder = Path(tempfile.gettempdir()) / f"pelagos-bench-nameko-{VERSION}"
    python, stamp = folder / "bin" / "python", folder / ".complete"
    if not stamp.exists():
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True, capture_output=True)
            install = [str(python), "-m", "pip", "install", "--quiet", f"nameko=={VERSION}"]
            subprocess.run(install, check=True, capture_output=True, text=True, timeout=180)
        except (subprocess.SubprocessError, OSError) as error:
            said = getattr(error, "stderr", None) or str(error)
            return "", f"it does not install: {str(said).strip().splitlines()[-1][:80]}"
        stamp.touch()
    return str(python), ""


def measure(url: str, in_flight: int, requests: int, rounds: int) -> tuple[float | None, str]:
    """The best of some rounds in seconds a request, and ``""``; or None, and why."""
    python, why = interpreter()
    if not python:
        return None, why
    try:
        child = subprocess.run(
            [python, "-W", "ignore", __file__, url, str(in_flight), str(requests), str(rounds)],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return float(child.stdout.split()[-1]), ""
    except subprocess.CalledProcessError as error:
        return None, f"it failed: {(error.stderr.strip().splitlines() or ['without a word'])[-1][:80]}"
    except subprocess.TimeoutExpired:
        return None, "it took more than two minutes"


def _main(url: str, in_flight: int, requests: int, rounds: int) -> float:
    import eventlet  # type: ignore[import-not-found,unused-ignore]

    eventlet.monkey_patch()

    import uuid

    from kombu import Connection  # type: ignore[import-not-found,unused-ignore]
    from nameko.rpc import rpc  # type: ignore[import-not-found,unused-ignore]
    from nameko.runners import ServiceRunner  # type: ignore[import-not-found,unused-ignore]
    from nameko.standalone.rpc import ClusterRpcProxy  # type: ignore[import-not-found,unused-ignore]

    service = f"bench_{uuid.uuid4().hex[:8]}"
    exchange = f"pelagos.{service}"
    config = {"AMQP_URI": url, "rpc_exchange": exchange, "max_workers": WORKERS}

    class Compute:
        name = service

        @rpc  # type: ignore[untyped-decorator,unused-ignore]
        def create_servers(self, request: dict[str, Any]) -> dict[str, Any]:
            return {
                "operation_id": "4f7c6f3e-9a53-4f0f-8a50-1df1b3a4a0aa",
                "server_ids": ["a" * 36] * request["count"],
                "state": "pending",
            }

    request = {
        "name": "web-1",
        "flavor": "m1.small",
        "image": "debian-12",
        "count": 2,
        "labels": {"infra": "guestbook", "node": "web"},
        "networks": ["default", "front"],
    }
    runner = ServiceRunner(config)
    runner.add_service(Compute)
    runner.start()
    best = float("inf")
    try:
        with ClusterRpcProxy(config) as cluster:
            create = cluster[service].create_servers
            create(request)
            for _ in range(rounds):
                begin = time.perf_counter()
                pending: deque[Any] = deque()
                for _ in range(requests):
                    if len(pending) >= in_flight:
                        pending.popleft().result()
                    pending.append(create.call_async(request))
                while pending:
                    pending.popleft().result()
                best = min(best, (time.perf_counter() - begin) / requests)
    finally:
        runner.stop()
        with Connection(url) as connection, connection.channel() as channel:
            channel.queue_delete(f"rpc-{service}")
            channel.exchange_delete(exchange)
    return best


if __name__ == "__main__":
    print(_main(sys.argv[1], *(int(argument) for argument in sys.argv[2:5])))
