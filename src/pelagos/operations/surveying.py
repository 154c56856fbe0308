"""Surveys: what a cloud shows now, and nothing is written, neither there nor in the store.

Drift, orphans and imports begin with a look. It must not be able to change what it looks at, so it gets a
:class:`Reader`: an object that has the reading verbs of a driver and no others, whatever the driver can do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import msgspec

from pelagos.clouds.errors import ServerNotFound
from pelagos.clouds.values import CloudServer
from pelagos.model.errors import ErrorPayload, PelagosError
from pelagos.model.states import ServerState
from pelagos.operations.calls import Cloud

__all__ = ["Reader", "Survey", "SurveySource", "survey"]

_MOST_ASKED = 500
"""Servers asked after by id in one survey; the others stay doubtful."""


class Survey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An account as its cloud shows it. ``error``: why it could not be looked at; then all else is empty."""

    account: str
    started_at: float
    servers: tuple[CloudServer, ...] = ()
    """Those with a token."""
    foreign: tuple[CloudServer, ...] | None = None
    """Those without; None: not asked for, or the driver cannot look at them."""
    found: tuple[CloudServer, ...] = ()
    """Servers that were asked after, and that no listing has: the cloud shows them by id all the same."""
    gone: tuple[str, ...] = ()
    """Ids that were asked after, of which the cloud says that there is no such server."""
    doubtful: tuple[str, ...] = ()
    """Ids that were asked after, and nobody knows."""
    error: ErrorPayload | None = None


class SurveySource(Protocol):
    """What a survey looks with."""

    async def servers(self) -> tuple[float, Sequence[CloudServer]]: ...
    async def foreign(self) -> Sequence[CloudServer] | None: ...
    async def get(self, provider_id: str) -> CloudServer: ...


class Reader:
    """The reading half of an account's cloud, under its pacer and deadlines."""

    __slots__ = ("_foreign", "_get", "_listing")

    def __init__(self, cloud: Cloud) -> None:
        self._listing = cloud.listing
        self._foreign = cloud.foreign
        self._get = cloud.get

    async def servers(self) -> tuple[float, Sequence[CloudServer]]:
        """When the listing began (wall clock), and the servers with a token. Raises CloudError."""
        listing = await self._listing()
        return listing.started_at, listing.servers

    async def foreign(self) -> Sequence[CloudServer] | None:
        """The servers without a token; None where the driver cannot look at them. Raises CloudError."""
        return await self._foreign()

    async def get(self, provider_id: str) -> CloudServer:
        """One server. Raises ServerNotFound, CloudError."""
        return await self._get(provider_id)


async def survey(
    account: str,
    source: SurveySource,
    now: float,
    *,
    known: Sequence[str] = (),
    foreign: bool = False,
    parallel: int = 8,
) -> Survey:
    """Look once. ``known``: the cloud's ids of servers that should be there; those that no listing shows are asked
    after one by one, ``parallel`` at once. ``foreign``: list the servers of others too. Raises nothing for the cloud's
    sake: see ``error``."""
    try:
        started_at, listed = await source.servers()
        others = await source.foreign() if foreign else None
    except PelagosError as error:
        return Survey(account=account, started_at=now, error=error.payload())
    shown = {server.provider_id for server in (*listed, *(others or ()))}
    absent = [provider_id for provider_id in dict.fromkeys(known) if provider_id not in shown]
    found, gone, doubtful = await _ask(source, absent[:_MOST_ASKED], parallel)
    return Survey(
        account=account,
        started_at=started_at,
        servers=tuple(listed),
        foreign=None if others is None else tuple(others),
        found=tuple(found),
        gone=tuple(gone),
        doubtful=(*doubtful, *absent[_MOST_ASKED:]),
    )


async def _ask(
    source: SurveySource, absent: Sequence[str], parallel: int
) -> tuple[list[CloudServer], list[str], list[str]]:
    limit = asyncio.Semaphore(max(1, parallel))
    answers: dict[str, CloudServer | PelagosError | None] = {}

    async def ask(provider_id: str) -> None:
        async with limit:
            try:
                answers[provider_id] = await source.get(provider_id)
            except ServerNotFound:
                answers[provider_id] = None
            except PelagosError as error:
                answers[provider_id] = error

    async with asyncio.TaskGroup() as group:
        for provider_id in absent:
            group.create_task(ask(provider_id))
    found: list[CloudServer] = []
    gone: list[str] = []
    doubtful: list[str] = []
    for provider_id in absent:
        answer = answers[provider_id]
        if isinstance(answer, PelagosError):
            doubtful.append(provider_id)
        elif answer is None or answer.state is ServerState.DELETED:
            gone.append(provider_id)
        else:
            found.append(answer)
    return found, gone, doubtful
