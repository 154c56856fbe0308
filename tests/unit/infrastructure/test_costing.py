"""Costs before and after: sums, ranges, and what is said where no price is known."""

from __future__ import annotations

from pelagos.model.errors import ErrorPayload
from pelagos.services.infrastructure.choosing import Candidate, Price
from pelagos.services.infrastructure.costing import Making, Standing, costs_of, running_costs

EUR, USD = "EUR", "USD"


def candidate(index: int, price: Price | None, *, weight: float = 1.0, refused: bool = False) -> Candidate:
    error = ErrorPayload(code="not_found", message="no account") if refused else None
    return Candidate(index=index, account=f"cloud-{index}", price=price, weight=weight, refused=error)


def making(*candidates: Candidate, strategy: str = "ordered", count: int = 2, kept: int | None = None) -> Making:
    return Making(node="web", count=count, strategy=strategy, kept=kept, candidates=candidates)  # type: ignore[arg-type]


def of(
    made: Making, standing: tuple[Standing, ...] = ()
) -> tuple[list[tuple[object, ...]], tuple[str, ...], list[str]]:
    costs = costs_of(standing, [made], lambda account, size: Price(1.0, EUR) if size == "small" else None, {})
    told = [(e.currency, e.before, e.after, e.after_least, e.after_most) for e in costs.estimates]
    return told, costs.unpriced, [doubt.why for doubt in costs.doubts]


def test_one_that_the_pool_has_no_account_for_is_not_taken_and_leaves_no_doubt() -> None:
    made = making(candidate(0, Price(9.0, EUR), refused=True), candidate(1, Price(2.0, EUR)))
    assert of(made) == ([(EUR, 0.0, 4.0, None, None)], (), [])


def test_the_implementation_that_the_node_keeps_to_is_the_expected_one() -> None:
    told, _, (why,) = of(making(candidate(0, Price(1.0, EUR)), candidate(1, Price(2.0, EUR)), kept=1))
    assert told == [(EUR, 0.0, 4.0, 2.0, 4.0)]
    assert why == "cloud-1; should that cloud refuse, another implementation"


def test_currencies_are_not_added_up() -> None:
    told, _, _ = of(making(candidate(0, Price(1.0, EUR)), candidate(1, Price(3.0, USD))))
    assert told == [(EUR, 0.0, 2.0, 0.0, 2.0), (USD, 0.0, 0.0, 0.0, 6.0)]


def test_an_unknown_price_is_said_and_never_taken_for_nothing() -> None:
    told, unpriced, (why,) = of(making(candidate(0, Price(1.0, EUR)), candidate(1, None)))
    assert told == [(EUR, 0.0, 2.0, None, None)] and unpriced == ()
    assert why.endswith("(no price known: cloud-1)")
    told, unpriced, _ = of(making(candidate(0, None), candidate(1, Price(1.0, EUR))))
    assert told == [(EUR, 0.0, 0.0, 0.0, 2.0)] and unpriced == ("web",)


def test_what_stays_and_what_goes() -> None:
    standing = (
        Standing(node="web", account="cloud-0", size="small", stays=True),
        Standing(node="web", account="cloud-0", size="small", stays=False),
        Standing(node="odd", account="cloud-0", size="", stays=True),
    )
    told, unpriced, _ = of(making(candidate(0, Price(5.0, EUR)), count=1), standing)
    assert told == [(EUR, 2.0, 6.0, None, None)] and unpriced == ("odd",)


def test_least_used_spreads_what_is_made_over_the_accounts() -> None:
    made = making(candidate(0, Price(1.0, EUR)), candidate(1, Price(2.0, EUR)), strategy="least_used", count=3)
    assert of(made)[0] == [(EUR, 0.0, 4.0, 3.0, 6.0)]


def test_what_is_changed_in_place_costs_what_it_becomes() -> None:
    def price_of(account: str, size: str) -> Price | None:
        return {"small": Price(1.0, EUR), "large": Price(4.0, EUR)}.get(size)

    def one(becomes: str | None, *, stays: bool = True) -> Standing:
        return Standing(node="web", account="east", size="small", stays=stays, becomes=becomes)

    costs = costs_of((one(None), one("large"), one("large", stays=False)), [], price_of, {})
    assert [(e.before, e.after, e.after_most) for e in costs.estimates] == [(3.0, 5.0, None)]
    assert costs_of((one("huge"),), [], price_of, {}).unpriced == ("web",)


def test_what_runs_costs_what_is_known_and_no_more() -> None:
    def standing(node: str, account: str, *, there: bool = True) -> Standing:
        return Standing(node=node, account=account, size="small", stays=there)

    prices = {"east": Price(0.3, "EUR"), "west": Price(0.1, "EUR"), "far": Price(2.0, "USD")}

    def price_of(account: str, size: str) -> Price | None:
        return prices.get(account)

    there = {"a": standing("web", "east"), "b": standing("web", "west"), "c": standing("db", "plain", there=False)}
    costs = running_costs(there, price_of)
    assert (costs.total, costs.currency) == (0.4, "EUR")
    assert costs.nodes == {"web": {"a": 0.3, "b": 0.1}, "db": {"c": 0.0}}
    costs = running_costs({**there, "d": standing("db", "plain")}, price_of)
    assert (costs.total, costs.currency, costs.nodes["db"]) == (None, "EUR", {"c": 0.0, "d": None})
    costs = running_costs({**there, "d": standing("db", "far")}, price_of)
    assert (costs.total, costs.currency, costs.nodes["db"]) == (None, None, {"c": 0.0, "d": 2.0})
    costs = running_costs({}, price_of)
    assert (costs.total, costs.currency, costs.nodes) == (0.0, None, {})
