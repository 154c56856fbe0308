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

    def __init__(self, name: str) -> None:
        self.name = name
        """Of the service."""
        self.calls: list[Call] = []

    def arguments(self, op: str) -> list[Any]:
        """Of all calls of an operation."""
        return [call.argument for call in self.calls if call.op == op]

    def note(self, op: str, arguments: tuple[Any, ...]) -> None:
        self.calls.append(Call(op, arguments[0] if arguments else None, current_context().scope))


class Stub(_Calls):
    """A stand-in, made by :func:`stub`. It is a factory of processes: give it to ``container.spawn``."""

    def __init__(self, service: type[Process], answers: dict[str, Any]) -> None:
        super().__init__(service.name)
        self.answers = dict(answers)
        self._service = service
        members: dict[str, Any] = {"name": service.name, "version": service.version}
        for name, found in operations_of(service).items():
            if name not in _OF_EVERYBODY:
                members[name] = _operation(self, service, found)
        for name, found in subscriptions_of(service).items():
            members[name] = _subscription(self, service, found)
        self._made = type(f"{service.__name__}Stub", (ServiceProcess,), members)

    def __call__(self) -> Process:
        made: Process = self._made()
        return made

    def answer(self, **answers: Any) -> None:
        """Answer so from now on: as :func:`stub` says."""
        _check_names(self._service, answers)
        self.answers.update(answers)


def stub(service: type[Process], **answers: Any) -> Stub:
    """A stand-in for ``service``, under its name, that answers its operations as told::

        catalogue = stub(Catalogue, price=12, find=lambda query: [query.name], order=Refused("sold out"))
        await container.spawn(catalogue)

    An answer is a value, an error to raise, or a function of the operation's argument (none if it has none), which may
    be asynchronous; for a subscription, what can be iterated over, or a function that returns it. Operations without an
    answer raise :class:`Unsupported`. Raises :class:`InvalidInput` for names that are no operations, or a class without
    a name.
    """
    if not service.name:
        raise InvalidInput(
            f"{service.__qualname__} has no service name to stand under", advice="Stubs stand for services."
        )
    _check_names(service, answers)
    return Stub(service, answers)


class Spy(_Calls, Generic[P]):
    """A service whose calls are noted, made by :func:`spy`. A factory of processes: give it to ``container.spawn``."""

    def __init__(self, cls: type[P], make: Callable[[type[P]], P]) -> None:
        super().__init__(cls.name or cls.__name__)
        self._make = make
        self._processes: list[P] = []
        members = {name: _noting(self, cls, name) for name in operations_of(cls) if name not in _OF_EVERYBODY}
        self._made = type(cls.__name__, (cls,), members)

    def __call__(self) -> P:
        self._processes.append(self._make(self._made))
        return self._processes[-1]

    @property
    def process(self) -> P:
        """The one that was made last. Raises :class:`NotFound` before the first."""
        if not self._processes:
            raise NotFound(f"no process of {self.name} was made yet", advice="Give the spy to container.spawn().")
        return self._processes[-1]


def spy(cls: type[P], *args: Any, **kwargs: Any) -> Spy[P]:
    """A spy on processes of ``cls``, made with the arguments: their operations do what they do, and are noted."""
    return Spy(cls, lambda made: made(*args, **kwargs))


def _check_names(service: type[Process], answers: dict[str, Any]) -> None:
    known = {*operations_of(service), *subscriptions_of(service)} - _OF_EVERYBODY
    for name in answers:
        if name not in known:
            raise InvalidInput(
                f"{service.__qualname__} has no operation {name!r}", advice=f"It has: {', '.join(sorted(known))}."
            )


async def _answer(stands: Stub, op: str, arguments: tuple[Any, ...]) -> Any:
    stands.note(op, arguments)
    if op not in stands.answers:
        raise Unsupported(
            f"the stub of {stands.name} has no answer to {op}", advice=f"Give it one: stub(..., {op}=...)."
        )
    answer = stands.answers[op]
    if isinstance(answer, BaseException):
        raise _again(answer)
    if not callable(answer):
        return answer
    value = answer(*arguments)
    return await value if inspect.isawaitable(value) else value


def _again(error: BaseException) -> BaseException:
    """A fresh one for each call, so that tracebacks do not pile up in it."""
    if isinstance(error, PelagosError):
        fresh = type(error)(error.message, advice=error.advice, details=error.details)
        fresh.retry = error.retry
        return fresh
    return error


def _operation(stands: Stub, service: type[Process], found: Operation) -> Any:
    hints = _hints(service, found)

    def checked(value: Any) -> Any:
        try:
            return found.decode_result(found.encode(value))
        except (msgspec.ValidationError, TypeError) as problem:
            raise TypeError(
                f"the stub's answer to {service.name}.{found.name}, {value!r}, is not what it declares: {problem}"
            ) from problem

    if found.takes_argument:

        async def method(self: Process, argument: Any) -> Any:
            return checked(await _answer(stands, found.name, (argument,)))

    else:

        async def method(self: Process) -> Any:  # type: ignore[misc]  # one of two shapes
            return checked(await _answer(stands, found.name, ()))

    method.__name__ = found.name
    method.__annotations__ = hints
    return operation(method)


def _subscription(stands: Stub, service: type[Process], found: Operation) -> Any:
    async def each(arguments: tuple[Any, ...]) -> AsyncIterator[Any]:
        values = await _answer(stands, found.name, arguments)
        if hasattr(values, "__aiter__"):
            async for value in values:
                yield value
        else:
            for value in values:
                yield value

    if found.takes_argument:

        async def method(self: Process, argument: Any) -> AsyncIterator[Any]:
            async for value in each((argument,)):
                yield value

    else:

        async def method(self: Process) -> AsyncIterator[Any]:  # type: ignore[misc]  # one of two shapes
            async for value in each(()):
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


def _noting(seen: _Calls, cls: type[Process], name: str) -> Any:
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
