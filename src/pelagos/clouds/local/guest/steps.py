"""The steps of an instance's user data, as init carries them out. The orchestrator has already checked their form.

A step that fails is logged and the rest goes on, as cloud-init does.
"""

# ruff: noqa: PTH101, PTH103, PTH104, PTH108, PTH114, PTH120, PTH208
# (text paths: pathlib would cost the start of each instance some milliseconds)

from __future__ import annotations

import base64
import os
import pwd
import shlex
from collections.abc import Callable
from typing import Any

__all__ = ["descendants", "perform"]

SCRIPT = "/var/lib/pelagos/user-data"


def perform(step: dict[str, Any], plan: dict[str, Any], log: Callable[[str], None]) -> list[str] | None:
    """Do a step at once and return None, or return the command that does it."""
    kind = step["kind"]
    if kind == "write":
        path = plan["prefix"] + step["path"]
        _write(path, step, log)
        return None
    if kind == "script":
        path = plan["prefix"] + SCRIPT
        _write(path, {"content": step["content"], "mode": 0o700, "owner": "", "append": False}, log)
        return [path]
    if kind == "shell":
        return ["/bin/sh", "-c", step["text"], "sh"]
    if kind == "user":
        return _user(step, plan, log)
    if kind == "packages":
        return ["/bin/sh", "-c", _packages(step["names"]), "sh"]
    raise OSError(f"unknown step {kind!r}")


def _write(path: str, step: dict[str, Any], log: Callable[[str], None]) -> None:
    """Write beside and rename: in user mode a file of the host can be replaced but not opened for writing."""
    content = base64.b64decode(step["content"])
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    mode = step["mode"]
    if step["append"]:
        try:
            with open(path, "rb") as file:
                content = file.read() + content
                if mode is None:
                    mode = os.fstat(file.fileno()).st_mode & 0o7777
        except FileNotFoundError:
            pass
    if os.path.islink(path):
        path = os.path.realpath(path)
    beside = f"{path}.pelagos-new"
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        os.chmod(beside, 0o644 if mode is None else mode)
        if step["owner"]:
            _chown(beside, step["owner"], log)
        os.rename(beside, path)
    except OSError:
        os.unlink(beside)
        raise


def _chown(path: str, owner: str, log: Callable[[str], None]) -> None:
    name, _, group = owner.partition(":")
    try:
        uid = int(name) if name.isdigit() else _number("/etc/passwd", name) if name else -1
        gid = int(group) if group.isdigit() else _number("/etc/group", group) if group else -1
        if name and not group and not name.isdigit():
            gid = pwd.getpwuid(uid).pw_gid if uid >= 0 else -1
        os.chown(path, uid, gid)
    except (OSError, KeyError, ValueError) as error:
        log(f"warning: cannot give {path} to {owner}: {error}")


def _number(path: str, name: str) -> int:
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            fields = line.rstrip("\n").split(":")
            if fields[0] == name:
                return int(fields[2])
    raise KeyError(f"{name} is not in {path}")


def _user(step: dict[str, Any], plan: dict[str, Any], log: Callable[[str], None]) -> list[str] | None:
    name = step["name"]
    if plan["level"] != "namespaces-root":
        log(f"warning: the user {name} is not made: without root an instance has one user, its own root")
        return None
    quoted = shlex.quote(name)
    arguments = " ".join(shlex.quote(argument) for argument in step["arguments"])
    lines = [f"id -u {quoted} >/dev/null 2>&1 || useradd {arguments} {quoted} || exit $?"]
    if step["keys"]:
        keys = shlex.quote("\n".join(step["keys"]))
        lines.append(
            f'home=$(getent passwd {quoted} | cut -d: -f6); mkdir -p "$home/.ssh" && chmod 700 "$home/.ssh" && '
            f'printf "%s\\n" {keys} >> "$home/.ssh/authorized_keys" && chmod 600 "$home/.ssh/authorized_keys" && '
            f'chown -R {quoted}: "$home/.ssh"'
        )
    if step["sudo"]:
        rules = shlex.quote("\n".join(f"{name} {rule}" for rule in step["sudo"]))
        lines.append(
            f"mkdir -p /etc/sudoers.d && printf '%s\\n' {rules} > /etc/sudoers.d/90-{quoted} && "
            f"chmod 440 /etc/sudoers.d/90-{quoted}"
        )
    return ["/bin/sh", "-c", "\n".join(lines), "sh"]


def _packages(names: list[str]) -> str:
    lines = [
        "pelagos_missing=0",
        "pelagos_have() {",
        "  if command -v dpkg-query >/dev/null 2>&1; then",
        "    dpkg-query -W -f '${Status}' \"$1\" 2>/dev/null | grep -q 'ok installed' && return 0",
        '  elif command -v rpm >/dev/null 2>&1; then rpm -q "$1" >/dev/null 2>&1 && return 0',
        '  elif command -v apk >/dev/null 2>&1; then apk info -e "$1" >/dev/null 2>&1 && return 0; fi',
        '  command -v "$1" >/dev/null 2>&1',
        "}",
    ]
    for name in names:
        quoted = shlex.quote(name)
        lines.append(
            f"pelagos_have {quoted} || {{ echo warning: the package {quoted} is not installed on this machine, whose "
            f"software a local instance shares: install it there, or use an image that has it; pelagos_missing=1; }}"
        )
    lines.append("exit $pelagos_missing")
    return "\n".join(lines)


def descendants(pid: int) -> list[int]:
    """All processes below one, from /proc."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
                if fields[0] != b"Z":
                    parents[int(name)] = int(fields[1])
            except (OSError, IndexError):
                continue
    found: list[int] = []
    for candidate in sorted(parents):
        above = candidate
        while above in parents and above != pid:
            above = parents[above]
        if above == pid and candidate != pid:
            found.append(candidate)
    return found
