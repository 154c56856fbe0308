"""Addresses: a subnet of the account's own on a bridge, or a piece of 127/8.

Names and first choices derive from the hash of home and account. Two homes may still hash alike, so a choice is
checked against what the kernel already routes, under one lock of the whole machine (a lock on the directory
``/run``, which leaves no file behind), and the subnet chosen is kept in the account's directory while there are
instances. In loopback mode nothing in the kernel knows of an address until somebody listens, so each init holds an
abstract socket named after its address for life: a second claim of it fails at the start, and the next address is
tried.

There is no address translation: instances reach one another and this machine, not the world.
"""

from __future__ import annotations

import fcntl
import hashlib
import ipaddress
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from pelagos.clouds.errors import CloudCapacity, CloudRejected
from pelagos.clouds.local.guest.netlink import Netlink
from pelagos.clouds.local.record import InstanceDirectory, Record, write_atomically

__all__ = ["AddressBook", "hosts_file"]

SHARED_SPACE = ipaddress.IPv4Network("100.64.0.0/10")
PREFIX = 22
TRIES = 64
ALIAS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@contextmanager
def _machine_lock() -> Iterator[None]:
    place = next(path for path in ("/run", "/tmp", "/") if Path(path).is_dir())  # noqa: S108 - a lock, not a file
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class AddressBook:
    """What addresses an account has, and its bridge."""

    def __init__(self, directory: InstanceDirectory, subnet: str) -> None:
        self._directory = directory
        self._file = directory.path / "network.msgpack"
        self._digest = hashlib.sha256(os.fsencode(directory.path)).digest()
        self.key = self._digest.hex()[:8]
        self.bridge = f"pel{self.key}"
        self._asked: ipaddress.IPv4Network | None = None
        if subnet:
            try:
                self._asked = ipaddress.IPv4Network(subnet)
            except ValueError as error:
                raise CloudRejected(
                    f"the subnet {subnet!r} of the local account is no network: {error}",
                    advice="Write it like 10.99.0.0/24.",
                ) from error

    def veth(self, provider_id: str) -> str:
        """The name of an instance's cable on this machine's side (at most 15 bytes)."""
        return "pv" + hashlib.sha256(self._digest + provider_id.encode()).hexdigest()[:11]

    def claim(self, mode: str, records: list[Record], avoid: frozenset[str] = frozenset()) -> str:
        """A free address. Under the account's claim; the claim is the record that is then written."""
        used = {record.address for record in records} | avoid
        if mode == "loopback":
            return self._loopback(used)
        network = self.subnet()
        for address in network.hosts():
            if str(address) not in used and address != network.network_address + 1:
                return str(address)
        raise CloudCapacity(
            f"all addresses of {network} are taken",
            advice="Give the local account a larger `subnet`, or remove instances.",
        )

    def _loopback(self, used: set[str]) -> str:
        for attempt in range(TRIES):
            digest = hashlib.sha256(self._digest + bytes([attempt])).digest()
            for last in range(1, 255):
                address = f"127.{64 + digest[0] % 64}.{digest[1]}.{last}"
                if address not in used:
                    return address
        raise CloudCapacity("no loopback address is left", advice="Remove instances.")

    def subnet(self) -> ipaddress.IPv4Network:
        """The account's subnet; chosen now if there is none yet. Under the account's claim."""
        try:
            return ipaddress.IPv4Network(msgspec.msgpack.decode(self._file.read_bytes(), type=str))
        except FileNotFoundError:
            pass
        with _machine_lock(), Netlink() as link:
            network = self._choose(link)
            # The bridge carries the claim to other homes, so it is made before the lock of the machine is let go.
            write_atomically(self._file, msgspec.msgpack.encode(str(network)))
            link.add_bridge(self.bridge, str(network.network_address + 1), network.prefixlen)
        return network

    def _choose(self, link: Netlink) -> ipaddress.IPv4Network:
        taken = [
            ipaddress.IPv4Network(f"{address}/{prefix}", strict=False)
            for address, prefix in [*link.addresses(), *link.routes()]
        ]
        ours = link.addresses(self.bridge) if link.index(self.bridge) else []
        if ours:
            return ipaddress.IPv4Network(f"{ours[0][0]}/{ours[0][1]}", strict=False)
        if self._asked is not None:
            clash = next((network for network in taken if network.overlaps(self._asked)), None)
            if clash is not None:
                raise CloudRejected(
                    f"the subnet {self._asked} overlaps {clash}, which this machine already routes",
                    advice="Choose another `subnet` for the local account.",
                )
            return self._asked
        count = 1 << (PREFIX - SHARED_SPACE.prefixlen)
        first = int.from_bytes(self._digest[:4], "big")
        for attempt in range(count):
            base = int(SHARED_SPACE.network_address) + ((first + attempt) % count << (32 - PREFIX))
            network = ipaddress.IPv4Network((base, PREFIX))
            if not any(network.overlaps(other) for other in taken):
                return network
        raise CloudCapacity(
            "no free network is left in 100.64.0.0/10", advice="Give the local account a free `subnet` of its own."
        )

    def ready(self) -> ipaddress.IPv4Network:
        """See that the bridge is there (after a restart of the machine it is not). Under the account's claim."""
        network = self.subnet()
        with Netlink() as link:
            if (str(network.network_address + 1), network.prefixlen) not in link.addresses(self.bridge):
                link.add_bridge(self.bridge, str(network.network_address + 1), network.prefixlen)
        return network

    def release(self, records: list[Record]) -> None:
        """Remove bridge and subnet if no record needs them. Under the account's claim."""
        if any(record.network == "bridge" for record in records) or not self._file.exists():
            return
        with Netlink() as link:
            link.delete(self.bridge)
        self._file.unlink(missing_ok=True)

    def unplug(self, provider_id: str) -> None:
        """Remove an instance's cable at once; the kernel would do it later."""
        with Netlink() as link:
            link.delete(self.veth(provider_id))


def hosts_file(record: Record, group: list[Record]) -> str:
    """The ``/etc/hosts`` of an instance: itself, this machine, and the others of its group."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    for other in [record, *(other for other in group if other.provider_id != record.provider_id)]:
        aliases = [alias.strip() for alias in other.metadata.get("aliases", "").split(",")]
        names = list(dict.fromkeys(name for name in [other.hostname, *aliases] if ALIAS.fullmatch(name)))
        lines.append(f"{other.address} {' '.join(names)}")
    return "\n".join(lines) + "\n"
