"""Who may do what: rules by role, operation and resource, decided by a pure function.

Interceptors decide with it about messages, and the HTTP edge about requests, so that there is one answer. The ancestor
allowed whatever no rule named (reference section 8.3); here three kinds of operations are told apart:

* *ruled*: a rule names it. Then only what a rule allows is allowed. Several rules add up.
* *protected*: its pattern is in the policy's list, or the built-in one (:data:`BUILT_IN_PROTECTED`). It is
  denied unless a rule allows it.
* *open*: neither. Allowed, unless the policy says ``default: deny``.

Roles: ``anonymous`` < ``authenticated`` < ``operator`` < ``admin``, each of which may do what those before it may, and
``admin`` everything. Any other role is a name, which the asker's assertion must list. ``owner`` is who owns the
resources that the argument names, which somebody must look up: then the decision is a question (:attr:`Outcome.ASK`).

A pattern is ``service.operation``, where ``*`` stands for any run of characters; the operation is what follows the last
dot. Where the receiver's service is not known (a process's mailbox that nobody registered), a rule that *restricts*
counts when its operation alone matches, and one that *allows* only with ``*`` as its service: not knowing never opens a
door.
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Iterable

import msgspec

from pelagos.model.diagnostics import Position
from pelagos.model.scope import Scope

__all__ = [
    "ADMIN",
    "ANONYMOUS",
    "ANONYMOUS_SCOPE",
    "AUTHENTICATED",
    "BUILT_IN_PROTECTED",
    "OPERATOR",
    "OWNER",
    "Decision",
    "Outcome",
    "OwnerQuestion",
    "Policy",
    "Rule",
    "Subject",
    "explain",
]

ANONYMOUS, AUTHENTICATED, OPERATOR, ADMIN, OWNER = "anonymous", "authenticated", "operator", "admin", "owner"
_RANK = {ANONYMOUS: 0, AUTHENTICATED: 1, OPERATOR: 2, ADMIN: 3}

ANONYMOUS_SCOPE = Scope(project_id="", user_id="")
"""Nobody in particular."""

BUILT_IN_PROTECTED = (
    "agent.spawn",
    "agent.start_app",
    "agent.stop_app",
    "agent.reload_app",
    "agent.remove_queue",
    "agent.dead_letters",
    "agent.dead_letter",
    "agent.retry_dead_letter",
    "agent.drop_dead_letter",
    "observer.recent",
    "observer.watch",
    "repository.receive",
    "repository.update",
    "registry.owns",
    "*.terminate",
    "*.log_level",
    "*.set_log_level",
    "*.set_level",
    "*.kill",
    "*.shutdown",
)
"""What changes containers and what is theirs, or shows what passes between others: messages, and their contents."""


class Rule(msgspec.Struct, frozen=True):
    """Whoever has ``role`` may carry out what the pattern names."""

    role: str
    pattern: str
    resources: tuple[tuple[str, str], ...] = ()
    """For ``owner``: (kind of resource, field of the argument that holds its id or ids)."""
    position: Position | None = None
    """Where it was written."""

    def __str__(self) -> str:
        where = f" ({self.position})" if self.position else ""
        return f"{self.role} may {self.pattern}{where}"


class Subject(msgspec.Struct, frozen=True):
    """Who asks. An empty user is anonymous; anybody else is at least ``authenticated``."""

    scope: Scope
    roles: frozenset[str] = frozenset()

    @property
    def is_anonymous(self) -> bool:
        return not self.scope.user_id

    @property
    def is_admin(self) -> bool:
        return ADMIN in self.roles and not self.is_anonymous

    def has(self, role: str) -> bool:
        """Whether the role is one of the subject's, or below one of them."""
        if self.is_anonymous:
            return role == ANONYMOUS
        if role in self.roles or ADMIN in self.roles:
            return True
        rank = _RANK.get(role)
        return rank is not None and rank <= max((_RANK.get(own, 1) for own in self.roles), default=1)


class Outcome(enum.StrEnum):
    ALLOW = "allow"
    DENY = "deny"
    ASK = "ask"
    """Allowed if the subject owns all that the question names."""


class OwnerQuestion(msgspec.Struct, frozen=True):
    """Does the subject own these? ``field`` is where in the argument their ids are."""

    kind: str
    field: str


