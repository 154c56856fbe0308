import asyncio

import pytest
from hello_identity import Answer, Delegated, ReceptionService, WhoService

from pelagos.model.errors import Unauthenticated
from pelagos.process import client

pytestmark = pytest.mark.anyio


@pytest.fixture
async def reception(make_container):
    one, two = await make_container("one"), await make_container("two")
    await one.spawn(WhoService)
    await two.spawn(ReceptionService)
    return client(ReceptionService, one.edge)


async def test_the_user_is_forwarded(harness, reception):
    with harness.user("ann", project="bridges"):
        assert await reception.ask() == Answer("ann", "bridges")


async def test_users_at_the_same_time_are_not_mixed_up(harness, reception):
    async def ask(user):
        with harness.user(user):
            return (await reception.ask()).user

    users = [f"user-{number}" for number in range(50)]
    assert await asyncio.gather(*[ask(user) for user in users]) == users


async def test_an_explicit_switch_lasts_for_its_block(harness, reception):
    bob = harness.assertion("bob", project="tunnels")
    with harness.user("ann", project="bridges"):
        ann = Answer("ann", "bridges")
        assert await reception.ask_for(bob) == Delegated(ann, Answer("bob", "tunnels"), ann)


async def test_nobody_is_somebody_by_saying_so(harness, reception):
    forged = harness.assertion("bob").replace(b"bob", b"eve")
    with harness.user("ann"), pytest.raises(Unauthenticated, match="never made"):
        await reception.ask_for(forged)
