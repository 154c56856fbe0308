"""Typed operations: from one annotated method come the server's decoder, the client's proxy and both encoders.

    class Greeter(ServiceProcess):
        name = "greeter"

        @operation
        async def greet(self, request: Greet) -> Greeting: ...

An operation takes one argument (a Struct or a builtin type) or none, and both it and the result are annotated.
Annotations are resolved at first use, since a module may define its Structs after the service, and must be importable
at run time: not under ``TYPE_CHECKING``.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

__all__ = ["Operation", "operation", "operations_of"]

F = TypeVar("F", bound=Callable[..., Awaitable[Any]])

_MARK = "__pelagos_operation__"
_encode = msgspec.msgpack.Encoder().encode


def operation(function: F) -> F:
    """Mark an async method as an operation. Raises :class:`TypeError` for another shape."""
    if not inspect.iscoroutinefunction(function):
        raise TypeError(f"{function.__qualname__}: an operation is an async method")
    parameters = list(inspect.signature(function).parameters.values())
    plain = all(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    if not plain or not 1 <= len(parameters) <= 2:
        raise TypeError(f"{function.__qualname__}: an operation takes self and at most one argument")
    setattr(function, _MARK, True)
    return typing.cast(F, function)


class Operation:
    """One operation of a class, with its codecs."""

    __slots__ = ("decode_argument", "decode_result", "encode", "name", "qualified", "takes_argument")

    def __init__(self, name: str, qualified: str, argument: Any, result: Any, *, takes_argument: bool) -> None:
        self.name = name
        self.qualified = qualified
        self.takes_argument = takes_argument
        self.encode: Callable[[Any], bytes] = _encode
        self.decode_argument: Callable[[bytes], Any] = msgspec.msgpack.Decoder(argument).decode
        self.decode_result: Callable[[bytes], Any] = msgspec.msgpack.Decoder(result).decode

    @classmethod
    def of(cls, owner: type, name: str, function: Callable[..., Any]) -> Operation:
        """From a marked method. Raises :class:`TypeError` if an annotation is missing or cannot be resolved."""
        qualified = f"{owner.__name__}.{name}"
        parameters = list(inspect.signature(function).parameters.values())
        takes_argument = len(parameters) == 2
        try:
            hints = typing.get_type_hints(function, include_extras=True)
        except NameError as error:
            raise TypeError(
                f"{qualified}: {error}; an operation's annotations must be importable at run time, "
                "not under TYPE_CHECKING"
            ) from error
        missing = [p.name for p in parameters[1:] if p.name not in hints]
        if missing or "return" not in hints:
            raise TypeError(f"{qualified}: annotate {missing[0] if missing else 'the result'}")
        argument = hints[parameters[1].name] if takes_argument else None
        return cls(name, qualified, argument, hints["return"], takes_argument=takes_argument)

    @classmethod
    def for_events(cls, address: str, content: Any) -> Operation:
        """For handlers of published messages: they take the content and answer nothing."""
        return cls("event", f"a listener of {address}", content, None, takes_argument=True)

    @classmethod
    def for_handler(cls, address: str, content: Any, result: Any) -> Operation:
        """For a handler that takes whatever comes to an address."""
        return cls("message", f"the handler of {address}", content, result, takes_argument=True)


_operations: dict[type, dict[str, Operation]] = {}


def operations_of(cls: type) -> dict[str, Operation]:
    """All operations of a class and its bases, by name; resolved once a class.

    A subclass that overrides an operation need not mark it again; its own annotations count then.
    """
    known = _operations.get(cls)
    if known is None:
        known = {}
        for owner in reversed(cls.__mro__):
            for name, value in vars(owner).items():
                if getattr(value, _MARK, False) or (name in known and callable(value)):
                    known[name] = Operation.of(owner, name, value)
        _operations[cls] = known
    return known
