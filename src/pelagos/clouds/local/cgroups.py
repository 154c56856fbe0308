"""Limits of processor and memory by control groups, of version 1 or 2, where this user may make them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["ControlGroups"]

PERIOD = 100_000
ROOT = Path("/sys/fs/cgroup")


class ControlGroups:
    """The control groups of one account: ``pelagos-<key>/<instance>`` below what this user may write."""

    def __init__(self, key: str, root: Path = ROOT) -> None:
        self._name = f"pelagos-{key}"
        self._version, self._parents, self.reason = _find(root)

    @property
    def version(self) -> int:
        """1, 2, or 0: no limits can be set; then ``reason`` says why."""
        return self._version

    def make(self, provider_id: str, *, cpus: float | None, memory_mb: int | None) -> list[str]:
        """Make an instance's groups with its limits; the files a process writes its id into to join. Raises OSError."""
        if self._version == 2:
            values = {}
            if cpus is not None:
                values["cpu.max"] = f"{int(cpus * PERIOD)} {PERIOD}"
            if memory_mb is not None:
                values["memory.max"] = str(memory_mb << 20)
                values["memory.swap.max"] = "0"
            top = self._parents["memory"] / self._name
            top.mkdir(exist_ok=True)
            _enable(self._parents["memory"])
            _enable(top)
            return [_limit(top / provider_id, values, optional={"memory.swap.max"})]
        joined = []
        if memory_mb is not None:
            size = str(memory_mb << 20)
            place = self._parents["memory"] / self._name / provider_id
            joined.append(
                _limit(
                    place,
                    {"memory.limit_in_bytes": size, "memory.memsw.limit_in_bytes": size},
                    optional={"memory.memsw.limit_in_bytes"},
                )
            )
        if cpus is not None:
            place = self._parents["cpu"] / self._name / provider_id
            quota = {"cpu.cfs_period_us": str(PERIOD), "cpu.cfs_quota_us": str(int(cpus * PERIOD))}
            joined.append(_limit(place, quota, optional=set()))
        return joined

    def change(self, provider_id: str, *, cpus: float | None, memory_mb: int | None) -> None:
        """Other limits for an instance that has such limits. Raises FileNotFoundError if it has none, OSError where the
        kernel does not take them (less memory than is in use and cannot be given back)."""
        if cpus is not None:
            place = self._parents["cpu"] / self._name / provider_id
            if self._version == 2:
                _set(place, {"cpu.max": f"{int(cpus * PERIOD)} {PERIOD}"})
            else:
                _set(place, {"cpu.cfs_period_us": str(PERIOD), "cpu.cfs_quota_us": str(int(cpus * PERIOD))})
        if memory_mb is not None:
            place, size = self._parents["memory"] / self._name / provider_id, str(memory_mb << 20)
            if self._version == 2:
                _set(place, {"memory.max": size})
                return
            # Memory may never be more than memory and swap together, so the one or the other comes first.
            both = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]
            if int(size) > int((place / both[0]).read_text(encoding="ascii")):
                both.reverse()
            _set(place, {name: size for name in both if (place / name).exists()})

    def joins(self, provider_id: str) -> list[str]:
        """The files a process writes its id into to join an instance's groups, if it has some."""
        places = (parent / self._name / provider_id / "cgroup.procs" for parent in set(self._parents.values()))
        return sorted(str(place) for place in places if place.exists())

    def remove(self, provider_id: str) -> None:
        """Remove an instance's groups, and the account's with the last. Raises OSError while processes live."""
        for parent in sorted(set(self._parents.values())):
            place = parent / self._name / provider_id
            with contextlib.suppress(FileNotFoundError):
                place.rmdir()
            with contextlib.suppress(OSError):  # others are in it: not the last
                (parent / self._name).rmdir()


def _find(root: Path) -> tuple[int, dict[str, Path], str]:
    """Where groups can be made: version, the parent of each controller, and why not."""
    if (root / "cgroup.controllers").exists():
        controllers = (root / "cgroup.controllers").read_text(encoding="ascii").split()
        parent = root if os.access(root, os.W_OK) else root / _own_group().lstrip("/")
        if not {"cpu", "memory"} <= set(controllers):
            return 0, {}, "the kernel's control groups (v2) have no cpu and memory controllers here"
        if not os.access(parent / "cgroup.procs", os.W_OK) or not os.access(parent, os.W_OK):
            return 0, {}, f"{parent} is not writable by this user; as root, or with a delegated group, limits work"
        return 2, {"memory": parent, "cpu": parent}, ""
    parents = {}
    for controller in ("memory", "cpu"):
        place = root / controller
        if not place.is_dir():
            place = next(iter(sorted(root.glob(f"*{controller}*"))), place)
        if not (place / "cgroup.procs").exists():
            return 0, {}, f"no control group hierarchy for {controller} is mounted below {root}"
        if not os.access(place, os.W_OK):
            return 0, {}, f"{place} is not writable by this user; as root limits work"
        parents[controller] = place
    return 1, parents, ""


def _own_group() -> str:
    try:
        for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
            if line.startswith("0::"):
                return line[3:]
    except OSError:
        pass
    return "/"


def _enable(place: Path) -> None:
    wanted = {"cpu", "memory"} - set((place / "cgroup.subtree_control").read_text(encoding="ascii").split())
    if wanted:
        (place / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in sorted(wanted)), encoding="ascii")


def _set(place: Path, values: dict[str, str]) -> None:
    for name, value in values.items():
        descriptor = os.open(place / name, os.O_WRONLY | os.O_CLOEXEC)  # never made: the kernel's alone
        try:
            os.write(descriptor, value.encode("ascii"))
        finally:
            os.close(descriptor)


def _limit(place: Path, values: dict[str, str], *, optional: set[str]) -> str:
    place.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        try:
            (place / name).write_text(value, encoding="ascii")
        except OSError:
            if name not in optional:
                raise
    return str(place / "cgroup.procs")
