"""Which protocols a process speaks, by name, each of them checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pelagos.model.errors import Conflict, NotFound
from pelagos.process.conversations.builtin import BUILT_IN
from pelagos.process.conversations.protocol import Protocol

__all__ = ["Protocols"]


class Protocols:
    """The built-in ones, and those given."""

    def __init__(self, more: Iterable[Protocol] = ()) -> None:
        self._by_name = dict(_CHECKED)
        for protocol in more:
            self.register(protocol)

    def register(self, protocol: Protocol) -> None:
        """Add a protocol. Raises :class:`InvalidInput` if its table is unsound (:meth:`Protocol.check`), and
        :class:`Conflict` if another one has its name."""
        known = self._by_name.get(protocol.name)
        if known is protocol:
            return
        if known is not None:
            raise Conflict(f"there is already a protocol {protocol.name!r}", advice="Choose another name.")
        protocol.check()
        self._by_name[protocol.name] = protocol

    def get(self, name: str) -> Protocol:
        """Raises :class:`NotFound`."""
        try:
            return self._by_name[name]
        except KeyError:
            raise NotFound(
                f"no protocol {name!r}", advice=f"Known are {', '.join(self._by_name)}; see Process.protocols."
            ) from None

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[Protocol]:
        return iter(self._by_name.values())


def _checked() -> dict[str, Protocol]:
    for protocol in BUILT_IN:
        protocol.check()
    return {protocol.name: protocol for protocol in BUILT_IN}


_CHECKED = _checked()
