"""Operations: the only caller of drivers. Intent, fence, quota, pacer, call, outcome, adoption."""

from __future__ import annotations

from pelagos.operations.accounts import AccountUse, account_description, use_of_accounts
from pelagos.operations.calls import Backoff
from pelagos.operations.engine import OperationsEngine, RefreshResult
from pelagos.operations.health import AccountHealth, AccountState
from pelagos.operations.journal import submit_adoptions, submit_creates, submit_deletes, submit_power, submit_updates
from pelagos.operations.kinds import KINDS, Effect, Kind, Step
from pelagos.operations.parts import parts_of_servers
from pelagos.operations.reading import operations_by_id, operations_by_request, operations_of_targets
from pelagos.operations.records import (
    Adoption,
    NewServer,
    OperationRecord,
    OrphanRemoval,
    PartRecord,
    ServerAction,
    ServerUpdate,
    UpdateParameters,
)
from pelagos.operations.surveying import Survey
from pelagos.operations.worker import AccountWorker, EngineConfig

__all__ = [
    "KINDS",
    "AccountHealth",
    "AccountState",
    "AccountUse",
    "AccountWorker",
    "Adoption",
    "Backoff",
    "Effect",
    "EngineConfig",
    "Kind",
    "NewServer",
    "OperationRecord",
    "OperationsEngine",
    "OrphanRemoval",
    "PartRecord",
    "RefreshResult",
    "ServerAction",
    "ServerUpdate",
    "Step",
    "Survey",
    "UpdateParameters",
    "account_description",
    "operations_by_id",
    "operations_by_request",
    "operations_of_targets",
    "parts_of_servers",
    "submit_adoptions",
    "submit_creates",
    "submit_deletes",
    "submit_power",
    "submit_updates",
    "use_of_accounts",
]
