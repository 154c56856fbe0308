"""Sinks as the configuration names them: who is told of which events, and how.

    sinks:
      - {name: ops, type: webhook, url: "https://ops.example/hooks/pelagos", secret: {file: ops.secret}}
      - {name: mail, type: email, host: mail.example, sender: pelagos@example, recipients: [ann@example]}
      - {name: pager, type: command, argv: [/usr/local/bin/page, "--stdin"], events: [run_failed, instance_failed]}

Importing this costs nothing but msgspec: the settings of every program have it.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

__all__ = ["CommandSink", "EmailSink", "SinkSettings", "WebhookSink"]

Seconds = Annotated[float, msgspec.Meta(gt=0)]
Secret = str | dict[str, str]
"""Text, or where it is: ``{env: NAME}``, ``{file: path}``, ``{keyring: service/user}``."""

_TELLING = (
    *("infrastructure_state", "infrastructure_destroyed", "run_succeeded", "run_failed", "run_cancelled"),
    *("instance_failed", "instance_refused"),
)
"""What is told where nothing else is said: what somebody might get up for, and not each step of each instance."""


class Sink(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all sinks have. Times in seconds."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")]
    """Its position in the events is kept under this name: a sink that is renamed begins anew."""
    events: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = _TELLING
    """Patterns of events, ``type`` or ``type.origin`` with ``*`` and ``#``; ``#`` is everything."""
    infrastructures: tuple[str, ...] = ()
    """Names or ids; empty: all, and what is about none."""
    timeout: Seconds = 10.0
    """For one try."""
    attempts: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Tries until an event is left out, which an event ``event_skipped`` says; 0: until it gets through. What the
    receiver refuses for good (4xx but for 408, 425 and 429; a recipient that does not exist) is not tried again."""


class WebhookSink(Sink, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="webhook"):
    """An HTTP POST of each event as JSON, signed."""

    url: Annotated[str, msgspec.Meta(pattern=r"^https?://[^\s]+$")]
    secret: Secret
    """Key of the signature: HMAC-SHA256 over ``<timestamp>.<body>`` in the header ``X-Pelagos-Signature``."""
    headers: dict[str, Secret] = {}


class EmailSink(Sink, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="email"):
    """A message by SMTP for each event."""

    host: str
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None
    """Empty: 587 with ``starttls``, 465 with ``tls``, 25 without."""
    security: Literal["starttls", "tls", "none"] = "starttls"
    user: str = ""
    password: Secret = ""
    sender: str
    recipients: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]


class CommandSink(Sink, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="command"):
    """A program of this host for each event: the event as JSON on its standard input, no shell. Exit code 0 is success,
    65 (EX_DATAERR) refuses the event for good."""

    argv: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]


SinkSettings = WebhookSink | EmailSink | CommandSink
