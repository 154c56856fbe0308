"""Plain values for all rooms: names, scopes, states, errors, diagnostics, the world."""

from pelagos.model import errors
from pelagos.model.diagnostics import Diagnostic, Position, Severity
from pelagos.model.errors import ErrorPayload, PelagosError, Retry
from pelagos.model.names import name_problem, unique_server_name
from pelagos.model.scope import DEFAULT_SCOPE, Fence, Scope
from pelagos.model.states import InfrastructureState, InstanceState, OperationState, RunState, ServerState
from pelagos.model.world import SystemWorld, World

__all__ = [
    "DEFAULT_SCOPE",
    "Diagnostic",
    "ErrorPayload",
    "Fence",
    "InfrastructureState",
    "InstanceState",
    "OperationState",
    "PelagosError",
    "Position",
    "Retry",
    "RunState",
    "Scope",
    "ServerState",
    "Severity",
    "SystemWorld",
    "World",
    "errors",
    "name_problem",
    "unique_server_name",
]
