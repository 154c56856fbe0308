"""Finding processes that belong to an instance, through /proc."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from pelagos.clouds.local.guest.steps import descendants

__all__ = ["kill_strays", "listens", "lock_holders"]

LISTEN = "0A"
ROUNDS = 100


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def lock_holders(lock: Path) -> list[int]:
    """Processes that have an instance's lock file open for reading, as init has: for when its process id was lost."""
    wanted = lock.stat()
    found = []
    for pid in _pids():
        if pid == os.getpid():
            continue
        try:
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                facts = entry.stat()
                if (facts.st_dev, facts.st_ino) == (wanted.st_dev, wanted.st_ino):
                    flags = (
                        Path(f"/proc/{pid}/fdinfo/{entry.name}")
                        .read_text(encoding="ascii")
                        .split("flags:")[1]
                        .split()[0]
                    )
                    if int(flags, 8) & os.O_ACCMODE == os.O_RDONLY:
                        found.append(pid)
                        break
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
    return found


def kill_strays(marker: str) -> None:
    """Kill the processes of an instance without namespaces whose init was killed: their environment names it."""
    wanted = f"PELAGOS_INSTANCE={marker}".encode()
    for _ in range(ROUNDS):
        found = False
        for pid in _pids():
            try:
                handle = os.pidfd_open(pid)
            except (ProcessLookupError, OSError):
                continue
            try:
                if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    found = True
            except (FileNotFoundError, PermissionError, ProcessLookupError):
                continue
            finally:
                os.close(handle)
        if not found:
            return


def listens(pid: int, level: str, network: str, address: str, port: int) -> bool:
    """Whether a process of the instance whose init is ``pid`` listens on address and port (TCP, IPv4)."""
    inodes = _listeners(pid, address, port)
    if network == "bridge":  # a network namespace of its own: whoever listens there belongs to it
        return bool(inodes)
    members = set(descendants(pid)) | {pid} if level == "processes" else _namespace_members(pid)
    for member in sorted(members):
        try:
            if any(os.fspath(entry.readlink()) in inodes for entry in Path(f"/proc/{member}/fd").iterdir()):
                return True
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
    return False


def _namespace_members(pid: int) -> set[int]:
    try:
        wanted = Path(f"/proc/{pid}/ns/pid_for_children").readlink()
    except OSError:
        return set()
    found = set()
    for other in _pids():
        try:
            if Path(f"/proc/{other}/ns/pid").readlink() == wanted:
                found.add(other)
        except OSError:
            continue
    return found


def _listeners(pid: int, address: str, port: int) -> set[str]:
    """Socket names (``socket:[inode]``) that get connections to the address; an exact binding beats a wildcard."""
    raw = bytes(int(part) for part in address.split("."))
    exact = f"{int.from_bytes(raw, 'little'):08X}:{port:04X}"
    wildcards = {f"00000000:{port:04X}", f"{'0' * 32}:{port:04X}"}
    mapped = f"0000000000000000FFFF0000{exact}"
    named, general = set(), set()
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{table}").read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == LISTEN:
                if fields[1] in (exact, mapped):
                    named.add(f"socket:[{fields[9]}]")
                elif fields[1] in wildcards:
                    general.add(f"socket:[{fields[9]}]")
    return named or general