class Decision(msgspec.Struct, frozen=True):
    outcome: Outcome
    reason: str
    rule: Rule | None = None
    """The one that decided; None if none did."""
    protected_by: str = ""
    """The pattern that protects the operation."""
    questions: tuple[OwnerQuestion, ...] = ()
    """With ``ASK``: each must be answered with yes."""
    needs: tuple[str, ...] = ()
    """With ``DENY``: roles any of which would do."""

    @property
    def allowed(self) -> bool:
        return self.outcome is Outcome.ALLOW


class Policy(msgspec.Struct, frozen=True):
    """The rules of a system; see the module's head."""

    rules: tuple[Rule, ...] = ()
    protected: tuple[str, ...] = ()
    """Beside the built-in ones."""
    default_deny: bool = False

    def decide(self, subject: Subject, service: str | tuple[str, ...] | None, operation: str) -> Decision:
        """``service``: the receiver's service, its names if it has several, or None if it is not known."""
        names = (service,) if isinstance(service, str) else service
        named = [rule for rule in self.rules if _restricts(rule.pattern, names, operation)]
        allowing = [rule for rule in named if _allows(rule.pattern, names, operation)]
        protected = self.protecting(names, operation)
        if subject.is_admin:
            return Decision(Outcome.ALLOW, "an administrator may", next(iter(allowing), None), protected)
        for rule in allowing:
            if rule.role != OWNER and subject.has(rule.role):
                return Decision(Outcome.ALLOW, f"{rule.role} may", rule, protected)
        owning = [rule for rule in allowing if rule.role == OWNER and rule.resources]
        if owning and not subject.is_anonymous:
            questions = tuple(OwnerQuestion(kind, field) for kind, field in owning[-1].resources)
            return Decision(Outcome.ASK, "owners may", owning[-1], protected, questions)
        if named:
            needs = tuple(dict.fromkeys(rule.role for rule in allowing)) or (ADMIN,)
            return Decision(Outcome.DENY, "no rule allows it", named[0], protected, needs=needs)
        if protected:
            return Decision(
                Outcome.DENY, f"it is protected by {protected!r} and no rule allows it", None, protected, needs=(ADMIN,)
            )
        if self.default_deny:
            return Decision(Outcome.DENY, "no rule allows it, and the default is to deny", needs=(ADMIN,))
        return Decision(Outcome.ALLOW, "nothing restricts it")

    def protecting(self, names: tuple[str, ...] | None, operation: str) -> str:
        """The pattern that protects an operation; empty if none does."""
        for pattern in (*self.protected, *BUILT_IN_PROTECTED):
            if _restricts(pattern, names, operation):
                return pattern
        return ""


def explain(decision: Decision, subject: Subject, service: str, operation: str) -> str:
    """One sentence for people: who, what, whether, and why."""
    who = subject.scope.user_id or "somebody anonymous"
    roles = ", ".join(sorted(subject.roles))
    verb = {Outcome.ALLOW: "may", Outcome.DENY: "may not", Outcome.ASK: "may, for what they own,"}[decision.outcome]
    text = f"{who}{f' ({roles})' if roles else ''} {verb} {service}.{operation}: {decision.reason}"
    return f"{text}; the rule is: {decision.rule}" if decision.rule is not None else text


def _restricts(pattern: str, names: tuple[str, ...] | None, operation: str) -> bool:
    service, wanted = _parts(pattern)
    if not wanted.match(operation):
        return False
    return names is None or _any_matches(service, names)


def _allows(pattern: str, names: tuple[str, ...] | None, operation: str) -> bool:
    service, wanted = _parts(pattern)
    if not wanted.match(operation):
        return False
    return pattern.rpartition(".")[0] == "*" if names is None else _any_matches(service, names)


def _any_matches(wanted: re.Pattern[str], names: Iterable[str]) -> bool:
    return any(wanted.match(name) for name in names)


@functools.lru_cache(maxsize=4096)
def _parts(pattern: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """(service, operation); a pattern without a dot is one of any service's operation."""
    service, _, operation = pattern.rpartition(".")
    return _glob(service or "*"), _glob(operation)


def _glob(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in text.split("*")) + r"\Z", re.DOTALL)
