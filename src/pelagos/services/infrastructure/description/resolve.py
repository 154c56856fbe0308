"""What needs description and definitions both: types, filters, templates against variables, the graph, fingerprints."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from pelagos.model.diagnostics import Position
from pelagos.services.infrastructure.attributes import managed
from pelagos.services.infrastructure.choosing import weight_of
from pelagos.services.infrastructure.description.graph import cycles, dependents_of, reverse
from pelagos.services.infrastructure.description.infrastructure import Draft, Edge, NodeDraft
from pelagos.services.infrastructure.source.nodes import MAPPING
from pelagos.services.infrastructure.source.problems import Problems, did_you_mean, listing
from pelagos.services.infrastructure.templates.environment import FUNCTIONS
from pelagos.services.infrastructure.templates.facts import Facts, column_of, facts_of, uses_of
from pelagos.services.infrastructure.templates.info_broker import NAMED, OFFERED, not_offered
from pelagos.services.infrastructure.values import (
    AccountOf,
    AttributeMapping,
    CompiledInfrastructure,
    CompiledNode,
    Implementation,
    TemplatePlace,
    Unusable,
    UsableTypes,
)

__all__ = ["Resolver"]

_NAMES = (
    *("node_id", "name", "type", "infra_id", "infra_name", "user_id", "variables", "scaling", "filter", "mappings"),
    *("resource", "contextualisation", "config_management", "health_check", "attributes", "puppet"),
)
_MORE = frozenset({"scaling", "mappings", "attributes", "user_id"})
_GLOBALS = ("range", "dict", "cycler", "joiner", "namespace")
_HEALTH_NAMES = ("ip", "instance_data")


class _Template:
    """A template of an implementation: its text, its place, its facts."""

    __slots__ = ("facts", "path", "place", "text")

    def __init__(self, path: str, text: str, place: TemplatePlace) -> None:
        self.path = path
        self.text = text
        self.place = place
        self.facts: Facts = facts_of(text)

    def at(self, line: int, word: str = "") -> Position:
        """The place in the file of a word in a line of the template."""
        start = self.place.position
        if not self.place.exact:
            return start
        column = column_of(self.text, line, word) if word else 1
        return Position(start.file, start.line + line - 1, column + start.column - 1)


class Resolver:
    """Resolves a draft against definitions. ``broken`` are types whose definition has mistakes of its own;
    ``account_of`` says which accounts resources mean (None: nobody knows); ``commands``: templates may run commands of
    this host."""

    def __init__(
        self,
        draft: Draft,
        definitions: Mapping[str, tuple[Implementation, ...]],
        broken: Collection[str],
        unusable: UsableTypes | None,
        problems: Problems,
        account_of: AccountOf | None = None,
        commands: bool = True,
    ) -> None:
        self._draft = draft
        self._account_of = account_of
        self._commands = commands
        self._commanding: set[tuple[str, int]] = set()
        """Implementations that were looked at for commands, where those are switched off."""
        self._definitions = definitions
        self._broken = broken
        self._unusable = unusable
        self._reasons: dict[tuple[str, int], Unusable | None] = {}
        self._problems = problems
        self._templates: dict[tuple[str, int], list[_Template]] = {}
        self._hashes: dict[tuple[str, int], bytes] = {}
        self._looks: dict[tuple[str, int], frozenset[str]] = {}
        self._names = {node.name for node in draft.nodes}
        self._depends_on: dict[str, list[str]] = {node.name: [] for node in draft.nodes}
        self._dependents: dict[str, list[str]] = {}
        self._reached: dict[str, set[str]] = {}

    def compiled(self) -> CompiledInfrastructure:
        """The infrastructure; errors are added."""
        draft = self._draft
        mappings = self._edges()
        used: dict[str, tuple[Implementation, ...]] = {}
        nodes = []
        for node in draft.nodes:
            implementations = self._definitions.get(node.type)
            if implementations is not None and node.type not in used:
                used[node.type] = implementations
                self._prepare(node.type, implementations)
            choice = self._choice(node, implementations)
            for index in choice:
                for template in self._templates[node.type, index]:
                    self._check_against(node, template)
                if not self._commands:
                    self._refuse_commands(node.type, index)
            if node.policy.weights and implementations is not None:
                self._check_weights(node, implementations, choice)
            nodes.append(
                CompiledNode(
                    name=node.name,
                    type=node.type,
                    min=node.min,
                    max=node.max,
                    implementations=choice,
                    filter=node.filter,
                    variables=node.variables,
                    depends_on=tuple(self._depends_on[node.name]),
                    mappings=tuple(mappings.get(node.name, ())),
                    fingerprint=self._fingerprint(node, choice, mappings.get(node.name, ())) if choice else "",
                    policy=node.policy,
                    position=node.node.position,
                )
            )
        for name, implementations in self._definitions.items():
            if name not in used:
                self._prepare(name, implementations)
        return CompiledInfrastructure(
            name=draft.name,
            user_id=draft.user_id,
            variables=draft.variables,
            nodes=tuple(nodes),
            definitions=used,
            moved=draft.moved,
        )

    # the graph

    def _edges(self) -> dict[str, list[AttributeMapping]]:
        """Fill the graph; node -> mappings. Edges given twice are one, their mappings those of both."""
        mappings: dict[str, list[AttributeMapping]] = {}
        places: dict[tuple[str, str], Edge] = {}
        for edge in self._draft.edges:
            pair = (edge.dependent, edge.dependee)
            if pair not in places:
                places[pair] = edge
                self._depends_on[edge.dependent].append(edge.dependee)
            known = mappings.setdefault(edge.dependent, [])
            known.extend(mapping for mapping in edge.mappings if mapping not in known)
        for path in cycles(self._depends_on):
            if len(path) == 2:
                summary = f"the node {path[0]!r} depends on itself"
            else:
                summary = f"the dependencies run in a circle: {' -> '.join(path)}"
            self._problems.error(summary, places[path[0], path[1]].position, "remove one of these dependencies")
        return mappings

    def _depends(self, name: str, target: str) -> bool:
        """Whether the node depends on the target, directly or not."""
        if target in self._depends_on[name]:
            return True
        if not self._dependents:
            self._dependents = reverse(self._depends_on)
        reached = self._reached.get(target)
        if reached is None:
            reached = self._reached[target] = dependents_of(self._dependents, target)
        return name in reached

    # implementations

    def _choice(self, node: NodeDraft, implementations: tuple[Implementation, ...] | None) -> tuple[int, ...]:
        """Indices of the implementations the node may be made from, in order."""
        problems = self._problems
        if not node.type or node.type in self._broken:
            return ()
        if not implementations:
            if implementations is None:
                problems.error(
                    f"there is no node definition 'node_def:{node.type}'",
                    node.type_position,
                    lambda: did_you_mean(
                        node.type,
                        self._definitions,
                        f"there are: {listing(self._definitions)}"
                        if self._definitions
                        else "give the file with the node definitions too, or import it",
                    ),
                )
            return ()
        matching = [index for index, item in enumerate(implementations) if _matches(item, node.filter)]
        if not matching:
            problems.error(
                f"no implementation of {node.type!r} fits the filter of node {node.name!r}",
                node.filter_position or node.type_position,
                _filter_advice(node.filter, implementations),
            )
            return ()
        reasons = {
            index: reason
            for index in matching
            if (reason := self._why_unusable(node.type, index, implementations[index])) is not None
        }
        possible = [index for index in matching if index not in reasons]
        if not possible:
            told = dict.fromkeys(reasons.values())
            problems.error(
                f"node {node.name!r} cannot be made here: {'; '.join(reason.message for reason in told)}",
                node.type_position,
                "; or ".join(reason.advice for reason in told),
            )
            return ()
        for index, reason in reasons.items():
            problems.warning(
                f"{reason.message}; this implementation of {node.type!r} is passed over"
                + (" until that is mended" if reason.for_now else ""),
                implementations[index].position,
                reason.advice,
            )
        return tuple(index for index in matching if index not in reasons or reasons[index].for_now)

    def _why_unusable(self, name: str, index: int, item: Implementation) -> Unusable | None:
        if self._unusable is None:
            return None
        if (name, index) not in self._reasons:
            self._reasons[name, index] = self._unusable(item.resource_type, item.resource)
        return self._reasons[name, index]

    def _fingerprint(self, node: NodeDraft, choice: tuple[int, ...], mappings: Sequence[AttributeMapping]) -> str:
        hashes = [self._hashes[node.type, index] for index in choice]
        made_from: list[Any] = [node.type, node.filter, node.variables, hashes]
        looked_at = frozenset().union(*(self._looked_at(node.type, index) for index in choice))
        if looked_at:
            more = {
                "scaling": [node.min, node.max],
                "mappings": mappings,
                "attributes": [(mapping.dependee, mapping.source, mapping.target) for mapping in mappings],
                "user_id": self._draft.user_id,
            }
            made_from.append([more.get(name, name) for name in sorted(looked_at)])
        return _digest(made_from).hex()

    def _looked_at(self, type_: str, index: int) -> frozenset[str]:
        """Of what is neither in definition nor variables, what the implementation's templates may look at."""
        found = self._looks.get((type_, index))
        if found is None:
            names = [uses_of(template.text).names for template in self._templates[type_, index]]
            if managed(self._definitions[type_][index]):
                names.append(frozenset({"attributes"}))
            found = self._looks[type_, index] = _MORE & frozenset().union(*names)
        return found

    # weights

    def _check_weights(self, node: NodeDraft, implementations: Sequence[Implementation], choice: Sequence[int]) -> None:
        """Weights of what the node has not, and such that leave nothing to be chosen."""
        account_of = self._account_of
        if account_of is None or not choice:
            return
        accounts = {index: account_of(item.resource_type, item.resource) for index, item in enumerate(implementations)}
        fitting = [index for index, item in enumerate(implementations) if _matches(item, node.filter)]
        known = dict.fromkeys(accounts[index] for index in fitting if accounts[index])
        known.update(dict.fromkeys(implementations[index].resource_type for index in fitting))
        # Of what cannot be made here, nobody knows which account it is elsewhere.
        labels = {implementations[index].account_label for index in fitting if not accounts[index]}
        policy = node.node.get("policy")
        found = policy.get("weights") if policy is not None and policy.kind == MAPPING else None
        if found is None or found.kind != MAPPING:
            return
        for key, key_node, _ in found.items():
            if key not in known and key not in labels:
                self._problems.error(
                    f"'weights' of node {node.name!r} names {key!r}, and none of its implementations is on an account,"
                    " or of a type, of that name",
                    key_node.position,
                    did_you_mean(key, tuple(known), f"there are: {listing(tuple(known))}"),
                )
        weights = node.policy.weights
        if all(weight_of(weights, accounts[index], implementations[index].resource_type) == 0 for index in choice):
            self._problems.error(
                f"'weights' of node {node.name!r} leaves nothing to choose: all of its implementations have weight 0",
                found.position,
                "give at least one of them a share",
            )

    # templates

    @staticmethod
    def check_templates(definitions: Mapping[str, tuple[Implementation, ...]], problems: Problems) -> None:
        """Check definitions alone: syntax and names, not against any node's variables."""
        empty = Draft("", "", {}, [], [])
        resolver = Resolver(empty, definitions, (), None, problems)
        for name, implementations in definitions.items():
            resolver._prepare(name, implementations)

    def _prepare(self, name: str, implementations: tuple[Implementation, ...]) -> None:
        """Find the templates and the hash of each implementation, once a type; check what needs no node."""
        for index, item in enumerate(implementations):
            templates = list(_templates_of(item))
            self._templates[name, index] = templates
            for template in templates:
                self._check_alone(template, item)
            context = item.contextualisation
            made_from = [
                *((item.built_on,) if item.built_on else ()),
                *(item.resource, item.config_management, context.type, context.context_template),
                *(context.context_mapping, context.attributes, context.env, context.command, context.context_variables),
            ]
            self._hashes[name, index] = _digest(made_from)
            if item.config_management.get("type", "dummy") != "dummy" and context.type == "docker":
                self._problems.warning(
                    f"config_management of type {item.config_management['type']!r} needs user data, which a"
                    f" contextualisation of type 'docker' has not; instances of {name!r} are made without it",
                    item.position,
                )

    def _refuse_commands(self, name: str, index: int) -> None:
        """Calls of cmd() in what a node is made from, once an implementation, where they are switched off."""
        if (name, index) in self._commanding:
            return
        self._commanding.add((name, index))
        variables = self._definitions[name][index].contextualisation.context_variables
        if isinstance(variables, dict) and "cmd" in variables:
            return  # it is another one
        advice = "set `commands: allowed` in the configuration, if whoever writes descriptions may do that"
        for template in self._templates[name, index]:
            for line in dict.fromkeys(line for function, line in template.facts.calls if function == "cmd"):
                at = template.at(line, "cmd")
                text = "cmd() runs commands on the control plane's host and is switched off"
                if ("cmd", line) in template.facts.certain:
                    self._problems.error(text, at, advice)
                else:
                    self._problems.warning(f"{text}; where this is reached, the node cannot be made", at, advice)

    def _check_alone(self, template: _Template, item: Implementation) -> None:
        problems, facts = self._problems, template.facts
        if facts.error is not None:
            message, line = facts.error
            problems.error(f"the template has a syntax error: {message}", template.at(line))
            return
        for line in facts.includes:
            problems.error(
                "templates cannot include other files", template.at(line), "import the text with !text_import"
            )
        for key, named, line in facts.info:
            at = template.at(line, "ibget")
            if key not in OFFERED:
                said = "the key of ibget() must be a text that stands there" if key is None else not_offered(key)
                problems.error(said, at, f"offered are {', '.join(OFFERED)}; or use getip, getipall and variables")
            elif key in NAMED and not named:
                problems.error(f"ibget({key!r}) needs the name of a node", at, f"write ibget({key!r}, name='...')")
        variables = item.contextualisation.context_variables
        if isinstance(variables, str):
            return  # a text that is a mapping only after rendering: which names it has is not known before
        known = {*_NAMES, *FUNCTIONS, *_GLOBALS, *(variables or ())}
        if template.path.startswith("health_check"):
            known.update(_HEALTH_NAMES)
        for name, line in dict.fromkeys((*facts.calls, *facts.names)):
            if name not in known:
                what = "function" if (name, line) in facts.calls else "name"
                otherwise = f"write variables.{name} for a variable" if what == "name" else ""
                problems.error(
                    f"the template uses the {what} {name!r}, which does not exist",
                    template.at(line, name),
                    did_you_mean(name, sorted(known), otherwise),
                )

    def _check_against(self, node: NodeDraft, template: _Template) -> None:
        facts = template.facts
        for path, line in facts.paths:
            missing = _missing(path, node.variables)
            if missing is not None:
                dotted = ".".join(missing)
                self._problems.error(
                    f"the node {node.name!r} has no variable {dotted!r}, which the template needs",
                    template.at(line, missing[-1]),
                    did_you_mean(
                        missing[-1],
                        _keys_at(missing[:-1], node.variables),
                        f"define it under 'variables', or write {{{{ variables.{dotted} | default('...') }}}}",
                    ),
                )
        for reference in facts.nodes:
            name: Any = reference.name
            if reference.path:
                if _missing(reference.path, node.variables) is not None:
                    continue
                name = node.variables
                for key in reference.path:
                    name = name.get(key) if isinstance(name, dict) else None
                if not isinstance(name, str):
                    continue
            self._check_reference(node, template, reference.function, name, reference.line)

    def _check_reference(self, node: NodeDraft, template: _Template, function: str, name: str, line: int) -> None:
        at = template.at(line, function)
        if name not in self._names:
            self._problems.error(
                f"{function}({name!r}) of node {node.name!r}: there is no node of that name",
                at,
                lambda: did_you_mean(name, sorted(self._names), f"there are: {listing(sorted(self._names))}"),
            )
        elif name == node.name:
            self._problems.warning(
                f"{function}({name!r}) asks node {node.name!r} for itself; its first instance will find none", at
            )
        elif not self._depends(node.name, name):
            self._problems.warning(
                f"{function}({name!r}): node {node.name!r} does not depend on {name!r}, which may not be there yet",
                at,
                f"add the dependency [{node.name}, {name}]",
            )


