"""A node's ``policy``: what is read, and what is said of mistakes."""

from __future__ import annotations

import pytest

from pelagos.model.errors import DescriptionError
from pelagos.services.infrastructure.description import compile_description
from pelagos.services.infrastructure.policies import NodePolicy
from pelagos.services.infrastructure.values import CompiledNode

DEFINITION = "'node_def:t':\n  - resource: {type: simulated}\n"


def compiled(policy: str) -> CompiledNode:
    text = f"infra_name: shop\nnodes:\n  - name: web\n    type: t\n    policy: {policy}\n"
    (node,) = compile_description({"i": text, "n": DEFINITION}, ["i", "n"]).compiled.nodes
    return node


def test_every_key_is_read() -> None:
    node = compiled("{change: keep, max_unavailable: 2, max_surge: 3, on_failure: stop}")
    assert node.policy == NodePolicy(change="keep", max_unavailable=2, max_surge=3, on_failure="stop")


def test_an_empty_policy_is_the_default() -> None:
    assert compiled("").policy == NodePolicy()


def test_a_policy_is_no_part_of_what_instances_are_made_from() -> None:
    assert compiled("{max_unavailable: 2}").fingerprint == compiled("").fingerprint


@pytest.mark.parametrize(
    ("policy", "surge"),
    [("", 1), ("{max_unavailable: 1}", 0), ("{max_unavailable: 1, max_surge: 2}", 2), ("{max_surge: 0}", 1)],
)
def test_something_can_always_move(policy: str, surge: int) -> None:
    assert compiled(policy).policy.surge == surge


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        ("{chang: keep}", "knows no key 'chang'"),
        ("{change: kept}", "'change' of the node 'web' must be one of"),
        ("{on_failure: yes}", "must be one of"),
        ("{max_unavailable: -1}", "'max_unavailable' of the node 'web' must be from 0"),
        ("{max_surge: some}", "must be a whole number"),
        ("[change]", "'policy' of the node 'web' must be a mapping"),
    ],
)
def test_mistakes_are_told_with_their_place(policy: str, told: str) -> None:
    with pytest.raises(DescriptionError) as caught:
        compiled(policy)
    (found,) = caught.value.diagnostics
    assert told in found.summary
    assert str(found.position).startswith("i:5")
