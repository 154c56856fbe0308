"""From a bundle of texts to a compiled infrastructure, with every mistake reported at once.

The order of work: compose the entries' YAML, read the node definitions, read the description, then what needs both
(types, filters, templates against the nodes' variables), then the graph. Each step goes on with what the one before
could make of the input, so that one run shows all there is to mend; nothing is returned if anything is an error.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Mapping, Sequence
from typing import TypedDict

import msgspec

from pelagos.model.diagnostics import Diagnostic, Position
from pelagos.services.infrastructure.description.definitions import PREFIX, DefinitionReader
from pelagos.services.infrastructure.description.infrastructure import TOP_LEVEL, InfrastructureReader, NodeDraft
from pelagos.services.infrastructure.description.policies import measured_inside
from pelagos.services.infrastructure.description.resolve import Resolver
from pelagos.services.infrastructure.source.bundle import Bundle
from pelagos.services.infrastructure.source.nodes import MAPPING, Node, kind_of
from pelagos.services.infrastructure.source.problems import Problems, did_you_mean, listing
from pelagos.services.infrastructure.values import (
    AccountOf,
    CompiledInfrastructure,
    Implementation,
    ResourceChecker,
    StoredDefinition,
    UsableTypes,
)

__all__ = ["CompileOptions", "CompileResult", "DefinitionsResult", "compile_definitions", "compile_description"]


class CompileResult(msgspec.Struct, frozen=True):
    """A checked description, and what is odd in it but no mistake."""

    compiled: CompiledInfrastructure
    warnings: tuple[Diagnostic, ...] = ()
    used: tuple[str, ...] = ()
    """Types whose definition is one of the project's."""
    measured_inside: dict[str, Position] = {}
    """Nodes whose metric is measured by commands inside their instances -> where it is described."""


class DefinitionsResult(msgspec.Struct, frozen=True):
    """Checked node definitions by type, and what is odd in them but no mistake."""

    definitions: dict[str, tuple[Implementation, ...]]
    warnings: tuple[Diagnostic, ...] = ()


class CompileOptions(TypedDict, total=False):
    """The keyword arguments of :func:`compile_description`, for callers that pass them on."""

    stored: Mapping[str, StoredDefinition]
    check_resource: ResourceChecker | None
    unusable: UsableTypes | None
    built_on: str
    account_of: AccountOf | None
    commands: bool


def compile_description(
    sources: Mapping[str, str],
    entries: Sequence[str],
    *,
    stored: Mapping[str, StoredDefinition] | None = None,
    check_resource: ResourceChecker | None = None,
    unusable: UsableTypes | None = None,
    built_on: str = "",
    account_of: AccountOf | None = None,
    commands: bool = True,
) -> CompileResult:
    """Check and compile the description that is in ``entries``, names of texts in ``sources``.

    Exactly one entry holds the description; node definitions may be in any of them, and those of ``stored`` are used
    for types that none has. ``check_resource`` checks resources (None: nothing does). ``unusable`` says of which
    types no server can be made here (None: of any it can). ``built_on`` is the account that stands in for all clouds,
    if one does. ``account_of`` says which account a resource means (None: nobody knows). ``commands``: templates may
    run commands of this host.

    Raises :class:`DescriptionError` with all errors and warnings, by file and place."""
    with _nothing_collected():
        return _compiled(sources, entries, stored or {}, check_resource, unusable, built_on, account_of, commands)