def _matches(item: Implementation, wanted: Mapping[str, Any]) -> bool:
    return all(key in item.resource and _same(item.resource[key], value) for key, value in wanted.items())


def _same(left: Any, right: Any) -> bool:
    return bool(left == right) and isinstance(left, bool) == isinstance(right, bool)


def _filter_advice(wanted: Mapping[str, Any], implementations: tuple[Implementation, ...]) -> str:
    """What the implementations have where the filter asks."""
    parts = []
    for key, value in wanted.items():
        there = dict.fromkeys(repr(item.resource[key]) for item in implementations if key in item.resource)
        if repr(value) not in there:
            parts.append(f"their {key!r} is {listing(there)}" if there else f"none has {key!r}")
    return "; ".join(parts)


def _missing(path: tuple[str, ...], variables: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The beginning of the path up to the step that is not there; None if the path can be followed."""
    value: Any = variables
    for index, key in enumerate(path):
        if not isinstance(value, dict):
            return None  # an attribute of a text or list: seen when it is rendered
        if key not in value:
            return None if hasattr(dict, key) else path[: index + 1]
        value = value[key]
    return None


def _keys_at(path: tuple[str, ...], variables: Mapping[str, Any]) -> list[str]:
    value: Any = variables
    for key in path:
        value = value[key]
    return list(value)


def _templates_of(item: Implementation) -> Iterator[_Template]:
    """Every template of the implementation."""
    context, health = item.contextualisation, item.health_check
    roots: dict[str, Any] = {
        "resource": item.resource,
        "config_management": item.config_management,
        "contextualisation/context_template": (
            context.context_template if context.context_mapping is None else context.context_mapping
        ),
        "contextualisation/attributes": context.attributes,
        "contextualisation/env": list(context.env),
        "contextualisation/command": context.command,
        "contextualisation/context_variables": context.context_variables,
        "health_check/urls": list(health.urls),
        "health_check/mysqldbs": [{"name": db.name, "user": db.user, "pass": db.password} for db in health.mysqldbs],
    }
    found: dict[str, str] = {}
    for path, value in roots.items():
        _leaves(value, path, found)
    for index, part in enumerate(health.command):
        found[f"health_check/command/{index}"] = part
        if index == len(health.command) - 1:
            found["health_check/command"] = part
    for path, place in item.places.items():
        if context.type == "cooked":
            return
        text = found.get(path)
        if text is not None:
            yield _Template(path, text, place)


def _leaves(value: Any, path: str, found: dict[str, str]) -> None:
    if isinstance(value, str):
        found[path] = value
    elif isinstance(value, dict):
        for key, item in value.items():
            found[f"{path}/{key}#"] = key
            _leaves(item, f"{path}/{key}", found)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _leaves(item, f"{path}/{index}", found)


def _digest(value: Any) -> bytes:
    return hashlib.sha256(msgspec.msgpack.encode(value, order="deterministic")).digest()
