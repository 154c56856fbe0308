"""The arithmetic of a holding: pure, and the model that the tests compare the store with."""

from __future__ import annotations

import msgspec

from pelagos.model.errors import QuotaExceeded

__all__ = ["UNLIMITED", "Holding", "exceeded"]

UNLIMITED = 2**62
"""The limit of what has none: larger than any sum of holdings, and within 64 bits after an addition."""


class Holding(msgspec.Struct, frozen=True):
    """What a project has of one resource. ``used`` is there, ``reserved`` may be there soon."""

    limit: int = UNLIMITED
    used: int = 0
    reserved: int = 0

    @property
    def available(self) -> int:
        """How much more may be reserved; 0 also where the holding is over its limit."""
        return max(0, self.limit - self.used - self.reserved)

    @property
    def over(self) -> bool:
        """More than the limit: something was adopted, or the limit was lowered."""
        return self.used + self.reserved > self.limit

    def fits(self, asked: int) -> bool:
        """Whether a reservation of ``asked`` may be granted; what gives back always may."""
        return asked <= 0 or self.used + self.reserved + asked <= self.limit

    def reserve(self, asked: int) -> Holding:
        """A reservation is made; what gives back (negative) waits for its commit."""
        return Holding(self.limit, self.used, self.reserved + max(0, asked))

    def commit(self, amount: int) -> Holding:
        """The reserved amount is there now; a negative one has been given back."""
        return Holding(self.limit, self.used + amount, self.reserved - max(0, amount))

    def cancel(self, amount: int) -> Holding:
        """The reserved amount will never be there."""
        return Holding(self.limit, self.used, self.reserved - max(0, amount))


def exceeded(resource: str, holding: Holding, asked: int) -> QuotaExceeded:
    """The error that names everything a person needs to see why."""
    return QuotaExceeded(
        f"the project's quota of {resource} does not allow {asked} more: "
        f"limit {holding.limit}, used {holding.used}, reserved {holding.reserved}",
        advice=f"Delete something that holds {resource}, or have the limit raised.",
        details={
            "resource": resource,
            "limit": holding.limit,
            "used": holding.used,
            "reserved": holding.reserved,
            "asked": asked,
        },
    )
