"""Which of a node's implementations an instance is made from. Pure: no I/O, no clock; randomness is given.

The ancestor drew one at random for each instance and gave up when its cloud refused (reference, section 4.12). Here a
strategy puts the candidates in an order, and the first that was not refused is taken; so falling back is no case of its
own. Each refusal is remembered for a while, with its reason: an instance is made elsewhere meanwhile, and whoever asks
is told why. Where all are refused, all reasons together are the node's error.

``ordered`` stays with what once could be made, so that a node does not wander; ``random``, ``weighted`` and
``least_used`` choose for each instance; ``cheapest`` follows the prices there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, assert_never

import msgspec

from pelagos.model.errors import ErrorPayload
from pelagos.services.infrastructure.policies import Choose
from pelagos.services.infrastructure.values import Implementation

__all__ = ["Candidate", "Price", "Refusals", "choose", "refused_all", "size_in", "size_of", "weight_of"]

_SIZES = ("flavor", "flavor_name", "instance_type", "size", "vm_size", "flavor_id")
"""Keys of resource sections by which drivers are told the size of a server."""

Draw = Callable[[], float]
"""A random number from 0 up to, and not including, 1."""


class Price(msgspec.Struct, frozen=True):
    """Of one server for an hour."""

    amount: float
    currency: str = ""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """An implementation that an instance could be made from."""

    index: int
    """In the definition of the node's type."""
    account: str
    """Where it would be made; empty if the pool has no account for it, and then it is refused."""
    type: str = ""
    """Of its resource."""
    weight: float = 1.0
    price: Price | None = None
    """None: not known."""
    used: int = 0
    """Servers on its account."""
    refused: ErrorPayload | None = None
    """Why it cannot be made now."""

    @property
    def cloud(self) -> str:
        """For people."""
        return self.account or self.type


def choose(strategy: Choose, candidates: Sequence[Candidate], *, kept: int | None, draw: Draw) -> Candidate | None:
    """The candidate to make an instance from; None if all are refused. ``candidates`` are in the description's order,
    ``kept`` is the index that the node's last instance was made from; ``draw`` is what chance is made of."""
    possible = [one for one in candidates if one.refused is None]
    if len(possible) <= 1:
        return possible[0] if possible else None
    match strategy:
        case "ordered":
            return next((one for one in possible if one.index == kept), possible[0])
        case "random":
            return possible[int(draw() * len(possible))]
        case "weighted":
            return _weighted(possible, draw)
        case "cheapest":
            return _cheapest(possible, kept)
        case "least_used":
            return min(possible, key=lambda one: one.used)
        case _:
            assert_never(strategy)


def _weighted(possible: Sequence[Candidate], draw: Draw) -> Candidate:
    """By shares; what has none is taken only where nothing else has any."""
    total = sum(one.weight for one in possible)
    if total <= 0:
        return possible[0]
    point = draw() * total
    for one in possible:
        point -= one.weight
        if point < 0 and one.weight > 0:
            return one
    return next(one for one in reversed(possible) if one.weight > 0)


def _cheapest(possible: Sequence[Candidate], kept: int | None) -> Candidate:
    """The least price of those in the first known currency: others cannot be compared. At equal prices, and where none
    is known, what is kept."""
    currency = next((one.price.currency for one in possible if one.price is not None), "")

    def rank(one: Candidate) -> tuple[float, bool]:
        known = one.price is not None and one.price.currency == currency
        return (one.price.amount if known and one.price is not None else math.inf, one.index != kept)

    return min(possible, key=rank)


def refused_all(candidates: Iterable[Candidate]) -> ErrorPayload:
    """Why a node cannot be made at all: the one reason, or all of them, each with its cloud. There must be one."""
    refused = [(one, one.refused) for one in candidates if one.refused is not None]
    first = refused[0][1]
    if len(refused) == 1:
        return first
    said = "; ".join(f"{one.cloud}: {error.message}" for one, error in refused)
    return msgspec.structs.replace(
        refused[-1][1], message=f"no implementation can be made: {said}", details=refusal_details(candidates)
    )


def refusal_details(candidates: Iterable[Candidate]) -> dict[str, Any]:
    """The refused candidates for an error's ``details``."""
    return {
        "refused": [
            {"cloud": one.cloud, "implementation": one.index, "code": one.refused.code, "message": one.refused.message}
            for one in candidates
            if one.refused is not None
        ]
    }


class Refusals:
    """What clouds refused to make, a node and implementation each, until a time."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], tuple[ErrorPayload, float]] = {}

    def add(self, node: str, index: int, error: ErrorPayload, until: float) -> bool:
        """Remember it; False if it was known."""
        known = (node, index) in self._known
        self._known[node, index] = (error, until)
        return not known

    def at(self, node: str, index: int, now: float) -> ErrorPayload | None:
        """The refusal that counts now."""
        found = self._known.get((node, index))
        if found is None:
            return None
        if found[1] <= now:
            del self._known[node, index]
            return None
        return found[0]

    def end(self, node: str, at: float) -> None:
        """All were refused: from then on, none counts any more."""
        for key, (error, until) in self._known.items():
            if key[0] == node:
                self._known[key] = (error, min(until, at))

    def clear(self) -> None:
        """Somebody asks anew: everything may be tried again."""
        self._known.clear()


def weight_of(weights: Mapping[str, float], account: str, type: str) -> float:
    """What a policy says of an account, else of its type; 1 where it says nothing."""
    return weights.get(account, weights.get(type, 1.0))


def size_of(implementation: Implementation) -> str:
    """The size that an implementation asks for, as its cloud names it; empty where it names none, or by a template."""
    return size_in(implementation.resource)


def size_in(resource: Mapping[str, Any]) -> str:
    """The size that a resource section asks for."""
    for key in _SIZES:
        value = resource.get(key)
        if isinstance(value, str) and value and "{" not in value:
            return value
    return ""
