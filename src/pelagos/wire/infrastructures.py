"""Bodies of the infrastructures API, shared by the edge, the service behind it, the clients and the command line.

Requests forbid unknown fields. Times are RFC 3339 text in UTC.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from pelagos.model.diagnostics import Diagnostic
from pelagos.model.errors import ErrorPayload
from pelagos.model.states import InfrastructureState, InstanceState, RunState, ServerState

__all__ = [
    "AdoptRequest",
    "CostDoubt",
    "CostEstimate",
    "DefinitionTexts",
    "DefinitionView",
    "DefinitionsRequest",
    "DescriptionChange",
    "DiffView",
    "EventView",
    "ExplainStep",
    "ExplainView",
    "GraphNode",
    "GraphRequest",
    "GraphView",
    "InfrastructureSummary",
    "InstanceStatus",
    "LogView",
    "NodeStatus",
    "PlanAction",
    "PlanRequest",
    "PlanView",
    "PlannedAccount",
    "PlannedChoice",
    "PlannedNode",
    "ProtectRequest",
    "Protected",
    "QuotaNeed",
    "RevisionFiles",
    "RevisionView",
    "RunRequest",
    "RunView",
    "RunningCosts",
    "SavedPlan",
    "ScaleChoice",
    "ScalingStatus",
    "ServerView",
    "StatusView",
    "Strategy",
    "SuspendRequest",
]

RunKind = Literal["up", "down", "scale", "maintain", "adopt"]
ScaleChoice = Literal["unhealthy", "youngest", "oldest"]
Strategy = Literal["parallel", "sequential"]
OnFailure = Literal["", "stop", "rollback", "keep"]


class PlanRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What would change. ``sources`` is the bundle {name: text}; ``entries`` the names the user gave, in order."""

    sources: dict[str, str] = {}
    entries: tuple[str, ...] = ()
    infrastructure: str = ""
    """Name or id; empty: the description's own name decides."""
    scale: dict[str, str] = {}
    """Node -> ``3``, ``+1`` or ``-1``, to plan a scaling."""
    remove: tuple[str, ...] = ()
    """As in :class:`RunRequest`."""
    choice: ScaleChoice | None = None
    down: bool = False
    """Plan its destruction."""
    strategy: Strategy = "parallel"
    revision: str = ""
    """Instead of ``sources``: what ``infrastructure`` was described by then, as :class:`RevisionView` numbers it."""
    map_clouds: str = ""
    """The account, or its driver, that stands in for all described clouds, such as ``simulated``."""
    only: tuple[str, ...] = ()
    """Change these nodes, and what they depend on; leave the others as they are."""
    without: tuple[str, ...] = ()
    """Leave these nodes as they are, and what cannot be changed without them."""
    replace: tuple[str, ...] = ()
    """Make these anew, whether or not they are as described: ``NODE``, or ``NODE/`` and the beginning of an id."""
    save: bool = False
    """Answer also with the plan as something to be carried out later, exactly."""


class AdoptRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A server that is there already becomes an instance of a node."""

    node: str
    cloud: str
    """The account of the pool."""
    server: str
    """The cloud's id of the server, or its name where one alone has it."""
    protected: bool = True
    """Nobody destroys it until that is lifted."""


class ProtectRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Protect a node's instances, or one of them by id or address; or lift that."""

    node: str
    instance: str = ""
    protected: bool = True


class SuspendRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """``reason`` is shown to people."""

    reason: str = ""


class Protected(msgspec.Struct, frozen=True, kw_only=True):
    """Ids of the instances that were meant, and of those that were changed."""

    infrastructure_id: str
    infrastructure: str
    node: str
    protected: bool
    instances: tuple[str, ...]
    changed: tuple[str, ...]


class RunRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Start a run. A repeat with the same ``request_id`` finds the first one's run."""

    kind: RunKind
    request_id: str = ""
    infrastructure: str = ""
    """Name or id. Empty for ``up``: the description's own name decides; ``new`` then makes it an error if it exists."""
    sources: dict[str, str] = {}
    entries: tuple[str, ...] = ()
    scale: dict[str, str] = {}
    remove: tuple[str, ...] = ()
    """For ``scale``: these instances go, by id or address, and their nodes' targets sink with them."""
    choice: ScaleChoice | None = None
    """For ``scale``: which go where there are too many; None: as each node's policy says."""
    reset: tuple[str, ...] = ()
    """For ``maintain``: nodes whose breakers close and whose back-offs end; ``*`` means all."""
    adopt: AdoptRequest | None = None
    """For ``adopt``."""
    strategy: Strategy = "parallel"
    max_parallel: int = 0
    keep: bool = False
    """When it fails or is cancelled, what it made stays."""
    new: bool = False
    """Always a new infrastructure, even if one of that name exists (POST /infrastructures/)."""
    id: str = ""
    """Only with ``new``: the infrastructure's id, where whoever asks must know it beforehand. Empty: one is made up."""
    maintained: bool | None = None
    """Whether the daemon keeps it alive afterwards; None: as it is, true for a new one."""
    revision: str = ""
    """For ``up``, instead of ``sources``: what ``infrastructure`` was described by then. A revision is its number, the
    first digits of its id, ``HEAD~2`` or ``@2026-01-31``."""
    map_clouds: str = ""
    """For ``up``: the account, or its driver, that stands in for all described clouds, such as ``simulated``."""
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    replace: tuple[str, ...] = ()
    """For ``up``: as of :class:`PlanRequest`."""
    on_failure: OnFailure = ""
    """What a failure leaves, in place of what the nodes' policies say."""
    plan: SavedPlan | None = None
    """For ``up``, instead of a description: carry out this and nothing else. Raises Stale if it no longer fits."""


class DescriptionChange(msgspec.Struct, frozen=True, kw_only=True):
    """``path`` is a place in the description, as ``nodes["web"].scaling.min``; null is a value that is not there."""

    change: Literal["added", "removed", "changed"]
    path: str
    old: Any = None
    new: Any = None


class PlanAction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``create``, ``keep`` and ``update`` count instances; ``destroy`` and ``replace`` also name them. A ``keep`` that
    names them is of instances that stay though they are not as described, not well, or too many; an ``update`` that
    names them is of instances that are changed in place or, without ``keys``, restarted."""

    action: Literal["create", "destroy", "replace", "keep", "update"]
    node: str
    count: int
    instances: tuple[str, ...] = ()
    reason: str = ""
    changes: tuple[DescriptionChange, ...] = ()
    """The keys that differ: those that force a ``replace``, or that an ``update`` changes in place."""
    keys: tuple[str, ...] = ()
    """Of an ``update``: the resource keys that the cloud sets on the servers, which go on running."""


class DefinitionTexts(msgspec.Struct, frozen=True, kw_only=True):
    """A node definition of the project's as it was: the file that defines it, and all texts it needs."""

    file: str
    sources: dict[str, str]


