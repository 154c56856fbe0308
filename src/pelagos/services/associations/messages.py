"""What the association service is asked and answers."""

from __future__ import annotations

import msgspec

from pelagos.repository import Association

__all__ = [
    "MOST",
    "Associate",
    "AssociationMap",
    "AssociationPage",
    "EndAssociation",
    "FindAssociations",
    "FindSubjects",
    "NamePage",
    "Pair",
    "SubjectAssociations",
    "Triple",
]

MOST = 1000
"""Entries of a page."""


class Pair(msgspec.Struct, frozen=True):
    """A predicate and its object."""

    predicate: str
    object: str


class Triple(msgspec.Struct, frozen=True, kw_only=True):
    """All that is given must fit, and something must be. ``as_of``: what held then, in seconds since the epoch; None:
    what holds."""

    subject: str | None = None
    predicate: str | None = None
    object: str | None = None
    as_of: float | None = None


class Associate(msgspec.Struct, frozen=True):
    """State that it holds from now on."""

    subject: str
    predicate: str
    object: str


class EndAssociation(msgspec.Struct, frozen=True):
    """``delete``: with its history, as if it had never been; else it held until now."""

    id: str
    delete: bool = False


class FindAssociations(msgspec.Struct, frozen=True, kw_only=True):
    """A page, by id: give ``next`` of the page before as ``after``."""

    triple: Triple
    after: str = ""
    limit: int = MOST


class FindSubjects(msgspec.Struct, frozen=True, kw_only=True):
    """Subjects that have every one of the pairs: a page, by name."""

    pairs: tuple[Pair, ...]
    as_of: float | None = None
    after: str = ""
    limit: int = MOST


class SubjectAssociations(msgspec.Struct, frozen=True):
    """Of at most 100 subjects."""

    subjects: tuple[str, ...]
    predicate: str | None = None


class AssociationPage(msgspec.Struct, frozen=True):
    items: tuple[Association, ...]
    next: str = ""
    """Empty: there are no more."""


class NamePage(msgspec.Struct, frozen=True):
    """Subjects or objects, each once."""

    names: tuple[str, ...]
    next: str = ""
    """Empty: there are no more."""


class AssociationMap(msgspec.Struct, frozen=True):
    by_subject: dict[str, tuple[Association, ...]]
    """Those asked for, in their order; empty for one that has none."""
