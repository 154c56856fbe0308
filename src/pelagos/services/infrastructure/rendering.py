"""From an instance to what its cloud is asked for: templates rendered now, with the addresses there are now."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from pelagos.clouds.errors import CloudRejected
from pelagos.clouds.values import ServerSpec
from pelagos.model.names import unique_server_name
from pelagos.services.infrastructure.asking import ATTRIBUTE, TOLD, Asked, InstanceInfo
from pelagos.services.infrastructure.attributes import (
    BUILT_IN,
    MISSING,
    built_in,
    constant,
    look_up,
    made_up,
    place,
    told_at_once,
)
from pelagos.services.infrastructure.made_from import looks_at_attributes
from pelagos.services.infrastructure.metrics import MetricUnavailable
from pelagos.services.infrastructure.names import hostname_of
from pelagos.services.infrastructure.nodes import Instance, Node
from pelagos.services.infrastructure.policies import MetricSource
from pelagos.services.infrastructure.reality import Reality
from pelagos.services.infrastructure.records import InfrastructureRow
from pelagos.services.infrastructure.values import AttributeMapping, Contextualisation, HealthCheck, Implementation

if TYPE_CHECKING:  # Jinja is imported at the first rendering, not before
    from pelagos.services.infrastructure.templates import TemplateData

__all__ = ["Renderer", "Resources"]


class Resources(Protocol):
    """What of the pool checks the options of a resource."""

    def validate_resource(
        self, type: str, keys: Mapping[str, Any], /
    ) -> tuple[dict[str, Any], list[tuple[str | None, str]]]: ...
    def options_of_stand_in(self, account: str, type: str, keys: Mapping[str, Any], /) -> dict[str, Any]: ...
    def check_of_stand_in(self, account: str, /) -> tuple[str, ...]: ...
    def description(self, name: str, /) -> dict[str, Any]: ...


def _shown(reality: Reality, node: Node) -> list[Instance]:
    """Its instances as others see them: ready ones first, then by number."""
    return sorted(reality.staying(node), key=lambda i: (not i.ready, i.row.ordinal, i.row.id))


def _info(node: Node, instance: Instance) -> InstanceInfo:
    return InstanceInfo(
        node_id=instance.row.id,
        addresses=instance.address_list,
        private_addresses=instance.private_list,
        data={
            "name": node.name,
            "hostname": hostname_of(node.compiled, instance.row.ordinal),
            "cloud": instance.row.account,
        },
    )


def _source(reality: Reality, mapping: AttributeMapping) -> Instance | None:
    """The instance whose attributes a mapping means: the first of the node."""
    node = reality.nodes.get(mapping.dependee)
    return next(iter(_shown(reality, node)), None) if node is not None else None


def _constant(reality: Reality, instance: Instance, name: str) -> Any:
    implementation = reality.implementation_of(instance)
    return MISSING if implementation is None else constant(name, instance.row.node, implementation)


class _Instances(Mapping[str, Sequence[InstanceInfo]]):
    """Node -> its instances as templates see them, made on look-up: ready ones first, then by number."""

    def __init__(self, reality: Reality) -> None:
        self._reality = reality

    def __getitem__(self, name: str) -> Sequence[InstanceInfo]:
        node = self._reality.nodes[name]
        return [_info(node, instance) for instance in _shown(self._reality, node)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._reality.nodes)

    def __len__(self) -> int:
        return len(self._reality.nodes)


class Renderer:
    """``run_command``: how the template function ``cmd`` runs a command on this host; None: it is switched off."""

    def __init__(self, resources: Resources, run_command: Callable[[Sequence[str]], str] | None = None) -> None:
        self._resources = resources
        self._run_command = run_command

    def server_spec(
        self, row: InfrastructureRow, reality: Reality, instance: Instance
    ) -> tuple[ServerSpec, tuple[Asked, ...]]:
        """What to create for an instance, and what that was told of other nodes.

        Raises DescriptionError for a template that cannot be rendered, CloudRejected for options that the driver does
        not take once they are rendered."""
        from pelagos.services.infrastructure.templates import render_implementation

        node = reality.nodes[instance.row.node]
        implementation = reality.implementation(node, instance.row.implementation)
        rendered = render_implementation(implementation, self._data(row, reality, node, instance))
        options = self._options(node, implementation, rendered.options)
        spec = ServerSpec(
            name=unique_server_name(row.name, row.id, node.name, instance.row.id),
            hostname=hostname_of(node.compiled, instance.row.ordinal),
            group=row.id,
            user_data=rendered.user_data,
            env=_environment(rendered.env, node, implementation),
            command=_words(rendered.command, node, implementation),
            metadata={"infrastructure": row.name, "node": node.name, "instance": instance.row.id, "aliases": node.name},
            options=options,
            account=self.account_of(instance.row.account),
        )
        return spec, (*rendered.asked, *self._told(row, reality, node, implementation))

    def resource_options(self, row: InfrastructureRow, reality: Reality, instance: Instance) -> dict[str, Any]:
        """What an instance's resource is now; what it was told when it was made is left alone.

        Raises as :meth:`server_spec`."""
        from pelagos.services.infrastructure.templates import render_implementation

        node = reality.nodes[instance.row.node]
        implementation = reality.implementation(node, instance.row.implementation)
        bare = msgspec.structs.replace(implementation, contextualisation=Contextualisation(), config_management={})
        rendered = render_implementation(bare, self._data(row, reality, node, instance))
        return self._options(node, implementation, rendered.options)

    def account_of(self, name: str) -> dict[str, Any]:
        """What an account is made of that no configuration names, to be journaled with its servers; else empty."""
        return self._resources.description(name)

    def _options(self, node: Node, implementation: Implementation, rendered: Mapping[str, Any]) -> dict[str, Any]:
        if implementation.built_on:
            return self._resources.options_of_stand_in(implementation.built_on, implementation.resource_type, rendered)
        options, problems = self._resources.validate_resource(implementation.resource_type, rendered)
        if problems:
            said = "; ".join(f"{key or 'resource'} {problem}" for key, problem in problems)
            raise CloudRejected(
                f"the resource of node {node.name!r} does not fit {implementation.resource_type!r}: {said}",
                advice=f"See the definition at {implementation.position}." if implementation.position else None,
            )
        return options

    def health_check(
        self, row: InfrastructureRow, reality: Reality, node: Node, instance: Instance, implementation: Implementation
    ) -> HealthCheck:
        """The instance's check with its address filled in. Raises DescriptionError."""
        check = implementation.health_check
        awaited = tuple(name for name in node.awaited if not told_at_once(name, implementation))
        if awaited:
            check = msgspec.structs.replace(check, attributes=awaited)
        if implementation.built_on:
            command = self._resources.check_of_stand_in(implementation.built_on)
            if command:
                return msgspec.structs.replace(check, ping=False, ports=(), urls=(), mysqldbs=(), command=command)
        if not (check.urls or check.mysqldbs or check.command):
            return check  # nothing in it can be a template
        from pelagos.services.infrastructure.templates import render_health_check

        data = self._data(row, reality, node, instance)
        return render_health_check(check, instance.row.address, data, implementation)

    def metric(
        self, row: InfrastructureRow, reality: Reality, node: Node, instance: Instance | None, source: MetricSource
    ) -> MetricSource:
        """A metric's source with its templates filled in for an instance; ``{{ip}}`` is its address.

        Raises DescriptionError; MetricUnavailable where there is no instance to fill them in for."""
        from pelagos.services.infrastructure.templates.facts import is_template

        texts = (source.url, source.query, *source.command)
        if not any(is_template(text) for text in texts):
            return source
        if instance is None:
            raise MetricUnavailable("there is no ready instance that could be asked")
        from pelagos.services.infrastructure.templates import render_health_check

        check = HealthCheck(ping=False, urls=(source.url, source.query), command=source.command)
        data = self._data(row, reality, node, instance)
        rendered = render_health_check(check, instance.row.address, data)
        url, query = rendered.urls
        return msgspec.structs.replace(source, url=url, query=query, command=rendered.command)

    def reporters(self, reality: Reality, node: Node) -> list[Instance]:
        """The instances that are asked for attributes before one of the node is made, also if they were asked before:
        what they report may be another since, above all after a restart."""
        found: dict[str, Instance] = {}
        for mapping in node.compiled.mappings:
            source = _source(reality, mapping)
            if source is None or told_at_once(mapping.source, reality.implementation_of(source)):
                continue
            found[source.row.id] = source
        return list(found.values())

    def _known(
        self, row: InfrastructureRow, reality: Reality, node: Node
    ) -> Iterator[tuple[AttributeMapping, Instance, Any]]:
        """The node's mappings whose attribute is known, whose it is, and what it is."""
        for mapping in node.compiled.mappings:
            source = _source(reality, mapping)
            if source is None:
                continue
            value = self._attribute(row, reality, source, mapping.source)
            if value is not MISSING:
                yield mapping, source, value

    def _mapped(self, row: InfrastructureRow, reality: Reality, node: Node) -> dict[str, Any]:
        """The attributes of dependees that are known, under their names here."""
        mapped: dict[str, Any] = {}
        for mapping, _, value in self._known(row, reality, node):
            place(mapped, mapping.target, value)
        return mapped

    def _told(
        self, row: InfrastructureRow, reality: Reality, node: Node, implementation: Implementation
    ) -> tuple[Asked, ...]:
        """The attributes of dependees that an instance is told."""
        if not node.compiled.mappings or not looks_at_attributes(implementation):
            return ()
        told = []
        for mapping, source, value in self._known(row, reality, node):
            name = mapping.source
            if look_up(source.attributes, name) is MISSING and (
                name in BUILT_IN or _constant(reality, source, name) is not MISSING
            ):
                told.append(Asked(ATTRIBUTE, mapping.dependee, value, name))
            else:
                told.append(Asked(ATTRIBUTE, mapping.dependee, TOLD, name, source.row.id))
        return tuple(told)

    def _attribute(self, row: InfrastructureRow, reality: Reality, instance: Instance, name: str) -> Any:
        node = reality.nodes[instance.row.node]
        reported = look_up(instance.attributes, name)
        if reported is not MISSING:
            return reported
        if name in BUILT_IN:
            return built_in(_info(node, instance))[name]
        implementation = reality.implementation_of(instance)
        if implementation is None or not told_at_once(name, implementation):
            return MISSING
        from pelagos.services.infrastructure.templates import render_attributes

        value = look_up(render_attributes(implementation, self._data(row, reality, node, instance)), name)
        return made_up(node.name, name) if value is MISSING and implementation.built_on else value

    def _data(self, row: InfrastructureRow, reality: Reality, node: Node, instance: Instance) -> TemplateData:
        from pelagos.services.infrastructure.templates import TemplateData

        return TemplateData.for_node(
            node.compiled,
            infra_id=row.id,
            infra_name=row.name,
            node_id=instance.row.id,
            user_id=row.compiled.user_id,
            attributes=self._mapped(row, reality, node),
            instances=_Instances(reality),
            cmd_allowed=self._run_command is not None,
            run_command=self._run_command,
        )


def _environment(env: Sequence[str], node: Node, implementation: Implementation) -> dict[str, str]:
    """``NAME=value`` each; the last of a name counts. Raises CloudRejected for what has no such form once rendered."""
    for item in env:
        if not item.partition("=")[0] or "=" not in item:
            raise _unfit(f"the environment of node {node.name!r} holds {item[:80]!r}, not NAME=value", implementation)
    return {name: value for name, _, value in (item.partition("=") for item in env)}


def _words(command: str | Sequence[str], node: Node, implementation: Implementation) -> tuple[str, ...]:
    """A command's words: a text is split like a shell does, and no shell runs it. Raises CloudRejected."""
    if not isinstance(command, str):
        return tuple(command)
    try:
        return tuple(shlex.split(command))
    except ValueError as error:
        text = f"the command of node {node.name!r} cannot be split into words: {error}"
        raise _unfit(text, implementation) from error


def _unfit(message: str, implementation: Implementation) -> CloudRejected:
    advice = f"See the definition at {implementation.position}." if implementation.position else None
    return CloudRejected(message, advice=advice)
