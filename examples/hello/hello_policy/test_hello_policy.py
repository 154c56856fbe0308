from pathlib import Path

import pytest
from hello_policy import BoardService, Pin

from pelagos.model.errors import Forbidden, Unauthenticated
from pelagos.process import client
from pelagos.testing import Harness

pytestmark = pytest.mark.anyio


@pytest.fixture
async def harness():
    service = BoardService()
    async with Harness(policy=Path(__file__).with_name("policy.yaml"), owners=service) as running:
        await (await running.container("c")).spawn(service)
        yield running


@pytest.fixture
def board(harness):
    return client(BoardService, harness.containers[0].edge)


async def test_everybody_may_read_and_no_more(harness, board):
    with harness.anonymous():
        assert await board.read() == {}
        with pytest.raises(Unauthenticated, match=r"the rule is: authenticated may board\.pin"):
            await board.pin(Pin("milk", "We need milk"))


async def test_who_has_logged_in_may_pin(harness, board):
    with harness.user("ann"):
        await board.pin(Pin("milk", "We need milk"))
        assert await board.read() == {"milk": "We need milk"}
        with pytest.raises(Forbidden, match=r"the rule is: janitor may board\.clear"):
            await board.clear()


async def test_who_has_the_role_may_clear(harness, board):
    with harness.user("ann"):
        await board.pin(Pin("milk", "We need milk"))
    with harness.user("joe", "janitor"):
        await board.clear()
        assert await board.read() == {}


async def test_who_owns_a_note_may_tear_it_off(harness, board):
    with harness.user("ann"):
        await board.pin(Pin("milk", "We need milk"))
    with harness.user("bob"), pytest.raises(Forbidden):
        await board.tear_off("milk")
    with harness.user("ann"):
        assert await board.tear_off("milk") == "We need milk"
