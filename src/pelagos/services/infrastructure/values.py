"""The values of the infrastructure service: what a description compiles to.

A compiled infrastructure is plain data and complete: node definitions, imported texts and merged variables are in it,
so that what was accepted is what is built, whatever happens to the files later. Definitions are kept once a type, not
once a node: ten thousand nodes of one type share one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from pelagos.model.diagnostics import Position
from pelagos.services.infrastructure.policies import NodePolicy, ScaleDown
from pelagos.wire.infrastructures import PlanAction, PlannedAccount, PlannedNode

__all__ = [
    "RESOURCE_COMMON",
    "AccountOf",
    "Adopt",
    "AdoptedServer",
    "AttributeMapping",
    "AutoscalingRecord",
    "CompiledInfrastructure",
    "CompiledNode",
    "Contextualisation",
    "Desired",
    "ExactPlan",
    "HealingRecord",
    "HealthCheck",
    "Implementation",
    "MysqlCheck",
    "PlannedUpdate",
    "ResourceChecker",
    "ResourceProblem",
    "RunParameters",
    "StoredBundle",
    "StoredDefinition",
    "TemplatePlace",
    "Unusable",
    "UsableTypes",
]


RESOURCE_COMMON = ("type", "name", "endpoint")
"""Keys of every resource section: what says which account is meant. The others are its driver's."""


class ResourceProblem(NamedTuple):
    """What is wrong with a resource section: the key at fault, or None, and what is wrong, as a sentence."""

    key: str | None
    message: str
    advice: str = ""
    error: bool = True
    """False: it is odd, and can be lived with."""


ResourceChecker = Callable[[str, dict[str, Any]], Sequence[ResourceProblem]]
"""(type, the whole section) -> what is wrong with it. An error of the key ``type``: there is no such type."""


class Unusable(NamedTuple):
    """Why no server of a type can be made here, and what to do about it."""

    message: str
    advice: str
    for_now: bool = False
    """It is the account that cannot be opened, and that may be mended: the implementation stays one of its nodes'."""


UsableTypes = Callable[[str, Mapping[str, Any]], Unusable | None]
"""A type -> None if servers of it can be made here, else why not."""


AccountOf = Callable[[str, Mapping[str, Any]], str]
"""(type, the whole section) -> the cloud account that it means; empty if that cannot be told."""


class TemplatePlace(msgspec.Struct, frozen=True):
    """Where a template's text begins. ``exact``: its lines are the file's, so mistakes can be named to the line."""

    position: Position
    exact: bool = False


class MysqlCheck(msgspec.Struct, frozen=True, rename={"password": "pass"}):
    """A data base that must accept a connection; strings are templates."""

    name: str
    user: str
    password: str


