"""How long an infrastructure is without a maintainer after one has died."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from pelagos.simulation.loop import VirtualLoop, run_virtual
from pelagos.simulation.story import Story
from pelagos.store.keeper import DEFAULT_TTL

SLACK = 2.0


def _taken_over(seed: int, host: str) -> float:
    """Seconds from a maintainer's death to the next one at work, which is on the host ``here``."""
    taken: list[float] = []

    async def main(loop: VirtualLoop) -> None:
        story = Story(seed, loop)
        universe = story.universe
        first = await universe.incarnate(serves=True, host=host)
        await story.ended(await story.up(first))
        second = await universe.incarnate(serves=True, host="here")
        await story.wait(0.0, 20.0)

        def held_by(holder: str) -> bool:
            sql = "SELECT 1 FROM leases WHERE name LIKE 'infrastructure:%' AND holder = ?"
            return bool(universe.query(sql, holder))

        assert held_by(first.holder_id)
        died = loop.time()
        first.kill()
        await universe.until("somebody maintains it again", lambda: held_by(second.holder_id), 120.0, look=0.01)
        taken.append(loop.time() - died)
        await story.finish()
        universe.close()

    with capture_logs():  # the dead say that they were buried
        run_virtual(main)
    return taken[0]


@pytest.mark.parametrize("seed", range(1, 4))
def test_on_another_host_within_the_lease(seed: int) -> None:
    assert _taken_over(seed, "there") <= DEFAULT_TTL + SLACK


@pytest.mark.parametrize("seed", range(1, 3))
def test_on_this_host_at_once(seed: int) -> None:
    assert _taken_over(seed, "here") <= SLACK + 5.0


@pytest.mark.parametrize("seed", range(1, 7))
def test_what_vanishes_while_its_maintainer_hangs_is_made_anew_within_the_lease(seed: int) -> None:
    """The one that hangs holds the infrastructure's lease, and its account's by chance; it comes back later."""

    async def main(loop: VirtualLoop) -> None:
        story = Story(seed, loop)
        universe = story.universe
        first = await universe.incarnate(serves=True, host="there")
        await story.ended(await story.up(first))
        await universe.incarnate(serves=True, host="here")
        await story.wait(20.0, 40.0)
        began, hung = universe.world.now(), loop.time()
        first.pause()
        account, provider_id = story.real_servers()[0]
        universe.clouds[account].vanish(provider_id)

        def asked() -> int:
            sql = "SELECT 1 FROM operations WHERE kind = 'server.create' AND created_at > ?"
            return len(universe.query(sql, began))

        await universe.until("another one is asked for", lambda: asked() > 0, 120.0, look=0.01)
        # Two calls to its cloud, of half a second each at the most, are in that.
        assert loop.time() - hung <= DEFAULT_TTL + SLACK + 1.0
        await story.wait(10.0, 40.0)
        first.resume()
        await story.wait(60.0, 60.0)
        assert asked() == 1, "whatever the one that hung believes"
        await story.finish()
        universe.close()

    with capture_logs():  # the one that hung says what it lost
        run_virtual(main)
