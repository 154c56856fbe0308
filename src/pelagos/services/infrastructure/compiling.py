"""Compiling what a request brings, in a thread, against the pool of clouds; what was compiled last is kept.

`pelagos up` asks for the plan and then for the run, with the same bundle: the second time costs nothing. A description
of ten thousand nodes takes seconds to read.

Where an account stands in for the described clouds (``--map-clouds``), what matters of a resource section are its keys.
Values that the described cloud would not take are odd and no mistake: descriptions come with placeholders.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pelagos.clouds.pool import Pool
from pelagos.model.errors import PelagosError
from pelagos.model.world import World
from pelagos.services.infrastructure.values import (
    RESOURCE_COMMON,
    Implementation,
    ResourceChecker,
    ResourceProblem,
    StoredDefinition,
)

if TYPE_CHECKING:  # the compiler brings parsers that most commands do not need
    from pelagos.services.infrastructure.description import CompileResult

__all__ = ["Compiler"]


class Compiler:
    """For one pool. ``map_clouds`` is the account, or the driver of the account, that stands in for all clouds."""

    def __init__(self, pool: Pool, world: World) -> None:
        self._pool = pool
        self._world = world
        self._last: tuple[object, CompileResult] | None = None

    async def description(
        self,
        sources: Mapping[str, str],
        entries: Sequence[str],
        stored: Mapping[str, StoredDefinition],
        map_clouds: str = "",
    ) -> CompileResult:
        """A bundle's description, with the project's ``stored`` definitions. Raises DescriptionError; NotFound,
        Ambiguous or Unsupported for ``map_clouds``."""
        from pelagos.services.infrastructure.description import compile_description

        built_on = self._pool.stand_in(map_clouds) if map_clouds else ""
        brought = (dict(sources), tuple(entries), dict(stored), built_on, self._pool.generation)
        if self._last is not None and self._last[0] == brought:
            return self._last[1]
        result = await self._world.run_blocking(
            partial(
                compile_description,
                sources,
                tuple(entries),
                stored=stored,
                check_resource=self._checker(built_on),
                known_types=None if built_on else _PoolTypes(self._pool),
                built_on=built_on,
            )
        )
        self._last = (brought, result)
        return result

    async def definitions(
        self, sources: Mapping[str, str], entries: Sequence[str], map_clouds: str = ""
    ) -> dict[str, tuple[Implementation, ...]]:
        """The node definitions of a bundle that holds nothing else. Raises as :meth:`description`."""
        from pelagos.services.infrastructure.description import compile_definitions

        built_on = self._pool.stand_in(map_clouds) if map_clouds else ""
        return await self._world.run_blocking(
            partial(
                compile_definitions,
                sources,
                entries,
                check_resource=self._checker(built_on),
                known_types=None if built_on else _PoolTypes(self._pool),
            )
        )

    def _checker(self, built_on: str) -> ResourceChecker:
        return self._check_keys if built_on else self._check_resource

    def _check_resource(self, type_: str, section: dict[str, Any]) -> list[ResourceProblem]:
        """Of a type of the pool: keys, values, and which account it means."""
        problems = [_told(key, problem) for key, problem in self._validate(type_, section)]
        label = section.get("name") or None
        try:
            self._pool.means(
                type_,
                str(label) if label is not None else None,
                endpoint=str(section.get("endpoint") or ""),
                section=section,
            )
        except PelagosError as error:
            key = next((key for key in ("name", "endpoint") if section.get(key)), None)
            problems.append(ResourceProblem(key, error.message, error.advice))
        return problems

    def _check_keys(self, type_: str, section: dict[str, Any]) -> list[ResourceProblem] | None:
        """Of any type that is installed: its keys; what is odd about the values."""
        options = _options(section)
        try:
            wrong = self._pool.missing_keys(type_, options)
            odd = [problem for problem in self._validate(type_, section) if problem not in wrong]
        except PelagosError:
            return None
        return [_told(*problem) for problem in wrong] + [_told(*problem, error=False) for problem in odd]

    def _validate(self, type_: str, section: Mapping[str, Any]) -> list[tuple[str | None, str]]:
        options = _options(section)
        unrendered = [key for key, value in options.items() if isinstance(value, str) and "{" in value]
        return self._pool.validate_resource(type_, options, unrendered=unrendered)[1]


class _PoolTypes(Collection[str]):
    """The types whose clouds can be used: those of the pool's accounts, and those that descriptions may enter by
    themselves; none whose library is not installed. What is so is found out when it is asked for."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._accounts = {account.config.driver for account in pool.accounts() if not account.described}

    def __contains__(self, type_: object) -> bool:
        from pelagos.services.infrastructure.description.resources import missing_extra

        if not isinstance(type_, str) or missing_extra(type_):
            return False
        same = self._pool.plugins.same
        return any(same(driver, type_) for driver in self._accounts) or self._pool.can_describe(type_)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._accounts))

    def __len__(self) -> int:
        return len(self._accounts)


def _options(section: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key not in RESOURCE_COMMON}


def _told(key: str | None, problem: str, *, error: bool = True) -> ResourceProblem:
    return ResourceProblem(key, f"{key!r} {problem}" if key else f"the resource {problem}", error=error)
