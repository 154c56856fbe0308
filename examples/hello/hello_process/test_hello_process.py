import pytest
from hello_process import HelloProcess

from pelagos.model.errors import Unavailable
from pelagos.process import client

pytestmark = pytest.mark.anyio


async def test_two_callers_in_two_containers(make_container):
    here, there = await make_container("here"), await make_container("there")
    pid = await here.spawn(lambda: HelloProcess("Ahoy"))
    ann = client(HelloProcess, here.edge, address=f"process:{pid}")
    bob = client(HelloProcess, there.edge, address=f"process:{pid}")
    assert await ann.hello("Ann") == "Ahoy, Ann. You are number 1 here."
    assert await bob.hello("Bob") == "Ahoy, Bob. You are number 2 here."


async def test_each_process_is_itself(container):
    pids = [await container.spawn(HelloProcess), await container.spawn(HelloProcess)]
    for pid in pids:
        assert await client(HelloProcess, container.edge, address=f"process:{pid}").hello("you") == (
            "Hello, you. You are number 1 here."
        )


async def test_who_has_ended_is_not_there(container):
    pid = await container.spawn(HelloProcess)
    await container.terminate(pid)
    with pytest.raises(Unavailable):
        await client(HelloProcess, container.edge, address=f"process:{pid}").hello("you")
