"""Node definitions: ``node_def:<type>`` -> implementations, checked section by section (reference 4.6 to 4.11)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from pelagos.model.diagnostics import Position
from pelagos.services.infrastructure.description.fields import (
    bool_at,
    check_keys,
    items_at,
    mapping_at,
    number_at,
    plain_mapping_at,
    require,
    text_at,
    texts_of,
)
from pelagos.services.infrastructure.source.nodes import MAPPING, SCALAR, SEQUENCE, Node, kind_of
from pelagos.services.infrastructure.source.problems import Problems, did_you_mean, listing
from pelagos.services.infrastructure.templates.facts import is_template
from pelagos.services.infrastructure.values import (
    Contextualisation,
    HealthCheck,
    Implementation,
    MysqlCheck,
    ResourceChecker,
    ResourceProblem,
    TemplatePlace,
)

__all__ = ["PREFIX", "DefinitionReader"]

PREFIX = "node_def:"
_SECTIONS = ("resource", "contextualisation", "config_management", "health_check")


class Keys(NamedTuple):
    """The keys of a section, beside ``type``."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


_CONTEXT_KEYS: dict[str, Keys] = {
    "basic": Keys((), ("attributes",)),
    "cloudinit": Keys(("context_template",), ("attributes",)),
    "docker": Keys(("env",), ("command", "context_variables", "attributes")),
}
_CONFIG_KEYS: dict[str, Keys] = {
    "chef": Keys(("endpoint", "run_list"), ("name",)),
    "puppet_solo": Keys(("manifests",), ("endpoint", "name", "modules", "attributes")),
    "dummy": Keys((), ("endpoint", "name")),
}
_HEALTH_KEYS = (
    *("type", "ping", "ports", "urls", "mysqldbs", "command"),
    *("timeout", "grace", "failures", "probe_timeout"),
)
_MAX_SECONDS = 10_000_000


