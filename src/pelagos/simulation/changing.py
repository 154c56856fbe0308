"""Scenarios of changes under way: rolling ones among misfortunes, newer ones, failing ones, and saved plans."""

from __future__ import annotations

import asyncio

from pelagos.clouds.errors import ServerNotFound
from pelagos.model.errors import Conflict
from pelagos.model.states import RunState
from pelagos.simulation.describing import Description, adorned, changed, varied
from pelagos.simulation.story import REFUSALS, Story
from pelagos.simulation.universe import Died, Incarnation, Violated
from pelagos.wire.infrastructures import SavedPlan

__all__ = ["carry_out", "fails", "misfortune", "plans", "reconfigure", "supersede", "with_somebody"]


async def reconfigure(story: Story) -> None:
    """Changes that are carried out while servers and processes die."""
    rng, universe = story.rng, story.universe
    story.description = adorned(rng, story.description)
    by = await universe.incarnate(serves=rng.random() < 0.4)
    await story.ended(await story.up(by))
    for _ in range(rng.randint(1, 3)):
        story.description = changed(rng, story.description)
        by = await with_somebody(story, by)
        run = await story.up(by)
        for _ in range(rng.randint(0, 2)):
            await story.wait(0.0, 15.0)
            await misfortune(story, by)
        if by.dead:
            by = await universe.incarnate(serves=True)
        await story.ended(run)
    await _shown(story)


async def _shown(story: Story) -> None:
    """What has befallen servers is to be seen by all."""
    await story.wait(15.0, 30.0)


async def with_somebody(story: Story, by: Incarnation) -> Incarnation:
    """The process, or another where it is dead."""
    return by if by.alive else await story.universe.incarnate(serves=True)


async def misfortune(story: Story, by: Incarnation) -> None:
    """A process dies, or something befalls a server."""
    servers = story.real_servers()
    if story.rng.random() < 0.25:
        by.kill()
    elif servers:
        account, provider_id = story.rng.choice(servers)
        cloud = story.universe.clouds[account]
        story.universe.note(f"{provider_id} in {account} is struck")
        try:
            story.rng.choice((cloud.kill, cloud.stop, cloud.vanish))(provider_id)
        except ServerNotFound:
            await asyncio.sleep(0)


async def supersede(story: Story) -> None:
    """Newer descriptions come while older ones are under way; each run ends, and the last one wins."""
    rng = story.rng
    story.description = adorned(rng, story.description)
    by = await story.universe.incarnate(serves=rng.random() < 0.4)
    runs: list[str] = []
    for _ in range(rng.randint(2, 5)):
        runs.append(await story.up(by))
        await story.wait(0.0, rng.choice((0.1, 5.0, 30.0)))
        if rng.random() < 0.2:
            try:
                node = rng.choice(story.description.nodes)
                runs.append(await story.scale(by, node.name, "+1"))
            except REFUSALS as error:
                story.universe.note(f"refused: {error}")
        story.description = (varied if rng.random() < 0.4 else _otherwise)(rng, story.description, story.accounts)
    runs.append(await story.up(by))
    states = [await story.ended(run) for run in runs]
    if states[-1] is not RunState.SUCCEEDED:
        raise Violated(f"the last change ended {states[-1].value}")
    if RunState.FAILED in states:
        raise Violated(f"a change failed in fair weather: {[state.value for state in states]}")


def _otherwise(rng: object, old: Description, accounts: tuple[str, ...]) -> Description:
    return changed(rng, old)  # type: ignore[arg-type]  # the generator that varied() takes too


async def fails(story: Story) -> None:
    """A description whose image never becomes healthy: what runs goes on running, whatever becomes of the change."""
    rng, universe = story.rng, story.universe
    story.description = adorned(rng, story.description)
    good = story.description
    by = await universe.incarnate(serves=rng.random() < 0.3)
    await story.ended(await story.up(by))
    before = _ready(story)
    how = rng.choice(("rollback", "stop", "keep"))
    broken = changed(rng, good, health="bad", on_failure=how, change="replace")
    story.description = broken
    run = await story.up(by)
    if rng.random() < 0.3:
        await story.wait(0.0, 30.0)
        by.kill()
        by = await universe.incarnate(serves=True)
    state = await story.ended(run)
    if state is not RunState.FAILED:
        raise Violated(f"a change to what never becomes healthy ended {state.value}")
    after = _ready(story)
    for node in good.nodes:
        if node.max_unavailable == 0 and after.get(node.name, 0) < before.get(node.name, 0):
            raise Violated(f"{how}: of {before} ready instances {after} are left")
    if how == "rollback" and not by.serves:
        if after != before:
            raise Violated(f"rolled back, {after} are ready instead of {before}")
        story.description = good
        actions = (await story.plan(by)).actions
        undone = [action for action in actions if action.action not in ("keep", "update")]
        if undone:
            raise Violated(f"rolled back, and still there is to do: {undone}")
    story.description = good


def _ready(story: Story) -> dict[str, int]:
    rows = story.universe.query(
        "SELECT node, count(*) FROM instances WHERE deleted_at IS NULL AND state = 'ready' GROUP BY 1"
    )
    return {str(row[0]): int(row[1]) for row in rows}


