"""A run that outlives its command, where there is no daemon: a process of this command line of its own carries it.

The run is accepted by that process, not by the command that starts it: whoever accepts a run holds its lease and works
on it at once, so accepting here and handing over would leave a moment in which both, or neither, has it. The request
travels through a pipe, never in the arguments, where every user of the machine could read it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pelagos.model.errors import ErrorPayload, InternalError, from_payload
from pelagos.wire.infrastructures import RunRequest, RunView

if TYPE_CHECKING:
    from pelagos.cli.invocation import Invocation

__all__ = ["Answer", "start_detached"]


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first line the background process says on its stdout: the run, or why there is none."""

    run: RunView | None = None
    error: ErrorPayload | None = None


def start_detached(invocation: Invocation, request: RunRequest, home: Path) -> tuple[RunView, Path]:
    """Start the background process; answers the accepted run and the file of its log. Raises what it refused with."""
    directory = home / "logs"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = directory / f"run-{request.request_id}.log"
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        child = subprocess.Popen(  # noqa: S603 - our own interpreter and module, with flags of our own
            [sys.executable, "-m", "pelagos", *_flags(invocation), "run-detached"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=descriptor,
            start_new_session=True,
            close_fds=True,
        )
    finally:
        os.close(descriptor)
    if child.stdin is None or child.stdout is None:
        raise InternalError("the background process has no pipes")
    with child.stdin as pipe:
        pipe.write(msgspec.json.encode(request))
    with child.stdout as pipe:
        line = pipe.readline()
    if not line:
        raise InternalError(
            f"the background process ended with {child.wait()} before it accepted the run",
            advice=f"Its log says why: {log}",
        )
    answer = msgspec.json.decode(line, type=Answer)
    if answer.error is not None:
        child.wait()
        raise from_payload(answer.error)
    if answer.run is None:
        raise InternalError("the background process answered with neither a run nor an error")
    child.returncode = 0  # it goes on without us: the object must not wait for it, nor warn that it did not
    final = directory / f"run-{answer.run.id}.log"
    log.rename(final)
    return answer.run, final


def _flags(invocation: Invocation) -> list[str]:
    flags = ["--no-color"]
    for name in ("home", "config", "url"):
        value = getattr(invocation, name)
        if value:
            flags += [f"--{name}", str(value)]
    return flags + ["-v"] * invocation.verbose
