"""The policy's interceptor: asks :mod:`pelagos.model.policy` about each message that is no reply.

About each: requests, one-way messages, events and cancellations alike, by where they were received and not by what
they say of their receiver. So the ancestor's three ways around it (reference section 8.3) do not exist. It stands
before ``identity`` in the list, which inbound is after it: what it is told of who asks has been checked.

What everybody may do is remembered by address, so that it costs two look-ups a message. Whether somebody owns the
resources which the argument names is asked of an :class:`OwnerLookup`; while that thinks, the message waits.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Protocol

import msgspec

from pelagos.exchange.envelope import Envelope
from pelagos.exchange.interceptors.assertions import AssertionVerifier
from pelagos.exchange.interceptors.port import Undecided, unchanged_outbound
from pelagos.exchange.interceptors.service_names import ServiceNames
from pelagos.exchange.transport import Receiver
from pelagos.model.errors import Forbidden, InvalidInput, PelagosError, Unauthenticated
from pelagos.model.policy import ADMIN, ANONYMOUS_SCOPE, Decision, Outcome, Policy, Subject, explain
from pelagos.model.scope import DEFAULT_SCOPE, Scope

__all__ = ["OwnerLookup", "PolicyInterceptor", "PolicyOptions", "ids_in"]

_MOST_IDS = 1000
_MOST_OPEN = 1024
_MOST_ASKED = 1024
_ANYBODY = Subject(ANONYMOUS_SCOPE)


_Question = tuple[Scope, str, tuple[str, ...]]
"""Does this scope's user own, of this kind, all these?"""


class PolicyOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    file: str = ""
    """The policy file; empty: only what is protected by itself is restricted."""
    system_roles: tuple[str, ...] = (ADMIN,)
    """Roles of a message in the default scope without an assertion: the system's own, and whoever may open a
    container's control socket."""


class OwnerLookup(Protocol):
    def owns(self, scope: Scope, kind: str, ids: tuple[str, ...]) -> bool | asyncio.Future[bool]:
        """Whether the scope's user owns all of these; at once, or when the future is done, whose work belongs to the
        one who looks up."""
        ...


class PolicyInterceptor:
    """See the module's head."""

    name = "policy"
    mandatory = True
    replies = False
    outbound = unchanged_outbound

    def __init__(
        self,
        policy: Policy,
        services: ServiceNames,
        verifier: AssertionVerifier,
        *,
        owners: OwnerLookup | None = None,
        system_roles: tuple[str, ...] = (ADMIN,),
    ) -> None:
        self.policy = policy
        self._services = services
        self._verifier = verifier
        self._owners = owners
        self._system = Subject(DEFAULT_SCOPE, frozenset(system_roles))
        self._open: dict[str, set[str]] = {}
        """Operations that anybody may, by address."""
        self._asked: dict[_Question, asyncio.Future[bool]] = {}
        self._allowed = 0
        self._denied = 0
        services.listen(self._forget)

    def inbound(self, envelope: Envelope, receiver: Receiver, redelivered: bool) -> Envelope:
        known = self._open.get(receiver.address)
        if known is not None and envelope.op in known:
            return envelope
        self._decide(envelope, receiver.address)
        return envelope

    def replace(self, policy: Policy) -> None:
        """Use another policy from the next message on."""
        self.policy = policy
        self._open.clear()

    def subject(self, envelope: Envelope) -> Subject:
        """Who asks, after the identity's interceptor has looked."""
        if envelope.assertion:
            assertion = self._verifier.verify(envelope.assertion)
            return Subject(assertion.scope, frozenset(assertion.roles))
        scope = envelope.identity
        if scope is None or scope == DEFAULT_SCOPE:
            return self._system
        return Subject(scope)

    def snapshot(self) -> dict[str, Any]:
        return {
            "rules": len(self.policy.rules),
            "asking": len(self._asked),
            "allowed": self._allowed,
            "denied": self._denied,
        }

    def _forget(self, address: str) -> None:
        self._open.pop(address, None)

    def _decide(self, envelope: Envelope, address: str) -> None:
        names = self._services.of(address)
        op = envelope.op
        if self.policy.decide(_ANYBODY, names, op).allowed:
            operations = self._open.setdefault(address, set())
            if len(operations) < _MOST_OPEN:  # names come from outside
                operations.add(op)
            return
        subject = self.subject(envelope)
        decision = self.policy.decide(subject, names, op)
        service = names[0] if names else address
        match decision.outcome:
            case Outcome.ALLOW:
                self._allowed += 1
            case Outcome.DENY:
                raise self._denial(decision, subject, service, op)
            case Outcome.ASK:
                if not self._owns_all(decision, subject, envelope):
                    raise self._denial(decision, subject, service, op)
                self._allowed += 1

    def _owns_all(self, decision: Decision, subject: Subject, envelope: Envelope) -> bool:
        if self._owners is None:
            return False
        for question in decision.questions:
            key = (subject.scope, question.kind, ids_in(envelope.content, question.field))
            asked = self._asked.get(key)
            if asked is None:
                answer = self._owners.owns(*key)
                if isinstance(answer, bool):
                    if not answer:
                        return False
                    continue
                asked = answer
                if len(self._asked) >= _MOST_ASKED:
                    del self._asked[next(iter(self._asked))]
                self._asked[key] = asked
                asked.add_done_callback(partial(self._forget_answer, key))
            if not asked.done():
                raise Undecided(
                    asked, Unauthenticated("nobody could say in time who owns these", advice="Try again later.")
                )
            self._asked.pop(key, None)
            if not asked.result():
                return False
        return True

    def _forget_answer(self, key: _Question, answer: asyncio.Future[bool]) -> None:
        """Those who wait for it hear it in this turn of the loop. Nobody later: it may not be true any more."""
        if not answer.cancelled():
            answer.exception()  # looked at: its failure may concern nobody any more
        asyncio.get_running_loop().call_soon(self._drop_answer, key, answer)

    def _drop_answer(self, key: _Question, answer: asyncio.Future[bool]) -> None:
        if self._asked.get(key) is answer:
            del self._asked[key]

    def _denial(self, decision: Decision, subject: Subject, service: str, op: str) -> PelagosError:
        self._denied += 1
        kind = Unauthenticated if subject.is_anonymous else Forbidden
        needs = " or ".join(decision.needs)
        advice = f"It takes the role {needs}." if needs else "Ask its owner, or an administrator."
        rule = str(decision.rule) if decision.rule else decision.protected_by
        return kind(explain(decision, subject, service, op), advice=advice, details={"rule": rule})


def ids_in(content: bytes, field: str) -> tuple[str, ...]:
    """The ids in a field of an operation's argument (a dotted path; ``.`` is the argument itself): one, or a list.

    Raises :class:`InvalidInput` if there is none."""
    try:
        value = msgspec.msgpack.decode(content)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidInput(f"the argument cannot be read: {error}") from error
    for name in field.split(".") if field != "." else ():
        value = value.get(name) if isinstance(value, dict) else None
    found = value if isinstance(value, list) else [value]
    if not found or len(found) > _MOST_IDS or not all(isinstance(one, str | int) and one != "" for one in found):
        raise InvalidInput(
            f"the argument's field {field!r} must name the resources it is about",
            advice=f"One id, or a list of at most {_MOST_IDS}.",
        )
    return tuple(str(one) for one in found)