class PlannedAccount(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cloud account that a saved plan is about, as it was then: by what it is known, without credentials."""

    name: str
    driver: str
    endpoint: str = ""
    region: str = ""
    options: str = ""
    """A digest of all other options that are no secrets."""


class PlannedChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of a node's implementations, and where its servers are made. ``refused``: why they are made nowhere;
    ``price`` is an hour of a server, where a server of the node is made and its cloud tells prices."""

    implementation: int
    account: str
    refused: str = ""
    price: float | None = None
    currency: str = ""


class PlannedNode(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where servers of a node are made: ``choices`` stand in the order in which they are taken, as far as that is
    certain, else in the description's."""

    node: str
    strategy: str
    choices: tuple[PlannedChoice, ...]


class QuotaNeed(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan takes of a limit. ``needed`` is the most that it takes at any time beyond what is held now."""

    resource: str
    needed: int
    left: int
    limit: int


class SavedPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A plan to be carried out exactly, complete in itself. It holds the description's texts, secrets included.

    ``checksum`` is over all the rest. What it was made against: ``store`` is an identity of the project's records,
    ``generation`` and ``position`` say how the infrastructure was, ``accounts`` and ``nodes`` where servers are made
    and at what price, ``quota`` what was left; ``digest`` is of what the texts were compiled to."""

    version: int
    name: str
    infrastructure: str | None
    """Id; None: it makes the first one of that name."""
    generation: int
    position: int
    made_at: str
    digest: str
    entries: tuple[str, ...]
    sources: dict[str, str]
    definitions: dict[str, DefinitionTexts]
    strategy: Strategy
    map_clouds: str
    only: tuple[str, ...]
    without: tuple[str, ...]
    replace: tuple[str, ...]
    targets: dict[str, int]
    actions: tuple[PlanAction, ...]
    store: str = ""
    accounts: tuple[PlannedAccount, ...] = ()
    nodes: tuple[PlannedNode, ...] = ()
    quota: tuple[QuotaNeed, ...] = ()
    checksum: str = ""


class CostEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """What the infrastructure's servers cost an hour, as far as their clouds tell prices."""

    currency: str
    before: float
    """What exists costs, each server by what it was really made with."""
    after: float
    """What is to be expected as things are now; the average, where chance decides."""
    after_least: float | None = None
    """Where ``cost_doubts`` leave a range: its ends. None: ``after`` is certain."""
    after_most: float | None = None


class CostDoubt(msgspec.Struct, frozen=True, kw_only=True):
    """A node whose instances may be made at several prices: ``count`` of them are made."""

    node: str
    count: int
    why: str


class PlanView(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    id: str | None
    state: InfrastructureState | None
    actions: tuple[PlanAction, ...]
    critical_path: tuple[str, ...]
    """Nodes whose times add up to the estimate, first to last."""
    estimated_seconds: float | None
    """None while nothing was ever built from which to learn."""
    warnings: tuple[Diagnostic, ...] = ()
    quota: tuple[QuotaNeed, ...] = ()
    """Where the project has limits."""
    cost: tuple[CostEstimate, ...] = ()
    unpriced: tuple[str, ...] = ()
    """Nodes with servers of which no price is known."""
    left_out: tuple[str, ...] = ()
    """Nodes that stay as they are, or are not made, because of ``only`` and ``without``."""
    cost_doubts: tuple[CostDoubt, ...] = ()
    """Nodes because of which the cost is not certain."""
    closes: tuple[str, ...] = ()
    """Nodes whose breakers are open, and are closed: what is not well of them is healed, as ``actions`` say."""
    saved: SavedPlan | None = None

    @property
    def changes(self) -> bool:
        """Whether there is something to do; a new infrastructure is, also without nodes."""
        return self.id is None or any(action.action != "keep" for action in self.actions)

    @property
    def destroys(self) -> int:
        return sum(action.count for action in self.actions if action.action in ("destroy", "replace"))


class RunView(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    infrastructure_id: str
    infrastructure: str
    """Its name."""
    kind: RunKind
    state: RunState
    keep: bool
    cancel_requested: bool
    error: ErrorPayload | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    position: int
    """Events of this run have higher positions."""
    warnings: tuple[Diagnostic, ...] = ()


class RevisionView(msgspec.Struct, frozen=True, kw_only=True):
    """A version of an infrastructure's description. The first has number 1."""

    number: int
    id: str
    """SHA-256, hexadecimal; its first digits will do where a revision is asked for."""
    at: str
    user_id: str
    message: str
    """Why it became the wanted one, with the run's id."""


class RevisionFiles(msgspec.Struct, frozen=True, kw_only=True):
    """A revision's texts, without secrets."""

    revision: RevisionView
    entries: tuple[str, ...]
    files: dict[str, str]
    definitions: dict[str, dict[str, str]] = {}
    """Type -> texts, of node definitions that were the project's."""


class DiffView(msgspec.Struct, frozen=True, kw_only=True):
    """From one revision to another. Secrets are hidden, also where they differ."""

    old: RevisionView
    new: RevisionView
    changes: tuple[DescriptionChange, ...]
    files: dict[str, str]
    """Name -> unified diff, for those that differ."""


class GraphRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The graph of a description."""

    sources: dict[str, str]
    entries: tuple[str, ...]


class GraphNode(msgspec.Struct, frozen=True, kw_only=True):
    """``ready`` and ``instances`` count what there is; None: nothing is asked about, it is only described."""

    name: str
    type: str
    clouds: tuple[str, ...]
    """Of its implementations, the preferred first: the account, else the resource type."""
    min: int
    max: int
    target: int
    depends_on: tuple[str, ...]
    ready: int | None = None
    instances: int | None = None


class GraphView(msgspec.Struct, frozen=True, kw_only=True):
    """Who depends on whom. ``id`` is None for a description that was only looked at."""

    name: str
    id: str | None
    nodes: tuple[GraphNode, ...]


class ScalingStatus(msgspec.Struct, frozen=True, kw_only=True):
    min: int
    max: int
    target: int
    actual: int


class InstanceStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``protected`` is there only where it is true."""

    state: InstanceState
    address: str
    cloud: str
    """Its account."""
    server_id: str | None
    """Of the record; its cloud knows it as ``provider_id``."""
    provider_id: str = ""
    """Its server's id in its cloud, as ``import``, ``orphans`` and the provider's own tools have it; left out until
    the cloud has told it."""
    created_at: str
    reason: str
    outdated: str = ""
    """In what it is not as described; left out where it is."""
    protected: bool = False


class RunningCosts(msgspec.Struct, frozen=True, kw_only=True):
    """What an infrastructure's servers cost an hour now."""

    total: float | None
    """None if the price of any is not known, or if they have several currencies."""
    currency: str | None
    """Of all amounts; empty where the clouds do not say, None if there are several, or no price is known."""
    nodes: dict[str, dict[str, float | None]]
    """Node -> instance -> its price; None where none is known."""


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``breaker`` is there only where it is open: why nothing of the node is healed any more."""

    scaling: ScalingStatus
    instances: dict[str, InstanceStatus]
    breaker: str = ""


class StatusView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A contract for scripts: these keys, no others."""

    name: str
    id: str
    state: InfrastructureState
    observed_at: str
    nodes: dict[str, NodeStatus]
    reason: str = ""
    """Of one that is suspended: ``detached: …`` if only the daemon leaves it alone, ``suspended: …`` if all do,
    ``suspended and detached: …`` if it stays detached when that ends."""


class InfrastructureSummary(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    state: InfrastructureState
    reason: str
    nodes: int
    target: int
    ready: int
    maintained: bool
    created_at: str
    updated_at: str


class EventView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    position: int
    at: str
    kind: str
    project_id: str = ""
    user_id: str = ""
    infrastructure_id: str | None = None
    node: str | None = None
    instance_id: str | None = None
    server_id: str | None = None
    operation_id: str | None = None
    run_id: str | None = None
    data: dict[str, Any] = {}


class ExplainStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One link of the chain. ``depth`` is its indentation: a step waits for the deeper ones that follow it."""

    depth: int
    subject: str
    """``node web``, ``instance web/1f3c9a20``, ``server …``, ``lease …``."""
    state: str
    why: str = ""
    last_answer: str = ""
    """What the cloud or the health check said last."""
    next_try: str | None = None


class ExplainView(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    id: str
    state: InfrastructureState
    summary: str
    """Begins with the state: ``building; 1 of 3 nodes lack ready instances: web``."""
    steps: tuple[ExplainStep, ...]


class LogView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One instance's console. ``error`` says why there is none."""

    node: str
    instance_id: str
    text: str = ""
    error: str = ""


class ServerView(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    cloud: str
    provider_id: str | None
    state: ServerState
    reason: str
    addresses: tuple[str, ...]
    infrastructure_id: str | None
    instance_id: str | None
    created_at: str


class DefinitionsRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Import node definitions: all of the bundle's, or none if one has a mistake."""

    sources: dict[str, str]
    entries: tuple[str, ...]
    map_clouds: str = ""
    """They are checked for building on this account in place of the described clouds."""


class DefinitionView(msgspec.Struct, frozen=True, kw_only=True):
    type: str
    file: str
    implementations: int
    clouds: tuple[str, ...]
    """Resource types of the implementations, in order."""
    updated_at: str
