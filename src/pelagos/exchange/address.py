"""Where messages go: kinds of receivers, scopes of names, and topics.

An address travels as text, ``kind:name``, with the name already made full by its scope, so that a transport routes on
the text as it stands and nothing is composed a message:

=========  =================================================  ===================================================
kind       who gets a message                                 default scope of its name
=========  =================================================  ===================================================
process    the one process of that id                         global (a process id is unique in the world)
service    one of the service's processes (they compete)      system
fanout     every subscriber of the name                       system
topic      every subscriber whose pattern matches the name    system
=========  =================================================  ===================================================

Scopes are those of the ancestor (reference section 3.1): ``local`` prefixes the container's id, ``system`` the system's
name, ``global`` nothing.
"""

from __future__ import annotations

import enum
import functools

import msgspec

from pelagos.model.errors import InvalidInput

__all__ = ["Address", "Kind", "NameScope", "Names", "kind_of", "topic_matches"]


class Kind(enum.StrEnum):
    PROCESS = "process"
    SERVICE = "service"
    FANOUT = "fanout"
    TOPIC = "topic"


class NameScope(enum.StrEnum):
    LOCAL = "local"
    """Unique in one container."""
    SYSTEM = "system"
    """Unique in one system: all containers of one deployment."""
    GLOBAL = "global"
    """Unchanged."""


_DEFAULT_SCOPE = {
    Kind.PROCESS: NameScope.GLOBAL,
    Kind.SERVICE: NameScope.SYSTEM,
    Kind.FANOUT: NameScope.SYSTEM,
    Kind.TOPIC: NameScope.SYSTEM,
}


class Address(msgspec.Struct, frozen=True):
    """A name before its scope is applied. ``scope`` None means the kind's default."""

    kind: Kind
    name: str
    scope: NameScope | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """``service:compute``, ``process:host.7``, ``topic@local:events.#``. Raises :class:`InvalidInput`."""
        head, colon, name = text.partition(":")
        kind, at, scope = head.partition("@")
        try:
            parsed = cls(Kind(kind), name, NameScope(scope) if at else None)
        except ValueError:
            parsed = None
        if not colon or not name or parsed is None:
            raise InvalidInput(
                f"{text!r} is not an address",
                advice="Write kind:name or kind@scope:name; kinds are process, service, fanout and topic, "
                "scopes local, system and global.",
            )
        return parsed

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.scope is None else f"{self.kind}@{self.scope}:{self.name}"


class Names(msgspec.Struct, frozen=True):
    """Applies scopes: knows the container's id and its system's name."""

    container: str
    system: str

    def full(self, address: Address | str) -> str:
        """The address as it travels, ``kind:full name``."""
        if isinstance(address, str):
            address = Address.parse(address)
        match address.scope or _DEFAULT_SCOPE[address.kind]:
            case NameScope.LOCAL:
                return f"{address.kind}:{self.container}.{address.name}"
            case NameScope.SYSTEM:
                return f"{address.kind}:{self.system}.{address.name}"
            case NameScope.GLOBAL:
                return f"{address.kind}:{address.name}"


@functools.lru_cache(maxsize=4096)
def kind_of(address: str) -> Kind:
    """The kind of a full address. Raises :class:`InvalidInput`."""
    return Address.parse(address).kind


@functools.lru_cache(maxsize=8192)
def topic_matches(pattern: str, name: str) -> bool:
    """AMQP's rule: words are parted by dots, ``*`` is exactly one word, ``#`` any number of words, also none."""
    return _words_match(tuple(pattern.split(".")), tuple(name.split(".")))


def _words_match(pattern: tuple[str, ...], name: tuple[str, ...]) -> bool:
    # Row by row, as for a glob: reachable[j] says that the pattern so far can eat name[:j]. Linear in both, whatever
    # the number of '#', where plain recursion is exponential.
    reachable = [True, *([False] * len(name))]
    for word in pattern:
        if word == "#":
            first = reachable.index(True) if True in reachable else len(reachable)
            reachable = [j >= first for j in range(len(reachable))]
        else:
            reachable = [
                False,
                *(reachable[j] and (word == "*" or word == name[j]) for j in range(len(name))),
            ]
    return reachable[-1]
