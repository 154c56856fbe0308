"""Senders: one event to one receiver, once. Whether, when and how often to try is not theirs.

A sender raises :class:`Undeliverable` for what will never get through as it is, and :class:`SinkFailed` for what may
get through later. Nothing here keeps a connection between events: sinks are told seldom, and a connection that was
closed meanwhile would be one more way to fail.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol, assert_never

import msgspec

from pelagos.clouds.references import resolve
from pelagos.model.errors import DeadlineExceeded, InvalidInput, PelagosError, Retry
from pelagos.model.world import World
from pelagos.services.notifications.messages import Notification
from pelagos.services.notifications.settings import CommandSink, EmailSink, SinkSettings, WebhookSink
from pelagos.services.notifications.signing import SIGNATURE, sign

__all__ = ["Sender", "SinkFailed", "Undeliverable", "sender_of"]

_SAID = 300
_LATER = frozenset({408, 425, 429})
_DATA_ERROR = 65


class SinkFailed(PelagosError):
    """The sink could not be told now."""

    code = "sink_failed"
    status = 502
    retry = Retry.TRANSIENT


class Undeliverable(PelagosError):
    """The sink refuses this event for good."""

    code = "undeliverable"
    status = 502


class Sender(Protocol):
    """Tells one sink."""

    @property
    def target(self) -> str:
        """Where it goes, for people; no secrets."""
        ...

    async def send(self, notification: Notification) -> None:
        """Raises SinkFailed or Undeliverable; for secrets that cannot be read, what reading them raises."""
        ...


def sender_of(sink: SinkSettings, world: World) -> Sender:
    match sink:
        case WebhookSink():
            return _Webhook(sink, world)
        case EmailSink():
            return _Email(sink, world)
        case CommandSink():
            return _Command(sink, world)
        case _:
            assert_never(sink)


class _Webhook:
    def __init__(self, sink: WebhookSink, world: World) -> None:
        self._sink = sink
        self._world = world

    @property
    def target(self) -> str:
        # a user name, a password or a token in a query are nobody's business
        return self._sink.url.partition("?")[0].rpartition("@")[2].removeprefix("https://").removeprefix("http://")

    async def send(self, notification: Notification) -> None:
        import httpx2  # a third of a second's import that most programs do without

        sink = self._sink
        given = await resolve({"secret": sink.secret, "headers": sink.headers}, self._world, f"the sink {sink.name!r}")
        body = msgspec.json.encode(notification)
        headers: Mapping[str, str] = {
            **given["headers"],
            "Content-Type": "application/json",
            "User-Agent": "pelagos-notifications",
            "X-Pelagos-Event": notification.type,
            "X-Pelagos-Delivery": notification.delivery,
            SIGNATURE: sign(given["secret"], body, self._world.now()),
        }
        try:
            async with asyncio.timeout(sink.timeout):
                status, said = await _post(sink.url, body, headers, sink.timeout)
        except TimeoutError as error:
            raise SinkFailed(f"{self.target} did not answer within {sink.timeout:g} s") from error
        except httpx2.HTTPError as error:
            raise SinkFailed(f"{self.target} cannot be reached: {error or type(error).__name__}") from error
        except httpx2.InvalidURL as error:
            raise Undeliverable(f"the sink's URL is none: {error}") from error
        if 200 <= status < 300:
            return
        text = said.decode(errors="replace").strip()
        message = f"{self.target} answered {status}" + (f": {text}" if text else "")
        raise (Undeliverable if 300 <= status < 500 and status not in _LATER else SinkFailed)(message)


async def _post(url: str, body: bytes, headers: Mapping[str, str], timeout: float) -> tuple[int, bytes]:
    """The status, and how a refusal explains itself."""
    import httpx2

    # Redirects are not followed: a redirected POST becomes a GET, and a signature is for whom it was made for.
    async with (
        httpx2.AsyncClient(follow_redirects=False, trust_env=False, timeout=timeout) as client,
        client.stream("POST", url, content=body, headers=headers) as answer,
    ):
        said = b""
        if answer.status_code >= 300:
            async for chunk in answer.aiter_bytes():
                said += chunk
                if len(said) >= _SAID:
                    break
        return answer.status_code, said[:_SAID]


class _Email:
    def __init__(self, sink: EmailSink, world: World) -> None:
        self._sink = sink
        self._world = world

    @property
    def target(self) -> str:
        return f"{', '.join(self._sink.recipients)} by {self._sink.host}"

    async def send(self, notification: Notification) -> None:
        sink = self._sink
        given = await resolve({"password": sink.password}, self._world, f"the sink {sink.name!r}")
        await self._world.run_blocking(_send_email, sink, given["password"], notification)


def _send_email(sink: EmailSink, password: str, notification: Notification) -> None:
    import smtplib
    import ssl

    ports = {"starttls": 587, "tls": 465, "none": 25}
    port = sink.port or ports[sink.security]
    message = _message(sink, notification)
    context = ssl.create_default_context()
    open_: Callable[..., Any] = smtplib.SMTP
    more: dict[str, Any] = {}
    if sink.security == "tls":
        open_, more = smtplib.SMTP_SSL, {"context": context}
    try:
        with open_(sink.host, port, timeout=sink.timeout, **more) as server:
            if sink.security == "starttls":
                server.starttls(context=context)
            if sink.user:
                server.login(sink.user, password)
            server.send_message(message)
    except smtplib.SMTPRecipientsRefused as error:
        codes = {code for code, _ in error.recipients.values()}
        kind = Undeliverable if all(code >= 500 for code in codes) else SinkFailed
        raise kind(f"{sink.host} takes none of the recipients: {_first(error.recipients)}") from error
    except smtplib.SMTPResponseException as error:
        # Only what is said of this very message is final; a login or a greeting may be right tomorrow.
        final = error.smtp_code >= 500 and isinstance(error, smtplib.SMTPDataError)
        said = error.smtp_error.decode(errors="replace") if isinstance(error.smtp_error, bytes) else error.smtp_error
        raise (Undeliverable if final else SinkFailed)(f"{sink.host} answered {error.smtp_code}: {said}") from error
    except (OSError, smtplib.SMTPException) as error:
        raise SinkFailed(f"{sink.host}, port {port}, did not take the message: {error}") from error


def _first(recipients: Mapping[str, tuple[int, bytes]]) -> str:
    name, (code, said) = next(iter(recipients.items()))
    return f"{name}: {code} {said.decode(errors='replace')}"


def _message(sink: EmailSink, notification: Notification) -> Any:
    from email.message import EmailMessage

    about = notification.infrastructure or notification.origin
    told = notification.type.replace("_", " ")
    reason = notification.data.get("reason")
    state = notification.data.get("state")
    subject = f"[pelagos] {about}: {told}" + (f" {state}" if state else "") + (f" ({reason})" if reason else "")
    message = EmailMessage()
    message["Subject"] = " ".join(subject.split())[:200]
    message["From"] = sink.sender
    message["To"] = ", ".join(sink.recipients)
    # The same for each try, so that a mail program shows a repeat once.
    message["Message-ID"] = f"<{notification.delivery.replace('/', '.')}.{notification.project_id}@pelagos.invalid>"
    message["X-Pelagos-Delivery"] = notification.delivery
    lines = [f"{name}: {value}" for name, value in msgspec.to_builtins(notification).items() if name != "data"]
    lines += ["", msgspec.json.format(msgspec.json.encode(notification.data), indent=2).decode()]
    message.set_content("\n".join(lines) + "\n")
    return message


class _Command:
    def __init__(self, sink: CommandSink, world: World) -> None:
        self._sink = sink
        self._world = world

    @property
    def target(self) -> str:
        return self._sink.argv[0]

    async def send(self, notification: Notification) -> None:
        from pelagos.process.program import ProgramFailed, run_program

        sink = self._sink
        content = msgspec.json.encode(notification) + b"\n"
        try:
            await run_program(self._world, sink.argv, content=content, timeout=sink.timeout)
        except DeadlineExceeded as error:
            raise SinkFailed(f"{self.target} did not end within {sink.timeout:g} s, and was ended") from error
        except ProgramFailed as error:
            final = error.details.get("exit_code") == _DATA_ERROR
            raise (Undeliverable if final else SinkFailed)(error.message) from error
        except InvalidInput as error:
            raise SinkFailed(error.message, advice=error.advice) from error
