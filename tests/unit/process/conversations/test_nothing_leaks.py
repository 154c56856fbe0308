"""A hundred thousand conversations of all fates leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter

import pytest

from pelagos.container import Container, ContainerConfig
from pelagos.exchange import Envelope, Performative
from pelagos.model.errors import NotFound, PelagosError, Refused
from pelagos.process import Process, ServiceProcess, operation
from pelagos.process.conversations import Conversation, ConversationsSnapshot, Outcome, decides
from pelagos.simulation import SimulatedWorld

pytestmark = pytest.mark.anyio

TOTAL = 100_000
ROUND = 2_000
FATES = ("done", "failed", "refused", "cancelled", "timed_out", "violated", "abandoned", "left")


class Fate(ServiceProcess):
    name = "fate"

    @operation
    @decides
    async def meet(self, fate: str) -> str:
        if fate == "refused":
            raise Refused("no")
        self.conversation.agree()
        if fate == "failed":
            raise NotFound("nothing")
        if fate == "violated":
            self.container.transport.post(self._out_of_the_table())
        elif fate != "done":
            await asyncio.Event().wait()
        return fate

    def _out_of_the_table(self) -> Envelope:
        """A second AGREE, past the veto."""
        here = self.conversation
        here.seq += 1
        assert here.peer is not None
        return Envelope(
            here.peer, self.address, "meet", Performative.AGREE, here.id, b"\xc0", here.seq, here.protocol.name
        )


class Asker(Process):
    """Lives for one round, and leaves some conversations open when it ends."""


async def one_round(container: Container, asker: Asker, first: int) -> None:
    """``ROUND`` conversations at once, of all fates in turn."""
    open_ones: list[tuple[str, Conversation]] = []
    for n in range(first, first + ROUND):
        fate = FATES[n % len(FATES)]
        timeout = 2.0 if fate in ("timed_out", "abandoned") else 60.0
        open_ones.append((fate, await asker.converse("request", "service:fate", "meet", fate, timeout=timeout)))
    await asyncio.sleep(0.001)
    for fate, conversation in open_ones:
        if fate == "cancelled":
            conversation.cancel()
    for fate, conversation in open_ones:
        if fate in ("abandoned", "left"):
            continue  # nobody waits for these
        try:
            assert await conversation.result(str) == fate
        except PelagosError:
            assert fate not in ("done", "violated")


def alive(kind: type) -> int:
    return sum(type(found) is kind for found in gc.get_objects())


@pytest.mark.timeout(400)  # twenty seconds of a quiet core
async def test_a_hundred_thousand_conversations_leave_nothing_behind() -> None:
    ended: Counter[Outcome] = Counter()
    violations = 0
    levels = []
    async with Container(SimulatedWorld(), ContainerConfig(id="c", system="test")) as container:
        service = Fate()
        await container.spawn(service)
        for first in range(0, TOTAL, ROUND):
            asker = Asker()
            pid = await container.spawn(asker)
            await one_round(container, asker, first)
            await container.terminate(pid)
            await asyncio.sleep(5)
            mine: ConversationsSnapshot = asker.conversations.snapshot()
            theirs = service.conversations.snapshot()
            assert (mine.initiated, theirs.taken, theirs.handlers) == (0, 0, 0), (mine, theirs)
            ended.update(mine.ended)
            violations += mine.violations
            if first % (TOTAL // 5) == 0:
                gc.collect()
                levels.append((len(gc.get_objects()), alive(Conversation)))
        share = TOTAL // len(FATES)
        assert dict(ended) == {
            Outcome.DONE: 2 * share,  # violated too: the table kept its state
            Outcome.FAILED: share,
            Outcome.REFUSED: share,
            Outcome.CANCELLED: share,
            Outcome.TIMED_OUT: 2 * share,
            Outcome.LOST: share,
        }
        assert violations == share
        theirs = service.conversations.snapshot()
        assert (theirs.begun, sum(theirs.ended.values())) == (TOTAL, TOTAL)
        await asyncio.sleep(300)
        theirs = service.conversations.snapshot()
        assert theirs.tombstones == 0
        assert len(service.conversations._watch.entries) == 0
        gc.collect()
        assert alive(Conversation) == 0
        assert levels[-1][0] < levels[0][0] + 500, levels
