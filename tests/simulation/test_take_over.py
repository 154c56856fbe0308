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
