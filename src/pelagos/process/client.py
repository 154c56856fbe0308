"""Typed clients: the service's own class, with every operation a call.

``client(ComputeService, process)`` has the type of the service for a type checker and is a small proxy at run time,
whose class is made once a service class. The service's module is imported by its clients, which is cheap: it holds
annotations, and what the service needs is handed to its ``__init__``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from pelagos.exchange import Address, Kind
from pelagos.model.errors import InvalidInput
from pelagos.process.context import Context
from pelagos.process.operation import Operation, operations_of

if TYPE_CHECKING:
    from pelagos.process.process import Process

__all__ = ["HasCaller", "client"]

P = TypeVar("P", bound="Process")


class HasCaller(Protocol):
    """Who can call: a process, or the remote edge of a container in another program."""

    @property
    def caller(self) -> Any: ...


def client(
    cls: type[P],
    process: HasCaller,
    *,
    timeout: float | None = None,
    context: Context | None = None,
    address: Address | str | None = None,
) -> P:
    """A client of ``cls`` that calls on behalf of ``process``, to be used as an instance of ``cls``.

    ``timeout`` is in seconds (the container's default otherwise; never more than the caller's own remaining deadline);
    ``context`` replaces that of the code that calls; ``address`` names one process (``process:<id>``) instead of the
    service. Calls raise what :meth:`pelagos.process.calling.Caller.call` says. May be made before the process is
    hosted.
    """
    if address is None:
        if not cls.name:
            raise InvalidInput(f"{cls.__qualname__} has no service name", advice="Give the address of a process.")
        address = Address(Kind.SERVICE, cls.name)
    return cast(P, _proxy_class(cls)(process, address, timeout, context))


_Target = tuple[Callable[..., Any], str, float | None, Context | None]
"""The caller's ``call``, the full address, the time-out and the context."""


class _Proxy:
    __slots__ = ("_pelagos_address", "_pelagos_context", "_pelagos_process", "_pelagos_target", "_pelagos_timeout")

    # One tuple of all that a call needs: where a class has ``__getattr__``, looking up an attribute is slow.

    def __init__(
        self, process: HasCaller, address: Address | str, timeout: float | None, context: Context | None
    ) -> None:
        self._pelagos_process = process
        self._pelagos_address = address
        self._pelagos_timeout = timeout
        self._pelagos_context = context
        self._pelagos_target: _Target | None = None

    def _pelagos_bind(self) -> _Target:
        caller = self._pelagos_process.caller
        full = caller.names.full(self._pelagos_address)
        self._pelagos_target = (caller.call, full, self._pelagos_timeout, self._pelagos_context)
        return self._pelagos_target

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{name!r} is not an operation of {type(self).__name__}; only operations can be called")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._pelagos_address}>"


def _method(operation: Operation) -> Callable[..., Any]:
    name, encode, decode = operation.name, operation.encode, operation.decode_result

    # Plain functions that return the caller's coroutine: one coroutine less a call than an async method.
    if operation.takes_argument:

        def method(self: _Proxy, argument: Any) -> Any:
            call, address, timeout, context = self._pelagos_target or self._pelagos_bind()
            return call(address, name, encode(argument), decode, timeout, context)

        return method

    def method_without(self: _Proxy) -> Any:
        call, address, timeout, context = self._pelagos_target or self._pelagos_bind()
        return call(address, name, b"\xc0", decode, timeout, context)

    return method_without


_proxies: dict[type, type[_Proxy]] = {}


def _proxy_class(cls: type) -> type[_Proxy]:
    known = _proxies.get(cls)
    if known is None:
        members: dict[str, Any] = {"__slots__": ()}
        for operation in operations_of(cls).values():
            members[operation.name] = _method(operation)
        known = _proxies[cls] = type(f"{cls.__name__}Client", (_Proxy,), members)
    return known
