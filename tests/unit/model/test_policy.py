"""Decisions of policies: examples, and what holds for all of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelagos.model import Scope
from pelagos.model.policy import (
    ANONYMOUS_SCOPE,
    BUILT_IN_PROTECTED,
    Outcome,
    OwnerQuestion,
    Policy,
    Rule,
    Subject,
    explain,
)

ANYBODY = Subject(ANONYMOUS_SCOPE)
ALICE = Subject(Scope("shop", "alice"))
STOCKER = Subject(Scope("shop", "bob"), frozenset({"stocker"}))
OPERATOR = Subject(Scope("shop", "op"), frozenset({"operator"}))
ADMIN = Subject(Scope("shop", "root"), frozenset({"admin"}))

_words = st.text("abcx", min_size=1, max_size=3)
_service = st.one_of(st.just("*"), _words)
_patterns = st.builds("{}.{}".format, _service, st.one_of(st.just("*"), _words, st.just("terminate")))
_roles = st.sampled_from(["anonymous", "authenticated", "operator", "admin", "stocker"])
_rules = st.lists(st.builds(Rule, _roles, _patterns), max_size=6).map(tuple)
_subjects = st.sampled_from([ANYBODY, ALICE, STOCKER, OPERATOR, ADMIN])


def allowed(policy: Policy, operation: str) -> list[str]:
    service, _, op = operation.rpartition(".")
    everybody = {"anybody": ANYBODY, "alice": ALICE, "stocker": STOCKER, "operator": OPERATOR, "admin": ADMIN}
    return [name for name, subject in everybody.items() if policy.decide(subject, service, op).allowed]


@pytest.mark.parametrize(
    ("role", "who"),
    [
        ("anonymous", ["anybody", "alice", "stocker", "operator", "admin"]),
        ("authenticated", ["alice", "stocker", "operator", "admin"]),
        ("operator", ["operator", "admin"]),
        ("admin", ["admin"]),
        ("stocker", ["stocker", "admin"]),
        ("early_adopter", ["admin"]),
    ],
)
def test_roles_contain_one_another(role: str, who: list[str]) -> None:
    assert allowed(Policy((Rule(role, "stock.put"),)), "stock.put") == who


def test_without_rules_only_what_is_protected_is_denied() -> None:
    assert len(allowed(Policy(), "stock.put")) == 5
    assert allowed(Policy(), "agent.spawn") == ["admin"]
    assert allowed(Policy(), "anything.terminate") == ["admin"]
    assert allowed(Policy(default_deny=True), "stock.put") == ["admin"]
    assert allowed(Policy(protected=("stock.*",)), "stock.put") == ["admin"]


def test_rules_of_one_operation_add_up() -> None:
    policy = Policy((Rule("stocker", "stock.put"), Rule("operator", "*.put")))
    assert allowed(policy, "stock.put") == ["stocker", "operator", "admin"]
    assert allowed(policy, "shop.put") == ["operator", "admin"]


def test_owners_are_a_question() -> None:
    policy = Policy((Rule("owner", "stock.delete_item", (("5012", "item_ids"),)),))
    decision = policy.decide(ALICE, "stock", "delete_item")
    assert decision.outcome is Outcome.ASK
    assert decision.questions == (OwnerQuestion("5012", "item_ids"),)
    assert policy.decide(ANYBODY, "stock", "delete_item").outcome is Outcome.DENY
    assert policy.decide(ADMIN, "stock", "delete_item").allowed


def test_an_explanation_names_who_what_and_the_rule() -> None:
    policy = Policy((Rule("stocker", "stock.put"),))
    said = explain(policy.decide(ALICE, "stock", "put"), ALICE, "stock", "put")
    assert said == "alice may not stock.put: no rule allows it; the rule is: stocker may stock.put"
    assert "protected by '*.terminate'" in explain(Policy().decide(ALICE, "x", "terminate"), ALICE, "x", "terminate")


@given(_rules, _subjects, _words)
def test_what_is_protected_and_matched_by_no_rule_is_denied(
    rules: tuple[Rule, ...], subject: Subject, service: str
) -> None:
    unmatched = tuple(rule for rule in rules if not rule.pattern.endswith((".terminate", ".*")))
    for names in (service, None):
        decision = Policy(unmatched).decide(subject, names, "terminate")
        assert decision.allowed == (subject is ADMIN)
        assert decision.protected_by in BUILT_IN_PROTECTED


@given(_rules, _subjects, _words, _words, st.booleans())
def test_not_knowing_the_service_never_opens_a_door(
    rules: tuple[Rule, ...], subject: Subject, service: str, operation: str, deny: bool
) -> None:
    policy = Policy(rules, default_deny=deny)
    if policy.decide(subject, None, operation).allowed:
        assert policy.decide(subject, service, operation).allowed


@given(_rules, _words, _words)
def test_what_anybody_may_everybody_may(rules: tuple[Rule, ...], service: str, operation: str) -> None:
    """The interceptor relies on it."""
    policy = Policy(rules)
    if policy.decide(ANYBODY, service, operation).allowed:
        for subject in (ALICE, STOCKER, OPERATOR, ADMIN):
            assert policy.decide(subject, service, operation).allowed
