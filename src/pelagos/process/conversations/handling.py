"""The participant's side of application code: an operation takes part in a conversation.

An ordinary operation will do. In the built-in protocols AGREE is said when it begins, its result or error when it ends,
and CANCEL cancels it. One that ``@decides`` says ``self.conversation.agree()`` itself, or raises :class:`Refused`. A
``@subscription`` yields what subscribers get. In other protocols the operation talks by ``self.conversation`` until
the end; what it returns is said as INFORM_RESULT if the table allows.
"""

from __future__ import annotations

import asyncio
import inspect
import typing
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from pelagos.exchange import Performative
from pelagos.model.errors import (
    Cancelled,
    InternalError,
    InvalidInput,
    PelagosError,
    Refused,
    Retry,
    Unavailable,
    Unsupported,
)
from pelagos.process.conversations.conversation import CURRENT, Conversation
from pelagos.process.conversations.message import ConversationError
from pelagos.process.failures import advice_on, single
from pelagos.process.log import get_logger
from pelagos.process.operation import Operation, operations_of

if TYPE_CHECKING:
    from pelagos.process.conversations.manager import Conversations

__all__ = ["decides", "start_handler", "subscription"]

log = get_logger(__name__)

F = TypeVar("F", bound=Callable[..., Awaitable[Any]])
S = TypeVar("S", bound=Callable[..., AsyncIterator[Any]])

_DECIDES = "__pelagos_decides__"
_SUBSCRIPTION = "__pelagos_subscription__"


def decides(function: F) -> F:
    """Mark an operation that says itself whether it agrees, by ``self.conversation.agree()`` or by raising Refused.

    One that returns without either has agreed."""
    setattr(function, _DECIDES, True)
    return function


def subscription(function: S) -> S:
    """Mark an asynchronous generator method, with at most one annotated argument, as what can be subscribed to.

    What it yields goes to the subscriber as fast as that takes it; its end is the subscription's. Raises
    :class:`TypeError` for another shape."""
    if not inspect.isasyncgenfunction(function):
        raise TypeError(f"{function.__qualname__}: a subscription is an async generator method")
    if not 1 <= len(inspect.signature(function).parameters) <= 2:
        raise TypeError(f"{function.__qualname__}: a subscription takes self and at most one argument")
    setattr(function, _SUBSCRIPTION, True)
    return typing.cast(S, function)


_subscriptions: dict[type, dict[str, Operation]] = {}


def subscriptions_of(cls: type) -> dict[str, Operation]:
    """All subscriptions of a class and its bases, by name; resolved once a class. Results are sent as they are."""
    known = _subscriptions.get(cls)
    if known is None:
        known = {}
        for owner in reversed(cls.__mro__):
            for name, value in vars(owner).items():
                if getattr(value, _SUBSCRIPTION, False):
                    known[name] = _operation(owner, name, value)
        _subscriptions[cls] = known
    return known


def _operation(owner: type, name: str, function: Callable[..., Any]) -> Operation:
    parameters = list(inspect.signature(function).parameters)
    hints = typing.get_type_hints(function, include_extras=True)
    if parameters[1:] and parameters[1] not in hints:
        raise TypeError(f"{owner.__name__}.{name}: annotate {parameters[1]}")
    argument = hints[parameters[1]] if parameters[1:] else None
    return Operation(name, f"{owner.__name__}.{name}", argument, Any, takes_argument=bool(parameters[1:]))


def start_handler(manager: Conversations, conversation: Conversation, content: bytes) -> None:
    """Run the operation that the opening message asks for, in a task of the process."""
    process = manager.process
    op = conversation.op
    found = operations_of(type(process)).get(op)
    stream = False
    if found is None:
        found = subscriptions_of(type(process)).get(op)
        stream = found is not None
    if found is None or (stream and conversation.protocol.lease is None):
        known = ", ".join(sorted({*operations_of(type(process)), *subscriptions_of(type(process))}))
        conversation.abandon(
            Unsupported(
                f"{process.label} has no operation {op!r} for {conversation.protocol.name}", advice=f"It has: {known}."
            )
        )
        return
    run = _serve(manager, conversation, found, getattr(process, op), content, stream)
    task = process.start_handler(run, op, conversation.context)
    conversation.handler = task
    manager.handlers[task] = conversation
    task.add_done_callback(manager.handler_done)


