"""Renders what an implementation says, just before an instance is made from it (reference 4.8, 4.9).

Texts are rendered leaf by leaf after parsing. The ancestor dumped a mapping to YAML, rendered that text and hoped that
it still was YAML; rendering the leaves first and dumping then gives the same for every template that worked there (a
leaf cannot open a block that another closes, since the dump quotes each of them on its own), and a value with a quote
or a line break in it stays a value. A context given as *text* is rendered whole, as there, and must be YAML afterwards
if it begins with ``#cloud-config``.

A name that is not there is an error with its place, where the ancestor rendered nothing: an instance whose
configuration lacks an address boots, fails a health check ten minutes later, and says nothing of why.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2

from pelagos.model.diagnostics import Diagnostic, Position
from pelagos.model.errors import DescriptionError, PelagosError
from pelagos.services.infrastructure.asking import Asked, InstanceInfo, NodeFunctions, Unresolvable
from pelagos.services.infrastructure.attributes import declared_in
from pelagos.services.infrastructure.source.events import events_of
from pelagos.services.infrastructure.source.nodes import Composer, Node
from pelagos.services.infrastructure.source.problems import Problems, Source
from pelagos.services.infrastructure.templates.configuring import configured, puppet_names
from pelagos.services.infrastructure.templates.dump import dump
from pelagos.services.infrastructure.templates.environment import Runaway, run
from pelagos.services.infrastructure.templates.facts import is_template
from pelagos.services.infrastructure.templates.info_broker import info_broker
from pelagos.services.infrastructure.values import (
    CompiledNode,
    HealthCheck,
    Implementation,
    MysqlCheck,
    TemplatePlace,
)

__all__ = [
    "InstanceInfo",
    "Rendered",
    "TemplateData",
    "render_attributes",
    "render_health_check",
    "render_implementation",
]

_MAX_COMMAND_OUTPUT = 64 * 1024
_PUPPET = re.compile(r"\{[{%][^}]*\bpuppet\.(manifests|modules|attributes)\b")
"""A template that reads the ancestor's variables of Puppet, to run it itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TemplateData:
    """What templates are rendered with. ``instances`` holds every node's instances in a stable order."""

    infra_id: str
    infra_name: str
    node_id: str
    name: str
    type: str
    user_id: str = ""
    variables: Mapping[str, Any] = field(default_factory=dict)
    scaling: Mapping[str, int] = field(default_factory=dict)
    filter: Mapping[str, Any] = field(default_factory=dict)
    mappings: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Attributes of nodes it depends on, under the names they have here: nested mappings."""
    instances: Mapping[str, Sequence[InstanceInfo]] = field(default_factory=dict)
    cmd_allowed: bool = False
    run_command: Callable[[Sequence[str]], str] | None = None
    """Runs a command on this host and answers its output; called only if ``cmd_allowed``."""

    @classmethod
    def for_node(
        cls,
        node: CompiledNode,
        *,
        infra_id: str,
        infra_name: str,
        node_id: str,
        user_id: str = "",
        attributes: Mapping[str, Any] | None = None,
        instances: Mapping[str, Sequence[InstanceInfo]] | None = None,
        cmd_allowed: bool = False,
        run_command: Callable[[Sequence[str]], str] | None = None,
    ) -> TemplateData:
        """The data for an instance of a compiled node."""
        inbound: dict[str, list[dict[str, Any]]] = {}
        for mapping in node.mappings:
            entry = {"attributes": [mapping.source, mapping.target], "synch": mapping.synch}
            inbound.setdefault(mapping.dependee, []).append(entry)
        return cls(
            infra_id=infra_id,
            infra_name=infra_name,
            node_id=node_id,
            name=node.name,
            type=node.type,
            user_id=user_id,
            variables=node.variables,
            scaling={"min": node.min, "max": node.max},
            filter=node.filter,
            mappings={"inbound": inbound, "outbound": {}},
            attributes=attributes or {},
            instances=instances or {},
            cmd_allowed=cmd_allowed,
            run_command=run_command,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """An implementation with every template resolved."""

    options: dict[str, Any]
    """The resource section less ``type``, ``name`` and ``endpoint``."""
    account_label: str
    endpoint: str
    hostname: str
    """An RFC 1123 label: the node's name and the beginning of the instance's id."""
    user_data: str
    attributes: dict[str, Any]
    config_management: dict[str, Any]
    env: tuple[str, ...]
    command: str | tuple[str, ...]
    health_check: HealthCheck
    """Still templates: see :func:`render_health_check`."""
    asked: tuple[Asked, ...] = ()
    """What was asked of other nodes, with the answers."""


def render_implementation(implementation: Implementation, data: TemplateData) -> Rendered:
    """Resolve every template of the implementation.

    Raises :class:`DescriptionError` with a diagnostic for each template that cannot be rendered."""
    context = implementation.contextualisation
    nodes = NodeFunctions(data.instances, data.infra_id)
    work = _Rendering(implementation, _names(data, implementation, nodes))
    if context.type == "cooked":
        options, config, attributes = implementation.resource, implementation.config_management, context.attributes
    else:
        options = work.value(implementation.resource, "resource")
        config = work.value(implementation.config_management, "config_management")
        attributes = {}
    work.names.update(puppet_names(config))
    user_data, env, command = "", (), context.command
    path = "contextualisation"
    if context.type == "docker":
        work.names.update(work.context_variables(context.context_variables, f"{path}/context_variables"))
        env = tuple(work.value(list(context.env), f"{path}/env"))
        rendered = work.value(command if isinstance(command, str) else list(command), f"{path}/command")
        command = rendered if isinstance(rendered, str) else tuple(rendered)
    elif context.type == "cloudinit":
        if context.context_mapping is not None:
            mapping = work.value(context.context_mapping, f"{path}/context_template")
            user_data = "#cloud-config\n" + dump(mapping)
        else:
            user_data = work.value(context.context_template, f"{path}/context_template")
            work.check_cloud_config(user_data, f"{path}/context_template")
    if context.type != "cooked":
        attributes = work.value(context.attributes, f"{path}/attributes")
    work.raise_if_failed()
    if context.type != "docker":  # there is no user data, only a command
        user_data = _configured(implementation, data, user_data, config, attributes)
    return Rendered(
        options={key: value for key, value in options.items() if key not in ("type", "name", "endpoint")},
        account_label=str(options.get("name", implementation.account_label) or ""),
        endpoint=str(options.get("endpoint", implementation.endpoint) or ""),
        hostname=_hostname(data.name, data.node_id),
        user_data=user_data,
        attributes=attributes,
        config_management=config,
        env=env,
        command=command,
        health_check=implementation.health_check,
        asked=nodes.asked,
    )


def render_attributes(implementation: Implementation, data: TemplateData) -> dict[str, Any]:
    """The attributes that the implementation declares, rendered for an instance. Raises as
    :func:`render_implementation`."""
    nodes = NodeFunctions(data.instances, data.infra_id)
    work = _Rendering(implementation, _names(data, implementation, nodes))
    attributes = work.value(implementation.contextualisation.attributes, "contextualisation/attributes")
    config = work.value({"attributes": implementation.config_management.get("attributes")}, "config_management")
    work.raise_if_failed()
    return declared_in(attributes, config)


def _configured(
    implementation: Implementation, data: TemplateData, user_data: str, config: dict[str, Any], own: dict[str, Any]
) -> str:
    """User data that also runs the configuration manager, if there is one. Raises DescriptionError."""
    if config.get("type", "dummy") == "dummy":
        return user_data
    context = implementation.contextualisation
    template = context.context_template if context.context_mapping is None else repr(context.context_mapping)
    known = declared_in(declared_in(own, config), {"attributes": data.attributes})
    by_template = _PUPPET.search(template) is not None
    try:
        return configured(user_data, config, known, data.node_id, by_template=by_template)
    except ValueError as error:
        raise DescriptionError(
            f"the contextualisation of node {data.name!r}: {error}",
            diagnostics=(Diagnostic(str(error), context.position or implementation.position),),
        ) from error


def render_health_check(
    check: HealthCheck, ip: str, data: TemplateData, implementation: Implementation | None = None
) -> HealthCheck:
    """The check for one instance, no templates left. ``implementation`` gives errors their places.

    Raises :class:`DescriptionError` as :func:`render_implementation` does."""
    names = _names(data, implementation, NodeFunctions(data.instances, data.infra_id))
    names["ip"] = ip
    names["instance_data"] = {"node_id": data.node_id, "resource_address": ip, "infra_id": data.infra_id}
    work = _Rendering(implementation, names)
    mysqldbs = []
    for index, item in enumerate(check.mysqldbs):
        path = f"health_check/mysqldbs/{index}"
        values = [("name", item.name), ("user", item.user), ("pass", item.password)]
        mysqldbs.append(MysqlCheck(*(work.value(text, f"{path}/{key}") for key, text in values)))
    urls = tuple(work.value(list(check.urls), "health_check/urls"))
    command = tuple(work.value(part, "health_check/command") for part in check.command)
    work.raise_if_failed()
    return HealthCheck(
        ping=check.ping,
        ports=check.ports,
        urls=urls,
        mysqldbs=tuple(mysqldbs),
        command=command,
        timeout=check.timeout,
        grace=check.grace,
        failures=check.failures,
        probe_timeout=check.probe_timeout,
        attributes=check.attributes,
    )


def _hostname(name: str, node_id: str) -> str:
    label = re.sub(r"[^a-z0-9]+", "-", f"{name.lower()[:50]}-{node_id.lower()[:8]}")
    return label.strip("-") or "instance"


def _names(data: TemplateData, implementation: Implementation | None, nodes: NodeFunctions) -> dict[str, Any]:
    """The names of reference 4.9."""

    def cut(text: Any, start: int | None = None, end: int | None = None) -> Any:
        return text[start:end]

    def cmd(command: str) -> str:
        if not data.cmd_allowed or data.run_command is None:
            raise Unresolvable("cmd() runs commands on the control plane's host and is switched off")
        return data.run_command(shlex.split(command))[:_MAX_COMMAND_OUTPUT]

    names: dict[str, Any] = {
        "node_id": data.node_id,
        "name": data.name,
        "type": data.type,
        "infra_id": data.infra_id,
        "infra_name": data.infra_name,
        "user_id": data.user_id,
        "variables": data.variables,
        "scaling": data.scaling,
        "filter": data.filter,
        "mappings": data.mappings,
        "attributes": data.attributes,
        **nodes.names(),
        "cut": cut,
        "cmd": cmd,
        "ibget": info_broker(nodes, data.infra_id, data.infra_name),
    }
    if implementation is not None:
        context = implementation.contextualisation
        names["resource"] = implementation.resource
        names["contextualisation"] = {"type": context.type, "attributes": context.attributes}
        names["config_management"] = implementation.config_management
        names["health_check"] = {"ports": list(implementation.health_check.ports)}
    return names


class _Rendering:
    """One implementation being rendered; collects what goes wrong."""

    def __init__(self, implementation: Implementation | None, names: dict[str, Any]) -> None:
        self._places = implementation.places if implementation is not None else {}
        self._fallback = implementation.position if implementation is not None else None
        self.names = names
        self._found: list[Diagnostic] = []

    def value(self, value: Any, path: str) -> Any:
        """A copy of the value with each text in it, keys included, rendered."""
        if isinstance(value, str):
            return self._text(value, path) if is_template(value) else value
        if isinstance(value, dict):
            result = {}
            for key, item in value.items():
                name = self._text(key, f"{path}/{key}#") if is_template(key) else key
                result[name] = self.value(item, f"{path}/{key}")
            return result
        if isinstance(value, list):
            return [self.value(item, f"{path}/{index}") for index, item in enumerate(value)]
        return value

    def context_variables(self, value: Any, path: str) -> dict[str, Any]:
        """Docker's further names: a mapping, or a text that is one after rendering."""
        rendered = self.value(value, path)
        if isinstance(rendered, str) and rendered.strip():
            problems = Problems()
            root = Composer(
                Source("rendered", rendered), problems, lambda tag, node: _no_import(problems, node)
            ).compose()
            if problems.failed:
                self._fail(path, 1, f"'context_variables' cannot be read after rendering: {problems.sorted()[0]}")
                return {}
            rendered = root.plain() if root is not None else {}
        if not isinstance(rendered, dict | None | str):
            self._fail(path, 1, "'context_variables' is not a mapping after rendering")
        return rendered if isinstance(rendered, dict) else {}

    def check_cloud_config(self, text: str, path: str) -> None:
        """What begins with ``#cloud-config`` must be YAML."""
        if not text.startswith("#cloud-config") or self._found:
            return
        problems = Problems()
        for _ in events_of(Source("rendered", text), problems):
            pass
        for item in problems.sorted():
            line = item.position.line if item.position is not None else 1
            self._fail(
                path,
                1,
                f"the cloud-config is not YAML after rendering: {item.summary.removeprefix('this is not YAML: ')}"
                f" (line {line} of the rendered text)",
                "look for a value with a quote or a line break; a mapping in place of the text quotes values itself",
            )

    def _text(self, text: str, path: str) -> str:
        try:
            return run(text, self.names)
        except Unresolvable as error:
            self._fail(path, _line_of(error), str(error))
        except jinja2.TemplateSyntaxError as error:
            self._fail(path, error.lineno, f"the template has a syntax error: {error.message}")
        except jinja2.UndefinedError as error:
            self._fail(
                path,
                _line_of(error),
                f"the template needs what is not there: {error.message}",
                "define it under 'variables', or write {{ name | default('...') }}",
            )
        except Runaway as error:
            self._fail(path, _line_of(error), str(error))
        except PelagosError:
            raise
        except Exception as error:  # noqa: BLE001 - a template may trip over anything; it is forwarded with its place
            self._fail(path, _line_of(error), f"the template failed: {type(error).__name__}: {error}")
        return ""

    def _fail(self, path: str, line: int, summary: str, advice: str = "") -> None:
        place: TemplatePlace | None = self._places.get(path)
        position = self._fallback
        if place is None:  # of a sequence whose places are those of its items
            place = next((self._places[key] for key in self._places if key.startswith(path)), None)
        if place is not None:
            position = place.position
            if place.exact and line > 1:
                position = Position(position.file, position.line + line - 1)
        if position is None:
            summary = f"{summary} (in {path.replace('/', '.')})"
        self._found.append(Diagnostic(summary=summary, position=position, advice=advice))

    def raise_if_failed(self) -> None:
        if not self._found:
            return
        first = self._found[0]
        more = f" (and {len(self._found) - 1} more)" if len(self._found) > 1 else ""
        raise DescriptionError(f"{first}{more}", advice=first.advice, diagnostics=tuple(self._found))


def _no_import(problems: Problems, node: Node) -> None:
    problems.error("nothing can be imported here", node.position)


def _line_of(error: BaseException) -> int:
    """The template's line in which it was raised: Jinja rewrites tracebacks to its templates' lines."""
    line, step = 1, error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename in ("<template>", "<unknown>"):
            line = step.tb_lineno
        step = step.tb_next
    return line
