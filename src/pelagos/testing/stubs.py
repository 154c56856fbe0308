"""Replaced dependencies: a stand-in that is called like the service, and a spy on the service itself.

A stub is a real process under the service's name. Whoever calls it cannot tell: arguments and answers pass the same
codecs, so a stub that answers with another type than the service declares is found out at once, which a mock object in
the place of a client would never be. Nothing of the service's own code runs in it: neither ``__init__`` nor hooks.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import AsyncIterator, Callable
from typing import Any, Generic, TypeVar

import msgspec

from pelagos.model.errors import InvalidInput, NotFound, PelagosError, Unsupported
from pelagos.model.scope import Scope
from pelagos.process import Process, ServiceProcess, current_context, operation
from pelagos.process.conversations import subscription
from pelagos.process.conversations.handling import subscriptions_of
from pelagos.process.operation import Operation, operations_of

__all__ = ["Call", "Spy", "Stub", "spy", "stub"]

P = TypeVar("P", bound=Process)

_OF_EVERYBODY = frozenset(operations_of(Process))


class Call(msgspec.Struct, frozen=True):
    """One call that a stub or spy has taken."""

    op: str
    argument: Any
    """None for an operation without one."""
    scope: Scope
    """On whose behalf."""


class _Calls:
    """What was asked, in its order."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def arguments(self, op: str) -> list[Any]:
        """Of all calls of an operation."""
        return [call.argument for call in self.calls if call.op == op]

    def note(self, op: str, arguments: tuple[Any, ...]) -> None:
        self.calls.append(Call(op, arguments[0] if arguments else None, current_context().scope))


class Stub(ServiceProcess):
    """A stand-in; made by :func:`stub`, spawned like any process."""

    seen: _Calls
    answers: dict[str, Any]
    stands_for: type[Process]

    @property
    def calls(self) -> list[Call]:
        return self.seen.calls

    def arguments(self, op: str) -> list[Any]:
        """Of all calls of an operation, in their order."""
        return self.seen.arguments(op)

    def answer(self, **answers: Any) -> None:
        """Answer so from now on: as :func:`stub` says."""
        _check_names(self.stands_for, answers)
        self.answers.update(answers)


def stub(service: type[Process], **answers: Any) -> Stub:
    """A process under the name of ``service`` that answers its operations as told::

        stub(Catalogue, price=12, find=lambda query: [query.name], order=Refused("sold out"))

    An answer is a value, an error to raise, or a function of the operation's argument (none if it has none), which may
    be asynchronous, and asynchronous or an iterable's for a subscription. Operations without an answer raise
    :class:`Unsupported`. Raises :class:`InvalidInput` for names that are no operations, or a class without a name.
    """
    if not service.name:
        raise InvalidInput(
            f"{service.__qualname__} has no service name to stand under", advice="Stubs stand for services."
        )
    _check_names(service, answers)
    members: dict[str, Any] = {"name": service.name, "version": service.version, "stands_for": service}
    for name, found in operations_of(service).items():
        if name not in _OF_EVERYBODY:
            members[name] = _operation(service, found)
    for name, found in subscriptions_of(service).items():
        members[name] = _subscription(service, found)
    made: Stub = type(f"{service.__name__}Stub", (Stub,), members)()
    made.seen = _Calls()
    made.answers = dict(answers)
    return made


class Spy(Generic[P]):
    """A real process whose calls are noted; ``process`` is to be spawned."""

    def __init__(self, process: P, seen: _Calls) -> None:
        self.process = process
        self._seen = seen

    @property
    def calls(self) -> list[Call]:
        return self._seen.calls

    def arguments(self, op: str) -> list[Any]:
        """Of all calls of an operation, in their order."""
        return self._seen.arguments(op)


def spy(cls: type[P], *args: Any, **kwargs: Any) -> Spy[P]:
    """A process of ``cls``, made with the arguments, whose operations do what they do and are noted."""
    seen = _Calls()
    members = {name: _noting(cls, name, seen) for name in operations_of(cls) if name not in _OF_EVERYBODY}
    members["__doc__"] = cls.__doc__
    made = type(cls.__name__, (cls,), members)
    return Spy(typing.cast(P, made(*args, **kwargs)), seen)


