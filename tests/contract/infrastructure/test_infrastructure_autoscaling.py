"""Autoscaling on a virtual clock: a load that rises and falls, and sources that say nothing."""

from __future__ import annotations

import asyncio
import json

import pytest

from pelagos.model.states import InstanceState, RunState
from pelagos.services.infrastructure.metrics import MetricUnavailable
from pelagos.store.schema import events as event_rows
from support.infrastructure_world import describe
from support.virtual_site import anyio_backend, make_site, site

__all__ = ["anyio_backend", "make_site", "site"]

pytestmark = pytest.mark.anyio

CHECK = "{ports: [80], failures: 2, timeout: 20}"


class Load:
    """A number that tests set, shared by the instances that ask for it."""

    def __init__(self):
        self.total = 0.0
        self.asked = []
        self.silent = set()

    async def read(self, source, server_id):
        await asyncio.sleep(0.01)
        self.asked.append((source, server_id))
        if self.total is None or server_id in self.silent:
            raise MetricUnavailable("it is silent")
        return self.total

    async def read_pair(self, source, server_id):
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(0.01)
        return now * self.total, now


def shop(metric="{type: http, url: 'http://queue/', path: n, of: node}", least=1, most=8, **more):
    options = {"interval": 5, "cooldown": "{up: 10, down: 60}", "target": 10, **more}
    text = ", ".join(f"{key}: {value}" for key, value in options.items())
    policy = f"{{autoscale: {{metric: {metric}, {text}}}}}"
    return describe("shop", {"web": {"check": CHECK, "scaling": (least, most), "policy": policy}})


async def scaled(site, program, count):
    async def there():
        node = (await program.status()).nodes["web"]
        ready = [i for i in node.instances.values() if i.state is InstanceState.READY]
        return node.scaling.target == count == len(ready) == len(node.instances)

    await site.until(there, f"{count} instances are ready")


async def changes(site):
    rows = sorted(await site.rows(event_rows, kind="node.autoscaled"), key=lambda row: row.position)
    return [(json.loads(row.data)["from"], json.loads(row.data)["to"]) for row in rows]


@pytest.fixture
def load(site):
    site.metrics = Load()
    return site.metrics


async def test_it_follows_the_load_up_and_down(site, load):
    program = await site.program(serves=True)
    load.total = 8.0
    await program.build(shop())
    await scaled(site, program, 1)
    load.total = 47.0
    await scaled(site, program, 5)
    load.total = 18.0
    await asyncio.sleep(40.0)
    assert len((await program.status()).nodes["web"].instances) == 5  # it cools down
    await scaled(site, program, 2)
    await asyncio.sleep(300.0)
    assert await changes(site) == [(1, 5), (5, 2)]
    assert len(site.east.servers()) == 2
    (event, *_) = await site.rows(event_rows, kind="node.autoscaled")
    assert json.loads(event.data)["reason"] == "n is 47 an instance, 10 is wanted"


async def test_from_zero_and_back(site, load):
    program = await site.program(serves=True)
    await program.build(shop(least=0))
    await asyncio.sleep(30.0)
    assert site.east.servers() == []
    load.total = 1.0
    await scaled(site, program, 1)
    load.total = 0.0
    await scaled(site, program, 0)
    assert site.east.servers() == []


async def test_silence_changes_nothing_and_is_told_once(site, load):
    program = await site.program(serves=True)
    load.total = 30.0
    await program.build(shop())
    await scaled(site, program, 3)
    load.total = None
    await site.until_event("node.metric_unavailable")
    await asyncio.sleep(300.0)
    assert len((await program.status()).nodes["web"].instances) == 3
    load.total = 30.0
    await site.until_event("node.metric_available")
    assert len(await site.rows(event_rows, kind="node.metric_unavailable")) == 1


async def test_each_instance_is_asked_at_its_address(site, load):
    program = await site.program(serves=True)
    load.total = 10.0  # each of them
    metric = "{type: prometheus, url: 'http://{{ip}}:9100/metrics', name: jobs}"
    await program.build(shop(metric, target=8, least=2, most=4))
    await scaled(site, program, 4)
    status = await program.status()
    addresses = {i.address for i in status.nodes["web"].instances.values()}
    asked = {source.url for source, _ in load.asked}
    assert {f"http://{address}:9100/metrics" for address in addresses} >= asked
    assert len(asked) >= 2


async def test_cpu_and_counters_are_growths(site, load):
    program = await site.program(serves=True)
    load.total = 0.9
    await program.build(shop("{type: cpu}", target=30, most=3, tolerance=0.05))
    await scaled(site, program, 3)
    (event, *_) = await site.rows(event_rows, kind="node.autoscaled")
    assert json.loads(event.data)["value"] == pytest.approx(90.0, abs=1.0)


async def test_a_runs_wish_goes_first_and_a_take_over_forgets_no_cool_down(site, load):
    first = await site.program(serves=True)
    load.total = 30.0
    await first.build(shop(cooldown="{up: 100, down: 100}"))
    await scaled(site, first, 3)
    first.kill()
    second = await site.program(serves=True)
    load.total = 80.0
    await asyncio.sleep(60.0)
    assert len((await second.status()).nodes["web"].instances) == 3
    await scaled(site, second, 8)
    assert (await second.run("scale", scale={"web": "2"})).state is RunState.SUCCEEDED
    await scaled(site, second, 8)  # the policy holds again after it
    site.assert_nothing_doubled()


async def test_a_noisy_load_does_not_flap(site, load):
    program = await site.program(serves=True)
    load.total = 31.0
    await program.build(shop())
    await scaled(site, program, 4)
    noise = site.world.rng("noise")
    for _ in range(120):
        load.total = 31.0 * (1.0 + noise.uniform(-0.06, 0.06))
        await asyncio.sleep(5.0)
    assert await changes(site) == [(1, 4)]
