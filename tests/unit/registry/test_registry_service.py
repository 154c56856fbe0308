"""The registry at work: the life cycle, and what containers announce."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from pelagos.container.agent import AgentProcess
from pelagos.model.errors import Conflict, InvalidInput, NotFound
from pelagos.process import ServiceProcess, client
from pelagos.services.events import subscribe
from pelagos.services.registry import (
    FOLLOWING,
    FindResources,
    IllegalResourceTransition,
    NamePattern,
    Register,
    RegistryService,
    ResourceRef,
    ResourceState,
    SetState,
    UpdateResource,
)
from support.services_world import Follower, until

pytestmark = pytest.mark.anyio


class Hello(ServiceProcess):
    name = "hello"


async def registry(node):
    await node.container.spawn(partial(RegistryService, node.store))
    return client(RegistryService, node.container.edge)


def test_from_every_state_a_resource_can_be_used_or_retired():
    def reachable(state):
        found, ahead = set(), [state]
        while ahead:
            for following in FOLLOWING[ahead.pop()]:
                if following not in found:
                    found.add(following)
                    ahead.append(following)
        return found

    assert set(FOLLOWING) == set(ResourceState)
    for state in ResourceState:
        if state is not ResourceState.RETIRED:
            assert {ResourceState.ACTIVE, ResourceState.RETIRED} <= reachable(state)
    assert not FOLLOWING[ResourceState.RETIRED]
    assert reachable(ResourceState.NEW) == set(ResourceState) - {ResourceState.NEW}


async def test_a_life_told_and_an_illegal_step_refused(system):
    node = await system.node()
    service = await registry(node)
    follower = Follower(lambda process: subscribe(process, "resource_lifecycle", process.record))
    await node.container.spawn(follower)
    made = await service.register(Register(type="pump", name="p", description="d", attributes={"depth": 5}))
    assert (made.state, made.owner, made.version) == (ResourceState.NEW, "default", 1)
    active = await service.set_state(SetState(id=made.id, state=ResourceState.ACTIVE, version=1))
    with pytest.raises(Conflict) as refused:
        await service.set_state(SetState(id=made.id, state=ResourceState.RETIRED))
    assert refused.value.code == IllegalResourceTransition.code
    assert refused.value.details["possible"] == ["decommissioned", "inactive", "update"]
    with pytest.raises(Conflict, match="version 2"):
        await service.update(UpdateResource(id=made.id, version=1, name="q"))
    await service.update(UpdateResource(id=made.id, version=active.version, name="q"))
    assert (await service.get(ResourceRef(made.id))).name == "q"
    await until(lambda: len(follower.seen) == 3)
    assert [(e.origin, e.data["change"], e.data["state"]) for e in follower.seen] == [
        (made.id, "registered", "new"),
        (made.id, "state", "active"),
        (made.id, "updated", "active"),
    ]
    assert follower.seen[1].data["previous_state"] == "new"
    with pytest.raises(NotFound):
        await service.get(ResourceRef("nobody"))
    with pytest.raises(InvalidInput):
        await service.register(Register(type="container", name="x"))


async def test_containers_and_services_are_kept_current(system):
    one, two = await system.node(), await system.node()
    service = await registry(one)
    for node in (one, two):
        await node.container.spawn(partial(AgentProcess, node.container, host="here", pid=7))
    await two.container.spawn(Hello)
    await asyncio.sleep(10)

    async def states(find, name="*"):
        return {found.name: found.state.value for found in await find(NamePattern(name))}

    assert await states(service.find_containers) == {"n1": "active", "n2": "active"}
    assert await states(service.find_services, "h*") == {"hello": "active"}
    [hello] = await service.find_services(NamePattern("hello"))
    assert hello.attributes == {"containers": ["n2"], "address": "service:hello"}
    exchanges = await states(service.find_exchanges)
    assert exchanges["test"] == "active" and exchanges["service:hello"] == "active"
    [first, _] = await service.find_containers(NamePattern())
    assert first.attributes["host"] == "here" and "registry" in first.attributes["services"]
    with pytest.raises(NotFound):
        await service.set_state(SetState(id=hello.id, state=ResourceState.INACTIVE))

    await two.container.stop()
    await asyncio.sleep(70)
    assert await states(service.find_containers) == {"n1": "active", "n2": "inactive"}
    assert await states(service.find_services, "hello") == {"hello": "inactive"}

    three = await system.node()
    await three.container.spawn(partial(AgentProcess, three.container))
    await three.container.spawn(Hello)
    await asyncio.sleep(10)
    assert await states(service.find_services, "hello") == {"hello": "active"}


async def test_a_quiet_system_is_not_written(system):
    node = await system.node()
    await registry(node)
    await node.container.spawn(partial(AgentProcess, node.container))
    await asyncio.sleep(120)
    before = node.store.snapshot()
    await asyncio.sleep(600)
    after = node.store.snapshot()
    assert (after["transactions"], after["reads"]) == (before["transactions"], before["reads"])


async def test_what_died_with_the_registry_is_noticed_by_the_next_one(system):
    one, two = await system.node(), await system.node()
    service = await registry(one)
    for node in (one, two):
        await node.container.spawn(partial(AgentProcess, node.container))
    await asyncio.sleep(10)
    await one.container.stop()
    await two.container.stop()
    three = await system.node()
    service = await registry(three)
    await three.container.spawn(partial(AgentProcess, three.container))
    await asyncio.sleep(100)
    found = {r.name: r.state.value for r in await service.find_containers(NamePattern())}
    assert found == {"n1": "inactive", "n2": "inactive", "n3": "active"}
    assert len((await service.find(FindResources(type="container", states=(ResourceState.ACTIVE,)))).resources) == 1
