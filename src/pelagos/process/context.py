"""On whose behalf, until when, and as part of what a piece of code runs.

The context is a :class:`contextvars.ContextVar`, set by whoever serves a request, so nested calls carry scope, deadline
and trace onwards without being told. The ancestor kept it in one attribute of the process, swapped around handlers, and
interleaved work picked up the wrong user (reference section 4.5).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import msgspec

from pelagos.model.scope import DEFAULT_SCOPE, Scope

__all__ = ["Context", "acting_as", "current_context", "use_context"]


class Context(msgspec.Struct, frozen=True, gc=False):
    """What travels with a request.

    ``deadline`` is in terms of the world's monotonic clock (on the wire it is what remains); None means no limit.
    ``conversation`` is the id of the request being served, ``trace`` that of the whole chain of requests; both may be
    empty at an edge and are then made by the first call. ``request_id`` is the same when the same request comes again:
    give one at an edge to make a command repeatable, and make one call with it; a handler always finds one. It is not
    passed on to nested calls, which get their own. ``depth`` counts the requests that wait for this code.
    """

    scope: Scope
    deadline: float | None = None
    conversation: str = ""
    trace: str = ""
    request_id: str | None = None
    depth: int = 0
    process: str = ""
    """The id of the process that serves the request."""
    assertion: bytes = b""
    """The signed statement of who asks, as it came; nested calls carry it on."""
    expiry: int = 0
    """When the user's authority ends, in seconds since the epoch; 0: never."""


_ROOT = Context(DEFAULT_SCOPE)

CONTEXT: ContextVar[Context] = ContextVar("pelagos_context", default=_ROOT)
"""For this room alone: others use the functions below."""


def current_context() -> Context:
    """The context this code runs in; outside of any request the root's: default scope, no deadline."""
    return CONTEXT.get()


@contextmanager
def use_context(context: Context) -> Iterator[Context]:
    """Run a block in another context; an edge does so once it knows who asks."""
    token = CONTEXT.set(context)
    try:
        yield context
    finally:
        CONTEXT.reset(token)


def acting_as(context: Context, assertion: bytes) -> Context:
    """The context in which its code acts for the user of a signed assertion, and until it expires.

    The explicit switch of user: ``with use_context(acting_as(current_context(), assertion)): ...``. Whether the
    assertion is genuine is found out by who receives a call. Raises :class:`InvalidInput` if it is none."""
    from pelagos.exchange.interceptors.assertions import read_assertion  # few programs ever switch users

    said = read_assertion(assertion)
    return msgspec.structs.replace(context, scope=said.scope, assertion=assertion, expiry=said.expires)
