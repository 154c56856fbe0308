"""Compiling what a request brings, in a thread, against the pool of clouds; what was compiled last is kept.

`pelagos up` asks for the plan and then for the run, with the same bundle: the second time costs nothing. A description
of ten thousand nodes takes most of a second to read.

Where an account stands in for the described clouds (``--map-clouds``), what matters of a resource section are its keys.
Values that the described cloud would not take are odd and no mistake: descriptions come with placeholders.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from pelagos.clouds.pool import Pool
from pelagos.model.diagnostics import Diagnostic
from pelagos.model.errors import NotFound, PelagosError, Unsupported
from pelagos.model.world import World
from pelagos.services.infrastructure.values import (
    RESOURCE_COMMON,
    ResourceProblem,
    StoredDefinition,
    Unusable,
)

if TYPE_CHECKING:  # the compiler brings parsers that most commands do not need
    from pelagos.services.infrastructure.description import CompileResult, DefinitionsResult

__all__ = ["Compiler"]

_log = structlog.get_logger("pelagos.infrastructure")
_PATIENCE = 10.0
"""Seconds that a description waits for what a cloud says it can do."""


class Compiler:
    """For one pool. ``map_clouds`` is the account, or the driver of the account, that stands in for all clouds.
    ``commands``: templates may run commands of this host. ``opens``: whether accounts are opened by this process. Where
    another does, secrets may be there that are not here, and nothing is said of accounts that cannot be opened."""

    def __init__(
        self, pool: Pool, world: World, *, commands: bool = True, opens: Callable[[], bool] = lambda: True
    ) -> None:
        self._pool = pool
        self._world = world
        self._commands = commands
        self._opens = opens
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
        opened_here = self._opens()
        brought = (dict(sources), tuple(entries), dict(stored), built_on, self._pool.generation, opened_here)
        if self._last is not None and self._last[0] == brought:
            return self._last[1]
        result = await self._world.run_blocking(
            partial(
                compile_description,
                sources,
                tuple(entries),
                stored=stored,
                check_resource=self._check_keys if built_on else self._check_resource,
                unusable=None if built_on else partial(self._unusable, opened_here=opened_here),
                built_on=built_on,
                account_of=None if built_on else self._account_of,
                commands=self._commands,
            )
        )
        odd = await self._not_measured(result, sources) if opened_here else ()
        if odd:
            result = msgspec.structs.replace(result, warnings=(*result.warnings, *odd))
        self._last = (brought, result)
        return result

    async def definitions(
        self, sources: Mapping[str, str], entries: Sequence[str], map_clouds: str = ""
    ) -> DefinitionsResult:
        """The node definitions of a bundle that holds nothing else. That the account of one cannot be told is a mistake
        only when it is used. Raises as :meth:`description`."""
        from pelagos.services.infrastructure.description import compile_definitions

        built_on = self._pool.stand_in(map_clouds) if map_clouds else ""
        return await self._world.run_blocking(
            partial(
                compile_definitions,
                sources,
                entries,
                check_resource=self._check_keys if built_on else self._check_definition,
            )
        )

    def _account_of(self, type_: str, section: Mapping[str, Any]) -> str:
        label, endpoint = str(section.get("name") or ""), str(section.get("endpoint") or "")
        try:
            return self._pool.means(type_, label or None, endpoint=endpoint, section=section)
        except PelagosError:
            return ""

    async def _not_measured(self, result: CompileResult, bundle: Mapping[str, str]) -> list[Diagnostic]:
        """Warnings of metrics that are measured by commands inside instances, on clouds that run none there."""
        from pelagos.services.infrastructure.source.problems import Problems, Source

        problems = Problems()
        for name, position in result.measured_inside.items():
            node = result.compiled.node(name)
            if node is None:
                continue
            items = [result.compiled.definitions[node.defined_by][index] for index in node.implementations]
            accounts = {item.built_on or self._account_of(item.resource_type, item.resource) for item in items} - {""}
            mute = [account for account in sorted(accounts) if not await self._executes(account)]
            if mute:
                problems.know(Source(position.file, bundle.get(position.file, "")))
                problems.warning(
                    f"the metric of node {name!r} is measured by commands inside its instances, which {', '.join(mute)}"
                    " cannot run: it is never known there",
                    position,
                    "measure it over HTTP (type 'http' or 'prometheus'), or make the node on another cloud",
                )
        return list(problems.sorted())

    async def _executes(self, account: str) -> bool:
        """Whether commands run inside an account's servers; so it is taken to be where its driver cannot be asked."""
        known = self._pool.find(account)
        if known is None:
            return True
        try:
            async with asyncio.timeout(_PATIENCE):
                return (await known.capabilities()).execute
        except (PelagosError, TimeoutError) as error:
            _log.info("a cloud does not say whether it runs commands", account=account, error=str(error))
            return True

    def _unusable(self, type_: str, section: Mapping[str, Any], *, opened_here: bool = True) -> Unusable | None:
        error = self._pool.unusable(type_, section)
        if error is not None:
            return Unusable(error.message, error.advice)
        trouble = self._pool.trouble(type_, section) if opened_here else None
        return None if trouble is None else Unusable(trouble.message, trouble.advice, for_now=True)

    def _check_values(self, type_: str, section: dict[str, Any]) -> list[ResourceProblem]:
        """Keys and values, by the type's driver, whether or not it can be used here."""
        try:
            return [_told(key, problem) for key, problem in self._validate(type_, section)]
        except NotFound as error:
            return [ResourceProblem("type", error.message, error.advice)]
        except Unsupported:  # the plug-in is broken: the driver cannot say, and no node can use it either
            return []

    def _check_resource(self, type_: str, section: dict[str, Any]) -> list[ResourceProblem]:
        """Keys and values; of a type that can be used, which account is meant."""
        problems = self._check_values(type_, section)
        if self._pool.unusable(type_, section) is not None:
            return problems  # told where a node uses it
        try:
            problems += self._unheeded_name(type_, section)
        except PelagosError as error:
            key = next((key for key in ("name", "endpoint") if section.get(key)), None)
            problems.append(ResourceProblem(key, error.message, error.advice))
        return problems

    def _check_definition(self, type_: str, section: dict[str, Any]) -> list[ResourceProblem]:
        """Keys and values, and what is odd about which account is meant; it may be another one when it is used."""
        problems = self._check_values(type_, section)
        if self._pool.unusable(type_, section) is None:
            with contextlib.suppress(PelagosError):  # told where a node uses it
                problems += self._unheeded_name(type_, section)
        return problems

    def _unheeded_name(self, type_: str, section: dict[str, Any]) -> list[ResourceProblem]:
        """A ``name`` that no account has is a label, says the ancestor, or a typing mistake: so whoever wrote it hears
        on whose account the node is built. Raises what :meth:`Pool.means` does."""
        from pelagos.services.infrastructure.source.problems import did_you_mean, listing

        label, endpoint = str(section.get("name") or ""), str(section.get("endpoint") or "")
        taken = self._pool.means(type_, label or None, endpoint=endpoint, section=section)
        names = self._pool.instead_of(taken, type_, label, endpoint=endpoint)
        if not names:
            return []
        why = "the only one" if len(names) == 1 else "the default"
        there = f"there is {names[0]}" if len(names) == 1 else f"there are {listing(names)}"
        guess = did_you_mean(label, names)
        return [
            ResourceProblem(
                "name",
                f"no account of type {type_!r} is called {label!r}; {taken!r} is taken, {why}",
                f"{guess} {there[:1].upper()}{there[1:]}" if guess else there,
                error=False,
            )
        ]

    def _check_keys(self, type_: str, section: dict[str, Any]) -> list[ResourceProblem]:
        """What is wrong with the keys; what is odd about the values. A type that is not known here is odd as well."""
        options = _options(section)
        try:
            wrong = self._pool.missing_keys(type_, options)
            odd = [problem for problem in self._validate(type_, section) if problem not in wrong]
        except PelagosError as error:
            return [ResourceProblem("type", error.message, error.advice, error=False)]
        return [_told(*problem) for problem in wrong] + [_told(*problem, error=False) for problem in odd]

    def _validate(self, type_: str, section: Mapping[str, Any]) -> list[tuple[str | None, str]]:
        options = _options(section)
        unrendered = [key for key, value in options.items() if isinstance(value, str) and "{" in value]
        return self._pool.validate_resource(type_, options, unrendered=unrendered)[1]


def _options(section: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key not in RESOURCE_COMMON}


def _told(key: str | None, problem: str, *, error: bool = True) -> ResourceProblem:
    return ResourceProblem(key, f"{key!r} {problem}" if key else f"the resource {problem}", error=error)
