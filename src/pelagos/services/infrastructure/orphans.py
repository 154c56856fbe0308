"""Orphans: servers that carry a token of ours which no record of this store knows.

They come of a store that was lost or restored from a backup, or belong to another Pelagos on the same account, which
nobody here can tell apart. So nothing happens to them by itself: they are listed, and a person adopts or deletes them.
What the sweep of operations removes by itself are strays, whose token this store does know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pelagos.model.errors import NotFound, from_payload
from pelagos.services.compute.messages import AccountSurvey, OrphanRef, SurveyAccounts
from pelagos.services.compute.queries import tokens_on_record
from pelagos.services.infrastructure.drift import CloudSurveyor, RecordReader, unknown_servers
from pelagos.wire.drift import OrphanList, OrphanServer, OrphanView, SilentCloud
from pelagos.wire.times import rfc3339

if TYPE_CHECKING:
    from pelagos.clouds.values import CloudServer
    from pelagos.operations import Survey

__all__ = ["list_orphans", "orphans_to_remove"]


async def _look(
    store: RecordReader, clouds: CloudSurveyor, accounts: Sequence[str]
) -> tuple[list[tuple[str, CloudServer]], Sequence[Survey]]:
    looks = tuple(AccountSurvey(account=name) for name in accounts)
    surveys = (await clouds.survey(SurveyAccounts(items=looks))).items
    tokens = {server.token for survey in surveys for server in survey.servers if server.token}
    known = await store.read(lambda connection: tokens_on_record(connection, tokens))
    return list(unknown_servers(surveys, known)), surveys


async def list_orphans(store: RecordReader, clouds: CloudSurveyor, accounts: Sequence[str]) -> OrphanList:
    """The orphans of these accounts, by account and in the order of their listing."""
    found, surveys = await _look(store, clouds, accounts)
    return OrphanList(
        items=tuple(
            OrphanView(
                cloud=account,
                provider_id=server.provider_id,
                name=server.name,
                state=server.state,
                addresses=server.addresses or server.private_addresses,
                flavor=server.flavor,
                created_at=None if server.created_at is None else rfc3339(server.created_at),
            )
            for account, server in found
        ),
        silent=tuple(SilentCloud(s.account, s.error) for s in surveys if s.error is not None),
    )


async def orphans_to_remove(
    store: RecordReader, clouds: CloudSurveyor, wanted: Sequence[OrphanServer], request_ids: Sequence[str]
) -> tuple[OrphanRef, ...]:
    """What is to be asked of compute for these. ``request_ids``: one for each.

    Raises NotFound if one is no orphan now (any more), and the error of a cloud that cannot be looked at."""
    accounts = sorted({one.cloud for one in wanted})
    found, surveys = await _look(store, clouds, accounts)
    for survey in surveys:
        if survey.error is not None:
            raise from_payload(survey.error)
    tokens = {(account, server.provider_id): server.token for account, server in found}
    for one in wanted:
        if (one.cloud, one.provider_id) not in tokens:
            raise NotFound(
                f"{one.provider_id} in {one.cloud} is no orphan",
                advice="`pelagos orphans list` shows those there are; what is on record, or never was ours, is none.",
            )
    return tuple(
        OrphanRef(
            request_id=request_id,
            account=one.cloud,
            provider_id=one.provider_id,
            token=tokens[one.cloud, one.provider_id],
        )
        for one, request_id in zip(wanted, request_ids, strict=True)
    )
