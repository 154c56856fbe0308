"""Compiling what a request brings, in a thread, against the pool of clouds; what was compiled last is kept.

`pelagos up` asks for the plan and then for the run, with the same bundle: the second time costs nothing. A description
of ten thousand nodes takes seconds to read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pelagos.clouds.pool import Pool
from pelagos.model.errors import PelagosError
from pelagos.model.world import World
from pelagos.services.infrastructure.values import Implementation, StoredDefinition

if TYPE_CHECKING:  # the compiler brings parsers that most commands do not need
    from pelagos.services.infrastructure.description import CompileResult

__all__ = ["Compiler"]


class Compiler:
    """For one pool, whose accounts and drivers stay what they are."""

    def __init__(self, pool: Pool, world: World) -> None:
        self._pool = pool
        self._world = world
        self._last: tuple[object, CompileResult] | None = None

    async def description(
        self, sources: Mapping[str, str], entries: Sequence[str], stored: Mapping[str, StoredDefinition]
    ) -> CompileResult:
        """A bundle's description, with the project's ``stored`` definitions. Raises DescriptionError."""
        from pelagos.services.infrastructure.description import compile_description

        brought = (dict(sources), tuple(entries), dict(stored))
        if self._last is not None and self._last[0] == brought:
            return self._last[1]
        result = await self._world.run_blocking(
            partial(
                compile_description,
                sources,
                tuple(entries),
                stored=stored,
                check_resource=self._check_resource,
                known_types=self._types(),
            )
        )
        self._last = (brought, result)
        return result

    async def definitions(
        self, sources: Mapping[str, str], entries: Sequence[str]
    ) -> dict[str, tuple[Implementation, ...]]:
        """The node definitions of a bundle that holds nothing else. Raises DescriptionError."""
        from pelagos.services.infrastructure.description import compile_definitions

        return await self._world.run_blocking(
            partial(
                compile_definitions,
                sources,
                entries,
                check_resource=self._check_resource,
                known_types=self._types(),
            )
        )

    def _types(self) -> list[str]:
        return sorted({account.config.driver for account in self._pool.accounts()})

    def _check_resource(self, type_: str, label: str, keys: dict[str, Any]) -> list[tuple[str | None, str]]:
        unrendered = [key for key, value in keys.items() if isinstance(value, str) and "{" in value]
        _, found = self._pool.validate_resource(type_, keys, unrendered=unrendered)
        problems = [(key, f"{key!r} {problem}" if key else f"the resource {problem}") for key, problem in found]
        try:
            self._pool.for_resource(type_, label or None)
        except PelagosError as error:
            problems.append(("name" if label else None, error.message))
        return problems