async def plans(story: Story) -> None:
    """A saved plan does exactly what it said, or nothing."""
    rng, universe = story.rng, story.universe
    story.description = adorned(rng, story.description)
    by = await universe.incarnate()
    if rng.random() < 0.8:
        await story.ended(await story.up(by))
    for _ in range(rng.randint(1, 3)):
        story.description = (varied if rng.random() < 0.5 else _otherwise)(rng, story.description, story.accounts)
        names = [node.name for node in story.description.nodes]
        options = {"without": (rng.choice(names),)} if len(names) > 1 and rng.random() < 0.3 else {}
        try:
            plan = await story.plan(by, **options)
        except REFUSALS as error:
            universe.note(f"refused: {error}")
            continue
        if rng.random() < 0.3:
            await _not_elsewhere(story, by, plan)
            by = await with_somebody(story, by)
        meanwhile = rng.random() < 0.4
        if meanwhile:
            await misfortune(story, by)
            by = await with_somebody(story, by)
        await carry_out(story, by, plan)
        by = await with_somebody(story, by)
    await _shown(story)


async def _not_elsewhere(story: Story, by: Incarnation, plan: SavedPlan) -> None:
    """While an account of the plan is not in the pool, it is refused, and nothing is done on another one."""
    there = list(story.universe.clouds)
    if not plan.accounts:
        return
    gone = story.rng.choice(plan.accounts).name
    if len(there) > 1:
        await by.have_accounts(name for name in there if name != gone)
    else:
        await by.have_accounts(["elsewhere"])
    try:
        run = await story.apply(by, plan)
    except Conflict as error:
        story.universe.note(f"refused: {error}")
        if not error.details.get("stale"):
            raise Violated(f"without the account {gone} the plan is refused for another reason: {error}") from error
    except Died:
        return
    else:
        raise Violated(f"without the account {gone} the plan of run {run} was accepted")
    await by.have_accounts(there)


async def carry_out(story: Story, by: Incarnation, plan: SavedPlan) -> None:
    """Carry out a saved plan, whoever dies. Raises Violated if more was done than it says, or less with success."""
    universe = story.universe
    before = {row[0]: row[1] for row in universe.query("SELECT id, node FROM instances WHERE deleted_at IS NULL")}
    request = story.request()
    if story.rng.random() < 0.3:
        by.edges.arm(story.rng.randint(0, 60))
    try:
        run = await story.apply(by, plan, request)
    except Died:
        by = await universe.incarnate()
        try:
            run = await story.apply(by, plan, request)
        except Conflict as error:
            universe.note(f"refused: {error}")
            return
    except REFUSALS as error:
        universe.note(f"refused: {error}")
        return
    await universe.until("the run ends or its process dies", lambda: story.state(run).final or by.dead, 3000.0)
    if by.dead:
        # Nobody but a newcomer's standby goes on with it, and does what the plan says.
        await universe.incarnate(serves=True)
    state = await story.ended(run)
    by.edges.disarm()
    _compare(story, plan, run, before, state)


def _compare(story: Story, plan: SavedPlan, run: str, before: dict[str, str], state: RunState) -> None:
    query = story.universe.query
    allowed = {key for a in plan.actions if a.action in ("destroy", "replace") for key in a.instances}
    # A run that goes back to what was before heals what has failed, as any maintainer does.
    going = (
        "SELECT DISTINCT instance_id FROM events e WHERE kind = 'instance.destroying' AND run_id = ?"
        " AND NOT (json_extract(data, '$.reason') = 'it failed' AND EXISTS (SELECT 1 FROM events b"
        " WHERE b.run_id = e.run_id AND b.kind = 'run.rolling_back' AND b.position < e.position))"
    )
    went = {row[0] for row in query(going, run)}
    foreign = {key for key in went if key in before}
    if not foreign <= allowed:
        raise Violated(f"the plan says {sorted(allowed)} go, and {sorted(foreign - allowed)} went too")
    _compare_accounts(story, plan, run)
    if state is not RunState.SUCCEEDED:
        return
    if not allowed <= foreign:
        raise Violated(f"{sorted(allowed - foreign)} were to go, and did not")
    said: dict[str, int] = {}
    for action in plan.actions:
        if action.action in ("create", "replace"):
            said[action.node] = said.get(action.node, 0) + action.count
    made = {
        str(node): int(count)
        for node, count in query(
            "SELECT node, count(*) FROM instances WHERE run_id = ? AND ready_at IS NOT NULL AND deleted_at IS NULL"
            " GROUP BY 1",
            run,
        )
    }
    if made != said:
        raise Violated(f"the plan says {said} are made, and {made} were")


def _compare_accounts(story: Story, plan: SavedPlan, run: str) -> None:
    """What was made, before anything was taken back, was made where the plan says, whatever became of it."""
    said = {(node.node, choice.implementation): choice.account for node in plan.nodes for choice in node.choices}
    made = story.universe.query(
        "SELECT i.node, i.implementation, i.account, s.account FROM instances i JOIN servers s ON s.id = i.server_id"
        " JOIN events e ON e.instance_id = i.id AND e.kind = 'instance.pending' WHERE e.run_id = ?"
        " AND NOT EXISTS (SELECT 1 FROM events b WHERE b.run_id = e.run_id AND b.kind = 'run.rolling_back'"
        " AND b.position < e.position)",
        run,
    )
    for node, implementation, account, where in made:
        if not account == where == said.get((node, implementation)):
            raise Violated(f"the plan makes {node} on {said.get((node, implementation))}, it was made on {where}")
