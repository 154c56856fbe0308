"""Which service an address belongs to, so that rules about a service hold however it is addressed.

The ancestor took the name from the message, and a message to an instance's own queue had an unknown service, which
meant "allowed" (reference section 8.3). Here the name follows from where the message was received. For the addresses of
services, fan-outs and topics that is the address; for the mailbox of a process, whoever hosts the process says it.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["ServiceNames"]


class ServiceNames:
    """Of one container. A name has its system's or container's prefix taken off; ``agent.c-1`` (one container's own
    agent) also goes by ``agent``. Fan-outs and topics go by ``fanout:name`` and ``topic:pattern``."""

    def __init__(self, *, system: str, container: str) -> None:
        self._prefixes = (f"{system}.", f"{container}.")
        self._bound: dict[str, tuple[str, ...]] = {}
        self._listeners: list[Callable[[str], None]] = []

    def bind(self, process_id: str, service: str) -> None:
        """The mailbox of a process belongs to a service; ``service`` is a label for a process without one. To be
        called before the mailbox receives."""
        address = f"process:{process_id}"
        self._bound[address] = self._names(service)
        self._changed(address)

    def unbind(self, process_id: str) -> None:
        address = f"process:{process_id}"
        self._bound.pop(address, None)
        self._changed(address)

    def of(self, address: str) -> tuple[str, ...] | None:
        """All names an address goes by; None for a mailbox that nobody bound."""
        kind, _, name = address.partition(":")
        if kind == "process":
            return self._bound.get(address)
        for prefix in self._prefixes:
            if name.startswith(prefix):
                name = name[len(prefix) :]
                break
        return self._names(name) if kind == "service" else (f"{kind}:{name}",)

    def listen(self, changed: Callable[[str], None]) -> None:
        """Have ``changed`` called with each address whose names change."""
        self._listeners.append(changed)

    def _changed(self, address: str) -> None:
        for listener in self._listeners:
            listener(address)

    @staticmethod
    def _names(name: str) -> tuple[str, ...]:
        first, dot, _ = name.partition(".")
        return (name, first) if dot else (name,)
