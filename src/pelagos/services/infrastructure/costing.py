"""What an infrastructure's servers cost an hour before a plan and after it. Pure: prices are given.

A node's first implementation is easy to price, and wrong for whatever fell back, was chosen by price, by chance or by
how full the clouds are, or was made from an earlier description. So what exists is priced by the account that it is on
and the size that it was made with; and what is to be made by the implementation that :func:`~choosing.choose` takes,
the very function that the maintainer asks. Where that is not decided yet (chance decides, or the next implementation is
taken should a cloud refuse), the cost is a range, with the node and the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, assert_never

import msgspec

from pelagos.services.infrastructure.choosing import Candidate, Price, choose
from pelagos.services.infrastructure.policies import Choose
from pelagos.wire.infrastructures import CostDoubt, CostEstimate, RunningCosts

__all__ = ["Costs", "Making", "Standing", "costs_of", "running_costs"]


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A server that exists. ``size`` is what it was made with, empty if that is not known."""

    node: str
    account: str
    size: str
    stays: bool
    """The plan leaves it."""
    becomes: str | None = None
    """The size that it has then, if it is changed in place."""


class Making(msgspec.Struct, frozen=True, kw_only=True):
    """Instances of a node that the plan makes, and what they may be made from, in the description's order; ``kept`` is
    the implementation that the node keeps to."""

    node: str
    count: int
    strategy: Choose
    kept: int | None
    candidates: tuple[Candidate, ...]


class Costs(NamedTuple):
    """``unpriced``: nodes with servers of which no price is known; ``doubts``: nodes whose cost is not determined."""

    estimates: tuple[CostEstimate, ...] = ()
    unpriced: tuple[str, ...] = ()
    doubts: tuple[CostDoubt, ...] = ()


class _Sums:
    """Amounts by currency."""

    def __init__(self) -> None:
        self.before: dict[str, float] = {}
        self.after: dict[str, float] = {}
        self.least: dict[str, float] = {}
        self.most: dict[str, float] = {}

    def add_range(self, likely: Mapping[str, float], count: int, prices: Sequence[Price]) -> None:
        """``count`` servers that cost this much as things are now, and each one of ``prices`` in the end."""
        for currency in {*likely, *(price.currency for price in prices)}:
            amounts = [price.amount * count if price.currency == currency else 0.0 for price in prices]
            expected = likely.get(currency, 0.0)
            for sums, amount in (
                (self.after, expected),
                (self.least, min([expected, *amounts])),
                (self.most, max([expected, *amounts])),
            ):
                sums[currency] = sums.get(currency, 0.0) + amount

    def estimates(self) -> tuple[CostEstimate, ...]:
        currencies = sorted({*self.before, *self.after, *self.most})
        return tuple(self._estimate(currency) for currency in currencies)

    def _estimate(self, currency: str) -> CostEstimate:
        before, after, least, most = (
            round(sums.get(currency, 0.0), 6) for sums in (self.before, self.after, self.least, self.most)
        )
        certain = least == most
        return CostEstimate(
            currency=currency,
            before=before,
            after=after,
            after_least=None if certain else least,
            after_most=None if certain else most,
        )


def costs_of(
    standing: Sequence[Standing],
    making: Sequence[Making],
    price_of: Callable[[str, str], Price | None],
    used: Mapping[str, int],
) -> Costs:
    """``price_of``: (account, size) -> price, None where it is not known; ``used``: account -> servers on it now."""
    sums = _Sums()
    unpriced: dict[str, None] = {}
    doubts: list[CostDoubt] = []
    for server in standing:
        price = price_of(server.account, server.size)
        if price is None:
            unpriced[server.node] = None
            continue
        _add(sums.before, price, 1)
        if server.stays and server.becomes is not None:
            price = price_of(server.account, server.becomes)
            if price is None:
                unpriced[server.node] = None
                continue
        if server.stays:
            for there in (sums.after, sums.least, sums.most):
                _add(there, price, 1)
    taken = dict(used)
    for made in making:
        possible = [one for one in made.candidates if one.refused is None]
        if not possible:
            unpriced[made.node] = None  # nothing can be made, and the run says why
            continue
        expected = _expected(made, possible, taken)
        likely: dict[str, float] = {}
        for candidate, count in expected:
            if candidate.price is None:
                unpriced[made.node] = None
            else:
                _add(likely, candidate.price, count)
        sums.add_range(likely, made.count, [one.price for one in possible if one.price is not None])
        if len({(one.price.amount, one.price.currency) if one.price else None for one in possible}) > 1:
            doubts.append(CostDoubt(node=made.node, count=made.count, why=_why(made, possible, expected)))
    return Costs(sums.estimates(), tuple(unpriced), tuple(doubts))


