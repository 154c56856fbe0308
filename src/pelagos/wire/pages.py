"""Lists and short answers of the HTTP API.

Lists are objects, so that they can grow fields; what they list is always under ``items``.
"""

from __future__ import annotations

import msgspec

from pelagos.model.diagnostics import Diagnostic
from pelagos.wire.infrastructures import (
    DefinitionView,
    EventView,
    InfrastructureSummary,
    LogView,
    RevisionView,
    RunView,
    ServerView,
)

__all__ = [
    "DefinitionList",
    "EventPage",
    "InfrastructureList",
    "LogList",
    "MaintainedView",
    "RevisionList",
    "RunAccepted",
    "RunCancel",
    "RunList",
    "ServerList",
]


class InfrastructureList(msgspec.Struct, frozen=True, kw_only=True):
    """``infrastuctures`` is how the ancestor spelt it; scripts read it, so it stays."""

    infrastructures: tuple[str, ...]
    infrastuctures: tuple[str, ...]
    items: tuple[InfrastructureSummary, ...]


class RunList(msgspec.Struct, frozen=True):
    items: tuple[RunView, ...]


class RevisionList(msgspec.Struct, frozen=True):
    items: tuple[RevisionView, ...]


class DefinitionList(msgspec.Struct, frozen=True):
    items: tuple[DefinitionView, ...]
    warnings: tuple[Diagnostic, ...] = ()
    """Of an import: what is odd in the bundle, and no mistake."""


class ServerList(msgspec.Struct, frozen=True):
    items: tuple[ServerView, ...]


class LogList(msgspec.Struct, frozen=True):
    items: tuple[LogView, ...]


class EventPage(msgspec.Struct, frozen=True):
    """Ask again with ``after=<next>``; when ``next`` does not rise any more, there is nothing newer. A page may be
    empty before that, if what was looked at is not of interest."""

    items: tuple[EventView, ...]
    next: int


class RunAccepted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Answer of the requests that the ancestor's paths start runs with; its own keys, and ``run`` to follow."""

    infraid: str
    run: str
    method: str = ""
    nodename: str = ""
    count: int | None = None
    nodeid: str | msgspec.UnsetType | None = msgspec.UNSET
    """None where an instance might have been named and was not."""


class MaintainedView(InfrastructureSummary, frozen=True, kw_only=True):
    """Answer of the ancestor's attach and detach: its own key beside ours."""

    infraid: str

    @classmethod
    def of(cls, summary: InfrastructureSummary) -> MaintainedView:
        return cls(**msgspec.structs.asdict(summary), infraid=summary.id)


class RunCancel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """With ``keep``, what the run made so far stays; otherwise it is rolled back."""

    keep: bool = False
