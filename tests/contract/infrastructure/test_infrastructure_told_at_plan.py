"""What can never work is told by the plan, where the pool is known: metrics, weights, commands of templates."""

from __future__ import annotations

import pytest

from contract.infrastructure.test_infrastructure_builds import ON_SQLITE
from pelagos.clouds import AccountConfig
from pelagos.model.diagnostics import Severity
from pelagos.model.errors import DescriptionError
from support.infrastructure_world import describe

pytestmark = [pytest.mark.anyio, ON_SQLITE]


def scaled(metric: str, **more):
    policy = f"{{autoscale: {{target: 50, metric: {metric}}}}}"
    return describe("shop", {"web": {"policy": policy, "scaling": (1, 3), **more}})


@pytest.mark.parametrize("metric", ["{type: cpu}", "{type: command, command: [load]}"])
async def test_a_metric_that_is_measured_where_nothing_is_executed_is_told(make_site, metric):
    site = await make_site({"east": {"execute": False}, "west": {}})
    program = await site.program()
    for clouds in (("east",), ("west", "east")):
        (found,) = (await program.plan(sources=scaled(metric, clouds=clouds))).warnings
        assert found.severity is Severity.WARNING
        assert "the metric of node 'web' is measured by commands inside its instances, which east" in found.summary
        assert str(found.position) == "infra.yaml:8:46"
        assert found.source.strip().startswith("policy: {autoscale")
    assert (await program.plan(sources=scaled(metric, clouds=("west",)))).warnings == ()
    http = "{type: http, url: 'http://{{ ip }}/load'}"
    assert (await program.plan(sources=scaled(http))).warnings == ()
    run = await program.build(scaled(metric))
    assert "measured by commands" in run.warnings[0].summary


async def test_weights_are_of_accounts_of_the_pool(make_site):
    site = await make_site({"east": {}, "west": {}})
    program = await site.program()

    def weighted(weights: str):
        return describe("shop", {"web": {"policy": f"{{weights: {weights}}}", "clouds": ("east", "west")}})

    for weights in ("{east: 3}", "{simulated: 2, west: 0}"):
        await program.plan(sources=weighted(weights))
    for weights, told in (("{north: 3}", "names 'north'"), ("{east: 0, west: 0}", "have weight 0")):
        for ask in (program.up, lambda sources: program.plan(sources=sources)):
            with pytest.raises(DescriptionError, match=told):
                await ask(weighted(weights))
    # An account that there is, and that no implementation is on.
    program.service._pool.reload([AccountConfig(name=name, driver="simulated") for name in ("east", "west", "north")])
    with pytest.raises(DescriptionError, match="names 'north'"):
        await program.plan(sources=weighted("{north: 3}"))


async def test_commands_that_are_switched_off_are_told_before_anything_is_made(site):
    program = await site.program()
    sources = describe("shop", {"db": {}, "web": {"after": ["db"], "text": "at {{ cmd('date') }}"}})
    for ask in (program.up, lambda sources: program.plan(sources=sources)):
        with pytest.raises(DescriptionError, match=r"cmd\(\) runs commands .*switched off") as caught:
            await ask(sources)
        assert caught.value.diagnostics[0].position.file == "nodes.yaml"
    assert site.alive() == []
