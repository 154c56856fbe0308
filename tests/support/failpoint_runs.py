"""Runs of Pelagos as processes of their own that may be made to die, a few hundredths of a second each.

A program that has imported everything once forks a child for each run; the child opens a runtime in its home and does
what it is told, exactly as a command would, and is killed where its environment says so.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

_PATIENCE = 90
"""Seconds that a run may take."""


class Runs:
    """The program that forks, as tests use it."""

    def __init__(self) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PELAGOS_")}
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=kept
        )

    def __call__(self, home: Path, account: dict[str, Any], verb: str, failpoint: str = "", /, **given: Any) -> bool:
        """Do ``verb`` (a function of this module) in ``home``; true if it died by the failpoint, false if it ended.

        Fails the test if the run did neither."""
        request = {"home": str(home), "account": account, "verb": verb, "failpoint": failpoint, "given": given}
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if failpoint and answer["signal"] == signal.SIGKILL:
            return True
        assert answer["code"] == 0, f"{verb}: {answer}"
        return False

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()


# -- in the program that forks -----------------------------------------------------------------------------------------


def main() -> None:
    import pelagos.cli
    import pelagos.clouds.local
    import pelagos.clouds.simulated
    import pelagos.runtime
    import pelagos.runtime.runtime
    import pelagos.services.infrastructure  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        said = Path(request["home"]).with_suffix(".said")
        importlib.import_module(f"pelagos.clouds.{request['account']['driver']}.driver")
        child = os.fork()
        if child == 0:
            _child(request, said)
        _, status = os.waitpid(child, 0)
        answer = {
            "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
            "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else -1,
            "said": said.read_text()[-4000:],
        }
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _child(request: dict[str, Any], said: Path) -> None:
    code = 1
    try:
        signal.alarm(_PATIENCE)
        output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        asyncio.run(_run(request))
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


async def _run(request: dict[str, Any]) -> None:
    from pelagos.clouds import AccountConfig
    from pelagos.model.world import SystemWorld
    from pelagos.runtime import Settings
    from pelagos.runtime.runtime import Runtime

    environ = dict(os.environ)
    if request["failpoint"]:
        environ["PELAGOS_FAILPOINT"] = request["failpoint"]
    world = SystemWorld(environ=environ)
    settings = Settings(home=Path(request["home"]), pool=(AccountConfig(**request["account"]),))
    async with Runtime(settings, world=world) as runtime:
        await globals()[request["verb"]](runtime, **request["given"])
    world.close()


async def up(runtime: Any, sources: dict[str, str], *, cancel: bool = False, fails: bool = False) -> None:
    from pelagos.wire.infrastructures import RunRequest

    request = RunRequest(kind="up", request_id=runtime.world.new_id(), sources=sources, entries=tuple(sources))
    await _follow(runtime, request, cancel=cancel, fails=fails)


async def down(runtime: Any, infrastructure: str) -> None:
    await _command(runtime, "down", infrastructure)


async def maintain(runtime: Any, infrastructure: str) -> None:
    await _command(runtime, "maintain", infrastructure)


async def power(runtime: Any, verb: str) -> None:
    """Start, stop or reboot all servers, and wait for it."""
    from functools import partial

    from pelagos.model import DEFAULT_SCOPE
    from pelagos.operations import operations_by_id
    from pelagos.services.compute import list_servers
    from pelagos.services.compute.messages import PowerServers, ServerRef

    found = await runtime.store.read(partial(list_servers, scope=DEFAULT_SCOPE))
    items = tuple(ServerRef(request_id=runtime.world.new_id(), server_id=server.id) for server in found)
    accepted = await _compute(runtime).power_servers(PowerServers(verb=verb, items=items))
    ids = [operation.id for operation in accepted.operations]
    reading = partial(operations_by_id, ids=ids)
    while not all(r.state.final for r in (await runtime.store.read(reading)).values()):  # noqa: ASYNC110 - rows
        await asyncio.sleep(0.02)


async def refresh(runtime: Any, account: str, *, times: int = 1) -> None:
    """List the account, and wait until nothing is left to do."""
    from pelagos.services.compute.messages import RefreshAccounts

    for _ in range(times):
        answer = await _compute(runtime).refresh(RefreshAccounts(accounts=(account,)))
        assert not answer.errors, answer.errors
        while await runtime.store.read(_unfinished):  # noqa: ASYNC110 - rows
            await asyncio.sleep(0.02)


def _unfinished(connection: Any) -> bool:
    from sqlalchemy import text

    return connection.execute(text("SELECT 1 FROM operations WHERE finished_at IS NULL LIMIT 1")).first() is not None


def _compute(runtime: Any) -> Any:
    from pelagos.process import client
    from pelagos.services.compute import ComputeService

    return client(ComputeService, runtime.container.edge, timeout=60.0)


async def _command(runtime: Any, kind: Any, infrastructure: str) -> None:
    from pelagos.model.errors import NotFound
    from pelagos.wire.infrastructures import RunRequest

    request = RunRequest(kind=kind, request_id=runtime.world.new_id(), infrastructure=infrastructure)
    try:
        await _follow(runtime, request)
    except NotFound:
        # An interrupted one had got that far.
        assert kind == "down"


async def _follow(runtime: Any, request: Any, *, cancel: bool = False, fails: bool = False) -> None:
    import contextlib

    async with runtime.client() as client:
        run = await client.runs.start(request)
        if cancel:
            await client.runs.cancel(run.id)
        async with contextlib.aclosing(client.runs.follow(run.id, after=run.position)) as stream:
            async for _ in stream:
                pass
        run = await client.runs.get(run.id)
    wanted = "cancelled" if cancel else "failed" if fails else "succeeded"
    assert run.state == wanted, run


if __name__ == "__main__":
    main()
