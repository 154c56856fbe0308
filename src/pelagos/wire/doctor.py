"""What an installation is and can do, as facts with advice."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["DoctorView", "Fact", "FactState", "HealthView"]

FactState = Literal["ok", "degraded", "missing"]


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """``fact`` is what was found, in a sentence; ``advice`` what to do about it, empty where nothing is to do."""

    name: str
    state: FactState
    fact: str
    advice: str = ""


class DoctorView(msgspec.Struct, frozen=True, kw_only=True):
    version: str
    facts: tuple[Fact, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is missing; what is degraded still works."""
        return all(fact.state != "missing" for fact in self.facts)


class HealthView(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the services answer now. ``position`` is that of the newest event in the store."""

    status: Literal["ok"]
    version: str
    mode: str
    pid: int
    position: int
