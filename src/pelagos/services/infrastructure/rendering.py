"""From an instance to what its cloud is asked for: templates rendered now, with the addresses there are now."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from pelagos.clouds.errors import CloudRejected
from pelagos.clouds.values import ServerSpec
from pelagos.model.names import unique_server_name
from pelagos.services.infrastructure.attributes import BUILT_IN, MISSING, look_up, made_up, place, told_at_once
from pelagos.services.infrastructure.reality import Instance, Node, Reality
from pelagos.services.infrastructure.records import InfrastructureRow
from pelagos.services.infrastructure.values import AttributeMapping, HealthCheck, Implementation

if TYPE_CHECKING:  # Jinja is imported at the first rendering, not before
    from pelagos.services.infrastructure.templates import InstanceInfo, TemplateData

__all__ = ["Renderer", "Resources", "hostname_of"]


class Resources(Protocol):
    """What of the pool checks the options of a resource."""

    def validate_resource(
        self, type: str, keys: Mapping[str, Any], /
    ) -> tuple[dict[str, Any], list[tuple[str | None, str]]]: ...
    def options_of_stand_in(self, account: str, type: str, keys: Mapping[str, Any], /) -> dict[str, Any]: ...
    def check_of_stand_in(self, account: str, /) -> tuple[str, ...]: ...
    def description(self, name: str, /) -> dict[str, Any]: ...


def hostname_of(node: Node, ordinal: int) -> str:
    """An RFC 1123 label: the node's name; numbered where the node may have several instances."""
    label = re.sub(r"[^a-z0-9-]+", "-", node.name.lower()).strip("-") or "instance"
    return label if node.compiled.max == 1 else f"{label[:50]}-{ordinal}"


def _shown(node: Node) -> list[Instance]:
    """Its instances as others see them: ready ones first, then by number."""
    shown = [i for i in node.instances.values() if i.address_list and not i.leaving]
    shown.sort(key=lambda i: (not i.ready, i.row.ordinal, i.row.id))
    return shown


def _built_in(node: Node, instance: Instance) -> dict[str, str]:
    """See :data:`BUILT_IN`."""
    host = hostname_of(node, instance.row.ordinal)
    address = instance.address_list[0] if instance.address_list else ""
    return {
        "ip": address,
        "ipaddress": address,
        "private_ip": instance.private_list[0] if instance.private_list else address,
        "hostname": host,
        "fqdn": host,
        "node_id": instance.row.id,
        "cloud": instance.row.account,
    }


def _source(reality: Reality, mapping: AttributeMapping) -> Instance | None:
    """The instance whose attributes a mapping means: the first of the node."""
    node = reality.nodes.get(mapping.dependee)
    return next(iter(_shown(node)), None) if node is not None else None


class _Instances(Mapping[str, Sequence["InstanceInfo"]]):
    """Node -> its instances as templates see them, made on look-up: ready ones first, then by number."""

    def __init__(self, reality: Reality) -> None:
        self._reality = reality

    def __getitem__(self, name: str) -> Sequence[InstanceInfo]:
        from pelagos.services.infrastructure.templates import InstanceInfo

        node = self._reality.nodes[name]
        shown = _shown(node)
        return [
            InstanceInfo(
                node_id=i.row.id,
                addresses=i.address_list,
                private_addresses=i.private_list,
                data={"name": name, "hostname": hostname_of(node, i.row.ordinal), "cloud": i.row.account},
            )
            for i in shown
        ]

    def __iter__(self) -> Iterator[str]:
        return iter(self._reality.nodes)

    def __len__(self) -> int:
        return len(self._reality.nodes)


class Renderer:
    """``run_command``: how the template function ``cmd`` runs a command on this host; None: it is switched off."""

    def __init__(self, resources: Resources, run_command: Callable[[Sequence[str]], str] | None = None) -> None:
        self._resources = resources
        self._run_command = run_command

    def server_spec(self, row: InfrastructureRow, reality: Reality, instance: Instance) -> ServerSpec:
        """What to create for an instance.

        Raises DescriptionError for a template that cannot be rendered, CloudRejected for options that the driver does
        not take once they are rendered."""
        from pelagos.services.infrastructure.templates import render_implementation

        node = reality.nodes[instance.row.node]
        implementation = reality.implementation(node, instance.row.implementation)
        rendered = render_implementation(implementation, self._data(row, reality, node, instance))
        options = self._options(node, implementation, rendered.options)
        return ServerSpec(
            name=unique_server_name(row.name, row.id, node.name, instance.row.id),
            hostname=hostname_of(node, instance.row.ordinal),
            group=row.id,
            user_data=rendered.user_data,
            metadata={"infrastructure": row.name, "node": node.name, "instance": instance.row.id, "aliases": node.name},
            options=options,
            account=self._resources.description(instance.row.account),
        )

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

    def unreported(self, reality: Reality, node: Node) -> list[Instance]:
        """The instances that must be asked for attributes before one of the node can be made."""
        found: dict[str, Instance] = {}
        for mapping in node.compiled.mappings:
            source = _source(reality, mapping)
            if source is None or told_at_once(mapping.source, reality.implementation_of(source)):
                continue
            if look_up(source.attributes, mapping.source) is MISSING:
                found[source.row.id] = source
        return list(found.values())

    def _mapped(self, row: InfrastructureRow, reality: Reality, node: Node) -> dict[str, Any]:
        """The attributes of dependees that are known, under their names here."""
        mapped: dict[str, Any] = {}
        for mapping in node.compiled.mappings:
            source = _source(reality, mapping)
            value = MISSING if source is None else self._attribute(row, reality, source, mapping.source)
            if value is not MISSING:
                place(mapped, mapping.target, value)
        return mapped

    def _attribute(self, row: InfrastructureRow, reality: Reality, instance: Instance, name: str) -> Any:
        node = reality.nodes[instance.row.node]
        reported = look_up(instance.attributes, name)
        if reported is not MISSING:
            return reported
        if name in BUILT_IN:
            return _built_in(node, instance)[name]
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
