"""The ancestor's exceptions (reference, section 1.5) as members of the closed family.

A program written for it catches ``KeyError`` or ``InfrastructureIDNotFoundException`` as before, and finds in the same
object what every error of Pelagos has: a code, advice, diagnostics with places.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pelagos.model.errors import DescriptionError, Gone, NotFound, PelagosError

__all__ = [
    "ConfigurationError",
    "ConfigurationUnreadable",
    "InfrastructureIDNotFoundException",
    "InfrastructureIDTakenException",
    "InfrastructureManaged",
    "SchemaError",
    "as_ancestor",
]


class ConfigurationError(PelagosError):
    """A configuration or authentication file is not there, or cannot be used."""

    code = "ancestor_configuration"
    status = 422


class ConfigurationUnreadable(ConfigurationError):
    """It is not there, or cannot be read: nothing is known of its contents."""

    code = "ancestor_configuration_unreadable"


class SchemaError(PelagosError):
    """A description has mistakes; ``diagnostics`` are all of them, ``context`` is the first one's place."""

    code = "ancestor_schema"
    status = 422

    @property
    def context(self) -> str:
        """``file:line:column`` of the first mistake; empty if it has no place."""
        first = self.diagnostics[0].position if self.diagnostics else None
        return str(first) if first is not None else ""


class InfrastructureIDTakenException(PelagosError, KeyError):
    """The infrastructure is managed already."""

    code = "ancestor_id_taken"
    status = 409


class InfrastructureIDNotFoundException(PelagosError, KeyError):
    """There is no such infrastructure, or this manager does not manage it."""

    code = "ancestor_id_not_found"
    status = 404


class InfrastructureManaged(PelagosError, ValueError):
    """It cannot be torn down while it is managed: detach it first."""

    code = "ancestor_managed"
    status = 409


@contextmanager
def as_ancestor() -> Iterator[None]:
    """Errors of the block that the ancestor had a class for, as that class; the others as they are."""
    try:
        yield
    except DescriptionError as error:
        raise SchemaError(error.message, advice=error.advice, diagnostics=error.diagnostics) from error
    except (NotFound, Gone) as error:
        raise InfrastructureIDNotFoundException(error.message, advice=error.advice, details=error.details) from error
