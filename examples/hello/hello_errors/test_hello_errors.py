import pytest
from hello_errors import Accepted, HelloErrors

from pelagos.model.errors import InternalError, InvalidInput, Refused
from pelagos.process import client

pytestmark = pytest.mark.anyio


@pytest.fixture
async def errors(container):
    await container.spawn(HelloErrors)
    return client(HelloErrors, container.edge)


async def test_nothing_and_a_typed_reply(errors):
    assert await errors.nothing() is None
    assert await errors.accept(7) == Accepted(7, "ACCEPTED")


async def test_an_error_travels_whole(errors):
    with pytest.raises(InvalidInput, match="nobody counts to -1") as raised:
        await errors.count_to(-1)
    assert raised.value.advice == "Give 0 or more."
    assert raised.value.details == {"least": 0}
    assert await errors.count_to(3) == [1, 2, 3]


async def test_a_refusal(errors, recorder):
    with pytest.raises(Refused, match="not on a Sunday"):
        await errors.favour()
    assert [str(one.envelope.performative) for one in recorder.errors("favour")] == ["refuse"]


async def test_a_defect_is_answered_and_the_service_goes_on(errors):
    with pytest.raises(InternalError, match="ZeroDivisionError") as raised:
        await errors.divide(0)
    assert raised.value.details["trace"]  # under which the log has the traceback
    assert await errors.divide(4) == 0.25
