"""The second Ctrl+C, the question at a terminal, and the background process of ``--detach``."""

from __future__ import annotations

import os
import pty
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from pelagos.cli.detached import Answer, start_detached
from pelagos.cli.invocation import Invocation
from pelagos.model.errors import InternalError, LeaseHeld
from pelagos.wire.infrastructures import RunRequest
from support.fake_client import FixedWorld, run_view

LEAVING = """
import asyncio, os, signal, time
from pelagos.cli.interrupts import Interrupts

async def main():
    with Interrupts() as interrupts:
        interrupts.last_words = "how to go on"
        os.kill(os.getpid(), signal.SIGINT)
        await interrupts.asked.wait()
        print("asked", flush=True)
        {stuck}
        os.kill(os.getpid(), signal.{second})
        print("still here", flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("second", ["SIGINT", "SIGTERM"])
def test_the_second_signal_leaves_at_once_with_130_and_last_words(second: str) -> None:
    code = LEAVING.format(second=second, stuck="asyncio.get_running_loop().call_soon = None")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stdout == "asked\n"
    assert "how to go on" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("typed", "agreed"), [("y\n", True), ("YES\n", True), ("\n", False), ("n\n", False)])
def test_a_question_at_a_terminal(typed: str, agreed: bool) -> None:
    code = (
        "import asyncio\nfrom pelagos.cli.invocation import Invocation\n"
        "print(asyncio.run(Invocation().confirm('Really?')))"
    )
    master, slave = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        os.write(master, typed.encode())
        out, err = process.communicate(timeout=30)
    finally:
        os.close(master)
        os.close(slave)
    assert out.strip() == str(agreed)
    assert err == "Really? [y/N] "


class TestDetached:
    """The interpreter is replaced by a script that plays the background process."""

    REQUEST = RunRequest(kind="up", request_id="request-1", sources={"a.yaml": "text with a secret"})

    def _child(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes, code: int = 0) -> Path:
        home = tmp_path / "home"
        (tmp_path / "answer").write_bytes(answer)
        script = tmp_path / "python"
        script.write_text(
            f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\ncat > {tmp_path}/request\n'
            f"ps -o sid= -p $$ > {tmp_path}/session\necho progress >&2\ncat {tmp_path}/answer\nexit {code}\n"
        )
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))
        return home

    def test_the_request_goes_by_pipe_and_the_log_is_private(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        home = self._child(tmp_path, monkeypatch, msgspec.json.encode(Answer(run=run_view())) + b"\n")
        invocation = Invocation(world=FixedWorld())
        invocation.home = "/somewhere"
        run, log = start_detached(invocation, self.REQUEST, home)
        assert run == run_view()
        assert log == home / "logs" / "run-run-1.log"
        assert log.read_text() == "progress\n"
        assert stat.S_IMODE(log.stat().st_mode) == 0o600
        assert stat.S_IMODE(log.parent.stat().st_mode) == 0o700
        assert msgspec.json.decode((tmp_path / "request").read_bytes(), type=RunRequest) == self.REQUEST
        arguments = (tmp_path / "arguments").read_text()
        assert "--home /somewhere run-detached" in arguments
        assert "secret" not in arguments
        assert int((tmp_path / "session").read_text()) != os.getsid(0)

    def test_what_it_refuses_with_is_raised_here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        refusal = Answer(error=LeaseHeld("process 7 holds it").payload())
        home = self._child(tmp_path, monkeypatch, msgspec.json.encode(refusal) + b"\n", code=75)
        with pytest.raises(LeaseHeld, match="process 7"):
            start_detached(Invocation(world=FixedWorld()), self.REQUEST, home)

    def test_one_that_dies_first_is_told_with_its_log(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        home = self._child(tmp_path, monkeypatch, b"", code=70)
        with pytest.raises(InternalError, match="ended with 70") as caught:
            start_detached(Invocation(world=FixedWorld()), self.REQUEST, home)
        assert "run-request-1.log" in caught.value.advice
