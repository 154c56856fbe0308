import pytest
from echo import EchoService

from pelagos.model.errors import Conflict, InternalError, Refused
from pelagos.process import client

pytestmark = pytest.mark.anyio


@pytest.fixture
async def echo(container):
    await container.spawn(EchoService)
    return client(EchoService, container.edge)


@pytest.mark.parametrize("content", [None, True, -1, 2.5, "ü", b"\x00\xff", [1, [2]], {"a": {"b": None}}])
async def test_it_says_what_it_is_told(echo, content):
    assert await echo.echo(content) == content


@pytest.mark.parametrize(
    ("operation", "error"), [("refuse_it", Refused), ("conflict", Conflict), ("crash", InternalError)]
)
async def test_it_fails_as_asked_and_lives(echo, operation, error):
    with pytest.raises(error, match="lighthouse"):
        await getattr(echo, operation)("lighthouse")
    assert await echo.ping() == "pong"
