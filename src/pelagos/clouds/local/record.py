"""What is known of an instance, on disk: one directory each, which appears whole or not at all.

``record.msgpack`` is what was asked for; it is written before anything is started and holds the create call's
token, so that whoever comes after a crash finds the attempt. What became of it is read from elsewhere, never
believed from a stored state: ``lock`` (its first byte is held by init for life), ``run.json`` (who init is, by the
launcher), ``phases`` (how far init came, a line each). A directory is made under the name ``.new-...`` and
renamed; it goes by being renamed into ``trash``.

    clouds/<account>/
      lock                          guards claims: directories, addresses, the bridge
      network.msgpack               the subnet, while there are instances
      instances/<id>/{record.msgpack,lock,run.json,phases,console.log,hosts,hostname,upper/,work/,root/}
      images/<key>/                 unpacked tarballs
      trash/                        being removed
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from pelagos.clouds.errors import ServerNotFound
from pelagos.clouds.local.guest import syscalls
from pelagos.clouds.local.removal import remove_tree

__all__ = ["Busy", "Instance", "InstanceDirectory", "Record", "boot_id", "write_atomically"]


class Busy(Exception):
    """Somebody else is bringing this instance up or taking it down."""


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was asked for, and what was claimed for it."""

    provider_id: str
    token: str
    name: str
    hostname: str
    group: str = ""
    user_data: str = ""
    metadata: dict[str, str] = {}
    options: dict[str, Any] = {}
    level: str
    """``namespaces-root``, ``namespaces-user`` or ``processes``; for life."""
    network: str
    """``bridge`` or ``loopback``."""
    address: str
    created_at: float
    wanted: str = "running"
    """``running`` or ``stopped``: what was last asked for."""
    image: str = ""
    """Key of the unpacked image; empty for ``host``."""


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """A record with what the machine says of it now."""

    record: Record
    alive: bool
    making: bool
    pid: int = 0
    start: int = 0
    boot: str = ""
    phases: tuple[dict[str, Any], ...] = ()

    @property
    def last_life(self) -> dict[str, dict[str, Any]]:
        """The phases since the last start, by name."""
        found: dict[str, dict[str, Any]] = {}
        for phase in self.phases:
            if phase.get("phase") == "start":
                found = {}
            found[str(phase.get("phase"))] = phase
        return found

    @property
    def running(self) -> bool:
        """Init has said that it runs, and lives."""
        return self.alive and "running" in self.last_life

    @property
    def contextualised(self) -> bool:
        """Its user data has been begun."""
        return any(phase.get("phase") == "user-data-started" for phase in self.phases)


def is_id(text: str) -> bool:
    """Whether a provider id may be one of ours: it becomes a path."""
    return bool(text) and "/" not in text and "\0" not in text and not text.startswith(".")