@contextlib.contextmanager
def _nothing_collected() -> Iterator[None]:
    """Without the collector of cycles: it goes over all there is time and again while a tree grows that has none, and
    takes as long as all the rest. Where two threads do this, the first that is done turns it on again for both."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _compiled(
    sources: Mapping[str, str],
    entries: Sequence[str],
    stored: Mapping[str, StoredDefinition],
    check_resource: ResourceChecker | None,
    unusable: UsableTypes | None,
    built_on: str,
    account_of: AccountOf | None,
    commands: bool,
) -> CompileResult:
    problems = Problems()
    texts = _Texts(sources, entries, problems)
    reader = DefinitionReader(problems, check_resource, built_on)
    definitions = texts.definitions(reader)
    root = texts.description()
    draft = InfrastructureReader(problems).read(root) if root is not None else None
    if draft is None:
        if not problems.failed:
            where = Position(entries[0], 1) if entries else None
            problems.error(
                "no infrastructure description was given", where, "give a file with 'infra_name:' and 'nodes:'"
            )
        problems.raise_if_failed()
        raise AssertionError("a description that cannot be read has errors")
    used = _add_stored(draft.nodes, definitions, stored, reader, problems)
    compiled = Resolver(draft, definitions, texts.broken, unusable, problems, account_of, commands).compiled()
    problems.raise_if_failed()
    return CompileResult(compiled, problems.sorted(), used, measured_inside(draft.nodes))


def compile_definitions(
    sources: Mapping[str, str],
    entries: Sequence[str],
    *,
    check_resource: ResourceChecker | None = None,
) -> DefinitionsResult:
    """The node definitions that are in ``entries``, for importing them alone; a description beside them is an error.

    Raises :class:`DescriptionError` as :func:`compile_description` does."""
    problems = Problems()
    texts = _Texts(sources, entries, problems)
    definitions = texts.definitions(DefinitionReader(problems, check_resource))
    for key, key_node in texts.description_keys():
        problems.error(
            f"only node definitions can be imported; {key!r} does not begin with {PREFIX!r}",
            key_node.position,
            did_you_mean(key, [PREFIX + name for name in definitions], f"write '{PREFIX}<type>:'"),
        )
    if not definitions and not problems.failed:
        problems.error("no node definition was given", Position(entries[0], 1) if entries else None)
    Resolver.check_templates(definitions, problems)
    problems.raise_if_failed()
    return DefinitionsResult(definitions, problems.sorted())


class _Texts:
    """The entries' documents, sorted into definitions and description."""

    def __init__(self, sources: Mapping[str, str], entries: Sequence[str], problems: Problems) -> None:
        self._problems = problems
        self._roots: list[Node] = []
        self.broken: set[str] = set()
        """Types whose definition is there but has mistakes."""
        bundle = Bundle(sources, problems)
        for name in dict.fromkeys(entries):
            if name not in bundle:
                problems.error(
                    f"the file {name!r} was not given",
                    None,
                    did_you_mean(name, sources, f"there are: {listing(sorted(sources))}"),
                )
                continue
            before = problems.failed
            problems.failed = False
            root = bundle.load(name)
            failed, problems.failed = problems.failed, problems.failed or before
            if root is not None and root.kind == MAPPING:
                self._roots.append(root)
            elif root is not None and root.style != "missing":
                problems.error(f"a file must hold a mapping, not {kind_of(root)}", root.position)
            elif not failed:
                problems.error("the file is empty", Position(name, 1))

    def definitions(self, reader: DefinitionReader) -> dict[str, tuple[Implementation, ...]]:
        found: dict[str, tuple[Implementation, ...]] = {}
        places: dict[str, Position] = {}
        for root in self._roots:
            for key, key_node, value in root.items():
                if not key.startswith(PREFIX):
                    continue
                name = key.removeprefix(PREFIX)
                if not name:
                    self._problems.error(f"{PREFIX!r} is followed by no type", key_node.position)
                    continue
                if name in places:
                    self._problems.error(
                        f"the node definition {name!r} is given twice; first at {places[name]}", key_node.position
                    )
                    continue
                places[name] = key_node.position
                implementations = reader.read(key, value)
                if implementations:
                    found[name] = implementations
                else:
                    self.broken.add(name)
        return found

    def description_keys(self) -> list[tuple[str, Node]]:
        return [
            (key, key_node) for root in self._roots for key, key_node, _ in root.items() if not key.startswith(PREFIX)
        ]

    def description(self) -> Node | None:
        """The root that holds the description; None if none does or, with errors added, several do."""
        holders: list[tuple[Node, Node]] = []
        strays: list[tuple[str, Node]] = []
        for root in self._roots:
            own = [(key, key_node) for key, key_node, _ in root.items() if not key.startswith(PREFIX)]
            if any(key in TOP_LEVEL for key, _ in own):
                holders.append((root, next(key_node for key, key_node in own if key in TOP_LEVEL)))
            else:
                strays.extend(own)
        for key, key_node in strays:
            self._problems.error(
                f"a description knows no key {key!r}",
                key_node.position,
                did_you_mean(key, (*TOP_LEVEL, PREFIX), f"known are {listing(TOP_LEVEL)}, and '{PREFIX}<type>'"),
            )
        for _, other in holders[1:]:
            self._problems.error(
                f"a second infrastructure description; the first is at {holders[0][1].position}",
                other.position,
                "give one description, and any number of files with node definitions",
            )
        return holders[0][0] if holders else None


def _add_stored(
    nodes: Sequence[NodeDraft],
    definitions: dict[str, tuple[Implementation, ...]],
    stored: Mapping[str, StoredDefinition],
    reader: DefinitionReader,
    problems: Problems,
) -> tuple[str, ...]:
    """Read the stored definitions of the types that are used and that no entry defines; returns these types."""
    used: list[str] = []
    bundles: list[tuple[StoredDefinition, Bundle]] = []
    for name in dict.fromkeys(node.type for node in nodes):
        definition = stored.get(name)
        if definition is None or name in definitions:
            continue
        bundle = next((known for seen, known in bundles if seen == definition), None)
        if bundle is None:
            bundle = Bundle(definition.sources, problems)
            bundles.append((definition, bundle))
        root = bundle.load(definition.file) if definition.file in bundle else None
        value = root.get(PREFIX + name) if root is not None and root.kind == MAPPING else None
        if value is None:
            problems.error(f"the stored node definition {name!r} cannot be found in {definition.file!r}")
            continue
        definitions[name] = reader.read(PREFIX + name, value)
        used.append(name)
    return tuple(used)
