"""The orchestrator's side of starting an instance: the plan, and the process that carries it out.

The launcher is a fresh interpreter without site packages (some 20 ms), not a fork of this process: a fork of a
program with threads, connections and secrets would carry them into the instance.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pelagos.clouds.local.record import boot_id

__all__ = ["STANDARD_PATH", "guest_command", "hidden_python", "launch", "plan_of"]

STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
STANDARD_MASKS = (
    ("/root", 0o700),
    ("/home", 0o755),
    ("/tmp", 0o1777),  # noqa: S108 - hidden from instances
    ("/var/tmp", 0o1777),  # noqa: S108
    ("/run", 0o755),
    ("/mnt", 0o755),
    ("/media", 0o755),
)
LAYERED = ("/usr", "/usr/local", "/etc", "/opt", "/srv", "/var", "/var/lib", "/var/log", "/nix", "/boot")
"""Where a separate file system gets an overlay of its own as root; others are not seen inside."""
PACKAGE = Path(__file__).parent


def guest_command(entry: str, *arguments: str) -> list[str]:
    """The command line of a program of the ``guest`` package."""
    code = f"import sys; sys.path.append({os.fspath(PACKAGE)!r}); from guest.{entry} import main; main()"
    executable = getattr(sys, "_base_executable", "") or sys.executable
    return [executable, "-I", "-S", "-c", code, *arguments]


def plan_of(
    directory: Path,
    *,
    home: Path,
    level: str,
    masks: Sequence[str],
    hostname: str = "localhost",
    image: str = "",
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """A plan for the launcher, still without network, user data and limits."""
    private = directory / "files"
    processes = level == "processes"
    return {
        "id": directory.name,
        "hostname": hostname,
        "directory": os.fspath(directory),
        "level": level,
        "image": image,
        "masks": _masks(home, masks),
        "writable": [],
        "extra_layers": _extra_layers() if level == "namespaces-root" and not image else [],
        "python": hidden_python() if not processes and not image else "",
        "cgroups": [],
        "steps": [],
        "warnings": [],
        "fresh": False,
        "probe": False,
        "console_bytes": 1 << 22,
        "grace": 5.0,
        "boot": boot_id(),
        "working_directory": os.fspath(private) if processes else "/",
        "prefix": os.fspath(private) if processes else "",
        "environment": dict(environment or {"PATH": STANDARD_PATH}),
    }


def _masks(home: Path, more: Sequence[str]) -> list[tuple[str, int]]:
    found: dict[str, int] = {}
    for path, mode in [*STANDARD_MASKS, (os.fspath(home), 0o755), *((path, 0o755) for path in more)]:
        found.setdefault(os.path.realpath(path), mode)
    # A mask below another is inside an empty directory already.
    return [
        (path, mode)
        for path, mode in sorted(found.items())
        if path != "/" and not any(path.startswith(other + "/") for other in found)
    ]


def _extra_layers() -> list[str]:
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    mounted = {line.split()[4] for line in lines}
    return [path for path in LAYERED if path in mounted]


def hidden_python() -> str:
    """The prefix of this interpreter, if instances would find no python3 otherwise."""
    if shutil.which("python3", path=STANDARD_PATH):
        return ""
    return os.path.realpath(sys.base_prefix)


_late: list[subprocess.Popen[bytes]] = []
_late_lock = threading.Lock()


def _look_after_late_ones(another: subprocess.Popen[bytes] | None = None) -> None:
    """Launchers that gave no answer in time go on; each is kept until it has ended, so that none stays a zombie."""
    with _late_lock:
        _late[:] = [process for process in _late if process.poll() is None]
        if another is not None:
            for pipe in (another.stdin, another.stdout, another.stderr):
                if pipe is not None:
                    pipe.close()
            _late.append(another)


def launch(plan: dict[str, Any], making: int, *, timeout: float) -> dict[str, Any]:
    """Bring an instance up. The answer: ``{"pid", "start"}``, ``{"already"}`` or ``{"error", "errno", "stage"}``.

    ``making`` holds the instance's making-lock, which the launcher then holds too. Raises TimeoutError if there is no
    answer: the launcher then still goes on."""
    plan["making_fd"] = making
    _look_after_late_ones()
    process = subprocess.Popen(  # noqa: S603 - our own program
        guest_command("launch", plan["id"]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(making,),
        start_new_session=True,
        env={"PATH": STANDARD_PATH, "LC_ALL": "C.UTF-8"},
        cwd="/",
    )
    try:
        output, errors = process.communicate(json.dumps(plan).encode(), timeout=timeout)
    except subprocess.TimeoutExpired as error:
        _look_after_late_ones(process)
        raise TimeoutError(f"no answer within {timeout:.0f} s") from error
    try:
        answer = json.loads(output)
    except ValueError:
        said = errors.decode(errors="replace").strip().splitlines()
        last = said[-1] if said else "nothing"
        text = f"the launcher ended with {process.returncode} and said: {last}"
        return {"error": text, "errno": 0, "stage": "launch"}
    return dict(answer)
