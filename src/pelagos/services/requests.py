"""Commands that may come again: the effect of a request, recorded under the request's id in its own transaction."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeVar

from pelagos.process import current_context
from pelagos.store import Transaction, once

__all__ = ["repeatable"]

T = TypeVar("T")


def repeatable(op: str, now: float, effect: Transaction[T], type_: type[T] | Any) -> Transaction[T]:
    """The transaction to run for the request being served: a repeat of it gets the first one's result.

    ``op``: the service's name and the operation's; ``type_``: of the result, which msgpack must be able to say."""
    context = current_context()
    if context.request_id is None:
        return effect
    return partial(once, scope=context.scope, request_id=context.request_id, op=op, now=now, effect=effect, type_=type_)
