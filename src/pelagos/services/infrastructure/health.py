"""Health probes: is an instance healthy now? All probes of a check run in parallel, each with its own time-out.

A probe that this machine cannot make (no ICMP socket and no ping(8)) is *unavailable*: reported, never a failure, since
it says nothing of the instance. Where several instances share an address range with the host (the local cloud's
loopback mode), a port that answers is only healthy if the listener belongs to the instance: the cloud is asked.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import shutil
import socket
import struct
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec

from pelagos.clouds.values import CommandResult
from pelagos.model.errors import PelagosError
from pelagos.model.world import World
from pelagos.services.infrastructure.attributes import FILE, MISSING, look_up, reported_by
from pelagos.services.infrastructure.values import HealthCheck, MysqlCheck

__all__ = ["Execute", "HealthVerdict", "NetworkProber", "ProbeTarget", "Prober", "describe"]


class ProbeTarget(msgspec.Struct, frozen=True):
    """Whom to probe."""

    server_id: str
    address: str


class HealthVerdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """``reason`` tells the first failure; ``unavailable`` the probes that could not be made here, and why."""

    healthy: bool
    reason: str = ""
    unavailable: tuple[str, ...] = ()


class Prober(Protocol):
    """Who probes; the simulation has its own."""

    async def check(self, check: HealthCheck, target: ProbeTarget) -> HealthVerdict:
        """Probe once. ``check`` is rendered. Never raises but on cancellation."""
        ...


Execute = Callable[[str, tuple[str, ...], float], Awaitable[CommandResult]]
Probe = Callable[[], Awaitable[None]]
OwnsListener = Callable[[str, str, int], Awaitable[bool | None]]


_MYSQL_PORT = 3306
"""Descriptions name no other."""


class _Unavailable(Exception):
    """This machine cannot make that probe."""


class _Unhealthy(Exception):
    """The probe says no."""


def describe(check: HealthCheck) -> str:
    """What the check probes, for people; empty if nothing."""
    parts = ["ping"] if check.ping else []
    parts += [f"port {port}" for port in check.ports]
    parts += list(check.urls)
    parts += [f"mysql {database.name}" for database in check.mysqldbs]
    if check.command:
        parts.append("command")
    parts += [f"attribute {name}" for name in check.attributes]
    return ", ".join(parts)


class NetworkProber:
    """Probes over the real network. ``execute`` and ``owns_listener`` go to the compute service."""

    def __init__(self, world: World, execute: Execute, owns_listener: OwnsListener) -> None:
        self._world = world
        self._execute = execute
        self._owns_listener = owns_listener
        self._client: Any = None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def check(self, check: HealthCheck, target: ProbeTarget) -> HealthVerdict:
        probes: list[tuple[str, Probe]] = []
        if check.ping:
            probes.append(("ping", partial(self._ping, target, check.probe_timeout)))
        probes += [(f"port {port}", partial(self._port, target, port)) for port in check.ports]
        probes += [(f"url {url}", partial(self._url, target, url)) for url in check.urls]
        probes += [
            (f"mysql {database.name}", partial(self._mysql, target, database, check.probe_timeout))
            for database in check.mysqldbs
        ]
        if check.command:
            probes.append(("command", partial(self._command, target, check)))
        if check.attributes:
            probes.append(("attributes", partial(self._attributes, target, check)))
        outcomes = await asyncio.gather(*(self._bounded(name, probe, check.probe_timeout) for name, probe in probes))
        failed = [outcome for outcome in outcomes if isinstance(outcome, _Unhealthy)]
        unavailable = tuple(str(outcome) for outcome in outcomes if isinstance(outcome, _Unavailable))
        return HealthVerdict(
            healthy=not failed, reason="; ".join(str(outcome) for outcome in failed), unavailable=unavailable
        )

    @staticmethod
    async def _bounded(name: str, probe: Probe, timeout: float) -> Exception | None:
        try:
            async with asyncio.timeout(timeout):
                await probe()
        except _Unavailable as error:
            return _Unavailable(f"{name}: {error}")
        except _Unhealthy as error:
            return _Unhealthy(f"{name}: {error}")
        except TimeoutError:
            return _Unhealthy(f"{name}: no answer in {timeout:g} s")
        except PelagosError as error:
            return _Unhealthy(f"{name}: {error.message}")
        except OSError as error:
            return _Unhealthy(f"{name}: {_said(error)}")
        except Exception as error:  # noqa: BLE001 - an edge: what a probe stumbles over (a port of 99999) is its verdict
            return _Unhealthy(f"{name}: {_innermost(error)}")
        return None

    async def _port(self, target: ProbeTarget, port: int) -> None:
        _, writer = await asyncio.open_connection(target.address, port)
        writer.close()
        await self._own(target, port)

    async def _own(self, target: ProbeTarget, port: int) -> None:
        if not _shared(target.address):
            return
        owned = await self._owns_listener(target.server_id, target.address, port)
        if owned is False:
            raise _Unhealthy("something else on this machine listens there")

    async def _url(self, target: ProbeTarget, url: str) -> None:
        import httpx2  # a third of a second's import that most commands do without

        if self._client is None:
            self._client = httpx2.AsyncClient(follow_redirects=True, trust_env=False, timeout=30.0, verify=True)
        try:
            response = await self._client.head(url)
            if response.status_code in (405, 501):
                response = await self._client.get(url)
        except httpx2.HTTPError as error:
            raise _Unhealthy(str(error) or type(error).__name__) from error
        except httpx2.InvalidURL as error:
            raise _Unhealthy(f"not a URL: {error}") from error
        if not 200 <= response.status_code < 300:
            raise _Unhealthy(f"HTTP {response.status_code}")
        parts = urlsplit(url)
        if parts.hostname == target.address:
            await self._own(target, parts.port or (443 if parts.scheme == "https" else 80))

    async def _command(self, target: ProbeTarget, check: HealthCheck) -> None:
        result = await self._execute(target.server_id, check.command, check.probe_timeout)
        if result.exit_code != 0:
            said = result.output.strip().splitlines()
            raise _Unhealthy(f"exit code {result.exit_code}" + (f": {said[-1]}" if said else ""))

    async def _attributes(self, target: ProbeTarget, check: HealthCheck) -> None:
        result = await self._execute(target.server_id, ("cat", FILE), check.probe_timeout)
        if result.exit_code != 0:
            raise _Unhealthy(f"it has not reported {', '.join(check.attributes)} yet")
        try:
            reported = reported_by(result.output)
        except ValueError as error:
            raise _Unhealthy(str(error)) from error
        missing = [name for name in check.attributes if look_up(reported, name) is MISSING]
        if missing:
            raise _Unhealthy(f"it has not reported {', '.join(missing)} yet")

    async def _mysql(self, target: ProbeTarget, database: MysqlCheck, timeout: float) -> None:
        try:
            import pymysql  # an extra
        except ImportError as error:
            # Not "unavailable": the description asks for this data base, and nobody would notice that it is not probed.
            raise _Unhealthy("PyMySQL is not installed; install pelagos[mysql]") from error

        def connect() -> None:
            # All three: without a read time-out, a listener that accepts and says nothing keeps the thread for ever.
            pymysql.connect(
                host=target.address,
                port=_MYSQL_PORT,
                user=database.user,
                password=database.password.encode(),  # of a str it would take Latin-1 alone
                database=database.name,
                connect_timeout=timeout,
                read_timeout=timeout,
                write_timeout=timeout,
            ).close()

        try:
            await self._world.run_blocking(connect)
        except pymysql.MySQLError as error:
            raise _Unhealthy(str(error.args[-1]) if error.args else type(error).__name__) from error
        await self._own(target, _MYSQL_PORT)

    async def _ping(self, target: ProbeTarget, timeout: float) -> None:
        try:
            sock = _icmp_socket(target.address)
        except OSError:
            await self._ping_program(target, timeout)
            return
        with sock:
            await self._echo(sock, target.address)

    async def _echo(self, sock: socket.socket, address: str) -> None:
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        v6 = sock.family == socket.AF_INET6
        sequence = self._world.rng("ping").randrange(1 << 16)
        payload = self._world.rng("ping").randbytes(16)
        header = struct.pack("!BBHHH", 128 if v6 else 8, 0, 0, os.getpid() & 0xFFFF, sequence)
        checksum = _checksum(header + payload)
        packet = struct.pack("!BBHHH", 128 if v6 else 8, 0, checksum, os.getpid() & 0xFFFF, sequence) + payload
        sock.connect((address, 0))  # of a datagram or raw socket: sets the peer, waits for nothing
        await loop.sock_sendall(sock, packet)
        while True:
            if payload in (answer := await loop.sock_recv(sock, 2048)) and not _is_echo_request(answer, packet, sock):
                return

    async def _ping_program(self, target: ProbeTarget, timeout: float) -> None:
        program = shutil.which("ping")
        if program is None:
            raise _Unavailable("no ICMP socket is allowed here and there is no ping(8)")
        child = await self._world.spawn(
            [program, "-n", "-c", "1", "-W", str(max(1, int(timeout))), target.address],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            _, said = await child.communicate()
        except asyncio.CancelledError:
            child.kill()
            await child.wait()
            raise
        if child.returncode == 2:
            raise _Unavailable(said.decode(errors="replace").strip() or "ping(8) may not be used here")
        if child.returncode != 0:
            raise _Unhealthy("no echo reply")


def _said(error: OSError) -> str:
    """asyncio puts its own words in place of the system's; numbers below 0 are name look-ups', with good words."""
    number = error.errno or 0
    return os.strerror(number) if number > 0 else error.strerror or str(error)


def _innermost(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _shared(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _icmp_socket(address: str) -> socket.socket:
    """A datagram ICMP socket where the kernel's ping_group_range allows it, else a raw one; OSError where neither."""
    v6 = ":" in address
    family = socket.AF_INET6 if v6 else socket.AF_INET
    protocol = socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP
    try:
        return socket.socket(family, socket.SOCK_DGRAM, protocol)
    except OSError:
        return socket.socket(family, socket.SOCK_RAW, protocol)


def _is_echo_request(answer: bytes, packet: bytes, sock: socket.socket) -> bool:
    """A raw socket on loopback also sees our own request go by."""
    if sock.type != socket.SOCK_RAW:
        return False
    body = answer if sock.family == socket.AF_INET6 else answer[(answer[0] & 15) * 4 :]
    return body[:1] == packet[:1]


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    total += total >> 16
    return ~total & 0xFFFF
