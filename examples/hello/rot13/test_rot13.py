import pytest
from rot13 import Rot13Service, Text

from pelagos.model.errors import InvalidInput
from pelagos.process import client

pytestmark = pytest.mark.anyio


async def test_there_and_back(container):
    await container.spawn(Rot13Service)
    rot13 = client(Rot13Service, container.edge)
    assert await rot13.encode(Text("Hello")) == "Uryyb"
    assert await rot13.encode(Text("Uryyb")) == "Hello"
    assert await rot13.encode(Text("Hello", times=2)) == "Hello"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"text": ""}, "length >= 1"),
        ({"text": 7}, "Expected `str`"),
        ({"text": "a", "times": 0}, ">= 1"),
        ({"text": "a", "time": 1}, "unknown field `time`"),
        ({}, "missing required field `text`"),
        (None, "Expected `object`"),
        ({"text": "ü"}, "rot13 knows the letters of English alone"),
    ],
)
async def test_what_is_wrong_is_said(container, content, told):
    await container.spawn(Rot13Service)
    with pytest.raises(InvalidInput, match=told):
        await container.edge.call("service:rot13", "encode", content)
