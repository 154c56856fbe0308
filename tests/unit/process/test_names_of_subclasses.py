"""What a subclass calls its own attributes is its own affair; where it would break the process, it is told at once."""

from __future__ import annotations

import pytest

from pelagos.container import Container
from pelagos.process import ChildSpec, Process, ServiceProcess, Supervisor, WorkerProcess, client, operation

pytestmark = pytest.mark.anyio

USUAL = """
service server tasks children group life kept hosted served caller mailbox conversations admitting stopping
switching hurried queue durable capacity delivery_limit lane running label specs strategy period exits ending
""".split()  # noqa: SIM905 - a list of words


class Stock(ServiceProcess):
    name = "stock"

    @operation
    async def count(self) -> int:
        return 7


class Shop(ServiceProcess):
    """Keeps things of its own under the names that come to mind first."""

    name = "shop"

    def __init__(self) -> None:
        super().__init__()
        for name in USUAL:
            setattr(self, f"_{name}", name)

    async def on_init(self) -> None:
        self._service = client(Stock, self)

    @operation
    async def count(self) -> int:
        return await self._service.count()


class Clerk(WorkerProcess):
    def __init__(self) -> None:
        super().__init__(queue="jobs")
        for name in USUAL:
            setattr(self, f"_{name}", name)

    @operation
    async def work(self) -> str:
        return "done"


class Keeper(Supervisor):
    def __init__(self) -> None:
        super().__init__([ChildSpec("stock", Stock)])
        for name in USUAL:
            setattr(self, f"_{name}", name)


async def test_the_usual_names_are_free_in_supervisors(container: Container) -> None:
    keeper = Keeper()
    await container.spawn(keeper)
    assert [child.name for child in keeper.children()] == ["stock"]
    assert await container.edge.call("service:stock", "count") == 7


async def test_the_usual_names_are_free(container: Container) -> None:
    await container.spawn(Stock)
    await container.spawn(Shop)
    await container.spawn(Clerk)
    assert await container.edge.call("service:shop", "count") == 7
    assert await container.edge.call("service:jobs", "work") == "done"


def test_a_method_that_would_hide_one_of_the_process_is_refused() -> None:
    with pytest.raises(TypeError, match="_start"):

        class Hides(Process):
            def _start(self) -> None:  # type: ignore[override]
                pass


@pytest.mark.parametrize("early", [True, False])
async def test_so_is_an_attribute(container: Container, early: bool) -> None:
    class Hides(Process):
        def __init__(self) -> None:
            super().__init__()
            if early:
                self._open = 5  # type: ignore[assignment,method-assign]

        async def on_init(self) -> None:
            self._open = 5  # type: ignore[assignment,method-assign]

    with pytest.raises(TypeError, match="_open"):
        await container.spawn(Hides)


PUBLIC = """
run stop activate deactivate serve listen send call publish reply refuse cancel_request converse start_task
start_handler spawn_child stop_child children statistics snapshot ping describe state cause serves address context
caller conversation conversations
""".split()  # noqa: SIM905 - a list of words


@pytest.mark.parametrize("name", PUBLIC)
def test_so_is_a_public_name_of_the_process(name: str) -> None:
    async def mine(self: object) -> str:
        return "mine"

    with pytest.raises(TypeError, match=f"Desk has {name}, which every process needs"):
        type("Desk", (ServiceProcess,), {"name": "desk", "__module__": "hotel", name: operation(mine)})


def test_all_public_names_but_the_hooks_are_refused() -> None:
    hooks = {"on_init", "on_activate", "on_deactivate", "on_terminate", "on_child_exit", "label"}
    methods = {name for name in dir(Process) if not name.startswith("_") and name not in Process.__annotations__}
    settings = {"name", "max_concurrent", "max_depth", "fail_fast", "protocols", "max_conversations"}
    assert methods - hooks - settings == set(PUBLIC)


@pytest.mark.parametrize(
    ("base", "name"),
    [
        (Supervisor, "start_child"),
        (Supervisor, "_start_one"),
        (ServiceProcess, "service_address"),
        (WorkerProcess, "cancel"),
    ],
)
def test_so_is_one_of_its_kind(base: type[Process], name: str) -> None:
    with pytest.raises(TypeError, match=name):
        type("Mine", (base,), {"name": "mine", "__module__": "hotel", name: lambda self: None})
    type("Other", (Process,), {"__module__": "hotel", name: lambda self: None})


def test_so_is_one_of_a_class_mixed_in_before_it() -> None:
    class Sends:
        async def send(self) -> None:
            pass

    with pytest.raises(TypeError, match="send"):

        class Hides(Sends, ServiceProcess):  # type: ignore[misc]
            name = "hides"

    class Hidden(ServiceProcess, Sends):  # type: ignore[misc]
        name = "hidden"

    assert Hidden.send is Process.send


async def test_so_is_a_public_attribute(container: Container) -> None:
    class Desk(Process):
        async def on_init(self) -> None:
            self.children = []  # type: ignore[assignment,method-assign]

    with pytest.raises(TypeError, match="children"):
        await container.spawn(Desk)
