"""Scenarios of changes in place: their clouds change flavors of servers that run, whoever dies meanwhile."""

from __future__ import annotations

import msgspec

from pelagos.model.states import RunState
from pelagos.simulation.changing import misfortune, with_somebody
from pelagos.simulation.describing import Description, adorned, changed
from pelagos.simulation.story import REFUSALS, Story
from pelagos.simulation.universe import Violated

__all__ = ["in_place", "newer"]


async def in_place(story: Story) -> None:
    """Flavors change while servers and processes die: nothing is made anew for that, and the clouds have what is
    described when it has succeeded."""
    rng, universe = story.rng, story.universe
    story.description = _adorned(story)
    by = await universe.incarnate(serves=rng.random() < 0.4)
    await story.ended(await story.up(by))
    for _ in range(rng.randint(1, 4)):
        story.description = _changed(story)
        by = await with_somebody(story, by)
        try:
            await _foreseen(story, by)
            run = await story.up(by)
        except REFUSALS as error:
            universe.note(f"refused: {error}")
            continue
        for _ in range(rng.randint(0, 2)):
            await story.wait(0.0, rng.choice((0.5, 5.0, 30.0)))
            await misfortune(story, by)
        if by.dead:
            by = await universe.incarnate(serves=True)
        if await story.ended(run) is RunState.SUCCEEDED:
            story.flavors_as_described()
    story.nothing_made_anew()


async def newer(story: Story) -> None:
    """Newer descriptions come while older ones are under way or cancelled: the last one is what the clouds have."""
    rng, universe = story.rng, story.universe
    story.description = _adorned(story)
    by = await universe.incarnate(serves=rng.random() < 0.4)
    await story.ended(await story.up(by))
    for _ in range(rng.randint(2, 5)):
        story.description = _changed(story)
        by = await with_somebody(story, by)
        try:
            run = await story.up(by)
            await story.wait(0.0, rng.choice((0.1, 1.0, 5.0)))
            if rng.random() < 0.25:
                await story.cancel(by, run)
            elif rng.random() < 0.2:
                by.kill()
        except REFUSALS as error:
            universe.note(f"refused: {error}")
    by = await with_somebody(story, by)
    run = await story.up(by)
    state = await story.ended(run)
    if not story.faulty and state is not RunState.SUCCEEDED:
        raise Violated(f"the last change ended {state.value}")
    if state is RunState.SUCCEEDED:
        story.flavors_as_described()
    story.nothing_made_anew()


async def _foreseen(story: Story, by: object) -> None:
    """The plan says so, too."""
    plan = await story.plan(by)  # type: ignore[arg-type]  # an incarnation
    replaced = [
        action
        for action in plan.actions
        if action.action == "replace" and any(change.path.startswith("resource.") for change in action.changes)
    ]
    if replaced:
        raise Violated(f"what could be changed in place is planned to be made anew: {replaced}")


def _adorned(story: Story) -> Description:
    """With policies that let changes through."""
    old = adorned(story.rng, story.description)
    nodes = tuple(msgspec.structs.replace(node, change="replace") for node in old.nodes)
    return msgspec.structs.replace(old, nodes=nodes)


def _changed(story: Story) -> Description:
    """One or more nodes with other flavors."""
    description = story.description
    for _ in range(story.rng.randint(1, 2)):
        description = changed(story.rng, description)
    return description