class DefinitionReader:
    """Reads definitions; ``check_resource`` is asked about each resource. ``built_on`` is the account that stands in
    for all clouds, if one does."""

    def __init__(
        self,
        problems: Problems,
        check_resource: ResourceChecker | None,
        built_on: str = "",
    ) -> None:
        self._problems = problems
        self._check_resource = check_resource
        self._built_on = built_on

    def read(self, key: str, node: Node) -> tuple[Implementation, ...]:
        """The implementations under a ``node_def:`` key; errors are added."""
        what = f"{key!r}"
        if node.kind != SEQUENCE:
            if node.style != "missing":
                advice = "put '- ' in front of its first line" if node.kind == MAPPING else ""
                self._problems.error(
                    f"{what} must be a list of implementations, not {kind_of(node)}", node.position, advice
                )
            return ()
        if not node.value:
            self._problems.error(f"{what} lists no implementation", node.position)
        result = []
        for item in node.value:
            if item.kind == MAPPING:
                implementation = self._implementation(what, item)
                if implementation is not None:
                    result.append(implementation)
            elif item.style != "missing":
                self._problems.error(
                    f"an implementation in {what} must be a mapping, not {kind_of(item)}", item.position
                )
        return tuple(result)

    def _implementation(self, what: str, node: Node) -> Implementation | None:
        check_keys(node, _SECTIONS, f"an implementation in {what}", self._problems)
        found = require(node, "resource", f"an implementation in {what}", self._problems)
        resource = mapping_at(found, "'resource'", self._problems)
        if found is not None and resource is None and found.style != "missing" and found.kind == SCALAR:
            self._problems.error("'resource' is empty", found.position)
        places: dict[str, TemplatePlace] = {}
        contextualisation = self._contextualisation(node.get("contextualisation"), places)
        config = self._config_management(node.get("config_management"), places)
        health = self._health_check(node.get("health_check"), places)
        if resource is None:
            return None
        type_node = require(resource, "type", "'resource'", self._problems)
        if type_node is None:
            return None
        kind = text_at(type_node, "'type'", self._problems)
        if not kind:
            return None
        name_node, endpoint_node = resource.get("name"), resource.get("endpoint")
        label = text_at(name_node, "'name'", self._problems) if name_node is not None else ""
        endpoint = text_at(endpoint_node, "'endpoint'", self._problems) if endpoint_node is not None else ""
        values = resource.plain()
        if self._check_resource is not None:
            found_wrong = self._check_resource(kind, values)
            self._tell(resource, found_wrong)
            if any(problem.key == "type" and problem.error for problem in found_wrong):
                return None
        _collect(resource, "resource", places)
        return Implementation(
            resource_type=kind,
            account_label=label,
            endpoint=endpoint,
            built_on=self._built_on,
            resource=values,
            contextualisation=contextualisation,
            config_management=config,
            health_check=health,
            position=node.position,
            places=places,
        )

    def _tell(self, resource: Node, found: Sequence[ResourceProblem]) -> None:
        for problem in found:
            entry = resource.value.get(problem.key) if problem.key is not None else None
            if entry is not None and _holds_template(entry[1]):
                continue  # its value is not known before it is rendered; the driver checks it again then
            position = entry[0].position if entry is not None else resource.position
            tell = self._problems.error if problem.error else self._problems.warning
            tell(problem.message, position, problem.advice)

    def _check_table(self, what: str, node: Node, keys: Keys) -> None:
        check_keys(node, ("type", *keys.required, *keys.optional), what, self._problems)
        for key in keys.required:
            require(node, key, what, self._problems)

    def _type_of(self, what: str, node: Node, known: Collection[str]) -> str:
        found = require(node, "type", what, self._problems)
        if found is None:
            return ""
        kind = text_at(found, f"the type of {what}", self._problems)
        if kind and kind not in known:
            self._problems.error(
                f"there is no {what} of type {kind!r}",
                found.position,
                did_you_mean(kind, known, f"there are {listing(known)}"),
            )
            return ""
        return kind

    def _contextualisation(self, found: Node | None, places: dict[str, TemplatePlace]) -> Contextualisation:
        node = mapping_at(found, "'contextualisation'", self._problems)
        if node is None:
            return Contextualisation()
        kind = self._type_of("contextualisation", node, (*_CONTEXT_KEYS, "cooked"))
        if not kind:
            return Contextualisation()
        if kind == "cooked":  # passed through as it is: nothing in it is a template
            return Contextualisation(type=kind, attributes=node.plain(), position=node.position)
        what = f"a contextualisation of type {kind!r}"
        self._check_table(what, node, _CONTEXT_KEYS[kind])
        path = "contextualisation"
        attributes = plain_mapping_at(node.get("attributes"), "'attributes'", self._problems)
        _collect(node.get("attributes"), f"{path}/attributes", places)
        position = node.position
        text, mapping = "", None
        template = node.get("context_template") if kind == "cloudinit" else None
        if template is not None:
            position = _first_line(template).position
            _collect(template, f"{path}/context_template", places)
            if template.kind == MAPPING:
                mapping = template.plain()
            elif template.kind == SCALAR and isinstance(template.value, str | None) and template.style != "missing":
                text = template.value or ""
            elif template.style != "missing":
                self._problems.error(
                    f"'context_template' must be text or a mapping, not {kind_of(template)}", template.position
                )
        env: tuple[str, ...] = ()
        command: str | tuple[str, ...] = ""
        variables = None
        if kind == "docker":
            env = texts_of(node.get("env"), "'env'", self._problems)
            self._check_env(node.get("env"))
            _collect(node.get("env"), f"{path}/env", places)
            command = self._command(node.get("command"))
            _collect(node.get("command"), f"{path}/command", places)
            found_variables = node.get("context_variables")
            if found_variables is not None:
                variables = found_variables.plain()
                if not isinstance(variables, dict | str | None):
                    self._problems.error(
                        f"'context_variables' must be a mapping or text, not {kind_of(found_variables)}",
                        found_variables.position,
                    )
                _collect(found_variables, f"{path}/context_variables", places)
        return Contextualisation(
            type=kind,
            context_template=text,
            context_mapping=mapping,
            attributes=attributes,
            env=env,
            command=command,
            context_variables=variables,
            position=position,
        )

    def _check_env(self, node: Node | None) -> None:
        for item in node.value if node is not None and node.kind == SEQUENCE else ():
            if item.kind == SCALAR and isinstance(item.value, str) and "=" not in item.text:
                self._problems.warning(f"{item.text[:80]!r} is not of the form NAME=value", item.position)

    def _command(self, node: Node | None) -> str | tuple[str, ...]:
        if node is None or (node.kind == SCALAR and node.value is None):
            return ""
        if node.kind == SEQUENCE:
            return texts_of(node, "'command'", self._problems)
        return text_at(node, "'command'", self._problems)

    def _config_management(self, found: Node | None, places: dict[str, TemplatePlace]) -> dict[str, Any]:
        node = mapping_at(found, "'config_management'", self._problems)
        if node is None:
            return {}
        kind = self._type_of("config_management", node, tuple(_CONFIG_KEYS))
        if not kind:
            return {}
        self._check_table(f"a config_management of type {kind!r}", node, _CONFIG_KEYS[kind])
        _collect(node, "config_management", places)
        values: dict[str, Any] = node.plain()
        return values

    def _health_check(self, found: Node | None, places: dict[str, TemplatePlace]) -> HealthCheck:
        problems = self._problems
        node = mapping_at(found, "'health_check'", problems)
        if node is None:
            return HealthCheck()
        check_keys(node, _HEALTH_KEYS, "'health_check'", problems)
        kind = node.get("type")
        if kind is not None and kind.value != "basic":
            problems.error(f"there is no health check of type {kind.text!r}", kind.position, "there is 'basic'")
        default = HealthCheck()
        values: dict[str, Any] = {}
        ping = node.get("ping")
        if ping is not None:
            values["ping"] = bool_at(ping, "'ping'", default.ping, problems)
        values["ports"] = tuple(
            int(number_at(item, "a port", 1, problems, least=1, most=65535, whole=True))
            for item in items_at(node.get("ports"), "'ports'", problems)
        )
        values["urls"] = texts_of(node.get("urls"), "'urls'", problems)
        _collect(node.get("urls"), "health_check/urls", places)
        values["mysqldbs"] = tuple(self._mysql(item) for item in items_at(node.get("mysqldbs"), "'mysqldbs'", problems))
        _collect(node.get("mysqldbs"), "health_check/mysqldbs", places)
        command = self._command(node.get("command"))
        values["command"] = ("/bin/sh", "-c", command) if isinstance(command, str) and command else tuple(command)
        _collect(node.get("command"), "health_check/command", places)
        for key, least, whole in (
            ("timeout", 0.0, False),
            ("grace", 0.0, False),
            ("failures", 1, True),
            ("probe_timeout", 0.001, False),
        ):
            item = node.get(key)
            if item is not None:
                start = getattr(default, key)
                number = number_at(item, f"'{key}'", start, problems, least=least, most=_MAX_SECONDS, whole=whole)
                values[key] = int(number) if whole else float(number)
        return HealthCheck(**values)

    def _mysql(self, node: Node) -> MysqlCheck:
        entry = mapping_at(node, "an item of 'mysqldbs'", self._problems)
        if entry is None:
            if node.kind == SCALAR and node.value is None:
                self._problems.error("an item of 'mysqldbs' is empty", node.position)
            return MysqlCheck(name="", user="", password="")
        check_keys(entry, ("name", "user", "pass"), "an item of 'mysqldbs'", self._problems)
        values = []
        for key in ("name", "user", "pass"):
            found = require(entry, key, "an item of 'mysqldbs'", self._problems)
            values.append(text_at(found, f"'{key}'", self._problems) if found is not None else "")
        return MysqlCheck(*values)


