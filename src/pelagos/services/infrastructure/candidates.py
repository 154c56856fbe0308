"""A maintainer's candidates: which implementations its nodes have, on which accounts, at what price, and what was
refused. What must be asked for is asked before decisions are made, and never a reason for one to fail; the choice
itself is :mod:`choosing`, which is pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec
import structlog

from pelagos.model.errors import ErrorPayload, NotFound, PelagosError, Unsupported
from pelagos.services.compute.facts import servers_by_account
from pelagos.services.infrastructure.choosing import (
    Candidate,
    Price,
    Refusals,
    choose,
    refusal_details,
    refused_all,
    size_of,
    weight_of,
)
from pelagos.services.infrastructure.nodes import Node
from pelagos.services.infrastructure.places import otherwise
from pelagos.services.infrastructure.plan_diff import stale_plan
from pelagos.services.infrastructure.policies import Choose
from pelagos.services.infrastructure.values import Implementation

if TYPE_CHECKING:
    from pelagos.services.infrastructure.maintainer import Accounts, Maintainer

__all__ = ["Candidates", "Prices", "account_for", "no_prices"]

_log = structlog.get_logger("pelagos.infrastructure")
_BELIEVED = 3600.0
"""Seconds for which a cloud's prices are believed."""
_AGAIN = 60.0
"""Seconds after which a cloud that did not tell its prices is asked again."""

Prices = Callable[[str], Awaitable[dict[str, Price]]]
"""Account -> size -> price. Raises Unsupported where its cloud has no catalogue."""


async def no_prices(account: str) -> dict[str, Price]:
    """Where nobody knows any."""
    return {}


