"""The MySQL probe against a real server, where one answers at ``PELAGOS_TEST_MYSQL`` (a URL with user and database)."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from urllib.parse import unquote, urlsplit

import msgspec
import pymysql
import pytest

from pelagos.clouds.values import CommandResult
from pelagos.model import SystemWorld
from pelagos.services.infrastructure import health
from pelagos.services.infrastructure.health import HealthVerdict, NetworkProber, ProbeTarget
from pelagos.services.infrastructure.values import HealthCheck, MysqlCheck

pytestmark = pytest.mark.anyio


class Prober:
    """Probes data bases, with all that it asks of the world and of the cloud."""

    def __init__(self) -> None:
        self.world = SystemWorld(threads=2)
        self.asked: list[tuple[str, str, int]] = []
        self.owned: bool | None = None
        self.network = NetworkProber(self.world, self._execute, self._owns_listener)

    async def _execute(self, server_id: str, argv: tuple[str, ...], timeout: float) -> CommandResult:
        raise AssertionError("no command is checked here")

    async def _owns_listener(self, server_id: str, address: str, port: int) -> bool | None:
        self.asked.append((server_id, address, port))
        return self.owned

    async def check(self, address: str, *databases: MysqlCheck, timeout: float = 5.0) -> HealthVerdict:
        check = HealthCheck(ping=False, mysqldbs=databases, probe_timeout=timeout)
        return await self.network.check(check, ProbeTarget(server_id="s", address=address))


@pytest.fixture
async def prober() -> AsyncIterator[Prober]:
    made = Prober()
    yield made
    await made.network.close()
    made.world.close()


class Server(msgspec.Struct, frozen=True):
    host: str
    port: int
    database: MysqlCheck


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    url = os.environ.get("PELAGOS_TEST_MYSQL", "mysql://root@127.0.0.1:3306/test")
    parts = urlsplit(url)
    found = Server(
        parts.hostname or "127.0.0.1",
        parts.port or 3306,
        MysqlCheck(parts.path.lstrip("/"), unquote(parts.username or "root"), unquote(parts.password or "")),
    )
    try:
        pymysql.connect(
            host=found.host, port=found.port, user=found.database.user, password=found.database.password,
            database=found.database.name, connect_timeout=3, read_timeout=3,
        ).close()  # fmt: skip
    except pymysql.MySQLError as error:
        place = f"{found.host}:{found.port}"
        pytest.skip(f"no MySQL server answers at {place}, and CI does not insist on one: {error}")
    monkeypatch.setattr(health, "_MYSQL_PORT", found.port)
    return found


@pytest.fixture
def free_port(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A port of this test's that takes the place of MySQL's; nobody listens there yet."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setattr(health, "_MYSQL_PORT", bound.getsockname()[1])
        yield bound


async def test_a_login_that_is_taken_is_healthy(prober: Prober, server: Server) -> None:
    assert await prober.check(server.host, server.database) == HealthVerdict(healthy=True)


async def test_a_wrong_password_is_told_without_it(prober: Prober, server: Server) -> None:
    for wrong in ("not-it", "пароль-€"):
        verdict = await prober.check(server.host, msgspec.structs.replace(server.database, password=wrong))
        assert not verdict.healthy and not verdict.unavailable
        assert verdict.reason.startswith(f"mysql {server.database.name}: Access denied for user")
        assert wrong not in verdict.reason


async def test_an_unknown_database_is_told(prober: Prober, server: Server) -> None:
    unknown = msgspec.structs.replace(server.database, name="pelagos_has_no_such")
    verdict = await prober.check(server.host, server.database, unknown)
    assert verdict.reason == "mysql pelagos_has_no_such: Unknown database 'pelagos_has_no_such'"


async def test_another_ones_server_on_a_shared_address_is_not_the_instances(prober: Prober, server: Server) -> None:
    if not server.host.startswith("127."):
        pytest.skip(f"the MySQL server at {server.host} is not on loopback")
    prober.owned = False
    verdict = await prober.check(server.host, server.database)
    assert verdict.reason == f"mysql {server.database.name}: something else on this machine listens there"
    assert prober.asked == [("s", server.host, server.port)]


async def test_nobody_listens(prober: Prober, free_port: socket.socket) -> None:
    verdict = await prober.check("127.0.0.1", MysqlCheck("db", "u", "secret"))
    assert not verdict.healthy and "refused" in verdict.reason and "secret" not in verdict.reason


async def test_a_listener_that_says_nothing_is_unhealthy_and_keeps_no_thread(
    prober: Prober, free_port: socket.socket
) -> None:
    free_port.listen()
    two = (MysqlCheck("one", "u", ""), MysqlCheck("two", "u", ""))
    verdict = await prober.check("127.0.0.1", *two, timeout=0.2)
    assert not verdict.healthy and "mysql one" in verdict.reason and "mysql two" in verdict.reason
    async with asyncio.timeout(10):  # both threads of this world were taken
        assert await prober.world.run_blocking(lambda: "free again") == "free again"
