"""A node's ``policy``: what is read, and what is said of mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from pelagos.model.errors import DescriptionError
from pelagos.services.infrastructure.description import compile_description
from pelagos.services.infrastructure.policies import NodePolicy
from pelagos.services.infrastructure.values import CompiledNode

DEFINITION = "'node_def:t':\n  - resource: {type: simulated}\n"


TWO = DEFINITION + "  - resource: {type: ec2, name: far, flavor: large}\n"


def compiled(policy: str, definition: str = DEFINITION, node: str = "", **options: Any) -> CompiledNode:
    text = f"infra_name: shop\nnodes:\n  - name: web\n    type: t\n    policy: {policy}\n{node}"
    (found,) = compile_description({"i": text, "n": definition}, ["i", "n"], **options).compiled.nodes
    return found


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


def account_of(type_: str, section: Mapping[str, Any]) -> str:
    """A pool with two accounts; of others, nobody knows which one is meant."""
    return {"simulated": "east", "ec2": "amazon"}.get(type_, "")


@pytest.mark.parametrize(
    "weights",
    ["{east: 3, amazon: 0}", "{simulated: 1, ec2: 2}", "{east: 0}", "{amazon: 0, east: 0.5}", "{}"],
)
def test_weights_of_accounts_and_types_are_read(weights: str) -> None:
    compiled(f"{{choose: weighted, weights: {weights}}}", TWO, account_of=account_of)


@pytest.mark.parametrize(
    ("weights", "told", "advice"),
    [
        ("{eats: 3}", "'weights' of node 'web' names 'eats', and none of its implementations", "did you mean 'east'?"),
        ("{east: 1, far: 3}", "names 'far'", "there are: east"),  # its section says so, and no account is called that
        ("{docker: 3}", "names 'docker'", "there are: east"),
        ("{east: 0, ec2: 0}", "leaves nothing to choose: all of its implementations have weight 0", "a share"),
        ("{simulated: 0, ec2: 0}", "leaves nothing to choose", "a share"),
    ],
)
def test_weights_that_can_never_work_are_told(weights: str, told: str, advice: str) -> None:
    with pytest.raises(DescriptionError) as caught:
        compiled(f"{{choose: weighted, weights: {weights}}}", TWO, account_of=account_of)
    (found,) = caught.value.diagnostics
    assert told in found.summary and advice in found.advice
    assert str(found.position).startswith("i:5")


def test_weights_are_of_those_implementations_that_the_filter_leaves() -> None:
    node = "    filter: {flavor: large}\n"
    compiled("{weights: {amazon: 1}}", TWO, node, account_of=account_of)
    with pytest.raises(DescriptionError, match="names 'east'"):
        compiled("{weights: {east: 1}}", TWO, node, account_of=account_of)
    with pytest.raises(DescriptionError, match="nothing to choose"):
        compiled("{weights: {amazon: 0}}", TWO, node, account_of=account_of)


def test_weights_of_a_cloud_that_is_elsewhere_are_left_alone() -> None:
    elsewhere = DEFINITION + "  - resource: {type: nova, name: lab}\n"
    compiled("{weights: {lab: 3, east: 1}}", elsewhere, account_of=account_of)


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1:9090/metrics",
        "https://metrics.example",
        "'http://{{ ip }}:9090/metrics'",
        "'{{ variables.url }}'",
        "'http{% if true %}s{% endif %}://x'",
        "'http://[::1]:9090'",
    ],
)
def test_metrics_are_read_over_http(url: str) -> None:
    policy = compiled(f"{{autoscale: {{target: 1, metric: {{type: http, url: {url}}}}}}}").policy
    assert policy.autoscale is not None and policy.autoscale.metric.url == url.strip("'")


@pytest.mark.parametrize(
    "url",
    [
        *("metrics", "ftp://x/y", "/metrics", "'http://'", "'http://:9090/'", "'https:/x'", "'http://x:99999/'"),
        *("'ftp://{{ ip }}'", "'localhost:{{ variables.port }}'"),
    ],
)
def test_a_metric_that_no_url_tells_is_a_mistake(url: str) -> None:
    with pytest.raises(DescriptionError) as caught:
        compiled(f"{{autoscale: {{target: 1, metric: {{type: http, url: {url}}}}}}}")
    (found,) = caught.value.diagnostics
    assert "'url' of 'metric' of 'autoscale'" in found.summary and "begins with http:// or https://" in found.summary
    assert str(found.position).startswith("i:5")
