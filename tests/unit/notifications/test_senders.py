"""Senders against real receivers on loopback: an HTTP server, an SMTP server, programs."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pelagos.model import SystemWorld
from pelagos.model.errors import InvalidInput, NotFound, PelagosError
from pelagos.services.notifications import CommandSink, EmailSink, Notification, WebhookSink, verify_webhook
from pelagos.services.notifications.senders import SinkFailed, Undeliverable, sender_of

pytestmark = pytest.mark.anyio

TOLD = Notification(
    delivery="ops/7",
    position=7,
    at="2026-11-28T10:00:00Z",
    type="instance_failed",
    origin="i-1",
    project_id="p",
    user_id="u",
    infrastructure="guestbook",
    data={"reason": "its server is gone\nBcc: x@example"},
)
Posted = tuple[dict[str, str], bytes]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def world() -> AsyncIterator[SystemWorld]:
    made = SystemWorld(environ={"HOOK_SECRET": "from-env"})
    yield made
    made.close()


@asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[int]:
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def receiver(
    *statuses: int, said: bytes = b"no"
) -> AsyncIterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """An HTTP server that answers with these, one a request; (its URL, what it got)."""
    got: list[Posted] = []
    rest = list(statuses)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        got.append((headers, await reader.readexactly(int(headers["content-length"]))))
        status = rest.pop(0)
        extra = b"Location: http://127.0.0.1:1/\r\n" if 300 <= status < 400 else b""
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n%s\r\n%s" % (status, len(said), extra, said))
        await writer.drain()
        writer.close()

    async with listening(serve) as port:
        yield f"http://u:pw@127.0.0.1:{port}/hook?key=hush", got


def hook(url: str, **more: Any) -> WebhookSink:
    return WebhookSink(name="ops", url=url, **{"secret": "key", **more})


async def failure(sink: Any, world: SystemWorld) -> PelagosError:
    with pytest.raises(PelagosError) as raised:
        await sender_of(sink, world).send(TOLD)
    return raised.value


async def test_a_webhook_is_posted_signed_with_secrets_by_reference(world: SystemWorld, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("Bearer 123\n")
    token.chmod(0o600)
    async with receiver(204) as (url, got):
        sink = hook(
            url.replace("u:pw@", ""), secret={"env": "HOOK_SECRET"}, headers={"Authorization": {"file": str(token)}}
        )
        await sender_of(sink, world).send(TOLD)
    ((headers, body),) = got
    assert msgspec.json.decode(body, type=Notification) == TOLD
    verify_webhook("from-env", body, headers["x-pelagos-signature"], world.now())
    assert headers["authorization"] == "Bearer 123"
    assert (headers["x-pelagos-delivery"], headers["x-pelagos-event"]) == ("ops/7", "instance_failed")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, Undeliverable),
        (400, Undeliverable),
        (410, Undeliverable),
        (408, SinkFailed),
        (429, SinkFailed),
        (500, SinkFailed),
        (503, SinkFailed),
    ],
)
async def test_what_is_refused_for_good_and_what_may_get_through_later(
    status: int, kind: type[PelagosError], world: SystemWorld
) -> None:
    async with receiver(status, said=b"because " * 10_000) as (url, got):
        error = await failure(hook(url), world)
    assert type(error) is kind
    assert f"answered {status}: because" in str(error)
    assert len(str(error)) < 500
    assert "hush" not in str(error) and "pw" not in str(error)
    assert len(got) == 1


async def test_a_webhook_that_is_away_silent_or_breaks_off_may_get_through_later(world: SystemWorld) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    async with listening(silent) as port:
        assert "did not answer within 0.3 s" in str(
            await failure(hook(f"http://127.0.0.1:{port}/", timeout=0.3), world)
        )
    assert type(await failure(hook(f"http://127.0.0.1:{port}/"), world)) is SinkFailed
    async with listening(broken) as port:
        assert type(await failure(hook(f"http://127.0.0.1:{port}/"), world)) is SinkFailed


async def test_a_secret_that_cannot_be_read_says_so(world: SystemWorld, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="MISSING"):
        await sender_of(hook("http://127.0.0.1:1/", secret={"env": "MISSING"}), world).send(TOLD)
    public = tmp_path / "secret"
    public.write_text("x")
    public.chmod(0o644)
    with pytest.raises(InvalidInput, match="0644"):
        await sender_of(hook("http://127.0.0.1:1/", secret={"file": str(public)}), world).send(TOLD)


@asynccontextmanager
async def mail_server(answers: dict[str, bytes] | None = None) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A plain SMTP server; ``answers`` to commands other than the usual; (port, messages)."""
    messages: list[bytes] = []
    given = answers or {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 test\r\n")
        while line := await reader.readline():
            verb = line.split(b":")[0].split()[0].decode().upper()
            if verb == "DATA":
                writer.write(b"354 go\r\n")
                messages.append(await reader.readuntil(b"\r\n.\r\n"))
                verb = "MESSAGE"
            writer.write(given.get(verb, b"221 bye\r\n" if verb == "QUIT" else b"250 ok\r\n"))
            if verb == "QUIT":
                break
        writer.close()

    async with listening(serve) as port:
        yield port, messages


def mail(port: int, **more: Any) -> EmailSink:
    return EmailSink(
        **{
            "name": "mail",
            "host": "127.0.0.1",
            "port": port,
            "security": "none",
            "sender": "pelagos@example.org",
            "recipients": ("ann@example.org", "bob@example.org"),
            **more,
        }
    )


async def test_an_email_says_what_happened_and_cannot_be_given_more_headers(world: SystemWorld) -> None:
    async with mail_server() as (port, messages):
        await sender_of(mail(port), world).send(TOLD)
    import email
    from email import policy

    (raw,) = messages
    message = email.message_from_bytes(raw, policy=policy.default)
    assert message["Subject"].strip() == "[pelagos] guestbook: instance failed (its server is gone Bcc: x@example)"
    assert message["Bcc"] is None
    assert message["To"] == "ann@example.org, bob@example.org"
    assert message["Message-ID"] == "<ops.7.p@pelagos.invalid>"
    text = message.get_content()
    assert "type: instance_failed" in text and '"reason"' in text


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ({"RCPT": b"550 nobody here\r\n"}, Undeliverable),
        ({"RCPT": b"450 later\r\n"}, SinkFailed),
        ({"MESSAGE": b"552 too large\r\n"}, Undeliverable),
        ({"MESSAGE": b"451 later\r\n"}, SinkFailed),
        ({"MAIL": b"530 log in first\r\n"}, SinkFailed),
        ({"EHLO": b"421 busy\r\n", "HELO": b"421 busy\r\n"}, SinkFailed),
    ],
)
async def test_what_a_mail_server_refuses(
    answers: dict[str, bytes], kind: type[PelagosError], world: SystemWorld
) -> None:
    async with mail_server(answers) as (port, _):
        assert type(await failure(mail(port), world)) is kind


