"""Runs a command inside a running instance: ``enter`` with a JSON object as its argument.

Exit code is the command's (128 + n if signal n killed it), 125 if the instance cannot be entered. SIGTERM ends the
command's whole session.
"""

# ruff: noqa: PTH116, PTH118
# (text paths: pathlib would cost the start of each instance some milliseconds)

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from . import syscalls

__all__ = ["main"]

CANNOT_ENTER = 125
KINDS = (
    ("user", syscalls.CLONE_NEWUSER),
    ("mnt", syscalls.CLONE_NEWNS),
    ("uts", syscalls.CLONE_NEWUTS),
    ("ipc", syscalls.CLONE_NEWIPC),
    ("net", syscalls.CLONE_NEWNET),
    ("pid", syscalls.CLONE_NEWPID),
)


def main() -> None:
    """Entry."""
    order = json.loads(sys.argv[-1])
    try:
        _enter(order)
    except OSError as error:
        sys.stderr.write(f"cannot enter the instance: {error}\n")
        sys.stderr.flush()
        os._exit(CANNOT_ENTER)
    # This process keeps its own credentials; only the child, forked into the process-id namespace, runs the command.
    child = os.fork()
    if child == 0:
        _command(order)

    def stop(number: int, frame: object) -> None:
        del number, frame
        for target in (-child, child):
            try:
                os.kill(target, signal.SIGKILL)
            except ProcessLookupError:
                pass

    signal.signal(signal.SIGTERM, stop)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _enter(order: dict[str, Any]) -> None:
    pid = order["pid"]
    for path in order["cgroups"]:
        try:
            with open(path, "w", encoding="utf-8") as file:
                file.write(str(os.getpid()))
        except OSError:  # the limits could not be set for the instance either, and its console says so
            pass
    if order["level"] == "processes":
        return
    handles = []
    for name, kind in KINDS:
        path = f"/proc/{pid}/ns/{name}"
        if os.stat(path).st_ino != os.stat(f"/proc/self/ns/{name}").st_ino:
            handles.append((os.open(path, os.O_RDONLY | os.O_CLOEXEC), kind))
    if syscalls.start_time(pid) != order["start"]:
        raise ProcessLookupError(3, "its init is gone")
    for handle, kind in handles:
        syscalls.setns(handle, kind)
        os.close(handle)
    os.chdir("/")


def _command(order: dict[str, Any]) -> None:
    argv, environment = order["argv"], order["environment"]
    try:
        syscalls.parent_death_signal(signal.SIGKILL)
        os.setsid()
        os.umask(0o022)
        if order["level"] == "processes":
            os.chdir(order["working_directory"])
        else:
            syscalls.drop_capabilities()
        failure = FileNotFoundError(2, "no such command")
        for path in environment["PATH"].split(":") if "/" not in argv[0] else [""]:
            try:
                os.execve(os.path.join(path, argv[0]), argv, environment)  # noqa: S606 - what an instance is for
            except (FileNotFoundError, NotADirectoryError):
                continue
        sys.stderr.write(f"{argv[0]}: {failure.strerror}\n")
        sys.stderr.flush()
        os._exit(127)
    except OSError as error:
        sys.stderr.write(f"{argv[0]}: {error}\n")
        sys.stderr.flush()
    finally:
        os._exit(126)
