"""The scenarios: each is a function that tells one story, up to the good end which all share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from pelagos.clouds.simulated import Faults
from pelagos.model.errors import NotFound
from pelagos.model.states import RunState
from pelagos.simulation import keeping, updating
from pelagos.simulation.changing import fails, plans, reconfigure, supersede
from pelagos.simulation.describing import Description, varied
from pelagos.simulation.story import FEW_FAULTS, MANY_FAULTS, NO_FAULTS, REFUSALS, Story
from pelagos.simulation.universe import Died, Incarnation, Violated

__all__ = ["SCENARIOS", "Scenario"]

Tell = Callable[[Story], Awaitable[None]]


class Scenario(msgspec.Struct, frozen=True):
    """``faults``: by chance, in every call. ``edges``: the story is told once to count the first process's edges, then
    again with its death at some of them."""

    name: str
    tell: Tell
    faults: Faults = NO_FAULTS
    edges: bool = False
    most: int = 4
    parts: bool = False
    """Servers need volumes and addresses."""
    updates: bool = False
    """Clouds change flavors in place."""


async def _build(story: Story) -> None:
    by = await story.universe.incarnate()
    if await story.ended(await story.up(by, strategy=story.rng.choice(("parallel", "sequential")))) is not (
        RunState.SUCCEEDED
    ):
        raise Violated("a build in fair weather failed")
    # Asked again, nothing is to do.
    before = story.real_servers()
    await story.ended(await story.up(by))
    if story.real_servers() != before:
        raise Violated("a second build changed something")


async def _crash(story: Story) -> None:
    """Build, scale and take down, with a death at an edge; whoever comes next finishes it without being told."""
    universe = story.universe
    by: Incarnation | None = None
    fatal = story.dies_at
    for step in ("up", "scale", "down"):
        request = story.request()
        for _ in range(5):
            try:
                if by is None or not by.alive:
                    by = await universe.incarnate(dies_at=fatal)
                    fatal = None
                match step:
                    case "up":
                        run = await story.up(by, request)
                    case "scale":
                        run = await story.scale(
                            by, story.description.nodes[-1].name, str(story.description.nodes[-1].most)
                        )
                    case _:
                        run = await story.down(by, request)
                await _ended_or_died(story, by, run)
                break
            except Died:
                fatal = None
                continue


async def _ended_or_died(story: Story, by: Incarnation, run: str) -> None:
    await story.universe.until("the run ends or its process dies", lambda: story.state(run).final or by.dead, 3000.0)
    if by.dead:
        raise Died("while it was waited for")


async def _heal(story: Story) -> None:
    """A daemon keeps it alive, whatever befalls its servers."""
    universe = story.universe
    by = await universe.incarnate(serves=True)
    await story.ended(await story.up(by))
    for _ in range(story.rng.randint(1, 4)):
        servers = story.real_servers()
        if servers:
            account, provider_id = story.rng.choice(servers)
            cloud = universe.clouds[account]
            what = story.rng.choice(("kill", "stop", "vanish", "bad", "flapping"))
            universe.note(f"{provider_id} in {account}: {what}")
            match what:
                case "kill":
                    cloud.kill(provider_id)
                case "stop":
                    cloud.stop(provider_id)
                case "vanish":
                    cloud.vanish(provider_id)
                case _:
                    cloud.set_health(provider_id, "bad" if what == "bad" else "flapping")
        await story.wait(0.0, 60.0)
    for account, provider_id in story.real_servers():
        universe.clouds[account].set_health(provider_id, "ok")
    await universe.until("it is healed", lambda: _state(story) == "ready", 1500.0)


def _state(story: Story) -> str:
    rows = story.universe.query("SELECT state FROM infrastructures WHERE deleted_at IS NULL")
    return str(rows[0][0]) if rows else "gone"


async def _scale(story: Story) -> None:
    """Scaled up and down, sometimes by several at once."""
    by = await story.universe.incarnate(serves=story.rng.random() < 0.5)
    await story.ended(await story.up(by))

    async def one() -> None:
        node = story.rng.choice(story.description.nodes)
        number = story.rng.choice((str(story.rng.randint(node.least, node.most)), "+1", "-1"))
        try:
            await story.ended(await story.scale(by, node.name, number))
        except REFUSALS as error:
            story.universe.note(f"refused: {error}")

    for _ in range(story.rng.randint(1, 4)):
        await asyncio.gather(*(one() for _ in range(story.rng.randint(1, 3))))


async def _update(story: Story) -> None:
    """Another description, sometimes before the first is built."""
    by = await story.universe.incarnate(serves=story.rng.random() < 0.3)
    for _ in range(story.rng.randint(2, 4)):
        run = await story.up(by)
        if story.rng.random() < 0.6:
            await story.ended(run)
        else:
            await story.wait(0.0, 5.0)
        story.description = varied(story.rng, story.description, story.accounts)


async def _two(story: Story) -> None:
    """Two processes at once on one infrastructure, on one host or on two."""
    universe = story.universe
    hosts = story.rng.choice((("here", "here"), ("here", "there")))
    pair = [await universe.incarnate(serves=story.rng.random() < 0.3, host=host) for host in hosts]

    async def one(by: Incarnation) -> None:
        await story.wait(0.0, 3.0)
        try:
            await story.ended(await story.up(by))
            await story.wait(0.0, 2.0)
            node = story.rng.choice(story.description.nodes)
            await story.ended(await story.scale(by, node.name, str(story.rng.randint(node.least, node.most))))
        except REFUSALS as error:
            universe.note(f"p{by.number} refused: {error}")

    await asyncio.gather(*(one(by) for by in pair))
    if story.rng.random() < 0.5:
        pair[0].kill()


async def _frozen(story: Story) -> None:
    """A process stops for longer than its leases last, another takes over, and it wakes up."""
    universe = story.universe
    serves = story.rng.random() < 0.5
    first = await universe.incarnate(serves=serves, host="here")
    if story.rng.random() < 0.8:
        # With something in hand: a transaction handed over or just committed, a call just sent or answered.
        first.edges.arm(story.rng.randint(3, 60), pause=True)
    request = story.request()
    run = ""
    try:
        run = await story.up(first, request)
    except Died as error:
        universe.note(f"not answered: {error}")
    await story.wait(0.0, 10.0)
    first.edges.disarm()
    first.pause()
    second = await universe.incarnate(serves=True, host=story.rng.choice(("here", "there")))
    if story.rng.random() < 0.2:
        await story.wait(0.0, 10.0)
        first.resume()
        await story.wait(0.0, 4.0)
        first.pause()
    await story.wait(16.0, 60.0)
    first.resume()
    # Whoever was not answered asks again, and is told of the same run.
    await story.ended(run or await story.up(second, request))
    if story.rng.random() < 0.5:
        await story.wait(0.0, 20.0)
        second.kill()


async def _elsewhere(story: Story) -> None:
    """A process dies on another host: its leases have to expire."""
    universe = story.universe
    first = await universe.incarnate(host="there", serves=story.rng.random() < 0.5)
    run = await story.up(first)
    await story.wait(0.0, 8.0)
    first.kill()
    await universe.incarnate(host="here", serves=True)
    await story.ended(run)


async def _cancel(story: Story) -> None:
    """Cancelled at some moment, rolled back or kept; what was there before is never touched."""
    by = await story.universe.incarnate(serves=story.rng.random() < 0.3)
    before: list[tuple[str, str]] = []
    if story.rng.random() < 0.5:
        await story.ended(await story.up(by))
        before = story.real_servers()
        story.description = msgspec.structs.replace(
            story.description,
            nodes=tuple(
                msgspec.structs.replace(node, least=node.least + 1, most=node.most + 1)
                for node in story.description.nodes
            ),
        )
    run = await story.up(by)
    await story.wait(0.0, story.rng.choice((0.05, 1.0, 10.0)))
    keep = story.rng.random() < 0.4
    await story.cancel(by, run, keep=keep)
    state = await story.ended(run)
    if state is RunState.CANCELLED:
        after = story.real_servers()
        if not set(before) <= set(after):
            raise Violated(f"cancelling took away what was there before: {set(before) - set(after)}")
        if not keep and set(after) != set(before):
            raise Violated(f"cancelling left what the run made: {set(after) - set(before)}")


async def _rename(story: Story) -> None:
    """Every node gets another name, and the change is cancelled at some moment: what served before, or what takes its
    place, serves afterwards; never is there less than there was."""
    by = await story.universe.incarnate(serves=story.rng.random() < 0.3)
    await story.ended(await story.up(by))
    before = story.real_servers()
    old = story.description
    story.description = msgspec.structs.replace(
        old,
        nodes=tuple(
            msgspec.structs.replace(
                node, name=f"new{node.name}", depends_on=tuple(f"new{name}" for name in node.depends_on)
            )
            for node in old.nodes
        ),
    )
    run = await story.up(by)
    await story.wait(0.0, story.rng.choice((1.0, 10.0, 60.0)))
    await story.cancel(by, run, keep=False)
    state = await story.ended(run)
    after = story.real_servers()
    if len(after) < len(before):
        raise Violated(f"a {state.value} change left {len(after)} servers of {len(before)}")
    if state is RunState.CANCELLED and not set(before) <= set(after) and not set(after) - set(before):
        raise Violated("what was there before went, and nothing took its place")


async def _faults(story: Story) -> None:
    """Every kind of fault, in every call."""
    by = await story.universe.incarnate(serves=story.rng.random() < 0.5)
    run = await story.up(by, keep=story.rng.random() < 0.5)
    if story.rng.random() < 0.5:
        await story.wait(0.0, 120.0)
    else:
        await story.ended(run)
    if story.rng.random() < 0.5:
        try:
            await story.down(by)
            await story.wait(0.0, 60.0)
        except REFUSALS as error:
            story.universe.note(f"refused: {error}")


async def _chaos(story: Story) -> None:
    """Anything, in any order, at any moment."""
    universe = story.universe
    rng = story.rng
    for _ in range(rng.randint(4, 14)):
        alive = [i for i in universe.incarnations if i.alive]
        running = [i for i in alive if i.process.state == "running"]
        if not running or (len(alive) < 3 and rng.random() < 0.2):
            dies_at = rng.randint(0, 150) if rng.random() < 0.5 else None
            try:
                await universe.incarnate(
                    serves=rng.random() < 0.5, host=rng.choice(("here", "here", "there")), dies_at=dies_at
                )
            except Died:
                universe.note("it died while it started")
            continue
        by = rng.choice(running)
        try:
            await _something(story, by)
        except REFUSALS as error:
            universe.note(f"refused: {error}")
        await story.wait(0.0, rng.choice((0.1, 3.0, 30.0)))
        for incarnation in universe.incarnations:
            if incarnation.process.state == "paused" and rng.random() < 0.5:
                incarnation.resume()


async def _something(story: Story, by: Incarnation) -> None:
    rng, universe = story.rng, story.universe
    match rng.choice(("up", "up", "scale", "down", "update", "maintain", "cancel", "crash", "pause", "strike")):
        case "up":
            await story.up(by, keep=rng.random() < 0.3, strategy=rng.choice(("parallel", "sequential")))
        case "scale":
            node = rng.choice(story.description.nodes)
            await story.scale(by, node.name, rng.choice(("+1", "-1", str(node.most))))
        case "down":
            await story.down(by)
        case "maintain":
            await story.maintain(by)
        case "update":
            story.description = varied(rng, story.description, story.accounts)
            await story.up(by)
        case "cancel":
            open_runs = universe.query("SELECT id FROM runs WHERE finished_at IS NULL ORDER BY created_at")
            if open_runs:
                await story.cancel(by, str(rng.choice(open_runs)[0]), keep=rng.random() < 0.4)
        case "crash":
            if rng.random() < 0.5:
                by.kill()
            else:
                by.edges.arm(rng.randint(0, 40), pause=rng.random() < 0.3)
        case "pause":
            by.pause()
        case _:
            keeping.strike(story)


async def _partitioned(story: Story) -> None:
    """Maintainers are cut off from the store for longer than their leases last, and come back."""
    universe = story.universe
    pair = [await universe.incarnate(serves=True, host=host) for host in ("here", "there")]
    run = await story.up(pair[0])
    for _ in range(story.rng.randint(1, 3)):
        await story.wait(0.0, 10.0)
        cut = story.rng.choice(pair)
        cut.cut_off()
        if story.rng.random() < 0.5 and (servers := story.real_servers()):
            account, provider_id = story.rng.choice(servers)
            universe.note(f"{provider_id} in {account} vanishes")
            universe.clouds[account].vanish(provider_id)
        await story.wait(0.0, 60.0)
        if story.rng.random() < 0.2:
            cut.kill()
            pair = [by for by in universe.incarnations if by.alive] or [await universe.incarnate(serves=True)]
        cut.rejoin()
    await story.ended(run)


async def _broker(story: Story) -> None:
    """The broker is lost, with the replies that were on their way, and comes back: messages only wake."""
    universe = story.universe
    by = await universe.incarnate(serves=True)
    run = await story.up(by)
    for _ in range(story.rng.randint(1, 3)):
        await story.wait(0.0, 8.0)
        by.lose_broker()
        await story.wait(0.0, 40.0)
        by.find_broker()
        if story.rng.random() < 0.5:
            node = story.rng.choice(story.description.nodes)
            try:
                await story.scale(by, node.name, str(story.rng.randint(node.least, node.most)))
            except REFUSALS as error:
                universe.note(f"refused: {error}")
    await story.ended(run)


async def _quotas(story: Story) -> None:
    """Two infrastructures, built by two processes at once, want more than the project may have, whose limits change."""
    universe, rng = story.universe, story.rng
    own = story.description
    other = msgspec.structs.replace(own, name="other")
    wanted = sum(node.least for node in own.nodes)
    story.limited = ("servers", "volumes", "addresses")
    universe.limit("servers", rng.randint(wanted, 2 * wanted))
    universe.limit("volumes", rng.randint(0, 2 * wanted))
    universe.limit("addresses", rng.randint(0, 2 * wanted))
    pair = [await universe.incarnate(serves=rng.random() < 0.5, host=host) for host in ("here", "there")]

    async def one(by: Incarnation, description: Description) -> None:
        try:
            await story.wait(0.0, 2.0)
            story.description = description
            run = await story.up(by, keep=rng.random() < 0.5)
            await story.wait(0.0, 60.0)
            universe.limit(rng.choice(story.limited), rng.randint(0, 3 * wanted))
            await story.ended(run)
        except REFUSALS as error:
            universe.note(f"p{by.number} refused: {error}")

    await asyncio.gather(one(pair[0], own), one(pair[1], other))
    story.description = other
    for _ in range(8):
        try:
            if await story.ended(await story.down(pair[1])) is RunState.SUCCEEDED:
                break
        except NotFound:
            break
    story.description = own


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("build", _build),
        Scenario("crash", _crash, edges=True, most=3),
        Scenario("crash-in-faults", _crash, faults=FEW_FAULTS, edges=True, most=3),
        Scenario("heal", _heal),
        Scenario("scale", _scale, faults=FEW_FAULTS),
        Scenario("update", _update, faults=FEW_FAULTS),
        Scenario("two", _two, faults=FEW_FAULTS),
        Scenario("frozen", _frozen, faults=FEW_FAULTS),
        Scenario("elsewhere", _elsewhere, faults=FEW_FAULTS),
        Scenario("cancel", _cancel),
        Scenario("cancel-in-faults", _cancel, faults=FEW_FAULTS),
        Scenario("rename", _rename),
        Scenario("reconfigure", reconfigure),
        Scenario("reconfigure-in-faults", reconfigure, faults=FEW_FAULTS),
        Scenario("supersede", supersede),
        Scenario("fails", fails),
        Scenario("plans", plans),
        Scenario("protect", keeping.protect),
        Scenario("protect-in-faults", keeping.protect, faults=FEW_FAULTS),
        Scenario("kept", keeping.change),
        Scenario("kept-in-faults", keeping.change, faults=FEW_FAULTS),
        Scenario("adopt", keeping.adopt, faults=FEW_FAULTS, most=3),
        Scenario("autoscale", keeping.autoscale, most=2),
        Scenario("faults", _faults, faults=MANY_FAULTS),
        Scenario("chaos", _chaos, faults=FEW_FAULTS),
        Scenario("chaos-in-faults", _chaos, faults=MANY_FAULTS),
        Scenario("parts", _crash, edges=True, most=2, parts=True),
        Scenario("parts-in-faults", _crash, faults=FEW_FAULTS, edges=True, most=2, parts=True),
        Scenario("parts-healed", _heal, most=2, parts=True),
        Scenario("parts-in-chaos", _chaos, faults=MANY_FAULTS, most=3, parts=True),
        Scenario("partitioned", _partitioned, faults=FEW_FAULTS),
        Scenario("broker", _broker, faults=FEW_FAULTS),
        Scenario("quotas", _quotas, faults=FEW_FAULTS, most=3, parts=True),
        Scenario("renew", keeping.renew),
        Scenario("renew-in-faults", keeping.renew, faults=FEW_FAULTS),
        Scenario("in-place", updating.in_place, updates=True),
        Scenario("in-place-in-faults", updating.in_place, faults=FEW_FAULTS, updates=True),
        Scenario("in-place-newer", updating.newer, updates=True),
        Scenario("in-place-newer-in-faults", updating.newer, faults=FEW_FAULTS, updates=True),
    )
}
