"""Scenarios of what keeps infrastructures: policies of healing, protection, imports, autoscaling.

They end as all do: policies are taken away and protections lifted first, since the good end takes everything down.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import msgspec

from pelagos.clouds.errors import ServerNotFound
from pelagos.model.errors import Conflict
from pelagos.services.infrastructure.messages import Protect
from pelagos.services.infrastructure.values import CompiledInfrastructure
from pelagos.simulation.changing import carry_out
from pelagos.simulation.describing import adorned, changed, varied
from pelagos.simulation.story import REFUSALS, Story
from pelagos.simulation.universe import Incarnation, Violated
from pelagos.wire.infrastructures import AdoptRequest, ProtectRequest, RunRequest

__all__ = ["adopt", "autoscale", "change", "protect", "renew", "strike"]

_ACTIONS = ("restart", "replace", "keep")
_GOAL = 10.0


async def protect(story: Story) -> None:
    """Some instances are protected, by policy or by command, while everything is tried that destroys instances."""
    rng, universe = story.rng, story.universe
    _set_policies(story)
    by = await universe.incarnate(serves=rng.random() < 0.7)
    await story.ended(await story.up(by))
    for _ in range(rng.randint(3, 8)):
        if not by.alive:
            by = await universe.incarnate(serves=rng.random() < 0.7)
        try:
            await _one_trial(story, by)
        except REFUSALS as error:
            universe.note(f"refused: {error}")
        await story.wait(0.0, rng.choice((0.5, 20.0, 60.0)))
    await _free_all(story, by)


async def change(story: Story) -> None:
    """What is protected and what healing keeps or restarts, while descriptions change, supersede each other, and are
    saved as plans."""
    rng, universe = story.rng, story.universe
    story.description = adorned(rng, story.description)
    _set_policies(story)
    by = await universe.incarnate(serves=rng.random() < 0.4)
    await story.ended(await story.up(by))
    for _ in range(rng.randint(3, 7)):
        if not by.alive:
            by = await universe.incarnate(serves=rng.random() < 0.7)
        try:
            await _one_change(story, by)
        except REFUSALS as error:
            universe.note(f"refused: {error}")
        await story.wait(0.0, rng.choice((0.5, 20.0, 60.0)))
    await _free_all(story, by)


async def _one_change(story: Story, by: Incarnation) -> None:
    rng = story.rng
    match rng.choice(("change", "change", "supersede", "plan", "plan", "replace", "trial", "trial")):
        case "change":
            story.description = changed(rng, story.description)
            await story.up(by)
        case "supersede":
            for _ in range(2):
                story.description = changed(rng, story.description)
                await story.up(by)
                await story.wait(0.0, 10.0)
        case "plan":
            story.description = changed(rng, story.description)
            plan = await story.plan(by)
            if rng.random() < 0.5:
                await _one_trial(story, by)
            if by.alive:
                await carry_out(story, by, plan)
        case "replace":
            await story.up(by, replace=(rng.choice(story.description.nodes).name,))
        case _:
            await _one_trial(story, by)


def _set_policies(story: Story) -> None:
    rng, renewals = story.rng, story.universe.world.rng("renewals")

    def policy() -> str:
        heal = {state: rng.choice(_ACTIONS) for state in ("shutdown", "failed", "temp_failed") if rng.random() < 0.5}
        heal |= {"attempts": str(rng.choice((2, 5, 50)))} if rng.random() < 0.5 else {}
        heal |= {"outdated": renewals.choice(("replace", "keep"))} if renewals.random() < 0.7 else {}
        parts = [f"heal: {{{', '.join(f'{key}: {value}' for key, value in heal.items())}}}"]
        parts += ["protect: true"] if rng.random() < 0.4 else []
        parts += [f"scale_down: {rng.choice(('unhealthy', 'youngest', 'oldest'))}"]
        return ", ".join(parts)

    nodes = tuple(msgspec.structs.replace(node, keeping=policy()) for node in story.description.nodes)
    story.description = msgspec.structs.replace(story.description, nodes=nodes)


async def _one_trial(story: Story, by: Incarnation) -> None:
    rng = story.rng
    node = rng.choice(story.description.nodes)
    match rng.choice(("protect", "protect", "lift", "down", "scale", "update", "strike", "strike", "heal", "crash")):
        case "protect":
            await _protect(story, by, node.name, on=True)
        case "lift":
            await _protect(story, by, node.name, on=False)
        case "down":
            await story.down(by)
        case "scale":
            await story.scale(by, node.name, rng.choice(("+1", "-1", str(node.least))))
        case "update":
            story.description = varied(rng, story.description, story.accounts)
            await story.up(by)
        case "heal":
            request = RunRequest(kind="maintain", infrastructure=story.description.name, reset=("*",))
            await story.run(by, request)
        case "crash":
            by.kill()
        case _:
            strike(story)


async def _protect(story: Story, by: Incarnation, node: str, *, on: bool) -> None:
    request = Protect(infrastructure=story.description.name, request=ProtectRequest(node=node, protected=on))
    await by.call(lambda commands: commands.protect(request))
    story.universe.note(f"{node} is {'' if on else 'not '}protected")


async def _free_all(story: Story, by: Incarnation) -> None:
    """Nothing is protected any more, and no policy stands in the way of the good end."""
    universe = story.universe
    nodes = tuple(msgspec.structs.replace(node, keeping="") for node in story.description.nodes)
    story.description = msgspec.structs.replace(story.description, nodes=nodes)
    if not by.alive or not by.serves:
        by = await universe.incarnate(serves=True)  # somebody who carries on what others left
    open_run = "SELECT id FROM runs WHERE finished_at IS NULL"
    await universe.until("no run is at work", lambda: not universe.query(open_run), 3000.0)
    protected = "SELECT DISTINCT node FROM instances WHERE protected AND deleted_at IS NULL"
    for _ in range(10):
        if _protects(story):
            try:
                await story.ended(await story.up(by))
            except REFUSALS as error:
                universe.note(f"refused: {error}")
        for (node,) in universe.query(protected):
            try:
                await _protect(story, by, node, on=False)
            except REFUSALS as error:
                universe.note(f"refused: {error}")
        if not universe.query(protected) and not _protects(story):
            return
        await story.wait(1.0, 5.0)
    raise Violated(f"protections cannot be lifted: {universe.query(protected)}")


def _protects(story: Story) -> bool:
    """Whether what is wanted says that instances are protected as soon as they are ready."""
    rows = story.universe.query("SELECT compiled_blob FROM infrastructures WHERE deleted_at IS NULL")
    wanted = [msgspec.msgpack.decode(row[0], type=CompiledInfrastructure) for row in rows]
    return any(node.policy.protect for compiled in wanted for node in compiled.nodes)


async def adopt(story: Story) -> None:
    """Servers that are there already are taken on record, with faults in every call and deaths in between."""
    rng, universe = story.rng, story.universe
    by = await universe.incarnate(serves=rng.random() < 0.5)
    await story.ended(await story.up(by))
    foreign: list[tuple[str, str]] = []
    for _ in range(rng.randint(1, 3)):
        account = rng.choice(story.accounts)
        foreign.append((account, universe.clouds[account].add_foreign("somebody-elses")))
    for account, provider_id in foreign:
        if not by.alive:
            by = await universe.incarnate(serves=rng.random() < 0.5)
        node = rng.choice(story.description.nodes)
        request = RunRequest(
            kind="adopt",
            infrastructure=story.description.name,
            adopt=AdoptRequest(node=node.name, cloud=account, server=provider_id),
        )
        try:
            run = await story.run(by, request)
            if rng.random() < 0.4:
                await story.wait(0.0, 3.0)
                by.kill()
                by = await universe.incarnate(serves=True)
            await story.ended(run)
        except Conflict as error:
            universe.note(f"refused: {error}")
        except REFUSALS as error:
            universe.note(f"refused: {error}")
    await story.wait(0.0, 30.0)
    for account, provider_id in foreign:
        if provider_id not in {server.provider_id for server in universe.clouds[account].servers()}:
            raise Violated(f"{provider_id} in {account}, which was somebody's, is gone")
    await _free_all(story, by)


async def renew(story: Story) -> None:
    """Servers are lost, maintainers die, and whoever was told what is no longer true is made anew without being asked
    for: an ``up`` afterwards has nothing to do."""
    rng, universe = story.rng, story.universe
    described = adorned(rng, story.description)
    nodes = tuple(msgspec.structs.replace(n, keeping="heal: {outdated: replace, attempts: 0}") for n in described.nodes)
    story.description = msgspec.structs.replace(described, nodes=nodes)
    pair = [await universe.incarnate(serves=True, host=host) for host in ("here", "there")]
    await story.ended(await story.up(pair[0]))
    for _ in range(rng.randint(1, 4)):
        strike(story)
        await story.wait(0.0, rng.choice((1.0, 30.0, 90.0)))
        if rng.random() < 0.3:
            index = rng.randrange(2)
            pair[index].kill()
            pair[index] = await universe.incarnate(serves=True, host=("here", "there")[index])
    await story.wait(60.0, 90.0)  # the last strike is noticed
    marked = "SELECT node, outdated FROM instances WHERE deleted_at IS NULL AND coalesce(outdated, '') <> ''"
    states = "SELECT state FROM infrastructures WHERE deleted_at IS NULL"
    await universe.until(
        "it is healed, and nobody is marked",
        lambda: universe.query(states) == [("ready",)] and not universe.query(marked),
        3000.0,
    )
    before = sorted(story.real_servers())
    await story.ended(await story.up(pair[0]))
    if sorted(story.real_servers()) != before:
        raise Violated("what was healed was not as described")


def strike(story: Story) -> None:
    """Something befalls one of the servers, if there is one."""
    universe, servers = story.universe, story.real_servers()
    if not servers:
        return
    account, provider_id = story.rng.choice(servers)
    cloud = universe.clouds[account]
    try:
        story.rng.choice((cloud.kill, cloud.stop, cloud.vanish))(provider_id)
        universe.note(f"{provider_id} in {account} is struck")
    except ServerNotFound:
        universe.note(f"{provider_id} was gone")


async def autoscale(story: Story) -> None:
    """A node follows a noisy load through steps of it and a take-over, and does not flap."""
    rng, universe = story.rng, story.universe
    first, *others = story.description.nodes
    most = first.least + 6
    policy = (
        "autoscale: {metric: {type: http, url: 'http://load/', of: node}, target: 10, interval: 5,"
        " cooldown: {up: 15, down: 90}}"
    )
    node = msgspec.structs.replace(first, most=most, keeping=policy)
    story.description = msgspec.structs.replace(story.description, nodes=(node, *others))
    noise = rng.uniform(0.0, 0.05)
    by = await universe.incarnate(serves=True)
    await story.ended(await story.up(by))
    for step in range(rng.randint(2, 3)):
        # Not at the edge of two numbers: there either would be right.
        level = _GOAL * (rng.randint(0, most) + 0.5)
        universe.note(f"the load is {level:g}")
        universe.load = _noisy(level, noise, rng)
        if step and rng.random() < 0.5:
            by.kill()
            by = await universe.incarnate(serves=True)
        wanted = max(node.least, min(most, math.ceil(level / _GOAL)))
        allowed = _tolerated(level, wanted, node.least, most)
        await universe.until(f"{node.name} has {sorted(allowed)} instances", _has(story, node.name, allowed), 1500.0)
        await story.wait(100.0, 150.0)
        before, count = _scalings(story), _ready(story, node.name)
        await story.wait(200.0, 300.0)
        if _scalings(story) != before or count not in allowed:
            raise Violated(f"it flaps under a steady load of {level:g}: {before} scalings became {_scalings(story)}")
    await _free_all(story, by)


def _noisy(level: float, noise: float, rng: random.Random) -> Callable[[], float]:  # noqa: TID251 - its type
    return lambda: level * (1.0 + rng.uniform(-noise, noise))


def _has(story: Story, node: str, allowed: set[int]) -> Callable[[], bool]:
    return lambda: _ready(story, node) in allowed


def _tolerated(level: float, wanted: int, least: int, most: int) -> set[int]:
    """Numbers at which a node may rest: what is wanted, and those whose use of an instance is within the tolerance."""
    near = {count for count in range(max(1, least), most + 1) if 0.84 <= level / count / _GOAL <= 1.16}
    return near | {wanted}


def _scalings(story: Story) -> int:
    return int(story.universe.query("SELECT count(*) FROM events WHERE kind = 'node.autoscaled'")[0][0])


def _ready(story: Story, node: str) -> int:
    sql = "SELECT count(*) FROM instances WHERE node = ? AND state = 'ready' AND deleted_at IS NULL"
    return int(story.universe.query(sql, node)[0][0])
