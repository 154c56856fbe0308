import pytest
from hello_message import HelloMessage, Home, Move, Person

from pelagos.model.errors import InvalidInput
from pelagos.process import client

pytestmark = pytest.mark.anyio

ANN = Person("Ann", Home("Bari", "Via Sparano"))
BOB = Person("Bob", Home("Bergen"), friends=(ANN, Person("Eve", Home("Brno"), friends=(ANN,))))


@pytest.fixture
async def service(container):
    await container.spawn(HelloMessage)
    return client(HelloMessage, container.edge)


async def test_the_reply_is_what_came_but_for_the_change(service):
    moved = await service.move(Move(BOB, "Oslo"))
    assert moved == Person("Bob", Home("Oslo"), BOB.friends)


async def test_structs_in_structs(service):
    assert await service.cities(BOB) == {"Bari", "Bergen", "Brno"}


async def test_what_does_not_fit_is_refused_with_its_place(container, service):
    with pytest.raises(InvalidInput, match=r"missing required field `city`.*\$\.person\.home"):
        await container.edge.call("service:hello-message", "move", {"person": {"name": "Ann", "home": {}}, "city": "x"})