async def _serve(
    manager: Conversations,
    conversation: Conversation,
    operation: Operation,
    method: Callable[..., Any],
    content: bytes,
    stream: bool,
) -> None:
    """Run one handler and say what came of it. Raises nothing but what ends the process."""
    CURRENT.set(conversation)
    result: object = None
    error: PelagosError | None = None
    fatal: BaseException | None = None
    defect: Exception | None = None
    try:
        arguments = _arguments(operation, content)
        if conversation.protocol.auto_agree and not getattr(method, _DECIDES, False):
            conversation.agree()
        if stream:
            async for value in method(*arguments):
                await conversation.inform(value)
        else:
            result = msgspec.Raw(operation.encode(await method(*arguments)))
    except PelagosError as raised:
        error = raised
    except asyncio.CancelledError as cancelled:
        if conversation.cancelled:
            error = Cancelled(f"{conversation.op} was cancelled by {conversation.peer}")
        elif conversation.outcome is None:
            error = _ended(manager, conversation)
            fatal = cancelled
    except Exception as raised:  # noqa: BLE001 - the edge between a handler and its callers: logged and sent
        error = single(raised)
        if error is None:
            defect = raised
            error = _unexpected(manager, conversation, raised)
    except BaseException as raised:  # noqa: BLE001 - answered, and raised again below
        error = _unexpected(manager, conversation, raised)
        fatal = raised
    CURRENT.set(None)  # whatever keeps this context, a timer for one, shall not keep the conversation
    if conversation.outcome is None:
        try:
            _conclude(conversation, result, error)
        except TypeError as problem:  # a value that msgpack cannot carry
            conversation.abandon(_unexpected(manager, conversation, problem))
    if defect is not None and manager.process.fail_fast:
        manager.process._fail(defect)
    if fatal is not None:
        raise fatal


def _arguments(operation: Operation, content: bytes) -> tuple[Any, ...]:
    if not operation.takes_argument:
        return ()
    try:
        return (operation.decode_argument(content),)
    except (msgspec.DecodeError, RecursionError) as problem:
        raise InvalidInput(
            f"{operation.qualified}: {problem}", advice="Send what the operation's annotations say."
        ) from problem


def _conclude(conversation: Conversation, result: object, error: PelagosError | None) -> None:
    """Say the handler's result or error in the protocol's terms, or else outside of them."""
    if error is not None:
        if isinstance(error, Refused) and conversation.may(Performative.REFUSE):
            conversation.refuse(error)
        else:
            conversation.abandon(error)
        return
    if conversation.protocol.auto_agree and not conversation.may(Performative.INFORM_RESULT):
        conversation.agree()
    if conversation.may(Performative.INFORM_RESULT):
        conversation.end(result)
    else:
        conversation.abandon(
            ConversationError(f"{conversation.op} returned in state {conversation.state!r}, which is not the end")
        )


def _ended(manager: Conversations, conversation: Conversation) -> PelagosError:
    error = Unavailable(f"{manager.label} ended while it worked on {conversation.op}")
    error.retry = Retry.UNCERTAIN
    return error


def _unexpected(manager: Conversations, conversation: Conversation, raised: BaseException) -> PelagosError:
    trace = conversation.context.trace
    log.error(
        "conversation's operation failed unexpectedly",
        op=conversation.op,
        process=manager.process.id,
        conversation=conversation.id,
        trace=trace,
        exc_info=raised,
    )
    said = str(raised).partition("\n")[0]
    return InternalError(
        f"{manager.label}.{conversation.op} failed unexpectedly: {type(raised).__name__}: {said} "
        f"(the log has the traceback under trace {trace})",
        advice=advice_on(getattr(manager.process, conversation.op, None), trace),
        details={"trace": trace, "exception": type(raised).__name__},
    )
