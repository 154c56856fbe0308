"""From configuration to a stack.

A stack is a list in the order of sending; each entry is a name, or a name with its options::

    interceptors:
      - trace
      - deadline: {skew: 30}
      - statistics
      - policy: {file: policy.yaml}
      - identity
      - signature: {window: 30}

Without a list it is :data:`DEFAULT_STACK`. Names other than the shipped ones are entry points of the group
``pelagos.interceptors``: a function that takes (options, :class:`Surroundings`) and returns an interceptor. In Python,
interceptors may be given as objects too. A file never names a class.

Some orders would make a stack that looks safe and is not, so they are mistakes: nothing stands behind ``signature``,
since it would change what was signed; ``identity`` stands behind ``policy``, which believes what it has checked, and
``policy`` needs it.

Where messages never leave the interpreter, nobody can write a message but the code that runs in it, and signing would
only cost time: ``signature`` is then left out of the default stack. Named in a list, it is used in any case.

Everything here reads files: call it before the loop is busy, or with ``run_blocking``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pelagos.exchange.interceptors.assertions import AssertionVerifier
from pelagos.exchange.interceptors.deadline import Deadline, DeadlineOptions
from pelagos.exchange.interceptors.identity import Identity, IdentityOptions
from pelagos.exchange.interceptors.keyring import KeyRing, ensure_keyring, load_keyring
from pelagos.exchange.interceptors.policy import OwnerLookup, PolicyInterceptor, PolicyOptions
from pelagos.exchange.interceptors.policy_file import load_policy
from pelagos.exchange.interceptors.port import Interceptor
from pelagos.exchange.interceptors.service_names import ServiceNames
from pelagos.exchange.interceptors.sessions import Sessions
from pelagos.exchange.interceptors.signature import Mode, Signature, SignatureOptions
from pelagos.exchange.interceptors.statistics import Statistics, StatisticsOptions
from pelagos.exchange.interceptors.tracing import Trace, TraceOptions
from pelagos.model.errors import InvalidInput, Unsupported
from pelagos.model.policy import Policy
from pelagos.model.world import World

__all__ = ["DEFAULT_STACK", "GROUP", "Stack", "StackEntry", "Surroundings", "build_stack"]

T = TypeVar("T")

DEFAULT_STACK = ("trace", "deadline", "statistics", "policy", "identity", "signature")
GROUP = "pelagos.interceptors"

StackEntry = str | Mapping[str, Any] | Interceptor


class Surroundings(msgspec.Struct, frozen=True):
    """What interceptors are made from."""

    world: World
    container: str
    system: str
    services: ServiceNames
    local: bool
    """Nothing leaves this interpreter."""
    keys: Path | None = None
    """The key ring's directory; made if it is not there. None: no key ring, so no signatures and no assertions."""
    folder: Path = Path()
    """Relative paths in options start here."""
    owners: OwnerLookup | None = None
    ring: KeyRing | None = None
    """A key ring in memory, instead of ``keys``."""


class Stack(msgspec.Struct, frozen=True):
    """What :func:`build_stack` made; give ``interceptors`` to an InterceptedTransport."""

    interceptors: tuple[Interceptor, ...]
    sessions: Sessions | None = None
    """With ``signature``: to be given to a ``pelagos.container.keys.KeyExchangeProcess``."""
    ring: KeyRing | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(interceptor.name for interceptor in self.interceptors)


def build_stack(entries: Sequence[StackEntry] | None, surroundings: Surroundings) -> Stack:
    """The stack of a list of entries, or the default one for None.

    Raises :class:`InvalidInput` for unknown names, wrong options, duplicates and unsafe orders, and what reading the
    named files raises."""
    if entries is None:
        entries = [name for name in DEFAULT_STACK if name != "signature" or not surroundings.local]
        if not surroundings.local and surroundings.keys is None and surroundings.ring is None:
            raise InvalidInput(
                "messages leave this interpreter, and there is no key ring to sign them with",
                advice="Give the container a directory for keys, or list its interceptors without 'signature'.",
            )
    builder = _Builder(surroundings)
    interceptors = tuple(builder.build(entry) for entry in entries)
    _check_order([interceptor.name for interceptor in interceptors])
    return Stack(interceptors, builder.sessions, builder.ring)


