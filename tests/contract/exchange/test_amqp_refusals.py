"""A broker that cannot be reached is told with the reason, what to do, and never with the password."""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import urlsplit

import pytest

from pelagos.exchange.amqp import AmqpConfig
from pelagos.exchange.amqp.wire import Wire
from pelagos.model.errors import Unavailable
from support.brokers import skip_without_broker

pytestmark = [pytest.mark.anyio, pytest.mark.amqp]


async def refusal(url: str) -> Unavailable:
    config = AmqpConfig(url, "demo", "c", connect_timeout=5.0)
    with pytest.raises(Unavailable) as raised:
        await Wire.open(config, config.connection_url(), config.tls())
    assert "s3cret" not in f"{raised.value} {raised.value.advice}"
    return raised.value


def nobodys_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


async def test_nobody_listens() -> None:
    error = await refusal(f"amqp://guest:s3cret@127.0.0.1:{nobodys_port()}")
    assert error.message.endswith("connection refused")
    assert "Start RabbitMQ" in error.advice


async def test_a_name_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown(*arguments: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)
    error = await refusal("amqp://guest:s3cret@nowhere.invalid")
    assert error.message.endswith("the host's name is unknown")


async def test_a_virtual_host_that_is_not_there() -> None:
    error = await refusal(f"{skip_without_broker().rstrip('/')}/no-such-host")
    assert "has no virtual host 'no-such-host'" in error.message
    assert "virtual host" in error.advice


async def test_a_wrong_password() -> None:
    parts = urlsplit(skip_without_broker())
    error = await refusal(f"amqp://guest:s3cret@{parts.hostname}:{parts.port or 5672}")
    assert "does not accept the user and password" in error.message


async def test_no_tls_on_the_port_of_a_plain_broker() -> None:
    parts = urlsplit(skip_without_broker())
    error = await refusal(f"amqps://guest:s3cret@{parts.hostname}:{parts.port or 5672}")
    assert "no TLS on this port" in error.message
    assert "amqp://" in error.advice


async def test_something_that_hangs_up() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        error = await refusal(f"amqp://guest:s3cret@127.0.0.1:{port}")
    assert "ended the connection" in error.message or "reset" in error.message
