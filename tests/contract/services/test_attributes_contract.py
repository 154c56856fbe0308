"""Attributes on every engine: versions, compare-and-set, ranges, projects."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from pelagos.model.errors import Conflict, InvalidInput, NotFound
from pelagos.model.scope import DEFAULT_SCOPE, Scope
from pelagos.services.attributes import ListAttributes, PutAttribute, get_attribute, get_attributes, list_attributes
from pelagos.services.attributes.rows import put_attributes, remove_attribute

pytestmark = pytest.mark.anyio

OTHER = Scope(project_id="other", user_id="someone")


def put(name, value=None, expected=None, scope=DEFAULT_SCOPE):
    items = [PutAttribute(name=name, value=value, expected=expected)]
    return partial(put_attributes, scope=scope, items=items, now=1.0)


async def test_put_get_and_compare_and_set(make_store):
    store = await make_store()
    value = {"a": [1, 2.5, None], "b": b"\x00\xff", "c": "ü"}
    [version] = await store.run(put("x", value, expected=0))
    assert version.version == 1
    found = await store.read(partial(get_attribute, scope=DEFAULT_SCOPE, name="x"))
    assert (found.value, found.version, found.user_id) == (value, 1, "default")
    for expected in (0, 2):
        with pytest.raises(Conflict) as conflict:
            await store.run(put("x", "wrong", expected))
        assert conflict.value.details["version"] == 1
    assert (await store.run(put("x", "new", 1)))[0].version == 2
    assert (await store.run(put("x", "newer")))[0].version == 3
    with pytest.raises(Conflict):
        await store.run(partial(remove_attribute, scope=DEFAULT_SCOPE, name="x", expected=2))
    assert await store.run(partial(remove_attribute, scope=DEFAULT_SCOPE, name="x", expected=3))
    assert not await store.run(partial(remove_attribute, scope=DEFAULT_SCOPE, name="x"))
    with pytest.raises(NotFound):
        await store.read(partial(get_attribute, scope=DEFAULT_SCOPE, name="x"))


async def test_many_are_written_all_or_none(make_store):
    store = await make_store()
    items = [PutAttribute(name=f"n{i}", value=i) for i in range(600)]
    await store.run(partial(put_attributes, scope=DEFAULT_SCOPE, items=items, now=1.0))
    wrong = [PutAttribute(name="n0", value="changed"), PutAttribute(name="n1", value="changed", expected=7)]
    with pytest.raises(Conflict):
        await store.run(partial(put_attributes, scope=DEFAULT_SCOPE, items=wrong, now=2.0))
    names = ["n599", "nobody", "n0", "n599"]
    found = await store.read(partial(get_attributes, scope=DEFAULT_SCOPE, names=names))
    assert [(one.name, one.value) for one in found] == [("n599", 599), ("n0", 0)]


async def test_lists_by_prefix_and_range_are_in_one_order_everywhere(make_store):
    store = await make_store()
    names = ["A", "B", "a", "a%", "a_", "ab", "aé", "b", "Ab", "zz", "ü"]
    items = [PutAttribute(name=name, value=None) for name in names]
    await store.run(partial(put_attributes, scope=DEFAULT_SCOPE, items=items, now=1.0))

    async def listed(**request):
        query = partial(list_attributes, scope=DEFAULT_SCOPE, request=ListAttributes(**request))
        return [one.name for one in await store.read(query)]

    assert await listed() == sorted(names)
    assert await listed(prefix="a") == ["a", "a%", "a_", "ab", "aé"]
    assert await listed(prefix="a_") == ["a_"]
    assert await listed(first="B", until="ab") == ["B", "a", "a%", "a_"]
    pages, after = [], None
    while page := await listed(limit=3, after=after):
        pages += page
        after = page[-1]
    assert pages == sorted(names)


async def test_projects_do_not_see_one_another(make_store):
    store = await make_store()
    await store.run(put("x", "mine"))
    await store.run(put("x", "theirs", expected=0, scope=OTHER))
    assert (await store.read(partial(get_attribute, scope=DEFAULT_SCOPE, name="x"))).value == "mine"
    assert (await store.read(partial(get_attribute, scope=OTHER, name="x"))).value == "theirs"
    await store.run(partial(remove_attribute, scope=OTHER, name="x"))
    assert [a.name for a in await store.read(partial(list_attributes, scope=OTHER, request=ListAttributes()))] == []


async def test_of_many_who_compare_and_set_one_wins(make_store):
    stores = [await make_store() for _ in range(3)]
    won = 0
    for round_ in range(4):
        results = await asyncio.gather(
            *[store.run(put("counter", round_, expected=round_)) for store in stores], return_exceptions=True
        )
        assert all(isinstance(result, (list, Conflict)) for result in results), results
        won += sum(isinstance(result, list) for result in results)
    assert won == 4
    found = await stores[0].read(partial(get_attribute, scope=DEFAULT_SCOPE, name="counter"))
    assert found.version == 4


@pytest.mark.parametrize(
    "item",
    [
        PutAttribute(name="", value=1),
        PutAttribute(name="x" * 256, value=1),
        PutAttribute(name="x", value=b"x" * 70_000),
        PutAttribute(name="x", value=object()),
        PutAttribute(name="x", value=2**70),
    ],
)
async def test_what_cannot_be_kept_is_refused(make_store, item):
    store = await make_store()
    with pytest.raises(InvalidInput):
        await store.run(partial(put_attributes, scope=DEFAULT_SCOPE, items=[item], now=1.0))