def _holds_template(node: Node) -> bool:
    if node.kind == SCALAR:
        return isinstance(node.value, str) and is_template(node.value)
    if node.kind == SEQUENCE:
        return any(_holds_template(child) for child in node.value)
    return any(_holds_template(value) for _, _, value in node.items())


def _first_line(node: Node) -> TemplatePlace:
    """Where the text of a scalar begins, and whether its lines are the file's lines."""
    name, line, column = node.source.name, node.line, node.column
    text = node.text
    if node.style == "|":
        index, first = next(((at, row) for at, row in enumerate(text.split("\n")) if row.strip()), (0, ""))
        indent = max(0, len(node.source.line(line + 1 + index)) - len(first.rstrip("\r")))
        return TemplatePlace(Position(name, line + 1, indent + 1), exact=True)
    if node.style == "import":
        return TemplatePlace(Position(name, 1, 1), exact=True)
    if node.style and node.source.line(line)[column : column + len(text)] == text:
        return TemplatePlace(Position(name, line, column + 1), exact=True)
    return TemplatePlace(Position(name, line, column), exact=node.style == "" and "\n" not in node.text)


def _collect(node: Node | None, path: str, places: dict[str, TemplatePlace]) -> None:
    """Note the place of each template below ``node`` under its path."""
    if node is None:
        return
    if node.kind == SCALAR:
        if isinstance(node.value, str) and is_template(node.value):
            places[path] = _first_line(node)
    elif node.kind == SEQUENCE:
        for index, child in enumerate(node.value):
            _collect(child, f"{path}/{index}", places)
    else:
        for key, key_node, value in node.items():
            if is_template(key):
                places[f"{path}/{key}#"] = _first_line(key_node)
            _collect(value, f"{path}/{key}", places)