class HealthCheck(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When an instance counts as healthy (reference 4.11, and what it lacked). Strings are templates.

    All probes must succeed; they run in parallel, each with ``probe_timeout`` seconds."""

    ping: bool = True
    ports: tuple[int, ...] = ()
    urls: tuple[str, ...] = ()
    mysqldbs: tuple[MysqlCheck, ...] = ()
    command: tuple[str, ...] = ()
    """Run inside the instance; exit code 0 is healthy."""
    timeout: float = 600.0
    """Unhealthy for longer than this since its first failed check: failed."""
    grace: float = 0.0
    """Seconds after its server became active in which failed checks do not count."""
    failures: int = 3
    """A ready instance is temp_failed after this many failed checks in a row."""
    probe_timeout: float = 5.0
    attributes: tuple[str, ...] = ()
    """Attributes that the instance must have reported, since dependents wait for them (``synch``)."""


class Contextualisation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an instance is told at its first start; texts are templates."""

    type: str = "basic"
    context_template: str = ""
    """The text, where the file gave text."""
    context_mapping: dict[str, Any] | None = None
    """The mapping, where the file gave one: its texts are rendered, then it is dumped after ``#cloud-config``."""
    attributes: dict[str, Any] = {}
    env: tuple[str, ...] = ()
    command: str | tuple[str, ...] = ""
    context_variables: Any = None
    position: Position | None = None
    """Of the template, for messages when it cannot be rendered."""


class Implementation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of a node definition's list."""

    resource_type: str
    account_label: str = ""
    """``resource.name``: the pool's account where one is called so."""
    endpoint: str = ""
    built_on: str = ""
    """The account that stands in for the described cloud; empty: the cloud that the resource section means."""
    resource: dict[str, Any] = {}
    """All keys of the resource section as written, templates not rendered."""
    contextualisation: Contextualisation = Contextualisation()
    config_management: dict[str, Any] = {}
    health_check: HealthCheck = HealthCheck()
    position: Position | None = None
    places: dict[str, TemplatePlace] = {}
    """Path (``contextualisation/context_template``, ``resource/image_id``, ...) -> where that template stands."""


class AttributeMapping(msgspec.Struct, frozen=True, kw_only=True):
    """An attribute mapping of a dependency edge: the dependee's ``source`` is known to the dependent as ``target``."""

    dependee: str
    source: str
    target: str
    synch: bool = False


class CompiledNode(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One node of the graph."""

    name: str
    type: str
    min: int = 1
    max: int = 1
    implementations: tuple[int, ...] = ()
    """Indices into ``definitions[type]``, those that match the node's filter, in order of preference."""
    filter: dict[str, Any] = {}
    variables: dict[str, Any] = {}
    """The infrastructure's variables with the node's own merged over them."""
    depends_on: tuple[str, ...] = ()
    mappings: tuple[AttributeMapping, ...] = ()
    fingerprint: str = ""
    """Changes when anything does that its instances were made from."""
    policy: NodePolicy = NodePolicy()
    definition: str = ""
    """Key in ``definitions``, where it is not the type: of a node that was left as it is while its type changed."""
    retired: bool = False
    """No longer described; kept with its dependencies until its last instance is destroyed, in order."""
    position: Position | None = None

    @property
    def defined_by(self) -> str:
        """Its key in ``definitions``."""
        return self.definition or self.type


class CompiledInfrastructure(msgspec.Struct, frozen=True, kw_only=True):
    """A checked description. ``nodes`` are in the description's order; the graph has no cycle."""

    name: str
    user_id: str = ""
    variables: dict[str, Any] = {}
    nodes: tuple[CompiledNode, ...] = ()
    definitions: dict[str, tuple[Implementation, ...]] = {}
    moved: dict[str, str] = {}
    """Former name of a node -> its name now: it is the same node, its instances stay."""

    def node(self, name: str) -> CompiledNode | None:
        """The node of that name. A scan: callers with many look-ups make their own table."""
        return next((node for node in self.nodes if node.name == name), None)


class StoredDefinition(msgspec.Struct, frozen=True):
    """A node definition kept in the project: the file that holds its ``node_def:`` key, and all texts it needs."""

    file: str
    sources: dict[str, str]


class StoredBundle(msgspec.Struct, frozen=True):
    """A description as texts, complete: what an ``up`` brought, and what it took from the project's definitions."""

    entries: tuple[str, ...]
    """Names of the texts that were given, in order; the others are included by them."""
    sources: dict[str, str]
    definitions: dict[str, StoredDefinition] = {}


class Desired(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an infrastructure should be: the description and each node's target number; and as texts, either the bundle
    or the revision that keeps it."""

    compiled: CompiledInfrastructure
    targets: dict[str, int]
    bundle: StoredBundle | None = None
    revision: str = ""


class ExactPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a run does that carries out a saved plan: this and nothing else."""

    generation: int
    """Of the infrastructure when the plan was made; 0: there was none."""
    actions: tuple[PlanAction, ...]
    accounts: tuple[PlannedAccount, ...] = ()
    nodes: tuple[PlannedNode, ...] = ()
    """Where its servers are made; nothing in runs that were accepted before that was kept."""

    def account_of(self, node: str, implementation: int) -> str | None:
        """The account on which servers of a node are made from an implementation; empty: on none. None: it is not
        said."""
        found = next((one for one in self.nodes if one.node == node), None)
        if found is None:
            return None
        return next((one.account for one in found.choices if one.implementation == implementation), None)

    @property
    def creates(self) -> dict[str, int]:
        """Node -> instances that are made."""
        made: dict[str, int] = {}
        for action in self.actions:
            if action.action in ("create", "replace"):
                made[action.node] = made.get(action.node, 0) + action.count
        return made

    @property
    def destroys(self) -> frozenset[str]:
        """Ids of the instances that go."""
        gone = (action.instances for action in self.actions if action.action in ("destroy", "replace"))
        return frozenset(instance for instances in gone for instance in instances)

    @property
    def updates(self) -> frozenset[str]:
        """Ids of the instances that are changed in place."""
        return frozenset(key for action in self.actions if action.keys for key in action.instances)


class AdoptedServer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an instance that was not made, but taken as it was, is: its server as the cloud showed it then."""

    provider_id: str
    token: str = ""
    """What it carried already, its record having been lost; empty: it was somebody else's."""
    name: str = ""
    flavor: str = ""
    image: str = ""


class HealingRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a node's healing remembers: when it failed lately, and since when its breaker is open, if it is."""

    times: tuple[float, ...] = ()
    open_since: float | None = None
    reason: str = ""
    """The failure that opened it."""


class AutoscalingRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a node's autoscaling remembers over a change of maintainer."""

    changed_at: float | None = None
    """When it changed the target last."""
    value: float | None = None
    """The metric an instance then."""


class Adopt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A server that becomes an instance of ``node``; ``instance_id`` and ``server_id`` are chosen beforehand."""

    node: str
    account: str
    instance_id: str
    server_id: str
    server: AdoptedServer
    protected: bool = True
    grows: bool = True
    """The node's target rises by one; otherwise it takes the place of one that is missing."""


class PlannedUpdate(msgspec.Struct, frozen=True):
    """``keys`` of an instance's server are set to what its node's implementation of that index says."""

    implementation: int
    keys: tuple[str, ...]


class RunParameters(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a run works, stored with it. ``desired`` is written when the run is accepted, ``previous`` when it starts:
    what a run that fails or is cancelled goes back to."""

    strategy: str = "parallel"
    """``parallel``: each node as soon as its own dependees are ready; ``sequential``: one instance at a time."""
    max_parallel: int = 0
    """Most instances being created at once; 0: the pool's own limits decide."""
    scale: dict[str, str] = {}
    """Node -> ``3``, ``+1`` or ``-1``, for a run of kind ``scale``."""
    remove: tuple[str, ...] = ()
    """Ids of instances that go, for a run of kind ``scale``; their nodes' targets sink with them."""
    choice: ScaleDown | None = None
    """Which go where there are too many; None: as each node's policy says."""
    reset: tuple[str, ...] = ()
    """Nodes whose breakers close and whose back-offs end, for a run of kind ``maintain``."""
    adopt: Adopt | None = None
    """For a run of kind ``adopt``."""
    desired: Desired | None = None
    previous: Desired | None = None
    creates_infrastructure: bool = False
    committed: bool = False
    """It has begun to remove what was there before, all else being in place: it is not rolled back any more."""
    rollback: int = 0
    """The revision that it goes back to, if that is what was asked for; 0: it wants something new."""
    maintained: bool | None = None
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    wanted_anew: tuple[str, ...] = ()
    """``NODE`` or ``NODE/`` and the beginning of an instance's id: made anew in any case."""
    held: tuple[str, ...] = ()
    """Nodes that it leaves as they are."""
    exact: ExactPlan | None = None
    on_failure: str = ""
    """In place of what the nodes' policies say."""
    moved: dict[str, str] = {}
    """Former name of a node -> its name now, for the moves that this run made."""
    anew: dict[str, str] | None = None
    """Instances that it makes anew, and why; None while that is not decided."""
    updates: dict[str, PlannedUpdate] = {}
    """Instances that it changes in place; decided with ``anew``."""
    going_back: bool = False
    """It failed after it had begun to remove what was there, and brings that back."""
    stopping: bool = False
    """It failed, and only what is half-made is taken back."""
    inherited: bool = False
    """It superseded another run, and goes back to what that one would have gone back to."""
