"""Resources on every engine: finding by all that can be asked, locking, events, projects."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from pelagos.model.errors import Conflict, InvalidInput, NotFound
from pelagos.model.scope import DEFAULT_SCOPE, Scope
from pelagos.services.events import history
from pelagos.services.registry import (
    AttributeFilter,
    FindResources,
    Register,
    ResourceState,
    SetState,
    UpdateResource,
    find_resources,
    get_resource,
)
from pelagos.services.registry.resources import register, remove, set_state, update_resource

pytestmark = pytest.mark.anyio

OTHER = Scope(project_id="other", user_id="someone")


async def make(store, id, type="pump", name="a", scope=DEFAULT_SCOPE, **attributes):
    request = Register(type=type, name=name, attributes=attributes)
    changed = await store.run(partial(register, scope=scope, id=id, request=request, now=1.0))
    return changed.resource


async def found(store, scope=DEFAULT_SCOPE, **request):
    page = await store.read(partial(find_resources, scope=scope, request=FindResources(**request)))
    return [one.id for one in page.resources]


def having(name, **terms):
    return (AttributeFilter(name=name, **terms),)


async def test_finding_by_type_state_name_owner_and_attributes(make_store):
    store = await make_store()
    await make(store, "1", name="north", depth=5, label="alpha", tags=["x"])
    await make(store, "2", name="north-2", depth=-20.5, label="Alpha")
    await make(store, "3", name="North", depth=100, label="alphabet")
    await make(store, "4", type="valve", name="50%_a", depth="deep", label='al"pha')
    await make(store, "5", type="valve", name="50xya", on=True, label=None)
    await make(store, "6", name="north", depth=7, scope=OTHER)
    await store.run(
        partial(set_state, scope=DEFAULT_SCOPE, request=SetState(id="2", state=ResourceState.ACTIVE), now=2.0)
    )

    assert await found(store) == ["1", "2", "3", "4", "5"]
    assert await found(store, type="valve") == ["4", "5"]
    assert await found(store, states=(ResourceState.ACTIVE,)) == ["2"]
    assert await found(store, states=(ResourceState.ACTIVE, ResourceState.NEW), type="pump") == ["1", "2", "3"]
    assert await found(store, name="north") == ["1"]
    assert await found(store, name="north*") == ["1", "2"]
    assert await found(store, name="?orth") == ["1", "3"]
    assert await found(store, name="50%_*") == ["4"]
    assert await found(store, owner="someone") == [] and len(await found(store, owner="default")) == 5
    assert await found(store, OTHER) == ["6"]

    assert await found(store, attributes=having("depth")) == ["1", "2", "3", "4"]
    assert await found(store, attributes=having("depth", equals=5)) == ["1"]
    assert await found(store, attributes=having("tags", equals=["x"])) == ["1"]
    assert await found(store, attributes=having("on", equals=True)) == ["5"]
    assert await found(store, attributes=having("label", equals=None)) == ["5"]
    assert await found(store, attributes=having("label", prefix="alpha")) == ["1", "3"]
    assert await found(store, attributes=having("label", prefix='al"')) == ["4"]
    assert await found(store, attributes=having("depth", least=-21, most=5)) == ["1", "2"]
    assert await found(store, attributes=having("depth", least=6)) == ["3"]
    assert await found(store, attributes=having("label", least="B", most="alphaz")) == ["1", "3", "4"]
    assert await found(store, attributes=having("depth", least=0) + having("label", prefix="alphab")) == ["3"]
    with pytest.raises(InvalidInput):
        await found(store, attributes=having("depth", least=0, most="z"))


async def test_pages(make_store):
    store = await make_store()
    for number in range(7):
        await make(store, f"r{number}")
    seen, after = [], ""
    while True:
        page = await store.read(
            partial(find_resources, scope=DEFAULT_SCOPE, request=FindResources(limit=3, after=after))
        )
        seen += [one.id for one in page.resources]
        if page.next is None:
            break
        after = page.next
    assert seen == [f"r{number}" for number in range(7)]


async def test_a_change_needs_the_version_that_stands_and_is_told(make_store):
    stores = [await make_store() for _ in range(3)]
    store = stores[0]
    await make(store, "1", depth=5, label="x")
    changes = [
        UpdateResource(id="1", version=1, description=str(n), attributes={"depth": n}, remove=("label",))
        for n in range(3)
    ]
    attempts = [
        s.run(partial(update_resource, scope=DEFAULT_SCOPE, request=change, now=2.0))
        for s, change in zip(stores, changes, strict=True)
    ]
    results = await asyncio.gather(*attempts, return_exceptions=True)
    [won] = [result for result in results if not isinstance(result, BaseException)]
    lost = [result for result in results if isinstance(result, BaseException)]
    assert all(isinstance(error, Conflict) and error.details == {"version": 2} for error in lost) and len(lost) == 2
    stands = await store.read(partial(get_resource, scope=DEFAULT_SCOPE, id="1"))
    assert stands == won.resource and stands.version == 2
    assert stands.attributes == {"depth": int(stands.description)}
    told, _ = await store.read(partial(history, scope=DEFAULT_SCOPE, patterns=("resource_lifecycle.1",)))
    assert [(event.data["change"], event.data["version"]) for event in told] == [("registered", 1), ("updated", 2)]


async def test_another_projects_resource_is_not_found(make_store):
    store = await make_store()
    await make(store, "1", scope=OTHER)
    for call in (
        partial(update_resource, request=UpdateResource(id="1", version=1)),
        partial(set_state, request=SetState(id="1", state=ResourceState.ACTIVE)),
        partial(remove, id="1"),
    ):
        with pytest.raises(NotFound):
            await store.run(partial(call, scope=DEFAULT_SCOPE, now=1.0))
    with pytest.raises(NotFound):
        await store.read(partial(get_resource, scope=DEFAULT_SCOPE, id="1"))


async def test_only_what_is_retired_or_new_is_removed(make_store):
    store = await make_store()
    await make(store, "1", depth=1)

    async def to(state):
        request = SetState(id="1", state=state)
        await store.run(partial(set_state, scope=DEFAULT_SCOPE, request=request, now=1.0))

    await to(ResourceState.COMMISSIONED)
    with pytest.raises(Conflict, match="cannot be removed"):
        await store.run(partial(remove, scope=DEFAULT_SCOPE, id="1", now=1.0))
    await to(ResourceState.DECOMMISSIONED)
    await to(ResourceState.RETIRED)
    await store.run(partial(remove, scope=DEFAULT_SCOPE, id="1", now=1.0))
    assert await found(store) == []
