"""Descriptions live in a repository: each change is a version, and going back is a normal change."""

import asyncio

import pytest
from sqlalchemy import delete, func, select

from pelagos.model import DEFAULT_SCOPE, Scope
from pelagos.model.errors import InvalidInput, NotFound
from pelagos.model.states import RunState
from pelagos.repository import find_repository
from pelagos.repository import history as history_of
from pelagos.services.infrastructure import queries
from pelagos.services.infrastructure.importing import KIND
from pelagos.services.infrastructure.messages import DeleteDefinition, ImportDefinitions
from pelagos.store.container_schema import commits, refs, repositories
from support.infrastructure_world import describe

pytestmark = pytest.mark.anyio

ONE = describe("shop", {"store": {}, "web": {"after": ["store"]}})
TWO = describe("shop", {"store": {}, "web": {"after": ["store"], "scaling": (2, 3)}, "cache": {}})


async def history(site):
    return await site.read(lambda c: queries.history(c, DEFAULT_SCOPE, "shop"))


async def test_each_change_is_a_version_and_a_repeat_is_none(make_site):
    site = await make_site({"east": {}})
    program = await site.program()
    await program.build(ONE)
    await program.build(ONE)
    await program.build(TWO)
    assert (await program.run("scale", scale={"web": "3"})).state is RunState.SUCCEEDED
    found = await history(site)
    assert [item.number for item in found] == [2, 1], "a repeat and a scaling are no versions"
    assert all(item.message.startswith("up, run ") and item.user_id == DEFAULT_SCOPE.user_id for item in found)
    texts = await site.read(lambda c: queries.revision(c, DEFAULT_SCOPE, "shop", "1"))
    assert texts.files == ONE and texts.revision == found[1]
    for name in ("2", "HEAD", found[0].id, found[0].id[:6]):
        assert (await site.read(lambda c, name=name: queries.revision(c, DEFAULT_SCOPE, "shop", name))).files == TWO


async def test_a_diff_names_places_and_texts(make_site):
    site = await make_site({"east": {}})
    program = await site.program()
    await program.build(ONE)
    await program.build(TWO)
    diff = await site.read(lambda c: queries.diff(c, DEFAULT_SCOPE, "shop", "1", "2"))
    changes = {(change.change, change.path): (change.old, change.new) for change in diff.changes}
    assert changes["changed", "nodes.web.scaling.max"] == (1, 3)
    assert changes["changed", "nodes.web.scaling.min"] == (1, 2)
    assert ("added", "nodes.cache") in changes and ("added", "node_def:cache_node") in changes
    assert list(diff.files) == [name for name in TWO if TWO[name] != ONE.get(name)]
    assert "+    scaling: {min: 2, max: 3}" in "\n".join(diff.files.values())
    same = await site.read(lambda c: queries.diff(c, DEFAULT_SCOPE, "shop", "2", "HEAD"))
    assert not same.changes and not same.files


async def test_rolling_back_is_a_normal_change_and_makes_a_version(make_site):
    site = await make_site({"east": {}})
    program = await site.program()
    await program.build(ONE)
    before = site.alive()
    await program.build(TWO)
    plan = await program.plan(infrastructure="shop", revision="1")
    assert plan.destroys > 0 and plan.changes
    done = await program.run("up", revision="HEAD~1")
    assert done.state is RunState.SUCCEEDED
    assert sorted(set(site.alive())) == sorted(set(before)), "the cache is gone"
    found = await history(site)
    assert [item.number for item in found] == [3, 2, 1]
    assert found[0].message == f"rollback to version 1, run {done.id}"
    assert found[1].message.startswith("up, run ")
    files = [(await site.read(lambda c, n=n: queries.revision(c, DEFAULT_SCOPE, "shop", n))).files for n in ("1", "3")]
    assert files[0] == files[1] == ONE


