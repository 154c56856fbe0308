"""Bringing instances up and taking them down: blocking functions, each of which may be killed anywhere and repeated.

The order is what makes that true. Up: address claimed and record written (one rename), then the launcher, which
holds the instance's making-lock until init has spoken. Down: making-lock taken, init killed, cable removed,
directory renamed into the trash, trash emptied, bridge removed. No step needs a state written by the one before,
so a full disk stops no removal.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import select
import signal
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec

from pelagos.clouds.errors import CloudBusy, CloudCapacity, CloudError, CloudRejected, CloudUncertain, ServerNotFound
from pelagos.clouds.local.cgroups import ControlGroups
from pelagos.clouds.local.cloudconfig import HOSTNAME, UserData, parse_user_data
from pelagos.clouds.local.facts import LocalFacts
from pelagos.clouds.local.guest import syscalls
from pelagos.clouds.local.images import Images
from pelagos.clouds.local.launcher import STANDARD_PATH, hidden_python, launch, plan_of
from pelagos.clouds.local.network import AddressBook, hosts_file
from pelagos.clouds.local.options import Isolation, LocalAccount, LocalResource, NetworkChoice
from pelagos.clouds.local.processes import kill_strays, lock_holders
from pelagos.clouds.local.record import Instance, InstanceDirectory, Record, boot_id
from pelagos.clouds.local.removal import remove_tree
from pelagos.clouds.values import ServerSpec
from pelagos.model.errors import PelagosError, Unsupported

__all__ = ["Lifecycle"]

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN}
ADDRESS_TRIES = 32


def _hostname(spec: ServerSpec, data: UserData) -> str:
    """What was given, or a label made of the name."""
    given = spec.hostname or data.hostname
    if given and not HOSTNAME.fullmatch(given):
        raise CloudRejected(f"{given!r} is not a host name", advice="Use letters, digits and hyphens, at most 63.")
    return given or re.sub(r"[^A-Za-z0-9-]+", "-", spec.name)[:63].strip("-") or "instance"


class Lifecycle:
    """The verbs of one account, without waiting: where somebody else is at an instance, they raise Busy."""

    def __init__(self, directory: InstanceDirectory, home: Path, account: LocalAccount, facts: LocalFacts) -> None:
        self.directory = directory
        self.account = account
        self.facts = facts
        self.book = AddressBook(directory, account.subnet)
        self.groups = ControlGroups(self.book.key)
        self.images = Images(directory.images)
        self._home = Path(os.path.realpath(home))
        self.level = self._level()
        self.network = self._network()

    def _level(self) -> str:
        possible = self.facts.isolation
        if self.account.isolation is Isolation.PROCESSES:
            return "processes"
        if self.account.isolation is Isolation.NAMESPACES and possible.value == "processes":
            raise Unsupported(f"no namespaces for local instances: {possible.reason}", advice=possible.advice)
        return possible.value

    def _network(self) -> str:
        possible = self.facts.network
        if self.level != "namespaces-root" or self.account.network is NetworkChoice.LOOPBACK:
            return "loopback"
        if self.account.network is NetworkChoice.BRIDGE and possible.value != "bridge":
            raise Unsupported(f"no bridge for local instances: {possible.reason}", advice=possible.advice)
        return possible.value

    def id_of(self, token: str) -> str:
        """The id of the instance that a create call with this token makes: a second one is not possible."""
        return "i-" + hashlib.sha256(f"{self.book.key}\0{token}".encode()).hexdigest()[:16]

    # -- up -----------------------------------------------------------------------------------------------------

    def create(self, spec: ServerSpec, token: str, *, now: float, timeout: float) -> str:
        """Make an instance, or finish the one that this token has made; its id.

        Raises Busy, and what the port says of ``create_server``; where that says: nothing was made, nothing is left."""
        record, making = self._register(spec, token, now)
        try:
            if making is None:
                making = self.directory.take(record.provider_id)
            self._bring_up(record, making, timeout)
            return record.provider_id
        except CloudUncertain:
            raise
        except ServerNotFound as error:
            raise CloudBusy(f"the instance of this token is being removed: {error}") from error
        except PelagosError:
            if making is not None:
                os.close(making)
                making = None
            self.delete(record.provider_id, timeout=timeout)
            raise
        finally:
            if making is not None:
                os.close(making)

    def start(self, provider_id: str, *, timeout: float) -> None:
        """Start a stopped instance; a running one is left alone. Raises Busy, ServerNotFound."""
        making = self.directory.take(provider_id)
        try:
            record = self._record(provider_id)
            if record.wanted != "running":
                record = msgspec.structs.replace(record, wanted="running")
                self.directory.save(record)
            self._bring_up(record, making, timeout)
        finally:
            os.close(making)

    def adopt(self, provider_id: str, token: str) -> None:
        """Write a token into an instance that has none, or the same one. Raises Busy, ServerNotFound, CloudRejected."""
        making = self.directory.take(provider_id)
        try:
            record = self._record(provider_id)
            if record.token and record.token != token:
                raise CloudRejected(f"{record.name} carries the token of another create call already")
            if not record.token:
                self.directory.save(msgspec.structs.replace(record, token=token))
        finally:
            os.close(making)

    def update(self, provider_id: str, values: Mapping[str, Any]) -> None:
        """Change limits; an instance that is stopped has them when it is started. Raises Busy, ServerNotFound,
        CloudRejected, CloudBusy."""
        making = self.directory.take(provider_id)
        try:
            record = self._record(provider_id)
            try:
                options = {**record.options, **values}
                wanted = msgspec.convert(options, LocalResource)
            except msgspec.ValidationError as error:
                raise CloudRejected(f"resource options of the local cloud: {error}") from error
            instance = self.directory.look(record)
            if instance is not None and instance.alive:
                self._change_limits(record, wanted, values)
            self.directory.save(msgspec.structs.replace(record, options=options))
        finally:
            os.close(making)

    def _change_limits(self, record: Record, wanted: LocalResource, keys: Collection[str]) -> None:
        cpus = wanted.cpus if "cpus" in keys else None
        memory_mb = wanted.memory_mb if "memory_mb" in keys else None
        lifted = [key for key, value in (("cpus", cpus), ("memory_mb", memory_mb)) if key in keys and value is None]
        if lifted:
            raise CloudRejected(
                f"{', '.join(lifted)}: a limit of an instance that runs can be changed, and not lifted",
                advice="Give a high one, or have the instance made anew.",
            )
        try:
            self.groups.change(record.provider_id, cpus=cpus, memory_mb=memory_mb)
        except FileNotFoundError as error:
            raise CloudRejected(
                f"{record.provider_id} was started without limits, and cannot be given any",
                advice="Stop it and start it again, or have it made anew.",
            ) from error
        except OSError as error:
            raise CloudBusy(f"the kernel does not take these limits of {record.provider_id} now: {error}") from error

    def _record(self, provider_id: str) -> Record:
        record = self.directory.record(provider_id)
        if record is None:
            raise ServerNotFound(f"there is no local instance {provider_id}")
        return record

    def _register(self, spec: ServerSpec, token: str, now: float) -> tuple[Record, int | None]:
        """Claim what an instance needs and write its record, under its making-lock; or the record that is there."""
        provider_id = self.id_of(token)
        known = self.directory.record(provider_id)
        if known is not None:
            return known, None
        try:
            options = msgspec.convert(spec.options, LocalResource)
        except msgspec.ValidationError as error:
            raise CloudRejected(f"resource options of the local cloud: {error}") from error
        data = parse_user_data(spec.user_data)
        image = self._image(options)
        try:
            with self.directory.claim():
                known = self.directory.record(provider_id)
                if known is not None:
                    return known, None
                records = self.directory.records()
                record = Record(
                    provider_id=provider_id,
                    token=token,
                    name=spec.name,
                    hostname=_hostname(spec, data),
                    group=spec.group,
                    user_data=spec.user_data,
                    metadata=spec.metadata,
                    options=spec.options,
                    level=self.level,
                    network=self.network,
                    address=self.book.claim(self.network, records),
                    created_at=now,
                    image=image,
                )
                making = self.directory.add(record)
                try:
                    self._write_hosts(record.group, [*records, record])
                except OSError:
                    self.directory.retire(self.directory.of(provider_id))
                    os.close(making)
                    raise
        except OSError as error:
            self.directory.sweep(provider_id)
            raise self._refusal(f"write the instance's record below {self.directory.path}", error) from error
        return record, making

    def _image(self, options: LocalResource) -> str:
        if options.image == "host":
            return ""
        if self.level == "processes":
            raise Unsupported(
                f"the image {options.image} needs namespaces: {self.facts.isolation.reason}",
                advice=self.facts.isolation.advice,
            )
        try:
            with self.directory.claim():
                return self.images.unpack(Path(options.image))
        except OSError as error:
            raise self._refusal(f"unpack the image {options.image}", error) from error

    def _bring_up(self, record: Record, making: int, timeout: float) -> None:
        """Start init unless it lives. Under the making-lock, which the launcher then shares."""
        avoid: set[str] = set()
        while True:
            place = self.directory.of(record.provider_id)
            instance = self.directory.look(record)
            if instance is None:
                raise ServerNotFound(f"the local instance {record.provider_id} is gone")
            if instance.alive:
                return
            try:
                self._clear_last_life(instance)
                answer = launch(self._plan(record, place, fresh=not instance.contextualised), making, timeout=timeout)
            except OSError as error:
                if isinstance(error, TimeoutError):
                    raise CloudUncertain(f"the launcher of {record.provider_id} did not answer: {error}") from error
                raise self._refusal("start the instance", error) from error
            if "error" not in answer:
                return
            if answer["errno"] == errno.EADDRINUSE and answer["stage"] == "claim the address":
                avoid.add(record.address)
                if len(avoid) < ADDRESS_TRIES:
                    record = self._new_address(record, frozenset(avoid))
                    continue
            raise self._refusal("start the instance", OSError(answer["errno"], answer["error"]))

    def _new_address(self, record: Record, avoid: frozenset[str]) -> Record:
        """Another loopback address: another home's instance holds this one."""
        with self.directory.claim():
            records = [other for other in self.directory.records() if other.provider_id != record.provider_id]
            record = msgspec.structs.replace(record, address=self.book.claim(record.network, records, avoid))
            self.directory.save(record)
            self._write_hosts(record.group, [*records, record])
        return record

    def _plan(self, record: Record, place: Path, *, fresh: bool) -> dict[str, Any]:
        options = msgspec.convert(record.options, LocalResource)
        data = parse_user_data(record.user_data)
        environment = self.environment(record)
        image = os.fspath(self.images.path_of(record.image)) if record.image else ""
        plan = plan_of(
            place,
            home=self._home,
            level=record.level,
            masks=[*self.account.mask, *options.mask],
            hostname=record.hostname,
            image=image,
            environment=environment,
        )
        warnings = list(data.warnings)
        plan["network"] = self._cable(record)
        plan["cgroups"] = self._limits(record, options, warnings)
        plan["writable"] = sorted({os.fspath(Path(path).parent) for path in data.written})
        plan["fresh"] = fresh
        plan["steps"] = data.steps
        plan["console_bytes"] = int(self.account.console_mb * (1 << 20))
        plan["grace"] = self.account.stop_grace
        if record.level == "processes":
            plan["steps"] = self._rerooted(data, plan["prefix"])
            warnings.insert(0, f"no isolation here: plain processes in {plan['prefix']}, where files are written too")
        plan["warnings"] = warnings
        return plan

    def _rerooted(self, data: UserData, prefix: str) -> list[dict[str, Any]]:
        """Without a root of its own: commands that name a file that was written mean the private copy."""
        steps = []
        for step in data.steps:
            if step["kind"] == "shell":
                text = step["text"]
                for path in sorted(data.written, key=len, reverse=True):
                    text = text.replace(path, prefix + path)
                step = {**step, "text": text}
            steps.append(step)
        return steps

    def environment(self, record: Record) -> dict[str, str]:
        """The environment of an instance's commands."""
        options = msgspec.convert(record.options, LocalResource)
        processes = record.level == "processes"
        private = os.fspath(self.directory.of(record.provider_id) / "files")
        python = hidden_python() if processes else ""
        return {
            "PATH": f"{STANDARD_PATH}:{python}/bin" if python else STANDARD_PATH,
            "HOME": private if processes else "/root",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "SHELL": "/bin/sh",
            "USER": "root" if record.level != "processes" else "",
            "HOSTNAME": record.hostname,
            "PELAGOS_INSTANCE": f"{self.book.key}:{record.provider_id}",
            "PELAGOS_ADDRESS": record.address,
            **({"TMPDIR": private} if processes else {}),
            **options.env,
        }

    def _cable(self, record: Record) -> dict[str, Any]:
        if record.network != "bridge":
            return {"mode": "loopback", "address": record.address}
        with self.directory.claim():
            network = self.book.ready()
        return {
            "mode": "bridge",
            "bridge": self.book.bridge,
            "veth": self.book.veth(record.provider_id),
            "address": record.address,
            "prefix": network.prefixlen,
            "gateway": str(network.network_address + 1),
        }

    def _limits(self, record: Record, options: LocalResource, warnings: list[str]) -> list[str]:
        if options.cpus is None and options.memory_mb is None:
            return []
        if not self.groups.version:
            warnings.append(f"cpus and memory_mb have no effect: {self.groups.reason}")
            return []
        try:
            return self.groups.make(record.provider_id, cpus=options.cpus, memory_mb=options.memory_mb)
        except OSError as error:
            warnings.append(f"cpus and memory_mb have no effect: {error}")
            return []

    def _write_hosts(self, group: str, records: list[Record]) -> None:
        """Rewrite the names of a group in place: running members see the same file. Under the claim."""
        members = [record for record in records if group and record.group == group]
        for record in members or records[-1:]:
            data = hosts_file(record, members).encode()
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(self.directory.of(record.provider_id) / "hosts", os.O_WRONLY | os.O_CLOEXEC)
                try:
                    os.pwrite(descriptor, data, 0)
                    os.ftruncate(descriptor, len(data))
                finally:
                    os.close(descriptor)

    def _refusal(self, what: str, error: OSError) -> CloudError | Unsupported:
        text = f"cannot {what}: {error.strerror or error}"
        if error.errno in NO_ROOM:
            return CloudCapacity(text, advice="Free disk space, memory or process ids on this machine, then try again.")
        if error.errno in (errno.EPERM, errno.EACCES, errno.EROFS):
            return Unsupported(
                text, advice="Check who owns PELAGOS_HOME, and what `pelagos doctor` says of this machine."
            )
        return CloudRejected(
            text, advice="See the instance's console log, and what `pelagos doctor` says of this machine."
        )

    # -- down ---------------------------------------------------------------------------------------------------

    def stop(self, provider_id: str, *, timeout: float) -> None:
        """SIGTERM to all, SIGKILL to the rest after the grace time. Raises Busy, CloudUncertain, ServerNotFound."""
        making = self.directory.take(provider_id)
        try:
            record = msgspec.structs.replace(self._record(provider_id), wanted="stopped")
            with contextlib.suppress(OSError):  # a full disk: it stops all the same, only the reason shown is vaguer
                self.directory.save(record)
            instance = self.directory.look(record)
            if instance is None:
                raise ServerNotFound(f"there is no local instance {provider_id}")
            if instance.alive and not self._end(instance, signal.SIGTERM, timeout):
                raise CloudUncertain(f"{provider_id} did not stop within {timeout:.0f} s")
            self._clear_traces(instance)
        finally:
            os.close(making)

    def delete(self, provider_id: str, *, timeout: float) -> None:
        """Remove an instance and all that came with it. Raises Busy, CloudUncertain."""
        try:
            making = self.directory.take(provider_id)
        except ServerNotFound:  # gone, or half gone: finish what an interrupted removal left
            self.directory.sweep(provider_id)
            with self.directory.claim():
                self._release(self.directory.records())
            return
        try:
            record = self._record(provider_id)
            instance = self.directory.look(record)
            if instance is not None:
                if instance.alive and not self._end(instance, signal.SIGKILL, timeout):
                    raise CloudUncertain(f"{provider_id} did not end within {timeout:.0f} s")
                self._clear_traces(instance)
            with self.directory.claim():
                self.directory.retire(self.directory.of(provider_id))
                records = self.directory.records()
                with contextlib.suppress(OSError):  # a full disk: the others keep a name too many
                    self._write_hosts(record.group, records)
                self._release(records)
        finally:
            os.close(making)
        self.directory.sweep(provider_id)

    def _release(self, records: list[Record]) -> None:
        """Let go of what no record needs any more. Under the claim."""
        self.images.release({record.image for record in records})
        self.book.release(records)

    def _clear_traces(self, instance: Instance) -> None:
        """What is outside the directory and could outlive init."""
        record = instance.record
        if record.level == "processes":
            kill_strays(f"{self.book.key}:{record.provider_id}")
        if record.network == "bridge":
            self.book.unplug(record.provider_id)
        self.groups.remove(record.provider_id)

    def _clear_last_life(self, instance: Instance) -> None:
        """What ran is gone, and so is what it kept in /run and /tmp."""
        place = self.directory.of(instance.record.provider_id)
        for path in ("upper/%2f/run", "upper/%2f/tmp", "rootdir/run", "rootdir/tmp"):
            remove_tree(place / path)
        if instance.record.level == "processes":
            kill_strays(f"{self.book.key}:{instance.record.provider_id}")

    def _end(self, instance: Instance, number: int, timeout: float) -> bool:
        """Signal init and wait until it, and with it its namespace, is gone."""
        pid = self.init_of(instance)
        holders = [pid] if pid else lock_holders(self.directory.of(instance.record.provider_id) / "lock")
        for holder in holders:
            try:
                handle = os.pidfd_open(holder)
            except ProcessLookupError:
                continue
            try:
                with contextlib.suppress(ProcessLookupError):
                    if not pid or syscalls.start_time(pid) == instance.start:
                        signal.pidfd_send_signal(handle, number)
                if not select.select([handle], [], [], timeout)[0]:
                    return False
            finally:
                os.close(handle)
        return True

    def init_of(self, instance: Instance) -> int:
        """The process id of a living init, checked against its start time; 0 if it is not known."""
        if instance.alive and instance.boot == boot_id() and syscalls.start_time(instance.pid) == instance.start:
            return instance.pid
        return 0
