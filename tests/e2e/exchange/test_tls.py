"""The exchange over TLS: the broker behind a proxy of the test's own that speaks it, with certificates made for it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pelagos.exchange import Envelope, Performative, Receiver
from pelagos.exchange.amqp import AmqpConfig
from pelagos.model import SystemWorld
from pelagos.model.errors import Unavailable
from support.brokers import skip_without_broker, throw_away_system
from support.certificates import self_signed
from support.inbox import Inbox, ack

pytestmark = [pytest.mark.anyio, pytest.mark.amqp, pytest.mark.e2e]


@contextlib.asynccontextmanager
async def _proxy(url: str, context: ssl.SSLContext) -> AsyncIterator[int]:
    """The port of a TLS server that hands on to the broker."""
    parts = urlsplit(url)

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(parts.hostname, parts.port or 5672)
        await asyncio.gather(pipe(reader, there[1]), pipe(there[0], writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]


async def _round_trip(url: str, system: str, **settings: Any) -> None:
    from pelagos.exchange.amqp import AmqpTransport

    transport = AmqpTransport(SystemWorld(), AmqpConfig(url, system, "a", drain=0.0, connect_timeout=5.0, **settings))
    await transport.start()
    try:
        inbox = Inbox(ack)
        await transport.subscribe(Receiver("service:test.store"), inbox)
        await transport.publish(Envelope("service:test.store", "process:a.1", "x", Performative.INFORM, "c#1"))
        await inbox.wait_for(1)
    finally:
        await transport.stop()


async def test_certificates_are_checked_at_both_ends(tmp_path: Path) -> None:
    plain = skip_without_broker()
    server_files, client_files = self_signed(tmp_path, "server"), self_signed(tmp_path, "client")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client_files[0])
    context.load_cert_chain(*server_files)
    context.verify_mode = ssl.CERT_REQUIRED
    parts = urlsplit(plain)
    ours = {"certificate_file": client_files[0], "key_file": client_files[1]}
    async with throw_away_system(plain) as system, _proxy(plain, context) as port:
        credentials = tmp_path / "credentials"
        credentials.write_text(f"{parts.username or 'guest'} {parts.password or 'guest'}")
        url = f"amqps://127.0.0.1:{port}{parts.path}"
        settings = {"credential_file": str(credentials)}
        await _round_trip(url, system, ca_file=server_files[0], **ours, **settings)
        await _round_trip(url, system, verify=False, **ours, **settings)
        with pytest.raises(Unavailable):  # nobody we trust has signed the broker's certificate
            await _round_trip(url, system, **ours, **settings)
        with pytest.raises(Unavailable):  # the broker asks for a certificate
            await _round_trip(url, system, ca_file=server_files[0], **settings)


async def test_wrong_credentials_are_said_without_telling_them() -> None:
    parts = urlsplit(skip_without_broker())
    url = f"amqp://guest:n0t-it@{parts.hostname}:{parts.port or 5672}"
    with pytest.raises(Unavailable, match="user and password") as raised:
        await _round_trip(url, "any")
    assert "n0t-it" not in f"{raised.value} {raised.value.advice}"
