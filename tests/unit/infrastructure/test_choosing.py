"""Which implementation an instance is made from: the strategies, what is refused, and for how long."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelagos.model.errors import DescriptionError, ErrorPayload
from pelagos.services.infrastructure.choosing import (
    Candidate,
    Price,
    Refusals,
    choose,
    refused_all,
    size_of,
    weight_of,
)
from pelagos.services.infrastructure.description import compile_description
from pelagos.services.infrastructure.policies import NodePolicy
from pelagos.services.infrastructure.values import Implementation

FULL = ErrorPayload(code="cloud_capacity", message="no room")
STRATEGIES = ("ordered", "random", "weighted", "cheapest", "least_used")


def candidate(index: int, **more: object) -> Candidate:
    return Candidate(**{"index": index, "account": f"cloud-{index}", **more})  # type: ignore[arg-type]


def picked(strategy: str, *candidates: Candidate, kept: int | None = None, draw: float = 0.0) -> int | None:
    chosen = choose(strategy, candidates, kept=kept, draw=lambda: draw)  # type: ignore[arg-type]
    return None if chosen is None else chosen.index


def test_ordered_takes_the_first_and_stays() -> None:
    assert picked("ordered", candidate(2), candidate(0)) == 2
    assert picked("ordered", candidate(2), candidate(0), kept=0) == 0
    assert picked("ordered", candidate(2, refused=FULL), candidate(0), candidate(1)) == 0
    assert picked("ordered", candidate(2), candidate(0, refused=FULL), kept=0) == 2


def test_random_takes_each() -> None:
    three = [candidate(index) for index in range(3)]
    assert [picked("random", *three, draw=at) for at in (0.0, 0.34, 0.999999)] == [0, 1, 2]


def test_weighted_takes_by_shares() -> None:
    three = [candidate(0, weight=3.0), candidate(1, weight=0.0), candidate(2, weight=1.0)]
    found = Counter(picked("weighted", *three, draw=step / 1000) for step in range(1000))
    assert found == {0: 750, 2: 250}
    assert picked("weighted", candidate(0, weight=0.0), candidate(1, weight=0.0)) == 0
    assert picked("weighted", candidate(0, weight=1.0, refused=FULL), candidate(1, weight=0.0)) == 1


def test_cheapest_compares_what_can_be_compared() -> None:
    euros = [candidate(0, price=Price(0.3, "EUR")), candidate(1, price=Price(0.2, "EUR")), candidate(2)]
    assert picked("cheapest", *euros) == 1
    assert picked("cheapest", *euros, candidate(3, price=Price(0.01, "XXX"))) == 1
    assert picked("cheapest", candidate(0), candidate(1)) == 0
    assert picked("cheapest", candidate(0), candidate(1), kept=1) == 1
    equal = [candidate(0, price=Price(0.2)), candidate(1, price=Price(0.2))]
    assert (picked("cheapest", *equal), picked("cheapest", *equal, kept=1)) == (0, 1)


def test_least_used_takes_the_emptiest() -> None:
    assert picked("least_used", candidate(0, used=3), candidate(1, used=1), candidate(2, used=1)) == 1


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(data=st.data())
def test_what_is_refused_is_never_taken_and_what_is_not_is(strategy: str, data: st.DataObject) -> None:
    candidates = data.draw(
        st.lists(
            st.builds(
                candidate,
                st.integers(0, 9),
                weight=st.floats(0, 100),
                used=st.integers(0, 9),
                price=st.none() | st.builds(Price, st.floats(0, 9), st.sampled_from(["EUR", "USD"])),
                refused=st.none() | st.just(FULL),
            ),
            max_size=6,
        )
    )
    chosen = choose(
        strategy,  # type: ignore[arg-type]
        candidates,
        kept=data.draw(st.none() | st.integers(0, 9)),
        draw=lambda: data.draw(st.floats(0, 1, exclude_max=True)),
    )
    possible = [one for one in candidates if one.refused is None]
    assert (chosen is None) == (not possible)
    assert chosen is None or chosen in possible


def test_a_refusal_counts_for_a_while_and_is_told_once() -> None:
    refusals = Refusals()
    assert refusals.add("web", 0, FULL, until=10.0)
    assert not refusals.add("web", 0, FULL, until=20.0)
    assert refusals.at("web", 0, now=19.0) == FULL
    assert refusals.at("web", 1, now=0.0) is refusals.at("db", 0, now=0.0) is None
    assert refusals.at("web", 0, now=20.0) is None
    assert refusals.add("web", 0, FULL, until=30.0)
    refusals.end("web", at=25.0)
    assert refusals.at("web", 0, now=24.0) == FULL
    assert refusals.at("web", 0, now=25.0) is None
    refusals.add("web", 0, FULL, until=100.0)
    refusals.clear()
    assert refusals.at("web", 0, now=0.0) is None


def test_all_reasons_together_are_the_nodes_error() -> None:
    quota = ErrorPayload(code="quota_exceeded", message="the quota is used up", advice="Ask for more.")
    alone = [candidate(0, refused=FULL)]
    assert refused_all(alone) == FULL
    both = refused_all([*alone, candidate(1, refused=quota), candidate(2)])
    assert both.message == "no implementation can be made: cloud-0: no room; cloud-1: the quota is used up"
    assert (both.code, both.advice) == ("quota_exceeded", "Ask for more.")
    assert [(one["cloud"], one["code"]) for one in both.details["refused"]] == [
        ("cloud-0", "cloud_capacity"),
        ("cloud-1", "quota_exceeded"),
    ]


def test_sizes_and_weights() -> None:
    for key, value in itertools.product(("flavor", "instance_type", "vm_size"), ("m1.small", "{{ variables.size }}")):
        found = size_of(Implementation(resource_type="ec2", resource={key: value}))
        assert found == ("" if "{" in value else value)
    assert size_of(Implementation(resource_type="local")) == ""
    weights = {"east": 3.0, "ec2": 2.0}
    assert [weight_of(weights, *of) for of in (("east", "ec2"), ("west", "ec2"), ("west", "nova"))] == [3.0, 2.0, 1.0]


def _policy(text: str) -> NodePolicy:
    description = f"infra_name: shop\nnodes:\n  - {{name: web, type: t, policy: {text}}}\n"
    definition = "'node_def:t':\n  - resource: {type: simulated}\n"
    (node,) = compile_description({"i": description, "n": definition}, ["i", "n"]).compiled.nodes
    return node.policy


def test_a_policy_says_how_and_with_which_weights() -> None:
    assert _policy("{choose: weighted, weights: {east: 3, nova: 0.5}}") == NodePolicy(
        choose="weighted", weights={"east": 3.0, "nova": 0.5}
    )
    assert (_policy("{}").choose, _policy("{}").weights) == (None, {})


@pytest.mark.parametrize("text", ["{choose: best}", "{weights: [1]}", "{weights: {east: -1}}", "{weights: {east: a}}"])
def test_mistakes_of_the_policy_are_told(text: str) -> None:
    with pytest.raises(DescriptionError):
        _policy(text)
