"""Programs that outlive the command that started them: found again by a token, ended with all they started.

Each is the leader of a session of its own and carries a token in its environment. A pid in a file is not enough: it is
written after the start, so a crash between the two would leave a program that nobody knows, and a pid comes again. The
token is chosen and recorded before the start, and ``/proc`` says who has it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from pelagos.model.errors import InvalidInput

__all__ = ["TOKEN", "alive", "end", "find", "last_lines", "start"]

TOKEN = "PELAGOS_LAUNCH_TOKEN"  # noqa: S105 - a variable's name
_LOOK = 0.05
_LAST = 4096


def start(argv: Sequence[str], *, token: str, directory: str, environment: Mapping[str, str], log: Path) -> int:
    """Start a program; its output goes to ``log``. Returns its pid. Raises InvalidInput if it cannot be started."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        child = subprocess.Popen(  # noqa: S603 - the operator's own plan names it; no shell
            list(argv),
            cwd=directory,
            env={**environment, TOKEN: token},
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
        )
    except OSError as error:
        raise InvalidInput(f"the program {argv[0]!r} cannot be started: {error.strerror}") from error
    finally:
        os.close(descriptor)
    child.returncode = 0  # it goes on without us: the object must not wait for it, nor warn that it did not
    return child.pid


def find(token: str) -> int | None:
    """The pid of the session's leader that has the token, or None."""
    for pid in _all_of(token):
        try:
            if os.getsid(pid) == pid:
                return pid
        except ProcessLookupError:
            continue
    return None


def alive(pid: int, token: str) -> bool:
    """Whether the program lives and is the one that was started."""
    if pid <= 0:
        return False
    _reap(pid)
    try:
        return f"{TOKEN}={token}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


async def end(pid: int, token: str, timeout: float) -> None:
    """Ask the program's group to end, wait ``timeout`` seconds, then make it, and whatever else it started."""
    if alive(pid, token):
        _ask(pid)
    loop = asyncio.get_running_loop()
    limit = loop.time() + timeout
    while alive(pid, token):
        if loop.time() >= limit:
            _kill(token)
        await asyncio.sleep(_LOOK)
    _kill(token)  # what it left behind


def last_lines(log: Path, count: int = 5) -> str:
    """The end of a log, for people; empty if there is none."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _LAST))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-count:])
    except OSError:
        return ""


def _ask(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGTERM)
    except ProcessLookupError:
        return


def _kill(token: str) -> None:
    for pid in _all_of(token):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _all_of(token: str) -> list[int]:
    wanted = f"{TOKEN}={token}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue  # gone meanwhile, or somebody else's
    return found


def _reap(pid: int) -> None:
    """If it was started by this very process and has ended, take its exit code, so that no zombie stays."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
