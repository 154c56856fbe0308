"""Drift: where clouds differ from the records, found by looking and never by touching.

The naive way is to refresh the records and show what changed. It has an effect: what vanished is then healed, what is
stopped is then replaced, by a question that somebody only asked. So drift has no way to write. It is given a
:class:`RecordReader` and a :class:`CloudSurveyor`, which can read the store and look at clouds and have no other verb;
:func:`compare` is pure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Protocol, TypeVar

import msgspec
from sqlalchemy import Connection

from pelagos.clouds.values import CloudServer
from pelagos.model.names import unique_server_name
from pelagos.model.scope import Scope
from pelagos.model.states import InstanceState, ServerState
from pelagos.operations import Survey
from pelagos.services.compute.messages import AccountSurvey, SurveyAccounts, Surveys
from pelagos.services.compute.queries import ExpectedServer, expected_servers, tokens_on_record
from pelagos.services.infrastructure import queries, records
from pelagos.wire.drift import DriftFinding, DriftRequest, DriftRule, DriftView, SilentCloud
from pelagos.wire.times import rfc3339

__all__ = ["CloudSurveyor", "Placed", "RecordReader", "compare", "find_drift", "fits", "unknown_servers"]

T = TypeVar("T")

FLAVOR_KEYS = ("flavor", "flavor_name", "instance_type", "size", "vm_size")
IMAGE_KEYS = ("image", "image_id", "image_name")
"""Keys of resource sections that name what a server was made of; a cloud tells the same by one of them."""


class RecordReader(Protocol):
    """The store, for reading."""

    async def read(self, query: Callable[[Connection], T], /) -> T: ...


class CloudSurveyor(Protocol):
    """The clouds, for looking."""

    async def survey(self, request: SurveyAccounts, /) -> Surveys: ...


class Placed(msgspec.Struct, frozen=True):
    """A server that should be there, and whose it is."""

    server: ExpectedServer
    infrastructure: str
    node: str
    instance_id: str


async def find_drift(
    store: RecordReader, clouds: CloudSurveyor, scope: Scope, request: DriftRequest, accounts: Sequence[str], now: float
) -> DriftView:
    """Compare what the request names. ``accounts``: all of the pool, which are looked at when it names nothing.

    Raises NotFound, Ambiguous (the infrastructure)."""
    placed, prefixes = await store.read(lambda connection: _expected(connection, scope, request.infrastructure))
    by_account: dict[str, list[str]] = {} if request.infrastructure else {name: [] for name in accounts}
    for one in placed:
        by_account.setdefault(one.server.account, []).append(one.server.provider_id)
    looks = tuple(AccountSurvey(account=name, known=tuple(ids)) for name, ids in sorted(by_account.items()))
    surveys = (await clouds.survey(SurveyAccounts(items=looks))).items if looks else ()
    tokens = {server.token for survey in surveys for server in survey.servers if server.token}
    known = await store.read(lambda connection: tokens_on_record(connection, tokens))
    found = sorted(compare(placed, surveys), key=lambda one: (one.infrastructure, one.node, one.instance_id))
    found += [
        DriftFinding(
            kind="unknown", cloud=cloud, provider_id=server.provider_id, server=server.name, found=server.state
        )
        for cloud, server in unknown_servers(surveys, known)
        if not request.infrastructure or server.name.startswith(prefixes)
    ]
    kept = tuple(finding for finding in found if not any(fits(rule, finding) for rule in request.ignore))
    return DriftView(
        at=rfc3339(now),
        compared=len(placed),
        findings=kept,
        ignored=len(found) - len(kept),
        silent=tuple(SilentCloud(s.account, s.error) for s in surveys if s.error is not None),
    )


def _expected(connection: Connection, scope: Scope, reference: str) -> tuple[list[Placed], tuple[str, ...]]:
    """The servers that should be there, and how names of servers of these infrastructures begin."""
    if reference:
        ids = [queries.resolve(connection, scope, reference)]
    else:
        ids = [summary.id for summary in queries.list_infrastructures(connection, scope)]
    placed: list[Placed] = []
    prefixes: list[str] = []
    for infrastructure_id in ids:
        row = records.load_infrastructure(connection, infrastructure_id)
        assert row is not None
        prefixes.append(unique_server_name(row.name, row.id, "", "").rstrip("-") + "-")
        living = {i.server_id: i for i in records.living_instances(connection, row.id)}
        for server in expected_servers(connection, living):
            instance = living[server.id]
            if instance.state is not InstanceState.DESTROYING:
                placed.append(Placed(server, row.name, instance.node, instance.id))
    return placed, tuple(prefixes)


def compare(placed: Iterable[Placed], surveys: Sequence[Survey]) -> Iterator[DriftFinding]:
    """What vanished, stopped or changed. What cannot be known (a cloud that did not answer, a server so young that its
    cloud may not show it yet) is not told. Pure."""
    shown = {
        survey.account: {server.provider_id: server for server in (*survey.servers, *survey.found)}
        for survey in surveys
    }
    gone = {survey.account: set(survey.gone) for survey in surveys}
    for one in placed:
        server = one.server
        cloud = shown.get(server.account, {}).get(server.provider_id)
        if cloud is not None:
            yield from _differences(one, cloud)
        elif server.provider_id in gone.get(server.account, ()):
            yield _finding(one, "vanished", server.name, expected=server.state)


def _differences(one: Placed, cloud: CloudServer) -> Iterator[DriftFinding]:
    server = one.server
    if cloud.state in (ServerState.STOPPED, ServerState.ERROR):
        yield _finding(one, "stopped", cloud.name, expected="active", found=cloud.state)
    for field, keys, found in (("flavor", FLAVOR_KEYS, cloud.flavor), ("image", IMAGE_KEYS, cloud.image)):
        expected = [str(server.options[key]) for key in keys if server.options.get(key)]
        if found and expected and found not in expected:
            yield _finding(one, "changed", cloud.name, field=field, expected=expected[0], found=found)
    for field, known, now in (
        ("addresses", server.addresses, cloud.addresses),
        ("private_addresses", server.private_addresses, cloud.private_addresses),
    ):
        if cloud.state is ServerState.ACTIVE and known != now:
            yield _finding(one, "changed", cloud.name, field=field, expected=", ".join(known), found=", ".join(now))


def _finding(one: Placed, kind: str, name: str, **more: str) -> DriftFinding:
    return msgspec.convert(
        {
            "kind": kind,
            "cloud": one.server.account,
            "provider_id": one.server.provider_id,
            "server": name,
            "infrastructure": one.infrastructure,
            "node": one.node,
            "instance_id": one.instance_id,
            **more,
        },
        DriftFinding,
    )


def unknown_servers(surveys: Iterable[Survey], known: Collection[str]) -> Iterator[tuple[str, CloudServer]]:
    """(account, server) of those that carry a token which no record has. Pure."""
    for survey in surveys:
        for server in survey.servers:
            leaving = server.state in (ServerState.DELETING, ServerState.DELETED)
            if server.token and server.token not in known and not leaving:
                yield survey.account, server


def fits(rule: DriftRule, finding: DriftFinding) -> bool:
    """Whether a rule says that a finding is not to be reported."""
    values: Mapping[str, Sequence[str]] = {
        "kind": (finding.kind,),
        "infrastructure": (finding.infrastructure,),
        "node": (finding.node,),
        "cloud": (finding.cloud,),
        "field": (finding.field,),
        "server": (finding.server, finding.provider_id),
    }
    return all(any(fnmatchcase(text, getattr(rule, name)) for text in texts) for name, texts in values.items())