def _check_names(service: type[Process], answers: dict[str, Any]) -> None:
    known = {*operations_of(service), *subscriptions_of(service)} - _OF_EVERYBODY
    for name in answers:
        if name not in known:
            raise InvalidInput(
                f"{service.__qualname__} has no operation {name!r}", advice=f"It has: {', '.join(sorted(known))}."
            )


async def _answer(self: Stub, service: type[Process], op: str, arguments: tuple[Any, ...]) -> Any:
    self.seen.note(op, arguments)
    if op not in self.answers:
        raise Unsupported(
            f"the stub of {service.name} has no answer to {op}", advice=f"Give it one: stub(..., {op}=...)."
        )
    answer = self.answers[op]
    if isinstance(answer, BaseException):
        raise _again(answer)
    if not callable(answer):
        return answer
    value = answer(*arguments)
    return await value if inspect.isawaitable(value) else value


def _again(error: BaseException) -> BaseException:
    """A fresh one for each call, so that tracebacks do not pile up in it."""
    if isinstance(error, PelagosError):
        return type(error)(error.message, advice=error.advice, details=error.details)
    return error


def _operation(service: type[Process], found: Operation) -> Any:
    hints = _hints(service, found)

    def checked(value: Any) -> Any:
        try:
            return found.decode_result(found.encode(value))
        except (msgspec.ValidationError, TypeError) as problem:
            raise TypeError(
                f"the stub's answer to {service.name}.{found.name}, {value!r}, is not what it declares: {problem}"
            ) from problem

    if found.takes_argument:

        async def method(self: Stub, argument: Any) -> Any:
            return checked(await _answer(self, service, found.name, (argument,)))

    else:

        async def method(self: Stub) -> Any:  # type: ignore[misc]  # one of two shapes
            return checked(await _answer(self, service, found.name, ()))

    method.__name__ = found.name
    method.__annotations__ = hints
    return operation(method)


def _subscription(service: type[Process], found: Operation) -> Any:
    async def each(self: Stub, arguments: tuple[Any, ...]) -> AsyncIterator[Any]:
        values = self.answers.get(found.name)
        if callable(values):
            self.seen.note(found.name, arguments)
            values = values(*arguments)
        else:
            values = await _answer(self, service, found.name, arguments)
        if hasattr(values, "__aiter__"):
            async for value in values:
                yield value
        else:
            for value in values:
                yield value

    if found.takes_argument:

        async def method(self: Stub, argument: Any) -> AsyncIterator[Any]:
            async for value in each(self, (argument,)):
                yield value

    else:

        async def method(self: Stub) -> AsyncIterator[Any]:  # type: ignore[misc]  # one of two shapes
            async for value in each(self, ()):
                yield value

    method.__name__ = found.name
    method.__annotations__ = _hints(service, found)
    return subscription(method)


def _hints(service: type[Process], found: Operation) -> dict[str, Any]:
    """The annotations of the service's own method, for one whose argument is called ``argument``."""
    function = _method(service, found.name)
    hints = typing.get_type_hints(function, include_extras=True)
    names = list(inspect.signature(function).parameters)[1:]
    made = {"return": hints.get("return", Any)}
    if names:
        made["argument"] = hints.get(names[0], Any)
    return made


def _noting(cls: type[Process], name: str, seen: _Calls) -> Any:
    inherited: Callable[..., Any] = _method(cls, name)
    found = operations_of(cls)[name]
    if found.takes_argument:

        async def method(self: Any, argument: Any) -> Any:
            seen.note(name, (argument,))
            return await inherited(self, argument)

    else:

        async def method(self: Any) -> Any:  # type: ignore[misc]  # one of two shapes
            seen.note(name, ())
            return await inherited(self)

    for mark, value in vars(inherited).items():
        setattr(method, mark, value)
    method.__name__ = name
    method.__annotations__ = _hints(cls, found)
    return operation(method)


def _method(cls: type, name: str) -> Callable[..., Any]:
    for owner in cls.__mro__:
        if name in vars(owner):
            found: Callable[..., Any] = vars(owner)[name]
            return found
    raise NotFound(f"{cls.__qualname__} has no {name}")  # it is one of its operations: this does not happen