async def test_the_projects_definitions_of_then_are_used(make_site):
    site = await make_site({"east": {}})
    program = await site.program()
    definitions = {"nodes.yaml": ONE["nodes.yaml"]}
    alone = {"sources": {"infra.yaml": ONE["infra.yaml"]}, "entries": ("infra.yaml",)}
    await program.ask("import_definitions", ImportDefinitions(sources=definitions, entries=("nodes.yaml",)))
    assert (await program.finish((await program.start_run("up", **alone)).id)).state is RunState.SUCCEEDED
    newer = {"nodes.yaml": ONE["nodes.yaml"].replace("ports: [80]", "ports: [81]")}
    await program.ask("import_definitions", ImportDefinitions(sources=newer, entries=("nodes.yaml",)))
    texts = await site.read(lambda c: queries.revision(c, DEFAULT_SCOPE, "shop", "1"))
    assert texts.files == alone["sources"]
    assert texts.definitions == {"store_node": definitions, "web_node": definitions}
    assert (await program.finish((await program.start_run("up", **alone)).id)).state is RunState.SUCCEEDED
    diff = await site.read(lambda c: queries.diff(c, DEFAULT_SCOPE, "shop", "HEAD~1", "HEAD"))
    assert list(diff.files) == ["definitions/store_node/nodes.yaml", "definitions/web_node/nodes.yaml"]
    assert (await program.run("up", revision="1")).state is RunState.SUCCEEDED
    texts = await site.read(lambda c: queries.revision(c, DEFAULT_SCOPE, "shop", "HEAD"))
    assert texts.definitions == {"store_node": definitions, "web_node": definitions}, "those of then"
    await program.ask("delete_definition", DeleteDefinition(type="web_node"))
    left = await site.read(lambda c: queries.definitions(c, DEFAULT_SCOPE))
    assert [view.type for view in left] == ["store_node"]
    kept = await site.read(lambda c: find_repository(c, DEFAULT_SCOPE, KIND, KIND))
    told = await site.read(lambda c: history_of(c, kept))
    assert [info.message for info in told] == ["delete web_node", *["import store_node, web_node"] * 2]


async def test_what_is_no_version_is_told(make_site):
    site = await make_site({"east": {}})
    program = await site.program()
    await program.build(ONE)
    with pytest.raises(NotFound, match="no revision 7"):
        await site.read(lambda c: queries.revision(c, DEFAULT_SCOPE, "shop", "7"))
    with pytest.raises(NotFound, match="no revision 'feed'"):
        await site.read(lambda c: queries.revision(c, DEFAULT_SCOPE, "shop", "feed"))
    with pytest.raises(InvalidInput):
        await site.read(lambda c: queries.revision(c, DEFAULT_SCOPE, "shop", "a b"))
    with pytest.raises(NotFound):
        await site.read(lambda c: queries.history(c, Scope("other", "somebody"), "shop"))
    with pytest.raises(NotFound):
        await program.start_run("up", infrastructure="shop", revision="9")
    assert len(await history(site)) == 1


async def test_a_version_survives_the_infrastructure_as_long_as_its_tombstone(make_site):
    site = await make_site({"east": {}})
    program = await site.program()
    await program.build(ONE)
    assert (await program.run("down")).state is RunState.SUCCEEDED
    kept = await site.read(
        lambda c: c.execute(select(func.count()).where(repositories.c.kind == "infrastructure")).scalar()
    )
    assert kept == 1


async def test_texts_of_any_script_are_kept_and_what_cannot_be_kept_is_refused_at_once(make_site):
    site = await make_site({"east": {}})
    program = await site.program()
    name = next(iter(ONE))
    long = {**ONE, name: ONE[name] + "\n# " + "字" * 300_000 + "\U0001f600" * 200_000}
    run = await program.build(long)
    kept = await site.read(lambda c: queries.revision(c, DEFAULT_SCOPE, "shop", "HEAD"))
    assert kept.files == long
    too_many = {**ONE, **{f"more-{number:06}.yaml": f"# {number}" for number in range(15_000)}}
    with pytest.raises(InvalidInput, match="too large"):
        await program.up(too_many)
    again = await program.build(ONE)
    assert again.infrastructure_id == run.infrastructure_id, "the service serves on"


async def test_one_that_cannot_be_maintained_does_not_end_the_others(make_site):
    site = await make_site({"east": {}})
    program = await site.program(serves=True)
    await program.build(ONE)
    await site.run(lambda c: c.execute(delete(refs)) and c.execute(delete(commits)) and c.execute(delete(repositories)))
    stuck = await program.up(TWO)
    other = await program.build(describe("other", {"web": {}}))
    assert other.state is RunState.SUCCEEDED
    await asyncio.sleep(1)  # it was tried again meanwhile
    again = await program.build(describe("third", {"web": {}}))
    assert again.state is RunState.SUCCEEDED
    assert not (await site.read(lambda c: queries.run(c, DEFAULT_SCOPE, stuck.id))).state.final
