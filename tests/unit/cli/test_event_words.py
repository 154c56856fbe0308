"""Each kind of event that is written has words, so that ``events`` shows none raw."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

import pelagos
from pelagos.cli.wording import sentence
from pelagos.model.states import RunState
from pelagos.operations.kinds import KINDS
from pelagos.services.infrastructure.templates.info_broker import OFFERED
from support.fake_client import event

_WRITERS = ("operations", "services")
"""The rooms that append to the history of infrastructures."""
_KIND = re.compile(r"(run|node|server|instance|part|operation|infrastructure)\.[a-z_]+")


def written() -> Iterator[str]:
    """All texts in the writers' sources that look like kinds of events and are neither kinds of operations nor keys
    of ``ibget``. What is put together from a state is that of a run."""
    for room in _WRITERS:
        for path in (Path(pelagos.__file__).parent / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and _KIND.fullmatch(node.value):
                    if node.value not in KINDS and node.value not in OFFERED:
                        yield node.value
                elif isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
                    assert not _KIND.fullmatch(f"{node.values[0].value}x") or node.values[0].value == "run.", path
    yield from (f"run.{state.value}" for state in RunState if state.final)


def raw(kind: str) -> bool:
    """Whether an event is shown by its kind and data, since there are no words for it."""
    return kind in sentence(event(1, kind))


def test_each_kind_of_event_has_words() -> None:
    kinds = set(written())
    assert {"run.accepted", "server.deleting", "operation.submitted", "server.active", "run.superseded"} <= kinds
    assert len(kinds) > 50 and raw("moon.phase")
    assert sorted(kind for kind in kinds if raw(kind)) == []


def told(kind: str, data: dict[str, Any]) -> str:
    return sentence(msgspec.structs.replace(event(1, kind), data=data))


def test_calls_to_clouds_are_told_in_words() -> None:
    assert told("operation.submitted", {"kind": "server.reboot"}) == "rebooting the server is asked for"
    assert told("server.deleting", {}) == "the server is to be deleted"
    for name in KINDS:
        assert name not in told("operation.submitted", {"kind": name})
        assert name not in told("operation.failed", {"kind": name, "error": {"message": "no"}})
    unknown = {"account": "east", "name": "old", "kind": "volume", "provider_id": "v-1", "token": "t"}
    assert told("part.unknown", unknown).startswith("volume old on east has a token of ours")