class _Builder:
    def __init__(self, surroundings: Surroundings) -> None:
        self._around = surroundings
        self.sessions: Sessions | None = None
        self.ring = surroundings.ring
        self._verifier: AssertionVerifier | None = None
        self._shipped: dict[str, Callable[[Any], Interceptor]] = {
            "trace": lambda options: Trace(
                surroundings.world, _options("trace", options, TraceOptions), local=surroundings.local
            ),
            "deadline": lambda options: Deadline(
                surroundings.world, _options("deadline", options, DeadlineOptions), local=surroundings.local
            ),
            "statistics": lambda options: Statistics(
                surroundings.world, _options("statistics", options, StatisticsOptions)
            ),
            "policy": self._policy,
            "identity": lambda options: Identity(
                surroundings.world, self._assertions(), _options("identity", options, IdentityOptions)
            ),
            "signature": self._signature,
        }

    def build(self, entry: StackEntry) -> Interceptor:
        if isinstance(entry, str):
            return self._named(entry, None)
        if isinstance(entry, Mapping):
            if len(entry) != 1:
                raise InvalidInput(
                    f"an interceptor is a name, or one name with its options; not {dict(entry)!r}",
                    advice="Write for example: - deadline: {skew: 30}",
                )
            [(name, options)] = entry.items()
            return self._named(str(name), options)
        return entry

    def _named(self, name: str, options: Any) -> Interceptor:
        make = self._shipped.get(name)
        if make is not None:
            return make(options)
        from importlib.metadata import entry_points  # costs milliseconds, and most stacks need none

        found = {entry.name: entry for entry in entry_points(group=GROUP)}
        plugin = found.get(name)
        if plugin is None:
            names = sorted({*self._shipped, *found})
            close = difflib.get_close_matches(name, names, 1)
            raise InvalidInput(
                f"there is no interceptor {name!r}",
                advice=f"{f'Did you mean {close[0]!r}? ' if close else ''}There are: {', '.join(names)}.",
            )
        try:
            factory = plugin.load()
        except (ImportError, AttributeError) as error:
            raise Unsupported(
                f"the interceptor {name!r} cannot be loaded from {plugin.value}: {error}",
                advice="Install the package that brings it again.",
            ) from error
        made: Interceptor = factory(options or {}, self._around)
        return made

    def _policy(self, options: Any) -> Interceptor:
        chosen = _options("policy", options, PolicyOptions)
        policy = load_policy(self._around.folder / chosen.file) if chosen.file else Policy()
        return PolicyInterceptor(
            policy,
            self._around.services,
            self._assertions(),
            owners=self._around.owners,
            system_roles=chosen.system_roles,
        )

    def _signature(self, options: Any) -> Interceptor:
        chosen = _options("signature", options, SignatureOptions)
        around = self._around
        ring = self._keys(chosen.keys)
        if ring is None:
            raise InvalidInput(
                "the interceptor 'signature' needs a key ring", advice="Give its directory: signature: {keys: DIR}."
            )
        if self.sessions is None:
            self.sessions = Sessions(
                ring,
                around.world,
                container=around.container,
                system=around.system,
                grace=chosen.max_wait + chosen.window,
                skew=chosen.window,
            )
            self.sessions.checked = chosen.mode is not Mode.OFF
        return Signature(around.world, self.sessions, chosen)

    def _keys(self, named: str = "") -> KeyRing | None:
        if named:
            self.ring = load_keyring(self._around.folder / named)
        elif self.ring is None and self._around.keys is not None:
            self.ring = ensure_keyring(self._around.keys)
        return self.ring

    def _assertions(self) -> AssertionVerifier:
        if self._verifier is None:
            # In one interpreter, making a key ring that nobody may ever need would only slow the start.
            keys = self._around.keys
            there = keys is not None and (not self._around.local or (keys / "identity.key").exists())
            self._verifier = AssertionVerifier(self._keys() if self.ring or there else None, self._around.world)
        return self._verifier


def _options(name: str, given: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert({} if given is None else given, kind)
    except msgspec.ValidationError as error:
        fields = ", ".join(field.name for field in msgspec.structs.fields(kind))  # type: ignore[arg-type]
        raise InvalidInput(
            f"the options of the interceptor {name!r} are wrong: {error}", advice=f"It takes: {fields}."
        ) from error


def _check_order(names: list[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidInput(f"the interceptor {twice!r} stands twice in the stack", advice="Remove one of them.")
    if "signature" in names and names[-1] != "signature":
        raise InvalidInput(
            f"the interceptor {names[-1]!r} stands behind 'signature' and would change what was signed",
            advice="Put 'signature' last.",
        )
    if "policy" in names:
        if "identity" not in names:
            raise InvalidInput(
                "the interceptor 'policy' believes who asks, and nobody checks that",
                advice="Put 'identity' behind 'policy'.",
            )
        if names.index("identity") < names.index("policy"):
            raise InvalidInput(
                "the interceptor 'identity' stands before 'policy'; what comes in would reach the policy unchecked",
                advice="Put 'identity' behind 'policy': the list is in the order of sending.",
            )
