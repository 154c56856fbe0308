import asyncio

import pytest
from hello_resource import Change, Merge, Profile, ProfileService

from pelagos.process import client
from pelagos.repository import MergeConflicts
from pelagos.services.registry import (
    FindResources,
    IllegalResourceTransition,
    RegistryService,
    ResourceState,
    SetState,
    UpdateResource,
)

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


@pytest.fixture
async def edge(harness, container):
    store = await harness.store()
    await container.spawn(lambda: RegistryService(store))
    await container.spawn(lambda: ProfileService(store))
    with harness.user("ann"):
        yield container.edge


async def test_a_resource_is_made_changed_and_lives(edge):
    profiles, registry = client(ProfileService, edge), client(RegistryService, edge)
    made = await profiles.create(Profile("Ann", "Bari"))
    assert (made.name, made.state) == ("Ann", ResourceState.NEW)
    changed = await registry.update(UpdateResource(id=made.id, version=made.version, attributes={"verified": True}))
    for state in (ResourceState.ACTIVE, ResourceState.INACTIVE, ResourceState.DECOMMISSIONED):
        changed = await registry.set_state(SetState(id=made.id, state=state, version=changed.version))
    with pytest.raises(IllegalResourceTransition, match="cannot become active"):
        await registry.set_state(SetState(id=made.id, state=ResourceState.ACTIVE))
    (found,) = (await registry.find(FindResources(type="profile", name="A*"))).resources
    assert (found.state, found.attributes) == (ResourceState.DECOMMISSIONED, {"verified": True})


async def test_two_change_different_fields_and_both_count(edge):
    profiles = client(ProfileService, edge)
    await profiles.create(Profile("Ann", "Bari", "chess"))
    await asyncio.gather(
        profiles.change(Change(Profile("Ann", "Oslo", "chess"), branch="one")),
        profiles.change(Change(Profile("Ann", "Bari", "skiing"), branch="two")),
    )
    assert await profiles.merge(Merge("Ann", "one")) == Profile("Ann", "Oslo", "chess")
    assert await profiles.merge(Merge("Ann", "two")) == Profile("Ann", "Oslo", "skiing")


async def test_two_change_the_same_field_and_somebody_decides(edge):
    profiles = client(ProfileService, edge)
    await profiles.create(Profile("Ann", "Bari"))
    await profiles.change(Change(Profile("Ann", "Oslo"), branch="one"))
    await profiles.change(Change(Profile("Ann", "Rome"), branch="two"))
    await profiles.merge(Merge("Ann", "one"))
    with pytest.raises(MergeConflicts) as raised:
        await profiles.merge(Merge("Ann", "two"))
    (conflict,) = raised.value.details["conflicts"]
    assert (conflict["path"], conflict["ours"], conflict["theirs"]) == ("town", "Oslo", "Rome")
    assert await profiles.merge(Merge("Ann", "two", prefer={"town": "theirs"})) == Profile("Ann", "Rome")