async def test_a_mail_server_that_is_away_or_has_no_tls(world: SystemWorld) -> None:
    async with mail_server() as (port, messages):
        assert type(await failure(mail(port, security="starttls"), world)) is SinkFailed
        assert type(await failure(mail(port, user="u", password="hush"), world)) is SinkFailed
    assert not messages
    error = await failure(mail(port), world)
    assert type(error) is SinkFailed and f"port {port}" in str(error)


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


async def test_a_command_gets_the_event_on_its_standard_input(world: SystemWorld, tmp_path: Path) -> None:
    out = tmp_path / "out"
    argv = (script(tmp_path / "page", 'cat > "$1"'), str(out))
    await sender_of(CommandSink(name="pager", argv=argv), world).send(TOLD)
    assert json.loads(out.read_text())["delivery"] == "ops/7"


@pytest.mark.parametrize(("text", "kind"), [("exit 65", Undeliverable), ("echo down >&2; exit 1", SinkFailed)])
async def test_a_command_that_fails(text: str, kind: type[PelagosError], world: SystemWorld, tmp_path: Path) -> None:
    argv = (script(tmp_path / "page", text),)
    assert type(await failure(CommandSink(name="pager", argv=argv), world)) is kind


async def test_a_command_that_hangs_or_is_not_there(world: SystemWorld, tmp_path: Path) -> None:
    slow = CommandSink(name="pager", argv=(script(tmp_path / "slow", "sleep 100"),), timeout=0.3)
    assert "did not end within 0.3 s" in str(await failure(slow, world))
    assert type(await failure(CommandSink(name="pager", argv=(str(tmp_path / "none"),)), world)) is SinkFailed
