"""Where a plan makes its servers: what was true of the clouds when it was saved, and what is otherwise now.

Which account an implementation means is found when a server of it is made, in the pool as it is then. That is right for
whoever heals; a saved plan, which somebody has read, names the accounts, and is carried out on those or not at all. So
it keeps for each node the accounts of its implementations in the order of choice, by what each account is known, and
what a server cost there. All three are compared before a run is accepted; accounts once more when it begins; and while
it is carried out, an implementation that has come to mean another account is one that is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec
from sqlalchemy import Connection

from pelagos.clouds.accounts import AccountIdentity
from pelagos.model.errors import NotFound, PelagosError
from pelagos.model.scope import Scope
from pelagos.repository import create_repository, find_repository
from pelagos.services.infrastructure.choosing import Candidate, choose
from pelagos.services.infrastructure.policies import Choose
from pelagos.wire.infrastructures import PlannedAccount, PlannedChoice, PlannedNode, QuotaNeed

if TYPE_CHECKING:
    from pelagos.services.infrastructure.planning import Planned

__all__ = [
    "Identities",
    "accounts_changed",
    "accounts_of",
    "nodes_changed",
    "otherwise",
    "planned_node",
    "prices_changed",
    "quota_changed",
    "store_identity",
]

KIND = "saved-plans"


class Identities(Protocol):
    """A pool, as far as it is asked here."""

    def identity(self, name: str, /) -> AccountIdentity: ...


def store_identity(connection: Connection, scope: Scope, new_id: str = "", *, now: float = 0.0) -> str:
    """What tells a project's records from those of any other installation: the id of its one repository of
    kind ``saved-plans``, which holds nothing and is made as ``new_id`` with the first plan that is saved. Empty: there
    is none."""
    known = find_repository(connection, scope, KIND, KIND)
    if known is None and new_id:
        known = create_repository(connection, scope, KIND, KIND, id=new_id, at=now)
    return "" if known is None else known.id


def planned_node(node: str, strategy: Choose, kept: int | None, candidates: Sequence[Candidate]) -> PlannedNode:
    """The node's candidates as a plan keeps them."""
    ordered = list(candidates)
    if strategy in ("ordered", "cheapest"):  # others are decided for each instance
        left, ordered = ordered, []
        while (chosen := choose(strategy, left, kept=kept, draw=lambda: 0.0)) is not None:
            ordered.append(chosen)
            left = [one for one in left if one is not chosen]
        ordered += left
    return PlannedNode(node=node, strategy=strategy, choices=tuple(_choice(one) for one in ordered))


def _choice(one: Candidate) -> PlannedChoice:
    return PlannedChoice(
        implementation=one.index,
        account=one.account,
        refused=one.refused.message if one.refused is not None else "",
        price=one.price.amount if one.price is not None else None,
        currency=one.price.currency if one.price is not None else "",
    )


def accounts_of(planned: Planned, nodes: Iterable[PlannedNode], pool: Identities) -> tuple[PlannedAccount, ...]:
    """The accounts that a plan is about: where servers are made, and where those are that it changes or takes away."""
    touched = {key for action in planned.view.actions if action.action != "keep" for key in action.instances}
    names = {choice.account for node in nodes for choice in node.choices}
    names |= {instance.account for instance in planned.observed if instance.id in touched}
    found = []
    for name in sorted(names - {""}):
        try:
            found.append(_account(name, pool.identity(name)))
        except NotFound:
            continue  # of servers whose cloud is gone from the pool: so it was when the plan was made
    return tuple(found)


def _account(name: str, identity: AccountIdentity) -> PlannedAccount:
    return PlannedAccount(name=name, **msgspec.structs.asdict(identity))


def accounts_changed(saved: Iterable[PlannedAccount], pool: Identities) -> list[str]:
    """What is said of these accounts and no longer so, as sentences."""
    told = []
    for then in saved:
        try:
            now = _account(then.name, pool.identity(then.name))
        except PelagosError:
            told.append(f"the account {then.name!r} is no longer in the pool")
            continue
        for field in ("driver", "endpoint", "region"):
            was, is_now = getattr(then, field), getattr(now, field)
            if was != is_now:
                told.append(
                    f"the {field} of the account {then.name!r} was {was or 'not told'}, is {is_now or 'not told'}"
                )
        if then.options != now.options:
            told.append(f"the account {then.name!r} has other options")
    return told


def nodes_changed(saved: Iterable[PlannedNode], now: Iterable[PlannedNode]) -> list[str]:
    """Where servers are made otherwise than it is said, as sentences. Prices are no part of it."""
    there = {node.node: node for node in now}
    told = []
    for then in saved:
        other = there.get(then.node)
        if other is None:
            continue  # what is done to it is told by the actions
        if then.strategy != other.strategy:
            told.append(f"{then.node}: implementations were chosen {then.strategy}, are chosen {other.strategy}")
        if _places(then) != _places(other):
            told.append(f"{then.node}: the plan makes it on {_said(then)}, now it would be made on {_said(other)}")
    return told


def otherwise(node: str, said: str, account: str) -> str:
    """That an implementation of a node means another account than it is said; an empty one is none."""
    return f"{node}: the plan makes it on {said or 'nothing'}, now it would be made on {account or 'nothing'}"


def _places(node: PlannedNode) -> list[tuple[int, str]]:
    return [(choice.implementation, choice.account) for choice in node.choices]


def _said(node: PlannedNode) -> str:
    named = [choice.account for choice in node.choices if choice.account]
    lacking = [f"nothing ({choice.refused})" for choice in node.choices if not choice.account]
    return ", else on ".join(dict.fromkeys(named)) or "; ".join(dict.fromkeys(lacking)) or "nothing"


def prices_changed(saved: Iterable[PlannedNode], now: Iterable[PlannedNode]) -> list[str]:
    """What a server that is made costs otherwise than it is said, as sentences."""
    there = {(node.node, choice.implementation, choice.account): choice for node in now for choice in node.choices}
    told = []
    for node in saved:
        for then in node.choices:
            other = there.get((node.node, then.implementation, then.account))
            if other is not None and _price(then) != _price(other):
                told.append(f"{node.node}: an hour on {then.account} cost {_price(then)}, now it costs {_price(other)}")
    return told


def _price(choice: PlannedChoice) -> str:
    if choice.price is None:
        return "what nobody knows"
    return f"{choice.price:g} {choice.currency}".strip()


def quota_changed(saved: Iterable[QuotaNeed], now: Iterable[QuotaNeed]) -> list[str]:
    """What of the project's limits is otherwise than it is said, as sentences. What is left may be less, or more,
    as long as it suffices."""
    then, there = ({need.resource: need for need in needs} for needs in (saved, now))
    told = []
    for resource in dict.fromkeys([*then, *there]):
        was, is_now = then.get(resource), there.get(resource)
        if _limit(was) != _limit(is_now):
            told.append(f"the limit of {resource} was {_limit(was)}, is {_limit(is_now)}")
        elif was is not None and is_now is not None and was.needed <= was.left and is_now.needed > is_now.left:
            told.append(f"{is_now.needed} more {resource} are needed, and {is_now.left} are left of {is_now.limit}")
    return told


def _limit(need: QuotaNeed | None) -> str:
    return "none" if need is None else str(need.limit)
