"""What is protected by itself, held against the operations that there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from pelagos.container.agent import AgentProcess
from pelagos.container.observer import ObserverProcess
from pelagos.model import Scope
from pelagos.model.policy import ADMIN, BUILT_IN_PROTECTED, OPERATOR, Policy, Rule, Subject
from pelagos.model.scope import DEFAULT_SCOPE
from pelagos.process import ServiceProcess
from pelagos.process.operation import operations_of
from pelagos.repository.sync.service import RepositoryService
from pelagos.services.logger.service import LoggerService
from pelagos.services.registry.service import RegistryService

OPEN: dict[type[ServiceProcess], set[str]] = {
    AgentProcess: {
        "info",
        "nodes",
        "identify",
        "processes",
        "all_processes",
        "all_services",
        "local_services",
        "services",
        "exchange_names",
        "apps",
        "log_levels",
    },
    ObserverProcess: {"unwatch"},
    RepositoryService: {"refs", "negotiate", "objects", "get_object", "get_history", "lacking"},
    LoggerService: {"log", "levels"},
}
"""What shows no messages and changes nothing of others'."""

ALICE = Subject(Scope("shop", "alice"))
OPS = Subject(Scope("shop", "olga"), frozenset({OPERATOR}))
SYSTEM = Subject(DEFAULT_SCOPE, frozenset({ADMIN}))


def own(kind: type[ServiceProcess]) -> list[str]:
    return sorted(set(operations_of(kind)) - {"ping", "describe"})


@pytest.mark.parametrize(
    ("kind", "op"), [pytest.param(kind, op, id=f"{kind.name}.{op}") for kind in OPEN for op in own(kind)]
)
def test_each_operation_is_open_or_protected(kind: type[ServiceProcess], op: str) -> None:
    for service in (kind.name, (f"{kind.name}.c-1", kind.name)):
        assert Policy().decide(ALICE, service, op).allowed == (op in OPEN[kind])
        assert Policy().decide(OPS, service, op).allowed == (op in OPEN[kind])
        assert Policy().decide(SYSTEM, service, op).allowed
        assert Policy((Rule(OPERATOR, f"{kind.name}.*"),)).decide(OPS, service, op).allowed


def test_what_is_open_is_there() -> None:
    for kind, operations in OPEN.items():
        assert operations <= set(own(kind))


def test_no_pattern_names_what_is_not_there() -> None:
    every: list[type[ServiceProcess]] = [*OPEN, RegistryService]
    kinds = {kind.name: kind for kind in every}
    for pattern in BUILT_IN_PROTECTED:
        service, _, op = pattern.partition(".")
        assert service == "*" or op in own(kinds[service]), pattern


def test_the_reference_lists_them() -> None:
    text = (Path(__file__).parents[3] / "docs" / "reference" / "policy.md").read_text(encoding="utf-8")
    assert [pattern for pattern in BUILT_IN_PROTECTED if f"`{pattern}`" not in text] == []
