"""A plan that is saved, to be carried out later exactly as it stands. Pure.

It is complete in itself: the texts, those of the project's node definitions included, what they were compiled to (as a
digest), what it was made against, and what is to be done to which instance. A checksum tells a file that was cut or
edited from one that was not. It is no seal: whoever can write the file can write a description as well.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from pelagos.model.errors import InvalidInput
from pelagos.services.infrastructure.values import (
    CompiledInfrastructure,
    ExactPlan,
    StoredBundle,
    StoredDefinition,
)
from pelagos.wire.infrastructures import (
    DefinitionTexts,
    PlannedAccount,
    PlannedNode,
    PlanRequest,
    PlanView,
    SavedPlan,
)
from pelagos.wire.plans import PLAN_VERSION, checksum_of
from pelagos.wire.times import rfc3339

__all__ = ["bundle_of", "check_plan", "digest_of", "exact_plan", "placed", "request_of", "saved_plan"]


def saved_plan(
    view: PlanView,
    *,
    compiled: CompiledInfrastructure,
    bundle: StoredBundle,
    request: PlanRequest,
    targets: dict[str, int],
    generation: int,
    position: int,
    now: float,
) -> SavedPlan:
    """The plan as something to be kept. ``compiled`` is what ``bundle`` says, before it is narrowed."""
    plan = SavedPlan(
        version=PLAN_VERSION,
        name=view.name,
        infrastructure=view.id,
        generation=generation,
        position=position,
        made_at=rfc3339(now),
        digest=digest_of(compiled),
        entries=bundle.entries,
        sources=bundle.sources,
        definitions={
            type_: DefinitionTexts(file=found.file, sources=found.sources)
            for type_, found in bundle.definitions.items()
        },
        strategy=request.strategy,
        map_clouds=request.map_clouds,
        only=request.only,
        without=request.without,
        replace=request.replace,
        targets=targets,
        actions=view.actions,
        quota=view.quota,
    )
    return msgspec.structs.replace(plan, checksum=checksum_of(plan))


def placed(
    plan: SavedPlan, store: str, nodes: tuple[PlannedNode, ...], accounts: tuple[PlannedAccount, ...]
) -> SavedPlan:
    """The plan with where it was made, and where it makes its servers."""
    plan = msgspec.structs.replace(plan, store=store, nodes=nodes, accounts=accounts)
    return msgspec.structs.replace(plan, checksum=checksum_of(plan))


def check_plan(plan: SavedPlan) -> None:
    """Raises InvalidInput for a plan of another version, and for one that is not as it was written."""
    if plan.version != PLAN_VERSION:
        raise InvalidInput(
            f"the plan is of version {plan.version}, this program carries out those of version {PLAN_VERSION}",
            advice="Make it anew with `pelagos plan FILE... --out PLAN`.",
        )
    if plan.checksum != checksum_of(plan):
        raise InvalidInput(
            "the plan is not as it was written: its checksum does not fit",
            advice="Make it anew with `pelagos plan FILE... --out PLAN`; to change it, change the description.",
        )


def bundle_of(plan: SavedPlan) -> StoredBundle:
    """Its texts."""
    definitions = {type_: StoredDefinition(found.file, found.sources) for type_, found in plan.definitions.items()}
    return StoredBundle(plan.entries, plan.sources, definitions)


def exact_plan(plan: SavedPlan) -> ExactPlan:
    """What a run is held to that carries it out."""
    return ExactPlan(generation=plan.generation, actions=plan.actions, accounts=plan.accounts, nodes=plan.nodes)


def request_of(plan: SavedPlan) -> PlanRequest:
    """The request whose plan it is, for asking once more."""
    return PlanRequest(
        sources=plan.sources,
        entries=plan.entries,
        infrastructure=plan.infrastructure or "",
        strategy=plan.strategy,
        map_clouds=plan.map_clouds,
        only=plan.only,
        without=plan.without,
        replace=plan.replace,
    )


def digest_of(compiled: CompiledInfrastructure) -> str:
    """Of a compiled description, with all its fields: msgspec leaves out those that hold their defaults, and whether
    one does depends on which object holds it."""
    return hashlib.sha256(msgspec.msgpack.encode(_whole(compiled), order="deterministic")).hexdigest()


def _whole(value: Any) -> Any:
    match value:
        case msgspec.Struct():
            return [_whole(item) for item in msgspec.structs.astuple(value)]
        case list() | tuple():
            return [_whole(item) for item in value]
        case dict():
            return {key: _whole(item) for key, item in value.items()}
        case _:
            return value