def boot_id() -> str:
    """A name for the time since this machine was started."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file's content: after a crash it is the old or the new."""
    beside = path.with_name(path.name + ".new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.rename(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


class InstanceDirectory:
    """The files of one account."""

    def __init__(self, home: Path, account: str) -> None:
        self.path = Path(os.path.realpath(home)) / "clouds" / account
        self.instances = self.path / "instances"
        self.images = self.path / "images"
        self.trash = self.path / "trash"

    def of(self, provider_id: str) -> Path:
        """An instance's directory."""
        return self.instances / provider_id

    def make(self) -> None:
        """Make what is missing. Only the owner may look in: layers hold what instances wrote."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for path in (self.path, self.instances, self.images, self.trash):
            path.mkdir(mode=0o700, exist_ok=True)

    @contextmanager
    def claim(self) -> Iterator[None]:
        """The account's lock: one process, one thread at a time."""
        self.make()
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def add(self, record: Record) -> int:
        """Make an instance's directory with its record, at once. Under the claim.

        Returns a descriptor that holds the making-lock, so that nobody ever sees the instance without a maker."""
        for stale in self.instances.glob(".new-*"):
            self.discard(stale)
        place = self.instances / f".new-{record.provider_id}"
        making = -1
        try:
            place.mkdir(mode=0o700)
            making = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            syscalls.lock_exclusive(making, syscalls.MAKING_BYTE)
            (place / "hostname").write_text(record.hostname + "\n", encoding="utf-8")
            (place / "hosts").touch(mode=0o644)
            write_atomically(place / "record.msgpack", msgspec.msgpack.encode(record))
            place.rename(self.of(record.provider_id))
        except OSError:
            if making >= 0:
                os.close(making)
            remove_tree(place)
            raise
        return making

    def take(self, provider_id: str) -> int:
        """A descriptor that holds an instance's making-lock. Raises Busy; ServerNotFound if the instance is gone."""
        if not is_id(provider_id):
            raise ServerNotFound(f"there is no local instance {provider_id}")
        lock = self.of(provider_id) / "lock"
        try:
            making = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
            try:
                if not syscalls.lock_exclusive(making, syscalls.MAKING_BYTE):
                    raise Busy
                if not os.path.samestat(os.fstat(making), lock.stat()):
                    raise Busy  # removed, and perhaps made again, while we opened it
            except BaseException:
                os.close(making)
                raise
        except FileNotFoundError as error:
            raise ServerNotFound(f"there is no local instance {provider_id}") from error
        return making

    def save(self, record: Record) -> None:
        """Replace a record."""
        write_atomically(self.of(record.provider_id) / "record.msgpack", msgspec.msgpack.encode(record))

    def records(self) -> list[Record]:
        """All of them, in the order of their ids."""
        try:
            names = sorted(entry.name for entry in self.instances.iterdir())
        except FileNotFoundError:
            return []
        found = (self.record(name) for name in names if not name.startswith("."))
        return [record for record in found if record is not None]

    def record(self, provider_id: str) -> Record | None:
        """One of them, or None."""
        if not is_id(provider_id):
            return None
        try:
            data = (self.of(provider_id) / "record.msgpack").read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return msgspec.msgpack.decode(data, type=Record)

    def look(self, record: Record) -> Instance | None:
        """What the machine says of an instance; None if its directory is gone."""
        place = self.of(record.provider_id)
        try:
            descriptor = os.open(place / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            making = syscalls.is_locked(descriptor, syscalls.MAKING_BYTE)
            alive = syscalls.is_locked(descriptor, syscalls.LIFE_BYTE)
        finally:
            os.close(descriptor)
        run: dict[str, Any] = {}
        try:
            run = json.loads((place / "run.json").read_bytes())
        except (FileNotFoundError, ValueError):
            pass
        return Instance(
            record=record,
            alive=alive,
            making=making,
            pid=int(run.get("pid", 0)),
            start=int(run.get("start", 0)),
            boot=str(run.get("boot", "")),
            phases=tuple(self._phases(place)),
        )

    def _phases(self, place: Path) -> Iterator[dict[str, Any]]:
        try:
            with (place / "phases").open("rb") as file:
                lines = file.read(1 << 20).splitlines()
        except FileNotFoundError:
            return
        for line in lines:  # an instance can write here in user mode: never trust its length or its form
            try:
                phase = json.loads(line)
            except ValueError:
                continue
            if isinstance(phase, dict):
                yield phase

    def discard(self, place: Path) -> None:
        """Rename into the trash, then remove."""
        self.retire(place)
        remove_tree(self.trash / place.name.lstrip("."))

    def retire(self, place: Path) -> None:
        """Rename into the trash: from here on it is not there."""
        self.trash.mkdir(mode=0o700, exist_ok=True)
        target = self.trash / place.name.lstrip(".")
        if target.exists():
            remove_tree(target)
        with suppress(FileNotFoundError):
            place.rename(target)

    def sweep(self, provider_id: str | None = None) -> None:
        """Remove what an interrupted removal left."""
        try:
            names = sorted(entry.name for entry in self.trash.iterdir())
        except FileNotFoundError:
            return
        for name in names:
            if provider_id is None or name == provider_id:
                remove_tree(self.trash / name)
