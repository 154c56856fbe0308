import pytest
from hello_service import Greeting, HelloService

from pelagos.process import client
from pelagos.testing import load

pytestmark = pytest.mark.anyio


async def test_hello(container):
    await container.spawn(HelloService)
    hello = client(HelloService, container.edge)
    assert await hello.hello("you") == Greeting("Hello, you")


async def test_by_name_without_the_class(container):
    await container.spawn(HelloService)
    assert await container.edge.call("service:hello", "hello", "you") == {"value": "Hello, you"}


async def test_a_hundred_at_once_are_shared(container):
    pids = [await container.spawn(HelloService), await container.spawn(HelloService)]
    hello = client(HelloService, container.edge)
    told = await load(lambda number: hello.hello(str(number)), concurrency=100, count=100)
    assert (told.calls, told.failed) == (100, 0)
    assert [container.process(pid).snapshot().serving.done for pid in pids] == [50, 50]