def running_costs(standing: Mapping[str, Standing], price_of: Callable[[str, str], Price | None]) -> RunningCosts:
    """Of instances by their ids; one whose server is gone costs nothing. ``price_of`` as in :func:`costs_of`."""
    nodes: dict[str, dict[str, float | None]] = {}
    currencies: dict[str, None] = {}
    for key, server in standing.items():
        price = price_of(server.account, server.size) if server.stays else Price(0.0)
        if price is not None and server.stays:
            currencies[price.currency] = None
        nodes.setdefault(server.node, {})[key] = None if price is None else price.amount
    amounts = [amount for found in nodes.values() for amount in found.values()]
    known = [amount for amount in amounts if amount is not None]
    complete = len(known) == len(amounts) and len(currencies) <= 1
    return RunningCosts(
        total=round(sum(known), 6) if complete else None,
        currency=next(iter(currencies)) if len(currencies) == 1 else None,
        nodes=nodes,
    )


def _add(sums: dict[str, float], price: Price, count: float) -> None:
    sums[price.currency] = sums.get(price.currency, 0.0) + price.amount * count


def _expected(made: Making, possible: list[Candidate], taken: dict[str, int]) -> list[tuple[Candidate, float]]:
    """What is made of which candidate, as things are now; on the average where chance decides. Counts it."""
    match made.strategy:
        case "random" | "weighted" if len(possible) > 1:
            weights = [1.0 if made.strategy == "random" else one.weight for one in possible]
            total = sum(weights)
            if total > 0:
                shares = zip(possible, weights, strict=True)
                return [(one, made.count * weight / total) for one, weight in shares if weight > 0]
            return [(possible[0], float(made.count))]
        case "random" | "weighted" | "ordered" | "cheapest":
            chosen = choose(made.strategy, possible, kept=made.kept, draw=lambda: 0.0)
            assert chosen is not None
            taken[chosen.account] = taken.get(chosen.account, 0) + made.count
            return [(chosen, float(made.count))]
        case "least_used":
            return _spread(made, possible, taken)
        case _:
            assert_never(made.strategy)


def _spread(made: Making, possible: list[Candidate], taken: dict[str, int]) -> list[tuple[Candidate, float]]:
    """One after the other, each where there are fewest then."""
    counts: dict[int, int] = {}
    for _ in range(made.count):
        counted = [msgspec.structs.replace(one, used=taken.get(one.account, 0)) for one in possible]
        chosen = choose("least_used", counted, kept=made.kept, draw=lambda: 0.0)
        assert chosen is not None
        taken[chosen.account] = taken.get(chosen.account, 0) + 1
        counts[chosen.index] = counts.get(chosen.index, 0) + 1
    return [(one, float(counts[one.index])) for one in possible if one.index in counts]


def _why(made: Making, possible: list[Candidate], expected: list[tuple[Candidate, float]]) -> str:
    """Why it is not determined what is made of which."""
    taken = ", ".join(dict.fromkeys(one.cloud for one, _ in expected))
    unknown = ", ".join(dict.fromkeys(one.cloud for one in possible if one.price is None))
    match made.strategy:
        case "random" | "weighted" if len(expected) > 1:
            by = "by chance" if made.strategy == "random" else "by chance, in shares"
            told = f"implementations are chosen {by}: {taken}; the average is shown"
        case "least_used":
            told = f"{taken} as servers are spread now; it counts how they are when it is made"
        case _:
            told = f"{taken}; should that cloud refuse, another implementation"
    return f"{told} (no price known: {unknown})" if unknown else told