class Candidates:
    """See the module's text."""

    def __init__(self, maintainer: Maintainer, accounts: Accounts, prices: Prices) -> None:
        self._maintainer = maintainer
        self._accounts = accounts
        self._ask = prices
        self._prices: dict[str, tuple[float, dict[str, Price]]] = {}
        self._elsewhere: dict[str, int] = {}
        """Servers on each account that are not this infrastructure's."""
        self._priced: list[Node] = []
        self._counted: list[Node] = []
        self.refusals = Refusals()

    def strategy(self, node: Node) -> Choose:
        return node.compiled.policy.choose or self._maintainer.settings.choose

    def reset(self) -> None:
        """After a load: which nodes' choices depend on what must be asked for."""
        nodes = [node for node in self._maintainer.reality.nodes.values() if len(node.compiled.implementations) > 1]
        self._priced = [node for node in nodes if self.strategy(node) == "cheapest"]
        self._counted = [node for node in nodes if self.strategy(node) == "least_used"]

    async def prepare(self) -> None:
        """Learn what the choices to come depend on. Raises what reading the store does."""
        maintainer = self._maintainer
        if any(self._may_be_made(node) for node in self._counted):
            self._elsewhere = await maintainer.store.read(
                lambda connection: servers_by_account(connection, without=maintainer.id)
            )
        waiting = [node for node in self._priced if self._may_be_made(node)]
        accounts = {candidate.account for node in waiting for candidate in self.of(node)} - {""}
        for account in sorted(accounts):
            await self._learn_prices(account)

    def _may_be_made(self, node: Node) -> bool:
        """Whether instances of it may be made now: some are missing, or are to be made anew."""
        marked = self._maintainer.reality.marked
        return not node.satisfied or bool(marked and any(key in marked for key in node.instances))

    async def _learn_prices(self, account: str) -> None:
        now = self._maintainer.world.now()
        known = self._prices.get(account)
        if known is not None and now < known[0]:
            return
        try:
            self._prices[account] = (now + _BELIEVED, await self._ask(account))
        except Unsupported:
            self._prices[account] = (now + _BELIEVED, {})
        except PelagosError as error:
            _log.info("no prices", account=account, error=str(error))
            self._prices[account] = (now + _AGAIN, known[1] if known is not None else {})

    def of(self, node: Node) -> list[Candidate]:
        """The node's candidates as things are now, in the description's order. What counts servers counts them when
        something is picked."""
        maintainer = self._maintainer
        now = maintainer.world.now()
        found = []
        for index in node.compiled.implementations:
            implementation = maintainer.reality.implementation(node, index)
            account, refused = "", self.refusals.at(node.name, index, now)
            try:
                account = self.account_for(implementation)
            except PelagosError as error:
                refused = refused or error.payload()
            otherwise = self._otherwise_than_planned(node.name, index, account)
            if otherwise is not None:
                account, refused = "", otherwise
            prices = self._prices[account][1] if account in self._prices else {}
            found.append(
                Candidate(
                    index=index,
                    account=account,
                    type=implementation.resource_type,
                    weight=weight_of(node.compiled.policy.weights, account, implementation.resource_type),
                    price=prices.get(size_of(implementation)),
                    refused=refused,
                )
            )
        return found

    def _otherwise_than_planned(self, node: str, index: int, account: str) -> ErrorPayload | None:
        """Why nothing is made of an implementation that a saved plan, which is being carried out, makes elsewhere."""
        run = self._maintainer.running.current
        exact = run.parameters.exact if run is not None and not run.parameters.going_back else None
        said = exact.account_of(node, index) if exact is not None else None
        if said is None or said == account:
            return None
        return stale_plan([otherwise(node, said, account)], begun=True)

    def forget_prices(self) -> None:
        """They are asked for anew: a saved plan was compared with what they are now."""
        self._prices.clear()

    def pick(self, node: Node, count: int) -> list[Candidate] | ErrorPayload:
        """What the next ``count`` instances are made from, one each; or why nothing can be. Notes what is refused for
        want of an account, and what the node keeps to."""
        maintainer = self._maintainer
        strategy = self.strategy(node)
        candidates = self.of(node)
        for one in candidates:
            if one.refused is not None and not one.account:
                self._tell(node, one, one.refused)
        draw = maintainer.world.rng("choosing").random
        kept = node.record.implementation
        picked: list[Candidate] = []
        if len(candidates) > 1 and strategy == "least_used":
            used = self._used()
            candidates = [msgspec.structs.replace(one, used=used.get(one.account, 0)) for one in candidates]
        for _ in range(count if strategy in ("random", "weighted", "least_used") else 1):
            chosen = choose(strategy, candidates, kept=kept, draw=draw)
            if chosen is None:
                return refused_all(candidates)
            picked.append(chosen)
            candidates = [
                msgspec.structs.replace(one, used=one.used + 1) if one.account == chosen.account else one
                for one in candidates
            ]
        picked += [picked[-1]] * (count - len(picked))
        if kept != picked[-1].index:
            node.record.implementation = picked[-1].index
            maintainer.changes.node(node.record)
        return picked

    def _used(self) -> dict[str, int]:
        """Account -> servers on it: of others as they were last counted, and our own as they are."""
        used = dict(self._elsewhere)
        for instance in self._maintainer.reality.instances.values():
            used[instance.row.account] = used.get(instance.row.account, 0) + 1
        return used

    def refuse(
        self, node: Node, index: int, error: ErrorPayload, memory: float | None = None
    ) -> tuple[bool, ErrorPayload]:
        """Its cloud does not make it: (whether another candidate is left, the node's error from now on). ``memory``:
        seconds for which that counts; None: as the settings say."""
        if index not in node.compiled.implementations:
            return False, error
        candidates = self.of(node)
        this = next(one for one in candidates if one.index == index)
        self._tell(node, this, error, memory)
        candidates = self.of(node)
        if any(one.refused is None for one in candidates):
            return True, msgspec.structs.replace(error, details={**error.details, **refusal_details(candidates)})
        return False, refused_all(candidates)

    def exhausted(self, node: Node, again_at: float) -> None:
        """All were refused: from then on, all are tried again, the first one first."""
        node.record.implementation = None
        self.refusals.end(node.name, again_at)

    def retried(self, node: Node) -> None:
        """Its back-off has ended before its time: where all were refused, all are tried again."""
        if all(one.refused is not None for one in self.of(node)):
            self.refusals.end(node.name, self._maintainer.world.now())

    def _tell(self, node: Node, candidate: Candidate, error: ErrorPayload, memory: float | None = None) -> None:
        """Remember a refusal, and tell it once."""
        maintainer = self._maintainer
        now = maintainer.world.now()
        until = now + (maintainer.settings.refusal_memory if memory is None else memory)
        if not self.refusals.add(node.name, candidate.index, error, until):
            return
        run = maintainer.running.current
        maintainer.changes.event(
            maintainer.row.scope,
            "node.refused",
            at=now,
            node=node.name,
            run_id=run.id if run else None,
            data={"cloud": candidate.cloud, "implementation": candidate.index, "error": error},
        )

    def account_for(self, implementation: Implementation) -> str:
        """The cloud account that an implementation is built on. Raises NotFound, Ambiguous."""
        return account_for(self._accounts, implementation)

    def account_of(self, implementation: Implementation) -> str:
        """The same; empty if there is none."""
        try:
            return self.account_for(implementation)
        except PelagosError:
            return ""

    def missing(self, account: str) -> ErrorPayload | None:
        """None if the pool has the account; else that it has not, and what to do."""
        try:
            self._accounts.account(account)
        except NotFound as error:
            advice = f"Put {account!r} back into the pool; what is to be deleted there is deleted then."
            return msgspec.structs.replace(error.payload(), advice=advice)
        return None


def account_for(accounts: Accounts, implementation: Implementation) -> str:
    """The account of a pool that an implementation is built on. Raises NotFound, Ambiguous."""
    if implementation.built_on:
        accounts.account(implementation.built_on)
        return implementation.built_on
    return accounts.for_resource(
        implementation.resource_type,
        implementation.account_label or None,
        endpoint=implementation.endpoint,
        section=implementation.resource,
    )
