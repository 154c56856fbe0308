"""What a log line says of the request in whose context it is written."""

from __future__ import annotations

from typing import Any

from pelagos.model.scope import DEFAULT_SCOPE, Scope
from pelagos.process import Context, use_context
from pelagos.process.log import add_context


def fields(context: Context) -> dict[str, Any]:
    with use_context(context):
        return dict(add_context(None, "info", {"event": "e", "trace": "own"}))


def test_process_conversation_trace_and_a_person_are_told() -> None:
    context = Context(Scope("ocean", "ann"), process="c.1", trace="t", conversation="c.1#2")
    assert fields(context) == {"event": "e", "process": "c.1", "conversation": "c.1#2", "trace": "own", "user": "ann"}


def test_the_systems_own_user_is_not() -> None:
    assert fields(Context(DEFAULT_SCOPE)) == {"event": "e", "trace": "own"}
