"""What a node's ``policy`` says of healing, scaling and protection: what is read, and what is said of mistakes."""

from __future__ import annotations

import pytest

from pelagos.model.errors import DescriptionError
from pelagos.services.infrastructure.description import compile_description
from pelagos.services.infrastructure.policies import AutoscalePolicy, HealPolicy, MetricSource, NodePolicy

DEFINITION = "'node_def:t':\n  - resource: {type: simulated}\n"


def policy(text: str) -> NodePolicy:
    description = f"infra_name: shop\nnodes:\n  - name: web\n    type: t\n    policy: {text}\n"
    (node,) = compile_description({"i": description, "n": DEFINITION}, ["i", "n"]).compiled.nodes
    return node.policy


def test_healing() -> None:
    read = policy(
        "{heal: {shutdown: restart, failed: keep, temp_failed: restart, unreachable: replace, unreachable_after: 60,"
        " restarts: 2, backoff: 1, backoff_max: 8, attempts: 4, window: 90}, scale_down: oldest, protect: true}"
    )
    assert read == NodePolicy(
        heal=HealPolicy(
            shutdown="restart",
            failed="keep",
            temp_failed="restart",
            unreachable="replace",
            unreachable_after=60.0,
            restarts=2,
            backoff=1.0,
            backoff_max=8.0,
            attempts=4,
            window=90.0,
        ),
        scale_down="oldest",
        protect=True,
    )


@pytest.mark.parametrize(
    ("text", "metric"),
    [
        ("{type: cpu}", MetricSource(type="cpu")),
        (
            "{type: http, url: 'http://{{ip}}/q', path: 'queue[0].n', of: node, timeout: 1}",
            MetricSource(type="http", url="http://{{ip}}/q", path="queue[0].n", of="node", timeout=1.0),
        ),
        (
            "{type: prometheus, url: 'http://{{ip}}/metrics', name: hits, labels: {code: '200'}, rate: true}",
            MetricSource(
                type="prometheus", url="http://{{ip}}/metrics", name="hits", labels={"code": "200"}, rate=True
            ),
        ),
        (
            "{type: prometheus, url: 'http://prometheus:9090', query: 'sum(up)', of: node}",
            MetricSource(type="prometheus", url="http://prometheus:9090", query="sum(up)", of="node"),
        ),
        ("{type: command, command: [wc, -l]}", MetricSource(type="command", command=("wc", "-l"))),
        ("{type: command, command: 'wc -l'}", MetricSource(type="command", command=("/bin/sh", "-c", "wc -l"))),
    ],
)
def test_metrics(text: str, metric: MetricSource) -> None:
    assert policy(f"{{autoscale: {{metric: {text}, target: 2}}}}").autoscale == AutoscalePolicy(metric=metric, target=2)


def test_limits_of_autoscaling() -> None:
    read = policy(
        "{autoscale: {metric: {type: cpu}, target: 60, min: 2, max: 8, tolerance: 0.2, interval: 5,"
        " cooldown: {up: 10, down: 60}, max_step: 2}}"
    ).autoscale
    assert read == AutoscalePolicy(
        metric=MetricSource(type="cpu"),
        target=60.0,
        min=2,
        max=8,
        tolerance=0.2,
        interval=5.0,
        up_cooldown=10.0,
        down_cooldown=60.0,
        max_step=2,
    )
    both = policy("{autoscale: {metric: {type: cpu}, target: 60, cooldown: 7}}").autoscale
    assert both is not None
    assert (both.up_cooldown, both.down_cooldown) == (7.0, 7.0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{heal: {shutdwn: keep}}", "'heal' of the node 'web' knows no key 'shutdwn'"),
        ("{heal: {shutdown: mend}}", "'shutdown' of 'heal' of the node 'web' must be one of"),
        ("{heal: {unreachable: restart}}", "must be one of"),
        ("{scale_down: random}", "'scale_down' of the node 'web' must be one of"),
        ("{protect: sometimes}", "must be true or false"),
        ("{autoscale: {target: 3}}", "has no 'metric'"),
        ("{autoscale: {metric: {type: cpu}}}", "has no 'target'"),
        ("{autoscale: {metric: {type: cpu}, target: 0}}", "must be from"),
        ("{autoscale: {metric: {type: http}, target: 1}}", "has no 'url'"),
        ("{autoscale: {metric: {type: cpu, url: x}, target: 1}}", "'url' has no meaning"),
        ("{autoscale: {metric: {type: cpu, of: node}, target: 1}}", "is of instances"),
        ("{autoscale: {metric: {type: prometheus, url: 'http://x'}, target: 1}}", "needs one of 'name' and 'query'"),
        ("{autoscale: {metric: {type: cpu}, target: 1, min: 3, max: 2}}", "less than its 'min'"),
    ],
)
def test_mistakes_are_told_with_their_place(text: str, told: str) -> None:
    with pytest.raises(DescriptionError) as caught:
        policy(text)
    (found,) = caught.value.diagnostics
    assert told in found.summary
    assert str(found.position).startswith("i:5")
